//! Addresses that are kept for endpoints of a name: for whom, against whom, over restarts and failures (pains I6).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use futures::future::join_all;
use netloom::snapshot::PoolSnapshot;
use netloom::testkit::{Fault, FaultKind};
use netloom::{
    Certainty, Controller, Endpoint, EndpointSpec, Engine, EngineConfig, ErrorKind, Network, NetworkSpec,
    OpId, Reason, Reservation, Victim,
};
use netloom_store::{Change, Intent, Key, MemoryDisk, MemoryStore, RecordKind, Store, StoreError};

use crate::support::{World, bounded, until};
use crate::sweep::{Step, Story};

const KEPT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);
const KEPT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 3);

/// A network with few addresses: IPv4 ends soon.
async fn blue(engine: &Engine) -> Network {
    let spec = NetworkSpec::new("blue").ipv6(true);
    let spec = spec
        .subnet("10.1.0.0/29".parse().expect("a subnet"))
        .subnet("fd00:1::/64".parse().expect("a subnet"));
    engine.controller().create_network(spec).await.expect("a network")
}

fn found(engine: &Engine) -> Network {
    engine.controller().network_by_name("blue").expect("it stays")
}

async fn addresses(endpoint: &Endpoint) -> (Ipv4Addr, Option<Ipv6Addr>) {
    let seen = endpoint.inspect().await.expect("inspected");
    (seen.ipv4.expect("an address").addr(), seen.ipv6.map(|net| net.addr()))
}

async fn holder(network: &Network, address: Ipv4Addr) -> Option<String> {
    let held = network.holders(1_000).await.expect("listed").holders;
    held.into_iter().find(|held| held.address == address).map(|held| held.holder)
}

async fn pools(engine: &Engine) -> Vec<PoolSnapshot> {
    engine.controller().ipam().await.expect("inspected").remove(0).pools
}

/// Takes every address that is left, without asking for one.
async fn squat(network: &Network) -> Vec<Endpoint> {
    let mut squatters = Vec::new();
    loop {
        let spec = EndpointSpec::new(format!("squatter{}", squatters.len()));
        match bounded("creating", network.create_endpoint(spec)).await {
            Ok(endpoint) => squatters.push(endpoint),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
                let in_use = format!(" {} in use", squatters.len());
                assert!(error.to_string().contains(&in_use), "what is kept is not in use: {error}");
                return squatters;
            }
        }
    }
}

// === For whom ===

/// pains I6: a dynamic endpoint never takes the address of a stopped one, whatever starts first, also after the engine
/// was started again; who asks for it is told for whom it is kept.
#[tokio::test]
async fn nobody_else_gets_what_is_kept_and_its_name_gets_it_without_asking() {
    let mut world = World::new().await;
    let network = blue(world.engine()).await;
    let before = pools(world.engine()).await;
    network.reserve_address("db", Some(KEPT), Some(KEPT6)).await.expect("kept");
    network.reserve_address("db", Some(KEPT), Some(KEPT6)).await.expect("it is so already");
    let expected = [("db".to_owned(), Reservation { ipv4: Some(KEPT), ipv6: Some(KEPT6) })];
    for restart in 0..3 {
        let network = found(world.engine());
        let seen = network.inspect().await.expect("inspected").reservations;
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
        let now = pools(world.engine()).await;
        assert!(now.iter().zip(&before).all(|(now, before)| now.reserved == before.reserved + 1), "{now:?}");
        for (address, family) in [(KEPT.into(), "10.1.0.3"), (KEPT6.into(), "fd00:1::3")] {
            let spec = EndpointSpec::new("thief").address(address);
            let error = network.create_endpoint(spec).await.expect_err("kept for another");
            assert!(matches!(error.reason(), Reason::AddressTaken { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(family) && text.contains("reservation \"db\""), "{text}");
            assert!(error.remedy().expect("one").contains("release"), "{:?}", error.remedy());
        }
        let squatters = squat(&network).await;
        assert_eq!(squatters.len(), 4, "of 8 there are the ends, the gateway, and what is kept");
        for squatter in &squatters {
            let (ipv4, ipv6) = addresses(squatter).await;
            assert!(ipv4 != KEPT && ipv6 != Some(KEPT6), "{ipv4} {ipv6:?}");
        }
        let db = network.create_endpoint(EndpointSpec::new("db")).await.expect("made");
        assert_eq!(addresses(&db).await, (KEPT, Some(KEPT6)));
        assert!(holder(&network, KEPT).await.expect("held").starts_with("endpoint \"db\""));
        if restart == 1 {
            // With the endpoint there it is the endpoint's, after a restart as well.
            world = world.kill_and_restart().await;
            let network = found(world.engine());
            assert!(holder(&network, KEPT).await.expect("held").starts_with("endpoint \"db\""));
        }
        let network = found(world.engine());
        network.endpoint_by_name("db").await.expect("there").delete().await.expect("deleted");
        assert_eq!(holder(&network, KEPT).await.as_deref(), Some("reservation \"db\""));
        for endpoint in network.endpoints().await.expect("listed") {
            endpoint.delete().await.expect("deleted");
        }
        world = world.kill_and_restart().await;
    }
    let network = found(world.engine());
    for _ in 0..2 {
        network.release_reservation("db").await.expect("nothing is kept any more");
    }
    assert_eq!(pools(world.engine()).await, before);
    assert_eq!(squat(&network).await.len(), 5);
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// What is kept dies with its network, and holds it in no way.
#[tokio::test]
async fn a_deleted_network_keeps_nothing() {
    let world = World::new().await;
    let network = blue(world.engine()).await;
    network.reserve_address("db", Some(KEPT), None).await.expect("kept");
    network.reserve_address("web", None, Some(KEPT6)).await.expect("kept");
    network.delete().await.expect("deleted");
    assert_eq!(pools(world.engine()).await, []);
    let gone = network.reserve_address("db", Some(KEPT), None).await.expect_err("deleted");
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    let network = blue(world.engine()).await;
    assert_eq!(network.inspect().await.expect("inspected").reservations, [].into());
    assert_eq!(squat(&network).await.len(), 5);
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// A reservation is its name's and a lease its endpoint's: a renaming moves neither.
#[tokio::test]
async fn a_renamed_endpoint_takes_its_lease_along_and_leaves_the_reservation() {
    let mut world = World::new().await;
    let network = blue(world.engine()).await;
    network.reserve_address("db", Some(KEPT), None).await.expect("kept");
    let (_, sandbox) = world.joined(&network, "db").await;
    // Renamed before, so that what holds the address is told by the newest name.
    sandbox.rename("older").await.expect("renamed");
    sandbox.rename("old").await.expect("renamed");
    for _ in 0..2 {
        let network = found(world.engine());
        let error = network.create_endpoint(EndpointSpec::new("db")).await.expect_err("the old one has it");
        let text = error.to_string();
        assert!(text.contains("10.1.0.3") && text.contains("endpoint \"old\""), "{text}");
        world = world.kill_and_restart().await;
    }
    let network = found(world.engine());
    // Under its new name it may have its second address from a second reservation; each goes back where it came from.
    let old = network.endpoint_by_name("old").await.expect("there");
    let (_, ipv6) = addresses(&old).await;
    network.reserve_address("old", None, ipv6).await.expect("it has that already");
    world.engine().controller().sandboxes()[0].delete().await.expect("deleted");
    old.delete().await.expect("deleted");
    world.engine().drain().await.expect("drained");
    assert_eq!(holder(&network, KEPT).await.as_deref(), Some("reservation \"db\""));
    let again = network.create_endpoint(EndpointSpec::new("old")).await.expect("made");
    assert_eq!(addresses(&again).await.1, ipv6);
    let db = network.create_endpoint(EndpointSpec::new("db")).await.expect("made");
    assert_eq!(addresses(&db).await.0, KEPT);
    // Released while it is in use, it goes with the endpoint.
    network.release_reservation("db").await.expect("released");
    assert!(holder(&network, KEPT).await.expect("held").starts_with("endpoint \"db\""));
    db.delete().await.expect("deleted");
    assert_eq!(holder(&network, KEPT).await, None);
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_and_changes_nothing() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let network = blue(world.engine()).await;
    let web = network.create_endpoint(EndpointSpec::new("web").address(KEPT.into())).await.expect("made");
    network.reserve_address("kept", Some([10, 1, 0, 4].into()), None).await.expect("kept");
    let seen = (network.inspect().await.expect("inspected"), network.holders(100).await.expect("listed"));
    let v4 = |last| Some(Ipv4Addr::new(10, 1, 0, last));
    for (name, ipv4, kind, says) in [
        ("db", Some(KEPT), ErrorKind::Forbidden, "held by endpoint \"web\""),
        ("db", v4(1), ErrorKind::Forbidden, "held by gateway"),
        ("db", v4(4), ErrorKind::Forbidden, "held by reservation \"kept\""),
        ("kept", v4(5), ErrorKind::Conflict, "held by reservation kept"),
        ("db", v4(7), ErrorKind::InvalidParameter, "broadcast"),
        ("db", v4(9), ErrorKind::InvalidParameter, "10.1.0.0/29"),
        (" ", v4(5), ErrorKind::InvalidParameter, "blank"),
        ("db", None, ErrorKind::InvalidParameter, "keeps no address"),
    ] {
        // The second family is fine, and is not kept either.
        let ipv6 = ipv4.and(Some(KEPT6));
        let error = network.reserve_address(name, ipv4, ipv6).await.expect_err("refused");
        assert_eq!((error.kind(), error.certainty()), (kind, Certainty::Aborted), "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(
        (network.inspect().await.expect("inspected"), network.holders(100).await.expect("listed")),
        seen
    );
    // One that the endpoint of the name has is kept from then on, and stays with it.
    network.reserve_address("web", Some(KEPT), None).await.expect("its own");
    web.delete().await.expect("deleted");
    assert_eq!(holder(&network, KEPT).await.as_deref(), Some("reservation \"web\""));

    let mut null = NetworkSpec::new("null").driver("null");
    null.ipam.driver = "null".into();
    for spec in [null, NetworkSpec::new("host").driver("host")] {
        let unchosen = controller.create_network(spec).await.expect("a network");
        let error = unchosen.reserve_address("db", v4(3), None).await.expect_err("it has no addresses");
        assert!(matches!(error.reason(), Reason::AddressUnusable { .. }), "{error:?}");
        unchosen.release_reservation("db").await.expect("nothing is kept");
    }
}

/// Many at once, beside endpoints that come and go: none is lost, in the engine or in the record.
#[tokio::test]
async fn many_reservations_at_once_are_all_recorded() {
    let world = World::gathering(EngineConfig::default()).await;
    let network = world.network("blue").await;
    let kept = |n: u8| Ipv4Addr::new(172, 17, 1, n);
    let keeping = (1..=100).map(|n| {
        let network = &network;
        async move {
            let name = format!("db{n}");
            network.reserve_address(&name, Some(kept(n)), None).await.expect("kept");
            let endpoint = network.create_endpoint(EndpointSpec::new(&name)).await.expect("made");
            assert_eq!(addresses(&endpoint).await.0, kept(n));
            if n % 2 == 0 {
                network.release_reservation(&name).await.expect("released");
            }
            endpoint.delete().await.expect("deleted");
        }
    });
    bounded("all of them", join_all(keeping)).await;
    let expected: Vec<_> = (1..=100).step_by(2).map(|n| Some(kept(n))).collect();
    let seen = async |network: &Network| {
        let seen = network.inspect().await.expect("inspected").reservations;
        let mut seen: Vec<_> = seen.into_values().map(|kept| kept.ipv4).collect();
        seen.sort_unstable();
        seen
    };
    assert_eq!(seen(&network).await, expected);
    let world = world.kill_and_restart().await;
    let network = found(world.engine());
    assert_eq!(seen(&network).await, expected);
    assert_eq!(holder(&network, kept(1)).await.as_deref(), Some("reservation \"db1\""));
    assert_eq!(holder(&network, kept(2)).await, None);
    world.delete_everything().await;
    world.assert_pristine().await;
}

// === What goes wrong ===

/// An address of the network that the story is about, which IPAM chooses for whoever asks for none.
const NEXT: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);

fn network(controller: &Controller) -> Network {
    controller.network_by_name("blue").expect("it is there")
}

fn story() -> Story {
    let whole = Step::whole;
    Story {
        name: "a reservation",
        drivers: Vec::new(),
        before: |_| {},
        setting: |controller| {
            async move {
                controller.create_network(NetworkSpec::new("blue")).await.expect("a network");
            }
            .boxed_local()
        },
        steps: vec![
            whole("reserve", |controller| {
                async move { network(&controller).reserve_address("db", Some(NEXT), None).await }
                    .boxed_local()
            }),
            whole("create another", |controller| {
                async move {
                    let web = network(&controller).create_endpoint(EndpointSpec::new("web")).await?;
                    assert_ne!(addresses(&web).await.0, NEXT, "it is kept for db");
                    Ok(())
                }
                .boxed_local()
            }),
            whole("create", |controller| {
                async move {
                    let db = network(&controller).create_endpoint(EndpointSpec::new("db")).await?;
                    assert_eq!(addresses(&db).await.0, NEXT, "it is kept for it");
                    Ok(())
                }
                .boxed_local()
            }),
            whole("delete", |controller| {
                async move { network(&controller).endpoint_by_name("db").await?.delete().await }.boxed_local()
            }),
            whole("release", |controller| {
                async move { network(&controller).release_reservation("db").await }.boxed_local()
            }),
        ],
        stays: 0,
        files: None,
    }
}

#[tokio::test]
async fn killed_at_every_effect_of_a_reservation_the_next_engine_keeps_what_it_lists() {
    story().killed_everywhere().await;
}

#[tokio::test]
async fn a_reservation_survives_each_commit_that_fails_or_does_not_answer() {
    story().commits_fail().await;
}

/// A commit that is refused leaves nothing kept; one that does not answer leaves it kept, which is said, shown, and made
/// sure by asking again.
#[tokio::test]
async fn what_a_commit_did_not_confirm_is_uncertain_until_it_is_asked_for_again() {
    let world = World::new().await;
    let network = blue(world.engine()).await;
    let disk = world.simulation.disk();
    let shown = async || !network.inspect().await.expect("inspected").reservations.is_empty();
    let reserve = || network.reserve_address("db", Some(KEPT), None);
    disk.fail_commit(1);
    assert_eq!(reserve().await.expect_err("refused").certainty(), Certainty::Aborted);
    assert_eq!((shown().await, holder(&network, KEPT).await), (false, None));
    disk.lose_answer(1);
    assert_eq!(reserve().await.expect_err("no answer").certainty(), Certainty::Uncertain);
    let kept = Some("reservation \"db\"".to_owned());
    assert_eq!((shown().await, holder(&network, KEPT).await), (true, kept.clone()));
    disk.fail_commit(1);
    assert_eq!(reserve().await.expect_err("refused").certainty(), Certainty::Aborted);
    assert_eq!(
        (shown().await, holder(&network, KEPT).await),
        (true, kept.clone()),
        "the first one may be there"
    );
    let commits = disk.commits();
    reserve().await.expect("sure now");
    assert_eq!(disk.commits(), commits + 1);
    reserve().await.expect("it was sure");
    assert_eq!(disk.commits(), commits + 1, "nothing had to be written");
    disk.fail_commit(1);
    network.release_reservation("db").await.expect_err("refused");
    assert_eq!((shown().await, holder(&network, KEPT).await), (true, kept.clone()));
    disk.lose_answer(1);
    let error = network.release_reservation("db").await.expect_err("no answer");
    assert_eq!(error.certainty(), Certainty::Uncertain);
    assert_eq!((shown().await, holder(&network, KEPT).await), (true, kept));
    network.release_reservation("db").await.expect("sure now");
    assert_eq!((shown().await, holder(&network, KEPT).await), (false, None));
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// Whoever dies, what is kept stays kept: for its name, against all others, also while it is in quarantine.
#[tokio::test]
async fn a_reservation_outlives_every_actor() {
    for victim in 0..4 {
        let world = World::new().await;
        let network = blue(world.engine()).await;
        network.reserve_address("db", Some(KEPT), Some(KEPT6)).await.expect("kept");
        let (db, sandbox) = world.joined(&network, "db").await;
        world.kernel().plan(Fault::verb("delete_link", 1, FaultKind::Hang));
        sandbox.delete().await.expect("deleted");
        db.delete().await.expect("deleted");
        until("the hang", async || world.kernel().hanging() == 1).await;
        match victim {
            0 => world.renew_ipam().await,
            1 => world.kill_actor(Victim::Network(network.id())).await,
            2 => world.kill_actor(Victim::Controller).await,
            _ => world.kill_actor(Victim::Store).await,
        }
        until("it is back", async || network.inspect().await.is_ok_and(|seen| !seen.reservations.is_empty()))
            .await;
        let quarantine = format!("quarantine of endpoint {}", db.id().short());
        until("it is told", async || network.holders(1).await.is_ok()).await;
        assert_eq!(holder(&network, KEPT).await, Some(quarantine));
        let mut squatters = Vec::new();
        until("the rest is taken", async || {
            match network.create_endpoint(EndpointSpec::new(format!("n{}", squatters.len()))).await {
                Ok(endpoint) => squatters.push(endpoint),
                Err(error) => return error.kind() == ErrorKind::Exhausted,
            }
            false
        })
        .await;
        for squatter in &squatters {
            assert_ne!(addresses(squatter).await.0, KEPT);
        }
        assert_eq!(world.kernel().release(), 1);
        world.engine().drain().await.expect("drained");
        assert_eq!(holder(&network, KEPT).await.as_deref(), Some("reservation \"db\""));
        let db = network.create_endpoint(EndpointSpec::new("db")).await.expect("made");
        assert_eq!(addresses(&db).await, (KEPT, Some(KEPT6)));
        world.settles().await;
        world.delete_everything().await;
        world.assert_pristine_soon().await;
    }
}

/// A store that counts what is written to it.
#[derive(Debug)]
struct Counted(MemoryStore, Arc<AtomicUsize>);

impl Store for Counted {
    fn load(&mut self) -> Result<Vec<(Key, Vec<u8>)>, StoreError> {
        self.0.load()
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let bytes = |change: &Change| match change {
            Change::Put { key, value } => key.id.len() + value.len(),
            Change::Delete { key } => key.id.len(),
        };
        self.1.fetch_add(changes.iter().map(bytes).sum(), Ordering::Relaxed);
        self.0.commit(changes)
    }

    fn begin(&mut self, intents: &[Intent]) -> Result<(), StoreError> {
        self.0.begin(intents)
    }

    fn end(&mut self, ops: &[OpId]) -> Result<(), StoreError> {
        self.0.end(ops)
    }

    fn open_intents(&mut self) -> Result<Vec<Intent>, StoreError> {
        self.0.open_intents()
    }

    fn syncs(&self) -> u64 {
        self.0.syncs()
    }
}

/// What is written for a reservation does not depend on how many there are.
#[tokio::test]
async fn each_reservation_costs_the_store_the_same() {
    let (disk, written) = (MemoryDisk::default(), Arc::new(AtomicUsize::new(0)));
    let store = Box::new(Counted(disk.open(), written.clone()));
    let kernel = Arc::new(netloom::testkit::SimKernel::new());
    let engine = Engine::builder().kernel(kernel).store(store).start().await.expect("it starts");
    let network = engine.controller().create_network(NetworkSpec::new("blue")).await.expect("a network");
    let mut costs = Vec::new();
    for n in 0..1_000_u32 {
        let before = written.load(Ordering::Relaxed);
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 17, 1, 0)) + n);
        network.reserve_address(&format!("name{n:04}"), Some(address), None).await.expect("kept");
        costs.push(written.load(Ordering::Relaxed) - before);
    }
    let (least, most) = (costs.iter().min().expect("some"), costs.iter().max().expect("some"));
    // Addresses differ in length.
    assert!(most - least < 16 && *most < 300, "{least} to {most} bytes");
    network.delete().await.expect("deleted");
    let left: Vec<_> =
        disk.records().into_iter().filter(|(key, _)| key.kind == RecordKind::Reservation).collect();
    assert_eq!(left, [], "they go with their network");
}
