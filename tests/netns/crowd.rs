//! Thirty-two engines at once on one host, as tasks of one process and as processes that are killed: none has an error, each
//! has its own table and its own ports, and rules of others are left as they are.

// The victims talk to their killer.
#![allow(clippy::print_stdout)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::future::join_all;
use netloom::{Engine, EngineConfig, NetworkSpec, PortBinding, ShutdownMode, TransportPort};

use crate::lab::{Lab, delete_everything, in_lab};
use crate::published::{HOST, Heard, NEIGHBOUR, Who, at, comes, published, serve, tcp};
use crate::rules::{run, saved};
use crate::wall::lan;

const ENGINES: u16 = 32;
/// Set for a process that is to be killed: the directory it works in, and its number.
const VICTIM: &str = "NETLOOM_TEST_CROWD";
const NUMBER: &str = "NETLOOM_TEST_NUMBER";
/// How long all of it may take: far more than it does.
const LIMIT: Duration = Duration::from_secs(60);

fn name(number: u16) -> String {
    format!("e{number}")
}

/// An engine of its own among the others of a host.
async fn engine(dir: &Path, number: u16) -> Engine {
    let config = EngineConfig {
        instance: name(number),
        data_dir: dir.join(format!("data-{number}")),
        run_dir: dir.join(format!("run-{number}")),
        ..EngineConfig::default()
    };
    let late = Instant::now() + LIMIT;
    loop {
        match Engine::builder().config(config.clone()).start().await {
            Ok(engine) => return engine,
            // The one before has not let go of its store yet.
            Err(error) => assert!(Instant::now() < late, "engine {number}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The host's port of an engine's container.
fn port(number: u16) -> u16 {
    20_000 + number
}

/// What is published of an engine's first container: a port that is known, and one that is not.
fn bindings(number: u16) -> [PortBinding; 2] {
    [tcp(port(number), 80), PortBinding::any(TransportPort::tcp(81))]
}

/// A network with a subnet that was planned for it, as hosts have it that run as many engines: they would all choose the same
/// one, and give way to each other.
fn planned(number: u16) -> NetworkSpec {
    NetworkSpec::new("blue").subnet(format!("10.{number}.0.0/24").parse().expect("a subnet"))
}

/// Rules of others, of all kinds that there are.
fn rules_of_others() {
    run("nft add table inet others");
    run("nft add set inet others some '{ type ipv4_addr; elements = { 198.51.100.7, 198.51.100.9 }; }'");
    run("nft add chain inet others way '{ type filter hook forward priority 10; policy accept; }'");
    run("nft add rule inet others way ip saddr @some drop");
    for variant in ["legacy", "nft"] {
        for program in ["iptables", "ip6tables"] {
            run(&format!("{program}-{variant} -N OTHERS"));
            run(&format!("{program}-{variant} -A FORWARD -i eth7 -j OTHERS"));
            run(&format!("{program}-{variant} -A OTHERS -p tcp --dport 25 -j DROP"));
            run(&format!("{program}-{variant} -t nat -A POSTROUTING -o eth7 -j MASQUERADE"));
        }
    }
}

/// Everything but what is ours, as it is shown, without what counts.
fn others() -> Vec<String> {
    let shown = run("nft --stateless list ruleset");
    let mut all = Vec::new();
    let mut ours = false;
    for line in shown.lines() {
        ours = ours || line.starts_with("table inet netloom");
        if !ours {
            all.push(line.to_owned());
        }
        ours = ours && line != "}";
    }
    for variant in ["legacy", "nft"] {
        all.extend(saved(variant));
    }
    all
}

/// The tables of engines.
fn tables() -> usize {
    run("nft list tables").lines().filter(|line| line.contains("inet netloom")).count()
}

/// The number of a process that was started to be killed; its life.
async fn lives_until_killed(dir: &Path, number: u16) -> ! {
    let engine = engine(dir, number).await;
    let network = engine.controller().create_network(planned(number)).await.expect("a network");
    published(&engine, &network, "web", &bindings(number)).await;
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).expect("they are all ready");
    for round in 0.. {
        let any = [PortBinding::any(TransportPort::tcp(80)), PortBinding::any(TransportPort::udp(53))];
        let name = format!("more{round}");
        let (more, sandbox) = published(&engine, &network, &name, &any).await;
        sandbox.delete().await.expect("deleted");
        more.delete().await.expect("deleted");
    }
    panic!("it was not killed")
}

fn start_victim(dir: &Path, number: u16) -> Child {
    Command::new(std::env::current_exe().expect("known"))
        .args(["crowd::thirty_two_engines_at_once_do_not_meet", "--exact", "--nocapture"])
        .env(VICTIM, dir)
        .env(NUMBER, number.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts")
}

#[test]
fn thirty_two_engines_at_once_do_not_meet() {
    if let (Some(dir), Ok(number)) = (std::env::var_os(VICTIM), std::env::var(NUMBER)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(lives_until_killed(Path::new(&dir), number.parse().expect("a number")));
    }
    in_lab(async |lab| {
        let began = Instant::now();
        let lan = lan(&lab).await;
        rules_of_others();
        let before = others();
        assert!(before.iter().filter(|line| line.contains("OTHERS")).count() >= 8, "{before:#?}");
        in_one_process(&lab, Who::Neighbour(&lan)).await;
        assert_eq!(others(), before);
        assert_eq!(tables(), 0, "nobody needs them");
        println!("in one process: {:?}", began.elapsed());
        in_processes(&lab, &before).await;
        assert_eq!(others(), before);
        assert_eq!(tables(), 0, "nobody needs them");
        for number in 0..ENGINES {
            drop(TcpListener::bind(("0.0.0.0", port(number))).expect("free again"));
        }
        println!("in all: {:?}", began.elapsed());
        assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    });
}

/// Each engine starts, publishes, is stopped at once, starts again with the same, and deletes it.
async fn in_one_process(lab: &Lab, neighbour: Who<'_>) {
    let dir = lab.dir.path();
    let lives = (0..ENGINES).map(async |number| {
        let first = engine(dir, number).await;
        // A few choose by themselves all the same.
        let spec = if number % 4 == 0 { NetworkSpec::new("blue") } else { planned(number) };
        let network = first.controller().create_network(spec).await.expect("a network");
        let (web, server) = published(&first, &network, "web", &bindings(number)).await;
        serve(&server, &[80, 81]).await;
        let had = web.inspect().await.expect("inspected").published;
        let dynamic = had.0[1].host.range.first;
        for to in [port(number), dynamic] {
            assert_eq!(comes(neighbour, at(HOST, to)).await, Heard::From(NEIGHBOUR), "{number}: {to}");
        }
        let mode = if number % 2 == 0 { ShutdownMode::Graceful } else { ShutdownMode::Immediate };
        first.shutdown(mode).await.expect("it ends");
        let second = engine(dir, number).await;
        assert!(second.repairs().is_empty(), "{number}: {:?}", second.repairs());
        let kept = second.controller().network(network.id()).expect("kept").endpoint(web.id()).await;
        assert_eq!(kept.expect("kept").inspect().await.expect("inspected").published, had);
        (second, dynamic)
    });
    let engines = join_all(lives).await;
    assert_eq!(tables(), usize::from(ENGINES));
    // Now all are there: each has ports of its own.
    for (number, (_, dynamic)) in (0..ENGINES).zip(&engines) {
        for to in [port(number), *dynamic] {
            assert_eq!(comes(neighbour, at(HOST, to)).await, Heard::From(NEIGHBOUR), "{number}: {to}");
        }
    }
    let ends = engines.iter().map(async |(engine, _)| {
        delete_everything(engine).await;
        engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");
    });
    join_all(ends).await;
}

/// Each process publishes and withdraws until all are killed at once; the next engines find everything, and delete it.
async fn in_processes(lab: &Lab, before: &[String]) {
    let dir = lab.dir.path();
    let mut victims: Vec<Child> = (0..ENGINES).map(|number| start_victim(dir, number)).collect();
    let ready = victims.iter_mut().map(|victim| {
        let output = victim.stdout.take().expect("piped");
        tokio::task::spawn_blocking(move || {
            BufReader::new(output).lines().map_while(Result::ok).any(|line| line.contains("ready"))
        })
    });
    let ready: Vec<bool> = join_all(ready).await.into_iter().map(|ready| ready.expect("it ends")).collect();
    for victim in &mut victims {
        // One that has ended already is told of below.
        let _ = victim.stdin.as_mut().expect("piped").write_all(b"go\n");
    }
    // So that each is somewhere in its work.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for (number, victim) in victims.iter_mut().enumerate() {
        let ended = victim.try_wait().expect("ours");
        victim.kill().expect("ours");
        victim.wait().expect("it ends");
        let mut said = String::new();
        victim.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        assert!(ready[number] && ended.is_none(), "{number} ended by itself: {ended:?} {said}");
    }
    assert_eq!(others(), before);
    let next = (0..ENGINES).map(async |number| {
        let engine = engine(dir, number).await;
        engine.drain().await.expect("drained");
        let picture = engine.inspect().await.expect("inspected");
        let endpoints = picture.networks.iter().flat_map(|network| &network.endpoints);
        let web = endpoints.filter(|endpoint| endpoint.name == "web").map(|web| web.published.0.len());
        assert_eq!(web.collect::<Vec<_>>(), [2], "{number}");
        assert_eq!(engine.diff().await.expect("compared"), [], "{number}");
        delete_everything(&engine).await;
        engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");
    });
    join_all(next).await;
}
