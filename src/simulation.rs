//! The same engine over a simulated kernel and a store in memory: no root, no side effects, faults on
//! demand. For message-level harnesses.

use std::net::IpAddr;
use std::sync::Arc;

use netloom_actor_controller::{CrashActor, Membership, NodeChanged, Victim};
use netloom_drivers::Registration;
use netloom_firewall::io::Xtables;
use netloom_firewalld::Firewalld;
use netloom_ipam::driver::IpamRegistration;
use netloom_model::{EngineConfig, LiveSandbox, Result};
use netloom_store::MemoryDisk;
use netloom_testkit::SimKernel;

use crate::engine::Engine;

/// A simulated machine with an engine on it.
#[derive(Debug)]
pub struct Simulation {
    engine: Engine,
    kernel: SimKernel,
    disk: MemoryDisk,
    builder: SimulationBuilder,
}

/// Prepares a simulation.
#[derive(Clone, Debug, Default)]
pub struct SimulationBuilder {
    config: EngineConfig,
    drivers: Vec<Registration>,
    ipam_drivers: Vec<IpamRegistration>,
    cluster: Option<Membership>,
    kernel: Option<SimKernel>,
    xtables: Option<Arc<dyn Xtables>>,
    firewalld: Option<Arc<dyn Firewalld>>,
    disk: Option<MemoryDisk>,
    gathers: bool,
    name_files: bool,
    live: Option<Vec<LiveSandbox>>,
}

impl SimulationBuilder {
    /// Replaces the engine's configuration; its directories are not used, unless [`Self::name_files`] says so.
    #[must_use]
    pub fn config(mut self, config: EngineConfig) -> Self {
        self.config = config;
        self
    }

    /// Adds a driver.
    #[must_use]
    pub fn driver(mut self, driver: Registration) -> Self {
        self.drivers.push(driver);
        self
    }

    /// Adds an IPAM driver.
    #[must_use]
    pub fn ipam_driver(mut self, driver: IpamRegistration) -> Self {
        self.ipam_drivers.push(driver);
        self
    }

    /// Makes the engine part of a cluster, as [`crate::EngineBuilder::cluster`] does.
    #[must_use]
    pub fn cluster(mut self, membership: Membership) -> Self {
        self.cluster = Some(membership);
        self
    }

    /// Uses this kernel.
    #[must_use]
    pub fn kernel(mut self, kernel: SimKernel) -> Self {
        self.kernel = Some(kernel);
        self
    }

    /// Gives the machine programs of iptables.
    #[must_use]
    pub fn xtables(mut self, xtables: Arc<dyn Xtables>) -> Self {
        self.xtables = Some(xtables);
        self
    }

    /// Gives the machine a firewalld.
    #[must_use]
    pub fn firewalld(mut self, firewalld: Arc<dyn Firewalld>) -> Self {
        self.firewalld = Some(firewalld);
        self
    }

    /// Uses this disk.
    #[must_use]
    pub fn disk(mut self, disk: MemoryDisk) -> Self {
        self.disk = Some(disk);
        self
    }

    /// Says which sandboxes are in use; see [`crate::EngineBuilder::live_sandboxes`]. Only this start is told.
    #[must_use]
    pub fn live_sandboxes(mut self, live: impl IntoIterator<Item = impl Into<LiveSandbox>>) -> Self {
        self.live = Some(live.into_iter().map(Into::into).collect());
        self
    }

    /// Gives the store a thread of its own, so that commits gather as they do for one on a disk. What happens in
    /// which order is then no longer the same in each run.
    #[must_use]
    pub fn store_on_a_thread(mut self) -> Self {
        self.gathers = true;
        self
    }

    /// Writes the hosts file and the resolv.conf of each sandbox, on the machine's real disk: below `run_dir` of the
    /// configuration, and from its `resolv_conf`. The engine's thread waits for the disk, so that everything happens in
    /// the same order in each run.
    #[must_use]
    pub fn name_files(mut self) -> Self {
        self.name_files = true;
        self
    }

    /// Starts the engine.
    ///
    /// # Errors
    /// As [`crate::EngineBuilder::start`].
    pub async fn start(mut self) -> Result<Simulation> {
        let kernel = self.kernel.clone().unwrap_or_default();
        let disk = self.disk.clone().unwrap_or_default();
        let builder = Engine::builder().config(self.config.clone()).kernel(Arc::new(kernel.clone()));
        let store = Box::new(disk.open());
        let builder = if self.gathers { builder.store_on_a_thread(store) } else { builder.store(store) };
        let builder = if self.name_files { builder.name_files() } else { builder };
        let builder = self.drivers.iter().cloned().fold(builder, crate::EngineBuilder::driver);
        let builder = self.xtables.iter().cloned().fold(builder, crate::EngineBuilder::xtables);
        let builder = self.firewalld.iter().cloned().fold(builder, crate::EngineBuilder::firewalld);
        let ipam_drivers = self.ipam_drivers.iter().cloned();
        let builder = ipam_drivers.fold(builder, crate::EngineBuilder::ipam_driver);
        let builder = self.cluster.iter().cloned().fold(builder, crate::EngineBuilder::cluster);
        let builder = match self.live.take() {
            Some(live) => builder.live_sandboxes(live),
            None => builder,
        };
        let engine = builder.start().await?;
        Ok(Simulation { engine, kernel, disk, builder: self })
    }
}

impl Engine {
    /// Starts an engine over a simulated kernel and a store in memory.
    ///
    /// # Errors
    /// As [`crate::EngineBuilder::start`].
    pub async fn simulated() -> Result<Simulation> {
        Self::simulation().start().await
    }

    /// Prepares a simulation.
    #[must_use]
    pub fn simulation() -> SimulationBuilder {
        SimulationBuilder::default()
    }
}

impl Simulation {
    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The simulated kernel: plan faults, break things, look around.
    #[must_use]
    pub fn kernel(&self) -> &SimKernel {
        &self.kernel
    }

    /// The simulated disk: plan faults, read records.
    #[must_use]
    pub fn disk(&self) -> &MemoryDisk {
        &self.disk
    }

    /// Makes an actor panic, as a bug in one of its handlers would.
    ///
    /// # Errors
    /// `Unavailable` when the engine is gone.
    pub async fn crash_actor(&self, victim: Victim) -> Result<()> {
        let core = self.engine.core();
        core.query(core.controller()?, CrashActor(victim)).await
    }

    /// Tells the engine that a node of the cluster is there, or is not any more, as discovery will.
    ///
    /// # Errors
    /// `Unavailable` when the engine is gone.
    pub async fn tell_of_node(&self, address: IpAddr, this_node: bool, present: bool) -> Result<()> {
        let core = self.engine.core();
        core.query(core.controller()?, NodeChanged { address, this_node, present }).await
    }

    /// Kills the engine at once, as `kill -9` would, and starts another one on the same machine. Handles of
    /// the old engine are dead: they say `Unavailable`.
    ///
    /// # Errors
    /// As [`crate::EngineBuilder::start`].
    pub async fn kill_and_restart(self) -> Result<Self> {
        self.kill().await.start().await
    }

    /// Kills the engine at once, and prepares the next one on the same machine.
    pub async fn kill(self) -> SimulationBuilder {
        let Self { engine, kernel, disk, builder } = self;
        engine.core().thread.kill().await;
        engine.core().events.close();
        // A process does not die in the middle of a system call: what hangs takes effect, unheard.
        kernel.release();
        kernel.sim_ports().end_process();
        drop(engine);
        builder.kernel(kernel).disk(disk)
    }
}
