//! What waits in a queue while something overtakes it: a deletion with force, a shutdown, the death of a service.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::join_all;
use netloom::testkit::{Fault, FaultKind, Latency};
use netloom::{
    Endpoint, EndpointSpec, EngineConfig, ErrorKind, JoinSpec, Network, NetworkSpec, Sandbox, ShutdownMode,
    Victim,
};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::scripted::{Asked, Scripted, scripted_network};
use crate::support::{World, bounded, check_truth, until, within};

const EBUSY: i32 = 16;
/// Nobody who uses force waits for what may take 30 seconds.
const SOON: Duration = Duration::from_secs(10);

/// Tells some of what the driver is asked to do from the rest.
type Meant = fn(Asked) -> bool;

/// Holds what the driver is asked to do, each kind until it is let go.
#[derive(Default)]
struct Holds {
    asked: Mutex<Vec<Asked>>,
    held: Mutex<Vec<(Meant, Arc<Semaphore>)>>,
}

impl Holds {
    /// From now on what is meant is held.
    fn hold(&self, meant: Meant) -> Arc<Semaphore> {
        let go = Arc::new(Semaphore::new(0));
        self.held.lock().expect("no panics").push((meant, go.clone()));
        go
    }

    fn count(&self, meant: Meant) -> usize {
        self.asked.lock().expect("no panics").iter().filter(|asked| meant(**asked)).count()
    }

    fn driver(self: &Arc<Self>) -> Scripted {
        let own = self.clone();
        Scripted::new(move |asked| {
            own.asked.lock().expect("no panics").push(asked);
            let held = own.held.lock().expect("no panics");
            let go = held.iter().find(|(meant, _)| meant(asked)).map(|(_, go)| go.clone());
            Ok(async move {
                if let Some(go) = go {
                    go.acquire().await.expect("never closed").forget();
                }
                Ok(())
            }
            .boxed())
        })
    }
}

/// A network with an endpoint, where the creation of another one is stuck, and behind it the deletion of the network
/// waits.
struct Queue {
    world: World,
    network: Network,
    endpoint: Endpoint,
    sandbox: Sandbox,
    holds: Arc<Holds>,
    creation: Arc<Semaphore>,
    waiting: Vec<JoinHandle<()>>,
}

impl Queue {
    async fn new(config: EngineConfig) -> Self {
        let holds = Arc::new(Holds::default());
        let world = holds.driver().world(config).await;
        let network = scripted_network(&world, "blue").await;
        let endpoint = network.create_endpoint(EndpointSpec::new("a")).await.expect("an endpoint");
        let sandbox = world.sandbox("c1").await;
        let creation = holds.hold(|asked| asked == Asked::CreateEndpoint);
        Self { world, network, endpoint, sandbox, holds, creation, waiting: Vec::new() }
    }

    fn join(&self) -> JoinHandle<bool> {
        let (endpoint, sandbox) = (self.endpoint.clone(), self.sandbox.clone());
        tokio::spawn(async move { endpoint.join(&sandbox, JoinSpec::default()).await.is_ok() })
    }

    /// Fills the queue of the network.
    async fn fill(&mut self) {
        let network = self.network.clone();
        self.waiting.push(tokio::spawn(async move {
            let _ = network.create_endpoint(EndpointSpec::new("b")).await;
        }));
        until("the creation", async || self.holds.count(|asked| asked == Asked::CreateEndpoint) == 2).await;
        let network = self.network.clone();
        self.waiting.push(tokio::spawn(async move {
            let _ = network.delete().await;
        }));
        // Whatever is asked of the network after this answer has come after the deletion.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.network.inspect().await.expect("it answers");
    }

    async fn ends_clean(self) {
        self.creation.add_permits(99);
        for waiting in self.waiting {
            bounded("what waited", waiting).await.expect("it ends");
        }
        self.world.settles().await;
        self.world.delete_everything().await;
        self.world.assert_pristine_soon().await;
    }
}

#[tokio::test]
async fn a_cancelled_commit_in_the_queue_does_not_bring_its_sandbox_back() {
    let mut queue = Queue::new(EngineConfig::default()).await;
    let program = queue.holds.hold(|asked| matches!(asked, Asked::Program(_)));
    let join = queue.join();
    until("the way out", async || queue.holds.count(|asked| matches!(asked, Asked::Program(_))) == 1).await;
    queue.fill().await;
    // The join goes on to its commit, which waits behind the deletion.
    program.add_permits(1);
    until("the commit waits", async || {
        let picture = queue.world.engine().inspect().await.expect("inspected");
        picture.operations.iter().any(|operation| operation.step == "commit")
    })
    .await;
    let began = Instant::now();
    bounded("force", queue.sandbox.delete_with_force()).await.expect("deleted");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert!(!bounded("the join", join).await.expect("it ends"), "it was overtaken");
    queue.ends_clean().await;
}

#[tokio::test]
async fn what_was_taken_back_is_not_done_later() {
    let mut queue = Queue::new(EngineConfig::default()).await;
    let link = queue.holds.hold(|asked| asked == Asked::Join);
    let join = queue.join();
    until("the link", async || queue.holds.count(|asked| asked == Asked::Join) == 1).await;
    queue.fill().await;
    link.add_permits(1);
    until("the programming waits", async || {
        let picture = queue.world.engine().inspect().await.expect("inspected");
        picture.operations.iter().any(|operation| operation.step == "program the new way out")
    })
    .await;
    bounded("force", queue.sandbox.delete_with_force()).await.expect("deleted");
    assert!(!bounded("the join", join).await.expect("it ends"), "it was overtaken");
    let holds = queue.holds.clone();
    queue.ends_clean().await;
    let asked = holds.asked.lock().expect("no panics").clone();
    let last = |meant: fn(&Asked) -> bool| asked.iter().rposition(meant);
    let programmed = last(|asked| matches!(asked, Asked::Program(_)));
    assert!(
        programmed < last(|asked| matches!(asked, Asked::Revoke(_))) || programmed.is_none(),
        "{asked:?}"
    );
}

#[tokio::test]
async fn force_on_an_endpoint_waits_for_no_other_one() {
    let mut queue = Queue::new(within(Duration::from_secs(60))).await;
    queue.fill().await;
    let began = Instant::now();
    bounded("force", queue.endpoint.delete_with_force()).await.expect("deleted");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    queue.ends_clean().await;
}

#[tokio::test]
async fn an_immediate_shutdown_does_not_begin_what_waits() {
    const JOINS: usize = 60;
    let world = World::new().await;
    let network = world.network("blue").await;
    let sandbox = world.sandbox("c1").await;
    let mut endpoints = Vec::new();
    for n in 0..JOINS {
        endpoints.push(network.create_endpoint(EndpointSpec::new(format!("e{n}"))).await.expect("made"));
    }
    world.kernel().set_latency(Latency::all(Duration::from_millis(100)));
    let joins: Vec<_> = endpoints
        .into_iter()
        .map(|endpoint| {
            let sandbox = sandbox.clone();
            tokio::spawn(async move { endpoint.join(&sandbox, JoinSpec::default()).await })
        })
        .collect();
    until("the first one", async || {
        let picture = world.engine().inspect().await.expect("inspected");
        picture.operations.iter().any(|operation| operation.verb == "join_sandbox")
    })
    .await;
    bounded("the shutdown", world.engine().shutdown(ShutdownMode::Immediate)).await.expect("stopped");
    let outcomes: Vec<_> = bounded("the joins", join_all(joins)).await;
    let joined = outcomes.iter().filter(|outcome| outcome.as_ref().expect("it ends").is_ok()).count();
    assert!(joined <= 2, "{joined} were begun and carried out");
    for error in outcomes.into_iter().filter_map(|outcome| outcome.expect("it ends").err()) {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    }
}

/// Endpoints are deleted while IPAM is started again: it is filled from records of before, and told of the deletions
/// when it is back.
#[tokio::test]
async fn addresses_given_back_while_ipam_is_away_are_free() {
    const OTHERS: usize = 100;
    const ENDPOINTS: usize = 120;
    const ROOM: usize = 253;
    for round in 0..4 {
        let world = World::new().await;
        let controller = world.engine().controller();
        let blue = NetworkSpec::new("blue").subnet("10.99.0.0/24".parse().expect("a subnet"));
        let blue = controller.create_network(blue).await.expect("a network");
        // Each is told to the new IPAM by itself, which takes a while.
        for n in 0..OTHERS {
            let spec = NetworkSpec::new(format!("n{n}"));
            let spec = spec.subnet(format!("10.98.{n}.0/24").parse().expect("a subnet"));
            controller.create_network(spec).await.expect("a network");
        }
        let made = (0..ENDPOINTS).map(async |n| {
            blue.create_endpoint(EndpointSpec::new(format!("e{n}"))).await.expect("an endpoint")
        });
        let endpoints = join_all(made).await;
        let crash = async {
            until("some deletions", async || {
                blue.inspect().await.expect("inspected").endpoints.len() < ENDPOINTS - 10 * round
            })
            .await;
            world.simulation.crash_actor(Victim::Ipam).await.expect("told");
        };
        let deletions = async {
            for endpoint in &endpoints {
                // Refused while IPAM is away? Then again.
                until("a deletion", async || endpoint.delete().await.is_ok()).await;
            }
        };
        tokio::join!(deletions, crash);
        world.settles().await;
        for n in 0..ROOM {
            let next = blue.create_endpoint(EndpointSpec::new(format!("f{n}"))).await;
            next.unwrap_or_else(|error| panic!("round {round}, endpoint {n}: {error}"));
        }
        check_truth(world.engine(), world.kernel()).await.expect("the truth");
    }
}

/// A fault at each operation of the kernel while several callers are at one network, and its deletion waits.
#[tokio::test]
async fn a_fault_at_any_operation_with_a_queue_behind_it_ends_clean() {
    for kind in [FaultKind::Refuse(EBUSY), FaultKind::Lose, FaultKind::LoseBefore] {
        let mut n = 0;
        loop {
            n += 1;
            assert!(n < 100, "it does not end");
            let world = World::new().await;
            let network = world.network("blue").await;
            let (standing, first) = world.joined(&network, "standing").await;
            let coming = network.create_endpoint(EndpointSpec::new("coming")).await.expect("an endpoint");
            let second = world.sandbox("c2").await;
            world.kernel().set_latency(Latency::all(Duration::from_micros(200)));
            world.kernel().plan(Fault::nth(n, kind));
            let all = async {
                let outcomes = futures::join!(
                    coming.join(&second, JoinSpec::default()),
                    standing.leave(&first),
                    network.create_endpoint(EndpointSpec::new("third")),
                    network.delete(),
                    second.delete_with_force(),
                );
                outcomes.3.is_err()
            };
            assert!(bounded("all of them", all).await, "the network has endpoints");
            let reached = world.kernel().pending_faults().is_empty();
            world.kernel().clear_faults();
            world.settles().await;
            check_truth(world.engine(), world.kernel())
                .await
                .unwrap_or_else(|why| panic!("{kind:?} {n}: {why}"));
            world.delete_everything().await;
            world.assert_pristine_soon().await;
            if !reached {
                break;
            }
        }
        assert!(n > 5, "{kind:?}: {n}");
    }
}
