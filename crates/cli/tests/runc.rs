//! A real runtime with the hook: runc makes a container, `netloom setkey` hands its namespace to an engine.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{NETLOOM, in_namespaces, text};
use netloom::testkit::probe::EchoSocket;
use netloom::{Endpoint, EndpointSpec, Engine, JoinSpec, Network, NetworkSpec, Sandbox, SandboxSpec};

/// How long a ping is tried.
const PATIENCE: Duration = Duration::from_secs(20);

/// A bundle whose container runs a shell script.
struct Bundle {
    dir: PathBuf,
    state: PathBuf,
}

impl Bundle {
    fn new(dir: &Path, run_dir: &Path, container: &str, script: &str) -> Self {
        let bundle = Self { dir: dir.join(container), state: dir.join("runc") };
        let root = bundle.dir.join("rootfs");
        for inside in ["bin", "proc", "dev"] {
            fs::create_dir_all(root.join(inside)).expect("made");
        }
        let busybox =
            ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists());
        let busybox = busybox.expect("busybox must be installed (package busybox-static)");
        fs::copy(busybox, root.join("bin/busybox")).expect("copied");
        let controller = fs::read_to_string(run_dir.join("engine-id")).expect("it is noted");
        let run_dir = run_dir.to_str().expect("text");
        let hook = ["netloom", "setkey", container, controller.trim(), "--run-dir", run_dir];
        let namespaces =
            ["pid", "network", "mount", "ipc", "uts"].map(|kind| serde_json::json!({ "type": kind }));
        let ping = ["CAP_NET_RAW"];
        let config = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": ["/bin/busybox", "sh", "-ec", script],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "capabilities": { "bounding": ping, "effective": ping, "permitted": ping },
            },
            "root": { "path": "rootfs" },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] },
            ],
            "hooks": { "createRuntime": [{ "path": NETLOOM, "args": hook, "timeout": 60 }] },
            "linux": { "namespaces": namespaces },
        });
        fs::write(bundle.dir.join("config.json"), config.to_string()).expect("written");
        bundle
    }

    fn start(&self) -> Child {
        let container = self.dir.file_name().expect("a name");
        Command::new("runc")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .arg("--root")
            .arg(&self.state)
            .args(["run", "--bundle"])
            .arg(&self.dir)
            .arg(container)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runc must be installed (package runc)")
    }
}

/// Runs a test with an engine and a network.
fn with_engine(test: impl AsyncFnOnce(&Path, &Engine, &Network)) {
    in_namespaces(|dir| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let builder = Engine::builder().data_dir(dir.join("data")).run_dir(dir.join("run"));
            let engine = builder.start().await.expect("the engine starts");
            let network = engine.controller().create_network(NetworkSpec::new("blue")).await.expect("made");
            test(dir, &engine, &network).await;
            engine.drain().await.expect("drained");
            let leaks = engine.inspect().await.expect("inspected").leaks;
            assert!(leaks.is_empty(), "{leaks:?}");
        });
    });
}

async fn join(network: &Network, sandbox: &Sandbox, name: &str) -> (Endpoint, IpAddr) {
    let endpoint = network.create_endpoint(EndpointSpec::new(name)).await.expect("an endpoint");
    endpoint.join(sandbox, JoinSpec::default()).await.expect("joined");
    let address = endpoint.inspect().await.expect("inspected").ipv4.expect("an address").addr();
    (endpoint, address.into())
}

async fn is_reached(from: &Sandbox, to: IpAddr) -> bool {
    let socket = from.run(move || EchoSocket::open(to)).await.expect("it runs").expect("a socket");
    let until = Instant::now() + PATIENCE;
    let pings = move || {
        let wait = || until.min(Instant::now() + Duration::from_millis(200));
        (1..=u16::MAX).take_while(|_| Instant::now() < until).any(|n| socket.ping(7, n, 32, wait()).is_ok())
    };
    tokio::task::spawn_blocking(pings).await.expect("it ends")
}

fn ended(child: Child) -> Output {
    child.wait_with_output().expect("it ends")
}

#[test]
fn a_container_of_runc_has_its_network_before_its_first_instruction() {
    with_engine(async |dir, engine, network| {
        let controller = engine.controller();
        let other = controller.create_sandbox(SandboxSpec::new("other")).await.expect("a sandbox");
        let (_, others) = join(network, &other, "other").await;
        let spec = SandboxSpec::new("c1").external_key();
        let sandbox = controller.create_sandbox(spec).await.expect("a sandbox");
        let (_, own) = join(network, &sandbox, "c1").await;

        let script = format!(
            "busybox ip -o address show eth0; busybox ip route; busybox ping -c 1 -W 20 {others}; echo up; read end"
        );
        let mut container = Bundle::new(dir, &dir.join("run"), "c1", &script).start();
        let mut told = String::new();
        let output = container.stdout.as_mut().expect("a pipe");
        let mut byte = [0];
        while !told.ends_with("up\n") && output.read(&mut byte).expect("it is read") > 0 {
            told.push(char::from(byte[0]));
        }
        assert!(told.ends_with("up\n"), "{told}{}", text(&ended(container).stderr));
        assert!(told.contains(&format!(" eth0    inet {own}/")), "{told}");
        assert!(told.contains("default via ") && told.contains("1 packets received"), "{told}");
        assert!(is_reached(&other, own).await, "others reach it");

        // Its end is its own; the sandbox keeps the namespace until it is deleted.
        container.stdin.take().expect("a pipe").write_all(b"\n").expect("it reads");
        let output = ended(container);
        assert!(output.status.success(), "{output:?}");
        assert!(is_reached(&other, own).await, "the namespace is kept");
        sandbox.delete().await.expect("deleted");
    });
}

#[test]
fn a_container_that_no_sandbox_waits_for_does_not_start() {
    with_engine(async |dir, _, _| {
        let bundle = Bundle::new(dir, &dir.join("run"), "c9", "echo started");
        let output = ended(bundle.start());
        let told = text(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        assert!(told.contains("no sandbox present for c9"), "{told}");
    });
}
