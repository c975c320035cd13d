//! Rank 5: the controller. It owns the lists of networks, sandboxes and drivers, and restarts what dies.

mod actor;
mod boot;
mod children;
mod difference;
mod directory;
mod estate;
mod events;
mod membership;
mod message;
mod rebuild;
pub mod reconcile;

pub use actor::{ControllerActor, operations};
pub use boot::{BootInput, Booted, boot};
pub use difference::{Difference, Subject, What};
pub use directory::{Births, Directory};
pub use estate::Neighbours;
pub use events::{EventHub, EventStream, Missed};
pub use membership::Membership;
pub use message::{
    CrashActor, CreateNetwork, CreateSandbox, DeleteNetwork, DeleteSandbox, Diff, Drain, ForceDeleteEndpoint,
    InspectAddresses, InspectEngine, InspectNameServers, InspectNames, InspectPorts, ListDrivers,
    ListHolders, ListIpamDrivers, NodeChanged, ProvideWayOut, PurgeHost, Reconcile, ReloadConfiguration,
    Shutdown, ShutdownMode, StoreCounters, Victim,
};
pub use netloom_actor_services::files::FilesSource;
pub use netloom_actor_services::store::StoreStats;
