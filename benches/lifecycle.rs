//! What a container's network life costs the engine itself: endpoint and sandbox created, joined, parted,
//! deleted, over a simulated kernel that answers at once and a store in memory.
//!
//! Run with `cargo bench --bench lifecycle`. Figures are per lifecycle. The callers share one host thread;
//! the engine has another. What Linux adds is measured on the real kernel elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use criterion::{BenchmarkId, Criterion, Throughput};
use netloom::{Controller, EndpointSpec, Engine, JoinSpec, Network, NetworkSpec, Result, SandboxSpec};

/// Callers at the same time.
const CALLERS: [u64; 2] = [1, 64];

/// What a caller works with.
#[derive(Clone)]
struct Stage {
    controller: Controller,
    network: Network,
    /// Numbers the names: none is used twice.
    next: Arc<AtomicU64>,
}

impl Stage {
    fn name(&self) -> String {
        format!("c{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Six operations: a container comes and goes.
    async fn lifecycle(&self) -> Result<()> {
        let name = self.name();
        let endpoint = self.network.create_endpoint(EndpointSpec::new(&name)).await?;
        let sandbox = self.controller.create_sandbox(SandboxSpec::new(&name)).await?;
        endpoint.join(&sandbox, JoinSpec::default()).await?;
        endpoint.leave(&sandbox).await?;
        endpoint.delete().await?;
        sandbox.delete().await
    }

    /// Two operations: an endpoint that is never used.
    async fn endpoint(&self) -> Result<()> {
        self.network.create_endpoint(EndpointSpec::new(self.name())).await?.delete().await
    }
}

/// Times `total` lives, lived by so many callers at a time; each caller is a task of its own.
async fn timed<F: Future<Output = Result<()>> + Send>(
    stage: &Stage,
    total: u64,
    callers: u64,
    life: impl Fn(Stage) -> F + Clone + Send + Sync + 'static,
) -> Duration {
    let each = total.div_ceil(callers);
    let began = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (stage, life) = (stage.clone(), life.clone());
            tokio::spawn(async move {
                for _ in 0..each {
                    life(stage.clone()).await?;
                }
                Ok::<_, netloom::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a caller ends").expect("every operation succeeds");
    }
    // The last round may be larger than asked for.
    began.elapsed().mul_f64(total as f64 / (each * callers) as f64)
}

fn main() -> anyhow::Result<()> {
    let host = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let simulation = host.block_on(Engine::simulated()).context("an engine")?;
    let before = simulation.kernel().snapshot();
    let controller = simulation.engine().controller();
    let network = host.block_on(controller.create_network(NetworkSpec::new("bench")))?;
    let stage = Stage { controller, network: network.clone(), next: Arc::default() };
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();

    let mut group = criterion.benchmark_group("lifecycle");
    group.throughput(Throughput::Elements(1));
    for callers in CALLERS {
        group.bench_function(BenchmarkId::new("container", callers), |b| {
            b.to_async(&host).iter_custom(|total| {
                timed(&stage, total, callers, |stage: Stage| async move { stage.lifecycle().await })
            });
        });
    }
    for callers in CALLERS {
        group.bench_function(BenchmarkId::new("endpoint only", callers), |b| {
            b.to_async(&host).iter_custom(|total| {
                timed(&stage, total, callers, |stage: Stage| async move { stage.endpoint().await })
            });
        });
    }
    group.finish();
    criterion.final_summary();

    // A figure for work that was not all undone would be worth nothing.
    host.block_on(network.delete())?;
    host.block_on(simulation.engine().drain())?;
    simulation.kernel().assert_pristine(&before);
    Ok(())
}
