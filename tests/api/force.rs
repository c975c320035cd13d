//! Force overtakes what is stuck: it answers soon, and what could not be done becomes a leak that goes away.

use std::time::{Duration, Instant};

use netloom::testkit::{Fault, FaultKind};
use netloom::{Endpoint, EndpointSpec, ErrorKind, JoinSpec, Sandbox, SandboxSpec};

use crate::support::{World, bounded, until};

/// An operation may take 30 seconds; who uses force does not wait for that.
const SOON: Duration = Duration::from_secs(10);

/// An endpoint and a sandbox whose join, or then whose leave, hangs at its n-th kernel operation; `None` past
/// the last one.
async fn stuck(n: u64, leaving: bool) -> Option<(World, Endpoint, Sandbox)> {
    let world = World::new().await;
    let network = world.network("blue").await;
    let endpoint = network.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    let sandbox = world.sandbox("c1").await;
    if leaving {
        endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    }
    world.kernel().plan(Fault::nth(n, FaultKind::Hang));
    let work = tokio::spawn({
        let (endpoint, sandbox) = (endpoint.clone(), sandbox.clone());
        async move {
            if leaving {
                endpoint.leave(&sandbox).await
            } else {
                endpoint.join(&sandbox, JoinSpec::default()).await.map(drop)
            }
        }
    });
    until("the fault or the end", async || world.kernel().hanging() > 0 || work.is_finished()).await;
    (world.kernel().hanging() > 0).then_some((world, endpoint, sandbox))
}

async fn ends_clean(world: World) {
    world.kernel().release();
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}

#[tokio::test]
async fn an_endpoint_is_deleted_with_force_whatever_of_it_is_stuck() {
    for leaving in [false, true] {
        let mut n = 0;
        loop {
            n += 1;
            let Some((world, endpoint, sandbox)) = stuck(n, leaving).await else { break };
            let began = Instant::now();
            bounded("the deletion", endpoint.delete_with_force()).await.expect("deleted");
            assert!(began.elapsed() < SOON, "operation {n}: {:?}", began.elapsed());
            let gone = endpoint.inspect().await.expect_err("it is gone");
            assert_eq!(gone.kind(), ErrorKind::NotFound);
            bounded("the sandbox", sandbox.delete_with_force()).await.expect("deleted");
            assert!(began.elapsed() < SOON, "operation {n}: {:?}", began.elapsed());
            ends_clean(world).await;
        }
        assert!(n > 2, "{n}");
    }
}

#[tokio::test]
async fn a_sandbox_is_deleted_with_force_whatever_of_it_is_stuck() {
    for leaving in [false, true] {
        let mut n = 0;
        loop {
            n += 1;
            let Some((world, endpoint, sandbox)) = stuck(n, leaving).await else { break };
            let began = Instant::now();
            bounded("the deletion", sandbox.delete_with_force()).await.expect("deleted");
            assert!(began.elapsed() < SOON, "operation {n}: {:?}", began.elapsed());
            assert_eq!(sandbox.inspect().await.expect_err("gone").kind(), ErrorKind::NotFound);
            bounded("the endpoint", endpoint.delete_with_force()).await.expect("deleted");
            ends_clean(world).await;
        }
        assert!(n > 2, "{n}");
    }
}

/// The endpoint is well; another one of the same sandbox is stuck.
#[tokio::test]
async fn a_neighbour_that_is_stuck_does_not_hold_a_forced_deletion_up() {
    let world = World::new().await;
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    let (endpoint, sandbox) = world.joined(&blue, "web").await;
    let neighbour = red.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    world.kernel().plan(Fault::verb("create_veth", 1, FaultKind::Hang));
    let join = tokio::spawn({
        let (neighbour, sandbox) = (neighbour.clone(), sandbox.clone());
        async move { neighbour.join(&sandbox, JoinSpec::default()).await }
    });
    until("the fault", async || world.kernel().hanging() > 0).await;
    let began = Instant::now();
    bounded("the deletion", endpoint.delete_with_force()).await.expect("deleted");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    world.kernel().release();
    bounded("the join", join).await.expect("it ends").expect("it was only slow");
    world.settles().await;
    assert_eq!(sandbox.inspect().await.expect("inspected").endpoints.len(), 1, "it was told");
    ends_clean(world).await;
}

/// Its network is done with the endpoint, and its sandbox still clears up behind it.
#[tokio::test]
async fn force_ends_what_a_leave_still_clears_up() {
    let world = World::new().await;
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    let (endpoint, sandbox) = world.joined(&blue, "web").await;
    let other = red.create_endpoint(EndpointSpec::new("other")).await.expect("an endpoint");
    world.kernel().plan(Fault::verb("delete_address", 1, FaultKind::Hang));
    let leave = tokio::spawn({
        let (endpoint, sandbox) = (endpoint.clone(), sandbox.clone());
        async move { endpoint.leave(&sandbox).await }
    });
    until("the fault", async || world.kernel().hanging() > 0).await;
    let began = Instant::now();
    bounded("the deletion", endpoint.delete_with_force()).await.expect("deleted");
    bounded("the leave", leave).await.expect("it ends").expect("left");
    let next = bounded("the next leave", other.leave(&sandbox)).await.expect_err("it is not in there");
    assert_eq!(next.kind(), ErrorKind::Forbidden, "{next:?}");
    // Half of the time that clearing up is given when nobody has overtaken it.
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    ends_clean(world).await;
}

/// A network deleted by force takes its endpoints along wherever they are: idle, plugged in, waiting for a namespace, or
/// hanging in the kernel. Their sandboxes stand, and know it.
#[tokio::test]
async fn a_network_deleted_by_force_takes_all_its_endpoints_along() {
    let world = World::new().await;
    world.kernel().external_netns("/proc/4711/ns/net").unwrap();
    let controller = world.engine().controller();
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    blue.create_endpoint(EndpointSpec::new("idle")).await.unwrap();
    let (_, sandbox) = world.joined(&blue, "in").await;
    let other = red.create_endpoint(EndpointSpec::new("other")).await.unwrap();
    other.join(&sandbox, JoinSpec::default()).await.unwrap();
    let waits = controller.create_sandbox(SandboxSpec::new("waits").external_key()).await.unwrap();
    for network in [&blue, &red] {
        let endpoint = network.create_endpoint(EndpointSpec::new("waits")).await.unwrap();
        endpoint.join(&waits, JoinSpec::default()).await.unwrap();
    }
    let hangs = blue.create_endpoint(EndpointSpec::new("hangs")).await.unwrap();
    let stuck = world.sandbox("stuck").await;
    world.kernel().plan(Fault::verb("create_veth", 1, FaultKind::Hang));
    let joining = tokio::spawn({
        let (hangs, stuck) = (hangs.clone(), stuck.clone());
        async move { hangs.join(&stuck, JoinSpec::default()).await }
    });
    until("it hangs", async || world.kernel().hanging() > 0).await;
    let asked = Instant::now();
    bounded("the deletion", blue.delete_with_force()).await.expect("deleted");
    assert!(asked.elapsed() < SOON, "it waited for what hangs: {:?}", asked.elapsed());
    bounded("the join", joining).await.unwrap().expect_err("its endpoint is gone");
    world.kernel().release();
    world.settles().await;
    assert_eq!(blue.inspect().await.unwrap_err().kind(), ErrorKind::NotFound);
    let left = async |sandbox: &Sandbox| {
        sandbox.inspect().await.unwrap().endpoints.iter().map(|inside| inside.network).collect::<Vec<_>>()
    };
    assert_eq!(left(&sandbox).await, [red.id()]);
    assert!(sandbox.inspect().await.unwrap().gateway.is_some(), "the other one leads out now");
    assert_eq!((left(&waits).await, left(&stuck).await), (vec![red.id()], vec![]));
    waits.set_key(netloom::SandboxKey::Path("/proc/4711/ns/net".into())).await.unwrap();
    world.settles().await;
    let world = world.kill_and_restart().await;
    world.settles().await;
    world.delete_everything().await;
    bounded("draining", world.engine().drain()).await.unwrap();
    world.kernel().drop_external("/proc/4711/ns/net").unwrap();
    world.assert_pristine().await;
}
