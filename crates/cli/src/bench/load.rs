//! The load: callers, each with one container at a time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use indicatif::ProgressBar;
use netloom::{
    Controller, DefaultPool, Endpoint, EndpointSpec, Engine, EngineConfig, JoinSpec, Network, NetworkSpec,
    Sandbox, SandboxSpec, ShutdownMode, Simulation,
};

use super::figures::{Report, Samples};
use super::usage::Usage;
use super::{Churn, Mode, start};
use crate::report;

/// Networks of more addresses than a bridge has ports (1,023).
const POOLS: &str = "10.0.0.0/8";
const POOL_SIZE: u8 = 21;

/// The configuration that is measured: the default one, with room for the load.
pub(super) fn config(callers: u64) -> EngineConfig {
    let mut config = EngineConfig { instance: "bench".into(), ..EngineConfig::default() };
    config.default_pools = vec![DefaultPool { base: POOLS.parse().expect("a net"), size: POOL_SIZE }];
    let callers = usize::try_from(callers).unwrap_or(usize::MAX);
    config.limits.operations = config.limits.operations.max(callers);
    config.limits.operations_per_object = config.limits.operations_per_object.max(callers);
    config
}

/// An engine with its networks.
pub(super) struct Stage {
    engine: Engine,
    /// Lives as long as the engine.
    _simulation: Option<Simulation>,
    networks: Vec<Network>,
}

/// What happened when, for the drawing.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    pub(super) samples: Samples,
    /// When each container was up, and when it was gone, since the start.
    pub(super) ups: Vec<Duration>,
    pub(super) downs: Vec<Duration>,
}

impl Run {
    fn add(&mut self, other: Self) {
        self.samples.add(other.samples);
        self.ups.extend(other.ups);
        self.downs.extend(other.downs);
    }
}

impl Stage {
    pub(super) async fn set(churn: &Churn, dir: &Path) -> anyhow::Result<Self> {
        let (engine, simulation) = start(churn, dir).await?;
        let controller = engine.controller();
        let mut networks = Vec::new();
        for n in 0..churn.networks {
            let spec = NetworkSpec::new(format!("bench{n}")).driver(&churn.driver);
            networks.push(controller.create_network(spec).await?);
        }
        Ok(Self { engine, _simulation: simulation, networks })
    }

    /// Lets the callers loose, and counts only when the kernel has let go of everything.
    pub(super) async fn run(&self, churn: &Churn) -> anyhow::Result<(Report, Run)> {
        // Each comes and goes.
        let progress = report::progress(2 * churn.endpoints);
        let before = Counts::of(&self.engine).await?;
        let usage = Usage::begin();
        let began = Instant::now();
        let crowd = Crowd {
            controller: self.engine.controller(),
            networks: self.networks.clone().into(),
            next: Arc::default(),
            total: churn.endpoints,
            began,
            progress: progress.clone(),
        };
        let mut run = Run::default();
        let (all_up, all_down) = match churn.mode {
            Mode::Churn => {
                run.add(crowd.each(churn.concurrency, |crowd, n| async move { crowd.life(n).await }).await?);
                self.engine.drain().await?;
                let all = began.elapsed();
                (all, all)
            }
            Mode::Hold => {
                let standing = Arc::new(std::sync::Mutex::new(Vec::new()));
                let kept = standing.clone();
                let up = crowd.each(churn.concurrency, move |crowd, n| {
                    let kept = kept.clone();
                    async move {
                        let (container, run) = crowd.up(n).await?;
                        kept.lock().expect("nobody panics with it").push(container);
                        Ok(run)
                    }
                });
                run.add(up.await?);
                let up = began.elapsed();
                let again = crowd.again();
                let down = again.each(churn.concurrency, move |crowd, _| {
                    let container = standing.lock().expect("nobody panics with it").pop();
                    async move { crowd.down(container.context("one for each")?).await }
                });
                run.add(down.await?);
                self.engine.drain().await?;
                (up, began.elapsed() - up)
            }
        };
        progress.finish_and_clear();
        let spent = usage.since();
        let counts = Counts::of(&self.engine).await?.since(&before);
        let mut report = Report::new(churn, &run.samples);
        report.rates(all_up, all_down, churn.mode);
        report.costs(&counts, &spent);
        Ok((report, run))
    }

    /// Takes everything down and checks that nothing is left.
    pub(super) async fn strike(self) -> anyhow::Result<()> {
        for network in &self.networks {
            network.delete().await?;
        }
        self.engine.drain().await?;
        let left = self.engine.inspect().await?;
        ensure!(left.leaks.is_empty() && left.sandboxes.is_empty(), "something is left: {:?}", left.leaks);
        self.engine.shutdown(ShutdownMode::Graceful).await?;
        Ok(())
    }
}

/// What the engine counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) syncs: u64,
    pub(super) messages: u64,
    pub(super) sends: u64,
    pub(super) deletions: u64,
}

impl Counts {
    async fn of(engine: &Engine) -> anyhow::Result<Self> {
        let kernel = engine.kernel_stats();
        let syncs = engine.store_stats().await?.syncs;
        Ok(Self { syncs, messages: kernel.messages, sends: kernel.sends, deletions: kernel.deletions })
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            syncs: self.syncs - before.syncs,
            messages: self.messages - before.messages,
            sends: self.sends - before.sends,
            deletions: self.deletions - before.deletions,
        }
    }
}

/// A container that is up.
struct Container {
    endpoint: Endpoint,
    sandbox: Sandbox,
}

/// The callers.
#[derive(Clone)]
struct Crowd {
    controller: Controller,
    networks: Arc<[Network]>,
    /// The number of the next container.
    next: Arc<AtomicU64>,
    total: u64,
    began: Instant,
    progress: ProgressBar,
}

impl Crowd {
    /// The same callers with their containers still to come.
    fn again(&self) -> Self {
        Self { next: Arc::default(), ..self.clone() }
    }

    /// Has so many callers do something for each container.
    async fn each<F>(
        &self,
        callers: u64,
        work: impl Fn(Self, u64) -> F + Clone + Send + Sync + 'static,
    ) -> anyhow::Result<Run>
    where
        F: Future<Output = anyhow::Result<Run>> + Send,
    {
        let callers: Vec<_> = (0..callers)
            .map(|_| {
                let (crowd, work) = (self.clone(), work.clone());
                tokio::spawn(async move {
                    let mut run = Run::default();
                    loop {
                        let n = crowd.next.fetch_add(1, Ordering::Relaxed);
                        if n >= crowd.total {
                            return Ok::<_, anyhow::Error>(run);
                        }
                        run.add(work(crowd.clone(), n).await?);
                    }
                })
            })
            .collect();
        let mut all = Run::default();
        for caller in callers {
            all.add(caller.await??);
        }
        Ok(all)
    }

    async fn life(&self, n: u64) -> anyhow::Result<Run> {
        let (container, mut run) = self.up(n).await?;
        run.add(self.down(container).await?);
        Ok(run)
    }

    async fn up(&self, n: u64) -> anyhow::Result<(Container, Run)> {
        let mut run = Run::default();
        let place = usize::try_from(n).unwrap_or_default() % self.networks.len();
        let name = format!("c{n}");
        let began = Instant::now();
        let endpoint = self.networks[place].create_endpoint(EndpointSpec::new(&name)).await?;
        let created = Instant::now();
        let sandbox = self.controller.create_sandbox(SandboxSpec::new(&name)).await?;
        let made = Instant::now();
        endpoint.join(&sandbox, JoinSpec::default()).await?;
        let joined = Instant::now();
        run.samples.create.push(created - began);
        run.samples.sandbox.push(made - created);
        run.samples.join.push(joined - made);
        run.samples.up.push(joined - began);
        run.ups.push(joined - self.began);
        self.progress.inc(1);
        Ok((Container { endpoint, sandbox }, run))
    }

    async fn down(&self, Container { endpoint, sandbox }: Container) -> anyhow::Result<Run> {
        let mut run = Run::default();
        let began = Instant::now();
        endpoint.leave(&sandbox).await?;
        let left = Instant::now();
        endpoint.delete().await?;
        let deleted = Instant::now();
        sandbox.delete().await?;
        let gone = Instant::now();
        run.samples.leave.push(left - began);
        run.samples.delete.push(deleted - left);
        run.samples.delete_sandbox.push(gone - deleted);
        run.samples.down.push(gone - began);
        run.downs.push(gone - self.began);
        self.progress.inc(1);
        Ok(run)
    }
}
