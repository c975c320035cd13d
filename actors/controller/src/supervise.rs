//! What dies is started again: a new value, filled from the store, under the same name.
//!
//! Tasks of the dead incarnation are waited for first: they may still commit or undo. Three restarts a
//! minute, then the object is out of service, visibly, and everything else goes on.

use std::time::Duration;

use netloom_actor_network::Origin as NetworkOrigin;
use netloom_actor_network::{Establish as EstablishNetwork, MarkFailed as NetworkFailed, RestoreInDriver};
use netloom_actor_sandbox::Origin as SandboxOrigin;
use netloom_actor_sandbox::{Establish as EstablishSandbox, MarkFailed as SandboxFailed, NetworkRestarted};
use netloom_actor_services::Services;
use netloom_actor_services::answered;
use netloom_actor_services::store::LoadRecords;
use netloom_runtime::{Addr, Exit, Handle, TaskGroup};
use tokio::time::Instant;

use super::*;
use crate::reconcile::Records;

/// How much longer than an operation the tasks of a dead actor may still run before it is started again:
/// the time of an undo.
const LAST_UNDO: Duration = Duration::from_secs(15);
/// How long the kernel is given to let go of links that left a sandbox which is started again.
const REMAINS: Duration = Duration::from_secs(1);
/// How often the store is asked for a dead actor's records before its object is given up.
const READS: usize = 5;

/// What the store says about a dead actor's object: `None` when there is no record, because it was still
/// being created or just deleted.
pub(super) struct Reread<R> {
    record: Option<R>,
    /// The rest of it, as the first message of the new incarnation needs it.
    endpoints: Vec<netloom_model::record::EndpointRecord>,
    members: Vec<netloom_actor_sandbox::Member>,
}

async fn reread(services: Services, tasks: TaskGroup) -> Result<Records> {
    let patience = services.operation_timeout.get() + LAST_UNDO;
    if tokio::time::timeout(patience, tasks.idle()).await.is_err() {
        tracing::warn!(?tasks, "starting an actor again although tasks of its predecessor still run");
    }
    read_records(&services).await
}

/// Reads all records, and tries again when the store does not answer.
pub(super) async fn read_records(services: &Services) -> Result<Records> {
    let mut read = 1;
    loop {
        // Each with a deadline of its own: waiting for the tasks may have used up the first one.
        let op = services.operation(Cause::Event("child exited"));
        let raw = answered(&op, "the store", services.store.ask(&op, LoadRecords).await);
        match raw {
            Err(error) if read < READS => {
                tracing::warn!(%error, read, "cannot read a dead actor's records yet");
                read += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            outcome => return outcome.map(Records::decode),
        }
    }
}

impl Handle<ChildExited> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        ChildExited { child, incarnation, exit }: ChildExited,
        _: Reply<()>,
        cx: &mut Cx<'_, Self>,
    ) {
        if self.estate.is_stopping() || !matches!(exit, Exit::Panicked(_)) {
            return;
        }
        tracing::error!(?child, ?exit, "an actor died; starting it again");
        match child {
            Child::Network(id) => self.reread_network(&op, id, incarnation, cx),
            Child::Sandbox(id) => self.reread_sandbox(&op, id, incarnation, cx),
            Child::Driver(kind) => self.restart_driver(&op, &kind, incarnation, cx),
            Child::Ipam(name) => self.restart_ipam(&op, &name, incarnation, cx),
            Child::Store | Child::Firewall | Child::Ports | Child::Files | Child::Names => {
                self.restart_service(&op, &child, incarnation);
            }
        }
    }
}

impl ControllerActor {
    // === Networks ===

    pub(super) fn reread_network(
        &mut self,
        op: &OpCtx,
        id: NetworkId,
        incarnation: u64,
        cx: &mut Cx<'_, Self>,
    ) {
        let Some(child) = self.estate.networks.get(id) else { return };
        if child.running.incarnation != incarnation {
            return;
        }
        let (services, tasks) = (self.estate.services.clone(), child.running.tasks.clone());
        let work = async move {
            let records = reread(services, tasks).await?;
            let (record, endpoints) = records.network(id).unzip();
            Ok(Reread { record, endpoints: endpoints.unwrap_or_default(), members: Vec::new() })
        };
        self.run(op, work, move |result| Outcome::NetworkRestarted(id, result), cx);
    }

    pub(super) fn network_reread(
        &mut self,
        op: &OpCtx,
        id: NetworkId,
        result: Result<Reread<NetworkRecord>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let child = Child::Network(id);
        let reread = match result {
            Ok(reread) => reread,
            Err(error) => return self.failed(op, &child, &error.to_string()),
        };
        let Some(record) = reread.record else {
            // It was never committed, or its deletion was: there is nothing to bring back.
            return self.forget_network(op, id);
        };
        let within_budget = match self.estate.networks.get_mut(id) {
            // It lives: only the controller that waited for its answer has died.
            Some(child) if child.running.addr.is_alive() => return self.publish_network(op, id),
            Some(child) => child.running.budget.take(Instant::now()),
            None => return,
        };
        // It is not: what was being deleted is no longer recorded.
        let leaving = Leaving::default();
        let actor = match self.network_actor(record.clone(), leaving.clone()) {
            Ok(actor) => actor,
            Err(error) => return self.failed(op, &child, &error.to_string()),
        };
        let running = self.start(actor, child.clone());
        let addr = running.addr.clone();
        if let Some(entry) = self.estate.networks.get_mut(id) {
            let budget = std::mem::take(&mut entry.running.budget);
            entry.running = Running { budget, ..running };
            entry.leaving = leaving;
        }
        let origin = NetworkOrigin::AfterRestart(record, reread.endpoints);
        self.settle(op, child.clone(), &addr, EstablishNetwork(origin), cx);
        let driver = self.estate.networks.get(id).map(|network| (network.driver.as_str(), network.known_to));
        let forgot = driver.and_then(|(kind, known_to)| {
            self.estate.drivers.get(kind).map(|driver| driver.incarnation != known_to)
        });
        if forgot == Some(true) {
            // Its driver died as well.
            self.tell_driver(op, id, &addr, cx);
        }
        for sandbox in self.estate.sandboxes.values() {
            sandbox.running.addr.tell(op, NetworkRestarted(id));
        }
        self.publish_network(op, id);
        if within_budget {
            self.restarted(op, &child);
        } else {
            let cause = OUT_OF_BUDGET.to_owned();
            addr.tell(op, NetworkFailed(cause.clone()));
            self.failed(op, &child, &cause);
        }
    }

    // === Sandboxes ===

    pub(super) fn reread_sandbox(
        &mut self,
        op: &OpCtx,
        id: SandboxId,
        incarnation: u64,
        cx: &mut Cx<'_, Self>,
    ) {
        let Some(child) = self.estate.sandboxes.get(id) else { return };
        if child.running.incarnation != incarnation {
            return;
        }
        let (services, tasks) = (self.estate.services.clone(), child.running.tasks.clone());
        let work = async move {
            let records = reread(services.clone(), tasks).await?;
            // A link that goes takes its routes along, and until then they look like the sandbox's.
            let _ = tokio::time::timeout(REMAINS, services.reaping.idle()).await;
            let (record, members) = records.sandbox(id).unzip();
            Ok(Reread { record, endpoints: Vec::new(), members: members.unwrap_or_default() })
        };
        self.run(op, work, move |result| Outcome::SandboxRestarted(id, result), cx);
    }

    pub(super) fn sandbox_reread(
        &mut self,
        op: &OpCtx,
        id: SandboxId,
        result: Result<Reread<SandboxRecord>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let child = Child::Sandbox(id);
        let reread = match result {
            Ok(reread) => reread,
            Err(error) => return self.failed(op, &child, &error.to_string()),
        };
        let Some(record) = reread.record else {
            return self.forget_sandbox(op, id);
        };
        let (within_budget, turns) = match self.estate.sandboxes.get_mut(id) {
            Some(child) if child.running.addr.is_alive() => return self.publish_sandbox(op, id),
            Some(child) => (child.running.budget.take(Instant::now()), child.turns.clone()),
            None => return,
        };
        let actor = self.sandbox_actor(record, turns);
        let running = self.start(actor, child.clone());
        let addr = running.addr.clone();
        if let Some(entry) = self.estate.sandboxes.get_mut(id) {
            let budget = std::mem::take(&mut entry.running.budget);
            entry.running = Running { budget, ..running };
        }
        self.settle(op, child.clone(), &addr, EstablishSandbox(SandboxOrigin::Recorded(reread.members)), cx);
        self.publish_sandbox(op, id);
        if within_budget {
            self.restarted(op, &child);
        } else {
            let cause = OUT_OF_BUDGET.to_owned();
            addr.tell(op, SandboxFailed(cause.clone()));
            self.failed(op, &child, &cause);
        }
    }

    // === Drivers ===

    pub(super) fn restart_driver(&mut self, op: &OpCtx, kind: &str, incarnation: u64, cx: &mut Cx<'_, Self>) {
        let child = Child::Driver(kind.to_owned());
        let config = self.driver_config(kind);
        let estate = &mut *self.estate;
        let Some(driver) = estate.drivers.get_mut(kind).filter(|driver| driver.incarnation == incarnation)
        else {
            return;
        };
        let made = if driver.budget.take(Instant::now()) {
            driver.registration.make(&config).map_err(|error| error.to_string())
        } else {
            Err(OUT_OF_BUDGET.to_owned())
        };
        let of_driver = estate.networks.iter().filter(|(_, network)| network.driver == kind);
        // One that died as well is told by whoever starts it again.
        let alive = of_driver.filter(|(_, network)| network.running.addr.is_alive());
        let users: Vec<_> = alive.map(|(id, network)| (*id, network.running.addr.clone())).collect();
        let made = match made {
            Ok((made, _)) => made,
            Err(cause) => {
                for (_, network) in users {
                    network.tell(op, NetworkFailed(format!("driver {kind:?}: {cause}")));
                }
                return self.failed(op, &child, &cause);
            }
        };
        estate.incarnations += 1;
        let incarnation = estate.incarnations;
        driver.incarnation = incarnation;
        let scope = driver.capability.scope;
        let actor = startup::driver_actor(made, &estate.services);
        let (addr, _) = watch(actor, child.clone(), incarnation, &estate.port);
        driver.port.set(addr.clone());
        self.tell_driver_of_cluster(op, &addr, scope);
        for (id, network) in users {
            self.tell_driver(op, id, &network, cx);
        }
        self.restarted(op, &child);
    }

    /// Has a network told its driver, which was restarted, what there is.
    fn tell_driver(
        &mut self,
        op: &OpCtx,
        id: NetworkId,
        network: &Addr<NetworkActor>,
        cx: &mut Cx<'_, Self>,
    ) {
        let estate = &mut *self.estate;
        if let Some(child) = estate.networks.get_mut(id)
            && let Some(driver) = estate.drivers.get(&child.driver)
        {
            child.known_to = driver.incarnation;
        }
        self.settle(op, Child::Network(id), network, RestoreInDriver, cx);
    }

    // === Helpers ===

    /// Sends the first message of a new incarnation; its failure is told in the log and by the object.
    fn settle<A, M, T>(&mut self, op: &OpCtx, child: Child, addr: &Addr<A>, message: M, cx: &mut Cx<'_, Self>)
    where
        A: Handle<M>,
        M: netloom_runtime::Message<Reply = Result<T>>,
        T: Send + 'static,
    {
        let (asked, own) = (addr.outcome(op, message), op.clone());
        let work = async move { answered(&own, A::KIND, asked.await).map(|_| ()) };
        self.run(op, work, move |result| Outcome::Settled(child, result), cx);
    }

    /// An object that cannot be brought back into service says so.
    pub(super) fn settled(&self, op: &OpCtx, child: &Child, result: Result<()>) {
        let Err(error) = result else { return };
        let cause = error.to_string();
        match child {
            Child::Network(id) => {
                // One that was deleted meanwhile cannot fail any more.
                let Some(network) = self.estate.networks.get(*id) else { return };
                network.running.addr.tell(op, NetworkFailed(cause.clone()));
            }
            Child::Sandbox(id) => {
                let Some(sandbox) = self.estate.sandboxes.get(*id) else { return };
                sandbox.running.addr.tell(op, SandboxFailed(cause.clone()));
            }
            Child::Driver(_)
            | Child::Ipam(_)
            | Child::Store
            | Child::Firewall
            | Child::Ports
            | Child::Files
            | Child::Names => {}
        }
        self.failed(op, child, &cause);
    }

    pub(super) fn restarted(&self, op: &OpCtx, child: &Child) {
        let (object, id) = child.named();
        self.estate.events.emit(op, EventKind::ActorRestarted { object, id });
    }

    pub(super) fn failed(&self, op: &OpCtx, child: &Child, cause: &str) {
        let (object, id) = child.named();
        tracing::error!(?child, cause, "out of service");
        self.estate.events.emit(op, EventKind::ObjectFailed { object, id, cause: cause.to_owned() });
    }
}

pub(super) const OUT_OF_BUDGET: &str = "its actor died too often: 3 restarts in 60 seconds are the limit";
