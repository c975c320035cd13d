//! Where an actor of this engine thread is found, whatever incarnation of it runs.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use crate::actor::{Actor, Handle, Message};
use crate::addr::{Addr, AskError};
use crate::op::OpCtx;

/// A name for an actor that may be restarted: whoever restarts it sets the new address, and every holder of
/// the port reaches the new incarnation.
pub struct Port<A: Actor>(Rc<Inner<A>>);

struct Inner<A: Actor> {
    addr: RefCell<Option<Addr<A>>>,
    incarnation: Cell<u64>,
}

impl<A: Actor> Port<A> {
    /// A port to this actor.
    #[must_use]
    pub fn new(addr: Addr<A>) -> Self {
        let port = Self::vacant();
        port.set(addr);
        port
    }

    /// A port behind which nobody is yet: asks of it are answered [`AskError::Gone`].
    #[must_use]
    pub fn vacant() -> Self {
        Self(Rc::new(Inner { addr: RefCell::new(None), incarnation: Cell::new(0) }))
    }

    /// Whoever is behind the port now.
    #[must_use]
    pub fn addr(&self) -> Option<Addr<A>> {
        self.0.addr.borrow().clone()
    }

    /// Points the port to a new incarnation.
    pub fn set(&self, addr: Addr<A>) {
        *self.0.addr.borrow_mut() = Some(addr);
    }

    /// Leaves the port without anybody behind it, because the actor died: what it knew is lost, also to
    /// those who asked it a moment ago. See [`Port::incarnation`].
    pub fn vacate(&self) {
        *self.0.addr.borrow_mut() = None;
        self.0.incarnation.set(self.0.incarnation.get() + 1);
    }

    /// Whether somebody lives behind it.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.addr.borrow().as_ref().is_some_and(Addr::is_alive)
    }

    /// Changes when the actor died: who was given something by an earlier incarnation, and relies on it
    /// being remembered, compares.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.0.incarnation.get()
    }

    /// Sends a command or a query, as [`Addr::ask`] does.
    ///
    /// # Errors
    /// As [`Addr::ask`].
    pub fn ask<M>(
        &self,
        op: &OpCtx,
        message: M,
    ) -> impl Future<Output = Result<M::Reply, AskError>> + Send + use<A, M>
    where
        M: Message,
        A: Handle<M>,
    {
        answer_of(self.0.addr.borrow().as_ref().map(|addr| addr.ask(op, message)))
    }

    /// Sends a command and waits for what becomes of it, as [`Addr::outcome`] does.
    ///
    /// # Errors
    /// As [`Addr::outcome`].
    pub fn outcome<M>(
        &self,
        op: &OpCtx,
        message: M,
    ) -> impl Future<Output = Result<M::Reply, AskError>> + Send + use<A, M>
    where
        M: Message,
        A: Handle<M>,
    {
        answer_of(self.0.addr.borrow().as_ref().map(|addr| addr.outcome(op, message)))
    }

    /// Sends a command that nobody waits for, as [`Addr::order`] does.
    pub fn order<M>(&self, op: &OpCtx, message: M)
    where
        M: Message,
        A: Handle<M>,
    {
        if let Some(addr) = &*self.0.addr.borrow() {
            addr.order(op, message);
        }
    }

    /// Sends an event, as [`Addr::tell`] does.
    pub fn tell<M>(&self, op: &OpCtx, message: M)
    where
        M: Message<Reply = ()>,
        A: Handle<M>,
    {
        if let Some(addr) = &*self.0.addr.borrow() {
            addr.tell(op, message);
        }
    }
}

/// What was asked, if somebody was there to be asked.
async fn answer_of<R>(asked: Option<impl Future<Output = Result<R, AskError>>>) -> Result<R, AskError> {
    match asked {
        Some(asked) => asked.await,
        None => Err(AskError::Gone),
    }
}

impl<A: Actor> Clone for Port<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: Actor> fmt::Debug for Port<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Port<{}>", A::KIND)
    }
}
