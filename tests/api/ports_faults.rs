//! Each port that is to be held is refused, in each way that a host has for it, at each step in which ports are held, with
//! deaths, a new configuration and new engines in between: all of an endpoint's ports lead to it or none does, nothing is
//! left, and what was refused can be asked for again.

use std::collections::BTreeMap;

use netloom::kernel::HoldRefusal;
use netloom::{EndpointSpec, EngineConfig, Error, ErrorKind, JoinSpec, PortBinding, TransportPort, Victim};

use crate::support::{World, bounded, note, until};

/// What happens between a refusal and the next attempt.
#[derive(Clone, Copy, Debug)]
enum Between {
    Nothing,
    Death(fn() -> Victim),
    Reload,
    Killed,
}

const BETWEEN: [Between; 6] = [
    Between::Nothing,
    Between::Death(|| Victim::Ports),
    Between::Death(|| Victim::Driver("bridge".into())),
    Between::Death(|| Victim::Firewall),
    Between::Reload,
    Between::Killed,
];

const STEPS: [&str; 3] = ["one joins", "two takes over", "two leaves"];
const CONTAINER: &str = "box";

/// How a host refuses, and what a caller is told of it where the port cannot be another one.
fn refusals() -> [(HoldRefusal, ErrorKind); 4] {
    [
        (HoldRefusal::InUse, ErrorKind::Conflict),
        (HoldRefusal::NoDescriptors, ErrorKind::Exhausted),
        (HoldRefusal::QueueFull(16), ErrorKind::Busy),
        (HoldRefusal::Lost, ErrorKind::Unavailable),
    ]
}

/// An endpoint with a port of its own, a row, and one that may be any.
fn serves(name: &str, from: u16) -> EndpointSpec {
    let row = (0..3).map(|n| PortBinding::new(from + n, TransportPort::tcp(from + n)));
    let alone = PortBinding::new(from + 10, TransportPort::udp(53));
    let any = PortBinding::any(TransportPort::tcp(80));
    row.chain([alone, any]).fold(EndpointSpec::new(name), EndpointSpec::publish)
}

/// How many ports of the host such an endpoint has.
const PORTS: usize = 5;

async fn world() -> World {
    let world = World::new().await;
    for (network, endpoint, from) in [("blue", "one", 8_080), ("red", "two", 9_080)] {
        let network = world.network(network).await;
        network.create_endpoint(serves(endpoint, from)).await.expect("an endpoint");
    }
    world.sandbox(CONTAINER).await;
    world
}

async fn step(world: &World, number: usize) -> Result<(), Error> {
    let controller = world.engine().controller();
    let (network, name) = if number == 0 { ("blue", "one") } else { ("red", "two") };
    let endpoint = controller.network_by_name(network)?.endpoint_by_name(name).await?;
    let sandbox = controller.sandbox_by_container(CONTAINER)?;
    match number {
        0 => endpoint.join(&sandbox, JoinSpec::default()).await.map(drop),
        1 => endpoint.join(&sandbox, JoinSpec::priority(1)).await.map(drop),
        _ => endpoint.leave(&sandbox).await,
    }
}

/// How many ports lead to each endpoint, and whether it is joined.
async fn seen(world: &World) -> BTreeMap<String, (usize, bool)> {
    let picture = bounded("inspecting", world.engine().inspect()).await.expect("inspected");
    let endpoints = picture.networks.iter().flat_map(|network| &network.endpoints);
    let ports = |endpoint: &netloom::snapshot::EndpointSnapshot| {
        endpoint.published.0.iter().map(|published| published.host.range.count()).sum()
    };
    endpoints.map(|one| (one.name.clone(), (ports(one), one.sandbox.is_some()))).collect()
}

/// What is seen after so many steps.
fn expected(steps: usize) -> BTreeMap<String, (usize, bool)> {
    let [one, two] = [
        [(0, false); 2],
        [(PORTS, true), (0, false)],
        [(0, true), (PORTS, true)],
        [(PORTS, true), (0, false)],
    ][steps];
    [("one".to_owned(), one), ("two".to_owned(), two)].into()
}

async fn happens(world: World, between: Between) -> World {
    match between {
        Between::Nothing => {}
        Between::Death(victim) => {
            bounded("a death", world.simulation.crash_actor(victim())).await.expect("told");
        }
        Between::Reload => {
            let mut config = EngineConfig::default();
            let options = [("userland_proxy".to_owned(), "false".to_owned())].into();
            config.drivers.insert("bridge".to_owned(), options);
            bounded("a reload", world.engine().controller().reload(config)).await.expect("accepted");
        }
        Between::Killed => return world.kill_and_restart().await,
    }
    world
}

/// The steps that are left, where nothing fails any more.
async fn goes_on(world: &World, from: usize) {
    for (number, name) in STEPS.iter().enumerate().skip(from) {
        let again = bounded(name, step(world, number)).await;
        again.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        world.settles().await;
        assert_eq!(seen(world).await, expected(number + 1), "{name}");
    }
}

/// One run; `false` when the step holds fewer ports.
async fn run(at: usize, nth: usize, refusal: &HoldRefusal, told: ErrorKind, between: Between) -> bool {
    let world = world().await;
    for number in 0..at {
        step(&world, number).await.expect("nothing fails");
    }
    let host = world.kernel().sim_ports();
    host.refuse(nth, refusal.clone());
    let outcome = bounded(STEPS[at], step(&world, at)).await;
    if host.refuse_no_more() > 0 {
        assert!(outcome.is_ok(), "{} {outcome:?} without a refusal", STEPS[at]);
        return false;
    }
    if let Err(error) = &outcome {
        assert_eq!(error.kind(), told, "{} at {nth} with {refusal:?}: {error:?}", STEPS[at]);
    }
    world.settles().await;
    let before_or_done = [expected(at), expected(at + 1)];
    let after = seen(&world).await;
    assert_eq!(after, before_or_done[usize::from(outcome.is_ok())], "{} at {nth}, {refusal:?}", STEPS[at]);
    let world = happens(world, between).await;
    // Whoever has died is back when things are seen as before.
    until("as before", async || world.engine().inspect().await.is_ok() && seen(&world).await == after).await;
    world.settles().await;
    let next = at + usize::from(outcome.is_ok());
    goes_on(&world, next).await;
    world.delete_everything().await;
    world.assert_pristine().await;
    true
}

#[tokio::test]
async fn each_port_is_refused_in_turn_and_nothing_is_half_published() {
    let mut runs = 0;
    for (refusal, told) in refusals() {
        for between in BETWEEN {
            for (at, name) in STEPS.iter().enumerate() {
                let mut nth = 1;
                while run(at, nth, &refusal, told, between).await {
                    (nth, runs) = (nth + 1, runs + 1);
                }
                assert!(nth > PORTS, "{name}: only {} ports were tried", nth - 1);
            }
        }
    }
    note(format!("{runs} refusals"));
}

#[tokio::test]
async fn each_port_is_refused_at_a_start_and_stays_the_endpoints() {
    for (refusal, _) in refusals() {
        for nth in 1.. {
            let world = world().await;
            step(&world, 0).await.expect("nothing fails");
            let host = world.kernel().sim_ports();
            let held = host.held();
            let World { simulation, before } = world;
            let next = simulation.kill().await;
            host.refuse(nth, refusal.clone());
            let world = World { simulation: next.start().await.expect("it starts again"), before };
            if host.refuse_no_more() > 0 {
                assert!(nth > held.len(), "only {} ports were tried", nth - 1);
                world.delete_everything().await;
                break;
            }
            assert_eq!(seen(&world).await, expected(1), "{refusal:?} at {nth}");
            let listed = world.engine().controller().ports().await.expect("listed");
            let unheld: Vec<_> = listed.iter().flat_map(|ports| &ports.unheld).map(|one| one.port).collect();
            let missing: Vec<_> = held.iter().filter(|port| !host.held().contains(port)).copied().collect();
            assert_eq!((unheld.len(), &unheld), (1, &missing), "{refusal:?} at {nth}");
            // Nobody else gets it, and the next engine holds it.
            let world = world.kill_and_restart().await;
            world.settles().await;
            assert_eq!(host.held(), held);
            goes_on(&world, 1).await;
            world.delete_everything().await;
            world.assert_pristine().await;
        }
    }
}
