//! Owns the lists of networks, sandboxes and drivers. Rank 5. Spawned by the engine's start; asks networks,
//! sandboxes and services; emits the engine's events.
//!
//! | message | kind | answers with |
//! |---|---|---|
//! | CreateNetwork | command | NetworkSnapshot |
//! | DeleteNetwork | command | () |
//! | ProvideWayOut | command | NetworkId |
//! | CreateSandbox | command | SandboxSnapshot |
//! | DeleteSandbox | command | () |
//! | ReleaseSandbox | command | what was released |
//! | Reconcile | command | ReconcileReport |
//! | ForceDeleteEndpoint | command | () |
//! | StartChildren | command | () |
//! | TakeOver | command | () |
//! | TakeDown | command | () |
//! | RestoreNetwork | command | repairs |
//! | RestoreSandbox | command | repairs |
//! | Drain | command | () |
//! | Shutdown | command | () |
//! | CrashActor | command | () |
//! | ReloadConfiguration | command | () |
//! | InspectEngine | query | EngineSnapshot |
//! | ListDrivers | query | types |
//! | ListIpamDrivers | query | names |
//! | InspectPorts | query | the ports of each endpoint |
//! | InspectNames | query | the service records of each network |
//! | InspectNameServers | query | every name server |
//! | InspectAddresses | query | IpamSnapshots |
//! | ListHolders | query | Holders |
//! | ListOwners | query | networks and sandboxes |
//! | Diff | query | Differences |
//! | StoreCounters | query | StoreStats |
//! | LookAtHost | query | () |
//! | PurgeHost | command | PurgedHost |
//! | ReviveDue | tick | |
//! | HostChanged | event | |
//! | LookDue | tick | |
//! | NodeChanged | event | |
//! | ChildExited | event | |
//! | Finished | outcome | |
//!
//! `startup.rs` begins, `networks.rs`, `sandboxes.rs` and `way_out.rs` hold the commands, `supervise.rs` restarts what
//! dies and `ipams.rs` IPAM drivers, `attend.rs` services, `succession.rs` the controller itself, `reload.rs` replaces the configuration.
//! `release.rs` and `sweep.rs` clear away what is dead, `diff.rs` compares, `owners.rs` is behind both. `overlap.rs` looks
//! at what the host learns, `addresses.rs` tells who has which address, `naming.rs` what names there are, `revive.rs` tries networks again that the cluster
//! was away for. `control.rs` has the rest.

use netloom_actor_driver::DriverActor;
use netloom_actor_network::{Leaving, NetworkActor, NetworkDeps, NetworkEvent};
use netloom_actor_sandbox::{SandboxActor, SandboxDeps, Turns};
use netloom_actor_services::ipam::IpamActor;
use netloom_actor_services::panicked;
use netloom_drivers::{Capability, Scope};
use netloom_model::record::{NetworkRecord, SandboxRecord};
use netloom_model::snapshot::{NetworkSnapshot, SandboxSnapshot};
use netloom_model::{
    EndpointId, Error, EventKind, NetworkId, ObjectKind, Reason, ReleasedSandbox, Repair, Result, SandboxId,
    SandboxSpec,
};
use netloom_runtime::{
    Actor, Cause, Cx, EventSink, Lent, OpCtx, Panicked, Port, Reply, RestartBudget, messages, spawn,
};

use crate::children::{DriverChild, NetworkChild, Running, SandboxChild, State};
use crate::directory::Directory;
use crate::estate::Estate;
use crate::message::{Child, ChildExited};

#[path = "addresses.rs"]
mod addresses;
#[path = "attend.rs"]
mod attend;
#[path = "control.rs"]
mod control;
pub use control::operations;
#[path = "diff.rs"]
mod diff;
#[path = "ipams.rs"]
mod ipams;
#[path = "naming.rs"]
mod naming;
#[path = "networks.rs"]
mod networks;
#[path = "nodes.rs"]
mod nodes;
#[path = "overlap.rs"]
pub(crate) mod overlap;
#[path = "owners.rs"]
mod owners;
#[path = "pace.rs"]
mod pace;
#[path = "release.rs"]
mod release;
#[path = "reload.rs"]
mod reload;
#[path = "revive.rs"]
mod revive;
#[path = "sandboxes.rs"]
mod sandboxes;
#[path = "startup.rs"]
mod startup;
#[path = "succession.rs"]
pub(crate) mod succession;
#[path = "supervise.rs"]
mod supervise;
#[path = "sweep.rs"]
mod sweep;
#[path = "way_out.rs"]
mod way_out;

// === Actor ===

/// The controller's actor.
#[derive(Debug)]
pub struct ControllerActor {
    /// What its successor gets should it die.
    estate: Lent<Estate>,
    /// Who waits for a network that is to be the way out of sandboxes, and is being made.
    for_way_out: Vec<(NetworkId, Reply<Result<NetworkId>>)>,
    /// How the host is looked at.
    lookout: overlap::Lookout,
    /// How networks are tried again that the cluster was away for.
    reviving: revive::Reviving,
}

impl ControllerActor {
    pub(crate) fn new(estate: Lent<Estate>) -> Self {
        let (lookout, reviving) = (overlap::Lookout::default(), revive::Reviving::default());
        Self { estate, for_way_out: Vec::new(), lookout, reviving }
    }

    pub(crate) fn directory(&self) -> Directory {
        self.estate.directory.reader()
    }

    /// Whether a request may begin. Who was let in before a graceful end is carried out.
    fn admit(&self) -> Result<()> {
        if self.estate.is_stopping() { Err(Reason::ShuttingDown.into()) } else { Ok(()) }
    }

    /// Runs the slow half of a request; its outcome comes back as [`Finished`].
    fn run<T: Send + 'static>(
        &self,
        op: &OpCtx,
        work: impl Future<Output = Result<T>> + 'static,
        outcome: impl FnOnce(Result<T>) -> Outcome + 'static,
        cx: &mut Cx<'_, Self>,
    ) {
        cx.run(op, work, move |result: Result<Result<T>, Panicked>| {
            Finished(outcome(result.unwrap_or_else(|cause| Err(panicked(&cause)))))
        });
    }

    /// Starts an actor whose end the controller learns of.
    fn start<A: Actor>(&mut self, actor: A, child: Child) -> Running<A> {
        self.estate.incarnations += 1;
        let incarnation = self.estate.incarnations;
        let (addr, tasks) = watch(actor, child, incarnation, &self.estate.port);
        Running { addr, tasks, incarnation, budget: RestartBudget::default() }
    }

    fn network_actor(&self, record: NetworkRecord, leaving: Leaving) -> Result<NetworkActor> {
        let driver = self.estate.drivers.get(&record.spec.driver).ok_or_else(|| {
            let mut known: Vec<_> = self.estate.drivers.keys().map(String::as_str).collect();
            known.sort_unstable();
            let query = format!("{} (known: {})", record.spec.driver, known.join(", "));
            Error::not_found(ObjectKind::Driver, query)
        })?;
        Ok(self.network_over(record, driver.port.clone(), driver.capability, leaving))
    }

    /// A network that was read back and whose driver is not there: it keeps its name and its addresses, and
    /// is out of service, visibly.
    fn orphan(&self, record: NetworkRecord, leaving: Leaving) -> NetworkActor {
        let capability = Capability {
            scope: Scope::Local,
            needs_ipam: true,
            shares_pools: false,
            provides_gateway: false,
            adopts: &[],
            permanent: false,
            hears_of_bare: false,
        };
        self.network_over(record, Port::vacant(), capability, leaving)
    }

    fn network_over(
        &self,
        record: NetworkRecord,
        driver: Port<DriverActor>,
        capability: Capability,
        leaving: Leaving,
    ) -> NetworkActor {
        let hub = self.estate.events.clone();
        let events = EventSink::new(move |op: &OpCtx, event: NetworkEvent| hub.emit(op, public(event)));
        NetworkActor::new(
            record,
            NetworkDeps { services: self.estate.services.clone(), driver, capability, events, leaving },
        )
    }

    fn sandbox_actor(&self, record: SandboxRecord, turns: Turns) -> SandboxActor {
        let networks = self.estate.directory.reader().networks;
        let services = self.estate.services.clone();
        SandboxActor::new(record, SandboxDeps { services, networks, turns })
    }
}

/// Starts an actor and has its end told to the controller, whichever incarnation of that lives then.
fn watch<A: Actor>(
    actor: A,
    child: Child,
    incarnation: u64,
    controller: &Port<ControllerActor>,
) -> (netloom_runtime::Addr<A>, netloom_runtime::TaskGroup) {
    let me = controller.clone();
    spawn(actor, move |exit| {
        let op = OpCtx::new(Cause::Event("child exited"), std::time::Duration::from_secs(30));
        me.tell(&op, ChildExited { child, incarnation, exit });
    })
}

/// A network's fact as the engine's.
fn public(event: NetworkEvent) -> EventKind {
    match event {
        NetworkEvent::EndpointCreated { network, endpoint, name } => {
            EventKind::EndpointCreated { network, endpoint, name }
        }
        NetworkEvent::EndpointRenamed { network, endpoint, name } => {
            EventKind::EndpointRenamed { network, endpoint, name }
        }
        NetworkEvent::EndpointAttached { network, endpoint, sandbox, ifname } => {
            EventKind::EndpointAttached { network, endpoint, sandbox, ifname }
        }
        NetworkEvent::EndpointDetached { network, endpoint, sandbox } => {
            EventKind::EndpointDetached { network, endpoint, sandbox }
        }
        NetworkEvent::EndpointDeleted { network, endpoint, name } => {
            EventKind::EndpointDeleted { network, endpoint, name }
        }
        NetworkEvent::PortsPublished { network, endpoint, name, ports } => {
            EventKind::PortsPublished { network, endpoint, name, ports }
        }
        NetworkEvent::PortsWithdrawn { network, endpoint, name, ports } => {
            EventKind::PortsWithdrawn { network, endpoint, name, ports }
        }
        NetworkEvent::AddressesReserved { network, name, kept } => {
            EventKind::AddressesReserved { network, name, kept }
        }
        NetworkEvent::ReservationReleased { network, name } => {
            EventKind::ReservationReleased { network, name }
        }
    }
}

/// The slow half of a request ended.
struct Finished(Outcome);

messages! {
    Finished => ();
}

/// What came of it, with what its second half needs.
enum Outcome {
    NetworkCreated(NetworkId, Result<NetworkSnapshot>, Reply<Result<NetworkSnapshot>>),
    WayOutCreated(NetworkId, Result<()>),
    NetworkDeleted(NetworkId, Result<()>, Reply<Result<()>>),
    NetworkRestored(NetworkId, Result<Vec<Repair>>, Reply<Result<Vec<Repair>>>),
    NetworkRestarted(NetworkId, Result<supervise::Reread<NetworkRecord>>),
    SandboxCreated(SandboxId, Result<SandboxSnapshot>, Reply<Result<SandboxSnapshot>>),
    SandboxDeleted(SandboxId, Result<()>, Reply<Result<()>>),
    SandboxReleased(SandboxId, Result<Vec<EndpointId>>, Reply<Result<Option<ReleasedSandbox>>>),
    DeadReplaced {
        dead: SandboxId,
        wanted: Box<(SandboxId, SandboxSpec)>,
        result: Result<Option<SandboxSnapshot>>,
        reply: Reply<Result<SandboxSnapshot>>,
    },
    SandboxRestored(SandboxId, Result<Vec<Repair>>, Reply<Result<Vec<Repair>>>),
    SandboxRestarted(SandboxId, Result<supervise::Reread<SandboxRecord>>),
    IpamRestarted(String, Result<ipams::RefilledIpam>),
    HostLooked(Result<overlap::Looked>, Vec<Reply<()>>),
    Revived(Result<Vec<(NetworkId, Result<()>)>>),
    /// The first message of a new incarnation was answered.
    Settled(Child, Result<()>),
    /// Answered by the work itself.
    Done(Result<()>),
}

// === Lifecycle ===

impl Actor for ControllerActor {
    const KIND: &'static str = "controller";

    fn started(&mut self, cx: &mut Cx<'_, Self>) {
        self.estate.port.set(cx.me());
        self.estate.directory.publish_controller(cx.me());
    }
}
