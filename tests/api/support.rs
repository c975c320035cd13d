//! What the scenarios share.

use netloom::testkit::{SimKernel, SimSnapshot};
use netloom::{
    Endpoint, EndpointSpec, Engine, JoinSpec, Network, NetworkSpec, Sandbox, SandboxSpec, Simulation,
};

/// A simulation and the state of its kernel before anything was made.
pub(crate) struct World {
    pub(crate) simulation: Simulation,
    pub(crate) before: SimSnapshot,
}

impl World {
    pub(crate) async fn new() -> Self {
        let kernel = SimKernel::new();
        let before = kernel.snapshot();
        let simulation = Engine::simulation().kernel(kernel).start().await.expect("the engine starts");
        Self { simulation, before }
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.simulation.engine()
    }

    pub(crate) async fn network(&self, name: &str) -> Network {
        self.engine().controller().create_network(NetworkSpec::new(name)).await.expect("a network")
    }

    pub(crate) async fn sandbox(&self, container: &str) -> Sandbox {
        self.engine().controller().create_sandbox(SandboxSpec::new(container)).await.expect("a sandbox")
    }

    /// An endpoint in a sandbox of its own.
    pub(crate) async fn joined(&self, network: &Network, name: &str) -> (Endpoint, Sandbox) {
        let endpoint = network.create_endpoint(EndpointSpec::new(name)).await.expect("an endpoint");
        let sandbox = self.sandbox(&format!("{}-{name}", network.name())).await;
        endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
        (endpoint, sandbox)
    }

    /// Deletes everything there is, through the public interface.
    pub(crate) async fn delete_everything(&self) {
        let controller = self.engine().controller();
        for sandbox in controller.sandboxes() {
            sandbox.delete().await.expect("a sandbox is deleted");
        }
        for network in controller.networks() {
            for endpoint in network.endpoints().await.expect("listed") {
                endpoint.delete().await.expect("an endpoint is deleted");
            }
            network.delete().await.expect("a network is deleted");
        }
    }

    /// Waits for the clean-up and checks that nothing of the engine is left: in the kernel, in the store, in
    /// flight.
    pub(crate) async fn assert_pristine(&self) {
        self.engine().drain().await.expect("drained");
        self.simulation.kernel().assert_pristine(&self.before);
        let records = self.simulation.disk().records();
        assert!(records.is_empty(), "records left: {records:?}");
        let intents = self.simulation.disk().intents();
        assert!(intents.is_empty(), "intents left: {intents:?}");
        let picture = self.engine().inspect().await.expect("inspected");
        assert!(picture.operations.is_empty(), "in flight: {:?}", picture.operations);
        assert!(picture.leaks.is_empty(), "leaks: {:?}", picture.leaks);
    }
}
