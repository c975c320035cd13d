//! Many callers at once: exactly one wins what only one can have, and nothing is ever half done.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use netloom::testkit::{Fault, FaultKind, Latency};
use netloom::{
    EndpointSpec, ErrorKind, JoinSpec, Limits, NetworkSpec, Result, SandboxSpec, snapshot::EndpointPhase,
};

use crate::support::{World, bounded, check_truth, until};

const CALLERS: usize = 64;

/// Asserts that one of many succeeded and all others were refused in the same way, and returns the one.
#[track_caller]
fn one_winner<T>(outcomes: Vec<Result<T>>, refusal: ErrorKind) -> T {
    let callers = outcomes.len();
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, callers - 1));
    for error in lost.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), refusal, "{error:?}");
        assert_eq!(error.certainty(), netloom::Certainty::Aborted, "{error:?}");
    }
    won.into_iter().next().and_then(Result::ok).expect("one won")
}

/// Runs the same request of many callers, each in a task of its own.
async fn all_at_once<T, F>(callers: usize, request: impl Fn(usize) -> F) -> Vec<Result<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let tasks: Vec<_> = (0..callers).map(|n| tokio::spawn(request(n))).collect();
    let done = bounded("the callers", join_all(tasks)).await;
    done.into_iter().map(|outcome| outcome.expect("no caller panics")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_64_callers_gets_a_network_name() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let outcomes = all_at_once(CALLERS, |_| {
        let controller = controller.clone();
        async move { controller.create_network(NetworkSpec::new("blue")).await }
    });
    let network = one_winner(outcomes.await, ErrorKind::Conflict);
    assert_eq!(controller.networks().len(), 1);
    network.delete().await.unwrap();
    controller.create_network(NetworkSpec::new("blue")).await.expect("the name is free again");
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_64_callers_gets_the_sandbox_of_a_container() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let outcomes = all_at_once(CALLERS, |_| {
        let controller = controller.clone();
        async move { controller.create_sandbox(SandboxSpec::new("c1")).await }
    });
    let sandbox = one_winner(outcomes.await, ErrorKind::Conflict);
    assert_eq!(controller.sandbox_by_container("c1").unwrap().id(), sandbox.id());
    assert_eq!(controller.sandboxes().len(), 1);
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// Ten thousand joins at once: as many as the engine admits are carried out, the others are told at once that it is
/// busy, and nobody waits in vain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_joins_at_once_are_carried_out_or_refused() {
    const JOINS: usize = 10_000;
    const SANDBOXES: usize = 100;
    const NETWORKS: usize = 10;
    let world = World::new().await;
    let limit = world.engine().config().limits.operations;
    assert!(limit < JOINS, "there is something to refuse");
    let networks = join_all((0..NETWORKS).map(async |n| world.network(&format!("n{n}")).await)).await;
    let sandboxes = join_all((0..SANDBOXES).map(async |n| world.sandbox(&format!("c{n}")).await)).await;
    let mut endpoints = Vec::new();
    for n in 0..JOINS {
        let made = networks[n % NETWORKS].create_endpoint(EndpointSpec::new(format!("e{n}"))).await;
        endpoints.push(made.expect("an endpoint"));
    }
    world.kernel().set_latency(Latency::all(Duration::from_millis(1)));
    let join = |n: usize| {
        let (endpoint, sandbox) = (endpoints[n].clone(), sandboxes[n % SANDBOXES].clone());
        async move { endpoint.join(&sandbox, JoinSpec::default()).await }
    };
    let outcomes = all_at_once(JOINS, join).await;
    let refused: Vec<_> = (0..JOINS).filter(|n| outcomes[*n].is_err()).collect();
    assert!(refused.len() >= JOINS - 2 * limit, "{} are refused", refused.len());
    assert!(!refused.is_empty(), "ten thousand at once are more than {limit}");
    for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
        assert_eq!(error.certainty(), netloom::Certainty::Aborted, "{error:?}");
    }
    world.kernel().set_latency(Latency::default());
    for batch in refused.chunks(limit / 2) {
        let again = all_at_once(batch.len(), |at| join(batch[at])).await;
        assert!(again.iter().all(Result::is_ok), "who was refused finds room later");
    }
    check_truth(world.engine(), world.kernel()).await.expect("the truth");
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_64_callers_gets_an_endpoint_name() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let outcomes = all_at_once(CALLERS, |_| {
        let network = network.clone();
        async move { network.create_endpoint(EndpointSpec::new("web")).await }
    });
    let endpoint = one_winner(outcomes.await, ErrorKind::Conflict);
    assert_eq!(network.endpoint_by_name("web").await.unwrap().id(), endpoint.id());
    // Those who lost hold no address: the second endpoint gets the second one.
    let second = network.create_endpoint(EndpointSpec::new("two")).await.unwrap();
    let address = second.inspect().await.unwrap().ipv4.unwrap().addr();
    assert_eq!(address.octets()[3], 3, "{address}");
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_64_callers_gets_a_given_address() {
    let world = World::new().await;
    let spec = NetworkSpec::new("blue").subnet("10.9.0.0/24".parse().unwrap());
    let network = world.engine().controller().create_network(spec).await.unwrap();
    let outcomes = all_at_once(CALLERS, |n| {
        let network = network.clone();
        let spec = EndpointSpec::new(format!("e{n}")).address("10.9.0.7".parse().unwrap());
        async move { network.create_endpoint(spec).await }
    });
    one_winner(outcomes.await, ErrorKind::Forbidden);
    assert_eq!(network.endpoints().await.unwrap().len(), 1);
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_joins_one_of_two_sandboxes() {
    let world = World::new().await;
    let network = world.network("blue").await;
    for round in 0..20 {
        let endpoint = network.create_endpoint(EndpointSpec::new(format!("e{round}"))).await.unwrap();
        let sandboxes = [world.sandbox("left").await, world.sandbox("right").await];
        let outcomes = all_at_once(CALLERS, |n| {
            let (endpoint, sandbox) = (endpoint.clone(), sandboxes[n % 2].clone());
            async move { endpoint.join(&sandbox, JoinSpec::default()).await.map(|_| sandbox) }
        });
        let winner = one_winner(outcomes.await, ErrorKind::Forbidden);
        let seen = endpoint.inspect().await.unwrap();
        assert_eq!((seen.phase, seen.sandbox), (EndpointPhase::Joined, Some(winner.id())));
        let mut inside = 0;
        for sandbox in &sandboxes {
            inside += sandbox.inspect().await.unwrap().endpoints.len();
        }
        assert_eq!(inside, 1);
        check_truth(world.engine(), world.kernel()).await.unwrap();
        for sandbox in sandboxes {
            sandbox.delete().await.unwrap();
        }
        endpoint.delete().await.unwrap();
    }
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// 1,000 endpoints on 20 networks, each created, joined to a sandbox of its own, unplugged, deleted, by 64
/// callers at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_endpoints_come_and_go_on_twenty_networks() {
    const ENDPOINTS: usize = 1_000;
    let world = World::new().await;
    let mut networks = Vec::new();
    for n in 0..20 {
        networks.push(world.network(&format!("n{n}")).await);
    }
    let (controller, networks) = (world.engine().controller(), Arc::new(networks));
    let outcomes = all_at_once(CALLERS, |caller| {
        let (controller, networks) = (controller.clone(), networks.clone());
        async move {
            for n in (caller..ENDPOINTS).step_by(CALLERS) {
                let network = &networks[n % networks.len()];
                let endpoint = network.create_endpoint(EndpointSpec::new(format!("e{n}"))).await?;
                let sandbox = controller.create_sandbox(SandboxSpec::new(format!("c{n}"))).await?;
                let place = endpoint.join(&sandbox, JoinSpec::default()).await?;
                assert_eq!(place.ifname.as_str(), "eth0");
                // Every other one leaves by the deletion of its sandbox.
                if n % 2 == 0 {
                    endpoint.leave(&sandbox).await?;
                }
                sandbox.delete().await?;
                endpoint.delete().await?;
            }
            Ok(())
        }
    });
    for outcome in outcomes.await {
        outcome.expect("no error at all");
    }
    for network in networks.iter() {
        assert!(network.endpoints().await.unwrap().is_empty());
        network.delete().await.expect("empty");
    }
    world.assert_pristine().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_is_deleted_or_gets_an_endpoint_never_both() {
    let (mut deleted, mut created) = (0, 0);
    let world = World::new().await;
    for round in 0..60 {
        let network = world.network("blue").await;
        // Every third creation comes while the deletion is under way; the others race with it, starting a
        // little later from round to round.
        let (one, two) = (network.clone(), network.clone());
        let delete = async move { one.delete().await };
        let under_way = round % 3 == 0;
        if under_way {
            world.kernel().plan(Fault::verb("delete_link", 1, FaultKind::Hang));
        }
        let create = async {
            if under_way {
                until("the deletion", async || world.kernel().hanging() > 0).await;
            }
            for _ in 0..round * 20 {
                tokio::task::yield_now().await;
            }
            let create = two.create_endpoint(EndpointSpec::new("web"));
            let release = async { world.kernel().release() };
            tokio::join!(create, release).0
        };
        let (gone, made) = tokio::join!(delete, create);
        world.kernel().clear_faults();
        match (gone, made) {
            (Ok(()), Err(error)) => {
                assert!(
                    matches!(
                        error.kind(),
                        ErrorKind::NotFound | ErrorKind::Forbidden | ErrorKind::Unavailable
                    ),
                    "{error:?}"
                );
                assert!(world.engine().controller().networks().is_empty());
                deleted += 1;
            }
            (Err(error), Ok(endpoint)) => {
                assert_eq!(error.kind(), ErrorKind::Forbidden, "{error:?}");
                assert_eq!(network.endpoints().await.unwrap().len(), 1);
                endpoint.delete().await.unwrap();
                network.delete().await.unwrap();
                created += 1;
            }
            (gone, made) => panic!("deleted: {gone:?}, created: {made:?}"),
        }
        world.assert_pristine().await;
    }
    assert!(deleted > 0 && created > 0, "both orders happen: {deleted} deleted, {created} created");
}

/// Join, leave and the deletions of endpoint and sandbox race; whatever comes out, all agree about it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_leave_and_delete_race_and_all_agree_afterwards() {
    let world = World::new().await;
    let network = world.network("blue").await;
    for round in 0..100 {
        let endpoint = network.create_endpoint(EndpointSpec::new("web")).await.unwrap();
        let sandbox = world.sandbox("c1").await;
        let outcomes = all_at_once(5, |n| {
            let (endpoint, sandbox) = (endpoint.clone(), sandbox.clone());
            async move {
                match (n + round) % 5 {
                    0 => endpoint.join(&sandbox, JoinSpec::default()).await.map(|_| ()),
                    1 => endpoint.leave(&sandbox).await,
                    2 => endpoint.delete().await,
                    3 => sandbox.delete().await,
                    _ => endpoint.delete_with_force().await,
                }
            }
        });
        for error in outcomes.await.into_iter().filter_map(Result::err) {
            let expected =
                matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Forbidden | ErrorKind::Unavailable);
            assert!(expected, "{error:?}");
        }
        check_truth(world.engine(), world.kernel()).await.unwrap();
        for sandbox in world.engine().controller().sandboxes() {
            sandbox.delete().await.unwrap();
        }
        for endpoint in network.endpoints().await.unwrap() {
            endpoint.delete().await.unwrap();
        }
        world.engine().drain().await.unwrap();
        let picture = world.engine().inspect().await.unwrap();
        assert!(picture.leaks.is_empty(), "{:?}", picture.leaks);
    }
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiny_limits_answer_busy_and_lose_nothing() {
    let config = netloom::EngineConfig {
        limits: Limits { operations: 1, operations_per_object: 1, ..Limits::default() },
        ..netloom::EngineConfig::default()
    };
    let world = World::with(config).await;
    let controller = world.engine().controller();
    world.kernel().set_latency(Latency::all(Duration::from_millis(2)));
    let outcomes = all_at_once(CALLERS, |n| {
        let controller = controller.clone();
        async move { controller.create_sandbox(SandboxSpec::new(format!("c{n}"))).await }
    });
    let (made, refused): (Vec<_>, Vec<_>) = outcomes.await.into_iter().partition(Result::is_ok);
    assert!(!made.is_empty() && !refused.is_empty());
    for error in refused.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
    }
    assert_eq!(controller.sandboxes().len(), made.len(), "who was told yes has one, nobody else");
    // One endpoint runs and one operation may wait on it: the third caller is refused.
    world.kernel().set_latency(Latency::default());
    let network = world.network("blue").await;
    let outcomes = all_at_once(CALLERS, |n| {
        let network = network.clone();
        async move { network.create_endpoint(EndpointSpec::new(format!("e{n}"))).await }
    });
    let made = outcomes.await.into_iter().filter_map(Result::ok).count();
    assert_eq!(network.endpoints().await.unwrap().len(), made);
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// What is stuck on one object leaves room for others, and whoever makes room gets in also when there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stuck_network_leaves_room_and_force_always_finds_some() {
    const PER_OBJECT: usize = 4;
    let config = netloom::EngineConfig {
        limits: Limits { operations: 6, operations_per_object: PER_OBJECT, ..Limits::default() },
        ..netloom::EngineConfig::default()
    };
    let world = World::with(config).await;
    let (stuck, free) = (world.network("stuck").await, world.network("free").await);
    let mut pairs = Vec::new();
    for n in 0..=PER_OBJECT {
        let endpoint = stuck.create_endpoint(EndpointSpec::new(format!("e{n}"))).await.unwrap();
        pairs.push((endpoint, world.sandbox(&format!("c{n}")).await));
    }
    let (joined, inside) = world.joined(&free, "joined").await;
    world.kernel().plan(Fault::verb("create_veth", 1, FaultKind::Hang).always());
    let (last, last_sandbox) = pairs.pop().expect("one more than has room");
    let joins = pairs.into_iter().map(|(endpoint, sandbox)| {
        tokio::spawn(async move { endpoint.join(&sandbox, JoinSpec::default()).await })
    });
    let joins: Vec<_> = joins.collect();
    until("the joins", async || world.kernel().hanging() == PER_OBJECT).await;

    let refused = last.join(&last_sandbox, JoinSpec::default()).await.expect_err("its network is full");
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused:?}");
    assert!(refused.to_string().contains("stuck"), "{refused}");
    joined.leave(&inside).await.expect("another network is not");

    world.kernel().plan(Fault::verb("create_netns", 1, FaultKind::Hang).always());
    let controller = world.engine().controller();
    let sandboxes = (0..2).map(|n| {
        let controller = controller.clone();
        tokio::spawn(async move { controller.create_sandbox(SandboxSpec::new(format!("more{n}"))).await })
    });
    let sandboxes: Vec<_> = sandboxes.collect();
    until("the sandboxes", async || world.kernel().hanging() == PER_OBJECT + 2).await;
    let refused = inside.delete().await.expect_err("the engine is full");
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused:?}");
    inside.delete_with_force().await.expect("force is let in");
    last.delete_with_force().await.expect("also on the network that is full");

    world.kernel().clear_faults();
    world.kernel().release();
    for outcome in join_all(joins).await {
        outcome.unwrap().expect("it went on");
    }
    for outcome in join_all(sandboxes).await {
        outcome.unwrap().expect("it went on");
    }
    world.delete_everything().await;
    world.assert_pristine().await;
}
