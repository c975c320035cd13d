//! The words of the engine: identifiers, specs, snapshots, records, events, errors, configuration.
//!
//! Everything here is plain data. No IO, no clocks, no randomness: those belong to the callers.

pub mod config;
pub mod considered;
pub mod error;
pub mod event;
pub mod host_port;
pub mod id;
pub mod ifname;
pub mod live;
pub mod mac;
pub mod name;
pub mod purge;
pub mod record;
pub mod reserved;
pub mod seldom;
pub mod snapshot;
pub mod spec;
pub mod wide;

pub use config::{EngineConfig, Limits, Timeouts};
pub use considered::{AddressesConsidered, HostOverlap, PassedOver, PoolFill, PoolsConsidered};
pub use error::{Certainty, Error, ErrorKind, Holder, ObjectKind, PortReason, PortUser, Reason, Result};
pub use event::{Event, EventKind, Repair, RepairCause};
pub use host_port::{HostPort, HostPorts, PortRange, Published, PublishedPorts};
pub use id::{ControllerId, EndpointId, IdText, JoinId, NetworkId, OpId, SandboxId, ShortId};
pub use ifname::{IfName, NetnsName};
pub use live::{
    Left, LiveList, LiveSandbox, LiveSet, Mark, ReconcileReport, ReleasedSandbox, Stray, Verdict,
};
pub use mac::MacAddr;
pub use purge::{PurgedEndpoint, PurgedHost, PurgedNetwork};
pub use seldom::Seldom;
pub use spec::{
    EndpointSpec, ExtraHost, IpamPoolSpec, IpamSpec, JoinSpec, Names, NamespaceSpec, NetworkSpec,
    ParentUpdate, PortBinding, Ports, Protocol, SandboxSettings, SandboxSpec, TransportPort,
};
