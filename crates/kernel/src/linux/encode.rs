//! Operations: from data to the kernel's messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoPortData, InfoPortKind,
    InfoVeth, LinkAttribute, LinkExtentMask,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use netloom_model::{IfName, MacAddr};
use nix::errno::Errno;
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use super::failure::Failure;
use super::has_ipv6;
use super::transport::Request;
use crate::op::{Neighbour, Netns, Op, PortFlag, Route};

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;
/// A smaller link has no IPv6, and refuses whatever is about it (RFC 8200, 5).
const IPV6_MIN_MTU: u32 = 1280;
/// The longest alias in bytes: with its zero it must stay below `IFALIASZ`.
const MAX_ALIAS: usize = 254;

/// The link whose number an operation needs: the kernel takes only numbers there.
pub(super) fn needs(op: &Op) -> Option<IfName> {
    match op {
        Op::CreateVeth { master, .. } | Op::SetMaster { master, .. } => *master,
        Op::MoveLink { name: link, .. }
        | Op::AddAddress { link, .. }
        | Op::DeleteAddress { link, .. }
        | Op::AddRoute { route: Route { link, .. }, .. }
        | Op::DeleteRoute { route: Route { link, .. }, .. }
        | Op::AddNeighbour { link, .. }
        | Op::DeleteNeighbour { link, .. }
        | Op::Announce { link, .. } => Some(*link),
        Op::CreateNetns { .. }
        | Op::AdoptNetns { .. }
        | Op::DeleteNetns { .. }
        | Op::CreateBridge { .. }
        | Op::CutLink { .. }
        | Op::DeleteLink { .. }
        | Op::SetLink { .. }
        | Op::SetPortFlag { .. }
        | Op::SetMtu { .. }
        | Op::ChangeTable { .. }
        | Op::ForgetConnections { .. }
        | Op::Sysctl { .. } => None,
    }
}

/// The link that an operation takes out of the bridge that it is a port of, if it is a port.
pub(super) fn unbridges(op: &Op) -> Option<IfName> {
    match op {
        Op::SetMaster { name, .. } => Some(*name),
        _ => None,
    }
}

/// Whether a link may have this name, or have it no more, or may be a port of another bridge, once the
/// operation is done.
pub(super) fn affects(op: &Op, link: IfName) -> bool {
    match op {
        Op::CreateBridge { name, .. } => *name == link,
        Op::CreateVeth { host, peer, netns, .. } => *host == link || (*netns == Netns::Host && *peer == link),
        Op::MoveLink { name, rename, .. } => *name == link || *rename == link,
        Op::SetMaster { name, .. } => *name == link,
        _ => false,
    }
}

/// The namespace that an operation puts a link into.
pub(super) fn puts_into(op: &Op) -> Option<Netns> {
    match op {
        Op::CreateVeth { netns, .. } => Some(*netns),
        Op::MoveLink { to, .. } => Some(*to),
        _ => None,
    }
}

/// The link that an operation makes on this thread, by the name it is known by.
pub(super) fn makes(op: &Op) -> Option<IfName> {
    match op {
        Op::CreateBridge { name, .. } => Some(*name),
        Op::CreateVeth { host, .. } => Some(*host),
        _ => None,
    }
}

/// The numbers and the namespace that stand for names in a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places<'a> {
    /// The number of the link that the operation [`needs`].
    pub(super) index: Option<u32>,
    /// The hardware address of that link, if it has one.
    pub(super) mac: Option<MacAddr>,
    /// The namespace that it [`puts_into`] where that is not the socket's own.
    pub(super) netns: Option<BorrowedFd<'a>>,
    /// The number that the link it [`makes`] shall have.
    pub(super) number: Option<u32>,
    /// The number that the other end of a veth pair shall have in its namespace; the kernel's choice if none.
    pub(super) peer: Option<u32>,
}

/// The requests of an operation: one, or for a new link the one that makes it and those that complete it.
pub(super) fn requests(op: &Op, places: Places<'_>) -> Result<Vec<Request>, Failure> {
    let mut requests = vec![request(op, places)?];
    requests.extend(finishing(op, places.number.unwrap_or(0))?);
    Ok(requests)
}

fn request(
    op: &Op,
    Places { index, mac: own, netns, number, peer: other }: Places<'_>,
) -> Result<Request, Failure> {
    let index = index.unwrap_or(0);
    let number = number.unwrap_or(0);
    let (message, flags) = match op {
        Op::CreateBridge { name, mac, .. } => {
            let mut link = LinkMessageBuilder::<LinkBridge>::new(name.as_str()).index(number);
            if let Some(mac) = mac {
                link = link.address(mac.0.to_vec());
            }
            (Message::NewLink(link.build()), CREATE)
        }
        Op::CreateVeth { host, peer, master, mac, mtu, .. } => {
            // The peer must not be up: its other end does not exist yet (ENOTCONN). Its number is the
            // kernel's choice: an unnumbered link gets the next free one of its namespace.
            let mut inside = named(peer);
            if let Some(other) = other {
                inside = inside.index(other);
            }
            let mut outside = LinkMessageBuilder::<LinkVeth>::new(host.as_str(), peer.as_str()).up();
            outside = outside.index(number);
            if let Some(netns) = netns {
                inside = inside.setns_by_fd(netns.as_raw_fd());
            }
            if let Some(mac) = mac {
                inside = inside.address(mac.0.to_vec());
            }
            if let Some(mtu) = mtu {
                inside = inside.mtu(*mtu);
                outside = outside.mtu(*mtu);
            }
            if master.is_some() {
                outside = outside.controller(index);
            }
            let pair = InfoData::Veth(InfoVeth::Peer(inside.build()));
            (Message::NewLink(outside.set_info_data(pair).build()), CREATE)
        }
        // The port state alone would be cheaper (0.02 ms against 0.09), but a bridge without STP sets it
        // back to "forwarding" at every change of the link: even when its group is set for its deletion.
        Op::CutLink { name } => (Message::SetLink(named(name).down().build()), 0),
        Op::MoveLink { rename, .. } => {
            let mut link = LinkUnspec::new_with_index(index).name(rename.as_str());
            if let Some(netns) = netns {
                link = link.setns_by_fd(netns.as_raw_fd());
            }
            (Message::SetLink(link.build()), 0)
        }
        Op::SetLink { name, up, .. } => {
            let link = if *up { named(name).up() } else { named(name).down() };
            (Message::SetLink(link.build()), 0)
        }
        Op::SetMaster { name, .. } => return Ok(set_master(*name, index)),
        Op::SetPortFlag { name, flag } => {
            // Only this kind of request takes what is about a port; without flags it makes nothing.
            let port = vec![match flag {
                PortFlag::Isolated => InfoBridgePort::Isolated(true),
                PortFlag::Hairpin => InfoBridgePort::HairpinMode(true),
            }];
            let link = named(name).set_port_kind(InfoPortKind::Bridge);
            (Message::NewLink(link.set_port_data(InfoPortData::BridgePort(port)).build()), 0)
        }
        Op::SetMtu { name, mtu, .. } => (Message::SetLink(named(name).mtu(*mtu).build()), 0),
        Op::AddAddress { address, .. } => (Message::NewAddress(self::address(index, address)), CREATE),
        Op::DeleteAddress { address, .. } => (Message::DelAddress(self::address(index, address)), 0),
        Op::AddRoute { route, .. } => (Message::NewRoute(self::route(index, route)?), CREATE),
        Op::DeleteRoute { route, .. } => {
            let mut route = self::route(index, route)?;
            // Whoever made it, and whatever the scope: destination, next hop and link decide.
            route.header.scope = RouteScope::NoWhere;
            route.header.protocol = RouteProtocol::Unspec;
            route.header.kind = RouteType::Unspec;
            (Message::DelRoute(route), 0)
        }
        Op::AddNeighbour { neighbour, .. } => {
            // One group address may lead to many tunnel ends, so there is nothing to replace.
            let many = matches!(neighbour, Neighbour::Forwarding { mac, .. }
                if mac.is_multicast() || *mac == MacAddr([0; 6]));
            let flags = NLM_F_CREATE | if many { NLM_F_APPEND } else { NLM_F_REPLACE };
            (Message::NewNeighbour(self::neighbour(index, neighbour)), flags)
        }
        Op::DeleteNeighbour { neighbour, .. } => {
            (Message::DelNeighbour(self::neighbour(index, neighbour)), 0)
        }
        // The address that it has. With another one the link would change; without one there is nothing to tell.
        Op::Announce { .. } => {
            let own = own.ok_or_else(|| Failure::errno(Errno::EOPNOTSUPP))?;
            let link = LinkUnspec::new_with_index(index).address(own.0.to_vec());
            (Message::SetLink(link.build()), 0)
        }
        // These have executors of their own.
        Op::CreateNetns { .. }
        | Op::AdoptNetns { .. }
        | Op::DeleteNetns { .. }
        | Op::DeleteLink { .. }
        | Op::ChangeTable { .. }
        | Op::ForgetConnections { .. }
        | Op::Sysctl { .. } => return Err(Failure::errno(Errno::EOPNOTSUPP)),
    };
    Ok(Request { flags, ..Request::new(message) })
}

/// What a link just made still lacks: the kernel takes no alias at creation. The host's end of a pair is told to have
/// no IPv6 address of its own, before the other end is up and it would get one: a port needs none, each would be one
/// more route on the host, and the kernel goes through all of them whenever a link comes or goes. A bridge gets its MTU here
/// too, since one given at creation is forgotten when its ports come and go; after the mark, so that a
/// refused one leaves no link without.
///
/// By number: when the link was not made, no link has it, and these are refused with `ENODEV`.
fn finishing(op: &Op, number: u32) -> Result<Vec<Request>, Failure> {
    let (tag, mtu, port) = match op {
        Op::CreateBridge { tag, mtu, .. } => (tag, *mtu, false),
        Op::CreateVeth { tag, master, mtu, .. } => {
            (tag, None, master.is_some() && mtu.is_none_or(|mtu| mtu >= IPV6_MIN_MTU))
        }
        _ => return Ok(Vec::new()),
    };
    let alias = tag.alias();
    if alias.len() > MAX_ALIAS {
        return Err(Failure::refused(libc::ERANGE, Some(format!("the mark is too long: {alias:?}"))));
    }
    let link = || LinkUnspec::new_with_index(number);
    let mut mark = link().alias(alias);
    if port && has_ipv6() {
        let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        mark = mark.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![none]));
    }
    let mark = Request::joined(Message::SetLink(mark.build()));
    let size = mtu.map(|mtu| Request::joined(Message::SetLink(link().mtu(mtu).build())));
    Ok([mark].into_iter().chain(size).collect())
}

/// Asks for one link, without its statistics.
pub(super) fn get_link(name: IfName) -> Request {
    Request::new(Message::GetLink(without_statistics(named(&name)).build()))
}

/// Asks for the link of this number, without its statistics.
pub(super) fn get_link_at(index: u32) -> Request {
    Request::new(Message::GetLink(without_statistics(LinkUnspec::new_with_index(index)).build()))
}

/// Asks for the link of this name, with its statistics.
pub(super) fn get_link_with_statistics(name: IfName) -> Request {
    Request::new(Message::GetLink(named(&name).build()))
}

/// Asks for all links, without their statistics.
pub(super) fn list_links() -> Request {
    Request::new(Message::GetLink(without_statistics(LinkMessageBuilder::<LinkUnspec>::new()).build()))
}

/// Makes a link a port of the bridge with this number; zero is no bridge.
pub(super) fn set_master(name: IfName, master: u32) -> Request {
    Request::new(Message::SetLink(named(&name).controller(master).build()))
}

/// Brings the loopback up; it has the same number in every namespace.
pub(super) fn loopback_up() -> Request {
    Request::new(Message::SetLink(LinkUnspec::new_with_index(1).up().build()))
}

/// Deletes a link by its number.
pub(super) fn delete_index(index: u32) -> Request {
    Request::new(Message::DelLink(LinkUnspec::new_with_index(index).build()))
}

/// Puts a link into a group, and sets it down in the same message: a change of an up link makes its bridge
/// look at it again.
pub(super) fn set_group(index: u32, group: u32) -> Request {
    Request::new(Message::SetLink(LinkUnspec::new_with_index(index).down().link_group(group).build()))
}

/// Deletes every link of a group.
pub(super) fn delete_group(group: u32) -> Request {
    Request::new(Message::DelLink(LinkMessageBuilder::<LinkUnspec>::new().link_group(group).build()))
}

/// Refused when any link is in the group, accepted without effect when none is: a change that no link can
/// take, since a hardware address of one byte is shorter than any.
pub(super) fn probe_group(group: u32) -> Request {
    let probe = LinkMessageBuilder::<LinkUnspec>::new().link_group(group).address(vec![0]);
    Request::new(Message::NewLink(probe.build()))
}

fn named(name: &IfName) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_name(name.as_str())
}

fn without_statistics(link: LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec> {
    link.append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
}

fn address(index: u32, address: &IpNet) -> AddressMessage {
    let own = address.addr();
    let mut message = match address {
        IpNet::V4(net) => {
            AddressMessageBuilder::<Ipv4Addr>::new().address(net.addr(), net.prefix_len()).build()
        }
        IpNet::V6(net) => {
            AddressMessageBuilder::<Ipv6Addr>::new().address(net.addr(), net.prefix_len()).build()
        }
    };
    message.header.index = index;
    if own.is_multicast() {
        // The builder leaves it out, and a deletion without address takes the first one of the link.
        message.attributes = vec![AddressAttribute::Address(own), AddressAttribute::Local(own)];
    }
    if own.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn route(index: u32, route: &Route) -> Result<RouteMessage, Failure> {
    let invalid = |_| Failure::errno(Errno::EINVAL);
    let (destination, prefix) = (route.destination.addr(), route.destination.prefix_len());
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination, prefix)
        .map_err(invalid)?
        .output_interface(index);
    match route.via {
        Some(via) => builder = builder.gateway(via).map_err(invalid)?,
        // IPv6 has no scopes here and ignores it.
        None => builder = builder.scope(RouteScope::Link),
    }
    Ok(builder.build())
}

fn neighbour(index: u32, neighbour: &Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    let (mac, destination) = match neighbour {
        Neighbour::Address { address, mac } => {
            message.header.family = match address {
                IpAddr::V4(_) => AddressFamily::Inet,
                IpAddr::V6(_) => AddressFamily::Inet6,
            };
            (mac, Some(*address))
        }
        Neighbour::Forwarding { mac, destination } => {
            message.header.family = AddressFamily::Bridge;
            message.header.flags = NeighbourFlags::Own;
            (mac, *destination)
        }
    };
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    if let Some(destination) = destination {
        message.attributes.push(NeighbourAttribute::Destination(destination.into()));
    }
    message
}
