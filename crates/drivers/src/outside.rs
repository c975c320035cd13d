//! What drivers have the engine do about the world outside of their networks.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::FutureExt;
use netloom_firewall::{NetworkRules, PortRules};
use netloom_model::{EndpointId, HostPorts, NetworkId, PublishedPorts};
use netloom_ports::{PortOwner, PortRequest};

use crate::driver::Work;

/// The engine's part of the host's firewall and of its ports, as drivers reach them. What is said stays said until
/// something else is, over restarts of the driver too; after a start of the engine each driver says again what it wants.
pub trait Outside: Debug + Send + Sync {
    /// Says this about a network, or nothing any more. Saying the same again costs nothing, and so does taking back what
    /// was never said. Answers whether there is a firewall at all.
    ///
    /// # Errors
    /// What is said contradicts another network, or the kernel refuses; then what was said before still holds.
    fn set_network(&self, network: NetworkId, rules: Option<NetworkRules>) -> Work<bool>;

    /// Has ports of the host lead to an endpoint: those it had before, as long as nobody else has them, or else what it
    /// wants. Answers which ones these are.
    ///
    /// # Errors
    /// The reasons of ports ([`netloom_model::PortReason`]), or the kernel refuses. Where the error is uncertain
    /// something may have been done, and [`Outside::withdraw`] takes it back.
    fn publish(&self, publication: Publication) -> Work<Vec<PublishedPorts>>;

    /// Ends that no port of the host leads to this endpoint, whose addresses these are: what has come that way is cut
    /// off. Succeeds when none does.
    ///
    /// # Errors
    /// The kernel refuses; then it has to be asked again.
    fn withdraw(&self, endpoint: EndpointId, addresses: Addresses) -> Work<()>;
}

/// The addresses of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Addresses {
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// The one of a family.
    #[must_use]
    pub fn of(self, v4: bool) -> Option<IpAddr> {
        if v4 { self.v4.map(IpAddr::V4) } else { self.v6.map(IpAddr::V6) }
    }
}

/// What is to be published for an endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    /// The endpoint.
    pub owner: PortOwner,
    /// Its addresses.
    pub addresses: Addresses,
    /// Ports of the host, and where they lead.
    pub wanted: Vec<Wanted>,
    /// Ports of its own that are reached under its own address.
    pub routed: Vec<PortRules>,
    /// What it had before, in the order of `wanted`; nothing where it is published for the first time.
    pub before: Vec<PublishedPorts>,
    /// Whether the engine may pass on itself what the kernel cannot.
    pub proxy: bool,
}

/// Ports of the host to be found for a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The host's ports.
    pub request: PortRequest,
    /// The container's port that the first of them leads to; the others follow.
    pub port: u16,
    /// Whether only one family of the endpoint is meant, and then whether that is IPv4.
    pub only_v4: Option<bool>,
}

/// A port of the host, or several in a row, and the address that they lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lead {
    /// The host's address.
    pub from: IpAddr,
    /// The container's.
    pub to: IpAddr,
}

impl Wanted {
    /// Where each address of the host leads: to the endpoint's address of the same family, or else to the other one,
    /// which only the proxy can do.
    pub fn leads(&self, host: &HostPorts, addresses: Addresses) -> impl Iterator<Item = Lead> {
        let to = move |v4| addresses.of(v4).filter(|_| self.only_v4.is_none_or(|only| only == v4));
        host.addresses.iter().filter_map(move |from| {
            let same = to(from.is_ipv4()).or_else(|| to(!from.is_ipv4()));
            same.map(|to| Lead { from: *from, to })
        })
    }
}

/// No outside and no firewall: what is said has no effect, and no port can be had. For tests of drivers.
#[derive(Clone, Copy, Debug)]
pub struct NoOutside;

impl Outside for NoOutside {
    fn set_network(&self, _: NetworkId, _: Option<NetworkRules>) -> Work<bool> {
        std::future::ready(Ok(false)).boxed()
    }

    fn publish(&self, publication: Publication) -> Work<Vec<PublishedPorts>> {
        std::future::ready(Ok(publication.before)).boxed()
    }

    fn withdraw(&self, _: EndpointId, _: Addresses) -> Work<()> {
        std::future::ready(Ok(())).boxed()
    }
}
