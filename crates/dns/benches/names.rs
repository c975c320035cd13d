//! What names cost: the answer to a local question, a change among ten thousand records until a reader sees it, and
//! questions a second over UDP beside a bare echo loop with the same client, and the time of a local question while a
//! thousand others wait for an upstream that says nothing.
//!
//! Run with `cargo bench -p netloom-dns`. Everything is on the loopback interface. Client and server have a thread each;
//! the figures of the server and of the echo loop are taken in turns, three times, and each is given with the least and
//! the most. It fails when the server answers less than 0.6 of what the echo loop does, or one of them takes twice as long beside the thousand.

#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::hint::black_box;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::Criterion;
use netloom_dns::answer::{Asked, TTL, answer};
use netloom_dns::forward::{Forwarding, Here, Place, Upstream};
use netloom_dns::query::Transport;
use netloom_dns::records::{Attachment, EndpointNames, Known, View, ViewCell, ZoneWriter};
use netloom_dns::server::{Options, Server, Sockets};
use netloom_model::{EndpointId, SandboxId};
use uuid::Uuid;

const RECORDS: u64 = 10_000;
const SPAN: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;
/// Questions that a client has under way.
const WINDOW: usize = 32;

fn main() {
    let mut writer = records();
    let view = View::new(vec![Attachment::new(writer.reader(), [])]);
    answers(&view);
    changes(&mut writer);
    rates(view);
}

fn endpoint(number: u64) -> EndpointId {
    EndpointId::from_uuids(Uuid::from_u64_pair(1, number), Uuid::nil())
}

fn said(number: u64) -> EndpointNames {
    let [.., a, b, c] = number.to_be_bytes();
    EndpointNames {
        names: vec![format!("container-{number}"), format!("alias-{number}")],
        addresses: vec![[10, a, b, c].into()],
        services: Vec::new(),
    }
}

fn records() -> ZoneWriter {
    let mut writer = ZoneWriter::new("front");
    for number in 0..RECORDS / 2 {
        writer.publish(endpoint(number), &said(number), Instant::now());
    }
    writer
}

/// A question for an address, with the OPT record that glibc and dig send.
fn question(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("short"));
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn answers(view: &View) {
    let mut criterion = Criterion::default().measurement_time(Duration::from_secs(2)).configure_from_args();
    let asked = Asked { transport: Transport::Udp, now: Instant::now(), seed: 7, ttl: TTL };
    let mut out = Vec::new();
    for (what, name) in [
        ("a local address", "container-4711"),
        ("with its network", "container-4711.front"),
        ("a name of others", "www.example.com"),
    ] {
        let query = question(name);
        criterion.bench_function(what, |bencher| {
            bencher.iter(|| answer(black_box(&query), view, &asked, &mut out));
        });
    }
}

/// A reader on another thread looks all the time; how long after the call a change is seen.
fn changes(writer: &mut ZoneWriter) {
    let reader = writer.reader();
    let (tell, told) = std::sync::mpsc::sync_channel::<(String, Instant)>(0);
    let (answer, seen) = std::sync::mpsc::channel();
    let watcher = thread::spawn(move || {
        for (name, since) in told {
            while !matches!(reader.load().find(&name, since), Known::Here(_)) {
                std::hint::spin_loop();
            }
            answer.send(since.elapsed()).expect("somebody listens");
        }
    });
    let (mut calls, mut visible) = (Vec::new(), Vec::new());
    for number in 20_000..22_000 {
        let name = format!("container-{number}");
        let now = Instant::now();
        tell.send((name, now)).expect("the watcher runs");
        let start = Instant::now();
        writer.publish(endpoint(number), &said(number), now);
        calls.push(start.elapsed());
        visible.push(seen.recv().expect("the watcher runs"));
        writer.withdraw(endpoint(number), now);
    }
    drop(tell);
    watcher.join().expect("ends");
    for (what, times) in [("a change among 10,000 records", calls), ("until it is seen", visible)] {
        let mut times = times;
        times.sort();
        let at = |part: usize| times[times.len() * part / 1000];
        println!("{what}: median {:?}, p99 {:?}, most {:?}", at(500), at(990), times[times.len() - 1]);
    }
}

fn rates(view: View) {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let served = udp.local_addr().expect("bound");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let server = Server::start(runtime.handle(), Options::default()).expect("starts");
    let sandbox = SandboxId::from_uuids(Uuid::nil(), Uuid::nil());
    let cell = Arc::new(ViewCell::new(view));
    let names = server.serve(sandbox, Sockets { udp, tcp }, cell, &Forwarding::default(), Arc::new(Here));
    let names = names.expect("serves");

    let echo = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let echoed = echo.local_addr().expect("bound");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let looping = thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = echo.recv_from(&mut buffer) {
            echo.send_to(&buffer[..length], client).expect("sent");
            if stopped.load(Ordering::Relaxed) {
                break;
            }
        }
    });
    let query = question("container-4711");
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(rate(served, &query));
        bare.push(rate(echoed, &query));
    }
    stop.store(true, Ordering::Relaxed);
    UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[0], echoed)).expect("sent");
    looping.join().expect("ends");
    for (what, rates) in [("names", &mut ours), ("echo", &mut bare)] {
        rates.sort_by(f64::total_cmp);
        println!("{what}: {:.0}/s ({:.0} to {:.0})", rates[1], rates[0], rates[ROUNDS - 1]);
    }
    let ratio = ours[1] / bare[1];
    println!("names beside echo: {ratio:.2}; median time to answer {:?}", names.counts().here.quantile(0.5));
    assert!(ratio >= 0.6, "less than 0.6 of an echo loop");

    let idle = latency(served, &query);
    let dead = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let upstream = Upstream { address: dead.local_addr().expect("bound"), place: Place::Host };
    names.set_forwarding(&Forwarding { upstreams: vec![upstream], external: true });
    let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
    for number in 0..1000 {
        client.send_to(&question(&format!("n{number}.example.com")), served).expect("sent");
        if number % 50 == 49 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    while names.upstreams()[0].asked < 1000 {
        thread::yield_now();
    }
    let busy = latency(served, &query);
    let ended = names.counts().failed;
    println!(
        "one question after another: {idle:?}; with 1,000 at a black hole: {busy:?} ({ended} had ended)"
    );
    assert!(busy <= 2 * idle, "local names wait for others");
}

/// The median time of a question, one after another.
fn latency(at: SocketAddr, query: &[u8]) -> Duration {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
    client.connect(at).expect("connects");
    client.set_read_timeout(Some(Duration::from_secs(1))).expect("an option");
    let mut buffer = [0; 4096];
    let mut times: Vec<Duration> = (0..10_000)
        .map(|_| {
            let start = Instant::now();
            client.send(query).expect("sent");
            client.recv(&mut buffer).expect("an answer in time");
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

/// Questions a second of one client that always has a window of them under way.
fn rate(at: SocketAddr, query: &[u8]) -> f64 {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
    client.connect(at).expect("connects");
    client.set_read_timeout(Some(Duration::from_secs(1))).expect("an option");
    let mut buffer = [0; 4096];
    for _ in 0..WINDOW {
        client.send(query).expect("sent");
    }
    let (start, mut answered) = (Instant::now(), 0_u32);
    while start.elapsed() < SPAN {
        for _ in 0..WINDOW {
            client.recv(&mut buffer).expect("an answer in time");
            client.send(query).expect("sent");
            answered += 1;
        }
    }
    f64::from(answered) / start.elapsed().as_secs_f64()
}
