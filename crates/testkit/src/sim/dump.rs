//! What the model answers when it is asked what there is.

use std::net::IpAddr;

use netloom_kernel::{
    AddressView, LinkKind, LinkView, Neighbour, NeighbourView, Netns, PortState, RouteView,
};
use netloom_model::{IfName, NetnsName};

use super::world::{Alias, Kind, Link, World};
use crate::errno::Refusal;

impl World {
    pub(super) fn link_view(&self, link: &Link) -> LinkView {
        LinkView {
            index: link.index,
            name: link.name,
            kind: match &link.kind {
                Kind::Loopback | Kind::Device => LinkKind::Device,
                Kind::Bridge(_) => LinkKind::Bridge,
                Kind::Veth { .. } => LinkKind::Veth,
                Kind::Other(kind) => LinkKind::Other(kind.to_string()),
            },
            mac: Some(link.mac),
            mtu: link.mtu,
            up: link.up,
            master: link.port.map(|port| self.links[port.bridge].index),
            port: link.port.map(|port| self.port_state(link, &self.links[port.bridge])),
            isolated: link.port.is_some_and(|port| port.isolated),
            hairpin: link.port.is_some_and(|port| port.hairpin),
            peer: link.peer().and_then(|peer| self.links.get(peer)).map(|peer| peer.index),
            alias: link.alias.as_ref().map(|alias| match alias {
                Alias::Tag(tag) => tag.alias(),
                Alias::Text(text) => text.clone(),
            }),
            group: link.group,
        }
    }

    /// A port forwards when it has a carrier and its bridge is up: there is no spanning tree here.
    fn port_state(&self, port: &Link, bridge: &Link) -> PortState {
        let carrier = port.peer().is_none_or(|peer| self.links.get(peer).is_some_and(|peer| peer.up));
        if port.up && carrier && bridge.up { PortState::Forwarding } else { PortState::Disabled }
    }

    /// The links of a namespace in the order of their indexes.
    fn links_in(&self, netns: Netns) -> Result<Vec<&Link>, Refusal> {
        let namespace = &self.namespaces[self.ns(netns)?];
        let mut links: Vec<&Link> = namespace.links.values().map(|id| &self.links[*id]).collect();
        links.sort_unstable_by_key(|link| link.index);
        Ok(links)
    }

    pub(super) fn link_views(&self, netns: Netns) -> Result<Vec<LinkView>, Refusal> {
        Ok(self.links_in(netns)?.into_iter().map(|link| self.link_view(link)).collect())
    }

    pub(super) fn find_views(
        &self,
        netns: Netns,
        names: &[IfName],
    ) -> Result<Vec<Option<LinkView>>, Refusal> {
        let links = &self.namespaces[self.ns(netns)?].links;
        Ok(names.iter().map(|name| links.get(name).map(|id| self.link_view(&self.links[*id]))).collect())
    }

    pub(super) fn views_at(&self, netns: Netns, indexes: &[u32]) -> Result<Vec<Option<LinkView>>, Refusal> {
        let namespace = &self.namespaces[self.ns(netns)?];
        let mut found = vec![None; indexes.len()];
        for link in namespace.links.values().map(|id| &self.links[*id]) {
            for (_, place) in indexes.iter().zip(&mut found).filter(|(index, _)| **index == link.index) {
                *place = Some(self.link_view(link));
            }
        }
        Ok(found)
    }

    pub(super) fn address_views(&self, netns: Netns) -> Result<Vec<AddressView>, Refusal> {
        let of = |link: &Link| {
            let index = link.index;
            link.addresses.clone().into_iter().map(move |address| AddressView { link: index, address })
        };
        Ok(self.links_in(netns)?.into_iter().flat_map(of).collect())
    }

    pub(super) fn route_views(&self, netns: Netns) -> Result<Vec<RouteView>, Refusal> {
        let namespace = &self.namespaces[self.ns(netns)?];
        let view = |route: &super::world::RouteEntry| RouteView {
            destination: route.destination,
            via: route.via,
            link: Some(self.links[route.link].index),
            table: RouteView::MAIN,
        };
        Ok(namespace.routes.iter().map(view).collect())
    }

    pub(super) fn neighbour_views(&self, netns: Netns) -> Result<Vec<NeighbourView>, Refusal> {
        let mut views: Vec<NeighbourView> = Vec::new();
        for link in self.links_in(netns)? {
            let first = views.len();
            views.extend(link.neighbours.values().map(|neighbour| neighbour_view(link.index, *neighbour)));
            views[first..].sort_unstable_by_key(sort_key);
        }
        Ok(views)
    }

    /// The namespaces that came by `CreateNetns` and `AdoptNetns`, in the order of their names.
    pub(super) fn own_namespaces(&self) -> Vec<NetnsName> {
        let mut names: Vec<NetnsName> = self
            .names
            .iter()
            .filter(|(_, ns)| !self.namespaces[**ns].foreign)
            .map(|(name, _)| *name)
            .collect();
        names.sort_unstable();
        names
    }
}

fn neighbour_view(link: u32, neighbour: Neighbour) -> NeighbourView {
    let (address, mac, forwarding) = match neighbour {
        Neighbour::Address { address, mac } => (Some(address), mac, false),
        Neighbour::Forwarding { mac, destination } => (destination, mac, true),
    };
    NeighbourView { link, address, mac: Some(mac), forwarding, permanent: true }
}

fn sort_key(view: &NeighbourView) -> (bool, Option<IpAddr>, Option<netloom_model::MacAddr>) {
    (view.forwarding, view.address, view.mac)
}
