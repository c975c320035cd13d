//! Stories that are told again and again, each time with a fault at another place, or killed there: after each failure
//! everything is as before or done, and the story can go on from there to its end.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::LocalBoxFuture;
use netloom::snapshot::SandboxPhase;
use netloom::testkit::{Fault, FaultKind, SimKernel};
use netloom::{Controller, Engine, EngineConfig, Error, ErrorKind, Reason, Reservation, Result};

use crate::mortal::{Death, Disk, Mortal};
use crate::outless::Outless;
use crate::support::files::{self, Places};
use crate::support::{World, bounded, check_truth, delete_everything, note, within};

const EBUSY: i32 = 16;
/// Runs that go on beside each other.
const BESIDE: usize = 16;

/// What a caller sees, apart from what a failure may change for good, such as the numbers of interfaces.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Picture {
    /// Each sandbox by its container, with its phase, its host name and whether it has a way out.
    pub(crate) sandboxes: BTreeMap<String, (String, String, bool)>,
    /// Each endpoint by its network and name, with the container in whose sandbox it is.
    pub(crate) endpoints: BTreeMap<(String, String), Option<String>>,
    /// What is kept for names, by network and name.
    pub(crate) kept: BTreeMap<(String, String), Reservation>,
}

impl Picture {
    async fn of(engine: &Engine) -> Self {
        let seen = bounded("inspecting", engine.inspect()).await.expect("inspected");
        let container = |id| seen.sandboxes.iter().find(|sandbox| sandbox.id == id);
        let sandboxes = seen.sandboxes.iter().map(|sandbox| {
            let phase = if sandbox.phase == SandboxPhase::Waiting { "waits" } else { "stands" };
            let how = (phase.to_owned(), sandbox.hostname.clone(), sandbox.gateway.is_some());
            (sandbox.container_id.clone(), how)
        });
        let endpoints = seen.networks.iter().flat_map(|network| {
            network.endpoints.iter().map(|endpoint| {
                let place = endpoint.sandbox.and_then(container).map(|sandbox| sandbox.container_id.clone());
                ((network.name.clone(), endpoint.name.clone()), place)
            })
        });
        let kept = seen.networks.iter().flat_map(|network| {
            let kept = network.reservations.iter();
            kept.map(|(name, kept)| ((network.name.clone(), name.clone()), *kept))
        });
        Self { sandboxes: sandboxes.collect(), endpoints: endpoints.collect(), kept: kept.collect() }
    }

    /// The networks whose endpoints are in a container's sandbox.
    pub(crate) fn inside(&self, container: &str) -> BTreeSet<&str> {
        let here = self.endpoints.iter().filter(|(_, place)| place.as_deref() == Some(container));
        here.map(|((network, _), _)| &**network).collect()
    }

    /// Whether a container's sandbox waits for its namespace, if it is there.
    pub(crate) fn waits(&self, container: &str) -> Option<bool> {
        self.sandboxes.get(container).map(|(phase, ..)| phase == "waits")
    }
}

/// One request of a story. Asked again after a failure, it does what is left to do.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) run: fn(Controller) -> LocalBoxFuture<'static, Result<()>>,
    /// Whether a failure of it may end like this, besides as before or done; given what was before.
    pub(crate) partly: fn(&Picture, &Picture) -> bool,
}

impl Step {
    /// One that is done or not.
    pub(crate) fn whole(
        name: &'static str,
        run: fn(Controller) -> LocalBoxFuture<'static, Result<()>>,
    ) -> Self {
        Self { name, run, partly: |_, _| false }
    }
}

/// A story.
pub(crate) struct Story {
    pub(crate) name: &'static str,
    pub(crate) drivers: Vec<Outless>,
    /// What is in the kernel before the engine comes.
    pub(crate) before: fn(&SimKernel),
    /// What is made before anything fails.
    pub(crate) setting: fn(Controller) -> LocalBoxFuture<'static, ()>,
    pub(crate) steps: Vec<Step>,
    /// How many networks cannot be deleted in the end.
    pub(crate) stays: usize,
    /// Where the files of names are, if any are written.
    pub(crate) files: Option<Places>,
}

/// Where a run with a fault came to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum End {
    NotReached,
    Unnoticed,
    Failed(&'static str),
}

/// Whether an error tells of what the fault did. What has to make the network that is the way out first may fail in
/// being taken back.
fn is_of_a_fault(error: &Error) -> bool {
    let way_out = |cause: &Error| matches!(cause.reason(), Reason::NoWayOut { .. });
    let on_the_way = matches!(error.reason(), Reason::Leaked { cause, .. } if way_out(cause));
    // An endpoint whose link could not be cut off yet joins nobody.
    let uncut = matches!(error.reason(), Reason::WrongPhase { phase: "leaving its sandbox", .. });
    on_the_way || uncut || matches!(error.kind(), ErrorKind::Internal | ErrorKind::Timeout)
}

impl Story {
    async fn world(&self, gathers: bool, timeout: Duration) -> World {
        let kernel = SimKernel::new();
        (self.before)(&kernel);
        let before = kernel.snapshot();
        let simulation = Engine::simulation().kernel(kernel);
        let simulation = match &self.files {
            Some(places) => simulation.config(places.next(within(timeout))).name_files(),
            None => simulation.config(within(timeout)),
        };
        let simulation =
            self.drivers.iter().fold(simulation, |simulation, own| simulation.driver(own.registration()));
        let simulation = if gathers { simulation.store_on_a_thread() } else { simulation };
        let simulation = simulation.start().await.expect("the engine starts");
        (self.setting)(simulation.engine().controller()).await;
        World { simulation, before }
    }

    /// What is seen after each step when nothing fails, and what the kernel and the store were asked for.
    async fn undisturbed(&self) -> (Vec<Picture>, u64, u64) {
        let world = self.world(false, Duration::from_secs(30)).await;
        let (ops, commits) = (world.kernel().ops_count(), world.simulation.disk().commits());
        let mut pictures = vec![Picture::of(world.engine()).await];
        for step in &self.steps {
            (step.run)(world.engine().controller()).await.unwrap_or_else(|e| panic!("{}: {e:?}", step.name));
            let seen = Picture::of(world.engine()).await;
            assert_ne!(pictures.last(), Some(&seen), "{} changes something", step.name);
            pictures.push(seen);
            check_truth(world.engine(), world.kernel())
                .await
                .unwrap_or_else(|e| panic!("{}: {e}", step.name));
        }
        let told = (world.kernel().ops_count() - ops, world.simulation.disk().commits() - commits);
        self.ends_clean(world.engine(), &world.leftovers_of()).await.expect("clean");
        (pictures, told.0, told.1)
    }

    /// Takes everything down and looks for what is left.
    async fn ends_clean(&self, engine: &Engine, left: &dyn Fn() -> Vec<String>) -> Result<(), String> {
        let controller = engine.controller();
        if self.stays == 0 {
            delete_everything(engine).await.map_err(|error| format!("at the end: {error:?}"))?;
        } else {
            for sandbox in controller.sandboxes() {
                bounded("deleting", sandbox.delete())
                    .await
                    .map_err(|error| format!("at the end: {error:?}"))?;
            }
            for network in controller.networks() {
                for endpoint in bounded("listing", network.endpoints()).await.expect("listed") {
                    let gone = bounded("deleting", endpoint.delete()).await;
                    gone.map_err(|error| format!("at the end: {error:?}"))?;
                }
                // Some stay.
                let _ = bounded("deleting", network.delete()).await;
            }
        }
        bounded("draining", engine.drain()).await.map_err(|error| error.to_string())?;
        let mut left = left();
        let networks = left.iter().filter(|line| line.contains("kind: Network")).count();
        if networks == self.stays {
            left.retain(|line| !line.contains("kind: Network") && !line.contains("kind: Order"));
        }
        left.extend(
            files::directories(&engine.config().run_dir).into_iter().map(|name| format!("files/{name}")),
        );
        if left.is_empty() { Ok(()) } else { Err(format!("left over: {}", left.join("; "))) }
    }

    /// Which step is next, seen after the n-th has failed.
    fn resumes(&self, n: usize, pictures: &[Picture], seen: &Picture) -> Result<usize, String> {
        if *seen == pictures[n + 1] {
            Ok(n + 1)
        } else if *seen == pictures[n] || (self.steps[n].partly)(seen, &pictures[n]) {
            Ok(n)
        } else {
            let (name, before, done) = (self.steps[n].name, &pictures[n], &pictures[n + 1]);
            Err(format!("{name} left {seen:?}\n    before it was {before:?}\n    and done it is {done:?}"))
        }
    }

    /// Tells the rest of the story, where nothing fails any more.
    async fn goes_on(&self, engine: &Engine, from: usize, pictures: &[Picture]) -> Result<(), String> {
        for (n, step) in self.steps.iter().enumerate().skip(from) {
            let outcome = bounded(step.name, (step.run)(engine.controller())).await;
            outcome.map_err(|error| format!("{} again: {error:?}", step.name))?;
            let seen = Picture::of(engine).await;
            if seen != pictures[n + 1] {
                return Err(format!("{} again gave {seen:?} instead of {:?}", step.name, pictures[n + 1]));
            }
        }
        Ok(())
    }

    async fn run(
        &self,
        pictures: &[Picture],
        gathers: bool,
        timeout: Duration,
        plan: impl Fn(&World),
        pending: impl Fn(&World) -> bool,
    ) -> Result<End, String> {
        let world = self.world(gathers, timeout).await;
        plan(&world);
        let mut failed = None;
        for (n, step) in self.steps.iter().enumerate() {
            match bounded(step.name, (step.run)(world.engine().controller())).await {
                Ok(()) => {}
                Err(error) if !is_of_a_fault(&error) => {
                    return Err(format!("{} failed with {error:?}", step.name));
                }
                Err(_) => {
                    failed = Some(n);
                    break;
                }
            }
        }
        if pending(&world) {
            return failed.map_or(Ok(End::NotReached), |n| {
                Err(format!("{} failed without a fault", self.steps[n].name))
            });
        }
        world.kernel().clear_faults();
        world.kernel().release();
        world.simulation.disk().clear_faults();
        let step = failed.map_or("the end", |n: usize| self.steps[n].name);
        world.settled().await.map_err(|why| format!("after {step}: {why}"))?;
        let seen = Picture::of(world.engine()).await;
        let next = match failed {
            Some(n) => self.resumes(n, pictures, &seen)?,
            None if seen == *pictures.last().expect("some") => self.steps.len(),
            None => return Err(format!("all succeeded and gave {seen:?}")),
        };
        self.goes_on(world.engine(), next, pictures).await?;
        check_truth(world.engine(), world.kernel()).await?;
        self.ends_clean(world.engine(), &world.leftovers_of()).await?;
        let seen = bounded("inspecting", world.engine().inspect()).await.expect("inspected");
        if !seen.leaks.is_empty() || !seen.operations.is_empty() {
            return Err(format!("leaks {:?}, in flight {:?}", seen.leaks, seen.operations));
        }
        Ok(failed.map_or(End::Unnoticed, |n| End::Failed(self.steps[n].name)))
    }

    /// Runs at step 1, 2, 3… of the kernel, or of the store, and counts the ends.
    async fn each<F: Future<Output = Result<End, String>>>(
        &self,
        what: &str,
        at_least: u64,
        run: impl Fn(u64) -> F,
    ) {
        let mut ends = BTreeMap::<End, usize>::new();
        let (mut wrong, mut steps) = (Vec::new(), 0);
        let runs = futures::stream::iter(1..).map(|n| {
            let run = run(n);
            async move { (n, run.await) }
        });
        let mut runs = std::pin::pin!(runs.buffered(BESIDE));
        while let Some((n, end)) = runs.next().await {
            match end {
                Ok(End::NotReached) => break,
                Ok(end) => *ends.entry(end).or_default() += 1,
                Err(why) => wrong.push(format!("{what} at {n}: {why}")),
            }
            steps = n;
        }
        let name = self.name;
        assert!(
            wrong.is_empty(),
            "{} of {steps} of {name} end badly:\n  {}",
            wrong.len(),
            wrong.join("\n  ")
        );
        assert!(steps >= at_least, "{name}, {what}: only {steps} of {at_least} places were reached");
        assert!(ends.keys().any(|end| matches!(end, End::Failed(_))), "nothing ever failed: {ends:?}");
        note(format!("{name}, {what}: {steps} places: {ends:?}"));
    }

    /// A fault of this kind, so often in a row, at each kernel operation.
    pub(crate) async fn kernel_fails(&self, what: &str, kind: FaultKind, times: u64) {
        let (pictures, ops, _) = self.undisturbed().await;
        let timeout =
            if kind == FaultKind::Hang { Duration::from_millis(400) } else { Duration::from_secs(30) };
        let pictures = &pictures;
        self.each(what, ops.saturating_sub(times), |n| {
            self.run(
                pictures,
                false,
                timeout,
                move |world| world.kernel().plan(Fault::nth(n, kind).times(times)),
                move |world| world.kernel().pending_faults().iter().any(|fault| fault.times == times),
            )
        })
        .await;
    }

    /// Everything that a kernel can do to a request.
    pub(crate) async fn kernel_fails_in_every_way(&self) {
        self.kernel_fails("refused", FaultKind::Refuse(EBUSY), 1).await;
        self.kernel_fails("refused six times", FaultKind::Refuse(EBUSY), 6).await;
        self.kernel_fails("lost after its effect", FaultKind::Lose, 1).await;
        self.kernel_fails("lost before its effect", FaultKind::LoseBefore, 1).await;
        self.kernel_fails("hanging", FaultKind::Hang, 1).await;
    }

    /// Each commit fails, and the answer of each is lost; in a store in place and in one that gathers.
    pub(crate) async fn commits_fail(&self) {
        let (pictures, _, commits) = self.undisturbed().await;
        let pictures = &pictures;
        for gathers in [false, true] {
            for (what, fail) in [("a commit fails", true), ("a commit's answer is lost", false)] {
                self.each(what, commits, |n| async move {
                    if n > commits {
                        return Ok(End::NotReached);
                    }
                    let nth = u32::try_from(n).expect("few");
                    let plan = move |world: &World| {
                        let disk = world.simulation.disk();
                        if fail { disk.fail_commit(nth) } else { disk.lose_answer(nth) }
                    };
                    self.run(pictures, gathers, Duration::from_secs(30), plan, |_| false).await
                })
                .await;
            }
        }
    }

    /// Killed right before and right after each effect on kernel and store; the next engine finds the truth, and the
    /// story goes on.
    pub(crate) async fn killed_everywhere(&self) {
        let (pictures, ops, commits) = self.undisturbed().await;
        let (mut wrong, mut runs, mut repaired) = (Vec::new(), 0, 0);
        for moment in 1.. {
            let sim = SimKernel::new();
            (self.before)(&sim);
            let (before, disk, death) = (sim.snapshot(), Disk::default(), Death::never());
            let config = self.files.as_ref().map(|places| places.next(EngineConfig::default()));
            let engine = self.mortal(&sim, &disk, death.clone(), config.clone()).await;
            (self.setting)(engine.controller()).await;
            death.comes_at(moment);
            let at = Cell::new(0);
            let told = async {
                for (n, step) in self.steps.iter().enumerate() {
                    at.set(n);
                    if let Err(error) = (step.run)(engine.controller()).await {
                        // A dead store refuses, which is how the story may learn of it first.
                        assert!(death.is_dead(), "{}: {error:?}", step.name);
                        return false;
                    }
                }
                true
            };
            let ended = tokio::select! {
                biased;
                () = death.wait() => false,
                ended = bounded("the story", told) => ended,
            };
            if ended {
                break;
            }
            runs += 1;
            drop(engine);
            // What a dead engine still does must have no effect: its files are its own from here on.
            let config = config.map(|config| self.files.as_ref().expect("places").moved(config));
            let engine = self.mortal(&sim, &disk, Death::never(), config).await;
            repaired += usize::from(!engine.repairs().is_empty());
            let left = || {
                let mut left = sim.leftovers(&before);
                left.extend(disk.records().iter().map(|(key, _)| format!("{key:?}")));
                left.extend(disk.intents().iter().map(|intent| format!("{intent:?}")));
                left
            };
            let taken_over = async {
                engine.drain().await.map_err(|error| error.to_string())?;
                check_truth(&engine, &sim).await?;
                let next = self.resumes(at.get(), &pictures, &Picture::of(&engine).await)?;
                self.goes_on(&engine, next, &pictures).await?;
                check_truth(&engine, &sim).await?;
                self.ends_clean(&engine, &left).await
            };
            if let Err(why) = bounded("taking over", taken_over).await {
                let step = self.steps[at.get()].name;
                wrong.push(format!("at moment {moment}, in {step} ({}): {why}", death.what()));
            }
        }
        let name = self.name;
        assert!(wrong.is_empty(), "{} of {runs} of {name}:\n  {}", wrong.len(), wrong.join("\n  "));
        assert!(runs >= 2 * (ops + commits) / 2, "{name}: only {runs} places to die");
        note(format!("{name}: {runs} places to die; {repaired} starts repaired something"));
    }

    async fn mortal(
        &self,
        sim: &SimKernel,
        disk: &Disk,
        death: Death,
        with_files: Option<EngineConfig>,
    ) -> Engine {
        let kernel = Arc::new(Mortal::new(sim.clone(), death.clone()));
        let engine = Engine::builder().kernel(kernel).store(Box::new(disk.open(death)));
        let engine = self.drivers.iter().fold(engine, |engine, own| engine.driver(own.registration()));
        let engine = with_files.into_iter().fold(engine, |engine, config| engine.config(config).name_files());
        bounded("the start", engine.start()).await.expect("it starts")
    }
}

impl World {
    /// What is left in kernel and store, at the moment of each call.
    fn leftovers_of(&self) -> impl Fn() -> Vec<String> {
        || {
            let mut left = self.kernel().leftovers(&self.before);
            left.extend(self.simulation.disk().records().iter().map(|(key, _)| format!("record: {key:?}")));
            left.extend(self.simulation.disk().intents().iter().map(|intent| format!("intent: {intent:?}")));
            left
        }
    }
}
