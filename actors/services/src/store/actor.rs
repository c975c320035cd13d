//! Owns the store. Rank 1. Spawned by the controller's start; asks nobody.
//!
//! | message | kind | answers with |
//! |---|---|---|
//! | Commit | command | () |
//! | BeginIntent | command | () |
//! | EndIntent | command | () |
//! | CloseStore | command | () |
//! | LoadRecords | query | records |
//! | StoreStatsQuery | query | StoreStats |
//!
//! A store on disk lives on a thread of its own, because `fdatasync` blocks. While one sync runs, commits
//! gather; the next sync takes them all. Where many operations are under way each of them takes long, and a
//! commit of one waits a little for those of others: a sixth of what its operation has taken so far. A store in
//! memory is called in place.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use netloom_kernel::worker::Worker;
use netloom_model::{Error, OpId, Reason, Result};
use netloom_runtime::{Actor, Cx, Handle, OpCtx, Reply};
use netloom_store::{Change, Intent, Store, StoreError};

use super::message::{
    BeginIntent, CloseStore, Commit, EndIntent, LoadRecords, Rows, StoreStats, StoreStatsQuery,
};

/// The longest that a commit waits for others.
const GATHER: Duration = Duration::from_millis(200);
/// Less than this is not worth a wait.
const MOMENT: Duration = Duration::from_millis(1);

/// Until when a commit of this operation can wait for others.
fn can_wait(op: &OpCtx) -> Instant {
    let wait = (op.began().elapsed() / 6).min(GATHER);
    Instant::now() + if wait < MOMENT { Duration::ZERO } else { wait }
}

/// Jobs that may wait for the store's thread.
const QUEUE: usize = 65_536;

// === Actor ===

/// The store's actor.
#[derive(Debug)]
pub struct StoreActor {
    backend: Backend,
}

/// Where the store runs. Cloned for a restarted actor: the store itself outlives it.
#[derive(Clone)]
pub enum Backend {
    /// On a thread of its own.
    Threaded(Worker<Job>),
    /// In the actor's handlers; for stores that never block.
    InPlace(Rc<RefCell<Table>>),
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Threaded(_) => "Threaded",
            Self::InPlace(_) => "InPlace",
        })
    }
}

impl Backend {
    /// Gives a store a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn threaded(store: Box<dyn Store>) -> io::Result<Self> {
        let mut table = Table::new(store);
        let can_wait = |job: &Job| match job {
            Job::Commit(_, until, _) => *until,
            _ => Instant::now(),
        };
        let worker = Worker::spawn_gathering("nl-store", QUEUE, can_wait, move |jobs| table.serve(jobs));
        worker.map(Self::Threaded)
    }

    /// Calls a store in place.
    #[must_use]
    pub fn in_place(store: Box<dyn Store>) -> Self {
        Self::InPlace(Rc::new(RefCell::new(Table::new(store))))
    }
}

impl StoreActor {
    /// An actor for this store.
    #[must_use]
    pub fn new(backend: Backend) -> Self {
        Self { backend }
    }

    /// Until when a commit of this operation can wait; a store in place has it at once.
    fn patience(&self, op: &OpCtx) -> Instant {
        match &self.backend {
            Backend::InPlace(_) => op.began().into_std(),
            Backend::Threaded(_) => can_wait(op),
        }
    }

    fn give(&self, job: Job) {
        match &self.backend {
            Backend::InPlace(table) => table.borrow_mut().serve_one(job),
            Backend::Threaded(worker) => {
                if let Err(job) = worker.submit(job) {
                    job.refuse(Reason::Busy { what: "the store".into(), limit: QUEUE }.into());
                }
            }
        }
    }
}

/// One request on its way to the store, with the place where its answer goes.
#[derive(Debug)]
pub enum Job {
    /// See [`Commit`]; it can wait until then.
    Commit(Vec<Change>, Instant, Reply<Result<()>>),
    /// See [`BeginIntent`].
    Begin(Intent, Reply<Result<()>>),
    /// See [`EndIntent`].
    End(OpId, Reply<Result<()>>),
    /// See [`LoadRecords`].
    Load(Reply<Result<Rows>>),
    /// See [`CloseStore`].
    Close(Reply<Result<()>>),
    /// See [`StoreStatsQuery`].
    Stats(Reply<StoreStats>),
}

impl Job {
    fn refuse(self, error: Error) {
        match self {
            Self::Commit(_, _, reply) | Self::Begin(_, reply) | Self::End(_, reply) | Self::Close(reply) => {
                reply.send(Err(error));
            }
            Self::Load(reply) => reply.send(Err(error)),
            // A dropped reply says that nobody answers any more.
            Self::Stats(_) => {}
        }
    }
}

/// A store and its counters.
pub struct Table {
    /// `None` once it is closed.
    store: Option<Box<dyn Store>>,
    commits: u64,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} commits)", self.commits)
    }
}

/// What waits for the store, sorted.
#[derive(Default)]
struct Waiting {
    intents: Vec<Intent>,
    begun: Vec<Reply<Result<()>>>,
    changes: Vec<Change>,
    committed: Vec<Reply<Result<()>>>,
    ops: Vec<OpId>,
    ended: Vec<Reply<Result<()>>>,
    loads: Vec<Reply<Result<Rows>>>,
    stats: Vec<Reply<StoreStats>>,
    closes: Vec<Reply<Result<()>>>,
}

impl Waiting {
    fn sort(jobs: Vec<Job>) -> Self {
        let mut waiting = Self::default();
        for job in jobs {
            match job {
                Job::Begin(intent, reply) => {
                    waiting.intents.push(intent);
                    waiting.begun.push(reply);
                }
                Job::End(op, reply) => {
                    waiting.ops.push(op);
                    waiting.ended.push(reply);
                }
                Job::Commit(some, _, reply) => {
                    waiting.changes.extend(some);
                    waiting.committed.push(reply);
                }
                Job::Load(reply) => waiting.loads.push(reply),
                Job::Stats(reply) => waiting.stats.push(reply),
                Job::Close(reply) => waiting.closes.push(reply),
            }
        }
        waiting
    }
}

impl Table {
    fn new(store: Box<dyn Store>) -> Self {
        Self { store: Some(store), commits: 0 }
    }

    /// Serves one request. Most are commits, for which there is nothing to sort.
    fn serve_one(&mut self, job: Job) {
        match (&mut self.store, job) {
            (Some(store), Job::Commit(changes, _, reply)) => {
                self.commits += 1;
                reply.send(store.commit(&changes).map_err(|error| failed(&error, "commit")));
            }
            (_, job) => self.serve(vec![job]),
        }
    }

    /// Serves everything that waits, with one sync for all commits among it. Intents go first: their
    /// operations wait for them before their first effect.
    fn serve(&mut self, jobs: Vec<Job>) {
        let Some(store) = &mut self.store else {
            return jobs.into_iter().for_each(|job| job.refuse(Reason::ShuttingDown.into()));
        };
        let waiting = Waiting::sort(jobs);
        self.commits += waiting.committed.len() as u64;
        if !waiting.begun.is_empty() {
            answer(waiting.begun, "note an intent", store.begin(&waiting.intents));
        }
        if !waiting.committed.is_empty() {
            answer(waiting.committed, "commit", store.commit(&waiting.changes));
        }
        if !waiting.ended.is_empty() {
            answer(waiting.ended, "note the end of an operation", store.end(&waiting.ops));
        }
        for reply in waiting.loads {
            reply.send(store.load().map_err(|error| failed(&error, "load")));
        }
        for reply in waiting.stats {
            reply.send(StoreStats { syncs: store.syncs(), commits: self.commits });
        }
        if !waiting.closes.is_empty() {
            self.store = None;
            waiting.closes.into_iter().for_each(|reply| reply.send(Ok(())));
        }
    }
}

fn answer(replies: Vec<Reply<Result<()>>>, action: &'static str, outcome: Result<(), StoreError>) {
    let outcome = outcome.map_err(|error| failed(&error, action));
    for reply in replies {
        reply.send(outcome.clone());
    }
}

fn failed(error: &StoreError, action: &'static str) -> Error {
    tracing::error!(%error, action, "the store failed");
    Error::from(error.clone())
}

// === Lifecycle ===

impl Actor for StoreActor {
    const KIND: &'static str = "store";
}

// === Commands ===

impl Handle<Commit> for StoreActor {
    fn handle(&mut self, op: OpCtx, Commit(changes): Commit, reply: Reply<Result<()>>, _: &mut Cx<'_, Self>) {
        self.give(Job::Commit(changes, self.patience(&op), reply));
    }
}

impl Handle<BeginIntent> for StoreActor {
    fn handle(
        &mut self,
        _: OpCtx,
        BeginIntent(intent): BeginIntent,
        reply: Reply<Result<()>>,
        _: &mut Cx<'_, Self>,
    ) {
        self.give(Job::Begin(intent, reply));
    }
}

impl Handle<EndIntent> for StoreActor {
    fn handle(&mut self, _: OpCtx, EndIntent(op): EndIntent, reply: Reply<Result<()>>, _: &mut Cx<'_, Self>) {
        self.give(Job::End(op, reply));
    }
}

impl Handle<CloseStore> for StoreActor {
    fn handle(&mut self, _: OpCtx, _: CloseStore, reply: Reply<Result<()>>, _: &mut Cx<'_, Self>) {
        self.give(Job::Close(reply));
    }
}

// === Queries ===

impl Handle<LoadRecords> for StoreActor {
    fn handle(&mut self, _: OpCtx, _: LoadRecords, reply: Reply<Result<Rows>>, _: &mut Cx<'_, Self>) {
        self.give(Job::Load(reply));
    }
}

impl Handle<StoreStatsQuery> for StoreActor {
    fn handle(&mut self, _: OpCtx, _: StoreStatsQuery, reply: Reply<StoreStats>, _: &mut Cx<'_, Self>) {
        self.give(Job::Stats(reply));
    }
}
