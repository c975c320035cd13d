//! The options of bridge networks that say how they and the rest of the world reach each other, seen by packets of both
//! families.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use netloom::kernel::{Kernel, LinkTag, Netns, Op, Route};
use netloom::{
    Endpoint, Engine, EngineConfig, Network, NetworkSpec, PortBinding, Sandbox, ShutdownMode, TransportPort,
};

use crate::lab::{Lab, delete_everything, in_lab, joined, pings, soon};
use crate::published::{HOST, Heard, NEIGHBOUR, Who, at, comes, ports_of, published, serve, serve_at, tcp};
use crate::rules::{ALL, Rules, run};
use crate::wall::{Lan, lan};

pub(crate) const HOST6: &str = "2001:db8::1";
const NEIGHBOUR6: &str = "2001:db8::9";
/// How long something that is dropped on the way is waited for.
const SILENCE: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const MODE4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
pub(crate) const MODE6: &str = "com.docker.network.bridge.gateway_mode_ipv6";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

async fn does(kernel: &impl Kernel, ops: Vec<Op>) {
    for outcome in kernel.execute(ops, soon()).await {
        outcome.expect("it can be done");
    }
}

fn add(netns: Netns, link: &str, address: &str) -> Op {
    let (link, address) = (link.parse().expect("a name"), address.parse().expect("a subnet"));
    Op::AddAddress { netns, link, address }
}

/// A LAN of both families, whose machine knows the way to all containers.
pub(crate) async fn dual_lan(lab: &Lab) -> Lan {
    let lan = lan(lab).await;
    let way = |destination: &str, via: &str| Op::AddRoute {
        netns: lan.netns,
        route: Route {
            destination: destination.parse().expect("a subnet"),
            via: Some(ip(via)),
            link: "eth0".parse().expect("a name"),
        },
    };
    let forwarding =
        Op::Sysctl { netns: Netns::Host, key: "ipv6/conf/all/forwarding".into(), value: "1".into() };
    let own = [add(Netns::Host, "uplink", "2001:db8::1/64"), add(lan.netns, "eth0", "2001:db8::9/64")];
    does(&lan.kernel, own.into_iter().chain([forwarding]).collect()).await;
    does(&lan.kernel, vec![way("10.0.0.0/8", HOST), way("fd00::/8", HOST6)]).await;
    lan
}

/// A network of both families.
pub(crate) fn dual(name: &str, number: u8, options: &[(&str, &str)]) -> NetworkSpec {
    let spec = NetworkSpec::new(name)
        .subnet(format!("10.{number}.0.0/24").parse().expect("a subnet"))
        .subnet(format!("fd00:{number}::/64").parse().expect("a subnet"));
    options.iter().fold(spec, |spec, (key, value)| spec.option(*key, *value))
}

pub(crate) async fn create(engine: &Engine, spec: NetworkSpec) -> Network {
    engine.controller().create_network(spec).await.expect("a network")
}

/// The addresses of an endpoint.
pub(crate) async fn own(endpoint: &Endpoint) -> [IpAddr; 2] {
    let snapshot = endpoint.inspect().await.expect("inspected");
    [snapshot.ipv4.expect("IPv4").addr().into(), snapshot.ipv6.expect("IPv6").addr().into()]
}

/// Of what somebody sends to a port nothing comes back, not even that nobody is there.
async fn is_shut_out(from: Who<'_>, to: SocketAddr) -> bool {
    match from.run(move || TcpStream::connect_timeout(&to, SILENCE)).await {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::TimedOut,
    }
}

async fn refuses(from: Who<'_>, to: SocketAddr) -> bool {
    comes(from, to).await == Heard::Refused
}

fn free(port: u16) {
    drop(TcpListener::bind(("::", port)).expect("nobody has it"));
}

#[test]
fn a_routed_network_is_reached_at_its_published_ports_under_its_own_addresses() {
    in_lab(async |lab| {
        let lan = dual_lan(&lab).await;
        let neighbour = Who::Neighbour(&lan);
        serve_at(neighbour, &[700]).await;
        let engine = lab.engine().await;
        let routed = create(&engine, dual("routed", 81, &[(MODE4, "routed"), (MODE6, "routed")])).await;
        let bindings =
            [tcp(8080, 80), tcp(8082, 82).on(ip("127.0.0.1")), PortBinding::any(TransportPort::tcp(83))];
        let (web, server) = published(&engine, &routed, "web", &bindings).await;
        let (_, beside) = joined(&engine, &routed, "beside").await;
        serve(&server, &[80, 81, 82, 83]).await;
        assert!(ports_of(&web).await.is_empty(), "no port of the host");
        assert_eq!(engine.controller().ports().await.expect("listed"), []);
        free(8080);
        for (own, seen, host) in
            [(own(&web).await[0], NEIGHBOUR, HOST), (own(&web).await[1], ip(NEIGHBOUR6), HOST6)]
        {
            for port in [80, 83] {
                assert_eq!(comes(neighbour, SocketAddr::new(own, port)).await, Heard::From(seen), "{port}");
            }
            assert!(is_shut_out(neighbour, SocketAddr::new(own, 81)).await, "not published");
            assert!(is_shut_out(neighbour, SocketAddr::new(own, 82)).await, "for the host alone");
            for port in [81, 82] {
                let heard = comes(Who::Host, SocketAddr::new(own, port)).await;
                assert!(matches!(heard, Heard::From(_)), "the host reaches everything: {heard:?}");
            }
            let heard = comes(Who::In(&beside), SocketAddr::new(own, 81)).await;
            assert!(matches!(heard, Heard::From(_)), "and so does its network: {heard:?}");
            assert!(refuses(neighbour, at(host, 8080)).await);
            assert_eq!(comes(Who::In(&server), SocketAddr::new(seen, 700)).await, Heard::From(own));
        }
        // It is so after a start, and ends with the endpoint's leave.
        let addresses = own(&web).await;
        engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");
        let engine = lab.next_engine().await;
        assert!(engine.repairs().is_empty(), "{:?}", engine.repairs());
        let network = engine.controller().network(routed.id()).expect("kept");
        let web = network.endpoint(web.id()).await.expect("kept");
        let server = engine.controller().sandbox(server.id()).expect("kept");
        for own in addresses {
            assert!(matches!(comes(neighbour, SocketAddr::new(own, 80)).await, Heard::From(_)));
        }
        web.leave(&server).await.expect("left");
        let table = run("nft list table inet netloom");
        for own in addresses {
            assert!(!table.contains(&own.to_string()), "{table}");
        }
        delete_everything(&engine).await;
    });
}

#[test]
fn each_family_has_a_mode_of_its_own() {
    in_lab(async |lab| {
        let lan = dual_lan(&lab).await;
        let neighbour = Who::Neighbour(&lan);
        serve_at(neighbour, &[700]).await;
        let engine = lab.engine().await;
        for (number, modes) in
            [(82, ["nat", "nat-unprotected"]), (83, ["nat-unprotected", "routed"]), (84, ["routed", "nat"])]
        {
            let name = modes.join("-and-");
            let network = create(&engine, dual(&name, number, &[(MODE4, modes[0]), (MODE6, modes[1])])).await;
            let (web, server) = published(&engine, &network, &name, &[tcp(8080, 80)]).await;
            serve(&server, &[80, 81]).await;
            let sides = [(NEIGHBOUR, HOST), (ip(NEIGHBOUR6), HOST6)];
            for ((mode, own), (seen, host)) in modes.into_iter().zip(own(&web).await).zip(sides) {
                let direct = |port| SocketAddr::new(own, port);
                let is_open = |heard| heard == Heard::From(seen);
                let (published, other, from_host) = match mode {
                    "nat" => (false, false, true),
                    "nat-unprotected" => (true, true, true),
                    "routed" => (true, false, false),
                    other => unreachable!("no mode {other}"),
                };
                for (port, open) in [(80, published), (81, other)] {
                    if open {
                        assert!(is_open(comes(neighbour, direct(port)).await), "{mode} {own} {port}");
                    } else {
                        assert!(is_shut_out(neighbour, direct(port)).await, "{mode} {own} {port}");
                    }
                }
                let heard = comes(neighbour, at(host, 8080)).await;
                assert_eq!(heard, if from_host { Heard::From(seen) } else { Heard::Refused }, "{mode} {own}");
                let leaves = if from_host { ip(host) } else { own };
                let heard = comes(Who::In(&server), SocketAddr::new(seen, 700)).await;
                assert_eq!(heard, Heard::From(leaves), "{mode} {own}");
            }
            let ports = ports_of(&web).await;
            let expected = match number {
                82 => "0.0.0.0:8080, [::]:8080/tcp->80",
                83 => "0.0.0.0:8080/tcp->80",
                _ => "[::]:8080/tcp->80",
            };
            assert_eq!(ports, [expected]);
            web.leave(&server).await.expect("left");
        }
        delete_everything(&engine).await;
    });
}

#[test]
fn an_isolated_network_does_not_even_reach_the_host() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        for (number, modes, reaches) in [
            (85, ["nat", "nat"], [true, true]),
            (86, ["isolated", "isolated"], [false, false]),
            (87, ["isolated", "nat"], [false, true]),
            (88, ["nat", "isolated"], [true, false]),
        ] {
            let name = modes.join("-and-");
            let spec = dual(&name, number, &[(MODE4, modes[0]), (MODE6, modes[1])]).internal(true);
            let network = create(&engine, spec).await;
            let (one, first) = joined(&engine, &network, "one").await;
            let (_, second) = joined(&engine, &network, "two").await;
            let gateways = [format!("10.{number}.0.1"), format!("fd00:{number}::1")];
            for ((own, gateway), reaches) in own(&one).await.into_iter().zip(gateways).zip(reaches) {
                assert!(pings(&second, own, PATIENCE).await, "{name}: its own");
                let patience = if reaches { PATIENCE } else { SILENCE };
                assert_eq!(pings(&first, ip(&gateway), patience).await, reaches, "{name}: {gateway}");
            }
            let short = network.id().short().to_string();
            let bridge = lab.kernel.links(Netns::Host, soon()).await.expect("links");
            let bridge = bridge.into_iter().find(|link| link.name.as_str().ends_with(&*short));
            let bridge = bridge.expect("it has one");
            let all = lab.kernel.addresses(Netns::Host, soon()).await.expect("addresses");
            let has = |v4| {
                let mut of_bridge = all.iter().filter(|view| view.link == bridge.index);
                of_bridge.any(|view| view.address.addr().is_ipv4() == v4)
            };
            assert_eq!([has(true), has(false)], reaches, "{name}: not a link-local one either");
            let gateway = engine.inspect().await.expect("inspected").sandboxes;
            assert!(gateway.iter().all(|sandbox| sandbox.gateway.is_none() && sandbox.gateway6.is_none()));
        }
        engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");
        let engine = lab.next_engine().await;
        assert!(engine.repairs().is_empty(), "{:?}", engine.repairs());
        assert!(engine.diff().await.expect("compared").is_empty());
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

#[test]
fn a_bridge_may_leave_the_gateways_address_to_somebody_else() {
    in_lab(async |mut lab| {
        let lan = dual_lan(&lab).await;
        run("ip link add lan0 type bridge");
        let router = "eth1".parse().expect("a name");
        let plugged = Op::CreateVeth {
            host: "port1".parse().expect("a name"),
            peer: router,
            netns: lan.netns,
            master: Some("lan0".parse().expect("a name")),
            mac: None,
            mtu: None,
            tag: LinkTag::new("others", "uplink", "router"),
        };
        does(&lan.kernel, vec![plugged]).await;
        let up = |netns, name: &str| Op::SetLink { netns, name: name.parse().expect("a name"), up: true };
        let own =
            vec![add(lan.netns, "eth1", "10.89.0.1/24"), up(lan.netns, "eth1"), up(Netns::Host, "port1")];
        does(&lan.kernel, own).await;
        lab.remember().await;
        let engine = lab.engine().await;
        let options =
            [("com.docker.network.bridge.name", "lan0"), ("com.docker.network.bridge.inhibit_ipv4", "true")];
        let network = create(&engine, dual("lan", 89, &options)).await;
        let (_, one) = joined(&engine, &network, "one").await;
        assert!(pings(&one, NEIGHBOUR, PATIENCE).await, "through the router");
        let addresses = lab.kernel.addresses(Netns::Host, soon()).await.expect("addresses");
        assert!(addresses.iter().all(|view| view.address.addr() != ip("10.89.0.1")), "{addresses:?}");
        assert!(addresses.iter().any(|view| view.address.addr() == ip("fd00:89::1")), "of IPv6 it has one");
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

#[test]
fn the_loopback_leads_to_ports_on_a_bridge_of_the_users_and_its_setting_is_put_back() {
    in_lab(async |lab| {
        const SETTING: &str = "ipv4/conf/lan0/route_localnet";
        run("ip link add lan0 type bridge");
        let says = async || lab.kernel.read_setting(Netns::Host, SETTING, soon()).await.expect("read");
        for before in ["0", "1"] {
            let set = Op::Sysctl { netns: Netns::Host, key: SETTING.into(), value: before.into() };
            does(&lab.kernel, vec![set]).await;
            let engine = lab.next_engine().await;
            let named = [("com.docker.network.bridge.name", "lan0")];
            let network = create(&engine, dual("lan", 90, &named)).await;
            let (_, server) = published(&engine, &network, "web", &[tcp(8080, 80)]).await;
            serve(&server, &[80]).await;
            let heard = comes(Who::Host, at("127.0.0.1", 8080)).await;
            assert_eq!(heard, Heard::From(ip("10.90.0.1")), "by way of the kernel");
            assert_eq!(says().await, "1");
            // Not even the next engine takes it for what was there before.
            engine.shutdown(ShutdownMode::Immediate).await.expect("it ends");
            let engine = lab.next_engine().await;
            assert!(matches!(comes(Who::Host, at("127.0.0.1", 8080)).await, Heard::From(_)));
            delete_everything(&engine).await;
            assert_eq!(says().await, before);
            engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");
        }
        // Where nothing of the host's leads there, nothing is changed.
        let set = Op::Sysctl { netns: Netns::Host, key: SETTING.into(), value: "0".into() };
        does(&lab.kernel, vec![set]).await;
        let engine = lab.next_engine().await;
        let routed = [("com.docker.network.bridge.name", "lan0"), (MODE4, "routed")];
        create(&engine, dual("lan", 90, &routed)).await;
        assert_eq!(says().await, "0");
        delete_everything(&engine).await;
    });
}

#[test]
fn containers_leave_under_the_address_of_the_host_that_is_named() {
    in_lab(async |lab| {
        let lan = dual_lan(&lab).await;
        let neighbour = Who::Neighbour(&lan);
        serve_at(neighbour, &[700]).await;
        let second =
            [add(Netns::Host, "uplink", "192.0.2.7/24"), add(Netns::Host, "uplink", "2001:db8::7/64")];
        does(&lan.kernel, second.into()).await;
        let engine = lab.engine().await;
        let named =
            [("com.docker.network.host_ipv4", "192.0.2.7"), ("com.docker.network.host_ipv6", "2001:db8::7")];
        let seen = async |network: &Network| {
            let (_, sandbox) = joined(&engine, network, "one").await;
            let of = async |to| comes(Who::In(&sandbox), SocketAddr::new(to, 700)).await;
            [of(NEIGHBOUR).await, of(ip(NEIGHBOUR6)).await]
        };
        let network = create(&engine, dual("named", 91, &named)).await;
        assert_eq!(seen(&network).await, [Heard::From(ip("192.0.2.7")), Heard::From(ip("2001:db8::7"))]);
        let plain = create(&engine, dual("plain", 92, &[])).await;
        let heard = seen(&plain).await;
        assert!(!heard.contains(&Heard::From(ip("192.0.2.7"))), "{heard:?}");
        assert!(heard.iter().all(|heard| matches!(heard, Heard::From(_))), "{heard:?}");
        delete_everything(&engine).await;
    });
}

#[test]
fn ports_are_published_on_the_networks_own_address_where_they_name_none() {
    in_lab(async |lab| {
        let lan = dual_lan(&lab).await;
        let neighbour = Who::Neighbour(&lan);
        let engine = lab.engine().await;
        for (number, binding, heard, host) in [
            (93, HOST, [true, false], HOST),
            (94, HOST6, [false, true], HOST6),
            (95, "127.0.0.1", [false, false], "127.0.0.1"),
            (96, "0.0.0.0", [true, true], "127.0.0.1"),
        ] {
            let option = [("com.docker.network.bridge.host_binding_ipv4", binding)];
            let network = create(&engine, dual(&format!("n{number}"), number, &option)).await;
            let bindings = [tcp(8080, 80), tcp(9091, 80).on(ip("0.0.0.0"))];
            let (web, server) = published(&engine, &network, &format!("web{number}"), &bindings).await;
            serve(&server, &[80]).await;
            for (to, seen, heard) in [(HOST, NEIGHBOUR, heard[0]), (HOST6, ip(NEIGHBOUR6), heard[1])] {
                let expected = if heard { Heard::From(seen) } else { Heard::Refused };
                assert_eq!(comes(neighbour, at(to, 8080)).await, expected, "{binding} at {to}");
            }
            let own = comes(Who::Host, at(host, 8080)).await;
            assert!(matches!(own, Heard::From(_)), "{binding}: the host at {host}: {own:?}");
            assert_eq!(comes(neighbour, at(HOST, 9091)).await, Heard::From(NEIGHBOUR), "named");
            web.leave(&server).await.expect("left");
        }
        delete_everything(&engine).await;
    });
}

fn configured(options: &[(&str, &str)]) -> EngineConfig {
    let options: BTreeMap<_, _> =
        options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    EngineConfig { drivers: [("bridge".to_owned(), options)].into(), ..EngineConfig::default() }
}

/// A server of ports 80, which is published on the host's port 8080, 81, and 82, which is published on its loopback.
async fn web(engine: &Engine, spec: NetworkSpec) -> (Endpoint, Sandbox) {
    let network = create(engine, spec).await;
    let bindings = [tcp(8080, 80), tcp(8082, 82).on(ip("127.0.0.1"))];
    let (web, server) = published(engine, &network, "web", &bindings).await;
    serve(&server, &[80, 81, 82]).await;
    (web, server)
}

#[test]
fn trusted_interfaces_a_mark_and_direct_routing_reach_what_they_say() {
    for rules in ALL {
        in_lab(move |lab| reach_what_they_say(lab, rules));
    }
}

async fn reach_what_they_say(mut lab: Lab, rules: Rules) {
    rules.choose(&mut lab);
    let lan = dual_lan(&lab).await;
    let neighbour = Who::Neighbour(&lan);
    let trust = ("com.docker.network.bridge.trusted_host_interfaces", "wg7:uplink");
    for (config, trusted, marked, reached) in [
        (&[][..], false, false, [false, false, false]),
        (&[], true, false, [true, false, false]),
        (&[("bridge_accept_fwmark", "0x2/0x3")], false, false, [false, false, false]),
        (&[("bridge_accept_fwmark", "0x2/0x3")], false, true, [true, true, true]),
        (&[("allow_direct_routing", "true")], false, false, [true, false, false]),
    ] {
        let engine = lab.next_engine_with(configured(config)).await;
        let options = if trusted { &[trust][..] } else { &[] };
        let (web, _) = web(&engine, dual("blue", 97, options)).await;
        if marked {
            run("nft add table inet marks");
            run("nft 'add chain inet marks first { type filter hook prerouting priority -150 ; }'");
            run("nft add rule inet marks first iifname uplink meta mark set 0x12e");
        }
        for (own, seen) in own(&web).await.into_iter().zip([NEIGHBOUR, ip(NEIGHBOUR6)]) {
            for (port, reached) in [80, 81, 82].into_iter().zip(reached) {
                let to = SocketAddr::new(own, port);
                if reached {
                    assert_eq!(comes(neighbour, to).await, Heard::From(seen), "{config:?} {to}");
                } else {
                    assert!(is_shut_out(neighbour, to).await, "{config:?} {to}");
                }
            }
        }
        assert_eq!(comes(neighbour, at(HOST, 8080)).await, Heard::From(NEIGHBOUR));
        if marked {
            run("nft delete table inet marks");
        }
        delete_everything(&engine).await;
        engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");
    }
}

#[test]
fn ranges_of_a_containers_ports_may_overlap_and_open_ports_are_the_same_in_both_families() {
    in_lab(async |lab| {
        let lan = dual_lan(&lab).await;
        let neighbour = Who::Neighbour(&lan);
        let engine = lab.engine().await;
        for (number, modes) in [(98, ["nat", "nat"]), (99, ["routed", "routed"])] {
            let options = [(MODE4, modes[0]), (MODE6, modes[1])];
            let network = create(&engine, dual(modes[0], number, &options)).await;
            let row = |host: u16, inside: u16| (0..6).map(move |n| tcp(host + n, inside + n));
            let any = PortBinding::any(TransportPort::tcp(82));
            let open = [any.on(ip("0.0.0.0")), any.on(ip("::"))];
            let bindings: Vec<_> = row(8080, 80).chain(row(9180, 83)).chain(open).collect();
            let (web, server) = published(&engine, &network, modes[0], &bindings).await;
            serve(&server, &[82, 84, 88]).await;
            let addresses = own(&web).await;
            let to = |v4: bool, host: u16, inside: u16| match (modes[0], v4) {
                ("nat", true) => at(HOST, host),
                ("nat", false) => at(HOST6, host),
                (_, v4) => SocketAddr::new(addresses[usize::from(!v4)], inside),
            };
            for (v4, seen) in [(true, NEIGHBOUR), (false, ip(NEIGHBOUR6))] {
                for (host, inside) in [(8082, 82), (8084, 84), (9181, 84), (9185, 88)] {
                    let to = to(v4, host, inside);
                    assert_eq!(comes(neighbour, to).await, Heard::From(seen), "{to}");
                }
            }
            if modes[0] == "nat" {
                let had = web.inspect().await.expect("inspected").published.0.clone();
                let one = &had.last().expect("published").host;
                assert_eq!((one.addresses.len(), one.range.count()), (2, 1), "{one:?}");
                let port = one.range.first;
                assert_eq!(comes(neighbour, at(HOST, port)).await, Heard::From(NEIGHBOUR));
                assert_eq!(comes(neighbour, at(HOST6, port)).await, Heard::From(ip(NEIGHBOUR6)));
            }
            web.leave(&server).await.expect("left");
        }
        delete_everything(&engine).await;
    });
}
