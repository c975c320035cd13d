//! A published port, and somebody who comes to it from outside.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use netloom::testkit::probe::{Connector, Listener};
use netloom::{
    Endpoint, EndpointSpec, Engine, JoinSpec, Network, NetworkSpec, PortBinding, Sandbox, SandboxSpec,
    TransportPort,
};

use super::{Clock, Member, carry};

/// The container's port.
const PORT: u16 = 8080;
/// Whether the host passes packets from one of its networks to another.
const FORWARDS: &str = "/proc/sys/net/ipv4/ip_forward";

/// What is published: any port of the host leads to the container's.
pub(super) fn binding() -> PortBinding {
    PortBinding::any(TransportPort::tcp(PORT))
}

/// Has a namespace of the demonstration's own pass packets on, as hosts of containers do.
pub(super) fn forward() -> anyhow::Result<()> {
    std::fs::write(FORWARDS, "1").with_context(|| format!("cannot write {FORWARDS}"))
}

/// Comes to the published port from a container of another network; or from the host itself, where that passes no packets
/// on.
pub(super) async fn outside(
    clock: &mut Clock,
    engine: &Engine,
    (endpoint, server, address): (&Endpoint, &Sandbox, IpAddr),
) -> anyhow::Result<Option<(Network, Member)>> {
    let open = move || Listener::open((address, PORT).into());
    let listener = server.run(open).await?.context("cannot listen")?;
    let published = endpoint.inspect().await?.published;
    let port = published.0.first().context("no port is published")?.host.range.first;
    if std::fs::read_to_string(FORWARDS)?.trim() != "1" {
        let here = endpoint.inspect().await?.gateway.context("no gateway")?;
        let connector = Connector::open(here).context("cannot open a socket")?;
        let what = format!("TCP from the host, which does not forward, to its port {port}");
        clock.step(&what, carry(listener, connector, SocketAddr::new(here, port))).await?;
        return Ok(None);
    }
    let visitor = clock.step("join a visitor to another network", async {
        let controller = engine.controller();
        let network = controller.create_network(NetworkSpec::new("elsewhere")).await?;
        let endpoint = network.create_endpoint(EndpointSpec::new("visitor")).await?;
        let sandbox = controller.create_sandbox(SandboxSpec::new("demo-visitor")).await?;
        endpoint.join(&sandbox, JoinSpec::default()).await?;
        let own = endpoint.inspect().await?.ipv4.context("no address")?.addr();
        Ok(((network, (endpoint, sandbox, IpAddr::V4(own))), own.to_string()))
    });
    let (network, visitor) = visitor.await?;
    // The host is where its network says the way out is.
    let host = visitor.0.inspect().await?.gateway.context("no gateway")?;
    let open = move || Connector::open(host);
    let connector = visitor.1.run(open).await?.context("cannot open a socket")?;
    let what = format!("TCP from outside to the host's port {port}");
    clock.step(&what, carry(listener, connector, SocketAddr::new(host, port))).await?;
    Ok(Some((network, visitor)))
}
