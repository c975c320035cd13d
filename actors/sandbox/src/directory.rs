//! Where sandboxes are found by whoever asks them.

use std::path::PathBuf;

use netloom_model::SandboxId;
use netloom_runtime::{Addr, ReadModel};

use crate::actor::SandboxActor;

/// A sandbox in service: its container, and the present incarnation of its actor.
#[derive(Clone, Debug)]
pub struct SandboxEntry {
    /// Its identifier.
    pub id: SandboxId,
    /// The container it is for.
    pub container_id: String,
    /// Whether it is the host's own namespace.
    pub host: bool,
    /// Its actor.
    pub addr: Addr<SandboxActor>,
}

/// Where the host's own namespace is found by others, as long as this process lives.
#[must_use]
pub fn host_key() -> PathBuf {
    format!("/proc/{}/ns/net", std::process::id()).into()
}

/// Every sandbox in service. Written by the controller, read by everybody, looked up for each ask.
pub type Sandboxes = ReadModel<SandboxId, SandboxEntry>;
