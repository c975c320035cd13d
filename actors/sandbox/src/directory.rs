//! Where sandboxes are found by whoever asks them.

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
    /// Its actor.
    pub addr: Addr<SandboxActor>,
}

/// Every sandbox in service. Written by the controller, read by everybody, looked up for each ask.
pub type Sandboxes = ReadModel<SandboxId, SandboxEntry>;
