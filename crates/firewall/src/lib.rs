//! The firewall as a state that is wanted: networks and published ports, and the nftables table that says it.
//!
//! The rules of the table are always the same; what differs from host to host is in the elements of its sets and maps,
//! keyed by interface, address, protocol and port. So a rule is never in the way of another, nothing gets slower with
//! what is already there, and one change is one small transaction. A published port is the *key* of a map: a second
//! meaning of it cannot exist, and is refused here before the kernel would.
//!
//! [`Ruleset`] keeps the elements with their owners, and tells what to change in the kernel; [`delta`] compares a table
//! as it is with one as it should be. Pure: no kernel, no clock. [`iptables`] says the same for hosts that need iptables; its
//! programs are run in [`io`].

mod compare;
mod delta;
mod elements;
mod holders;
pub mod io;
pub mod iptables;
mod network;
pub mod obstacles;
mod port;
mod ruleset;
mod table;

pub use compare::{Deviates, Deviation, compare};
pub use delta::{delta, has_users, unasked};
pub use elements::Placed;
pub use network::{FamilyRules, Mode, NetworkRules};
pub use port::{Conflict, PortRules};
pub use ruleset::{Owner, Ruleset, Said};
pub use table::{Mark, TABLES, TableConfig, USER_CHAIN};
