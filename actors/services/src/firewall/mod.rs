//! The firewall service: keeps the host's firewall as the engine wants it.

mod actor;
mod backend;
mod choice;
mod compare;
mod ending;
mod event;
mod message;
mod state;
mod survey;
mod watch;
mod zone;

pub use actor::{FirewallActor, FirewallDeps};
pub use backend::Backend;
pub use choice::Choice;
pub use compare::CompareRules;
pub use ending::LeadNowhere;
pub use event::FirewallEvent;
pub use message::{EndRestore, InspectFirewall, LeadsToEngine, ReapplyRules, SetNetworkRules, SetPortRules};
pub use state::FirewallState;
