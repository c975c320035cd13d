//! Owns the engine's part of the host's firewall. Rank 1. Spawned by the controller's start; asks nobody;
//! emits [`FirewallEvent`].
//!
//! | message | kind | answers with |
//! |---|---|---|
//! | SetNetworkRules | command | whether there is a firewall |
//! | SetPortRules | command | whether there is a firewall |
//! | EndRestore | command | number of changes |
//! | ReapplyRules | command | number of changes |
//! | LeadNowhere | command | () |
//! | LeadsToEngine | query | whether rules lead there |
//! | InspectFirewall | query | FirewallSnapshot |
//! | CompareRules | query | differences |
//! | TableTouched | event | |
//! | HostTouched | event | |
//! | LookDue | tick | |
//! | CleanDue | tick | |
//! | SurveyDue | tick | |
//! | FirewalldChanged | event | |
//! | ZoneDue | tick | |
//! | RetryDue | tick | |
//! | Done | outcome | |
//! | Compared | outcome | |
//! | Cleaned | outcome | |
//! | Surveyed | outcome | |
//! | Zoned | outcome | |
//!
//! What rules are said to is a [`Backend`]: a table of nftables, chains of iptables, or nothing.
//!
//! While one transaction is under way requests gather, and the next transaction takes them all. What is refused together
//! is tried one by one, so that a bad request fails alone. When it is not known what the kernel has - at the start, after
//! a lost answer, when somebody else has touched the table - it is read, compared with what is wanted, and repaired in one
//! transaction; nothing is ever flushed. Of iptables nobody tells who changed it: chains are looked at when what they are
//! made of has changed, which they may have done themselves, and where the kernel tells nobody, at intervals.
//!
//! When the first transaction after a start has succeeded, what other backends have of this engine is removed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netloom_firewall::io::Xtables;
use netloom_firewall::iptables::{Job, Wanted};
use netloom_firewall::{Conflict, NetworkRules, Owner, PortRules, Ruleset, Said};
use netloom_firewalld::Firewalld;
use netloom_kernel::Kernel;
use netloom_kernel::nft::Change;
use netloom_model::snapshot::FirewallSnapshot;
use netloom_model::{Error, Reason, RepairCause, Result};
use netloom_runtime::{
    Actor, Cause, Cx, EventSink, Fact, Handle, OpCtx, Panicked, Reply, TaskGroup, messages,
};
use rustc_hash::FxHashMap;

use super::backend::{Backend, Need, Told, Transaction, Trouble};
use super::compare::Comparisons;
use super::event::FirewallEvent;
use super::message::{EndRestore, InspectFirewall, ReapplyRules, RetryDue, SetNetworkRules, SetPortRules};
use super::state::FirewallState;
use super::survey::Surveys;
use super::watch::Beside;
use super::zone::ZoneWork;
use crate::panicked;

/// How long a transaction of the engine's own may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long a table that could not be repaired rests before it is tried again.
pub(super) const REST: Duration = Duration::from_secs(1);
/// How many requests may wait: far more than operations are admitted.
const WAITING: usize = 65_536;

// === Actor ===

/// What the firewall's actor works with.
#[derive(Clone, Debug)]
pub struct FirewallDeps {
    /// The kernel.
    pub kernel: Arc<dyn Kernel>,
    /// The programs of iptables, where they are: for what they still have of this engine, whatever the backend is.
    pub xtables: Option<Arc<dyn Xtables>>,
    /// The host's firewalld, which may be away.
    pub firewalld: Option<Arc<dyn Firewalld>>,
    /// What is wanted; outlives the actor.
    pub state: FirewallState,
    /// Where its facts go.
    pub events: EventSink<FirewallEvent>,
    /// Where the listening to the kernel is counted.
    pub tasks: TaskGroup,
}

/// The firewall's actor.
#[derive(Debug)]
pub struct FirewallActor {
    pub(super) deps: FirewallDeps,
    pub(super) waiting: VecDeque<Waiting>,
    reapply: Vec<Reply<Result<usize>>>,
    /// A transaction is under way.
    pub(super) busy: bool,
    /// A retry is coming.
    resting: bool,
    pub(super) beside: Beside,
    pub(super) surveys: Surveys,
    pub(super) comparisons: Comparisons,
    pub(super) zone: ZoneWork,
}

/// Somebody who waits for the kernel.
#[derive(Debug)]
pub(super) struct Waiting {
    op: OpCtx,
    pub(super) owner: Owner,
    pub(super) before: Said,
    wanted: Said,
    changes: Vec<Change>,
    /// It was refused together with others, and taken back: it is wanted again when its turn comes, alone.
    pub(super) alone: bool,
    /// It was tried before, so what it changes is not known any more.
    tried: bool,
    reply: Reply<Result<bool>>,
}

impl FirewallActor {
    /// An actor for this state.
    #[must_use]
    pub fn new(deps: FirewallDeps) -> Self {
        let (waiting, reapply) = Default::default();
        // An earlier incarnation may have left a transaction without knowing how it ended.
        deps.state.get().doubt(RepairCause::Unsure);
        Self {
            deps,
            waiting,
            reapply,
            busy: false,
            resting: false,
            beside: Beside::default(),
            surveys: Surveys::default(),
            comparisons: Comparisons::default(),
            zone: ZoneWork::default(),
        }
    }

    /// Notes a request, of which the ruleset has taken note already, and carries it out.
    fn take(
        &mut self,
        op: OpCtx,
        owner: Owner,
        before: Said,
        noted: std::result::Result<Vec<Change>, Conflict>,
        reply: Reply<Result<bool>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let changes = match noted {
            Ok(changes) => changes,
            Err(Conflict { asked, holder }) => {
                let why = format!("it is taken by {holder} already; choose another");
                return reply.send(Err(Error::invalid("published port", asked, why)));
            }
        };
        let (restoring, silent, wanted) = {
            let known = self.deps.state.get();
            (known.restoring, known.is_silent(), known.wanted.held(owner))
        };
        if restoring || silent || (changes.is_empty() && self.waiting.is_empty() && !self.busy) {
            return reply.send(Ok(!silent));
        }
        if self.waiting.len() >= WAITING {
            self.deps.state.get().wanted.put(owner, &before);
            return reply.send(Err(Reason::Busy { what: "the firewall".into(), limit: WAITING }.into()));
        }
        self.waiting.push_back(Waiting {
            op,
            owner,
            before,
            wanted,
            changes,
            alone: false,
            tried: false,
            reply,
        });
        self.go_on(cx);
    }

    /// Whether there is a reason for a transaction.
    pub(super) fn has_reason(&self) -> bool {
        let known = self.deps.state.get();
        let asked = !self.waiting.is_empty() || !self.reapply.is_empty();
        let reason = asked || (known.stale && (known.seen || known.unfinished) && !self.resting);
        reason && !known.restoring && !known.is_silent()
    }

    /// Begins the next transaction if there is a reason for one and none under way.
    pub(super) fn go_on(&mut self, cx: &mut Cx<'_, Self>) {
        if self.busy || self.compare(cx) || !self.has_reason() {
            return;
        }
        let mut known = self.deps.state.get();
        let together = self.waiting.iter().take_while(|one| !one.alone).count();
        let count = if together == 0 { self.waiting.len().min(1) } else { together };
        let mut batch: Vec<_> = self.waiting.drain(..count).collect();
        for one in batch.iter_mut().filter(|one| one.alone) {
            one.changes = known.wanted.put(one.owner, &one.wanted);
        }
        let reapply = std::mem::take(&mut self.reapply);
        let op = batch
            .first()
            .map_or_else(|| OpCtx::new(Cause::Event("the firewall"), PATIENCE), |one| one.op.clone());
        let deadline =
            batch.iter().map(|one| one.op.deadline_std()).max().unwrap_or_else(|| op.deadline_std());
        let need = if known.wanted.owners().next().is_none() { Need::Nobody } else { Need::Somebody };
        let read = known.stale || !reapply.is_empty() || need == Need::Nobody;
        // With those who were tried before, or with iptables, nobody knows what of it all is a repair.
        let is_clear = batch.iter().all(|one| !one.tried);
        let changes: Vec<_> = batch.iter_mut().flat_map(|one| std::mem::take(&mut one.changes)).collect();
        let transaction = match &known.backend {
            Backend::Iptables { xtables, versions } => {
                let (networks, ports) = self.said_so_far(&known.wanted);
                let config = known.wanted.config();
                let job = Job {
                    names: config.names(),
                    mark: config.mark,
                    networks,
                    ports,
                    before: known.told.clone().filter(|_| !read),
                    versions: versions.clone(),
                };
                Transaction::Job(Arc::clone(xtables), job)
            }
            Backend::Nftables | Backend::None if read => {
                let asked = (is_clear && need == Need::Somebody).then_some(changes);
                Transaction::Repair(known.wanted.table(), known.wanted.contents(), need, asked)
            }
            Backend::Nftables | Backend::None => Transaction::Change(known.wanted.table(), changes),
        };
        let cause = if known.stale { known.cause } else { RepairCause::Reapply };
        let damage = (read && known.seen).then(|| (known.backend.place(known.wanted.config()), cause));
        // Whoever touches it from now on may do so behind the reader's back.
        known.stale &= !read;
        drop(known);
        self.busy = true;
        let (kernel, began) = (Arc::clone(&self.deps.kernel), Instant::now());
        let (events, own, alone) = (self.deps.events.clone(), op.clone(), batch.is_empty());
        let work = async move {
            let told = transaction.carry_out(&*kernel, deadline).await?;
            let changes = told.repaired.unwrap_or(if alone { told.changes } else { 0 });
            // Told whatever becomes of the actor meanwhile: the next one finds nothing wrong.
            let fact = damage
                .filter(|_| changes > 0)
                .map(|(place, cause)| events.fact(&own, FirewallEvent::Repaired { place, changes, cause }));
            Ok((told, fact))
        };
        let nobody = need == Need::Nobody;
        cx.run(&op, work, move |outcome| Done { outcome, batch, reapply, read, nobody, began });
    }

    /// What is wanted, without what still waits: that must not fail what does not.
    fn said_so_far(&self, wanted: &Ruleset) -> (Vec<Arc<NetworkRules>>, Vec<Arc<[PortRules]>>) {
        let mut said: FxHashMap<_, _> = wanted.said().map(|(owner, said)| (owner, said.clone())).collect();
        for one in self.waiting.iter().rev().filter(|one| !one.alone) {
            said.insert(one.owner, one.before.clone());
        }
        let networks = said.values().filter_map(|said| said.network.clone()).collect();
        let ports = said.into_values().map(|said| said.ports).filter(|ports| !ports.is_empty());
        (networks, ports.collect())
    }

    /// What iptables cannot say is refused before it is wanted.
    fn refusal(&self, networks: &[NetworkRules], ports: &[PortRules]) -> Option<Error> {
        let known = self.deps.state.get();
        let Backend::Iptables { .. } = known.backend else { return None };
        let config = known.wanted.config();
        Wanted::new(&config.names(), config.mark, networks, ports).err().map(Error::from)
    }

    /// How things are.
    pub(super) fn picture(&self) -> FirewallSnapshot {
        let known = self.deps.state.get();
        let networks = known.wanted.owners().filter(|owner| matches!(owner, Owner::Network(_))).count();
        FirewallSnapshot {
            backend: known.backend.name().into(),
            reason: known.reason.clone(),
            place: known.backend.place(known.wanted.config()),
            missing: known.missing.clone(),
            networks,
            endpoints: known.wanted.owners().count() - networks,
            repairs: known.repairs,
            trouble: known.trouble.clone(),
            leftovers: known.leftovers.clone(),
            obstacles: known.obstacles.iter().cloned().chain(known.zone_obstacles()).collect(),
            firewalld: self.deps.firewalld.as_ref().map(|_| known.zone_picture()),
        }
    }

    /// What a transaction came to.
    fn done(&mut self, Done { outcome, batch, reapply, read, nobody, began }: Done, cx: &mut Cx<'_, Self>) {
        self.busy = false;
        if read {
            self.beside.took = began.elapsed();
        }
        let outcome = outcome.unwrap_or_else(|cause| Err(Trouble::Other(panicked(&cause))));
        match outcome {
            Ok((Told { changes, wanted, .. }, repaired)) => {
                if read || batch.iter().any(|one| matches!(one.owner, Owner::Network(_))) {
                    self.survey_soon(cx);
                }
                {
                    let mut known = self.deps.state.get();
                    known.told = wanted;
                    if read {
                        known.repairs += u64::from(repaired.is_some());
                        // Where nobody has rules there may be no table, which the next one to have some finds out.
                        known.stale |= nobody;
                        (known.seen, known.unfinished, known.trouble) = (!nobody, false, None);
                    }
                }
                self.answer(batch.into_iter().map(|one| (one.owner, one.reply)), cx);
                reapply.into_iter().for_each(|reply| reply.send(Ok(changes)));
                self.clean(cx);
            }
            // A kernel without nftables: nothing can be said to it, and nobody is held up for that.
            Err(Trouble::Missing(why)) => {
                tracing::warn!(why, "there is no firewall");
                self.deps.state.get().missing = Some(why);
                let all = batch.into_iter().chain(self.waiting.drain(..));
                all.for_each(|one| one.reply.send(Ok(false)));
                reapply.into_iter().for_each(|reply| reply.send(Ok(0)));
            }
            Err(Trouble::Other(error)) => {
                let cause = if read { RepairCause::Retry } else { RepairCause::Unsure };
                self.deps.state.get().doubt(cause);
                if read {
                    self.refused(&error, batch, reapply, cx);
                } else {
                    // What the kernel has is not what was thought: it is read, with the same requests.
                    for one in batch.into_iter().rev() {
                        self.waiting.push_front(Waiting { tried: true, ..one });
                    }
                    self.reapply.extend(reapply);
                }
            }
        }
        self.go_on(cx);
    }

    /// Even the whole table was refused.
    fn refused(
        &mut self,
        error: &Error,
        batch: Vec<Waiting>,
        reapply: Vec<Reply<Result<usize>>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let mut known = self.deps.state.get();
        (known.unfinished, known.trouble) = (true, Some(error.to_string()));
        for one in batch.iter().rev().filter(|one| !one.wanted.is_empty()) {
            // What is to go stays wanted gone.
            known.wanted.put(one.owner, &one.before);
        }
        drop(known);
        reapply.into_iter().for_each(|reply| reply.send(Err(error.clone())));
        if batch.len() > 1 {
            for one in batch.into_iter().rev() {
                self.waiting.push_front(Waiting { alone: true, tried: true, ..one });
            }
        } else {
            batch.into_iter().for_each(|one| one.reply.send(Err(error.clone())));
        }
        if !self.resting {
            self.resting = true;
            cx.run(&OpCtx::new(Cause::Tick("the firewall"), PATIENCE), tokio::time::sleep(REST), |_| {
                RetryDue
            });
        }
    }
}

impl Actor for FirewallActor {
    const KIND: &'static str = "firewall";

    fn started(&mut self, cx: &mut Cx<'_, Self>) {
        self.listen(cx);
        self.listen_to_firewalld(cx);
    }
}

/// What a transaction came to, and what is to be told of it.
type Outcome = std::result::Result<(Told, Option<Fact<FirewallEvent>>), Trouble>;

/// A transaction has ended.
#[derive(Debug)]
pub(super) struct Done {
    outcome: std::result::Result<Outcome, Panicked>,
    batch: Vec<Waiting>,
    reapply: Vec<Reply<Result<usize>>>,
    /// The table was read and compared.
    read: bool,
    /// Nobody had rules.
    nobody: bool,
    began: Instant,
}

messages! {
    Done => ();
}

// === Handlers ===

impl Handle<SetNetworkRules> for FirewallActor {
    fn handle(
        &mut self,
        op: OpCtx,
        SetNetworkRules { network, rules }: SetNetworkRules,
        reply: Reply<Result<bool>>,
        cx: &mut Cx<'_, Self>,
    ) {
        if let Some(error) = self.refusal(rules.as_slice(), &[]) {
            return reply.send(Err(error));
        }
        let owner = Owner::Network(network);
        let (before, noted) = {
            let mut known = self.deps.state.get();
            (known.wanted.held(owner), known.wanted.set_network(network, rules.as_ref()))
        };
        self.take(op, owner, before, noted, reply, cx);
    }
}

impl Handle<SetPortRules> for FirewallActor {
    fn handle(
        &mut self,
        op: OpCtx,
        SetPortRules { endpoint, ports }: SetPortRules,
        reply: Reply<Result<bool>>,
        cx: &mut Cx<'_, Self>,
    ) {
        if let Some(error) = self.refusal(&[], &ports) {
            return reply.send(Err(error));
        }
        let owner = Owner::Endpoint(endpoint);
        let (before, noted) = {
            let mut known = self.deps.state.get();
            (known.wanted.held(owner), known.wanted.set_ports(endpoint, &ports))
        };
        self.take(op, owner, before, noted, reply, cx);
    }
}

impl Handle<EndRestore> for FirewallActor {
    fn handle(&mut self, op: OpCtx, _: EndRestore, reply: Reply<Result<usize>>, cx: &mut Cx<'_, Self>) {
        self.deps.state.get().restoring = false;
        self.settle_zone(cx);
        self.handle(op, ReapplyRules, reply, cx);
    }
}

impl Handle<ReapplyRules> for FirewallActor {
    fn handle(&mut self, _: OpCtx, _: ReapplyRules, reply: Reply<Result<usize>>, cx: &mut Cx<'_, Self>) {
        if self.deps.state.get().is_silent() {
            self.clean(cx);
            return reply.send(Ok(0));
        }
        self.reapply.push(reply);
        self.go_on(cx);
    }
}

impl Handle<InspectFirewall> for FirewallActor {
    /// Answered when the host has been looked at: what stood in the way may have been taken out of it.
    fn handle(
        &mut self,
        _: OpCtx,
        _: InspectFirewall,
        reply: Reply<FirewallSnapshot>,
        cx: &mut Cx<'_, Self>,
    ) {
        self.surveys.asked.push(reply);
        self.survey(cx);
    }
}

impl Handle<RetryDue> for FirewallActor {
    fn handle(&mut self, _: OpCtx, _: RetryDue, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        self.resting = false;
        self.go_on(cx);
    }
}

impl Handle<Done> for FirewallActor {
    fn handle(&mut self, _: OpCtx, done: Done, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        self.done(done, cx);
    }
}
