//! The simulated machine.

use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use netloom::kernel::{Kernel, Netns};
use netloom::testkit::{SimKernel, SimSnapshot};
use netloom::{Engine, EngineConfig, Result, Sandbox};
use netloom_store::MemoryDisk;

use super::Machine;

/// A simulated kernel and a disk in memory, which survive their engines.
pub(crate) struct SimMachine {
    kernel: SimKernel,
    disk: MemoryDisk,
    before: SimSnapshot,
    /// Gone as soon as the engine's thread is.
    used: Weak<SimKernel>,
}

impl SimMachine {
    pub(crate) fn new() -> Self {
        let kernel = SimKernel::new();
        let before = kernel.snapshot();
        Self { kernel, disk: MemoryDisk::default(), before, used: Weak::new() }
    }
}

impl Machine for SimMachine {
    fn kernel(&self) -> &dyn Kernel {
        &self.kernel
    }

    async fn start(&mut self, config: &EngineConfig) -> Result<Engine> {
        let kernel = Arc::new(self.kernel.clone());
        self.used = Arc::downgrade(&kernel);
        let builder = Engine::builder().config(config.clone()).kernel(kernel);
        builder.store(Box::new(self.disk.open())).start().await
    }

    async fn kill(&mut self, engine: Engine) {
        drop(engine);
        let patience = Instant::now() + Duration::from_secs(30);
        while self.used.strong_count() > 0 {
            assert!(Instant::now() < patience, "the engine lives on, although nobody holds it");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn reboot(&mut self) {
        self.kernel.reboot();
    }

    async fn reaches(&self, from: &Sandbox, to: IpAddr, _expected: bool) -> bool {
        from.netns().is_ok_and(|netns| self.kernel.can_reach(Netns::Named(netns), to).is_ok())
    }

    async fn left(&self) -> Vec<String> {
        let mut left = self.kernel.leftovers(&self.before);
        left.extend(self.disk.records().iter().map(|(key, _)| format!("record: {key:?}")));
        left.extend(self.disk.intents().iter().map(|intent| format!("intent: {intent:?}")));
        left
    }
}
