//! The engine inside other people's programs: any runtime or none, callers that go away, shutdown.

use std::time::Duration;

use futures::future::join_all;
use netloom::testkit::{Fault, FaultKind, Latency};
use netloom::{EndpointSpec, Engine, ErrorKind, JoinSpec, NetworkSpec, SandboxSpec, ShutdownMode};

use crate::faults::everything_once;
use crate::support::{World, bounded, check_truth, until};

#[test]
fn it_runs_inside_a_current_thread_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let world = World::new().await;
        everything_once(world.engine().controller()).await.expect("no error");
        world.assert_pristine().await;
    });
}

#[test]
fn it_runs_inside_a_multi_thread_runtime() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async {
        let world = World::new().await;
        let controller = world.engine().controller();
        let task = tokio::spawn(everything_once(controller));
        bounded("the task", task).await.unwrap().expect("no error");
        world.assert_pristine().await;
    });
}

#[test]
fn it_runs_without_any_runtime() {
    let simulation = futures::executor::block_on(Engine::simulated()).unwrap();
    let controller = simulation.engine().controller();
    futures::executor::block_on(everything_once(controller.clone())).expect("no error");
    // Many plain threads, each with an executor of its own.
    let network = futures::executor::block_on(controller.create_network(NetworkSpec::new("blue"))).unwrap();
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let network = network.clone();
            std::thread::spawn(move || {
                futures::executor::block_on(network.create_endpoint(EndpointSpec::new(format!("e{n}"))))
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap().expect("an endpoint");
    }
    futures::executor::block_on(async {
        assert_eq!(network.endpoints().await.unwrap().len(), 8);
        simulation.engine().shutdown(ShutdownMode::Graceful).await.expect("stopped");
    });
}

#[tokio::test]
async fn two_engines_live_in_one_process() {
    let (one, two) = (World::new().await, World::new().await);
    let both = async {
        tokio::join!(everything_once(one.engine().controller()), everything_once(two.engine().controller()))
    };
    let (first, second) = bounded("both", both).await;
    first.expect("no error");
    second.expect("no error");
    one.network("blue").await;
    assert!(two.engine().controller().networks().is_empty());
    one.delete_everything().await;
    one.assert_pristine().await;
    two.assert_pristine().await;
}

/// A caller that drops its future at any moment: what it asked for is carried out or was never begun, and
/// everything stays consistent.
#[tokio::test]
async fn a_caller_that_goes_away_leaves_everything_consistent() {
    for patience in 0..40 {
        let world = World::new().await;
        world.kernel().set_latency(Latency::all(Duration::from_millis(1)));
        let scenario = everything_once(world.engine().controller());
        drop(tokio::time::timeout(Duration::from_millis(patience), scenario).await);
        world.settles().await;
        world.delete_everything().await;
        world.assert_pristine().await;
    }
}

#[tokio::test]
async fn a_request_that_was_dropped_after_it_was_sent_is_carried_out() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let request = controller.create_network(NetworkSpec::new("blue"));
    // Polled once: it is on its way, if it is not answered already.
    drop(futures::FutureExt::now_or_never(request));
    until("the network", async || controller.network_by_name("blue").is_ok()).await;
    world.delete_everything().await;
    world.assert_pristine().await;
}

// === Shutdown ===

/// A world where 20 sandboxes are being made, each until it is released.
async fn busy() -> (World, Vec<tokio::task::JoinHandle<netloom::Result<netloom::Sandbox>>>) {
    let world = World::new().await;
    world.kernel().plan(Fault::verb("create_netns", 1, FaultKind::Hang).always());
    let controller = world.engine().controller();
    let tasks = (0..20).map(|n| {
        let controller = controller.clone();
        tokio::spawn(async move { controller.create_sandbox(SandboxSpec::new(format!("c{n}"))).await })
    });
    let tasks = tasks.collect();
    until("the operations", async || world.kernel().hanging() == 20).await;
    (world, tasks)
}

/// Shuts an engine down, and lets what hangs go on once it refuses new requests.
async fn shut_down(world: &World, mode: ShutdownMode) {
    let release = async {
        let controller = world.engine().controller();
        let refused = async || {
            controller.create_network(NetworkSpec::new("")).await.is_err_and(|error| is_stopping(&error))
        };
        until("the refusal", refused).await;
        assert_eq!(world.engine().operations().len(), 20, "it waits for them");
        // Answered behind the shutdown, so the controller has told the operations to stop, if it does.
        world.engine().store_stats().await.expect("counters are told to the end");
        world.kernel().clear_faults();
        world.kernel().release();
    };
    let (stopped, ()) =
        bounded("the shutdown", async { tokio::join!(world.engine().shutdown(mode), release) }).await;
    stopped.expect("stopped");
}

fn is_stopping(error: &netloom::Error) -> bool {
    matches!(error.reason(), netloom::Reason::ShuttingDown)
}

async fn refuses_everything(world: &World) {
    let controller = world.engine().controller();
    let refused = controller.create_network(NetworkSpec::new("late")).await.expect_err("stopping");
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused:?}");
    let refused = controller.create_sandbox(SandboxSpec::new("late")).await.expect_err("stopping");
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused:?}");
    for sandbox in controller.sandboxes() {
        let refused = sandbox.delete().await.expect_err("stopping");
        assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused:?}");
    }
    for network in controller.networks() {
        let refused = network.create_endpoint(EndpointSpec::new("late")).await.expect_err("stopping");
        assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused:?}");
    }
}

#[tokio::test]
async fn a_graceful_shutdown_carries_out_what_is_in_flight() {
    let (world, tasks) = busy().await;
    shut_down(&world, ShutdownMode::Graceful).await;
    for outcome in bounded("the callers", join_all(tasks)).await {
        outcome.unwrap().expect("it was carried out");
    }
    refuses_everything(&world).await;
    let world = world.kill_and_restart().await;
    assert_eq!(world.engine().repairs(), []);
    assert_eq!(world.engine().controller().sandboxes().len(), 20, "they stay, for the next engine");
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// Asked for a moment before: some are in a mailbox, some behind others, some under way.
#[tokio::test]
async fn a_graceful_shutdown_carries_out_what_it_finds_inside() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let controller = world.engine().controller();
    let asked = (0..200).map(|n| (network.clone(), controller.clone(), n)).map(|(network, controller, n)| {
        let endpoint =
            async move { network.create_endpoint(EndpointSpec::new(format!("e{n}"))).await.map(drop) };
        let sandbox =
            async move { controller.create_sandbox(SandboxSpec::new(format!("c{n}"))).await.map(drop) };
        async move { tokio::try_join!(endpoint, sandbox).map(drop) }
    });
    let mut asked = Box::pin(join_all(asked));
    assert!(futures::poll!(&mut asked).is_pending(), "on their way");
    let both = async { tokio::join!(world.engine().shutdown(ShutdownMode::Graceful), asked) };
    let (stopped, outcomes) = bounded("the shutdown", both).await;
    stopped.expect("stopped");
    for outcome in outcomes {
        outcome.expect("it was let in, so it is carried out");
    }
    let world = world.kill_and_restart().await;
    assert_eq!(world.engine().repairs(), []);
    assert_eq!(world.engine().controller().sandboxes().len(), 200);
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn an_immediate_shutdown_unwinds_what_is_in_flight() {
    let (world, tasks) = busy().await;
    shut_down(&world, ShutdownMode::Immediate).await;
    for outcome in bounded("the callers", join_all(tasks)).await {
        let error = outcome.unwrap().expect_err("it was unwound");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert_eq!(error.certainty(), netloom::Certainty::Aborted, "{error:?}");
    }
    assert!(world.engine().operations().is_empty());
    assert_eq!(world.kernel().leftovers(&world.before), Vec::<String>::new(), "all unwound");
    refuses_everything(&world).await;
    let world = world.kill_and_restart().await;
    assert_eq!(world.engine().repairs(), [], "there was nothing left to repair");
    world.assert_pristine().await;
}

/// Reads what is left of a stream; it ends although handles on the engine live.
async fn rest(mut events: netloom::EventStream) -> usize {
    let mut count = 0;
    while let Some(event) = bounded("the end of the events", events.next()).await {
        event.expect("nothing is missed");
        count += 1;
    }
    assert!(events.next().await.is_none(), "it stays ended");
    count
}

#[tokio::test]
async fn events_end_with_a_shutdown_behind_what_happened() {
    let world = World::new().await;
    let events = world.engine().events();
    let waiting = tokio::spawn(rest(world.engine().events()));
    let network = world.network("blue").await;
    bounded("the shutdown", world.engine().shutdown(ShutdownMode::Graceful)).await.expect("stopped");
    assert_eq!(rest(events).await, 1);
    assert_eq!(bounded("the one that waited", waiting).await.unwrap(), 1);
    assert_eq!(rest(world.engine().events()).await, 0, "taken too late");
    drop(network);
}

#[tokio::test]
async fn events_end_when_the_engine_is_killed() {
    let world = World::new().await;
    let (engine, events) = (world.engine().clone(), world.engine().events());
    let waiting = tokio::spawn(rest(engine.events()));
    let world = world.kill_and_restart().await;
    assert_eq!(rest(events).await, 0);
    assert_eq!(bounded("the one that waited", waiting).await.unwrap(), 0);
    assert_eq!(rest(engine.events()).await, 0, "taken too late");
    world.assert_pristine().await;
}

#[tokio::test]
async fn an_engine_that_shuts_down_serves_no_network_any_more() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let (endpoint, sandbox) = world.joined(&network, "web").await;
    bounded("the shutdown", world.engine().shutdown(ShutdownMode::Graceful)).await.expect("stopped");
    refuses_everything(&world).await;
    for refused in [
        endpoint.leave(&sandbox).await.expect_err("stopping"),
        endpoint.join(&sandbox, JoinSpec::default()).await.expect_err("stopping"),
        endpoint.delete_with_force().await.expect_err("stopping"),
        network.delete().await.expect_err("stopping"),
    ] {
        assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused:?}");
    }
    let again = bounded("the second shutdown", world.engine().shutdown(ShutdownMode::Immediate)).await;
    if let Err(error) = again {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    }
    let world = world.kill_and_restart().await;
    check_truth(world.engine(), world.kernel()).await.unwrap();
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn handles_of_a_dead_engine_say_so() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let (endpoint, sandbox) = world.joined(&network, "web").await;
    let (engine, mut events) = (world.engine().clone(), world.engine().events());
    let world = world.kill_and_restart().await;
    let errors = [
        endpoint.inspect().await.expect_err("dead"),
        endpoint.join(&sandbox, JoinSpec::default()).await.expect_err("dead"),
        endpoint.delete().await.expect_err("dead"),
        sandbox.inspect().await.expect_err("dead"),
        sandbox.delete().await.expect_err("dead"),
        network.inspect().await.expect_err("dead"),
        network.create_endpoint(EndpointSpec::new("late")).await.expect_err("dead"),
        network.delete().await.expect_err("dead"),
        engine.controller().create_network(NetworkSpec::new("late")).await.expect_err("dead"),
        engine.inspect().await.expect_err("dead"),
        engine.drain().await.expect_err("dead"),
        engine.shutdown(ShutdownMode::Graceful).await.expect_err("dead"),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    }
    drop((endpoint, sandbox, network, engine));
    let end = async {
        while let Some(event) = events.next().await {
            drop(event);
        }
    };
    bounded("the end of the events", end).await;
    world.delete_everything().await;
    world.assert_pristine().await;
}

// === Hangs ===

/// The kernel never answers one operation of one network; everybody else is served as fast as ever.
#[tokio::test]
async fn a_network_that_hangs_delays_no_other() {
    let world = World::new().await;
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    let stuck = blue.create_endpoint(EndpointSpec::new("stuck")).await.unwrap();
    let sandbox = world.sandbox("stuck").await;
    world.kernel().plan(Fault::verb("create_veth", 1, FaultKind::Hang));
    let join = tokio::spawn({
        let (stuck, sandbox) = (stuck.clone(), sandbox.clone());
        async move { stuck.join(&sandbox, JoinSpec::default()).await }
    });
    until("the hang", async || world.kernel().hanging() == 1).await;
    for n in 0..20 {
        world.joined(&red, &format!("e{n}")).await;
        // Nor does it delay other endpoints of its own network.
        world.joined(&blue, &format!("e{n}")).await;
    }
    world.network("green").await.delete().await.expect("nor the controller");
    assert!(!join.is_finished(), "it hangs still");
    let running = world.engine().operations();
    assert!(running.iter().any(|operation| operation.verb == "attach_endpoint"), "{running:?}");
    world.kernel().release();
    bounded("the join", join).await.unwrap().expect("it was only late");
    check_truth(world.engine(), world.kernel()).await.unwrap();
    world.delete_everything().await;
    world.assert_pristine().await;
}
