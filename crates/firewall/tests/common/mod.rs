//! Networks and ports of all kinds.

// Each test binary uses a part of this.
#![allow(dead_code)]

use netloom_firewall::iptables::Names;
use netloom_firewall::{FamilyRules, Mode, NetworkRules, PortRules};

pub(crate) fn names() -> Names {
    Names::of("netloom")
}

/// What is usual, for a subnet.
pub(crate) fn access(subnet: &str) -> Option<FamilyRules> {
    mode(subnet, Mode::Nat)
}

fn mode(subnet: &str, mode: Mode) -> Option<FamilyRules> {
    let subnet = subnet.parse().expect("a subnet");
    Some(FamilyRules { subnet, mode, masquerade: true, host_address: None })
}

pub(crate) fn network(bridge: &str, v4: Option<FamilyRules>, v6: Option<FamilyRules>) -> NetworkRules {
    let bridge = bridge.parse().expect("a name");
    NetworkRules { bridge, icc: true, internal: false, trusted: Vec::new(), v4, v6 }
}

pub(crate) fn networks() -> Vec<NetworkRules> {
    let mut internal = network("br-in", access("10.3.0.0/24"), access("fd00:3::/64"));
    internal.internal = true;
    internal.icc = false;
    let mut trusting = network("br-two", mode("10.2.0.0/16", Mode::NatUnprotected), None);
    trusting.trusted = vec!["wg0".parse().expect("a name")];
    let host_address = Some("192.0.2.9".parse().expect("an address"));
    let named = access("10.4.0.0/24").map(|usual| FamilyRules { host_address, ..usual });
    vec![
        network("br-one", access("10.0.0.0/24"), mode("fd00::/64", Mode::Routed)),
        trusting,
        internal,
        network("br-four", named, None),
    ]
}

pub(crate) fn port(
    protocol: &str,
    host: Option<&str>,
    first: u16,
    last: u16,
    container: &str,
    container_port: u16,
) -> PortRules {
    PortRules {
        protocol: protocol.parse().expect("a protocol"),
        host: host.map(|host| host.parse().expect("an address")),
        first,
        last,
        container: container.parse().expect("an address"),
        container_port,
        routed: false,
        by_proxy: None,
    }
}

pub(crate) fn ports() -> Vec<PortRules> {
    let mut routed = port("tcp", None, 443, 443, "fd00::2", 443);
    routed.routed = true;
    vec![
        port("tcp", None, 8080, 8080, "10.0.0.2", 80),
        port("udp", Some("192.0.2.1"), 53, 53, "10.0.0.2", 53),
        port("udp", None, 1000, 1999, "10.2.0.2", 1000),
        port("sctp", Some("0.0.0.0"), 2000, 2009, "10.2.0.2", 7000),
        port("tcp", Some("127.0.0.1"), 5432, 5432, "10.4.0.2", 5432),
        routed,
        port("udp", Some("2001:db8::1"), 500, 509, "fd00::3", 600),
    ]
}
