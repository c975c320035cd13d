//! Facts that go up: no reply, no wait, and no knowledge of who listens.

use std::fmt;
use std::sync::Arc;

use crate::op::OpCtx;

/// Where an actor puts the facts it emits. Whoever made the actor decides where they go.
pub struct EventSink<E>(Arc<Deliver<E>>);

type Deliver<E> = dyn Fn(&OpCtx, E) + Send + Sync;

impl<E> EventSink<E> {
    /// A sink that hands every fact to `deliver`, which must not wait.
    pub fn new(deliver: impl Fn(&OpCtx, E) + Send + Sync + 'static) -> Self {
        Self(Arc::new(deliver))
    }

    /// Emits a fact.
    pub fn emit(&self, op: &OpCtx, event: E) {
        (self.0)(op, event);
    }
}

impl<E> Clone for EventSink<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E> fmt::Debug for EventSink<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventSink")
    }
}
