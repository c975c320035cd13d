//! How a network's operations begin: checked, recorded, and their slow half started.

use netloom_actor_services::interrupted;
use netloom_drivers::Join;
use netloom_kernel::Netns;
use netloom_model::error::check_name;
use netloom_model::record::{AttachmentRecord, WayOut};
use netloom_model::snapshot::{EndpointPhase, EndpointSnapshot};
use netloom_runtime::saga::Patience;
use netloom_runtime::{Handle, Stop};

use super::*;
use crate::endpoint::Endpoint;
use crate::message::{DeleteNetwork, Establish, MarkFailed, RestoreInDriver, Revive};
use crate::phase::EndpointCommand;
use crate::saga;

impl NetworkActor {
    /// The first half of an operation whose turn it is. What it checks may have changed while it waited. Tells
    /// whether there is a second half.
    pub(super) fn start(&mut self, op: &OpCtx, pending: Pending, cx: &mut Cx<'_, Self>) -> bool {
        // Coming into service is never too late: what is recorded has to be listed, also out of service.
        if op.remaining().is_zero() && !matches!(pending, Pending::Establish(..)) {
            // Nobody waits for it any more, and most of its steps would be refused half-way.
            let late = Reason::DeadlineExceeded { what: self.holder().to_string(), waited: op.allowed };
            pending.refuse(Error::from(late).unwound());
            return false;
        }
        // A part of an operation that was ended meanwhile would be done after it has been undone.
        let ended = op.cancel.is_cancelled() && !matches!(pending, Pending::Establish(..));
        if ended || (pending.is_fresh() && self.world.services.tools.ledger.is_stopping()) {
            let stopping = || Reason::ShuttingDown.into();
            pending.refuse(if ended { interrupted(op, "waiting for its turn") } else { stopping() });
            return false;
        }
        let refused = match pending {
            Pending::Establish(origin, reply) => self.establish(op, *origin, reply, cx),
            Pending::CreateEndpoint(command, reply) => self.create_endpoint(op, *command, reply, cx),
            Pending::DeleteEndpoint(command, reply) => self.delete_endpoint(op, command, reply, cx),
            Pending::Evict(command, reply) => self.evict(op, command, reply, cx),
            Pending::Rename(command, reply) => self.rename(op, command, reply, cx),
            Pending::Reserve(command, reply) => self.reserve(op, command, reply, cx),
            Pending::Unreserve(command, reply) => self.unreserve(op, command, reply, cx),
            Pending::Attach(command, reply) => self.attach(op, command, reply, cx),
            Pending::Commit(command, reply) => self.commit(op, command, reply, cx),
            Pending::Abandon(command, reply) => self.abandon(op, command, reply, cx),
            Pending::Detach(command, reply) => self.detach(op, command, reply, cx),
            Pending::Program(command, reply) => self.program(op, command, reply, cx),
            Pending::Delete(reply) => self.delete(op, reply, cx),
            Pending::RestoreInDriver(reply) => self.restore_in_driver(op, reply, cx),
            Pending::Revive(reply) => self.revive(op, reply, cx),
        };
        match refused {
            Ok(()) => true,
            Err(answer) => {
                answer();
                false
            }
        }
    }

    fn establish(
        &mut self,
        op: &OpCtx,
        origin: Origin,
        reply: Reply<Result<Vec<netloom_model::Repair>>>,
        cx: &mut Cx<'_, Self>,
    ) -> Started {
        let reply = checked(self.allows(NetworkCommand::Establish), reply)?;
        let (world, own) = (self.world.clone(), op.clone());
        match origin {
            Origin::Fresh => {
                let work = saga::establish(world, own, self.record.clone());
                let outcome = |result| Outcome::established(Vec::new(), result, reply);
                self.run(op, Scope::All, work, outcome, cx);
            }
            Origin::FromStore(record, recorded) => {
                let recorded: Vec<_> = recorded.into_iter().map(Arc::new).collect();
                let work = saga::restore_in_driver(world, own, record, recorded.clone(), true);
                let outcome = |result| Outcome::established(recorded, result, reply);
                self.run(op, Scope::All, work, outcome, cx);
            }
            Origin::AfterRestart(record, recorded) => {
                // Driver and IPAM kept what they knew.
                let recorded: Vec<_> = recorded.into_iter().map(Arc::new).collect();
                let established = Established { record, endpoints: recorded.clone(), repairs: Vec::new() };
                let work = std::future::ready(Ok(established));
                let outcome = |result| Outcome::established(recorded, result, reply);
                self.run(op, Scope::All, work, outcome, cx);
            }
        }
        Ok(())
    }

    fn create_endpoint(
        &mut self,
        op: &OpCtx,
        CreateEndpoint { endpoint, spec }: CreateEndpoint,
        reply: Reply<Result<EndpointSnapshot>>,
        cx: &mut Cx<'_, Self>,
    ) -> Started {
        let asks = self.world.capability.needs_ipam && self.world.ipam.capability().requires_mac_address;
        let mac = spec.mac.or_else(|| asks.then(|| self.endpoints.free_mac(endpoint)).flatten());
        let allowed = self
            .allows(NetworkCommand::CreateEndpoint)
            .and_then(|()| spec.validate())
            .and_then(|()| self.mac_is_free(mac));
        let reply = checked(allowed, reply)?;
        let wanted = Reservation { ipv4: spec.ipv4, ipv6: spec.ipv6 };
        let kept = self.record.reservations.get(&spec.name).copied().unwrap_or_default();
        let mut record = EndpointRecord::asked(endpoint, self.record.id, spec);
        record.mac = mac;
        let record = Arc::new(record);
        let mut entry = Endpoint::new(record.clone(), EndpointPhase::Creating);
        entry.cancel = op.cancel.canceller();
        let reply = checked(self.endpoints.insert(entry), reply)?;
        let shown_ipv6 = !self.record.spec.defer_ipv6;
        let work = saga::create_endpoint(self.world.clone(), op.clone(), record, (wanted, kept), shown_ipv6);
        let outcome = move |result| Outcome::EndpointCreated { endpoint, result: Box::new(result), reply };
        self.run(op, one(endpoint), work, outcome, cx);
        Ok(())
    }

    fn delete_endpoint(
        &mut self,
        op: &OpCtx,
        DeleteEndpoint(endpoint): DeleteEndpoint,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) -> Started {
        let (entry, reply) =
            self.begin(op, endpoint, EndpointCommand::Delete, EndpointPhase::Deleting, reply)?;
        let record = entry.record.clone();
        let work = saga::delete_endpoint(self.world.clone(), op.clone(), record, Patience::Usual);
        let outcome = move |result| Outcome::EndpointDeleted { endpoint, result, reply };
        self.run(op, one(endpoint), work, outcome, cx);
        Ok(())
    }

    fn rename(
        &mut self,
        op: &OpCtx,
        RenameEndpoint { endpoint, name }: RenameEndpoint,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) -> Started {
        let allowed = self
            .allows(NetworkCommand::ChangeEndpoint)
            .and_then(|()| check_name(ObjectKind::Endpoint, &name))
            .and_then(|()| self.endpoints.accepting(endpoint, EndpointCommand::Rename).map(|_| ()))
            .and_then(|()| self.endpoints.reserve_name(endpoint, &name));
        let reply = checked(allowed, reply)?;
        let (entry, reply) = checked_value(self.endpoints.get_mut(endpoint), reply)?;
        entry.cancel = op.cancel.canceller();
        let old = entry.record.name.clone();
        let record = EndpointRecord { name: name.clone(), ..EndpointRecord::clone(&entry.record) };
        let work = saga::rename_endpoint(self.world.clone(), op.clone(), record);
        let outcome = move |result| Outcome::Renamed { endpoint, old, name, result, reply };
        self.run(op, one(endpoint), work, outcome, cx);
        Ok(())
    }

    /// What was under way on the endpoint has been cancelled and has ended. Whatever phase that left it in, it
    /// goes.
    fn evict(
        &mut self,
        op: &OpCtx,
        EvictEndpoint(endpoint): EvictEndpoint,
        reply: Reply<Result<Option<SandboxId>>>,
        cx: &mut Cx<'_, Self>,
    ) -> Started {
        // Gone by itself meanwhile: what was asked for.
        let Ok(entry) = self.endpoints.get_mut(endpoint) else {
            return Err(Box::new(|| reply.send(Ok(None))));
        };
        let (sandbox, record) = (entry.sandbox(), entry.record.clone());
        let before = std::mem::replace(&mut entry.phase, EndpointPhase::Deleting);
        let work = saga::delete_endpoint(self.world.clone(), op.clone(), record, Patience::Short);
        let outcome = move |result| Outcome::Evicted { endpoint, before, sandbox, result, reply };
        self.run(op, one(endpoint), work, outcome, cx);
        Ok(())
    }

    fn attach(
        &mut self,
        op: &OpCtx,
        command: Box<AttachEndpoint>,
        reply: Reply<Result<Attachment>>,
        cx: &mut Cx<'_, Self>,
    ) -> Started {
        let endpoint = command.endpoint;
        let passes = self.world.services.quarantine.passes(endpoint);
        let named = self.endpoints.get(endpoint).and_then(|entry| {
            if entry.phase == EndpointPhase::Reserved && entry.sandbox() != Some(command.sandbox) {
                return Err(entry.in_use());
            }
            if command.netns == Some(Netns::Host)
                && let Some(prefix) = &entry.record.prefix
            {
                let (object, prefix) = (entry.holder(), prefix.clone());
                return Err(Reason::HostInterface { object, prefix }.into());
            }
            if passes {
                // An earlier link could not be cut off yet: with another one its address would be in two places.
                let phase = "leaving its sandbox";
                return Err(Reason::WrongPhase { object: entry.holder(), phase }.into());
            }
            entry.interface(command.index)
        });
        let (ifname, reply) = checked_value(named, reply)?;
        let (entry, reply) =
            self.begin(op, endpoint, EndpointCommand::Attach, EndpointPhase::Joining, reply)?;
        // One for which a place was kept has that still, should this fail.
        let kept = Arc::make_mut(&mut entry.record).attachment.replace(AttachmentRecord {
            sandbox: command.sandbox,
            join: command.join,
            ifname,
            priority: command.priority,
            link: None,
            gateway: None,
            gateway6: None,
            routes: Vec::new(),
            way_out: WayOut::Wanted,
            reserved: command.netns.is_none(),
        });
        let join = command.netns.map(|netns| Join {
            network: self.record.id,
            endpoint,
            join: command.join,
            netns,
            ifname,
            sandbox: command.options.clone(),
        });
        let work = saga::attach(self.world.clone(), op.clone(), (endpoint, command.join), join);
        let outcome = move |result| Outcome::Attached { command, ifname, kept, result, reply };
        self.run(op, one(endpoint), work, outcome, cx);
        Ok(())
    }

    fn commit(
        &mut self,
        op: &OpCtx,
        CommitAttachment { endpoint, join, beside }: CommitAttachment,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) -> Started {
        let joining = self.endpoints.by_join(endpoint, join, EndpointCommand::Commit);
        let known = joining.map(|entry| (entry.record.clone(), entry.outward.is_some()));
        let (known, reply) = checked_value(known, reply)?;
        let work = saga::commit_attachment(self.world.clone(), op.clone(), known, beside);
        let outcome = move |result| Outcome::Committed { endpoint, result, reply };
        self.run(op, one(endpoint), work, outcome, cx);
        Ok(())
    }

    fn abandon(
        &mut self,
        op: &OpCtx,
        AbandonAttachment { endpoint, join }: AbandonAttachment,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) -> Started {
        let entry = self.endpoints.accepting(endpoint, EndpointCommand::Abandon);
        let (entry, reply) = checked_value(entry, reply)?;
        // Also one without attachment: after a restart of this actor the driver may know of one that nobody
        // recorded.
        let Some(entry) = entry.filter(|entry| entry.join().is_none_or(|held| held == join)) else {
            return Err(Box::new(|| reply.send(Ok(()))));
        };
        let recorded = entry.record.attachment.is_some().then(|| entry.record.clone());
        let joined = entry.phase == EndpointPhase::Joined;
        let work = saga::abandon(self.world.clone(), op.clone(), (endpoint, join), recorded, joined);
        let outcome = move |result| Outcome::Abandoned { endpoint, result, reply };
        self.run(op, one(endpoint), work, outcome, cx);
        Ok(())
    }

    fn detach(
        &mut self,
        op: &OpCtx,
        command: DetachEndpoint,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) -> Started {
        let DetachEndpoint { endpoint, sandbox, keeps_place } = command;
        let here = self.endpoints.in_sandbox(endpoint, sandbox, EndpointCommand::Detach).map(|_| ());
        let reply = checked(here, reply)?;
        let (entry, reply) =
            self.begin(op, endpoint, EndpointCommand::Detach, EndpointPhase::Leaving, reply)?;
        let record = entry.record.clone();
        let work = saga::detach(self.world.clone(), op.clone(), record, keeps_place);
        let outcome = move |result| Outcome::Detached { endpoint, keeps_place, result, reply };
        self.run(op, one(endpoint), work, outcome, cx);
        Ok(())
    }

    fn delete(&mut self, op: &OpCtx, reply: Reply<Result<()>>, cx: &mut Cx<'_, Self>) -> Started {
        let reply = checked(self.may_go(), reply)?;
        self.phase = NetworkPhase::Deleting;
        self.leaving.set(true);
        let work =
            saga::delete_network(self.world.clone(), op.clone(), self.record.clone(), self.unsure.clone());
        self.run(op, Scope::All, work, |result| Outcome::Deleted { result, reply }, cx);
        Ok(())
    }

    /// Moves an endpoint into the phase of an operation, if its present phase allows that.
    fn begin<T: Send + 'static>(
        &mut self,
        op: &OpCtx,
        endpoint: EndpointId,
        command: EndpointCommand,
        phase: EndpointPhase,
        reply: Reply<Result<T>>,
    ) -> Result<(&mut Endpoint, Reply<Result<T>>), Answer> {
        let allowed = self
            .allows(NetworkCommand::ChangeEndpoint)
            .and_then(|()| self.endpoints.accepting(endpoint, command).map(|_| ()));
        let reply = checked(allowed, reply)?;
        let (entry, reply) = checked_value(self.endpoints.get_mut(endpoint), reply)?;
        (entry.phase, entry.cancel) = (phase, op.cancel.canceller());
        Ok((entry, reply))
    }
}

/// An answer that needs no slow half.
pub(super) type Answer = Box<dyn FnOnce()>;
/// Whether an operation has started its slow half, or how it is answered at once.
pub(super) type Started = Result<(), Answer>;

pub(super) fn checked<T: Send + 'static>(
    check: Result<()>,
    reply: Reply<Result<T>>,
) -> Result<Reply<Result<T>>, Answer> {
    checked_value(check, reply).map(|((), reply)| reply)
}

pub(super) fn checked_value<V, T: Send + 'static>(
    check: Result<V>,
    reply: Reply<Result<T>>,
) -> Result<(V, Reply<Result<T>>), Answer> {
    match check {
        Ok(value) => Ok((value, reply)),
        Err(error) => Err(Box::new(move || reply.send(Err(error)))),
    }
}

// === Commands ===

macro_rules! admit {
    ($($message:ty => $answer:ty, |$command:ident, $reply:ident| $pending:expr;)+) => {$(
        impl Handle<$message> for NetworkActor {
            fn handle(
                &mut self,
                op: OpCtx,
                $command: $message,
                $reply: Reply<Result<$answer>>,
                cx: &mut Cx<'_, Self>,
            ) {
                self.admit(op, $pending, cx);
            }
        }
    )+};
}

admit! {
    Establish => Vec<netloom_model::Repair>, |command, reply| Pending::Establish(Box::new(command.0), reply);
    CreateEndpoint => EndpointSnapshot, |command, reply| Pending::CreateEndpoint(Box::new(command), reply);
    DeleteEndpoint => (), |command, reply| Pending::DeleteEndpoint(command, reply);
    RenameEndpoint => (), |command, reply| Pending::Rename(command, reply);
    ReserveAddress => (), |command, reply| Pending::Reserve(command, reply);
    ReleaseReservation => (), |command, reply| Pending::Unreserve(command, reply);
    AttachEndpoint => Attachment, |command, reply| Pending::Attach(Box::new(command), reply);
    CommitAttachment => (), |command, reply| Pending::Commit(command, reply);
    AbandonAttachment => (), |command, reply| Pending::Abandon(command, reply);
    DetachEndpoint => (), |command, reply| Pending::Detach(command, reply);
    ProgramEndpoint => (), |command, reply| Pending::Program(command, reply);
    DeleteNetwork => (), |_command, reply| Pending::Delete(reply);
    RestoreInDriver => (), |_command, reply| Pending::RestoreInDriver(reply);
    Revive => (), |_command, reply| Pending::Revive(reply);
}

impl Handle<EvictEndpoint> for NetworkActor {
    /// What is under way ends at once, so that this waits for nothing but its undoing, which is bounded.
    fn handle(
        &mut self,
        op: OpCtx,
        EvictEndpoint(endpoint): EvictEndpoint,
        reply: Reply<Result<Option<SandboxId>>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let object = match self.endpoints.get(endpoint) {
            Ok(entry) => {
                entry.cancel.cancel(Stop::Overtaken);
                entry.holder()
            }
            Err(error) => return reply.send(Err(error)),
        };
        // What waits would be begun before it, and may hang as well; but what is to be undone is undone.
        let mut first = Vec::new();
        for (own, pending) in self.gate.take(Turn::Endpoint(endpoint)) {
            if matches!(pending, Pending::Abandon(..)) {
                first.push((own, pending));
            } else {
                pending.refuse(Reason::WrongPhase { object: object.clone(), phase: "being deleted" }.into());
            }
        }
        first.push((op, Pending::Evict(EvictEndpoint(endpoint), reply)));
        // Nor does it wait for what waits for others, such as the deletion of the network.
        let begins = self.gate.admit_first(Turn::Endpoint(endpoint), first);
        self.start_each(begins.into_iter().collect(), cx);
    }
}

impl Handle<MarkFailed> for NetworkActor {
    fn handle(&mut self, _: OpCtx, MarkFailed(cause): MarkFailed, reply: Reply<()>, _: &mut Cx<'_, Self>) {
        self.phase = NetworkPhase::Failed;
        self.failure = Some(cause);
        reply.send(());
    }
}
