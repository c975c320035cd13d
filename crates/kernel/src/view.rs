//! What the kernel says it has.

use std::net::IpAddr;

use ipnet::IpNet;
use netloom_model::{IfName, MacAddr};
use serde::{Deserialize, Serialize};

use crate::nft::Table;
use crate::op::LinkTag;

/// The kinds of links the engine tells apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkKind {
    /// The loopback or a physical device.
    Device,
    /// A bridge.
    Bridge,
    /// One end of a veth pair.
    Veth,
    /// Anything else, by the kernel's name for it.
    Other(String),
}

/// What a port of a bridge does with frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortState {
    /// It drops them: the port, its other end or the bridge is down, or the kernel has not noticed yet that
    /// they are up.
    Disabled,
    /// Spanning tree listens first.
    Listening,
    /// Spanning tree learns addresses first.
    Learning,
    /// It forwards them.
    Forwarding,
    /// Spanning tree keeps it shut, to break a loop.
    Blocking,
}

/// A link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkView {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name. Names that are not valid [`IfName`]s are not listed: they cannot be ours.
    pub name: IfName,
    /// Its kind.
    pub kind: LinkKind,
    /// Its hardware address.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// The number of the bridge it is a port of.
    pub master: Option<u32>,
    /// Its state as a port of that bridge. Asked about a single link, Linux 6.8 and later look at it at once
    /// before they answer; otherwise they get round to it a little after its carrier has come.
    pub port: Option<PortState>,
    /// Whether it is a port that does not reach others of its kind.
    pub isolated: bool,
    /// Whether it is a port that hears its own packets.
    pub hairpin: bool,
    /// The number of the other end of a veth pair. It counts in the namespace of the other end, which may be
    /// another one, where a link of this namespace may have the same number. `None` for every other kind.
    pub peer: Option<u32>,
    /// Its alias.
    pub alias: Option<String>,
    /// Its group.
    pub group: u32,
}

impl LinkView {
    /// The engine's mark, if it carries one.
    #[must_use]
    pub fn tag(&self) -> Option<LinkTag> {
        self.alias.as_deref().and_then(LinkTag::parse)
    }
}

/// What has passed a link since it was made: the fields of libnetwork's `InterfaceStatistics`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LinkCounters {
    /// Bytes received, headers of the link included.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets that were received damaged.
    pub rx_errors: u64,
    /// Packets that were received and dropped.
    pub rx_dropped: u64,
    /// Bytes sent, headers of the link included.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets to be sent that were dropped.
    pub tx_dropped: u64,
}

/// An address of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressView {
    /// The link's number.
    pub link: u32,
    /// The address with its prefix length.
    pub address: IpNet,
}

/// A unicast route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteView {
    /// The destination.
    pub destination: IpNet,
    /// The next hop.
    pub via: Option<IpAddr>,
    /// The number of the link it leaves by.
    pub link: Option<u32>,
    /// The number of its table.
    pub table: u32,
}

impl RouteView {
    /// The number of the table that is looked through where no rule says otherwise (`RT_TABLE_MAIN`).
    pub const MAIN: u32 = 254;
}

/// A neighbour entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeighbourView {
    /// The link's number.
    pub link: u32,
    /// The neighbour's address; `None` in a forwarding entry without destination.
    pub address: Option<IpAddr>,
    /// Its hardware address.
    pub mac: Option<MacAddr>,
    /// Whether it is a forwarding entry of a bridge or tunnel.
    pub forwarding: bool,
    /// Whether it was set by hand and never ages.
    pub permanent: bool,
}

/// A change of a link of the host's namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KernelEvent {
    /// A link appeared or changed.
    LinkChanged(LinkView),
    /// A link is gone.
    LinkGone {
        /// Its number.
        index: u32,
        /// Its name.
        name: IfName,
    },
    /// Changes were lost; list again.
    Overrun,
}

/// A change of nftables in the host's namespace that somebody else made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TableEvent {
    /// Something of a table, or all of it. A larger change may be told several times.
    Changed(Table),
    /// Changes were lost; read again.
    Overrun,
}

/// A change of an address or a route of the host's namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReachEvent {
    /// An address appeared or changed.
    AddressCame(AddressView),
    /// An address is gone.
    AddressWent(AddressView),
    /// A route appeared or changed.
    RouteCame(RouteView),
    /// A route is gone.
    RouteWent(RouteView),
    /// Changes were lost; list again.
    Overrun,
}

impl ReachEvent {
    /// The subnet it is about; `None` when that is not known.
    #[must_use]
    pub fn net(&self) -> Option<IpNet> {
        match self {
            Self::AddressCame(view) | Self::AddressWent(view) => Some(view.address.trunc()),
            Self::RouteCame(view) | Self::RouteWent(view) => Some(view.destination),
            Self::Overrun => None,
        }
    }

    /// Whether it is told: link-local and multicast ones are not, since every link that comes up has some.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.net().is_none_or(|net| match net {
            IpNet::V4(net) => !net.addr().is_link_local() && !net.addr().is_multicast(),
            IpNet::V6(net) => !net.addr().is_unicast_link_local() && !net.addr().is_multicast(),
        })
    }
}

/// Counters since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KernelStats {
    /// Netlink requests.
    pub messages: u64,
    /// Sends that carried them.
    pub sends: u64,
    /// Links deleted.
    pub links_deleted: u64,
    /// Deletions that waited for RCU: one may take many links.
    pub deletions: u64,
}
