//! Where the choice of addresses goes on after a start: an address that was released a moment before does not come back
//! at once, wherever the engine was killed (pains I5).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use netloom::kernel::{Kernel, Netns};
use netloom::testkit::{Fault, FaultKind, SimKernel};
use netloom::{Controller, Endpoint, EndpointSpec, Engine, JoinSpec, Network, NetworkSpec, Victim};
use netloom_store::RecordKind;

use crate::mortal::{Death, Disk, Mortal};
use crate::support::{PATIENCE, World, bounded, delete_everything, note};

fn net(text: &str) -> IpNet {
    text.parse().expect("a subnet")
}

async fn made(network: &Network, name: &str) -> (Endpoint, Vec<IpAddr>) {
    let endpoint = bounded("creating", network.create_endpoint(EndpointSpec::new(name))).await.expect("made");
    let seen = endpoint.inspect().await.expect("inspected");
    let v6 = seen.ipv6.map(|net| net.addr().into());
    (endpoint, seen.ipv4.map(|net| net.addr().into()).into_iter().chain(v6).collect())
}

/// Leases addresses and releases them.
async fn used(network: &Network, name: &str) -> Vec<IpAddr> {
    let (endpoint, addresses) = made(network, name).await;
    bounded("deleting", endpoint.delete()).await.expect("deleted");
    addresses
}

async fn network(controller: &Controller, name: &str, subnets: &[&str]) -> Network {
    let spec = NetworkSpec::new(name).ipv6(subnets.iter().any(|subnet| subnet.contains(':')));
    let spec = subnets.iter().fold(spec, |spec, subnet| spec.subnet(net(subnet)));
    bounded("the network", controller.create_network(spec)).await.expect("made")
}

fn found(engine: &Engine, name: &str) -> Network {
    engine.controller().network_by_name(name).expect("it stays")
}

/// The records of the order, as they are at the moment.
fn recorded(world: &World) -> BTreeMap<String, Vec<u8>> {
    let records = world.simulation.disk().records().into_iter();
    records.filter(|(key, _)| key.kind == RecordKind::Order).map(|(key, value)| (key.id, value)).collect()
}

#[tokio::test]
async fn what_was_released_before_a_kill_does_not_come_back_at_once() {
    let mut world = World::new().await;
    let controller = world.engine().controller();
    network(&controller, "large", &["10.1.0.0/16", "fd00:1::/64"]).await;
    network(&controller, "small", &["10.2.0.0/28"]).await;
    let mut last = BTreeMap::<&str, Vec<IpAddr>>::new();
    let mut all = BTreeSet::new();
    for restart in 0..5 {
        for name in ["large", "small"] {
            let blue = found(world.engine(), name);
            let addresses = used(&blue, &format!("one{restart}")).await;
            let before = last.insert(name, addresses.clone()).unwrap_or_default();
            assert!(addresses.iter().all(|address| !before.contains(address)), "{addresses:?} again");
            if name == "large" {
                assert!(addresses.into_iter().all(|address| all.insert(address)), "there are so many others");
            }
        }
        world = world.kill_and_restart().await;
        assert_eq!(world.engine().repairs(), [], "it is nothing to repair");
    }
    assert_eq!(all.len(), 10);
    // The driver's actor dies alone: its successor knows as little as a new engine.
    let large = found(world.engine(), "large");
    let before = used(&large, "before").await;
    world.simulation.crash_actor(Victim::IpamDriver("default".into())).await.expect("crashed");
    world.ipam_is_back().await;
    let after = used(&large, "after").await;
    assert!(after.iter().all(|address| !before.contains(address)), "{after:?} again");
    // What is recorded goes with the network.
    assert_eq!(recorded(&world).len(), 2);
    large.delete().await.expect("deleted");
    assert_eq!(recorded(&world).len(), 1);
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn the_order_is_written_with_one_of_sixty_five_leases() {
    let world = World::new().await;
    let blue = network(&world.engine().controller(), "blue", &["10.1.0.0/16"]).await;
    assert_eq!(recorded(&world).len(), 0, "nothing was chosen yet");
    let (mut before, mut written, commits) = (recorded(&world), 0, world.simulation.disk().commits());
    for n in 0..260 {
        used(&blue, &format!("n{n}")).await;
        let now = recorded(&world);
        written += usize::from(now != before);
        before = now;
    }
    assert_eq!(written, 4, "260 leases");
    assert_eq!(world.simulation.disk().commits() - commits, 2 * 260, "none of them is a commit of its own");
    // A commit that fails takes it along, and the next one has it.
    while recorded(&world) == before {
        world.simulation.disk().fail_commit(1);
        let refused = bounded("creating", blue.create_endpoint(EndpointSpec::new("refused"))).await;
        refused.expect_err("the store refuses");
        used(&blue, "next").await;
    }
    let world = world.kill_and_restart().await;
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// A record of the order that cannot be read, or that is lost, costs nothing but the order.
#[tokio::test]
async fn without_the_record_choice_goes_on_behind_the_highest_address_in_use() {
    for spoilt in [true, false] {
        let world = World::new().await;
        let blue = network(&world.engine().controller(), "blue", &["10.1.0.0/24"]).await;
        made(&blue, "web").await;
        used(&blue, "gone").await;
        let World { simulation, before } = world;
        let disk = simulation.disk().clone();
        let (key, mut value) =
            disk.records().into_iter().find(|(key, _)| key.kind == RecordKind::Order).expect("recorded");
        value.pop();
        let change = if spoilt {
            netloom_store::Change::Put { key, value }
        } else {
            netloom_store::Change::Delete { key }
        };
        let killed = simulation.kill().await;
        netloom_store::Store::commit(&mut disk.open(), &[change]).expect("written");
        let simulation = bounded("the start", killed.start()).await.expect("it starts");
        let world = World { simulation, before };
        let repairs = world.engine().repairs().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(repairs.len(), usize::from(spoilt), "{repairs:?}");
        let (_, addresses) = made(&found(world.engine(), "blue"), "next").await;
        assert_eq!(addresses, ["10.1.0.3".parse::<IpAddr>().expect("an address")], "behind the one in use");
        world.delete_everything().await;
        world.assert_pristine().await;
    }
}

/// Killed right before and right after each effect on kernel and store: whatever was given before is not given next.
#[tokio::test]
async fn killed_anywhere_what_was_given_before_is_not_given_next() {
    let (mut moment, mut given_before) = (0, 0);
    loop {
        moment += 1;
        let sim = SimKernel::new();
        let (before, disk, death) = (sim.snapshot(), Disk::default(), Death::never());
        let engine = start(&sim, &disk, death.clone()).await;
        let blue = network(&engine.controller(), "blue", &["10.1.0.0/27", "fd00:1::/64"]).await;
        death.comes_at(moment);
        let given = std::cell::RefCell::new(BTreeSet::new());
        let story = async {
            for n in 0..4 {
                let spec = EndpointSpec::new(format!("n{n}"));
                let Ok(endpoint) = blue.create_endpoint(spec).await else { return false };
                let Ok(seen) = endpoint.inspect().await else { return false };
                given.borrow_mut().extend(seen.ipv4.map(|net| IpAddr::V4(net.addr())));
                given.borrow_mut().extend(seen.ipv6.map(|net| IpAddr::V6(net.addr())));
                if endpoint.delete().await.is_err() {
                    return false;
                }
            }
            true
        };
        let ended = tokio::select! {
            biased;
            () = death.wait() => false,
            ended = bounded("the story", story) => ended,
        };
        if ended {
            break;
        }
        assert!(death.is_dead(), "nothing else fails");
        drop(engine);
        let engine = start(&sim, &disk, Death::never()).await;
        let (_, next) = made(&found(&engine, "blue"), "next").await;
        let given = given.into_inner();
        given_before += given.len();
        let what = death.what();
        assert!(next.iter().all(|address| !given.contains(address)), "{moment} ({what}): {next:?} again");
        bounded("the end", delete_everything(&engine)).await.expect("deleted");
        bounded("draining", engine.drain()).await.expect("drained");
        let left = sim.leftovers(&before);
        assert!(left.is_empty() && disk.records().is_empty(), "{left:?} {:?}", disk.records());
    }
    assert!(moment > 16 && given_before > 32, "{moment} moments, {given_before} addresses");
    note(format!("{moment} places to die; {given_before} addresses were given before"));
}

async fn start(sim: &SimKernel, disk: &Disk, death: Death) -> Engine {
    let kernel = Arc::new(Mortal::new(sim.clone(), death.clone()));
    let engine = Engine::builder().kernel(kernel).store(Box::new(disk.open(death)));
    bounded("the start", engine.start()).await.expect("it starts")
}

/// The link of a deleted endpoint is still there and up when the engine is killed: the next one cuts it off before it
/// gives anybody its address, even to one that asks for it.
#[tokio::test]
async fn the_link_of_a_deleted_endpoint_is_cut_off_before_its_address_is_given_after_a_kill() {
    let world = World::new().await;
    let blue = network(&world.engine().controller(), "blue", &["10.1.0.0/24"]).await;
    let (web, _) = world.joined(&blue, "web").await;
    let address = web.inspect().await.expect("inspected").ipv4.expect("an address").addr();
    let tag = web.id().to_string();
    let kernel = world.kernel().clone();
    let up = async || {
        let links = kernel.links(Netns::Host, Instant::now() + PATIENCE).await.expect("listed");
        links.into_iter().any(|link| link.up && link.tag().is_some_and(|found| *found.id == *tag))
    };
    for verb in ["cut_link", "delete_link"] {
        kernel.plan(Fault::verb(verb, 1, FaultKind::Refuse(16)).always());
    }
    // It answers, with a leak or without; its record is gone by then.
    let _ = bounded("the deletion", web.delete_with_force()).await;
    assert!(up().await, "the kernel refuses");
    let World { simulation, before } = world;
    let killed = simulation.kill().await;
    kernel.clear_faults();
    assert!(up().await, "nobody has cut it off");
    // Its removal hangs this time: being cut off has to be enough.
    kernel.plan(Fault::verb("delete_link", 1, FaultKind::Hang));
    let world = World { simulation: bounded("the start", killed.start()).await.expect("it starts"), before };
    assert!(!up().await, "cut off by the time the start answers");
    let blue = found(world.engine(), "blue");
    let next = blue.create_endpoint(EndpointSpec::new("next").address(address.into())).await.expect("made");
    let sandbox = world.sandbox("next").await;
    next.join(&sandbox, JoinSpec::default()).await.expect("joined");
    kernel.release();
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}
