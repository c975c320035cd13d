//! A network driver of the embedder's own, registered as a trait object beside the built-in ones.
//!
//! The driver here is `ptp`: every container gets a wire of its own to the host, a veth pair without a bridge,
//! and a route of the host leads back. It checks its options, keeps its own state, makes links through the
//! kernel operations, and comes back after a restart. It runs over the simulated kernel, and tells what it
//! was asked.
//!
//! Run with `cargo run --example custom_driver`.
#![allow(clippy::print_stdout)] // It talks to whoever runs it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::mpsc::{Sender, channel};

use anyhow::{Context, ensure};
use netloom::drivers::{
    Begun, Capability, CreateEndpoint, CreateNetwork, Driver, DriverCx, EndpointCreated,
    ExternalConnectivity, Interface, Join, Joined, Leave, Left, NetworkCreated, OperInfo, Programmed,
    Registration, Restored, Scope, done,
};
use netloom::kernel::{LinkTag, Netns, Op, Route, execute_all};
use netloom::testkit::SimKernel;
use netloom::{
    EndpointId, EndpointSpec, Engine, Error, ErrorKind, IfName, JoinId, JoinSpec, MacAddr, NetworkId,
    NetworkSpec, ObjectKind, Reason, Result, SandboxSpec,
};

// === The driver ===

/// The driver's type.
const KIND: &str = "ptp";
/// The option that sets the MTU of a network's links.
const MTU: &str = "ptp.mtu";

/// A wire from each container to the host.
struct PointToPoint {
    networks: HashMap<NetworkId, Wires>,
    /// Where it tells what it was asked.
    asked: Sender<String>,
}

/// What it knows about a network.
struct Wires {
    gateway: IpAddr,
    mtu: Option<u32>,
    endpoints: HashMap<EndpointId, Wire>,
}

/// What it knows about an endpoint.
struct Wire {
    address: IpAddr,
    mac: MacAddr,
    /// The host's end while it is joined.
    link: Option<IfName>,
}

impl PointToPoint {
    fn new(asked: Sender<String>) -> Self {
        Self { networks: HashMap::new(), asked }
    }

    /// Notes what it was asked. Whether anybody listens is not its business.
    fn note(&self, what: String) {
        let _ = self.asked.send(what);
    }

    fn network(&mut self, id: NetworkId) -> Result<&mut Wires> {
        self.networks.get_mut(&id).ok_or_else(|| Error::not_found(ObjectKind::Network, id))
    }

    fn wire(&mut self, network: NetworkId, endpoint: EndpointId) -> Result<&mut Wire> {
        let wire = self.network(network)?.endpoints.get_mut(&endpoint);
        wire.ok_or_else(|| Error::not_found(ObjectKind::Endpoint, endpoint))
    }

    /// The host's end of a join's link. The join is in it: an earlier link may still be dying, and a leave that
    /// is asked for again must not hit a later one.
    fn link(endpoint: EndpointId, JoinId(join): JoinId) -> Result<IfName> {
        format!("ptp{}{:04x}", &endpoint.short()[..7], join & 0xffff).parse()
    }

    fn tag(cx: &DriverCx, endpoint: EndpointId) -> LinkTag {
        LinkTag::new(&cx.instance, "endpoint", endpoint)
    }
}

/// The driver's own refusal.
fn refuse(message: impl Into<String>) -> Error {
    let kind = ErrorKind::InvalidParameter;
    Reason::Driver { driver: KIND.into(), kind, message: message.into() }.into()
}

fn origin(restored: Restored) -> &'static str {
    match restored {
        Restored::Fresh => "",
        Restored::FromStore => ", read back from the store",
    }
}

impl Driver for PointToPoint {
    fn kind(&self) -> &str {
        KIND
    }

    fn capability(&self) -> Capability {
        Capability {
            scope: Scope::Local,
            needs_ipam: true,
            shares_pools: false,
            provides_gateway: true,
            adopts: &[],
            permanent: false,
            hears_of_bare: true,
        }
    }

    fn create_network(&mut self, _: &DriverCx, request: CreateNetwork) -> Begun<NetworkCreated> {
        self.note(format!("create network {}{}", request.name, origin(request.restored)));
        if let Some(unknown) = request.options.keys().find(|key| *key != MTU) {
            return Err(refuse(format!("unknown option {unknown:?}; it knows {MTU:?}")));
        }
        let mtu = match request.options.get(MTU).map(|text| (text, text.parse::<u32>())) {
            None => None,
            Some((_, Ok(mtu @ 68..=65_535))) => Some(mtu),
            Some((text, _)) => return Err(refuse(format!("{MTU} is {text:?}, expected 68 to 65535"))),
        };
        if request.ipv6 {
            return Err(refuse("it carries IPv4 only"));
        }
        let gateway = request.v4.first().and_then(|pool| pool.gateway);
        let gateway = gateway.ok_or_else(|| refuse("it needs an IPv4 pool with a gateway"))?;
        self.networks.insert(request.network, Wires { gateway, mtu, endpoints: HashMap::new() });
        done(NetworkCreated::default())
    }

    fn delete_network(&mut self, _: &DriverCx, network: NetworkId) -> Begun<()> {
        self.note("delete network".into());
        self.networks.remove(&network);
        done(())
    }

    fn create_endpoint(&mut self, _: &DriverCx, request: CreateEndpoint) -> Begun<EndpointCreated> {
        self.note(format!("create endpoint {}{}", request.name, origin(request.restored)));
        let address = request.ipv4.ok_or_else(|| refuse("an endpoint needs an IPv4 address"))?.addr();
        let mac = request.mac.unwrap_or_else(|| MacAddr::from_ipv4(address));
        // The kernel costs nothing before the join. After a restart the link is there already.
        let wire =
            Wire { address: address.into(), mac, link: request.joined.and_then(|present| present.link) };
        self.network(request.network)?.endpoints.insert(request.endpoint, wire);
        let interface_prefix = Some("ptp".into());
        done(EndpointCreated { mac: Some(mac), interface_prefix, ..EndpointCreated::default() })
    }

    fn delete_endpoint(&mut self, _: &DriverCx, network: NetworkId, endpoint: EndpointId) -> Begun<()> {
        self.note("delete endpoint".into());
        if let Some(network) = self.networks.get_mut(&network) {
            network.endpoints.remove(&endpoint);
        }
        done(())
    }

    fn endpoint_info(&self, _: &DriverCx, network: NetworkId, endpoint: EndpointId) -> Begun<OperInfo> {
        let wire = self.networks.get(&network).and_then(|network| network.endpoints.get(&endpoint));
        let link = wire.and_then(|wire| wire.link);
        done(link.map(|link| ("ptp.link".to_owned(), link.to_string())).into_iter().collect())
    }

    fn join(&mut self, cx: &DriverCx, request: Join) -> Begun<Joined> {
        let host = Self::link(request.endpoint, request.join)?;
        self.note(format!("join as {} in {}", request.ifname, request.netns));
        let Wires { gateway, mtu, .. } = *self.network(request.network)?;
        let wire = self.wire(request.network, request.endpoint)?;
        wire.link = Some(host);
        let create = Op::CreateVeth {
            host,
            peer: request.ifname,
            netns: request.netns,
            master: None,
            mac: Some(wire.mac),
            mtu,
            tag: Self::tag(cx, request.endpoint),
        };
        let route = Route { destination: wire.address.into(), via: None, link: host };
        let dress = vec![
            Op::AddAddress { netns: Netns::Host, link: host, address: gateway.into() },
            Op::AddRoute { netns: Netns::Host, route },
        ];
        let (kernel, deadline) = (cx.kernel.clone(), cx.deadline);
        Ok(Box::pin(async move {
            // Two calls: the operations of one are tried whatever becomes of the ones before. If the second
            // fails, the engine calls `leave`.
            execute_all(&*kernel, vec![create], deadline).await?;
            execute_all(&*kernel, dress, deadline).await?;
            let interface = Interface::InPlace { link: Some(host) };
            Ok(Joined { interface, gateway: Some(gateway), ..Joined::default() })
        }))
    }

    fn leave(&mut self, cx: &DriverCx, request: Leave) -> Begun<Left> {
        self.note("leave".into());
        let name = Self::link(request.endpoint, request.join)?;
        if let Ok(wire) = self.wire(request.network, request.endpoint)
            && wire.link == Some(name)
        {
            wire.link = None;
        }
        let delete = Op::DeleteLink { name, tag: Some(Self::tag(cx, request.endpoint)) };
        let (kernel, deadline) = (cx.kernel.clone(), cx.deadline);
        Ok(Box::pin(async move {
            match execute_all(&*kernel, vec![Op::CutLink { name }], deadline).await {
                // No traffic passes any more. The deletion is slow, and nobody has to wait for it.
                Ok(()) => Ok(Left { remains: vec![delete] }),
                Err(error) if error.already_gone() => Ok(Left::default()),
                Err(error) => Err(error.into()),
            }
        }))
    }

    fn program_external_connectivity(&mut self, _: &DriverCx, _: ExternalConnectivity) -> Begun<Programmed> {
        self.note("be the way out of the sandbox".into());
        done(Programmed::default())
    }

    fn revoke_external_connectivity(&mut self, _: &DriverCx, _: NetworkId, _: EndpointId) -> Begun<()> {
        self.note("be the way out no longer".into());
        done(())
    }
}

// === Its use ===

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let kernel = SimKernel::new();
    let before = kernel.snapshot();
    let (sender, asked) = channel();
    let ptp = Registration::new(KIND, move || PointToPoint::new(sender.clone()));
    let simulation = Engine::simulation().kernel(kernel.clone()).driver(ptp).start().await?;
    let controller = simulation.engine().controller();
    println!("drivers: {}", controller.drivers().await?.join(", "));

    let spec = NetworkSpec::new("wires").driver(KIND);
    let refused = controller.create_network(spec.clone().option(MTU, "jumbo")).await;
    let error = refused.err().context("an MTU of that size must be refused")?;
    println!("refused: {error} ({:?})", error.kind());
    ensure!(error.kind() == ErrorKind::InvalidParameter && controller.networks().is_empty());

    let network = controller.create_network(spec.option(MTU, "9000")).await?;
    let endpoint = network.create_endpoint(EndpointSpec::new("web")).await?;
    let sandbox = controller.create_sandbox(SandboxSpec::new("container-1")).await?;
    endpoint.join(&sandbox, JoinSpec::default()).await?;
    let gateway = sandbox.inspect().await?.gateway.context("no gateway")?;
    let address = endpoint.inspect().await?.ipv4.context("no address")?;
    let inside = Netns::Named(sandbox.netns()?);
    kernel.can_reach(inside, gateway).map_err(anyhow::Error::msg)?;
    let link = endpoint.driver_info().await?.remove("ptp.link").context("the driver knows no link")?;
    println!("{address} reaches the host at {gateway} through {link}");

    // The next engine makes a new driver and tells it what there is.
    let simulation = simulation.kill_and_restart().await?;
    kernel.can_reach(inside, gateway).map_err(anyhow::Error::msg)?;
    ensure!(simulation.engine().repairs().is_empty(), "nothing was wrong");
    let controller = simulation.engine().controller();
    let endpoint = controller.network_by_name("wires")?.endpoint_by_name("web").await?;
    let sandbox = controller.sandbox_by_container("container-1")?;
    endpoint.leave(&sandbox).await?;
    ensure!(kernel.can_reach(inside, gateway).is_err(), "it is unplugged");
    endpoint.delete().await?;
    sandbox.delete().await?;
    controller.network_by_name("wires")?.delete().await?;
    simulation.engine().drain().await?;
    kernel.assert_pristine(&before);

    println!("the driver was asked to:");
    let asked: Vec<String> = asked.try_iter().collect();
    asked.iter().for_each(|what| println!("  {what}"));
    let restored = asked.iter().filter(|what| what.ends_with("read back from the store")).count();
    ensure!(restored == 2, "a network and an endpoint came back, and {restored} were told to the driver");
    Ok(())
}
