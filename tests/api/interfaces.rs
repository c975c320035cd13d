//! Names of interfaces and links: never used twice, never somebody else's.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netloom::drivers::bridge::Bridge;
use netloom::drivers::{CreateEndpoint, CreateNetwork, Driver, DriverCx, Interface, Join, Leave, Restored};
use netloom::kernel::{Kernel, LinkKind, Netns, Op};
use netloom::testkit::{Fault, FaultKind, SimKernel};
use netloom::{Endpoint, EndpointId, EndpointSpec, JoinId, JoinSpec, NetworkSpec, PoolRecord, Sandbox};

use crate::support::{World, bounded, check_truth, until};

async fn ifname(endpoint: &Endpoint) -> String {
    endpoint.inspect().await.expect("inspected").ifname.expect("joined").to_string()
}

fn inside(sandbox: &Sandbox) -> Netns {
    Netns::Named(sandbox.netns().expect("a namespace"))
}

#[tokio::test]
async fn a_number_is_never_used_twice_not_even_after_a_restart() {
    let world = World::new().await;
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    let (one, sandbox) = world.joined(&blue, "web").await;
    let two = red.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    two.join(&sandbox, JoinSpec::default()).await.expect("joined");
    assert_eq!((ifname(&one).await, ifname(&two).await), ("eth0".into(), "eth1".into()));
    two.leave(&sandbox).await.expect("left");
    let world = world.kill_and_restart().await;
    let controller = world.engine().controller();
    let two = controller.network(red.id()).expect("red").endpoint(two.id()).await.expect("an endpoint");
    let sandbox = controller.sandbox(sandbox.id()).expect("the sandbox");
    two.join(&sandbox, JoinSpec::default()).await.expect("joined");
    assert_eq!(ifname(&two).await, "eth2");
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// Killed in the middle of a join, and the kernel is slow to let go of its link: the next join takes the next
/// name.
#[tokio::test]
async fn a_join_right_after_a_restart_gets_past_the_remains_of_the_last_one() {
    let world = World::new().await;
    // Without a gateway: what a link leaves of routes is another matter.
    let spec = netloom::NetworkSpec::new("blue").internal(true);
    let network = world.engine().controller().create_network(spec).await.expect("a network");
    let endpoint = network.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    let sandbox = world.sandbox("c1").await;
    world.kernel().plan(Fault::verb("add_address", 1, FaultKind::Hang));
    let join = tokio::spawn({
        let (endpoint, sandbox) = (endpoint.clone(), sandbox.clone());
        async move { endpoint.join(&sandbox, JoinSpec::default()).await }
    });
    until("the link", async || world.kernel().hanging() > 0).await;
    world.kernel().plan(Fault::verb("delete_link", 1, FaultKind::Hang));
    let world = world.kill_and_restart().await;
    bounded("the join", join).await.expect("it ends").expect_err("its engine is dead");
    let controller = world.engine().controller();
    let endpoint = controller.network(network.id()).expect("it").endpoint(endpoint.id()).await.expect("it");
    let sandbox = controller.sandbox(sandbox.id()).expect("the sandbox");
    until("the deletion", async || world.kernel().hanging() > 0).await;
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    assert_eq!(ifname(&endpoint).await, "eth1");
    world.kernel().release();
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}

#[tokio::test]
async fn an_interface_that_the_container_made_itself_is_left_alone() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let endpoint = network.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    let sandbox = world.sandbox("c1").await;
    for name in ["eth0", "eth1"] {
        let name = name.parse().expect("a name");
        world.kernel().foreign_link(inside(&sandbox), name, LinkKind::Bridge, None).expect("made");
    }
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    assert_eq!(ifname(&endpoint).await, "eth2");
    check_truth(world.engine(), world.kernel()).await.expect("the truth");
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// A driver that makes its links outside: they are moved in under the first free name, and a failure on the way
/// leaves nothing.
#[tokio::test]
async fn a_link_that_is_made_outside_is_moved_in_under_a_free_name() {
    let kernel = SimKernel::new();
    let before = kernel.snapshot();
    let engine = netloom::Engine::simulation().kernel(kernel).driver(crate::outside::registration());
    let world = World { simulation: engine.start().await.expect("it starts"), before };
    let spec = netloom::NetworkSpec::new("out").driver(crate::outside::KIND);
    let network = world.engine().controller().create_network(spec).await.expect("a network");
    let endpoint = network.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    let sandbox = world.sandbox("c1").await;
    let taken = "eth0".parse().expect("a name");
    world.kernel().foreign_link(inside(&sandbox), taken, LinkKind::Bridge, None).expect("made");
    for kind in [FaultKind::Refuse(16), FaultKind::Lose, FaultKind::LoseBefore] {
        world.kernel().plan(Fault::verb("move_link", 1, kind));
        endpoint.join(&sandbox, JoinSpec::default()).await.expect_err("it could not be moved");
        world.settles().await;
        assert!(sandbox.inspect().await.expect("inspected").endpoints.is_empty());
    }
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    let name: netloom::IfName = ifname(&endpoint).await.parse().expect("a name");
    let deadline = Instant::now() + Duration::from_secs(5);
    let found = world.kernel().find_links(inside(&sandbox), vec![name], deadline).await.expect("found");
    assert!(found[0].as_ref().is_some_and(|link| link.up), "{found:?}");
    assert_ne!(name, taken);
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// It gives up in the end, says why, and has left nothing.
#[tokio::test]
async fn a_container_that_takes_every_name_is_told_so() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let endpoint = network.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    let sandbox = world.sandbox("c1").await;
    for n in 0..64 {
        let name = format!("eth{n}").parse().expect("a name");
        world.kernel().foreign_link(inside(&sandbox), name, LinkKind::Bridge, None).expect("made");
    }
    let error = endpoint.join(&sandbox, JoinSpec::default()).await.expect_err("no name is free");
    assert_eq!(error.kind(), netloom::ErrorKind::Conflict, "{error:?}");
    assert!(error.to_string().contains("eth") && error.remedy().is_some(), "{error}");
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// While an earlier link may still pass traffic its endpoint is nowhere else.
#[tokio::test]
async fn an_endpoint_whose_link_could_not_be_cut_off_joins_nobody() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let (endpoint, sandbox) = world.joined(&network, "web").await;
    let address = endpoint.inspect().await.expect("inspected").ipv4.expect("an address");
    for verb in ["cut_link", "delete_link"] {
        world.kernel().plan(Fault::verb(verb, 1, FaultKind::Refuse(16)).always());
    }
    endpoint.leave(&sandbox).await.expect("its record says so");
    world.simulation.crash_actor(netloom::Victim::Driver("bridge".into())).await.expect("told");
    let other = world.sandbox("c2").await;
    until("the answer", async || {
        let refused = endpoint.join(&other, JoinSpec::default()).await;
        refused.is_err_and(|error| error.to_string().contains("leaving its sandbox"))
    })
    .await;
    endpoint.delete().await.expect("deleted");
    let holders = network.holders(10).await.expect("listed").holders.into_iter();
    let held: Vec<_> = holders.filter(|held| held.address == IpAddr::from(address.addr())).collect();
    assert!(held[0].holder.starts_with("quarantine of"), "its link may still answer: {held:?}");
    // Who asks for its address waits for that.
    let again = tokio::spawn(async move {
        network.create_endpoint(EndpointSpec::new("web").address(address.addr().into())).await
    });
    until("it waits", async || {
        let seen = world.engine().inspect().await.expect("inspected").operations;
        seen.iter().any(|operation| operation.step == "wait for the link of a deleted endpoint")
    })
    .await;
    world.kernel().clear_faults();
    bounded("the creation", again).await.expect("it ends").expect("free");
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}

/// The network says what stands before the number; a later engine still knows, and one that lost the records
/// reads it off the interfaces.
#[tokio::test]
async fn interfaces_are_called_as_the_network_says() {
    let mut world = World::new().await;
    let spec = NetworkSpec::new("wide").option("com.docker.network.container_iface_prefix", "wan");
    let wide = world.engine().controller().create_network(spec).await.expect("made");
    let narrow = world.network("narrow").await;
    world.joined(&narrow, "db").await;
    let (_, sandbox) = world.joined(&wide, "web").await;
    let plug = async |world: &World, number: u32| {
        let controller = world.engine().controller();
        let sandbox = controller.sandbox(sandbox.id()).expect("it runs on");
        for network in [wide.id(), narrow.id()] {
            let network = controller.network(network).expect("it runs on");
            let endpoint =
                network.create_endpoint(EndpointSpec::new(format!("e{number}"))).await.expect("made");
            endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
        }
        let picture = sandbox.inspect().await.expect("inspected");
        let mut names: Vec<_> = picture.endpoints.iter().map(|e| e.ifname.to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(plug(&world, 1).await, ["eth2", "wan0", "wan1"]);
    world = world.kill_and_restart().await;
    assert_eq!(world.engine().repairs(), []);
    assert_eq!(plug(&world, 3).await, ["eth2", "eth4", "wan0", "wan1", "wan3"]);
    let disk = world.simulation.disk();
    let spoilt = disk.records().into_iter().filter(|(key, _)| key.kind == netloom_store::RecordKind::Network);
    let spoilt = spoilt.map(|(key, _)| netloom_store::Change::Put { key, value: b"\x01 damaged".to_vec() });
    netloom_store::Store::commit(&mut disk.open(), &spoilt.collect::<Vec<_>>()).expect("written");
    world = world.kill_and_restart().await;
    assert_eq!(plug(&world, 5).await, ["eth2", "eth4", "eth6", "wan0", "wan1", "wan3", "wan5"]);
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine().await;
}

// === The bridge driver alone ===

fn cx(kernel: &SimKernel) -> DriverCx {
    let deadline = Instant::now() + Duration::from_secs(5);
    DriverCx {
        kernel: Arc::new(kernel.clone()),
        instance: "test".into(),
        outside: Arc::new(netloom::drivers::NoOutside),
        deadline,
    }
}

fn network() -> CreateNetwork {
    CreateNetwork {
        network: "blue".parse().expect("an id"),
        name: "blue".into(),
        restored: Restored::Fresh,
        options: [("com.docker.network.bridge.name".into(), "lan0".into())].into(),
        internal: false,
        ipv6: false,
        v4: vec![PoolRecord {
            gateway: Some([10, 1, 0, 1].into()),
            ..PoolRecord::new("10.1.0.0/24".parse().expect("a pool"))
        }],
        v6: Vec::new(),
        found: std::collections::BTreeMap::new(),
    }
}

fn endpoint(id: EndpointId) -> CreateEndpoint {
    CreateEndpoint {
        network: network().network,
        endpoint: id,
        name: "web".into(),
        restored: Restored::Fresh,
        ipv4: Some("10.1.0.2/24".parse().expect("a net")),
        ipv6: None,
        mac: None,
        options: std::collections::BTreeMap::new(),
        ports: netloom::Seldom::default(),
        joined: None,
    }
}

/// An endpoint that was made before stays, whatever was accepted then.
#[tokio::test]
async fn options_of_a_restored_endpoint_are_not_judged_again() {
    let kernel = SimKernel::new();
    let mut driver = Bridge::default();
    driver.create_network(&cx(&kernel), network()).expect("accepted").await.expect("made");
    let options = [("com.docker.network.endpoint.sysctls".to_owned(), "x".to_owned())].into();
    let fresh = CreateEndpoint { options, ..endpoint("a".repeat(64).parse().expect("an id")) };
    let error = driver.create_endpoint(&cx(&kernel), fresh.clone()).err().map(|error| error.kind());
    assert_eq!(error, Some(netloom::ErrorKind::InvalidParameter));
    let restored = CreateEndpoint { restored: Restored::FromStore, ..fresh };
    driver.create_endpoint(&cx(&kernel), restored).expect("accepted").await.expect("it is there");
}

/// A leave that is asked for again after the driver died and the endpoint joined anew, of either join.
#[tokio::test]
async fn a_leave_that_is_asked_for_again_never_hits_a_later_join() {
    let kernel = SimKernel::new();
    let id: EndpointId = "a".repeat(64).parse().expect("an id");
    let netns: netloom::NetnsName = "c1".parse().expect("a name");
    let made = kernel.execute(vec![Op::CreateNetns { name: netns, ipv6: true }], cx(&kernel).deadline).await;
    made.into_iter().collect::<Result<Vec<_>, _>>().expect("a namespace");
    let join = |number, ifname: &str| Join {
        network: network().network,
        endpoint: id,
        join: JoinId(number),
        netns: Netns::Named(netns),
        ifname: ifname.parse().expect("a name"),
        sandbox: std::sync::Arc::default(),
    };
    let leave = |number| Leave { network: network().network, endpoint: id, join: JoinId(number) };
    let mut driver = Bridge::default();
    driver.create_network(&cx(&kernel), network()).expect("accepted").await.expect("made");
    driver.create_endpoint(&cx(&kernel), endpoint(id)).expect("accepted").await.expect("made");
    driver.join(&cx(&kernel), join(1, "eth0")).expect("accepted").await.expect("joined");
    // The driver dies. Its successor knows of no join, and then of the next one.
    let mut driver = Bridge::default();
    driver.create_network(&cx(&kernel), network()).expect("accepted").await.expect("ours already");
    driver.create_endpoint(&cx(&kernel), endpoint(id)).expect("accepted").await.expect("made");
    let joined = driver.join(&cx(&kernel), join(2, "eth1")).expect("accepted").await.expect("joined");
    let Interface::InPlace { link: Some(second) } = joined.interface else { panic!("{joined:?}") };
    let up = async |name| {
        let found = kernel.find_links(Netns::Host, vec![name], cx(&kernel).deadline).await.expect("found");
        found.into_iter().next().flatten().map(|link| link.up)
    };
    // A number whose low half is the same names the same link.
    for stale in [1, 2 + 0x1_0000] {
        driver.leave(&cx(&kernel), leave(stale)).expect("accepted").await.expect("left");
        assert_eq!(up(second).await, Some(true), "leave of join {stale}");
    }
    let links = kernel.links(Netns::Host, cx(&kernel).deadline).await.expect("listed");
    let first = links.iter().find(|link| link.kind == LinkKind::Veth && link.name != second);
    assert_eq!(first.map(|link| link.up), Some(false), "the first one was found and cut off");
    let left = driver.leave(&cx(&kernel), leave(2)).expect("accepted").await.expect("left");
    assert_eq!((up(second).await, left.remains.len()), (Some(false), 1));
}

/// A link of somebody else's that has the name of a new one is not touched.
#[tokio::test]
async fn a_foreign_link_in_the_way_is_not_touched() {
    let kernel = SimKernel::new();
    let id: EndpointId = "a".repeat(64).parse().expect("an id");
    let mut driver = Bridge::default();
    driver.create_network(&cx(&kernel), network()).expect("accepted").await.expect("made");
    driver.create_endpoint(&cx(&kernel), endpoint(id)).expect("accepted").await.expect("made");
    let name = "vethaaaaaaa0007".parse().expect("a name");
    kernel.foreign_link(Netns::Host, name, LinkKind::Bridge, None).expect("made");
    let up = Op::SetLink { netns: Netns::Host, name, up: true };
    kernel.foreign_op(&up).expect("it is there");
    let join = Join {
        network: network().network,
        endpoint: id,
        join: JoinId(7),
        netns: Netns::Host,
        ifname: "eth0".parse().expect("a name"),
        sandbox: std::sync::Arc::default(),
    };
    let error = driver.join(&cx(&kernel), join).expect("accepted").await.expect_err("the name is taken");
    assert!(matches!(error.reason(), netloom::Reason::LinkTaken { .. }), "{error:?}");
    let leave = Leave { network: network().network, endpoint: id, join: JoinId(7) };
    driver.leave(&cx(&kernel), leave).expect("accepted").await.expect("nothing to do");
    // And once more by a driver that does not know why.
    let leave = Leave { network: network().network, endpoint: id, join: JoinId(7) };
    Bridge::default().leave(&cx(&kernel), leave).expect("accepted").await.expect("nothing to do");
    let found = kernel.find_links(Netns::Host, vec![name], cx(&kernel).deadline).await.expect("found");
    assert!(found[0].as_ref().is_some_and(|link| link.up), "{found:?}");
}
