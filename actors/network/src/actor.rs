//! Owns one network and its endpoints. Rank 3. Spawned by the controller; asks the driver, IPAM and the
//! store; emits [`NetworkEvent`].
//!
//! | message | kind | legal in phase | answers with |
//! |---|---|---|---|
//! | Establish | command | Creating | repairs |
//! | CreateEndpoint | command | Active | EndpointSnapshot |
//! | DeleteEndpoint | command | Active, Deleting, Failed | () |
//! | EvictEndpoint | command | any | the sandbox it was in |
//! | EvictFrom | command | any | the sandbox it was in |
//! | RenameEndpoint | command | Active, Deleting, Failed | () |
//! | ReserveAddress | command | Active | () |
//! | ReleaseReservation | command | Active | () |
//! | AttachEndpoint | command | Active, Deleting, Failed | Attachment |
//! | CommitAttachment | command | Active, Deleting, Failed | () |
//! | AbandonAttachment | command | Active, Deleting, Failed | () |
//! | DetachEndpoint | command | Active, Deleting, Failed | () |
//! | ProgramEndpoint | command | Active, Deleting, Failed | () |
//! | RevokeEndpoint | command | any | () |
//! | DeleteNetwork | command | Active, Failed | () |
//! | RestoreInDriver | command | Active | () |
//! | Revive | command | Active, Failed | () |
//! | MarkFailed | command | any | () |
//! | InspectNetwork | query | any | NetworkSnapshot |
//! | InspectEndpoint | query | any | EndpointSnapshot |
//! | ListEndpoints | query | any | EndpointSnapshots |
//! | EndpointInfo | query | any | OperInfo |
//! | ListLinks | query | any | EndpointLinks |
//! | DesireNetwork | query | any | NetworkDesire |
//! | Finished | outcome | any | |
//!
//! Operations on one endpoint queue behind each other, and so do those that change the network's own record;
//! `Establish`, `DeleteNetwork`, `RestoreInDriver` and `Revive` run alone. `commands.rs` starts operations, `outcomes.rs` ends
//! them, `outward.rs` has both for the way in from outside, `reservations.rs` has both for addresses that are kept for names, `queries.rs` answers questions.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use netloom_actor_driver::DriverActor;
use netloom_actor_services::{Services, panicked};
use netloom_drivers::{Capability, SandboxOptions};
use netloom_ipam::Order;
use netloom_model::record::{AttachmentRecord, EndpointRecord, NetworkRecord, Reservation};
use netloom_model::snapshot::{EndpointPhase, NetworkPhase, NetworkSnapshot};
use netloom_model::{
    EndpointId, Error, Holder, MacAddr, ObjectKind, Published, Reason, Result, SandboxId, Seldom,
};
use netloom_runtime::{Actor, Admission, Cx, EventSink, Gate, OpCtx, Panicked, Port, Reply, Scope, messages};

use crate::directory::Leaving;
use crate::endpoint::Endpoints;
use crate::event::NetworkEvent;
use crate::message::{
    AbandonAttachment, AttachEndpoint, Attachment, CommitAttachment, CreateEndpoint, DeleteEndpoint,
    DetachEndpoint, EvictEndpoint, Origin, ProgramEndpoint, ReleaseReservation, RenameEndpoint,
    ReserveAddress,
};
use crate::phase::{self, NetworkCommand, Verdict};
use crate::saga::{CreatedEndpoint, Established, Everybody, Facts, Reached, Recorded, World};

#[path = "commands.rs"]
mod commands;
#[path = "outcomes.rs"]
mod outcomes;
#[path = "outward.rs"]
mod outward;
#[path = "queries.rs"]
mod queries;
#[path = "reservations.rs"]
mod reservations;

// === Actor ===

/// Everybody whom a network works with.
#[derive(Clone, Debug)]
pub struct NetworkDeps {
    /// The services.
    pub services: Services,
    /// Its driver.
    pub driver: Port<DriverActor>,
    /// What that driver can do.
    pub capability: Capability,
    /// Where its facts go.
    pub events: EventSink<NetworkEvent>,
    /// Where it notes that it is being deleted.
    pub leaving: Leaving,
}

/// What operations queue for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Turn {
    /// An endpoint.
    Endpoint(EndpointId),
    /// The network's own record, which is written whole.
    Record,
}

/// What an operation on an endpoint touches.
pub(crate) fn one(endpoint: EndpointId) -> Scope<Turn> {
    Scope::One(Turn::Endpoint(endpoint))
}

/// The actor of one network.
#[derive(Debug)]
pub struct NetworkActor {
    /// Its name, which sandboxes keep too.
    name: Arc<str>,
    pub(crate) record: NetworkRecord,
    pub(crate) phase: NetworkPhase,
    failure: Option<String>,
    pub(crate) endpoints: Endpoints,
    /// The names for which the store may keep something else than the record says: a commit did not answer.
    unsure: BTreeSet<String>,
    pub(crate) gate: Gate<Turn, (OpCtx, Pending)>,
    leaving: Leaving,
    pub(crate) world: World,
}

impl NetworkActor {
    /// An actor for a network that [`crate::Establish`] will bring into service. The record says what was
    /// asked for; its pools are filled in by IPAM.
    #[must_use]
    pub fn new(record: NetworkRecord, deps: NetworkDeps) -> Self {
        let NetworkDeps { services, driver, capability, events, leaving } = deps;
        let limit = services.operations_per_object.get();
        let network = record.id;
        let ipam = services.ipam.of_network(&record.spec.ipam, capability.scope);
        let order = RefCell::new(Order::recorded(record.order.clone()));
        let world = World::new(Everybody { services, driver, ipam, network, capability, events, order });
        Self {
            gate: Gate::new(limit),
            name: record.spec.name.as_str().into(),
            record,
            phase: NetworkPhase::Creating,
            failure: None,
            unsure: BTreeSet::new(),
            endpoints: Endpoints::default(),
            leaving,
            world,
        }
    }

    pub(crate) fn holder(&self) -> Holder {
        Holder::new(ObjectKind::Network, self.record.id, &self.record.spec.name)
    }

    fn allows(&self, command: NetworkCommand) -> Result<()> {
        match phase::network(self.phase, command) {
            Verdict::Go | Verdict::Nothing => Ok(()),
            Verdict::Refuse(_) if self.phase == NetworkPhase::Failed => {
                let cause = self.failure.clone().unwrap_or_default();
                Err(Reason::OutOfService { object: self.holder(), cause }.into())
            }
            Verdict::Refuse(phase) => Err(Reason::WrongPhase { object: self.holder(), phase }.into()),
        }
    }

    /// Whether the network can be deleted. One that is out of service can be whatever its type is: nobody could
    /// use it, and another could not take its place.
    fn may_go(&self) -> Result<()> {
        self.allows(NetworkCommand::Delete)?;
        if self.world.capability.permanent && self.phase != NetworkPhase::Failed {
            return Err(Reason::Permanent { driver: self.record.spec.driver.clone() }.into());
        }
        if self.endpoints.is_empty() {
            return Ok(());
        }
        Err(Reason::ActiveEndpoints {
            network: self.record.id,
            name: self.record.spec.name.clone(),
            endpoints: self.endpoints.holders(),
        }
        .into())
    }

    /// A hardware address that is asked for must be nobody else's: two ports of a network with the same one cut each
    /// other off. One that the driver draws comes from the endpoint's address, which is its own. That of a deleted
    /// endpoint is waited for.
    fn mac_is_free(&self, mac: Option<MacAddr>) -> Result<()> {
        let Some(mac) = mac else { return Ok(()) };
        match self.endpoints.with_mac(mac) {
            None => Ok(()),
            Some(holder) => Err(Reason::MacTaken { mac, holder }.into()),
        }
    }

    fn snapshot(&self) -> NetworkSnapshot {
        let NetworkRecord { id, spec, v4, v6, reservations, passed_over, .. } = self.record.clone();
        NetworkSnapshot {
            id,
            name: spec.name,
            driver: spec.driver,
            phase: self.phase,
            failure: self.failure.clone(),
            ipv6: spec.ipv6,
            internal: spec.internal,
            labels: spec.labels,
            options: spec.options,
            v4,
            v6,
            ipam: spec.ipam,
            reservations,
            passed_over,
            persist: spec.persist,
            endpoints: self.endpoints.snapshots(),
        }
    }

    /// Lets an operation in, or has it wait, or refuses it.
    fn admit(&mut self, op: OpCtx, pending: Pending, cx: &mut Cx<'_, Self>) {
        let scope = pending.scope();
        self.gate.bound(self.world.services.operations_per_object.get());
        if pending.is_fresh() && self.gate.is_full() {
            let what = self.holder().to_string();
            return pending.refuse(Reason::Busy { what, limit: self.gate.limit() }.into());
        }
        match self.gate.admit(scope, (op, pending)) {
            Admission::Start((op, pending)) => {
                if !self.start(&op, pending, cx) {
                    self.release(scope, cx);
                }
            }
            Admission::Queued => {}
        }
    }

    /// Ends an operation and starts those that waited for it.
    fn release(&mut self, scope: Scope<Turn>, cx: &mut Cx<'_, Self>) {
        let ready = self.gate.release(scope);
        self.start_each(ready, cx);
    }

    /// Starts operations whose turn it is. One that is answered at once lets the next one in; in a loop, because
    /// a full queue of those would be too deep for the stack.
    fn start_each(&mut self, ready: Vec<(OpCtx, Pending)>, cx: &mut Cx<'_, Self>) {
        let mut ready = VecDeque::from(ready);
        while let Some((op, pending)) = ready.pop_front() {
            let scope = pending.scope();
            if !self.start(&op, pending, cx) {
                ready.extend(self.gate.release(scope));
            }
        }
    }

    /// Runs the slow half of an operation; its outcome comes back as [`Finished`].
    fn run<T>(
        &self,
        op: &OpCtx,
        scope: Scope<Turn>,
        work: impl Future<Output = Result<T>> + 'static,
        outcome: impl FnOnce(Result<T>) -> Outcome + Send + 'static,
        cx: &mut Cx<'_, Self>,
    ) where
        T: Send + 'static,
    {
        cx.run(op, work, move |result: Result<Result<T>, Panicked>| {
            let result = result.unwrap_or_else(|cause| Err(panicked(&cause)));
            Finished { scope, outcome: outcome(result) }
        });
    }
}

// === Operations ===

/// An operation that waits or runs, with the place where its answer goes.
#[derive(Debug)]
pub(crate) enum Pending {
    Establish(Box<Origin>, Reply<Result<Vec<netloom_model::Repair>>>),
    CreateEndpoint(Box<CreateEndpoint>, Reply<Result<netloom_model::snapshot::EndpointSnapshot>>),
    DeleteEndpoint(DeleteEndpoint, Reply<Result<()>>),
    Evict(EvictEndpoint, Reply<Result<Option<SandboxId>>>),
    Rename(RenameEndpoint, Reply<Result<()>>),
    Reserve(ReserveAddress, Reply<Result<()>>),
    Unreserve(ReleaseReservation, Reply<Result<()>>),
    Attach(Box<AttachEndpoint>, Reply<Result<Attachment>>),
    Commit(CommitAttachment, Reply<Result<()>>),
    Abandon(AbandonAttachment, Reply<Result<()>>),
    Detach(DetachEndpoint, Reply<Result<()>>),
    Program(ProgramEndpoint, Reply<Result<()>>),
    Delete(Reply<Result<()>>),
    RestoreInDriver(Reply<Result<()>>),
    Revive(Reply<Result<()>>),
}

impl Pending {
    fn scope(&self) -> Scope<Turn> {
        match self {
            Self::CreateEndpoint(command, _) => one(command.endpoint),
            Self::DeleteEndpoint(DeleteEndpoint(id), _)
            | Self::Evict(EvictEndpoint(id), _)
            | Self::Detach(DetachEndpoint { endpoint: id, .. }, _)
            | Self::Program(ProgramEndpoint { endpoint: id, .. }, _) => one(*id),
            Self::Rename(command, _) => one(command.endpoint),
            Self::Attach(command, _) => one(command.endpoint),
            Self::Commit(command, _) => one(command.endpoint),
            Self::Abandon(command, _) => one(command.endpoint),
            Self::Reserve(..) | Self::Unreserve(..) => Scope::One(Turn::Record),
            Self::Establish(..) | Self::Delete(_) | Self::RestoreInDriver(_) | Self::Revive(_) => Scope::All,
        }
    }

    /// Whether an operation begins with it, as opposed to being a later part, its undoing or a repair.
    fn is_fresh(&self) -> bool {
        match self {
            Self::CreateEndpoint(..)
            | Self::DeleteEndpoint(..)
            | Self::Evict(..)
            | Self::Rename(..)
            | Self::Reserve(..)
            | Self::Unreserve(..)
            | Self::Attach(..)
            | Self::Delete(_) => true,
            Self::Establish(..)
            | Self::Commit(..)
            | Self::Abandon(..)
            | Self::Detach(..)
            | Self::Program(..)
            | Self::RestoreInDriver(_)
            | Self::Revive(_) => false,
        }
    }

    fn refuse(self, error: Error) {
        match self {
            Self::Establish(_, reply) => reply.send(Err(error)),
            Self::CreateEndpoint(_, reply) => reply.send(Err(error)),
            Self::Attach(_, reply) => reply.send(Err(error)),
            Self::Evict(_, reply) => reply.send(Err(error)),
            Self::DeleteEndpoint(_, reply)
            | Self::Rename(_, reply)
            | Self::Reserve(_, reply)
            | Self::Unreserve(_, reply)
            | Self::Commit(_, reply)
            | Self::Abandon(_, reply)
            | Self::Detach(_, reply)
            | Self::Program(_, reply)
            | Self::Delete(reply)
            | Self::RestoreInDriver(reply)
            | Self::Revive(reply) => reply.send(Err(error)),
        }
    }
}

/// The slow half of an operation ended.
struct Finished {
    scope: Scope<Turn>,
    outcome: Outcome,
}

messages! {
    Finished => ();
}

/// What came of it, with what its second half needs.
enum Outcome {
    Established {
        /// What the store has of its endpoints.
        recorded: Vec<Arc<EndpointRecord>>,
        result: Result<Box<Established>>,
        reply: Reply<Result<Vec<netloom_model::Repair>>>,
    },
    EndpointCreated {
        endpoint: EndpointId,
        result: Box<Result<CreatedEndpoint>>,
        reply: Reply<Result<netloom_model::snapshot::EndpointSnapshot>>,
    },
    Evicted {
        endpoint: EndpointId,
        before: EndpointPhase,
        sandbox: Option<SandboxId>,
        result: Result<Facts>,
        reply: Reply<Result<Option<SandboxId>>>,
    },
    EndpointDeleted {
        endpoint: EndpointId,
        result: Result<Facts>,
        reply: Reply<Result<()>>,
    },
    Renamed {
        endpoint: EndpointId,
        old: String,
        name: String,
        result: Result<Facts>,
        reply: Reply<Result<()>>,
    },
    Reserved {
        name: String,
        kept: Reservation,
        result: Result<Recorded>,
        reply: Reply<Result<()>>,
    },
    Unreserved {
        name: String,
        result: Result<Facts>,
        reply: Reply<Result<()>>,
    },
    Attached {
        command: Box<AttachEndpoint>,
        ifname: netloom_model::IfName,
        /// The place that was kept for it before.
        kept: Option<AttachmentRecord>,
        result: Result<netloom_drivers::Joined>,
        reply: Reply<Result<Attachment>>,
    },
    Committed {
        endpoint: EndpointId,
        result: Result<Facts>,
        reply: Reply<Result<()>>,
    },
    Abandoned {
        endpoint: EndpointId,
        result: Result<Facts>,
        reply: Reply<Result<()>>,
    },
    Detached {
        endpoint: EndpointId,
        keeps_place: bool,
        result: Result<Facts>,
        reply: Reply<Result<()>>,
    },
    Programmed {
        endpoint: EndpointId,
        options: Arc<SandboxOptions>,
        result: Result<Reached>,
        reply: Reply<Result<()>>,
    },
    Deleted {
        result: Result<()>,
        reply: Reply<Result<()>>,
    },
    /// Without a failure: it was in service already.
    Revived {
        failure: Option<String>,
        result: Result<outward::Ways>,
        reply: Reply<Result<()>>,
    },
    RestoredInDriver {
        result: Result<outward::Ways>,
        reply: Reply<Result<()>>,
    },
}

impl Outcome {
    fn established(
        recorded: Vec<Arc<EndpointRecord>>,
        result: Result<Established>,
        reply: Reply<Result<Vec<netloom_model::Repair>>>,
    ) -> Self {
        // Boxed: it is far larger than the others, and rare.
        Self::Established { recorded, result: result.map(Box::new), reply }
    }
}

// === Lifecycle ===

impl Actor for NetworkActor {
    const KIND: &'static str = "network";
}
