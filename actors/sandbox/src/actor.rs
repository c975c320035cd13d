//! Owns one sandbox. Rank 4. Spawned by the controller; asks networks and the store.
//!
//! | message | kind | legal in phase | answers with |
//! |---|---|---|---|
//! | Establish | command | Creating | Standing |
//! | JoinSandbox | command | Ready | SandboxEndpoint |
//! | LeaveSandbox | command | Ready, Failed | () |
//! | DeleteSandbox | command | Ready, Failed | () |
//! | MarkFailed | command | any | () |
//! | NetworkRestarted | event | any | |
//! | InspectSandbox | query | any | SandboxSnapshot |
//! | Finished | outcome | any | |
//!
//! Operations on one sandbox run one after another, as libnetwork's do (`joinLeaveStart`): each decides
//! about the default route by what is plugged in.

use std::collections::VecDeque;

use netloom_actor_network::Networks;
use netloom_actor_services::{Services, panicked};
use netloom_kernel::Netns;
use netloom_model::record::SandboxRecord;
use netloom_model::snapshot::{SandboxEndpoint, SandboxPhase, SandboxSnapshot};
use netloom_model::{Certainty, EndpointId, Error, Holder, ObjectKind, Reason, Repair, Result};
use netloom_runtime::{
    Actor, Admission, Canceller, Cx, Gate, Handle, OpCtx, Panicked, Reply, Scope, Stop, messages,
};

use crate::gateway::{Gateways, elect};
use crate::member::Member;
use crate::message::{
    DeleteSandbox, Establish, InspectSandbox, JoinSandbox, LeaveSandbox, MarkFailed, NetworkRestarted,
    Origin, Standing,
};
use crate::saga::{self, Deleted, Everybody, JoinPlan, Joined, LeavePlan, World};

// === Actor ===

/// Everybody whom a sandbox works with.
#[derive(Clone, Debug)]
pub struct SandboxDeps {
    /// The services.
    pub services: Services,
    /// Where networks are found.
    pub networks: Networks,
}

/// The actor of one sandbox.
#[derive(Debug)]
pub struct SandboxActor {
    record: SandboxRecord,
    phase: SandboxPhase,
    failure: Option<String>,
    members: Vec<Member>,
    gateways: Gateways,
    /// Ends the operation that runs, if one does.
    cancel: Canceller,
    gate: Gate<(), (OpCtx, Pending)>,
    world: World,
}

impl SandboxActor {
    /// An actor for a sandbox that [`Establish`] will bring into service.
    #[must_use]
    pub fn new(record: SandboxRecord, deps: SandboxDeps) -> Self {
        let SandboxDeps { services, networks } = deps;
        let gate = Gate::new(services.operations_per_object);
        let netns = Netns::Named(record.netns);
        let world = World::new(Everybody { services, networks, sandbox: record.id, netns });
        Self {
            record,
            phase: SandboxPhase::Creating,
            failure: None,
            members: Vec::new(),
            gateways: Gateways::default(),
            cancel: Canceller::default(),
            gate,
            world,
        }
    }

    fn holder(&self) -> Holder {
        Holder::new(ObjectKind::Sandbox, self.record.id, &self.record.spec.container_id)
    }

    fn in_phase(&self, allowed: &[SandboxPhase]) -> Result<()> {
        if allowed.contains(&self.phase) {
            return Ok(());
        }
        let phase = match self.phase {
            SandboxPhase::Creating => "being created",
            SandboxPhase::Ready => "in service already",
            SandboxPhase::Deleting => "being deleted",
            SandboxPhase::Failed => {
                let cause = self.failure.clone().unwrap_or_default();
                return Err(Reason::OutOfService { object: self.holder(), cause }.into());
            }
        };
        Err(Reason::WrongPhase { object: self.holder(), phase }.into())
    }

    fn snapshot(&self) -> SandboxSnapshot {
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by(|a, b| a.rank().cmp(&b.rank()));
        SandboxSnapshot {
            id: self.record.id,
            container_id: self.record.spec.container_id.clone(),
            phase: self.phase,
            failure: self.failure.clone(),
            key: self.world.services.kernel.netns_path(self.record.netns),
            endpoints: members.into_iter().map(shown).collect(),
            gateway: self.gateways.v4.map(|gateway| gateway.address),
            gateway6: self.gateways.v6.map(|gateway| gateway.address),
            labels: self.record.spec.labels.clone(),
        }
    }

    fn admit(&mut self, op: OpCtx, pending: Pending, cx: &mut Cx<'_, Self>) {
        let begins =
            !matches!(pending, Pending::Establish(..) | Pending::Delete(DeleteSandbox { force: true }, _));
        if begins && self.gate.is_full() {
            let what = self.holder().to_string();
            return pending.refuse(Reason::Busy { what, limit: self.gate.limit() }.into());
        }
        match self.gate.admit(Scope::All, (op, pending)) {
            Admission::Start((op, pending)) => {
                if !self.start(&op, pending, cx) {
                    self.release(cx);
                }
            }
            Admission::Queued => {}
        }
    }

    /// Ends an operation and starts the next one.
    fn release(&mut self, cx: &mut Cx<'_, Self>) {
        let ready = self.gate.release(Scope::All);
        self.start_each(ready, cx);
    }

    /// Starts operations whose turn it is. One that is refused ends at once and lets the next one in; in a loop,
    /// because a full queue of those would be too deep for the stack.
    fn start_each(&mut self, ready: Vec<(OpCtx, Pending)>, cx: &mut Cx<'_, Self>) {
        let mut ready = VecDeque::from(ready);
        while let Some((op, pending)) = ready.pop_front() {
            if !self.start(&op, pending, cx) {
                ready.extend(self.gate.release(Scope::All));
            }
        }
    }

    /// The first half of an operation whose turn it is. Tells whether there is a second one.
    fn start(&mut self, op: &OpCtx, pending: Pending, cx: &mut Cx<'_, Self>) -> bool {
        // Nobody waits any more for what is late, and most of its steps would be refused half-way.
        let late = || Reason::DeadlineExceeded { what: self.holder().to_string(), waited: op.allowed };
        let checked = match &pending {
            // Never too late: what is recorded has to be listed, also out of service.
            Pending::Establish(..) => self.in_phase(&[SandboxPhase::Creating]),
            _ if op.remaining().is_zero() => Err(Error::from(late()).unwound()),
            _ if self.world.services.tools.ledger.is_stopping() => Err(Reason::ShuttingDown.into()),
            // Whether the endpoint is free is for its network to say, which knows its name.
            Pending::Join(..) => self.in_phase(&[SandboxPhase::Ready]),
            Pending::Leave(..) => self.in_phase(&[SandboxPhase::Ready, SandboxPhase::Failed]),
            Pending::Delete(..) => self.in_phase(&[SandboxPhase::Ready, SandboxPhase::Failed]),
        };
        if let Err(refusal) = checked {
            pending.refuse(refusal);
            return false;
        }
        let world = self.world.clone();
        self.cancel = op.cancel.canceller();
        match pending {
            Pending::Establish(Origin::Fresh, reply) => {
                let made = saga::establish(world, op.clone(), self.record.clone());
                let work = async move { made.await.map(|()| Vec::new()) };
                run(op, work, |result| Outcome::Established(Vec::new(), result, reply), cx);
            }
            Pending::Establish(Origin::Recorded(members), reply) => {
                let work = saga::restore(world, op.clone(), members.clone(), self.record.clone());
                run(op, work, |result| Outcome::Established(members, result, reply), cx);
            }
            Pending::Join(command, reply) => {
                let plan = Box::new(JoinPlan {
                    command,
                    record: self.record.clone(),
                    members: self.members.clone(),
                    gateways: self.gateways,
                });
                // Used up even if the join fails, unless it is refused: something may have seen the name.
                self.record.interfaces += 1;
                let work = saga::join(world, op.clone(), plan);
                run(op, work, |result| Outcome::Joined(result.map(Box::new), reply), cx);
            }
            Pending::Leave(command, reply) => {
                let plan = self.leave_plan(|member| member.endpoint == command.endpoint);
                let work = saga::leave(world, op.clone(), command, plan);
                run(op, work, move |result| Outcome::Left(command.endpoint, result, reply), cx);
            }
            Pending::Delete(DeleteSandbox { force }, reply) => {
                self.phase = SandboxPhase::Deleting;
                let plan = self.leave_plan(|_| true);
                let work = saga::delete(world, op.clone(), plan, force);
                run(op, work, |result| Outcome::Deleted(result, reply), cx);
            }
        }
        true
    }

    fn leave_plan(&self, leaves: impl Fn(&Member) -> bool) -> LeavePlan {
        let (leaving, rest) = self.members.iter().cloned().partition(|member| leaves(member));
        LeavePlan { leaving, rest, before: self.gateways, labels: self.record.spec.labels.clone() }
    }

    fn forget(&mut self, endpoint: EndpointId) {
        self.members.retain(|member| member.endpoint != endpoint);
        self.gateways = elect(&self.members);
    }
}

/// Whether the endpoint's network refused a join before anything was done, so that nobody saw an interface.
fn was_refused(error: &Error) -> bool {
    let at_once = matches!(
        error.reason(),
        Reason::EndpointInUse { .. } | Reason::NotFound { .. } | Reason::WrongPhase { .. }
    );
    at_once && error.certainty() == Certainty::Aborted
}

fn shown(member: &Member) -> SandboxEndpoint {
    SandboxEndpoint {
        endpoint: member.endpoint,
        network: member.network,
        ifname: member.ifname,
        priority: member.priority,
    }
}

fn run<T: Send + 'static>(
    op: &OpCtx,
    work: impl Future<Output = Result<T>> + 'static,
    outcome: impl FnOnce(Result<T>) -> Outcome + 'static,
    cx: &mut Cx<'_, SandboxActor>,
) {
    cx.run(op, work, move |result: Result<Result<T>, Panicked>| {
        Finished(outcome(result.unwrap_or_else(|cause| Err(panicked(&cause)))))
    });
}

// === Operations ===

/// An operation that waits, with the place where its answer goes.
#[derive(Debug)]
enum Pending {
    Establish(Origin, Reply<Result<Standing>>),
    Join(JoinSandbox, Reply<Result<SandboxEndpoint>>),
    Leave(LeaveSandbox, Reply<Result<()>>),
    Delete(DeleteSandbox, Reply<Result<()>>),
}

impl Pending {
    fn refuse(self, error: Error) {
        match self {
            Self::Join(_, reply) => reply.send(Err(error)),
            Self::Establish(_, reply) => reply.send(Err(error)),
            Self::Leave(_, reply) | Self::Delete(_, reply) => {
                reply.send(Err(error));
            }
        }
    }
}

/// The slow half of an operation ended.
struct Finished(Outcome);

messages! {
    Finished => ();
}

enum Outcome {
    Established(Vec<Member>, Result<Vec<Repair>>, Reply<Result<Standing>>),
    Joined(Result<Box<Joined>>, Reply<Result<SandboxEndpoint>>),
    Left(EndpointId, Result<()>, Reply<Result<()>>),
    Deleted(Result<Deleted>, Reply<Result<()>>),
}

// === Lifecycle ===

impl Actor for SandboxActor {
    const KIND: &'static str = "sandbox";
}

// === Commands ===

impl Handle<Establish> for SandboxActor {
    fn handle(
        &mut self,
        op: OpCtx,
        Establish(origin): Establish,
        reply: Reply<Result<Standing>>,
        cx: &mut Cx<'_, Self>,
    ) {
        self.admit(op, Pending::Establish(origin, reply), cx);
    }
}

impl Handle<JoinSandbox> for SandboxActor {
    fn handle(
        &mut self,
        op: OpCtx,
        command: JoinSandbox,
        reply: Reply<Result<SandboxEndpoint>>,
        cx: &mut Cx<'_, Self>,
    ) {
        self.admit(op, Pending::Join(command, reply), cx);
    }
}

impl Handle<LeaveSandbox> for SandboxActor {
    fn handle(&mut self, op: OpCtx, command: LeaveSandbox, reply: Reply<Result<()>>, cx: &mut Cx<'_, Self>) {
        self.admit(op, Pending::Leave(command, reply), cx);
    }
}

impl Handle<DeleteSandbox> for SandboxActor {
    fn handle(&mut self, op: OpCtx, command: DeleteSandbox, reply: Reply<Result<()>>, cx: &mut Cx<'_, Self>) {
        if command.force {
            self.cancel.cancel(Stop::Overtaken);
            // What waits would be begun before it, and may hang as well.
            for (_, pending) in self.gate.clear() {
                pending.refuse(Reason::WrongPhase { object: self.holder(), phase: "being deleted" }.into());
            }
        }
        self.admit(op, Pending::Delete(command, reply), cx);
    }
}

impl Handle<MarkFailed> for SandboxActor {
    fn handle(&mut self, _: OpCtx, MarkFailed(cause): MarkFailed, reply: Reply<()>, _: &mut Cx<'_, Self>) {
        self.phase = SandboxPhase::Failed;
        self.failure = Some(cause);
        reply.send(());
    }
}

// === Events ===

impl Handle<NetworkRestarted> for SandboxActor {
    /// What that network knew of the way in from outside died with it.
    fn handle(
        &mut self,
        op: OpCtx,
        NetworkRestarted(network): NetworkRestarted,
        _: Reply<()>,
        cx: &mut Cx<'_, Self>,
    ) {
        let provider = self.gateways.provider();
        let provides = |member: &&Member| member.network == network && Some(member.endpoint) == provider;
        if let Some(member) = self.members.iter().find(provides) {
            let labels = self.record.spec.labels.clone();
            cx.tasks().spawn(saga::program_again(self.world.clone(), op, member.clone(), labels));
        }
    }
}

// === Queries ===

impl Handle<InspectSandbox> for SandboxActor {
    fn handle(&mut self, _: OpCtx, _: InspectSandbox, reply: Reply<SandboxSnapshot>, _: &mut Cx<'_, Self>) {
        reply.send(self.snapshot());
    }
}

// === Outcomes ===

impl Handle<Finished> for SandboxActor {
    fn handle(&mut self, _: OpCtx, Finished(outcome): Finished, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        match outcome {
            Outcome::Established(members, result, reply) => {
                // What is recorded is in it, also when it goes out of service because it cannot be put right.
                self.gateways = elect(&members);
                self.members = members;
                if result.is_ok() {
                    // It may have been put out of service meanwhile.
                    let failed = self.failure.is_some();
                    self.phase = if failed { SandboxPhase::Failed } else { SandboxPhase::Ready };
                }
                reply.send(result.map(|repairs| Standing { snapshot: self.snapshot(), repairs }));
            }
            Outcome::Joined(result, reply) => {
                if result.as_ref().is_err_and(was_refused) {
                    // No other join has begun meanwhile: the number is the last one that was given.
                    self.record.interfaces -= 1;
                }
                reply.send(result.map(|joined| {
                    let Joined { member, gateways, interfaces } = *joined;
                    let answer = shown(&member);
                    self.record.interfaces = interfaces;
                    // Most sandboxes have one member, and there are many sandboxes.
                    self.members.reserve_exact(1);
                    self.members.push(member);
                    self.gateways = gateways;
                    answer
                }));
            }
            Outcome::Left(endpoint, result, reply) => {
                if result.is_ok() {
                    self.forget(endpoint);
                }
                reply.send(result);
            }
            Outcome::Deleted(done, reply) => {
                let result = done.and_then(|Deleted { left, result }| {
                    left.into_iter().for_each(|endpoint| self.forget(endpoint));
                    result
                });
                if result.is_err() {
                    let failed = self.failure.is_some();
                    self.phase = if failed { SandboxPhase::Failed } else { SandboxPhase::Ready };
                }
                reply.send(result);
            }
        }
        self.release(cx);
    }
}
