//! What a network can be asked.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};
use netloom_drivers::{Interface, OperInfo, SandboxOptions};
use netloom_kernel::Netns;
use netloom_model::record::{EndpointRecord, NetworkRecord, Reservation, StaticRoute, WayOut};
use netloom_model::snapshot::{EndpointSnapshot, NetworkSnapshot};
use netloom_model::{EndpointId, EndpointSpec, IfName, JoinId, Names, Repair, Result, SandboxId, Seldom};
use netloom_runtime::messages;
use netloom_store::Change;

/// Where a network comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// It is new.
    Fresh,
    /// It is read back after a start: driver and IPAM know nothing of it yet.
    FromStore(NetworkRecord, Vec<EndpointRecord>),
    /// Its actor died: driver and IPAM still know it.
    AfterRestart(NetworkRecord, Vec<EndpointRecord>),
}

/// Bring the network into service. The first message of every network actor.
#[derive(Clone, Debug)]
pub struct Establish(pub Origin);

/// Make an endpoint. Its identifier is chosen by the caller, before the first effect.
#[derive(Clone, Debug)]
pub struct CreateEndpoint {
    /// Its identifier.
    pub endpoint: EndpointId,
    /// What is asked for.
    pub spec: EndpointSpec,
}

/// Delete an endpoint that is in no sandbox.
#[derive(Clone, Copy, Debug)]
pub struct DeleteEndpoint(pub EndpointId);

/// Delete an endpoint wherever it is. Ends what is under way on it, and waits for none of that: what is stuck
/// becomes a leak. Its sandbox has to be told.
#[derive(Clone, Copy, Debug)]
pub struct EvictEndpoint(pub EndpointId);

/// Give an endpoint another name.
#[derive(Clone, Debug)]
pub struct RenameEndpoint {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its new name, unique within the network.
    pub name: String,
}

/// Keep addresses for endpoints of a name, whether there is one or not. Succeeds when exactly these are kept.
#[derive(Clone, Debug)]
pub struct ReserveAddress {
    /// The name.
    pub name: String,
    /// What is kept: an address of one family, or of each.
    pub kept: Reservation,
}

/// Keep nothing for a name any more. Succeeds when nothing is kept.
#[derive(Clone, Debug)]
pub struct ReleaseReservation(pub String);

/// Make the link of an endpoint into a sandbox. `CommitAttachment` or `AbandonAttachment` must follow.
#[derive(Clone, Debug)]
pub struct AttachEndpoint {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The sandbox.
    pub sandbox: SandboxId,
    /// This join, unlike all others.
    pub join: JoinId,
    /// The sandbox's namespace. Without one the place is kept and nothing made; the same endpoint may be attached
    /// once more, in earnest, when the namespace is there.
    pub netns: Option<Netns>,
    /// The interface's number there; the driver says what stands before it.
    pub index: u32,
    /// The priority in the gateway election.
    pub priority: i32,
    /// Whether it is to be the way out of a sandbox whose other endpoints have none.
    pub as_way_out: bool,
    /// What the sandbox tells the driver.
    pub options: Arc<SandboxOptions>,
}

/// What an endpoint brings into a sandbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// The network's name, which breaks ties in the gateway election.
    pub network_name: Arc<str>,
    /// How the interface got there.
    pub interface: Interface,
    /// Its name.
    pub ifname: IfName,
    /// Its address.
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Net>,
    /// The IPv4 gateway.
    pub gateway: Option<IpAddr>,
    /// The IPv6 gateway.
    pub gateway6: Option<IpAddr>,
    /// Further routes.
    pub routes: Vec<StaticRoute>,
    /// What it has to do with the way out.
    pub way_out: WayOut,
    /// Whether its neighbours know all about its IPv4 address ([`netloom_drivers::Joined::ipv4_settled`]).
    pub ipv4_settled: bool,
    /// The names that its own sandbox uses, and whether there is a name server for its sake.
    pub names: Seldom<Names>,
}

/// Make an attachment durable: the endpoint is joined from here on.
#[derive(Clone, Debug)]
pub struct CommitAttachment {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The join that made the attachment.
    pub join: JoinId,
    /// What the sandbox wants to be recorded with it.
    pub beside: Option<Change>,
}

/// Take an attachment back whose join failed. Succeeds when there is none.
#[derive(Clone, Copy, Debug)]
pub struct AbandonAttachment {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The join that failed: a later one is not meant.
    pub join: JoinId,
}

/// Take an endpoint out of its sandbox. Answers when it is cut off and its record says so; the kernel may
/// still be busy with its link.
#[derive(Clone, Copy, Debug)]
pub struct DetachEndpoint {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The sandbox that it is in.
    pub sandbox: SandboxId,
    /// Whether its place there is kept for it: the sandbox waits for another namespace.
    pub keeps_place: bool,
}

/// Let an endpoint be reached from outside: it provides the way out of this sandbox, which tells this.
#[derive(Clone, Debug)]
pub struct ProgramEndpoint {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The sandbox.
    pub sandbox: SandboxId,
    /// What the sandbox tells.
    pub options: Arc<SandboxOptions>,
    /// Whether it was reached from outside already when the engine, or one of its actors, began anew: ports that it has
    /// still are no news then.
    pub again: bool,
}

/// Take that back. Without effect when the endpoint is in another sandbox by now.
#[derive(Clone, Copy, Debug)]
pub struct RevokeEndpoint(pub EndpointId, pub SandboxId);

/// Delete the network. It must have no endpoints.
#[derive(Clone, Copy, Debug)]
pub struct DeleteNetwork;

/// The network's driver was restarted and knows nothing: tell it again.
#[derive(Clone, Copy, Debug)]
pub struct RestoreInDriver;

/// Bring the network into service again, which what it needs was away for: IPAM and the driver are told what is recorded,
/// as at a start. Until that has succeeded it stays as it is.
#[derive(Clone, Copy, Debug)]
pub struct Revive;

/// The network is out of service from here on.
#[derive(Clone, Debug)]
pub struct MarkFailed(pub String);

/// The network with its endpoints.
#[derive(Clone, Copy, Debug)]
pub struct InspectNetwork;

/// One endpoint.
#[derive(Clone, Copy, Debug)]
pub struct InspectEndpoint(pub EndpointId);

/// Every endpoint.
#[derive(Clone, Copy, Debug)]
pub struct ListEndpoints;

/// What the driver knows about an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct EndpointInfo(pub EndpointId);

messages! {
    Establish => Result<Vec<Repair>>;
    CreateEndpoint => Result<EndpointSnapshot>;
    DeleteEndpoint => Result<()>;
    EvictEndpoint => Result<Option<SandboxId>>;
    RenameEndpoint => Result<()>;
    ReserveAddress => Result<()>;
    ReleaseReservation => Result<()>;
    AttachEndpoint => Result<Attachment>;
    CommitAttachment => Result<()>;
    AbandonAttachment => Result<()>;
    DetachEndpoint => Result<()>;
    ProgramEndpoint => Result<()>;
    RevokeEndpoint => Result<()>;
    DeleteNetwork => Result<()>;
    RestoreInDriver => Result<()>;
    Revive => Result<()>;
    MarkFailed => ();
    InspectNetwork => NetworkSnapshot;
    InspectEndpoint => Result<EndpointSnapshot>;
    ListEndpoints => Vec<EndpointSnapshot>;
    EndpointInfo => Result<OperInfo>;
}
