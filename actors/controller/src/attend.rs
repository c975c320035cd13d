//! The services that the controller starts: each from state that outlives its actor, and again when that dies.

use netloom_actor_services::files::{FilesActor, FilesDeps, FilesEvent};
use netloom_actor_services::firewall::{FirewallActor, FirewallDeps, FirewallEvent};
use netloom_actor_services::names::NamesActor;
use netloom_actor_services::ports::{ListPorts, PortsActor, PortsOf, ServedPort, UnheldPort};
use netloom_actor_services::store::StoreActor;
use netloom_actor_services::{Kit, answered};
use netloom_model::snapshot::{PortsSnapshot, ServedSnapshot, UnheldSnapshot};
use netloom_runtime::{Actor, EventSink, Handle, OpCtx, Port, RestartBudget, TaskGroup};
use tokio::time::Instant;

use super::supervise::OUT_OF_BUDGET;
use super::*;
use crate::estate::Respawn;
use crate::message::InspectPorts;

/// A service: its actor, where it is found, and which incarnation it is.
trait Service: Actor {
    const CHILD: Child;
    /// Its actor; nothing where the engine has no such service.
    fn make(controller: &ControllerActor) -> Option<Self>;
    fn port(services: &Kit) -> &Port<Self>;
    fn life(respawn: &mut Respawn) -> &mut (u64, RestartBudget);
}

impl Service for StoreActor {
    const CHILD: Child = Child::Store;

    fn make(controller: &ControllerActor) -> Option<Self> {
        Some(Self::new(controller.estate.respawn.backend.clone()))
    }

    fn port(services: &Kit) -> &Port<Self> {
        &services.store
    }

    fn life(respawn: &mut Respawn) -> &mut (u64, RestartBudget) {
        &mut respawn.store
    }
}

impl Service for FirewallActor {
    const CHILD: Child = Child::Firewall;

    fn make(controller: &ControllerActor) -> Option<Self> {
        let (kernel, respawn) = (controller.estate.services.kernel.clone(), &controller.estate.respawn);
        let (xtables, firewalld) = (respawn.xtables.clone(), respawn.firewalld.clone());
        let (state, hub) = (respawn.wall.clone(), controller.estate.events.clone());
        let events = EventSink::new(move |op: &OpCtx, event: FirewallEvent| {
            let FirewallEvent::Repaired { place, changes, cause } = event;
            hub.emit(op, EventKind::FirewallRepaired { place, changes, cause });
        });
        let tasks = TaskGroup::default();
        Some(Self::new(FirewallDeps { kernel, xtables, firewalld, state, events, tasks }))
    }

    fn port(services: &Kit) -> &Port<Self> {
        &services.firewall
    }

    fn life(respawn: &mut Respawn) -> &mut (u64, RestartBudget) {
        &mut respawn.firewall
    }
}

impl Service for PortsActor {
    const CHILD: Child = Child::Ports;

    fn make(controller: &ControllerActor) -> Option<Self> {
        let held = controller.estate.respawn.held.clone();
        Some(Self::new(controller.estate.services.kernel.ports(), held))
    }

    fn port(services: &Kit) -> &Port<Self> {
        &services.ports
    }

    fn life(respawn: &mut Respawn) -> &mut (u64, RestartBudget) {
        &mut respawn.ports
    }
}

impl Service for FilesActor {
    const CHILD: Child = Child::Files;

    fn make(controller: &ControllerActor) -> Option<Self> {
        let (state, hub) = (controller.estate.respawn.kept_files.clone()?, controller.estate.events.clone());
        let events = EventSink::new(move |op: &OpCtx, FilesEvent::HostChanged(says): FilesEvent| {
            let servers = says.conf.name_servers.iter().map(ToString::to_string).collect();
            let file = says.source.path.display().to_string();
            hub.emit(op, EventKind::NameServersChanged { file, servers });
        });
        Some(Self::new(FilesDeps { state, events, tasks: TaskGroup::default() }))
    }

    fn port(services: &Kit) -> &Port<Self> {
        &services.files.keeper
    }

    fn life(respawn: &mut Respawn) -> &mut (u64, RestartBudget) {
        &mut respawn.files
    }
}

impl Service for NamesActor {
    const CHILD: Child = Child::Names;

    fn make(controller: &ControllerActor) -> Option<Self> {
        let services = &controller.estate.services;
        let naming = controller.estate.respawn.naming.clone();
        Some(Self::new(services.kernel.clone(), services.zones.clone(), naming))
    }

    fn port(services: &Kit) -> &Port<Self> {
        &services.names
    }

    fn life(respawn: &mut Respawn) -> &mut (u64, RestartBudget) {
        &mut respawn.names
    }
}

impl Handle<InspectPorts> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        _: InspectPorts,
        reply: Reply<Result<Vec<PortsSnapshot>>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let listed = self.estate.services.ports.ask(&op, ListPorts);
        cx.tasks().spawn(async move {
            let listed = answered(&op, "the ports service", listed.await.map(Ok));
            reply.send(listed.map(|all| all.into_iter().map(shown).collect()));
        });
    }
}

fn shown(ports: PortsOf) -> PortsSnapshot {
    let PortsOf { holder, ports, leaving, unheld, served } = ports;
    let unheld =
        unheld.into_iter().map(|UnheldPort { port, why }| UnheldSnapshot { port, why: why.to_string() });
    let served = served.into_iter().map(|ServedPort { port, last, to, via, counts }| ServedSnapshot {
        port,
        last,
        to,
        via,
        open: counts.open,
        total: counts.total,
        refused: counts.refused,
        bytes_in: counts.to_backend,
        bytes_out: counts.to_clients,
    });
    PortsSnapshot { endpoint: holder, ports, leaving, unheld: unheld.collect(), served: served.collect() }
}

impl ControllerActor {
    /// Starts all of them for the first time.
    pub(super) fn start_services(&mut self) {
        self.start_service::<StoreActor>();
        self.start_service::<FirewallActor>();
        self.start_service::<PortsActor>();
        self.start_service::<FilesActor>();
        self.start_service::<NamesActor>();
    }

    fn start_service<S: Service>(&mut self) {
        let Some(actor) = S::make(self) else { return };
        let running = self.start(actor, S::CHILD);
        S::port(&self.estate.services).set(running.addr);
        S::life(&mut self.estate.respawn).0 = running.incarnation;
    }

    /// Starts those again that died while there was no controller.
    pub(super) fn restart_dead_services(&mut self, op: &OpCtx) {
        self.restart_if_dead::<StoreActor>(op);
        self.restart_if_dead::<FirewallActor>(op);
        self.restart_if_dead::<PortsActor>(op);
        if self.estate.services.files.are_kept() {
            self.restart_if_dead::<FilesActor>(op);
        }
        self.restart_if_dead::<NamesActor>(op);
    }

    fn restart_if_dead<S: Service>(&mut self, op: &OpCtx) {
        if !S::port(&self.estate.services).is_alive() {
            let incarnation = S::life(&mut self.estate.respawn).0;
            self.again::<S>(op, incarnation);
        }
    }

    /// Starts one again that has died.
    pub(super) fn restart_service(&mut self, op: &OpCtx, child: &Child, incarnation: u64) {
        match child {
            Child::Store => self.again::<StoreActor>(op, incarnation),
            Child::Firewall => self.again::<FirewallActor>(op, incarnation),
            Child::Files => self.again::<FilesActor>(op, incarnation),
            Child::Names => self.again::<NamesActor>(op, incarnation),
            _ => self.again::<PortsActor>(op, incarnation),
        }
    }

    /// Unless that was done already, or was done too often.
    fn again<S: Service>(&mut self, op: &OpCtx, incarnation: u64) {
        let (current, budget) = S::life(&mut self.estate.respawn);
        if *current != incarnation {
            return;
        }
        if !budget.take(Instant::now()) {
            return self.failed(op, &S::CHILD, OUT_OF_BUDGET);
        }
        self.start_service::<S>();
        self.restarted(op, &S::CHILD);
    }
}
