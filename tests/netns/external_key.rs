//! The socket on which a container's namespace is handed over, with a process of the test's for the container.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use netloom::kernel::{Kernel, Netns};
use netloom::testkit::probe::EchoSocket;
use netloom::{EndpointSpec, Engine, JoinSpec, Network, NetworkSpec, Sandbox, SandboxSpec, ShutdownMode};

use crate::container::Container;
use crate::lab::{Lab, address, delete_everything, in_lab, joined, pings, soon};

/// The engine's socket.
fn socket(lab: &Lab) -> PathBuf {
    let id = fs::read_to_string(lab.run_dir().join("engine-id")).expect("it is noted");
    lab.run_dir().join(format!("{}.sock", id.trim()))
}

/// Hands a namespace over as a hook does.
async fn hand_over(lab: &Lab, container: &str, key: &Path) -> String {
    let socket = socket(lab);
    let request = format!(r#"{{"ContainerID": "{container}", "Key": "{}"}}"#, key.display());
    let asking = move || {
        let mut engine = UnixStream::connect(socket).expect("it listens");
        engine.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        engine.read_to_string(&mut answer).expect("it answers");
        answer
    };
    tokio::task::spawn_blocking(asking).await.expect("no panic")
}

/// A sandbox that waits for its namespace, with an endpoint on this network.
async fn waiting(engine: &Engine, network: &Network, container: &str) -> (netloom::Endpoint, Sandbox) {
    let spec = SandboxSpec::new(container).external_key();
    let sandbox = engine.controller().create_sandbox(spec).await.expect("a sandbox");
    let endpoint = network.create_endpoint(EndpointSpec::new(container)).await.expect("an endpoint");
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("it has its place kept");
    (endpoint, sandbox)
}

#[test]
fn a_containers_namespace_is_handed_over_and_plugged_in() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.expect("a network");
        let (other, _) = joined(&engine, &network, "other").await;
        let (endpoint, sandbox) = waiting(&engine, &network, "c1").await;
        let container = Container::start();
        assert_eq!(hand_over(&lab, "c1", &container.netns()).await, "success");
        assert!(pings(&sandbox, address(&other).await, Duration::from_secs(10)).await, "its traffic flows");
        let (seen, ifname) = (endpoint.inspect().await.expect("inspected"), "eth0".parse().expect("a name"));
        assert_eq!(seen.ifname, Some(ifname));
        // It is the container's own namespace, and not a copy.
        let inside = fs::read_link(container.netns()).expect("it lives");
        let entered = sandbox.run(|| fs::read_link("/proc/thread-self/ns/net")).await.expect("it runs");
        assert_eq!(entered.expect("readable"), inside);

        // The next engine finds it as it is, and the container outlives its sandbox.
        engine.shutdown(ShutdownMode::Graceful).await.expect("stopped");
        drop(engine);
        let engine = lab.next_engine().await;
        assert!(engine.repairs().is_empty(), "{:?}", engine.repairs());
        let sandbox = engine.controller().sandbox_by_container("c1").expect("restored");
        let other = engine.controller().network_by_name("blue").expect("restored");
        let other = other.endpoint_by_name("other").await.expect("restored");
        assert!(pings(&sandbox, address(&other).await, Duration::from_secs(10)).await, "its traffic flows");
        delete_everything(&engine).await;
        assert_eq!(container.links(), ["lo"], "nothing of ours is left in it");
        container.end();
        lab.assert_pristine().await;
    });
}

#[test]
fn what_cannot_be_handed_over_is_refused_and_can_be_tried_again() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.expect("a network");
        let (_, sandbox) = waiting(&engine, &network, "c1").await;
        engine.controller().create_sandbox(SandboxSpec::new("own")).await.expect("a sandbox");
        let container = Container::start();
        assert_eq!(hand_over(&lab, "c9", &container.netns()).await, "no sandbox present for c9");
        let before = lab.kernel.links(Netns::Host, soon()).await.expect("links");
        for (name, key, why) in [
            ("c1", "/nowhere", "No such file or directory"),
            ("c1", "/proc/thread-self/ns/mnt", "Invalid argument"),
            ("c1", "/dev/null", "it is no namespace"),
            ("c1", "/proc/thread-self/ns/net", "the namespace of the host itself"),
            ("c1", "ns/net", "an absolute path is needed"),
            ("c1", "", "an absolute path is needed"),
            ("own", container.netns().to_str().expect("text"), "own"),
            ("", "/x", "a name must not be blank"),
        ] {
            let answer = hand_over(&lab, name, Path::new(key)).await;
            assert!(answer.contains(why) && answer != "success", "{name} {key}: {answer:?}");
        }
        let after = lab.kernel.links(Netns::Host, soon()).await.expect("links");
        assert_eq!(after.len(), before.len(), "nothing was put into the host");
        assert_eq!(hand_over(&lab, "c1", &container.netns()).await, "success");
        assert!(sandbox.inspect().await.expect("inspected").gateway.is_some());
        delete_everything(&engine).await;
        container.end();
        lab.assert_pristine().await;
    });
}

/// A sandbox moves from the namespace of one container to that of another one, while its neighbours talk to each
/// other without a break. Both namespaces live on when the sandbox is gone.
#[test]
fn keys_are_told_while_traffic_flows_to_a_neighbour() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.expect("a network");
        let (other, _) = joined(&engine, &network, "other").await;
        let (_, talker) = joined(&engine, &network, "talker").await;
        let to = address(&other).await;
        assert!(pings(&talker, to, Duration::from_secs(10)).await, "the addresses are known");
        let socket = talker.run(move || EchoSocket::open(to)).await.expect("it runs").expect("a socket");
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let talk = tokio::task::spawn_blocking(move || {
            let mut lost = Vec::new();
            let (mut asked, mut sequence) = (0_u64, 0_u16);
            while !ended.load(Ordering::SeqCst) {
                (asked, sequence) = (asked + 1, sequence.wrapping_add(1));
                if socket.ping(9, sequence, 32, Instant::now() + Duration::from_secs(2)).is_err() {
                    lost.push(asked);
                }
            }
            (asked, lost)
        });

        let (endpoint, sandbox) = waiting(&engine, &network, "c1").await;
        let own = address(&endpoint).await;
        let containers = [Container::start(), Container::start()];
        for (n, container) in containers.iter().enumerate() {
            let key = netloom::SandboxKey::Path(container.netns());
            sandbox.set_key(key).await.expect("told");
            assert!(pings(&talker, own, Duration::from_secs(10)).await, "it is reached in namespace {n}");
            assert!(pings(&sandbox, to, Duration::from_secs(10)).await);
            let links = containers.each_ref().map(Container::links);
            assert!(links[n].iter().any(|link| link == "eth0"), "{links:?}");
            assert_eq!(links[1 - n], ["lo"], "nothing is left in the other one");
        }
        over.store(true, Ordering::SeqCst);
        let (asked, lost) = talk.await.expect("it ends");
        assert!(lost.is_empty() && asked > 10, "lost of {asked}: {lost:?}");
        sandbox.delete().await.expect("deleted");
        engine.drain().await.expect("drained");
        for container in &containers {
            assert_eq!(container.links(), ["lo"]);
        }
        delete_everything(&engine).await;
        containers.into_iter().for_each(Container::end);
        lab.assert_pristine().await;
    });
}

#[test]
fn many_hooks_at_once_are_served() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.expect("a network");
        let names: Vec<_> = (0..24).map(|n| format!("c{n}")).collect();
        let mut sandboxes = Vec::new();
        for name in &names {
            sandboxes.push(waiting(&engine, &network, name).await.1);
        }
        let containers: Vec<_> = names.iter().map(|_| Container::start()).collect();
        let hooks = names.iter().zip(&containers).map(async |(name, container)| {
            let key = container.netns();
            hand_over(&lab, name, &key).await
        });
        assert!(join_all(hooks).await.iter().all(|answer| answer == "success"));
        for sandbox in &sandboxes {
            assert!(sandbox.inspect().await.expect("inspected").gateway.is_some());
        }
        delete_everything(&engine).await;
        containers.into_iter().for_each(Container::end);
        lab.assert_pristine().await;
    });
}

#[test]
fn the_socket_comes_and_goes_with_the_engine() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let path = socket(&lab);
        let mode = fs::symlink_metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        // A second engine beside it has another one.
        let dir = lab.dir.path();
        let builder = Engine::builder().data_dir(dir.join("data2")).run_dir(dir.join("run2"));
        let second = builder.instance("second").start().await.expect("beside the first");
        let sockets = |run: &str| {
            let entries = fs::read_dir(dir.join(run)).expect("readable").flatten();
            entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "sock")).count()
        };
        assert_eq!((sockets("run"), sockets("run2")), (1, 1));
        engine.shutdown(ShutdownMode::Immediate).await.expect("stopped");
        assert_eq!((sockets("run"), sockets("run2")), (0, 1));
        drop(engine);
        // What a killed engine left is in nobody's way.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        UnixStream::connect(&path).expect_err("nobody listens");
        let engine = lab.next_engine().await;
        assert_eq!(hand_over(&lab, "c9", Path::new("/x")).await, "no sandbox present for c9");
        // Clients that hang hold up neither others nor the end.
        let silent: Vec<_> = (0..300).map(|_| UnixStream::connect(&path).expect("it listens")).collect();
        engine.shutdown(ShutdownMode::Graceful).await.expect("stopped");
        for client in silent {
            client.shutdown(Shutdown::Write).expect("still there");
        }
        assert_eq!(sockets("run"), 0);
        second.shutdown(ShutdownMode::Graceful).await.expect("stopped");
    });
}
