//! Looks at objects through the public interface, and at the kernel beneath it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netloom::kernel::{AddressView, Kernel, LinkView, Netns, RouteView};
use netloom::snapshot::{
    EndpointPhase, EndpointSnapshot, EngineSnapshot, IpamSnapshot, NetworkPhase, NetworkSnapshot,
    SandboxPhase, SandboxSnapshot,
};
use netloom::{Names, NamespaceSpec, Ports, SandboxSettings, StaticRoute};
use serde::Deserialize;

use super::expect::Differences;

/// How long the kernel may take to say what it has.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is expected of a network's picture.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NetworkLook {
    pub(crate) id: Option<String>,
    driver: Option<String>,
    phase: Option<NetworkPhase>,
    ipv6: Option<bool>,
    internal: Option<bool>,
    labels: Option<BTreeMap<String, String>>,
    options: Option<BTreeMap<String, String>>,
    /// Both families, IPv4 first.
    pools: Option<Vec<IpNet>>,
    /// As `pools`.
    gateways: Option<Vec<String>>,
    /// By name.
    endpoints: Option<Vec<String>>,
    persist: Option<bool>,
}

impl NetworkLook {
    pub(crate) fn compare(
        &self,
        id: Option<&String>,
        found: &NetworkSnapshot,
        differences: &mut Differences,
    ) {
        let pools = || found.v4.iter().chain(&found.v6);
        let gateway = |gateway: Option<std::net::IpAddr>| gateway.map_or("none".into(), |ip| ip.to_string());
        differences.check("id", id, &found.id.to_string());
        differences.check("driver", self.driver.as_ref(), &found.driver);
        differences.check("phase", self.phase.as_ref(), &found.phase);
        differences.check("ipv6", self.ipv6.as_ref(), &found.ipv6);
        differences.check("internal", self.internal.as_ref(), &found.internal);
        differences.check("labels", self.labels.as_ref(), &found.labels);
        differences.check("options", self.options.as_ref(), &found.options);
        differences.check("pools", self.pools.as_ref(), &pools().map(|pool| pool.pool).collect());
        let gateways = pools().map(|pool| gateway(pool.gateway)).collect();
        differences.check("gateways", self.gateways.as_ref(), &gateways);
        let endpoints = found.endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
        differences.check("endpoints", self.endpoints.as_ref(), &endpoints);
        differences.check("persist", self.persist.as_ref(), &found.persist);
    }
}

/// What is expected of an endpoint's picture.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EndpointLook {
    pub(crate) id: Option<String>,
    phase: Option<EndpointPhase>,
    /// With its prefix length, or `none`.
    ipv4: Option<String>,
    ipv6: Option<String>,
    /// How it begins.
    mac: Option<String>,
    /// The container, or `none`.
    pub(crate) sandbox: Option<String>,
    /// The interface's name, or `none`.
    interface: Option<String>,
    name: Option<String>,
    /// Of IPv4, or `none`.
    gateway: Option<String>,
    gateway6: Option<String>,
    /// What its driver wants: `10.9.0.0/24`, or `10.9.0.0/24 10.1.0.9` with a next hop.
    routes: Option<Vec<String>>,
    options: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
    ports: Option<Ports>,
    names: Option<Names>,
}

impl EndpointLook {
    /// `container` is that of the sandbox it is in.
    pub(crate) fn compare(
        &self,
        id: Option<&String>,
        found: &EndpointSnapshot,
        container: Option<&str>,
        differences: &mut Differences,
    ) {
        differences.check("id", id, &found.id.to_string());
        differences.check("phase", self.phase.as_ref(), &found.phase);
        differences.check_text("ipv4", self.ipv4.as_ref(), found.ipv4);
        differences.check_text("ipv6", self.ipv6.as_ref(), found.ipv6);
        let mac = found.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
        differences.check_prefix("mac", self.mac.as_ref(), &mac);
        differences.check_text("sandbox", self.sandbox.as_ref(), container);
        differences.check_text("interface", self.interface.as_ref(), found.ifname);
        differences.check("name", self.name.as_ref(), &found.name);
        differences.check_text("gateway", self.gateway.as_ref(), found.gateway);
        differences.check_text("gateway6", self.gateway6.as_ref(), found.gateway6);
        let route = |route: &StaticRoute| {
            let via = route.via.map(|via| format!(" {via}")).unwrap_or_default();
            format!("{}{via}", route.destination)
        };
        differences.check("routes", self.routes.as_ref(), &found.routes.iter().map(route).collect());
        differences.check("options", self.options.as_ref(), &found.options);
        differences.check("labels", self.labels.as_ref(), &found.labels);
        differences.check("ports", self.ports.as_ref(), &found.ports);
        differences.check("names", self.names.as_ref(), &found.names);
    }
}

/// What is expected of a sandbox's picture.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SandboxLook {
    pub(crate) id: Option<String>,
    phase: Option<SandboxPhase>,
    /// `network/endpoint`, best gateway first.
    endpoints: Option<Vec<String>>,
    /// Of IPv4, or `none`.
    gateway: Option<String>,
    gateway6: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    hostname: Option<String>,
    namespace: Option<NamespaceSpec>,
    /// All of them: what is not named must be as it is by default.
    settings: Option<SandboxSettings>,
    /// A part of the reason why it is out of service.
    failure: Option<String>,
}

impl SandboxLook {
    /// `paths` are those of the endpoints in it.
    pub(crate) fn compare(
        &self,
        id: Option<&String>,
        found: &SandboxSnapshot,
        paths: &Vec<String>,
        differences: &mut Differences,
    ) {
        differences.check("id", id, &found.id.to_string());
        differences.check("phase", self.phase.as_ref(), &found.phase);
        differences.check("endpoints", self.endpoints.as_ref(), paths);
        differences.check_text("gateway", self.gateway.as_ref(), found.gateway);
        differences.check_text("gateway6", self.gateway6.as_ref(), found.gateway6);
        differences.check("labels", self.labels.as_ref(), &found.labels);
        differences.check("hostname", self.hostname.as_ref(), &found.hostname);
        differences.check("namespace", self.namespace.as_ref(), &found.namespace);
        let settings = found.settings.as_deref().cloned().unwrap_or_default();
        differences.check("settings", self.settings.as_ref(), &settings);
        let failure = found.failure.as_deref().unwrap_or("none");
        if let Some(expected) = &self.failure
            && !failure.contains(expected.as_str())
        {
            differences.add("failure", expected, failure);
        }
    }
}

/// What is expected of the whole picture.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EngineLook {
    networks: Option<usize>,
    endpoints: Option<usize>,
    sandboxes: Option<usize>,
    /// How many operations are under way.
    operations: Option<usize>,
    leaks: Option<Vec<String>>,
    /// The cluster's store that each IPAM driver was told of: `etcd a:1`, or `none`.
    ipam_stores: Option<Vec<String>>,
}

impl EngineLook {
    pub(crate) fn compare(&self, found: &EngineSnapshot, differences: &mut Differences) {
        let endpoints = found.networks.iter().map(|network| network.endpoints.len()).sum();
        differences.check("networks", self.networks.as_ref(), &found.networks.len());
        differences.check("endpoints", self.endpoints.as_ref(), &endpoints);
        differences.check("sandboxes", self.sandboxes.as_ref(), &found.sandboxes.len());
        differences.check("operations", self.operations.as_ref(), &found.operations.len());
        differences.check("leaks", self.leaks.as_ref(), &found.leaks);
        let store = |ipam: &IpamSnapshot| match &ipam.cluster_store {
            Some(store) => format!("{} {}", store.provider, store.address),
            None => "none".to_owned(),
        };
        let stores = found.ipam.iter().map(store).collect();
        differences.check("ipam_stores", self.ipam_stores.as_ref(), &stores);
    }
}

/// What is expected of a driver's words: how each value begins. Keys that are not named do not count.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InfoLook {
    info: BTreeMap<String, String>,
}

impl InfoLook {
    pub(crate) fn compare(&self, found: &netloom::drivers::OperInfo, differences: &mut Differences) {
        for (key, expected) in &self.info {
            let value = found.get(key).map_or("none", String::as_str);
            differences.check_prefix(key, Some(expected), value);
        }
    }
}

/// What is expected inside a sandbox's namespace. The loopback does not count.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct InsideLook {
    /// All of them, by name.
    interfaces: Option<BTreeMap<String, InterfaceLook>>,
    /// The next hop of the IPv4 default route, or `none`.
    gateway: Option<String>,
    gateway6: Option<String>,
    /// All of them, sorted: `10.1.0.0/24 eth0` or `default 10.1.0.1 eth0`.
    routes: Option<Vec<String>>,
}

/// What is expected of an interface.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct InterfaceLook {
    /// How it begins.
    mac: Option<String>,
    up: Option<bool>,
    mtu: Option<u32>,
    addresses: Option<Vec<String>>,
}

/// What a namespace has, without the loopback and what Linux adds to each link by itself.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    pub(crate) links: Vec<LinkView>,
    addresses: Vec<AddressView>,
    routes: Vec<RouteView>,
}

impl Namespace {
    pub(crate) async fn of(kernel: &dyn Kernel, netns: Netns) -> Result<Self, String> {
        let end = Instant::now() + PATIENCE;
        let of_links = kernel.links(netns, end).await.map_err(|error| error.to_string())?;
        let of_addresses = kernel.addresses(netns, end).await.map_err(|error| error.to_string())?;
        let of_routes = kernel.routes(netns, end).await.map_err(|error| error.to_string())?;
        let mut links: Vec<_> = of_links.into_iter().filter(|link| link.name.as_str() != "lo").collect();
        links.sort_by_key(|link| link.name);
        let known = |index: u32| links.iter().any(|link| link.index == index);
        let automatic = |net: &IpNet| matches!(net, IpNet::V6(v6) if v6.addr().is_unicast_link_local());
        let addresses = of_addresses.into_iter().filter(|view| known(view.link) && !automatic(&view.address));
        let routes = of_routes.into_iter().filter(|view| {
            let multicast = view.destination.addr().is_multicast();
            view.link.is_some_and(known) && !automatic(&view.destination) && !multicast
        });
        let (addresses, routes) = (addresses.collect(), routes.collect());
        Ok(Self { links, addresses, routes })
    }

    pub(crate) fn addresses_of(&self, link: &LinkView) -> Vec<String> {
        let of_link = self.addresses.iter().filter(|view| view.link == link.index);
        let mut texts: Vec<_> = of_link.map(|view| view.address.to_string()).collect();
        texts.sort();
        texts
    }

    pub(crate) fn routes(&self) -> Vec<String> {
        let name = |index: u32| self.links.iter().find(|link| link.index == index).map(|link| link.name);
        let text = |view: &RouteView| {
            let destination = match view.destination.prefix_len() {
                0 => "default".to_owned(),
                _ => view.destination.to_string(),
            };
            let via = view.via.map(|via| format!(" {via}")).unwrap_or_default();
            let link = view.link.and_then(name).map(|name| format!(" {name}")).unwrap_or_default();
            format!("{destination}{via}{link}")
        };
        let mut texts: Vec<_> = self.routes.iter().map(text).collect();
        texts.sort();
        texts
    }

    fn default_of(&self, v4: bool) -> Option<std::net::IpAddr> {
        let default = self.routes.iter().find(|view| {
            view.destination.prefix_len() == 0 && matches!(view.destination, IpNet::V4(_)) == v4
        });
        default.and_then(|view| view.via)
    }
}

impl InsideLook {
    pub(crate) fn compare(&self, found: &Namespace, differences: &mut Differences) {
        if let Some(interfaces) = &self.interfaces {
            let names: Vec<_> = found.links.iter().map(|link| link.name.as_str()).collect();
            if !interfaces.keys().eq(&names) {
                differences.add("interfaces", &interfaces.keys().collect::<Vec<_>>(), &names);
            }
            for link in &found.links {
                if let Some(look) = interfaces.get(link.name.as_str()) {
                    look.compare(link, &found.addresses_of(link), differences);
                }
            }
        }
        differences.check_text("gateway", self.gateway.as_ref(), found.default_of(true));
        differences.check_text("gateway6", self.gateway6.as_ref(), found.default_of(false));
        differences.check("routes", self.routes.as_ref(), &found.routes());
    }
}

impl InterfaceLook {
    fn compare(&self, link: &LinkView, addresses: &Vec<String>, differences: &mut Differences) {
        let what = |part: &str| format!("{part} of {}", link.name);
        let mac = link.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
        differences.check_prefix(&what("mac"), self.mac.as_ref(), &mac);
        differences.check(&what("up"), self.up.as_ref(), &link.up);
        differences.check(&what("mtu"), self.mtu.as_ref(), &link.mtu);
        differences.check(&what("addresses"), self.addresses.as_ref(), addresses);
    }
}

/// What is expected on the host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HostLook {
    /// How many links there are that were not there at the beginning.
    links: Option<usize>,
    /// How many namespaces there are.
    namespaces: Option<usize>,
    /// Bridges of the host by name, or by `@network`.
    bridges: BTreeMap<String, BridgeLook>,
}

/// What is expected of a bridge.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BridgeLook {
    /// Whether it is there at all; it is unless this says otherwise.
    exists: Option<bool>,
    up: Option<bool>,
    mtu: Option<u32>,
    ports: Option<usize>,
    addresses: Option<Vec<String>>,
}

impl HostLook {
    /// `before` are the links there were at the beginning; `bridge` says what a bridge is called.
    pub(crate) fn compare(
        &self,
        found: &Namespace,
        before: usize,
        namespaces: usize,
        bridge: impl Fn(&str) -> Result<String, String>,
        differences: &mut Differences,
    ) -> Result<(), String> {
        differences.check("links", self.links.as_ref(), &(found.links.len().saturating_sub(before)));
        differences.check("namespaces", self.namespaces.as_ref(), &namespaces);
        for (key, look) in &self.bridges {
            let name = bridge(key)?;
            let link = found.links.iter().find(|link| link.name.as_str() == name);
            let expected = look.exists.unwrap_or(true);
            differences.check(&format!("bridge {key}"), Some(&expected), &link.is_some());
            let Some(link) = link else { continue };
            let ports = found.links.iter().filter(|port| port.master == Some(link.index)).count();
            let what = |part: &str| format!("{part} of bridge {key}");
            differences.check(&what("up"), look.up.as_ref(), &link.up);
            differences.check(&what("mtu"), look.mtu.as_ref(), &link.mtu);
            differences.check(&what("ports"), look.ports.as_ref(), &ports);
            differences.check(&what("addresses"), look.addresses.as_ref(), &found.addresses_of(link));
        }
        Ok(())
    }
}
