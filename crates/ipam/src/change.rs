//! What changes an allocator, as it is written to a log.

use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};
use netloom_model::record::PoolRecord;
use netloom_model::{EndpointId, NetworkId};
use serde::{Deserialize, Serialize};

/// One change of an allocator. Quarantine is none: it is known to the host that waits for its kernel, and until that
/// has answered the addresses are simply not released.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// A network took its pools, gateways chosen.
    PoolsTaken {
        /// The network.
        network: NetworkId,
        /// Its name.
        name: String,
        /// The address space.
        address_space: String,
        /// The host that it is of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Whether others may have pools in its subnets.
        shares: bool,
        /// IPv4 pools.
        v4: Vec<PoolRecord>,
        /// IPv6 pools.
        v6: Vec<PoolRecord>,
    },
    /// A network gave back its pools, with everything in them.
    PoolsReleased {
        /// The network.
        network: NetworkId,
    },
    /// A network was deleted, and gives its pools back when its host's kernel has let go of the last of its links.
    PoolsRetired {
        /// The network.
        network: NetworkId,
    },
    /// An endpoint leased addresses.
    Leased {
        /// Its network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
        /// Its name.
        name: String,
        /// The host that it is on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Its IPv4 address.
        ipv4: Option<Ipv4Net>,
        /// Its IPv6 address.
        ipv6: Option<Ipv6Net>,
    },
    /// An endpoint's addresses are free again.
    Released {
        /// Its network.
        network: NetworkId,
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// Addresses are kept for endpoints of a name.
    Reserved {
        /// The network.
        network: NetworkId,
        /// The name.
        name: String,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// They are not any more.
    Unreserved {
        /// The network.
        network: NetworkId,
        /// The name.
        name: String,
    },
}

impl Change {
    /// The network that it is about.
    #[must_use]
    pub fn network(&self) -> NetworkId {
        match self {
            Self::PoolsTaken { network, .. }
            | Self::PoolsReleased { network }
            | Self::PoolsRetired { network }
            | Self::Leased { network, .. }
            | Self::Released { network, .. }
            | Self::Reserved { network, .. }
            | Self::Unreserved { network, .. } => *network,
        }
    }
}
