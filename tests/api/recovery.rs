//! What cannot be restored goes out of service, and what runs on it goes on running.

use std::sync::Arc;

use netloom::drivers::done;
use netloom::kernel::Netns;
use netloom::snapshot::{EndpointPhase, NetworkPhase};
use netloom::testkit::{Fault, FaultKind};
use netloom::{Endpoint, EndpointSpec, EngineConfig, ErrorKind, EventKind, Network, Reason, Sandbox, Victim};
use tokio::sync::Semaphore;

use crate::scripted::{Asked, Scripted, scripted_network};
use crate::support::{World, bounded, until};

const EBUSY: i32 = 16;

/// Two containers on one network.
struct Pair {
    network: Network,
    ends: [(Endpoint, Sandbox); 2],
}

impl Pair {
    async fn new(world: &World) -> Self {
        let network = world.network("blue").await;
        let ends = [world.joined(&network, "web").await, world.joined(&network, "db").await];
        Self { network, ends }
    }

    /// Checks that the network is out of service, with everything it had, and that traffic still flows.
    async fn assert_cut_off_by_nobody(&self, world: &World, links: usize) {
        let network = world.engine().controller().network(self.network.id()).expect("it is listed");
        until("out of service", async || {
            network.inspect().await.expect("it answers").phase == NetworkPhase::Failed
        })
        .await;
        let picture = network.inspect().await.expect("it answers");
        assert!(picture.failure.is_some(), "it says why");
        assert_eq!((picture.name.as_str(), picture.v4.len()), ("blue", 1));
        let phases: Vec<_> = picture.endpoints.iter().map(|endpoint| endpoint.phase).collect();
        assert_eq!(phases, [EndpointPhase::Joined; 2]);
        let refused = bounded("deleting", network.delete()).await.expect_err("refused");
        assert!(matches!(refused.reason(), Reason::ActiveEndpoints { .. }), "{refused:?}");

        assert_eq!(host_links(world), links, "the bridge and the veths are there");
        let gateway = picture.v4[0].gateway.expect("a gateway");
        for (endpoint, sandbox) in &self.ends {
            let sandbox = world.engine().controller().sandbox(sandbox.id()).expect("the sandbox");
            let from = Netns::Named(sandbox.netns().expect("a namespace"));
            let others = picture.endpoints.iter().filter(|other| other.id != endpoint.id());
            let others = others.map(|other| other.ipv4.expect("an address").addr());
            for to in others.map(Into::into).chain([gateway]) {
                world.kernel().can_reach(from, to).expect("traffic still flows");
            }
        }
    }
}

/// How many links the engine has in the host's namespace.
fn host_links(world: &World) -> usize {
    let left = world.kernel().leftovers(&world.before);
    left.iter().filter(|line| line.contains("link")).count()
}

#[tokio::test]
async fn a_refused_restore_at_a_start_cuts_no_container_off() {
    for verb in ["add_address", "set_link"] {
        let world = World::new().await;
        let pair = Pair::new(&world).await;
        let links = host_links(&world);
        assert!(links >= 3, "a bridge and two veths: {:?}", world.kernel().leftovers(&world.before));
        world.kernel().plan(Fault::verb(verb, 1, FaultKind::Refuse(EBUSY)));
        let world = world.kill_and_restart().await;
        assert_eq!(world.kernel().pending_faults(), [], "{verb}: it happened");
        pair.assert_cut_off_by_nobody(&world, links).await;
        // The next start finds it as it was.
        let world = world.kill_and_restart().await;
        world.settles().await;
        world.delete_everything().await;
        world.assert_pristine_soon().await;
    }
}

/// What is out of service can be deleted, and takes what is in the kernel with it.
#[tokio::test]
async fn what_could_not_be_restored_can_be_deleted() {
    let world = World::new().await;
    Pair::new(&world).await;
    world.kernel().plan(Fault::verb("set_link", 1, FaultKind::Refuse(EBUSY)));
    let world = world.kill_and_restart().await;
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}

#[tokio::test]
async fn a_refused_restore_after_a_driver_died_cuts_no_container_off() {
    let world = World::new().await;
    let pair = Pair::new(&world).await;
    let links = host_links(&world);
    world.kernel().plan(Fault::verb("set_link", 1, FaultKind::Refuse(EBUSY)));
    bounded("crashing", world.simulation.crash_actor(Victim::Driver("bridge".into()))).await.expect("told");
    pair.assert_cut_off_by_nobody(&world, links).await;
}

/// Lets the deletions of endpoints in a driver begin, and ends them only when it may.
struct Gate {
    entered: Semaphore,
    open: Semaphore,
}

/// A network dies between the commit of an endpoint's deletion and its end: the address is free all the same.
#[tokio::test]
async fn a_deletion_gives_the_address_back_although_its_network_died() {
    let gate = Arc::new(Gate { entered: Semaphore::new(0), open: Semaphore::new(0) });
    let own = gate.clone();
    let driver = Scripted::new(move |asked| match asked {
        Asked::DeleteEndpoint(_) => {
            let gate = own.clone();
            Ok(Box::pin(async move {
                gate.entered.add_permits(1);
                gate.open.acquire().await.expect("never closed").forget();
                Ok(())
            }))
        }
        _ => done(()),
    });
    let world = driver.world(EngineConfig::default()).await;
    let network = scripted_network(&world, "blue").await;
    let endpoint = network.create_endpoint(EndpointSpec::new("web")).await.expect("it answers");
    let address = endpoint.inspect().await.expect("it answers").ipv4.expect("an address").addr();
    let (id, mut events) = (endpoint.id(), world.engine().events());

    let deletion = tokio::spawn(async move { endpoint.delete().await });
    let entered = bounded("the deletion", gate.entered.acquire()).await.expect("it answers");
    entered.forget();
    bounded("crashing", world.simulation.crash_actor(Victim::Network(network.id()))).await.expect("told");
    gate.open.add_permits(1);
    let told = bounded("the deletion", deletion).await.expect("it answers");
    assert_eq!(told.expect_err("refused").kind(), ErrorKind::Unavailable, "its network died under it");
    until("the network is back", async || network.inspect().await.is_ok()).await;

    let mut again = EndpointSpec::new("web");
    again.ipv4 = Some(address);
    let again = bounded("creating", network.create_endpoint(again)).await.expect("the address is free");
    // The deletion is told although the actor that would have told it had died.
    let mut told = Vec::new();
    loop {
        match bounded("events", events.next()).await.expect("the engine runs").expect("nothing missed").kind {
            EventKind::EndpointDeleted { endpoint, .. } => told.push(endpoint),
            EventKind::EndpointCreated { endpoint, .. } if endpoint == again.id() => break,
            _ => {}
        }
    }
    assert_eq!(told, [id]);
    gate.open.add_permits(9);
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}
