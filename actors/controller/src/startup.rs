//! The controller's first minutes: services, drivers, and what an earlier engine left half done.

use netloom_actor_driver::{CreateDriverNetwork, DeleteDriverNetwork, DriverActor, DriverDeps};
use netloom_actor_services::answered;
use netloom_drivers::{CreateNetwork, Driver, Registration, Restored};
use netloom_model::Holder;
use netloom_runtime::{Handle, Port, TaskGroup};

use super::*;
use crate::message::{StartChildren, TakeDown};

impl Handle<StartChildren> for ControllerActor {
    fn handle(
        &mut self,
        _: OpCtx,
        StartChildren(drivers): StartChildren,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let store = self.start(StoreActor::new(self.respawn.backend.clone()), Child::Store, cx);
        self.services.store.set(store.addr);
        self.respawn.store.0 = store.incarnation;
        let ipam = self.start(IpamActor::new(&self.respawn.default_pools), Child::Ipam, cx);
        self.services.ipam.set(ipam.addr);
        self.respawn.ipam.0 = ipam.incarnation;
        reply.send(drivers.into_iter().try_for_each(|driver| self.start_driver(driver, cx)));
    }
}

impl ControllerActor {
    fn start_driver(&mut self, registration: Registration, cx: &Cx<'_, Self>) -> Result<()> {
        let kind = registration.kind.clone();
        netloom_model::error::check_name(ObjectKind::Driver, &kind)?;
        // Parity: libnetwork's `ErrActiveRegistration`.
        if self.drivers.contains_key(&kind) {
            let holder = Holder::new(ObjectKind::Driver, &kind, "");
            return Err(Reason::NameTaken { name: kind, holder }.into());
        }
        let driver = (registration.factory)();
        let capability = driver.capability();
        let running = self.start(driver_actor(driver, &self.services), Child::Driver(kind.clone()), cx);
        let child = DriverChild {
            registration,
            capability,
            port: Port::new(running.addr),
            incarnation: running.incarnation,
            budget: running.budget,
        };
        self.drivers.insert(kind, child);
        Ok(())
    }
}

/// An actor around a driver.
pub(super) fn driver_actor(driver: Box<dyn Driver>, services: &Services) -> DriverActor {
    let (kernel, instance) = (services.kernel.clone(), services.instance.clone());
    DriverActor::new(driver, DriverDeps { kernel, instance, tasks: TaskGroup::default() })
}

impl Handle<TakeDown> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        TakeDown(record): TakeDown,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let Some(driver) = self.drivers.get(&record.spec.driver).map(|driver| driver.port.clone()) else {
            return reply.send(Err(Error::not_found(ObjectKind::Driver, &record.spec.driver)));
        };
        let network = record.id;
        let request = CreateNetwork {
            network,
            name: record.spec.name,
            restored: Restored::FromStore,
            options: record.spec.options,
            internal: record.spec.internal,
            ipv6: record.spec.ipv6,
            v4: record.v4,
            v6: record.v6,
        };
        cx.tasks().spawn(async move {
            // A network whose pools were never chosen made nothing; its driver refuses it, which is fine.
            let known = driver.outcome(&op, CreateDriverNetwork(request)).await;
            if let Err(error) = answered(&op, "the driver", known) {
                tracing::debug!(%error, "nothing to take down");
            }
            reply.send(answered(&op, "the driver", driver.outcome(&op, DeleteDriverNetwork(network)).await));
        });
    }
}
