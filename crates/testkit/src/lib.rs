//! What stands in for the machine: a simulated kernel, planned faults, and probes that send real packets.
//!
//! [`SimKernel`] implements [`netloom_kernel::Kernel`] over a model of namespaces, links, addresses, routes,
//! neighbours and settings. It needs no privileges. It refuses what Linux refuses, with the same error
//! number, and can tell afterwards whether anything was left behind ([`SimKernel::assert_pristine`]) and
//! whether two places can talk ([`SimKernel::can_reach`]).
//!
//! [`SimPorts`] stands in for the sockets that hold ports of the host.
//!
//! [`SimIptables`] stands in for the programs of iptables.
//!
//! [`SimFirewalld`] stands in for firewalld.
//!
//! [`probe`] is for the real kernel: echo requests and bulk transfers between namespaces, without external
//! programs.

pub mod errno;
pub mod firewalld;
pub mod iptables;
pub mod ports;
pub mod probe;
pub mod sim;

pub use firewalld::{FirewalldFault, SimFirewalld};
pub use iptables::{Iptables, IptablesFault, SimIptables};
pub use ports::SimPorts;
pub use sim::{
    EffectTime, Fault, FaultKind, FaultPlan, FaultPoint, Latency, RandomFaults, SimKernel, SimKernelBuilder,
    SimSnapshot,
};
