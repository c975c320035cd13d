//! Tracked connections, over the socket of nftables: both are parts of netfilter.
//!
//! The kernel deletes by an entry's original tuple. Its identifier goes with it, so that an entry which has taken the
//! place of the one that was listed stays. Numbers are those of `linux/netfilter/nfnetlink_conntrack.h`.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};

use super::super::failure::Failure;
use super::super::transport::Transport;
use super::super::wire::{attribute, attributes};
use super::attributes::{Attributes, NESTED};
use super::{decode, message};
use crate::conntrack::{Connection, Connections};

/// The number of connection tracking among the parts of netfilter (`NFNL_SUBSYS_CTNETLINK`).
const SUBSYSTEM: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_NEW`, `IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE`.
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

/// `CTA_…`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
/// `CTA_FILTER_…`, and the bits in them (`CTA_FILTER_F_…` of `net/netfilter/nf_internals.h`).
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
const BY_SOURCE: u32 = 1;
const BY_DESTINATION: u32 = 1 << 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;
/// `CTA_TUPLE_…`.
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
/// `CTA_IP_…`.
const SOURCE4: u16 = 1;
const DESTINATION4: u16 = 2;
const SOURCE6: u16 = 3;
const DESTINATION6: u16 = 4;
/// `CTA_PROTO_…`.
const PROTOCOL: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// An entry to delete.
struct Entry {
    family: u8,
    /// The attributes that name it and no other.
    named: Vec<u8>,
}

/// Forgets what one of the filters covers: one listing, or one of each family, and a deletion for each entry that is found.
pub(super) fn forget(
    transport: &mut Transport,
    filter: &[Connections],
    deadline: Instant,
) -> Result<(), Failure> {
    if filter.is_empty() {
        return Ok(());
    }
    let entries = list(transport, filter, deadline)?;
    let write = |out: &mut Vec<u8>, place: usize, number| {
        let Entry { family, named } = &entries[place];
        message(out, DELETE, NLM_F_ACK, number, *family, 0, named);
    };
    for answer in transport.ask_each(entries.len(), write, deadline) {
        match answer {
            // It ended by itself.
            Ok(_) | Err(Failure::Refused { errno: libc::ENOENT, .. }) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// What the kernel says where no connections are tracked at all: an unknown part of netfilter is `EINVAL` there.
pub(super) fn untracked(failure: Failure) -> Failure {
    match failure {
        Failure::Refused {
            errno: libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT,
            ..
        } => Failure::refused(libc::EOPNOTSUPP, Some("this kernel tracks no connections".into())),
        other => other,
    }
}

fn list(transport: &mut Transport, filter: &[Connections], deadline: Instant) -> Result<Vec<Entry>, Failure> {
    let mut dump = |family, body: &[u8]| {
        let write = |out: &mut Vec<u8>, number| message(out, GET, NLM_F_DUMP, number, family, 0, body);
        transport.list(write, NEW, deadline, |body| entry(body, filter))
    };
    let mut entries = Vec::new();
    for (family, body) in narrowed(filter) {
        entries.extend(match dump(family, &body) {
            // It does not know how to choose, or not by this: then all are looked at here.
            Err(Failure::Refused { errno: libc::EINVAL | libc::EOPNOTSUPP, .. }) if !body.is_empty() => {
                dump(family, &[])?
            }
            listed => listed?,
        });
    }
    Ok(entries)
}

/// An entry of the listing, if a filter covers it.
fn entry(body: &[u8], filter: &[Connections]) -> Option<Entry> {
    let family = *body.first()?;
    let body = body.get(decode::HEADER..)?;
    let (original, id) = (attribute(body, ORIGINAL)?, attribute(body, ID)?);
    let connection = connection(original, attribute(body, REPLY)?)?;
    if !filter.iter().any(|filter| filter.cover(&connection)) {
        return None;
    }
    let mut named = Attributes::new();
    // Without its tuple the kernel would take this for "all".
    named.bytes(ORIGINAL | NESTED, original).bytes(ID, id);
    if let Some(zone) = attribute(body, ZONE) {
        named.bytes(ZONE, zone);
    }
    Some(Entry { family, named: named.into_bytes() })
}

fn connection(original: &[u8], reply: &[u8]) -> Option<Connection> {
    let protocol = attribute(original, TUPLE_PROTOCOL)?;
    // Protocols without ports have none.
    let port = |kind| {
        attribute(protocol, kind)
            .and_then(|value| value.first_chunk())
            .map_or(0, |port| u16::from_be_bytes(*port))
    };
    let (source, destination) = addresses(original)?;
    Some(Connection {
        protocol: *attribute(protocol, PROTOCOL)?.first()?,
        source: SocketAddr::new(source, port(SOURCE_PORT)),
        destination: SocketAddr::new(destination, port(DESTINATION_PORT)),
        answers: addresses(reply)?.0,
    })
}

fn addresses(tuple: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let (mut source, mut destination) = (None, None);
    for (kind, value) in attributes(attribute(tuple, TUPLE_ADDRESSES)?) {
        let address = match kind {
            SOURCE4 | DESTINATION4 => IpAddr::from(*value.first_chunk::<4>()?),
            SOURCE6 | DESTINATION6 => IpAddr::from(*value.first_chunk::<16>()?),
            _ => continue,
        };
        if kind == SOURCE4 || kind == SOURCE6 { source = Some(address) } else { destination = Some(address) }
    }
    source.zip(destination)
}

/// What to list: families, and attributes that all filters have in common, so that the kernel tells of fewer. It chooses
/// by attributes within a family only; two listings that it chooses for are a hundredth of one of all that a busy host has.
///
/// Kernels before 5.8 do not look at the attributes and tell of all, so everything is looked at again.
fn narrowed(filter: &[Connections]) -> Vec<(u8, Vec<u8>)> {
    let family = |one: &Connections| one.host.or(one.container).map(|address| address.is_ipv4());
    let protocol = agreed(filter, |one| one.protocol.number());
    match (agreed(filter, family).flatten(), protocol) {
        (Some(v4), _) => vec![narrowed_within(filter, v4)],
        (None, Some(_)) => [true, false].map(|v4| narrowed_within(filter, v4)).into(),
        (None, None) => vec![(number(libc::AF_UNSPEC), Vec::new())],
    }
}

fn number(family: i32) -> u8 {
    u8::try_from(family).unwrap_or_default()
}

fn narrowed_within(filter: &[Connections], v4: bool) -> (u8, Vec<u8>) {
    let family = number(if v4 { libc::AF_INET } else { libc::AF_INET6 });
    // Not by addresses of IPv6: the kernel (6.18 still) then tells of all others, because it takes the result of
    // `ipv6_addr_cmp`, which is 0 for the same address, for "the same".
    let address = |of: fn(&Connections) -> Option<IpAddr>| match agreed(filter, of) {
        Some(Some(IpAddr::V4(address))) if v4 => Some(address),
        _ => None,
    };
    let (host, container) = (address(|one| one.host), address(|one| one.container));
    let protocol = agreed(filter, |one| one.protocol.number());
    let port = agreed(filter, |one| (one.first == one.last).then_some(one.first)).flatten();
    let (mut original, mut reply) = (0, 0);
    let mut out = Attributes::new();
    out.nest(ORIGINAL, |out| {
        if let Some(host) = host {
            original |= BY_DESTINATION;
            out.nest(TUPLE_ADDRESSES, |out| {
                out.bytes(DESTINATION4, &host.octets());
            });
        }
        if let Some(protocol) = protocol {
            original |= BY_PROTOCOL;
            out.nest(TUPLE_PROTOCOL, |out| {
                out.bytes(PROTOCOL, &[protocol]);
                if let Some(port) = port {
                    original |= BY_DESTINATION_PORT;
                    out.bytes(DESTINATION_PORT, &port.to_be_bytes());
                }
            });
        }
    });
    if let Some(container) = container {
        reply |= BY_SOURCE;
        out.nest(REPLY, |out| {
            out.nest(TUPLE_ADDRESSES, |out| {
                out.bytes(SOURCE4, &container.octets());
            });
        });
    }
    if original == 0 && reply == 0 {
        return (family, Vec::new());
    }
    out.nest(FILTER, |out| {
        // In the host's byte order.
        for (kind, bits) in [(FILTER_ORIGINAL, original), (FILTER_REPLY, reply)] {
            out.bytes(kind, &bits.to_ne_bytes());
        }
    });
    (family, out.into_bytes())
}

/// What all have in common.
fn agreed<T: PartialEq>(filter: &[Connections], of: impl Fn(&Connections) -> T) -> Option<T> {
    let first = of(filter.first()?);
    filter.iter().all(|one| of(one) == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use netloom_model::Protocol;
    use proptest::prelude::*;

    use super::*;

    /// `nfgenmsg` and attributes, as the kernel told of a UDP connection to 192.0.2.1:5000 that 10.0.0.2 answers.
    fn told() -> Vec<u8> {
        let mut out = Attributes::new();
        let mut tuple = |kind, [source, destination]: [[u8; 4]; 2], [from, to]: [u16; 2]| {
            out.nest(kind, |out| {
                out.nest(TUPLE_ADDRESSES, |out| {
                    out.bytes(SOURCE4, &source).bytes(DESTINATION4, &destination);
                });
                out.nest(TUPLE_PROTOCOL, |out| {
                    out.bytes(PROTOCOL, &[17]).bytes(SOURCE_PORT, &from.to_be_bytes());
                    out.bytes(DESTINATION_PORT, &to.to_be_bytes());
                });
            });
        };
        tuple(ORIGINAL, [[192, 0, 2, 7], [192, 0, 2, 1]], [40_000, 5000]);
        tuple(REPLY, [[10, 0, 0, 2], [192, 0, 2, 7]], [7000, 40_000]);
        out.number(ID, 77).bytes(ZONE, &3u16.to_be_bytes());
        [vec![2, 0, 0, 0], out.into_bytes()].concat()
    }

    fn udp() -> Connections {
        Connections::to(Protocol::Udp, 5000, 5000)
    }

    #[test]
    fn an_entry_is_named_by_its_tuple_its_number_and_its_zone() {
        let told = told();
        let filter = [udp().at([192, 0, 2, 1].into()).answered_by([10, 0, 0, 2].into())];
        let Entry { family, named } = entry(&told, &filter).expect("covered");
        assert_eq!(family, 2);
        let kinds: Vec<_> = attributes(&named).map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [ORIGINAL, ID, ZONE]);
        for kind in kinds {
            assert_eq!(attribute(&named, kind), attribute(&told[decode::HEADER..], kind));
        }
        assert!(entry(&told, &[udp().at([192, 0, 2, 7].into())]).is_none());
    }

    #[test]
    fn a_kernel_without_connection_tracking_is_told_from_a_refusal() {
        let unsupported = untracked(Failure::refused(libc::EINVAL, None));
        assert!(matches!(unsupported, Failure::Refused { errno: libc::EOPNOTSUPP, .. }), "{unsupported:?}");
        for other in [Failure::refused(libc::EPERM, None), Failure::TimedOut, Failure::Lost("x".into())] {
            assert_eq!(untracked(other.clone()), other);
        }
    }

    #[test]
    fn addresses_of_ipv6_are_no_choice_for_the_kernel() {
        let one = |filter: &[Connections]| narrowed(filter).remove(0);
        let (family, body) = one(&[udp().at("2001:db8::1".parse().expect("valid"))]);
        assert_eq!(family, 10);
        assert!(attribute(attribute(&body, ORIGINAL).expect("a port"), TUPLE_ADDRESSES).is_none());
        let (family, body) = one(&[udp().at([192, 0, 2, 1].into())]);
        assert_eq!(family, 2);
        assert!(attribute(attribute(&body, ORIGINAL).expect("a port"), TUPLE_ADDRESSES).is_some());
        // Without an address each family is chosen from; without anything in common all are told.
        let families = |filter: &[Connections]| narrowed(filter).iter().map(|one| one.0).collect::<Vec<_>>();
        assert_eq!(families(&[udp()]), [2, 10]);
        assert_eq!(narrowed(&[udp(), Connections::to(Protocol::Tcp, 1, 1)]), [(0, Vec::new())]);
    }

    proptest! {
        /// Whatever is told, nothing is deleted that has no tuple of its own: that would be everything.
        #[test]
        fn garbage_is_never_everything(at in 0usize..150, value: u8, length in 0usize..160) {
            let mut bytes = told();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(length);
            let all = [Connections::to(Protocol::Udp, 0, u16::MAX)];
            if let Some(Entry { named, .. }) = entry(&bytes, &all) {
                prop_assert!(attribute(&named, ORIGINAL).is_some_and(|tuple| !tuple.is_empty()));
            }
        }
    }
}
