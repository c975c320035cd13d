//! Actors, messages and replies.

use std::fmt;

use tokio::sync::oneshot;

use crate::cell::Cx;
use crate::op::OpCtx;
use crate::permit::Permit;

/// A message: one struct each. Commands are imperative, queries begin with `Inspect` or `List`, events are
/// in the past tense, timers end in `Due`.
pub trait Message: Send + 'static {
    /// What the receiver answers; `()` for events and timers.
    type Reply: Send + 'static;
    /// Its name in traces.
    const NAME: &'static str;
}

/// Implements [`Message`] for a list of types: `messages! { CreateEndpoint => Result<Snapshot>; … }`.
#[macro_export]
macro_rules! messages {
    ($($name:ident => $reply:ty;)+) => {$(
        impl $crate::Message for $name {
            type Reply = $reply;
            const NAME: &'static str = stringify!($name);
        }
    )+};
}

/// Something that owns state and handles one message at a time.
pub trait Actor: Sized + Unpin + 'static {
    /// Its kind, for traces.
    const KIND: &'static str;

    /// Called once, before the first message.
    fn started(&mut self, cx: &mut Cx<'_, Self>) {
        let _ = cx;
    }
}

/// Makes an actor panic, as a bug in one of its handlers would: fault injection for harnesses. Every actor
/// takes it.
#[derive(Clone, Copy, Debug)]
pub struct Crash;

impl Message for Crash {
    type Reply = ();
    const NAME: &'static str = "Crash";
}

impl<A: Actor> Handle<Crash> for A {
    fn handle(&mut self, _: OpCtx, _: Crash, _: Reply<()>, _: &mut Cx<'_, Self>) {
        panic!("a crash was asked for");
    }
}

/// Handles one kind of message.
///
/// A handler checks, records, and answers or starts work with [`Cx::run`]. It never waits.
pub trait Handle<M: Message>: Actor {
    /// Handles a message. Dropping `reply` without an answer tells the caller that the answer will never
    /// come ([`crate::AskError::Gone`]).
    fn handle(&mut self, op: OpCtx, message: M, reply: Reply<M::Reply>, cx: &mut Cx<'_, Self>);
}

/// The place where the answer goes: now, or later from wherever it was moved to.
#[must_use = "a dropped reply tells the caller that the answer will never come"]
pub struct Reply<T> {
    /// Given back before anybody learns of the answer, or of there being none: who is told asks again at once. So it
    /// is the first field, which is dropped first.
    permit: Option<Permit>,
    sender: Option<oneshot::Sender<T>>,
}

impl<T> Reply<T> {
    /// A reply and the end where the answer arrives.
    pub fn channel() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self { permit: None, sender: Some(sender) }, receiver)
    }

    /// A reply nobody waits for.
    pub(crate) fn none() -> Self {
        Self { permit: None, sender: None }
    }

    /// The same reply, with which a permit is given back.
    pub(crate) fn holding(self, permit: Option<Permit>) -> Self {
        Self { permit, ..self }
    }

    /// Answers. An answer nobody waits for any more is dropped: the work was done all the same.
    pub fn send(self, answer: T) {
        drop(self.permit);
        if let Some(sender) = self.sender {
            let _ = sender.send(answer);
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.sender.is_some() { "Reply(awaited)" } else { "Reply(nobody)" })
    }
}
