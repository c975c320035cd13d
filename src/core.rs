//! What every handle shares: the engine's thread, its controller, and where things are.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netloom_actor_controller::{ControllerActor, Directory, EventHub};
use netloom_kernel::Kernel;
use netloom_model::{EngineConfig, Error, Reason, Repair, Result};
use netloom_runtime::{
    Actor, Addr, AskError, Cause, EngineThread, Handle, Ledger, Message, OpCtx, Permit, Permits,
};
use uuid::Uuid;

/// Everything a handle needs. One per engine.
pub(crate) struct Core {
    pub(crate) thread: EngineThread,
    pub(crate) directory: Directory,
    pub(crate) ledger: Ledger,
    pub(crate) events: EventHub,
    pub(crate) kernel: Arc<dyn Kernel>,
    pub(crate) config: EngineConfig,
    pub(crate) identity: String,
    pub(crate) repairs: Vec<Repair>,
    pub(crate) door: Door,
}

/// How much longer than its operation a caller waits at most. Whoever carries it out ends at the deadline,
/// undoes, and then says more than that it was late.
const LATE: Duration = Duration::from_secs(1);

/// Where requests are admitted: all of them pass here, whichever actor they are for.
#[derive(Debug, Default)]
pub(crate) struct Door {
    inside: Permits,
    closed: AtomicBool,
}

impl Door {
    /// Lets a request in; it leaves when it is answered, not when its caller does.
    fn enter(&self, limit: usize) -> Result<Permit> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Reason::ShuttingDown.into());
        }
        self.inside.take(limit).ok_or_else(|| Reason::Busy { what: "the engine".into(), limit }.into())
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Core {
    /// The present controller.
    pub(crate) fn controller(&self) -> Result<Addr<ControllerActor>> {
        match self.directory.controller.get(&()) {
            Some(addr) => Ok((*addr).clone()),
            None => Err(self.gone::<ControllerActor>()),
        }
    }

    /// Lets nobody in any more.
    pub(crate) fn close(&self) {
        self.door.closed.store(true, Ordering::Release);
    }

    /// Asks an actor for something to be done, on the engine's thread: it is carried out whether or not the
    /// caller waits to the end.
    pub(crate) async fn ask<A, M, T>(&self, addr: Addr<A>, message: M) -> Result<T>
    where
        A: Handle<M>,
        M: Message<Reply = Result<T>>,
        T: Send + 'static,
    {
        let inside = self.door.enter(self.config.limits.operations)?;
        self.send(addr, message, self.config.timeouts.operation, Some(inside)).await?
    }

    /// Asks an actor a question; those are always let in.
    pub(crate) async fn query<A, M>(&self, addr: Addr<A>, message: M) -> Result<M::Reply>
    where
        A: Handle<M>,
        M: Message,
    {
        self.query_within(addr, message, self.config.timeouts.operation).await
    }

    /// The same with a deadline of its own.
    pub(crate) async fn query_within<A, M>(
        &self,
        addr: Addr<A>,
        message: M,
        allowed: Duration,
    ) -> Result<M::Reply>
    where
        A: Handle<M>,
        M: Message,
    {
        self.send(addr, message, allowed, None).await
    }

    async fn send<A, M>(
        &self,
        addr: Addr<A>,
        message: M,
        allowed: Duration,
        inside: Option<Permit>,
    ) -> Result<M::Reply>
    where
        A: Handle<M>,
        M: Message,
    {
        let op = OpCtx::new(Cause::Request, allowed);
        let (id, changes) = (op.id, inside.is_some());
        let end = op.deadline + LATE.min(allowed / 4);
        let lost = match self.thread.ask(addr, op, message, end, inside).await {
            Ok(answer) => return Ok(answer),
            Err(AskError::Gone) => self.gone::<A>(),
            Err(AskError::Timeout) => {
                Reason::DeadlineExceeded { what: self.late::<A>(id), waited: allowed }.into()
            }
        };
        // A question changes nothing.
        Err(if changes { lost.uncertain() } else { lost.unwound() })
    }

    /// What is late: the innermost part of the operation that is still under way.
    fn late<A: Actor>(&self, id: Uuid) -> String {
        let parts = self.ledger.list();
        let part = parts.iter().rfind(|part| part.id == id);
        part.map_or_else(
            || format!("the {}", A::KIND),
            |part| format!("{} of {}, at step {:?},", part.verb, part.object, part.step),
        )
    }

    /// Why somebody will not answer any more.
    fn gone<A: Actor>(&self) -> Error {
        if self.door.closed.load(Ordering::Acquire) || self.thread.has_ended() {
            return Reason::ShuttingDown.into();
        }
        Reason::Gone { who: format!("the {}, or whom it asked,", A::KIND) }.into()
    }
}

/// The two uuids that an identifier is made of. Version 4, all random: the first characters make file and
/// interface names, so they must differ.
pub(crate) fn fresh() -> (Uuid, Uuid) {
    (Uuid::new_v4(), Uuid::new_v4())
}
