//! Address pools and addresses: a pure allocator.
//!
//! [`DefaultIpam`] is libnetwork's default IPAM driver as one data structure: no IO, no clock, no chance,
//! and nothing remembered outside of it. After a restart it is filled again from the records of networks and
//! endpoints, so there is nothing that could disagree with them. What the host uses it is told; [`io`] reads
//! the part of that which lies in files.
//!
//! Three rules differ from libnetwork on purpose. Addresses are handed out one after another and a released
//! one comes back last, because a neighbour's cache may still name its last owner. Point-to-point subnets
//! (/31, /32, /127, /128) can be used in full. And a pool belongs to one network.
//!
//! [`driver`] is the interface of IPAM drivers of others, which may be slow and may remember by themselves; [`null`] is one
//! that gives nothing.

mod bitmap;
mod block;
mod default;
pub mod driver;
mod host;
pub mod io;
mod network;
pub mod null;
mod owner;
mod page;
mod pool;
mod request;
mod resolv;
mod runs;
mod space;
mod span;
mod sparse;

pub use bitmap::AddressSet;
pub use block::SkippedPool;
pub use default::{ADDRESS_SPACE, DefaultIpam, PoolHolding};
pub use host::{HostNet, HostUse};
pub use pool::PoolUsage;
pub use request::{Granted, Lease, LeaseRequest, PoolsRequest};
