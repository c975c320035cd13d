//! Where networks are found by whoever asks them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use netloom_model::NetworkId;
use netloom_runtime::{Addr, ReadModel};

use crate::actor::NetworkActor;

/// A network in service: its name, and the present incarnation of its actor.
#[derive(Clone, Debug)]
pub struct NetworkEntry {
    /// Its identifier.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// Its actor.
    pub addr: Addr<NetworkActor>,
    /// Whether it is being deleted.
    pub leaving: Leaving,
}

/// Whether a network is being deleted: noted by its actor, seen by those who list networks.
#[derive(Clone, Debug, Default)]
pub struct Leaving(Arc<AtomicBool>);

impl Leaving {
    /// Whether it is.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, leaving: bool) {
        self.0.store(leaving, Ordering::Release);
    }
}

/// Every network in service. Written by the controller, read by everybody, looked up for each ask.
pub type Networks = ReadModel<NetworkId, NetworkEntry>;
