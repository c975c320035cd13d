//! Routes of the main table.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use netloom_kernel::{Netns, Route};

use super::world::{IPV6_MIN_MTU, Link, LinkId, NsId, RouteEntry, World};
use crate::errno::{EACCES, EEXIST, EHOSTUNREACH, EINVAL, ENETDOWN, ENETUNREACH, ENODEV, ESRCH, Refusal};

/// The metric of the IPv6 routes that are added without one.
const ADDED_IPV6_METRIC: u32 = 1024;

impl World {
    pub(super) fn add_route(&mut self, netns: Netns, route: Route) -> Result<(), Refusal> {
        let id = self.find(netns, route.link)?;
        check_families(route)?;
        let via = route.via.filter(|via| *via != IpAddr::from([0, 0, 0, 0]));
        // Linux refuses host bits in an IPv4 destination and drops them from an IPv6 one.
        let (destination, metric) = match route.destination {
            IpNet::V4(net) if net.trunc() != net => {
                return Err(Refusal::saying(EINVAL, "Invalid prefix for given prefix length"));
            }
            IpNet::V4(net) => (IpNet::V4(net), 0),
            IpNet::V6(net) => (IpNet::V6(net.trunc()), ADDED_IPV6_METRIC),
        };
        // An IPv4 route may have an IPv6 next hop.
        if destination.addr().is_ipv6() || via.is_some_and(|via| via.is_ipv6()) {
            self.check_ipv6_next_hop(id, via)?;
        } else {
            self.check_ipv4_next_hop(id, via)?;
        }
        let taken = |have: &RouteEntry| have.destination == destination && have.metric == metric;
        if self.routes_of(id).iter().any(taken) {
            return Err(Refusal::new(EEXIST));
        }
        self.push_route(RouteEntry { destination, via, link: id, metric, connected: false });
        Ok(())
    }

    fn check_ipv4_next_hop(&self, id: LinkId, via: Option<IpAddr>) -> Result<(), Refusal> {
        let Some(via) = via else {
            return if self.links[id].up {
                Ok(())
            } else {
                Err(Refusal::saying(ENETDOWN, "Device for nexthop is not up"))
            };
        };
        let link = &self.links[id];
        // Linux takes even the link's own address for a next hop.
        if link.addresses.iter().any(|have| have.addr() == via) {
            return if link.up { Ok(()) } else { Err(Refusal::new(ENETDOWN)) };
        }
        if !self.is_on_link(id, via) {
            return Err(Refusal::saying(ENETUNREACH, "Nexthop has invalid gateway"));
        }
        let broadcast = |address: &IpNet| match (address, via) {
            (IpNet::V4(net), IpAddr::V4(via)) => net.prefix_len() < 31 && net.broadcast() == via,
            _ => false,
        };
        if link.addresses.iter().any(broadcast) {
            return Err(Refusal::saying(EINVAL, "Nexthop has invalid gateway"));
        }
        Ok(())
    }

    fn check_ipv6_next_hop(&self, id: LinkId, via: Option<IpAddr>) -> Result<(), Refusal> {
        let link = &self.links[id];
        if link.mtu < IPV6_MIN_MTU {
            return Err(Refusal::new(ENODEV));
        }
        if let Some(IpAddr::V6(via)) = via {
            self.check_ipv6_gateway(id, via)?;
        }
        if link.ipv6_off {
            return Err(Refusal::saying(EACCES, "IPv6 is disabled on nexthop device"));
        }
        if link.up { Ok(()) } else { Err(Refusal::saying(ENETDOWN, "Nexthop device is not up")) }
    }

    fn check_ipv6_gateway(&self, id: LinkId, via: Ipv6Addr) -> Result<(), Refusal> {
        if via.is_multicast() || via.is_unspecified() {
            return Err(Refusal::saying(EINVAL, "Invalid gateway address"));
        }
        let link = &self.links[id];
        let has = |link: &Link| link.addresses.iter().any(|have| have.addr() == IpAddr::V6(via));
        // A link-local address belongs to a link, any other to the namespace.
        let own = if via.is_unicast_link_local() {
            has(link)
        } else {
            self.namespaces[link.ns].links.values().any(|other| has(&self.links[*other]))
        };
        if own {
            return Err(Refusal::saying(EINVAL, "Gateway can not be a local address"));
        }
        // Every link that is up has fe80::/64, which the model leaves out.
        if !via.is_unicast_link_local() && !self.is_on_link(id, via.into()) {
            return Err(Refusal::new(EHOSTUNREACH));
        }
        if link.is_loopback() {
            return Err(Refusal::saying(EINVAL, "Egress device can not be loopback device for this route"));
        }
        Ok(())
    }

    /// Whether a route without next hop leads to an address by this link.
    fn is_on_link(&self, id: LinkId, address: IpAddr) -> bool {
        self.links[id].routes > 0
            && self
                .routes_of(id)
                .iter()
                .any(|route| route.link == id && route.via.is_none() && route.destination.contains(&address))
    }

    pub(super) fn delete_route(&mut self, netns: Netns, route: Route) -> Result<(), Refusal> {
        let id = self.find(netns, route.link)?;
        check_families(route)?;
        if let IpNet::V4(net) = route.destination
            && net.trunc() != net
        {
            return Err(Refusal::saying(EINVAL, "Invalid prefix for given prefix length"));
        }
        let destination = route.destination.trunc();
        // Without a next hop, any next hop fits.
        let fits = |have: &RouteEntry| {
            have.link == id
                && have.destination == destination
                && (route.via.is_none() || have.via == route.via)
        };
        let found = self
            .routes_of(id)
            .iter()
            .enumerate()
            .filter(|(_, have)| fits(have))
            // Of two that fit, Linux takes the one with the smaller metric.
            .min_by_key(|(_, have)| have.metric)
            .map(|(place, _)| place);
        let place = found.ok_or(Refusal::new(ESRCH))?;
        let ns = self.links[id].ns;
        let gone = self.namespaces[ns].routes.remove(place);
        self.links[id].routes -= 1;
        self.note_route(&gone, false);
        Ok(())
    }

    /// Every route of a link's namespace.
    pub(super) fn routes_of(&self, id: LinkId) -> &[RouteEntry] {
        &self.namespaces[self.links[id].ns].routes
    }

    pub(super) fn push_route(&mut self, route: RouteEntry) {
        let link = &mut self.links[route.link];
        link.routes += 1;
        self.namespaces[link.ns].routes.push(route);
        self.note_route(&route, true);
    }

    /// Removes the routes of a link that fit, and tells of it, as Linux does where an address takes them along.
    pub(super) fn drop_routes_aloud(&mut self, id: LinkId, fits: impl Fn(&RouteEntry) -> bool) {
        if self.is_heard(id) && self.links[id].routes > 0 {
            let routes = self.routes_of(id).iter().filter(|route| route.link == id && fits(route));
            for route in routes.copied().collect::<Vec<_>>() {
                self.note_route(&route, false);
            }
        }
        self.drop_routes(id, fits);
    }

    /// Removes the routes of a link that fit. Nobody is told: Linux is silent about routes that go with their link.
    pub(super) fn drop_routes(&mut self, id: LinkId, fits: impl Fn(&RouteEntry) -> bool) {
        let link = &mut self.links[id];
        if link.routes == 0 {
            return;
        }
        let mut left = link.routes;
        self.namespaces[link.ns].routes.retain(|route| {
            let drop = route.link == id && fits(route);
            left -= usize::from(drop);
            !drop
        });
        link.routes = left;
    }

    /// The route that a packet takes: the longest prefix, then the smallest metric, then the oldest.
    pub(super) fn route_to(&self, ns: NsId, address: IpAddr) -> Option<RouteEntry> {
        self.namespaces[ns]
            .routes
            .iter()
            .filter(|route| route.destination.contains(&address))
            .min_by_key(|route| (u8::MAX - route.destination.prefix_len(), route.metric))
            .copied()
    }
}

/// An IPv6 route has no IPv4 next hop.
fn check_families(route: Route) -> Result<(), Refusal> {
    let mixed = route.destination.addr().is_ipv6() && route.via.is_some_and(|via| via.is_ipv4());
    if mixed { Err(Refusal::new(EINVAL)) } else { Ok(()) }
}
