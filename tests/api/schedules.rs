//! Schedules: small engines, a few callers at once, and a seed that decides what they ask and what comes first.
//!
//! Callers, engine and kernel share one thread with a stopped clock (`jitter`). The seed draws when each caller asks,
//! how long each call of the kernel waits before it takes effect and before it is answered, in which order callers are
//! polled, and how far the engine gets in between. A deadlock shows as a clock that runs to a deadline. The answers must
//! be those of some order of the operations, one after the other (`explain`); the end must be what is seen, and nothing
//! may be left after all is deleted. Some schedules shut the engine down, and the next engine is judged; in some the
//! kernel refuses, loses or holds up operations.
//!
//! `NETLOOM_SEED=<seed>` replays one schedule and tells its story. `NETLOOM_SCHEDULES=<count>` runs so many.

mod explain;
mod history;
mod jitter;
mod program;

use std::collections::{BTreeMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Waker};
use std::time::Duration;

use futures::FutureExt;
use netloom::snapshot::EngineSnapshot;
use netloom::testkit::{Fault, FaultKind, FaultPlan, RandomFaults, SimKernel, SimSnapshot};
use netloom::{Engine, Error, Result, ShutdownMode};
use netloom_store::MemoryDisk;

use self::explain::{Circumstances, Placed, State, explain};
use self::history::{Action, Shared};
use self::jitter::{Jitter, Job};
use self::program::{Caller, Wish, number_of};
use crate::model::Random;
use crate::support::{delete_everything, note};

/// How many schedules run.
const SCHEDULES: u64 = 10_000;

/// How many schedules have the same callers with the same wishes, and differ in time alone.
const TIMINGS: u64 = 20;

/// Far more of the engine's clock than a schedule needs, and less than an operation's deadline.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a stuck operation of the kernel may hold others up; force does not wait for it.
const STUCK: Duration = Duration::from_secs(15);

/// How long an engine's thread may take for one schedule by the clock on the wall.
const HANG: Duration = Duration::from_secs(60);

/// How a schedule goes.
struct Plan {
    stage: Vec<Wish>,
    callers: Vec<Vec<Wish>>,
    /// Where the kernel's faults come from, and how much of what goes wrong is their doing.
    faults: FaultPlan,
    hangs: bool,
    shuts_down: bool,
    timing: Random,
}

impl Plan {
    fn draw(seed: u64) -> Self {
        // What is asked depends on the program alone, when it happens on the seed.
        let mut random = Random((seed / TIMINGS) ^ 0x5eed_0000_0000);
        let mut timing = Random(seed ^ 0x71e_0000_0000);
        let stage = Wish::stage(&mut random);
        let mut callers: Vec<Vec<Wish>> = (0..3 + random.below(2))
            .map(|_| (0..2 + random.below(3)).map(|_| Wish::draw(&mut random)).collect())
            .collect();
        let (mut faults, mut hangs, mut shuts_down) = (FaultPlan::default(), false, false);
        match random.below(20) {
            0 | 1 => {
                let kinds = vec![FaultKind::Refuse(16), FaultKind::Lose, FaultKind::LoseBefore];
                let seed = timing.below(u64::MAX);
                faults.random = Some(RandomFaults { seed, probability: 0.1, kinds });
            }
            2 => {
                faults.faults.push(Fault::nth(1 + timing.below(12), FaultKind::Hang));
                hangs = true;
            }
            3 => {
                shuts_down = true;
                let mode =
                    if random.below(2) == 0 { ShutdownMode::Graceful } else { ShutdownMode::Immediate };
                let at = usize::try_from(random.below(3)).expect("small");
                callers.push([vec![Wish::Inspect; at], vec![Wish::Shutdown(mode)]].concat());
            }
            _ => {}
        }
        Self { stage, callers, faults, hangs, shuts_down, timing }
    }

    fn circumstances(&self) -> Circumstances {
        Circumstances { faults: self.hangs || self.faults.random.is_some(), restarted: self.shuts_down }
    }
}

/// What one schedule showed.
struct Shown {
    interleaving: u64,
    /// Operations that change something, and those of them that met another one.
    changes: (usize, usize),
}

/// What engines share that come one after the other: the machine, and what is still to be run.
struct Ground {
    kernel: SimKernel,
    disk: MemoryDisk,
    before: SimSnapshot,
    /// The seeds that have not had their turn, the last one first.
    seeds: Mutex<Vec<u64>>,
    /// The schedule that is being run, for when its thread ends.
    current: Mutex<Option<(u64, Shared)>>,
    /// Told at the end of each schedule that went well.
    tells: bool,
}

type Report = (u64, std::result::Result<Shown, String>);

impl Ground {
    fn new(mut seeds: Vec<u64>, tells: bool) -> Self {
        seeds.reverse();
        let kernel = SimKernel::new();
        let before = kernel.snapshot();
        let (disk, seeds) = (MemoryDisk::default(), Mutex::new(seeds));
        Self { kernel, disk, before, seeds, current: Mutex::default(), tells }
    }

    /// Runs schedules until there are no more or one shuts the engine down. On the engine's thread.
    async fn run(self: Arc<Self>, jitter: Arc<Jitter>, engine: Engine, report: mpsc::Sender<Report>) {
        if let Some((seed, history)) = self.current() {
            let judged = self.judge(&Plan::draw(seed), &history, &engine).await;
            let told = |why| format!("{why}\n{}", history.lock().story());
            let failed = judged.is_err();
            if report.send((seed, judged.map_err(told))).is_err() || failed {
                return;
            }
        }
        while let Some(seed) = self.next() {
            let plan = Plan::draw(seed);
            let history = Shared::default();
            *self.current.lock().expect("whole") = Some((seed, history.clone()));
            let outcome = match self.play(&plan, &jitter, &engine, &history).await {
                Ok(()) => self.judge(&plan, &history, &engine).await,
                Err(why) => Err(why),
            };
            let told = |why| format!("{why}\n{:?}\n{}", plan.faults, history.lock().story());
            let failed = outcome.is_err();
            *self.current.lock().expect("whole") = None;
            if report.send((seed, outcome.map_err(told))).is_err() || failed {
                return;
            }
        }
    }

    fn next(&self) -> Option<u64> {
        self.seeds.lock().expect("whole").pop()
    }

    fn current(&self) -> Option<(u64, Shared)> {
        self.current.lock().expect("whole").take()
    }

    /// Lets the callers ask, to the end.
    async fn play(
        &self,
        plan: &Plan,
        jitter: &Jitter,
        engine: &Engine,
        history: &Shared,
    ) -> std::result::Result<(), String> {
        let mut timing = Random(plan.timing.0);
        history.lock().now();
        let caller = |number, timing: &mut Random| {
            Caller::new(number, engine.clone(), history.clone(), Random(timing.below(u64::MAX)))
        };
        let mut first = caller(0, &mut timing);
        drive(vec![first.run(&plan.stage).boxed_local()], &mut timing, history).await?;
        jitter.excite(Random(timing.below(u64::MAX)), history.clone());
        self.kernel.plan_all(plan.faults.clone());
        let callers = plan.callers.iter().enumerate().map(|(number, wishes)| {
            let mut caller = caller(number + 1, &mut timing);
            async move { caller.run(wishes).await }.boxed_local()
        });
        let mut work: Vec<_> = callers.collect();
        if plan.hangs {
            let kernel = self.kernel.clone();
            work.push(
                async move {
                    tokio::time::sleep(STUCK).await;
                    kernel.release();
                }
                .boxed_local(),
            );
        }
        let outcome = drive(work, &mut timing, history).await;
        jitter.calm();
        self.kernel.clear_faults();
        self.kernel.release();
        outcome
    }

    /// Looks at what there is at the end, explains it, and takes it all down.
    async fn judge(
        &self,
        plan: &Plan,
        history: &Shared,
        engine: &Engine,
    ) -> std::result::Result<Shown, String> {
        let told = |what: &str, error: Error| format!("{what}: {error:?}");
        engine.drain().await.map_err(|error| told("draining", error))?;
        let seen = engine.inspect().await.map_err(|error| told("inspecting", error))?;
        consistent(&seen).map_err(|error| told("the end", error))?;
        if !seen.operations.is_empty() {
            return Err(format!("still under way: {:?}", seen.operations));
        }
        let mut last = state_of(&seen, history)?;
        last.default = engine.config().default_network.as_deref().map(number_of);
        let (records, shown) = {
            let history = history.lock();
            let shown = Shown { interleaving: history.interleaving(), changes: history.changes() };
            (history.records.clone(), shown)
        };
        explain(&records, &last, plan.circumstances())?;
        for record in &records {
            let forced = matches!(
                record.action,
                Action::DeleteEndpoint { force: true, .. }
                    | Action::DeleteSandbox { force: true, .. }
                    | Action::DeleteNetwork { force: true, .. }
            );
            let took = record.at.1.saturating_sub(record.at.0);
            if forced && u128::from(took) >= STUCK.as_millis() && record.at.1 != u64::MAX {
                return Err(format!("force waited for what is stuck: {record:?}"));
            }
        }
        // The next schedule begins without a default network.
        let mut config = engine.controller().config();
        config.default_network = None;
        engine.controller().reload(config).await.map_err(|error| told("reloading", error))?;
        delete_everything(engine).await.map_err(|error| told("deleting everything", error))?;
        engine.drain().await.map_err(|error| told("draining at the end", error))?;
        let mut left = self.kernel.leftovers(&self.before);
        left.extend(self.disk.records().iter().map(|(key, _)| format!("record: {key:?}")));
        left.extend(self.disk.intents().iter().map(|intent| format!("intent: {intent:?}")));
        let seen = engine.inspect().await.map_err(|error| told("inspecting", error))?;
        left.extend(seen.leaks.iter().map(|leak| format!("leak: {leak}")));
        if !left.is_empty() {
            return Err(format!("left over: {}", left.join("; ")));
        }
        if self.tells {
            note(history.lock().story());
        }
        Ok(shown)
    }
}

/// Polls callers in a random order, again and again, and lets the engine get some way in between; time passes when it
/// is drawn, and when everything waits.
async fn drive(
    mut work: Vec<Pin<Box<dyn Future<Output = ()> + '_>>>,
    random: &mut Random,
    history: &Shared,
) -> std::result::Result<(), String> {
    let began = tokio::time::Instant::now();
    let mut cx = Context::from_waker(Waker::noop());
    let (mut events, mut idle) = (0, 0_u32);
    while !work.is_empty() {
        for place in (1..work.len()).rev() {
            let other = random.below(place as u64 + 1);
            work.swap(place, usize::try_from(other).expect("small"));
        }
        work.retain_mut(|caller| caller.as_mut().poll(&mut cx).is_pending());
        match random.below(3) {
            // The longer nothing happens, the longer the steps.
            0 => tokio::time::sleep(Duration::from_millis(1 << (idle / 16).min(9))).await,
            turns => {
                for _ in 0..turns * 2 {
                    tokio::task::yield_now().await;
                }
            }
        }
        let now = history.lock().events;
        idle = if now == events { idle + 1 } else { 0 };
        events = now;
        if began.elapsed() > PATIENCE {
            return Err(format!("{} callers are not answered after {PATIENCE:?}", work.len()));
        }
    }
    Ok(())
}

/// Whether a picture contradicts itself: names are unique, and an endpoint is in one sandbox at most.
fn consistent(seen: &EngineSnapshot) -> Result<()> {
    let twice = |what: String| Err(Error::internal(format!("{what} is there twice")));
    let mut names = HashSet::new();
    let mut inside = HashSet::new();
    for network in &seen.networks {
        if !names.insert(("network", network.name.clone())) {
            return twice(format!("network {}", network.name));
        }
        let mut addresses = HashSet::new();
        for endpoint in &network.endpoints {
            if !names.insert(("endpoint", format!("{}/{}", network.name, endpoint.name))) {
                return twice(format!("endpoint {}", endpoint.name));
            }
            if !addresses.insert(endpoint.ipv4) {
                return twice(format!("address {:?}", endpoint.ipv4));
            }
        }
    }
    for sandbox in &seen.sandboxes {
        if !names.insert(("sandbox", sandbox.container_id.clone())) {
            return twice(format!("sandbox {}", sandbox.container_id));
        }
        for endpoint in &sandbox.endpoints {
            if !inside.insert(endpoint.endpoint) {
                return twice(format!("endpoint {} in a sandbox", endpoint.endpoint.short()));
            }
        }
    }
    Ok(())
}

/// What there is, in the callers' numbers; networks and sandboxes must agree about who is where.
fn state_of(seen: &EngineSnapshot, history: &Shared) -> std::result::Result<State, String> {
    let mut history = history.lock();
    let mut state = State::default();
    let mut inside = BTreeMap::new();
    for sandbox in &seen.sandboxes {
        let id = history.id(&sandbox.id);
        state.sandboxes.insert(number_of(&sandbox.container_id), id);
        inside.extend(sandbox.endpoints.iter().map(|place| (place.endpoint, sandbox.id)));
    }
    for network in &seen.networks {
        let of = history.id(&network.id);
        state.networks.insert(number_of(&network.name), of);
        for endpoint in &network.endpoints {
            if inside.remove(&endpoint.id) != endpoint.sandbox {
                return Err(format!("network and sandbox disagree about endpoint {endpoint:?}"));
            }
            let sandbox = endpoint.sandbox.map(|id| history.id(&id));
            let placed = Placed { network: of, name: number_of(&endpoint.name), sandbox };
            state.endpoints.insert(history.id(&endpoint.id), placed);
        }
    }
    if inside.is_empty() {
        Ok(state)
    } else {
        Err(format!("sandboxes have {inside:?}, which no network knows"))
    }
}

/// Runs schedules on one engine after the other, and hands in what each showed.
fn explore(ground: &Arc<Ground>, mut shown: impl FnMut(u64, Shown)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut engines = 0;
    loop {
        let (jitter, job) = Jitter::new(ground.kernel.clone());
        let store = Box::new(ground.disk.open());
        let builder = Engine::builder().kernel(jitter.clone()).store(store);
        let engine = runtime.block_on(builder.start()).expect("the engine starts");
        engines += 1;
        let (report, reports) = mpsc::channel();
        let (own, handle) = (ground.clone(), engine.clone());
        let work: Job = Box::new(move || own.run(jitter, handle, report).boxed_local());
        assert!(job.send(work).is_ok(), "the engine's thread waits for its job");
        loop {
            match reports.recv_timeout(HANG) {
                Ok((seed, Ok(what))) => shown(seed, what),
                Ok((seed, Err(why))) => panic!("NETLOOM_SEED={seed}: {why}"),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let (seed, history) = ground.current().expect("a schedule hangs");
                    panic!("NETLOOM_SEED={seed} hangs:\n{}", history.lock().story());
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        let current = ground.current.lock().expect("whole").clone();
        match current {
            None => break,
            Some((seed, history)) => {
                let plan = Plan::draw(seed);
                let story = || history.lock().story();
                assert!(plan.shuts_down, "NETLOOM_SEED={seed}: the engine's thread died:\n{}", story());
                // Handles of an engine that was shut down say so, and at once.
                let error = runtime.block_on(engine.inspect()).expect_err("it was shut down");
                assert_eq!(error.kind(), netloom::ErrorKind::Unavailable, "NETLOOM_SEED={seed}: {error:?}");
            }
        }
    }
    note(format!("{engines} engines"));
}

/// A number from the environment.
fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs a part of the schedules: those of every second program.
fn run_half(half: u64) {
    let one = given("NETLOOM_SEED");
    let all = given("NETLOOM_SCHEDULES").unwrap_or(SCHEDULES);
    let seeds: Vec<u64> = match one {
        Some(seed) => vec![seed],
        None => (0..all).filter(|seed| seed / TIMINGS % 2 == half).collect(),
    };
    let count = seeds.len();
    let mut orders: BTreeMap<u64, HashSet<u64>> = BTreeMap::new();
    let (mut run, mut changes, mut met) = (0, 0, 0);
    explore(&Arc::new(Ground::new(seeds, one.is_some())), |seed, shown| {
        run += 1;
        orders.entry(seed / TIMINGS).or_default().insert(shown.interleaving);
        changes += shown.changes.0;
        met += shown.changes.1;
    });
    let distinct: usize = orders.values().map(HashSet::len).sum();
    note(format!(
        "{run} schedules of {} programs: {distinct} interleavings; of {changes} operations that change something {met} \
         met another one",
        orders.len()
    ));
    assert_eq!(run, count, "all of them");
    if one.is_none() {
        // Of the schedules of one program nearly all differ, and much of what is done meets something else.
        assert!(distinct * 100 >= count * 95, "{distinct} of {count} interleavings differ");
        assert!(met * 3 >= changes, "{met} of {changes} operations meet another one");
    }
}

// Two tests, so that two processors share them.

#[test]
fn schedules_of_even_programs_end_as_if_operations_came_one_after_the_other() {
    run_half(0);
}

#[test]
fn schedules_of_odd_programs_end_as_if_operations_came_one_after_the_other() {
    run_half(1);
}
