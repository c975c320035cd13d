//! The host learns an address or a route where a network has its pool: that is told once, listed, and over when it goes.

use std::sync::Arc;

use ipnet::IpNet;
use netloom::drivers::done;
use netloom::kernel::{Kernel, LinkKind, Netns, Op, Route};
use netloom::snapshot::PoolOverlap;
use netloom::testkit::{Fault, FaultKind, SimKernel};
use netloom::{
    Certainty, Engine, EventKind, EventStream, HostOverlap, IpamPoolSpec, NetworkId, NetworkSpec, PassedOver,
    Reason, Victim,
};
use netloom_store::MemoryDisk;

use crate::mortal::{Death, Mortal, Slow};
use crate::scripted::Scripted;
use crate::support::{World, bounded, until};

/// A tunnel that is up, with an address of its own.
fn tunnel(kernel: &SimKernel, name: &str, address: &str) {
    let link = name.parse().expect("a name");
    kernel.foreign_link(Netns::Host, link, LinkKind::Device, None).expect("made");
    kernel.foreign_op(&Op::SetLink { netns: Netns::Host, name: link, up: true }).expect("up");
    let address = address.parse().expect("an address");
    kernel.foreign_op(&Op::AddAddress { netns: Netns::Host, link, address }).expect("added");
}

fn route(link: &str, destination: &str) -> Route {
    Route { destination: net(destination), via: None, link: link.parse().expect("a name") }
}

fn add(kernel: &SimKernel, link: &str, destination: &str) {
    let route = route(link, destination);
    kernel.foreign_op(&Op::AddRoute { netns: Netns::Host, route }).expect("added");
}

fn remove(kernel: &SimKernel, link: &str, destination: &str) {
    let route = route(link, destination);
    kernel.foreign_op(&Op::DeleteRoute { netns: Netns::Host, route }).expect("removed");
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a subnet")
}

/// What an event says of an overlap: `+` or `-`, the pool, the host's subnet, and what it is.
fn said(kind: &EventKind) -> Option<(NetworkId, String)> {
    match kind {
        EventKind::PoolOverlapsHost { network, pool, other, what } => {
            Some((*network, format!("+ {pool} {other} {what}")))
        }
        EventKind::PoolOverlapEnded { network, pool, other } => Some((*network, format!("- {pool} {other}"))),
        _ => None,
    }
}

/// The next event about an overlap.
async fn told(events: &mut EventStream) -> (NetworkId, String) {
    let next = async {
        loop {
            let event = events.next().await.expect("the engine runs").expect("nothing is missed");
            if let Some(said) = said(&event.kind) {
                return said;
            }
        }
    };
    bounded("an event about an overlap", next).await
}

async fn listed(world: &World) -> Vec<PoolOverlap> {
    bounded("inspecting", world.engine().inspect()).await.expect("inspected").overlaps
}

#[tokio::test]
async fn a_vpn_that_comes_up_is_told_once_and_again_when_it_is_gone() {
    let world = World::new().await;
    let (network, kernel) = (world.network("blue").await, world.kernel());
    world.joined(&network, "web").await;
    let mut events = world.engine().events();
    tunnel(kernel, "tun0", "10.8.0.2/24");
    for everywhere in ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "::/0", "::/1", "8000::/1", "fe80:1::/64"] {
        add(kernel, "tun0", everywhere);
    }
    add(kernel, "tun0", "172.17.128.0/17");
    let overlap = (network.id(), "+ 172.17.0.0/16 172.17.128.0/17 a route".to_owned());
    assert_eq!(told(&mut events).await, overlap, "what comes from everywhere says nothing");
    let expected = PoolOverlap {
        network: network.id(),
        name: "blue".into(),
        pool: net("172.17.0.0/16"),
        other: net("172.17.128.0/17"),
        what: "a route".into(),
    };
    assert_eq!(listed(&world).await, std::slice::from_ref(&expected));
    // Another one, by an address: the route that follows from it is the same overlap.
    let address = net("172.17.200.1/24");
    let link = "tun0".parse().unwrap();
    kernel.foreign_op(&Op::AddAddress { netns: Netns::Host, link, address }).unwrap();
    let overlap = (network.id(), "+ 172.17.0.0/16 172.17.200.0/24 an address".to_owned());
    assert_eq!(told(&mut events).await, overlap);
    kernel.foreign_op(&Op::DeleteAddress { netns: Netns::Host, link, address }).unwrap();
    assert_eq!(told(&mut events).await, (network.id(), "- 172.17.0.0/16 172.17.200.0/24".to_owned()));
    assert_eq!(listed(&world).await, [expected]);
    remove(kernel, "tun0", "172.17.128.0/17");
    assert_eq!(told(&mut events).await, (network.id(), "- 172.17.0.0/16 172.17.128.0/17".to_owned()));
    assert_eq!(listed(&world).await, []);
    kernel.vanish_link(Netns::Host, link).unwrap();
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// What the host keeps default pools from networks for is told with them, also after a restart; of very many, some.
#[tokio::test]
async fn default_pools_that_were_passed_over_are_told_with_what_was_in_the_way() {
    let world = World::new().await;
    let free = world.network("free").await;
    assert!(free.inspect().await.unwrap().passed_over.is_empty(), "a network's own pool is in nobody's way");
    free.delete().await.unwrap();
    tunnel(world.kernel(), "tun0", "172.17.8.2/24");
    add(world.kernel(), "tun0", "172.18.0.0/15");
    let network = world.network("blue").await;
    let overlap = |pool: &str, other: &str, what: &'static str| HostOverlap {
        pool: net(pool),
        other: net(other),
        what: what.into(),
        link: Some("tun0".parse().unwrap()),
    };
    let expected = PassedOver {
        pools: vec![
            overlap("172.17.0.0/16", "172.17.8.0/24", "an address"),
            overlap("172.18.0.0/16", "172.18.0.0/15", "a route"),
            overlap("172.19.0.0/16", "172.18.0.0/15", "a route"),
        ],
        more: 0,
    };
    let told = network.inspect().await.unwrap();
    assert_eq!((told.v4[0].pool, told.passed_over), (net("172.20.0.0/16"), expected.clone()));
    let world = world.kill_and_restart().await;
    let network = world.engine().controller().network(network.id()).expect("there");
    assert_eq!(network.inspect().await.unwrap().passed_over, expected);
    add(world.kernel(), "tun0", "172.16.0.0/12");
    for n in 0..10 {
        add(world.kernel(), "tun0", &format!("192.168.{}.0/28", 16 * n));
    }
    let told = world.network("red").await.inspect().await.unwrap();
    assert_eq!(told.v4[0].pool, net("192.168.160.0/20"));
    assert_eq!(told.passed_over.pools.len(), PassedOver::LISTED);
    assert_eq!(told.passed_over.pools.len() as u64 + told.passed_over.more, 14 + 10);
}

/// Linux takes the IPv4 routes of a link that goes down in silence.
#[tokio::test]
async fn an_overlap_ends_with_its_link() {
    let world = World::new().await;
    let (network, kernel) = (world.network("blue").await, world.kernel());
    let mut events = world.engine().events();
    let link = "tun0".parse().unwrap();
    tunnel(kernel, "tun0", "10.8.0.2/24");
    for (end, other) in [(false, "172.17.1.0/24"), (true, "172.17.2.0/24")] {
        add(kernel, "tun0", other);
        let overlap = format!("+ 172.17.0.0/16 {other} a route");
        assert_eq!(told(&mut events).await, (network.id(), overlap));
        if end {
            kernel.vanish_link(Netns::Host, link).unwrap();
        } else {
            kernel.foreign_op(&Op::SetLink { netns: Netns::Host, name: link, up: false }).unwrap();
        }
        assert_eq!(told(&mut events).await, (network.id(), format!("- 172.17.0.0/16 {other}")));
        if !end {
            kernel.foreign_op(&Op::SetLink { netns: Netns::Host, name: link, up: true }).unwrap();
        }
    }
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// What is there at a start is listed by the time that it answers.
#[tokio::test]
async fn what_overlaps_is_known_again_after_a_restart() {
    let world = World::new().await;
    let network = world.network("blue").await;
    tunnel(world.kernel(), "tun0", "10.8.0.2/24");
    add(world.kernel(), "tun0", "172.0.0.0/8");
    until("the overlap", async || !listed(&world).await.is_empty()).await;
    let before = listed(&world).await;
    let world = world.kill_and_restart().await;
    assert_eq!(listed(&world).await, before);
    let mut events = world.engine().events();
    remove(world.kernel(), "tun0", "172.0.0.0/8");
    assert_eq!(told(&mut events).await, (network.id(), "- 172.17.0.0/16 172.0.0.0/8".to_owned()));
    // What came while there was no engine.
    let World { simulation, before } = world;
    let kernel = simulation.kernel().clone();
    let builder = simulation.kill().await;
    add(&kernel, "tun0", "172.17.9.0/24");
    let world = World { simulation: builder.start().await.expect("it starts again"), before };
    assert_eq!(
        listed(&world).await.iter().map(|overlap| overlap.other).collect::<Vec<_>>(),
        [net("172.17.9.0/24")]
    );
}

/// The engine's own devices, made and adopted, are no news; neither are those that go with a deleted network.
#[tokio::test]
async fn bridges_of_networks_overlap_nothing() {
    let world = World::new().await;
    let kernel = world.kernel();
    let name = "lan0".parse().unwrap();
    kernel.foreign_link(Netns::Host, name, LinkKind::Bridge, None).unwrap();
    kernel.foreign_op(&Op::SetLink { netns: Netns::Host, name, up: true }).unwrap();
    let mut events = world.engine().events();
    let adopted = NetworkSpec::new("lan")
        .subnet("10.88.0.0/24".parse().unwrap())
        .subnet("fd88::/64".parse().unwrap())
        .option("com.docker.network.bridge.name", "lan0");
    let adopted = world.engine().controller().create_network(adopted).await.unwrap();
    let six = NetworkSpec::new("six").ipv6(true);
    let six = world.engine().controller().create_network(six).await.unwrap();
    for network in [&adopted, &six, &world.network("blue").await] {
        world.joined(network, "web").await;
    }
    // A look at everything takes place, and finds one thing: a route that somebody set by a bridge of ours into the
    // pool of another network.
    let other = route("lan0", "172.17.5.0/24");
    kernel.foreign_op(&Op::AddRoute { netns: Netns::Host, route: other }).unwrap();
    assert_eq!(told(&mut events).await, (six.id(), "+ 172.17.0.0/16 172.17.5.0/24 a route".to_owned()));
    assert_eq!(listed(&world).await.len(), 1);
    // With its network an overlap is over.
    for endpoint in six.endpoints().await.unwrap() {
        endpoint.delete_with_force().await.unwrap();
    }
    six.delete().await.unwrap();
    assert_eq!(told(&mut events).await, (six.id(), "- 172.17.0.0/16 172.17.5.0/24".to_owned()));
    assert_eq!(listed(&world).await, []);
}

/// A routing daemon fills the table: what is lost on the way is looked up, and what touches no pool is no news.
#[tokio::test]
async fn a_flood_of_routes_hides_nothing() {
    let world = World::new().await;
    let (network, kernel) = (world.network("blue").await, world.kernel());
    let mut events = world.engine().events();
    tunnel(kernel, "tun0", "10.8.0.2/24");
    let flood = || (0..4_000_u32).map(|n| format!("203.{}.{}.0/30", n / 250, n % 250));
    for (n, destination) in flood().enumerate() {
        add(kernel, "tun0", &destination);
        if n == 2_000 {
            add(kernel, "tun0", "172.17.1.0/24");
        }
    }
    let overlap = (network.id(), "+ 172.17.0.0/16 172.17.1.0/24 a route".to_owned());
    assert_eq!(told(&mut events).await, overlap);
    for destination in flood() {
        remove(kernel, "tun0", &destination);
    }
    remove(kernel, "tun0", "172.17.1.0/24");
    assert_eq!(told(&mut events).await, (network.id(), "- 172.17.0.0/16 172.17.1.0/24".to_owned()));
}

/// Of very many within one pool some are listed, always the same.
#[tokio::test]
async fn what_is_listed_of_one_pool_is_bounded() {
    let world = World::new().await;
    world.network("blue").await;
    tunnel(world.kernel(), "tun0", "10.8.0.2/24");
    for n in 0..200 {
        add(world.kernel(), "tun0", &format!("172.17.{n}.0/24"));
    }
    until("the overlaps", async || listed(&world).await.len() == 64).await;
    let before = listed(&world).await;
    let world = world.kill_and_restart().await;
    assert_eq!(listed(&world).await.len(), 64);
    assert_eq!(listed(&world).await.last().map(|last| last.other), Some(net("172.17.63.0/24")));
    assert!(before.iter().all(|overlap| overlap.pool == net("172.17.0.0/16")));
}

/// Whoever dies, what the host has learnt is told.
#[tokio::test]
async fn the_death_of_an_actor_loses_no_overlap() {
    let world = World::new().await;
    let (network, kernel) = (world.network("blue").await, world.kernel());
    let mut events = world.engine().events();
    tunnel(kernel, "tun0", "10.8.0.2/24");
    for (n, victim) in
        [Victim::Controller, Victim::Ipam, Victim::Network(network.id())].into_iter().enumerate()
    {
        world.simulation.crash_actor(victim).await.expect("crashed");
        let other = format!("172.17.{n}.0/24");
        add(kernel, "tun0", &other);
        assert_eq!(told(&mut events).await, (network.id(), format!("+ 172.17.0.0/16 {other} a route")));
    }
    assert_eq!(listed(&world).await.len(), 3, "told once each, and all are known");
    world.settles().await;
    remove(kernel, "tun0", "172.17.0.0/24");
    assert_eq!(told(&mut events).await, (network.id(), "- 172.17.0.0/16 172.17.0.0/24".to_owned()));
}

/// A network is made that has looked at the host and not taken its pools yet: it does not see what comes in between, and
/// nothing that comes touches a pool. Nothing of it is in the host, so nothing else tells of it either.
#[tokio::test]
async fn what_comes_between_a_networks_look_and_its_pools_is_found() {
    let (sim, slow) = (SimKernel::new(), Arc::new(Slow::default()));
    let kernel = Mortal::new(sim.clone(), Death::never()).slow(slow.clone());
    let scripted = Scripted::new(|_| done(()));
    let store = MemoryDisk::default().open();
    let builder = Engine::builder().kernel(Arc::new(kernel)).store(Box::new(store));
    let engine =
        bounded("the start", builder.driver(scripted.registration()).start()).await.expect("it starts");
    let mut events = engine.events();
    let held = slow.held.write().await;
    let controller = engine.controller();
    let spec = NetworkSpec::new("blue").driver(Scripted::KIND);
    let made = tokio::spawn(async move { controller.create_network(spec).await });
    until("the look", async || slow.waiting() == 1).await;
    tunnel(&sim, "tun0", "10.8.0.2/24");
    add(&sim, "tun0", "172.17.5.0/24");
    // The news are in the controller's hands by now; if they came later, they would find the pool.
    for _ in 0..2 {
        bounded("inspecting", engine.inspect()).await.expect("inspected");
    }
    drop(held);
    let network = bounded("the network", made).await.expect("no panic").expect("made");
    assert_eq!(network.inspect().await.unwrap().v4[0].pool, net("172.17.0.0/16"), "it did not see the route");
    assert_eq!(told(&mut events).await, (network.id(), "+ 172.17.0.0/16 172.17.5.0/24 a route".to_owned()));
}

/// A network of the bridge driver has looked at the host and taken its pool, and its bridge is not there yet; then a VPN comes
/// up. A pool that was chosen is left to it for the next one, so often as it takes up to a bound; one that the caller gave
/// is refused, as it would be a moment later. Nothing is left of the bridges that were given up.
#[tokio::test]
async fn a_route_that_comes_before_the_bridge_keeps_its_subnet() {
    let world = World::new().await;
    let (kernel, controller) = (world.kernel().clone(), world.engine().controller());
    tunnel(&kernel, "tun0", "192.168.77.2/30");
    // Creates a network; before each of its bridges, a route of the VPN comes to the pool that it has taken.
    let make = async |spec: NetworkSpec, routes: &[String]| {
        kernel.plan(Fault::verb("create_bridge", 1, FaultKind::Hang).times(routes.len() as u64));
        let controller = controller.clone();
        let made = tokio::spawn(async move { controller.create_network(spec).await });
        for destination in routes {
            until("the bridge", async || kernel.hanging() == 1).await;
            add(&kernel, "tun0", destination);
            kernel.release();
        }
        let made = bounded("the network", made).await.expect("no panic");
        kernel.clear_faults();
        made
    };
    let routes = ["172.17.5.0/24", "172.18.0.0/15", "172.20.0.1/32"].map(str::to_owned);
    let blue = make(NetworkSpec::new("blue"), &routes).await.expect("another pool is chosen");
    assert_eq!(blue.inspect().await.unwrap().v4[0].pool, net("172.21.0.0/16"));
    assert_eq!(listed(&world).await, []);
    let bridges = async || {
        let soon = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let links = kernel.links(Netns::Host, soon).await.expect("listed");
        links.iter().filter(|link| link.name.as_str().starts_with("br-")).count()
    };
    assert_eq!(bridges().await, 1, "those that were given up are gone");
    blue.delete().await.expect("deleted");

    let given = NetworkSpec::new("green").subnet(net("10.9.0.0/16"));
    let error = make(given, &["10.9.200.0/24".to_owned()]).await.expect_err("the VPN has it");
    let Reason::PoolOverlapsHost { pool, other, what, link } = error.reason() else { panic!("{error:?}") };
    assert_eq!((*pool, *other, what.as_ref()), (net("10.9.0.0/16"), net("10.9.200.0/24"), "a route"));
    assert_eq!(link.map(|link| link.to_string()).as_deref(), Some("tun0"));
    assert_eq!((error.certainty(), bridges().await), (Certainty::Aborted, 0));
    // Default and half-default routes are no reason, nor is one that leads elsewhere.
    let elsewhere = NetworkSpec::new("red").subnet(net("10.10.0.0/16"));
    let halves = ["0.0.0.0/1", "128.0.0.0/1", "10.11.0.0/16"].map(str::to_owned);
    let red = make(elsewhere, &halves[..1]).await.expect("made");
    halves[1..].iter().for_each(|route| add(&kernel, "tun0", route));
    red.delete().await.expect("deleted");

    // Whoever takes every pool at once ends it.
    let mut spec = NetworkSpec::new("amber");
    spec.ipam.v4.push(IpamPoolSpec { subnet: Some(net("0.0.0.0/24")), ..IpamPoolSpec::default() });
    let names_none = !spec.ipam.v4[0].names_subnet();
    assert!(names_none, "a size alone");
    let mut tried = 0;
    kernel.plan(Fault::verb("create_bridge", 1, FaultKind::Hang).times(1_000));
    let own = controller.clone();
    let made = tokio::spawn(async move { own.create_network(spec).await });
    while !made.is_finished() {
        until("the bridge, or the end", async || kernel.hanging() == 1 || made.is_finished()).await;
        if kernel.hanging() == 1 {
            let taken: Vec<_> =
                bounded("inspecting", controller.ipam()).await.expect("inspected")[0].pools.clone();
            add(&kernel, "tun0", &taken[0].pool.to_string());
            tried += 1;
            kernel.release();
        }
    }
    kernel.clear_faults();
    let error = made.await.expect("no panic").expect_err("it ends");
    assert!(matches!(error.reason(), Reason::PoolOverlapsHost { .. }), "{error}");
    assert_eq!((tried, bridges().await), (32, 0));
}
