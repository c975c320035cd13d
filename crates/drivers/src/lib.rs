//! The network driver interface, and the built-in drivers.
//!
//! A driver decides synchronously, with its own state at hand, and returns the slow part as a future that
//! does not borrow it. So one driver serves many networks at once without a lock, and a handler that calls
//! it never waits.

pub mod bare;
pub mod bridge;
mod config;
mod desired;
mod driver;
mod options;
mod outside;
mod request;

pub use config::DriverConfig;
pub use desired::{DesiredObject, KernelObject, LinkState, Place};
pub use driver::{Begun, Driver, DriverCx, DriverFactory, Registration, Work, done};
pub use netloom_firewall::{FamilyRules, Mode, NetworkRules};
pub use netloom_model::config::{DatastoreConfig, Scope};
pub use netloom_model::record::StaticRoute;
pub use outside::{Addresses, Lead, NoOutside, Outside, Publication, Wanted};
pub use request::{
    Capability, CreateEndpoint, CreateNetwork, Discovery, EndpointCreated, ExternalConnectivity, Inside,
    Interface, Join, Joined, KernelSurvey, Leave, Left, NetworkCreated, NodeDiscovery, OperInfo, Present,
    Programmed, Recovered, Restored, SandboxOptions, TableEntry, TableEvent, TableOperation,
};
