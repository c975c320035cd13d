//! The engine dies and another one takes over: what it lists is true, and everything can be deleted.

use std::sync::Arc;
use std::time::Duration;

use netloom::kernel::{LinkKind, LinkTag, Netns, Op};
use netloom::testkit::{Fault, FaultKind, SimKernel};
use netloom::{EndpointSpec, Engine, EngineConfig, ErrorKind, JoinSpec, Repair};

use crate::faults::everything_once;
use crate::mortal::{Death, Disk, Mortal};
use crate::support::{World, bounded, check_lists, check_truth, delete_everything, note, until};

/// Checks the engine that took over, and that nothing is left after everything was deleted.
async fn taken_over(world: &World) -> Result<(), String> {
    bounded("draining", world.engine().drain()).await.map_err(|error| error.to_string())?;
    check_truth(world.engine(), world.kernel()).await?;
    delete_everything(world.engine()).await.map_err(|error| format!("{error:?}"))?;
    bounded("draining", world.engine().drain()).await.map_err(|error| error.to_string())?;
    let left = world.leftovers().await;
    if left.is_empty() { Ok(()) } else { Err(format!("left over: {}", left.join("; "))) }
}

/// Killed while the n-th kernel operation hangs, for every n.
#[tokio::test]
async fn killed_at_every_kernel_operation_the_next_engine_lists_the_truth() {
    let (mut wrong, mut repaired, mut unheard) = (Vec::new(), 0, 0);
    let mut n = 0;
    loop {
        n += 1;
        let world = World::new().await;
        world.kernel().plan(Fault::nth(n, FaultKind::Hang));
        let scenario = tokio::spawn(everything_once(world.engine().controller()));
        until("the fault or the end", async || world.kernel().hanging() > 0 || scenario.is_finished()).await;
        if world.kernel().hanging() == 0 {
            assert_eq!(world.kernel().pending_faults().len(), 1, "it went to its end");
            break;
        }
        let world = world.kill_and_restart().await;
        // The scenario's engine is dead: it was told so. A dead process has nothing under way.
        let told = bounded("the scenario", scenario).await.unwrap();
        if let Err((_, error)) = told {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        } else {
            // What hung had no caller any more: the removal of a link that was cut off already.
            unheard += 1;
        }
        repaired += usize::from(!world.engine().repairs().is_empty());
        if let Err(why) = taken_over(&world).await {
            wrong.push(format!("killed at operation {n}: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {n}:\n  {}", wrong.len(), wrong.join("\n  "));
    assert!(n > 20 && repaired > 10, "{repaired} of {n} starts had something to repair");
    assert!(unheard <= 3, "{unheard} callers were not told");
    note(format!("{n} kernel operations; {repaired} starts repaired something"));
}

/// Killed right before and right after each effect on kernel and store: nothing the old engine does takes
/// effect from that moment on.
#[tokio::test]
async fn killed_at_every_effect_on_kernel_and_store_the_next_engine_lists_the_truth() {
    let (mut wrong, mut repaired) = (Vec::new(), 0);
    let (mut effect, mut runs) = (0, 0);
    loop {
        effect += 1;
        let sim = SimKernel::new();
        let before = sim.snapshot();
        let disk = Disk::default();
        let death = Death::at(effect);
        let engine = start(&sim, &disk, death.clone()).await;
        let scenario = everything_once(engine.controller());
        let ended = tokio::select! {
            biased;
            () = death.wait() => false,
            outcome = bounded("the scenario", scenario) => match outcome {
                Ok(()) => true,
                // The dead store refuses; that is how the scenario may learn of it first.
                Err(error) => {
                    assert!(death.is_dead(), "{error:?}");
                    false
                }
            }
        };
        if ended {
            break;
        }
        runs += 1;
        drop(engine);
        let engine = start(&sim, &disk, Death::never()).await;
        repaired += usize::from(!engine.repairs().is_empty());
        let taken_over = async {
            engine.drain().await.map_err(|error| error.to_string())?;
            check_truth(&engine, &sim).await?;
            delete_everything(&engine).await.map_err(|error| format!("{error:?}"))?;
            engine.drain().await.map_err(|error| error.to_string())?;
            let mut left = sim.leftovers(&before);
            left.extend(disk.records().iter().map(|(key, _)| format!("{key:?}")));
            left.extend(disk.intents().iter().map(|intent| format!("{intent:?}")));
            if left.is_empty() { Ok(()) } else { Err(format!("left over: {}", left.join("; "))) }
        };
        if let Err(why) = bounded("taking over", taken_over).await {
            wrong.push(format!("killed at effect {effect} ({}): {why}", death.what()));
        }
    }
    assert!(wrong.is_empty(), "{} of {runs}:\n  {}", wrong.len(), wrong.join("\n  "));
    assert!(runs > 60 && repaired > 20, "{repaired} of {runs} starts had something to repair");
    note(format!("{runs} places to die; {repaired} starts repaired something"));
}

async fn start(sim: &SimKernel, disk: &Disk, death: Death) -> Engine {
    let kernel = Arc::new(Mortal::new(sim.clone(), death.clone()));
    let engine = Engine::builder().kernel(kernel).store(Box::new(disk.open(death)));
    bounded("the start", engine.start()).await.expect("it starts")
}

// === Damage behind the engine's back ===

#[tokio::test]
async fn after_a_reboot_sandboxes_are_released_and_networks_made_again() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let (joined, sandbox) = world.joined(&network, "joined").await;
    let idle = network.create_endpoint(EndpointSpec::new("idle")).await.unwrap();
    let address = joined.inspect().await.unwrap().ipv4.unwrap();
    let kept = idle.inspect().await.unwrap().ipv4;
    world.kernel().reboot();
    let world = world.kill_and_restart().await;
    let repairs = world.engine().repairs().to_vec();
    assert!(repairs.contains(&Repair::SandboxReleased { sandbox: sandbox.id() }), "{repairs:?}");
    assert!(repairs.iter().any(|r| matches!(r, Repair::KernelObjectRemade { .. })), "{repairs:?}");
    let controller = world.engine().controller();
    assert!(controller.sandboxes().is_empty());
    let network = controller.network_by_name("blue").expect("its record is there");
    let names: Vec<_> = network.endpoints().await.unwrap().iter().map(|e| e.name().to_owned()).collect();
    assert_eq!(names, ["idle"], "what was joined died with its sandbox");
    assert_eq!(network.endpoint_by_name("idle").await.unwrap().inspect().await.unwrap().ipv4, kept);
    // The dead one's address and name are free, and the network works.
    let spec = EndpointSpec::new("joined").address(address.addr().into());
    let again = network.create_endpoint(spec).await.expect("its address is free");
    let sandbox = world.sandbox("blue-joined").await;
    again.join(&sandbox, JoinSpec::default()).await.unwrap();
    check_truth(world.engine(), world.kernel()).await.unwrap();
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn an_endpoint_whose_link_vanished_is_set_back_to_idle() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let (one, _) = world.joined(&network, "one").await;
    let (two, _) = world.joined(&network, "two").await;
    let id = one.id().to_string();
    let links = host_links(world.kernel()).await;
    let link = links.iter().find(|link| link.tag().is_some_and(|tag| tag.id == id)).expect("its link").name;
    world.kernel().vanish_link(Netns::Host, link).unwrap();
    let world = world.kill_and_restart().await;
    let repairs = world.engine().repairs();
    let told = |r: &Repair| matches!(r, Repair::EndpointDetached { endpoint, .. } if *endpoint == one.id());
    assert!(repairs.iter().any(told), "{repairs:?}");
    let network = world.engine().controller().network_by_name("blue").unwrap();
    assert_eq!(network.endpoint(one.id()).await.unwrap().inspect().await.unwrap().sandbox, None);
    assert!(network.endpoint(two.id()).await.unwrap().inspect().await.unwrap().sandbox.is_some());
    let sandbox = world.engine().controller().sandbox_by_container("blue-one").unwrap();
    let one = network.endpoint(one.id()).await.unwrap();
    one.join(&sandbox, JoinSpec::default()).await.expect("it joins again");
    check_truth(world.engine(), world.kernel()).await.unwrap();
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn a_bridge_that_vanished_is_made_again() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let links = host_links(world.kernel()).await;
    let bridge = links.iter().find(|link| link.kind == LinkKind::Bridge).expect("its bridge").name;
    world.kernel().vanish_link(Netns::Host, bridge).unwrap();
    let world = world.kill_and_restart().await;
    let repairs = world.engine().repairs();
    assert!(matches!(repairs, [Repair::KernelObjectRemade { .. }]), "{repairs:?}");
    let network = world.engine().controller().network(network.id()).unwrap();
    world.joined(&network, "web").await;
    check_truth(world.engine(), world.kernel()).await.unwrap();
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// A bridge that is made again has no ports: the links of its containers become ports of it again, at a start
/// and when only the driver was restarted.
#[tokio::test]
async fn a_bridge_that_is_made_again_gets_its_ports_back() {
    for engine_dies in [true, false] {
        let world = World::new().await;
        let network = world.network("blue").await;
        let (_, one) = world.joined(&network, "one").await;
        let (two, _) = world.joined(&network, "two").await;
        let to = two.inspect().await.unwrap().ipv4.unwrap().addr().into();
        let from = Netns::Named(one.netns().unwrap());
        world.kernel().can_reach(from, to).expect("it reaches the other one");
        let links = host_links(world.kernel()).await;
        let bridge = links.iter().find(|link| link.kind == LinkKind::Bridge).expect("its bridge").name;
        world.kernel().vanish_link(Netns::Host, bridge).unwrap();
        world.kernel().can_reach(from, to).expect_err("the bridge is gone");
        let world = if engine_dies {
            let world = world.kill_and_restart().await;
            let remade = |r: &&Repair| matches!(r, Repair::KernelObjectRemade { .. });
            let repairs = world.engine().repairs();
            assert_eq!(repairs.iter().filter(remade).count(), 3, "a bridge and two ports: {repairs:?}");
            world
        } else {
            let driver = netloom::Victim::Driver("bridge".into());
            world.simulation.crash_actor(driver).await.unwrap();
            until("the ports", async || world.kernel().can_reach(from, to).is_ok()).await;
            world
        };
        world.settles().await;
        world.kernel().can_reach(from, to).expect("it reaches the other one again");
        world.delete_everything().await;
        world.assert_pristine().await;
    }
}

/// Somebody else's bridge is given back as it was, also by an engine that did not adopt it itself.
#[tokio::test]
async fn an_adopted_bridge_is_given_back_as_it_was_after_a_restart() {
    for up in [true, false] {
        let kernel = SimKernel::new();
        let name = "lan0".parse().unwrap();
        kernel.foreign_link(Netns::Host, name, LinkKind::Bridge, None).unwrap();
        kernel.foreign_op(&Op::SetLink { netns: Netns::Host, name, up }).unwrap();
        let own = "192.0.2.1/24".parse().unwrap();
        kernel.foreign_op(&Op::AddAddress { netns: Netns::Host, link: name, address: own }).unwrap();
        let before = kernel.snapshot();
        let simulation = Engine::simulation().kernel(kernel).start().await.unwrap();
        let mut world = World { simulation, before };
        let spec = netloom::NetworkSpec::new("lan")
            .subnet("10.88.0.0/24".parse().unwrap())
            .subnet("fd88::/64".parse().unwrap())
            .option("com.docker.network.bridge.name", "lan0");
        let network = world.engine().controller().create_network(spec).await.unwrap();
        world.joined(&network, "web").await;
        for _ in 0..2 {
            world = world.kill_and_restart().await;
            assert_eq!(world.engine().repairs(), []);
        }
        world.settles().await;
        world.delete_everything().await;
        world.assert_pristine().await;
    }
}

async fn host_links(kernel: &SimKernel) -> Vec<netloom::kernel::LinkView> {
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    netloom::kernel::Kernel::links(kernel, Netns::Host, deadline).await.expect("listed")
}

#[tokio::test]
async fn what_is_not_ours_survives_everything() {
    let kernel = SimKernel::builder().host_link("eth0", "192.0.2.10/24").unwrap().build();
    let name = |text: &str| text.parse().unwrap();
    kernel.foreign_netns("theirs".parse().unwrap()).unwrap();
    kernel.foreign_link(Netns::Host, name("docker0"), LinkKind::Bridge, None).unwrap();
    kernel.foreign_link(Netns::Host, name("br-0123456789ab"), LinkKind::Bridge, Some("mine")).unwrap();
    let other = LinkTag::new("other", "network", "f".repeat(64)).to_string();
    kernel.foreign_link(Netns::Host, name("br-other"), LinkKind::Bridge, Some(&other)).unwrap();
    let address = "10.200.0.1/24".parse().unwrap();
    kernel.foreign_op(&Op::AddAddress { netns: Netns::Host, link: name("docker0"), address }).unwrap();
    let before = kernel.snapshot();
    let simulation = Engine::simulation().kernel(kernel).start().await.unwrap();
    let world = World { simulation, before };
    let network = world.network("blue").await;
    world.joined(&network, "web").await;
    let world = world.kill_and_restart().await;
    assert_eq!(world.engine().repairs(), []);
    everything_once(world.engine().controller()).await.expect("no fault");
    world.delete_everything().await;
    let world = world.kill_and_restart().await;
    assert_eq!(world.engine().repairs(), []);
    world.assert_pristine().await;
}

#[tokio::test]
async fn two_engines_of_different_instances_leave_each_other_alone() {
    let kernel = SimKernel::new();
    let before = kernel.snapshot();
    let on = |instance: &str, subnet: &str| EngineConfig {
        instance: instance.into(),
        default_pools: vec![netloom::DefaultPool { base: subnet.parse().unwrap(), size: 24 }],
        ..EngineConfig::default()
    };
    let start = async |config| {
        let simulation = Engine::simulation().config(config).kernel(kernel.clone()).start().await.unwrap();
        World { simulation, before: before.clone() }
    };
    let one = start(on("one", "10.1.0.0/16")).await;
    let two = start(on("two", "10.2.0.0/16")).await;
    // Only the one that dies has sandboxes: namespaces are told apart by the run directory, and a simulated
    // kernel has one.
    two.network("blue").await.create_endpoint(EndpointSpec::new("web")).await.unwrap();
    one.joined(&one.network("blue").await, "web").await;
    let one = one.kill_and_restart().await;
    assert_eq!(one.engine().repairs(), [], "what it found of the other one is not its own");
    check_truth(one.engine(), &kernel).await.unwrap();
    check_lists(two.engine(), &kernel).await.unwrap();
    one.delete_everything().await;
    one.engine().drain().await.unwrap();
    check_truth(two.engine(), &kernel).await.unwrap();
    let one = one.kill_and_restart().await;
    assert_eq!(one.engine().repairs(), []);
    check_truth(two.engine(), &kernel).await.unwrap();
    two.delete_everything().await;
    one.assert_pristine().await;
    two.assert_pristine().await;
}

#[tokio::test]
async fn a_clean_restart_repairs_nothing_and_keeps_everything() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let (endpoint, sandbox) = world.joined(&network, "web").await;
    let (before, inside) = (endpoint.inspect().await.unwrap(), sandbox.inspect().await.unwrap());
    let mut world = world;
    for _ in 0..3 {
        world = world.kill_and_restart().await;
        assert_eq!(world.engine().repairs(), []);
        let controller = world.engine().controller();
        let endpoint = controller.network_by_name("blue").unwrap().endpoint(before.id).await.unwrap();
        assert_eq!(endpoint.inspect().await.unwrap(), before);
        assert_eq!(controller.sandbox(inside.id).unwrap().inspect().await.unwrap(), inside);
        check_truth(world.engine(), world.kernel()).await.unwrap();
    }
    assert_eq!(
        endpoint.inspect().await.unwrap_err().kind(),
        ErrorKind::Unavailable,
        "the old engine is dead"
    );
    world.delete_everything().await;
    world.assert_pristine().await;
}
