//! Records are lost: what the kernel has is listed again, and goes on running.

use netloom::kernel::{LinkKind, Netns, Op};
use netloom::testkit::SimKernel;
use netloom::{EndpointSpec, Engine, ErrorKind, JoinSpec, NetworkSpec, Repair, Reservation};
use netloom_model::record::{EndpointRecord, NetworkRecord, ReservationRecord};
use netloom_store::{Change, Key, RecordKind, Store, decode, encode};

use crate::support::{World, bounded, check_truth};

/// Two networks, one of both families; a sandbox on each, and one on both.
async fn furnish(world: &World) {
    let controller = world.engine().controller();
    let dual = NetworkSpec::new("dual")
        .subnet("10.9.0.0/24".parse().expect("made"))
        .subnet("fd09::/64".parse().expect("made"))
        .option("com.docker.network.driver.mtu", "1400");
    let dual = controller.create_network(dual).await.expect("made");
    let blue = world.network("blue").await;
    world.joined(&dual, "web").await;
    let (_, sandbox) = world.joined(&blue, "web").await;
    let second = dual.create_endpoint(EndpointSpec::new("second")).await.expect("made");
    second.join(&sandbox, JoinSpec::priority(3)).await.expect("made");
    dual.create_endpoint(EndpointSpec::new("idle")).await.expect("made");
}

/// Spoils every record that is chosen; returns how many.
fn spoil(world: &World, chosen: impl Fn(RecordKind) -> bool) -> usize {
    let disk = world.simulation.disk();
    let keys = disk.records().into_iter().map(|(key, _)| key).filter(|key| chosen(key.kind));
    let spoilt: Vec<_> =
        keys.map(|key| Change::Put { key, value: b"\x01 of a known format, and damaged".to_vec() }).collect();
    disk.open().commit(&spoilt).expect("written");
    spoilt.len()
}

fn count(world: &World, told: impl Fn(&Repair) -> bool) -> usize {
    world.engine().repairs().iter().filter(|repair| told(repair)).count()
}

#[tokio::test]
async fn whatever_kind_of_record_is_lost_everything_runs_on() {
    for kinds in [
        &[RecordKind::Network][..],
        &[RecordKind::Endpoint],
        &[RecordKind::Sandbox],
        &[RecordKind::Network, RecordKind::Endpoint, RecordKind::Sandbox],
    ] {
        let world = World::new().await;
        furnish(&world).await;
        let before = world.engine().inspect().await.unwrap();
        let spoilt = spoil(&world, |kind| kinds.contains(&kind));
        let world = world.kill_and_restart().await;
        let dropped = count(&world, |repair| matches!(repair, Repair::RecordDropped { .. }));
        let rebuilt = count(&world, |repair| matches!(repair, Repair::RecordRebuilt { .. }));
        // Of the endpoint that was in no sandbox the kernel has nothing.
        let lost = usize::from(kinds.contains(&RecordKind::Endpoint));
        assert_eq!((dropped, rebuilt), (spoilt, spoilt - lost), "{kinds:?}: {:?}", world.engine().repairs());
        assert_eq!(world.engine().repairs().len(), dropped + rebuilt, "nothing was taken for a remain");
        world.settles().await;

        // Only names, and what else the kernel does not know, are lost.
        let after = world.engine().inspect().await.unwrap();
        for network in &before.networks {
            let again = after.networks.iter().find(|other| other.id == network.id).expect("its id");
            assert_eq!((&again.v4, &again.v6), (&network.v4, &network.v6));
            for endpoint in network.endpoints.iter().filter(|endpoint| endpoint.sandbox.is_some()) {
                let same = again.endpoints.iter().find(|other| other.id == endpoint.id).expect("its id");
                let what =
                    |e: &netloom::snapshot::EndpointSnapshot| (e.mac, e.ipv4, e.ipv6, e.ifname, e.phase);
                assert_eq!(what(same), what(endpoint));
            }
        }
        for sandbox in &before.sandboxes {
            let again = after.sandboxes.iter().find(|other| other.key == sandbox.key).expect("its namespace");
            assert_eq!((again.gateway, again.gateway6), (sandbox.gateway, sandbox.gateway6));
            assert_eq!(again.endpoints.len(), sandbox.endpoints.len());
        }
        // An address that is in use is not given to anybody else.
        let dual = after.networks.iter().find(|network| network.v6.len() == 1).expect("of both families");
        let held = dual.endpoints.iter().find_map(|endpoint| endpoint.ipv4).expect("an address");
        let dual = world.engine().controller().network(dual.id).unwrap();
        let taken = dual.create_endpoint(EndpointSpec::new("thief").address(held.addr().into())).await;
        assert_eq!(taken.expect_err("it is held").kind(), ErrorKind::Forbidden);

        // It is recorded: the next start finds nothing wrong.
        let world = world.kill_and_restart().await;
        assert_eq!(world.engine().repairs(), [], "{kinds:?}");
        check_truth(world.engine(), world.kernel()).await.unwrap();
        world.delete_everything().await;
        world.assert_pristine().await;
    }
}

/// A caller's identifiers may begin alike.
#[tokio::test]
async fn networks_whose_ids_begin_alike_are_both_rebuilt() {
    let world = World::new().await;
    let create = async |name: &str, id: &str| {
        let spec = NetworkSpec::new(name).id(id.parse().expect("an id"));
        let spec = spec.option("com.docker.network.bridge.name", format!("lan-{name}"));
        world.engine().controller().create_network(spec).await.expect("made")
    };
    let (one, two) = (create("one", "0123456789ab-one").await, create("two", "0123456789ab-two").await);
    spoil(&world, |kind| kind == RecordKind::Network);
    let world = world.kill_and_restart().await;
    for lost in [one, two] {
        let again = world.engine().controller().network(lost.id()).expect("rebuilt");
        assert_eq!(again.name(), format!("recovered-{}", lost.id()));
    }
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// Their subnets are known by their endpoints.
#[tokio::test]
async fn networks_whose_bridge_has_no_address_are_rebuilt() {
    const BRIDGE: &str = "com.docker.network.bridge";
    let dual = || {
        let spec = NetworkSpec::new("bare").subnet("10.8.0.0/24".parse().expect("a subnet"));
        spec.subnet("fd00:8::/64".parse().expect("a subnet"))
    };
    let isolated = ["gateway_mode_ipv4", "gateway_mode_ipv6"]
        .iter()
        .fold(dual().internal(true), |spec, key| spec.option(format!("{BRIDGE}.{key}"), "isolated"));
    let inhibited = dual().option(format!("{BRIDGE}.inhibit_ipv4"), "true");
    for spec in [isolated, inhibited] {
        let world = World::new().await;
        let network = world.engine().controller().create_network(spec).await.expect("made");
        world.joined(&network, "one").await;
        world.joined(&network, "two").await;
        let before = network.inspect().await.expect("inspected");
        spoil(&world, |_| true);
        let world = world.kill_and_restart().await;
        assert_eq!(count(&world, |repair| matches!(repair, Repair::RecordRebuilt { .. })), 1 + 2 + 2);
        let again = world.engine().controller().network(network.id()).expect("rebuilt");
        let again = again.inspect().await.expect("inspected");
        assert_eq!((again.internal, &again.v4), (before.internal, &before.v4));
        for (key, value) in &before.options {
            assert_eq!(again.options.get(key), Some(value), "{key}");
        }
        assert_eq!(again.endpoints.len(), 2);
        bounded("settling", world.engine().drain()).await.expect("drained");
        let world = world.kill_and_restart().await;
        assert_eq!(world.engine().repairs(), []);
        assert!(world.engine().diff().await.expect("compared").is_empty());
        world.delete_everything().await;
        world.assert_pristine().await;
    }
}

/// A bridge of somebody else's is taken for its owner's with all it has.
#[tokio::test]
async fn a_lost_network_on_an_adopted_bridge_takes_nothing_from_its_owner() {
    let kernel = SimKernel::new();
    let name = "lan0".parse().unwrap();
    kernel.foreign_link(Netns::Host, name, LinkKind::Bridge, None).unwrap();
    kernel.foreign_op(&Op::SetLink { netns: Netns::Host, name, up: true }).unwrap();
    let own = "10.88.0.1/24".parse().unwrap();
    kernel.foreign_op(&Op::AddAddress { netns: Netns::Host, link: name, address: own }).unwrap();
    let before = kernel.snapshot();
    let simulation = Engine::simulation().kernel(kernel).start().await.unwrap();
    let world = World { simulation, before };
    let spec = NetworkSpec::new("lan")
        .subnet("10.88.0.0/24".parse().unwrap())
        .option("com.docker.network.bridge.name", "lan0");
    let network = world.engine().controller().create_network(spec).await.unwrap();
    world.joined(&network, "web").await;
    spoil(&world, |_| true);
    let world = world.kill_and_restart().await;
    assert_eq!(count(&world, |repair| matches!(repair, Repair::RecordRebuilt { .. })), 3);
    world.settles().await;
    let found = world.engine().controller().network_by_name("recovered-lan0").expect("by its bridge");
    assert_eq!(found.endpoints().await.unwrap().len(), 1);
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// What was killed in the middle of a join is a remain and no container.
#[tokio::test]
async fn what_was_never_joined_is_not_rebuilt() {
    use netloom::testkit::{Fault, FaultKind};
    let world = World::new().await;
    let network = world.network("blue").await;
    let (_, sandbox) = world.joined(&network, "web").await;
    sandbox.delete().await.unwrap();
    let endpoint = network.endpoint_by_name("web").await.unwrap();
    let sandbox = world.sandbox("c2").await;
    bounded("draining", world.engine().drain()).await.unwrap();
    world.kernel().plan(Fault::verb("create_veth", 1, FaultKind::Hang));
    let join = tokio::spawn(async move { endpoint.join(&sandbox, JoinSpec::default()).await.map(drop) });
    crate::support::until("the fault", async || world.kernel().hanging() > 0).await;
    spoil(&world, |kind| kind == RecordKind::Endpoint);
    let world = world.kill_and_restart().await;
    drop(bounded("the join", join).await);
    // The link came into being without an address: nothing of it can be used.
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}

/// A newer engine's records are whole, only not for this one: nothing is touched, in the store or in the kernel.
#[tokio::test]
async fn records_of_a_newer_engine_are_kept_with_everything_they_are_about() {
    let world = World::new().await;
    furnish(&world).await;
    let disk = world.simulation.disk().clone();
    // The first byte is the format.
    let newer = disk.records().into_iter().map(|(key, mut value)| {
        value[0] = u8::MAX;
        Change::Put { key, value }
    });
    disk.open().commit(&newer.collect::<Vec<_>>()).expect("written");
    let (records, links) = (disk.records(), world.kernel().leftovers(&world.before));
    let world = world.kill_and_restart().await;
    assert_eq!(count(&world, |repair| matches!(repair, Repair::SweepSkipped { .. })), 1);
    assert_eq!((disk.records(), world.kernel().leftovers(&world.before)), (records, links));
}

/// One record that contradicts the rest costs that endpoint, and nobody else.
#[tokio::test]
async fn an_endpoint_that_contradicts_the_rest_is_left_out_and_its_network_goes_on() {
    let world = World::new().await;
    let blue = world.network("blue").await;
    let (web, _) = world.joined(&blue, "web").await;
    let (twin, inside) = world.joined(&blue, "twin").await;
    let idle = blue.create_endpoint(EndpointSpec::new("idle")).await.unwrap();
    let address = web.inspect().await.unwrap().ipv4;
    let disk = world.simulation.disk().clone();
    let rewritten = disk.records().into_iter().filter_map(|(key, value)| {
        let other = [twin.id().to_string(), idle.id().to_string()].contains(&key.id);
        if key.kind != RecordKind::Endpoint || !other {
            return None;
        }
        let mut record: EndpointRecord = decode(&value).expect("an endpoint");
        record.ipv4 = address;
        Some(Change::Put { key, value: encode(&record).expect("encoded") })
    });
    let rewritten: Vec<_> = rewritten.collect();
    assert_eq!(rewritten.len(), 2);
    disk.open().commit(&rewritten).expect("written");
    let world = world.kill_and_restart().await;
    let (dropped, why) = (
        count(&world, |repair| matches!(repair, Repair::RecordDropped { .. })),
        world.engine().repairs().iter().map(ToString::to_string).collect::<Vec<_>>(),
    );
    assert_eq!(dropped, 2, "{why:?}");
    let said = format!("its address {} is that of endpoint", address.unwrap().addr());
    assert_eq!(why.iter().filter(|why| why.contains(&said)).count(), 2, "{why:?}");
    assert!(!why.iter().any(|why| why.contains("could not bring back")), "{why:?}");
    // Whoever of the two was first has it; the other one's sandbox stands, and is told a new address when it asks.
    let controller = world.engine().controller();
    let blue = controller.network_by_name("blue").expect("in service");
    let left = blue.inspect().await.unwrap().endpoints;
    assert_eq!((left.len(), left[0].ipv4), (1, address), "{left:?}");
    world.settles().await;
    let sandbox = controller.sandbox(inside.id()).expect("it stands");
    let again = blue.create_endpoint(EndpointSpec::new("again")).await.expect("in service");
    again.join(&sandbox, JoinSpec::default()).await.expect("joined");
    assert_ne!(again.inspect().await.unwrap().ipv4, address);
    // It is over: the next start has nothing to say.
    let world = world.kill_and_restart().await;
    assert!(world.engine().repairs().is_empty(), "{:?}", world.engine().repairs());
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// What is kept for names and contradicts the rest is left out in the same way, and nothing else.
#[tokio::test]
async fn a_reservation_that_contradicts_the_rest_is_left_out_and_its_network_goes_on() {
    let world = World::new().await;
    let blue = world.network("blue").await;
    let (web, _) = world.joined(&blue, "web").await;
    let of_web = web.inspect().await.unwrap().ipv4.unwrap().addr();
    let kept = |address: &str| Reservation { ipv4: Some(address.parse().unwrap()), ipv6: None };
    let all = [
        // Its endpoint may have been renamed since.
        ("db", kept(&of_web.to_string()), None),
        ("web", kept(&of_web.to_string()), Some("is that of reservation \"db\"")),
        ("gateway", kept("172.17.0.1"), Some("is that of the gateway")),
        ("mail", kept("172.17.0.9"), None),
        ("post", kept("172.17.0.9"), Some("is that of reservation \"mail\"")),
        ("elsewhere", kept("10.0.0.9"), Some("lies in no pool of network \"blue\"")),
        ("end", kept("172.17.255.255"), Some("that nobody can have")),
    ];
    let put = |(name, kept, _): &(&str, Reservation, Option<&str>)| {
        let record = ReservationRecord { network: blue.id(), name: (*name).to_owned(), kept: *kept };
        Change::put(Key::reservation(&blue.id(), name), &record).expect("encoded")
    };
    let changes: Vec<_> = all.iter().map(put).collect();
    world.simulation.disk().clone().open().commit(&changes).expect("written");
    let world = world.kill_and_restart().await;
    let said: Vec<_> = world.engine().repairs().iter().map(ToString::to_string).collect();
    for (name, _, why) in &all {
        let told =
            said.iter().find(|said| said.contains(&format!("reservation {name:?} of network \"blue\"")));
        assert_eq!(told.is_some(), why.is_some(), "{name}: {said:?}");
        assert!(why.is_none_or(|why| told.unwrap().contains(why)), "{name}: {said:?}");
    }
    let blue = world.engine().controller().network_by_name("blue").expect("in service");
    let left = blue.inspect().await.unwrap().reservations;
    assert_eq!(left.into_keys().collect::<Vec<_>>(), ["db", "mail"]);
    let world = world.kill_and_restart().await;
    assert!(world.engine().repairs().is_empty(), "{:?}", world.engine().repairs());
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// An earlier engine kept them in the network's own record.
#[tokio::test]
async fn reservations_of_an_earlier_engine_are_recorded_apart() {
    let world = World::new().await;
    let blue = world.network("blue").await;
    let disk = world.simulation.disk().clone();
    let mut records = disk.records().into_iter();
    let (key, value) = records.find(|(key, _)| key.kind == RecordKind::Network).expect("recorded");
    let mut record: NetworkRecord = decode(&value).expect("a network");
    for (name, address) in [("mail", "172.17.0.9"), ("post", "172.17.0.10")] {
        let kept = Reservation { ipv4: Some(address.parse().unwrap()), ipv6: None };
        record.reservations.insert(name.to_owned(), kept);
    }
    let put = Change::Put { key, value: encode(&record).expect("encoded") };
    disk.open().commit(&[put]).expect("written");
    let world = world.kill_and_restart().await;
    assert!(world.engine().repairs().is_empty(), "{:?}", world.engine().repairs());
    let network = world.engine().controller().network(blue.id()).expect("in service");
    assert_eq!(network.inspect().await.unwrap().reservations, record.reservations);
    network.release_reservation("post").await.expect("given up");
    let world = world.kill_and_restart().await;
    let network = world.engine().controller().network(blue.id()).expect("in service");
    assert_eq!(network.inspect().await.unwrap().reservations.into_keys().collect::<Vec<_>>(), ["mail"]);
    world.delete_everything().await;
    world.assert_pristine().await;
}
