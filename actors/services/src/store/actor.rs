//! Owns the store. Rank 1. Spawned by the controller's start; asks nobody.
//!
//! | message | kind | answers with |
//! |---|---|---|
//! | Commit | command | () |
//! | BeginIntent | command | () |
//! | EndIntent | command | () |
//! | LoadRecords | query | records |
//! | StoreStatsQuery | query | StoreStats |
//!
//! A store on disk lives on a thread of its own, because `fdatasync` blocks. While one sync runs, commits
//! gather; the next sync takes them all. A store in memory is called in place.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;

use netloom_kernel::worker::Worker;
use netloom_model::{Error, OpId, Reason, Result};
use netloom_runtime::{Actor, Cx, Handle, OpCtx, Reply};
use netloom_store::{Change, Intent, Key, Store, StoreError};

use super::message::{BeginIntent, Commit, EndIntent, LoadRecords, StoreStats, StoreStatsQuery};

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
        Worker::spawn("nl-store", QUEUE, move |jobs| table.serve(jobs)).map(Self::Threaded)
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

    fn give(&self, job: Job) {
        match &self.backend {
            Backend::InPlace(table) => table.borrow_mut().serve(vec![job]),
            Backend::Threaded(worker) => {
                if let Err(job) = worker.submit(job) {
                    job.refuse();
                }
            }
        }
    }
}

/// One request on its way to the store, with the place where its answer goes.
#[derive(Debug)]
pub enum Job {
    /// See [`Commit`].
    Commit(Vec<Change>, Reply<Result<()>>),
    /// See [`BeginIntent`].
    Begin(Intent, Reply<Result<()>>),
    /// See [`EndIntent`].
    End(OpId, Reply<Result<()>>),
    /// See [`LoadRecords`].
    Load(Reply<Result<Vec<(Key, Vec<u8>)>>>),
    /// See [`StoreStatsQuery`].
    Stats(Reply<StoreStats>),
}

impl Job {
    fn refuse(self) {
        let busy = || Reason::Busy { what: "the store".into(), limit: QUEUE }.into();
        match self {
            Self::Commit(_, reply) | Self::Begin(_, reply) | Self::End(_, reply) => reply.send(Err(busy())),
            Self::Load(reply) => reply.send(Err(busy())),
            Self::Stats(_) => {}
        }
    }
}

/// A store and its counters.
pub struct Table {
    store: Box<dyn Store>,
    commits: u64,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} commits)", self.commits)
    }
}

impl Table {
    fn new(store: Box<dyn Store>) -> Self {
        Self { store, commits: 0 }
    }

    /// Serves everything that waits, with one sync for all commits among it. Intents go first: their
    /// operations wait for them before their first effect.
    fn serve(&mut self, jobs: Vec<Job>) {
        let (mut intents, mut begun) = (Vec::new(), Vec::new());
        let (mut ops, mut ended) = (Vec::new(), Vec::new());
        let (mut changes, mut committed) = (Vec::new(), Vec::new());
        let (mut loads, mut stats) = (Vec::new(), Vec::new());
        for job in jobs {
            match job {
                Job::Begin(intent, reply) => {
                    intents.push(intent);
                    begun.push(reply);
                }
                Job::End(op, reply) => {
                    ops.push(op);
                    ended.push(reply);
                }
                Job::Commit(some, reply) => {
                    changes.extend(some);
                    committed.push(reply);
                }
                Job::Load(reply) => loads.push(reply),
                Job::Stats(reply) => stats.push(reply),
            }
        }
        self.commits += committed.len() as u64;
        if !begun.is_empty() {
            answer(begun, "note an intent", self.store.begin(&intents));
        }
        if !committed.is_empty() {
            answer(committed, "commit", self.store.commit(&changes));
        }
        if !ended.is_empty() {
            answer(ended, "note the end of an operation", self.store.end(&ops));
        }
        for reply in loads {
            reply.send(self.store.load().map_err(|error| failed(&error, "load")));
        }
        for reply in stats {
            reply.send(StoreStats { syncs: self.store.syncs(), commits: self.commits });
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
    fn handle(&mut self, _: OpCtx, Commit(changes): Commit, reply: Reply<Result<()>>, _: &mut Cx<'_, Self>) {
        self.give(Job::Commit(changes, reply));
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

// === Queries ===

impl Handle<LoadRecords> for StoreActor {
    fn handle(
        &mut self,
        _: OpCtx,
        _: LoadRecords,
        reply: Reply<Result<Vec<(Key, Vec<u8>)>>>,
        _: &mut Cx<'_, Self>,
    ) {
        self.give(Job::Load(reply));
    }
}

impl Handle<StoreStatsQuery> for StoreActor {
    fn handle(&mut self, _: OpCtx, _: StoreStatsQuery, reply: Reply<StoreStats>, _: &mut Cx<'_, Self>) {
        self.give(Job::Stats(reply));
    }
}
