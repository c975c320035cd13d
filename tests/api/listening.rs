//! A driver that tells what it is told: its configuration, discoveries, networks.

use std::sync::mpsc::{Receiver, Sender, channel};

use netloom::drivers::{
    Begun, Capability, CreateEndpoint, CreateNetwork, DatastoreConfig, Discovery, Driver, DriverConfig,
    DriverCx, EndpointCreated, Join, Joined, Leave, Left, NetworkCreated, Registration, Scope, done,
};
use netloom::{EndpointId, Engine, EngineConfig, EventKind, NetworkId, NetworkSpec, Simulation, Victim};

use crate::support::bounded;

/// Its type.
pub(crate) const KIND: &str = "listening";

/// What it was told. It cannot know whether a value of it that is configured is going to serve.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Told {
    Configured(DriverConfig),
    Discovered(Discovery),
    Network(String),
}

/// See the module.
struct Listening {
    told: Sender<Told>,
}

impl Listening {
    fn tell(&self, what: Told) {
        // Nobody listens any more when its test is over.
        let _ = self.told.send(what);
    }
}

impl Driver for Listening {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn configure(&mut self, config: &DriverConfig) -> netloom::Result<()> {
        self.tell(Told::Configured(config.clone()));
        config.only(KIND, &["speed", "com.docker.network.driver.listening.colour"])
    }

    fn capability(&self) -> Capability {
        Capability {
            scope: Scope::Global,
            needs_ipam: true,
            shares_pools: false,
            provides_gateway: false,
            adopts: &[],
            permanent: false,
            hears_of_bare: true,
        }
    }

    fn create_network(&mut self, _: &DriverCx, request: CreateNetwork) -> Begun<NetworkCreated> {
        self.tell(Told::Network(request.name));
        done(NetworkCreated::default())
    }

    fn delete_network(&mut self, _: &DriverCx, _: NetworkId) -> Begun<()> {
        done(())
    }

    fn create_endpoint(&mut self, _: &DriverCx, _: CreateEndpoint) -> Begun<EndpointCreated> {
        done(EndpointCreated::default())
    }

    fn delete_endpoint(&mut self, _: &DriverCx, _: NetworkId, _: EndpointId) -> Begun<()> {
        done(())
    }

    fn join(&mut self, _: &DriverCx, _: Join) -> Begun<Joined> {
        done(Joined::default())
    }

    fn leave(&mut self, _: &DriverCx, _: Leave) -> Begun<Left> {
        done(Left::default())
    }

    fn discovered(&mut self, _: &DriverCx, discovery: Discovery) -> Begun<()> {
        self.tell(Told::Discovered(discovery));
        done(())
    }
}

/// A driver that reaches over hosts, and what it is told.
pub(crate) fn registered() -> (Registration, Receiver<Told>) {
    let (sender, told) = channel();
    (Registration::new(KIND, move || Listening { told: sender.clone() }), told)
}

/// An engine with this driver, and what the driver is told.
pub(crate) struct Heard {
    pub(crate) simulation: Simulation,
    told: Receiver<Told>,
}

impl Heard {
    pub(crate) async fn start(config: EngineConfig) -> netloom::Result<Self> {
        let (registration, told) = registered();
        let simulation = Engine::simulation().config(config).driver(registration).start().await?;
        Ok(Self { simulation, told })
    }

    pub(crate) fn controller(&self) -> netloom::Controller {
        self.simulation.engine().controller()
    }

    /// What the driver was told so far. A network is made first: its creation is told behind everything before it.
    pub(crate) async fn told(&self, marker: &str) -> Vec<Told> {
        let spec = NetworkSpec::new(marker).driver(KIND);
        bounded("a network", self.controller().create_network(spec)).await.expect("made");
        let mut told: Vec<_> = self.told.try_iter().collect();
        assert_eq!(told.pop(), Some(Told::Network(marker.to_owned())));
        told
    }

    pub(crate) async fn crash(&self, victim: Victim) {
        let mut events = self.simulation.engine().events();
        bounded("crashing", self.simulation.crash_actor(victim)).await.expect("told");
        let restarted = async {
            while let Some(event) = events.next().await {
                if matches!(event.expect("nothing missed").kind, EventKind::ActorRestarted { .. }) {
                    return;
                }
            }
            panic!("the engine ended");
        };
        bounded("the restart", restarted).await;
    }

    /// The store that every IPAM driver knows.
    pub(crate) async fn ipam_store(&self) -> Option<DatastoreConfig> {
        let picture = bounded("inspecting", self.simulation.engine().inspect()).await.expect("inspected");
        let [default, null] = &*picture.ipam else { panic!("{:?}", picture.ipam) };
        assert_eq!((&*default.driver, &*null.driver), ("default", "null"));
        assert_eq!(default.cluster_store, null.cluster_store);
        default.cluster_store.clone()
    }
}
