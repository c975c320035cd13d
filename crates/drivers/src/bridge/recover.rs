//! Bridge networks rebuilt from what the kernel has, after their records were lost.
//!
//! The marks on bridges and links say whose they are, a bridge's addresses are the gateways of its pools, and
//! the other end of each link says where an endpoint is and what it has there. Names, labels and options
//! that the kernel does not know are lost.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netloom_kernel::{LinkKind, LinkView};
use netloom_model::record::{AttachmentRecord, EndpointRecord, NetworkRecord, PoolRecord, WayOut};
use netloom_model::{EndpointId, IfName, JoinId, MacAddr, NetworkId, NetworkSpec, Seldom};

use super::config::{
    CONTAINER_IFACE_PREFIX, GATEWAY_MODE_IPV4, GATEWAY_MODE_IPV6, INHIBIT_IPV4, MTU, NAME, interface_prefix,
};
use super::found::{Before, Found};
use super::{INTERFACE, KIND, default_bridge, link_name};
use crate::request::{Inside, KernelSurvey, Recovered};

/// What the names of rebuilt objects begin with; the rest is their whole identifier, because the beginnings of
/// two may be the same.
const NAMED: &str = "recovered-";

/// Rebuilds every network that has a bridge of ours, or links of ours on somebody else's bridge.
pub(super) fn recover(identity: &str, survey: &KernelSurvey) -> Vec<Recovered> {
    let tagged = |link: &LinkView, kind: &str| {
        let tag = link.tag().filter(|tag| tag.instance == identity && tag.kind == kind)?;
        Some(tag.id)
    };
    let endpoints: Vec<_> = survey
        .links
        .iter()
        // One that is down was cut off: it only waits for its deletion.
        .filter(|link| link.up && link.kind == LinkKind::Veth)
        .filter_map(|link| Some((link, tagged(link, "endpoint")?.parse::<EndpointId>().ok()?)))
        .collect();
    let bridges = survey.links.iter().filter(|link| link.kind == LinkKind::Bridge);
    bridges
        .filter_map(|bridge| {
            let own = tagged(bridge, "network");
            let ports: Vec<_> =
                endpoints.iter().filter(|(link, _)| link.master == Some(bridge.index)).collect();
            let id = match (&own, ports.is_empty()) {
                (Some(id), _) => id.parse().ok()?,
                // An adopted bridge carries no mark. Its name is unique on this host.
                (None, false) if bridge.tag().is_none() => format!("{NAMED}{}", bridge.name).parse().ok()?,
                (None, _) => return None,
            };
            let ends: Vec<_> = ports.iter().filter_map(|(link, _)| inner_end(link, survey)).collect();
            let mut network = network(id, bridge, own.is_none(), &ends, survey)?;
            let endpoints = ports.into_iter().filter_map(|(link, id)| endpoint(&network, link, *id, survey));
            let endpoints: Vec<_> = endpoints.collect();
            if let Some(prefix) = common_prefix(&endpoints).filter(|prefix| *prefix != INTERFACE) {
                network.spec = network.spec.option(CONTAINER_IFACE_PREFIX, prefix);
            }
            Some(Recovered { endpoints, network })
        })
        .collect()
}

/// The end of a link that is in a sandbox.
type End<'a> = (&'a Inside, &'a LinkView);

fn network(
    id: NetworkId,
    bridge: &LinkView,
    adopted: bool,
    ends: &[End<'_>],
    survey: &KernelSurvey,
) -> Option<NetworkRecord> {
    let of_bridge = survey.addresses.iter().filter(|view| view.link == bridge.index);
    let addresses: Vec<IpNet> = of_bridge.map(|view| view.address).collect();
    let pool = |v4: bool| {
        let found = addresses.iter().find(|net| net.addr().is_ipv4() == v4 && !is_link_local(net.addr()));
        found.map(|net| PoolRecord { gateway: Some(net.addr()), ..PoolRecord::new(net.trunc()) })
    };
    let named = NetworkSpec::new(format!("{NAMED}{id}")).driver(KIND);
    let (v4, v6, mut spec) = match pool(true) {
        Some(v4) => (v4, pool(false), named),
        // Without an IPv4 address it is no bridge network of ours, or not yet, unless endpoints have some.
        None => bare(bridge, pool(false), adopted, ends, named)?,
    };
    spec = spec.ipv6(v6.is_some());
    if adopted {
        spec.name = id.to_string();
    }
    if default_bridge(id).ok() != Some(bridge.name) {
        spec = spec.option(NAME, bridge.name.as_str());
    }
    if bridge.mtu != ETHERNET_MTU {
        spec = spec.option(MTU, bridge.mtu.to_string());
    }
    // Whatever an adopted bridge has now is taken for its owner's: rather leave too much than take too much. But what lets
    // others to the host's loopback, once the firewall has forgotten the bridge, is taken for ours: it is off by default.
    let before = adopted.then(|| Before {
        up: true,
        addresses: addresses.clone(),
        disable_ipv6: None,
        route_localnet: Some("0".into()),
    });
    let found = Found { bridge: before }.record();
    Some(NetworkRecord {
        v4: vec![v4],
        v6: v6.into_iter().collect(),
        found,
        ..NetworkRecord::asked(id, spec)
    })
}

/// A network whose bridge has no IPv4 address: something else on it is the gateway, or it is isolated. What is on
/// somebody else's bridge and has no way out is not known to be.
fn bare(
    bridge: &LinkView,
    v6: Option<PoolRecord>,
    adopted: bool,
    ends: &[End<'_>],
    spec: NetworkSpec,
) -> Option<(PoolRecord, Option<PoolRecord>, NetworkSpec)> {
    let mut v4 = pool_of(ends, true)?;
    if v4.gateway.is_some() {
        return Some((v4, v6, spec.option(INHIBIT_IPV4, "true")));
    }
    if adopted {
        return None;
    }
    // The gateway is nobody's, and has given the bridge its hardware address.
    v4.gateway = bridge.mac.and_then(named_by).filter(|address| v4.pool.contains(address));
    let spec = spec.internal(true).option(GATEWAY_MODE_IPV4, "isolated");
    match (v6, pool_of(ends, false)) {
        (None, Some(isolated)) => Some((v4, Some(isolated), spec.option(GATEWAY_MODE_IPV6, "isolated"))),
        (v6, _) => Some((v4, v6, spec)),
    }
}

/// A pool as endpoints have it: the subnet of their addresses, and the gateway where their ways out lead.
fn pool_of(ends: &[End<'_>], v4: bool) -> Option<PoolRecord> {
    let own = |(inside, link): &End<'_>| {
        let addresses = inside.addresses.iter().filter(|view| view.link == link.index);
        let of_family = |net: &IpNet| net.addr().is_ipv4() == v4 && !is_link_local(net.addr());
        addresses.map(|view| view.address).find(of_family)
    };
    let subnet = ends.iter().find_map(own)?.trunc();
    let ways_out = ends.iter().flat_map(|(inside, _)| &inside.routes);
    let gateway = ways_out
        .filter(|route| route.destination.prefix_len() == 0)
        .find_map(|route| route.via.filter(|via| subnet.contains(via)));
    Some(PoolRecord { gateway, ..PoolRecord::new(subnet) })
}

const ETHERNET_MTU: u32 = 1500;

fn inner_end<'a>(host: &LinkView, survey: &'a KernelSurvey) -> Option<End<'a>> {
    survey.inside.iter().find_map(|inside| {
        let end = inside.links.iter().find(|link| {
            // Numbers repeat between namespaces, so both ends must name each other.
            host.peer == Some(link.index) && link.peer == Some(host.index) && link.kind == LinkKind::Veth
        })?;
        Some((inside, end))
    })
}

fn endpoint(
    network: &NetworkRecord,
    host: &LinkView,
    id: EndpointId,
    survey: &KernelSurvey,
) -> Option<EndpointRecord> {
    let (inside, link) = inner_end(host, survey)?;
    let addresses = inside.addresses.iter().filter(|view| view.link == link.index);
    let addresses: Vec<_> = addresses.map(|view| view.address).filter(|a| !is_link_local(a.addr())).collect();
    let ipv4: Option<Ipv4Net> = addresses.iter().find_map(|net| match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    });
    let ipv6: Option<Ipv6Net> = addresses.iter().find_map(|net| match net {
        IpNet::V6(net) => Some(*net),
        IpNet::V4(_) => None,
    });
    if addresses.is_empty() {
        // A join that was cut short: nothing is reached over it.
        return None;
    }
    let gateway = |pools: &[PoolRecord]| pools.first().and_then(|pool| pool.gateway);
    Some(EndpointRecord {
        id,
        network: network.id,
        name: format!("{NAMED}{id}"),
        mac: link.mac,
        ipv4,
        ipv6,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        ports: Seldom::default(),
        names: Seldom::default(),
        published: Seldom::default(),
        prefix: Some(prefix_of(link.name).unwrap_or_else(|| INTERFACE.into())),
        attachment: Some(AttachmentRecord {
            sandbox: inside.sandbox,
            join: join_of(id, host.name),
            ifname: link.name,
            priority: 0,
            link: Some(host.name),
            gateway: gateway(&network.v4).filter(|gateway| leads_out(inside, *gateway)),
            gateway6: gateway(&network.v6).filter(|gateway| leads_out(inside, *gateway)),
            routes: Vec::new(),
            // A bridge network without a gateway is internal; of one whose gateway was not elected the sandbox
            // has another way out.
            way_out: WayOut::Unwanted,
            reserved: false,
        }),
    })
}

/// What stands before an interface's number, if its name is of that form.
fn prefix_of(interface: IfName) -> Option<String> {
    let (prefix, number) = interface.numbered();
    interface_prefix(prefix).ok().filter(|_| !number.is_empty()).map(|prefix| prefix.to_string())
}

/// What all interfaces of a network are called before their number. A container may have renamed some.
fn common_prefix(endpoints: &[EndpointRecord]) -> Option<&str> {
    let (first, rest) = endpoints.split_first()?;
    rest.iter().all(|endpoint| endpoint.prefix == first.prefix).then_some(first.prefix.as_deref()?)
}

/// Whether the way out of a sandbox leads over this gateway. Of another one that would have been next in line
/// nothing is known.
fn leads_out(inside: &Inside, gateway: IpAddr) -> bool {
    inside.routes.iter().any(|route| route.destination.prefix_len() == 0 && route.via == Some(gateway))
}

/// The join that a link's name tells, as far as it does.
fn join_of(endpoint: EndpointId, link: IfName) -> JoinId {
    let digits = link.as_str().get(link.as_str().len().saturating_sub(4)..);
    let join = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).map(JoinId);
    join.filter(|join| link_name(endpoint, *join).ok() == Some(link)).unwrap_or_default()
}

/// The IPv4 address that a hardware address follows from.
fn named_by(mac: MacAddr) -> Option<IpAddr> {
    let MacAddr([_, _, a, b, c, d]) = mac;
    let address = Ipv4Addr::new(a, b, c, d);
    (MacAddr::from_ipv4(address) == mac).then_some(IpAddr::V4(address))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
