//! Neighbours are told who has an address now, where they may remember another one: once for each join, and never at the
//! price of the join.

use std::time::{Duration, Instant};

use netloom::kernel::{Netns, Op};
use netloom::testkit::{Fault, FaultKind};
use netloom::{
    Endpoint, EndpointSpec, JoinSpec, MacAddr, Network, NetworkSpec, Sandbox, SandboxKey, SandboxSpec,
};

use crate::support::{World, bounded};

/// One that follows from no address.
const GIVEN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// `ENOENT`, `EBUSY`.
const REFUSALS: [i32; 2] = [2, 16];

fn inside(sandbox: &Sandbox) -> Netns {
    Netns::Named(sandbox.netns().expect("a namespace"))
}

/// What the settings of a link say by which its neighbours are told.
fn settings(world: &World, netns: Netns, link: &str) -> [Option<String>; 2] {
    ["ipv4/conf/LINK/arp_notify", "ipv6/conf/LINK/ndisc_notify"]
        .map(|key| world.kernel().setting(netns, &key.replace("LINK", link)))
}

fn on() -> Option<String> {
    Some("1".into())
}

/// An endpoint whose hardware address, if one is given, does not follow from its IPv4 address.
async fn joined(world: &World, network: &Network, name: &str, mac: Option<MacAddr>) -> (Endpoint, Sandbox) {
    let spec = EndpointSpec::new(name);
    let endpoint = network.create_endpoint(match mac {
        Some(mac) => spec.mac(mac),
        None => spec,
    });
    let endpoint = endpoint.await.expect("an endpoint");
    let sandbox =
        world.engine().controller().create_sandbox(SandboxSpec::new(name)).await.expect("a sandbox");
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    (endpoint, sandbox)
}

#[tokio::test]
async fn each_join_tells_the_neighbours_once_when_its_addresses_are_there() {
    let world = World::new().await;
    let blue = world.network("blue").await;
    let spec = NetworkSpec::new("red").ipv6(true);
    let red = world.engine().controller().create_network(spec).await.expect("a network");
    world.kernel().set_log(256);
    let (one, sandbox) = joined(&world, &blue, "one", Some(GIVEN)).await;
    assert_eq!(settings(&world, inside(&sandbox), "eth0"), [on(), None], "it has no IPv6 address");
    for place in [Netns::Host, inside(&sandbox)] {
        assert_eq!(settings(&world, place, "all"), [None, None], "other links are left alone");
    }
    assert_eq!(world.kernel().announcements(), 1);
    let log = world.kernel().log();
    let at = |wanted: fn(&Op) -> bool| log.iter().position(|(op, _)| wanted(op)).expect("it was done");
    assert!(at(|op| matches!(op, Op::AddAddress { .. })) < at(|op| matches!(op, Op::Announce { .. })));

    let two = red.create_endpoint(EndpointSpec::new("two")).await.expect("an endpoint");
    two.join(&sandbox, JoinSpec::default()).await.expect("joined");
    assert_eq!(world.kernel().announcements(), 2, "the first one has not come anew");
    let of_ipv6 = "its hardware address follows from the IPv4 address, and says nothing of the IPv6 address";
    assert_eq!(settings(&world, inside(&sandbox), "eth1"), [None, on()], "{of_ipv6}");
    let told = world.kernel().log().into_iter().filter_map(|(op, _)| match op {
        Op::Announce { netns, link } => Some((netns, link.to_string())),
        _ => None,
    });
    let netns = inside(&sandbox);
    assert_eq!(told.collect::<Vec<_>>(), [(netns, "eth0".to_owned()), (netns, "eth1".to_owned())]);

    one.leave(&sandbox).await.expect("left");
    assert_eq!(world.kernel().announcements(), 2, "who leaves has nothing to tell");
    let world = world.kill_and_restart().await;
    assert_eq!(world.kernel().announcements(), 2, "who was there all along is known");
    let sandbox = world.engine().controller().sandbox(sandbox.id()).expect("the sandbox");
    sandbox.refresh(SandboxSpec::new("one")).await.expect("it begins anew");
    assert_eq!(world.kernel().announcements(), 3, "it has been plugged in again");
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// An announcement reaches everybody on a bridge, so none is made where it can say nothing new: on a bridge of the
/// engine's own, to which it has plugged in nobody whose hardware address does not follow from the IPv4 address.
#[tokio::test]
async fn who_can_only_have_the_hardware_address_of_whoever_had_its_address_before_is_not_announced() {
    let world = World::new().await;
    let blue = world.network("blue").await;
    for (name, mac, told, why) in [
        ("one", None, 0, "the first"),
        ("two", None, 0, "like the first"),
        ("three", Some(GIVEN), 1, "the user chose it"),
        ("four", None, 2, "somebody may remember the third under its address"),
    ] {
        let (endpoint, sandbox) = joined(&world, &blue, name, mac).await;
        assert_eq!(world.kernel().announcements(), told, "{name}: {why}");
        sandbox.delete().await.expect("deleted");
        endpoint.delete().await.expect("deleted");
    }
    let told = world.kernel().announcements();

    // The user plugs into a bridge that the user has named.
    let spec = NetworkSpec::new("lan").option("com.docker.network.bridge.name", "lan0");
    let lan = world.engine().controller().create_network(spec).await.expect("a network");
    joined(&world, &lan, "five", None).await;
    assert_eq!(world.kernel().announcements(), told + 1, "its address may have been another host's");

    // Whoever was there in an earlier life of the engine is forgotten, and may be remembered.
    let green = world.network("green").await;
    joined(&world, &green, "six", None).await;
    assert_eq!(world.kernel().announcements(), told + 1);
    let world = world.kill_and_restart().await;
    let green = world.engine().controller().network(green.id()).expect("the network");
    joined(&world, &green, "seven", None).await;
    assert_eq!(world.kernel().announcements(), told + 2);
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn in_a_namespace_of_others_neighbours_are_told_as_soon_as_it_is_named() {
    let world = World::new().await;
    world.kernel().external_netns("/proc/4711/ns/net").expect("added");
    let before = world.kernel().snapshot();
    let blue = world.network("blue").await;
    let spec = SandboxSpec::new("c1").external_key();
    let sandbox = world.engine().controller().create_sandbox(spec).await.expect("a sandbox");
    let endpoint = blue.create_endpoint(EndpointSpec::new("e").mac(GIVEN)).await.expect("an endpoint");
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("a place is kept");
    assert_eq!(world.kernel().announcements(), 0, "there is nothing to tell of yet");
    sandbox.set_key(SandboxKey::Pid(4711)).await.expect("plugged in");
    assert_eq!(world.kernel().announcements(), 1);
    assert_eq!(settings(&world, inside(&sandbox), "eth0"), [on(), None]);
    world.delete_everything().await;
    assert_eq!(world.kernel().leftovers(&before), Vec::<String>::new(), "it is as it was");
}

/// Whatever becomes of an announcement, the join is what it is without.
#[tokio::test]
async fn a_join_never_fails_because_neighbours_cannot_be_told() {
    let refusals = REFUSALS.map(FaultKind::Refuse);
    let others = [FaultKind::Lose, FaultKind::LoseBefore, FaultKind::Hang];
    let kinds = || refusals.into_iter().chain(others);
    for (verb, kind) in
        ["sysctl", "announce"].into_iter().flat_map(|verb| kinds().map(move |kind| (verb, kind)))
    {
        let world = World::new().await;
        let blue = world.network("blue").await;
        world.kernel().plan(Fault::verb(verb, 1, kind));
        let began = Instant::now();
        let (endpoint, _) = bounded("the join", joined(&world, &blue, "one", Some(GIVEN))).await;
        let longest = if kind == FaultKind::Hang { Duration::from_secs(10) } else { Duration::from_secs(1) };
        assert!(began.elapsed() < longest, "{verb}, {kind:?}: {:?}", began.elapsed());
        assert!(world.kernel().pending_faults().is_empty(), "{verb}, {kind:?}");
        assert!(endpoint.inspect().await.expect("inspected").ifname.is_some(), "{verb}, {kind:?}");
        world.kernel().release();
        world.delete_everything().await;
        world.assert_pristine().await;
    }
}
