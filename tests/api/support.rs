//! What the scenarios share.

#[path = "support_files.rs"]
pub(crate) mod files;
#[path = "support_names.rs"]
pub(crate) mod names;
#[path = "support_ports.rs"]
pub(crate) mod ports;

use std::time::Duration;

use netloom::testkit::{SimKernel, SimSnapshot};
use netloom::{
    Endpoint, EndpointSpec, Engine, EngineConfig, JoinSpec, Network, NetworkSpec, Sandbox, SandboxSpec,
    Simulation, WayOut,
};
use netloom_model::record::WAY_OUT_LABEL;

/// How long anything may take before a test calls it a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something that must not hang.
#[track_caller]
pub(crate) fn bounded<F: Future>(what: &str, work: F) -> impl Future<Output = F::Output> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(value) => value,
            Err(_) => panic!("{what} hangs ({place})"),
        }
    }
}

/// Waits until a condition holds. It is asked again and again, so no change can be missed.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    bounded(what, async move {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
}

/// Tells something that makes a failure repeatable, or a figure.
#[expect(clippy::print_stdout, reason = "seeds and figures belong in the output of a test")]
pub(crate) fn note(text: impl std::fmt::Display) {
    println!("{text}");
}

/// A configuration with this time for an operation.
pub(crate) fn within(operation: Duration) -> EngineConfig {
    let mut config = EngineConfig::default();
    config.timeouts.operation = operation;
    config
}

/// A simulation and the state of its kernel before anything was made.
pub(crate) struct World {
    pub(crate) simulation: Simulation,
    pub(crate) before: SimSnapshot,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(EngineConfig::default()).await
    }

    pub(crate) async fn with(config: EngineConfig) -> Self {
        Self::of(Engine::simulation().config(config)).await
    }

    /// One whose commits gather, as those of a store on a disk do.
    pub(crate) async fn gathering(config: EngineConfig) -> Self {
        Self::of(Engine::simulation().config(config).store_on_a_thread()).await
    }

    /// One that writes the files of names.
    pub(crate) async fn with_files(config: EngineConfig) -> Self {
        Self::of(Engine::simulation().config(config).name_files()).await
    }

    async fn of(simulation: netloom::SimulationBuilder) -> Self {
        let kernel = SimKernel::new();
        let before = kernel.snapshot();
        let simulation = simulation.kernel(kernel).start().await.expect("the engine starts");
        Self { simulation, before }
    }

    /// The same machine with a new engine, after the old one was killed.
    pub(crate) async fn kill_and_restart(self) -> Self {
        let Self { simulation, before } = self;
        let simulation =
            bounded("the restart", simulation.kill_and_restart()).await.expect("it starts again");
        Self { simulation, before }
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.simulation.engine()
    }

    pub(crate) fn kernel(&self) -> &SimKernel {
        self.simulation.kernel()
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

    /// Two networks, and an endpoint `old` of each in a sandbox.
    pub(crate) async fn blue_and_red(&self, sandbox: &Sandbox) -> [Network; 2] {
        let networks = [self.network("blue").await, self.network("red").await];
        for network in &networks {
            let endpoint = network.create_endpoint(EndpointSpec::new("old")).await.expect("an endpoint");
            endpoint.join(sandbox, JoinSpec::default()).await.expect("joined");
        }
        networks
    }

    /// Deletes everything there is, through the public interface.
    pub(crate) async fn delete_everything(&self) {
        delete_everything(self.engine()).await.expect("everything can be deleted");
    }

    /// Waits for the clean-up and checks that nothing of the engine is left: in the kernel, in the store, in
    /// flight.
    pub(crate) async fn assert_pristine(&self) {
        bounded("draining", self.engine().drain()).await.expect("drained");
        let left = self.leftovers().await;
        assert!(left.is_empty(), "left over:\n  {}", left.join("\n  "));
    }

    /// The same where the janitor may still have something to do.
    pub(crate) async fn assert_pristine_soon(&self) {
        bounded("draining", self.engine().drain()).await.expect("drained");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let left = self.leftovers().await;
            if left.is_empty() {
                return;
            }
            let late = tokio::time::Instant::now() > deadline;
            assert!(!late, "still left over:\n  {}", left.join("\n  "));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns when the IPAM driver `default` answers, after its actor has died.
    pub(crate) async fn ipam_is_back(&self) {
        let answers = async || {
            let picture = self.engine().inspect().await;
            picture.is_ok_and(|picture| picture.ipam.iter().any(|ipam| ipam.driver == "default"))
        };
        until("IPAM", answers).await;
    }

    /// Waits until nothing runs and everything that is listed is true.
    pub(crate) async fn settles(&self) {
        self.settled().await.unwrap_or_else(|why| panic!("{why}"));
    }

    /// The same, and says what is in the way of it.
    pub(crate) async fn settled(&self) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            // The controller may have died a moment ago.
            let picture = bounded("inspecting", self.engine().inspect()).await;
            let busy = picture.map(|picture| (picture.operations, picture.leaks, picture.reaping));
            let quiet =
                matches!(&busy, Ok((operations, leaks, 0)) if operations.is_empty() && leaks.is_empty());
            let truth = check_truth(self.engine(), self.kernel()).await;
            if quiet && truth.is_ok() {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                return Err(format!("it does not settle: {truth:?}; {busy:?}"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// A line for everything that is left of the engine: in the kernel, in the store, in flight.
    pub(crate) async fn leftovers(&self) -> Vec<String> {
        let mut left = self.kernel().leftovers(&self.before);
        left.extend(self.simulation.disk().records().iter().map(|(key, _)| format!("record: {key:?}")));
        left.extend(self.simulation.disk().intents().iter().map(|intent| format!("intent: {intent:?}")));
        let picture = bounded("inspecting", self.engine().inspect()).await.expect("inspected");
        left.extend(picture.operations.iter().map(|operation| format!("in flight: {operation:?}")));
        left.extend(picture.leaks.iter().map(|leak| format!("leak: {leak}")));
        left.extend(self.kernel().sim_ports().held().iter().map(|port| format!("held: {port}")));
        let taken = bounded("listing ports", self.engine().controller().ports()).await.expect("listed");
        left.extend(taken.iter().map(|ports| format!("taken: {ports:?}")));
        let names = bounded("listing names", self.engine().controller().names()).await.expect("listed");
        left.extend(
            names.iter().filter(|zone| !zone.records.is_empty()).map(|zone| format!("names: {zone:?}")),
        );
        left.extend(picture.name_servers.iter().map(|server| format!("name server: {server:?}")));
        if picture.reaping > 0 {
            left.push(format!("{} clean-ups under way", picture.reaping));
        }
        left
    }
}

/// Deletes everything that an engine lists.
pub(crate) async fn delete_everything(engine: &Engine) -> netloom::Result<()> {
    let controller = engine.controller();
    for sandbox in controller.sandboxes() {
        bounded("deleting a sandbox", sandbox.delete()).await?;
    }
    for network in controller.networks() {
        for endpoint in bounded("listing", network.endpoints()).await? {
            bounded("deleting an endpoint", endpoint.delete()).await?;
        }
        bounded("deleting a network", network.delete()).await?;
    }
    Ok(())
}

/// Checks that what an engine lists is true, and that records and kernel do not differ. Meant for a moment at which
/// nothing runs.
pub(crate) async fn check_truth(engine: &Engine, kernel: &SimKernel) -> Result<(), String> {
    check_lists(engine, kernel).await?;
    files::check(engine).await?;
    ports::check(engine, kernel).await?;
    names::check(engine).await?;
    let differences = engine.diff().await.map_err(|error| error.to_string())?;
    if differences.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = differences.iter().map(ToString::to_string).collect();
    Err(format!("records and kernel differ: {}", lines.join("; ")))
}

/// Checks that objects and their parts agree with each other, nothing is half-way, and every joined endpoint that
/// has a gateway reaches it.
pub(crate) async fn check_lists(engine: &Engine, kernel: &SimKernel) -> Result<(), String> {
    use netloom::NamespaceSpec;
    use netloom::snapshot::{EndpointPhase, NetworkPhase, SandboxPhase};
    let picture = engine.inspect().await.map_err(|error| error.to_string())?;
    let controller = engine.controller();
    let count = (controller.networks().len(), controller.sandboxes().len());
    if count != (picture.networks.len(), picture.sandboxes.len()) {
        return Err(format!("listed are {count:?} networks and sandboxes, inspected others: {picture:?}"));
    }
    let mut joined = 0_usize;
    for network in &picture.networks {
        if network.phase != NetworkPhase::Active {
            return Err(format!("network {} is {:?}: {:?}", network.name, network.phase, network.failure));
        }
        for endpoint in &network.endpoints {
            let name = format!("endpoint {} of network {}", endpoint.name, network.name);
            let Some(id) = endpoint.sandbox else {
                if endpoint.phase != EndpointPhase::Idle {
                    return Err(format!("{name} is {:?} and in no sandbox", endpoint.phase));
                }
                if endpoint.labels.contains_key(WAY_OUT_LABEL) {
                    return Err(format!("{name} was a way out, and is in no sandbox"));
                }
                continue;
            };
            joined += 1;
            let sandbox = picture.sandboxes.iter().find(|sandbox| sandbox.id == id);
            let sandbox = sandbox.ok_or_else(|| format!("{name} is in a sandbox that is not listed"))?;
            if !sandbox.endpoints.iter().any(|inside| inside.endpoint == endpoint.id) {
                return Err(format!("{name} says it is in {}, which does not know it", sandbox.container_id));
            }
            let due = match sandbox.phase {
                SandboxPhase::Waiting => EndpointPhase::Reserved,
                _ => EndpointPhase::Joined,
            };
            if endpoint.phase != due {
                return Err(format!(
                    "{name} is {:?} in a sandbox that is {:?}",
                    endpoint.phase, sandbox.phase
                ));
            }
            if due == EndpointPhase::Reserved {
                if endpoint.gateway.is_some() || !endpoint.routes.is_empty() {
                    return Err(format!("{name} is not plugged in and brings something: {endpoint:?}"));
                }
                continue;
            }
            if sandbox.namespace == NamespaceSpec::Host {
                continue;
            }
            let netns = controller.sandbox(id).and_then(|sandbox| sandbox.netns());
            let netns = netloom::kernel::Netns::Named(netns.map_err(|error| error.to_string())?);
            let gateways = network.v4.iter().chain(&network.v6).filter_map(|pool| pool.gateway);
            for gateway in gateways {
                let reached = kernel.can_reach(netns, gateway);
                reached.map_err(|why| format!("{name} does not reach {gateway}: {why}"))?;
            }
        }
    }
    let endpoints: Vec<_> = picture.networks.iter().flat_map(|network| &network.endpoints).collect();
    for sandbox in &picture.sandboxes {
        let waits = sandbox.phase == SandboxPhase::Waiting && sandbox.namespace == NamespaceSpec::External;
        if sandbox.phase != SandboxPhase::Ready && !waits {
            return Err(format!("sandbox {} is {:?}", sandbox.container_id, sandbox.phase));
        }
        let way_out = match sandbox.namespace {
            // The host has its own, which is none of ours.
            NamespaceSpec::Host => [None, None],
            NamespaceSpec::External if waits => {
                is_not_mounted(engine, kernel, sandbox).await?;
                [None, None]
            }
            NamespaceSpec::Own | NamespaceSpec::External => default_routes(engine, kernel, sandbox).await?,
        };
        if way_out != [sandbox.gateway, sandbox.gateway6] {
            return Err(format!(
                "{} has the way out {way_out:?}, and says {sandbox:?}",
                sandbox.container_id
            ));
        }
        needs_its_way_out(sandbox, &endpoints)?;
        joined = joined
            .checked_sub(sandbox.endpoints.len())
            .ok_or("a sandbox lists an endpoint that is not in it")?;
    }
    if joined == 0 { Ok(()) } else { Err(format!("sandboxes lack {joined} of the endpoints joined to them")) }
}

/// The next hops of the default routes inside a sandbox, IPv4 and IPv6.
async fn default_routes(
    engine: &Engine,
    kernel: &SimKernel,
    sandbox: &netloom::snapshot::SandboxSnapshot,
) -> Result<[Option<std::net::IpAddr>; 2], String> {
    use netloom::kernel::{Kernel, Netns};
    let netns = engine.controller().sandbox(sandbox.id).and_then(|sandbox| sandbox.netns());
    let netns = Netns::Named(netns.map_err(|error| error.to_string())?);
    let deadline = std::time::Instant::now() + PATIENCE;
    let routes = kernel.routes(netns, deadline).await.map_err(|error| error.to_string())?;
    let of = |v4: bool| {
        let default = routes
            .iter()
            .find(|route| route.destination.prefix_len() == 0 && route.destination.addr().is_ipv4() == v4);
        default.and_then(|route| route.via)
    };
    Ok([of(true), of(false)])
}

/// Checks that a sandbox that waits for its namespace has none.
async fn is_not_mounted(
    engine: &Engine,
    kernel: &SimKernel,
    sandbox: &netloom::snapshot::SandboxSnapshot,
) -> Result<(), String> {
    let netns = engine.controller().sandbox(sandbox.id).and_then(|sandbox| sandbox.netns());
    let netns = netns.map_err(|error| error.to_string())?;
    let deadline = std::time::Instant::now() + PATIENCE;
    let mounted = netloom::kernel::Kernel::namespaces(kernel, deadline).await;
    if mounted.map_err(|error| error.to_string())?.contains(&netns) {
        return Err(format!("{} waits for its namespace, and {netns} is mounted", sandbox.container_id));
    }
    Ok(())
}

/// Checks that a sandbox has an endpoint as its way out only where one of its own asks for one and none leads out.
fn needs_its_way_out(
    sandbox: &netloom::snapshot::SandboxSnapshot,
    endpoints: &[&netloom::snapshot::EndpointSnapshot],
) -> Result<(), String> {
    let (provided, own): (Vec<_>, Vec<_>) =
        sandbox.endpoints.iter().partition(|inside| inside.way_out == WayOut::Provided);
    let asks = |inside: &&netloom::snapshot::SandboxEndpoint| inside.way_out == WayOut::Wanted;
    let of = |inside: &netloom::snapshot::SandboxEndpoint| {
        endpoints.iter().find(|endpoint| endpoint.id == inside.endpoint)
    };
    let offers_gateway = |inside: &_| of(inside).is_some_and(|endpoint| endpoint.gateway.is_some());
    let leads_out = |inside: &netloom::snapshot::SandboxEndpoint| {
        let is_default = |route: &netloom::StaticRoute| route.destination.to_string() == "0.0.0.0/0";
        offers_gateway(inside) || of(inside).is_some_and(|endpoint| endpoint.routes.iter().any(is_default))
    };
    if sandbox.gateway.is_none()
        && sandbox.namespace != netloom::NamespaceSpec::Host
        && sandbox.endpoints.iter().any(offers_gateway)
    {
        return Err(format!("{} uses none of the gateways it is offered", sandbox.container_id));
    }
    let mut asking = own.into_iter().filter(asks).peekable();
    let needed = asking.peek().is_some() && !asking.any(leads_out);
    if provided.len() > usize::from(needed) {
        let name = &sandbox.container_id;
        return Err(format!("{name} has a way out that nobody needs: {:?}", sandbox.endpoints));
    }
    Ok(())
}
