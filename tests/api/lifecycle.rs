//! The life of networks, endpoints and sandboxes.

use std::ops::ControlFlow;

use netloom::kernel::Netns;
use netloom::snapshot::{EndpointPhase, NetworkPhase, SandboxPhase};
use netloom::{EndpointSpec, ErrorKind, EventKind, JoinSpec, NetworkSpec, SandboxSpec};

use crate::support::World;

#[tokio::test]
async fn two_endpoints_of_a_network_reach_each_other_and_nothing_is_left() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let (one, first) = world.joined(&network, "one").await;
    let (two, second) = world.joined(&network, "two").await;
    let address = |snapshot: netloom::snapshot::EndpointSnapshot| snapshot.ipv4.expect("an address").addr();
    let (a, b) = (address(one.inspect().await.unwrap()), address(two.inspect().await.unwrap()));
    assert_ne!(a, b);
    let kernel = world.simulation.kernel();
    let from = |sandbox: &netloom::Sandbox| Netns::Named(sandbox.netns().unwrap());
    kernel.can_reach(from(&first), b.into()).expect("one reaches two");
    kernel.can_reach(from(&second), a.into()).expect("two reaches one");

    two.leave(&second).await.expect("left");
    kernel.can_reach(from(&first), b.into()).expect_err("who left is not reached");
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn snapshots_tell_the_phases() {
    let world = World::new().await;
    let network = world.network("blue").await;
    assert_eq!(network.inspect().await.unwrap().phase, NetworkPhase::Active);
    let endpoint = network.create_endpoint(EndpointSpec::new("web")).await.unwrap();
    let idle = endpoint.inspect().await.unwrap();
    assert_eq!((idle.phase, idle.sandbox, idle.ifname), (EndpointPhase::Idle, None, None));
    let sandbox = world.sandbox("c1").await;
    assert_eq!(sandbox.inspect().await.unwrap().phase, SandboxPhase::Ready);
    let place = endpoint.join(&sandbox, JoinSpec::priority(7)).await.unwrap();
    let joined = endpoint.inspect().await.unwrap();
    assert_eq!((joined.phase, joined.sandbox), (EndpointPhase::Joined, Some(sandbox.id())));
    assert_eq!(joined.ifname.map(|name| name.to_string()).as_deref(), Some("eth0"));
    assert_eq!(place.priority, 7);
    let inside = sandbox.inspect().await.unwrap();
    assert_eq!(inside.endpoints, [place]);
    assert_eq!(inside.gateway, network.inspect().await.unwrap().v4[0].gateway);
}

#[tokio::test]
async fn statistics_are_those_of_the_interfaces_that_are_there() {
    let world = World::new().await;
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    let (_, sandbox) = world.joined(&blue, "web").await;
    let second = red.create_endpoint(EndpointSpec::new("r")).await.unwrap();
    second.join(&sandbox, JoinSpec::default()).await.unwrap();
    let names = async || -> Vec<String> {
        sandbox.statistics().await.expect("told").keys().map(ToString::to_string).collect()
    };
    assert_eq!(names().await, ["eth0", "eth1"]);
    second.statistics().await.expect("it is in a sandbox");
    let inside = Netns::Named(sandbox.netns().unwrap());
    world.kernel().vanish_link(inside, "eth0".parse().unwrap()).expect("it was there");
    assert_eq!(names().await, ["eth1"], "somebody has taken the other one away");
    sandbox.delete().await.unwrap();
    assert_eq!(second.statistics().await.expect_err("it is in none").kind(), ErrorKind::Forbidden);
    assert_eq!(sandbox.statistics().await.expect_err("gone").kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn sandboxes_are_found_by_their_key_and_destroyed_by_their_container() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let (one, two) = (world.sandbox("c1").await, world.sandbox("c2").await);
    for sandbox in [&one, &two] {
        let found = controller.sandbox_by_key(sandbox.key().unwrap()).expect("found");
        assert_eq!((found.id(), found.container_id()), (sandbox.id(), sandbox.container_id()));
    }
    let elsewhere = std::path::Path::new("/elsewhere").join(&*one.id().short());
    assert_eq!(controller.sandbox_by_key(elsewhere).expect_err("not there").kind(), ErrorKind::NotFound);
    for _ in 0..2 {
        controller.destroy_sandbox("c1").await.expect("gone, or gone already");
    }
    assert_eq!(controller.destroy_sandbox(" ").await.expect_err("blank").kind(), ErrorKind::InvalidParameter);
    assert_eq!(controller.sandboxes().len(), 1);
    let network = world.network("blue").await;
    let endpoint = network.create_endpoint(EndpointSpec::new("web")).await.unwrap();
    endpoint.join(&two, JoinSpec::default()).await.unwrap();
    controller.destroy_sandbox("c2").await.expect("its endpoint leaves first");
    assert_eq!(endpoint.inspect().await.unwrap().phase, EndpointPhase::Idle);
}

#[tokio::test]
async fn interface_names_are_never_used_twice_and_the_best_gateway_wins() {
    let world = World::new().await;
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    let sandbox = world.sandbox("c1").await;
    let gateway = async || sandbox.inspect().await.unwrap().gateway;
    let of = async |network: &netloom::Network| network.inspect().await.unwrap().v4[0].gateway;
    let first = red.create_endpoint(EndpointSpec::new("r")).await.unwrap();
    let second = blue.create_endpoint(EndpointSpec::new("b")).await.unwrap();
    assert_eq!(first.join(&sandbox, JoinSpec::default()).await.unwrap().ifname.as_str(), "eth0");
    assert_eq!(gateway().await, of(&red).await);
    assert_eq!(second.join(&sandbox, JoinSpec::default()).await.unwrap().ifname.as_str(), "eth1");
    assert_eq!(gateway().await, of(&blue).await, "blue comes before red");
    second.leave(&sandbox).await.unwrap();
    assert_eq!(gateway().await, of(&red).await, "red is next in line");
    let again = second.join(&sandbox, JoinSpec::priority(-1)).await.unwrap();
    assert_eq!(again.ifname.as_str(), "eth2", "eth1 is not used again");
    assert_eq!(gateway().await, of(&red).await, "a lower priority does not win");
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn an_internal_network_gives_no_gateway() {
    let world = World::new().await;
    let spec = NetworkSpec::new("closed").internal(true);
    let network = world.engine().controller().create_network(spec).await.unwrap();
    let (_, sandbox) = world.joined(&network, "one").await;
    assert_eq!(sandbox.inspect().await.unwrap().gateway, None);
}

#[tokio::test]
async fn both_families_are_served() {
    let world = World::new().await;
    let spec =
        NetworkSpec::new("dual").subnet("10.9.0.0/24".parse().unwrap()).subnet("fd09::/64".parse().unwrap());
    let network = world.engine().controller().create_network(spec).await.unwrap();
    let (one, first) = world.joined(&network, "one").await;
    let (two, _) = world.joined(&network, "two").await;
    let (one, two) = (one.inspect().await.unwrap(), two.inspect().await.unwrap());
    let kernel = world.simulation.kernel();
    let from = Netns::Named(first.netns().unwrap());
    kernel.can_reach(from, two.ipv4.unwrap().addr().into()).expect("over IPv4");
    kernel.can_reach(from, two.ipv6.unwrap().addr().into()).expect("over IPv6");
    assert_eq!(first.inspect().await.unwrap().gateway6, network.inspect().await.unwrap().v6[0].gateway);
    assert_eq!(one.mac.unwrap().to_string(), "02:42:0a:09:00:02", "made from the address");
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn objects_are_found_by_name_and_by_id_and_walked() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let names = ["apple", "mango", "zebra"];
    for name in names {
        world.network(name).await;
    }
    let mut seen = Vec::new();
    controller.walk_networks(|network| {
        seen.push(network.name().to_owned());
        if network.name() == "mango" { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(seen, ["apple", "mango"]);
    let mango = controller.network_by_name("mango").unwrap();
    assert_eq!(controller.network(mango.id()).unwrap().name(), "mango");
    let endpoint = mango.create_endpoint(EndpointSpec::new("web")).await.unwrap();
    assert_eq!(mango.endpoint_by_name("web").await.unwrap().id(), endpoint.id());
    assert_eq!(mango.endpoint(endpoint.id()).await.unwrap().name(), "web");
    let sandbox = world.sandbox("c1").await;
    assert_eq!(controller.sandbox_by_container("c1").unwrap().id(), sandbox.id());
    assert_eq!(controller.sandboxes().len(), 1);
    assert_eq!(controller.drivers().await.unwrap(), ["bridge", "host", "null"]);
    let info = endpoint.driver_info().await.unwrap();
    assert!(info.contains_key("com.docker.network.endpoint.macaddress"), "{info:?}");
}

#[tokio::test]
async fn events_tell_the_story_in_order() {
    let world = World::new().await;
    let mut events = world.engine().events();
    let network = world.network("blue").await;
    let (endpoint, sandbox) = world.joined(&network, "web").await;
    endpoint.leave(&sandbox).await.unwrap();
    sandbox.delete().await.unwrap();
    endpoint.delete().await.unwrap();
    network.delete().await.unwrap();
    let mut told = Vec::new();
    let mut last = 0;
    while told.len() < 8 {
        let event = events.next().await.expect("the engine runs").expect("nothing is missed");
        assert_eq!(event.seq, last + 1);
        last = event.seq;
        told.push(match event.kind {
            EventKind::NetworkCreated { .. } => "network created",
            EventKind::EndpointCreated { .. } => "endpoint created",
            EventKind::SandboxCreated { .. } => "sandbox created",
            EventKind::EndpointAttached { .. } => "attached",
            EventKind::EndpointDetached { .. } => "detached",
            EventKind::SandboxDeleted { .. } => "sandbox deleted",
            EventKind::EndpointDeleted { .. } => "endpoint deleted",
            EventKind::NetworkDeleted { .. } => "network deleted",
            other => panic!("unexpected: {other:?}"),
        });
    }
    let story = [
        "network created",
        "endpoint created",
        "sandbox created",
        "attached",
        "detached",
        "sandbox deleted",
        "endpoint deleted",
        "network deleted",
    ];
    assert_eq!(told, story);
}

#[tokio::test]
async fn a_slow_reader_is_told_how_much_it_missed() {
    let mut config = netloom::EngineConfig::default();
    config.limits.event_backlog = 4;
    let simulation = netloom::Engine::simulation().config(config).start().await.unwrap();
    let mut events = simulation.engine().events();
    let controller = simulation.engine().controller();
    for n in 0..10 {
        controller.create_network(NetworkSpec::new(format!("n{n}"))).await.unwrap();
    }
    assert_eq!(events.next().await.unwrap().unwrap_err().0, 6);
    assert_eq!(events.next().await.unwrap().unwrap().seq, 7);
}

#[tokio::test]
async fn a_sandbox_takes_its_endpoints_out_when_it_goes() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let (endpoint, sandbox) = world.joined(&network, "web").await;
    sandbox.delete().await.unwrap();
    assert_eq!(endpoint.inspect().await.unwrap().phase, EndpointPhase::Idle);
    let next = world.engine().controller().create_sandbox(SandboxSpec::new("next")).await.unwrap();
    endpoint.join(&next, JoinSpec::default()).await.expect("it can join another one");
    endpoint.delete_with_force().await.expect("force lets it leave first");
    assert!(next.inspect().await.unwrap().endpoints.is_empty());
    world.delete_everything().await;
    world.assert_pristine().await;
}
