//! Tracked connections: a list that tests add to, and that the engine has forgotten.

use netloom_kernel::conntrack::{Connection, Connections};

use super::SimKernel;
use super::world::World;
use crate::errno::{EOPNOTSUPP, Refusal};

/// The connections that the host's namespace remembers.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    connections: Vec<Connection>,
    /// The kernel has no such thing.
    missing: bool,
}

impl SimKernel {
    /// A connection through the host, or to it, from now on.
    pub fn track(&self, connection: Connection) {
        self.lock().world.tracked.connections.push(connection);
    }

    /// The connections that nobody has had forgotten, oldest first.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        self.lock().world.tracked.connections.clone()
    }

    /// From now on this is a kernel without connection tracking: forgetting is unsupported.
    pub fn without_connection_tracking(&self) {
        self.lock().world.tracked = Tracked { connections: Vec::new(), missing: true };
    }
}

impl World {
    /// An empty filter asks the kernel for nothing, so nothing can be refused.
    pub(super) fn forget(&mut self, filter: &[Connections]) -> Result<(), Refusal> {
        if self.tracked.missing && !filter.is_empty() {
            return Err(Refusal::new(EOPNOTSUPP));
        }
        self.tracked.connections.retain(|connection| !filter.iter().any(|one| one.cover(connection)));
        Ok(())
    }
}
