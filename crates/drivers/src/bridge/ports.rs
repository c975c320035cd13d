//! What an endpoint of a bridge network publishes: its port map, read for the addresses that it has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netloom_firewall::{Mode, PortRules};
use netloom_model::{Error, PortBinding, PortRange, Ports, Protocol, PublishedPorts, Result};
use netloom_ports::{PortOwner, PortRequest};
use rustc_hash::FxHashSet;

use super::config::BridgeConfig;
use super::rules;
use crate::outside::{Addresses, Publication, Wanted};
use crate::request::ExternalConnectivity;

/// The field that refusals name.
const FIELD: &str = "port_map";
/// Every address of a family.
const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// What is to be published; `None` for nothing.
///
/// A binding that names no address of the host is for every one of both families, as libnetwork does it: for IPv6 where
/// the endpoint has IPv6, or else where the proxy can translate. One that names `0.0.0.0` or `::` is for that family.
pub(super) fn plan(
    config: &BridgeConfig,
    proxy: bool,
    request: &ExternalConnectivity,
) -> Result<Option<Publication>> {
    let ports: [&Ports; 2] = [&request.ports, &request.sandbox.ports];
    if config.internal || ports.iter().all(|ports| ports.map.is_empty()) {
        return Ok(None);
    }
    let plan = Plan { config, proxy, addresses: request.addresses };
    let (mut wanted, mut routed) = (Vec::new(), Vec::new());
    for run in runs(ports.iter().flat_map(|ports| &ports.map)) {
        plan.routed(&run, &mut routed);
        let addresses = plan.hosts(&run.first)?;
        if addresses.is_empty() {
            continue;
        }
        let only_v4 = run.first.ip.map(|ip| ip.is_ipv4());
        wanted.push(Wanted { request: run.request(addresses)?, port: run.first.port, only_v4 });
    }
    let before: Vec<PublishedPorts> = request.published.0.clone();
    let owner = PortOwner { id: request.endpoint, name: request.name.clone() };
    let addresses = request.addresses;
    Ok(Some(Publication { owner, addresses, wanted, routed, before, proxy }))
}

/// Bindings in a row: each for the port behind the one before, on both sides.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: PortBinding,
    count: u16,
}

impl Run {
    fn is_followed_by(&self, next: &PortBinding) -> bool {
        let PortBinding { protocol, port, ip, host_ip, host_port, host_port_end } = self.first;
        let behind = |port: u16| port.checked_add(self.count);
        let inside = behind(port);
        let outside = host_port.filter(|_| host_port_end.is_none()).and_then(behind);
        inside.zip(outside).is_some_and(|(port, outside)| {
            let expected =
                PortBinding { protocol, port, ip, host_ip, host_port: Some(outside), host_port_end: None };
            expected == *next
        })
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

/// The bindings, those in a row together, and what is asked for twice once.
fn runs<'a>(bindings: impl Iterator<Item = &'a PortBinding>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut seen = FxHashSet::default();
    for binding in bindings.filter(|binding| binding.host_port.is_none() || seen.insert(**binding)) {
        match runs.last_mut() {
            Some(run) if run.is_followed_by(binding) => run.count += 1,
            _ => runs.push(Run { first: *binding, count: 1 }),
        }
    }
    runs
}

struct Plan<'a> {
    config: &'a BridgeConfig,
    proxy: bool,
    addresses: Addresses,
}

impl Plan<'_> {
    /// The endpoint's address of a family, as far as a binding means it.
    fn inside(&self, binding: &PortBinding, v4: bool) -> Option<IpAddr> {
        self.addresses.of(v4).filter(|own| binding.ip.is_none_or(|ip| ip == *own))
    }

    fn is_translated(&self, v4: bool) -> bool {
        rules::mode(self.config, v4) != Mode::Routed
    }

    /// What is reached under its own address.
    fn routed(&self, run: &Run, routed: &mut Vec<PortRules>) {
        for v4 in [true, false].into_iter().filter(|v4| !self.is_translated(*v4)) {
            if let Some(container) = self.inside(&run.first, v4) {
                let first = run.first.port;
                let last = first.saturating_add(run.count - 1);
                let protocol = run.first.protocol;
                routed.push(PortRules {
                    protocol,
                    host: None,
                    first,
                    last,
                    container,
                    container_port: first,
                    routed: true,
                });
            }
        }
    }

    /// The addresses of the host that a binding is for.
    fn hosts(&self, binding: &PortBinding) -> Result<Vec<IpAddr>> {
        let inside = [true, false].map(|v4| self.inside(binding, v4));
        if inside == [None; 2] {
            let why = "the container's address must be one of the endpoint's own";
            return Err(Error::invalid(FIELD, binding, why));
        }
        if let Some(host) = binding.host_ip {
            return self.host(binding, host).map(|host| host.into_iter().collect());
        }
        match self.config.host_binding {
            Some(host) if host != ANY4 => self.host(binding, host).map(|host| host.into_iter().collect()),
            _ => Ok([ANY4, ANY6]
                .into_iter()
                .filter(|host| self.leads(binding, *host).unwrap_or(false))
                .collect()),
        }
    }

    /// An address that was named: `None` where its family is not translated.
    fn host(&self, binding: &PortBinding, host: IpAddr) -> Result<Option<IpAddr>> {
        match self.leads(binding, host) {
            Ok(leads) => Ok(leads.then_some(host)),
            Err(why) => Err(Error::invalid(FIELD, binding, why)),
        }
    }

    /// Whether an address of the host can lead to the endpoint, or why it cannot.
    fn leads(&self, binding: &PortBinding, host: IpAddr) -> Result<bool, &'static str> {
        let v4 = host.is_ipv4();
        if self.inside(binding, v4).is_some() {
            if !self.is_translated(v4) {
                return Ok(false);
            }
            // Nothing that comes from `::1` leaves the host, so only the proxy can pass it on.
            if host == IpAddr::V6(Ipv6Addr::LOCALHOST) {
                return self.proxied(binding).map(|()| true);
            }
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
        if !self.proxy {
            return Err("the endpoint has no address of this family that the kernel could lead to, and the \
                        userland proxy, which would pass it on, is off; switch the bridge driver's option \
                        userland_proxy on, or name another address of the host");
        }
        Ok(())
    }
}
