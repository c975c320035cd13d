//! The ports service: who has which port of the host, and the sockets that hold them.

mod actor;
mod attempt;
mod board;
mod keep;
mod message;
mod parked;
mod serve;
mod state;
mod upkeep;

use std::time::{Duration, Instant};

use netloom_kernel::{Kernel, Netns};
use netloom_model::{Error, PortRange, Reason};

pub use actor::{ATTEMPTS, PortsActor};
pub use message::{
    AdoptPorts, LeadPorts, LedPorts, ListPorts, PortsOf, PortsOwnerRenamed, QuarantinePorts, ReleasePorts,
    ReplaceDynamicRange, ReservePorts, ServePorts, ServedPort, StopServing, UnheldPort,
};
pub use parked::WAITING;
pub use state::PortsState;

/// How long the kernel may take to say what its range is; it has it in memory.
const PATIENCE: Duration = Duration::from_secs(1);

/// The range that the host takes ports from which nobody names, as libnetwork does: Linux says in
/// `net.ipv4.ip_local_port_range`; [`PortRange::DYNAMIC`] where it does not.
pub async fn dynamic_range(kernel: &dyn Kernel) -> PortRange {
    let asked = kernel.read_setting(Netns::Host, "ipv4/ip_local_port_range", Instant::now() + PATIENCE);
    let said = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(said) => said.map_err(Error::from),
        Err(_) => Err(Reason::DeadlineExceeded { what: "the kernel".into(), waited: PATIENCE }.into()),
    };
    let range = said.and_then(|text| PortRange::of_setting(&text));
    range.unwrap_or_else(|error| {
        tracing::warn!(%error, instead = %PortRange::DYNAMIC, "the host's dynamic ports are not known");
        PortRange::DYNAMIC
    })
}
