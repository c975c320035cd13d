//! Options of networks, endpoints and sandboxes: recorded, handed on, kept over a restart.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use netloom::drivers::{
    Begun, Capability, CreateEndpoint, CreateNetwork, Driver, DriverCx, EndpointCreated,
    ExternalConnectivity, Join, Joined, Leave, Left, NetworkCreated, Programmed, Registration,
    SandboxOptions, Scope, done,
};
use netloom::testkit::SimKernel;
use netloom::{
    EndpointId, EndpointSpec, Engine, ErrorKind, JoinSpec, Names, NamespaceSpec, NetworkId, NetworkSpec,
    PortBinding, Ports, SandboxSpec, Seldom, TransportPort,
};

use crate::support::World;

/// What a driver is told, in order.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Vec<Heard>>>);

#[derive(Clone, PartialEq, Debug)]
enum Heard {
    Endpoint { ipv6: bool, ports: Seldom<Ports>, options: BTreeMap<String, String> },
    Join(Arc<SandboxOptions>),
    Program(Seldom<Ports>, Arc<SandboxOptions>),
}

impl Listener {
    const KIND: &'static str = "listener";

    fn hear(&self, heard: Heard) {
        self.0.lock().expect("nobody panics with it").push(heard);
    }

    fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.0.lock().expect("nobody panics with it"))
    }
}

impl Driver for Listener {
    fn kind(&self) -> &'static str {
        Self::KIND
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

    fn create_network(&mut self, _: &DriverCx, _: CreateNetwork) -> Begun<NetworkCreated> {
        done(NetworkCreated::default())
    }

    fn delete_network(&mut self, _: &DriverCx, _: NetworkId) -> Begun<()> {
        done(())
    }

    fn create_endpoint(&mut self, _: &DriverCx, request: CreateEndpoint) -> Begun<EndpointCreated> {
        let CreateEndpoint { ipv6, ports, options, .. } = request;
        self.hear(Heard::Endpoint { ipv6: ipv6.is_some(), ports, options });
        done(EndpointCreated::default())
    }

    fn delete_endpoint(&mut self, _: &DriverCx, _: NetworkId, _: EndpointId) -> Begun<()> {
        done(())
    }

    fn join(&mut self, _: &DriverCx, request: Join) -> Begun<Joined> {
        self.hear(Heard::Join(request.sandbox));
        done(Joined { gateway: Some([10, 0, 0, 1].into()), ..Joined::default() })
    }

    fn leave(&mut self, _: &DriverCx, _: Leave) -> Begun<Left> {
        done(Left::default())
    }

    fn program_external_connectivity(
        &mut self,
        _: &DriverCx,
        request: ExternalConnectivity,
    ) -> Begun<Programmed> {
        self.hear(Heard::Program(request.ports, request.sandbox));
        done(Programmed::default())
    }
}

async fn listening() -> (World, Listener) {
    let (kernel, listener) = (SimKernel::new(), Listener::default());
    let (before, own) = (kernel.snapshot(), listener.clone());
    let registration = Registration::new(Listener::KIND, move || own.clone());
    let simulation = Engine::simulation().kernel(kernel).driver(registration).start().await;
    (World { simulation: simulation.expect("the engine starts"), before }, listener)
}

fn full_sandbox() -> SandboxSpec {
    SandboxSpec::new("c1")
        .hostname("web.example")
        .label("com.example.role", "front")
        .dns([192, 0, 2, 53].into())
        .extra_host("db", [192, 0, 2, 7].into())
        .expose(TransportPort::udp(53))
        .publish(PortBinding::new(8080, TransportPort::tcp(80)))
        .with(|settings| {
            settings.domainname = "example".into();
            settings.hosts_path = Some("/var/lib/c1/hosts".into());
            settings.dns_search = vec!["corp.example".into()];
            settings.dns_options = vec!["ndots:1".into()];
            settings.options = [("com.example.shape".to_owned(), "round".to_owned())].into();
            settings.ingress = true;
        })
}

fn full_endpoint() -> EndpointSpec {
    EndpointSpec::new("web")
        .option("com.example.colour", "blue")
        .expose(TransportPort::tcp(80))
        .publish(PortBinding::any(TransportPort::tcp(80)))
        .alias("www")
        .link("db", "data")
        .anonymous()
}

#[tokio::test]
async fn every_option_reaches_the_driver_and_outlives_the_engine() {
    let (world, listener) = listening().await;
    let controller = world.engine().controller();
    let network = controller.create_network(NetworkSpec::new("blue").driver(Listener::KIND)).await;
    let network = network.expect("a network");
    let endpoint = network.create_endpoint(full_endpoint()).await.expect("an endpoint");
    let sandbox = controller.create_sandbox(full_sandbox()).await.expect("a sandbox");
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");

    let told = Arc::new(SandboxOptions::from(&full_sandbox()));
    assert_eq!(told.ports.map.len(), 1, "the test has something to look for");
    let EndpointSpec { ports, options, .. } = full_endpoint();
    let heard = listener.heard();
    let created = Heard::Endpoint { ipv6: false, ports: ports.clone(), options: options.clone() };
    assert_eq!(
        heard,
        [created.clone(), Heard::Join(told.clone()), Heard::Program(ports.clone(), told.clone())]
    );

    let before = (endpoint.inspect().await.expect("inspected"), sandbox.inspect().await.expect("inspected"));
    let names = Names {
        aliases: vec!["www".into()],
        links: [("data".to_owned(), "db".to_owned())].into(),
        anonymous: true,
        no_resolution: false,
    };
    let names = Seldom::from(names);
    assert_eq!((&before.0.names, &before.0.ports, &before.0.options), (&names, &ports, &options));
    assert_eq!(before.1.hostname, "web.example");
    assert_eq!(before.1.settings, full_sandbox().settings);
    assert_eq!(before.1.namespace, NamespaceSpec::Own);

    let world = world.kill_and_restart().await;
    let controller = world.engine().controller();
    let network = controller.network_by_name("blue").expect("it was recorded");
    let sandbox = controller.sandbox_by_container("c1").expect("it was recorded");
    let endpoint = network.endpoint_by_name("web").await.expect("it was recorded");
    let after = (endpoint.inspect().await.expect("inspected"), sandbox.inspect().await.expect("inspected"));
    assert_eq!(after, before);
    // The driver is new, and is told all of it again.
    assert_eq!(listener.heard(), [created, Heard::Program(ports, told)]);
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// libnetwork's `NetworkOptionDeferIPv6Alloc`.
#[tokio::test]
async fn a_deferred_ipv6_address_is_given_and_not_shown_to_the_driver() {
    let (world, listener) = listening().await;
    let controller = world.engine().controller();
    let mut seen = Vec::new();
    for (name, subnet, defer) in [("now", "fd00:1::/64", false), ("later", "fd00:2::/64", true)] {
        let spec = NetworkSpec::new(name).driver(Listener::KIND).subnet(subnet.parse().expect("a subnet"));
        let network = controller.create_network(spec.defer_ipv6(defer)).await.expect("a network");
        let endpoint = network.create_endpoint(EndpointSpec::new("e")).await.expect("an endpoint");
        assert!(endpoint.inspect().await.expect("inspected").ipv6.is_some(), "{name}");
        seen.extend(listener.heard().into_iter().map(|heard| match heard {
            Heard::Endpoint { ipv6, .. } => ipv6,
            other => panic!("{other:?}"),
        }));
    }
    assert_eq!(seen, [true, false]);
    let error = controller.create_network(NetworkSpec::new("none").defer_ipv6(true)).await;
    assert_eq!(error.expect_err("nothing to put off").kind(), ErrorKind::InvalidParameter);
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// libnetwork's `NetworkOptionPersist(false)`: [T] usable, and gone with the engine.
#[tokio::test]
async fn a_network_that_is_not_to_be_kept_is_usable_and_gone_at_the_next_start() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let kept = world.network("kept").await;
    let volatile = controller.create_network(NetworkSpec::new("volatile").persist(false)).await;
    let volatile = volatile.expect("a network");
    assert!(!volatile.inspect().await.expect("inspected").persist);
    let sandbox = world.sandbox("c1").await;
    for network in [&kept, &volatile] {
        let endpoint = network.create_endpoint(EndpointSpec::new("e")).await.expect("an endpoint");
        endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    }
    let world = world.kill_and_restart().await;
    let controller = world.engine().controller();
    let repairs: Vec<_> = world.engine().repairs().iter().map(ToString::to_string).collect();
    assert_eq!(repairs, ["deleted network \"volatile\", which is not to outlive the engine"]);
    assert_eq!(controller.network_by_name("volatile").expect_err("gone").kind(), ErrorKind::NotFound);
    let sandbox = controller.sandbox_by_container("c1").expect("it is kept");
    assert_eq!(sandbox.inspect().await.expect("inspected").endpoints.len(), 1, "the other one stays");
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// Containers of a network without ICC reach its bridge and not each other.
#[tokio::test]
async fn without_icc_containers_reach_the_gateway_and_not_each_other() {
    let world = World::new().await;
    for (name, icc) in [("open", true), ("closed", false)] {
        let spec = NetworkSpec::new(name).option("com.docker.network.bridge.enable_icc", icc.to_string());
        let network = world.engine().controller().create_network(spec).await.expect("a network");
        let (_, a) = world.joined(&network, "a").await;
        let (b, _) = world.joined(&network, "b").await;
        let from = netloom::kernel::Netns::Named(a.netns().expect("a name"));
        let gateway = a.inspect().await.expect("inspected").gateway.expect("a gateway");
        let peer = b.inspect().await.expect("inspected").ipv4.expect("an address").addr();
        world.kernel().can_reach(from, gateway).expect("the gateway");
        assert_eq!(world.kernel().can_reach(from, peer.into()).is_ok(), icc, "{name}");
    }
    // Also on a bridge that was made again: its ports are put back as they were.
    let world = world.kill_and_restart().await;
    world.delete_everything().await;
    world.assert_pristine().await;
}
