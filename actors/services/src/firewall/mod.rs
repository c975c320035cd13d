//! The firewall service: keeps the kernel's table as the engine wants it.

mod actor;
mod message;
mod state;

pub use actor::{FirewallActor, FirewallDeps};
pub use message::{
    EndRestore, FirewallPicture, InspectFirewall, ReapplyRules, SetNetworkRules, SetPortRules,
};
pub use state::FirewallState;
