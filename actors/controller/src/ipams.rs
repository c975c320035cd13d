//! The IPAM drivers: an actor each, started, and started again when it dies.

use futures::{StreamExt, stream};
use netloom_actor_services::ipam::{
    Books, CLUSTER, DRIVER, IpamActor, IpamDeps, IpamPort, QuarantineAddresses, RestorePools,
};
use netloom_actor_services::{RetiredNetwork, answered};
use netloom_ipam::driver::{IpamCapability, IpamRegistration, MadeIpam};
use netloom_model::OpId;
use netloom_model::config::DefaultPool;
use netloom_runtime::Addr;
use tokio::time::Instant;

use super::supervise::{OUT_OF_BUDGET, read_records};
use super::*;
use crate::children::IpamChild;

/// How many networks are told to an IPAM driver at a time: one that hangs at some must not cost the others their time.
const TOLD_AT_A_TIME: usize = 64;

/// An IPAM driver that knows again what is taken.
pub(super) struct RefilledIpam {
    addr: Addr<IpamActor>,
    incarnation: u64,
    /// Networks whose pools it did not take.
    refused: Vec<(NetworkId, Error)>,
}

impl ControllerActor {
    pub(super) fn start_default_ipam(&mut self, op: &OpCtx, default_pools: &[DefaultPool]) {
        let running = self.start(IpamActor::new(default_pools), Child::Ipam(DRIVER.to_owned()));
        self.tell_ipam(op, &running.addr);
        let port = self.estate.services.ipam.default_driver().clone();
        self.enter_ipam(DRIVER, running, (None, port, Books::default()));
    }

    /// Starts the part of the driver `default` that hosts of the cluster have in common, where there is a cluster.
    pub(super) fn start_cluster_ipam(&mut self, op: &OpCtx) {
        let Some(cluster) = self.estate.respawn.cluster.clone() else { return };
        let child = Child::Ipam(CLUSTER.to_owned());
        let running = self.start(IpamActor::shared(cluster.ipam(OpId(op.id))), child);
        self.tell_ipam(op, &running.addr);
        let port = IpamPort::foreign(Port::vacant(), CLUSTER, IpamCapability::default());
        self.estate.services.ipam.join_cluster(port.clone());
        self.enter_ipam(CLUSTER, running, (None, port, Books::default()));
    }

    /// Starts a driver of the embedder's, or one of the engine's own that is like them.
    pub(super) fn start_ipam(&mut self, op: &OpCtx, registration: IpamRegistration) -> Result<()> {
        let name = registration.name.clone();
        self.estate.services.ipam.is_free(&name)?;
        let made = registration.make()?;
        let (port, books) = (IpamPort::foreign(Port::vacant(), &name, made.capability), Books::default());
        let actor = self.ipam_actor(made, &port, &books);
        let running = self.start(actor, Child::Ipam(name.clone()));
        self.tell_ipam(op, &running.addr);
        self.estate.services.ipam.add(port.clone());
        self.enter_ipam(&name, running, (Some(registration), port, books));
        Ok(())
    }

    /// Lets an IPAM driver that was started be found, and be started again when it dies.
    fn enter_ipam(
        &mut self,
        name: &str,
        Running { addr, incarnation, budget, .. }: Running<IpamActor>,
        (registration, port, books): (Option<IpamRegistration>, IpamPort, Books),
    ) {
        port.set(addr);
        let child = IpamChild { registration, port, books, incarnation, budget };
        self.estate.ipams.insert(name.to_owned(), child);
    }

    fn ipam_actor(&self, made: MadeIpam, port: &IpamPort, books: &Books) -> IpamActor {
        let services = &self.estate.services;
        let deps = IpamDeps {
            instance: services.instance.clone(),
            books: books.clone(),
            janitor: services.tools.janitor.clone(),
            port: (**port).clone(),
            waiting: services.operations_per_object.get(),
        };
        IpamActor::around(made, deps)
    }

    pub(super) fn restart_ipam(&mut self, op: &OpCtx, name: &str, incarnation: u64, cx: &mut Cx<'_, Self>) {
        let child = Child::Ipam(name.to_owned());
        let Some(ipam) = self.estate.ipams.get_mut(name).filter(|ipam| ipam.incarnation == incarnation)
        else {
            return;
        };
        let (within_budget, registration) = (ipam.budget.take(Instant::now()), ipam.registration.clone());
        let (port, books) = (ipam.port.clone(), ipam.books.clone());
        if !within_budget {
            return self.failed(op, &child, OUT_OF_BUDGET);
        }
        let cluster = self.estate.respawn.cluster.clone().filter(|_| name == CLUSTER);
        let actor = match registration.map(|registration| registration.make()).transpose() {
            Ok(None) if let Some(cluster) = cluster => IpamActor::shared(cluster.ipam(OpId(op.id))),
            Ok(None) => IpamActor::new(&self.estate.default_pools(&self.estate.directory.config())),
            Ok(Some(made)) => self.ipam_actor(made, &port, &books),
            Err(error) => return self.failed(op, &child, &error.to_string()),
        };
        self.estate.incarnations += 1;
        let incarnation = self.estate.incarnations;
        if let Some(ipam) = self.estate.ipams.get_mut(name) {
            ipam.incarnation = incarnation;
        }
        port.vacate();
        let (addr, _) = watch(actor, child, incarnation, &self.estate.port);
        // Nobody reaches it before it knows what is taken.
        let (services, own) = (self.estate.services.clone(), op.clone());
        let with_pools = self.networks_with_pools();
        let of_this = name.to_owned();
        let work = async move {
            let records = read_records(&services).await?;
            let present = with_pools.into_iter().filter_map(|(id, reach)| {
                let (network, endpoints) = records.network(id)?;
                Some((id, network, endpoints, reach))
            });
            // Deleted ones have their pools for as long as a link of theirs may answer.
            let retired = services.quarantine.retired_networks().into_iter().map(|retired| {
                let RetiredNetwork { record, scope, shares } = RetiredNetwork::clone(&retired);
                (record.id, record, Vec::new(), (scope, shares))
            });
            let told = present.chain(retired).filter(|(_, network, _, (scope, _))| {
                services.ipam.of_network(&network.spec.ipam, *scope).name() == of_this
            });
            let told = told.map(async |(id, network, mut endpoints, (scope, shares))| {
                // Addresses of deleted endpoints whose links the kernel has not let go of are not free either.
                let kept = services.quarantine.kept(id);
                endpoints.extend(kept.iter().cloned());
                let op = own.renewed(services.operation_timeout.get());
                let restored = addr.ask(&op, RestorePools { network, endpoints, scope, shares }).await;
                answered(&op, &port, restored).map_err(|error| (id, error))?;
                for endpoint in kept {
                    addr.tell(&op, QuarantineAddresses(id, endpoint.id));
                }
                Ok(())
            });
            let told: Vec<_> = told.collect();
            let outcomes: Vec<_> = stream::iter(told).buffer_unordered(TOLD_AT_A_TIME).collect().await;
            let refused = outcomes.into_iter().filter_map(Result::err).collect();
            Ok(RefilledIpam { addr: addr.clone(), incarnation, refused })
        };
        let name = name.to_owned();
        self.run(op, work, move |result| Outcome::IpamRestarted(name, result), cx);
    }

    /// Those networks whose drivers leave addresses to IPAM, how far they reach, and whether they share their pools.
    fn networks_with_pools(&self) -> Vec<(NetworkId, (Scope, bool))> {
        let networks = self.estate.networks.iter();
        let with_pools = networks.filter_map(|(id, network)| {
            let capability = self.estate.drivers.get(&network.driver).map(|driver| driver.capability);
            let needs = capability.is_none_or(|capability| capability.needs_ipam);
            let reach = |capability: Capability| (capability.scope, capability.shares_pools);
            needs.then(|| (*id, capability.map_or((Scope::Local, false), reach)))
        });
        with_pools.collect()
    }

    pub(super) fn ipam_restarted(
        &mut self,
        op: &OpCtx,
        name: &str,
        result: Result<RefilledIpam>,
        cx: &mut Cx<'_, Self>,
    ) {
        let child = Child::Ipam(name.to_owned());
        let RefilledIpam { addr, incarnation, refused } = match result {
            Ok(refilled) => refilled,
            Err(error) => return self.failed(op, &child, &error.to_string()),
        };
        let present = self.estate.ipams.get(name).filter(|ipam| ipam.incarnation == incarnation);
        let Some(ipam) = present.filter(|_| addr.is_alive()) else {
            // It has died again meanwhile: its successor is told.
            return;
        };
        self.tell_ipam(op, &addr);
        ipam.port.set(addr);
        self.restarted(op, &child);
        for (id, error) in refused {
            self.try_again(op, id, &error, cx);
            // Only this one: what it has taken is not known.
            self.settled(op, &Child::Network(id), Err(error));
        }
    }
}
