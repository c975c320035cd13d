//! Random operations of several callers against a small reference model. `NETLOOM_TEST_SEED` repeats a run.
//!
//! Each caller has names of its own, so that its model says exactly what must come out of each operation; all
//! share one engine, one kernel, one store, one address allocator and one network.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use netloom::testkit::{FaultKind, FaultPlan, RandomFaults};
use netloom::{
    Controller, Endpoint, EndpointSpec, EngineConfig, ErrorKind, JoinSpec, Network, NetworkSpec, Result,
    SandboxSpec,
};

use crate::support::{World, bounded, check_truth, note};

const CALLERS: u64 = 8;
const ROUNDS: usize = 10;
const STEPS: usize = 50;
/// Names of each kind that a caller uses: few, so that they collide.
const NAMES: u64 = 3;

/// The splitmix64 sequence.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

pub(crate) fn seed() -> u64 {
    let given = std::env::var("NETLOOM_TEST_SEED").ok().map(|text| text.parse().expect("a number"));
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::from(now.expect("after 1970").subsec_nanos())
    });
    note(format!("NETLOOM_TEST_SEED={seed}"));
    seed
}

/// What a caller believes to exist: endpoints by network and name, each with the sandbox it is in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Model {
    networks: BTreeMap<String, BTreeMap<String, Option<String>>>,
    sandboxes: BTreeSet<String>,
}

/// One caller.
struct Caller {
    number: u64,
    random: Random,
    controller: Controller,
    model: Model,
    /// Whether faults are about: then a call may also fail for their sake.
    faults: bool,
    failed: usize,
}

/// The network that all share; endpoints in it are named after their caller.
const SHARED: &str = "shared";

impl Caller {
    fn pick(&mut self, kind: &str) -> String {
        format!("{kind}{}-{}", self.number, self.random.below(NAMES))
    }

    fn pick_network(&mut self) -> String {
        if self.random.below(4) == 0 { SHARED.to_owned() } else { self.pick("n") }
    }

    /// Compares what came out with what must: `None` for success.
    fn judge<T>(&mut self, what: &str, outcome: Result<T>, expected: Option<ErrorKind>) -> Option<T> {
        match (outcome, expected) {
            (Ok(value), None) => Some(value),
            (Err(error), Some(kind)) if error.kind() == kind => None,
            (Err(error), _)
                if self.faults && matches!(error.kind(), ErrorKind::Internal | ErrorKind::Timeout) =>
            {
                self.failed += 1;
                None
            }
            // With faults, what went before may not have ended as the model has it.
            (Ok(_), Some(kind)) => panic!("caller {}: {what}: success instead of {kind:?}", self.number),
            (Err(error), expected) => {
                panic!("caller {}: {what}: {error:?} instead of {expected:?}", self.number)
            }
        }
    }

    async fn find(&self, network: &str, endpoint: &str) -> Option<(Network, Option<Endpoint>)> {
        let network = self.controller.network_by_name(network).ok()?;
        let endpoint = network.endpoint_by_name(endpoint).await.ok();
        Some((network, endpoint))
    }

    async fn step(&mut self) {
        let (network, endpoint) = (self.pick_network(), self.pick("e"));
        let sandbox = self.pick("c");
        match self.random.below(9) {
            0 => self.create_network().await,
            1 => self.delete_network().await,
            2 => self.create_sandbox(sandbox).await,
            3 => self.delete_sandbox(&sandbox).await,
            4 | 5 => self.create_endpoint(&network, endpoint).await,
            6 => self.delete_endpoint(&network, &endpoint).await,
            7 => self.join(&network, &endpoint, &sandbox).await,
            _ => self.leave(&network, &endpoint, &sandbox).await,
        }
        if self.faults {
            self.look().await;
        }
    }

    async fn create_network(&mut self) {
        let name = self.pick("n");
        let expected = self.model.networks.contains_key(&name).then_some(ErrorKind::Conflict);
        let outcome = self.controller.create_network(NetworkSpec::new(&name)).await;
        if self.judge("create network", outcome, expected).is_some() {
            self.model.networks.insert(name, BTreeMap::new());
        }
    }

    async fn delete_network(&mut self) {
        let name = self.pick("n");
        let Some(endpoints) = self.model.networks.get(&name) else {
            let found = self.controller.network_by_name(&name);
            self.judge("find network", found, Some(ErrorKind::NotFound));
            return;
        };
        let expected = (!endpoints.is_empty()).then_some(ErrorKind::Forbidden);
        let network = self.controller.network_by_name(&name).expect("the model has it");
        if self.judge("delete network", network.delete().await, expected).is_some() {
            self.model.networks.remove(&name);
        }
    }

    async fn create_sandbox(&mut self, name: String) {
        let expected = self.model.sandboxes.contains(&name).then_some(ErrorKind::Conflict);
        let outcome = self.controller.create_sandbox(SandboxSpec::new(&name)).await;
        if self.judge("create sandbox", outcome, expected).is_some() {
            self.model.sandboxes.insert(name);
        }
    }

    async fn delete_sandbox(&mut self, name: &str) {
        let expected = (!self.model.sandboxes.contains(name)).then_some(ErrorKind::NotFound);
        let outcome = match self.controller.sandbox_by_container(name) {
            Ok(sandbox) => sandbox.delete().await,
            Err(error) => Err(error),
        };
        if self.judge("delete sandbox", outcome, expected).is_some() {
            self.model.sandboxes.remove(name);
            for inside in self.model.networks.values_mut().flat_map(BTreeMap::values_mut) {
                if inside.as_deref() == Some(name) {
                    *inside = None;
                }
            }
        }
    }

    async fn create_endpoint(&mut self, network: &str, name: String) {
        let Some(endpoints) = self.model.networks.get(network) else { return };
        let expected = endpoints.contains_key(&name).then_some(ErrorKind::Conflict);
        let handle = self.controller.network_by_name(network).expect("the model has it");
        let outcome = handle.create_endpoint(EndpointSpec::new(&name)).await;
        if self.judge("create endpoint", outcome, expected).is_some() {
            self.model.networks.entry(network.to_owned()).or_default().insert(name, None);
        }
    }

    /// An endpoint of the model with its sandbox, and its handle.
    async fn endpoint(&mut self, network: &str, name: &str) -> Option<(Option<String>, Endpoint)> {
        let known = self.model.networks.get(network).and_then(|endpoints| endpoints.get(name)).cloned();
        let found = self.find(network, name).await.and_then(|(_, endpoint)| endpoint);
        assert_eq!(known.is_some(), found.is_some(), "caller {}: {network}/{name}", self.number);
        Some((known?, found?))
    }

    async fn delete_endpoint(&mut self, network: &str, name: &str) {
        let Some((inside, endpoint)) = self.endpoint(network, name).await else { return };
        let force = self.random.below(3) == 0;
        let expected = (inside.is_some() && !force).then_some(ErrorKind::Forbidden);
        let outcome = if force { endpoint.delete_with_force().await } else { endpoint.delete().await };
        if self.judge("delete endpoint", outcome, expected).is_some() {
            self.model.networks.entry(network.to_owned()).or_default().remove(name);
        }
    }

    async fn join(&mut self, network: &str, name: &str, sandbox: &str) {
        let Some((inside, endpoint)) = self.endpoint(network, name).await else { return };
        let Ok(handle) = self.controller.sandbox_by_container(sandbox) else {
            assert!(!self.model.sandboxes.contains(sandbox), "caller {}: {sandbox}", self.number);
            return;
        };
        let expected = inside.is_some().then_some(ErrorKind::Forbidden);
        let priority = i32::try_from(self.random.below(3)).expect("small");
        let outcome = endpoint.join(&handle, JoinSpec::priority(priority)).await;
        if self.judge("join", outcome, expected).is_some() {
            let endpoints = self.model.networks.entry(network.to_owned()).or_default();
            endpoints.insert(name.to_owned(), Some(sandbox.to_owned()));
        }
    }

    async fn leave(&mut self, network: &str, name: &str, sandbox: &str) {
        let Some((inside, endpoint)) = self.endpoint(network, name).await else { return };
        let Ok(handle) = self.controller.sandbox_by_container(sandbox) else { return };
        let expected = (inside.as_deref() != Some(sandbox)).then_some(ErrorKind::Forbidden);
        if self.judge("leave", endpoint.leave(&handle).await, expected).is_some() {
            let endpoints = self.model.networks.entry(network.to_owned()).or_default();
            endpoints.insert(name.to_owned(), None);
        }
    }

    /// The engine's picture of what this caller has.
    async fn seen(&self) -> Model {
        let mine = |name: &str| name[1..].starts_with(&format!("{}-", self.number));
        let mut seen = Model::default();
        let sandboxes = self.controller.sandboxes();
        let name_of = |id| {
            let sandbox = sandboxes.iter().find(|sandbox| sandbox.id() == id);
            sandbox.map(|sandbox| sandbox.container_id().to_owned()).expect("a sandbox that is listed")
        };
        for network in self.controller.networks() {
            if !mine(network.name()) && network.name() != SHARED {
                continue;
            }
            let snapshot = network.inspect().await.expect("listed");
            let endpoints = snapshot.endpoints.into_iter().filter(|endpoint| mine(&endpoint.name));
            let endpoints = endpoints.map(|endpoint| (endpoint.name, endpoint.sandbox.map(name_of)));
            seen.networks.insert(network.name().to_owned(), endpoints.collect());
        }
        let names = sandboxes.iter().map(netloom::Sandbox::container_id);
        seen.sandboxes = names.filter(|name| mine(name)).map(str::to_owned).collect();
        seen
    }

    /// Takes over what a failed call left: it may have been carried out or not.
    async fn look(&mut self) {
        self.model = self.seen().await;
    }
}

/// Runs all callers, and returns how many operations failed for the faults' sake.
async fn run(world: &World, seed: u64, faults: Option<f64>) -> usize {
    world.network(SHARED).await;
    let mut callers: Vec<_> = (0..CALLERS)
        .map(|number| Caller {
            number,
            random: Random(seed ^ (number << 48)),
            controller: world.engine().controller(),
            model: Model {
                networks: BTreeMap::from([(SHARED.to_owned(), BTreeMap::new())]),
                ..Model::default()
            },
            faults: faults.is_some(),
            failed: 0,
        })
        .collect();
    for round in 0..ROUNDS {
        if let Some(probability) = faults {
            let kinds = vec![FaultKind::Refuse(16), FaultKind::Lose, FaultKind::LoseBefore];
            let random = RandomFaults { seed: seed.wrapping_add(round as u64), probability, kinds };
            world.kernel().plan_all(FaultPlan { faults: Vec::new(), random: Some(random) });
        }
        let work = join_all(callers.iter_mut().map(async |caller| {
            for _ in 0..STEPS {
                caller.step().await;
            }
        }));
        bounded("a round", work).await;
        // Nothing runs now, so the listing is the model.
        world.kernel().clear_faults();
        world.settles().await;
        check_truth(world.engine(), world.kernel()).await.expect("what is listed is true");
        for caller in &callers {
            assert_eq!(caller.seen().await, caller.model, "caller {} after round {round}", caller.number);
        }
    }
    callers.iter().map(|caller| caller.failed).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_do_what_the_model_says() {
    let world = World::new().await;
    let failed = run(&world, seed(), None).await;
    assert_eq!(failed, 0);
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_with_random_faults_never_succeed_wrongly_and_end_clean() {
    for world in [World::new().await, World::gathering(EngineConfig::default()).await] {
        let failed = run(&world, seed(), Some(0.05)).await;
        assert!(failed > 0, "no fault took place");
        note(format!("{failed} operations failed"));
        world.delete_everything().await;
        world.assert_pristine_soon().await;
    }
}

/// The engine is killed between rounds, with everything standing; the next one has the same picture.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_survive_restarts() {
    let seed = seed();
    let mut world = World::new().await;
    for round in 0..4 {
        if round > 0 {
            let before = world.engine().inspect().await.unwrap();
            world = world.kill_and_restart().await;
            assert_eq!(world.engine().repairs(), []);
            let after = world.engine().inspect().await.unwrap();
            assert_eq!((after.networks, after.sandboxes), (before.networks, before.sandboxes));
            world.delete_everything().await;
        }
        run(&world, seed.wrapping_add(round), None).await;
    }
    world.delete_everything().await;
    world.assert_pristine().await;
}
