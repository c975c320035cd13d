//! The IPAM drivers: one actor each. That of `default` has the allocator itself, and another one the address space that it
//! shares with other hosts; the others have a driver behind the interface that embedders implement.

mod actor;
mod books;
mod compose;
mod dealer;
mod foreign;
mod message;
mod registry;
mod shared;

pub use actor::{DRIVER, IpamActor};
pub use books::Books;
pub use foreign::IpamDeps;
pub use message::{
    ClusterStoreConfigured, InspectIpam, InspectPools, LeaseAddresses, ListHolders, ListOverlaps,
    NodeDiscovered, OwnerRenamed, PoolsRetired, PurgeHost, QuarantineAddresses, ReleaseAddresses,
    ReleasePools, ReplaceDefaultPools, RequestPools, ReserveAddresses, RestorePools, TakeBackPools,
    UnreserveAddresses,
};
pub use registry::{IpamPort, IpamRegistry};
pub use shared::CLUSTER;
