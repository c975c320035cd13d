//! Owns one driver. Rank 2. Spawned by the controller; asks the firewall, on the driver's behalf.
//!
//! | message | kind | answers with |
//! |---|---|---|
//! | SurveyDriverNetwork | query | what is there |
//! | CreateDriverNetwork | command | NetworkCreated |
//! | DeleteDriverNetwork | command | () |
//! | CreateDriverEndpoint | command | EndpointCreated |
//! | DeleteDriverEndpoint | command | () |
//! | InspectDriverEndpoint | query | OperInfo |
//! | DesireDriverNetwork | query | DesiredObjects |
//! | JoinDriverEndpoint | command | Joined |
//! | LeaveDriverEndpoint | command | Left |
//! | ProgramConnectivity | command | () |
//! | RevokeConnectivity | command | () |
//! | Discovered | event | |
//! | TableChanged | event | |
//! | WorkFailed | outcome | |
//!
//! The driver decides in the handler; the slow part runs beside the actor, so one driver serves any number
//! of operations at once and a hanging one holds up nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::FutureExt;
use netloom_actor_services::firewall::FirewallActor;
use netloom_actor_services::ports::PortsActor;
use netloom_drivers::{Begun, Driver, DriverCx, Programmed, Restored, Work, done};
use netloom_kernel::Kernel;
use netloom_model::{EndpointId, Error, NetworkId, Reason, Result};
use netloom_runtime::{Actor, Cx, Handle, OpCtx, Port, Reply, TaskGroup, messages};

use crate::message::{
    CreateDriverEndpoint, CreateDriverNetwork, DeleteDriverEndpoint, DeleteDriverNetwork, Discovered,
    InspectDriverEndpoint, JoinDriverEndpoint, LeaveDriverEndpoint, ProgramConnectivity, RevokeConnectivity,
    SurveyDriverNetwork, TableChanged,
};

use crate::outside::Reach;

// === Actor ===

/// What every driver actor works with.
#[derive(Clone, Debug)]
pub struct DriverDeps {
    /// The kernel, handed on to the driver.
    pub kernel: Arc<dyn Kernel>,
    /// The engine's instance name, for the tags of kernel objects.
    pub instance: Arc<str>,
    /// The firewall, handed on to the driver.
    pub firewall: Port<FirewallActor>,
    /// The ports of the host, handed on to the driver.
    pub ports: Port<PortsActor>,
    /// Where the driver's slow work is counted.
    pub tasks: TaskGroup,
}

/// The actor around one driver.
pub struct DriverActor {
    pub(crate) driver: Box<dyn Driver>,
    deps: DriverDeps,
}

impl fmt::Debug for DriverActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DriverActor({})", self.driver.kind())
    }
}

impl DriverActor {
    /// An actor for this driver.
    #[must_use]
    pub fn new(driver: Box<dyn Driver>, deps: DriverDeps) -> Self {
        Self { driver, deps }
    }

    pub(crate) fn cx(&self, op: &OpCtx) -> DriverCx {
        DriverCx {
            kernel: self.deps.kernel.clone(),
            instance: self.deps.instance.clone(),
            outside: Arc::new(Reach {
                firewall: self.deps.firewall.addr(),
                ports: self.deps.ports.addr(),
                kernel: self.deps.kernel.clone(),
                op: op.clone(),
            }),
            deadline: op.deadline_std(),
        }
    }

    /// Answers with the driver's decision, or runs its slow part and answers with that.
    fn answer<T: Send + 'static>(&self, op: &OpCtx, begun: Begun<T>, reply: Reply<Result<T>>) {
        match begun {
            Err(refusal) => reply.send(Err(refusal)),
            Ok(work) => {
                let kind = self.driver.kind();
                match at_once(work, kind) {
                    Ok(answer) => reply.send(answer),
                    Err(work) => {
                        let (op, kind) = (op.clone(), kind.to_owned());
                        self.deps.tasks.spawn(async move { reply.send(finish(&op, &kind, work).await) });
                    }
                }
            }
        }
    }

    /// The same for a creation: when its slow part fails, what it decided is taken back before the answer.
    /// What was to be restored is only forgotten: it exists in the kernel, and containers use it.
    fn answer_or_take_back<T: Send + 'static>(
        &self,
        op: &OpCtx,
        begun: Begun<T>,
        reply: Reply<Result<T>>,
        (object, restored): (Created, Restored),
        cx: &Cx<'_, Self>,
    ) {
        let work = match begun {
            Err(refusal) => return reply.send(Err(refusal)),
            Ok(work) => work,
        };
        let work = match at_once(work, self.driver.kind()) {
            Ok(Ok(value)) => return reply.send(Ok(value)),
            Ok(Err(error)) => std::future::ready(Err(error)).boxed(),
            Err(work) => work,
        };
        let (me, op, kind) = (cx.me(), op.clone(), self.driver.kind().to_owned());
        self.deps.tasks.spawn(async move {
            match finish(&op, &kind, work).await {
                Ok(value) => reply.send(Ok(value)),
                Err(error) => {
                    let undo = op.for_undo(std::time::Duration::from_secs(10));
                    let taken_back = me.outcome(&undo, WorkFailed(object, restored)).await;
                    let clean = matches!(taken_back, Ok(Ok(())));
                    reply.send(Err(match restored {
                        // What it did to the kernel before it failed stays.
                        Restored::FromStore => error,
                        Restored::Fresh if clean => error.unwound(),
                        // Taking back failed too, so the caller must try again: only `Uncertain` makes it.
                        Restored::Fresh => error.uncertain(),
                    }));
                }
            }
        });
    }

    fn take_back(&mut self, op: &OpCtx, object: Created) -> Begun<()> {
        let cx = self.cx(op);
        match object {
            Created::Network(network) => self.driver.delete_network(&cx, network),
            Created::Endpoint(network, endpoint) => self.driver.delete_endpoint(&cx, network, endpoint),
        }
    }

    fn forget(&mut self, object: Created) {
        match object {
            Created::Network(network) => self.driver.forget_network(network),
            Created::Endpoint(network, endpoint) => self.driver.forget_endpoint(network, endpoint),
        }
    }
}

/// The answer of work that is done already, or the work. Most decisions of drivers have no slow part, and a task
/// for each would cost more than they do. What has one is begun here and goes on in its task.
fn at_once<T>(mut work: Work<T>, kind: &str) -> Result<Result<T>, Work<T>> {
    let mut nobody = Context::from_waker(Waker::noop());
    match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut nobody))) {
        Ok(Poll::Ready(answer)) => Ok(answer),
        Ok(Poll::Pending) => Err(work),
        Err(_) => Ok(Err(died(kind))),
    }
}

fn died(kind: &str) -> Error {
    Error::internal(format!("driver {kind:?} panicked")).uncertain()
}

/// Runs a driver's slow part, to the operation's deadline at the longest.
async fn finish<T>(op: &OpCtx, kind: &str, work: Work<T>) -> Result<T> {
    let allowed = op.remaining();
    match tokio::time::timeout_at(op.deadline, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(died(kind)),
        Err(_) => Err(Reason::DeadlineExceeded { what: format!("driver {kind:?}"), waited: allowed }.into()),
    }
}

/// Something whose creation failed half-way.
#[derive(Clone, Copy, Debug)]
enum Created {
    Network(NetworkId),
    Endpoint(NetworkId, EndpointId),
}

struct WorkFailed(Created, Restored);

messages! {
    WorkFailed => Result<()>;
}

// === Lifecycle ===

impl Actor for DriverActor {
    const KIND: &'static str = "driver";
}

// === Commands ===

impl Handle<CreateDriverNetwork> for DriverActor {
    fn handle(
        &mut self,
        op: OpCtx,
        CreateDriverNetwork(request): CreateDriverNetwork,
        reply: Reply<Result<netloom_drivers::NetworkCreated>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let object = (Created::Network(request.network), request.restored);
        let begun = self.driver.create_network(&self.cx(&op), request);
        self.answer_or_take_back(&op, begun, reply, object, cx);
    }
}

impl Handle<DeleteDriverNetwork> for DriverActor {
    fn handle(
        &mut self,
        op: OpCtx,
        DeleteDriverNetwork(network): DeleteDriverNetwork,
        reply: Reply<Result<()>>,
        _: &mut Cx<'_, Self>,
    ) {
        let begun = self.driver.delete_network(&self.cx(&op), network);
        self.answer(&op, begun, reply);
    }
}

impl Handle<CreateDriverEndpoint> for DriverActor {
    fn handle(
        &mut self,
        op: OpCtx,
        CreateDriverEndpoint(request): CreateDriverEndpoint,
        reply: Reply<Result<netloom_drivers::EndpointCreated>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let object = (Created::Endpoint(request.network, request.endpoint), request.restored);
        let begun = self.driver.create_endpoint(&self.cx(&op), request);
        self.answer_or_take_back(&op, begun, reply, object, cx);
    }
}

impl Handle<DeleteDriverEndpoint> for DriverActor {
    fn handle(
        &mut self,
        op: OpCtx,
        DeleteDriverEndpoint(network, endpoint): DeleteDriverEndpoint,
        reply: Reply<Result<()>>,
        _: &mut Cx<'_, Self>,
    ) {
        let begun = self.driver.delete_endpoint(&self.cx(&op), network, endpoint);
        self.answer(&op, begun, reply);
    }
}

impl Handle<JoinDriverEndpoint> for DriverActor {
    fn handle(
        &mut self,
        op: OpCtx,
        JoinDriverEndpoint(request): JoinDriverEndpoint,
        reply: Reply<Result<netloom_drivers::Joined>>,
        _: &mut Cx<'_, Self>,
    ) {
        let work = match self.driver.join(&self.cx(&op), request) {
            Err(refusal) => return reply.send(Err(refusal)),
            Ok(work) => work,
        };
        let work = match at_once(work, self.driver.kind()) {
            Ok(answer) => return reply.send(answer.map_err(Error::uncertain)),
            Err(work) => work,
        };
        let (op, kind) = (op.clone(), self.driver.kind().to_owned());
        self.deps.tasks.spawn(async move {
            // The driver has noted the join, so it must be told that it failed. What a leave leaves behind is
            // the caller's to remove, and so this one is the caller's too: only `Uncertain` makes it.
            reply.send(finish(&op, &kind, work).await.map_err(Error::uncertain));
        });
    }
}

impl Handle<LeaveDriverEndpoint> for DriverActor {
    fn handle(
        &mut self,
        op: OpCtx,
        LeaveDriverEndpoint(request): LeaveDriverEndpoint,
        reply: Reply<Result<netloom_drivers::Left>>,
        _: &mut Cx<'_, Self>,
    ) {
        let begun = self.driver.leave(&self.cx(&op), request);
        self.answer(&op, begun, reply);
    }
}

impl Handle<ProgramConnectivity> for DriverActor {
    fn handle(
        &mut self,
        op: OpCtx,
        ProgramConnectivity(request): ProgramConnectivity,
        reply: Reply<Result<Programmed>>,
        _: &mut Cx<'_, Self>,
    ) {
        let begun = self.driver.program_external_connectivity(&self.cx(&op), request);
        self.answer(&op, begun, reply);
    }
}

impl Handle<RevokeConnectivity> for DriverActor {
    fn handle(
        &mut self,
        op: OpCtx,
        RevokeConnectivity(network, endpoint): RevokeConnectivity,
        reply: Reply<Result<()>>,
        _: &mut Cx<'_, Self>,
    ) {
        let begun = self.driver.revoke_external_connectivity(&self.cx(&op), network, endpoint);
        self.answer(&op, begun, reply);
    }
}

// === Queries ===

impl Handle<SurveyDriverNetwork> for DriverActor {
    fn handle(
        &mut self,
        op: OpCtx,
        SurveyDriverNetwork(request): SurveyDriverNetwork,
        reply: Reply<Result<BTreeMap<String, String>>>,
        _: &mut Cx<'_, Self>,
    ) {
        let begun = self.driver.survey_network(&self.cx(&op), &request);
        self.answer(&op, begun, reply);
    }
}

impl Handle<InspectDriverEndpoint> for DriverActor {
    fn handle(
        &mut self,
        op: OpCtx,
        InspectDriverEndpoint(network, endpoint): InspectDriverEndpoint,
        reply: Reply<Result<netloom_drivers::OperInfo>>,
        _: &mut Cx<'_, Self>,
    ) {
        let begun = self.driver.endpoint_info(&self.cx(&op), network, endpoint);
        self.answer(&op, begun, reply);
    }
}

// === Outcomes ===

impl Handle<WorkFailed> for DriverActor {
    fn handle(
        &mut self,
        op: OpCtx,
        WorkFailed(object, restored): WorkFailed,
        reply: Reply<Result<()>>,
        _: &mut Cx<'_, Self>,
    ) {
        let begun = match restored {
            Restored::Fresh => self.take_back(&op, object),
            Restored::FromStore => {
                self.forget(object);
                done(())
            }
        };
        self.answer(&op, begun, reply);
    }
}

// === Events ===

impl Handle<Discovered> for DriverActor {
    fn handle(&mut self, op: OpCtx, Discovered(discovery): Discovered, _: Reply<()>, _: &mut Cx<'_, Self>) {
        let begun = self.driver.discovered(&self.cx(&op), discovery);
        self.answer(&op, begun, Reply::channel().0);
    }
}

impl Handle<TableChanged> for DriverActor {
    fn handle(&mut self, op: OpCtx, TableChanged(event): TableChanged, _: Reply<()>, _: &mut Cx<'_, Self>) {
        let begun = self.driver.table_event(&self.cx(&op), event);
        self.answer(&op, begun, Reply::channel().0);
    }
}
