//! Networks and ports as rules.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netloom_model::{IfName, Protocol};

use super::{Chains, Names, Table, Tables, Unfit, Version};
use crate::network::{FamilyRules, Mode, NetworkRules};
use crate::port::PortRules;
use crate::table::Mark;

/// What the jumps of all engines carry, so that they do not push each other from the first place.
pub(super) const COMMENT: &str = "-m comment --comment netloom ";
/// Packets of connections that have been let through.
const ANSWERS: &str = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";

/// A rule in a chain of the kernel's that leads to one of ours.
pub(super) struct Hook {
    pub(super) table: Table,
    pub(super) chain: &'static str,
    pub(super) rule: String,
}

/// The jumps. They are the first rules of their chains.
pub(super) fn hooks(names: &Names, version: Version) -> Vec<Hook> {
    let hook = |table, chain, matches: &str, to: &str| Hook {
        table,
        chain,
        rule: format!("{matches}{COMMENT}-j {}", names.chain(to)),
    };
    let local = "-m addrtype --dst-type LOCAL ";
    // Others do not reach what is published on the loopback.
    let arriving = match version {
        Version::V4 => format!("! -d 127.0.0.0/8 {local}"),
        Version::V6 => local.to_owned(),
    };
    // What comes from `::1` goes nowhere else: the proxy passes it on.
    let own = match version {
        Version::V4 => local.to_owned(),
        Version::V6 => format!("! -d ::1/128 {local}"),
    };
    let mut hooks = vec![
        hook(Table::Filter, "FORWARD", "", "FORWARD"),
        hook(Table::Nat, "PREROUTING", &arriving, "NAT"),
        hook(Table::Nat, "OUTPUT", &own, "NAT"),
        hook(Table::Nat, "POSTROUTING", "", "LEAVE"),
    ];
    if version == Version::V4 {
        hooks.push(hook(Table::Raw, "PREROUTING", "", "RAW"));
    }
    hooks
}

/// Every chain of one version.
pub(super) fn translate(
    names: &Names,
    mark: Option<Mark>,
    networks: &[&NetworkRules],
    ports: &[&PortRules],
    version: Version,
) -> Result<Tables, Unfit> {
    let mut all = All { names, mark, version, filter: Chains::new(), nat: Chains::new(), raw: Chains::new() };
    for kind in ["FORWARD", "PORTS", "INTERNAL"] {
        all.filter.insert(names.chain(kind), Vec::new());
    }
    for kind in ["NAMED", "ANY", "LEAVE"] {
        all.nat.insert(names.chain(kind), Vec::new());
    }
    let lead = ["NAMED", "ANY"].map(|kind| format!("-j {}", names.chain(kind)));
    all.nat.insert(names.chain("NAT"), lead.to_vec());
    if version == Version::V4 {
        all.raw.insert(names.chain("RAW"), Vec::new());
    }
    let mut networks = networks.to_vec();
    networks.sort_by_key(|rules| rules.bridge);
    // What goes to a bridge is judged there, wherever it comes from.
    for (kind, flag) in [("I", "-o"), ("O", "-i")] {
        for network in &networks {
            let bridge = named(&network.bridge)?;
            let rule = format!("{flag} {bridge} -g {}", names.chain(&format!("{kind}-{bridge}")));
            push(&mut all.filter, &names.chain("FORWARD"), rule);
        }
    }
    for network in &networks {
        all.network(network)?;
    }
    let trusting = trusting(&networks, version)?;
    let mut ports = ports.to_vec();
    ports.sort_by_key(|port| (port.container, port.protocol, port.container_port, port.host, port.first));
    for port in ports {
        all.port(port, &trusting)?;
    }
    // Several ports of a container lead to its chain once, and what two owners want is said once.
    for rules in all.filter.values_mut().chain(all.nat.values_mut()) {
        let mut seen = HashSet::new();
        rules.retain(|rule| seen.insert(rule.clone()));
    }
    let tables = [(Table::Raw, all.raw), (Table::Filter, all.filter), (Table::Nat, all.nat)];
    Ok(BTreeMap::from(tables))
}

/// A subnet whose published ports some interfaces reach under containers' own addresses.
struct Trusting<'a> {
    subnet: IpNet,
    from: Vec<&'a str>,
}

/// What networks trust. An internal network reaches nothing but itself, also where another one trusts it, and within a
/// network something else is said.
fn trusting<'a>(networks: &[&'a NetworkRules], version: Version) -> Result<Vec<Trusting<'a>>, Unfit> {
    let internal: HashSet<IfName> =
        networks.iter().filter(|rules| rules.internal).map(|rules| rules.bridge).collect();
    let mut all = Vec::new();
    for rules in networks.iter().filter(|rules| !rules.internal) {
        let Some(family) = rules.family(version) else { continue };
        let links = rules.trusted.iter().filter(|link| **link != rules.bridge && !internal.contains(*link));
        let from = links.map(named).collect::<Result<Vec<_>, _>>()?;
        if !from.is_empty() {
            all.push(Trusting { subnet: family.subnet, from });
        }
    }
    Ok(all)
}

struct All<'a> {
    names: &'a Names,
    mark: Option<Mark>,
    version: Version,
    filter: Chains,
    nat: Chains,
    raw: Chains,
}

impl All<'_> {
    fn network(&mut self, rules: &NetworkRules) -> Result<(), Unfit> {
        let bridge = named(&rules.bridge)?;
        let user = format!("-j {}", self.names.user());
        let internal = self.names.chain("INTERNAL");
        let mut into = vec![user.clone(), ANSWERS.to_owned()];
        into.push(format!("-j {}", self.names.chain("PORTS")));
        into.push(format!("-i {bridge} -j {}", if rules.icc { "ACCEPT" } else { "DROP" }));
        let mut out = vec![user, ANSWERS.to_owned()];
        let family = rules.family(self.version);
        if rules.internal {
            push(&mut self.filter, &internal, format!("-i {bridge} -j DROP"));
            out.push("-j DROP".to_owned());
        } else {
            into.push(format!("-j {internal}"));
            if let Some(mark) = self.mark {
                into.push(format!("-m mark --mark {} -j ACCEPT", shown(mark)));
            }
            match family.map(|family| family.mode) {
                Some(Mode::NatUnprotected) => into.push("-j ACCEPT".to_owned()),
                Some(Mode::Routed) => {
                    let icmp = if self.version == Version::V4 { "icmp" } else { "ipv6-icmp" };
                    into.push(format!("-p {icmp} -j ACCEPT"));
                }
                Some(Mode::Nat) | None => {}
            }
            out.push("-j ACCEPT".to_owned());
        }
        into.push("-j DROP".to_owned());
        self.filter.insert(self.names.towards(rules.bridge), into);
        self.filter.insert(self.names.away(rules.bridge), out);
        let leave = self.names.chain("LEAVE");
        if self.version == Version::V4 {
            push(&mut self.raw, &self.names.chain("RAW"), format!("-d 127.0.0.0/8 -i {bridge} -j DROP"));
            // The host reaches a container through its loopback.
            push(&mut self.nat, &leave, format!("-s 127.0.0.0/8 -o {bridge} -j MASQUERADE"));
        }
        match family {
            Some(family) if !rules.internal => self.leaving(bridge, family),
            _ => {}
        }
        Ok(())
    }

    fn leaving(&mut self, bridge: &str, family: FamilyRules) {
        if family.mode == Mode::Routed || !family.masquerade {
            return;
        }
        let under = family
            .host_address
            .map_or_else(|| "MASQUERADE".to_owned(), |address| format!("SNAT --to-source {address}"));
        let leave = self.names.chain("LEAVE");
        let subnet = family.subnet.trunc();
        let itself = format!("-s {subnet} -o {bridge} -m conntrack --ctstate DNAT -j MASQUERADE");
        push(&mut self.nat, &leave, itself);
        push(&mut self.nat, &leave, format!("-s {subnet} ! -o {bridge} -j {under}"));
    }

    fn port(&mut self, port: &PortRules, trusting: &[Trusting<'_>]) -> Result<(), Unfit> {
        if port.by_proxy.is_some() {
            return Err(Unfit::Led(Box::new(port.clone())));
        }
        if port.host.is_some_and(|host| host.is_ipv4() != port.container.is_ipv4()) {
            return Err(Unfit::Families(Box::new(port.clone())));
        }
        let behind = port.last.checked_sub(port.first);
        let end = behind.and_then(|length| port.container_port.checked_add(length));
        let (Some(inside_last), false) = (end, port.protocol == Protocol::Icmp) else {
            return Err(Unfit::Ports(Box::new(port.clone())));
        };
        if port.container.is_ipv4() != (self.version == Version::V4) {
            return Ok(());
        }
        let container = alone(port.container);
        let own = self.names.container(port.container);
        push(&mut self.filter, &self.names.chain("PORTS"), format!("-d {container} -j {own}"));
        let inside = to_ports(port.protocol, port.container_port, inside_last);
        let translated = if port.routed { "" } else { "-m conntrack --ctstate DNAT " };
        push(&mut self.filter, &own, format!("-d {container} {inside} {translated}-j ACCEPT"));
        if port.routed {
            return Ok(());
        }
        let own_networks = trusting.iter().filter(|one| one.subnet.contains(&port.container));
        for from in own_networks.flat_map(|one| &one.from).filter(|_| !port.is_for_the_host_alone()) {
            push(&mut self.filter, &own, format!("-d {container} -i {from} {inside} -j ACCEPT"));
        }
        let outside = to_ports(port.protocol, port.first, port.last);
        let target = target(port, inside_last);
        let (chain, at) = match port.host.filter(|host| !host.is_unspecified()) {
            Some(host) => ("NAMED", format!("-d {} ", alone(host))),
            None => ("ANY", String::new()),
        };
        let rule = format!("{at}{outside} -j DNAT --to-destination {target}");
        push(&mut self.nat, &self.names.chain(chain), rule);
        Ok(())
    }
}

/// Where a port leads. A port that keeps its number is not named; ports that are shifted are named with the first of the
/// host's, by which the kernel knows by how much.
fn target(port: &PortRules, inside_last: u16) -> String {
    let (first, inside) = (port.first, port.container_port);
    if first == inside {
        return port.container.to_string();
    }
    let address = match port.container {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    if first == port.last {
        return format!("{address}:{inside}");
    }
    format!("{address}:{inside}-{inside_last}/{first}")
}

fn to_ports(protocol: Protocol, first: u16, last: u16) -> String {
    let mut rule = format!("-p {protocol} -m {protocol} --dport {first}");
    if first != last {
        rule.push_str(&format!(":{last}"));
    }
    rule
}

/// An address as a net of its own.
fn alone(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn shown(Mark { mask, value }: Mark) -> String {
    if mask == u32::MAX { format!("{value:#x}") } else { format!("{value:#x}/{mask:#x}") }
}

/// An interface's name that means itself.
fn named(name: &IfName) -> Result<&str, Unfit> {
    let text = name.as_str();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'@' | b'-');
    if text.starts_with('-') || !text.bytes().all(plain) {
        return Err(Unfit::Interface(*name));
    }
    Ok(text)
}

fn push(chains: &mut Chains, chain: &str, rule: String) {
    chains.entry(chain.to_owned()).or_default().push(rule);
}
