//! What is told of the way in from outside: ports as they come and go, repairs of the firewall, and what differs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use netloom::drivers::done;
use netloom::kernel::nft::{Change, Expr, Rule, Table, Verdict};
use netloom::kernel::{Netns, Op};
use netloom::testkit::{Fault, FaultKind};
use netloom::{
    EndpointSpec, EngineConfig, EventKind, EventStream, HostPort, HostPorts, JoinSpec, Network, NetworkSpec,
    PortBinding, PortRange, Protocol, Published, PublishedPorts, RepairCause, Subject, TransportPort, Victim,
};

use crate::scripted::{Scripted, scripted_network};
use crate::support::{World, bounded, note, until};

fn serves(name: &str, ports: &[u16]) -> EndpointSpec {
    let bindings = ports.iter().map(|port| PortBinding::new(*port, TransportPort::tcp(80)));
    bindings.fold(EndpointSpec::new(name), EndpointSpec::publish)
}

/// An engine's events of endpoints and of the firewall, a line each, up to this moment.
struct Story(EventStream);

impl Story {
    fn of(world: &World) -> Self {
        Self(world.engine().events())
    }

    async fn so_far(&mut self, world: &World) -> Vec<String> {
        let mark = world.network("mark").await;
        mark.delete().await.expect("deleted");
        let mut lines = Vec::new();
        let outside = |ports: &[PublishedPorts]| {
            ports.iter().map(|ports| ports.host.range.to_string()).collect::<Vec<_>>().join(" ")
        };
        loop {
            let event = bounded("an event", self.0.next()).await.expect("it runs").expect("nothing missed");
            lines.push(match event.kind {
                EventKind::NetworkDeleted { network, .. } if network == mark.id() => return lines,
                EventKind::EndpointAttached { .. } => "attached".to_owned(),
                EventKind::EndpointDetached { .. } => "detached".to_owned(),
                EventKind::EndpointDeleted { name, .. } => format!("{name} deleted"),
                EventKind::PortsPublished { name, ports, .. } => format!("{name} + {}", outside(&ports)),
                EventKind::PortsWithdrawn { name, ports, .. } => format!("{name} - {}", outside(&ports)),
                EventKind::FirewallRepaired { cause, .. } => format!("repaired: {cause}"),
                _ => continue,
            });
        }
    }
}

async fn joined(world: &World, network: &Network, name: &str, ports: &[u16]) -> netloom::Endpoint {
    let endpoint = network.create_endpoint(serves(name, ports)).await.expect("made");
    let sandbox = world.sandbox(name).await;
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    endpoint
}

#[tokio::test]
async fn ports_come_after_the_join_and_go_before_the_leave() {
    let world = World::new().await;
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    let mut story = Story::of(&world);
    let sandbox = world.sandbox("web").await;
    let one = blue.create_endpoint(serves("one", &[8080, 8090])).await.expect("made");
    let two = red.create_endpoint(serves("two", &[8081])).await.expect("made");
    one.join(&sandbox, JoinSpec::default()).await.expect("joined");
    assert_eq!(story.so_far(&world).await, ["attached", "one + 8080 8090"]);
    // The way out moves, and comes back.
    two.join(&sandbox, JoinSpec::priority(1)).await.expect("joined");
    assert_eq!(story.so_far(&world).await, ["one - 8080 8090", "attached", "two + 8081"]);
    two.leave(&sandbox).await.expect("left");
    assert_eq!(story.so_far(&world).await, ["two - 8081", "detached", "one + 8080 8090"]);
    // One that is not the way out has nothing to tell.
    let three = red.create_endpoint(serves("three", &[8082])).await.expect("made");
    three.join(&sandbox, JoinSpec::priority(-1)).await.expect("joined");
    three.leave(&sandbox).await.expect("left");
    assert_eq!(story.so_far(&world).await, ["attached", "detached"]);
    one.delete_with_force().await.expect("deleted");
    assert_eq!(story.so_far(&world).await, ["one - 8080 8090", "detached", "one deleted"]);
    // With the sandbox.
    two.join(&sandbox, JoinSpec::default()).await.expect("joined");
    sandbox.delete().await.expect("deleted");
    assert_eq!(story.so_far(&world).await, ["attached", "two + 8081", "two - 8081", "detached"]);
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn a_join_that_fails_tells_of_no_port() {
    let world = World::new().await;
    let network = world.network("blue").await;
    joined(&world, &network, "web", &[8080]).await;
    let mut story = Story::of(&world);
    let late = network.create_endpoint(serves("late", &[8081, 8080])).await.expect("made");
    let sandbox = world.sandbox("late").await;
    late.join(&sandbox, JoinSpec::default()).await.expect_err("taken");
    assert_eq!(story.so_far(&world).await, Vec::<String>::new());
    // Whichever of its steps fails, and whatever of it has happened: what was told to begin was told to end.
    let free = network.create_endpoint(serves("free", &[8081])).await.expect("made");
    for step in 1.. {
        let kernel = world.kernel();
        kernel.plan(Fault::nth(step, FaultKind::Refuse(12)));
        let outcome = free.join(&sandbox, JoinSpec::default()).await;
        kernel.clear_faults();
        world.settles().await;
        if outcome.is_ok() {
            assert_eq!(story.so_far(&world).await, ["attached", "free + 8081"], "step {step}");
            assert!(step > 3, "{step}");
            break;
        }
        assert_eq!(story.so_far(&world).await, Vec::<String>::new(), "step {step}");
    }
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn deaths_of_actors_and_a_crash_tell_of_no_port_twice_and_lose_none() {
    let mut world = World::new().await;
    let network = world.network("blue").await;
    let web = joined(&world, &network, "web", &[8080]).await;
    let sandbox = world.engine().controller().sandbox_by_container("web").expect("there");
    let mut story = Story::of(&world);
    let victims = [
        Victim::Network(network.id()),
        Victim::Sandbox(sandbox.id()),
        Victim::Driver("bridge".into()),
        Victim::Ports,
        Victim::Firewall,
        Victim::Store,
        Victim::Controller,
    ];
    for victim in &victims {
        note(format!("{victim:?}"));
        world.simulation.crash_actor(victim.clone()).await.expect("told");
        let is_back = async || {
            let network = world.engine().controller().network(network.id());
            let Ok(network) = network else { return false };
            let Ok(web) = network.endpoint(web.id()).await else { return false };
            web.inspect().await.is_ok_and(|seen| seen.published.0.len() == 1)
        };
        until("it is back", is_back).await;
        world.settles().await;
        assert_eq!(story.so_far(&world).await, Vec::<String>::new(), "{victim:?}");
    }
    // Those who knew of it have died since, and it is told all the same.
    for victim in &victims[..2] {
        world.simulation.crash_actor(victim.clone()).await.expect("told");
    }
    until("it can leave", async || web.leave(&sandbox).await.is_ok()).await;
    world.settles().await;
    assert_eq!(story.so_far(&world).await, ["web - 8080", "detached"]);
    web.join(&sandbox, JoinSpec::default()).await.expect("joined");
    assert_eq!(story.so_far(&world).await, ["attached", "web + 8080"]);

    world = world.kill_and_restart().await;
    let mut story = Story::of(&world);
    world.settles().await;
    assert_eq!(story.so_far(&world).await, Vec::<String>::new(), "it has what it had");
    let controller = world.engine().controller();
    let found = controller.network_by_name("blue").expect("kept");
    let web = found.endpoint_by_name("web").await.expect("kept");
    web.leave(&controller.sandbox_by_container("web").expect("kept")).await.expect("left");
    assert_eq!(story.so_far(&world).await, ["web - 8080", "detached"]);
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// Deaths in the middle of joins and leaves: whoever reads events knows at the end what is published.
#[tokio::test]
async fn at_every_quiet_moment_what_was_told_is_what_is_so() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let sandbox = world.sandbox("web").await;
    let web = network.create_endpoint(serves("web", &[8080])).await.expect("made");
    let mut story = Story::of(&world);
    let mut published = false;
    for victim in
        [Victim::Network(network.id()), Victim::Sandbox(sandbox.id()), Victim::Driver("bridge".into())]
    {
        for round in 0..6_u32 {
            let attempt = async {
                if published {
                    let _ = web.leave(&sandbox).await;
                } else {
                    let _ = web.join(&sandbox, JoinSpec::default()).await;
                }
            };
            let death = async {
                for _ in 0..round {
                    tokio::task::yield_now().await;
                }
                world.simulation.crash_actor(victim.clone()).await.expect("told");
            };
            tokio::join!(attempt, death);
            until("all are back", async || {
                web.inspect().await.is_ok()
                    && sandbox.inspect().await.is_ok()
                    && world.settled().await.is_ok()
            })
            .await;
            for line in story.so_far(&world).await {
                match line.as_str() {
                    "web + 8080" => assert!(!std::mem::replace(&mut published, true), "told twice"),
                    "web - 8080" => assert!(std::mem::replace(&mut published, false), "never told to begin"),
                    _ => {}
                }
            }
            let seen = web.inspect().await.expect("inspected");
            assert_eq!(published, !seen.published.0.is_empty(), "{victim:?} in round {round}: {seen:?}");
            if round % 3 == 2 {
                // Not too many deaths within a minute.
                break;
            }
        }
    }
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// A driver that was started again may lead by other ports: that is recorded, shown, and told.
#[tokio::test]
async fn what_a_driver_says_when_it_is_told_again_is_not_lost() {
    let number = Arc::new(AtomicU16::new(7000));
    let mut driver = Scripted::new(|_| done(()));
    let current = number.clone();
    driver.published = Arc::new(move || {
        let of = |port| PublishedPorts {
            host: HostPorts {
                protocol: Protocol::Tcp,
                addresses: ["0.0.0.0".parse().expect("an address")].into(),
                range: PortRange { first: port, last: port },
            },
            port: 80,
        };
        Published(vec![of(6000), of(current.load(Ordering::SeqCst))])
    });
    let mut world = driver.world(EngineConfig::default()).await;
    let network = scripted_network(&world, "own").await;
    let mut story = Story::of(&world);
    let (web, _) = world.joined(&network, "web").await;
    assert_eq!(story.so_far(&world).await, ["attached", "web + 6000 7000"]);
    number.store(7001, Ordering::SeqCst);
    world.simulation.crash_actor(Victim::Driver(Scripted::KIND.into())).await.expect("told");
    let shown = async |world: &World| {
        let network = world.engine().controller().network(network.id());
        let Ok(network) = network else { return String::new() };
        let Ok(web) = network.endpoint(web.id()).await else { return String::new() };
        let seen = web.inspect().await;
        seen.ok().and_then(|seen| Some(seen.published.0.get(1)?.to_string())).unwrap_or_default()
    };
    until("it is shown", async || shown(&world).await == "0.0.0.0:7001/tcp->80").await;
    assert_eq!(story.so_far(&world).await, ["web - 7000", "web + 7001"], "and only what has changed");
    // It is in the record: the death of the network, or of all, changes nothing.
    world.simulation.crash_actor(Victim::Network(network.id())).await.expect("told");
    until("it is back", async || shown(&world).await == "0.0.0.0:7001/tcp->80").await;
    assert_eq!(story.so_far(&world).await, Vec::<String>::new());
    world = world.kill_and_restart().await;
    let mut story = Story::of(&world);
    assert_eq!(shown(&world).await, "0.0.0.0:7001/tcp->80");
    assert_eq!(story.so_far(&world).await, Vec::<String>::new());
    world.delete_everything().await;
}

#[tokio::test]
async fn damage_to_the_firewall_is_told_when_it_is_repaired_and_shown_while_it_cannot_be() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let web = joined(&world, &network, "web", &[8080]).await;
    let mut story = Story::of(&world);
    let (kernel, controller) = (world.kernel().clone(), world.engine().controller());
    kernel.flush_ruleset();
    let repairs = async || {
        let picture = world.engine().inspect().await.expect("inspected");
        picture.firewall.expect("there").repairs
    };
    until("it is repaired", async || repairs().await == 1).await;
    assert_eq!(story.so_far(&world).await, [format!("repaired: {}", RepairCause::ForeignChange)]);
    assert_eq!(world.engine().diff().await.expect("compared"), []);

    // Nothing that is said to the firewall is taken for now.
    kernel.plan(Fault::verb("change_table", 1, FaultKind::Refuse(12)).always());
    let drop = Rule { exprs: vec![Expr::Verdict(Verdict::Drop)], comment: None };
    let table = || Table::inet("netloom");
    let changes = vec![
        Change::FlushSet("any4".into()),
        Change::AddRule { chain: "forward".into(), rule: drop },
        Change::FlushSet("bridges".into()),
    ];
    kernel.foreign_op(&Op::ChangeTable { netns: Netns::Host, table: table(), changes }).expect("changed");
    let before = kernel.snapshot();
    let found = world.engine().diff().await.expect("compared");
    kernel.assert_pristine(&before);
    let told: Vec<_> = found.iter().map(ToString::to_string).collect();
    let endpoint = web.inspect().await.expect("inspected").ipv4.expect("an address").addr();
    let of_web = format!("endpoint \"web\" ({})", web.id().short());
    let of_blue = format!("network \"blue\" ({})", network.id().short());
    assert_eq!(told.len(), 3, "{told:#?}");
    let mut expected = [
        format!(
            "element tcp . 8080 : {endpoint} . 80 of map any4 of table inet netloom is missing, which {of_web} needs"
        ),
        "rule `drop` of chain forward of table inet netloom should not be there; it belongs to controller".into(),
        format!("is missing, which {of_blue} needs"),
    ]
    .into_iter();
    assert_eq!(told.iter().find(|line| line.contains("any4")), expected.next().as_ref());
    let rule = expected.next().expect("a line");
    assert!(told.iter().any(|line| line.starts_with(&rule)), "{told:#?}");
    let bridge = expected.next().expect("a line");
    assert!(told.iter().any(|line| line.contains("of set bridges") && line.ends_with(&bridge)), "{told:#?}");
    assert!(found.iter().all(|one| matches!(one.object, Subject::Firewall { .. })));

    kernel.clear_faults();
    until("it is repaired", async || repairs().await == 2).await;
    assert_eq!(story.so_far(&world).await, [format!("repaired: {}", RepairCause::Retry)]);
    assert_eq!(world.engine().diff().await.expect("compared"), []);
    controller.network_by_name("blue").expect("there");
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn a_port_that_is_not_held_is_shown() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let web = joined(&world, &network, "web", &[8080]).await;
    assert_eq!(world.engine().diff().await.expect("compared"), []);
    let kernel = world.kernel().clone();
    let World { simulation, before } = world;
    let next = simulation.kill().await;
    let port = HostPort { address: "0.0.0.0".parse().expect("v4"), protocol: Protocol::Tcp, port: 8080 };
    kernel.sim_ports().other(port, None);
    let world = World { simulation: next.start().await.expect("it starts again"), before };
    let found = world.engine().diff().await.expect("compared");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].object, Subject::Port { port });
    let text = found[0].to_string();
    let wants = format!("should be held for endpoint \"web\" ({})", web.id().short());
    assert!(
        text.starts_with("port 0.0.0.0:8080/tcp of the host is not held (") && text.ends_with(&wants),
        "{text}"
    );
    kernel.sim_ports().end_other(port);
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// What is compared is complete with the other backend too.
#[tokio::test]
async fn networks_and_ports_of_a_healthy_engine_differ_in_nothing() {
    let world = World::new().await;
    let routed = NetworkSpec::new("routed").option("com.docker.network.bridge.gateway_mode_ipv4", "routed");
    let mut internal = NetworkSpec::new("inside");
    internal.internal = true;
    let controller = world.engine().controller();
    for (n, spec) in [NetworkSpec::new("blue"), routed, internal].into_iter().enumerate() {
        let network = controller.create_network(spec).await.expect("made");
        let port = 8080 + u16::try_from(n).expect("few");
        joined(&world, &network, &format!("web{n}"), &[port]).await;
    }
    assert_eq!(world.engine().diff().await.expect("compared"), []);
    world.delete_everything().await;
    world.assert_pristine().await;
}
