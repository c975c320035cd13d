//! Names asked for by programs of others inside of sandboxes: over UDP and TCP, by `dig` and by the C library, while the
//! engine goes and comes, beside a server of the container's own, and of upstreams in other namespaces.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use netloom::kernel::{Kernel, LinkTag, Netns, Op};
use netloom::snapshot::NameServerSnapshot;
use netloom::{
    Endpoint, EndpointSpec, Engine, JoinSpec, Network, NetworkSpec, Sandbox, SandboxKey, SandboxSpec,
    ShutdownMode,
};

use crate::lab::{Lab, address, delete_everything, in_lab, joined, soon};

/// What a fake upstream answers with.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// How long a name may take to be right.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a program inside of a sandbox, and returns what it prints.
async fn inside(sandbox: &Sandbox, program: &str, args: &[&str]) -> (bool, String) {
    let key = sandbox.key().expect("it has one");
    let net = [OsStr::from_bytes(b"--net="), key.as_os_str()].into_iter().fold(
        std::ffi::OsString::new(),
        |mut all, part| {
            all.push(part);
            all
        },
    );
    let mut command = Command::new("nsenter");
    command.arg(net).arg("--").arg(program).args(args);
    let run = move || command.output().expect("nsenter must be installed (package util-linux)");
    let output = tokio::task::spawn_blocking(run).await.expect("it ends");
    let text = String::from_utf8(output.stdout).expect("text");
    (output.status.success(), text)
}

/// What `dig` says of a name, sorted; each line of an answer, or nothing.
async fn dig(sandbox: &Sandbox, args: &[&str]) -> Vec<String> {
    let asked = [&["@127.0.0.11", "+short", "+timeout=5", "+tries=1"], args].concat();
    let (done, text) = inside(sandbox, "dig", &asked).await;
    assert!(done, "dig must be installed (package bind9-dnsutils), and answered: {args:?}: {text}");
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// The code of an answer.
async fn status(sandbox: &Sandbox, args: &[&str]) -> String {
    let asked = [&["@127.0.0.11", "+timeout=5", "+tries=1"], args].concat();
    let (_, text) = inside(sandbox, "dig", &asked).await;
    let code = text.split("status: ").nth(1).and_then(|rest| rest.split(',').next());
    code.unwrap_or_else(|| panic!("no answer: {text}")).to_owned()
}

async fn server_of(engine: &Engine, sandbox: &Sandbox) -> NameServerSnapshot {
    let all = engine.controller().name_servers().await.expect("listed");
    all.into_iter().find(|server| server.sandbox.id == sandbox.id().to_string()).expect("it has one")
}

/// A name server for everything, where the socket is.
struct Upstream {
    over: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Upstream {
    fn start(socket: UdpSocket) -> Self {
        let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
        let (done, count) = (over.clone(), asked.clone());
        let serve = move || {
            let mut bytes = [0; 1500];
            while !done.load(Ordering::SeqCst) {
                let Ok((length, from)) = socket.recv_from(&mut bytes) else { continue };
                count.fetch_add(1, Ordering::SeqCst);
                socket.send_to(&answer(&bytes[..length]), from).expect("sent");
            }
        };
        Self { over, asked, thread: std::thread::spawn(serve) }
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn end(self) -> u64 {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().expect("it ends");
        self.asked.load(Ordering::SeqCst)
    }
}

/// One A record for whatever is asked: the question's own bytes with an answer that points to its name.
fn answer(question: &[u8]) -> Vec<u8> {
    // The name, its end, type and class.
    let name = question[12..].iter().position(|byte| *byte == 0).expect("a name");
    let end = 12 + name + 1 + 4;
    let mut answer = question[..end].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(ELSEWHERE.octets());
    answer
}

/// Has the host name these name servers. The file is the lab's alone.
fn host_asks(lab: &Lab, servers: &[&str]) -> PathBuf {
    let file = lab.dir.path().join("resolv.conf");
    let text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    std::fs::write(&file, text).expect("written");
    // Where the host's is a link, what it leads to is what is read.
    let real = std::fs::canonicalize("/etc/resolv.conf").unwrap_or_else(|_| "/etc/resolv.conf".into());
    let mounted = Command::new("mount").arg("--bind").args([&file, &real]).status();
    assert!(mounted.expect("mount must be installed (package mount)").success());
    file
}

fn host_asks_no_more() {
    let real = std::fs::canonicalize("/etc/resolv.conf").expect("it is there");
    assert!(Command::new("umount").arg("--lazy").arg(real).status().expect("installed").success());
}

async fn sandbox(engine: &Engine, spec: SandboxSpec, network: &Network, end: EndpointSpec) -> Sandbox {
    let sandbox = engine.controller().create_sandbox(spec).await.expect("a sandbox");
    let endpoint = network.create_endpoint(end).await.expect("an endpoint");
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    sandbox
}

fn dual(name: &str, v4: &str, v6: &str) -> NetworkSpec {
    let subnet = |text: &str| text.parse().expect("a subnet");
    NetworkSpec::new(name).subnet(subnet(v4)).subnet(subnet(v6)).ipv6(true)
}

#[test]
fn programs_in_a_sandbox_find_others_by_name_as_soon_as_they_have_joined() {
    in_lab(|lab| async move {
        host_asks(&lab, &["127.0.0.1"]);
        let engine = lab.engine().await;
        let controller = engine.controller();
        let spec = dual("blue", "10.1.0.0/24", "fd00:1::/64");
        let blue = controller.create_network(spec).await.expect("a network");
        let red = NetworkSpec::new("red").subnet("10.2.0.0/24".parse().expect("a subnet"));
        let red = controller.create_network(red).await.expect("a network");
        let end = EndpointSpec::new("client").link("db", "data");
        let client = sandbox(&engine, SandboxSpec::new("c1"), &blue, end).await;
        // Asked for at once: whoever has joined can ask.
        assert_eq!(dig(&client, &["client"]).await, ["10.1.0.2"]);
        let web = EndpointSpec::new("Web").alias("www");
        let web = sandbox(&engine, SandboxSpec::new("c2"), &blue, web).await;
        sandbox(&engine, SandboxSpec::new("c3"), &blue, EndpointSpec::new("db").alias("www")).await;
        sandbox(&engine, SandboxSpec::new("c4"), &red, EndpointSpec::new("far")).await;
        for transport in ["+notcp", "+tcp"] {
            assert_eq!(dig(&client, &[transport, "web"]).await, ["10.1.0.3"]);
            assert_eq!(dig(&client, &[transport, "WEB.Blue."]).await, ["10.1.0.3"]);
            assert_eq!(dig(&client, &[transport, "www"]).await, ["10.1.0.3", "10.1.0.4"]);
            assert_eq!(dig(&client, &[transport, "data"]).await, ["10.1.0.4"]);
            let v6 = dig(&client, &[transport, "web", "AAAA"]).await;
            assert!(v6.len() == 1 && v6[0].starts_with("fd00:1::"), "{v6:?}");
            assert_eq!(dig(&client, &[transport, "-x", "10.1.0.3"]).await, ["web.blue."]);
        }
        // The alias is the client's own; the other one has no network in which the far one is.
        assert_eq!(status(&web, &["data"]).await, "SERVFAIL");
        assert_eq!(status(&client, &["far.red"]).await, "SERVFAIL");
        // Known, but not so; ours, but nobody's.
        assert_eq!(status(&client, &["web", "MX"]).await, "NOERROR");
        assert_eq!(status(&client, &["-x", "10.1.0.99"]).await, "NXDOMAIN");
        // The C library asks for what resolv.conf says, in the order of its own.
        let file = lab.dir.path().join("inner.conf");
        std::fs::write(&file, "nameserver 127.0.0.11\noptions ndots:0\n").expect("written");
        let script = format!(
            "mount --bind {} $(readlink -f /etc/resolv.conf) && getent ahostsv4 web && getent ahostsv6 web",
            file.display()
        );
        let (done, text) = inside(&client, "unshare", &["--mount", "sh", "-c", &script]).await;
        assert!(done && text.contains("10.1.0.3") && text.contains("fd00:1::"), "{text}");
        // It goes with its endpoint, and nobody outside is asked for it then.
        let endpoint = blue.endpoint_by_name("Web").await.expect("there");
        endpoint.leave(&web).await.expect("left");
        endpoint.delete().await.expect("deleted");
        assert_eq!(status(&client, &["web"]).await, "NXDOMAIN");
        assert_eq!(dig(&client, &["www"]).await, ["10.1.0.4"]);
        let counts = server_of(&engine, &client).await.counts.expect("it has done something");
        assert!(counts.records >= 10 && counts.no_data == 1 && counts.no_such_name == 2, "{counts:?}");
        delete_everything(&engine).await;
        engine.shutdown(ShutdownMode::Graceful).await.expect("stopped");
        host_asks_no_more();
        lab.assert_pristine().await;
    });
}

/// Sockets of a container's own at every address, on port 53.
fn own_server() -> std::io::Result<(UdpSocket, TcpListener)> {
    Ok((UdpSocket::bind("0.0.0.0:53")?, TcpListener::bind("0.0.0.0:53")?))
}

#[test]
fn a_container_has_port_53_for_itself() {
    in_lab(|lab| async move {
        let engine = lab.engine().await;
        let blue = engine.controller().create_network(NetworkSpec::new("blue")).await.expect("a network");
        // One before there is a name server, one after that.
        let early = engine.controller().create_sandbox(SandboxSpec::new("early")).await.expect("a sandbox");
        let before = early.run(own_server).await.expect("it runs").expect("port 53 is free");
        let one = blue.create_endpoint(EndpointSpec::new("one")).await.expect("made");
        one.join(&early, JoinSpec::default()).await.expect("joined");
        let (two, late) = joined(&engine, &blue, "two").await;
        let after = late.run(own_server).await.expect("it runs").expect("port 53 is free");
        assert_eq!(dig(&early, &["two"]).await, [address(&two).await.to_string()]);
        assert_eq!(dig(&late, &["one"]).await, [address(&one).await.to_string()]);
        // Whoever asks another address gets to the container's own.
        let (udp, _tcp) = &after;
        udp.set_read_timeout(Some(PATIENCE)).expect("set");
        let ask = || {
            let client = UdpSocket::bind("127.0.0.1:0")?;
            client.send_to(b"hello", "127.0.0.1:53").map(|_| client)
        };
        let _client = late.run(ask).await.expect("it runs").expect("sent");
        let mut bytes = [0; 16];
        let length = udp.recv(&mut bytes).expect("received");
        assert_eq!(&bytes[..length], b"hello");
        drop((before, after));
        delete_everything(&engine).await;
        engine.shutdown(ShutdownMode::Graceful).await.expect("stopped");
        lab.assert_pristine().await;
    });
}

/// A query for a name's A record.
fn query(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("short"));
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// Asks until there is an answer with an address; how long that took.
fn ask_until_answered(client: &UdpSocket, name: &str, from: Instant) -> Duration {
    client.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
    let mut bytes = [0; 512];
    loop {
        // Refused while nobody is there.
        let _ = client.send(&query(name));
        match client.recv(&mut bytes) {
            Ok(length) if bytes[3] & 15 == 0 && bytes[7] == 1 => {
                assert_eq!(&bytes[length - 4..length], &[10, 1, 0, 2]);
                return from.elapsed();
            }
            Ok(_) | Err(_) => assert!(from.elapsed() < PATIENCE, "nobody answers"),
        }
    }
}

#[test]
fn an_engine_that_comes_again_answers_at_the_same_address_within_a_second() {
    in_lab(|mut lab| async move {
        let engine = lab.engine().await;
        let spec = NetworkSpec::new("blue").subnet("10.1.0.0/24".parse().expect("a subnet"));
        let blue = engine.controller().create_network(spec).await.expect("a network");
        let (_, sandbox) = joined(&engine, &blue, "web").await;
        let netns = sandbox.netns().expect("a name");
        let ports = server_of(&engine, &sandbox).await.ports;
        // A client that keeps its socket: the kernel goes on to lead it to where it was led.
        let connected = || {
            let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
            client.connect("127.0.0.11:53").expect("connected");
            client
        };
        let client = sandbox.run(connected).await.expect("it runs");
        let (client, _) = tokio::task::spawn_blocking(move || {
            let took = ask_until_answered(&client, "web", Instant::now());
            (client, took)
        })
        .await
        .expect("it ends");
        engine.shutdown(ShutdownMode::Graceful).await.expect("stopped");
        drop(engine);
        // Nobody is there now, which is told at once.
        client.send(&query("web")).expect("sent");
        assert!(client.recv(&mut [0; 64]).is_err(), "somebody answered");
        let engine = lab.next_engine().await;
        let began = Instant::now();
        let took = tokio::task::spawn_blocking(move || ask_until_answered(&client, "web", began));
        let took = took.await.expect("it ends");
        assert!(took < Duration::from_secs(1), "it took {took:?}");
        let again = engine.controller().sandbox_by_container("blue-web").expect("there");
        assert_eq!(server_of(&engine, &again).await.ports, ports);
        // Nothing of it holds the namespace: when the sandbox goes, what is in it goes too.
        let probe = Op::CreateVeth {
            host: "probe".parse().expect("a name"),
            peer: "inner".parse().expect("a name"),
            netns: Netns::Named(netns),
            master: None,
            mac: None,
            mtu: None,
            tag: LinkTag::new("somebody", "else", "probe"),
        };
        lab.kernel.execute(vec![probe], soon()).await.remove(0).expect("a link of a stranger's");
        lab.look_anew();
        again.delete().await.expect("deleted");
        let until = Instant::now() + PATIENCE;
        while lab.left().await.iter().any(|line| line.contains("probe")) {
            assert!(Instant::now() < until, "something holds the namespace");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        delete_everything(&engine).await;
        engine.shutdown(ShutdownMode::Graceful).await.expect("stopped");
        lab.assert_pristine().await;
    });
}

#[test]
fn what_nobody_here_knows_is_asked_of_the_hosts_servers_as_they_are_now() {
    in_lab(|lab| async move {
        // On the host's loopback, which no container reaches by itself.
        let file = host_asks(&lab, &["127.0.0.1"]);
        let first = Upstream::start(UdpSocket::bind("127.0.0.1:53").expect("port 53"));
        let second = Upstream::start(UdpSocket::bind("127.0.0.2:53").expect("port 53"));
        let engine = lab.engine().await;
        let controller = engine.controller();
        let blue = controller.create_network(NetworkSpec::new("blue")).await.expect("a network");
        let inner = NetworkSpec::new("inner").internal(true);
        let inner = controller.create_network(inner).await.expect("a network");
        let (_, outer) = joined(&engine, &blue, "web").await;
        let (_, closed) = joined(&engine, &inner, "app").await;
        assert_eq!(dig(&outer, &["example.org"]).await, [ELSEWHERE.to_string()]);
        assert_eq!(dig(&outer, &["web"]).await.len(), 1);
        // No name of an internal network leaves it (CVE-2024-29018).
        let asked = first.asked();
        assert_eq!(asked, 1);
        assert_eq!(status(&closed, &["example.org"]).await, "NXDOMAIN");
        assert_eq!(dig(&closed, &["app"]).await.len(), 1);
        assert_eq!((first.asked(), second.asked()), (asked, 0));
        // The file changes under it.
        std::fs::write(&file, "nameserver 127.0.0.2\n").expect("written");
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let server = server_of(&engine, &outer).await;
            if server.upstreams.iter().map(|one| one.address.ip()).eq([IpAddr::from([127, 0, 0, 2])]) {
                assert!(server.upstreams[0].from_host);
                break;
            }
            assert!(Instant::now() < until, "{server:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(dig(&outer, &["example.net"]).await, [ELSEWHERE.to_string()]);
        assert_eq!((first.end(), second.end()), (1, 1));
        delete_everything(&engine).await;
        engine.shutdown(ShutdownMode::Graceful).await.expect("stopped");
        host_asks_no_more();
        lab.assert_pristine().await;
    });
}

/// A name server in a container of its own.
async fn upstream_in(sandbox: &Sandbox, endpoint: &Endpoint) -> (Upstream, IpAddr) {
    let at = address(endpoint).await;
    let bind = move || UdpSocket::bind(SocketAddr::from((at, 53)));
    (Upstream::start(sandbox.run(bind).await.expect("it runs").expect("port 53")), at)
}

#[test]
fn a_sandboxs_own_servers_are_asked_from_inside_also_in_an_internal_network() {
    in_lab(|lab| async move {
        host_asks(&lab, &["127.0.0.1"]);
        let engine = lab.engine().await;
        let controller = engine.controller();
        let inner = NetworkSpec::new("inner").internal(true);
        let inner = controller.create_network(inner).await.expect("a network");
        let (resolver, home) = joined(&engine, &inner, "resolver").await;
        let (upstream, at) = upstream_in(&home, &resolver).await;
        let client =
            sandbox(&engine, SandboxSpec::new("c1").dns(at), &inner, EndpointSpec::new("client")).await;
        assert_eq!(dig(&client, &["example.org"]).await, [ELSEWHERE.to_string()]);
        assert_eq!(dig(&client, &["resolver"]).await, [at.to_string()]);
        let server = server_of(&engine, &client).await;
        let shown = &server.upstreams[0];
        assert_eq!((shown.address.ip(), shown.from_host, shown.answered), (at, false, 1));
        assert_eq!(upstream.end(), 1);
        delete_everything(&engine).await;
        engine.shutdown(ShutdownMode::Graceful).await.expect("stopped");
        host_asks_no_more();
        lab.assert_pristine().await;
    });
}

#[test]
fn a_namespace_of_somebody_elses_loses_the_rules_with_its_sandbox() {
    in_lab(|lab| async move {
        let container = crate::container::Container::start();
        let engine = lab.engine().await;
        let controller = engine.controller();
        let blue = controller.create_network(NetworkSpec::new("blue")).await.expect("a network");
        let spec = SandboxSpec { namespace: netloom::NamespaceSpec::External, ..SandboxSpec::new("c1") };
        let sandbox = controller.create_sandbox(spec).await.expect("a sandbox");
        let web = blue.create_endpoint(EndpointSpec::new("web")).await.expect("made");
        web.join(&sandbox, JoinSpec::default()).await.expect("a place is kept");
        assert_eq!(controller.name_servers().await.expect("listed"), []);
        sandbox.set_key(SandboxKey::Path(container.netns())).await.expect("told");
        assert_eq!(dig(&sandbox, &["web"]).await, [address(&web).await.to_string()]);
        let rules = || {
            let net = format!("--net={}", container.netns().display());
            let shown = Command::new("nsenter").args([&net, "nft", "list", "ruleset"]).output();
            String::from_utf8(shown.expect("nft must be installed (package nftables)").stdout).expect("text")
        };
        let shown = rules();
        assert!(
            shown.contains("ip daddr 127.0.0.11 udp dport 53") && shown.contains("dnat to :61053"),
            "{shown}"
        );
        sandbox.delete().await.expect("deleted");
        assert_eq!(rules(), "");
        delete_everything(&engine).await;
        engine.shutdown(ShutdownMode::Graceful).await.expect("stopped");
        container.end();
        lab.assert_pristine().await;
    });
}
