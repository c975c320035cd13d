//! Actors die; their callers are told, their objects come back, and nobody else notices.

use std::time::Duration;

use futures::future::join_all;
use netloom::snapshot::NetworkPhase;
use netloom::testkit::{Fault, FaultKind, Latency};
use netloom::{
    EndpointSpec, Error, ErrorKind, EventKind, JoinSpec, NetworkSpec, Reason, SandboxSpec, Victim,
};

use crate::support::{World, bounded, until, within};

impl World {
    async fn crash(&self, victim: &Victim) {
        bounded("crashing", self.simulation.crash_actor(victim.clone())).await.expect("told");
    }

    /// Crashes an actor and waits until it was started again.
    async fn crash_and_wait(&self, victim: &Victim) {
        let mut events = self.engine().events();
        self.crash(victim).await;
        let restarted = async {
            loop {
                match events.next().await.expect("the engine runs").expect("nothing missed").kind {
                    EventKind::ActorRestarted { .. } => return,
                    EventKind::ObjectFailed { cause, .. } => panic!("out of service: {cause}"),
                    _ => {}
                }
            }
        };
        bounded("the restart", restarted).await;
    }

    /// One whole life on a network.
    async fn lives(&self, network: &netloom::Network, name: &str) -> netloom::Result<()> {
        let controller = self.engine().controller();
        let endpoint = network.create_endpoint(EndpointSpec::new(name)).await?;
        let sandbox =
            controller.create_sandbox(SandboxSpec::new(format!("{}-{name}", network.name()))).await?;
        endpoint.join(&sandbox, JoinSpec::default()).await?;
        endpoint.leave(&sandbox).await?;
        endpoint.delete().await?;
        sandbox.delete().await
    }
}

/// Every kind of actor, with one network that is concerned and one that is not.
async fn victims(world: &World) -> (netloom::Network, netloom::Network, Vec<Victim>) {
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    let (_, sandbox) = world.joined(&blue, "web").await;
    world.joined(&red, "web").await;
    let victims = vec![
        Victim::Network(blue.id()),
        Victim::Sandbox(sandbox.id()),
        Victim::Driver("bridge".into()),
        Victim::Ipam,
        Victim::Store,
        Victim::Controller,
    ];
    (blue, red, victims)
}

#[tokio::test]
async fn an_actor_that_dies_idle_comes_back_with_its_object() {
    let world = World::new().await;
    let (blue, red, victims) = victims(&world).await;
    let before = world.engine().inspect().await.unwrap();
    for victim in &victims {
        world.crash_and_wait(victim).await;
        world.settles().await;
        let after = world.engine().inspect().await.unwrap();
        assert_eq!((after.networks, after.sandboxes), (before.networks.clone(), before.sandboxes.clone()));
        bounded("the concerned", world.lives(&blue, "next")).await.expect("it works again");
        bounded("the others", world.lives(&red, "next")).await.expect("they never stopped");
    }
    // What was joined before all that can still leave.
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// An answer, or one of the errors that a death or a fault may cause.
#[track_caller]
fn typed(outcome: Result<(), Error>, deaths: &mut usize) {
    let Err(error) = outcome else { return };
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound), "{error:?}");
    *deaths += 1;
}

/// Crashes an actor while 50 lives are under way, half of them on the network that is concerned.
async fn dies_busy(choose: impl Fn(&[Victim]) -> Victim) {
    let world = World::new().await;
    let (blue, red, victims) = victims(&world).await;
    let victim = choose(&victims);
    world.kernel().set_latency(Latency::all(Duration::from_millis(1)));
    let mut deaths = 0;
    for round in 0..3 {
        let lives = join_all((0..50).map(|n| {
            let (world, network) = (&world, if n % 2 == 0 { &blue } else { &red });
            async move {
                let name = format!("r{round}e{n}");
                (n, bounded("a life", world.lives(network, &name)).await)
            }
        }));
        let crash = async {
            // Somewhere in the middle: a different place each round.
            let place = world.kernel().ops_count() + 20 + 60 * round;
            until("the lives", async || world.kernel().ops_count() > place).await;
            world.crash(&victim).await;
        };
        let (outcomes, ()) = tokio::join!(lives, crash);
        for (n, outcome) in outcomes {
            if n % 2 == 1 && matches!(victim, Victim::Network(_) | Victim::Sandbox(_)) {
                outcome.expect("the other network never noticed");
            } else {
                typed(outcome, &mut deaths);
            }
        }
        world.settles().await;
        // What the dead left half-way can be cleaned up through the public interface.
        for network in [&blue, &red] {
            bounded("the next", world.lives(network, "next")).await.expect("it works again");
            for endpoint in network.endpoints().await.expect("listed") {
                if endpoint.name() != "web" {
                    endpoint.delete_with_force().await.expect("deleted");
                }
            }
        }
        for sandbox in world.engine().controller().sandboxes() {
            if !sandbox.container_id().ends_with("-web") {
                sandbox.delete().await.expect("deleted");
            }
        }
        // Two endpoints never have one address.
        let picture = world.engine().inspect().await.expect("inspected");
        for network in &picture.networks {
            assert_eq!(network.endpoints.len(), 1, "{network:?}");
        }
    }
    world.kernel().set_latency(Latency::default());
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}

#[tokio::test]
async fn a_network_that_dies_busy_comes_back() {
    dies_busy(|victims| victims[0].clone()).await;
}

#[tokio::test]
async fn a_sandbox_that_dies_busy_comes_back() {
    dies_busy(|victims| victims[1].clone()).await;
}

#[tokio::test]
async fn a_driver_that_dies_busy_comes_back() {
    dies_busy(|victims| victims[2].clone()).await;
}

#[tokio::test]
async fn ipam_that_dies_busy_comes_back() {
    dies_busy(|victims| victims[3].clone()).await;
}

#[tokio::test]
async fn a_store_that_dies_busy_comes_back() {
    dies_busy(|victims| victims[4].clone()).await;
}

#[tokio::test]
async fn a_controller_that_dies_busy_comes_back() {
    dies_busy(|victims| victims[5].clone()).await;
}

/// Networks and sandboxes that are being created or deleted when their driver, IPAM or the store dies.
#[tokio::test]
async fn creations_and_deletions_survive_the_death_of_what_they_need() {
    for victim in [Victim::Driver("bridge".into()), Victim::Ipam, Victim::Store, Victim::Controller] {
        let world = World::new().await;
        world.kernel().set_latency(Latency::all(Duration::from_millis(1)));
        let mut deaths = 0;
        for round in 0..3 {
            let controller = world.engine().controller();
            let lives = join_all((0..30).map(|n| {
                let controller = controller.clone();
                async move {
                    let network =
                        controller.create_network(NetworkSpec::new(format!("r{round}n{n}"))).await?;
                    let sandbox =
                        controller.create_sandbox(SandboxSpec::new(format!("r{round}c{n}"))).await?;
                    network.create_endpoint(EndpointSpec::new("e")).await?.delete().await?;
                    sandbox.delete().await?;
                    network.delete().await
                }
            }));
            let crash = async {
                let place = world.kernel().ops_count() + 10 + 30 * round;
                until("the lives", async || world.kernel().ops_count() > place).await;
                world.crash(&victim).await;
            };
            let (outcomes, ()) = bounded("the lives", async { tokio::join!(lives, crash) }).await;
            outcomes.into_iter().for_each(|outcome| typed(outcome, &mut deaths));
            world.settles().await;
            world.delete_everything().await;
        }
        world.kernel().set_latency(Latency::default());
        world.assert_pristine_soon().await;
    }
}

/// A network whose creation is under way when its actor dies: it exists or it does not, for everybody.
#[tokio::test]
async fn a_network_whose_actor_dies_while_it_is_created_exists_wholly_or_not_at_all() {
    let (mut exist, mut gone) = (0, 0);
    for wait in 0..12 {
        let world = World::new().await;
        world.kernel().set_latency(Latency::all(Duration::from_millis(2)));
        let id: netloom::NetworkId = "c".repeat(64).parse().unwrap();
        let mut events = world.engine().events();
        let controller = world.engine().controller();
        let create = controller.create_network(NetworkSpec::new("blue").id(id));
        let crash = async {
            let begun = world.kernel().ops_count();
            until("the creation", async || {
                let running = !world.engine().operations().is_empty();
                let over = controller.network(id).is_ok();
                over || running && world.kernel().ops_count() >= begun + wait / 4
            })
            .await;
            world.crash(&Victim::Network(id)).await;
        };
        let (outcome, ()) = bounded("the creation", async { tokio::join!(create, crash) }).await;
        if let Err(error) = &outcome {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        }
        world.settles().await;
        let recorded = !world.simulation.disk().records().is_empty();
        until("the restart", async || world.engine().controller().networks().len() == usize::from(recorded))
            .await;
        if recorded {
            exist += 1;
        } else {
            gone += 1;
        }
        // Whichever it is, the name can be used: for this one, or for the next.
        match controller.network_by_name("blue") {
            Ok(network) => world.lives(&network, "web").await.expect("it works"),
            Err(_) => drop(world.network("blue").await),
        }
        world.delete_everything().await;
        world.assert_pristine_soon().await;
        // Whoever listens knows of every network that was there, and of its end.
        world.network("last").await;
        let (mut created, mut deleted) = (Vec::new(), Vec::new());
        while let Some(Ok(event)) = bounded("events", events.next()).await {
            match event.kind {
                EventKind::NetworkCreated { name, .. } if name == "last" => break,
                EventKind::NetworkCreated { network, .. } => created.push(network),
                EventKind::NetworkDeleted { network, .. } => deleted.push(network),
                _ => {}
            }
        }
        assert_eq!(created, deleted);
        assert_eq!(created, if recorded { vec![id] } else { created.clone() });
        assert_eq!(created.len(), 1, "one that existed, or the next one of its name");
    }
    assert!(exist + gone == 12 && exist > 0, "{exist} exist, {gone} do not");
}

/// The kernel takes its time with a link, the driver dies meanwhile and forgets it: it goes all the same.
#[tokio::test]
async fn a_link_that_could_not_be_removed_goes_although_its_driver_died() {
    let world = World::with(within(Duration::from_millis(200))).await;
    let network = world.network("blue").await;
    let (endpoint, sandbox) = world.joined(&network, "web").await;
    world.kernel().plan(Fault::verb("cut_link", 1, FaultKind::Hang));
    drop(endpoint.leave(&sandbox).await);
    until("the leak", async || !world.engine().inspect().await.unwrap().leaks.is_empty()).await;
    world.crash_and_wait(&Victim::Driver("bridge".into())).await;
    world.kernel().release();
    world.settles().await;
    // Its interface went with its link, so the endpoint can come back under a new name.
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("it joins again");
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// The same for the device of a network.
#[tokio::test]
async fn a_network_that_could_not_be_removed_goes_although_its_driver_died() {
    let world = World::new().await;
    let network = world.network("blue").await;
    world.kernel().plan(Fault::verb("delete_link", 1, FaultKind::Refuse(16)).always());
    network.delete().await.expect("its record is gone, and so is the way back");
    assert!(!world.engine().inspect().await.unwrap().leaks.is_empty(), "and it is told");
    world.crash_and_wait(&Victim::Driver("bridge".into())).await;
    world.kernel().clear_faults();
    world.assert_pristine_soon().await;
}

#[tokio::test]
async fn the_fourth_death_in_a_minute_puts_only_that_network_out_of_service() {
    let world = World::new().await;
    let (blue, red, victims) = victims(&world).await;
    let mut events = world.engine().events();
    for _ in 0..3 {
        world.crash_and_wait(&victims[0]).await;
    }
    bounded("the third life", world.lives(&blue, "third")).await.expect("three are within the budget");
    world.crash(&victims[0]).await;
    let failed = async {
        loop {
            let event = events.next().await.expect("the engine runs").expect("nothing missed");
            if let EventKind::ObjectFailed { id, cause, .. } = event.kind {
                assert_eq!(id, blue.id().to_string());
                return cause;
            }
        }
    };
    let cause = bounded("the end", failed).await;
    assert!(cause.contains("too often"), "{cause}");
    until("the phase", async || {
        blue.inspect().await.is_ok_and(|snapshot| snapshot.phase == NetworkPhase::Failed)
    })
    .await;
    let snapshot = blue.inspect().await.unwrap();
    assert!(snapshot.failure.is_some_and(|why| why.contains("too often")));
    assert_eq!(snapshot.endpoints.len(), 1, "what is there is still shown");
    let error = blue.create_endpoint(EndpointSpec::new("next")).await.expect_err("it is out of service");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(matches!(error.reason(), Reason::OutOfService { .. }), "{error:?}");
    world.lives(&red, "next").await.expect("the other one is in service");
    // It can be taken down all the same.
    let sandbox = world.engine().controller().sandbox_by_container("blue-web").unwrap();
    bounded("the sandbox", sandbox.delete()).await.expect("its endpoint leaves");
    let web = blue.endpoint_by_name("web").await.unwrap();
    bounded("the endpoint", web.delete()).await.expect("deleted");
    bounded("the network", blue.delete()).await.expect("deleted");
    world.network("blue").await;
    world.delete_everything().await;
    world.assert_pristine().await;
}
