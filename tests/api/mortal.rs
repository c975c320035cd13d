//! A kernel and a store for an engine that dies at a chosen moment: from then on nothing it does has any
//! effect, as if its process had been killed there.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use futures::FutureExt;
use futures::channel::mpsc;
use futures::future::{BoxFuture, pending, ready};
use netloom::kernel::nft::{Contents, Table};
use netloom::kernel::{
    AddressView, Kernel, KernelError, KernelEvent, KernelFuture, KernelStats, LinkCounters, LinkView,
    NeighbourView, Netns, NetnsJob, Op, PortHolder, ReachEvent, RouteView, TableEvent,
};
use netloom::testkit::{FaultKind, SimKernel};
use netloom::{IfName, NetnsName, OpId};
use netloom_store::{Change, Intent, Key, MemoryDisk, MemoryStore, Store, StoreError};
use tokio::sync::{Notify, RwLock};

use crate::beside::Turn;

/// When an engine dies. Clones are the same death.
#[derive(Clone, Debug)]
pub(crate) struct Death(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Moments left to live. Each effect has two: before it and after it.
    left: AtomicI64,
    died: Notify,
    what: std::sync::Mutex<String>,
}

impl Death {
    /// Dies at the n-th moment: odd ones are before an effect, even ones after it.
    pub(crate) fn at(moment: i64) -> Self {
        Self(Arc::new(Inner {
            left: AtomicI64::new(moment),
            died: Notify::new(),
            what: std::sync::Mutex::default(),
        }))
    }

    pub(crate) fn never() -> Self {
        Self::at(i64::MAX)
    }

    /// From now on it comes at the n-th moment.
    pub(crate) fn comes_at(&self, moment: i64) {
        self.0.left.store(moment, Ordering::SeqCst);
    }

    /// Waits for it.
    pub(crate) async fn wait(&self) {
        self.0.died.notified().await;
    }

    /// Where it died.
    pub(crate) fn what(&self) -> String {
        self.0.what.lock().expect("nobody panics with it").clone()
    }

    /// Dies now.
    pub(crate) fn now(&self) {
        self.0.left.store(0, Ordering::SeqCst);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.0.left.load(Ordering::SeqCst) <= 0
    }

    /// A moment passes; says whether the engine is still alive.
    fn passes(&self, what: impl FnOnce() -> String) -> bool {
        let left = self.0.left.fetch_sub(1, Ordering::SeqCst) - 1;
        if left == 0 {
            *self.0.what.lock().expect("nobody panics with it") = what();
            self.0.died.notify_one();
        }
        left > 0
    }
}

/// A lookup that fails: the n-th from now. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Blind {
    left: Arc<AtomicI64>,
    kind: FaultKind,
}

impl Blind {
    /// The n-th lookup is refused, its answer is lost, or it hangs until its deadline.
    pub(crate) fn at(n: i64, kind: FaultKind) -> Self {
        Self { left: Arc::new(AtomicI64::new(n)), kind }
    }

    /// Whatever comes now succeeds.
    pub(crate) fn over(&self) {
        self.left.store(0, Ordering::SeqCst);
    }

    /// Whether there were as many lookups.
    pub(crate) fn happened(&self) -> bool {
        self.left.load(Ordering::SeqCst) <= 0
    }

    fn strikes(&self) -> bool {
        self.left.fetch_sub(1, Ordering::SeqCst) == 1
    }

    async fn fail<T>(self, what: &'static str, deadline: Instant) -> Result<T, KernelError> {
        match self.kind {
            FaultKind::Refuse(errno) => Err(KernelError::refused(what, errno, "told to refuse")),
            FaultKind::Lose | FaultKind::LoseBefore => Err(KernelError::lost(what, "the answer was lost")),
            FaultKind::Hang => {
                let deadline = tokio::time::Instant::from_std(deadline);
                let allowed = deadline.saturating_duration_since(tokio::time::Instant::now());
                tokio::time::sleep_until(deadline).await;
                Err(KernelError::timed_out(what, allowed))
            }
        }
    }
}

/// Routes whose listings arrive late: while somebody holds this for writing. What they say is what there was when they
/// were asked for.
#[derive(Debug, Default)]
pub(crate) struct Slow {
    pub(crate) held: RwLock<()>,
    waiting: AtomicI64,
}

impl Slow {
    /// How many listings are under way.
    pub(crate) fn waiting(&self) -> i64 {
        self.waiting.load(Ordering::SeqCst)
    }

    async fn pass<T>(self: Arc<Self>, answer: T) -> T {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        drop(self.held.read().await);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        answer
    }
}

/// The kernel of a mortal engine.
#[derive(Debug)]
pub(crate) struct Mortal {
    sim: SimKernel,
    death: Death,
    blind: Option<Blind>,
    slow: Option<Arc<Slow>>,
    turn: Option<Turn>,
    /// Whether jobs are run, on the spot. A simulated kernel has no place for them.
    jobs: bool,
}

impl Mortal {
    pub(crate) fn new(sim: SimKernel, death: Death) -> Self {
        // What there was before is another process, which is dead.
        sim.sim_ports().end_process();
        Self { sim, death, blind: None, slow: None, turn: None, jobs: false }
    }

    /// The same with a lookup that fails.
    pub(crate) fn blind(self, blind: Blind) -> Self {
        Self { blind: Some(blind), ..self }
    }

    /// The same with routes whose listings may be late.
    pub(crate) fn slow(self, slow: Arc<Slow>) -> Self {
        Self { slow: Some(slow), ..self }
    }

    /// The same with calls that wait for their turn.
    pub(crate) fn in_turn(self, turn: Turn) -> Self {
        Self { turn: Some(turn), ..self }
    }

    /// The same with a host in which jobs are run.
    pub(crate) fn with_jobs(self) -> Self {
        Self { jobs: true, ..self }
    }

    fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        deadline: Instant,
        answer: KernelFuture<T>,
    ) -> KernelFuture<T> {
        if self.death.is_dead() {
            return pending().boxed();
        }
        match &self.blind {
            Some(blind) if blind.strikes() => blind.clone().fail(what, deadline).boxed(),
            _ => answer,
        }
    }
}

impl Kernel for Mortal {
    fn ports(&self) -> Arc<dyn PortHolder> {
        self.sim.ports()
    }

    fn execute(&self, ops: Vec<Op>, deadline: Instant) -> BoxFuture<'static, Vec<Result<(), KernelError>>> {
        let (sim, death, turn) = (self.sim.clone(), self.death.clone(), self.turn.clone());
        async move {
            let mut answers = Vec::with_capacity(ops.len());
            for op in ops {
                let _turn = match &turn {
                    Some(turn) if !matches!(op, Op::ChangeTable { .. }) => Some(turn.comes().await),
                    _ => None,
                };
                if !death.passes(|| format!("before {op}")) {
                    return pending().await;
                }
                let text = op.to_string();
                answers.extend(sim.execute(vec![op], deadline).await);
                if !death.passes(|| format!("after {text}")) {
                    return pending().await;
                }
            }
            answers
        }
        .boxed()
    }

    fn links(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<LinkView>> {
        self.read("list links", deadline, self.sim.links(netns, deadline))
    }

    fn find_links(
        &self,
        netns: Netns,
        names: Vec<IfName>,
        deadline: Instant,
    ) -> KernelFuture<Vec<Option<LinkView>>> {
        self.read("find links", deadline, self.sim.find_links(netns, names, deadline))
    }

    fn links_at(
        &self,
        netns: Netns,
        indexes: Vec<u32>,
        deadline: Instant,
    ) -> KernelFuture<Vec<Option<LinkView>>> {
        self.read("find links", deadline, self.sim.links_at(netns, indexes, deadline))
    }

    fn link_counters(
        &self,
        netns: Netns,
        names: Vec<IfName>,
        deadline: Instant,
    ) -> KernelFuture<Vec<Option<LinkCounters>>> {
        self.read("read counters", deadline, self.sim.link_counters(netns, names, deadline))
    }

    fn addresses(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<AddressView>> {
        let Some(turn) = self.turn.clone() else {
            return self.read("list addresses", deadline, self.sim.addresses(netns, deadline));
        };
        let sim = self.sim.clone();
        async move {
            let _turn = turn.comes().await;
            sim.addresses(netns, deadline).await
        }
        .boxed()
    }

    fn routes(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<RouteView>> {
        let answer = self.read("list routes", deadline, self.sim.routes(netns, deadline));
        match self.slow.clone() {
            Some(slow) => answer.then(|answer| slow.pass(answer)).boxed(),
            None => answer,
        }
    }

    fn neighbours(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<NeighbourView>> {
        self.read("list neighbours", deadline, self.sim.neighbours(netns, deadline))
    }

    fn namespaces(&self, deadline: Instant) -> KernelFuture<Vec<NetnsName>> {
        self.read("list namespaces", deadline, self.sim.namespaces(deadline))
    }

    fn read_setting(&self, netns: Netns, key: &str, deadline: Instant) -> KernelFuture<String> {
        self.read("read a setting", deadline, self.sim.read_setting(netns, key, deadline))
    }

    fn table(&self, table: Table, deadline: Instant) -> KernelFuture<Option<Contents>> {
        self.read("read a table", deadline, self.sim.table(table, deadline))
    }

    fn run_in(&self, netns: Netns, job: NetnsJob, deadline: Instant) -> KernelFuture<()> {
        if self.jobs {
            job();
            return ready(Ok(())).boxed();
        }
        self.read("run a job", deadline, self.sim.run_in(netns, job, deadline))
    }

    fn netns_path(&self, netns: NetnsName) -> PathBuf {
        self.sim.netns_path(netns)
    }

    fn watch(&self) -> mpsc::Receiver<KernelEvent> {
        self.sim.watch()
    }

    fn watch_reach(&self) -> mpsc::Receiver<ReachEvent> {
        self.sim.watch_reach()
    }

    fn watch_tables(&self) -> mpsc::Receiver<TableEvent> {
        self.sim.watch_tables()
    }

    fn stats(&self) -> KernelStats {
        self.sim.stats()
    }
}

/// A disk that survives its engines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(MemoryDisk);

impl Disk {
    pub(crate) fn open(&self, death: Death) -> MortalStore {
        MortalStore { store: self.0.open(), death }
    }

    pub(crate) fn records(&self) -> Vec<(Key, Vec<u8>)> {
        self.0.records()
    }

    pub(crate) fn intents(&self) -> Vec<Intent> {
        self.0.intents()
    }
}

/// The store of a mortal engine. A dead one refuses: its answers go nowhere anyway.
#[derive(Debug)]
pub(crate) struct MortalStore {
    store: MemoryStore,
    death: Death,
}

impl MortalStore {
    fn write(
        &mut self,
        what: &'static str,
        effect: impl FnOnce(&mut MemoryStore) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let dead = || StoreError::Database { action: what, message: "the engine is dead".into() };
        if !self.death.passes(|| format!("before the store's {what}")) {
            return Err(dead());
        }
        effect(&mut self.store)?;
        if self.death.passes(|| format!("after the store's {what}")) { Ok(()) } else { Err(dead()) }
    }
}

impl Store for MortalStore {
    fn load(&mut self) -> Result<Vec<(Key, Vec<u8>)>, StoreError> {
        self.store.load()
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.write("commit", |store| store.commit(changes))
    }

    fn begin(&mut self, intents: &[Intent]) -> Result<(), StoreError> {
        self.write("begin", |store| store.begin(intents))
    }

    fn end(&mut self, ops: &[OpId]) -> Result<(), StoreError> {
        self.write("end", |store| store.end(ops))
    }

    fn open_intents(&mut self) -> Result<Vec<Intent>, StoreError> {
        self.store.open_intents()
    }

    fn syncs(&self) -> u64 {
        self.store.syncs()
    }
}
