//! Networks that are deleted while the kernel has not let go of their endpoints' links: their pools are nobody's before it
//! has, whoever asks for them and whoever dies.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netloom::drivers::done;
use netloom::ipam::IpamCapability;
use netloom::testkit::{Fault, FaultKind};
use netloom::{
    EndpointSpec, Engine, EngineConfig, Error, ErrorKind, JoinSpec, Network, NetworkId, NetworkSpec, Result,
    ShutdownMode, Victim,
};
use tokio::task::JoinHandle;

use crate::acme::{Acme, of_acme};
use crate::scripted::{Asked, Scripted};
use crate::support::{World, bounded, until, within};

const SUBNET: &str = "10.1.0.0/24";
const SUBNET6: &str = "fd00:1::/64";

fn spec(name: &str) -> NetworkSpec {
    let net = |text: &str| text.parse().expect("a subnet");
    NetworkSpec::new(name).ipv6(true).subnet(net(SUBNET)).subnet(net(SUBNET6))
}

async fn addresses(network: &Network, name: &str) -> Vec<IpAddr> {
    let endpoint = bounded("creating", network.create_endpoint(EndpointSpec::new(name))).await.expect("made");
    let seen = endpoint.inspect().await.expect("inspected");
    let (ipv4, ipv6) = (seen.ipv4.map(IpNet::V4), seen.ipv6.map(IpNet::V6));
    ipv4.into_iter().chain(ipv6).map(|net| net.addr()).collect()
}

/// A network that is deleted, with force or without, and whose endpoint's link dies when the test lets it. Tells its
/// identifier, and the addresses that may still answer.
async fn dying(world: &World, spec: NetworkSpec, force: bool) -> (NetworkId, Vec<IpAddr>) {
    let network = world.engine().controller().create_network(spec).await.expect("a network");
    let had = addresses(&network, "web").await;
    let web = network.endpoint_by_name("web").await.expect("it is there");
    let sandbox = world.sandbox("c1").await;
    web.join(&sandbox, JoinSpec::default()).await.expect("joined");
    world.kernel().plan(Fault::verb("delete_link", 1, FaultKind::Hang));
    let began = Instant::now();
    if force {
        bounded("the deletion", network.delete_with_force()).await.expect("deleted");
    } else {
        bounded("the sandbox's deletion", sandbox.delete()).await.expect("deleted");
        bounded("the endpoint's deletion", web.delete()).await.expect("deleted");
        bounded("the deletion", network.delete()).await.expect("deleted");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "nobody waits for the link: {:?}", began.elapsed());
    until("the hang", async || world.kernel().hanging() == 1).await;
    (network.id(), had)
}

async fn waiting(engine: &Engine) -> bool {
    let seen = engine.inspect().await.expect("inspected").operations;
    seen.iter().any(|operation| operation.step == "wait for the pools of a deleted network")
}

/// Asks for a network, and sees that it waits.
async fn asked(world: &World, spec: NetworkSpec) -> JoinHandle<Result<Network>> {
    let controller = world.engine().controller();
    let asked = tokio::spawn(async move { controller.create_network(spec).await });
    until("it waits, or has what nobody may have", async || {
        assert!(!asked.is_finished(), "it does not wait");
        waiting(world.engine()).await
    })
    .await;
    asked
}

async fn made(asked: JoinHandle<Result<Network>>) -> Network {
    bounded("the creation", asked).await.expect("it ends").expect("made")
}

/// What IPAM says that a network of this name has in quarantine.
async fn quarantined(world: &World, name: &str) -> u64 {
    let all = bounded("inspecting", world.engine().controller().ipam()).await.expect("inspected");
    let pools = all.into_iter().flat_map(|ipam| ipam.pools);
    pools.filter(|pool| pool.name == name).map(|pool| pool.quarantined).sum()
}

async fn ends(world: World) {
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}

#[tokio::test]
async fn a_subnet_is_given_again_when_no_link_of_its_deleted_network_can_answer() {
    for force in [false, true] {
        let world = World::new().await;
        let (_, had) = dying(&world, spec("blue"), force).await;
        assert_eq!((quarantined(&world, "blue").await, had.len()), (2, 2));
        let part = || NetworkSpec::new("part").subnet("10.1.0.128/25".parse().expect("a subnet"));
        let (again, part) = (asked(&world, spec("blue")).await, asked(&world, part()).await);
        // Who names no subnet gets another one at once.
        let other = bounded("another one", world.network("other")).await;
        assert_ne!(other.inspect().await.expect("inspected").v4[0].pool.to_string(), SUBNET);
        // What overlaps a network that lives is refused at once.
        let taken = other.inspect().await.expect("inspected").v4[0].pool;
        let controller = world.engine().controller();
        let late = controller.create_network(NetworkSpec::new("late").subnet(taken));
        let error = bounded("at once", late).await.expect_err("it is taken");
        assert!(error.to_string().contains("network \"other\""), "{error}");
        assert!(!again.is_finished() && !part.is_finished());
        assert_eq!(world.kernel().release(), 1);
        // One of them gets it, the other one is told who has it.
        let both = [bounded("one", again).await, bounded("the other", part).await];
        let (made, refused): (Vec<_>, Vec<_>) =
            both.into_iter().map(|ended| ended.expect("it ends")).partition(Result::is_ok);
        assert_eq!((made.len(), refused.len()), (1, 1));
        let error = refused.into_iter().find_map(Result::err).expect("one");
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
        ends(world).await;
    }
}

/// The same when every actor that knows of it dies meanwhile.
#[tokio::test]
async fn pools_of_a_deleted_network_are_held_over_the_death_of_every_actor() {
    for victim in 0..4 {
        let world = World::new().await;
        let (id, had) = dying(&world, spec("blue"), false).await;
        match victim {
            0 => world.renew_ipam().await,
            1 => world.kill_actor(Victim::Driver("bridge".into())).await,
            2 => world.kill_actor(Victim::Controller).await,
            _ => world.kill_actor(Victim::Store).await,
        }
        until("it is known", async || quarantined(&world, "blue").await == 2).await;
        // Whoever asks from now on waits as well, also of the same identifier.
        let again = asked(&world, NetworkSpec { id: Some(id), ..spec("green") }).await;
        assert_eq!(world.kernel().release(), 1);
        let green = made(again).await;
        assert_eq!((green.id(), quarantined(&world, "green").await), (id, 0));
        assert_eq!(addresses(&green, "next").await, had, "the first ones of new pools");
        ends(world).await;
    }
}

/// Waiting has an end, which says for whom it was; when it has come, nothing is left of who waited.
#[tokio::test]
async fn who_waits_for_a_deleted_networks_pools_does_so_to_its_deadline() {
    let world = World::with(within(Duration::from_millis(400))).await;
    dying(&world, spec("blue"), false).await;
    let error = bounded("it", world.engine().controller().create_network(spec("red"))).await;
    let error = error.expect_err("its link hangs");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let text = error.to_string();
    assert!(text.contains("the links of deleted network \"blue\"") && text.contains("pools"), "{text}");
    world.kernel().release();
    ends(world).await;
}

/// When the last pool of all is such a network's, who wants any waits for it.
#[tokio::test]
async fn the_last_pool_of_all_is_waited_for() {
    let mut config = EngineConfig::default();
    let base = "10.9.0.0/24".parse().expect("a subnet");
    config.default_pools = vec![netloom::DefaultPool { base, size: 24 }];
    let world = World::with(config).await;
    let (_, had) = dying(&world, NetworkSpec::new("blue"), false).await;
    let again = asked(&world, NetworkSpec::new("red")).await;
    world.kernel().release();
    assert_eq!(addresses(&made(again).await, "next").await, had);
    ends(world).await;
}

/// What is left when the engine ends in between is taken back by the next one, which has cut the link off by then.
#[tokio::test]
async fn an_end_in_between_leaves_no_pools_behind() {
    for graceful in [false, true] {
        let world = World::with(within(Duration::from_secs(2))).await;
        let (_, had) = dying(&world, spec("blue"), false).await;
        let world = if graceful {
            let ended = world.engine().shutdown(ShutdownMode::Immediate);
            bounded("the end", ended).await.expect("it ends");
            world.kill_and_restart().await
        } else {
            world.kill_and_restart().await
        };
        let controller = world.engine().controller();
        let red = bounded("the creation", controller.create_network(spec("red"))).await.expect("free again");
        assert_eq!(addresses(&red, "next").await, had);
        world.kernel().release();
        ends(world).await;
    }
}

// === Drivers of others ===

/// A link that could not even be cut off, because its driver refuses: neither its address nor its subnet is given again,
/// apart from networks that share the subnet, which get other addresses.
#[tokio::test]
async fn a_driver_that_does_not_let_go_of_a_link_keeps_its_subnet_taken_and_shared_ones_in_use() {
    for shares in [false, true] {
        let refuses = Arc::new(AtomicBool::new(true));
        let leaves = refuses.clone();
        let mut driver = Scripted::new(move |asked| match asked {
            Asked::Leave if leaves.load(Ordering::Relaxed) => {
                Err(Error::invalid("link", "it", "it does not let go"))
            }
            _ => done(()),
        });
        driver.capability.shares_pools = shares;
        let world = driver.world(EngineConfig::default()).await;
        let of = |name: &str, gateway: [u8; 4]| {
            let mut spec = spec(name).driver(Scripted::KIND).ipv6(false);
            spec.ipam.v6.clear();
            spec.ipam.v4[0].gateway = Some(gateway.into());
            spec
        };
        let controller = world.engine().controller();
        let blue = controller.create_network(of("blue", [10, 1, 0, 1])).await.expect("made");
        let had = addresses(&blue, "web").await;
        let web = blue.endpoint_by_name("web").await.expect("it is there");
        let sandbox = world.sandbox("c1").await;
        web.join(&sandbox, JoinSpec::default()).await.expect("joined");
        bounded("the deletion", blue.delete_with_force()).await.expect("deleted, whatever the driver does");
        assert_eq!(quarantined(&world, "blue").await, 1);
        if shares {
            let red = bounded("the same subnet", controller.create_network(of("red", [10, 1, 0, 5])));
            let red = red.await.expect("it is shared");
            for n in 0..20 {
                assert_ne!(addresses(&red, &format!("n{n}")).await, had);
            }
        }
        // Blue's own gateway is blue's, so this one waits in any case.
        let again = asked(&world, of("again", [10, 1, 0, 1])).await;
        refuses.store(false, Ordering::Relaxed);
        made(again).await;
        ends(world).await;
    }
}

/// An IPAM driver of the embedder's own is told when a link is gone, and not before.
#[tokio::test]
async fn other_ipam_drivers_get_pools_back_when_no_link_can_answer() {
    let acme = Acme::new(IpamCapability::default());
    let world = acme.world(EngineConfig::default(), |more| more).await;
    let (id, _) = dying(&world, of_acme("blue"), false).await;
    let given = acme.given();
    assert!(!given.is_empty(), "it would give them to others");
    let again = asked(&world, NetworkSpec { id: Some(id), ..of_acme("red") }).await;
    assert_eq!(acme.given(), given);
    world.kernel().release();
    made(again).await.delete().await.expect("deleted");
    ends(world).await;
    acme.assert_all_is_back();
}
