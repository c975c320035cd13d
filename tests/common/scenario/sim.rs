//! The simulated machine.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use netloom::kernel::{Kernel, Netns};
use netloom::testkit::{SimKernel, SimSnapshot};
use netloom::{Engine, EngineBuilder, Result, Sandbox};
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

    fn look_anew(&mut self) {}

    async fn start(&mut self, builder: impl Fn() -> EngineBuilder) -> Result<Engine> {
        let kernel = Arc::new(self.kernel.clone());
        self.used = Arc::downgrade(&kernel);
        builder().kernel(kernel).store(Box::new(self.disk.open())).start().await
    }

    async fn make_namespace(&mut self, name: &str) -> PathBuf {
        let path = held(name);
        self.kernel.external_netns(&path).expect("nothing is there");
        path
    }

    async fn end_namespace(&mut self, name: &str) -> Vec<String> {
        // While it is there whatever an engine left in it shows.
        let left = self.kernel.leftovers(&self.before);
        self.kernel.drop_external(held(name)).expect("it is there");
        let inside = format!("of the namespace at {}", held(name).display());
        left.into_iter().filter(|line| line.contains(&inside)).collect()
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

/// Where a process has its namespace.
fn held(name: &str) -> PathBuf {
    format!("/proc/{name}/ns/net").into()
}
