//! Packets over the network that is the way out of sandboxes whose endpoints have none, and between its containers.

use std::net::IpAddr;
use std::time::Duration;

use netloom::drivers::KernelObject;
use netloom::kernel::{Kernel, LinkTag, Netns, Op, Route};
use netloom::{Endpoint, EndpointSpec, Engine, JoinSpec, Network, NetworkSpec, Sandbox, SandboxSpec, WayOut};

use crate::lab::{Lab, address, delete_everything, in_lab, joined, pings, soon};
use crate::outless::Outless;

const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for an answer that would come, on a slow machine.
const SILENCE: Duration = Duration::from_millis(300);
const BRIDGE: &str = "docker_gwbridge";

/// A machine beyond the host, which the host leads to.
const BEYOND: [u8; 4] = [192, 0, 2, 2];

impl Lab {
    async fn does(&self, ops: Vec<Op>) {
        for done in self.kernel.execute(ops, soon()).await {
            done.expect("the lab's own");
        }
    }

    /// Adds a machine behind the host, and has the host forward.
    async fn beyond(&self) {
        let name = "beyond".parse().expect("a name");
        let netns = Netns::Named(name);
        let (out, eth0) = ("out0".parse().expect("a name"), "eth0".parse().expect("a name"));
        let tag = LinkTag::new("somebody", "else", "1");
        let net = |text: &str| text.parse().expect("a net");
        let back = Route { destination: net("0.0.0.0/0"), via: Some([192, 0, 2, 1].into()), link: eth0 };
        self.does(vec![
            Op::CreateNetns { name, ipv6: true },
            Op::CreateVeth { host: out, peer: eth0, netns, master: None, mac: None, mtu: None, tag },
            Op::SetLink { netns: Netns::Host, name: out, up: true },
            Op::SetLink { netns, name: eth0, up: true },
            Op::AddAddress { netns: Netns::Host, link: out, address: net("192.0.2.1/24") },
            Op::AddAddress { netns, link: eth0, address: net("192.0.2.2/24") },
            Op::AddRoute { netns, route: back },
            Op::Sysctl { netns: Netns::Host, key: "ipv4/ip_forward".into(), value: "1".into() },
        ])
        .await;
    }

    async fn without_beyond(&self) {
        // Its link goes with it.
        self.does(vec![Op::DeleteNetns { name: "beyond".parse().expect("a name") }]).await;
        let out = "out0".parse().expect("a name");
        while self.kernel.find_links(Netns::Host, vec![out], soon()).await.expect("looked")[0].is_some() {
            tokio::task::yield_now().await;
        }
    }
}

/// An endpoint in a sandbox of its own.
async fn placed(engine: &Engine, network: &Network, name: &str) -> (Endpoint, Sandbox) {
    let endpoint = network.create_endpoint(EndpointSpec::new(name)).await.expect("an endpoint");
    let sandbox = engine.controller().create_sandbox(SandboxSpec::new(name)).await.expect("a sandbox");
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    (endpoint, sandbox)
}

/// The address that a sandbox has on the network that is its way out.
async fn outside(engine: &Engine, sandbox: &Sandbox) -> IpAddr {
    let inside = sandbox.inspect().await.expect("inspected").endpoints;
    let way_out = inside.iter().find(|inside| inside.way_out == WayOut::Provided).expect("it has one");
    let network = engine.controller().network_by_name(BRIDGE).expect("it is there");
    address(&network.endpoint(way_out.endpoint).await.expect("it is there")).await
}

#[test]
fn containers_without_a_gateway_reach_the_outside_and_not_each_other_over_it() {
    in_lab(async |lab| {
        let driver = Outless::new("outless");
        let builder = Engine::builder().data_dir(lab.data_dir()).run_dir(lab.run_dir());
        let engine = builder.driver(driver.registration()).start().await.expect("the engine starts");
        lab.beyond().await;
        let nowhere = engine.controller().create_network(driver.network("nowhere")).await.expect("a network");
        let (_, first) = placed(&engine, &nowhere, "first").await;
        let (two, second) = placed(&engine, &nowhere, "second").await;
        for sandbox in [&first, &second] {
            assert!(pings(sandbox, BEYOND.into(), PATIENCE).await, "{} leads out", sandbox.container_id());
            let links = sandbox.inspect().await.expect("inspected").endpoints;
            let names: Vec<_> = links.iter().map(|inside| inside.ifname.to_string()).collect();
            assert_eq!(names, ["eth0", "eth1"], "{}", sandbox.container_id());
        }
        assert!(pings(&first, address(&two).await, PATIENCE).await, "over their own network they do");
        let there = outside(&engine, &second).await;
        assert!(!pings(&first, there, SILENCE).await, "not over the one that leads out");
        let bridge = engine.controller().network_by_name(BRIDGE).expect("it is there");
        let gateway = bridge.inspect().await.expect("inspected").v4[0].gateway.expect("it has one");
        assert!(pings(&first, gateway, PATIENCE).await, "the host itself is reached");

        // Another network takes over and gives back, and packets flow all the time.
        let blue = engine.controller().create_network(NetworkSpec::new("blue")).await.expect("a network");
        let other = blue.create_endpoint(EndpointSpec::new("first")).await.expect("an endpoint");
        other.join(&first, JoinSpec::default()).await.expect("joined");
        assert!(pings(&first, BEYOND.into(), PATIENCE).await, "over the other network");
        other.leave(&first).await.expect("left");
        assert!(pings(&first, BEYOND.into(), PATIENCE).await, "over the way out again");
        assert!(!pings(&first, there, SILENCE).await);
        let differences = engine.diff().await.expect("compared");
        // The machine beyond is nobody's, and in the directory of the sandboxes' namespaces.
        let beyond = KernelObject::Namespace { name: "beyond".parse().expect("a name") };
        let others: Vec<_> = differences.iter().filter(|found| found.object != beyond).collect();
        assert!(others.is_empty(), "{others:?}");
        assert!(pings(&second, BEYOND.into(), PATIENCE).await);
        delete_everything(&engine).await;
        lab.without_beyond().await;
        lab.assert_pristine().await;
    });
}

/// Containers of a bridge network without communication among each other reach the host and nobody else, and the next
/// engine isolates a port again that somebody has opened.
#[test]
fn without_icc_containers_of_a_bridge_reach_the_gateway_alone() {
    in_lab(async |lab| {
        // This is about ports of bridges. Where bridges hand packets to the firewall, it keeps them apart as well.
        let key = "bridge/bridge-nf-call-iptables".into();
        let off = Op::Sysctl { netns: Netns::Host, key, value: "0".into() };
        // There is no such setting where they cannot.
        let _ = lab.kernel.execute(vec![off], soon()).await;
        let engine = lab.engine().await;
        let spec = NetworkSpec::new("closed").option("com.docker.network.bridge.enable_icc", "false");
        let network = engine.controller().create_network(spec).await.expect("a network");
        let (one, first) = joined(&engine, &network, "one").await;
        let (two, second) = joined(&engine, &network, "two").await;
        let gateway = first.inspect().await.expect("inspected").gateway.expect("it has one");
        for (from, to) in [(&first, address(&two).await), (&second, address(&one).await)] {
            assert!(pings(from, gateway, PATIENCE).await);
            assert!(!pings(from, to, SILENCE).await, "they do not reach each other");
        }
        assert!(engine.diff().await.expect("compared").is_empty());

        // Somebody takes both off the bridge and puts them back.
        let links = lab.kernel.links(Netns::Host, soon()).await.expect("links");
        for port in links.iter().filter(|link| link.isolated) {
            let bridge = links.iter().find(|link| Some(link.index) == port.master).expect("its bridge").name;
            for master in [None, Some(bridge)] {
                lab.does(vec![Op::SetMaster { name: port.name, master }]).await;
            }
        }
        assert!(pings(&first, address(&two).await, PATIENCE).await, "nothing holds them back");
        let told = engine.diff().await.expect("compared");
        assert_eq!(told.len(), 2, "{told:?}");
        engine.shutdown(netloom::ShutdownMode::Graceful).await.expect("stopped");
        drop(engine);
        let engine = lab.next_engine().await;
        assert_eq!(engine.repairs().len(), 2, "{:?}", engine.repairs());
        assert!(engine.diff().await.expect("compared").is_empty());
        let first = engine.controller().sandbox(first.id()).expect("restored");
        assert!(!pings(&first, address(&restored(&engine, "two").await).await, SILENCE).await);
        assert!(pings(&first, gateway, PATIENCE).await);
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

async fn restored(engine: &Engine, name: &str) -> Endpoint {
    let network = engine.controller().network_by_name("closed").expect("restored");
    network.endpoint_by_name(name).await.expect("restored")
}
