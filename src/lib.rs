//! netloom: a container network engine. libnetwork's model (controller, networks, endpoints, sandboxes),
//! rebuilt as actors that exchange typed messages.
//!
//! ```
//! use netloom::{EndpointSpec, Engine, JoinSpec, NetworkSpec, SandboxSpec};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> netloom::Result<()> {
//! // `Engine::builder().start()` is the same engine over the real kernel.
//! let simulation = Engine::simulated().await?;
//! let controller = simulation.engine().controller();
//! let network = controller.create_network(NetworkSpec::new("blue")).await?;
//! let endpoint = network.create_endpoint(EndpointSpec::new("web")).await?;
//! let sandbox = controller.create_sandbox(SandboxSpec::new("container-1")).await?;
//! endpoint.join(&sandbox, JoinSpec::default()).await?;
//! println!("{} is at {:?}", endpoint.name(), endpoint.inspect().await?.ipv4);
//! # Ok(())
//! # }
//! ```
//!
//! Handles are names, not addresses: cheap to clone, `Send + Sync`, usable from any tokio runtime or from
//! none, and still good after the object behind them was restarted.

mod config_file;
mod controller;
mod core;
mod endpoint;
mod engine;
mod external_key;
mod name_files;
mod neighbours;
mod network;
mod place;
mod sandbox;
mod simulation;

pub use config_file::config_from_file;
pub use controller::Controller;
pub use endpoint::Endpoint;
pub use engine::{Engine, EngineBuilder};
pub use network::Network;
pub use sandbox::{Sandbox, SandboxKey};
pub use simulation::{Simulation, SimulationBuilder};

pub use netloom_actor_controller::{
    Difference, EventHub, EventStream, Membership, Missed, ShutdownMode, StoreStats, Subject, Victim, What,
};
pub use netloom_drivers as drivers;
/// Programs of iptables, for harnesses that bring their own ([`EngineBuilder::xtables`]).
pub use netloom_firewall::{io as xtables, iptables};
/// firewalld, for those who bring a client of their own ([`EngineBuilder::firewalld`]).
pub use netloom_firewalld as firewalld;
pub use netloom_ipam::driver as ipam;
pub use netloom_kernel as kernel;
pub use netloom_model::config::{
    ClientConfig, ClusterConfig, DatastoreConfig, DefaultPool, FirewallBackend, FirewallConfig, Ignored,
    ScopeConfig,
};
pub use netloom_model::record::{PoolRecord, Reservation, StaticRoute, WayOut};
pub use netloom_model::{
    Certainty, ControllerId, EndpointId, EndpointSpec, EngineConfig, Error, ErrorKind, Event, EventKind,
    ExtraHost, Holder, HostOverlap, HostPort, HostPorts, IfName, IpamPoolSpec, IpamSpec, JoinId, JoinSpec,
    Left, Limits, LiveSandbox, LiveSet, MacAddr, Mark, Names, NamespaceSpec, NetnsName, NetworkId,
    NetworkSpec, ObjectKind, OpId, ParentUpdate, PassedOver, PoolsConsidered, PortBinding, PortRange, Ports,
    Protocol, Published, PublishedPorts, PurgedEndpoint, PurgedHost, PurgedNetwork, Reason, ReconcileReport,
    ReleasedSandbox, Repair, RepairCause, Result, SandboxId, SandboxSettings, SandboxSpec, Seldom, Stray,
    Timeouts, TransportPort, snapshot,
};
pub use netloom_store::cluster;
pub use netloom_testkit as testkit;
