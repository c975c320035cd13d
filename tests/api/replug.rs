//! Everything plugged in anew: a namespace that is told, told once more, and tried again; and what an attempt that
//! failed has left to the janitor.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use netloom::drivers::done;
use netloom::snapshot::{EndpointPhase, SandboxPhase};
use netloom::testkit::{Fault, FaultKind};
use netloom::{
    Endpoint, EndpointSpec, EngineConfig, Error, ErrorKind, JoinSpec, NetworkSpec, Sandbox, SandboxKey,
    SandboxSpec, Victim,
};

use crate::scripted::{Asked, Scripted, scripted_network};
use crate::support::{World, bounded, until};

/// A sandbox that waits for its namespace, with endpoints of two networks, and two processes whose namespaces it
/// may be told.
async fn waiting() -> (World, Sandbox, Vec<Endpoint>) {
    let world = World::new().await;
    for process in ["/proc/4711/ns/net", "/proc/4712/ns/net"] {
        world.kernel().external_netns(process).expect("added");
    }
    let spec = SandboxSpec::new("c").external_key();
    let sandbox = world.engine().controller().create_sandbox(spec).await.expect("a sandbox");
    let mut endpoints = Vec::new();
    for name in ["blue", "red"] {
        let network = world.network(name).await;
        let endpoint = network.create_endpoint(EndpointSpec::new("e")).await.expect("an endpoint");
        endpoint.join(&sandbox, JoinSpec::default()).await.expect("its place is kept");
        endpoints.push(endpoint);
    }
    (world, sandbox, endpoints)
}

async fn leaks_are_cleared(world: &World) {
    let leaks = async || world.engine().inspect().await.expect("inspected").leaks;
    until("the janitor", async || leaks().await.is_empty()).await;
}

/// Everything is in, and stays in whatever the janitor still had to do.
async fn assert_plugged_in(world: &World, sandbox: &Sandbox, endpoints: &[Endpoint], case: &str) {
    leaks_are_cleared(world).await;
    let seen = sandbox.inspect().await.expect("inspected");
    assert_eq!((seen.phase, seen.endpoints.len()), (SandboxPhase::Ready, endpoints.len()), "{case}");
    for endpoint in endpoints {
        assert_eq!(endpoint.inspect().await.expect("inspected").phase, EndpointPhase::Joined, "{case}");
    }
    assert_eq!(world.engine().diff().await.expect("compared"), [], "{case}");
}

/// A join fails, and then the store while the places are kept again.
#[tokio::test]
async fn a_key_can_be_told_again_whatever_could_not_be_undone_at_first() {
    for nth in 1..=8 {
        for lose in [false, true] {
            let case = format!("commit {nth}, lost: {lose}");
            let (world, sandbox, endpoints) = waiting().await;
            world.kernel().plan(Fault::verb("add_address", 2, FaultKind::Refuse(12)));
            let disk = world.simulation.disk();
            if lose {
                disk.lose_answer(nth);
            } else {
                disk.fail_commit(nth);
            }
            sandbox.set_key(SandboxKey::Pid(4711)).await.expect_err(&case);
            let seen = sandbox.inspect().await.expect("inspected");
            assert_eq!((seen.phase, seen.endpoints.len()), (SandboxPhase::Waiting, 2), "{case}");
            disk.clear_faults();
            world.kernel().clear_faults();
            sandbox.set_key(SandboxKey::Pid(4711)).await.expect(&case);
            assert_plugged_in(&world, &sandbox, &endpoints, &case).await;
        }
    }
}

/// What the janitor tries again of the old namespace does not hit the new one, which has the same name.
#[tokio::test]
async fn a_namespace_that_was_told_is_not_removed_in_place_of_the_one_before() {
    let (world, sandbox, endpoints) = waiting().await;
    sandbox.set_key(SandboxKey::Pid(4711)).await.expect("plugged in");
    // The first removal is that of the trial.
    world.kernel().plan(Fault::verb("delete_netns", 2, FaultKind::Lose).times(2));
    sandbox.set_key(SandboxKey::Pid(4712)).await.expect("moved");
    assert_plugged_in(&world, &sandbox, &endpoints, "another namespace").await;
}

/// At whichever commit it fails: no endpoint is lost before the sandbox waits, and the sandbox never.
#[tokio::test]
async fn a_second_key_that_fails_leaves_a_sandbox_in_order() {
    for nth in 1..=6 {
        let case = format!("commit {nth}");
        let (world, sandbox, endpoints) = waiting().await;
        sandbox.set_key(SandboxKey::Pid(4711)).await.expect("plugged in");
        world.simulation.disk().fail_commit(nth);
        sandbox.set_key(SandboxKey::Pid(4712)).await.expect_err(&case);
        world.simulation.disk().clear_faults();
        leaks_are_cleared(&world).await;
        let seen = sandbox.inspect().await.expect("inspected");
        // The record is written, then both leave with their places kept: until then everything can be as it was.
        let stays = nth <= 3;
        assert_eq!(seen.phase == SandboxPhase::Ready, stays, "{case}: {seen:?}");
        assert_eq!(seen.endpoints.len(), 2, "{case}: {seen:?}");
        assert_eq!(world.engine().diff().await.expect("compared"), [], "{case}");
        drop((sandbox, endpoints));
        let world = world.kill_and_restart().await;
        let again = world.engine().controller().sandbox_by_container("c").expect("recorded");
        assert_eq!(again.inspect().await.expect("inspected"), seen, "{case}");
    }
}

#[tokio::test]
async fn a_name_that_was_given_is_not_taken_back_for_an_earlier_attempt() {
    for died in [false, true] {
        let world = World::new().await;
        let sandbox = world.sandbox("c").await;
        let networks = world.blue_and_red(&sandbox).await;
        networks[1].create_endpoint(EndpointSpec::new("taken")).await.expect("an endpoint");
        // The first one is renamed; its old name cannot be written, nor at the janitor's first try.
        world.simulation.disk().fail_commits(2, 2);
        let error = sandbox.rename("taken").await.expect_err("taken on the second one");
        assert!(error.to_string().contains("could not undo"), "{error}");
        until("the janitor's first try", async || world.simulation.disk().is_faultless()).await;
        if died {
            // What is left to undo is in the hands of the actor before.
            world.simulation.crash_actor(Victim::Sandbox(sandbox.id())).await.expect("told");
            until("it is started again", async || sandbox.inspect().await.is_ok()).await;
        }
        sandbox.rename("new").await.expect("renamed");
        leaks_are_cleared(&world).await;
        for network in &networks {
            network.endpoint_by_name("new").await.expect("its new name");
        }
    }
}

/// Either the network for ways out is gone, because nobody needed it any more, or another one is configured.
#[tokio::test]
async fn a_refresh_has_the_network_for_ways_out_made_where_it_is_missing() {
    for reloaded in [false, true] {
        let mut driver = Scripted::new(|_| done(()));
        driver.joined.gateway = None;
        let world = driver.world(EngineConfig::default()).await;
        let controller = world.engine().controller();
        let sandbox = world.sandbox("c").await;
        let plain = scripted_network(&world, "plain").await;
        let web = plain.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
        web.join(&sandbox, JoinSpec::default()).await.expect("joined");
        if reloaded {
            let config = EngineConfig { gateway_network: "other".into(), ..controller.config() };
            controller.reload(config).await.expect("taken");
        } else {
            let blue = world.network("blue").await;
            let out = blue.create_endpoint(EndpointSpec::new("out")).await.expect("an endpoint");
            out.join(&sandbox, JoinSpec::default()).await.expect("joined");
            let needless = controller.network_by_name("docker_gwbridge").expect("there");
            bounded("deleting it", needless.delete()).await.expect("nobody is in it");
        }
        sandbox.refresh(SandboxSpec::new("c")).await.expect("refreshed");
        assert_eq!(sandbox.inspect().await.expect("inspected").endpoints.len(), 2, "{reloaded}");
    }
}

#[tokio::test]
async fn where_there_is_no_interface_there_are_no_counters() {
    let (world, waits, endpoints) = waiting().await;
    let controller = world.engine().controller();
    assert!(waits.statistics().await.expect("none").is_empty());
    let error = endpoints[0].statistics().await.expect_err("not plugged in");
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    let spec = SandboxSpec::new("h").host_namespace();
    let host = controller.create_sandbox(spec).await.expect("a sandbox");
    let network = controller.create_network(NetworkSpec::new("h").driver("host")).await.expect("a network");
    let bare = network.create_endpoint(EndpointSpec::new("bare")).await.expect("an endpoint");
    bare.join(&host, JoinSpec::default()).await.expect("joined");
    assert!(host.statistics().await.expect("none").is_empty());
    assert_eq!(bare.inspect().await.expect("inspected").ifname, None);
    assert_eq!(bare.statistics().await.expect_err("no interface").kind(), ErrorKind::NotImplemented);
}

/// The order in which endpoints joined decides among those of one network, also after a restart.
#[tokio::test]
async fn a_refresh_after_a_restart_keeps_the_order() {
    let world = World::new().await;
    let (network, sandbox) = (world.network("blue").await, world.sandbox("c").await);
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let endpoint = network.create_endpoint(EndpointSpec::new(name)).await.expect("an endpoint");
        endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    }
    let order = async |sandbox: &Sandbox| {
        let seen = sandbox.inspect().await.expect("inspected");
        seen.endpoints.into_iter().map(|inside| inside.endpoint).collect::<Vec<_>>()
    };
    let before = order(&sandbox).await;
    drop((network, sandbox));
    let world = world.kill_and_restart().await;
    let sandbox = world.engine().controller().sandbox_by_container("c").expect("recorded");
    sandbox.refresh(SandboxSpec::new("c")).await.expect("refreshed");
    assert_eq!(order(&sandbox).await, before);
}

#[tokio::test]
async fn what_lost_the_way_in_is_not_given_it_back_for_an_earlier_handover() {
    let (log, failures) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU32::new(0)));
    let (told, to_fail) = (log.clone(), failures.clone());
    let driver = Scripted::new(move |asked| {
        if let Asked::Program(_) | Asked::Revoke(_) = asked {
            told.lock().expect("whole").push(asked);
        }
        let fails = |left: u32| left.checked_sub(1);
        let broken = matches!(asked, Asked::Program(_))
            && to_fail.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fails).is_ok();
        if broken { Err(Error::internal("broken")) } else { done(()) }
    });
    let world = driver.world(EngineConfig::default()).await;
    let network = scripted_network(&world, "n").await;
    let sandbox = world.sandbox("c").await;
    let mut endpoints = Vec::new();
    for name in ["first", "second", "third"] {
        endpoints.push(network.create_endpoint(EndpointSpec::new(name)).await.expect("an endpoint"));
    }
    for (endpoint, priority) in endpoints.iter().zip([10, 0]) {
        endpoint.join(&sandbox, JoinSpec::priority(priority)).await.expect("joined");
    }
    // The second one cannot be given the way in, nor at the janitor's first try.
    failures.store(2, Ordering::Relaxed);
    endpoints[0].leave(&sandbox).await.expect("left");
    until("the janitor's first try", async || failures.load(Ordering::Relaxed) == 0).await;
    endpoints[2].join(&sandbox, JoinSpec::priority(5)).await.expect("joined");
    leaks_are_cleared(&world).await;
    let last = log.lock().expect("whole").last().copied();
    assert_eq!(last, Some(Asked::Program(endpoints[2].id())), "only the third one has the way in");
}
