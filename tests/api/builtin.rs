//! The drivers `host` and `null`: one network each, which stays, and whose endpoints bring nothing along.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use netloom::drivers::done;
use netloom::snapshot::{EndpointPhase, NetworkPhase};
use netloom::{
    EndpointSpec, EngineConfig, Error, ErrorKind, JoinSpec, MacAddr, Network, NetworkSpec, Reason,
    SandboxKey, SandboxSpec, Victim,
};

use crate::scripted::{Asked, Scripted};
use crate::support::{World, bounded, until};

const BARE: [&str; 2] = ["null", "host"];

impl World {
    async fn create(&self, name: &str, driver: &str) -> Result<Network, Error> {
        self.engine().controller().create_network(NetworkSpec::new(name).driver(driver)).await
    }

    /// Deletes everything but the networks that stay, and forgets those.
    async fn assert_only_networks_are_left(&self, networks: usize) {
        for network in self.engine().controller().networks() {
            for endpoint in network.endpoints().await.expect("listed") {
                endpoint.delete().await.expect("deleted");
            }
        }
        bounded("draining", self.engine().drain()).await.expect("drained");
        let left = self.leftovers().await;
        let records = left.iter().filter(|line| line.starts_with("record: Key { kind: Network"));
        assert_eq!((left.len(), records.count()), (networks, networks), "{left:#?}");
    }
}

fn assert_only_instance(error: &Error, driver: &str, holder: &Network) {
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error:?}");
    let text = error.to_string();
    let start = format!("only one instance of {driver:?} network is allowed");
    assert!(text.starts_with(&start) && text.contains(holder.name()), "{text}");
}

fn assert_permanent(error: &Error, driver: &str) {
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error:?}");
    assert_eq!(error.to_string(), format!("network of type {driver:?} cannot be deleted"));
}

#[tokio::test]
async fn null_and_host_endpoints_join_without_interfaces() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let sandbox = world.sandbox("c1").await;
    for driver in BARE {
        let bare = world.create(&format!("the-{driver}"), driver).await.expect("a network");
        for n in 0..20 {
            let endpoint =
                bare.create_endpoint(EndpointSpec::new(format!("e{n}"))).await.expect("an endpoint");
            let target = if n == 0 { sandbox.clone() } else { world.sandbox(&format!("{driver}{n}")).await };
            endpoint.join(&target, JoinSpec::default()).await.expect("joined");
            let seen = endpoint.inspect().await.expect("inspected");
            assert_eq!(seen.phase, EndpointPhase::Joined);
            assert_eq!((seen.ipv4, seen.ipv6, seen.mac), (None, None, None));
            assert_eq!(target.inspect().await.expect("inspected").gateway, None);
            if n > 0 {
                let netns = netloom::kernel::Netns::Named(target.netns().expect("a name"));
                let links = netloom::kernel::Kernel::links(
                    world.kernel(),
                    netns,
                    std::time::Instant::now() + crate::support::PATIENCE,
                );
                assert_eq!(links.await.expect("listed").len(), 1, "its loopback and no more");
            }
        }
        assert!(bare.inspect().await.expect("inspected").v4.is_empty(), "no pool");
    }
    // Beside them a sandbox gets interfaces as ever, and its first is the first.
    let endpoint = network.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    let joined = endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    assert_eq!(joined.ifname.as_str(), "eth0");
    assert!(sandbox.inspect().await.expect("inspected").gateway.is_some());
    assert_eq!(sandbox.statistics().await.expect("counted").len(), 1);

    let world = world.kill_and_restart().await;
    assert!(world.engine().repairs().is_empty(), "{:?}", world.engine().repairs());
    world.settles().await;
    let sandbox = world.engine().controller().sandbox_by_container("c1").expect("restored");
    assert_eq!(sandbox.inspect().await.expect("inspected").endpoints.len(), 3);
    for driver in BARE {
        let bare = world.engine().controller().network_by_name(&format!("the-{driver}")).expect("restored");
        let endpoint = bare.endpoint_by_name("e0").await.expect("restored");
        assert_eq!(endpoint.inspect().await.expect("inspected").phase, EndpointPhase::Joined);
        endpoint.leave(&sandbox).await.expect("left");
        endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined again");
    }
    for sandbox in world.engine().controller().sandboxes() {
        sandbox.delete().await.expect("deleted");
    }
    let network = world.engine().controller().network_by_name("blue").expect("restored");
    network.endpoint_by_name("web").await.expect("restored").delete().await.expect("deleted");
    network.delete().await.expect("deleted");
    world.assert_only_networks_are_left(2).await;
}

#[tokio::test]
async fn a_second_instance_is_refused() {
    let mut world = World::new().await;
    for driver in BARE {
        // Whichever of them is the first.
        let names: Vec<_> = (0..32).map(|n| format!("{driver}{n}")).collect();
        let made = join_all(names.iter().map(|name| world.create(name, driver))).await;
        let (made, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
        let [Ok(first)] = &made[..] else { panic!("{} of them were made", made.len()) };
        for refused in refused {
            assert_only_instance(&refused.expect_err("refused"), driver, first);
        }
        world.simulation.crash_actor(Victim::Driver(driver.into())).await.expect("told");
        assert_only_instance(&world.create("second", driver).await.expect_err("refused"), driver, first);
        world.simulation.crash_actor(Victim::Network(first.id())).await.expect("told");
        assert_only_instance(&world.create("second", driver).await.expect_err("refused"), driver, first);
    }
    world.simulation.crash_actor(Victim::Controller).await.expect("told");
    for restarts in 0..2 {
        for driver in BARE {
            until("the controller is back", async || world.engine().inspect().await.is_ok()).await;
            let error = world.create("second", driver).await.expect_err("refused");
            assert!(matches!(error.reason(), Reason::OnlyInstance { .. }), "after {restarts}: {error:?}");
        }
        world = world.kill_and_restart().await;
    }
    world.settles().await;
    world.assert_only_networks_are_left(2).await;
}

#[tokio::test]
async fn a_creation_that_failed_leaves_room_for_the_next() {
    let world = World::new().await;
    for driver in BARE {
        world.simulation.disk().fail_commit(1);
        let error = world.create("first", driver).await.expect_err("the store fails");
        assert!(matches!(error.reason(), Reason::Store { .. }), "{error:?}");
        let odd = NetworkSpec::new("first").driver(driver).option("com.docker.network.driver.mtu", "1400");
        let controller = world.engine().controller();
        for odd in [
            odd,
            NetworkSpec::new("first").driver(driver).ipv6(true),
            NetworkSpec::new("first").driver(driver).internal(true),
            NetworkSpec::new("first").driver(driver).subnet("10.9.0.0/16".parse().expect("a net")),
        ] {
            let error = controller.create_network(odd).await.expect_err("it would have no effect");
            assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{error:?}");
        }
        let networks = world.engine().controller().networks();
        assert!(networks.iter().all(|network| network.name() != "first"), "{networks:?}");
        let network = world.create(driver, driver).await.expect("there is room");
        for odd in [
            EndpointSpec::new("odd").mac(MacAddr([2; 6])),
            EndpointSpec::new("odd").address("10.9.0.1".parse().expect("an address")),
            EndpointSpec::new("odd").address("fd09::1".parse().expect("an address")),
        ] {
            let error = network.create_endpoint(odd).await.expect_err("it would have no effect");
            assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{error:?}");
        }
        network.create_endpoint(EndpointSpec::new("odd")).await.expect("the name is free");
    }
    world.assert_only_networks_are_left(2).await;
}

#[tokio::test]
async fn networks_of_host_and_null_cannot_be_deleted() {
    let mut world = World::new().await;
    for driver in BARE {
        let network = world.create(driver, driver).await.expect("a network");
        assert_permanent(&network.delete().await.expect_err("it stays"), driver);
        // Whether or not it has endpoints, which force does not touch either.
        let (endpoint, sandbox) = world.joined(&network, "web").await;
        assert_permanent(&network.delete().await.expect_err("it stays"), driver);
        assert_permanent(&network.delete_with_force().await.expect_err("it stays"), driver);
        assert_eq!(endpoint.inspect().await.expect("still there").phase, EndpointPhase::Joined);
        // It goes on as before.
        endpoint.leave(&sandbox).await.expect("left");
        network.create_endpoint(EndpointSpec::new("next")).await.expect("an endpoint");
        sandbox.delete().await.expect("deleted");
    }
    world = world.kill_and_restart().await;
    for driver in BARE {
        let network = world.engine().controller().network_by_name(driver).expect("restored");
        assert_permanent(&network.delete().await.expect_err("it stays"), driver);
    }
    world.assert_only_networks_are_left(2).await;
}

#[tokio::test]
async fn the_hosts_own_namespace_and_one_that_is_still_awaited_take_such_endpoints() {
    let world = World::new().await;
    world.kernel().external_netns("/proc/4711/ns/net").expect("added");
    let controller = world.engine().controller();
    let host = controller.create_sandbox(SandboxSpec::new("h").host_namespace()).await.expect("a sandbox");
    let later = controller.create_sandbox(SandboxSpec::new("w").external_key()).await.expect("a sandbox");
    let blue = world.network("blue").await;
    for (driver, sandbox) in [("host", &host), ("null", &later)] {
        let network = world.create(driver, driver).await.expect("a network");
        let endpoint = network.create_endpoint(EndpointSpec::new("bare")).await.expect("an endpoint");
        endpoint.join(sandbox, JoinSpec::default()).await.expect("joined");
    }
    let web = blue.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    web.join(&later, JoinSpec::default()).await.expect("its place is kept");
    later.set_key(SandboxKey::Pid(4711)).await.expect("plugged in");
    let ifname = web.inspect().await.expect("inspected").ifname.expect("joined");
    assert_eq!(ifname.as_str(), "eth0", "what brings no interface takes no number");
    for sandbox in [host, later] {
        sandbox.delete().await.expect("deleted");
    }
    web.delete().await.expect("deleted");
    blue.delete().await.expect("deleted");
    world.engine().drain().await.expect("drained");
    world.kernel().drop_external("/proc/4711/ns/net").expect("there");
    world.assert_only_networks_are_left(2).await;
}

/// One that could not be restored is of no use and in the way of another.
#[tokio::test]
async fn one_that_is_out_of_service_can_be_deleted() {
    let broken = Arc::new(AtomicBool::new(false));
    let state = broken.clone();
    let mut driver = Scripted::new(move |asked| match asked {
        Asked::CreateNetwork if state.load(Ordering::Relaxed) => Err(Error::internal("broken")),
        _ => done(()),
    });
    driver.capability.permanent = true;
    let world = driver.world(EngineConfig::default()).await;
    let create = async |world: &World, name: &str| world.create(name, Scripted::KIND).await;
    broken.store(true, Ordering::Relaxed);
    create(&world, "first").await.expect_err("broken");
    broken.store(false, Ordering::Relaxed);
    let first = create(&world, "first").await.expect("nothing is left of the one that failed");
    assert_permanent(&first.delete().await.expect_err("it stays"), Scripted::KIND);
    broken.store(true, Ordering::Relaxed);
    let world = world.kill_and_restart().await;
    let first = world.engine().controller().network_by_name("first").expect("listed");
    assert_eq!(first.inspect().await.expect("inspected").phase, NetworkPhase::Failed);
    let error = create(&world, "second").await.expect_err("the first is still recorded");
    assert_only_instance(&error, Scripted::KIND, &first);
    first.delete().await.expect("deleted");
    broken.store(false, Ordering::Relaxed);
    create(&world, "second").await.expect("its place is free");
    world.assert_only_networks_are_left(1).await;
}
