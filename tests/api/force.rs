//! Force overtakes what is stuck: it answers soon, and what could not be done becomes a leak that goes away.

use std::time::{Duration, Instant};

use netloom::testkit::{Fault, FaultKind};
use netloom::{Endpoint, EndpointSpec, ErrorKind, JoinSpec, Sandbox};

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
