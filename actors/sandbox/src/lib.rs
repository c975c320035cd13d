//! Rank 4: one actor for each sandbox. It owns the sandbox's namespace and what is plugged into it.

mod actor;
mod desired;
mod directory;
mod gateway;
mod inside;
mod member;
mod message;
mod saga;
mod turns;

pub use actor::{SandboxActor, SandboxDeps};
pub use desired::{DesireSandbox, SandboxDesire};
pub use directory::{SandboxEntry, Sandboxes, host_key};
pub use gateway::{Gateways, elect, lacks_way_out};
pub use member::Member;
pub use message::{
    AdoptSandbox, DeleteSandbox, Establish, InspectSandbox, JoinSandbox, LeaveSandbox, MarkFailed,
    NetworkRestarted, OfferedWayOut, Origin, RefreshSandbox, RenameSandbox, SetSandboxKey, Standing,
    WayOutOffer,
};
pub use turns::Turns;
