//! The way out of a sandbox with several networks: right whatever fails on the way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use netloom::drivers::{Begun, done};
use netloom::kernel::{Netns, Op, Route};
use netloom::testkit::{Fault, FaultKind};
use netloom::{Endpoint, EndpointId, EndpointSpec, EngineConfig, Error, JoinSpec, Sandbox};

use crate::scripted::{Asked, Scripted, scripted_network};
use crate::support::{World, bounded, check_truth, until};

const EBUSY: i32 = 16;

/// A sandbox with an endpoint on each of two networks; the second one is its way out.
struct Two {
    world: World,
    sandbox: Sandbox,
    first: Endpoint,
    second: Endpoint,
}

/// Beats the priority of everybody else.
const HIGH: i32 = 10;

impl Two {
    async fn new() -> Self {
        let world = World::new().await;
        let sandbox = world.sandbox("c1").await;
        let mut ends = Vec::new();
        for (name, priority) in [("first", 0), ("second", HIGH)] {
            let network = world.network(name).await;
            let endpoint = network.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
            endpoint.join(&sandbox, JoinSpec::priority(priority)).await.expect("joined");
            ends.push(endpoint);
        }
        let [first, second] = <[_; 2]>::try_from(ends).unwrap_or_else(|_| panic!("two"));
        Self { world, sandbox, first, second }
    }

    async fn truth(&self) {
        self.world.settles().await;
        check_truth(self.world.engine(), self.world.kernel()).await.expect("the truth");
    }

    async fn ends_clean(self) {
        self.truth().await;
        self.world.delete_everything().await;
        self.world.assert_pristine_soon().await;
    }
}

#[tokio::test]
async fn the_way_out_goes_to_the_next_in_line() {
    let two = Two::new().await;
    two.truth().await;
    let by = |endpoint: &Endpoint| endpoint.network_id();
    let gateway = async |two: &Two| two.sandbox.inspect().await.expect("inspected").gateway;
    let of = async |two: &Two, network| {
        let network = two.world.engine().controller().network(network).expect("a network");
        network.inspect().await.expect("inspected").v4[0].gateway
    };
    assert_eq!(gateway(&two).await, of(&two, by(&two.second)).await);
    two.second.leave(&two.sandbox).await.expect("left");
    assert_eq!(gateway(&two).await, of(&two, by(&two.first)).await);
    two.ends_clean().await;
}

/// Each operation of a join that would win the way out fails once: the loser keeps it.
#[tokio::test]
async fn a_failed_join_leaves_the_way_out_where_it_was() {
    for n in 1..20 {
        let two = Two::new().await;
        two.second.leave(&two.sandbox).await.expect("left");
        two.truth().await;
        let before = two.sandbox.inspect().await.expect("inspected").gateway;
        two.world.kernel().set_log(64);
        two.world.kernel().plan(Fault::nth(n, FaultKind::Refuse(EBUSY)));
        let outcome = bounded("the join", two.second.join(&two.sandbox, JoinSpec::priority(HIGH))).await;
        if !two.world.kernel().pending_faults().is_empty() {
            assert!(outcome.is_ok() && n > 4, "past the last operation, which was {}", n - 1);
            two.world.kernel().clear_faults();
            return two.ends_clean().await;
        }
        let log = two.world.kernel().log();
        let refused = log.iter().find_map(|(op, answer)| answer.is_err().then(|| op.verb()));
        if matches!(refused, Some("sysctl" | "announce")) {
            outcome.expect("it joins also where neighbours cannot be told");
        } else {
            outcome.expect_err("refused");
            assert_eq!(two.sandbox.inspect().await.expect("inspected").gateway, before, "operation {n}");
        }
        two.ends_clean().await;
    }
    panic!("a join has fewer operations");
}

/// A container may do with its routes what it likes.
#[tokio::test]
async fn a_default_route_that_the_container_dropped_blocks_nobody() {
    let two = Two::new().await;
    two.second.leave(&two.sandbox).await.expect("left");
    let netns = Netns::Named(two.sandbox.netns().expect("a namespace"));
    let via = two.sandbox.inspect().await.expect("inspected").gateway;
    let link = two.first.inspect().await.expect("inspected").ifname.expect("a name");
    let route = Route { destination: "0.0.0.0/0".parse().expect("a net"), via, link };
    two.world.kernel().foreign_op(&Op::DeleteRoute { netns, route }).expect("it had one");
    two.second.join(&two.sandbox, JoinSpec::priority(HIGH)).await.expect("joined");
    two.ends_clean().await;
}

/// A deletion that fails half-way: whoever could not leave stays, with a way out.
#[tokio::test]
async fn a_deletion_that_fails_half_way_leaves_the_sandbox_in_order() {
    for nth in 1..=3 {
        let two = Two::new().await;
        // One commit for each endpoint that leaves, then one for the sandbox.
        two.world.simulation.disk().fail_commit(nth);
        two.sandbox.delete().await.expect_err("a commit failed");
        two.truth().await;
        let left = two.sandbox.inspect().await.expect("it is still there").endpoints.len();
        assert_eq!(left, usize::from(nth < 3), "commit {nth}");
        two.first.delete_with_force().await.expect("deleted");
        two.truth().await;
        two.sandbox.delete().await.expect("deleted");
        two.ends_clean().await;
    }
}

// === What drivers are told ===

/// What a driver has been told about the way out, and whether it refuses the next one.
#[derive(Clone, Default)]
struct Outward {
    refuses: Arc<AtomicBool>,
    told: Arc<Mutex<Vec<(EndpointId, bool)>>>,
}

impl Outward {
    fn now(&self) -> Option<EndpointId> {
        let told = self.told.lock().expect("nobody panics with it");
        told.last().filter(|(_, outward)| *outward).map(|(endpoint, _)| *endpoint)
    }

    fn asked(&self, asked: Asked) -> Begun<()> {
        match asked {
            Asked::Program(_) if self.refuses.swap(false, Ordering::Relaxed) => {
                return Err(Error::invalid("port", 80, "it is taken"));
            }
            Asked::Program(endpoint) => self.told.lock().expect("nobody panics").push((endpoint, true)),
            Asked::Revoke(endpoint) => self.told.lock().expect("nobody panics").push((endpoint, false)),
            _ => {}
        }
        done(())
    }
}

/// The way in from outside follows the way out; a newcomer that cannot have it does not join, and whoever
/// had it gets it back.
#[tokio::test]
async fn the_way_in_from_outside_follows_the_way_out() {
    let driver = Outward::default();
    let own = driver.clone();
    let world = Scripted::new(move |asked| own.asked(asked)).world(EngineConfig::default()).await;
    let network = scripted_network(&world, "blue").await;
    let sandbox = world.sandbox("c1").await;
    // The route is refused without a link, so these bring no interface and no route.
    let low = network.create_endpoint(EndpointSpec::new("low")).await.expect("an endpoint");
    let high = network.create_endpoint(EndpointSpec::new("high")).await.expect("an endpoint");
    low.join(&sandbox, JoinSpec::default()).await.expect("joined");
    assert_eq!(driver.now(), Some(low.id()));

    driver.refuses.store(true, Ordering::Relaxed);
    high.join(&sandbox, JoinSpec::priority(HIGH)).await.expect_err("its port is taken");
    assert_eq!(driver.now(), Some(low.id()), "it was given back: {:?}", driver.told);
    assert_eq!(sandbox.inspect().await.expect("inspected").endpoints.len(), 1);

    high.join(&sandbox, JoinSpec::priority(HIGH)).await.expect("joined");
    assert_eq!(driver.now(), Some(high.id()));

    // A driver that dies, and an engine that dies, are told again.
    driver.told.lock().expect("nobody panics with it").clear();
    world.simulation.crash_actor(netloom::Victim::Driver(Scripted::KIND.into())).await.expect("told");
    until("the driver is told again", async || driver.now() == Some(high.id())).await;
    driver.told.lock().expect("nobody panics with it").clear();
    let world = world.kill_and_restart().await;
    assert_eq!(driver.now(), Some(high.id()));
    let controller = world.engine().controller();
    let sandbox = controller.sandbox(sandbox.id()).expect("the sandbox");
    let network = controller.network(network.id()).expect("the network");
    let low = network.endpoint(low.id()).await.expect("an endpoint");
    let high = network.endpoint(high.id()).await.expect("an endpoint");

    // The next in line is refused once: it is tried again until it has it.
    driver.refuses.store(true, Ordering::Relaxed);
    high.leave(&sandbox).await.expect("left");
    until("the janitor", async || driver.now() == Some(low.id())).await;
    // Nothing is programmed for an endpoint that has left meanwhile.
    low.leave(&sandbox).await.expect("left");
    assert_eq!(driver.now(), None);
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}
