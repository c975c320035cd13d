//! Listings: from the kernel's bytes to views.
//!
//! Read by hand and leniently: an attribute that a newer kernel adds or changes must not hide an object.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netloom_model::{IfName, MacAddr};

use super::wire::{attribute, attributes, string, u16_at, u32_at, u64_at};
use crate::view::{AddressView, LinkCounters, LinkKind, LinkView, NeighbourView, PortState, RouteView};

/// `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;
/// `struct rtmsg`.
const ROUTE_HEADER: usize = 12;
/// `struct ndmsg`.
const NEIGHBOUR_HEADER: usize = 12;
/// `linux/if_link.h`, nested in `IFLA_LINKINFO`.
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
/// Nested in `IFLA_INFO_SLAVE_DATA` of a bridge's port.
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const AF_INET6: u8 = 10;
const AF_UNSPEC: u8 = 0;

/// The number of a link.
pub(super) fn link_index(body: &[u8]) -> Option<u32> {
    u32_at(body, 4)
}

/// A link as such; `None` for what a bridge says about its ports, and for names that cannot be ours.
pub(super) fn link(body: &[u8]) -> Option<LinkView> {
    if *body.first()? != AF_UNSPEC {
        return None;
    }
    let mut view = LinkView {
        index: link_index(body)?,
        name: link_name(body)?,
        kind: LinkKind::Device,
        mac: None,
        mtu: 0,
        up: u32_at(body, 8)? & IFF_UP != 0,
        master: None,
        port: None,
        isolated: false,
        hairpin: false,
        peer: None,
        alias: None,
        group: 0,
    };
    let mut link = None;
    for (kind, value) in attributes(body.get(LINK_HEADER..)?) {
        match kind {
            libc::IFLA_ADDRESS => view.mac = mac(value),
            libc::IFLA_MTU => view.mtu = u32_at(value, 0)?,
            libc::IFLA_LINK => link = u32_at(value, 0),
            libc::IFLA_MASTER => view.master = u32_at(value, 0),
            libc::IFLA_IFALIAS => view.alias = Some(string(value)),
            libc::IFLA_GROUP => view.group = u32_at(value, 0)?,
            libc::IFLA_LINKINFO => {
                view.kind = match attribute(value, IFLA_INFO_KIND).map(string).as_deref() {
                    None => LinkKind::Device,
                    Some("bridge") => LinkKind::Bridge,
                    Some("veth") => LinkKind::Veth,
                    Some(other) => LinkKind::Other(other.to_owned()),
                };
                let port = port_data(value);
                view.port = port.and_then(port_state);
                view.isolated = port.is_some_and(|port| is_on(port, IFLA_BRPORT_ISOLATED));
                view.hairpin = port.is_some_and(|port| is_on(port, IFLA_BRPORT_MODE));
            }
            _ => {}
        }
    }
    // Other kinds put the link below them there, and a pair that is being deleted zero.
    view.peer = link.filter(|number| view.kind == LinkKind::Veth && *number != 0);
    Some(view)
}

/// What a link says about itself as a port of a bridge, beside its kind and its master's.
fn port_data(info: &[u8]) -> Option<&[u8]> {
    let of_bridge = string(attribute(info, IFLA_INFO_SLAVE_KIND)?) == "bridge";
    attribute(info, IFLA_INFO_SLAVE_DATA).filter(|_| of_bridge)
}

fn is_on(port: &[u8], flag: u16) -> bool {
    attribute(port, flag).is_some_and(|flag| flag.first() == Some(&1))
}

/// The state of a port.
fn port_state(port: &[u8]) -> Option<PortState> {
    match attribute(port, IFLA_BRPORT_STATE)?.first()? {
        0 => Some(PortState::Disabled),
        1 => Some(PortState::Listening),
        2 => Some(PortState::Learning),
        3 => Some(PortState::Forwarding),
        4 => Some(PortState::Blocking),
        _ => None,
    }
}

/// What has passed a link: the beginning of `struct rtnl_link_stats64`.
pub(super) fn counters(body: &[u8]) -> Option<LinkCounters> {
    let stats = attribute(body.get(LINK_HEADER..)?, libc::IFLA_STATS64)?;
    let at = |place: usize| u64_at(stats, 8 * place);
    Some(LinkCounters {
        rx_packets: at(0)?,
        tx_packets: at(1)?,
        rx_bytes: at(2)?,
        tx_bytes: at(3)?,
        rx_errors: at(4)?,
        tx_errors: at(5)?,
        rx_dropped: at(6)?,
        tx_dropped: at(7)?,
    })
}

/// The number of the bridge that a link is a port of.
pub(super) fn link_master(body: &[u8]) -> Option<u32> {
    u32_at(attribute(body.get(LINK_HEADER..)?, libc::IFLA_MASTER)?, 0)
}

/// The hardware address of a link, if it has one.
pub(super) fn link_mac(body: &[u8]) -> Option<MacAddr> {
    mac(attribute(body.get(LINK_HEADER..)?, libc::IFLA_ADDRESS)?)
}

/// The group of a link, whatever its name: even a link that is not listed counts here.
pub(super) fn link_group(body: &[u8]) -> Option<u32> {
    let group = attribute(body.get(LINK_HEADER..)?, libc::IFLA_GROUP)?;
    u32_at(group, 0)
}

/// The name of a link, if it can be ours.
pub(super) fn link_name(body: &[u8]) -> Option<IfName> {
    string(attribute(body.get(LINK_HEADER..)?, libc::IFLA_IFNAME)?).parse().ok()
}

/// An address of a link.
pub(super) fn address(body: &[u8]) -> Option<AddressView> {
    let (family, prefix) = (*body.first()?, *body.get(1)?);
    let rest = body.get(ADDRESS_HEADER..)?;
    // On a point-to-point link IFA_ADDRESS is the other end's.
    let own = attribute(rest, libc::IFA_LOCAL).or_else(|| attribute(rest, libc::IFA_ADDRESS))?;
    let address = IpNet::new(ip(family, own)?, prefix).ok()?;
    Some(AddressView { link: u32_at(body, 4)?, address })
}

/// A unicast route of any table but `local`, which has the addresses.
pub(super) fn route(body: &[u8]) -> Option<RouteView> {
    let (family, prefix, table, kind) = (*body.first()?, *body.get(1)?, *body.get(4)?, *body.get(7)?);
    let rest = body.get(ROUTE_HEADER..)?;
    // The header has no room for numbers above 255.
    let table = attribute(rest, libc::RTA_TABLE).and_then(|value| u32_at(value, 0)).unwrap_or(table.into());
    if table == libc::RT_TABLE_LOCAL.into() || kind != libc::RTN_UNICAST {
        return None;
    }
    let destination = match attribute(rest, libc::RTA_DST) {
        Some(value) => ip(family, value)?,
        None if family == AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        None if family == AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        None => return None,
    };
    let gateway = attribute(rest, libc::RTA_GATEWAY).and_then(|value| ip(family, value));
    // An IPv4 route with an IPv6 next hop: family, then address.
    let foreign = || {
        let value = attribute(rest, libc::RTA_VIA)?;
        ip(u8::try_from(u16_at(value, 0)?).ok()?, value.get(2..)?)
    };
    Some(RouteView {
        destination: IpNet::new(destination, prefix).ok()?,
        via: gateway.or_else(foreign),
        link: attribute(rest, libc::RTA_OIF).and_then(|value| u32_at(value, 0)),
        table,
    })
}

/// A neighbour; `None` for the entries that the kernel makes for addresses that need no resolving.
pub(super) fn neighbour(body: &[u8]) -> Option<NeighbourView> {
    let (family, state) = (*body.first()?, u16_at(body, 8)?);
    if state & libc::NUD_NOARP != 0 && family != AF_BRIDGE {
        return None;
    }
    let rest = body.get(NEIGHBOUR_HEADER..)?;
    let destination = attribute(rest, libc::NDA_DST);
    Some(NeighbourView {
        link: u32_at(body, 4)?,
        address: destination.and_then(|value| match value.len() {
            4 => ip(AF_INET, value),
            _ => ip(AF_INET6, value),
        }),
        mac: attribute(rest, libc::NDA_LLADDR).and_then(mac),
        forwarding: family == AF_BRIDGE,
        permanent: state & libc::NUD_PERMANENT != 0,
    })
}

fn mac(value: &[u8]) -> Option<MacAddr> {
    value.try_into().ok().map(MacAddr)
}

fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        AF_INET6 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute_bytes(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).expect("short");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn veth() -> Vec<u8> {
        let header = [0u32, 7, IFF_UP, 0].map(u32::to_ne_bytes).concat();
        let info = attribute_bytes(IFLA_INFO_KIND, b"veth\0");
        let attributes = [
            attribute_bytes(libc::IFLA_IFNAME, b"veth0\0"),
            attribute_bytes(libc::IFLA_MTU, &1400u32.to_ne_bytes()),
            attribute_bytes(libc::IFLA_LINK, &2u32.to_ne_bytes()),
            attribute_bytes(libc::IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]),
            attribute_bytes(libc::IFLA_IFALIAS, b"netloom/a/endpoint/b\0"),
            attribute_bytes(libc::IFLA_LINKINFO, &info),
        ];
        [header, attributes.concat()].concat()
    }

    #[test]
    fn a_link_is_read() {
        let view = link(&veth()).expect("a link");
        assert_eq!((view.index, view.name.as_str(), view.mtu, view.up), (7, "veth0", 1400, true));
        assert_eq!((&view.kind, view.master, view.group), (&LinkKind::Veth, None, 0));
        assert_eq!(view.peer, Some(2));
        assert_eq!(view.tag().expect("a tag").id, "b");
        assert_eq!(view.mac, Some(MacAddr([2, 0, 0, 0, 0, 1])));
    }

    #[test]
    fn a_route_is_of_the_table_that_its_attribute_says() {
        // struct rtmsg: family, prefix, source prefix, tos, table, protocol, scope, type, flags.
        let message = |table: u8, more: Option<u32>, kind: u8| {
            let header = [AF_INET, 24, 0, 0, table, 3, 0, kind, 0, 0, 0, 0].to_vec();
            let more = more.map(|table| attribute_bytes(libc::RTA_TABLE, &table.to_ne_bytes()));
            let more = more.into_iter().chain([attribute_bytes(libc::RTA_DST, &[10, 9, 0, 0])]);
            more.fold(header, |bytes, attribute| [bytes, attribute].concat())
        };
        let table = |bytes: Vec<u8>| route(&bytes).map(|view| view.table);
        assert_eq!(table(message(libc::RT_TABLE_MAIN, None, libc::RTN_UNICAST)), Some(RouteView::MAIN));
        assert_eq!(table(message(100, Some(100), libc::RTN_UNICAST)), Some(100));
        assert_eq!(table(message(252, Some(51_820), libc::RTN_UNICAST)), Some(51_820));
        assert_eq!(table(message(libc::RT_TABLE_LOCAL, Some(255), libc::RTN_UNICAST)), None);
        assert_eq!(table(message(100, Some(100), libc::RTN_BLACKHOLE)), None);
    }

    #[test]
    fn only_the_link_of_a_veth_is_a_peer() {
        let replaced = |from: &[u8], to: &[u8]| {
            let mut bytes = veth();
            let at = bytes.windows(from.len()).position(|window| window == from).expect("there");
            bytes[at..at + to.len()].copy_from_slice(to);
            link(&bytes).expect("a link")
        };
        assert_eq!(replaced(b"veth\0", b"vlan\0").peer, None, "the link below it");
        let number = |number: u32| attribute_bytes(libc::IFLA_LINK, &number.to_ne_bytes());
        assert_eq!(replaced(&number(2), &number(0)).peer, None, "no link has this number");
    }

    #[test]
    fn what_a_bridge_says_of_its_port_is_not_a_link() {
        let mut bytes = veth();
        bytes[0] = AF_BRIDGE;
        assert_eq!(link(&bytes), None);
    }

    proptest! {
        #[test]
        fn garbage_and_truncation_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..256),
            length in 0usize..128,
        ) {
            let whole = veth();
            for bytes in [&bytes[..], &whole[..length.min(whole.len())]] {
                let _ = (link_master(bytes), link_mac(bytes), link_group(bytes));
                let _ = (link(bytes), address(bytes), route(bytes), neighbour(bytes));
            }
        }
    }
}
