//! Random changes to a ruleset, each applied to a table as the kernel would, which does to packets what a plain model says.
//!
//! `NETLOOM_TEST_SEED` repeats a run, `NETLOOM_FIREWALL_OPERATIONS` says how long it is.

mod model;
mod table;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use netloom_firewall::{
    FamilyRules, Mark, Mode, NetworkRules, Owner, PortRules, Ruleset, Said, TableConfig, delta,
};
use netloom_model::{EndpointId, NetworkId, Protocol};

use model::{Model, is_v4, overlap};
use table::{Fate, Packet, Table};

const BRIDGES: [&str; 4] = ["br0", "br1", "br2", "br3"];
/// Links of the host that are no bridges of ours.
const OTHERS: [&str; 2] = ["uplink", "wg0"];
const MODES: [Mode; 3] = [Mode::Nat, Mode::NatUnprotected, Mode::Routed];
const NETWORKS: u64 = 5;
const ENDPOINTS: u64 = 8;
const MARK: u32 = 0x2a;
/// The port where the engine itself passes on.
const OWN: u16 = 41_000;

/// The splitmix64 sequence.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn port(&mut self, bound: u64) -> u16 {
        u16::try_from(self.below(bound)).expect("small")
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).expect("small")].clone()
    }

    fn is(&mut self, in_so_many: u64) -> bool {
        self.below(in_so_many) == 0
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Addresses of the host.
fn own(v4: bool) -> [IpAddr; 3] {
    let addresses =
        if v4 { ["192.0.2.1", "198.51.100.1", "127.0.0.1"] } else { ["2001:db8::1", "2001:db8::2", "::1"] };
    addresses.map(ip)
}

/// An address of the host of a port's family.
fn own_address(port: &PortRules) -> IpAddr {
    own(is_v4(port))[0]
}

/// The address of an endpoint, which is in the network of a bridge.
fn container(endpoint: u64, v4: bool) -> IpAddr {
    let bridge = endpoint % 4;
    ip(&if v4 { format!("10.{bridge}.0.{}", endpoint + 2) } else { format!("fd0{bridge}::{}", endpoint + 2) })
}

fn network_id(number: u64) -> NetworkId {
    format!("{:064x}", number + 1).parse().expect("an identifier")
}

fn endpoint_id(number: u64) -> EndpointId {
    format!("{:064x}", number + 1).parse().expect("an identifier")
}

fn some_family(random: &mut Random, bridge: usize, v4: bool) -> Option<FamilyRules> {
    let subnet = if v4 { format!("10.{bridge}.0.0/24") } else { format!("fd0{bridge}::/64") };
    let [host, ..] = own(v4);
    let usual = FamilyRules {
        subnet: subnet.parse().expect("a subnet"),
        mode: random.one(&MODES),
        masquerade: !random.is(4),
        host_address: random.is(4).then_some(host),
    };
    (v4 || !random.is(3)).then_some(usual)
}

fn some_network(random: &mut Random) -> NetworkRules {
    let bridge = usize::try_from(random.below(BRIDGES.len() as u64)).expect("small");
    let links: Vec<&str> = OTHERS.into_iter().chain(BRIDGES).collect();
    NetworkRules {
        bridge: BRIDGES[bridge].parse().expect("a name"),
        icc: !random.is(3),
        internal: random.is(5),
        trusted: (0..random.below(3)).map(|_| random.one(&links).parse().expect("a name")).collect(),
        v4: some_family(random, bridge, true),
        v6: some_family(random, bridge, false),
    }
}

/// A port that an endpoint publishes. Rows that keep their numbers are at 9000, what the engine passes on is at 7000, rows at
/// 7100, all others at 8000: whoever gives ports away gives none twice, however it is said.
fn some_port(random: &mut Random, endpoint: u64) -> PortRules {
    if random.is(4) {
        return some_led_port(random, endpoint);
    }
    let v4 = !random.is(3);
    let [lan, other, loopback] = own(v4);
    let every = ip(if v4 { "0.0.0.0" } else { "::" });
    let host = random.one(&[None, None, Some(every), Some(lan), Some(other), Some(loopback)]);
    // Nothing is led from `::1`.
    let host = host.filter(|host| v4 || !host.is_loopback());
    let (first, length, container_port) = if random.is(3) {
        let first = 9_000 + random.port(30);
        (first, 1 + random.port(6), first)
    } else {
        let first = 8_000 + random.port(20);
        let inside = if random.is(3) { first } else { 80 + random.port(8) };
        (first, if inside == first { 0 } else { random.port(3) }, inside)
    };
    PortRules {
        protocol: random.one(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp]),
        host,
        first,
        last: first + length,
        container: container(endpoint, v4),
        container_port,
        routed: random.is(4),
        by_proxy: None,
    }
}

/// A port that the kernel cannot lead by itself.
fn some_led_port(random: &mut Random, endpoint: u64) -> PortRules {
    let v4 = random.is(2);
    let [lan, other, loopback] = own(v4);
    let every = ip(if v4 { "0.0.0.0" } else { "::" });
    let host = random.one(&[every, every, lan, other, loopback]);
    let (first, length) = if random.is(2) {
        (7_000 + random.port(20), 0)
    } else {
        (7_100 + random.port(30), 1 + random.port(6))
    };
    let to_itself = host == ip("::1") && random.is(2);
    PortRules {
        protocol: Protocol::Tcp,
        host: Some(host),
        first,
        last: first + length,
        container: container(endpoint, if to_itself { v4 } else { !v4 }),
        container_port: 80 + random.port(8),
        routed: false,
        by_proxy: Some(OWN),
    }
}

/// Ports of which none is another one.
fn some_ports(random: &mut Random, endpoint: u64) -> Vec<PortRules> {
    let mut ports: Vec<PortRules> = Vec::new();
    for _ in 0..random.below(5) {
        let port = some_port(random, endpoint);
        if !ports.iter().any(|other| overlap(other, &port)) {
            ports.push(port);
        }
    }
    ports
}

fn some_packet(random: &mut Random, to_host: bool) -> Packet {
    let v4 = !random.is(3);
    let links: Vec<&'static str> = OTHERS.into_iter().chain(BRIDGES).collect();
    let destination = if to_host { random.one(&own(v4)) } else { container(random.below(ENDPOINTS), v4) };
    let outside = ip(if v4 { "203.0.113.9" } else { "2001:db8:9::9" });
    let loopback = ip(if v4 { "127.0.0.1" } else { "::1" });
    let inside = container(random.below(ENDPOINTS), v4);
    let port = match random.below(3) {
        0 => 80 + random.port(11),
        1 => 8_000 + random.port(23),
        _ => 9_000 + random.port(36),
    };
    Packet {
        iif: random.one(&links),
        oif: random.one(&links),
        source: random.one(&[outside, inside, inside, loopback]),
        destination,
        protocol: random.one(&[6, 6, 17, if v4 { 1 } else { 58 }]),
        port,
        translated: false,
        mark: if random.is(8) { MARK } else { 0 },
    }
}

/// Everything that is under test, and beside it what should be.
struct Run {
    random: Random,
    ruleset: Ruleset,
    table: Table,
    model: Model,
    /// What somebody had once.
    had: Vec<(Owner, Said)>,
    refused: u64,
    led: u64,
    own: u64,
    passed: u64,
    dropped: u64,
}

impl Run {
    fn change_network(&mut self) {
        let number = self.random.below(NETWORKS);
        let id = network_id(number);
        if self.random.is(4) {
            let changes = self.ruleset.set_network(id, None).expect("nothing contradicts nothing");
            self.model.networks.remove(&id);
            return self.table.change(changes);
        }
        let mut rules = some_network(&mut self.random);
        let other =
            self.model.networks.iter().find(|(other, one)| **other != id && one.bridge == rules.bridge);
        if let Some((_, other)) = other {
            // Two may say the same about a bridge; what they say otherwise is a contradiction.
            let icc = other.icc != self.random.is(2);
            rules = NetworkRules { icc, ..other.clone() };
        }
        let expected = !self.model.contradicts(id, &rules);
        match self.ruleset.set_network(id, Some(&rules)) {
            Ok(changes) => {
                assert!(expected, "{rules:?}");
                self.table.change(changes);
                self.model.networks.insert(id, rules);
            }
            Err(conflict) => {
                assert!(!expected, "{conflict}");
                let Owner::Network(holder) = conflict.holder else { panic!("{conflict}") };
                assert_eq!(self.model.networks[&holder].bridge, rules.bridge);
                self.refused += 1;
            }
        }
    }

    fn change_ports(&mut self) {
        let number = self.random.below(ENDPOINTS);
        let id = endpoint_id(number);
        let ports = if self.random.is(3) { Vec::new() } else { some_ports(&mut self.random, number) };
        let taken = ports.iter().any(|port| self.model.is_taken(id, port));
        match self.ruleset.set_ports(id, &ports) {
            Ok(changes) => {
                assert!(!taken, "{ports:?}");
                self.table.change(changes);
                self.model.endpoints.insert(id, ports.clone());
                if ports.is_empty() {
                    self.model.endpoints.remove(&id);
                }
            }
            Err(conflict) => {
                assert!(taken, "{conflict}");
                let Owner::Endpoint(holder) = conflict.holder else { panic!("{conflict}") };
                let theirs = &self.model.endpoints[&holder];
                assert!(
                    ports.iter().any(|port| theirs.iter().any(|other| overlap(other, port))),
                    "{conflict}"
                );
                self.refused += 1;
            }
        }
    }

    /// Somebody remembers what was said, or gives it back.
    fn remember_or_put_back(&mut self) {
        let owners: Vec<_> = self.model.owners().collect();
        if !owners.is_empty() && (self.had.len() < 8 || self.random.is(2)) {
            let owner = self.random.one(&owners);
            self.had.push((owner, self.ruleset.held(owner)));
            return;
        }
        if self.had.is_empty() {
            return;
        }
        let place = usize::try_from(self.random.below(self.had.len() as u64)).expect("small");
        let (owner, had) = self.had.swap_remove(place);
        match owner {
            Owner::Network(id) => {
                let rules = had.network.as_deref().expect("a network's");
                let others = self
                    .model
                    .networks
                    .iter()
                    .filter(|(other, one)| **other != id && one.bridge == rules.bridge);
                // What else two say about one bridge is said by both.
                if others.clone().any(|(_, other)| other.icc == rules.icc && other != rules) {
                    return;
                }
                if self.model.contradicts(id, rules) {
                    self.model.networks.remove(&id);
                } else {
                    self.model.networks.insert(id, rules.clone());
                }
            }
            Owner::Endpoint(id) => {
                let mut ports = had.ports.to_vec();
                ports.retain(|port| !self.model.is_taken(id, port));
                self.model.endpoints.insert(id, ports.clone());
                if ports.is_empty() {
                    self.model.endpoints.remove(&id);
                }
            }
        }
        let changes = self.ruleset.put(owner, &had);
        self.table.change(changes);
    }

    /// What comes of some packets: one to a port of the host and where that leads, one to a container, one that leaves.
    fn send(&mut self) {
        let mut packet = some_packet(&mut self.random, true);
        // Near to something that leads somewhere.
        if let Some(near) = self.near(&packet) {
            packet.port = near.first.saturating_sub(1) + self.random.port(6);
            packet.protocol = near.protocol.number();
        }
        let expected = self.model.leads_to(&packet);
        let fate = self.table.run("output", &packet);
        let led = match fate {
            Fate::Destination(address, port) => Some((address, port.unwrap_or(packet.port))),
            Fate::Passed => None,
            other => panic!("{packet:?}: {other:?}"),
        };
        assert_eq!(led, expected, "{packet:?}");
        // From outside, the same, but for the loopback.
        let hidden = packet.destination.is_ipv4() && packet.destination.is_loopback();
        let from_outside = self.table.run("prerouting", &packet);
        assert_eq!(from_outside, if hidden { Fate::Passed } else { fate }, "{packet:?}");
        if let Some((address, port)) = led {
            self.led += 1;
            // What stays on the host is not passed on by the kernel.
            if port == OWN {
                self.own += 1;
            } else {
                (packet.destination, packet.port, packet.translated) = (address, port, true);
                self.pass(&packet);
            }
        }
        let mut direct = some_packet(&mut self.random, false);
        if let Some(near) = self.near(&direct).filter(|near| near.by_proxy.is_none()) {
            direct.destination = near.container;
            direct.port = near.container_port.saturating_sub(1) + self.random.port(6);
            direct.protocol = near.protocol.number();
        }
        self.pass(&direct);
    }

    /// Mostly something that is published in a packet's family.
    fn near(&mut self, packet: &Packet) -> Option<PortRules> {
        let v4 = packet.destination.is_ipv4();
        let ports: Vec<_> =
            self.model.endpoints.values().flatten().filter(|port| is_v4(port) == v4).collect();
        (!ports.is_empty() && !self.random.is(4)).then(|| self.random.one(&ports).clone())
    }

    fn pass(&mut self, packet: &Packet) {
        let fate = self.table.run("forward", packet);
        let expected =
            if self.model.passes(packet) { [Fate::Accepted, Fate::Passed] } else { [Fate::Dropped; 2] };
        assert!(expected.contains(&fate), "{packet:?}: {fate:?}, and not {expected:?}");
        let count = if fate == Fate::Dropped { &mut self.dropped } else { &mut self.passed };
        *count += 1;
        assert_eq!(self.table.run("postrouting", packet), self.model.leaves(packet), "{packet:?}");
    }

    /// The ruleset is what its table is, what everybody has said at once makes, and nothing more.
    fn check(&self) {
        let contents = self.ruleset.contents();
        self.table.assert_is(&contents);
        assert_eq!(delta(Some(&contents), &self.ruleset.contents()), []);
        let owners: BTreeSet<_> = self.ruleset.owners().collect();
        assert_eq!(owners, self.model.owners().collect());
        let mut anew = Ruleset::new(self.ruleset.config().clone());
        for (network, rules) in &self.model.networks {
            anew.set_network(*network, Some(rules)).expect("no contradiction");
        }
        for (endpoint, ports) in &self.model.endpoints {
            anew.set_ports(*endpoint, ports).expect("no contradiction");
        }
        self.table.assert_is(&anew.contents());
    }
}

#[test]
fn whatever_is_said_in_whatever_order_packets_go_where_the_last_word_leads_them() {
    let seed = from_environment("NETLOOM_TEST_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        u64::from(now.subsec_nanos())
    });
    let operations = from_environment("NETLOOM_FIREWALL_OPERATIONS").unwrap_or(100_000);
    let _ = writeln!(std::io::stderr(), "NETLOOM_TEST_SEED={seed}");
    let mark = Mark { mask: u32::MAX, value: MARK };
    let ruleset = Ruleset::new(TableConfig { name: "netloom".into(), mark: Some(mark) });
    let empty = ruleset.contents();
    let table = Table::new(&empty, [own(true), own(false)].concat());
    let model = Model { mark: Some(MARK), ..Model::default() };
    let mut run = Run {
        random: Random(seed),
        ruleset,
        table,
        model,
        had: Vec::new(),
        refused: 0,
        led: 0,
        own: 0,
        passed: 0,
        dropped: 0,
    };
    for operation in 0..operations {
        match run.random.below(8) {
            0..=2 => run.change_network(),
            3..=6 => run.change_ports(),
            _ => run.remember_or_put_back(),
        }
        if operation % 2 == 0 {
            run.send();
        }
        if operation % 200 == 0 {
            run.check();
        }
    }
    run.check();
    let Run { refused, led, own, passed, dropped, .. } = run;
    let seen = format!(
        "{refused} refused, packets: {led} led, {own} of them to the engine, {passed} passed, {dropped} dropped"
    );
    let _ = writeln!(std::io::stderr(), "{operations} operations: {seen}");
    assert!([refused, led, own, passed, dropped].iter().all(|count| *count > operations / 50), "{seen}");
    // At the end of an engine nobody is led to its port any more.
    let own = || run.model.endpoints.values().flatten().find(|port| port.by_proxy.is_some()).cloned();
    let led = own().unwrap_or_else(|| {
        let port = some_led_port(&mut Random(seed), 0);
        run.table.change(run.ruleset.set_ports(endpoint_id(0), std::slice::from_ref(&port)).expect("free"));
        run.model.endpoints.insert(endpoint_id(0), vec![port.clone()]);
        port
    });
    let destination = led.host.filter(|host| !host.is_unspecified()).unwrap_or(own_address(&led));
    let packet = Packet {
        iif: OTHERS[0],
        destination,
        protocol: 6,
        port: led.first,
        ..some_packet(&mut Random(seed), true)
    };
    assert_eq!(run.table.run("output", &packet), Fate::Destination(destination, Some(OWN)));
    run.table.change(run.ruleset.lead_nowhere());
    assert_eq!(run.table.run("output", &packet), Fate::Passed);
    assert_eq!(run.ruleset.lead_nowhere(), []);
    // No element survives its owner.
    let owners: Vec<_> = run.model.owners().collect();
    for owner in owners {
        let changes = match owner {
            Owner::Network(id) => run.ruleset.set_network(id, None).expect("nothing"),
            Owner::Endpoint(id) => run.ruleset.set_ports(id, &[]).expect("nothing"),
        };
        run.table.change(changes);
    }
    run.table.assert_is(&empty);
    assert_eq!(run.ruleset.owners().count(), 0);
    assert_eq!(delta(Some(&run.ruleset.contents()), &empty), []);
}
