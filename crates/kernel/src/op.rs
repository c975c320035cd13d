//! Operations as data: they can be recorded, batched, undone, failed on purpose and replayed.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use netloom_model::{IfName, MacAddr, NetnsName};
use serde::{Deserialize, Serialize};

use crate::conntrack::Connections;
use crate::nft::{Change, Table};

/// A network namespace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Netns {
    /// The namespace the engine was started in.
    Host,
    /// One that the engine made.
    Named(NetnsName),
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host"),
            Self::Named(name) => write!(f, "namespace {name}"),
        }
    }
}

/// Marks a link as ours: stored as the link's alias, so that it survives the process. A new link has it from
/// the start, also when the process is killed while it makes the link.
///
/// The text is `netloom/<instance>/<kind>/<id>`, at most 254 bytes; a longer one is refused with `ERANGE`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LinkTag {
    /// The engine's instance name.
    pub instance: String,
    /// What kind of object the link belongs to: `network` or `endpoint`.
    pub kind: String,
    /// That object's identifier.
    pub id: String,
}

impl LinkTag {
    /// A tag for one object of one engine.
    pub fn new(instance: &str, kind: &str, id: impl Into<String>) -> Self {
        Self { instance: instance.into(), kind: kind.into(), id: id.into() }
    }

    /// The link's alias.
    #[must_use]
    pub fn alias(&self) -> String {
        ["netloom/", &self.instance, "/", &self.kind, "/", &self.id].concat()
    }

    /// Reads a link's alias; `None` for an alias that is not a tag.
    #[must_use]
    pub fn parse(alias: &str) -> Option<Self> {
        let mut parts = alias.strip_prefix("netloom/")?.split('/');
        let (instance, kind, id) = (parts.next()?, parts.next()?, parts.next()?);
        parts.next().is_none().then(|| Self::new(instance, kind, id))
    }
}

impl fmt::Display for LinkTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.alias())
    }
}

/// A route of the main table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Route {
    /// The destination; `0.0.0.0/0` or `::/0` is the default route.
    pub destination: IpNet,
    /// The next hop; `None` for a destination on the link itself (link scope).
    pub via: Option<IpAddr>,
    /// The link it leaves by.
    pub link: IfName,
}

/// A permanent neighbour entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Neighbour {
    /// An ARP or neighbour-discovery entry.
    Address {
        /// The neighbour's address.
        address: IpAddr,
        /// Its hardware address.
        mac: MacAddr,
    },
    /// A forwarding entry of a bridge or tunnel (`AF_BRIDGE`, `NTF_SELF`).
    Forwarding {
        /// The hardware address.
        mac: MacAddr,
        /// The tunnel end behind which it lives.
        destination: Option<IpAddr>,
    },
}

/// What can be switched on for a port of a bridge.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortFlag {
    /// It does not reach other ports that are isolated; it reaches the bridge itself and all others.
    Isolated,
    /// What came in by it may leave by it again. Needed where bridges hand packets to the firewall (`br_netfilter`) and a
    /// container comes back to itself through a port of the host.
    Hairpin,
}

/// One change of the kernel's state.
///
/// The documentation names the error that Linux gives in the cases the engine reacts to; the simulated
/// kernel gives the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Makes a namespace, mounts it below the run directory and brings its loopback up.
    /// `EEXIST` when the name is in use.
    CreateNetns {
        /// Its name.
        name: NetnsName,
        /// Whether links that come into it begin with IPv6 (`ipv6/conf/default/disable_ipv6`). Its loopback has it
        /// always, where the kernel has.
        ipv6: bool,
    },
    /// Mounts a namespace that somebody else made below the run directory and brings its loopback up. What is in
    /// it stays as it is. The namespace is looked at and mounted as it was opened, whatever becomes of `source`.
    ///
    /// `EEXIST` when the name is in use, `ENOENT` when there is nothing at `source`, `EINVAL` when that is no
    /// network namespace, and `EBUSY` when it is the host's: a container's links and routes would be put there.
    AdoptNetns {
        /// Its name from now on.
        name: NetnsName,
        /// Where it is, such as `/proc/<pid>/ns/net` or a file that it is mounted on.
        source: PathBuf,
    },
    /// Unmounts a namespace. The kernel destroys it, and every link in it, when its last user is gone: one that
    /// was adopted lives on with its processes, and so does what was put into it. `ENOENT` when there is none.
    DeleteNetns {
        /// Its name.
        name: NetnsName,
    },
    /// Makes a bridge in the host's namespace, down. `EEXIST` when the name is in use, `EINVAL` when it is `all`
    /// or `default`.
    CreateBridge {
        /// Its name.
        name: IfName,
        /// Its hardware address; the kernel draws one when absent.
        mac: Option<MacAddr>,
        /// Its MTU in bytes.
        mtu: Option<u32>,
        /// Marks it as ours.
        tag: LinkTag,
    },
    /// Makes a veth pair in one message: the host's end up and enslaved, the peer directly in its namespace
    /// under its final name, still down. A host's end that is a port makes itself no IPv6 address. `EEXIST` when a name is in use, `EINVAL` when one is `all` or `default`,
    /// `ENOENT` without the namespace, `ENODEV` without the master, `EXFULL` when the bridge has 1023 ports.
    CreateVeth {
        /// The host's end.
        host: IfName,
        /// The name inside.
        peer: IfName,
        /// The namespace of the peer.
        netns: Netns,
        /// The bridge that the host's end becomes a port of.
        master: Option<IfName>,
        /// The peer's hardware address.
        mac: Option<MacAddr>,
        /// The MTU of both ends in bytes.
        mtu: Option<u32>,
        /// Marks the host's end as ours.
        tag: LinkTag,
    },
    /// Stops all traffic through a port of a bridge at once by setting it down, without the RCU wait that a
    /// deletion costs. Nothing that is done at the other end brings it back. `ENODEV` without the link.
    CutLink {
        /// The port, in the host's namespace.
        name: IfName,
    },
    /// Deletes a link and waits until it is really gone. Deletions asked for at the same time are carried
    /// out as one. `ENODEV` without the link, `EPERM` when it does not carry `tag`.
    DeleteLink {
        /// The link, in the host's namespace.
        name: IfName,
        /// The mark it must carry; `None` deletes without looking.
        tag: Option<LinkTag>,
    },
    /// Moves a link from one namespace to another and renames it. Slow: each waits for RCU. Only for links
    /// that a foreign driver made in the wrong place.
    MoveLink {
        /// Where it is.
        from: Netns,
        /// Its name there.
        name: IfName,
        /// Where it goes.
        to: Netns,
        /// Its name there.
        rename: IfName,
    },
    /// Sets a link up or down. `ENODEV` without the link.
    SetLink {
        /// Its namespace.
        netns: Netns,
        /// Its name.
        name: IfName,
        /// Up or down.
        up: bool,
    },
    /// Makes a link of the host's namespace a port of a bridge, or takes it out of its bridge. A link that is
    /// where it should be is left alone, and a refused one is where it was. `ENODEV` without the link or the
    /// master, `EOPNOTSUPP` when the master takes no ports, `EXFULL` when the bridge has 1023 of them, `ELOOP`
    /// when the link is a bridge, `EINVAL` when it is a loopback.
    SetMaster {
        /// The link.
        name: IfName,
        /// The bridge; `None` for no bridge at all.
        master: Option<IfName>,
    },
    /// Switches something on for a port of a bridge. A port that leaves its bridge loses it. `ENODEV` without the link,
    /// `EOPNOTSUPP` when it is no port of a bridge.
    SetPortFlag {
        /// The port, in the host's namespace.
        name: IfName,
        /// What.
        flag: PortFlag,
    },
    /// Changes a link's MTU. `ENODEV` without the link, `EINVAL` for a size it cannot take.
    SetMtu {
        /// Its namespace.
        netns: Netns,
        /// Its name.
        name: IfName,
        /// Bytes.
        mtu: u32,
    },
    /// Adds an address; IPv6 without duplicate address detection. `EEXIST` when the link has it already.
    AddAddress {
        /// The link's namespace.
        netns: Netns,
        /// The link.
        link: IfName,
        /// The address with its prefix length.
        address: IpNet,
    },
    /// Removes an address. `EADDRNOTAVAIL` when the link does not have it.
    DeleteAddress {
        /// The link's namespace.
        netns: Netns,
        /// The link.
        link: IfName,
        /// The address with its prefix length.
        address: IpNet,
    },
    /// Adds a route. `EEXIST` when it is there, `ENETUNREACH` (IPv6: `EHOSTUNREACH`) when the next hop cannot
    /// be reached.
    AddRoute {
        /// The namespace.
        netns: Netns,
        /// The route.
        route: Route,
    },
    /// Removes a route. `ESRCH` when it is not there.
    DeleteRoute {
        /// The namespace.
        netns: Netns,
        /// The route.
        route: Route,
    },
    /// Adds or replaces a permanent neighbour entry.
    AddNeighbour {
        /// The link's namespace.
        netns: Netns,
        /// The link.
        link: IfName,
        /// The entry.
        neighbour: Neighbour,
    },
    /// Removes a neighbour entry. `ENOENT` when it is not there.
    DeleteNeighbour {
        /// The link's namespace.
        netns: Netns,
        /// The link.
        link: IfName,
        /// The entry.
        neighbour: Neighbour,
    },
    /// Tells the neighbours of a link its hardware address: a gratuitous ARP (RFC 5227) for each of its IPv4 addresses
    /// where `arp_notify` is on for it, an unsolicited neighbour advertisement (RFC 4861, 7.2.6) for each IPv6 address
    /// that is not tentative where `ndisc_notify` is on. Nobody answers, so nothing is waited for.
    ///
    /// Linux does it when a link is given its hardware address, also the one it has. The link then forgets its own
    /// neighbours, permanent ones too: announce first, add them then. A link that is down tells nobody. `ENODEV`
    /// without the link; for a kind of link that has no hardware address of its own it is unsupported
    /// ([`crate::KernelError::unsupported`]).
    Announce {
        /// The link's namespace.
        netns: Netns,
        /// The link.
        link: IfName,
    },
    /// Writes a setting below `/proc/sys/net`. `ENOENT` for an unknown one, `EINVAL` for a bad value.
    Sysctl {
        /// The namespace whose setting it is.
        netns: Netns,
        /// The path below `/proc/sys/net`, such as `ipv6/conf/eth0/disable_ipv6`. To switch IPv6 off where the kernel
        /// has none, or the link is too small for it, succeeds.
        key: String,
        /// The text to write.
        value: String,
    },
    /// Changes a table of nftables: all changes take effect in one moment, or none does. Each [`Change`] names its errors.
    /// `ENOENT` without the namespace, unsupported ([`crate::KernelError::unsupported`]) on a kernel without nftables.
    ChangeTable {
        /// The namespace.
        netns: Netns,
        /// The table.
        table: Table,
        /// What to do, in order.
        changes: Vec<Change>,
    },
    /// Forgets every tracked connection that one of the filters covers, so that its next packet is taken for the first of
    /// a new one and goes where it goes now. Only the host's namespace. Nothing happens when there is none.
    ///
    /// Put it behind the change that it belongs to in the same call: what begins before is forgotten, what begins later
    /// goes the new way. A refused one may have forgotten some, and can be tried again. Unsupported
    /// ([`crate::KernelError::unsupported`]) on a kernel that tracks no connections.
    ForgetConnections {
        /// Which connections.
        filter: Vec<Connections>,
    },
}

impl Op {
    /// The operation's name, for fault plans and counters.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::CreateNetns { .. } => "create_netns",
            Self::AdoptNetns { .. } => "adopt_netns",
            Self::DeleteNetns { .. } => "delete_netns",
            Self::CreateBridge { .. } => "create_bridge",
            Self::CreateVeth { .. } => "create_veth",
            Self::CutLink { .. } => "cut_link",
            Self::DeleteLink { .. } => "delete_link",
            Self::MoveLink { .. } => "move_link",
            Self::SetLink { .. } => "set_link",
            Self::SetMaster { .. } => "set_master",
            Self::SetPortFlag { .. } => "set_port_flag",
            Self::SetMtu { .. } => "set_mtu",
            Self::AddAddress { .. } => "add_address",
            Self::DeleteAddress { .. } => "delete_address",
            Self::AddRoute { .. } => "add_route",
            Self::DeleteRoute { .. } => "delete_route",
            Self::AddNeighbour { .. } => "add_neighbour",
            Self::DeleteNeighbour { .. } => "delete_neighbour",
            Self::Announce { .. } => "announce",
            Self::Sysctl { .. } => "sysctl",
            Self::ChangeTable { netns: Netns::Host, .. } => "change_table",
            Self::ChangeTable { netns: Netns::Named(_), .. } => "change_table_inside",
            Self::ForgetConnections { .. } => "forget_connections",
        }
    }

    /// The namespace it changes.
    #[must_use]
    pub fn netns(&self) -> Netns {
        match self {
            Self::CreateNetns { name, .. } | Self::AdoptNetns { name, .. } | Self::DeleteNetns { name } => {
                Netns::Named(*name)
            }
            Self::CreateBridge { .. }
            | Self::CreateVeth { .. }
            | Self::CutLink { .. }
            | Self::DeleteLink { .. }
            | Self::SetMaster { .. }
            | Self::SetPortFlag { .. }
            | Self::ForgetConnections { .. } => Netns::Host,
            Self::MoveLink { from: netns, .. }
            | Self::SetLink { netns, .. }
            | Self::SetMtu { netns, .. }
            | Self::AddAddress { netns, .. }
            | Self::DeleteAddress { netns, .. }
            | Self::AddRoute { netns, .. }
            | Self::DeleteRoute { netns, .. }
            | Self::AddNeighbour { netns, .. }
            | Self::DeleteNeighbour { netns, .. }
            | Self::Announce { netns, .. }
            | Self::Sysctl { netns, .. }
            | Self::ChangeTable { netns, .. } => *netns,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateNetns { name, .. } => write!(f, "create namespace {name}"),
            Self::AdoptNetns { name, source } => {
                write!(f, "adopt the namespace at {} as {name}", source.display())
            }
            Self::DeleteNetns { name } => write!(f, "delete namespace {name}"),
            Self::CreateBridge { name, .. } => write!(f, "create bridge {name}"),
            Self::CreateVeth { host, peer, netns, master, .. } => {
                write!(f, "create link {host} with {peer} in {netns}")?;
                master.map_or(Ok(()), |master| write!(f, " on {master}"))
            }
            Self::CutLink { name } => write!(f, "cut link {name} off"),
            Self::DeleteLink { name, .. } => write!(f, "delete link {name}"),
            Self::MoveLink { from, name, to, rename } => {
                write!(f, "move link {name} of {from} to {to} as {rename}")
            }
            Self::SetLink { netns, name, up } => {
                write!(f, "set link {name} of {netns} {}", if *up { "up" } else { "down" })
            }
            Self::SetMaster { name, master: Some(master) } => {
                write!(f, "make link {name} a port of {master}")
            }
            Self::SetMaster { name, master: None } => write!(f, "take link {name} out of its bridge"),
            Self::SetPortFlag { name, flag: PortFlag::Isolated } => write!(f, "isolate port {name}"),
            Self::SetPortFlag { name, flag: PortFlag::Hairpin } => {
                write!(f, "let port {name} hear its own packets")
            }
            Self::SetMtu { netns, name, mtu } => write!(f, "set the MTU of link {name} of {netns} to {mtu}"),
            Self::AddAddress { netns, link, address } => write!(f, "add {address} to link {link} of {netns}"),
            Self::DeleteAddress { netns, link, address } => {
                write!(f, "remove {address} from link {link} of {netns}")
            }
            Self::AddRoute { netns, route } => write!(f, "add route {route} in {netns}"),
            Self::DeleteRoute { netns, route } => write!(f, "remove route {route} in {netns}"),
            Self::AddNeighbour { netns, link, neighbour } => {
                write!(f, "add neighbour {neighbour} to link {link} of {netns}")
            }
            Self::DeleteNeighbour { netns, link, neighbour } => {
                write!(f, "remove neighbour {neighbour} from link {link} of {netns}")
            }
            Self::Announce { netns, link } => write!(f, "tell the neighbours of link {link} of {netns}"),
            Self::Sysctl { netns, key, value } => write!(f, "set net/{key} of {netns} to {value:?}"),
            Self::ChangeTable { netns, table, changes } => {
                match changes.as_slice() {
                    [change] => write!(f, "change table {table}: {change}")?,
                    changes => write!(f, "make {} changes to table {table}", changes.len())?,
                }
                // Nearly all are about the host's.
                if let Netns::Named(_) = netns { write!(f, " of {netns}") } else { Ok(()) }
            }
            Self::ForgetConnections { filter } => match filter.as_slice() {
                [one] => write!(f, "forget connections to {one}"),
                filter => write!(f, "forget connections of {} kinds", filter.len()),
            },
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        write!(f, " dev {}", self.link)
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, mac } => write!(f, "{address} at {mac}"),
            Self::Forwarding { mac, destination: None } => write!(f, "{mac}"),
            Self::Forwarding { mac, destination: Some(to) } => write!(f, "{mac} behind {to}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_survives_the_alias() {
        let tag = LinkTag::new("netloom", "endpoint", "abc");
        assert_eq!(tag.to_string(), "netloom/netloom/endpoint/abc");
        assert_eq!(LinkTag::parse(&tag.to_string()), Some(tag));
        for foreign in ["", "uplink", "netloom/", "netloom/a/b", "netloom/a/b/c/d", "other/a/b/c"] {
            assert_eq!(LinkTag::parse(foreign), None, "{foreign:?}");
        }
    }
}
