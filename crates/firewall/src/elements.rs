//! Networks and ports as elements of the table's sets and maps.

use netloom_kernel::nft::{Datum, Element, Verdict};
use netloom_model::IfName;

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
    fn member(set: &'static str, key: impl Into<Box<[Datum]>>) -> Self {
        Self { set, element: Element::member(key) }
    }

    fn entry(set: &'static str, key: impl Into<Box<[Datum]>>, value: impl Into<Box<[Datum]>>) -> Self {
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

/// What says everything about a published port.
pub(crate) fn of_port(port: &PortRules) -> Vec<Placed> {
    let protocol = || Datum::Protocol(port.protocol.number());
    let v4 = port.container.is_ipv4();
    let mut all = Vec::new();
    // The container's side: what may pass once it is translated, or at once.
    let sets = match (port.routed, v4) {
        (false, true) => (Sets::SERVED4, Sets::SERVED_RANGES4),
        (false, false) => (Sets::SERVED6, Sets::SERVED_RANGES6),
        (true, true) => (Sets::ROUTED4, Sets::ROUTED_RANGES4),
        (true, false) => (Sets::ROUTED6, Sets::ROUTED_RANGES6),
    };
    let key = |address, number| [Datum::Address(address), protocol(), Datum::Port(number)];
    let (inside, inside_last) = (port.container_port, port.container_last());
    if port.first == port.last {
        all.push(Placed::member(sets.0, key(port.container, inside)));
    } else {
        let element = Element::member(key(port.container, inside)).to(key(port.container, inside_last));
        all.push(Placed { set: sets.1, element });
    }
    if port.routed {
        return all;
    }
    // The host's side. "Every address" has maps of its own, so that one named address comes before it.
    let named = port.host.filter(|host| !host.is_unspecified());
    let front = |number| match named {
        Some(host) => Box::from(key(host, number)),
        None => Box::from([protocol(), Datum::Port(number)]) as Box<[Datum]>,
    };
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
