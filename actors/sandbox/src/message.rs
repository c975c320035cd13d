//! What a sandbox can be asked.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use netloom_model::snapshot::{SandboxEndpoint, SandboxSnapshot};
use netloom_model::{EndpointId, JoinSpec, NetworkId, Repair, Result, SandboxSpec};
use netloom_runtime::messages;

use crate::member::Member;

/// Where a sandbox comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// It is new: its namespace has to be made.
    Fresh,
    /// It is read back, after a start or after its actor died: its namespace is there, with these endpoints.
    Recorded(Vec<Member>),
    /// The same, and its container does not live: it only waits for its release, so nothing is put right.
    Dead(Vec<Member>),
}

/// Bring the sandbox into service. The first message of every sandbox actor.
#[derive(Clone, Debug)]
pub struct Establish(pub Origin);

/// A sandbox that came into service.
#[derive(Clone, PartialEq, Debug)]
pub struct Standing {
    /// How it is.
    pub snapshot: SandboxSnapshot,
    /// What had to be put right.
    pub repairs: Vec<Repair>,
}

/// The network that is the way out of sandboxes whose endpoints have none.
#[derive(Clone, Debug)]
pub enum WayOutOffer {
    /// It is there. Boxed, because it is large, and few engines have one.
    Offered(Box<OfferedWayOut>),
    /// It is not: a request that needs it fails with `NoWayOut`. A join or a leave has changed nothing then, and any
    /// request can be made again.
    Missing {
        /// Its name.
        network: Arc<str>,
    },
}

/// A network that is there.
#[derive(Clone, Copy, Debug)]
pub struct OfferedWayOut {
    /// The network.
    pub network: NetworkId,
    /// The identifier of the endpoint there, should one be made.
    pub endpoint: EndpointId,
}

/// Plug an endpoint in.
#[derive(Clone, Debug)]
pub struct JoinSandbox {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its network.
    pub network: NetworkId,
    /// How it joins.
    pub spec: JoinSpec,
    /// What is there for a way out; `None` to go on without one.
    pub way_out: Option<WayOutOffer>,
}

/// Unplug an endpoint.
#[derive(Clone, Debug)]
pub struct LeaveSandbox {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its network.
    pub network: NetworkId,
    /// What is there for a way out; `None` to go on without one.
    pub way_out: Option<WayOutOffer>,
}

/// Give every endpoint another name, all or none.
#[derive(Clone, Debug)]
pub struct RenameSandbox(pub String);

/// Unplug every endpoint, and plug all in again as a sandbox of this spec, for a container that is started again.
#[derive(Clone, Debug)]
pub struct RefreshSandbox {
    /// What is asked for now. Container and namespace are as they were.
    pub spec: Box<SandboxSpec>,
    /// What is there for a way out.
    pub way_out: WayOutOffer,
}

/// Tell a sandbox the namespace that somebody else made: what waits is plugged in there.
#[derive(Clone, Debug)]
pub struct SetSandboxKey {
    /// A file that is that namespace.
    pub source: PathBuf,
    /// What the file is reached through, if it is a descriptor: kept open until this is answered.
    pub held: Option<Arc<OwnedFd>>,
    /// What is there for a way out.
    pub way_out: WayOutOffer,
}

/// Unplug every endpoint and delete the sandbox with its namespace.
#[derive(Clone, Copy, Debug)]
pub struct DeleteSandbox {
    /// End what is under way first, and go on although an endpoint cannot leave.
    pub force: bool,
}

/// Become the sandbox of this container, which is the same or has the same identifier: the sandbox is one of a dead
/// container and could not be released. What could not leave stays in it, without being its way out.
#[derive(Clone, Debug)]
pub struct AdoptSandbox(pub SandboxSpec);

/// The sandbox is out of service from here on.
#[derive(Clone, Debug)]
pub struct MarkFailed(pub String);

/// A network was started again and knows only what is recorded.
#[derive(Clone, Copy, Debug)]
pub struct NetworkRestarted(pub NetworkId);

/// The sandbox with its endpoints.
#[derive(Clone, Copy, Debug)]
pub struct InspectSandbox;

messages! {
    Establish => Result<Standing>;
    JoinSandbox => Result<SandboxEndpoint>;
    LeaveSandbox => Result<()>;
    RenameSandbox => Result<()>;
    RefreshSandbox => Result<()>;
    SetSandboxKey => Result<()>;
    DeleteSandbox => Result<()>;
    AdoptSandbox => Result<SandboxSnapshot>;
    MarkFailed => ();
    NetworkRestarted => ();
    InspectSandbox => SandboxSnapshot;
}
