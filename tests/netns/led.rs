//! Published ports that the kernel cannot lead to their containers by itself: whoever comes is passed on at the engine's one
//! port, and no published port has a listener of its own.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::time::Duration;

use netloom::{
    EndpointSpec, Engine, EngineConfig, FirewallConfig, JoinSpec, NetworkSpec, PortBinding, SandboxSpec,
    ShutdownMode, TransportPort,
};

use crate::lab::{Lab, delete_everything, in_lab};
use crate::modes::{HOST6, create, dual, dual_lan, own};
use crate::published::{HOST, Heard, Who, at, comes, connection, heard, published, serve, tcp};
use crate::rules::{ALL, Rules, run};
use crate::victim::{Victim, ready, run_until_killed, victim};

/// The first, one in the middle, and the last of a row of a thousand.
const SOME: [u16; 3] = [0, 500, 999];

fn row(first: u16) -> impl Iterator<Item = PortBinding> {
    (first..first + 1_000).map(|port| tcp(port, port))
}

/// Sockets of TCP that listen in the host's network, whoever has them. One that only holds a port does not listen, and the
/// kernel does not list it there (state `0A` of `/proc/net/tcp` is `LISTEN`).
fn listeners() -> usize {
    let files = ["tcp", "tcp6"].map(|file| {
        std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("the kernel tells")
    });
    let listens = |line: &&str| line.split_whitespace().nth(3) == Some("0A");
    files.iter().flat_map(|text| text.lines()).filter(listens).count()
}

/// The engine's own port, by which everything goes that is passed on.
async fn own_port(engine: &Engine) -> u16 {
    let listed = engine.controller().ports().await.expect("listed");
    let mut all: Vec<_> = listed.iter().flat_map(|ports| &ports.served).map(|served| served.via).collect();
    all.dedup();
    let [Some(own)] = all[..] else { panic!("{all:?}") };
    own
}

fn is_from(heard: Heard, who: IpAddr, what: &str) {
    assert_eq!(heard, Heard::From(who), "{what}");
}

#[test]
fn rows_are_reached_at_every_port_and_listened_to_at_none() {
    in_lab(async |lab| {
        let lan = dual_lan(&lab).await;
        let neighbour = Who::Neighbour(&lan);
        let engine = lab.engine().await;
        // One of IPv4 alone, which is asked by IPv6, and one of both families, which is asked by `::1`.
        let blue = create(&engine, NetworkSpec::new("blue")).await;
        let green = create(&engine, dual("green", 81, &[])).await;
        let before = listeners();
        let (web, server) = published(&engine, &blue, "web", &row(7_000).collect::<Vec<_>>()).await;
        let (both, second) = published(&engine, &green, "both", &row(9_000).collect::<Vec<_>>()).await;
        assert_eq!(listeners(), before + 1, "one for two thousand ports");
        serve(&server, &SOME.map(|n| 7_000 + n)).await;
        serve(&second, &SOME.map(|n| 9_000 + n)).await;
        let gateway = web.inspect().await.expect("inspected").gateway.expect("a gateway");
        let gateway6 = both.inspect().await.expect("inspected").gateway6.expect("a gateway");
        for n in SOME {
            for (who, to) in [(Who::Host, "::1"), (Who::Host, HOST6), (neighbour, HOST6)] {
                is_from(comes(who, at(to, 7_000 + n)).await, gateway, "the engine passes on");
            }
            is_from(comes(Who::In(&second), at(HOST6, 7_000 + n)).await, gateway, "from a container");
            is_from(comes(Who::Host, at("::1", 9_000 + n)).await, gateway6, "the engine passes on");
            let itself = "2001:db8::9".parse().expect("an address");
            is_from(comes(neighbour, at(HOST6, 9_000 + n)).await, itself, "the kernel leads by itself");
        }
        for outside in [6_999, 8_000] {
            assert_eq!(comes(Who::Host, at("::1", outside)).await, Heard::Refused, "{outside}");
        }
        // What is published on `::1` is for the host alone; and a client of the engine's own port is led nowhere.
        let local = tcp(5_999, 7_000).on("::1".parse().expect("an address"));
        let (_, third) = published(&engine, &blue, "local", &[local, tcp(6_000, 7_000)]).await;
        serve(&third, &[7_000]).await;
        is_from(comes(Who::Host, at("::1", 5_999)).await, gateway, "on the loopback");
        assert_eq!(comes(neighbour, at(HOST6, 5_999)).await, Heard::Refused);
        let own = own_port(&engine).await;
        assert!(own < 1_024, "nobody without a right can have it, also when there is no engine");
        for (who, to) in [(neighbour, HOST6), (neighbour, HOST), (Who::Host, "::1"), (Who::Host, "127.0.0.1")]
        {
            assert_eq!(comes(who, at(to, own)).await, Heard::Refused, "by itself it is not there: {to}");
        }
        // Whoever wants it is told whose it is.
        let spec = EndpointSpec::new("own").publish(tcp(own, 80));
        let wants = blue.create_endpoint(spec).await.expect("an endpoint");
        let sandbox = engine.controller().create_sandbox(SandboxSpec::new("own")).await.expect("a sandbox");
        let error = wants.join(&sandbox, JoinSpec::default()).await.expect_err("it is taken");
        assert_eq!(error.kind(), netloom::ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains("this engine's own"), "{error}");
        wants.delete().await.expect("deleted");
        sandbox.delete().await.expect("deleted");
        assert_eq!(listeners(), before + 1, "still");

        let listed = engine.controller().ports().await.expect("listed");
        let of_web = listed.iter().find(|ports| ports.endpoint.name == "web").expect("it has ports");
        let [served] = &of_web.served[..] else { panic!("{:?}", of_web.served) };
        assert_eq!((served.port.port, served.last, served.via), (7_000, 7_999, Some(own)));
        assert_eq!(served.total, 12);
        assert_eq!(engine.diff().await.expect("compared"), []);

        // It leaves: whoever is connected learns it at once, whoever comes is refused.
        let mut open = connection(neighbour, at(HOST6, 7_500)).await.expect("led");
        is_from(heard(&mut open), gateway, "before it leaves");
        web.leave(&server).await.expect("left");
        let ended = open.read(&mut [0; 1]).expect_err("it is reset");
        assert_eq!(ended.kind(), ErrorKind::ConnectionReset, "{ended}");
        for to in ["::1", HOST6] {
            assert_eq!(comes(Who::Host, at(to, 7_500)).await, Heard::Refused);
        }
        is_from(comes(Who::Host, at("::1", 9_500)).await, gateway6, "the other one is left alone");
        assert_eq!(engine.diff().await.expect("compared"), []);
        delete_everything(&engine).await;
        let shown = run("nft list ruleset");
        assert!(!shown.contains("netloom"), "{shown}");
        engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");
        assert_eq!(listeners(), before);
    });
}

#[test]
fn after_a_start_ports_are_led_to_wherever_the_engine_is_then() {
    in_lab(async |lab| {
        let _lan = dual_lan(&lab).await;
        let engine = lab.engine().await;
        let blue = create(&engine, NetworkSpec::new("blue")).await;
        let (web, server) = published(&engine, &blue, "web", &[tcp(8_080, 80)]).await;
        serve(&server, &[80]).await;
        let gateway = web.inspect().await.expect("inspected").gateway.expect("a gateway");
        let (own, table) = (own_port(&engine).await, Rules::Nftables.shown());
        is_from(comes(Who::Host, at(HOST6, 8_080)).await, gateway, "at first");
        engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");

        // Somebody else has the engine's port meanwhile, and gets nobody who comes to a published one.
        let squatter = TcpListener::bind(("::", own)).expect("free");
        squatter.set_nonblocking(true).expect("set");
        assert_eq!(comes(Who::Host, at(HOST6, 8_080)).await, Heard::Refused, "no engine, nobody");
        let engine = lab.next_engine().await;
        assert!(engine.repairs().is_empty(), "{:?}", engine.repairs());
        let moved = own_port(&engine).await;
        assert_ne!(moved, own);
        for to in ["::1", HOST6] {
            is_from(comes(Who::Host, at(to, 8_080)).await, gateway, "after the start");
        }
        assert_eq!(squatter.accept().expect_err("nobody came").kind(), ErrorKind::WouldBlock);
        // Two elements say where that is: for those who are led, and for those who come to it of their own accord.
        let differs = |these: &[String], those: &[String]| -> Vec<String> {
            these.iter().filter(|line| !those.contains(line)).cloned().collect()
        };
        let now = Rules::Nftables.shown();
        let both = |port: u16| [format!("tcp . {port}"), format!("tcp : {port}")];
        assert_eq!(differs(&table, &now), both(own));
        assert_eq!(differs(&now, &table), both(moved));
        assert_eq!(engine.diff().await.expect("compared"), []);
        engine.shutdown(ShutdownMode::Immediate).await.expect("it ends");
        drop(squatter);
        let engine = lab.next_engine().await;
        assert_eq!(Rules::Nftables.shown(), table, "the same port as at first");
        delete_everything(&engine).await;
    });
}

#[test]
fn what_was_led_when_the_engine_was_killed_leads_nowhere_until_the_next_one_has_the_port_again() {
    let test =
        "led::what_was_led_when_the_engine_was_killed_leads_nowhere_until_the_next_one_has_the_port_again";
    if let Some(dir) = victim() {
        run_until_killed(&dir, async |engine| {
            let blue = create(&engine, NetworkSpec::new("blue")).await;
            published(&engine, &blue, "web", &[tcp(8_080, 80), tcp(443, 80)]).await;
            ready();
        });
    }
    in_lab(async move |lab| {
        let _lan = dual_lan(&lab).await;
        let victim = Victim::of(&lab, test).await;
        let before = Rules::Nftables.shown();
        victim.kill();
        assert_eq!(Rules::Nftables.shown(), before, "nobody could take it back");
        let own: Vec<u16> =
            before.iter().filter_map(|line| line.strip_prefix("tcp : ")?.parse().ok()).collect();
        let [own] = own[..] else { panic!("{before:?}") };
        // The kernel keeps it from whoever has no right to it.
        let from = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        let from: u16 = from.expect("the kernel tells").trim().parse().expect("a number");
        assert!(own < from, "{own} is anybody's");
        for to in ["::1", HOST6] {
            for port in [8_080, 443] {
                assert_eq!(comes(Who::Host, at(to, port)).await, Heard::Refused, "{to} {port}");
            }
        }
        let engine = lab.next_engine().await;
        assert_eq!(own_port(&engine).await, own);
        assert_eq!(Rules::Nftables.shown(), before);
        let endpoint = engine.controller().network_by_name("blue").expect("it is back");
        let web = endpoint.endpoint_by_name("web").await.expect("it is back");
        let gateway = web.inspect().await.expect("inspected").gateway.expect("a gateway");
        let server = web.inspect().await.expect("inspected").sandbox.expect("joined");
        serve(&engine.controller().sandbox(server).expect("it is back"), &[80]).await;
        for to in ["::1", HOST6] {
            is_from(comes(Who::Host, at(to, 443)).await, gateway, "after the start");
        }
        delete_everything(&engine).await;
    });
}

#[test]
fn engines_beside_each_other_have_ports_of_their_own() {
    in_lab(async |lab| {
        let lan = dual_lan(&lab).await;
        let one = lab.engine().await;
        let dir = tempfile::tempdir().expect("a directory");
        let builder = Engine::builder().config(EngineConfig {
            firewall: FirewallConfig { backend: lab.firewall },
            ..EngineConfig::default()
        });
        let builder = builder.data_dir(dir.path().join("data")).run_dir(dir.path().join("run"));
        let two = builder.instance("second").start().await.expect("beside the first");
        let blue =
            create(&one, NetworkSpec::new("blue").subnet("10.81.0.0/24".parse().expect("a subnet"))).await;
        let red =
            create(&two, NetworkSpec::new("red").subnet("10.82.0.0/24".parse().expect("a subnet"))).await;
        let (web, server) = published(&one, &blue, "web", &[tcp(8_080, 80)]).await;
        let (other, second) = published(&two, &red, "other", &[tcp(8_081, 80)]).await;
        assert_ne!(own_port(&one).await, own_port(&two).await);
        serve(&server, &[80]).await;
        serve(&second, &[80]).await;
        let led = async |port: u16, endpoint: &netloom::Endpoint| {
            let gateway = endpoint.inspect().await.expect("inspected").gateway.expect("a gateway");
            for (who, to) in [(Who::Host, "::1"), (Who::Neighbour(&lan), HOST6)] {
                is_from(comes(who, at(to, port)).await, gateway, "each to its own");
            }
        };
        led(8_080, &web).await;
        led(8_081, &other).await;
        // The end of one is nothing to the other.
        delete_everything(&one).await;
        one.shutdown(ShutdownMode::Graceful).await.expect("it ends");
        led(8_081, &other).await;
        assert_eq!(comes(Who::Host, at("::1", 8_080)).await, Heard::Refused);
        delete_everything(&two).await;
        two.shutdown(ShutdownMode::Graceful).await.expect("it ends");
    });
}

/// Whatever rules are said to.
#[test]
fn the_host_reaches_containers_of_both_families_through_its_ipv6_loopback() {
    for rules in ALL {
        in_lab(move |lab| through_the_loopback(lab, rules));
    }
}

async fn through_the_loopback(mut lab: Lab, rules: Rules) {
    rules.choose(&mut lab);
    let lan = dual_lan(&lab).await;
    let engine = lab.engine().await;
    let green = create(&engine, dual("green", 81, &[])).await;
    let bindings = [tcp(8_080, 80), PortBinding::new(5_353, TransportPort::udp(53))];
    let (both, server) = published(&engine, &green, "both", &bindings).await;
    serve(&server, &[80]).await;
    let socket = server.run(|| UdpSocket::bind(("::", 53))).await.expect("it runs").expect("free");
    std::thread::spawn(move || {
        let mut said = [0; 16];
        while let Ok((count, from)) = socket.recv_from(&mut said) {
            let _ = socket.send_to(&said[..count], from);
        }
    });
    let gateway = both.inspect().await.expect("inspected").gateway6.expect("a gateway");
    is_from(comes(Who::Host, at("::1", 8_080)).await, gateway, "by TCP");
    let client = UdpSocket::bind(("::1", 0)).expect("free");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    client.send_to(b"hello", at("::1", 5_353)).expect("sent");
    let mut said = [0; 16];
    let count = client.recv(&mut said).expect("by UDP");
    assert_eq!(&said[..count], b"hello");
    let [own4, own6] = own(&both).await;
    for (to, from) in [(HOST, "192.0.2.9"), (HOST6, "2001:db8::9")] {
        is_from(
            comes(Who::Neighbour(&lan), at(to, 8_080)).await,
            from.parse().expect("an address"),
            "the LAN",
        );
    }
    let heard = comes(Who::Host, at(HOST6, 8_080)).await;
    assert!(matches!(heard, Heard::From(from) if from != own4 && from != own6), "{heard:?}");
    let mut open = connection(Who::Host, at("::1", 8_080)).await.expect("passed on");
    is_from(crate::published::heard(&mut open), gateway, "by TCP");
    both.leave(&server).await.expect("left");
    let sent = open.write_all(b"still there?");
    let ended = open.read(&mut said).map(|count| assert_eq!(count, 0, "nobody answers"));
    assert!(sent.is_err() || ended.is_err(), "it is reset");
    delete_everything(&engine).await;
}
