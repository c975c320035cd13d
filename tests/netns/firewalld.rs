//! A host with firewalld: a real one, on a bus of its own, in the lab's namespaces. Seen by packets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netloom::firewalld::{DbusFirewalld, Event, Firewalld, Request, Trouble, ZONE};
use netloom::kernel::{Kernel, Op, Route, isolate};
use netloom::snapshot::{FirewallSnapshot, Obstacle};
use netloom::{Engine, Network, NetworkSpec, Sandbox, ShutdownMode};

use crate::lab::{Lab, address, delete_everything, in_lab, joined, pings, soon};
use crate::published::{HOST, Heard, NEIGHBOUR, Who, at, comes, published, serve, serve_at, tcp};
use crate::rules::{Rules, run};
use crate::wall::{Lan, lan, neighbour, network};

const PATIENCE: Duration = Duration::from_secs(10);
/// How soon after firewalld has done something all is well again: several of its own starts.
const SETTLED: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_millis(300);
/// How long one that hangs holds up a network: one request of five seconds, on a busy machine.
const HELD: Duration = Duration::from_secs(15);

/// A bus on which anybody may do everything, as root may on a host's.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/>
    <allow send_type="method_call"/> <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>"#;

/// firewalld and its bus. Both end with this, and with the thread that started them.
struct Host {
    address: String,
    bus: Child,
    daemon: Option<Child>,
}

impl Host {
    /// A bus, and nobody on it.
    fn new(lab: &Lab) -> Self {
        let socket = lab.dir.path().join("bus");
        let file = lab.dir.path().join("bus.conf");
        std::fs::write(&file, BUS.replace("SOCKET", &socket.display().to_string())).expect("written");
        // What firewalld keeps is the lab's.
        run(
            "mkdir -p /etc/firewalld /var/log && mount -t tmpfs tmpfs /etc/firewalld && mount -t tmpfs tmpfs /var/log",
        );
        run("mountpoint -q /run || mount -t tmpfs tmpfs /run");
        let mut bus = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "dbus-daemon", "--nofork", "--nopidfile", "--print-address=1"])
            .arg(format!("--config-file={}", file.display()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon must be installed (package dbus)");
        let mut line = String::new();
        BufReader::new(bus.stdout.take().expect("piped")).read_line(&mut line).expect("an address");
        assert!(line.starts_with("unix:path="), "no bus: {line:?}");
        Self { address: format!("unix:path={}", socket.display()), bus, daemon: None }
    }

    fn client(&self) -> Arc<DbusFirewalld> {
        Arc::new(DbusFirewalld::at(&*self.address).expect("a thread"))
    }

    /// Starts firewalld, and returns when it answers.
    async fn start(&mut self) {
        let daemon = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "firewalld", "--nofork", "--nopid"])
            .env("DBUS_SYSTEM_BUS_ADDRESS", &self.address)
            .stdout(Stdio::null())
            .spawn();
        self.daemon = Some(daemon.expect("firewalld must be installed (package firewalld)"));
        let patience = soon();
        while !self.asked("--state") {
            assert!(Instant::now() < patience, "firewalld does not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn stop(&mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        run(&format!("kill {}", daemon.id()));
        daemon.wait().expect("it ends");
    }

    fn signal(&self, signal: &str) {
        run(&format!("kill -{signal} {}", self.daemon.as_ref().expect("it runs").id()));
    }

    fn asked(&self, words: &str) -> bool {
        let command = format!("DBUS_SYSTEM_BUS_ADDRESS={} firewall-cmd -q {words}", self.address);
        let status = Command::new("sh").args(["-c", &command]).stderr(Stdio::null()).status();
        status.expect("a shell").success()
    }

    /// Runs `firewall-cmd`.
    #[track_caller]
    fn command(&self, words: &str) -> String {
        self.shell(&format!("firewall-cmd {words}"))
    }

    /// Runs a command of the host's shell.
    #[track_caller]
    fn shell(&self, command: &str) -> String {
        run(&format!("export DBUS_SYSTEM_BUS_ADDRESS={}; {command}", self.address))
    }

    fn zone(&self) -> Vec<String> {
        let listed = self.command("--zone=netloom --list-interfaces");
        let mut names: Vec<_> = listed.split_whitespace().map(str::to_owned).collect();
        names.sort();
        names
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in self.daemon.iter_mut().chain([&mut self.bus]) {
            // One that has ended is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn inspected(engine: &Engine) -> FirewallSnapshot {
    engine.inspect().await.expect("inspected").firewall.expect("there")
}

async fn obstacles(engine: &Engine) -> Vec<Obstacle> {
    inspected(engine).await.obstacles
}

/// Time passes until this holds.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let patience = Instant::now() + SETTLED;
    while !holds().await {
        assert!(Instant::now() < patience, "not within {SETTLED:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A network whose bridge has its name and a zero.
async fn made(engine: &Engine, name: &str, change: impl FnOnce(NetworkSpec) -> NetworkSpec) -> Network {
    network(engine, name, |spec| change(spec.option("com.docker.network.bridge.name", format!("{name}0"))))
        .await
}

fn routed(spec: NetworkSpec) -> NetworkSpec {
    spec.option("com.docker.network.bridge.gateway_mode_ipv4", "routed")
}

/// The neighbour knows the way to containers.
async fn knows_the_way(lan: &Lan) {
    let route = Route {
        destination: "172.16.0.0/12".parse().expect("a subnet"),
        via: Some(HOST.parse().expect("an address")),
        link: "eth0".parse().expect("a name"),
    };
    let added = lan.kernel.execute(vec![Op::AddRoute { netns: lan.netns, route }], soon()).await;
    added.into_iter().for_each(|one| one.expect("a way"));
}

#[test]
fn containers_reach_the_world_and_are_reached_through_a_host_with_firewalld() {
    for rules in [Rules::Nftables, Rules::Iptables("nft")] {
        in_lab(move |lab| through_the_host(lab, rules));
    }
}

async fn through_the_host(mut lab: Lab, rules: Rules) {
    rules.choose(&mut lab);
    let mut host = Host::new(&lab);
    let lan = lan(&lab).await;
    knows_the_way(&lan).await;
    let from = Who::Neighbour(&lan);
    serve_at(Who::Host, &[700]).await;
    host.start().await;
    assert!(!matches!(comes(from, at(HOST, 700)).await, Heard::From(_)), "the default zone refuses");

    // The engine's rules let it all through, and firewalld does not.
    let engine = lab.builder().start().await.expect("it starts");
    let blue = made(&engine, "blue", |spec| spec).await;
    let open = made(&engine, "open", routed).await;
    let (_, web) = published(&engine, &blue, "web", &[tcp(8080, 80)]).await;
    let (own, server) = published(&engine, &open, "server", &[tcp(8081, 80)]).await;
    serve(&web, &[80]).await;
    serve(&server, &[80]).await;
    let own = SocketAddr::new(address(&own).await, 80);
    assert!(!pings(&web, neighbour(), SILENCE).await, "not in the zone");
    assert!(!matches!(comes(from, own).await, Heard::From(_)), "not in the zone");
    engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");

    let engine = lab.builder().firewalld(host.client()).start().await.expect("it starts");
    let of = |sandbox: &Sandbox| engine.controller().sandbox(sandbox.id()).expect("kept");
    let (web, server) = (of(&web), of(&server));
    assert!(pings(&web, neighbour(), SETTLED).await);
    let bridges = ["blue0", "open0"];
    until("both are in the zone", async || host.zone() == bridges).await;
    assert_eq!(comes(from, at(HOST, 8080)).await, Heard::From(NEIGHBOUR));
    assert_eq!(comes(from, own).await, Heard::From(NEIGHBOUR), "by the policy");
    assert!(pings(&server, neighbour(), PATIENCE).await);
    assert!(!matches!(comes(from, at(HOST, 700)).await, Heard::From(_)), "the host's own stay refused");
    let seen = inspected(&engine).await;
    assert_eq!(seen.obstacles, []);
    let seen = seen.firewalld.expect("a client");
    assert!(seen.running && !seen.version.is_empty() && seen.trouble.is_none(), "{seen:?}");
    assert_eq!((&*seen.backend, &*seen.zone), ("nftables", ZONE));

    // A reload: connections live, ports lead where they led, and the rules are what they were.
    let before = rules.shown();
    let repairs = inspected(&engine).await.repairs;
    let to = at(HOST, 8080);
    let mut connection =
        from.run(move || std::net::TcpStream::connect_timeout(&to, PATIENCE)).await.expect("served");
    connection.set_read_timeout(Some(PATIENCE)).expect("set");
    host.command("--reload");
    if rules != Rules::Nftables {
        // It flushes all chains of iptables, whoever's they are.
        until("they are there again", async || rules.shown() == before).await;
    }
    assert_eq!(comes(from, at(HOST, 8080)).await, Heard::From(NEIGHBOUR));
    until("both are in the zone again", async || host.zone() == bridges).await;
    assert!(pings(&web, neighbour(), PATIENCE).await);
    assert_eq!(comes(from, own).await, Heard::From(NEIGHBOUR));
    connection.write_all(b"there?").expect("sent");
    let mut said = Vec::new();
    while !said.ends_with(b"there?") {
        let mut byte = [0; 1];
        connection.read_exact(&mut byte).expect("it lives");
        said.push(byte[0]);
    }
    assert_eq!(rules.shown(), before);
    if rules == Rules::Nftables {
        assert_eq!(inspected(&engine).await.repairs, repairs, "nobody had to repair them");
    }

    // What was removed does not come back.
    server.delete().await.expect("deleted");
    let gone = engine.controller().network(open.id()).expect("kept");
    for endpoint in gone.endpoints().await.expect("listed") {
        endpoint.delete().await.expect("deleted");
    }
    gone.delete().await.expect("deleted");
    assert_eq!(host.zone(), ["blue0"], "out when that is answered");
    host.command("--reload");
    until("what is there is in again", async || host.zone() == ["blue0"]).await;
    assert!(pings(&web, neighbour(), PATIENCE).await);
    delete_everything(&engine).await;
    assert_eq!(host.zone(), [""; 0]);
    engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");
}

#[test]
fn firewalld_may_come_late_be_started_again_and_hang() {
    in_lab(async |lab| {
        let mut host = Host::new(&lab);
        lan(&lab).await;
        let engine = lab.builder().firewalld(host.client()).start().await.expect("it starts");
        let blue = made(&engine, "blue", |spec| spec).await;
        let (_, web) = joined(&engine, &blue, "web").await;
        assert!(pings(&web, neighbour(), PATIENCE).await);
        let seen = inspected(&engine).await;
        assert_eq!((seen.firewalld.expect("a client").running, seen.obstacles), (false, Vec::new()));
        for _ in 0..2 {
            host.start().await;
            until("it is in the zone", async || host.asked("--zone=netloom --query-interface=blue0")).await;
            assert!(pings(&web, neighbour(), PATIENCE).await);
            host.stop();
            until("it is seen", async || !inspected(&engine).await.firewalld.expect("a client").running)
                .await;
            assert!(pings(&web, neighbour(), PATIENCE).await);
        }
        host.start().await;
        until("it is in the zone", async || host.asked("--zone=netloom --query-interface=blue0")).await;
        until("it is seen", async || {
            inspected(&engine).await.firewalld.expect("a client").bridges.len() == 1
        })
        .await;

        // It hangs: networks come all the same, and it is told why packets may not pass.
        host.signal("STOP");
        let began = Instant::now();
        let red = made(&engine, "red", |spec| spec).await;
        assert!(began.elapsed() < HELD, "{:?}", began.elapsed());
        let (_, late) = joined(&engine, &red, "late").await;
        let found = obstacles(&engine).await;
        let told = found.iter().find(|one| one.name == "firewalld").expect("told");
        assert!(told.what.contains("red0") && !told.what.contains("blue0"), "{}", told.what);
        assert!(!pings(&late, neighbour(), SILENCE).await);
        host.signal("CONT");
        until("both are in the zone", async || host.zone() == ["blue0", "red0"]).await;
        assert!(pings(&late, neighbour(), PATIENCE).await);
        until("nothing is in the way", async || obstacles(&engine).await.is_empty()).await;
        delete_everything(&engine).await;
        assert_eq!(host.zone(), [""; 0]);
        engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");
    });
}

#[test]
fn a_bridge_that_a_user_moves_stays_there_and_the_remedy_brings_it_back() {
    in_lab(async |lab| {
        let mut host = Host::new(&lab);
        lan(&lab).await;
        host.start().await;
        let client = host.client();
        let mut events = client.events();
        let heard = futures::StreamExt::next(&mut events).await;
        assert_eq!(heard, Some(Event::Appeared));
        let engine = lab.builder().firewalld(client).start().await.expect("it starts");
        until("it is seen", async || inspected(&engine).await.firewalld.expect("a client").running).await;
        let blue = made(&engine, "blue", |spec| spec).await;
        assert_eq!(host.zone(), ["blue0"], "when the network is answered");
        assert_eq!(futures::StreamExt::next(&mut events).await, Some(Event::Reloaded), "for the new zone");
        let (_, web) = joined(&engine, &blue, "web").await;
        // What once passed is a connection, which is let through: this one has sent nothing yet.
        let (_, other) = joined(&engine, &blue, "other").await;
        assert!(pings(&web, neighbour(), PATIENCE).await);
        // What its chains accept by rules that are not understood here is no obstacle to what is in its zone.
        run("nft add chain inet firewalld way '{ type filter hook forward priority 5; policy drop; }' && \
             nft add rule inet firewalld way ct state new,established,related accept");
        assert_eq!(obstacles(&engine).await, []);
        host.command("--zone=dmz --change-interface=blue0");
        run("nft flush chain inet firewalld way && nft delete chain inet firewalld way");
        assert!(!pings(&other, neighbour(), SILENCE).await);
        until("it is told", async || obstacles(&engine).await.len() == 1).await;
        let found = obstacles(&engine).await;
        assert!(found[0].what.contains("zone dmz"), "{found:?}");
        assert_eq!(host.command("--get-zone-of-interface=blue0").trim(), "dmz", "it is left there");
        for command in &found[0].remedy {
            host.shell(command);
        }
        assert!(pings(&other, neighbour(), PATIENCE).await);
        until("nothing is in the way", async || obstacles(&engine).await.is_empty()).await;
        delete_everything(&engine).await;
        engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");
    });
}

#[test]
fn firewalld_of_another_network_namespace_is_left_alone() {
    in_lab(async |lab| {
        let mut host = Host::new(&lab);
        host.start().await;
        let address = host.address.clone();
        let elsewhere = std::thread::spawn(move || {
            isolate::enter_own_namespaces().expect("namespaces can be made");
            let client = DbusFirewalld::at(address).expect("a thread");
            let mut events = client.events();
            let first = futures::executor::block_on(futures::StreamExt::next(&mut events));
            assert_eq!(first, Some(Event::Appeared));
            futures::executor::block_on(client.call(Request::Running, soon()))
        });
        let answer = elsewhere.join().expect("it ends").expect_err("not its own");
        assert!(
            matches!(&answer, Trouble::Away(why) if why.contains("another network namespace")),
            "{answer}"
        );
    });
}
