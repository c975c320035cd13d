//! What an endpoint of a bridge network publishes: its port map, read for the addresses that it has.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netloom_firewall::PortRules;
use netloom_model::{Error, PortBinding, PortRange, Ports, Protocol, PublishedPorts, Result};
use netloom_ports::{MAX_ADDRESSES, PortOwner, PortRequest};
use rustc_hash::{FxHashMap, FxHashSet};

use super::config::BridgeConfig;
use super::settings::Settings;
use crate::outside::{Addresses, Publication, Wanted};
use crate::request::ExternalConnectivity;

/// The field that refusals name.
const FIELD: &str = "port_map";
/// Every address of a family.
const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const LOOPBACK6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// What is to be published; `None` for nothing.
///
/// A binding that names no address of the host is for the network's own one (`host_binding_ipv4`), or else for every one
/// of both families, as libnetwork does it: for IPv6 where the endpoint has IPv6, or else where the proxy can translate.
/// One that names `0.0.0.0` or `::` is for that family. Where a family is routed no port of the host is taken.
pub(super) fn plan(
    config: &BridgeConfig,
    settings: Settings,
    request: &ExternalConnectivity,
) -> Result<Option<Publication>> {
    let ports: [&Ports; 2] = [&request.ports, &request.sandbox.ports];
    if config.internal || ports.iter().all(|ports| ports.map.is_empty()) {
        return Ok(None);
    }
    let addresses = request.addresses;
    let plan = Plan { config, settings, addresses };
    let (mut wanted, mut routed) = (Vec::new(), Vec::new());
    for run in runs(ports.iter().flat_map(|ports| &ports.map)) {
        let hosts = plan.hosts(&run)?;
        plan.under_its_own(&run, &mut routed);
        if hosts.is_empty() {
            continue;
        }
        let only_v4 = run.first.ip.map(|ip| ip.is_ipv4());
        wanted.push(Wanted { request: run.request(hosts)?, port: run.first.port, only_v4 });
    }
    let before: Vec<PublishedPorts> = request.published.0.clone();
    let owner = PortOwner { id: request.endpoint, name: request.name.clone() };
    Ok(Some(Publication { owner, addresses, wanted, routed, before, proxy: settings.proxy }))
}

/// Bindings in a row, each for the port behind the one before, on both sides; or those that leave the host's port open
/// and differ in nothing but its addresses.
#[derive(Clone, Debug)]
struct Run {
    first: PortBinding,
    /// Further addresses of the host, which get the same port.
    also: Vec<IpAddr>,
    count: u16,
}

impl Run {
    fn is_followed_by(&self, next: &PortBinding) -> bool {
        self.first.further(self.count).as_ref() == Some(next)
    }

    /// Takes the host's address of a binding that is like this one otherwise. One that is in the way of another needs a
    /// port of its own, as does one without.
    fn takes(&mut self, next: &PortBinding) -> bool {
        let (Some(first), Some(next)) = (self.first.host_ip, next.host_ip) else { return false };
        let in_the_way = |other: &IpAddr| {
            *other == next
                || (other.is_ipv4() == next.is_ipv4() && (other.is_unspecified() || next.is_unspecified()))
        };
        let fits = self.also.len() + 1 < MAX_ADDRESSES && !self.also.iter().chain([&first]).any(in_the_way);
        if fits {
            self.also.push(next);
        }
        fits
    }

    fn request(&self, addresses: Vec<IpAddr>) -> Result<PortRequest> {
        let PortBinding { protocol, host_port, host_port_end, .. } = self.first;
        let addresses = addresses.into();
        Ok(match (host_port, host_port_end) {
            (None, _) => PortRequest::any(protocol, addresses),
            (Some(first), Some(last)) => PortRequest::one_of(protocol, addresses, PortRange { first, last }),
            (Some(first), None) => {
                let last = first.saturating_add(self.count - 1);
                return PortRequest::all_of(protocol, addresses, PortRange { first, last });
            }
        })
    }
}

/// Whether a binding leaves open which port of the host it is.
fn is_open(binding: &PortBinding) -> bool {
    binding.host_port.is_none() || binding.host_port_end.is_some()
}

/// The bindings, those in a row together, those that are to have one port too, and what is asked for twice once.
fn runs<'a>(bindings: impl Iterator<Item = &'a PortBinding>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut seen = FxHashSet::default();
    let mut open: FxHashMap<PortBinding, usize> = FxHashMap::default();
    for binding in bindings {
        // `::ffff:192.0.2.1` is `192.0.2.1`.
        let host_ip = binding.host_ip.map(|host| host.to_canonical());
        let binding = PortBinding { host_ip, ..*binding };
        if binding.host_port.is_some() && !seen.insert(binding) {
            continue;
        }
        if is_open(&binding) {
            // Parity: moby's `needSamePort`.
            let alike = PortBinding { host_ip: None, ..binding };
            let known = open.get(&alike).and_then(|at| runs.get_mut(*at));
            if known.is_some_and(|run| run.takes(&binding)) {
                continue;
            }
            open.insert(alike, runs.len());
        }
        match runs.last_mut() {
            Some(run) if run.is_followed_by(&binding) => run.count += 1,
            _ => runs.push(Run { first: binding, also: Vec::new(), count: 1 }),
        }
    }
    runs
}

struct Plan<'a> {
    config: &'a BridgeConfig,
    settings: Settings,
    addresses: Addresses,
}

impl Plan<'_> {
    /// The endpoint's address of a family, as far as a binding means it.
    fn inside(&self, binding: &PortBinding, v4: bool) -> Option<IpAddr> {
        self.addresses.of(v4).filter(|own| binding.ip.is_none_or(|ip| ip == *own))
    }

    fn is_translated(&self, v4: bool) -> bool {
        self.config.family(v4).mode.translates()
    }

    /// The addresses of the host that are asked for, and whether nobody has named them.
    fn asked(&self, run: &Run) -> (Vec<IpAddr>, bool) {
        match (run.first.host_ip, self.config.host_binding) {
            (Some(host), _) => ([host].into_iter().chain(run.also.iter().copied()).collect(), false),
            (None, Some(host)) if host != ANY4 => (vec![host], false),
            (None, _) => (vec![ANY4, ANY6], true),
        }
    }

    /// What is reached under its own address: of the families that are asked for, those that are routed, or all of them.
    /// What is for the host's loopback alone is opened to nobody: the host reaches it anyway.
    fn under_its_own(&self, run: &Run, routed: &mut Vec<PortRules>) {
        let (asked, _) = self.asked(run);
        for v4 in [true, false].into_iter().filter(|v4| self.settings.direct || !self.is_translated(*v4)) {
            let is_meant = asked.iter().any(|host| host.is_ipv4() == v4 && !host.is_loopback());
            let Some(container) = self.inside(&run.first, v4).filter(|_| is_meant) else { continue };
            let (protocol, first) = (run.first.protocol, run.first.port);
            let last = first.saturating_add(run.count - 1);
            let (host, container_port, by_proxy) = (None, first, None);
            routed.push(PortRules {
                protocol,
                host,
                first,
                last,
                container,
                container_port,
                routed: true,
                by_proxy,
            });
        }
    }

    /// The addresses of the host that lead to the endpoint.
    fn hosts(&self, run: &Run) -> Result<Vec<IpAddr>> {
        let binding = &run.first;
        if [true, false].iter().all(|v4| self.inside(binding, *v4).is_none()) {
            let why = "the container's address must be one of the endpoint's own";
            return Err(Error::invalid(FIELD, binding, why));
        }
        let (asked, every) = self.asked(run);
        let mut hosts = Vec::new();
        for host in asked {
            match self.leads(binding, host) {
                Ok(true) => hosts.push(host),
                Ok(false) => {}
                // Of every address, those that can.
                Err(_) if every => {}
                Err(why) => {
                    return Err(Error::invalid(FIELD, PortBinding { host_ip: Some(host), ..*binding }, why));
                }
            }
        }
        Ok(hosts)
    }

    /// Whether an address of the host leads to the endpoint, or why it cannot. None leads to a family that is routed.
    fn leads(&self, binding: &PortBinding, host: IpAddr) -> Result<bool, &'static str> {
        let v4 = host.is_ipv4();
        let by_kernel = self.inside(binding, v4).is_some();
        if !self.is_translated(if by_kernel { v4 } else { !v4 }) {
            return Ok(false);
        }
        // Nothing that comes from `::1` leaves the host, so only the proxy can pass it on.
        if by_kernel && host != LOOPBACK6 {
            return Ok(true);
        }
        self.proxied(binding).map(|()| true)
    }

    fn proxied(&self, binding: &PortBinding) -> Result<(), &'static str> {
        if !matches!(binding.protocol, Protocol::Tcp | Protocol::Udp) {
            return Err(
                "between IPv4 and IPv6, and from ::1, only tcp and udp can be passed on; name another \
                        address of the host",
            );
        }
        if !self.settings.proxy {
            return Err("the endpoint has no address of this family that the kernel could lead to, and the \
                        userland proxy, which would pass it on, is off; switch the bridge driver's option \
                        userland_proxy on, or name another address of the host");
        }
        Ok(())
    }
}
