//! Networks and ports as elements of the table's sets and maps.

use std::net::IpAddr;
use std::sync::Arc;

use netloom_kernel::nft::{Datum, Element, Verdict};
use netloom_model::{IfName, Protocol};

use crate::network::{FamilyRules, Mode, NetworkRules};
use crate::port::PortRules;
use crate::table::{IPV4, IPV6, Sets};

/// An element in its set.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Placed {
    /// The set or map.
    pub set: &'static str,
    /// The element.
    pub element: Element,
}

impl Placed {
    fn member(set: &'static str, key: impl Into<Arc<[Datum]>>) -> Self {
        Self { set, element: Element::member(key) }
    }

    fn entry(set: &'static str, key: impl Into<Arc<[Datum]>>, value: impl Into<Arc<[Datum]>>) -> Self {
        Self { set, element: Element::entry(key, value) }
    }
}

/// What says everything about a network.
pub(crate) fn of_network(rules: &NetworkRules) -> Vec<Placed> {
    let bridge = || Datum::from(rules.bridge);
    let within = if rules.icc { Verdict::Accept } else { Verdict::Drop };
    let mut all = vec![
        Placed::member(Sets::BRIDGES, [bridge()]),
        Placed::entry(Sets::WITHIN, [bridge(), bridge()], [Datum::Verdict(within)]),
        Placed::member(Sets::SAME, [bridge(), bridge()]),
    ];
    if rules.internal {
        all.push(Placed::member(Sets::INTERNAL, [bridge()]));
        return all;
    }
    all.extend(
        rules.trusted.iter().map(|from| Placed::member(Sets::TRUSTED, [Datum::from(*from), bridge()])),
    );
    for (family, one) in [(IPV4, rules.v4), (IPV6, rules.v6)] {
        if let Some(one) = one {
            of_family(&mut all, rules.bridge, family, one);
        }
    }
    all
}

fn of_family(all: &mut Vec<Placed>, bridge: IfName, family: u8, rules: FamilyRules) {
    let key = || [Datum::Family(family), Datum::from(bridge)];
    match rules.mode {
        Mode::Nat => {}
        Mode::NatUnprotected => all.push(Placed::member(Sets::OPEN, key())),
        // Who is reached under its own address is told what is wrong on the way.
        Mode::Routed => {
            all.push(Placed::member(Sets::ROUTED, key()));
            return;
        }
    }
    if rules.masquerade {
        match rules.host_address {
            Some(address) => {
                let set = if address.is_ipv4() { Sets::SOURCES4 } else { Sets::SOURCES6 };
                all.push(Placed::entry(set, [Datum::from(bridge)], [Datum::from(address)]));
            }
            None => all.push(Placed::member(Sets::MASQUERADED, key())),
        }
        let set = if family == IPV4 { Sets::HAIRPIN4 } else { Sets::HAIRPIN6 };
        let from = |address| [Datum::Address(address), Datum::from(bridge)];
        let subnet = rules.subnet;
        let last =
            if subnet.max_prefix_len() == subnet.prefix_len() { subnet.addr() } else { subnet.broadcast() };
        all.push(Placed { set, element: Element::member(from(subnet.network())).to(from(last)) });
    }
}

/// How a port of a container may be reached. Each has sets of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// Through a port of the host's; by trusted interfaces at once.
    Published,
    /// Through a port of the host's loopback, which is for the host alone.
    Loopback,
    /// Under the container's own address.
    Routed,
}

/// What may pass to containers once it is translated, or at once. Ports of one container that are published more than
/// once are one range: those of a set must not overlap.
pub(crate) fn inside(ports: &[PortRules]) -> Vec<Placed> {
    let mut all: Vec<_> = ports
        .iter()
        // Who passes on comes from the host itself.
        .filter(|port| port.by_proxy.is_none())
        .map(|port| {
            let way = match port {
                _ if port.routed => Way::Routed,
                _ if port.is_for_the_host_alone() => Way::Loopback,
                _ => Way::Published,
            };
            let of = (way, port.container, port.protocol);
            (of, port.container_port, port.container_last())
        })
        .collect();
    all.sort_unstable();
    all.dedup_by(|(of, first, last), (known, _, end)| {
        let overlaps = of == known && first <= end;
        if overlaps {
            *end = (*end).max(*last);
        }
        overlaps
    });
    let placed = |((way, container, protocol), first, last): ((Way, IpAddr, Protocol), u16, u16)| {
        let (one, range) = match (way, container.is_ipv4()) {
            (Way::Published, true) => (Sets::SERVED4, Sets::SERVED_RANGES4),
            (Way::Loopback, true) => (Sets::LOOPBACK4, Sets::LOOPBACK_RANGES4),
            // The kernel leads nothing from ::1, so it opens nothing.
            (Way::Published | Way::Loopback, false) => (Sets::SERVED6, Sets::SERVED_RANGES6),
            (Way::Routed, true) => (Sets::ROUTED4, Sets::ROUTED_RANGES4),
            (Way::Routed, false) => (Sets::ROUTED6, Sets::ROUTED_RANGES6),
        };
        let key = |port| [Datum::Address(container), Datum::Protocol(protocol.number()), Datum::Port(port)];
        if first == last {
            return Placed::member(one, key(first));
        }
        Placed { set: range, element: Element::member(key(first)).to(key(last)) }
    };
    all.into_iter().map(placed).chain(own(ports)).collect()
}

/// Where the engine's own port is, if it passes any of these on. All say the same about that.
fn own(ports: &[PortRules]) -> Vec<Placed> {
    let own = ports.iter().find_map(|port| Some((port, port.by_proxy?)));
    let Some((port, own)) = own else { return Vec::new() };
    vec![
        Placed::entry(Sets::SWITCHBOARD, [protocol(port)], [Datum::Port(own)]),
        Placed::member(Sets::OWN, [protocol(port), Datum::Port(own)]),
    ]
}

fn protocol(port: &PortRules) -> Datum {
    Datum::Protocol(port.protocol.number())
}

/// The one address of the host that a port is published on; "every address" is none.
fn named(port: &PortRules) -> Option<IpAddr> {
    port.host.filter(|host| !host.is_unspecified())
}

/// What clients come to. "Every address" has sets of its own, so that one named address comes before it.
fn front(port: &PortRules, number: u16) -> Arc<[Datum]> {
    match named(port) {
        Some(host) => Arc::from([Datum::Address(host), protocol(port), Datum::Port(number)]),
        None => Arc::from([protocol(port), Datum::Port(number)]),
    }
}

/// Where a port of the host leads.
pub(crate) fn outside(port: &PortRules) -> Vec<Placed> {
    let mut all = Vec::new();
    if port.routed {
        return all;
    }
    if port.by_proxy.is_some() {
        return vec![led(port)];
    }
    let v4 = port.container.is_ipv4();
    let inside_last = port.container_last();
    let named = named(port);
    let front = |number| front(port, number);
    let to = |number| [Datum::Address(port.container), Datum::Port(number)];
    if port.first == port.last || port.first != port.container_port {
        // A map cannot shift ports by an amount, so each has its own entry when the numbers differ.
        let set = match (named.is_some(), v4) {
            (true, true) => Sets::PORTS4,
            (true, false) => Sets::PORTS6,
            (false, true) => Sets::ANY4,
            (false, false) => Sets::ANY6,
        };
        let pair = (port.first..=port.last).zip(port.container_port..=inside_last);
        all.extend(pair.map(|(outside, inside)| Placed::entry(set, front(outside), to(inside))));
    } else {
        let set = match (named.is_some(), v4) {
            (true, true) => Sets::RANGES4,
            (true, false) => Sets::RANGES6,
            (false, true) => Sets::ANY_RANGES4,
            (false, false) => Sets::ANY_RANGES6,
        };
        let element = Element::entry(front(port.first), [Datum::Address(port.container)]);
        all.push(Placed { set, element: element.to(front(port.last)) });
    }
    all
}

/// What leads a port to one of the host's own. Where it goes on from there is not the kernel's business, so a row is one
/// element whatever its numbers become.
fn led(port: &PortRules) -> Placed {
    let host = port.host.unwrap_or(port.container);
    let is_row = port.first != port.last;
    let set = match (named(port).is_some(), host.is_ipv4(), is_row) {
        (true, true, false) => Sets::LED4,
        (true, true, true) => Sets::LED_RANGES4,
        (true, false, false) => Sets::LED6,
        (true, false, true) => Sets::LED_RANGES6,
        (false, true, false) => Sets::LED_ANY4,
        (false, true, true) => Sets::LED_ANY_RANGES4,
        (false, false, false) => Sets::LED_ANY6,
        (false, false, true) => Sets::LED_ANY_RANGES6,
    };
    let element = Element::member(front(port, port.first));
    Placed { set, element: if is_row { element.to(front(port, port.last)) } else { element } }
}
