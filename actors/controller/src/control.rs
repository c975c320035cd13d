//! Outcomes, and what is not about one object: inspection, draining, the end.

use std::time::Duration;

use netloom_actor_network::InspectNetwork;
use netloom_actor_sandbox::InspectSandbox;
use netloom_actor_services::answered;
use netloom_actor_services::firewall::InspectFirewall;
use netloom_actor_services::firewall::LeadNowhere;
use netloom_actor_services::ipam::InspectIpam;
use netloom_actor_services::names::{ListNameServers, StopNames};
use netloom_actor_services::ports::StopServing;
use netloom_actor_services::store::{CloseStore, StoreStats, StoreStatsQuery};
use netloom_model::OpId;
use netloom_model::snapshot::{EngineSnapshot, OperationSnapshot};
use netloom_runtime::{AskError, Crash, Handle, Ledger};

use super::*;
use crate::message::{
    CrashActor, Drain, InspectEngine, ListDrivers, Shutdown, ShutdownMode, StoreCounters, Victim,
};

// === Outcomes ===

impl Handle<Finished> for ControllerActor {
    fn handle(&mut self, op: OpCtx, Finished(outcome): Finished, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        match outcome {
            Outcome::NetworkCreated(id, result, reply) => reply.send(self.network_created(&op, id, result)),
            Outcome::WayOutCreated(id, result) => {
                // Who waits for it has been answered.
                let _ = self.network_created(&op, id, result);
            }
            Outcome::NetworkDeleted(id, result, reply) => reply.send(self.network_deleted(&op, id, result)),
            Outcome::NetworkRestored(id, result, reply) => {
                reply.send(self.network_restored(&op, id, result, cx));
            }
            Outcome::NetworkRestarted(id, result) => self.network_reread(&op, id, result, cx),
            Outcome::SandboxCreated(id, result, reply) => reply.send(self.sandbox_created(&op, id, result)),
            Outcome::SandboxDeleted(id, result, reply) => reply.send(self.sandbox_deleted(&op, id, result)),
            Outcome::SandboxReleased(id, result, reply) => reply.send(self.sandbox_released(&op, id, result)),
            Outcome::DeadReplaced { dead, wanted, result, reply } => {
                self.dead_replaced(&op, dead, *wanted, result, reply, cx);
            }
            Outcome::SandboxRestored(id, result, reply) => reply.send(self.sandbox_restored(&op, id, result)),
            Outcome::SandboxRestarted(id, result) => self.sandbox_reread(&op, id, result, cx),
            Outcome::IpamRestarted(name, result) => self.ipam_restarted(&op, &name, result, cx),
            Outcome::Revived(result) => self.revived(&op, result, cx),
            Outcome::HostLooked(result, waiting) => self.host_looked(&op, result, waiting, cx),
            Outcome::Settled(child, result) => self.settled(&op, &child, result),
            Outcome::Done(result) => {
                if let Err(error) = result {
                    tracing::error!(%error, "a request died on its way");
                }
            }
        }
    }
}

// === Queries ===

impl Handle<InspectEngine> for ControllerActor {
    fn handle(&mut self, op: OpCtx, _: InspectEngine, reply: Reply<EngineSnapshot>, cx: &mut Cx<'_, Self>) {
        let networks: Vec<_> =
            self.estate.networks.values().map(|child| child.running.addr.ask(&op, InspectNetwork)).collect();
        let sandboxes: Vec<_> =
            self.estate.sandboxes.values().map(|child| child.running.addr.ask(&op, InspectSandbox)).collect();
        let ipam: Vec<_> = self.estate.ipams.values().map(|child| child.port.ask(&op, InspectIpam)).collect();
        let firewall = self.estate.services.firewall.ask(&op, InspectFirewall);
        let name_servers = self.estate.services.names.ask(&op, ListNameServers);
        let operations = operations(&self.estate.services.tools.ledger);
        let leaks = self.estate.services.tools.janitor.leaks();
        let reaping = self.estate.services.reaping.running();
        let overlaps = self.estate.overlaps.list();
        let default_pools = self.default_pools();
        cx.tasks().spawn(async move {
            // An actor that is being started again is missing from the picture.
            let mut networks = answers(networks).await;
            networks.sort_by(|a, b| a.name.cmp(&b.name));
            let mut sandboxes = answers(sandboxes).await;
            sandboxes.sort_by(|a, b| a.container_id.cmp(&b.container_id));
            let mut ipam = answers(ipam).await;
            addresses::complete(&mut ipam, &default_pools, None);
            let firewall = firewall.await.ok();
            let name_servers = name_servers.await.unwrap_or_default();
            let name_servers = name_servers.into_iter().map(naming::server).collect();
            let (overlaps, reaping) = (overlaps, reaping);
            reply.send(EngineSnapshot {
                networks,
                sandboxes,
                ipam,
                firewall,
                name_servers,
                overlaps,
                operations,
                leaks,
                reaping,
            });
        });
    }
}

/// The answers of those who were asked and are there. They have all been asked before, so they are waited for one after
/// another: of a task that waits for thousands at once the runtime looks at a hundred and begins anew.
async fn answers<T>(asked: Vec<impl Future<Output = std::result::Result<T, AskError>>>) -> Vec<T> {
    let mut answers = Vec::with_capacity(asked.len());
    for answer in asked {
        answers.extend(answer.await.ok());
    }
    answers
}

/// Operations in flight, oldest first.
#[must_use]
pub fn operations(ledger: &Ledger) -> Vec<OperationSnapshot> {
    let now = tokio::time::Instant::now();
    let shown = |view: netloom_runtime::OperationView| OperationSnapshot {
        id: OpId(view.id),
        verb: view.verb.to_owned(),
        object: view.object,
        step: view.step.to_owned(),
        running_for: now.saturating_duration_since(view.since),
    };
    ledger.list().into_iter().map(shown).collect()
}

impl Handle<ListDrivers> for ControllerActor {
    fn handle(&mut self, _: OpCtx, _: ListDrivers, reply: Reply<Vec<String>>, _: &mut Cx<'_, Self>) {
        let mut kinds: Vec<_> = self.estate.drivers.keys().cloned().collect();
        kinds.sort_unstable();
        reply.send(kinds);
    }
}

impl Handle<StoreCounters> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        _: StoreCounters,
        reply: Reply<Result<StoreStats>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let asked = self.estate.services.store.ask(&op, StoreStatsQuery);
        cx.tasks().spawn(async move { reply.send(answered(&op, "the store", asked.await.map(Ok))) });
    }
}

// === Control ===

/// How long before its asker gives up a draining says what is left.
const DRAIN_MARGIN: Duration = Duration::from_millis(500);
/// How often the janitor is looked at.
const LEAK_POLL: Duration = Duration::from_millis(5);

impl Handle<Drain> for ControllerActor {
    fn handle(&mut self, op: OpCtx, _: Drain, reply: Reply<Result<()>>, cx: &mut Cx<'_, Self>) {
        let (reaping, janitor) =
            (self.estate.services.reaping.clone(), self.estate.services.tools.janitor.clone());
        // Answered a moment before the asker gives up, to say what is left.
        let end = op.deadline - DRAIN_MARGIN.min(op.allowed / 2);
        cx.tasks().spawn(async move {
            let drained = async {
                reaping.idle().await;
                while !janitor.leaks().is_empty() {
                    tokio::time::sleep(LEAK_POLL).await;
                    reaping.idle().await;
                }
            };
            let outcome = tokio::time::timeout_at(end, drained).await;
            reply.send(outcome.map_err(|_| {
                let leaks = janitor.leaks();
                let what = if leaks.is_empty() { "the kernel".to_owned() } else { leaks.join(", ") };
                Reason::DeadlineExceeded { what, waited: op.allowed }.into()
            }));
        });
    }
}

/// How long the end of an engine waits for its rules, and for sockets to be closed.
const CLOSING: Duration = Duration::from_secs(1);

impl Handle<Shutdown> for ControllerActor {
    fn handle(&mut self, op: OpCtx, message: Shutdown, reply: Reply<()>, cx: &mut Cx<'_, Self>) {
        let Shutdown { mode, patience, inside } = message;
        let (ledger, reaping) =
            (self.estate.services.tools.ledger.clone(), self.estate.services.reaping.clone());
        let services = &self.estate.services;
        let (store, ports, names, firewall, kernel) = (
            services.store.clone(),
            services.ports.clone(),
            services.names.clone(),
            services.firewall.clone(),
            services.kernel.clone(),
        );
        if mode == ShutdownMode::Immediate {
            ledger.cancel_all();
        }
        cx.tasks().spawn(async move {
            let quiet = async {
                // Who was let in may not have begun yet; then there is what the engine does of its own accord.
                inside.empty().await;
                ledger.idle().await;
                if mode == ShutdownMode::Graceful {
                    reaping.idle().await;
                }
            };
            if tokio::time::timeout(patience, quiet).await.is_err() {
                // What is left unfinished is unwound or finished at the next start.
                tracing::warn!(operations = ledger.len(), "stopping with operations in flight");
            }
            // Who comes to the host is not to get to whoever has the engine's port next.
            let soon = op.renewed(CLOSING);
            if let Err(error) = answered(&soon, "the firewall", firewall.ask(&soon, LeadNowhere).await) {
                tracing::warn!(%error, "the kernel leads to a port that nobody has any more");
            }
            // The next engine is to find its ports free.
            if let Err(error) = answered(&op, "the ports service", ports.ask(&op, StopServing).await.map(Ok))
            {
                tracing::warn!(%error, "ports of the host are held still");
            }
            if let Err(error) = answered(&op, "the name service", names.ask(&op, StopNames).await.map(Ok)) {
                tracing::warn!(%error, "name servers hold namespaces still");
            }
            if let Err(error) = answered(&op, "the store", store.ask(&op, CloseStore).await) {
                tracing::warn!(%error, "the store was not closed in good order");
            }
            // Who keeps a handle keeps the kernel; containers that end from now on must end all the same.
            if let Err(error) = kernel.rest(op.renewed(CLOSING).deadline_std()).await {
                tracing::warn!(%error, "sockets in namespaces stay open");
            }
            reply.send(());
        });
    }
}

impl Handle<CrashActor> for ControllerActor {
    fn handle(&mut self, op: OpCtx, CrashActor(victim): CrashActor, reply: Reply<()>, cx: &mut Cx<'_, Self>) {
        match victim {
            Victim::Network(id) => {
                if let Some(child) = self.estate.networks.get(id) {
                    child.running.addr.tell(&op, Crash);
                }
            }
            Victim::Sandbox(id) => {
                if let Some(child) = self.estate.sandboxes.get(id) {
                    child.running.addr.tell(&op, Crash);
                }
            }
            Victim::Driver(kind) => {
                if let Some(driver) = self.estate.drivers.get(&kind) {
                    driver.port.tell(&op, Crash);
                }
            }
            Victim::Controller => cx.me().tell(&op, Crash),
            Victim::Ipam => self.estate.services.ipam.default_driver().tell(&op, Crash),
            Victim::IpamDriver(name) => {
                if let Some(ipam) = self.estate.ipams.get(&name) {
                    ipam.port.tell(&op, Crash);
                }
            }
            Victim::Store => self.estate.services.store.tell(&op, Crash),
            Victim::Firewall => self.estate.services.firewall.tell(&op, Crash),
            Victim::Ports => self.estate.services.ports.tell(&op, Crash),
            Victim::Files => self.estate.services.files.keeper.tell(&op, Crash),
            Victim::Names => self.estate.services.names.tell(&op, Crash),
        }
        reply.send(());
    }
}
