//! What every handle shares: the engine's thread, its controller, and where things are.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use netloom_actor_controller::{ControllerActor, Directory, EventHub, ProvideWayOut};
use netloom_actor_sandbox::{OfferedWayOut, SandboxActor, WayOutOffer};
use netloom_kernel::{Kernel, LinkCounters, Netns};
use netloom_model::{
    ControllerId, EndpointId, EngineConfig, Error, IfName, NetworkId, OpId, Reason, Repair, Result, SandboxId,
};
use netloom_runtime::{
    Actor, Addr, AskError, Cause, EngineThread, Handle, Ledger, Message, OpCtx, Permit, Permits, TurnedAway,
};
use uuid::Uuid;

use crate::sandbox::Sandbox;

/// Everything a handle needs. One per engine.
pub(crate) struct Core {
    pub(crate) thread: EngineThread,
    pub(crate) directory: Directory,
    /// This start, unlike all others.
    pub(crate) engine: OpId,
    pub(crate) ledger: Ledger,
    pub(crate) events: EventHub,
    pub(crate) kernel: Arc<dyn Kernel>,
    pub(crate) id: ControllerId,
    pub(crate) identity: String,
    pub(crate) repairs: Vec<Repair>,
    /// All requests that change something are admitted here, whichever actor they are for.
    pub(crate) inside: Permits,
}

/// How much longer than its operation a caller waits at most. Whoever carries it out ends at the deadline,
/// undoes, and then says more than that it was late.
const LATE: Duration = Duration::from_secs(1);

/// How many deletions with force are let in beyond the limit.
const ROOM_FOR_FORCE: usize = 64;

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("config", &self.config()).finish_non_exhaustive()
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

    /// The configuration in force.
    pub(crate) fn config(&self) -> Arc<EngineConfig> {
        self.directory.config.borrow().clone()
    }

    /// How long an operation may take that begins now.
    fn allowed(&self) -> Duration {
        self.directory.config.borrow().timeouts.operation
    }

    /// Lets a request in; it leaves when it is answered, not when its caller does.
    fn enter(&self, room: usize) -> Result<Permit> {
        let limit = self.directory.config.borrow().limits.operations + room;
        self.inside.take(limit).map_err(|turned_away| match turned_away {
            TurnedAway::Full => Reason::Busy { what: "the engine".into(), limit }.into(),
            TurnedAway::Closed => Reason::ShuttingDown.into(),
        })
    }

    /// Asks an actor for something to be done, on the engine's thread: it is carried out whether or not the
    /// caller waits to the end.
    pub(crate) async fn ask<A, M, T>(&self, addr: Addr<A>, message: M) -> Result<T>
    where
        A: Handle<M>,
        M: Message<Reply = Result<T>>,
        T: Send + 'static,
    {
        let inside = self.enter(0)?;
        self.send(addr, message, self.allowed(), Some(inside)).await?
    }

    /// Asks a sandbox for something that may leave it without a way out, and has the network for that made where it is
    /// needed and missing: no sandbox asks the controller.
    pub(crate) async fn ask_with_way_out<M, T>(
        &self,
        sandbox: &Sandbox,
        request: impl Fn(WayOutOffer) -> M,
    ) -> Result<T>
    where
        SandboxActor: Handle<M>,
        M: Message<Reply = Result<T>>,
        T: Send + 'static,
    {
        let outcome = self.ask(sandbox.addr()?, request(self.way_out())).await;
        match outcome {
            Err(error) if matches!(error.reason(), Reason::NoWayOut { .. }) => {
                let (a, b) = fresh();
                let id = NetworkId::from_uuids(a, b);
                self.ask(self.controller()?, ProvideWayOut { id }).await?;
                self.ask(sandbox.addr()?, request(self.way_out())).await
            }
            outcome => outcome,
        }
    }

    /// What is there for a sandbox's way out.
    pub(crate) fn way_out(&self) -> WayOutOffer {
        let name = &self.config().gateway_network;
        match self.directory.network_names.get(name) {
            Some(network) => {
                let (a, b) = fresh();
                let endpoint = EndpointId::from_uuids(a, b);
                WayOutOffer::Offered(Box::new(OfferedWayOut { network: *network, endpoint }))
            }
            None => WayOutOffer::Missing { network: name.as_str().into() },
        }
    }

    /// The same for what makes room: it is let in when the engine is full of what is stuck.
    pub(crate) async fn ask_with_force<A, M, T>(&self, addr: Addr<A>, message: M) -> Result<T>
    where
        A: Handle<M>,
        M: Message<Reply = Result<T>>,
        T: Send + 'static,
    {
        let inside = self.enter(ROOM_FOR_FORCE)?;
        self.send(addr, message, self.allowed(), Some(inside)).await?
    }

    /// Asks an actor a question; those are always let in.
    pub(crate) async fn query<A, M>(&self, addr: Addr<A>, message: M) -> Result<M::Reply>
    where
        A: Handle<M>,
        M: Message,
    {
        self.query_within(addr, message, self.allowed()).await
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

    /// When a call of the kernel must have ended that nobody else makes for a handle.
    pub(crate) fn kernel_deadline(&self) -> std::time::Instant {
        std::time::Instant::now() + self.allowed()
    }

    /// What has passed these interfaces of a sandbox, in the order of `names`; `None` for one that is not there.
    pub(crate) async fn counters(
        &self,
        sandbox: SandboxId,
        names: Vec<IfName>,
    ) -> Result<Vec<Option<LinkCounters>>> {
        if self.directory.sandboxes.get(&sandbox).is_some_and(|entry| entry.host) {
            // Only endpoints without an interface are in there.
            return Ok(vec![None; names.len()]);
        }
        let netns = Netns::Named(sandbox.short().parse()?);
        Ok(self.kernel.link_counters(netns, names, self.kernel_deadline()).await?)
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
        if self.inside.is_closed() || self.thread.has_ended() {
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

#[cfg(test)]
mod tests {
    use netloom_actor_controller::{CreateNetwork, CreateSandbox, ShutdownMode};
    use netloom_actor_network::CreateEndpoint;
    use netloom_model::{EndpointId, EndpointSpec, NetworkId, NetworkSpec, SandboxSpec};
    use netloom_testkit::{Fault, FaultKind};

    use super::*;
    use crate::network::Network;
    use crate::{Engine, ErrorKind};

    /// Its caller's thread was taken off between being let in and sending: what it sends comes behind the shutdown.
    #[tokio::test]
    async fn who_was_let_in_is_waited_for_by_a_shutdown_that_came_first() {
        for mode in [ShutdownMode::Graceful, ShutdownMode::Immediate] {
            let simulation = Engine::simulated().await.expect("started");
            let (engine, core) = (simulation.engine(), simulation.engine().core());
            let blue = engine.controller().create_network(NetworkSpec::new("blue")).await.expect("made");

            let [network, sandbox, endpoint] = std::array::from_fn(|_| core.enter(0).expect("open"));
            let mut stopping = Box::pin(engine.shutdown(mode));
            assert!(futures::poll!(&mut stopping).is_pending());
            assert_eq!(core.enter(0).expect_err("closed").kind(), ErrorKind::Unavailable);
            // Answered behind the shutdown, by the store: it is not closed.
            engine.store_stats().await.expect("counters are told to the end");

            let controller = core.controller().expect("it lives");
            let allowed = core.allowed();
            let (a, b) = fresh();
            let red = CreateNetwork { id: NetworkId::from_uuids(a, b), spec: NetworkSpec::new("red") };
            let red = core.send(controller.clone(), red, allowed, Some(network));
            let made = CreateSandbox { id: SandboxId::from_uuids(a, b), spec: SandboxSpec::new("c") };
            let sandbox = core.send(controller, made, allowed, Some(sandbox));
            let created =
                CreateEndpoint { endpoint: EndpointId::from_uuids(a, b), spec: EndpointSpec::new("e") };
            let addr = Network::addr(core, blue.id()).expect("it lives");
            let endpoint = core.send(addr, created, allowed, Some(endpoint));
            let all = async {
                [
                    red.await.expect("answered").map(drop),
                    sandbox.await.expect("answered").map(drop),
                    endpoint.await.expect("answered").map(drop),
                ]
            };
            let (stopped, outcomes) = tokio::join!(stopping, all);
            stopped.expect("stopped");
            for outcome in outcomes {
                match mode {
                    ShutdownMode::Graceful => outcome.expect("carried out"),
                    ShutdownMode::Immediate => assert!(
                        matches!(outcome.expect_err("not begun").reason(), Reason::ShuttingDown),
                        "nothing begins any more"
                    ),
                }
            }
            let simulation = simulation.kill_and_restart().await.expect("started");
            assert_eq!(simulation.engine().repairs(), []);
            let expected = if mode == ShutdownMode::Graceful { 2 } else { 1 };
            assert_eq!(simulation.engine().controller().networks().len(), expected);
        }
    }

    /// An actor that dies while the engine ends is started again for those that were let in.
    #[tokio::test]
    async fn who_was_let_in_finds_its_network_also_when_that_dies_meanwhile() {
        let simulation = Engine::simulated().await.expect("started");
        let (engine, core) = (simulation.engine(), simulation.engine().core());
        let blue = engine.controller().create_network(NetworkSpec::new("blue")).await.expect("made");
        let inside = core.enter(0).expect("open");
        let mut stopping = Box::pin(engine.shutdown(ShutdownMode::Graceful));
        assert!(futures::poll!(&mut stopping).is_pending());
        engine.store_stats().await.expect("answered behind the shutdown");
        simulation.crash_actor(netloom_actor_controller::Victim::Network(blue.id())).await.expect("told");
        let allowed = core.allowed();
        let picture = async {
            while blue.inspect().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(allowed, picture).await.expect("it is started again");
        let (a, b) = fresh();
        let create = CreateEndpoint { endpoint: EndpointId::from_uuids(a, b), spec: EndpointSpec::new("e") };
        let addr = Network::addr(core, blue.id()).expect("it lives");
        let created = core.send(addr, create, allowed, Some(inside));
        let (stopped, created) = tokio::join!(stopping, created);
        stopped.expect("stopped");
        created.expect("answered").expect("carried out");
    }

    /// It was let in and handed to its sandbox, which has not looked at it when everybody is asked to stop.
    #[tokio::test]
    async fn what_has_not_begun_when_everybody_is_asked_to_stop_is_stopped_as_well() {
        let simulation = Engine::simulated().await.expect("started");
        let (engine, core) = (simulation.engine(), simulation.engine().core());
        simulation.kernel().plan(Fault::verb("create_netns", 1, FaultKind::Hang).always());
        // While the engine's thread is held up, both requests are put behind each other.
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let mut held = Box::pin(core.thread.call(move || {
            let _ = gone.recv();
            std::future::ready(())
        }));
        assert!(futures::poll!(&mut held).is_pending());
        let controller = engine.controller();
        let mut sandbox = Box::pin(controller.create_sandbox(SandboxSpec::new("c")));
        assert!(futures::poll!(&mut sandbox).is_pending());
        let mut stopping = Box::pin(engine.shutdown(ShutdownMode::Immediate));
        assert!(futures::poll!(&mut stopping).is_pending());
        drop(go);
        held.await.expect("it lives");
        let soon = core.config().timeouts.shutdown / 3;
        let both = async { tokio::join!(stopping, sandbox) };
        let (stopped, sandbox) = tokio::time::timeout(soon, both).await.expect("nobody waits for what hangs");
        stopped.expect("stopped");
        assert_eq!(sandbox.expect_err("stopped").kind(), ErrorKind::Unavailable);
    }
}
