//! Two things go wrong at once: two actors die, or one dies while force is used or an address is in quarantine.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use netloom::drivers::done;
use netloom::kernel::Netns;
use netloom::testkit::{Fault, FaultKind, Latency};
use netloom::{
    Endpoint, EndpointSpec, EngineConfig, ErrorKind, EventKind, JoinSpec, Network, NetworkId, NetworkSpec,
    Sandbox, Victim,
};

use crate::scripted::{Asked, Scripted, scripted_network};
use crate::support::{World, bounded, note, until, within};

const EBUSY: i32 = 16;

impl World {
    pub(crate) async fn kill_actor(&self, victim: Victim) {
        // The controller passes it on. When that has died a moment ago, its successor does.
        until("told", async || self.simulation.crash_actor(victim.clone()).await.is_ok()).await;
    }

    /// The IPAM service dies and is back.
    pub(crate) async fn renew_ipam(&self) {
        let mut events = self.engine().events();
        self.kill_actor(Victim::Ipam).await;
        let back = async {
            while !matches!(events.next().await, Some(Ok(event)) if matches!(event.kind, EventKind::ActorRestarted { .. }))
            {
            }
        };
        bounded("the restart", back).await;
    }
}

#[tokio::test]
async fn every_pair_of_actors_may_die_at_once() {
    for first in 0..6 {
        for second in (0..6).filter(|second| *second != first) {
            let world = World::new().await;
            let network = world.network("blue").await;
            let (_, sandbox) = world.joined(&network, "web").await;
            let victims = [
                Victim::Network(network.id()),
                Victim::Sandbox(sandbox.id()),
                Victim::Driver("bridge".into()),
                Victim::Ipam,
                Victim::Store,
                Victim::Controller,
            ];
            let dies = |n: usize| world.kill_actor(victims[n].clone());
            tokio::join!(dies(first), dies(second));
            until("the next endpoint", async || {
                network.create_endpoint(EndpointSpec::new("next")).await.is_ok()
                    || network.endpoint_by_name("next").await.is_ok()
            })
            .await;
            world.settles().await;
            world.delete_everything().await;
            world.assert_pristine_soon().await;
        }
    }
}

/// Three endpoints in one sandbox, the first one of which is its way out.
async fn three(world: &World) -> ([Network; 2], Endpoint, Sandbox) {
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    let (provider, sandbox) = world.joined(&blue, "web").await;
    let second = red.create_endpoint(EndpointSpec::new("second")).await.expect("an endpoint");
    second.join(&sandbox, JoinSpec::default()).await.expect("joined");
    ([blue, red], provider, sandbox)
}

/// Whoever provides a sandbox's way out is deleted with force while somebody dies: the next in line gets it.
#[tokio::test]
async fn force_and_any_death_leave_a_way_out() {
    let mut odd = 0;
    for who in 0..6 {
        for wait in 0..8 {
            let world = World::new().await;
            world.kernel().set_latency(Latency::all(Duration::from_micros(300)));
            let ([blue, red], provider, sandbox) = three(&world).await;
            let victim = match who {
                0 => Victim::Network(blue.id()),
                1 => Victim::Sandbox(sandbox.id()),
                2 => Victim::Driver("bridge".into()),
                3 => Victim::Ipam,
                4 => Victim::Store,
                _ => Victim::Controller,
            };
            let before = world.kernel().ops_count();
            let crash = async {
                // A moment of the deletion, told by the kernel's work rather than by the clock.
                until("the moment", async || {
                    let over =
                        provider.inspect().await.is_err_and(|error| error.kind() == ErrorKind::NotFound);
                    over || world.kernel().ops_count() >= before + wait / 2
                })
                .await;
                world.kill_actor(victim).await;
            };
            let (outcome, ()) =
                bounded("the deletion", async { tokio::join!(provider.delete_with_force(), crash) }).await;
            odd += usize::from(outcome.is_err());
            world.settles().await;
            // Whoever was told that it failed tries again.
            if outcome.is_err() {
                match provider.delete_with_force().await {
                    Ok(()) => {}
                    Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}"),
                }
            }
            world.settles().await;
            let gateway = sandbox.inspect().await.expect("inspected").gateway;
            let wanted = red.inspect().await.expect("inspected").v4[0].gateway;
            assert_eq!(gateway, wanted, "victim {who}, moment {wait}: {outcome:?}");
            world.kernel().set_latency(Latency::default());
            world.delete_everything().await;
            world.assert_pristine_soon().await;
        }
    }
    note(format!("{odd} of 48 deletions were told that somebody had died"));
}

/// A sandbox goes with force while the network of its endpoint is away: the endpoint is out when it is back.
#[tokio::test]
async fn an_endpoint_whose_sandbox_went_while_its_network_was_away_is_out() {
    let world = World::with(within(Duration::from_secs(4))).await;
    let network = world.network("blue").await;
    let (endpoint, sandbox) = world.joined(&network, "web").await;
    let other = network.create_endpoint(EndpointSpec::new("other")).await.expect("an endpoint");
    let second = world.sandbox("c2").await;
    // Its restart waits for this.
    world.kernel().plan(Fault::verb("create_veth", 1, FaultKind::Hang));
    let join = tokio::spawn({
        let second = second.clone();
        async move { other.join(&second, JoinSpec::default()).await.map(drop) }
    });
    until("the fault", async || world.kernel().hanging() > 0).await;
    world.kill_actor(Victim::Network(network.id())).await;
    bounded("the sandbox", sandbox.delete_with_force()).await.expect("deleted");
    world.kernel().release();
    drop(bounded("the join", join).await.expect("it ends"));
    world.settles().await;
    assert_eq!(endpoint.inspect().await.expect("inspected").sandbox, None);
    endpoint.join(&second, JoinSpec::default()).await.expect("it can go elsewhere");
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}

/// The address of a deleted endpoint whose link could not be removed is not free, not even for an IPAM that was
/// started again.
#[tokio::test]
async fn a_new_ipam_knows_of_addresses_in_quarantine() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let (endpoint, _) = world.joined(&network, "web").await;
    let address = endpoint.inspect().await.expect("inspected").ipv4.expect("an address").addr();
    for verb in ["cut_link", "delete_link", "delete_address", "delete_route"] {
        world.kernel().plan(Fault::verb(verb, 1, FaultKind::Refuse(EBUSY)).always());
    }
    endpoint.delete_with_force().await.expect("deleted");
    let held = || async {
        let held = network.holders(10).await.expect("listed").holders;
        held.into_iter().find(|held| held.address == IpAddr::from(address)).map(|held| held.holder)
    };
    let quarantine = Some(format!("quarantine of endpoint {}", endpoint.id().short()));
    assert_eq!(held().await, quarantine);
    let waits = network.clone();
    let again =
        tokio::spawn(
            async move { waits.create_endpoint(EndpointSpec::new("web").address(address.into())).await },
        );
    world.renew_ipam().await;
    assert_eq!(held().await, quarantine, "still");
    assert!(!again.is_finished(), "its link may answer");
    world.kernel().clear_faults();
    let again = bounded("the creation", again).await.expect("it ends").expect("it is free now");
    assert_eq!(again.inspect().await.expect("inspected").ipv4.expect("an address").addr(), address);
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}

// === A driver that is odd ===

/// Brings addresses of its own, tells a gateway although it provides none, counts who is programmed.
fn odd(programs: &Arc<AtomicUsize>) -> Scripted {
    let programs = programs.clone();
    let mut driver = Scripted::new(move |asked| {
        let programmed = matches!(asked, Asked::Program(_));
        programs.fetch_add(usize::from(programmed), Ordering::Relaxed);
        done(())
    });
    driver.capability.needs_ipam = false;
    driver.capability.provides_gateway = false;
    driver.endpoint.ipv4 = Some("10.0.0.2/24".parse().expect("a net"));
    driver
}

#[tokio::test]
async fn a_network_without_pools_does_not_keep_ipam_from_coming_back() {
    let world = odd(&Arc::default()).world(EngineConfig::default()).await;
    let blue = world.network("blue").await;
    let own = scripted_network(&world, "own").await;
    own.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    world.renew_ipam().await;
    for network in [&blue, &own] {
        network.create_endpoint(EndpointSpec::new("next")).await.expect("nothing is wrong with it");
    }
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn a_driver_is_held_to_what_it_says_it_can_do() {
    let mut driver = odd(&Arc::default());
    let world = driver.world(EngineConfig::default()).await;
    let own = scripted_network(&world, "own").await;
    let endpoint = own.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    let sandbox = world.sandbox("c1").await;
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    assert_eq!(sandbox.inspect().await.expect("inspected").gateway, None, "it provides no gateway");
    world.delete_everything().await;
    world.assert_pristine().await;

    driver.network.tables.push("peers".into());
    let world = driver.world(EngineConfig::default()).await;
    let spec = NetworkSpec::new("own").driver(Scripted::KIND);
    let error = world.engine().controller().create_network(spec).await.expect_err("it is of local scope");
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error:?}");
    assert!(error.to_string().contains("peers"), "{error}");
    world.assert_pristine().await;
}

/// A network that dies forgets who is reached from outside; its sandboxes tell it again, so that a driver that
/// dies later is told as well.
#[tokio::test]
async fn the_way_in_from_outside_survives_the_death_of_the_network_and_then_of_the_driver() {
    let programs = Arc::default();
    let mut driver = odd(&programs);
    driver.capability.provides_gateway = true;
    let world = driver.world(EngineConfig::default()).await;
    let own = scripted_network(&world, "own").await;
    let endpoint = own.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    endpoint.join(&world.sandbox("c1").await, JoinSpec::default()).await.expect("joined");
    for victim in [
        Victim::Network(own.id()),
        Victim::Driver(Scripted::KIND.into()),
        Victim::Network(own.id()),
        Victim::Driver(Scripted::KIND.into()),
    ] {
        let before = programs.load(Ordering::Relaxed);
        world.kill_actor(victim).await;
        until("it is told again", async || programs.load(Ordering::Relaxed) > before).await;
    }
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// A given identifier is not free before the janitor is done with the network that had it.
#[tokio::test]
async fn an_identifier_is_not_given_again_while_its_network_is_still_being_taken_down() {
    let world = World::new().await;
    let id: NetworkId = "swarm25charsid".parse().expect("an id");
    let controller = world.engine().controller();
    let create = || controller.create_network(NetworkSpec::new("blue").id(id));
    let network = create().await.expect("a network");
    world.kernel().plan(Fault::verb("delete_link", 1, FaultKind::Refuse(EBUSY)).always());
    network.delete().await.expect("its record is gone");
    let error = create().await.expect_err("its bridge is still there");
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error:?}");
    world.kernel().clear_faults();
    bounded("draining", world.engine().drain()).await.expect("drained");
    let network = create().await.expect("it is free");
    world.joined(&network, "web").await;
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// Draining does not say that all is gone while something is left, and says what.
#[tokio::test]
async fn draining_names_what_is_left() {
    // The janitor tries 1.5 s and 3.1 s after the deletion, the first draining ends between the two, and the second one
    // lasts long enough for the latter.
    let world = World::with(within(Duration::from_secs(3))).await;
    let network = world.network("blue").await;
    let (_, sandbox) = world.joined(&network, "web").await;
    world.kernel().plan(Fault::verb("delete_netns", 1, FaultKind::Refuse(EBUSY)).always());
    sandbox.delete().await.expect("its record is gone");
    let error = bounded("draining", world.engine().drain()).await.expect_err("it is still there");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(
        error.to_string().contains(&Netns::Named(sandbox.netns().expect("a name")).to_string()),
        "{error}"
    );
    world.kernel().clear_faults();
    // One drain may end before the janitor's next try.
    until("it gets there by itself", async || world.engine().drain().await.is_ok()).await;
    world.delete_everything().await;
    world.assert_pristine().await;
}
