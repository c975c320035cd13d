//! The ports service: who has which port of the host, and the sockets that hold them.

mod actor;
mod attempt;
mod keep;
mod message;
mod parked;
mod upkeep;

use std::time::Instant;

use netloom_kernel::{Kernel, Netns};
use netloom_model::PortRange;

pub use actor::{ATTEMPTS, PortsActor};
pub use message::{
    AdoptPorts, ListPorts, PortsOf, PortsOwnerRenamed, QuarantinePorts, ReleasePorts, ReplaceDynamicRange,
    ReservePorts, TakeSocket, UnheldPort,
};
pub use parked::WAITING;

/// The range that the host takes ports from which nobody names, as libnetwork does: Linux says in
/// `net.ipv4.ip_local_port_range`; [`PortRange::DYNAMIC`] where it does not.
pub async fn dynamic_range(kernel: &dyn Kernel, deadline: Instant) -> PortRange {
    let said = kernel.read_setting(Netns::Host, "ipv4/ip_local_port_range", deadline).await;
    let range = said.map_err(Into::into).and_then(|text| PortRange::of_setting(&text));
    range.unwrap_or_else(|error| {
        tracing::warn!(%error, instead = %PortRange::DYNAMIC, "the host's dynamic ports are not known");
        PortRange::DYNAMIC
    })
}
