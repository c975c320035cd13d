//! What every command carries through every mailbox it crosses.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;
use tracing::Span;
use uuid::Uuid;

/// Why an operation runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A caller asked for it.
    Request,
    /// A fact arrived from below or from outside.
    Event(&'static str),
    /// A timer fired.
    Tick(&'static str),
    /// The engine starts.
    Start,
    /// The engine stops.
    Shutdown,
}

/// Why an operation is asked to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The engine stops.
    Shutdown,
    /// Somebody used force on its object.
    Overtaken,
}

/// Says "stop" to every part of an operation. A step that runs is not waited for any more: whoever carries it
/// out goes on, and it is undone behind it.
#[derive(Clone, Default, Debug)]
pub struct CancelToken(Arc<Cancel>);

#[derive(Default, Debug)]
struct Cancel {
    asked: OnceLock<Stop>,
    /// The tasks of the operation that wait: one or a few. They are not taken off when a wait ends, because the next
    /// one of the same task is most often only a step away.
    waiting: Mutex<Vec<Waker>>,
}

/// Says "stop" to an operation as long as it is under way, and keeps nothing of it alive.
#[derive(Clone, Default, Debug)]
pub struct Canceller(Weak<Cancel>);

impl Canceller {
    /// Asks the operation to stop, if there still is one.
    pub fn cancel(&self, why: Stop) {
        if let Some(cancel) = self.0.upgrade() {
            CancelToken(cancel).cancel(why);
        }
    }
}

impl Cancel {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CancelToken {
    /// Asks the operation to stop. Only the first reason counts.
    pub fn cancel(&self, why: Stop) {
        let _ = self.0.asked.set(why);
        let waiting = std::mem::take(&mut *self.0.waiting());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// For whoever may want to stop the operation and is no part of it.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::downgrade(&self.0))
    }

    /// Why it was asked to stop, if it was.
    #[must_use]
    pub fn why(&self) -> Option<Stop> {
        self.0.asked.get().copied()
    }

    /// Whether it was asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.why().is_some()
    }

    /// Waits until it is asked to stop.
    pub async fn cancelled(&self) {
        std::future::poll_fn(|cx| self.poll_cancelled(cx)).await;
    }

    pub(crate) fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<()> {
        let mut waiting = self.0.waiting();
        // Looked at inside: whoever asks sets it first and wakes the waiting then.
        if self.is_cancelled() {
            return Poll::Ready(());
        }
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// One operation; cheap to clone, because it goes along with every message.
#[derive(Clone)]
pub struct OpCtx(Arc<Operation>);

/// An operation: its identity, its deadline, why it runs, and the span that its work is traced in.
#[derive(Clone)]
pub struct Operation {
    /// Identifies the operation in traces, in the ledger and in the journal.
    pub id: Uuid,
    /// When every wait of the operation ends.
    pub deadline: Instant,
    /// How long it was given, for messages.
    pub allowed: Duration,
    /// Why it runs.
    pub cause: Cause,
    /// Set by whoever wants it to end early.
    pub cancel: CancelToken,
    /// Whether it takes back what was done: it is carried out whatever ends the operation.
    pub undoes: bool,
    /// The span that handlers and sagas of the operation run in.
    pub span: Span,
}

impl Deref for OpCtx {
    type Target = Operation;

    fn deref(&self) -> &Operation {
        &self.0
    }
}

impl OpCtx {
    /// A new operation that ends `allowed` from now at the latest.
    #[must_use]
    pub fn new(cause: Cause, allowed: Duration) -> Self {
        let id = Uuid::now_v7();
        let span = tracing::debug_span!("op", id = %id, cause = ?cause);
        let deadline = Instant::now() + allowed;
        Self(Arc::new(Operation {
            id,
            deadline,
            allowed,
            cause,
            cancel: CancelToken::default(),
            undoes: false,
            span,
        }))
    }

    /// The same operation with a fresh deadline and without its cancellation: for undoing, which must be
    /// given its time even though the operation ran out of its own.
    #[must_use]
    pub fn for_undo(&self, allowed: Duration) -> Self {
        Self(Arc::new(Operation {
            cancel: CancelToken::default(),
            undoes: true,
            ..self.ending_after(allowed)
        }))
    }

    /// The same operation with a fresh deadline and a cancellation of its own: for one of many parts that are under way
    /// at once, which would all wait for the one.
    #[must_use]
    pub fn apart(&self, allowed: Duration) -> Self {
        Self(Arc::new(Operation { cancel: CancelToken::default(), ..self.ending_after(allowed) }))
    }

    /// The same operation with a fresh deadline: for what has to follow the point of no return.
    #[must_use]
    pub fn renewed(&self, allowed: Duration) -> Self {
        Self(Arc::new(self.ending_after(allowed)))
    }

    /// The same operation under another identity: what was begun under that one ends.
    #[must_use]
    pub fn identified(&self, id: Uuid) -> Self {
        Self(Arc::new(Operation { id, ..Operation::clone(self) }))
    }

    fn ending_after(&self, allowed: Duration) -> Operation {
        Operation { deadline: Instant::now() + allowed, allowed, ..Operation::clone(self) }
    }

    /// The deadline for code that does not know tokio.
    #[must_use]
    pub fn deadline_std(&self) -> std::time::Instant {
        self.deadline.into_std()
    }

    /// Waits for work until the operation is cancelled; `None` then. What was asked for is still carried out.
    pub async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            outcome = work => Some(outcome),
            () = self.cancel.cancelled() => None,
        }
    }

    /// Waits for work until the operation's deadline; `None` then. The work is given up.
    pub async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout_at(self.deadline, work).await.ok()
    }

    /// Waits a moment before another attempt; `false` when there is no time left for one.
    pub async fn pause(&self, moment: Duration) -> bool {
        if self.remaining() <= moment || self.cancel.is_cancelled() {
            return false;
        }
        tokio::time::sleep(moment).await;
        true
    }

    /// When it was given its time.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.deadline - self.allowed
    }

    /// How long the operation may still take.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

impl fmt::Debug for OpCtx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation").field("id", &self.id).field("cause", &self.cause).finish_non_exhaustive()
    }
}
