//! What the ports service can be asked.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use netloom_kernel::{HoldRefusal, PortSocket};
use netloom_model::{EndpointId, Error, Holder, HostPort, HostPorts, PortRange, Result};
use netloom_ports::{PortOwner, PortRequest};
use netloom_proxy::Counts;
use netloom_runtime::messages;

/// Take ports for an endpoint and hold them: one answer for each request, in their order, or none at all. A port of an
/// endpoint that is deleted is waited for, until the operation's deadline.
///
/// Errors: `InvalidParameter` for requests that make no sense, the reasons of ports
/// ([`netloom_model::PortReason`]), `WrongPhase` for an endpoint whose ports are being given back.
#[derive(Clone, Debug)]
pub struct ReservePorts {
    /// Who gets them.
    pub owner: PortOwner,
    /// What is wanted.
    pub requests: Vec<PortRequest>,
}

/// Take the ports again that an endpoint had before a start, all or none, and hold them. One that cannot be held now is
/// taken all the same; the answer names it. What the endpoint has already is left as it is, except that what is not held
/// is tried once more.
///
/// Errors: `Conflict` when another endpoint has one, `WrongPhase` as for [`ReservePorts`].
#[derive(Clone, Debug)]
pub struct AdoptPorts {
    /// Who had them.
    pub owner: PortOwner,
    /// Its ports.
    pub ports: Vec<HostPorts>,
}

/// The endpoint is to lose its ports: they stay taken and held until they are released, and whoever wants one of them
/// waits for that. Answered with the ports.
#[derive(Clone, Copy, Debug)]
pub struct QuarantinePorts(pub EndpointId);

/// Give back every port of an endpoint, also of one whose ports are only being taken. Answered when they are free.
#[derive(Clone, Copy, Debug)]
pub struct ReleasePorts(pub EndpointId);

/// Pass on whoever comes to these ports of an endpoint, from here instead of in the kernel, until they are released. A
/// socket for both families is the same for `0.0.0.0` and `::`. What is served already stays as it is.
///
/// Errors: `NotFound` where no socket holds a port, `Unsupported` for protocols that nobody can pass on but the kernel.
/// The other ports are served all the same.
#[derive(Clone, Debug)]
pub struct ServePorts {
    /// Whose ports they are.
    pub owner: EndpointId,
    /// The ports, and where they lead.
    pub fronts: Vec<(HostPort, SocketAddr)>,
}

/// Pass on whoever a firewall leads from these TCP ports of an endpoint to the engine's own one, and from no others of it any
/// more. What is passed on already goes on with its connections. Answered with the engine's own port, which the rules have
/// to name; with nothing where no ports are named. It is the same one for as long as the engine lives.
///
/// The sockets that hold the ports are left as they are. A port that could not be held when it was adopted is led as well,
/// as the kernel leads it where it can.
///
/// Errors: `NotFound` where the endpoint does not have a port, `WrongPhase` for one whose ports are being given back, the
/// reasons of ports where the engine gets none of its own. Nothing of the endpoint's is passed on then.
#[derive(Clone, Debug)]
pub struct LeadPorts {
    /// Whose ports they are.
    pub owner: PortOwner,
    /// The ports, and where they lead.
    pub ports: Vec<LedPorts>,
}

/// TCP ports of one address of the host that the engine passes on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LedPorts {
    /// The address. `0.0.0.0` and `::` stand for every one of their family.
    pub address: IpAddr,
    /// The host's ports.
    pub range: PortRange,
    /// Where the first of them leads; the others follow.
    pub to: SocketAddr,
}

/// Close every socket and every connection: the engine stops. Answered when all ports are free.
#[derive(Clone, Copy, Debug)]
pub struct StopServing;

/// Take ports that nobody names from this range from now on.
#[derive(Clone, Copy, Debug)]
pub struct ReplaceDynamicRange(pub PortRange);

/// An endpoint has another name: whoever wants its ports is told that one.
#[derive(Clone, Debug)]
pub struct PortsOwnerRenamed(pub EndpointId, pub Arc<str>);

/// Who has which ports?
#[derive(Clone, Copy, Debug)]
pub struct ListPorts;

/// The ports of an endpoint.
#[derive(Clone, PartialEq, Debug)]
pub struct PortsOf {
    /// The endpoint.
    pub holder: Holder,
    /// Its ports, in the order in which it got them.
    pub ports: Vec<HostPorts>,
    /// Whether it is deleted, and has them only until its link is gone.
    pub leaving: bool,
    /// Those that no socket holds, and why.
    pub unheld: Vec<UnheldPort>,
    /// Those that are served from here, and what has passed them.
    pub served: Vec<ServedPort>,
}

/// A port that the engine itself serves.
#[derive(Clone, PartialEq, Debug)]
pub struct ServedPort {
    /// The port, or the first of a row; one of both families by its IPv4 half.
    pub port: HostPort,
    /// The last of the row.
    pub last: u16,
    /// Where the first leads.
    pub to: SocketAddr,
    /// The engine's own port, to which the firewall leads whoever comes; `None` where the port itself is listened to.
    pub via: Option<u16>,
    /// What has passed.
    pub counts: Counts,
}

/// A port that is taken and that no socket holds: somebody else on the host may serve it.
#[derive(Clone, PartialEq, Debug)]
pub struct UnheldPort {
    /// The port; one of both families by its IPv4 half.
    pub port: HostPort,
    /// Why it could not be held when that was tried last.
    pub why: Error,
}

/// What came of a try to hold ports. Outcome of the work of [`ReservePorts`].
#[derive(Debug)]
pub(super) struct PortsHeld {
    pub(super) attempt: u64,
    pub(super) answers: Answers,
}

/// The same for [`AdoptPorts`].
#[derive(Debug)]
pub(super) struct AdoptedHeld {
    pub(super) adoption: u64,
    pub(super) answers: Answers,
}

/// A request has waited for as long as it could.
#[derive(Clone, Copy, Debug)]
pub(super) struct PatienceOver(pub(super) u64);

/// One for each port, in order.
pub(super) type Answers = Vec<Result<PortSocket, HoldRefusal>>;

messages! {
    ReservePorts => Result<Vec<HostPorts>>;
    AdoptPorts => Result<Vec<UnheldPort>>;
    QuarantinePorts => Vec<HostPorts>;
    ReleasePorts => ();
    ServePorts => Result<()>;
    LeadPorts => Result<Option<u16>>;
    StopServing => ();
    ReplaceDynamicRange => ();
    PortsOwnerRenamed => ();
    ListPorts => Vec<PortsOf>;
    PortsHeld => ();
    AdoptedHeld => ();
    PatienceOver => ();
}
