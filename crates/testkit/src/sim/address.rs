//! Addresses, and the routes that Linux derives from them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::sysctl::is_on;
use super::world::{IPV6_MIN_MTU, LinkId, NeighbourKey, RouteEntry, World};
use crate::errno::{EACCES, EADDRNOTAVAIL, EEXIST, EINVAL, ENXIO, Refusal};

/// The metric of the IPv6 routes that the kernel derives.
const DERIVED_IPV6_METRIC: u32 = 256;

impl World {
    pub(super) fn add_address(&mut self, id: LinkId, address: IpNet) -> Result<(), Refusal> {
        match address {
            // Linux accepts the unspecified address and does nothing.
            IpNet::V4(net) if net.addr().is_unspecified() => return Ok(()),
            IpNet::V4(_) => {
                let link = &self.links[id];
                if link.addresses.contains(&address) {
                    return Err(Refusal::saying(EEXIST, "ipv4: Address already assigned"));
                }
                // The loopback's own address has the scope "host", and one subnet has one scope.
                if link.is_loopback() && address.trunc() == loopback_net().trunc() {
                    return Err(Refusal::saying(EINVAL, "ipv4: Invalid scope value"));
                }
            }
            IpNet::V6(net) => self.check_ipv6_address(id, net.addr())?,
        }
        let secondary = is_secondary(&self.links[id].addresses, address);
        self.links[id].addresses.push(address);
        self.note_address(id, address, true);
        if self.links[id].up && !secondary {
            self.add_connected_route(id, address);
        }
        Ok(())
    }

    fn check_ipv6_address(&self, id: LinkId, address: Ipv6Addr) -> Result<(), Refusal> {
        let link = &self.links[id];
        if address.is_multicast() {
            return Err(Refusal::new(EADDRNOTAVAIL));
        }
        if link.mtu < IPV6_MIN_MTU {
            return Err(Refusal::new(EINVAL));
        }
        if link.ipv6_off {
            return Err(Refusal::saying(EACCES, "ipv6: IPv6 is disabled on this device"));
        }
        if address.is_unspecified() {
            return Err(Refusal::saying(EADDRNOTAVAIL, "ipv6: Invalid address"));
        }
        if address.is_loopback() && !link.is_loopback() {
            return Err(Refusal::saying(
                EADDRNOTAVAIL,
                "ipv6: Cannot assign loopback address on this device",
            ));
        }
        if link.addresses.iter().any(|have| have.addr() == IpAddr::V6(address)) {
            return Err(Refusal::saying(EEXIST, "ipv6: address already assigned"));
        }
        Ok(())
    }

    pub(super) fn delete_address(&mut self, id: LinkId, address: IpNet) -> Result<(), Refusal> {
        let link = &self.links[id];
        let Some(place) = link.addresses.iter().position(|have| *have == address) else {
            return Err(match address {
                IpNet::V4(_) => Refusal::saying(EADDRNOTAVAIL, "ipv4: Address not found"),
                IpNet::V6(_) if link.mtu < IPV6_MIN_MTU => Refusal::new(ENXIO),
                IpNet::V6(_) => Refusal::saying(EADDRNOTAVAIL, "ipv6: address not found"),
            });
        };
        let secondary = is_secondary(&link.addresses[..place], address);
        let promote = self.promotes_secondaries(id);
        let before = self.is_heard(id).then(|| self.links[id].addresses.clone());
        let addresses = &mut self.links[id].addresses;
        addresses.remove(place);
        // The secondary addresses of a subnet go with its primary one, unless told to stay.
        if address.addr().is_ipv4() && !secondary && !promote {
            addresses.retain(|have| !same_subnet(*have, address));
        }
        let last = !addresses.iter().any(|have| same_subnet(*have, address));
        for gone in before.into_iter().flatten() {
            if !self.links[id].addresses.contains(&gone) {
                self.note_address(id, gone, false);
            }
        }
        if last {
            self.drop_routes_aloud(id, |route| route.connected && route.destination == address.trunc());
        }
        // With its last IPv4 address a link loses IPv4, and with it all IPv4 routes and neighbours. IPv6 stays.
        if address.addr().is_ipv4() && !self.links[id].addresses.iter().any(|have| have.addr().is_ipv4()) {
            self.drop_routes(id, |route| route.destination.addr().is_ipv4());
            let ipv4 = |key: &NeighbourKey| matches!(key, NeighbourKey::Address(IpAddr::V4(_)));
            self.links[id].neighbours.retain(|key, _| !ipv4(key));
        }
        Ok(())
    }

    fn promotes_secondaries(&self, id: LinkId) -> bool {
        let link = &self.links[id];
        let on_link = link.settings.iter().any(|(setting, value)| {
            (setting.dir, setting.name) == ("ipv4/conf", "promote_secondaries") && is_on(value)
        });
        on_link || self.namespaces[link.ns].setting("ipv4/conf/all/promote_secondaries").is_some_and(is_on)
    }

    /// What the loopback gets by itself when it comes up, or gets IPv6 back.
    pub(super) fn add_loopback_addresses(&mut self, id: LinkId) {
        let link = &mut self.links[id];
        if !link.is_loopback() || !link.up {
            return;
        }
        if !link.addresses.iter().any(|have| have.addr().is_ipv4()) {
            link.addresses.push(loopback_net());
        }
        let own = IpNet::from(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128));
        if !link.ipv6_off && link.mtu >= IPV6_MIN_MTU && !link.addresses.contains(&own) {
            link.addresses.push(own);
        }
    }

    /// The routes of all addresses of a link that came up.
    pub(super) fn add_connected_routes(&mut self, id: LinkId) {
        for place in 0..self.links[id].addresses.len() {
            let (before, address) = (&self.links[id].addresses[..place], self.links[id].addresses[place]);
            if !is_secondary(before, address) {
                self.add_connected_route(id, address);
            }
        }
    }

    fn add_connected_route(&mut self, id: LinkId, address: IpNet) {
        let subnet = address.trunc();
        let (derived, metric) = match address {
            // Linux puts the subnets of the loopback, single addresses and 0.0.0.0/8 into no main table.
            IpNet::V4(net) => {
                (!self.links[id].is_loopback() && net.prefix_len() < 32 && net.network().octets()[0] != 0, 0)
            }
            IpNet::V6(net) => (!net.addr().is_loopback(), DERIVED_IPV6_METRIC),
        };
        let there = |route: &RouteEntry| route.connected && route.link == id && route.destination == subnet;
        if !derived || (self.links[id].routes > 0 && self.routes_of(id).iter().any(there)) {
            return;
        }
        self.push_route(RouteEntry { destination: subnet, via: None, link: id, metric, connected: true });
    }

    /// Takes IPv6 from a link: its addresses, neighbours and routes.
    pub(super) fn stop_ipv6(&mut self, id: LinkId) {
        let gone = self.links[id].addresses.iter().copied().filter(|have| have.addr().is_ipv6());
        for address in gone.collect::<Vec<_>>() {
            self.note_address(id, address, false);
        }
        let link = &mut self.links[id];
        link.addresses.retain(|have| have.addr().is_ipv4());
        link.neighbours.retain(|key, _| !matches!(key, NeighbourKey::Address(IpAddr::V6(_))));
        self.drop_routes_aloud(id, |route| route.destination.addr().is_ipv6());
    }

    pub(super) fn set_ipv6_off(&mut self, id: LinkId, off: bool) {
        if std::mem::replace(&mut self.links[id].ipv6_off, off) == off {
            return;
        }
        if off { self.stop_ipv6(id) } else { self.add_loopback_addresses(id) }
    }
}

fn loopback_net() -> IpNet {
    Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 8).into()
}

fn same_subnet(a: IpNet, b: IpNet) -> bool {
    a.trunc() == b.trunc()
}

/// Whether an IPv4 address comes after another of its subnet.
fn is_secondary(before: &[IpNet], address: IpNet) -> bool {
    address.addr().is_ipv4() && before.iter().any(|have| same_subnet(*have, address))
}
