//! A machine of its own for each test: a thread in fresh network and mount namespaces, with directories that
//! nobody else sees. Without root the test runs itself again as root of a new user namespace. It never
//! skips.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::future::join_all;
use netloom::kernel::{Kernel, LinkTag, LinuxConfig, LinuxKernel, Netns, Op, isolate};
use netloom::testkit::probe::EchoSocket;
use netloom::{
    Endpoint, EndpointSpec, Engine, EngineBuilder, EngineConfig, FirewallBackend, FirewallConfig, JoinSpec,
    Network, Sandbox, SandboxSpec,
};

/// Set for the second run of a test.
const INSIDE: &str = "NETLOOM_TEST_INSIDE";

/// How long an echo request is waited for before the next one is sent.
const ANSWER: Duration = Duration::from_millis(200);

/// Where a test plays.
pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    /// A kernel handle of the test's own, so that the engine does not vouch for itself.
    pub(crate) kernel: LinuxKernel,
    before: BTreeSet<String>,
    /// What engines say the firewall's rules to.
    pub(crate) firewall: FirewallBackend,
}

/// Runs a test in a lab. `test` runs on a multi-threaded tokio runtime whose threads are in the lab.
pub(crate) fn in_lab<F: Future<Output = ()>>(test: impl FnOnce(Lab) -> F + Send + 'static) {
    as_root(|| {
        if let Err(panic) = machine(test) {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs a test as root: of the machine, or else again in a process of its own as root of a new user namespace.
pub(crate) fn as_root(test: impl FnOnce()) {
    if isolate::is_root() {
        return test();
    }
    assert!(std::env::var_os(INSIDE).is_none(), "not root in the user namespace either");
    let name = std::thread::current().name().expect("libtest names its threads").to_owned();
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount"])
        .arg(std::env::current_exe().expect("known"))
        .args([&name, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare must be installed (package util-linux)");
    assert!(status.success(), "failed in its user namespace: {status}");
}

/// Does something in a lab of its own, on a thread of this test's name. Whoever calls is root.
pub(crate) fn machine<T: Send + 'static, F: Future<Output = T>>(
    work: impl FnOnce(Lab) -> F + Send + 'static,
) -> std::thread::Result<T> {
    let name = std::thread::current().name().expect("libtest names its threads").to_owned();
    let body = move || {
        isolate::enter_own_namespaces().expect("namespaces can be made");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let lab = Lab::new().await;
            work(lab).await
        })
    };
    std::thread::Builder::new().name(name).spawn(body).expect("a thread").join()
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

impl Lab {
    async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("netloom-test-").tempdir().expect("a directory");
        Self::at(dir).await
    }

    async fn at(dir: tempfile::TempDir) -> Self {
        let config = LinuxConfig { run_dir: dir.path().join("run") };
        let kernel = LinuxKernel::start(config).expect("the kernel opens");
        let up = Op::SetLink { netns: Netns::Host, name: "lo".parse().expect("a name"), up: true };
        kernel.execute(vec![up], soon()).await.remove(0).expect("loopback is up");
        let firewall = FirewallBackend::default();
        let mut lab = Self { dir, kernel, before: BTreeSet::new(), firewall };
        lab.before = lab.picture().await;
        lab
    }

    /// Opens the kernel again: a handle keeps its sockets in the namespaces it has looked into.
    pub(crate) fn look_anew(&mut self) {
        let config = LinuxConfig { run_dir: self.run_dir() };
        self.kernel = LinuxKernel::start(config).expect("the kernel opens");
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// An engine on this lab's directories.
    pub(crate) fn builder(&self) -> EngineBuilder {
        let firewall = FirewallConfig { backend: self.firewall };
        let config = EngineConfig { firewall, ..EngineConfig::default() };
        Engine::builder().config(config).data_dir(self.data_dir()).run_dir(self.run_dir())
    }

    /// Starts an engine on this lab's directories.
    pub(crate) async fn engine(&self) -> Engine {
        self.builder().start().await.expect("the engine starts")
    }

    /// Starts an engine as soon as an earlier one has let go of the store.
    pub(crate) async fn next_engine(&self) -> Engine {
        self.next_engine_with(EngineConfig::default()).await
    }

    /// The same with another configuration, of other directories than it says.
    pub(crate) async fn next_engine_with(&self, config: EngineConfig) -> Engine {
        let patience = soon();
        loop {
            let firewall = FirewallConfig { backend: self.firewall };
            let config = EngineConfig { firewall, ..config.clone() };
            let builder = Engine::builder().config(config).data_dir(self.data_dir()).run_dir(self.run_dir());
            match builder.start().await {
                Ok(engine) => return engine,
                Err(error) => assert!(Instant::now() < patience, "the engine does not start: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Counts what is there from now on as there before.
    pub(crate) async fn remember(&mut self) {
        self.before = self.picture().await;
    }

    async fn picture(&self) -> BTreeSet<String> {
        let links = self.kernel.links(Netns::Host, soon()).await.expect("links");
        let mut lines: BTreeSet<_> = links.iter().map(|link| format!("link {}", link.name)).collect();
        for view in self.kernel.addresses(Netns::Host, soon()).await.expect("addresses") {
            let automatic = matches!(view.address.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local());
            if !automatic {
                lines.insert(format!("address {} on {}", view.address, view.link));
            }
        }
        for view in self.kernel.routes(Netns::Host, soon()).await.expect("routes") {
            let automatic = matches!(view.destination.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local());
            if !automatic {
                lines.insert(format!("route {} via {:?}", view.destination, view.via));
            }
        }
        let namespaces = self.kernel.namespaces(soon()).await.expect("namespaces");
        lines.extend(namespaces.into_iter().map(|netns| format!("namespace {netns}")));
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mounts");
        lines.extend(
            mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| format!("mount {point}")),
        );
        lines
    }

    /// Gives a bridge so many ports that are somebody else's.
    pub(crate) async fn foreign_ports(&self, bridge: &str, count: usize) {
        let ports = (0..count).map(|n| Op::CreateVeth {
            host: format!("foreign{n}").parse().expect("a name"),
            peer: format!("peer{n}").parse().expect("a name"),
            netns: Netns::Host,
            master: Some(bridge.parse().expect("a name")),
            mac: None,
            mtu: None,
            tag: LinkTag::new("somebody", "else", n.to_string()),
        });
        for made in self.kernel.execute(ports.collect(), soon()).await {
            made.expect("a foreign port");
        }
    }

    /// What is here that was not here before.
    pub(crate) async fn left(&self) -> Vec<String> {
        self.picture().await.difference(&self.before).cloned().collect()
    }

    /// Checks that nothing is here that was not here before.
    pub(crate) async fn assert_pristine(&self) {
        let left = self.left().await;
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

/// Deletes everything there is, and waits for the kernel.
pub(crate) async fn delete_everything(engine: &Engine) {
    let controller = engine.controller();
    let deletions = controller.sandboxes().into_iter().map(|sandbox| async move { sandbox.delete().await });
    for deletion in join_all(deletions).await {
        deletion.expect("a sandbox is deleted");
    }
    let deletions = controller.networks().into_iter().map(|network| async move {
        for endpoint in network.endpoints().await? {
            endpoint.delete().await?;
        }
        network.delete().await
    });
    for deletion in join_all(deletions).await {
        deletion.expect("a network is deleted");
    }
    engine.drain().await.expect("drained");
    let picture = engine.inspect().await.expect("inspected");
    assert!(picture.leaks.is_empty(), "leaks: {:?}", picture.leaks);
    assert!(picture.operations.is_empty(), "in flight: {:?}", picture.operations);
}

/// An endpoint in a sandbox of its own.
pub(crate) async fn joined(engine: &Engine, network: &Network, name: &str) -> (Endpoint, Sandbox) {
    let endpoint = network.create_endpoint(EndpointSpec::new(name)).await.expect("an endpoint");
    let container = format!("{}-{name}", network.name());
    let sandbox = engine.controller().create_sandbox(SandboxSpec::new(container)).await.expect("a sandbox");
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    (endpoint, sandbox)
}

/// The address of an endpoint.
pub(crate) async fn address(endpoint: &Endpoint) -> IpAddr {
    endpoint.inspect().await.expect("inspected").ipv4.expect("an address").addr().into()
}

/// Sends echo requests from a sandbox until one is answered; `false` when none is within `patience`.
pub(crate) async fn pings(from: &Sandbox, to: IpAddr, patience: Duration) -> bool {
    let socket = match from.run(move || EchoSocket::open(to)).await.expect("it runs") {
        // No route: that is told at once.
        Err(error) if error.kind() == std::io::ErrorKind::NetworkUnreachable => return false,
        socket => socket.expect("a socket"),
    };
    let until = Instant::now() + patience;
    let pings = move || {
        // Who is not there yet, or not any more, costs one request: the next one is a new attempt.
        let mut sequences = (1..=u16::MAX).take_while(|_| Instant::now() < until);
        sequences.any(|sequence| socket.ping(7, sequence, 32, until.min(Instant::now() + ANSWER)).is_ok())
    };
    tokio::task::spawn_blocking(pings).await.expect("it ends")
}
