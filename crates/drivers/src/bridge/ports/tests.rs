//! Port maps, and what becomes of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use netloom_model::record::PoolRecord;
use netloom_model::{Published, Seldom, TransportPort};
use proptest::prelude::*;

use super::super::config::{
    GATEWAY_MODE_IPV4, GATEWAY_MODE_IPV6, GatewayMode, HOST_BINDING_IPV4, TRUSTED_HOST_INTERFACES,
};
use super::*;
use crate::request::{CreateNetwork, Restored, SandboxOptions};

const BOTH: Addresses =
    Addresses { v4: Some(Ipv4Addr::new(10, 1, 0, 2)), v6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)) };
const ONLY_V4: Addresses = Addresses { v6: None, ..BOTH };
const PROXY: Settings = Settings { proxy: true, direct: false, mark: false };
const NO_PROXY: Settings = Settings { proxy: false, ..PROXY };

fn config(options: &[(&str, &str)]) -> BridgeConfig {
    let pool = |pool: &str, gateway: &str| PoolRecord {
        gateway: Some(ip(gateway)),
        ..PoolRecord::new(pool.parse().expect("a pool"))
    };
    let request = CreateNetwork {
        network: "0123456789abcdef".parse().expect("an id"),
        name: "blue".into(),
        restored: Restored::Fresh,
        options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        internal: false,
        ipv6: true,
        v4: vec![pool("10.1.0.0/16", "10.1.0.1")],
        v6: vec![pool("fd00::/64", "fd00::1")],
        found: BTreeMap::new(),
    };
    BridgeConfig::read("test", &request).expect("valid")
}

fn connectivity(
    addresses: Addresses,
    endpoint: &[PortBinding],
    sandbox: &[PortBinding],
) -> ExternalConnectivity {
    let ports = |map: &[PortBinding]| Ports { exposed: Vec::new(), map: map.to_vec() };
    ExternalConnectivity {
        network: "0123456789abcdef".parse().expect("an id"),
        endpoint: format!("{:064x}", 7).parse().expect("an id"),
        name: "web".into(),
        addresses,
        ports: ports(endpoint).into(),
        sandbox: Arc::new(SandboxOptions { ports: ports(sandbox), ..SandboxOptions::default() }),
        published: Seldom::<Published>::default(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn tcp(host: u16, inside: u16) -> PortBinding {
    PortBinding::new(host, TransportPort::tcp(inside))
}

fn open_port(inside: u16) -> PortBinding {
    PortBinding::any(TransportPort::tcp(inside))
}

fn within(first: u16, last: u16, inside: u16) -> PortBinding {
    PortBinding { host_port_end: Some(last), ..tcp(first, inside) }
}

fn sctp(host: u16) -> PortBinding {
    PortBinding { protocol: Protocol::Sctp, ..tcp(host, 9) }
}

/// What is wanted, such as `0.0.0.0, [::]:8080 -> 80/tcp`, and then what is open under its own address.
fn told(config: &BridgeConfig, settings: Settings, addresses: Addresses, map: &[PortBinding]) -> Vec<String> {
    let request = connectivity(addresses, map, &[]);
    let publication = plan(config, settings, &request).expect("it can").expect("something");
    assert_eq!((publication.proxy, publication.addresses), (settings.proxy, addresses));
    let wanted = publication.wanted.iter().map(shown);
    wanted.chain(publication.routed.iter().map(|port| format!("open: {port}"))).collect()
}

fn shown(wanted: &Wanted) -> String {
    let PortRequest { protocol, addresses, range, count } = &wanted.request;
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let range = range.map_or("any".to_owned(), |range| range.to_string());
    let only = wanted.only_v4.map_or("", |v4| if v4 { ", IPv4" } else { ", IPv6" });
    let count = if *count == 1 { String::new() } else { format!(" x{count}") };
    format!("{} {range}{count} -> {}/{protocol}{only}", addresses.join(" "), wanted.port)
}

fn refused(config: &BridgeConfig, settings: Settings, addresses: Addresses, map: &[PortBinding]) -> String {
    let request = connectivity(addresses, map, &[]);
    let error = plan(config, settings, &request).expect_err("it cannot").to_string();
    assert!(error.contains(FIELD), "{error}");
    error
}

#[test]
fn a_binding_is_for_every_address_of_both_families_or_for_those_that_it_names() {
    let config = config(&[]);
    for (binding, wanted) in [
        (tcp(8080, 80), "0.0.0.0 :: 8080 -> 80/tcp"),
        (tcp(8080, 80).on(ANY4), "0.0.0.0 8080 -> 80/tcp"),
        (tcp(8080, 80).on(ANY6), ":: 8080 -> 80/tcp"),
        (tcp(8080, 80).on(ip("::1")), "::1 8080 -> 80/tcp"),
        (tcp(8080, 80).on(ip("127.0.0.1")), "127.0.0.1 8080 -> 80/tcp"),
        (tcp(8080, 80).on(ip("192.0.2.1")), "192.0.2.1 8080 -> 80/tcp"),
        (tcp(8080, 80).on(ip("::ffff:192.0.2.1")), "192.0.2.1 8080 -> 80/tcp"),
        (tcp(8080, 80).on(ip("2001:db8::1")), "2001:db8::1 8080 -> 80/tcp"),
        (open_port(80), "0.0.0.0 :: any -> 80/tcp"),
        (within(8000, 8009, 80), "0.0.0.0 :: 8000-8009 -> 80/tcp"),
        (sctp(9), "0.0.0.0 :: 9 -> 9/sctp"),
    ] {
        assert_eq!(told(&config, PROXY, BOTH, &[binding]), [wanted], "{binding}");
        if binding.host_ip != Some(LOOPBACK6) {
            assert_eq!(told(&config, NO_PROXY, BOTH, &[binding]), [wanted], "{binding}");
        }
    }
}

#[test]
fn what_the_kernel_cannot_lead_to_is_for_the_proxy_or_refused() {
    let config = config(&[]);
    assert_eq!(told(&config, PROXY, ONLY_V4, &[tcp(8080, 80)]), ["0.0.0.0 :: 8080 -> 80/tcp"]);
    assert_eq!(told(&config, NO_PROXY, ONLY_V4, &[tcp(8080, 80)]), ["0.0.0.0 8080 -> 80/tcp"]);
    assert_eq!(told(&config, PROXY, ONLY_V4, &[sctp(9)]), ["0.0.0.0 9 -> 9/sctp"]);
    assert_eq!(told(&config, PROXY, ONLY_V4, &[tcp(8080, 80).on(ANY6)]), [":: 8080 -> 80/tcp"]);
    for (settings, addresses, binding, hint) in [
        (NO_PROXY, ONLY_V4, tcp(8080, 80).on(ANY6), USERLAND),
        (NO_PROXY, ONLY_V4, tcp(8080, 80).on(ip("2001:db8::1")), USERLAND),
        (NO_PROXY, BOTH, tcp(8080, 80).on(ip("::1")), USERLAND),
        (PROXY, BOTH, sctp(9).on(ip("::1")), "only tcp and udp"),
        (PROXY, ONLY_V4, sctp(9).on(ANY6), "only tcp and udp"),
    ] {
        let error = refused(&config, settings, addresses, &[tcp(1, 1), binding]);
        assert!(error.contains(hint) && error.contains(&binding.to_string()), "{error}");
        assert!(error.contains("name another address of the host"), "{error}");
    }
}

const USERLAND: &str = "userland_proxy";

#[test]
fn a_binding_may_name_one_of_the_endpoints_addresses_and_no_other() {
    let config = config(&[]);
    let of = |address: &str| PortBinding { ip: Some(ip(address)), ..tcp(8080, 80) };
    assert_eq!(told(&config, PROXY, BOTH, &[of("10.1.0.2")]), ["0.0.0.0 :: 8080 -> 80/tcp, IPv4"]);
    assert_eq!(told(&config, NO_PROXY, BOTH, &[of("10.1.0.2")]), ["0.0.0.0 8080 -> 80/tcp, IPv4"]);
    assert_eq!(told(&config, NO_PROXY, BOTH, &[of("fd00::2")]), [":: 8080 -> 80/tcp, IPv6"]);
    for foreign in ["10.1.0.3", "fd00::3"] {
        let error = refused(&config, PROXY, BOTH, &[of(foreign)]);
        assert!(error.contains(foreign) && error.contains("one of the endpoint's own"), "{error}");
    }
    assert!(refused(&config, PROXY, ONLY_V4, &[of("fd00::2")]).contains("one of the endpoint's own"));
}

#[test]
fn a_networks_own_address_is_for_bindings_that_name_none() {
    let at = |address| config(&[(HOST_BINDING_IPV4, address)]);
    let map = [tcp(8080, 80), tcp(9090, 90).on(ANY4)];
    for (binding, wanted) in [
        ("0.0.0.0", "0.0.0.0 :: 8080 -> 80/tcp"),
        ("192.0.2.1", "192.0.2.1 8080 -> 80/tcp"),
        ("127.0.0.1", "127.0.0.1 8080 -> 80/tcp"),
        ("::", ":: 8080 -> 80/tcp"),
        ("2001:db8::1", "2001:db8::1 8080 -> 80/tcp"),
    ] {
        assert_eq!(told(&at(binding), PROXY, BOTH, &map), [wanted, "0.0.0.0 9090 -> 90/tcp"]);
    }
    let error = refused(&at("2001:db8::1"), NO_PROXY, ONLY_V4, &[tcp(8080, 80)]);
    assert!(error.contains("[2001:db8::1]:8080") && error.contains(USERLAND), "{error}");
}

#[test]
fn rows_are_one_wish_as_far_as_they_go_on_on_both_sides() {
    let config = config(&[]);
    let row = |host: u16, inside: u16| (0..4).map(move |n| tcp(host + n, inside + n));
    let both = |row: &str| format!("0.0.0.0 :: {row}");
    let all: Vec<_> = row(7000, 7000).chain(row(9000, 80)).collect();
    let wanted = [both("7000-7003 x4 -> 7000/tcp"), both("9000-9003 x4 -> 80/tcp")];
    assert_eq!(told(&config, PROXY, BOTH, &all), wanted);
    for (gap, second) in [
        (tcp(7005, 7004), "7005 -> 7004/tcp"),
        (tcp(7004, 7005), "7004 -> 7005/tcp"),
        (PortBinding { protocol: Protocol::Udp, ..tcp(7004, 7004) }, "7004 -> 7004/udp"),
        (within(7004, 7004, 7004), "7004 -> 7004/tcp"),
        (open_port(7004), "any -> 7004/tcp"),
    ] {
        let all: Vec<_> = row(7000, 7000).chain([gap]).collect();
        assert_eq!(told(&config, PROXY, BOTH, &all), [both("7000-7003 x4 -> 7000/tcp"), both(second)]);
    }
    let all: Vec<_> = row(7000, 7000).chain([tcp(7004, 7004).on(ANY4)]).collect();
    assert_eq!(told(&config, PROXY, BOTH, &all).len(), 2);
    // To the last port there is, and not beyond.
    let end: Vec<_> = (65_533..=65_535).map(|port| tcp(port, port)).chain([tcp(1, 1)]).collect();
    let wanted = [both("65533-65535 x3 -> 65533/tcp"), both("1 -> 1/tcp")];
    assert_eq!(told(&config, PROXY, BOTH, &end), wanted);
    let whole: Vec<_> = (1..=65_535).map(|port| tcp(port, port)).collect();
    assert_eq!(told(&config, PROXY, BOTH, &whole), [both("1-65535 x65535 -> 1/tcp")]);
}

#[test]
fn what_is_asked_for_twice_is_had_once_where_it_names_a_port() {
    let config = config(&[]);
    for (once, count) in [(tcp(8080, 80), 1), (within(8000, 8009, 80), 1), (open_port(80), 2)] {
        assert_eq!(told(&config, PROXY, BOTH, &[once, once]).len(), count, "{once}");
        let request = connectivity(BOTH, &[once], &[once]);
        let publication = plan(&config, PROXY, &request).expect("it can").expect("something");
        assert_eq!(publication.wanted.len(), count, "of the endpoint and of its sandbox: {once}");
    }
    // A row stays one around what comes twice.
    let map = [tcp(1, 1), tcp(2, 2), tcp(2, 2), tcp(3, 3)];
    assert_eq!(told(&config, PROXY, BOTH, &map), ["0.0.0.0 :: 1-3 x3 -> 1/tcp"]);
}

#[test]
fn the_endpoints_ports_and_its_sandboxs_are_published_together() {
    let request = connectivity(BOTH, &[tcp(8080, 80)], &[tcp(8081, 81), open_port(53)]);
    let publication = plan(&config(&[]), PROXY, &request).expect("it can").expect("something");
    let wanted: Vec<_> = publication.wanted.iter().map(shown).collect();
    assert_eq!(wanted, ["0.0.0.0 :: 8080-8081 x2 -> 80/tcp", "0.0.0.0 :: any -> 53/tcp"]);
    assert_eq!((publication.owner.id, &*publication.owner.name), (request.endpoint, "web"));
    assert_eq!(plan(&config(&[]), PROXY, &connectivity(BOTH, &[], &[])).expect("it can"), None);
}

/// As in moby, where requests that differ in nothing but addresses get one port.
#[test]
fn a_port_that_is_left_open_is_the_same_on_all_addresses_that_are_named_for_it() {
    let config = config(&[]);
    let (one, other) = (ip("192.0.2.1"), ip("127.0.0.1"));
    let map = [open_port(80).on(ANY4), tcp(443, 443), open_port(80).on(ANY6)];
    let https = "0.0.0.0 :: 443 -> 443/tcp";
    assert_eq!(told(&config, PROXY, BOTH, &map), ["0.0.0.0 :: any -> 80/tcp", https]);
    let range = within(8000, 8009, 80);
    let map = [range.on(one), range.on(ANY6), range.on(other)];
    assert_eq!(told(&config, PROXY, BOTH, &map), ["192.0.2.1 :: 127.0.0.1 8000-8009 -> 80/tcp"]);
    for other in [open_port(80).on(one), open_port(80), open_port(81).on(ANY6), range.on(ANY6)] {
        assert_eq!(told(&config, PROXY, BOTH, &[open_port(80).on(ANY4), other]).len(), 2, "{other}");
    }
    let many: Vec<_> =
        (0u8..).map(|n| open_port(80).on([192, 0, 2, n].into())).take(MAX_ADDRESSES + 1).collect();
    assert_eq!(told(&config, PROXY, BOTH, &many).len(), 2, "no request has more addresses");
}

#[test]
fn where_a_family_is_routed_ports_are_open_under_its_own_address_and_no_port_of_the_host_is_taken() {
    let v4 = config(&[(GATEWAY_MODE_IPV4, "routed")]);
    let v6 = config(&[(GATEWAY_MODE_IPV6, "routed")]);
    let both = config(&[(GATEWAY_MODE_IPV4, "routed"), (GATEWAY_MODE_IPV6, "routed")]);
    let (open4, open6) = ("open: 80/tcp of 10.1.0.2", "open: 80/tcp of fd00::2");
    let web = tcp(8080, 80);
    for (config, binding, wanted) in [
        (&both, web, &[open4, open6][..]),
        (&both, open_port(80), &[open4, open6]),
        (&both, within(8000, 8009, 80), &[open4, open6]),
        (&v4, web, &[":: 8080 -> 80/tcp", open4]),
        (&v6, web, &["0.0.0.0 8080 -> 80/tcp", open6]),
        // Of the family that is named.
        (&both, web.on(ANY4), &[open4]),
        (&both, web.on(ip("2001:db8::1")), &[open6]),
        (&both, PortBinding { ip: Some(ip("fd00::2")), ..web }, &[open6]),
        (&v6, web.on(ANY4), &["0.0.0.0 8080 -> 80/tcp"]),
        // What is for the host alone is opened to nobody.
        (&both, web.on(ip("127.0.0.1")), &[]),
        (&both, web.on(ip("::1")), &[]),
    ] {
        for settings in [PROXY, NO_PROXY] {
            assert_eq!(told(config, settings, BOTH, &[binding]), wanted, "{binding}");
        }
    }
    // The proxy does not lead to it either.
    assert_eq!(told(&v4, PROXY, ONLY_V4, &[web]), [open4]);
    assert_eq!(told(&v4, PROXY, ONLY_V4, &[web.on(ip("127.0.0.1"))]), [""; 0]);
    assert_eq!(told(&v6, PROXY, ONLY_V4, &[web]), ["0.0.0.0 :: 8080 -> 80/tcp"]);
    let row: Vec<_> = (0..3).map(|n| tcp(8080 + n, 80 + n)).collect();
    assert_eq!(told(&v4, PROXY, ONLY_V4, &row), ["open: 80-82/tcp of 10.1.0.2"]);
}

#[test]
fn ports_may_be_open_under_their_own_address_where_they_are_translated_too() {
    let direct = Settings { direct: true, ..PROXY };
    let (open4, open6) = ("open: 80/tcp of 10.1.0.2", "open: 80/tcp of fd00::2");
    let (plain, web) = (config(&[(TRUSTED_HOST_INTERFACES, "eth0")]), tcp(8080, 80));
    assert_eq!(told(&plain, direct, BOTH, &[web]), ["0.0.0.0 :: 8080 -> 80/tcp", open4, open6]);
    assert_eq!(told(&plain, direct, BOTH, &[web.on(ANY4)]), ["0.0.0.0 8080 -> 80/tcp", open4]);
    assert_eq!(told(&plain, direct, BOTH, &[web.on(ip("127.0.0.1"))]), ["127.0.0.1 8080 -> 80/tcp"]);
}

#[test]
fn an_internal_network_publishes_nothing() {
    let internal = BridgeConfig { internal: true, ..config(&[]) };
    let foreign = PortBinding { ip: Some(ip("10.9.9.9")), ..tcp(8080, 80) };
    let request = connectivity(BOTH, &[foreign], &[tcp(8081, 81)]);
    assert_eq!(plan(&internal, PROXY, &request).expect("not even looked at"), None);
}

fn binding() -> impl Strategy<Value = PortBinding> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    let hosts = ["0.0.0.0", "::", "127.0.0.1", "192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "::1"];
    let host = prop::option::of(prop::sample::select(hosts.map(ip).to_vec()));
    let own = prop::option::weighted(0.2, prop::sample::select(vec![ip("10.1.0.2"), ip("fd00::2")]));
    let range = prop_oneof![
        1 => Just((None, None)),
        5 => (1..12u16).prop_map(|port| (Some(port), None)),
        1 => (1..12u16, 0..4u16).prop_map(|(port, more)| (Some(port), Some(port + more))),
    ];
    (protocol, 1..8u16, own, host, range).prop_map(
        |(protocol, port, ip, host_ip, (host_port, host_port_end))| PortBinding {
            protocol,
            port,
            ip,
            host_ip,
            host_port,
            host_port_end,
        },
    )
}

fn mode() -> impl Strategy<Value = GatewayMode> {
    prop_oneof![3 => Just(GatewayMode::Nat), 1 => Just(GatewayMode::NatUnprotected), 1 => Just(GatewayMode::Routed)]
}

/// A port of an address of the host, and the port of the container that it leads to.
type Place = (Protocol, IpAddr, u16, u16);

/// What each binding of a map asks for by its number, by hand: once, however often the map says it.
fn asked(config: &BridgeConfig, map: &[PortBinding]) -> BTreeMap<Place, usize> {
    let mut distinct: Vec<PortBinding> = Vec::new();
    for binding in map {
        let host_ip = binding.host_ip.map(|host| host.to_canonical());
        let binding = PortBinding { host_ip, ..*binding };
        if !is_open(&binding) && !distinct.contains(&binding) {
            distinct.push(binding);
        }
    }
    let mut asked = BTreeMap::new();
    for PortBinding { protocol, port, host_ip, host_port, .. } in distinct {
        let hosts = match host_ip.or(config.host_binding) {
            Some(host) => vec![host],
            None => vec![ANY4, ANY6],
        };
        for host in hosts {
            *asked.entry((protocol, host, host_port.expect("it has one"), port)).or_default() += 1;
        }
    }
    asked
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_port_is_wanted_that_the_map_has_not_and_none_more_often_than_there(
        map in prop::collection::vec(binding(), 0..24),
        modes in (mode(), mode()),
        (proxy, direct, v6) in any::<(bool, bool, bool)>(),
    ) {
        let mut config = config(&[]);
        (config.v4.mode, config.v6.mode) = modes;
        let addresses = if v6 { BOTH } else { ONLY_V4 };
        let half = map.len() / 2;
        let request = connectivity(addresses, &map[..half], &map[half..]);
        let settings = Settings { proxy, direct, ..PROXY };
        // What is refused takes nothing.
        let Ok(Some(publication)) = plan(&config, settings, &request) else { return Ok(()) };
        let asked = asked(&config, &map);
        let mut wanted: BTreeMap<Place, usize> = BTreeMap::new();
        let mut open = 0;
        for Wanted { request, port, .. } in &publication.wanted {
            prop_assert!(request.addresses.iter().all(|host| {
                let to = if addresses.of(host.is_ipv4()).is_some() { host.is_ipv4() } else { !host.is_ipv4() };
                config.family(to).mode.translates() || map.iter().any(|binding| binding.ip.is_some())
            }), "a port of the host for a family that is routed");
            if request.is_open() || request.range.is_none() {
                open += 1;
                continue;
            }
            let range = request.range.expect("not open");
            prop_assert_eq!(range.count(), usize::from(request.count));
            for host in request.addresses.iter() {
                for (host_port, inside) in range.ports().zip(*port..) {
                    *wanted.entry((request.protocol, *host, host_port, inside)).or_default() += 1;
                }
            }
        }
        for (place, times) in &wanted {
            let had = asked.get(place).copied().unwrap_or(0);
            // A range of one port is a wish for that port, whatever it calls itself.
            let (protocol, _, host, port) = *place;
            let one = map.iter().filter(|binding| {
                (binding.protocol, binding.host_port, binding.host_port_end, binding.port)
                    == (protocol, Some(host), Some(host), port)
            });
            prop_assert!(*times <= had + one.count(), "{place:?} is wanted {times} times, asked for {had} times");
        }
        prop_assert!(open <= map.iter().filter(|binding| is_open(binding)).count());
        // Where everything is translated by the kernel nothing of it is lost either.
        if v6 && proxy && modes.0.translates() && modes.1.translates() {
            for place in asked.keys().filter(|(_, host, ..)| *host != LOOPBACK6) {
                let of_all = map.iter().all(|binding| binding.ip.is_none());
                prop_assert!(!of_all || wanted.contains_key(place), "{place:?} is lost");
            }
        }
    }
}
