//! Operations in flight: who, since when, at which step.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_utils::atomic::AtomicCell;
use dashmap::DashMap;
use rustc_hash::FxBuildHasher;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::op::{CancelToken, OpCtx, Stop};
use crate::until::until;

/// One operation in flight.
#[derive(Clone, Debug)]
pub struct OperationView {
    /// Its identity.
    pub id: Uuid,
    /// What it does.
    pub verb: &'static str,
    /// What it does it to.
    pub object: String,
    /// The step it is at.
    pub step: &'static str,
    /// Since when it runs.
    pub since: Instant,
}

struct Row<O: ?Sized> {
    id: Uuid,
    verb: &'static str,
    step: AtomicCell<&'static str>,
    since: Instant,
    cancel: CancelToken,
    /// Written out when somebody looks: most operations end before that.
    object: O,
}

type AnyRow = Row<dyn fmt::Display + Send + Sync>;

impl AnyRow {
    fn view(&self) -> OperationView {
        let Self { id, verb, since, .. } = *self;
        OperationView { id, verb, object: self.object.to_string(), step: self.step.load(), since }
    }
}

/// The list of operations in flight; cheap to clone, readable from any thread.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Inner>);

#[derive(Default)]
struct Inner {
    rows: DashMap<usize, Arc<AnyRow>, FxBuildHasher>,
    next: AtomicUsize,
    stopping: AtomicBool,
    /// Whether somebody waits for its being empty; who leaves looks here first.
    awaited: AtomicBool,
    left: Notify,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({} in flight)", self.0.rows.len())
    }
}

/// An operation's line in the ledger; it goes with its owner.
pub struct LedgerEntry {
    ledger: Ledger,
    key: usize,
    row: Arc<AnyRow>,
}

impl fmt::Debug for LedgerEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.row.view().fmt(f)
    }
}

impl Ledger {
    /// Enters an operation.
    #[must_use = "the operation leaves the ledger when this is dropped"]
    pub fn enter(
        &self,
        op: &OpCtx,
        verb: &'static str,
        object: impl fmt::Display + Send + Sync + 'static,
    ) -> LedgerEntry {
        // One request may run as several sagas, one inside the other, so the key is not the operation's id.
        let key = self.0.next.fetch_add(1, Ordering::Relaxed);
        let row = Row {
            id: op.id,
            verb,
            step: AtomicCell::new("started"),
            since: Instant::now(),
            cancel: op.cancel.clone(),
            object,
        };
        let row: Arc<AnyRow> = Arc::new(row);
        self.0.rows.insert(key, row.clone());
        // Behind the insertion: whoever asks all to stop sets it first and looks at the rows then.
        if self.is_stopping() && !op.undoes {
            op.cancel.cancel(Stop::Shutdown);
        }
        LedgerEntry { ledger: self.clone(), key, row }
    }

    /// Every operation in flight, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<OperationView> {
        let mut views: Vec<_> = self.0.rows.iter().map(|row| row.view()).collect();
        views.sort_by_key(|view| view.since);
        views
    }

    /// Asks every operation to stop, because the engine does; also those that are entered from now on, unless they
    /// undo others. What waits for its turn must not begin any more: see [`Ledger::is_stopping`].
    pub fn cancel_all(&self) {
        self.0.stopping.store(true, Ordering::Release);
        for row in &self.0.rows {
            row.cancel.cancel(Stop::Shutdown);
        }
    }

    /// Whether every operation was asked to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }

    /// Waits until no operation is in flight.
    pub async fn idle(&self) {
        self.0.awaited.store(true, Ordering::SeqCst);
        until(&self.0.left, || self.is_empty()).await;
    }

    /// Waits until every operation has ended that was entered before this one.
    pub async fn ended_before(&self, entry: &LedgerEntry) {
        self.0.awaited.store(true, Ordering::SeqCst);
        until(&self.0.left, || self.0.rows.iter().all(|row| *row.key() >= entry.key)).await;
    }

    /// How many operations are in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.rows.len()
    }

    /// Whether none is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.rows.is_empty()
    }
}

impl LedgerEntry {
    /// Notes the step that begins now.
    pub fn step(&self, step: &'static str) {
        self.row.step.store(step);
    }
}

impl Drop for LedgerEntry {
    fn drop(&mut self) {
        let ledger = &*self.ledger.0;
        ledger.rows.remove(&self.key);
        if ledger.awaited.load(Ordering::SeqCst) {
            ledger.left.notify_waiters();
        }
    }
}
