//! A kernel whose calls begin, take effect and are answered when the seed says, and the door to the engine's thread:
//! callers run there too, on its stopped clock, so that nothing but the seed decides what comes first.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::{mpsc, oneshot};
use futures::future::{BoxFuture, LocalBoxFuture};
use futures::{FutureExt, TryFutureExt};
use netloom::kernel::nft::{Contents, Table};
use netloom::kernel::{
    AddressView, Kernel, KernelError, KernelEvent, KernelFuture, KernelStats, LinkCounters, LinkView,
    NeighbourView, Netns, NetnsJob, Op, PortHolder, ReachEvent, RouteView, TableEvent,
};
use netloom::testkit::SimKernel;
use netloom::{IfName, NetnsName};

use super::history::{Event, Shared};
use crate::model::Random;

/// What is to be done on the engine's thread.
pub(super) type Job = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

/// How long something takes.
#[derive(Clone, Copy, Debug)]
enum Pause {
    None,
    /// So many turns of the engine's thread.
    Turns(u64),
    /// Until everything else waits too.
    Time(Duration),
}

impl Pause {
    async fn pass(self) {
        match self {
            Self::None => {}
            Self::Turns(turns) => {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
            }
            Self::Time(time) => tokio::time::sleep(time).await,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Jitter {
    sim: SimKernel,
    state: Mutex<State>,
    /// Calls take effect in the order in which they were made: who gives a call up and undoes it may rely on that.
    order: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct State {
    /// The job for the engine's thread, waited for there from the first call on.
    job: Option<oneshot::Receiver<Job>>,
    /// Without it everything is done at once.
    random: Option<Random>,
    history: Shared,
    calls: u32,
}

impl Jitter {
    /// The kernel of an engine that is to be started, and where to send what its thread is to do.
    pub(super) fn new(sim: SimKernel) -> (Arc<Self>, oneshot::Sender<Job>) {
        let (sender, job) = oneshot::channel();
        let state = State { job: Some(job), random: None, history: Shared::default(), calls: 0 };
        let order = Arc::default();
        (Arc::new(Self { sim, state: Mutex::new(state), order }), sender)
    }

    /// Calls take their time from now on, and are noted.
    pub(super) fn excite(&self, random: Random, history: Shared) {
        let mut state = self.state();
        (state.random, state.history, state.calls) = (Some(random), history, 0);
    }

    /// Calls are carried out at once from now on.
    pub(super) fn calm(&self) {
        self.state().random = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The start of an engine asks its kernel for what there is: that is on its thread, and before its clock matters.
    fn arrive(&self) {
        if let Some(job) = self.state().job.take() {
            tokio::time::pause();
            tokio::task::spawn_local(async move {
                if let Ok(job) = job.await {
                    job().await;
                }
            });
        }
    }

    fn draw(&self) -> Pause {
        let mut state = self.state();
        let Some(random) = &mut state.random else { return Pause::None };
        match random.below(4) {
            0 => Pause::None,
            1 => Pause::Turns(1 + random.below(6)),
            _ => Pause::Time(Duration::from_millis(1 + random.below(4))),
        }
    }

    fn read<T: Send + 'static>(&self, answer: impl FnOnce(&SimKernel) -> KernelFuture<T>) -> KernelFuture<T> {
        self.arrive();
        let pause = self.draw();
        // What is seen is what there was when it was asked; when it is heard is another matter.
        let answer = answer(&self.sim);
        async move {
            let answer = answer.await;
            pause.pass().await;
            answer
        }
        .boxed()
    }
}

impl Kernel for Jitter {
    fn ports(&self) -> Arc<dyn PortHolder> {
        self.sim.ports()
    }

    fn execute(&self, ops: Vec<Op>, deadline: Instant) -> BoxFuture<'static, Vec<Result<(), KernelError>>> {
        self.arrive();
        let (before, after) = (self.draw(), self.draw());
        let (number, history) = {
            let mut state = self.state();
            if state.random.is_none() {
                drop(state);
                return self.sim.execute(ops, deadline);
            }
            state.calls += 1;
            (state.calls, state.history.clone())
        };
        let verbs = ops.iter().map(Op::verb);
        history.lock().note(&Event::Called(number, verbs.collect()));
        let (sim, order) = (self.sim.clone(), self.order.clone());
        let (sender, answers) = oneshot::channel();
        let count = ops.len();
        // A task of its own: what was asked is done also when nobody waits any more.
        tokio::task::spawn_local(async move {
            let turn = order.lock().await;
            before.pass().await;
            let work = sim.execute(ops, deadline);
            drop(turn);
            history.lock().note(&Event::TookEffect(number));
            let answers = work.await;
            after.pass().await;
            history.lock().note(&Event::Answered(number));
            let _ = sender.send(answers);
        });
        let gone =
            move |_| Ok::<_, ()>((0..count).map(|_| Err(KernelError::lost("answer", "it ended"))).collect());
        answers
            .or_else(move |cancelled| futures::future::ready(gone(cancelled)))
            .map(Result::unwrap_or_default)
            .boxed()
    }

    fn links(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<LinkView>> {
        self.read(|sim| sim.links(netns, deadline))
    }

    fn find_links(
        &self,
        netns: Netns,
        names: Vec<IfName>,
        deadline: Instant,
    ) -> KernelFuture<Vec<Option<LinkView>>> {
        self.read(|sim| sim.find_links(netns, names, deadline))
    }

    fn links_at(
        &self,
        netns: Netns,
        indexes: Vec<u32>,
        deadline: Instant,
    ) -> KernelFuture<Vec<Option<LinkView>>> {
        self.read(|sim| sim.links_at(netns, indexes, deadline))
    }

    fn link_counters(
        &self,
        netns: Netns,
        names: Vec<IfName>,
        deadline: Instant,
    ) -> KernelFuture<Vec<Option<LinkCounters>>> {
        self.read(|sim| sim.link_counters(netns, names, deadline))
    }

    fn addresses(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<AddressView>> {
        self.read(|sim| sim.addresses(netns, deadline))
    }

    fn routes(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<RouteView>> {
        self.read(|sim| sim.routes(netns, deadline))
    }

    fn neighbours(&self, netns: Netns, deadline: Instant) -> KernelFuture<Vec<NeighbourView>> {
        self.read(|sim| sim.neighbours(netns, deadline))
    }

    fn namespaces(&self, deadline: Instant) -> KernelFuture<Vec<NetnsName>> {
        self.read(|sim| sim.namespaces(deadline))
    }

    fn read_setting(&self, netns: Netns, key: &str, deadline: Instant) -> KernelFuture<String> {
        self.read(|sim| sim.read_setting(netns, key, deadline))
    }

    fn table(&self, table: Table, deadline: Instant) -> KernelFuture<Option<Contents>> {
        self.read(|sim| sim.table(table, deadline))
    }

    fn run_in(&self, netns: Netns, job: NetnsJob, deadline: Instant) -> KernelFuture<()> {
        self.read(|sim| sim.run_in(netns, job, deadline))
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
