//! What is where: read by handles from any thread, written by the controller alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use netloom_actor_network::{NetworkEntry, Networks};
use netloom_actor_sandbox::{SandboxEntry, Sandboxes};
use netloom_model::{EngineConfig, NetworkId, SandboxId};
use netloom_runtime::{Addr, ReadModel, ReadModelWriter};
use tokio::sync::watch;

use crate::actor::ControllerActor;

/// The reading half.
#[derive(Clone, Debug)]
pub struct Directory {
    /// The controller.
    pub controller: ReadModel<(), Addr<ControllerActor>>,
    /// Networks in service.
    pub networks: Networks,
    /// Their names.
    pub network_names: ReadModel<String, NetworkId>,
    /// Sandboxes in service.
    pub sandboxes: Sandboxes,
    /// Their containers.
    pub containers: ReadModel<String, SandboxId>,
    /// The configuration in force.
    pub config: watch::Receiver<Arc<EngineConfig>>,
    /// How many sandboxes have come into service.
    pub births: Births,
}

/// How many sandboxes have come into service since the start. Whoever was told of one sees it counted.
#[derive(Clone, Debug, Default)]
pub struct Births(Arc<AtomicU64>);

impl Births {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// One more; says the how manieth.
    fn one_more(&self) -> u64 {
        self.0.fetch_add(1, Ordering::AcqRel) + 1
    }
}

/// The writing half.
#[derive(Debug)]
pub(crate) struct DirectoryWriter {
    controller: ReadModelWriter<(), Addr<ControllerActor>>,
    networks: ReadModelWriter<NetworkId, NetworkEntry>,
    network_names: ReadModelWriter<String, NetworkId>,
    sandboxes: ReadModelWriter<SandboxId, SandboxEntry>,
    containers: ReadModelWriter<String, SandboxId>,
    config: watch::Sender<Arc<EngineConfig>>,
    births: Births,
}

impl DirectoryWriter {
    pub(crate) fn new(config: EngineConfig) -> Self {
        Self {
            controller: ReadModel::writer(),
            networks: ReadModel::writer(),
            network_names: ReadModel::writer(),
            sandboxes: ReadModel::writer(),
            containers: ReadModel::writer(),
            config: watch::Sender::new(Arc::new(config)),
            births: Births::default(),
        }
    }

    pub(crate) fn reader(&self) -> Directory {
        Directory {
            controller: self.controller.reader(),
            networks: self.networks.reader(),
            network_names: self.network_names.reader(),
            sandboxes: self.sandboxes.reader(),
            containers: self.containers.reader(),
            config: self.config.subscribe(),
            births: self.births.clone(),
        }
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> Arc<EngineConfig> {
        self.config.borrow().clone()
    }

    pub(crate) fn publish_config(&mut self, config: EngineConfig) {
        self.config.send_replace(Arc::new(config));
    }

    /// Counts a sandbox that comes into service; says the how manieth it is.
    pub(crate) fn birth(&self) -> u64 {
        self.births.one_more()
    }

    pub(crate) fn publish_controller(&mut self, addr: Addr<ControllerActor>) {
        self.controller.insert((), addr);
    }

    pub(crate) fn publish_network(&mut self, entry: NetworkEntry) {
        self.network_names.insert(entry.name.clone(), entry.id);
        self.networks.insert(entry.id, entry);
    }

    pub(crate) fn withdraw_network(&mut self, id: NetworkId) {
        if let Some(entry) = self.networks.remove(&id) {
            self.network_names.remove(&entry.name);
        }
    }

    pub(crate) fn publish_sandbox(&mut self, entry: SandboxEntry) {
        self.containers.insert(entry.container_id.clone(), entry.id);
        self.sandboxes.insert(entry.id, entry);
    }

    pub(crate) fn withdraw_sandbox(&mut self, id: SandboxId) {
        if let Some(entry) = self.sandboxes.remove(&id) {
            self.containers.remove(&entry.container_id);
        }
    }
}
