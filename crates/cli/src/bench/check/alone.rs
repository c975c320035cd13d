//! Checks of the engine alone: over a simulated kernel that takes no time, with a store in memory.

use std::time::Instant;

use anyhow::ensure;
use futures::StreamExt;
use futures::stream;
use netloom::{EndpointSpec, Engine, JoinSpec, NetworkSpec, SandboxSpec, ShutdownMode, Simulation};

use super::on_a_runtime;
use crate::bench::load::config;
use crate::bench::usage::rss_kib;
use crate::bench::{Churn, Mode, measure};

const NETWORKS: u64 = 1_000;
const CALLERS: usize = 64;
/// Of how many comparisons the middle is taken.
const ROUNDS: usize = 5;

/// Lifecycles a second while few are there, and how much of that is left when many are.
pub(super) fn throughput() -> anyhow::Result<Vec<f64>> {
    let rate = |mode, endpoints| {
        let concurrency = CALLERS as u64;
        let churn = Churn { mode, endpoints, concurrency, networks: NETWORKS, sim: true, ..Churn::default() };
        anyhow::Ok(measure(&churn)?.0.lifecycles_per_s)
    };
    let alone = rate(Mode::Churn, 100_000)?;
    // Once for the memory: what a virtual machine uses for the first time has to be fetched from its host, page by
    // page, and that takes longer than what the engine does with it.
    rate(Mode::Hold, 100_000)?;
    // One measurement differs from the next by some hundredths, so there are several, each beside the other kind.
    let mut kept = Vec::new();
    for _ in 0..ROUNDS {
        // As many lives as then come at once, a thousand at a time.
        let mut few = 0.0;
        for _ in 0..20 {
            few += rate(Mode::Hold, 1_000)? / 20.0;
        }
        kept.push(rate(Mode::Hold, 100_000)? / few);
    }
    kept.sort_by(f64::total_cmp);
    Ok(vec![alone, kept[ROUNDS / 2]])
}

/// A simulation with so many endpoints joined.
async fn populated(endpoints: usize) -> anyhow::Result<Simulation> {
    let simulation = Engine::simulation().config(config(CALLERS as u64)).start().await?;
    let controller = simulation.engine().controller();
    let mut networks = Vec::new();
    for n in 0..NETWORKS {
        networks.push(controller.create_network(NetworkSpec::new(format!("bench{n}"))).await?);
    }
    let joins = stream::iter(0..endpoints).map(async |n| {
        let name = format!("c{n}");
        let endpoint = networks[n % networks.len()].create_endpoint(EndpointSpec::new(&name)).await?;
        let sandbox = controller.create_sandbox(SandboxSpec::new(&name)).await?;
        endpoint.join(&sandbox, JoinSpec::default()).await
    });
    let mut joins = joins.buffer_unordered(CALLERS);
    while let Some(joined) = joins.next().await {
        joined?;
    }
    drop(joins);
    Ok(simulation)
}

/// What a joined endpoint takes with its sandbox, in the engine and in the simulated machine below it.
pub(super) fn memory() -> anyhow::Result<Vec<f64>> {
    const ENDPOINTS: usize = 50_000;
    on_a_runtime(async {
        let before = rss_kib();
        let simulation = populated(ENDPOINTS).await?;
        let grown = rss_kib().saturating_sub(before);
        simulation.engine().shutdown(ShutdownMode::Immediate).await?;
        Ok(vec![grown as f64 / ENDPOINTS as f64])
    })
}

/// How long a start takes that has many to restore, until all of them are listed.
pub(super) fn restart() -> anyhow::Result<Vec<f64>> {
    const ENDPOINTS: usize = 20_000;
    on_a_runtime(async {
        let simulation = populated(ENDPOINTS).await?;
        let (kernel, disk) = (simulation.kernel().clone(), simulation.disk().clone());
        simulation.engine().shutdown(ShutdownMode::Immediate).await?;
        drop(simulation);
        let began = Instant::now();
        let simulation = Engine::simulation().config(config(CALLERS as u64)).kernel(kernel).disk(disk);
        let simulation = simulation.start().await?;
        let engine = simulation.engine();
        let picture = engine.inspect().await?;
        let took = began.elapsed().as_secs_f64();
        let listed: usize = picture.networks.iter().map(|network| network.endpoints.len()).sum();
        ensure!(listed == ENDPOINTS && picture.sandboxes.len() == ENDPOINTS, "{listed} endpoints are listed");
        ensure!(engine.repairs().is_empty(), "something was repaired: {:?}", engine.repairs().first());
        engine.shutdown(ShutdownMode::Immediate).await?;
        Ok(vec![took])
    })
}
