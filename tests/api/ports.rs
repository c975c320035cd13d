//! Published ports over a simulated host: who gets which, who keeps them, and what is refused.

use netloom::kernel::HoldRefusal;
use netloom::{
    Endpoint, EndpointSpec, ErrorKind, HostPort, JoinSpec, Network, PortBinding, Protocol, Reason, Sandbox,
    SandboxSpec, TransportPort, Victim,
};
use netloom_model::{PortReason, PortUser};

use crate::support::{World, note, until};

fn tcp(host: u16, inside: u16) -> PortBinding {
    PortBinding::new(host, TransportPort::tcp(inside))
}

fn any() -> PortBinding {
    PortBinding::any(TransportPort::tcp(80))
}

fn serves(name: &str, bindings: &[PortBinding]) -> EndpointSpec {
    bindings.iter().fold(EndpointSpec::new(name), |spec, binding| spec.publish(*binding))
}

/// An endpoint with these ports in a sandbox of its own.
async fn published(
    world: &World,
    network: &Network,
    name: &str,
    bindings: &[PortBinding],
) -> netloom::Result<(Endpoint, Sandbox)> {
    let endpoint = network.create_endpoint(serves(name, bindings)).await?;
    let sandbox = world.sandbox(name).await;
    endpoint.join(&sandbox, JoinSpec::default()).await?;
    Ok((endpoint, sandbox))
}

async fn ports_of(endpoint: &Endpoint) -> Vec<String> {
    endpoint.inspect().await.expect("inspected").published.0.iter().map(ToString::to_string).collect()
}

fn port(address: &str, port: u16) -> HostPort {
    HostPort { address: address.parse().expect("an address"), protocol: Protocol::Tcp, port }
}

#[tokio::test]
async fn the_death_of_any_actor_costs_no_port() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let (web, sandbox) = published(&world, &network, "web", &[any(), tcp(8080, 80)]).await.expect("joined");
    let had = ports_of(&web).await;
    let held = world.kernel().sim_ports().held();
    assert_eq!((had.len(), held.len()), (2, 2));
    for victim in [
        Victim::Ports,
        Victim::Firewall,
        Victim::Driver("bridge".into()),
        Victim::Network(network.id()),
        Victim::Sandbox(sandbox.id()),
        Victim::Store,
        Victim::Controller,
    ] {
        note(format!("{victim:?}"));
        world.simulation.crash_actor(victim).await.expect("told");
        let same = async || {
            let seen = world.engine().controller().network(network.id());
            let Ok(network) = seen else { return false };
            let Ok(web) = network.endpoint(web.id()).await else { return false };
            web.inspect()
                .await
                .is_ok_and(|seen| seen.published.0.iter().map(ToString::to_string).collect::<Vec<_>>() == had)
        };
        until("the same ports", same).await;
        world.settles().await;
        assert_eq!(world.kernel().sim_ports().held(), held);
    }
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn ports_are_those_of_the_endpoint_that_is_the_way_out() {
    let world = World::new().await;
    let (blue, red) = (world.network("blue").await, world.network("red").await);
    let sandbox = world.sandbox("web").await;
    let one = blue.create_endpoint(serves("one", &[tcp(8081, 80), any()])).await.expect("made");
    let two = red.create_endpoint(serves("two", &[tcp(8082, 80)])).await.expect("made");
    one.join(&sandbox, JoinSpec::default()).await.expect("joined");
    world.settles().await;
    assert_eq!((ports_of(&one).await.len(), ports_of(&two).await.len()), (2, 0));
    two.join(&sandbox, JoinSpec::priority(1)).await.expect("joined");
    world.settles().await;
    assert_eq!((ports_of(&one).await.len(), ports_of(&two).await.len()), (0, 1));
    assert_eq!(world.kernel().sim_ports().held(), [port("0.0.0.0", 8082)]);
    two.leave(&sandbox).await.expect("left");
    world.settles().await;
    assert_eq!((ports_of(&one).await.len(), ports_of(&two).await.len()), (2, 0));
    // A container's own ports are those of whoever is its way out.
    let spec = SandboxSpec::new("own").publish(tcp(9090, 90));
    let own = world.engine().controller().create_sandbox(spec).await.expect("a sandbox");
    let plain = blue.create_endpoint(EndpointSpec::new("plain")).await.expect("made");
    plain.join(&own, JoinSpec::default()).await.expect("joined");
    assert_eq!(ports_of(&plain).await, ["0.0.0.0:9090, [::]:9090/tcp->90"]);
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_by_name_and_nothing_is_left() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let host = world.kernel().sim_ports();
    host.unprivileged_from(80);
    host.addresses(&["192.0.2.1".parse().expect("an address")]);
    host.other(port("192.0.2.1", 8443), Some(PortUser { pid: 7, command: "nginx".into() }));
    host.other(port("0.0.0.0", 8081), None);
    let (web, _) = published(&world, &network, "web", &[tcp(8080, 80)]).await.expect("joined");
    let held = host.held();
    let on = |binding: PortBinding, host: &str| binding.on(host.parse().expect("an address"));
    let range = |first, last| PortBinding { host_port_end: Some(last), ..tcp(first, 80) };
    for (name, bindings, kind, says) in [
        ("taken", vec![any(), tcp(8080, 80)], ErrorKind::Conflict, "endpoint \"web\""),
        ("one address", vec![on(tcp(8080, 80), "192.0.2.1")], ErrorKind::Conflict, "endpoint \"web\""),
        ("range", vec![range(8080, 8081)], ErrorKind::Exhausted, "8080-8081"),
        ("in use", vec![tcp(8443, 443)], ErrorKind::Conflict, "nginx"),
        ("privileged", vec![any(), tcp(79, 79)], ErrorKind::Forbidden, "79/tcp"),
        ("elsewhere", vec![on(any(), "192.0.2.9")], ErrorKind::InvalidParameter, "192.0.2.9"),
        (
            "container",
            vec![PortBinding { ip: Some("10.9.9.9".parse().expect("an address")), ..any() }],
            ErrorKind::InvalidParameter,
            "one of the endpoint's own",
        ),
        (
            "sctp to IPv6",
            vec![on(PortBinding { protocol: Protocol::Sctp, ..any() }, "::1")],
            ErrorKind::InvalidParameter,
            "only tcp and udp",
        ),
    ] {
        let error = published(&world, &network, name, &bindings).await.expect_err(name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.to_string().contains(says), "{name}: {error}");
        world.settles().await;
        assert_eq!(host.held(), held, "{name}");
    }
    // One that is refused can be tried again.
    let controller = world.engine().controller();
    let taken = network.endpoint_by_name("taken").await.expect("it is there");
    let sandbox = controller.sandbox_by_container("taken").expect("it is there");
    web.delete_with_force().await.expect("deleted");
    taken.join(&sandbox, JoinSpec::default()).await.expect("it is free now");
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn after_a_crash_ports_are_the_same_and_one_that_somebody_has_is_told() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let (web, _) = published(&world, &network, "web", &[any(), any(), tcp(8080, 80)]).await.expect("joined");
    let (had, kernel) = (ports_of(&web).await, world.kernel().clone());
    let world = world.kill_and_restart().await;
    assert_eq!(world.engine().repairs(), []);
    world.settles().await;
    let found = world.engine().controller().network(network.id()).expect("kept");
    let web = found.endpoint(web.id()).await.expect("kept");
    assert_eq!(ports_of(&web).await, had);

    // Somebody takes one while no engine holds it: the container keeps it, and who looks is told.
    let World { simulation, before } = world;
    let next = simulation.kill().await;
    let host = kernel.sim_ports();
    let squatter = port("0.0.0.0", 8080);
    host.other(squatter, None);
    let world = World { simulation: next.start().await.expect("it starts again"), before };
    let listed = world.engine().controller().ports().await.expect("listed");
    assert_eq!(listed[0].unheld.iter().map(|unheld| unheld.port).collect::<Vec<_>>(), [squatter]);
    assert_eq!(host.held().len(), 2);
    host.end_other(squatter);
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn a_reason_of_ports_is_told_as_such() {
    let world = World::new().await;
    let network = world.network("blue").await;
    published(&world, &network, "web", &[tcp(8080, 80)]).await.expect("joined");
    let error = published(&world, &network, "late", &[tcp(8080, 80)]).await.expect_err("taken");
    let taken = matches!(error.reason(), Reason::Port(PortReason::Taken { leaving: false, holder, .. }) if holder.name == "web");
    assert!(taken, "{error:?}");
}

#[tokio::test]
async fn what_serves_a_port_beside_the_kernel_is_told() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let host = world.kernel().sim_ports();
    let served = async |name: &str| -> Vec<_> {
        let listed = world.engine().controller().ports().await.expect("listed");
        let of = listed.into_iter().find(|ports| ports.endpoint.name == name).expect("it has ports");
        of.served.into_iter().map(|served| (served.port, served.last, served.via)).collect()
    };
    // It gets no port of its own, so that each is listened to; and nobody is refused for that.
    host.refuse_own(HoldRefusal::NoDescriptors);
    published(&world, &network, "first", &[tcp(8080, 80)]).await.expect("joined");
    assert_eq!(served("first").await, [(port("0.0.0.0", 8080), 8080, None)]);
    world.settles().await;
    // Now it does. Datagrams are for a socket of their own all the same.
    let udp = PortBinding::new(53, TransportPort::udp(53));
    let all = [tcp(9000, 80), tcp(9001, 81), udp];
    published(&world, &network, "second", &all).await.expect("joined");
    let [own] = host.own()[..] else { panic!("{:?}", host.own()) };
    let datagrams = HostPort { protocol: Protocol::Udp, ..port("0.0.0.0", 53) };
    assert_eq!(served("second").await, [(datagrams, 53, None), (port("::", 9000), 9001, Some(own))]);
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine().await;
}
