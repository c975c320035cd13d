//! What callers ask the allocator for, and what they get.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netloom_model::record::PoolRecord;
use netloom_model::{EndpointId, Error, HostOverlap, IpamSpec, NetworkId, ObjectKind, Result};

use crate::host::HostNet;

/// An address space of the default driver: pools of one space never overlap.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AddressSpace {
    /// Networks of this host.
    Local,
    /// Networks that hosts of a cluster have in common.
    Global,
}

impl AddressSpace {
    /// libnetwork's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "LocalDefault",
            Self::Global => "GlobalDefault",
        }
    }

    /// The space with this name; the local one for an empty name.
    ///
    /// # Errors
    /// `NotFound` for any other name.
    pub fn named(name: &str) -> Result<Self> {
        match [Self::Local, Self::Global].into_iter().find(|space| space.name() == name) {
            Some(space) => Ok(space),
            None if name.is_empty() => Ok(Self::Local),
            None => Err(Error::not_found(ObjectKind::AddressSpace, name)),
        }
    }
}

/// A pool that an automatic choice passed over because the host uses it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SkippedPool {
    /// The pool.
    pub pool: IpNet,
    /// What it overlaps.
    pub host: HostNet,
}

impl From<&SkippedPool> for HostOverlap {
    fn from(SkippedPool { pool, host: HostNet { net, used_as, link } }: &SkippedPool) -> Self {
        Self { pool: *pool, other: *net, what: used_as.name(), link: *link }
    }
}

/// A request for all pools of a network.
#[derive(Clone, Debug)]
pub struct PoolsRequest<'a> {
    /// The network.
    pub network: NetworkId,
    /// Its name, for error texts.
    pub name: String,
    /// The pools the caller asked for.
    pub spec: &'a IpamSpec,
    /// Whether IPv6 is enabled. Without a pool in `spec` an automatic one is chosen.
    pub ipv6: bool,
    /// Whether other networks that say the same may have pools in the same subnet. They lease from one set of
    /// addresses then.
    pub shares: bool,
    /// What the host uses already.
    pub host: &'a [HostNet],
}

/// The pools of a network, gateways chosen.
#[derive(Clone, PartialEq, Debug)]
pub struct Granted {
    /// IPv4 pools in the order of the request.
    pub v4: Vec<PoolRecord>,
    /// IPv6 pools in the order of the request.
    pub v6: Vec<PoolRecord>,
    /// Default pools that were passed over because the host uses them.
    pub skipped: Vec<SkippedPool>,
}

/// A request for the addresses of an endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseRequest {
    /// The endpoint.
    pub owner: EndpointId,
    /// Its name, for error texts.
    pub name: String,
    /// The IPv4 address it must have; one is chosen when absent.
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address it must have; one is chosen when absent.
    pub ipv6: Option<Ipv6Addr>,
}

/// The addresses of an endpoint, with the prefix lengths of their pools. A family is absent when the network
/// has no pool of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lease {
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Net>,
}
