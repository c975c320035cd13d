//! What dies is started again: a new value, filled from the store, under the same name.
//!
//! Tasks of the dead incarnation are waited for first: they may still commit or undo. Three restarts a
//! minute, then the object is out of service, visibly, and everything else goes on.

use std::time::Duration;

use netloom_actor_network::{Establish as EstablishNetwork, MarkFailed as NetworkFailed, RestoreInDriver};
use netloom_actor_network::{NetworkEntry, Origin as NetworkOrigin};
use netloom_actor_sandbox::{Establish as EstablishSandbox, MarkFailed as SandboxFailed};
use netloom_actor_sandbox::{Origin as SandboxOrigin, SandboxEntry};
use netloom_actor_services::answered;
use netloom_actor_services::ipam::{IpamActor, RestorePools};
use netloom_actor_services::store::{LoadRecords, StoreActor};
use netloom_runtime::{Addr, Exit, Handle, TaskGroup};
use tokio::time::Instant;

use super::*;
use crate::reconcile::Records;

/// How much longer than an operation the tasks of a dead actor may still run before it is started again:
/// the time of an undo.
const LAST_UNDO: Duration = Duration::from_secs(15);
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
    let patience = services.operation_timeout + LAST_UNDO;
    if tokio::time::timeout(patience, tasks.idle()).await.is_err() {
        tracing::warn!(?tasks, "starting an actor again although tasks of its predecessor still run");
    }
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
        if self.stopping || !matches!(exit, Exit::Panicked(_)) {
            return;
        }
        tracing::error!(?child, ?exit, "an actor died; starting it again");
        match child {
            Child::Network(id) => self.reread_network(&op, id, incarnation, cx),
            Child::Sandbox(id) => self.reread_sandbox(&op, id, incarnation, cx),
            Child::Driver(kind) => self.restart_driver(&op, &kind, incarnation, cx),
            Child::Ipam => self.restart_ipam(&op, incarnation, cx),
            Child::Store => self.restart_store(&op, incarnation, cx),
        }
    }
}

impl ControllerActor {
    // === Networks ===

    fn reread_network(&mut self, op: &OpCtx, id: NetworkId, incarnation: u64, cx: &mut Cx<'_, Self>) {
        let Some(child) = self.networks.get(id) else { return };
        if child.running.incarnation != incarnation {
            return;
        }
        let (services, tasks) = (self.services.clone(), child.running.tasks.clone());
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
            self.directory.withdraw_network(id);
            self.networks.remove(id, |child| &child.name);
            return;
        };
        let within_budget = match self.networks.get_mut(id) {
            Some(child) => child.running.budget.take(Instant::now()),
            None => return,
        };
        let name = record.spec.name.clone();
        let actor = match self.network_actor(record.clone()) {
            Ok(actor) => actor,
            Err(error) => return self.failed(op, &child, &error.to_string()),
        };
        let running = self.start(actor, child.clone(), cx);
        let addr = running.addr.clone();
        if let Some(entry) = self.networks.get_mut(id) {
            let budget = std::mem::take(&mut entry.running.budget);
            entry.running = Running { budget, ..running };
        }
        let origin = NetworkOrigin::AfterRestart(record, reread.endpoints);
        self.settle(op, child.clone(), &addr, EstablishNetwork(origin), cx);
        // Before anybody is told: who hears of it may ask at once.
        self.directory.publish_network(NetworkEntry { id, name, addr: addr.clone() });
        if within_budget {
            self.restarted(op, &child);
        } else {
            let cause = OUT_OF_BUDGET.to_owned();
            addr.tell(op, NetworkFailed(cause.clone()));
            self.failed(op, &child, &cause);
        }
    }

    // === Sandboxes ===

    fn reread_sandbox(&mut self, op: &OpCtx, id: SandboxId, incarnation: u64, cx: &mut Cx<'_, Self>) {
        let Some(child) = self.sandboxes.get(id) else { return };
        if child.running.incarnation != incarnation {
            return;
        }
        let (services, tasks) = (self.services.clone(), child.running.tasks.clone());
        let work = async move {
            let records = reread(services, tasks).await?;
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
            self.directory.withdraw_sandbox(id);
            self.sandboxes.remove(id, |child| &child.container_id);
            return;
        };
        let within_budget = match self.sandboxes.get_mut(id) {
            Some(child) => child.running.budget.take(Instant::now()),
            None => return,
        };
        let container_id = record.spec.container_id.clone();
        let actor = self.sandbox_actor(record);
        let running = self.start(actor, child.clone(), cx);
        let addr = running.addr.clone();
        if let Some(entry) = self.sandboxes.get_mut(id) {
            let budget = std::mem::take(&mut entry.running.budget);
            entry.running = Running { budget, ..running };
        }
        self.settle(op, child.clone(), &addr, EstablishSandbox(SandboxOrigin::Recorded(reread.members)), cx);
        // Before anybody is told: who hears of it may ask at once.
        self.directory.publish_sandbox(SandboxEntry { id, container_id, addr: addr.clone() });
        if within_budget {
            self.restarted(op, &child);
        } else {
            let cause = OUT_OF_BUDGET.to_owned();
            addr.tell(op, SandboxFailed(cause.clone()));
            self.failed(op, &child, &cause);
        }
    }

    // === Drivers ===

    fn restart_driver(&mut self, op: &OpCtx, kind: &str, incarnation: u64, cx: &mut Cx<'_, Self>) {
        let child = Child::Driver(kind.to_owned());
        let Some(driver) = self.drivers.get_mut(kind).filter(|driver| driver.incarnation == incarnation)
        else {
            return;
        };
        let within_budget = driver.budget.take(Instant::now());
        let of_driver = self.networks.iter().filter(|(_, network)| network.driver == kind);
        let users: Vec<_> = of_driver.map(|(id, network)| (*id, network.running.addr.clone())).collect();
        if !within_budget {
            for (_, network) in users {
                network.tell(op, NetworkFailed(format!("driver {kind:?}: {OUT_OF_BUDGET}")));
            }
            return self.failed(op, &child, OUT_OF_BUDGET);
        }
        self.incarnations += 1;
        let incarnation = self.incarnations;
        driver.incarnation = incarnation;
        let actor = startup::driver_actor((driver.registration.factory)(), &self.services);
        let (addr, _) = watch(actor, child.clone(), incarnation, cx);
        driver.port.set(addr);
        for (id, network) in users {
            self.settle(op, Child::Network(id), &network, RestoreInDriver, cx);
        }
        self.restarted(op, &child);
    }

    // === Services ===

    fn restart_ipam(&mut self, op: &OpCtx, incarnation: u64, cx: &mut Cx<'_, Self>) {
        let (current, budget) = &mut self.respawn.ipam;
        if *current != incarnation {
            return;
        }
        if !budget.take(Instant::now()) {
            return self.failed(op, &Child::Ipam, OUT_OF_BUDGET);
        }
        self.incarnations += 1;
        self.respawn.ipam.0 = self.incarnations;
        self.services.ipam.vacate();
        let actor = IpamActor::new(&self.respawn.default_pools);
        let (addr, _) = watch(actor, Child::Ipam, self.incarnations, cx);
        // Nobody reaches it before it knows what is taken.
        let (services, own) = (self.services.clone(), op.clone());
        let work = async move {
            let raw = answered(&own, "the store", services.store.ask(&own, LoadRecords).await)?;
            let records = Records::decode(raw);
            for id in records.networks.keys() {
                let Some((network, endpoints)) = records.network(*id) else { continue };
                let restore = RestorePools { network, endpoints };
                answered(&own, "ipam", addr.ask(&own, restore).await)?;
            }
            Ok(addr)
        };
        self.run(op, work, Outcome::IpamRestarted, cx);
    }

    pub(super) fn ipam_restarted(&mut self, op: &OpCtx, result: Result<Addr<IpamActor>>) {
        match result {
            Ok(addr) => {
                self.services.ipam.set(addr);
                self.restarted(op, &Child::Ipam);
            }
            Err(error) => self.failed(op, &Child::Ipam, &error.to_string()),
        }
    }

    fn restart_store(&mut self, op: &OpCtx, incarnation: u64, cx: &mut Cx<'_, Self>) {
        let (current, budget) = &mut self.respawn.store;
        if *current != incarnation {
            return;
        }
        if !budget.take(Instant::now()) {
            return self.failed(op, &Child::Store, OUT_OF_BUDGET);
        }
        self.incarnations += 1;
        self.respawn.store.0 = self.incarnations;
        let actor = StoreActor::new(self.respawn.backend.clone());
        let (addr, _) = watch(actor, Child::Store, self.incarnations, cx);
        self.services.store.set(addr);
        self.restarted(op, &Child::Store);
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
                if let Some(network) = self.networks.get(*id) {
                    network.running.addr.tell(op, NetworkFailed(cause.clone()));
                }
            }
            Child::Sandbox(id) => {
                if let Some(sandbox) = self.sandboxes.get(*id) {
                    sandbox.running.addr.tell(op, SandboxFailed(cause.clone()));
                }
            }
            Child::Driver(_) | Child::Ipam | Child::Store => {}
        }
        self.failed(op, child, &cause);
    }

    fn restarted(&self, op: &OpCtx, child: &Child) {
        let (object, id) = child.named();
        self.events.emit(op, EventKind::ActorRestarted { object, id });
    }

    fn failed(&self, op: &OpCtx, child: &Child, cause: &str) {
        let (object, id) = child.named();
        tracing::error!(?child, cause, "out of service");
        self.events.emit(op, EventKind::ObjectFailed { object, id, cause: cause.to_owned() });
    }
}

const OUT_OF_BUDGET: &str = "its actor died too often: 3 restarts in 60 seconds are the limit";
