//! The model: namespaces, and links with all that hangs on them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use netloom_kernel::{KernelEvent, LinkTag, Neighbour, Netns, ReachEvent, TableEvent};
use netloom_model::{IfName, MacAddr, NetnsName};
use rustc_hash::FxHashMap;

use super::arena::{Arena, Slot};
use super::conntrack::Tracked;
use super::external::Externals;
use super::nft::Tables;
use super::sysctl::{Setting, is_on};
use super::watch::Watchers;
use crate::errno::{ENODEV, ENOENT, Refusal};

/// How many ports a Linux bridge takes (`BR_MAX_PORTS` less the reserved number zero).
pub(super) const MAX_PORTS: usize = 1023;
/// The default MTU of an Ethernet link, and of a bridge without ports.
pub(super) const ETHERNET_MTU: u32 = 1500;
/// The smallest MTU on which Linux runs IPv6.
pub(super) const IPV6_MIN_MTU: u32 = 1280;

/// The number of a link, unlike its index: it is the same in every namespace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct LinkId(usize);

/// The number of a namespace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct NsId(usize);

impl Slot for LinkId {
    fn at(place: usize) -> Self {
        Self(place)
    }
    fn place(self) -> usize {
        self.0
    }
}

impl Slot for NsId {
    fn at(place: usize) -> Self {
        Self(place)
    }
    fn place(self) -> usize {
        self.0
    }
}

/// The host's namespace: the first one made, never removed.
pub(super) const HOST: NsId = NsId(0);

/// A namespace.
#[derive(Debug)]
pub(super) struct Namespace {
    /// Where it is mounted: once when the engine made it, as often as it was adopted otherwise. None for the
    /// host's.
    pub(super) names: Vec<NetnsName>,
    /// Mounted by somebody else: not listed among the engine's.
    pub(super) foreign: bool,
    /// Where a process of others is in it, which keeps it alive without any name.
    pub(super) held: Option<PathBuf>,
    pub(super) links: FxHashMap<IfName, LinkId>,
    pub(super) next_index: u32,
    /// The main table, in the order of insertion.
    pub(super) routes: Vec<RouteEntry>,
    /// Settings that were written and belong to no link, by path.
    pub(super) settings: Vec<(String, String)>,
    /// What nftables has here; the host's are apart ([`World::tables`]).
    pub(super) tables: Tables,
}

impl Namespace {
    fn new() -> Self {
        Self {
            names: Vec::new(),
            foreign: false,
            held: None,
            links: FxHashMap::default(),
            next_index: 1,
            routes: Vec::new(),
            settings: Vec::new(),
            tables: Tables::default(),
        }
    }

    /// The index of the next link, and whether it starts without IPv6.
    pub(super) fn welcome(&mut self) -> (u32, bool) {
        let index = self.next_index;
        self.next_index = index.wrapping_add(1).max(1);
        (index, self.starts_without_ipv6())
    }

    /// Whether links on which IPv6 begins have it off.
    pub(super) fn starts_without_ipv6(&self) -> bool {
        self.setting("ipv6/conf/default/disable_ipv6").is_some_and(is_on)
    }

    /// Only the host's is never mounted and held by nobody in particular.
    pub(super) fn is_host(&self) -> bool {
        self.names.is_empty() && self.held.is_none()
    }

    /// What it is called in words; one that is held keeps this name whoever adopts it.
    pub(super) fn title(&self) -> String {
        match (&self.held, self.names.first()) {
            (Some(path), _) => format!("namespace at {}", path.display()),
            (None, Some(name)) => Netns::Named(*name).to_string(),
            (None, None) => Netns::Host.to_string(),
        }
    }

    /// A written setting; `None` for one that has its default.
    pub(super) fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|(path, _)| path == key).map(|(_, value)| value.as_str())
    }
}

/// A route of the main table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RouteEntry {
    pub(super) destination: IpNet,
    pub(super) via: Option<IpAddr>,
    pub(super) link: LinkId,
    /// Linux gives IPv4 routes 0, its own IPv6 routes 256 and those of others 1024.
    pub(super) metric: u32,
    /// Derived from an address by the kernel.
    pub(super) connected: bool,
}

/// What a link is.
#[derive(Debug)]
pub(super) enum Kind {
    Loopback,
    Device,
    Bridge(Box<Bridge>),
    Veth { peer: LinkId },
    Other(Box<str>),
}

/// What only bridges have.
#[derive(Debug, Default)]
pub(super) struct Bridge {
    pub(super) ports: Vec<LinkId>,
    /// How many ports have each MTU: the bridge follows the smallest.
    pub(super) port_mtus: BTreeMap<u32, usize>,
    /// Its MTU was set by hand: it follows its ports no more.
    pub(super) mtu_fixed: bool,
}

/// A link's membership of a bridge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    pub(super) bridge: LinkId,
    /// Its place among the bridge's ports, so that it leaves without a search.
    pub(super) slot: usize,
    /// Whether it does not reach others of its kind.
    pub(super) isolated: bool,
    pub(super) hairpin: bool,
}

/// A link's alias, kept parsed so that tags are compared without formatting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Alias {
    Tag(LinkTag),
    Text(String),
}

/// By what a neighbour entry is found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum NeighbourKey {
    Address(IpAddr),
    Unicast(MacAddr),
    /// The all-zero or a group address: one entry per destination.
    Flood(MacAddr, Option<IpAddr>),
}

/// A link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) ns: NsId,
    pub(super) index: u32,
    pub(super) name: IfName,
    pub(super) kind: Kind,
    pub(super) mac: MacAddr,
    pub(super) mtu: u32,
    pub(super) up: bool,
    /// Down because it was cut off.
    pub(super) cut: bool,
    pub(super) ipv6_off: bool,
    pub(super) port: Option<Port>,
    pub(super) alias: Option<Alias>,
    pub(super) group: u32,
    /// In the order of addition: the first of a subnet is the primary one.
    pub(super) addresses: Vec<IpNet>,
    /// How many routes of the namespace leave by it: most links of the host have none, and need no search.
    pub(super) routes: usize,
    pub(super) neighbours: FxHashMap<NeighbourKey, Neighbour>,
    /// Settings of this link that were written.
    pub(super) settings: Vec<(Setting, String)>,
}

impl Link {
    pub(super) fn bridge(&self) -> Option<&Bridge> {
        if let Kind::Bridge(bridge) = &self.kind { Some(bridge) } else { None }
    }

    pub(super) fn bridge_mut(&mut self) -> Option<&mut Bridge> {
        if let Kind::Bridge(bridge) = &mut self.kind { Some(bridge) } else { None }
    }

    pub(super) fn peer(&self) -> Option<LinkId> {
        if let Kind::Veth { peer } = self.kind { Some(peer) } else { None }
    }

    pub(super) fn is_loopback(&self) -> bool {
        matches!(self.kind, Kind::Loopback)
    }
}

/// What a new link starts with.
#[derive(Debug)]
pub(super) struct NewLink {
    pub(super) name: IfName,
    pub(super) kind: Kind,
    pub(super) mac: Option<MacAddr>,
    pub(super) mtu: u32,
    pub(super) alias: Option<Alias>,
}

/// Everything there is.
#[derive(Debug)]
pub(super) struct World {
    pub(super) links: Arena<LinkId, Link>,
    pub(super) namespaces: Arena<NsId, Namespace>,
    pub(super) names: FxHashMap<NetnsName, NsId>,
    pub(super) externals: Externals,
    pub(super) tables: Tables,
    pub(super) tracked: Tracked,
    pub(super) watchers: Watchers<KernelEvent>,
    pub(super) reach: Watchers<ReachEvent>,
    pub(super) table_watchers: Watchers<TableEvent>,
    drawn_macs: u64,
}

impl World {
    /// A host with nothing but its loopback.
    pub(super) fn new() -> Self {
        let mut world = Self {
            links: Arena::new(),
            namespaces: Arena::new(),
            names: FxHashMap::default(),
            externals: Externals::default(),
            tables: Tables::default(),
            tracked: Tracked::default(),
            watchers: Watchers::default(),
            reach: Watchers::default(),
            table_watchers: Watchers::default(),
            drawn_macs: 0,
        };
        let host = world.add_namespace();
        world.bring_loopback_up(host);
        debug_assert_eq!(host, HOST);
        world
    }

    /// The number of a namespace, or `ENOENT`.
    pub(super) fn ns(&self, netns: Netns) -> Result<NsId, Refusal> {
        match netns {
            Netns::Host => Ok(HOST),
            Netns::Named(name) => self.names.get(&name).copied().ok_or(Refusal::new(ENOENT)),
        }
    }

    /// The number of a link: `ENOENT` without the namespace, `ENODEV` without the link.
    pub(super) fn find(&self, netns: Netns, name: IfName) -> Result<LinkId, Refusal> {
        let ns = self.ns(netns)?;
        self.namespaces[ns].links.get(&name).copied().ok_or(Refusal::new(ENODEV))
    }

    /// Adds a namespace with its loopback, down.
    pub(super) fn add_namespace(&mut self) -> NsId {
        let ns = self.namespaces.insert(Namespace::new());
        self.add_link(
            ns,
            NewLink {
                name: loopback_name(),
                kind: Kind::Loopback,
                mac: Some(MacAddr([0; 6])),
                mtu: 65_536,
                alias: None,
            },
        );
        ns
    }

    /// Mounts a namespace under a name and brings its loopback up. The caller has checked the name.
    pub(super) fn mount(&mut self, ns: NsId, name: NetnsName) {
        self.names.insert(name, ns);
        self.namespaces[ns].names.push(name);
        self.bring_loopback_up(ns);
    }

    fn bring_loopback_up(&mut self, ns: NsId) {
        // By what it is: it may have another name by now.
        let loopback = self.namespaces[ns].links.values().find(|id| self.links[**id].is_loopback()).copied();
        if let Some(loopback) = loopback {
            self.set_up(loopback, true);
        }
    }

    /// Adds a link, down. The caller has checked the name.
    pub(super) fn add_link(&mut self, ns: NsId, new: NewLink) -> LinkId {
        let mac = new.mac.unwrap_or_else(|| self.draw_mac());
        let (index, ipv6_off) = self.namespaces[ns].welcome();
        let name = new.name;
        let id = self.links.insert(Link {
            ns,
            index,
            name,
            kind: new.kind,
            mac,
            mtu: new.mtu,
            up: false,
            cut: false,
            ipv6_off,
            port: None,
            alias: new.alias,
            group: 0,
            addresses: Vec::new(),
            routes: 0,
            neighbours: FxHashMap::default(),
            settings: Vec::new(),
        });
        self.namespaces[ns].links.insert(name, id);
        id
    }

    /// Unmounts a namespace, and destroys it if that was its last user; `ENOENT` when there is none.
    pub(super) fn unmount(&mut self, name: NetnsName) -> Result<(), Refusal> {
        let ns = self.names.remove(&name).ok_or(Refusal::new(ENOENT))?;
        self.namespaces[ns].names.retain(|have| *have != name);
        self.destroy_unused(ns);
        Ok(())
    }

    /// Destroys a namespace and every link in it, unless somebody still uses it.
    pub(super) fn destroy_unused(&mut self, ns: NsId) {
        if ns == HOST || !self.namespaces[ns].names.is_empty() || self.namespaces[ns].held.is_some() {
            return;
        }
        let mut inside: Vec<(u32, LinkId)> =
            self.namespaces[ns].links.values().map(|id| (self.links[*id].index, *id)).collect();
        inside.sort_unstable();
        for (_, link) in inside {
            // A pair inside one namespace goes with its first end.
            if self.links.get(link).is_some() {
                self.remove_link(link);
            }
        }
        self.namespaces.remove(ns);
    }

    /// A locally administered address; the same sequence in every run.
    fn draw_mac(&mut self) -> MacAddr {
        self.drawn_macs += 1;
        let [.., a, b, c, d] = self.drawn_macs.to_be_bytes();
        MacAddr([0x0e, 0x51, a, b, c, d])
    }
}

/// `lo`.
pub(super) fn loopback_name() -> IfName {
    "lo".parse().expect("a valid name")
}
