//! Owns the engine's table in the kernel's firewall. Rank 1. Spawned by the controller's start; asks nobody.
//!
//! | message | kind | answers with |
//! |---|---|---|
//! | SetNetworkRules | command | whether there is a firewall |
//! | SetPortRules | command | whether there is a firewall |
//! | EndRestore | command | number of changes |
//! | ReapplyRules | command | number of changes |
//! | InspectFirewall | query | FirewallPicture |
//! | TableTouched | event | |
//! | RetryDue | tick | |
//! | Done | outcome | |
//!
//! While one transaction is under way requests gather, and the next transaction takes them all. What is refused together
//! is tried one by one, so that a bad request fails alone. When it is not known what the kernel has - at the start, after
//! a lost answer, when somebody else has touched the table - it is read, compared with what is wanted, and repaired in one
//! transaction; nothing is ever flushed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use netloom_firewall::{Conflict, Owner, Placed, USER_CHAIN, delta};
use netloom_kernel::nft::{Change, Contents, Table};
use netloom_kernel::{Kernel, KernelError, Op, TableEvent, execute_all};
use netloom_model::{Error, Reason, Result};
use netloom_runtime::{Actor, Cause, Cx, Handle, OpCtx, Panicked, Reply, TaskGroup, messages};

use super::message::{
    EndRestore, FirewallPicture, InspectFirewall, ReapplyRules, RetryDue, SetNetworkRules, SetPortRules,
    TableTouched,
};
use super::state::FirewallState;
use crate::panicked;

/// How long a transaction of the engine's own may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a table that could not be repaired rests before it is tried again.
const REST: Duration = Duration::from_secs(1);
/// How many requests may wait: far more than operations are admitted.
const WAITING: usize = 65_536;

// === Actor ===

/// What the firewall's actor works with.
#[derive(Clone, Debug)]
pub struct FirewallDeps {
    /// The kernel.
    pub kernel: Arc<dyn Kernel>,
    /// What is wanted; outlives the actor.
    pub state: FirewallState,
    /// Where the listening to the kernel is counted.
    pub tasks: TaskGroup,
}

/// The firewall's actor.
#[derive(Debug)]
pub struct FirewallActor {
    deps: FirewallDeps,
    waiting: VecDeque<Waiting>,
    reapply: Vec<Reply<Result<usize>>>,
    /// A transaction is under way.
    busy: bool,
    /// A retry is coming.
    resting: bool,
}

/// Somebody who waits for the kernel.
#[derive(Debug)]
struct Waiting {
    op: OpCtx,
    owner: Owner,
    before: Vec<Placed>,
    wanted: Vec<Placed>,
    changes: Vec<Change>,
    /// It was refused together with others, and taken back: it is wanted again when its turn comes, alone.
    alone: bool,
    reply: Reply<Result<bool>>,
}

impl FirewallActor {
    /// An actor for this state.
    #[must_use]
    pub fn new(deps: FirewallDeps) -> Self {
        let (waiting, reapply) = Default::default();
        // An earlier incarnation may have left a transaction without knowing how it ended.
        deps.state.get().stale = true;
        Self { deps, waiting, reapply, busy: false, resting: false }
    }

    /// Notes a request, of which the ruleset has taken note already, and carries it out.
    fn take(
        &mut self,
        op: OpCtx,
        owner: Owner,
        before: Vec<Placed>,
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
        let (restoring, missing, wanted) = {
            let known = self.deps.state.get();
            (known.restoring, known.missing.is_some(), known.wanted.held(owner))
        };
        if restoring || missing || (changes.is_empty() && self.waiting.is_empty() && !self.busy) {
            return reply.send(Ok(!missing));
        }
        if self.waiting.len() >= WAITING {
            self.deps.state.get().wanted.put(owner, before);
            return reply.send(Err(Reason::Busy { what: "the firewall".into(), limit: WAITING }.into()));
        }
        self.waiting.push_back(Waiting { op, owner, before, wanted, changes, alone: false, reply });
        self.go_on(cx);
    }

    /// Begins the next transaction if there is a reason for one and none under way.
    fn go_on(&mut self, cx: &mut Cx<'_, Self>) {
        let mut known = self.deps.state.get();
        let reason = !self.waiting.is_empty()
            || !self.reapply.is_empty()
            || (known.stale && known.seen && !self.resting);
        if self.busy || !reason || known.restoring || known.missing.is_some() {
            return;
        }
        let together = self.waiting.iter().take_while(|one| !one.alone).count();
        let count = if together == 0 { self.waiting.len().min(1) } else { together };
        let mut batch: Vec<_> = self.waiting.drain(..count).collect();
        for one in batch.iter_mut().filter(|one| one.alone) {
            one.changes = known.wanted.put(one.owner, one.wanted.clone());
        }
        let reapply = std::mem::take(&mut self.reapply);
        let table = known.wanted.table();
        let kernel = Arc::clone(&self.deps.kernel);
        let op = batch
            .first()
            .map_or_else(|| OpCtx::new(Cause::Event("the firewall"), PATIENCE), |one| one.op.clone());
        let deadline =
            batch.iter().map(|one| one.op.deadline_std()).max().unwrap_or_else(|| op.deadline_std());
        let nobody = known.wanted.owners().next().is_none();
        let read = known.stale || !reapply.is_empty() || nobody;
        let wanted = read.then(|| known.wanted.contents());
        drop(known);
        self.busy = true;
        let changes: Vec<_> = batch.iter_mut().flat_map(|one| std::mem::take(&mut one.changes)).collect();
        let work = async move {
            match wanted {
                Some(wanted) => repair(&*kernel, table, &wanted, nobody, deadline).await,
                None => change(&*kernel, table, changes, deadline).await,
            }
        };
        cx.run(&op, work, move |outcome| Done { outcome, batch, reapply, read, nobody });
    }

    /// What a transaction came to.
    fn done(&mut self, Done { outcome, batch, reapply, read, nobody }: Done, cx: &mut Cx<'_, Self>) {
        self.busy = false;
        let outcome = outcome.unwrap_or_else(|cause| Err(Trouble::Other(panicked(&cause))));
        match outcome {
            Ok(changes) => {
                {
                    let mut known = self.deps.state.get();
                    if read {
                        known.repairs += u64::from(known.seen && changes > 0 && batch.is_empty());
                        // Where nobody has rules there may be no table, which the next one to have some finds out.
                        (known.stale, known.seen, known.trouble) = (nobody, !nobody, None);
                    }
                }
                batch.into_iter().for_each(|one| one.reply.send(Ok(true)));
                reapply.into_iter().for_each(|reply| reply.send(Ok(changes)));
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
                self.deps.state.get().stale = true;
                if read {
                    self.refused(&error, batch, reapply, cx);
                } else {
                    // What the kernel has is not what was thought: it is read, with the same requests.
                    for one in batch.into_iter().rev() {
                        self.waiting.push_front(one);
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
        known.trouble = Some(error.to_string());
        for one in batch.iter().rev().filter(|one| !one.wanted.is_empty()) {
            // What is to go stays wanted gone.
            known.wanted.put(one.owner, one.before.clone());
        }
        drop(known);
        reapply.into_iter().for_each(|reply| reply.send(Err(error.clone())));
        if batch.len() > 1 {
            for one in batch.into_iter().rev() {
                self.waiting.push_front(Waiting { alone: true, ..one });
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
        let (mut news, me) = (self.deps.kernel.watch_tables(), cx.me());
        let table = self.deps.state.get().wanted.table();
        // Ends with the kernel, or when this incarnation is gone.
        self.deps.tasks.spawn(async move {
            while let Some(event) = news.next().await {
                let ours = match event {
                    TableEvent::Changed(changed) => changed == table,
                    TableEvent::Overrun => true,
                };
                if !me.is_alive() {
                    return;
                }
                if ours {
                    me.tell(
                        &OpCtx::new(Cause::Event("somebody changed the firewall"), PATIENCE),
                        TableTouched,
                    );
                }
            }
        });
    }
}

/// Why a transaction did not succeed.
#[derive(Debug)]
enum Trouble {
    Missing(String),
    Other(Error),
}

impl From<KernelError> for Trouble {
    fn from(error: KernelError) -> Self {
        if error.unsupported() { Self::Missing(error.to_string()) } else { Self::Other(error.into()) }
    }
}

async fn change(
    kernel: &dyn Kernel,
    table: Table,
    changes: Vec<Change>,
    deadline: std::time::Instant,
) -> std::result::Result<usize, Trouble> {
    if changes.is_empty() {
        return Ok(0);
    }
    let count = changes.len();
    execute_all(kernel, vec![Op::ChangeTable { table, changes }], deadline).await?;
    Ok(count)
}

/// Makes the table what is wanted, whatever it is. One that nobody needs is removed, but for what users have in it.
async fn repair(
    kernel: &dyn Kernel,
    table: Table,
    wanted: &Contents,
    nobody: bool,
    deadline: std::time::Instant,
) -> std::result::Result<usize, Trouble> {
    let changes = match kernel.table(table.clone(), deadline).await? {
        None if nobody => Vec::new(),
        Some(is) if nobody && !has_users(&is, wanted) => vec![Change::DeleteTable],
        is => delta(is.as_ref(), wanted),
    };
    change(kernel, table, changes, deadline).await
}

/// Whether there is something of users in a table: rules in their chain, or chains of their own.
fn has_users(is: &Contents, wanted: &Contents) -> bool {
    is.chains.iter().any(|(chain, rules)| {
        let ours = wanted.chains.iter().any(|(known, _)| known.name == chain.name);
        !ours || (chain.name == USER_CHAIN && !rules.is_empty())
    })
}

/// A transaction has ended.
#[derive(Debug)]
pub(super) struct Done {
    outcome: std::result::Result<std::result::Result<usize, Trouble>, Panicked>,
    batch: Vec<Waiting>,
    reapply: Vec<Reply<Result<usize>>>,
    /// The table was read and compared.
    read: bool,
    /// Nobody had rules.
    nobody: bool,
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
        let owner = Owner::Endpoint(endpoint);
        let (before, noted) = {
            let mut known = self.deps.state.get();
            (known.wanted.held(owner), known.wanted.set_ports(endpoint, &ports))
        };
        self.take(op, owner, before, noted, reply, cx);
    }
}

impl Handle<EndRestore> for FirewallActor {
    fn handle(&mut self, _: OpCtx, _: EndRestore, reply: Reply<Result<usize>>, cx: &mut Cx<'_, Self>) {
        self.deps.state.get().restoring = false;
        self.reapply.push(reply);
        self.go_on(cx);
    }
}

impl Handle<ReapplyRules> for FirewallActor {
    fn handle(&mut self, _: OpCtx, _: ReapplyRules, reply: Reply<Result<usize>>, cx: &mut Cx<'_, Self>) {
        if self.deps.state.get().missing.is_some() {
            return reply.send(Ok(0));
        }
        self.reapply.push(reply);
        self.go_on(cx);
    }
}

impl Handle<InspectFirewall> for FirewallActor {
    fn handle(&mut self, _: OpCtx, _: InspectFirewall, reply: Reply<FirewallPicture>, _: &mut Cx<'_, Self>) {
        let known = self.deps.state.get();
        let networks = known.wanted.owners().filter(|owner| matches!(owner, Owner::Network(_))).count();
        reply.send(FirewallPicture {
            table: known.wanted.table().to_string(),
            missing: known.missing.clone(),
            networks,
            endpoints: known.wanted.owners().count() - networks,
            repairs: known.repairs,
            trouble: known.trouble.clone(),
        });
    }
}

impl Handle<TableTouched> for FirewallActor {
    fn handle(&mut self, _: OpCtx, _: TableTouched, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        self.deps.state.get().stale = true;
        self.go_on(cx);
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
