//! Address pools and addresses: a pure allocator.
//!
//! [`DefaultIpam`] is libnetwork's default IPAM driver as one data structure: no IO, no clock, no chance. What belongs to
//! one host is remembered nowhere else: after a restart it is filled again from the records of networks and endpoints, so
//! there is nothing that could disagree with them. What hosts share is in a store that they share ([`cluster`]). What the
//! host uses it is told; [`io`] reads the part of that which lies in files.
//!
//! Three rules differ from libnetwork on purpose. Addresses are handed out one after another and a released
//! one comes back late, because a neighbour's cache may still name its last owner: no sooner than choice has come round to it,
//! and not before 64 others were released after it, unless nothing else is free. Point-to-point subnets
//! (/31, /32, /127, /128) can be used in full. And a pool belongs to one network, unless the drivers of all
//! networks that have it say that they can share it.
//!
//! [`driver`] is the interface of IPAM drivers of others, which may be slow and may remember by themselves; [`null`] is one
//! that gives nothing.

mod addresses;
mod back_off;
mod block;
mod change;
mod claim;
pub mod cluster;
mod codec;
mod cooling;
mod default;
mod doubt;
pub mod driver;
mod entry;
mod head;
mod history;
mod host;
mod image;
pub mod io;
mod load;
mod name;
mod network;
pub mod null;
mod occupancy;
mod order;
mod owner;
mod packed;
mod page;
mod part;
mod parts;
pub mod picture;
mod pool;
mod refusal;
mod replica;
mod request;
mod reservation;
mod resolv;
mod runs;
mod space;
mod span;
mod sparse;
mod subnet;
mod touched;
mod tree;
mod ula;

pub use addresses::AddressMap;
pub use change::Change;
pub use default::{DefaultIpam, PoolHolding, RestoredPools};
pub use doubt::{Doubt, InDoubt};
pub use host::{HostNet, HostUse, check_host};
pub use image::{Contradiction, ImageError};
pub use order::{Leased, Order, Place};
pub use pool::PoolUsage;
pub use refusal::no_store;
pub use request::{AddressSpace, Granted, Lease, LeaseRequest, PoolsRequest, SkippedPool};
pub use ula::host_pools;
