//! Sagas: several steps that either all take effect or are all undone.
//!
//! Undo is data. A step's undo is recorded *before* the step runs, so that nothing that happened can be
//! forgotten; steps are undone in reverse; undoing goes on past a failure; and what cannot be undone goes
//! to the [`Janitor`], which keeps trying and keeps it visible.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::janitor::Janitor;
use crate::ledger::{Ledger, LedgerEntry};
use crate::op::OpCtx;
use crate::tasks::Panicked;

/// How long undoing one saga may take before what is left goes to the janitor. Apart from the operation's
/// own deadline: that may be what made it fail.
pub(crate) const UNDO_ALLOWED: Duration = Duration::from_secs(10);
/// The same when the operation was cancelled: somebody waits for the way to be free.
const CANCELLED_UNDO_ALLOWED: Duration = Duration::from_secs(1);

/// How to take one step back. Undoing must be idempotent: "not there" is success. `Display` names what is
/// left behind if it cannot be undone.
pub trait Undo: fmt::Display + Clone + 'static {
    /// What undoing needs to reach.
    type World: Clone + 'static;
    /// The error of the saga's steps.
    type Error: fmt::Display + 'static;

    /// Takes the step back.
    fn undo(&self, world: &Self::World, op: &OpCtx) -> LocalBoxFuture<'static, Result<(), Self::Error>>;

    /// Whether a step that failed like this may have taken effect all the same. If so it is undone too.
    fn uncertain(error: &Self::Error) -> bool;

    /// The error of a saga that was cancelled or ran out of time before this step.
    fn interrupted(op: &OpCtx, step: &'static str) -> Self::Error;

    /// The error of a saga whose own code panicked.
    fn panicked(panicked: &Panicked) -> Self::Error;
}

/// What every saga needs beside its world.
#[derive(Clone, Debug)]
pub struct SagaTools {
    /// Shows the saga while it runs.
    pub ledger: Ledger,
    /// Takes what cannot be undone.
    pub janitor: Janitor,
}

/// A saga on its way.
pub struct Saga<U: Undo> {
    op: OpCtx,
    world: U::World,
    janitor: Janitor,
    entry: LedgerEntry,
    done: Vec<U>,
}

impl<U: Undo> fmt::Debug for Saga<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Saga({:?}, {} steps done)", self.op.id, self.done.len())
    }
}

/// A saga that failed and was undone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unwound<E> {
    /// What failed first.
    pub cause: E,
    /// What could not be undone; the janitor has it now. Empty when nothing is left behind.
    pub leaks: Vec<String>,
}

/// Runs a saga: `Ok` commits, `Err` undoes every step that was recorded.
///
/// # Errors
/// What failed first, and what could not be undone.
pub async fn run<U: Undo, T>(
    tools: &SagaTools,
    op: &OpCtx,
    verb: &'static str,
    object: impl fmt::Display + Send + Sync + 'static,
    world: U::World,
    body: impl AsyncFnOnce(&mut Saga<U>) -> Result<T, U::Error>,
) -> Result<T, Unwound<U::Error>> {
    let entry = tools.ledger.enter(op, verb, object);
    let mut saga = Saga { op: op.clone(), world, janitor: tools.janitor.clone(), entry, done: Vec::new() };
    // Boxed, so that the layers around it do not move all of it.
    let outcome = AssertUnwindSafe(Box::pin(body(&mut saga))).catch_unwind().await;
    let cause = match outcome {
        Ok(Ok(value)) => {
            saga.done.clear();
            return Ok(value);
        }
        Ok(Err(error)) => error,
        Err(payload) => {
            let panicked = Panicked::new(&*payload);
            tracing::error!(verb, %panicked, "a saga died; undoing it");
            U::panicked(&panicked)
        }
    };
    let leaks = saga.unwind().await;
    Err(Unwound { cause, leaks })
}

/// How long a removal may take before it becomes a leak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// As long as any undoing.
    Usual,
    /// A second: somebody wants it gone although something is stuck.
    Short,
    /// Until then: that somebody has waited already.
    Until(Instant),
}

impl Patience {
    /// That of an operation: whoever gave it a second only has no more time for what follows from it.
    #[must_use]
    pub fn of(op: &OpCtx) -> Self {
        if op.allowed <= CANCELLED_UNDO_ALLOWED { Self::Short } else { Self::Usual }
    }

    /// The time.
    #[must_use]
    pub fn allowed(self) -> Duration {
        match self {
            Self::Usual => UNDO_ALLOWED,
            Self::Short => CANCELLED_UNDO_ALLOWED,
            Self::Until(end) => end.saturating_duration_since(Instant::now()),
        }
    }
}

/// Carries a removal to its end behind the point of no return: now, or later as a visible leak. Cancelling the
/// operation ends the wait, not the removal.
pub async fn finish<U: Undo>(
    tools: &SagaTools,
    op: &OpCtx,
    world: &U::World,
    removal: U,
    patience: Patience,
) {
    let cancelled = op.cancel.is_cancelled();
    let patience = if cancelled { Patience::Short } else { patience };
    let now = op.for_undo(patience.allowed());
    let failure = tokio::select! {
        biased;
        outcome = removal.undo(world, &now) => outcome.err().map(|error| error.to_string()),
        () = op.cancel.cancelled(), if !cancelled => Some("somebody else must not wait for it".to_owned()),
    };
    if let Some(failure) = failure {
        tracing::warn!(failure, what = %removal, "cannot remove");
        tools.janitor.adopt_undo(op, world, removal);
    }
}

impl<U: Undo> Saga<U> {
    /// The operation it belongs to.
    #[must_use]
    pub fn op(&self) -> &OpCtx {
        &self.op
    }

    /// Takes a step, which begins when this is called. `undo` is recorded first; if the step fails for certain it is
    /// forgotten again, since there is nothing to undo.
    ///
    /// A step under way is waited for until the operation is cancelled. It may still take effect then, so it is
    /// undone like one whose answer was lost.
    ///
    /// # Errors
    /// The step's own error, or that the operation was interrupted before or during it.
    #[must_use = "the step is under way as long as this is polled"]
    pub fn step<T, W>(
        &mut self,
        name: &'static str,
        undo: impl Into<Option<U>>,
        work: W,
    ) -> impl Future<Output = Result<T, U::Error>>
    where
        W: Future<Output = Result<T, U::Error>>,
    {
        let late = self.is_late();
        let mut recorded = false;
        if !late {
            self.entry.step(name);
            let undo = undo.into();
            recorded = undo.is_some();
            self.done.extend(undo);
        }
        Step { saga: self, name, late, recorded, work }
    }

    /// Takes two steps beside each other, of which neither needs the other. Both are waited for when one fails: what
    /// is under way cannot be undone. The second one is undone first.
    ///
    /// # Errors
    /// That of the first one that failed, or that the operation was interrupted before or during them.
    pub async fn both<A, B>(
        &mut self,
        name: &'static str,
        (undo_first, first): (U, A),
        (undo_second, second): (U, B),
    ) -> Result<(), U::Error>
    where
        A: Future<Output = Result<(), U::Error>>,
        B: Future<Output = Result<(), U::Error>>,
    {
        if self.is_late() {
            return Err(U::interrupted(&self.op, name));
        }
        let before = self.done.len();
        self.done.push(undo_first);
        let both = async { Ok(futures::join!(first, second)) };
        // It fails only when it is interrupted, and then both may have taken effect.
        let (first, second) = self.step(name, undo_second, both).await?;
        for (place, outcome) in [(before + 1, &second), (before, &first)] {
            if outcome.as_ref().is_err_and(|error| !U::uncertain(error)) {
                self.done.remove(place);
            }
        }
        first.and(second)
    }

    fn is_late(&self) -> bool {
        self.op.cancel.is_cancelled() || self.op.remaining().is_zero()
    }

    /// From here on nothing is undone any more: the point of no return of a deletion.
    pub fn no_way_back(&mut self) {
        self.done.clear();
    }

    async fn unwind(&mut self) -> Vec<String> {
        self.entry.step("undoing");
        let cancelled = self.op.cancel.is_cancelled();
        let patience = if cancelled { Patience::Short } else { Patience::Usual };
        let op = self.op.for_undo(patience.allowed());
        let mut leaks = Vec::new();
        while let Some(undo) = self.done.last().cloned() {
            let outcome = tokio::time::timeout_at(op.deadline, undo.undo(&self.world, &op)).await;
            // Popped only now: if this task is dropped while it undoes, the step is still on the list.
            self.done.pop();
            let failure = match outcome {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            leaks.push(format!("{undo}: {failure}"));
            self.leave_to_janitor(undo);
        }
        leaks
    }

    fn leave_to_janitor(&self, undo: U) {
        self.janitor.adopt_undo(&self.op, &self.world, undo);
    }
}

pin_project! {
    /// A step under way. Written out, because a compiled `async fn` keeps what it is given twice, and these are
    /// nested in each other.
    struct Step<'a, U: Undo, W> {
        saga: &'a mut Saga<U>,
        name: &'static str,
        late: bool,
        recorded: bool,
        #[pin]
        work: W,
    }
}

impl<U: Undo, T, W: Future<Output = Result<T, U::Error>>> Future for Step<'_, U, W> {
    type Output = W::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let step = self.project();
        let op = &step.saga.op;
        if *step.late {
            return Poll::Ready(Err(U::interrupted(op, step.name)));
        }
        let Poll::Ready(outcome) = step.work.poll(cx) else {
            return op.cancel.poll_cancelled(cx).map(|()| Err(U::interrupted(op, step.name)));
        };
        if let Err(error) = &outcome {
            tracing::debug!(step = step.name, %error, "a step failed");
            if *step.recorded && !U::uncertain(error) {
                step.saga.done.pop();
            }
        }
        Poll::Ready(outcome)
    }
}

impl<U: Undo> Drop for Saga<U> {
    /// A saga dropped on the way cannot wait for its undoing, so it hands that on.
    fn drop(&mut self) {
        while let Some(undo) = self.done.pop() {
            self.leave_to_janitor(undo);
        }
    }
}
