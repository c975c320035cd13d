//! Reconciliation at run time: what is dead goes, and nothing else, whatever goes on beside it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use netloom::kernel::{LinkKind, LinkTag, Netns, Op};
use netloom::testkit::{EffectTime, Fault, FaultKind, FaultPlan, Latency, RandomFaults};
use netloom::{
    EndpointSpec, Engine, ErrorKind, EventKind, IfName, JoinSpec, LiveSandbox, LiveSet, Network, Repair,
    Result, Sandbox, SandboxSpec, Stray, Victim,
};

use crate::model::{Random, seed};
use crate::support::{World, bounded, check_truth, note, until};

fn name(text: &str) -> IfName {
    text.parse().expect("a name")
}

fn bridge(bridge: &str, tag: LinkTag) -> Op {
    Op::CreateBridge { name: name(bridge), mac: None, mtu: None, tag }
}

/// A link of an engine's whose endpoint nobody knows, or that is none of its endpoint's.
fn veth(host: &str, instance: &str, endpoint: impl Into<String>) -> Op {
    let tag = LinkTag::new(instance, "endpoint", endpoint);
    let (netns, peer) = (Netns::Host, name(&format!("p{host}")));
    Op::CreateVeth { host: name(host), peer, netns, master: None, mac: None, mtu: None, tag }
}

#[tokio::test]
async fn what_is_dead_and_what_nobody_knows_goes_and_nothing_else() {
    let mut world = World::new().await;
    let kernel = world.kernel().clone();
    // Of others: of another engine, of a driver that is not built in, of nobody.
    let identity = world.engine().identity().to_owned();
    kernel.foreign_op(&bridge("br-theirs", LinkTag::new("other", "network", "ffff"))).unwrap();
    kernel.foreign_op(&bridge("br-custom", LinkTag::new(&identity, "custom", "ffff"))).unwrap();
    kernel.foreign_link(Netns::Host, name("lan0"), LinkKind::Bridge, Some("mine")).unwrap();
    kernel.foreign_netns("abcdefabcdef".parse().unwrap()).unwrap();
    world.before = kernel.snapshot();

    let blue = world.network("blue").await;
    let (_, lives) = world.joined(&blue, "lives").await;
    let (_, by_id) = world.joined(&blue, "by-id").await;
    let (gone, dead) = world.joined(&blue, "dead").await;
    let idle = blue.create_endpoint(EndpointSpec::new("idle")).await.unwrap();
    let mark = world.engine().mark();
    let (_, late) = world.joined(&blue, "late").await;
    kernel.foreign_op(&bridge("br-dead", LinkTag::new(&identity, "network", "dead"))).unwrap();
    kernel.foreign_op(&veth("vethdead", &identity, "d".repeat(64))).unwrap();
    kernel.foreign_op(&veth("vethidle", &identity, idle.id())).unwrap();
    kernel.foreign_op(&Op::CreateNetns { name: "0123456789ab".parse().unwrap(), ipv6: true }).unwrap();
    let seen = world.engine().diff().await.unwrap();
    assert_eq!(seen.len(), 4, "{seen:?}");

    let mut events = world.engine().events();
    let live: [LiveSandbox; 3] = ["blue-lives".into(), by_id.id().into(), "ghost".into()];
    let report = bounded("reconciling", world.engine().reconcile(LiveSet::since(mark).with_all(live)));
    let report = report.await.unwrap();
    let [released] = report.released.as_slice() else { panic!("{report:?}") };
    assert_eq!((released.sandbox, released.container_id.as_str()), (dead.id(), "blue-dead"));
    assert_eq!(released.endpoints, [gone.id()]);
    let links = ["br-dead", "vethdead", "vethidle"].map(|link| Stray::Link(name(link)));
    let namespace = Stray::Namespace("0123456789ab".parse().unwrap());
    assert_eq!(report.removed, [links.as_slice(), &[namespace]].concat());
    assert_eq!((report.left.len(), report.unknown.as_slice()), (0, &["ghost".into()][..]), "{report}");
    let mut told = 0;
    while told < 4 {
        let event = events.next().await.expect("it goes on").expect("none is missed");
        told += usize::from(matches!(event.kind, EventKind::Repaired(Repair::KernelObjectRemoved { .. })));
    }

    check_truth(world.engine(), &kernel).await.unwrap();
    for sandbox in [&lives, &by_id, &late] {
        assert_eq!(sandbox.inspect().await.unwrap().endpoints.len(), 1);
    }
    let mark = world.engine().mark();
    let all = ["blue-lives", "blue-by-id", "blue-late"];
    let again = world.engine().reconcile(LiveSet::since(mark).with_all(all)).await.unwrap();
    assert!(again.is_empty() && again.to_string() == "nothing to do", "{again}");
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn a_mark_of_another_start_is_refused() {
    let world = World::new().await;
    let blue = world.network("blue").await;
    let (_, sandbox) = world.joined(&blue, "web").await;
    let old = world.engine().mark();
    let world = world.kill_and_restart().await;
    let refused = world.engine().reconcile(LiveSet::since(old)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidParameter);
    assert!(refused.to_string().contains("before this one was started"), "{refused}");
    let mark = world.engine().mark();
    let report = world.engine().reconcile(LiveSet::since(mark)).await.unwrap();
    assert_eq!(report.released[0].sandbox, sandbox.id(), "what was taken over is judged like all others");
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// A link and a namespace that are just being made are nobody's remains.
#[tokio::test]
async fn what_is_being_made_is_waited_for_and_left_alone() {
    let world = World::new().await;
    let kernel = world.kernel().clone();
    let blue = world.network("blue").await;
    let endpoint = blue.create_endpoint(EndpointSpec::new("web")).await.unwrap();
    let sandbox = world.sandbox("web").await;
    let mark = world.engine().mark();
    // Both take effect at once, and are answered long after they were seen.
    let slow = Duration::from_secs(2);
    let latency = Latency::default().verb("create_netns", slow).verb("add_address", slow);
    kernel.set_latency(latency.effect(EffectTime::Start));
    let join = tokio::spawn({
        let (endpoint, sandbox) = (endpoint.clone(), sandbox.clone());
        async move { endpoint.join(&sandbox, JoinSpec::default()).await }
    });
    let create = tokio::spawn({
        let controller = world.engine().controller();
        async move { controller.create_sandbox(SandboxSpec::new("second")).await }
    });
    let verbs = || world.engine().operations().into_iter().map(|op| (op.verb, op.step)).collect::<Vec<_>>();
    let at = |verb: &str, step: &str| verbs().iter().any(|(v, s)| v == verb && s == step);
    until("both are half-way", async || {
        at("join_sandbox", "set it up inside") && at("create_sandbox", "make the namespace and commit")
    })
    .await;
    kernel.foreign_op(&veth("vethdead", world.engine().identity(), "d".repeat(64))).unwrap();
    let reconcile = tokio::spawn({
        let engine = world.engine().clone();
        async move { engine.reconcile(LiveSet::since(mark).with("web")).await }
    });
    until("it waits", async || at("reconcile", "wait for what is under way")).await;
    let report = bounded("reconciling", reconcile).await.unwrap().unwrap();
    assert_eq!(report.removed, [Stray::Link(name("vethdead"))], "{report}");
    assert!(report.released.is_empty() && report.left.is_empty(), "{report}");
    bounded("joining", join).await.unwrap().expect("joined");
    bounded("creating", create).await.unwrap().expect("created");
    check_truth(world.engine(), &kernel).await.unwrap();
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn what_cannot_be_removed_is_told_and_removed_the_next_time() {
    let world = World::new().await;
    let kernel = world.kernel().clone();
    let blue = world.network("blue").await;
    let (_, dead) = world.joined(&blue, "dead").await;
    kernel.foreign_op(&veth("vethdead", world.engine().identity(), "d".repeat(64))).unwrap();
    world.simulation.disk().fail_commit(1);
    kernel.plan(Fault::verb("delete_link", 1, FaultKind::Refuse(16)));
    let mark = world.engine().mark();
    let report = world.engine().reconcile(LiveSet::since(mark)).await.unwrap();
    let left: Vec<_> = report.left.iter().map(|left| left.object.as_str()).collect();
    let object = format!("sandbox {} of container \"blue-dead\"", dead.id().short());
    assert_eq!(left, ["link vethdead", &object], "{report}");
    assert!(report.removed.is_empty() && report.released.is_empty(), "{report}");
    let report = world.engine().reconcile(LiveSet::since(mark)).await.unwrap();
    assert_eq!((report.released.len(), report.removed.len(), report.left.len()), (1, 1, 0), "{report}");
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}

/// An operation that does not end keeps nothing else from its answer.
#[tokio::test]
async fn a_stray_is_left_while_something_hangs() {
    let world = World::with(crate::support::within(Duration::from_secs(2))).await;
    let kernel = world.kernel().clone();
    kernel.plan(Fault::verb("create_netns", 1, FaultKind::Hang));
    let controller = world.engine().controller();
    let create = tokio::spawn(async move { controller.create_sandbox(SandboxSpec::new("c")).await });
    until("it hangs", async || kernel.hanging() > 0).await;
    kernel.foreign_op(&veth("vethdead", world.engine().identity(), "d".repeat(64))).unwrap();
    let report = world.engine().reconcile(LiveSet::since(world.engine().mark())).await.unwrap();
    let [left] = report.left.as_slice() else { panic!("{report}") };
    assert!(left.object == "link vethdead" && left.why.contains("under way"), "{left}");
    kernel.release();
    let _ = bounded("creating", create).await.unwrap();
    bounded("draining", world.engine().drain()).await.unwrap();
    // The sandbox that its caller gave up may be there: it came into service after the mark that was taken before.
    let report = world.engine().reconcile(LiveSet::since(world.engine().mark()).with("c")).await.unwrap();
    assert_eq!(report.removed, [Stray::Link(name("vethdead"))], "{report}");
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}

// === Beside everything else ===

const CALLERS: u64 = 6;
const STEPS: usize = 40;

/// The containers that run. Whoever makes one is in it before its sandbox is asked for.
#[derive(Clone, Default)]
struct Containers(Arc<Mutex<Lists>>);

#[derive(Default)]
struct Lists {
    running: BTreeSet<String>,
    /// Those that ended without anybody deleting their sandboxes.
    abandoned: BTreeSet<String>,
}

impl Containers {
    fn run(&self, container: &str) {
        self.0.lock().expect("whole").running.insert(container.to_owned());
    }

    fn abandon(&self, container: &str) {
        let mut lists = self.0.lock().expect("whole");
        lists.running.remove(container);
        lists.abandoned.insert(container.to_owned());
    }

    fn running(&self) -> BTreeSet<String> {
        self.0.lock().expect("whole").running.clone()
    }

    fn is_abandoned(&self, container: &str) -> bool {
        self.0.lock().expect("whole").abandoned.contains(container)
    }
}

/// What goes wrong meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    None,
    /// The kernel refuses, and loses answers.
    Faults,
    /// Those who answer for others die.
    Deaths,
}

impl Trouble {
    /// Whether a failure may come of it. A driver that is started again knows no network before it is told.
    fn explains(self, error: &netloom::Error) -> bool {
        match self {
            Self::None => false,
            Self::Faults => matches!(error.kind(), ErrorKind::Internal | ErrorKind::Timeout),
            Self::Deaths => matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound),
        }
    }
}

struct Caller {
    number: u64,
    random: Random,
    engine: Engine,
    network: Network,
    containers: Containers,
    trouble: Trouble,
}

impl Caller {
    /// What fails without a fault is a mistake of the engine's.
    fn judge<T>(&self, what: &str, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) if self.trouble.explains(&error) => None,
            Err(error) => panic!("caller {}: {what}: {error:?}", self.number),
        }
    }

    async fn step(&mut self, n: usize) {
        let container = format!("c{}-{n}", self.number);
        self.containers.run(&container);
        if self.live(&container).await.is_none() {
            // It failed, or its end did: what there is of it belongs to nobody.
            self.containers.abandon(&container);
        }
    }

    async fn live(&mut self, container: &str) -> Option<()> {
        let created = self.engine.controller().create_sandbox(SandboxSpec::new(container)).await;
        let sandbox = self.judge("create sandbox", created)?;
        let created = self.network.create_endpoint(EndpointSpec::new(container)).await;
        let endpoint = self.judge("create endpoint", created)?;
        self.judge("join", endpoint.join(&sandbox, JoinSpec::default()).await)?;
        if self.random.below(2) == 0 {
            self.judge("leave", endpoint.leave(&sandbox).await)?;
            self.judge("join", endpoint.join(&sandbox, JoinSpec::default()).await)?;
        }
        let picture = sandbox.inspect().await.expect("it lives");
        assert_eq!(picture.endpoints.len(), 1, "{container} lives, and is {picture:?}");
        match self.random.below(3) {
            0 => Some(()),
            1 => None,
            _ => {
                self.judge("delete endpoint", endpoint.delete_with_force().await)?;
                self.judge("delete sandbox", sandbox.delete().await)?;
                None
            }
        }
    }
}

/// Reconciles again and again until everybody has ended; plants strays, and kills who answers for others.
/// Returns what was released and removed.
async fn reconciler(
    world: &World,
    containers: &Containers,
    seed: u64,
    over: &Arc<Mutex<bool>>,
    trouble: Trouble,
) -> (usize, usize) {
    let (mut random, engine, kernel) = (Random(seed), world.engine(), world.kernel());
    let (mut released, mut removed, mut planted, mut round) = (0, 0, BTreeSet::new(), 0);
    let network = engine.controller().network_by_name("shared").expect("it is there").id();
    let victims = [Victim::Network(network), Victim::Driver("bridge".into()), Victim::Controller];
    let mut victims: Vec<_> = victims.iter().cycle().take(6).cloned().collect();
    while !*over.lock().expect("whole") {
        if random.below(2) == 0 {
            let stray = format!("stray{}", planted.len());
            let made = kernel.foreign_op(&veth(
                &stray,
                engine.identity(),
                format!("{:064x}", random.below(1 << 40)),
            ));
            made.expect("a stray");
            planted.insert(Stray::Link(name(&stray)));
        }
        // Three deaths a minute are what each may have.
        let victims = if trouble == Trouble::Deaths && round % 8 == 7 { victims.pop() } else { None };
        if let Some(victim) = victims {
            let _ = world.simulation.crash_actor(victim).await;
        }
        round += 1;
        let mark = engine.mark();
        let set = LiveSet::since(mark).with_all(containers.running());
        // Who listed them takes its time, and others do not wait.
        for _ in 0..random.below(4) {
            let _ = engine.inspect().await;
        }
        let report = match bounded("reconciling", engine.reconcile(set)).await {
            Ok(report) => report,
            Err(error) if trouble.explains(&error) => continue,
            Err(error) => panic!("{error:?}"),
        };
        for sandbox in &report.released {
            assert!(
                containers.is_abandoned(&sandbox.container_id),
                "{} lives, and was released",
                sandbox.container_id
            );
        }
        if trouble == Trouble::None {
            assert_eq!(report.left, []);
            assert!(report.removed.iter().all(|stray| planted.contains(stray)), "{report}");
        }
        (released, removed) = (released + report.released.len(), removed + report.removed.len());
        tokio::task::yield_now().await;
    }
    (released, removed)
}

async fn beside_everything(seed: u64, trouble: Trouble) {
    let world = World::new().await;
    let (network, containers) = (world.network("shared").await, Containers::default());
    let kernel = world.kernel().clone();
    kernel.set_latency(
        Latency::all(Duration::from_micros(300))
            .verb("create_veth", Duration::from_millis(1))
            .effect(EffectTime::Start),
    );
    if trouble == Trouble::Faults {
        let kinds = vec![FaultKind::Refuse(16), FaultKind::Lose, FaultKind::LoseBefore];
        let random = RandomFaults { seed, probability: 0.03, kinds };
        kernel.plan_all(FaultPlan { faults: Vec::new(), random: Some(random) });
    }
    let mut callers: Vec<_> = (0..CALLERS)
        .map(|number| Caller {
            number,
            random: Random(seed ^ (number << 48)),
            engine: world.engine().clone(),
            network: network.clone(),
            containers: containers.clone(),
            trouble,
        })
        .collect();
    let over = Arc::new(Mutex::new(false));
    let work = async {
        join_all(callers.iter_mut().map(async |caller| {
            for n in 0..STEPS {
                caller.step(n).await;
            }
        }))
        .await;
        *over.lock().expect("whole") = true;
    };
    let ((), (released, removed)) =
        futures::join!(work, reconciler(&world, &containers, seed, &over, trouble));
    note(format!("released {released} sandboxes, removed {removed} strays"));
    assert!(released > 10 && removed > 5, "the test is blind: {released} released, {removed} removed");

    kernel.clear_faults();
    kernel.set_latency(Latency::default());
    bounded("draining", world.engine().drain()).await.expect("drained");
    let set = LiveSet::since(world.engine().mark()).with_all(containers.running());
    let last = world.engine().reconcile(set).await.expect("a report");
    assert_eq!(last.left, [], "{last}");
    let listed: BTreeSet<_> = world
        .engine()
        .controller()
        .sandboxes()
        .iter()
        .map(|s: &Sandbox| s.container_id().to_owned())
        .collect();
    assert_eq!(listed, containers.running());
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_creations_joins_and_deletions_only_the_dead_go() {
    beside_everything(seed(), Trouble::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_everything_that_fails_only_the_dead_go() {
    beside_everything(seed(), Trouble::Faults).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_the_deaths_of_those_who_answer_only_the_dead_go() {
    beside_everything(seed(), Trouble::Deaths).await;
}
