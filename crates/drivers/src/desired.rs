//! What the kernel should have, as data: told by whoever owns it, compared with what there is by `Engine::diff`.

use std::fmt;

use ipnet::IpNet;
use netloom_kernel::{LinkTag, Neighbour, Netns, Route};
use netloom_model::{EndpointId, IfName, MacAddr, NetnsName};
use serde::{Deserialize, Serialize};

/// Something in the kernel, by what tells it from all others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "object", rename_all = "snake_case")]
#[non_exhaustive]
pub enum KernelObject {
    /// A namespace of the engine's.
    Namespace {
        /// Its name.
        name: NetnsName,
    },
    /// A link.
    Link {
        /// Its namespace.
        netns: Netns,
        /// Its name.
        name: IfName,
    },
    /// An address of a link.
    Address {
        /// The link's namespace.
        netns: Netns,
        /// The link.
        link: IfName,
        /// The address with its prefix length.
        address: IpNet,
    },
    /// A route of the main table.
    Route {
        /// Its namespace.
        netns: Netns,
        /// The route.
        route: Route,
    },
    /// A permanent neighbour entry.
    Neighbour {
        /// The link's namespace.
        netns: Netns,
        /// The link.
        link: IfName,
        /// The entry.
        neighbour: Neighbour,
    },
}

impl KernelObject {
    /// Where it is; `None` for a namespace itself.
    #[must_use]
    pub fn netns(&self) -> Option<Netns> {
        match self {
            Self::Namespace { .. } => None,
            Self::Link { netns, .. }
            | Self::Address { netns, .. }
            | Self::Route { netns, .. }
            | Self::Neighbour { netns, .. } => Some(*netns),
        }
    }
}

impl fmt::Display for KernelObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace { name } => write!(f, "namespace {name}"),
            Self::Link { netns, name } => write!(f, "link {name} of {netns}"),
            Self::Address { netns, link, address } => {
                write!(f, "address {address} of link {link} of {netns}")
            }
            Self::Route { netns, route } => write!(f, "route {route} of {netns}"),
            Self::Neighbour { netns, link, neighbour } => {
                write!(f, "neighbour {neighbour} of link {link} of {netns}")
            }
        }
    }
}

/// How a link should be. What is `None` is nobody's business.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LinkState {
    /// Whether it is set up.
    pub up: Option<bool>,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
    /// Its hardware address.
    pub mac: Option<MacAddr>,
    /// The bridge that it is a port of.
    pub master: Option<IfName>,
    /// Whether it is a port that does not reach others of its kind.
    pub isolated: Option<bool>,
    /// The mark it carries.
    pub tag: Option<LinkTag>,
    /// Whether the addresses that are desired of it are all that it should have, link-local ones apart.
    pub exclusive: bool,
}

impl LinkState {
    /// Takes over what this one leaves open: a link can have several owners, such as a driver and a network.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            up: self.up.or(other.up),
            mtu: self.mtu.or(other.mtu),
            mac: self.mac.or(other.mac),
            master: self.master.or(other.master),
            isolated: self.isolated.or(other.isolated),
            tag: self.tag.or(other.tag),
            exclusive: self.exclusive || other.exclusive,
        }
    }
}

/// Something that should be in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DesiredObject {
    /// What.
    pub object: KernelObject,
    /// How it should be, for a link.
    pub link: LinkState,
    /// The endpoint it is there for; `None` for the network.
    pub endpoint: Option<EndpointId>,
}

impl DesiredObject {
    /// Something that is there for the network as a whole.
    #[must_use]
    pub fn of_network(object: KernelObject) -> Self {
        Self { object, link: LinkState::default(), endpoint: None }
    }

    /// Something that is there for an endpoint.
    #[must_use]
    pub fn of_endpoint(endpoint: EndpointId, object: KernelObject) -> Self {
        Self { endpoint: Some(endpoint), ..Self::of_network(object) }
    }

    /// The same for a link that should be like this.
    #[must_use]
    pub fn like(self, link: LinkState) -> Self {
        Self { link, ..self }
    }
}

/// Where an endpoint's interface is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The namespace of its sandbox.
    pub netns: Netns,
    /// The interface's name there.
    pub ifname: IfName,
}
