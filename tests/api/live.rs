//! A start that is told which sandboxes live: the others are released, and those are left alone.

use std::time::Instant;

use futures::future::join_all;
use netloom::drivers::done;
use netloom::kernel::{Kernel, Netns, Op};
use netloom::snapshot::SandboxPhase;
use netloom::testkit::{Fault, FaultKind, SimKernel};
use netloom::{
    EndpointSpec, Engine, EngineConfig, ErrorKind, EventKind, JoinSpec, LiveSandbox, ReleasedSandbox, Repair,
    Sandbox, SandboxId, SandboxSpec,
};

use crate::scripted::{Scripted, scripted_network};
use crate::support::{World, bounded, check_truth, note};

/// The same machine with a new engine that is told what lives.
async fn restart(world: World, live: Vec<LiveSandbox>) -> World {
    let World { simulation, before } = world;
    let next = simulation.kill().await.live_sandboxes(live);
    let simulation = bounded("the restart", next.start()).await.expect("it starts");
    World { simulation, before }
}

/// Two networks; a container that lives and one that does not, each on both.
async fn furnish(world: &World) -> (Sandbox, Sandbox) {
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    let mut sandboxes = Vec::new();
    for name in ["lives", "dead"] {
        let (_, sandbox) = world.joined(&blue, name).await;
        let second = red.create_endpoint(EndpointSpec::new(name)).await.expect("made");
        second.join(&sandbox, JoinSpec::default()).await.expect("joined");
        sandboxes.push(sandbox);
    }
    blue.create_endpoint(EndpointSpec::new("idle")).await.expect("made");
    let [lives, dead] = <[Sandbox; 2]>::try_from(sandboxes).expect("two");
    (lives, dead)
}

async fn members(sandbox: &Sandbox) -> Vec<netloom::EndpointId> {
    sandbox.inspect().await.expect("inspected").endpoints.iter().map(|inside| inside.endpoint).collect()
}

fn of(sandbox: &Sandbox) -> Netns {
    Netns::Named(sandbox.netns().expect("a name"))
}

async fn reaches_both_gateways(world: &World, sandbox: SandboxId) -> Result<(), String> {
    let netns = of(&world.engine().controller().sandbox(sandbox).map_err(|error| error.to_string())?);
    for network in world.engine().controller().networks() {
        let gateway = network.inspect().await.map_err(|error| error.to_string())?.v4[0].gateway;
        world.kernel().can_reach(netns, gateway.expect("a gateway"))?;
    }
    Ok(())
}

#[tokio::test]
async fn the_dead_are_released_with_their_endpoints_and_the_living_are_not_touched() {
    for by_id in [false, true] {
        let world = World::new().await;
        let (lives, dead) = furnish(&world).await;
        let (before, gone) = (lives.inspect().await.unwrap(), members(&dead).await);
        let live = if by_id { lives.id().into() } else { LiveSandbox::from("blue-lives") };
        world.kernel().set_log(1_000);
        let world = restart(world, vec![live, "ghost".into()]).await;
        let released =
            ReleasedSandbox { sandbox: dead.id(), container_id: "blue-dead".into(), endpoints: gone };
        let unknown = Repair::LiveSandboxUnknown { sandbox: "ghost".into() };
        let repairs = world.engine().repairs();
        assert_eq!(repairs, [unknown, Repair::DeadSandboxReleased(released)], "{repairs:#?}");
        let controller = world.engine().controller();
        let lives = controller.sandbox(lives.id()).unwrap();
        assert_eq!(lives.inspect().await.unwrap(), before);
        let inside = of(&lives);
        // Its name server is where it was, and its rules are said anew in one transaction.
        let rules = |op: &Op| matches!(op, Op::ChangeTable { table, .. } if table.name == "netloom-names");
        let log = world.kernel().log().into_iter();
        let touched: Vec<_> = log.filter(|(op, _)| op.netns() == inside && !rules(op)).collect();
        assert!(touched.is_empty(), "{touched:?}");
        assert_eq!(controller.sandbox(dead.id()).unwrap_err().kind(), ErrorKind::NotFound);
        let blue = controller.network_by_name("blue").unwrap();
        let names: Vec<_> = blue.endpoints().await.unwrap().iter().map(|e| e.name().to_owned()).collect();
        assert_eq!(names, ["idle", "lives"], "what was in no sandbox waits for one");
        bounded("draining", world.engine().drain()).await.unwrap();
        check_truth(world.engine(), world.kernel()).await.unwrap();
        // Its name and its container's are free.
        world.joined(&blue, "dead").await;
        let world = restart(world, vec!["blue-lives".into(), "blue-dead".into()]).await;
        assert_eq!(world.engine().repairs(), []);
        world.delete_everything().await;
        world.assert_pristine().await;
    }
}

#[tokio::test]
async fn five_thousand_dead_are_released_in_a_moment() {
    const NETWORKS: usize = 5;
    const EACH: usize = 1_000;
    let world = World::new().await;
    for n in 0..NETWORKS {
        let network = world.network(&format!("n{n}")).await;
        let names: Vec<_> = (0..EACH).map(|e| format!("e{e}")).collect();
        join_all(names.iter().map(|name| world.joined(&network, name))).await;
    }
    let began = Instant::now();
    let world = restart(world, Vec::new()).await;
    note(format!("{} dead sandboxes: started in {:?}", NETWORKS * EACH, began.elapsed()));
    let repairs = world.engine().repairs();
    let other = repairs.iter().find(|repair| !matches!(repair, Repair::DeadSandboxReleased(_)));
    assert_eq!((repairs.len(), other), (NETWORKS * EACH, None));
    assert!(world.engine().controller().sandboxes().is_empty());
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// Without its driver nobody can take the links down: they are left as leaks, visibly, and the start goes on.
#[tokio::test]
async fn the_dead_are_released_also_when_their_driver_is_missing() {
    let world = Scripted::new(|_| done(())).world(EngineConfig::default()).await;
    world.joined(&scripted_network(&world, "own").await, "dead").await;
    let (kernel, disk) = (world.kernel().clone(), world.simulation.disk().clone());
    drop(world.simulation.kill().await);
    let next = Engine::simulation().kernel(kernel).disk(disk).live_sandboxes([""; 0]).start();
    let simulation = bounded("the start", next).await.expect("it starts");
    let engine = simulation.engine();
    let released = |repair: &Repair| matches!(repair, Repair::DeadSandboxReleased(_));
    assert!(engine.repairs().iter().any(released), "{:?}", engine.repairs());
    assert!(engine.controller().sandboxes().is_empty());
    let network = engine.controller().network_by_name("own").unwrap();
    assert!(network.endpoints().await.unwrap().is_empty());
    let leaks = engine.inspect().await.unwrap().leaks;
    assert!(leaks.iter().any(|leak| leak.starts_with("link of join")), "{leaks:?}");
}

/// What fails at the release of a sandbox: the first commit of the start is that of an endpoint's deletion.
async fn kept(world: World) -> World {
    world.simulation.disk().fail_commit(1);
    let world = restart(world, vec!["blue-lives".into()]).await;
    let repairs = world.engine().repairs();
    assert!(
        matches!(repairs, [Repair::DeadSandboxKept { container_id, .. }] if container_id == "blue-dead"),
        "{repairs:?}"
    );
    world
}

#[tokio::test]
async fn what_cannot_be_released_is_kept_visibly_and_released_for_its_next_container() {
    let world = World::new().await;
    let (lives, dead) = furnish(&world).await;
    let world = kept(world).await;
    let controller = world.engine().controller();
    let stub = controller.sandbox_by_container("blue-dead").unwrap().inspect().await.unwrap();
    assert_eq!((stub.id, stub.phase), (dead.id(), SandboxPhase::Failed));
    assert!(stub.failure.unwrap().contains("does not live"));
    let taken = controller.create_sandbox(SandboxSpec::new("blue-lives")).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Conflict, "only the dead are replaced");
    let mut events = world.engine().events();
    let fresh =
        controller.create_sandbox(SandboxSpec::new("blue-dead")).await.expect("in place of the dead one");
    assert_ne!(fresh.id(), dead.id());
    assert!(members(&fresh).await.is_empty());
    let again = controller.create_sandbox(SandboxSpec::new("blue-dead")).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict, "it lives now");
    let (mut deleted, mut created) = (false, false);
    while !created {
        match events.next().await.expect("it goes on").expect("none is missed").kind {
            EventKind::SandboxDeleted { sandbox, .. } => deleted |= sandbox == dead.id(),
            EventKind::SandboxCreated { sandbox, .. } => created |= sandbox == fresh.id(),
            _ => {}
        }
    }
    assert!(deleted, "before the new one is told");
    bounded("draining", world.engine().drain()).await.unwrap();
    check_truth(world.engine(), world.kernel()).await.unwrap();
    reaches_both_gateways(&world, lives.id()).await.unwrap();
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn what_can_never_be_released_is_adopted_by_its_next_container() {
    let world = World::new().await;
    let (lives, dead) = furnish(&world).await;
    let world = kept(world).await;
    let controller = world.engine().controller();
    let before = members(&controller.sandbox(dead.id()).unwrap()).await;
    // The next attempt fails as well.
    world.simulation.disk().fail_commit(1);
    let spec = SandboxSpec::new("blue-dead").label("a", "b");
    let adopted = controller.create_sandbox(spec).await.expect("adopted");
    let picture = adopted.inspect().await.unwrap();
    assert_eq!((picture.id, picture.phase, picture.gateway), (dead.id(), SandboxPhase::Ready, None));
    assert_eq!(picture.labels["a"], "b");
    let left = members(&adopted).await;
    assert!(
        !left.is_empty() && left.iter().all(|endpoint| before.contains(endpoint)),
        "{left:?} of {before:?}"
    );
    let deadline = Instant::now() + crate::support::PATIENCE;
    let links = world.kernel().links(of(&adopted), deadline).await.unwrap();
    assert_eq!(links.len(), 1, "nothing of the dead container's but a loopback: {links:?}");
    let again = controller.create_sandbox(SandboxSpec::new("blue-dead")).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
    // It is a sandbox like any other.
    for network in controller.networks() {
        for endpoint in network.endpoints().await.unwrap() {
            if left.contains(&endpoint.id()) {
                endpoint.delete_with_force().await.unwrap();
            }
        }
        let fresh = network.create_endpoint(EndpointSpec::new("fresh")).await.unwrap();
        fresh.join(&adopted, JoinSpec::default()).await.unwrap();
    }
    world.settles().await;
    for sandbox in [lives.id(), adopted.id()] {
        reaches_both_gateways(&world, sandbox).await.unwrap();
    }
    let world = restart(world, vec![dead.id().into(), lives.id().into()]).await;
    assert_eq!(world.engine().repairs(), []);
    check_truth(world.engine(), world.kernel()).await.unwrap();
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn the_record_of_a_network_is_gone_and_the_start_goes_on() {
    let world = World::new().await;
    let (lives, _) = furnish(&world).await;
    let red = world.engine().controller().network_by_name("red").unwrap().id();
    let disk = world.simulation.disk().clone();
    let key = netloom_store::Key::new(netloom_store::RecordKind::Network, red);
    let World { simulation, before } = world;
    let next = simulation.kill().await.live_sandboxes(["blue-lives"]);
    netloom_store::Store::commit(&mut disk.open(), &[netloom_store::Change::Delete { key }])
        .expect("written");
    let simulation = next.start().await.expect("it starts");
    let world = World { simulation, before };
    let repairs = world.engine().repairs();
    let dropped = repairs.iter().filter(|repair| matches!(repair, Repair::RecordDropped { .. })).count();
    assert_eq!(dropped, 2, "both endpoints of that network: {repairs:#?}");
    assert!(repairs.iter().any(|repair| matches!(repair, Repair::DeadSandboxReleased(_))), "{repairs:#?}");
    bounded("draining", world.engine().drain()).await.unwrap();
    check_truth(world.engine(), world.kernel()).await.unwrap();
    reaches_both_gateways(&world, lives.id()).await.unwrap();
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// Whatever fails while the dead are released, the living go on, and the next start ends it.
#[tokio::test]
async fn a_fault_at_any_operation_of_the_release_harms_nobody_who_lives() {
    for kind in [FaultKind::Refuse(16), FaultKind::Lose, FaultKind::LoseBefore] {
        let mut n = 0;
        loop {
            n += 1;
            let world = World::new().await;
            let (lives, _) = furnish(&world).await;
            let kernel: SimKernel = world.kernel().clone();
            let World { simulation, before } = world;
            let next = simulation.kill().await.live_sandboxes(["blue-lives"]);
            kernel.plan(Fault::nth(n, kind));
            let started = bounded("the start", next.clone().start()).await;
            let reached = kernel.pending_faults().is_empty();
            kernel.clear_faults();
            if let Ok(simulation) = started {
                let world = World { simulation, before };
                reaches_both_gateways(&world, lives.id()).await.expect("it lives");
                let world = restart(world, vec!["blue-lives".into()]).await;
                world.settles().await;
                reaches_both_gateways(&world, lives.id()).await.expect("it lives on");
                assert_eq!(world.engine().controller().sandboxes().len(), 1, "{kind:?} at {n}");
                world.delete_everything().await;
                world.assert_pristine_soon().await;
            } else {
                let simulation = bounded("the next start", next.start()).await.expect("it starts");
                let world = World { simulation, before };
                reaches_both_gateways(&world, lives.id()).await.expect("it lives on");
            }
            if !reached {
                break;
            }
        }
        assert!(n > 6, "{kind:?}: only {n} operations");
        note(format!("{kind:?}: {} operations", n - 1));
    }
}

/// Nothing of the dead is left, also what somebody has damaged meanwhile.
#[tokio::test]
async fn the_dead_go_also_when_half_of_what_they_had_is_gone() {
    let world = World::new().await;
    let (lives, dead) = furnish(&world).await;
    world.kernel().vanish_link(of(&dead), "eth0".parse().unwrap()).unwrap();
    let netns = of(&dead);
    world.kernel().foreign_op(&Op::SetLink { netns, name: "eth1".parse().unwrap(), up: false }).unwrap();
    let world = restart(world, vec!["blue-lives".into()]).await;
    let [Repair::DeadSandboxReleased(released)] = world.engine().repairs() else {
        panic!("{:?}", world.engine().repairs());
    };
    assert_eq!(released.endpoints.len(), 2);
    world.settles().await;
    reaches_both_gateways(&world, lives.id()).await.unwrap();
    // One whose namespace is gone as well is told once.
    world.kernel().vanish_netns(lives.netns().unwrap()).unwrap();
    let world = restart(world, Vec::new()).await;
    assert_eq!(world.engine().repairs(), [Repair::SandboxReleased { sandbox: lives.id() }]);
    world.delete_everything().await;
    world.assert_pristine().await;
}
