//! What should come of packets, said as plainly as can be: by looking at everything that was said.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use netloom_firewall::{FamilyRules, Mode, NetworkRules, Owner, PortRules};
use netloom_model::{EndpointId, NetworkId};

use crate::table::{Fate, Packet};

/// `::1`.
const IPV6_ITSELF: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// What everybody has said.
#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) networks: BTreeMap<NetworkId, NetworkRules>,
    pub(crate) endpoints: BTreeMap<EndpointId, Vec<PortRules>>,
    pub(crate) mark: Option<u32>,
}

impl Model {
    /// Who says something else about a network's bridge.
    pub(crate) fn contradicts(&self, own: NetworkId, rules: &NetworkRules) -> bool {
        let others = self.networks.iter().filter(|(id, _)| **id != own);
        others.clone().any(|(_, other)| other.bridge == rules.bridge && other.icc != rules.icc)
    }

    /// Whether somebody else has one of these ports of the host.
    pub(crate) fn is_taken(&self, own: EndpointId, port: &PortRules) -> bool {
        let others = self.endpoints.iter().filter(|(id, _)| **id != own);
        others.flat_map(|(_, ports)| ports).any(|other| overlap(other, port))
    }

    pub(crate) fn owners(&self) -> impl Iterator<Item = Owner> {
        let networks = self.networks.keys().copied().map(Owner::Network);
        networks.chain(self.endpoints.keys().copied().map(Owner::Endpoint))
    }

    fn ports(&self) -> impl Iterator<Item = &PortRules> {
        self.endpoints.values().flatten()
    }

    fn network(&self, link: &str) -> Option<&NetworkRules> {
        self.networks.values().find(|rules| rules.bridge.as_str() == link)
    }

    /// Where a port of the host leads: one that names the address before one for every address. What is led to a port of the
    /// host's own keeps its address, and nothing is that comes from an internal network.
    pub(crate) fn leads_to(&self, packet: &Packet) -> Option<(IpAddr, u16)> {
        let is_inside = self.network(packet.iif).is_some_and(|rules| rules.internal);
        let leads = |named: bool| {
            self.ports().find_map(|port| {
                let host = port.host.filter(|host| !host.is_unspecified());
                let meant = match host {
                    Some(host) => named && host == packet.destination,
                    None => !named && is_v4(port) == packet.destination.is_ipv4(),
                };
                // Nothing that comes from `::1` leaves the host.
                let meant = meant && (port.by_proxy.is_some() || packet.destination != IPV6_ITSELF);
                let within = (port.first..=port.last).contains(&packet.port);
                let same = port.protocol.number() == packet.protocol && !port.routed;
                let to = match port.by_proxy {
                    Some(own) => (packet.destination, own),
                    None => (port.container, port.container_port + packet.port.saturating_sub(port.first)),
                };
                (meant && within && same && !(is_inside && port.by_proxy.is_some())).then_some(to)
            })
        };
        leads(true).or_else(|| leads(false))
    }

    /// Whether an endpoint says that this port of a container may be reached, in a way.
    fn is_open(&self, packet: &Packet, way: impl Fn(&PortRules) -> bool) -> bool {
        self.ports().any(|port| {
            let last = port.container_port + (port.last - port.first);
            port.container == packet.destination
                && port.protocol.number() == packet.protocol
                && (port.container_port..=last).contains(&packet.port)
                && port.by_proxy.is_none()
                && way(port)
        })
    }

    /// Whether a packet passes that begins a connection.
    pub(crate) fn passes(&self, packet: &Packet) -> bool {
        let (from, to) = (self.network(packet.iif), self.network(packet.oif));
        if from.is_none() && to.is_none() {
            return true;
        }
        if packet.translated && self.is_open(packet, |port| !port.routed) {
            return true;
        }
        if self.is_open(packet, |port| port.routed) {
            return true;
        }
        if let Some(within) = from.filter(|_| packet.iif == packet.oif) {
            return within.icc;
        }
        if [from, to].into_iter().flatten().any(|rules| rules.internal) {
            return false;
        }
        let Some(to) = to else { return true };
        let is_trusted = to.trusted.iter().any(|link| link.as_str() == packet.iif);
        let not_hidden = |port: &PortRules| !port.routed && !port.host.is_some_and(|host| host.is_loopback());
        if is_trusted && self.is_open(packet, not_hidden) {
            return true;
        }
        if self.mark == Some(packet.mark) {
            return true;
        }
        match family(to, packet).map(|family| family.mode) {
            Some(Mode::NatUnprotected) => true,
            Some(Mode::Routed) => matches!(packet.protocol, 1 | 58),
            Some(Mode::Nat) | None => false,
        }
    }

    /// Under which source a packet leaves.
    pub(crate) fn leaves(&self, packet: &Packet) -> Fate {
        let (from, to) = (self.network(packet.iif), self.network(packet.oif));
        if to.is_some() && packet.destination.is_ipv4() && packet.destination_is_loopback_source() {
            return Fate::Masqueraded;
        }
        if let Some(family) = to.filter(|rules| !rules.internal).and_then(|rules| family(rules, packet))
            && packet.translated
            && family.masquerade
            && family.mode != Mode::Routed
            && family.subnet.contains(&packet.source)
        {
            return Fate::Masqueraded;
        }
        if from.is_some() && packet.iif == packet.oif {
            return Fate::Passed;
        }
        let family = from.filter(|rules| !rules.internal).and_then(|rules| family(rules, packet));
        match family.filter(|family| family.masquerade && family.mode != Mode::Routed) {
            Some(FamilyRules { host_address: Some(address), .. }) => Fate::Source(address),
            Some(_) => Fate::Masqueraded,
            None => Fate::Passed,
        }
    }
}

impl Packet {
    fn destination_is_loopback_source(&self) -> bool {
        self.source.is_ipv4() && self.source.is_loopback()
    }
}

fn family(rules: &NetworkRules, packet: &Packet) -> Option<FamilyRules> {
    if packet.destination.is_ipv4() { rules.v4 } else { rules.v6 }
}

/// Whether it is of the host's IPv4.
pub(crate) fn is_v4(port: &PortRules) -> bool {
    port.host.unwrap_or(port.container).is_ipv4()
}

/// Whether two say something about one port of the host.
pub(crate) fn overlap(one: &PortRules, other: &PortRules) -> bool {
    let named = |port: &PortRules| port.host.filter(|host| !host.is_unspecified());
    !one.routed
        && !other.routed
        && one.protocol == other.protocol
        && is_v4(one) == is_v4(other)
        && named(one) == named(other)
        && one.first <= other.last
        && other.first <= one.last
}
