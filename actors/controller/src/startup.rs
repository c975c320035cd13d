//! The controller's first minutes: services, drivers, and what an earlier engine left half done.

use netloom_actor_driver::{CreateDriverNetwork, DeleteDriverNetwork, DriverActor, DriverDeps};
use netloom_actor_network::driver_request;
use netloom_actor_services::Services;
use netloom_actor_services::answered;
use netloom_actor_services::ipam::TakeBackPools;
use netloom_drivers::{Driver, Registration, Restored};
use netloom_ipam::driver::IpamRegistration;
use netloom_ipam::null;
use netloom_model::Holder;
use netloom_runtime::{Handle, Port, TaskGroup};

use super::*;
use crate::message::{StartChildren, TakeDown};

impl Handle<StartChildren> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        StartChildren(drivers, ipam_drivers): StartChildren,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        self.watch_host(cx);
        self.start_services();
        let config = self.estate.directory.config();
        self.start_default_ipam(&op, &self.estate.default_pools(&config));
        let null = IpamRegistration::new(null::NAME, null::NullIpam::default);
        let mut ipams = std::iter::once(null).chain(ipam_drivers);
        let started = ipams
            .try_for_each(|ipam| self.start_ipam(&op, ipam))
            .inspect(|()| self.start_cluster_ipam(&op))
            .and_then(|()| drivers.into_iter().try_for_each(|driver| self.start_driver(&op, driver)));
        self.remark_on(&config);
        reply.send(started);
    }
}

impl ControllerActor {
    fn start_driver(&mut self, op: &OpCtx, registration: Registration) -> Result<()> {
        let kind = registration.kind.clone();
        netloom_model::error::check_name(ObjectKind::Driver, &kind)?;
        // Parity: libnetwork's `ErrActiveRegistration`.
        if self.estate.drivers.contains_key(&kind) {
            let holder = Holder::new(ObjectKind::Driver, &kind, "");
            return Err(Reason::NameTaken { name: kind, holder }.into());
        }
        let (driver, capability) = registration.make(&self.driver_config(&kind))?;
        let actor = driver_actor(driver, &self.estate.services);
        let running = self.start(actor, Child::Driver(kind.clone()));
        self.tell_driver_of_cluster(op, &running.addr, capability.scope);
        let child = DriverChild {
            registration,
            capability,
            port: Port::new(running.addr),
            incarnation: running.incarnation,
            budget: running.budget,
        };
        self.estate.drivers.insert(kind, child);
        Ok(())
    }
}

/// An actor around a driver.
pub(super) fn driver_actor(driver: Box<dyn Driver>, services: &Services) -> DriverActor {
    let (kernel, instance) = (services.kernel.clone(), services.instance.clone());
    let (firewall, ports) = (services.firewall.clone(), services.ports.clone());
    DriverActor::new(driver, DriverDeps { kernel, instance, firewall, ports, tasks: TaskGroup::default() })
}

impl Handle<TakeDown> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        TakeDown(record): TakeDown,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let Some(driver) = self.estate.drivers.get(&record.spec.driver).map(|driver| driver.port.clone())
        else {
            return reply.send(Err(Error::not_found(ObjectKind::Driver, &record.spec.driver)));
        };
        let network = record.id;
        let scope = self.estate.drivers.get(&record.spec.driver).map(|driver| driver.capability.scope);
        let ipam = match self.estate.services.ipam.of(&record.spec.ipam, scope.unwrap_or(Scope::Local)) {
            // The driver `default` learns what is taken from the records, and this one is not among them.
            Ok(ipam) => Some(ipam).filter(|ipam| !ipam.is_default()),
            Err(missing) => return reply.send(Err(missing)),
        };
        let request = driver_request(&record, Restored::FromStore);
        cx.tasks().spawn(async move {
            // A network whose pools were never chosen made nothing; its driver refuses it, which is fine.
            let known = driver.outcome(&op, CreateDriverNetwork(request)).await;
            if let Err(error) = answered(&op, "the driver", known) {
                tracing::debug!(%error, "nothing to take down");
            }
            let gone = driver.outcome(&op, DeleteDriverNetwork(network)).await;
            let mut outcome = answered(&op, "the driver", gone);
            if let (Some(ipam), Ok(())) = (ipam, &outcome) {
                outcome = answered(&op, &ipam, ipam.outcome(&op, TakeBackPools(record)).await);
            }
            reply.send(outcome);
        });
    }
}
