//! Published ports, seen through the engine by who comes to them: from the LAN, from the host and from containers.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use netloom::kernel::Kernel;
use netloom::{
    Endpoint, EndpointSpec, Engine, FirewallBackend, JoinSpec, Network, NetworkSpec, PortBinding, Sandbox,
    SandboxSpec, ShutdownMode, TransportPort,
};

use crate::lab::{Lab, address, delete_everything, in_lab, joined, soon};
use crate::rules::{ALL, Rules};
use crate::wall::{Lan, lan};

/// The machine on the LAN.
pub(crate) const NEIGHBOUR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));
/// The host on its LAN.
pub(crate) const HOST: &str = "192.0.2.1";
/// How long something that is dropped on the way is waited for.
const SILENCE: Duration = Duration::from_millis(400);
/// How long something that arrives may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of coming to a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// Who serves it has seen this address.
    From(IpAddr),
    Refused,
    Nothing,
}

/// Who comes.
#[derive(Clone, Copy)]
pub(crate) enum Who<'a> {
    Host,
    Neighbour(&'a Lan),
    In(&'a Sandbox),
}

impl Who<'_> {
    /// Runs a job where somebody is.
    pub(crate) async fn run<T: Send + 'static>(self, job: impl FnOnce() -> T + Send + 'static) -> T {
        match self {
            // The test's own threads are there.
            Self::Host => job(),
            Self::In(sandbox) => sandbox.run(job).await.expect("it runs"),
            Self::Neighbour(lan) => {
                let (sender, result) = std::sync::mpsc::channel();
                let job = Box::new(move || drop(sender.send(job())));
                lan.kernel.run_in(lan.netns, job, soon()).await.expect("it runs");
                result.recv().expect("it ran")
            }
        }
    }
}

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// Serves TCP ports: tells each client its address as it is seen, then whatever it says itself.
pub(crate) async fn serve(sandbox: &Sandbox, ports: &[u16]) {
    serve_at(Who::In(sandbox), ports).await;
}

/// The same wherever somebody is.
pub(crate) async fn serve_at(who: Who<'_>, ports: &[u16]) {
    for port in ports.iter().copied() {
        let listener = who.run(move || TcpListener::bind(("::", port))).await.expect("free");
        std::thread::spawn(move || {
            for client in listener.incoming() {
                std::thread::spawn(move || answer(client.expect("a client")));
            }
        });
    }
}

fn answer(mut client: TcpStream) {
    let Ok(from) = client.peer_addr() else { return };
    let mut said = [0; 256];
    let _ = client.write_all(format!("{}\n", from.ip().to_canonical()).as_bytes());
    while let Ok(count @ 1..) = client.read(&mut said) {
        if client.write_all(&said[..count]).is_err() {
            return;
        }
    }
}

/// Returns when a port of the host is free. A process that was started a moment ago has copies of all descriptors until it is
/// another program.
pub(crate) async fn is_free(port: u16) {
    let patience = soon();
    while let Err(error) = TcpListener::bind(("0.0.0.0", port)) {
        assert!(Instant::now() < patience, "{port}: {error}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Tells each UDP client its address as it is seen.
async fn serve_udp(sandbox: &Sandbox, port: u16) {
    let socket =
        sandbox.run(move || UdpSocket::bind(("0.0.0.0", port))).await.expect("it runs").expect("free");
    std::thread::spawn(move || {
        let mut said = [0; 16];
        while let Ok((_, from)) = socket.recv_from(&mut said) {
            let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
        }
    });
}

pub(crate) fn heard(socket: &mut TcpStream) -> Heard {
    let mut line = Vec::new();
    let mut byte = [0; 1];
    while socket.read_exact(&mut byte).is_ok() && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8(line).ok().and_then(|line| line.parse().ok()).map_or(Heard::Nothing, Heard::From)
}

pub(crate) async fn connection(from: Who<'_>, to: SocketAddr) -> Result<TcpStream, Heard> {
    let patience = if to.port() == SILENT { SILENCE } else { PATIENCE };
    let connected = from.run(move || TcpStream::connect_timeout(&to, patience)).await;
    let socket = connected.map_err(|error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => Heard::Refused,
        _ => Heard::Nothing,
    })?;
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    Ok(socket)
}

/// A port that nobody is expected to answer.
const SILENT: u16 = 9090;

pub(crate) async fn comes(from: Who<'_>, to: SocketAddr) -> Heard {
    connection(from, to).await.map_or_else(|why| why, |mut socket| heard(&mut socket))
}

async fn asks(from: Who<'_>, to: SocketAddr) -> Heard {
    let socket = from.run(|| UdpSocket::bind(("0.0.0.0", 0)).expect("free")).await;
    asks_again(&socket, to)
}

/// Asks until somebody answers: a datagram may be lost.
fn asks_again(socket: &UdpSocket, to: SocketAddr) -> Heard {
    socket.set_read_timeout(Some(SILENCE)).expect("set");
    let mut said = [0; 64];
    for _ in 0..5 {
        match socket.send_to(b"hello", to).and_then(|_| socket.recv(&mut said)) {
            Ok(count) => {
                let text = String::from_utf8_lossy(&said[..count]);
                return Heard::From(text.parse().expect("an address"));
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Heard::Refused,
            Err(_) => {}
        }
    }
    Heard::Nothing
}

pub(crate) async fn published(
    engine: &Engine,
    network: &Network,
    name: &str,
    bindings: &[PortBinding],
) -> (Endpoint, Sandbox) {
    let spec = bindings.iter().fold(EndpointSpec::new(name), |spec, binding| spec.publish(*binding));
    let endpoint = network.create_endpoint(spec).await.expect("an endpoint");
    let sandbox = engine.controller().create_sandbox(SandboxSpec::new(name)).await.expect("a sandbox");
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    (endpoint, sandbox)
}

async fn network(engine: &Engine, name: &str) -> Network {
    engine.controller().create_network(NetworkSpec::new(name)).await.expect("a network")
}

pub(crate) fn tcp(host: u16, inside: u16) -> PortBinding {
    PortBinding::new(host, TransportPort::tcp(inside))
}

pub(crate) async fn ports_of(endpoint: &Endpoint) -> Vec<String> {
    endpoint.inspect().await.expect("inspected").published.0.iter().map(ToString::to_string).collect()
}

#[test]
fn ports_lead_to_their_container_until_it_leaves() {
    for rules in ALL {
        in_lab(move |lab| led_until_it_leaves(lab, rules));
    }
}

async fn led_until_it_leaves(mut lab: Lab, rules: Rules) {
    rules.choose(&mut lab);
    let lan = lan(&lab).await;
    let neighbour = Who::Neighbour(&lan);
    let engine = lab.engine().await;
    let (blue, red) = (network(&engine, "blue").await, network(&engine, "red").await);
    let bindings = [
        tcp(8080, 80),
        tcp(SILENT, 80).on("127.0.0.1".parse().expect("an address")),
        PortBinding::new(5353, TransportPort::udp(53)),
        tcp(7000, 7000),
        tcp(7001, 7001),
    ];
    // It has been asked before it was there.
    let early = neighbour.run(|| UdpSocket::bind(("0.0.0.0", 0)).expect("free")).await;
    assert_eq!(asks_again(&early, at(HOST, 5353)), Heard::Nothing);
    let (web, server) = published(&engine, &blue, "web", &bindings).await;
    let (_, beside) = joined(&engine, &blue, "beside").await;
    let (_, other) = joined(&engine, &red, "other").await;
    serve(&server, &[80, 7000, 7001]).await;
    serve_udp(&server, 53).await;
    assert_eq!(asks_again(&early, at(HOST, 5353)), Heard::From(NEIGHBOUR));
    assert_eq!(
        ports_of(&web).await,
        [
            "0.0.0.0:8080, [::]:8080/tcp->80",
            "127.0.0.1:9090/tcp->80",
            "0.0.0.0:5353, [::]:5353/udp->53",
            "0.0.0.0:7000-7001, [::]:7000-7001/tcp->7000-7001",
        ]
    );

    for port in [8080, 7000, 7001] {
        assert_eq!(comes(neighbour, at(HOST, port)).await, Heard::From(NEIGHBOUR), "{port}");
    }
    assert_eq!(asks(neighbour, at(HOST, 5353)).await, Heard::From(NEIGHBOUR));
    let own = address(&web).await;
    for (who, from) in [("itself", &server), ("beside it", &beside), ("another network", &other)] {
        let heard = comes(Who::In(from), at(HOST, 8080)).await;
        assert!(matches!(heard, Heard::From(_)), "{who}: {heard:?}");
        let lost = comes(Who::In(from), SocketAddr::new(own, SILENT)).await;
        assert!(!matches!(lost, Heard::From(_)), "{who}: {lost:?}");
    }
    for (to, port) in [(HOST, 8080), ("127.0.0.1", 8080), ("::1", 8080), ("127.0.0.1", SILENT)] {
        let heard = comes(Who::Host, at(to, port)).await;
        assert!(matches!(heard, Heard::From(_)), "the host at {to}: {heard:?}");
    }
    // What is published on the loopback is nobody else's, whatever way they find there.
    assert_eq!(comes(neighbour, at(HOST, SILENT)).await, Heard::Refused);
    let way = vec![netloom::kernel::Op::AddRoute {
        netns: lan.netns,
        route: netloom::kernel::Route {
            destination: "127.0.0.1/32".parse().expect("a subnet"),
            via: Some(HOST.parse().expect("an address")),
            link: "eth0".parse().expect("a name"),
        },
    }];
    drop(lan.kernel.execute(way, soon()).await);
    assert_ne!(comes(neighbour, at(HOST, SILENT)).await, Heard::From(NEIGHBOUR));

    let listed = engine.controller().ports().await.expect("listed");
    assert_eq!((listed.len(), listed[0].endpoint.name.as_str()), (1, "web"));
    assert!(listed[0].unheld.is_empty() && !listed[0].leaving);
    let taken = TcpListener::bind("0.0.0.0:8080").expect_err("held");
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    let error = blue.create_endpoint(EndpointSpec::new("late").publish(tcp(7001, 1))).await.expect("not yet");
    let sandbox = engine.controller().create_sandbox(SandboxSpec::new("late")).await.expect("a sandbox");
    let error = error.join(&sandbox, JoinSpec::default()).await.expect_err("taken");
    assert!(error.to_string().contains("endpoint \"web\""), "{error}");

    // It leaves: whoever comes is refused at once, a connection does not hang, and the ports are free.
    let mut open = connection(neighbour, at(HOST, 8080)).await.expect("served");
    assert_eq!(heard(&mut open), Heard::From(NEIGHBOUR));
    web.leave(&server).await.expect("left");
    assert_eq!(comes(neighbour, at(HOST, 8080)).await, Heard::Refused);
    assert!(ports_of(&web).await.is_empty());
    assert_eq!(engine.controller().ports().await.expect("listed"), []);
    is_free(8080).await;
    let said = rules.shown().join(" ");
    assert!(!said.contains("8080") && !said.contains("7000"), "{said}");
    delete_everything(&engine).await;
}

#[test]
fn without_a_firewall_the_engine_itself_passes_on() {
    in_lab(async |mut lab| {
        lab.firewall = FirewallBackend::None;
        let lan = lan(&lab).await;
        let neighbour = Who::Neighbour(&lan);
        let engine = lab.engine().await;
        let blue = network(&engine, "blue").await;
        let bindings = [tcp(8080, 80), PortBinding::new(5353, TransportPort::udp(53))];
        let (web, server) = published(&engine, &blue, "web", &bindings).await;
        serve(&server, &[80]).await;
        serve_udp(&server, 53).await;
        let bridge = web.inspect().await.expect("inspected").gateway.expect("a gateway");
        assert_eq!(comes(neighbour, at(HOST, 8080)).await, Heard::From(bridge), "in the host's name");
        assert_eq!(asks(neighbour, at(HOST, 5353)).await, Heard::From(bridge));
        for to in ["127.0.0.1", "::1"] {
            assert_eq!(comes(Who::Host, at(to, 8080)).await, Heard::From(bridge));
        }
        let listed = engine.controller().ports().await.expect("listed");
        let passed: Vec<_> = listed[0].served.iter().map(|served| (served.port.port, served.total)).collect();
        assert_eq!(passed, [(8080, 3), (5353, 1)]);
        web.leave(&server).await.expect("left");
        assert_eq!(comes(neighbour, at(HOST, 8080)).await, Heard::Refused);
        delete_everything(&engine).await;
    });
}

#[test]
fn ports_and_their_connections_outlive_the_engine() {
    in_lab(async |lab| {
        let lan = lan(&lab).await;
        let neighbour = Who::Neighbour(&lan);
        let engine = lab.engine().await;
        let blue = network(&engine, "blue").await;
        let bindings = [PortBinding::any(TransportPort::tcp(80)), tcp(8080, 80)];
        let (web, server) = published(&engine, &blue, "web", &bindings).await;
        serve(&server, &[80]).await;
        let had = web.inspect().await.expect("inspected").published;
        let dynamic = had.0[0].host.range.first;
        let mut open = connection(neighbour, at(HOST, dynamic)).await.expect("served");
        assert_eq!(heard(&mut open), Heard::From(NEIGHBOUR));
        let table = Rules::Nftables.shown();
        engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");
        for mode in [ShutdownMode::Graceful, ShutdownMode::Immediate] {
            let engine = lab.next_engine().await;
            assert!(engine.repairs().is_empty(), "{:?}", engine.repairs());
            let kept =
                engine.controller().network(blue.id()).expect("kept").endpoint(web.id()).await.expect("kept");
            assert_eq!(kept.inspect().await.expect("inspected").published, had);
            assert_eq!(Rules::Nftables.shown(), table);
            open.write_all(b"still there?").expect("sent");
            let mut said = [0; 12];
            open.read_exact(&mut said).expect("heard");
            assert_eq!(&said, b"still there?");
            for port in [dynamic, 8080] {
                assert_eq!(comes(neighbour, at(HOST, port)).await, Heard::From(NEIGHBOUR));
            }
            let heard = comes(Who::Host, at("::1", 8080)).await;
            assert!(matches!(heard, Heard::From(_)), "through the proxy: {heard:?}");
            engine.shutdown(mode).await.expect("it ends");
        }
        let engine = lab.next_engine().await;
        delete_everything(&engine).await;
        is_free(dynamic).await;
    });
}
