//! The engine's events: numbered, bounded, and honest with a reader that does not keep up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use netloom_model::{Event, EventKind, OpId};
use netloom_runtime::OpCtx;
use tokio::sync::broadcast;

/// Where events are put. Cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct EventHub {
    /// `None` is the end: handles keep a sender each, so that the channel does not close with the engine.
    sender: broadcast::Sender<Option<Event>>,
    last: Arc<AtomicU64>,
    closed: Arc<AtomicBool>,
}

/// A reader was too slow: this many events are lost to it. The next one is the oldest still kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missed(pub u64);

impl std::fmt::Display for Missed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "missed {} events", self.0)
    }
}

impl std::error::Error for Missed {}

/// A reader of events, from the moment of its subscription.
#[derive(Debug)]
pub struct EventStream {
    receiver: broadcast::Receiver<Option<Event>>,
    ended: bool,
}

impl EventHub {
    /// A hub that keeps `backlog` events for slow readers.
    #[must_use]
    pub fn new(backlog: usize) -> Self {
        Self { sender: broadcast::Sender::new(backlog), last: Arc::default(), closed: Arc::default() }
    }

    /// Emits an event. Never waits; without readers it goes nowhere, and behind the end too.
    pub fn emit(&self, op: &OpCtx, kind: EventKind) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        // Events are emitted on one engine thread, so numbers reach readers in order.
        let seq = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::debug!(target: "netloom::event", seq, op = %op.id, ?kind);
        let _ = self.sender.send(Some(Event { seq, op: Some(OpId(op.id)), kind }));
    }

    /// Ends every stream behind what was emitted so far, and those that are taken later at once. For when the
    /// engine's thread has ended.
    pub fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            let _ = self.sender.send(None);
        }
    }

    /// A new reader.
    #[must_use]
    pub fn subscribe(&self) -> EventStream {
        // In this order: whoever sees the hub open here is there when the end is sent.
        let receiver = self.sender.subscribe();
        EventStream { receiver, ended: self.closed.load(Ordering::Acquire) }
    }
}

impl EventStream {
    /// The next event; `None` when the engine was stopped or is gone.
    ///
    /// # Errors
    /// [`Missed`] when events were lost; reading goes on behind them.
    pub async fn next(&mut self) -> Option<Result<Event, Missed>> {
        if self.ended {
            return None;
        }
        match self.receiver.recv().await {
            Ok(Some(event)) => Some(Ok(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Err(Missed(missed))),
            Ok(None) | Err(broadcast::error::RecvError::Closed) => {
                self.ended = true;
                None
            }
        }
    }

    /// The same as a [`futures::Stream`].
    pub fn into_stream(self) -> impl futures::Stream<Item = Result<Event, Missed>> + Send {
        futures::stream::unfold(self, |mut events| async move {
            let event = events.next().await?;
            Some((event, events))
        })
    }
}
