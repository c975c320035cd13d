//! The IPAM service: the default driver's allocator behind messages.

mod actor;
mod message;

pub use actor::IpamActor;
pub use message::{
    InspectPools, LeaseAddresses, QuarantineAddresses, ReleaseAddresses, ReleasePools, RequestPools,
    RestorePools,
};
