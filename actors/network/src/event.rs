//! The facts a network emits.

use netloom_model::record::Reservation;
use netloom_model::{EndpointId, IfName, NetworkId, PublishedPorts, SandboxId};

/// What happened to a network's endpoints and reservations. The network's own creation and deletion are the controller's to
/// tell: it owns the list of networks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NetworkEvent {
    /// An endpoint was created.
    EndpointCreated {
        /// The network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// Its name.
        name: String,
    },
    /// An endpoint has another name.
    EndpointRenamed {
        /// The network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// Its new name.
        name: String,
    },
    /// An endpoint joined a sandbox.
    EndpointAttached {
        /// The network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// The sandbox.
        sandbox: SandboxId,
        /// The interface's name.
        ifname: IfName,
    },
    /// An endpoint left its sandbox.
    EndpointDetached {
        /// The network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// The sandbox.
        sandbox: SandboxId,
    },
    /// An endpoint is gone.
    EndpointDeleted {
        /// The network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// Its name.
        name: String,
    },
    /// Ports of the host lead to an endpoint.
    PortsPublished {
        /// The network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// Its name.
        name: String,
        /// Those that did not lead there before.
        ports: Vec<PublishedPorts>,
    },
    /// Ports of the host lead to an endpoint no more.
    PortsWithdrawn {
        /// The network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// Its name.
        name: String,
        /// Those that led there before.
        ports: Vec<PublishedPorts>,
    },
    /// Addresses are kept for endpoints of a name.
    AddressesReserved {
        /// The network.
        network: NetworkId,
        /// The name.
        name: String,
        /// What is kept.
        kept: Reservation,
    },
    /// Nothing is kept for a name any more.
    ReservationReleased {
        /// The network.
        network: NetworkId,
        /// The name.
        name: String,
    },
}
