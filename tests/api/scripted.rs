//! A driver that makes nothing and does as a test tells it.

use std::collections::BTreeMap;
use std::sync::Arc;

use netloom::drivers::{
    Begun, Capability, CreateEndpoint, CreateNetwork, DesiredObject, Driver, DriverCx, EndpointCreated,
    ExternalConnectivity, Join, Joined, Leave, Left, NetworkCreated, Place, Programmed, Registration, Scope,
};
use netloom::testkit::SimKernel;
use netloom::{EndpointId, Engine, EngineConfig, Network, NetworkId, NetworkSpec, Published, Simulation};

use crate::support::World;

/// What the driver is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    Survey,
    CreateNetwork,
    DeleteNetwork,
    CreateEndpoint,
    DeleteEndpoint(EndpointId),
    Join,
    Leave,
    Program(EndpointId),
    Revoke(EndpointId),
}

type Script = Arc<dyn Fn(Asked) -> Begun<()> + Send + Sync>;

/// The driver. Its clones are one.
#[derive(Clone)]
pub(crate) struct Scripted {
    pub(crate) capability: Capability,
    pub(crate) network: NetworkCreated,
    pub(crate) endpoint: EndpointCreated,
    pub(crate) joined: Joined,
    pub(crate) desired: Vec<DesiredObject>,
    /// By which ports an endpoint is reached.
    pub(crate) published: Arc<dyn Fn() -> Published + Send + Sync>,
    script: Script,
}

impl Scripted {
    /// Its type.
    pub(crate) const KIND: &'static str = "scripted";

    /// A driver that asks the script first, and then answers with nothing special.
    pub(crate) fn new(script: impl Fn(Asked) -> Begun<()> + Send + Sync + 'static) -> Self {
        Self {
            capability: Capability {
                scope: Scope::Local,
                needs_ipam: true,
                shares_pools: false,
                provides_gateway: true,
                adopts: &[],
                permanent: false,
                hears_of_bare: true,
            },
            network: NetworkCreated::default(),
            endpoint: EndpointCreated::default(),
            joined: Joined { gateway: Some([10, 0, 0, 1].into()), ..Joined::default() },
            desired: Vec::new(),
            published: Arc::new(Published::default),
            script: Arc::new(script),
        }
    }

    pub(crate) fn registration(&self) -> Registration {
        let made = self.clone();
        Registration::new(Self::KIND, move || made.clone())
    }

    /// An engine that has it.
    pub(crate) async fn world(&self, config: EngineConfig) -> World {
        let kernel = SimKernel::new();
        let before = kernel.snapshot();
        let simulation = Engine::simulation().config(config).kernel(kernel).driver(self.registration());
        let simulation: Simulation = simulation.start().await.expect("the engine starts");
        World { simulation, before }
    }

    fn then<T: Send + 'static>(&self, asked: Asked, answer: T) -> Begun<T> {
        let work = (self.script)(asked)?;
        Ok(Box::pin(async move { work.await.map(|()| answer) }))
    }
}

/// A network of this driver.
pub(crate) async fn scripted_network(world: &World, name: &str) -> Network {
    let spec = NetworkSpec::new(name).driver(Scripted::KIND);
    world.engine().controller().create_network(spec).await.expect("a network")
}

impl Driver for Scripted {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn capability(&self) -> Capability {
        self.capability
    }

    fn survey_network(&mut self, _: &DriverCx, _: &CreateNetwork) -> Begun<BTreeMap<String, String>> {
        self.then(Asked::Survey, BTreeMap::new())
    }

    fn create_network(&mut self, _: &DriverCx, _: CreateNetwork) -> Begun<NetworkCreated> {
        self.then(Asked::CreateNetwork, self.network.clone())
    }

    fn delete_network(&mut self, _: &DriverCx, _: NetworkId) -> Begun<()> {
        self.then(Asked::DeleteNetwork, ())
    }

    fn create_endpoint(&mut self, _: &DriverCx, _: CreateEndpoint) -> Begun<EndpointCreated> {
        self.then(Asked::CreateEndpoint, self.endpoint.clone())
    }

    fn delete_endpoint(&mut self, _: &DriverCx, _: NetworkId, endpoint: EndpointId) -> Begun<()> {
        self.then(Asked::DeleteEndpoint(endpoint), ())
    }

    fn desired(&self, _: &DriverCx, _: NetworkId, _: &[Place]) -> Vec<DesiredObject> {
        self.desired.clone()
    }

    fn join(&mut self, _: &DriverCx, _: Join) -> Begun<Joined> {
        self.then(Asked::Join, self.joined.clone())
    }

    fn leave(&mut self, _: &DriverCx, _: Leave) -> Begun<Left> {
        self.then(Asked::Leave, Left::default())
    }

    fn program_external_connectivity(
        &mut self,
        _: &DriverCx,
        request: ExternalConnectivity,
    ) -> Begun<Programmed> {
        let published = (self.published)().into();
        self.then(Asked::Program(request.endpoint), Programmed { published })
    }

    fn revoke_external_connectivity(
        &mut self,
        _: &DriverCx,
        _: NetworkId,
        endpoint: EndpointId,
    ) -> Begun<()> {
        self.then(Asked::Revoke(endpoint), ())
    }
}
