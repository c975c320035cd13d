//! The machine under an engine: the simulated one or the real one.

use std::net::IpAddr;
use std::path::PathBuf;

use netloom::kernel::Kernel;
use netloom::{Engine, EngineBuilder, Result, Sandbox, ShutdownMode};
use serde::Deserialize;

/// How an engine ends before the next one starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// What is under way is carried out.
    Graceful,
    /// What is under way is undone.
    Immediate,
    /// It ends at once, wherever it stands.
    Kill,
    /// The machine goes down with it: namespaces and links are gone.
    Reboot,
}

impl How {
    /// The shutdown that it begins with, if there is one.
    pub(crate) fn mode(self) -> Option<ShutdownMode> {
        match self {
            Self::Graceful => Some(ShutdownMode::Graceful),
            Self::Immediate => Some(ShutdownMode::Immediate),
            Self::Kill | Self::Reboot => None,
        }
    }
}

/// Where a scenario plays.
pub(crate) trait Machine {
    /// What is in the kernel, through a handle of the test's own.
    fn kernel(&self) -> &dyn Kernel;

    /// Forgets what it has open in namespaces: one may be another now under the same name.
    fn look_anew(&mut self);

    /// Starts an engine on what an earlier one left. `builder` prepares one that lacks its place only.
    async fn start(&mut self, builder: impl Fn() -> EngineBuilder) -> Result<Engine>;

    /// Ends an engine at once. It is the last handle.
    async fn kill(&mut self, engine: Engine);

    /// Makes a namespace of somebody else's, as a container's process has one, and says where it is found.
    async fn make_namespace(&mut self, name: &str) -> PathBuf;

    /// Takes it away, and says which links are in it that it did not have at first.
    async fn end_namespace(&mut self, name: &str) -> Vec<String>;

    /// Takes away what a reboot does. No engine runs.
    async fn reboot(&mut self);

    /// Whether an address answers to a sandbox. For an answer that is `expected` it is worth to wait longer.
    async fn reaches(&self, from: &Sandbox, to: IpAddr, expected: bool) -> bool;

    /// A line for everything in the kernel and the store that was not there at the beginning.
    async fn left(&self) -> Vec<String>;
}
