//! The cell an actor lives in: the one place where our vocabulary meets actix's.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};

use actix::AsyncContext;
use actix::prelude::{ActorContext, Context};
use futures::FutureExt;
use tracing::Instrument;

use crate::actor::{Actor, Handle, Message, Reply};
use crate::addr::Addr;
use crate::exit::{Exit, ExitGuard};
use crate::op::OpCtx;
use crate::tasks::{Panicked, TaskGroup};

/// The actix actor around ours.
#[derive(Debug)]
pub(crate) struct Shell<A: Actor> {
    actor: A,
    tasks: TaskGroup,
    /// Its own address, as long as somebody else has it too: an actor ends with its last address.
    me: Weak<actix::Addr<Shell<A>>>,
}

/// The actix message around ours.
pub(crate) struct Envelope<M: Message> {
    pub(crate) op: OpCtx,
    pub(crate) message: M,
    pub(crate) reply: Reply<M::Reply>,
}

impl<A: Actor> actix::Actor for Shell<A> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Self { actor, tasks, me } = self;
        actor.started(&mut Cx { ctx, tasks, me });
    }

    // No `stopped`: after a panic actix runs it while unwinding. Exits are reported by `spawn`.
}

impl<M: Message> actix::Message for Envelope<M> {
    type Result = ();
}

impl<A: Handle<M>, M: Message> actix::Handler<Envelope<M>> for Shell<A> {
    type Result = ();

    fn handle(&mut self, envelope: Envelope<M>, ctx: &mut Self::Context) {
        let Envelope { op, message, reply } = envelope;
        let span = op.span.clone();
        let _entered = span.enter();
        tracing::trace!(actor = A::KIND, message = M::NAME, "handling");
        let Self { actor, tasks, me } = self;
        actor.handle(op, message, reply, &mut Cx { ctx, tasks, me });
    }
}

/// What a handler can do beside changing its state.
pub struct Cx<'a, A: Actor> {
    ctx: &'a mut Context<Shell<A>>,
    tasks: &'a TaskGroup,
    me: &'a Weak<actix::Addr<Shell<A>>>,
}

impl<A: Actor> std::fmt::Debug for Cx<'_, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cx<{}>", A::KIND)
    }
}

impl<A: Actor> Cx<'_, A> {
    /// The actor's own address.
    #[must_use]
    pub fn me(&self) -> Addr<A> {
        Addr(self.me.upgrade().unwrap_or_else(|| Arc::new(self.ctx.address())))
    }

    /// Starts work beside the actor. Its end comes back as the message that `finished` makes of it, also
    /// when the work panicked; the actor's state changes there and nowhere else.
    ///
    /// The work is a task of its own: it outlives the actor, and whoever restarts the actor waits for it
    /// first.
    pub fn run<T, M>(
        &mut self,
        op: &OpCtx,
        work: impl Future<Output = T> + 'static,
        finished: impl FnOnce(Result<T, Panicked>) -> M + 'static,
    ) where
        T: 'static,
        M: Message<Reply = ()>,
        A: Handle<M>,
    {
        let (me, op) = (self.me(), op.clone());
        let span = op.span.clone();
        // Each layer around a saga would move all of it, so it is boxed by itself.
        let work = Box::pin(work);
        let work = async move {
            let outcome =
                AssertUnwindSafe(work).catch_unwind().await.map_err(|payload| Panicked::new(&*payload));
            me.tell(&op, finished(outcome));
        };
        // Most often nobody traces, and then there is nothing to enter at each poll.
        if span.is_none() {
            self.tasks.spawn_small(work);
        } else {
            self.tasks.spawn(work.instrument(span));
        }
    }

    /// Ends the actor after this handler. Messages already waiting are dropped, so their callers learn that
    /// it is gone.
    pub fn stop(&mut self) {
        self.ctx.stop();
    }

    /// The tasks that this incarnation of the actor started.
    #[must_use]
    pub fn tasks(&self) -> TaskGroup {
        self.tasks.clone()
    }
}

/// Starts an actor on this engine thread and returns its address and the group of its tasks. `on_exit` is
/// called once, when the actor has stopped or panicked.
///
/// Must be called on an [`crate::EngineThread`] (any tokio `LocalRuntime` or `LocalSet` will do).
pub fn spawn<A: Actor>(actor: A, on_exit: impl FnOnce(Exit) + 'static) -> (Addr<A>, TaskGroup) {
    // Capacity 0 is unbounded and strictly first-in first-out. Any bound of actix reorders messages and
    // holds nobody back (`tests/substrate.rs`); admission is the gate's business.
    let (sender, receiver) = actix::dev::channel::channel(0);
    let addr = Addr(Arc::new(actix::Addr::new(sender)));
    let tasks = TaskGroup::default();
    let shell = Shell { actor, tasks: tasks.clone(), me: Arc::downgrade(&addr.0) };
    // Boxed: the runtime moves what it is given.
    let life = Box::pin(Context::with_receiver(receiver).into_future(shell));
    let guard = ExitGuard::new(A::KIND, on_exit);
    tokio::task::spawn_local(async move {
        let outcome = AssertUnwindSafe(life).catch_unwind().await;
        guard.report(outcome.err().map(|payload| Panicked::new(&*payload)));
    });
    (addr, tasks)
}
