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

impl<E> EventSink<E> {
    /// A fact that is to be emitted whatever happens to whoever applies it: when this is dropped.
    #[must_use = "the fact is emitted when this is dropped"]
    pub fn fact(&self, op: &OpCtx, event: E) -> Fact<E> {
        Fact { sink: self.clone(), op: op.clone(), event: Some(event) }
    }
}

/// A fact on its way to the actor that owns it. The actor applies it and drops this; when the actor has died
/// meanwhile, the message that carries this is dropped instead, and the fact is emitted all the same.
pub struct Fact<E> {
    sink: EventSink<E>,
    op: OpCtx,
    event: Option<E>,
}

impl<E> Drop for Fact<E> {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            self.sink.emit(&self.op, event);
        }
    }
}

impl<E: fmt::Debug> fmt::Debug for Fact<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fact").field(&self.event).finish()
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
