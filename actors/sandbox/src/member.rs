//! An endpoint in a sandbox.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netloom_actor_network::Attachment;
use netloom_drivers::Interface;
use netloom_kernel::{Netns, Op, Route};
use netloom_model::record::{EndpointRecord, StaticRoute, WayOut};
use netloom_model::{EndpointId, IfName, Names, NetworkId, Seldom};

/// What a sandbox knows about an endpoint that is plugged into it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its network.
    pub network: NetworkId,
    /// The network's name, which breaks ties in the gateway election.
    pub network_name: Arc<str>,
    /// The interface's name.
    pub ifname: IfName,
    /// The priority in the gateway election.
    pub priority: i32,
    /// Its address.
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Net>,
    /// The IPv4 gateway it offers.
    pub gateway: Option<IpAddr>,
    /// The IPv6 gateway it offers.
    pub gateway6: Option<IpAddr>,
    /// Further routes that its driver wants.
    pub routes: Vec<StaticRoute>,
    /// What it has to do with the way out.
    pub way_out: WayOut,
    /// Whether it only has its place kept: the sandbox waits for its namespace.
    pub reserved: bool,
    /// Whether it brings an interface.
    pub linked: bool,
    /// The names that its own sandbox uses there, and whether there is a name server for its sake.
    pub names: Seldom<Names>,
}

impl Member {
    /// What a new attachment brings.
    pub(crate) fn attached(
        endpoint: EndpointId,
        network: NetworkId,
        priority: i32,
        attachment: &Attachment,
    ) -> Self {
        Self {
            endpoint,
            network,
            network_name: attachment.network_name.clone(),
            ifname: attachment.ifname,
            priority,
            ipv4: attachment.ipv4,
            ipv6: attachment.ipv6,
            gateway: attachment.gateway,
            gateway6: attachment.gateway6,
            routes: attachment.routes.clone(),
            way_out: attachment.way_out,
            reserved: false,
            linked: attachment.interface != Interface::None,
            names: attachment.names.clone(),
        }
    }

    /// What a record says; `None` for an endpoint that is in no sandbox.
    #[must_use]
    pub fn recorded(record: &EndpointRecord, network_name: &str) -> Option<Self> {
        let attachment = record.attachment.as_ref()?;
        Some(Self {
            endpoint: record.id,
            network: record.network,
            network_name: network_name.into(),
            ifname: attachment.ifname,
            priority: attachment.priority,
            ipv4: record.ipv4,
            ipv6: record.ipv6,
            gateway: attachment.gateway,
            gateway6: attachment.gateway6,
            routes: attachment.routes.clone(),
            way_out: attachment.way_out,
            reserved: attachment.reserved,
            linked: record.prefix.is_some(),
            names: record.names.clone(),
        })
    }

    /// Whether IPv4 packets to anywhere can leave by it.
    pub(crate) fn leads_out(&self) -> bool {
        let is_default = |route: &StaticRoute| route.destination == IpNet::V4(Ipv4Net::default());
        self.gateway.is_some() || self.routes.iter().any(is_default)
    }

    /// Its static routes, by its interface.
    pub(crate) fn static_routes(&self) -> impl Iterator<Item = Route> {
        self.routes.iter().map(|route| Route {
            destination: route.destination,
            via: route.via,
            link: self.ifname,
        })
    }

    /// The same with nothing but its place: what its link brought is gone.
    pub(crate) fn kept(mut self) -> Self {
        self.lose_gateway();
        Self { routes: Vec::new(), reserved: true, ..self }
    }

    /// The same in the host's own namespace, whose way out is none of ours.
    pub(crate) fn on_host(mut self) -> Self {
        self.lose_gateway();
        Self { routes: Vec::new(), way_out: WayOut::Unwanted, ..self }
    }

    /// It cannot be the way out any more.
    pub(crate) fn lose_gateway(&mut self) {
        (self.gateway, self.gateway6) = (None, None);
    }

    /// Its place in the gateway election, lowest first: the way out of a sandbox whose others have none comes last;
    /// then the higher priority, then the network's name that comes first, then who joined first, which the number
    /// of its interface tells. Identifiers are chance, so they decide only what cannot be told apart otherwise.
    pub(crate) fn rank(&self) -> impl Ord {
        let last = self.way_out == WayOut::Provided;
        (last, Reverse(self.priority), &*self.network_name, self.number(), self.endpoint)
    }

    /// The number of its interface.
    pub(crate) fn number(&self) -> u32 {
        let (_, digits) = self.ifname.numbered();
        digits.parse().unwrap_or(u32::MAX)
    }

    /// Its addresses with their prefix lengths.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpNet> {
        self.ipv4.map(IpNet::V4).into_iter().chain(self.ipv6.map(IpNet::V6))
    }

    /// The operations that take its routes and addresses off its interface.
    pub(crate) fn undress(&self, netns: Netns) -> Vec<Op> {
        if self.reserved {
            return Vec::new();
        }
        let link = self.ifname;
        let routes = self.static_routes().map(|route| Op::DeleteRoute { netns, route });
        routes.chain(self.addresses().map(|address| Op::DeleteAddress { netns, link, address })).collect()
    }
}

/// The default route through a gateway.
pub(crate) fn default_route(link: IfName, gateway: IpAddr) -> Route {
    let destination = match gateway {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    };
    Route { destination, via: Some(gateway), link }
}
