//! The tasks of one actor, counted so that somebody can wait for all of them.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::sync::Notify;

use crate::until::until;

/// A piece of work that panicked, with its message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Panicked(pub String);

impl Panicked {
    pub(crate) fn new(payload: &(dyn Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned());
        Self(text.unwrap_or_else(|| "panicked".to_owned()))
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked: {}", self.0)
    }
}

/// Counts running tasks of one engine thread.
#[derive(Clone, Default)]
pub struct TaskGroup(Rc<Inner>);

#[derive(Default)]
struct Inner {
    running: Cell<usize>,
    idle: Notify,
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskGroup({} running)", self.running())
    }
}

pin_project! {
    /// A task that is counted.
    struct Counted<W> {
        #[pin]
        work: W,
        running: Running,
    }
}

impl<W: Future<Output = ()>> Future for Counted<W> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().work.poll(cx)
    }
}

/// Counts down also when the task is dropped unfinished.
struct Running(Rc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        let left = self.0.running.get() - 1;
        self.0.running.set(left);
        if left == 0 {
            self.0.idle.notify_waiters();
        }
    }
}

impl TaskGroup {
    /// Starts a task on this engine thread. It is boxed before: on its way into the runtime a future is moved five
    /// times.
    pub fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        self.spawn_small(Box::pin(work));
    }

    /// The same for work that is cheap to move.
    pub(crate) fn spawn_small(&self, work: impl Future<Output = ()> + 'static) {
        self.0.running.set(self.0.running.get() + 1);
        tokio::task::spawn_local(Counted { work, running: Running(self.0.clone()) });
    }

    /// How many tasks run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.running.get()
    }

    /// Waits until no task runs.
    pub async fn idle(&self) {
        until(&self.0.idle, || self.0.running.get() == 0).await;
    }
}
