//! Where networks are found by whoever asks them.

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
}

/// Every network in service. Written by the controller, read by everybody, looked up for each ask.
pub type Networks = ReadModel<NetworkId, NetworkEntry>;
