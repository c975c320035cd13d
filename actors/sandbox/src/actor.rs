//! Owns one sandbox. Rank 4. Spawned by the controller; asks networks, the store and the name service.
//!
//! | message | kind | legal in phase | answers with |
//! |---|---|---|---|
//! | Establish | command | Creating | Standing |
//! | JoinSandbox | command | Waiting, Ready | SandboxEndpoint |
//! | LeaveSandbox | command | Waiting, Ready, Failed | () |
//! | RenameSandbox | command | Waiting, Ready, Failed | () |
//! | RefreshSandbox | command | Waiting, Ready | () |
//! | SetSandboxKey | command | Waiting, Ready | () |
//! | DeleteSandbox | command | Waiting, Ready, Failed | () |
//! | AdoptSandbox | command | Waiting, Ready, Failed | SandboxSnapshot |
//! | MarkFailed | command | any | () |
//! | NetworkRestarted | event | any | |
//! | InspectSandbox | query | any | SandboxSnapshot |
//! | DesireSandbox | query | any | SandboxDesire |
//! | Finished | outcome | any | |
//!
//! `commands.rs` lets operations in.
//!
//! Operations on one sandbox run one after another, as libnetwork's do (`joinLeaveStart`): each decides
//! about the default route by what is plugged in.

use std::cell::Cell;
use std::collections::VecDeque;

use netloom_actor_network::Networks;
use netloom_actor_services::{Services, panicked};
use netloom_kernel::Netns;
use netloom_model::record::SandboxRecord;
use netloom_model::snapshot::{SandboxEndpoint, SandboxFilePaths, SandboxPhase, SandboxSnapshot};
use netloom_model::{Certainty, Error, Holder, NamespaceSpec, Reason, Repair, Result, SandboxSpec};
use netloom_runtime::{
    Actor, Admission, Canceller, Cx, Gate, Handle, OpCtx, Panicked, Reply, Scope, Stop, messages,
};

use crate::directory::host_key;
use crate::gateway::elect;
use crate::inside::{Changed, Inside};
use crate::member::Member;
use crate::message::{
    AdoptSandbox, DeleteSandbox, Establish, InspectSandbox, JoinSandbox, LeaveSandbox, MarkFailed,
    NetworkRestarted, Origin, RefreshSandbox, RenameSandbox, SetSandboxKey, Standing,
};
use crate::saga::{self, Everybody, Joined, World};
use crate::turns::Turns;

#[path = "commands.rs"]
mod commands;
use commands::Pending;

// === Actor ===

/// Everybody whom a sandbox works with.
#[derive(Clone, Debug)]
pub struct SandboxDeps {
    /// The services.
    pub services: Services,
    /// Where networks are found.
    pub networks: Networks,
    /// What has begun in it, in the hands of earlier actors too.
    pub turns: Turns,
}

/// The actor of one sandbox.
#[derive(Debug)]
pub struct SandboxActor {
    pub(crate) inside: Inside,
    pub(crate) phase: SandboxPhase,
    failure: Option<String>,
    /// Ends the operation that runs, if one does.
    cancel: Canceller,
    pub(crate) gate: Gate<(), (OpCtx, Pending)>,
    pub(crate) world: World,
}

impl SandboxActor {
    /// An actor for a sandbox that [`Establish`] will bring into service.
    #[must_use]
    pub fn new(record: SandboxRecord, deps: SandboxDeps) -> Self {
        let SandboxDeps { services, networks, turns } = deps;
        let gate = Gate::new(services.operations_per_object.get());
        let netns = match record.spec.namespace {
            NamespaceSpec::Host => Netns::Host,
            NamespaceSpec::Own | NamespaceSpec::External => Netns::Named(record.netns),
        };
        let (sandbox, lent) = (record.id, record.spec.namespace == NamespaceSpec::External);
        // Of an earlier engine's in a namespace that has outlived it nobody knows.
        let (named, ruled) = (Cell::new(false), Cell::new(lent));
        let world = World::new(Everybody { services, networks, sandbox, netns, lent, named, ruled, turns });
        Self {
            inside: Inside::new(record),
            phase: SandboxPhase::Creating,
            failure: None,
            cancel: Canceller::default(),
            gate,
            world,
        }
    }

    pub(crate) fn holder(&self) -> Holder {
        self.inside.holder()
    }

    fn in_phase(&self, allowed: &[SandboxPhase]) -> Result<()> {
        if allowed.contains(&self.phase) {
            return Ok(());
        }
        let phase = match self.phase {
            SandboxPhase::Creating => "being created",
            SandboxPhase::Waiting => "waiting for its namespace",
            SandboxPhase::Ready => "in service already",
            SandboxPhase::Deleting => "being deleted",
            SandboxPhase::Failed => {
                let cause = self.failure.clone().unwrap_or_default();
                return Err(Reason::OutOfService { object: self.holder(), cause }.into());
            }
        };
        Err(Reason::WrongPhase { object: self.holder(), phase }.into())
    }

    /// What it does when nothing is under way.
    fn resting(&self) -> SandboxPhase {
        match (&self.failure, self.inside.waiting) {
            (Some(_), _) => SandboxPhase::Failed,
            (None, true) => SandboxPhase::Waiting,
            (None, false) => SandboxPhase::Ready,
        }
    }

    fn snapshot(&self) -> SandboxSnapshot {
        let Inside { record, members, gateways, .. } = &self.inside;
        let mut members: Vec<_> = members.iter().collect();
        members.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let SandboxSpec { container_id, hostname, labels, namespace, settings } =
            SandboxSpec::clone(&record.spec);
        let files = self.world.services.files.of(record.id, settings.as_deref());
        let files = files.map(|(hosts, resolv_conf)| SandboxFilePaths { hosts, resolv_conf });
        SandboxSnapshot {
            id: record.id,
            container_id,
            phase: self.phase,
            failure: self.failure.clone(),
            key: match self.world.netns {
                Netns::Host => host_key(),
                Netns::Named(name) => self.world.services.kernel.netns_path(name),
            },
            namespace,
            hostname,
            files,
            settings,
            endpoints: members.into_iter().map(shown).collect(),
            gateway: gateways.v4.map(|gateway| gateway.address),
            gateway6: gateways.v6.map(|gateway| gateway.address),
            labels,
        }
    }

    fn admit(&mut self, op: OpCtx, pending: Pending, cx: &mut Cx<'_, Self>) {
        let begins =
            !matches!(pending, Pending::Establish(..) | Pending::Delete(DeleteSandbox { force: true }, _));
        self.gate.bound(self.world.services.operations_per_object.get());
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
            Pending::Join(..) => self.in_phase(&[SandboxPhase::Waiting, SandboxPhase::Ready]),
            Pending::Refresh(command, _) => {
                let allowed = self.in_phase(&[SandboxPhase::Waiting, SandboxPhase::Ready]);
                allowed.and_then(|()| self.is_refresh(&command.spec))
            }
            Pending::SetKey(..) => {
                let allowed = self.in_phase(&[SandboxPhase::Waiting, SandboxPhase::Ready]);
                allowed.and_then(|()| self.takes_keys())
            }
            Pending::Adopt(AdoptSandbox(spec), _) => self.stands().and_then(|()| self.is_of_kind(spec)),
            Pending::Leave(..) | Pending::Rename(..) | Pending::Delete(..) => self.stands(),
        };
        if let Err(refusal) = checked {
            pending.refuse(refusal);
            return false;
        }
        let world = self.world.clone();
        self.cancel = op.cancel.canceller();
        let inside = || Box::new(self.inside.clone());
        match pending {
            Pending::Establish(Origin::Fresh, reply) => {
                let made = saga::establish(world, op.clone(), self.inside.record.clone());
                let work = async move { made.await.map(|()| Vec::new()) };
                run(op, work, |result| Outcome::Established(Vec::new(), result, reply), cx);
            }
            Pending::Establish(Origin::Recorded(members), reply) => {
                let work =
                    saga::restore(world, op.clone(), Box::new(self.inside.clone().with(members.clone())));
                let outcome = |result: Result<_>| match result {
                    Ok((members, repairs)) => Outcome::Established(members, Ok(repairs), reply),
                    Err(error) => Outcome::Established(members, Err(error), reply),
                };
                run(op, work, outcome, cx);
            }
            Pending::Establish(Origin::Dead(members), reply) => {
                let nothing = std::future::ready(Ok(Vec::new()));
                run(op, nothing, |result| Outcome::Established(members, result, reply), cx);
            }
            Pending::Adopt(AdoptSandbox(spec), reply) => {
                let record = SandboxRecord { spec: spec.into(), keyed: false, ..self.inside.record.clone() };
                let work = saga::adopt(world, op.clone(), record);
                run(op, work, |result| Outcome::Adopted(result.map(Box::new), reply), cx);
            }
            Pending::Join(command, reply) => {
                let work = saga::join(world, op.clone(), inside(), command);
                // Used up even if the join fails, unless it is refused: something may have seen the name.
                self.inside.record.interfaces += u32::from(!self.inside.waiting);
                run(op, work, |result| Outcome::Joined(result, reply), cx);
            }
            Pending::Leave(command, reply) => {
                let work = saga::leave(world, op.clone(), inside(), command);
                run_to_change(op, work, reply, cx);
            }
            Pending::Rename(RenameSandbox(name), reply) => {
                let work = saga::rename(world, op.clone(), self.inside.members.clone(), name);
                run(op, work, |result| Outcome::Renamed(result, reply), cx);
            }
            Pending::Refresh(command, reply) => {
                let work = saga::refresh(world, op.clone(), inside(), command);
                run_to_change(op, work, reply, cx);
            }
            Pending::SetKey(command, reply) => {
                let work = saga::set_key(world, op.clone(), inside(), command);
                run_to_change(op, work, reply, cx);
            }
            Pending::Delete(DeleteSandbox { force }, reply) => {
                self.phase = SandboxPhase::Deleting;
                let work = saga::delete(world, op.clone(), inside(), force);
                run_to_change(op, work, reply, cx);
            }
        }
        true
    }

    /// Container and namespace stay what they are in a sandbox's life.
    fn is_refresh(&self, spec: &SandboxSpec) -> Result<()> {
        spec.validate()?;
        let own = &self.inside.record.spec;
        if spec.container_id != own.container_id {
            let why = format!("this is the sandbox of container {:?}", own.container_id);
            return Err(Error::invalid("container_id", &spec.container_id, why));
        }
        self.is_of_kind(spec)
    }

    fn is_of_kind(&self, spec: &SandboxSpec) -> Result<()> {
        let own = self.inside.record.spec.namespace;
        if spec.namespace == own {
            return Ok(());
        }
        let why = format!("its namespace is {own:?} and stays so");
        Err(Error::invalid("namespace", format!("{:?}", spec.namespace), why))
    }

    fn stands(&self) -> Result<()> {
        self.in_phase(&[SandboxPhase::Waiting, SandboxPhase::Ready, SandboxPhase::Failed])
    }

    fn takes_keys(&self) -> Result<()> {
        match self.inside.record.spec.namespace {
            NamespaceSpec::External => Ok(()),
            NamespaceSpec::Own | NamespaceSpec::Host => {
                Err(Reason::WrongPhase { object: self.holder(), phase: "not made for an external key" }
                    .into())
            }
        }
    }
}

/// Whether the endpoint's network refused a join before anything was done, so that nobody saw an interface. One that
/// needs a way out whose network is not there yet comes again in a moment, and begins where this one did.
fn was_refused(error: &Error) -> bool {
    let at_once = matches!(
        error.reason(),
        Reason::EndpointInUse { .. }
            | Reason::NotFound { .. }
            | Reason::WrongPhase { .. }
            | Reason::NoWayOut { .. }
    );
    at_once && error.certainty() == Certainty::Aborted
}

fn shown(member: &Member) -> SandboxEndpoint {
    SandboxEndpoint {
        endpoint: member.endpoint,
        network: member.network,
        ifname: member.ifname,
        priority: member.priority,
        way_out: member.way_out,
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

/// Runs what may change the sandbox also when it fails.
fn run_to_change(
    op: &OpCtx,
    work: impl Future<Output = Changed> + 'static,
    reply: Reply<Result<()>>,
    cx: &mut Cx<'_, SandboxActor>,
) {
    run(op, async { Ok(work.await) }, |result| Outcome::Changed(result, reply), cx);
}

// === Operations ===

/// The slow half of an operation ended.
struct Finished(Outcome);

messages! {
    Finished => ();
}

enum Outcome {
    Established(Vec<Member>, Result<Vec<Repair>>, Reply<Result<Standing>>),
    Joined(Result<Joined>, Reply<Result<SandboxEndpoint>>),
    Renamed(Result<()>, Reply<Result<()>>),
    Changed(Result<Changed>, Reply<Result<()>>),
    Adopted(Result<Box<SandboxRecord>>, Reply<Result<SandboxSnapshot>>),
}

// === Lifecycle ===

impl Actor for SandboxActor {
    const KIND: &'static str = "sandbox";
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
        let provider = self.inside.gateways.provider();
        let provides = |member: &&Member| member.network == network && Some(member.endpoint) == provider;
        if let Some(member) = self.inside.members.iter().find(provides) {
            let options = self.inside.options.clone();
            cx.tasks().spawn(saga::program_again(self.world.clone(), op, member.clone(), options));
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
            Outcome::Established(mut members, result, reply) => {
                // In the order in which they joined; records have none.
                members.sort_by_key(Member::number);
                // What is recorded is in it, also when it goes out of service because it cannot be put right.
                self.inside.gateways = elect(&members);
                self.inside.members = members;
                if result.is_ok() {
                    // It may have been put out of service meanwhile.
                    self.phase = self.resting();
                }
                reply.send(result.map(|repairs| Standing { snapshot: self.snapshot(), repairs }));
            }
            Outcome::Joined(result, reply) => {
                if result.as_ref().is_err_and(was_refused) {
                    // No other join has begun meanwhile: the number is the last one that was given.
                    self.inside.record.interfaces -= u32::from(!self.inside.waiting);
                }
                reply.send(result.and_then(|Joined { inside, endpoint }| {
                    self.inside = *inside;
                    let newcomer = self.inside.members.iter().find(|member| member.endpoint == endpoint);
                    newcomer.map(shown).ok_or_else(|| Error::internal("a newcomer is not inside"))
                }));
            }
            Outcome::Renamed(result, reply) => reply.send(result),
            Outcome::Adopted(result, reply) => {
                reply.send(result.map(|record| {
                    let members = std::mem::take(&mut self.inside.members);
                    self.inside = Inside::new(*record);
                    // What is left of the dead container's has no link here any more.
                    self.inside.members = members;
                    self.inside.members.iter_mut().for_each(Member::lose_gateway);
                    self.failure = None;
                    self.phase = self.resting();
                    self.snapshot()
                }));
            }
            Outcome::Changed(done, reply) => {
                let result = done.and_then(|Changed { inside, result }| {
                    self.inside = *inside;
                    result
                });
                // A deletion that succeeded ends it.
                if self.phase != SandboxPhase::Deleting || result.is_err() {
                    self.phase = self.resting();
                }
                reply.send(result);
            }
        }
        self.release(cx);
    }
}
