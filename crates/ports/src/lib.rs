//! Ports of the host: who has which, and which is next. Pure data, no clock, no chance, no sockets.
//!
//! The model is libnetwork's `portallocator`: ports are given for each address and protocol, in turn behind the one
//! given last, from the host's dynamic range or from one that was asked for. Beyond it:
//!
//! - `0.0.0.0` and an IPv4 address of the host are known to be in each other's way, and so are `::` and an IPv6 one.
//!   (libnetwork leaves that to the kernel.) `::` says nothing about IPv4;
//! - one request may name several addresses, which get the same ports or none;
//! - a request may be for several ports in a row, which are taken as one;
//! - every port has an owner, who is named to whoever wants it too, and gives back all of its ports at once;
//! - the ports of an owner that is deleted stay taken in quarantine until its link is gone.
//!
//! # What it costs
//! For each family and protocol two bits a port say whether it may be free, so a search passes 64 ports at a time.
//! Each port taken costs an entry in the table of its address, and each request one in the list of its owner.

mod allocator;
mod bits;
mod owners;
mod plane;
mod request;
mod rounds;

pub use allocator::{Holding, PortAllocator};
pub use request::{MAX_ADDRESSES, MAX_PORTS, MAX_REQUESTS, PortOwner, PortRequest};
