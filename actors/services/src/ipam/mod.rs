//! The IPAM service: the default driver's allocator behind messages.

mod actor;
mod message;

pub use actor::{DRIVER, IpamActor};
pub use message::{
    ClusterStoreConfigured, InspectIpam, InspectPools, LeaseAddresses, ListHolders, ListOverlaps,
    QuarantineAddresses, ReleaseAddresses, ReleasePools, ReplaceDefaultPools, RequestPools, RestorePools,
};
