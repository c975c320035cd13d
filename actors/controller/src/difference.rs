//! What the kernel has compared with what it should have: a pure function of both.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netloom_drivers::{KernelObject, LinkState};
use netloom_kernel::{AddressView, LinkView, Neighbour, NeighbourView, Netns, Route, RouteView};
use netloom_model::{Holder, HostPort, IfName, NetnsName};
use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};

/// Something in the kernel that is not as its owner wants it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Difference {
    /// What it is about.
    pub object: Subject,
    /// What is wrong with it.
    pub what: What,
    /// Whose it is.
    pub owner: Holder,
}

/// What a difference can be about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Subject {
    /// A namespace, or something in one.
    Kernel(KernelObject),
    /// Something of the engine's rules in the host's firewall.
    Firewall {
        /// A table, a chain, a rule, a set or an element, in the words of the program that shows it.
        rule: String,
    },
    /// A port of the host that leads to an endpoint, and that no socket of the engine's holds.
    Port {
        /// The port.
        port: HostPort,
    },
}

impl From<KernelObject> for Subject {
    fn from(object: KernelObject) -> Self {
        Self::Kernel(object)
    }
}

impl PartialEq<KernelObject> for Subject {
    fn eq(&self, other: &KernelObject) -> bool {
        matches!(self, Self::Kernel(object) if object == other)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(object) => write!(f, "{object}"),
            Self::Firewall { rule } => f.write_str(rule),
            Self::Port { port } => write!(f, "port {port} of the host"),
        }
    }
}

/// What can be wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It is not there.
    Missing,
    /// It is there and nobody wants it.
    Unexpected,
    /// It is there and is otherwise than it should be. Only what differs is told.
    Different {
        /// How it should be.
        desired: String,
        /// How it is.
        found: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, what, owner } = self;
        match what {
            What::Missing => write!(f, "{object} is missing, which {owner} needs"),
            What::Unexpected => write!(f, "{object} should not be there; it belongs to {owner}"),
            What::Different { desired, found } => {
                write!(f, "{object} is {found}, and should be {desired} for {owner}")
            }
        }
    }
}

/// What is wanted: how each link should be, and whose each object is.
pub(crate) type Wanted = BTreeMap<KernelObject, (LinkState, Holder)>;

/// What is in one namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    pub(crate) links: Vec<LinkView>,
    pub(crate) addresses: Vec<AddressView>,
    pub(crate) routes: Vec<RouteView>,
    pub(crate) neighbours: Vec<NeighbourView>,
}

/// What is there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) namespaces: BTreeSet<NetnsName>,
    /// A namespace that vanished on the way is not in it.
    pub(crate) inside: BTreeMap<Netns, Picture>,
}

type Set<T> = HashSet<T, FxBuildHasher>;

/// A namespace, by names.
#[derive(Default)]
struct Index<'a> {
    links: HashMap<IfName, &'a LinkView, FxBuildHasher>,
    names: HashMap<u32, IfName, FxBuildHasher>,
    addresses: Set<(IfName, IpNet)>,
    routes: Set<Route>,
    neighbours: Set<(IfName, Neighbour)>,
}

impl<'a> Index<'a> {
    fn of(picture: &'a Picture) -> Self {
        let links: HashMap<_, _, _> = picture.links.iter().map(|link| (link.name, link)).collect();
        let names: HashMap<_, _, FxBuildHasher> =
            picture.links.iter().map(|link| (link.index, link.name)).collect();
        let name = |link: u32| names.get(&link).copied();
        let addresses = picture.addresses.iter().filter_map(|view| Some((name(view.link)?, view.address)));
        let routes = picture.routes.iter().filter_map(|view| {
            Some(Route { destination: view.destination, via: view.via, link: name(view.link?)? })
        });
        let neighbours =
            picture.neighbours.iter().filter_map(|view| Some((name(view.link)?, permanent(view)?)));
        Self {
            links,
            addresses: addresses.collect(),
            routes: routes.collect(),
            neighbours: neighbours.collect(),
            names: names.clone(),
        }
    }
}

fn permanent(view: &NeighbourView) -> Option<Neighbour> {
    let NeighbourView { address, mac: Some(mac), forwarding, permanent: true, .. } = *view else {
        return None;
    };
    if forwarding {
        return Some(Neighbour::Forwarding { mac, destination: address });
    }
    address.map(|address| Neighbour::Address { address, mac })
}

/// Compares what must be there with what is. `wanted` may also hold what need not be there at this moment: only what
/// `judged` says is missed, and all that is wanted is expected.
pub(crate) fn compare(
    wanted: &Wanted,
    judged: impl Fn(&KernelObject) -> bool,
    seen: &Seen,
) -> Vec<Difference> {
    let indexes: BTreeMap<_, _> =
        seen.inside.iter().map(|(netns, picture)| (*netns, Index::of(picture))).collect();
    let mut found = Vec::new();
    for (object, (state, owner)) in wanted.iter().filter(|(object, _)| judged(object)) {
        let index = match object.netns() {
            // Nothing is told of what is in a namespace that is missing.
            Some(netns) => match indexes.get(&netns) {
                Some(index) => index,
                None => continue,
            },
            None => &Index::default(),
        };
        let Some(what) = judge(object, state, index, wanted, seen) else { continue };
        found.push(Difference { object: Subject::Kernel(*object), what, owner: owner.clone() });
    }
    for (netns, index) in &indexes {
        found.extend(unexpected(*netns, index, wanted, &judged));
    }
    found.sort_by(|a, b| a.object.cmp(&b.object));
    found
}

fn judge(
    object: &KernelObject,
    state: &LinkState,
    index: &Index<'_>,
    wanted: &Wanted,
    seen: &Seen,
) -> Option<What> {
    let there = match object {
        KernelObject::Namespace { name } => seen.namespaces.contains(name),
        KernelObject::Link { name, .. } => match index.links.get(name) {
            Some(link) => return differs(state, link, index),
            None => false,
        },
        // Of a link that is missing nothing else is told.
        KernelObject::Address { link, address, .. } => {
            !index.links.contains_key(link) || index.addresses.contains(&(*link, *address))
        }
        KernelObject::Route { netns, route } => {
            !index.links.contains_key(&route.link)
                || index.routes.contains(route)
                || has_own_way_out(*netns, route, index, wanted)
        }
        KernelObject::Neighbour { link, neighbour, .. } => {
            !index.links.contains_key(link) || index.neighbours.contains(&(*link, *neighbour))
        }
        // One of a kind that is not compared yet.
        _ => true,
    };
    (!there).then_some(What::Missing)
}

/// Whether a default route is not missed because the container has one of its own, over a link that it made itself.
fn has_own_way_out(netns: Netns, route: &Route, index: &Index<'_>, wanted: &Wanted) -> bool {
    let default = |destination: &IpNet| destination.prefix_len() == 0;
    let family = route.destination.addr().is_ipv4();
    let ours = |name: IfName| wanted.contains_key(&KernelObject::Link { netns, name });
    let others = |other: &&Route| {
        default(&other.destination) && other.destination.addr().is_ipv4() == family && !ours(other.link)
    };
    default(&route.destination) && index.routes.iter().any(|route| others(&route))
}

/// What of a link is not as it should be.
fn differs(state: &LinkState, link: &LinkView, index: &Index<'_>) -> Option<What> {
    let up = |up: bool| if up { "up".to_owned() } else { "down".to_owned() };
    let mtu = |mtu: u32| format!("of MTU {mtu}");
    let named = |what: &str, value: Option<String>| {
        value.map_or_else(|| format!("without {what}"), |value| format!("with {what} {value}"))
    };
    let mac = |mac| named("hardware address", mac);
    let master = link.master.and_then(|master| index.names.get(&master));
    let port = |master: Option<&IfName>| {
        master.map_or_else(|| "no port of a bridge".to_owned(), |bridge| format!("a port of {bridge}"))
    };
    let isolated = |isolated: bool| if isolated { "isolated".to_owned() } else { "not isolated".to_owned() };
    let alias = |alias| named("alias", alias);
    let pairs = [
        state.up.filter(|wanted| *wanted != link.up).map(|wanted| (up(wanted), up(link.up))),
        state.mtu.filter(|wanted| *wanted != link.mtu).map(|wanted| (mtu(wanted), mtu(link.mtu))),
        state
            .mac
            .filter(|wanted| link.mac != Some(*wanted))
            .map(|wanted| (mac(Some(wanted.to_string())), mac(link.mac.map(|mac| mac.to_string())))),
        state
            .master
            .filter(|wanted| master != Some(wanted))
            .map(|wanted| (port(Some(&wanted)), port(master))),
        state
            .isolated
            .filter(|wanted| *wanted != link.isolated)
            .map(|wanted| (isolated(wanted), isolated(link.isolated))),
        state
            .tag
            .as_ref()
            .filter(|wanted| link.tag().as_ref() != Some(wanted))
            .map(|wanted| (alias(Some(wanted.to_string())), alias(link.alias.clone()))),
    ];
    let (desired, found): (Vec<_>, Vec<_>) = pairs.into_iter().flatten().unzip();
    (!desired.is_empty()).then(|| What::Different { desired: desired.join(", "), found: found.join(", ") })
}

/// Addresses that links of ours should not have, and ways out over them that nobody wants.
fn unexpected(
    netns: Netns,
    index: &Index<'_>,
    wanted: &Wanted,
    judged: impl Fn(&KernelObject) -> bool,
) -> Vec<Difference> {
    let exclusive = |name: IfName| {
        let link = KernelObject::Link { netns, name };
        let (state, owner) = wanted.get(&link).filter(|_| judged(&link))?;
        state.exclusive.then_some(owner)
    };
    let addresses = index.addresses.iter().filter(|(_, address)| !is_link_local(address.addr()));
    let addresses = addresses.filter_map(|(link, address)| {
        let object = KernelObject::Address { netns, link: *link, address: *address };
        Some((object, exclusive(*link)?))
    });
    // The host has its own ways out, over bridges too.
    let inside = netns != Netns::Host;
    let routes = index.routes.iter().filter(|route| inside && route.destination.prefix_len() == 0);
    let routes = routes
        .filter_map(|route| Some((KernelObject::Route { netns, route: *route }, exclusive(route.link)?)));
    addresses
        .chain(routes)
        .filter(|(object, _)| !wanted.contains_key(object))
        .map(|(object, owner)| Difference {
            object: object.into(),
            what: What::Unexpected,
            owner: owner.clone(),
        })
        .collect()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
