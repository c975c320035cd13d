//! Addresses of actors, and asking.

use std::fmt;
use std::sync::Arc;

use actix::Addr as ActixAddr;

use crate::actor::{Actor, Handle, Message, Reply};
use crate::cell::{Envelope, Shell};
use crate::op::OpCtx;

/// Why an ask was not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AskError {
    /// The actor is gone, or it gave up the reply. The message may have been handled.
    Gone,
    /// The deadline passed. The message may still be handled.
    Timeout,
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "the receiver is gone",
            Self::Timeout => "no answer before the deadline",
        })
    }
}

impl std::error::Error for AskError {}

/// Where to send messages for one incarnation of an actor. Handles that outlive an actor keep its name and
/// look the address up for each ask.
///
/// Shared by its clones: each address of actix's own has two allocations.
pub struct Addr<A: Actor>(pub(crate) Arc<ActixAddr<Shell<A>>>);

impl<A: Actor> Clone for Addr<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<A: Actor> fmt::Debug for Addr<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Addr<{}>", A::KIND)
    }
}

impl<A: Actor> Addr<A> {
    /// Sends a command or a query and waits for the answer, until the operation's deadline at the longest.
    ///
    /// The message is sent when this is called, not when the future is polled, and it is handled whether or
    /// not anybody still waits: a caller that leaves never makes a teardown disappear.
    ///
    /// # Errors
    /// [`AskError`]: either way the message may have been handled.
    pub fn ask<M>(
        &self,
        op: &OpCtx,
        message: M,
    ) -> impl Future<Output = Result<M::Reply, AskError>> + Send + use<A, M>
    where
        M: Message,
        A: Handle<M>,
    {
        let deadline = op.deadline;
        let outcome = self.outcome(op, message);
        async move { tokio::time::timeout_at(deadline, outcome).await.unwrap_or(Err(AskError::Timeout)) }
    }

    /// Sends a command like [`Addr::ask`], and waits for what becomes of it beyond the operation's deadline.
    ///
    /// This is for whoever keeps state about the outcome: giving up while the receiver is still at it would
    /// leave the two with different pictures. The receiver bounds its work by the same deadline, and the
    /// caller at the top has its own answer by then.
    ///
    /// # Errors
    /// [`AskError::Gone`], never [`AskError::Timeout`].
    pub fn outcome<M>(
        &self,
        op: &OpCtx,
        message: M,
    ) -> impl Future<Output = Result<M::Reply, AskError>> + Send + use<A, M>
    where
        M: Message,
        A: Handle<M>,
    {
        let (reply, answer) = Reply::channel();
        // `do_send`, not `send`: a request of actix's own is skipped when its sender has gone away.
        self.0.do_send(Envelope { op: op.clone(), message, reply });
        async move { answer.await.map_err(|_| AskError::Gone) }
    }

    /// Hands a request on: whoever asked is answered by this actor.
    pub fn forward<M>(&self, op: &OpCtx, message: M, reply: Reply<M::Reply>)
    where
        M: Message,
        A: Handle<M>,
    {
        self.0.do_send(Envelope { op: op.clone(), message, reply });
    }

    /// Sends a command that cannot fail, or whose failure is its receiver's to see to; nobody waits for it.
    pub fn order<M>(&self, op: &OpCtx, message: M)
    where
        M: Message,
        A: Handle<M>,
    {
        self.0.do_send(Envelope { op: op.clone(), message, reply: Reply::none() });
    }

    /// Sends an event or a timer; nobody waits for it.
    pub fn tell<M>(&self, op: &OpCtx, message: M)
    where
        M: Message<Reply = ()>,
        A: Handle<M>,
    {
        self.0.do_send(Envelope { op: op.clone(), message, reply: Reply::none() });
    }

    /// Whether the actor still takes messages.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.connected()
    }
}
