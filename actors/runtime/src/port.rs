//! Where an actor of this engine thread is found, whatever incarnation of it runs.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use crate::actor::{Actor, Handle, Message};
use crate::addr::{Addr, AskError};
use crate::op::OpCtx;

/// A name for an actor that may be restarted: whoever restarts it sets the new address, and every holder of
/// the port reaches the new incarnation.
pub struct Port<A: Actor>(Rc<RefCell<Option<Addr<A>>>>);

impl<A: Actor> Port<A> {
    /// A port to this actor.
    #[must_use]
    pub fn new(addr: Addr<A>) -> Self {
        Self(Rc::new(RefCell::new(Some(addr))))
    }

    /// A port behind which nobody is yet: asks of it are answered [`AskError::Gone`].
    #[must_use]
    pub fn vacant() -> Self {
        Self(Rc::default())
    }

    /// Points the port to a new incarnation.
    pub fn set(&self, addr: Addr<A>) {
        *self.0.borrow_mut() = Some(addr);
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
        let asked = self.0.borrow().as_ref().map(|addr| addr.ask(op, message));
        async move {
            match asked {
                Some(asked) => asked.await,
                None => Err(AskError::Gone),
            }
        }
    }

    /// Sends an event, as [`Addr::tell`] does.
    pub fn tell<M>(&self, op: &OpCtx, message: M)
    where
        M: Message<Reply = ()>,
        A: Handle<M>,
    {
        if let Some(addr) = &*self.0.borrow() {
            addr.tell(op, message);
        }
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
