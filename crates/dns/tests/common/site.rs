//! A sandbox's name server on real sockets, in a network namespace that only the test has.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::future::Future;
use std::net::{SocketAddr, TcpListener as StdTcp, UdpSocket as StdUdp};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netloom_dns::counters::Counts;
use netloom_dns::forward::{Forwarding, Here, Place, Upstream};
use netloom_dns::records::{View, ViewCell};
use netloom_dns::server::{Names, Options, Server, Sockets};
use netloom_model::SandboxId;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::time::timeout;
use uuid::Uuid;

/// Set for the second run of a test.
const INSIDE: &str = "NETLOOM_DNS_TEST_INSIDE";
/// Far enough for anything that works.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Runs a test in a network namespace of its own, whose loopback interface is up. Never skips.
pub(crate) fn isolated<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let name = std::thread::current().name().expect("libtest names its threads").to_owned();
    if !geteuid().is_root() {
        assert!(std::env::var_os(INSIDE).is_none(), "not root in the user namespace either");
        let status = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net"])
            .arg(std::env::current_exe().expect("known"))
            .args([&name, "--exact", "--nocapture"])
            .env(INSIDE, "1")
            .status()
            .expect("unshare must be installed");
        assert!(status.success(), "failed in its user namespace: {status}");
        return;
    }
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs CAP_SYS_ADMIN");
        run("ip link set lo up");
        // Threads that are started from here are in the namespace as well.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(test());
    };
    let thread = std::thread::Builder::new().name(name).spawn(body).expect("a thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().expect("a tool")).args(words).status().expect("installed");
    assert!(status.success(), "{command}: {status}");
}

pub(crate) fn sandbox(number: u64) -> SandboxId {
    SandboxId::from_uuids(Uuid::from_u64_pair(2, number), Uuid::nil())
}

/// Sockets at one address, on a port that both protocols have.
pub(crate) fn sockets(address: &str) -> (Sockets, SocketAddr) {
    for _ in 0..100 {
        let tcp = StdTcp::bind((address, 0)).expect("a port");
        let at = tcp.local_addr().expect("bound");
        if let Ok(udp) = StdUdp::bind(at) {
            return (Sockets { udp, tcp }, at);
        }
    }
    panic!("no port of both protocols at {address}");
}

/// One sandbox and its server.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) names: Names,
    pub(crate) at: SocketAddr,
    pub(crate) cell: Arc<ViewCell>,
}

pub(crate) fn upstreams(addresses: &[SocketAddr]) -> Forwarding {
    let upstream = |address: &SocketAddr| Upstream { address: *address, place: Place::Sandbox };
    Forwarding { upstreams: addresses.iter().map(upstream).collect(), external: true }
}

impl Site {
    pub(crate) fn start(view: View, options: Options, forwarding: &Forwarding) -> Self {
        let server = Server::start(&Handle::current(), options).expect("starts");
        let cell = Arc::new(ViewCell::new(view));
        let (sockets, at) = sockets("127.0.0.11");
        let names =
            server.serve(sandbox(1), sockets, Arc::clone(&cell), forwarding, Arc::new(Here)).expect("serves");
        Self { server, names, at, cell }
    }

    pub(crate) async fn udp(&self, query: &[u8]) -> Vec<u8> {
        let client = Client::new(self.at).await;
        client.send(query).await;
        client.receive().await
    }

    pub(crate) async fn tcp(&self, query: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.at).await.expect("connects");
        stream.write_all(&framed(query)).await.expect("sent");
        receive(&mut stream).await.expect("an answer")
    }

    /// Waits until the counters say so.
    pub(crate) async fn eventually(&self, what: &str, holds: impl Fn(&Counts) -> bool) -> Counts {
        let until = Instant::now() + SOON;
        loop {
            let counts = self.names.counts();
            if holds(&counts) {
                return counts;
            }
            assert!(Instant::now() < until, "never {what}: {counts:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A client of datagrams.
pub(crate) struct Client(pub(crate) UdpSocket);

impl Client {
    pub(crate) async fn new(at: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        socket.connect(at).await.expect("connects");
        Self(socket)
    }

    pub(crate) async fn send(&self, query: &[u8]) {
        self.0.send(query).await.expect("sent");
    }

    pub(crate) async fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_535];
        let length = timeout(SOON, self.0.recv(&mut buffer)).await.expect("an answer").expect("received");
        buffer.truncate(length);
        buffer
    }
}

pub(crate) fn framed(query: &[u8]) -> Vec<u8> {
    let length = u16::try_from(query.len()).expect("short");
    [&length.to_be_bytes(), query].concat()
}

/// The next message of a stream; `None` at its end.
pub(crate) async fn receive(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = timeout(SOON, stream.read_u16()).await.expect("in time").ok()?;
    let mut message = vec![0; usize::from(length)];
    timeout(SOON, stream.read_exact(&mut message)).await.expect("in time").expect("whole");
    Some(message)
}
