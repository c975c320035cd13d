//! Rank 3: one actor for each network. It owns the network's endpoints, which are not actors: their names,
//! addresses and number are the network's invariants.

mod actor;
mod desired;
mod directory;
mod endpoint;
mod event;
mod evict;
mod message;
mod phase;
mod saga;

pub use actor::{NetworkActor, NetworkDeps};
pub use desired::{DesireNetwork, EndpointLink, ListLinks, NetworkDesire};
pub use directory::{Leaving, NetworkEntry, Networks};
pub use event::NetworkEvent;
pub use evict::EvictFrom;
pub use message::{
    AbandonAttachment, AttachEndpoint, Attachment, CommitAttachment, CreateEndpoint, DeleteEndpoint,
    DeleteNetwork, DetachEndpoint, EndpointInfo, Establish, EvictEndpoint, InspectEndpoint, InspectNetwork,
    ListEndpoints, MarkFailed, Origin, ProgramEndpoint, ReleaseReservation, RenameEndpoint, ReserveAddress,
    RestoreInDriver, Revive, RevokeEndpoint,
};
pub use saga::driver_request;
