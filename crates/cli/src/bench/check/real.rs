//! Checks on the real kernel, in namespaces of their own, with a store on disk.

use std::future::pending;
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use netloom::drivers::{
    Begun, Capability, CreateEndpoint, CreateNetwork, Driver, DriverCx, EndpointCreated, Join, Joined, Leave,
    Left, NetworkCreated, Registration, Scope, done,
};
use netloom::kernel::{floor, isolate};
use netloom::{
    EndpointId, EndpointSpec, Engine, EngineConfig, JoinSpec, Network, NetworkId, NetworkSpec, SandboxSpec,
    ShutdownMode,
};

use super::{Check, on_a_runtime};
use crate::bench::figures::Step;
use crate::bench::load::config;
use crate::bench::{Churn, Mode, directory, measure};

fn shape(check: &Check, mode: Mode, endpoints: u64, concurrency: u64, networks: u64) -> Churn {
    let dir = check.dir.clone();
    Churn { mode, endpoints, concurrency, networks, dir, ..Churn::default() }
}

pub(super) fn hold(check: &Check) -> anyhow::Result<Vec<f64>> {
    let (report, _) = measure(&shape(check, Mode::Hold, 500, 64, 4))?;
    let ratio = report.ratio.unwrap_or_default();
    Ok(vec![ratio.up, ratio.down])
}

pub(super) fn churn(check: &Check) -> anyhow::Result<Vec<f64>> {
    let (report, _) = measure(&shape(check, Mode::Churn, 1_000, 64, 4))?;
    Ok(vec![report.ratio.unwrap_or_default().churn])
}

pub(super) fn one(check: &Check) -> anyhow::Result<Vec<f64>> {
    let (report, _) = measure(&shape(check, Mode::Churn, 300, 1, 4))?;
    let floor = report.floor.unwrap_or_default().up_p50_us as f64;
    Ok(vec![report.steps.up.p50_us as f64 / floor, report.steps.down.p50_us as f64 / 1e3])
}

/// Around the 10th and up to the 1,000th port, on one bridge, by one caller.
pub(super) fn growth(check: &Check) -> anyhow::Result<Vec<f64>> {
    const PORTS: u64 = 1_000;
    let (_, run) = measure(&shape(check, Mode::Hold, PORTS, 1, 1))?;
    let dir = directory(check.dir.as_deref())?;
    let shape = floor::Shape { endpoints: usize::try_from(PORTS)?, bridges: 1, hold: true };
    let floor = floor::measure(&dir.path().join("floor"), shape)?;
    let grown = |ups: &[Duration]| {
        let p50 = |part: &[Duration]| Step::of(part).p50_us as f64;
        p50(&ups[ups.len() - 60..]) / p50(&ups[..60])
    };
    Ok(vec![grown(&run.samples.up) / grown(&floor.up)])
}

/// An engine of its own for what the load does not do.
pub(super) struct Place {
    pub(super) engine: Engine,
    dir: tempfile::TempDir,
}

impl Place {
    pub(super) async fn new(check: &Check, drivers: Vec<Registration>) -> anyhow::Result<Self> {
        let dir = directory(check.dir.as_deref())?;
        let engine = Self::start(&dir, drivers).await?;
        Ok(Self { engine, dir })
    }

    async fn start(dir: &tempfile::TempDir, drivers: Vec<Registration>) -> anyhow::Result<Engine> {
        let config: EngineConfig = config(1_000);
        let builder = Engine::builder().config(config).data_dir(dir.path().join("data"));
        let builder =
            drivers.into_iter().fold(builder.run_dir(dir.path().join("run")), netloom::EngineBuilder::driver);
        Ok(builder.start().await?)
    }

    /// Starts the next engine on the same directories. The one before is stopped.
    pub(super) async fn next(self) -> anyhow::Result<Self> {
        let Self { dir, .. } = self;
        let engine = Self::start(&dir, Vec::new()).await?;
        Ok(Self { engine, dir })
    }

    pub(super) async fn network(&self, name: String, driver: &str) -> anyhow::Result<Network> {
        Ok(self.engine.controller().create_network(NetworkSpec::new(name).driver(driver)).await?)
    }
}

/// How often the store is synced while a thousand endpoints join that are all there already.
pub(super) fn joins(check: &Check) -> anyhow::Result<Vec<f64>> {
    const JOINS: usize = 1_000;
    isolate::enter_own_namespaces()?;
    on_a_runtime(async {
        let place = Place::new(check, Vec::new()).await?;
        let controller = place.engine.controller();
        let mut networks = Vec::new();
        for n in 0..4 {
            networks.push(place.network(format!("bench{n}"), "bridge").await?);
        }
        let made = (0..JOINS).map(async |n| {
            let name = format!("c{n}");
            let endpoint = networks[n % networks.len()].create_endpoint(EndpointSpec::new(&name)).await?;
            Ok::<_, anyhow::Error>((endpoint, controller.create_sandbox(SandboxSpec::new(&name)).await?))
        });
        let made = try_join_all(made).await?;
        let before = place.engine.store_stats().await?.syncs;
        try_join_all(made.iter().map(|(endpoint, sandbox)| endpoint.join(sandbox, JoinSpec::default())))
            .await?;
        let syncs = place.engine.store_stats().await?.syncs - before;
        join_all(made.iter().map(async |(endpoint, sandbox)| {
            sandbox.delete().await?;
            endpoint.delete().await
        }))
        .await
        .into_iter()
        .collect::<Result<(), _>>()?;
        for network in networks {
            network.delete().await?;
        }
        place.engine.drain().await?;
        place.engine.shutdown(ShutdownMode::Graceful).await?;
        Ok(vec![syncs as f64])
    })
}

/// A hundred endpoints on a bridge network, while 64 others are stuck in a driver that never answers, against the
/// same without those.
pub(super) fn hang(check: &Check) -> anyhow::Result<Vec<f64>> {
    const STUCK: usize = 64;
    isolate::enter_own_namespaces()?;
    on_a_runtime(async {
        let place = Place::new(check, vec![Registration::new(Stuck::KIND, || Stuck)]).await?;
        let well = place.network("well".into(), "bridge").await?;
        let stuck = place.network("stuck".into(), Stuck::KIND).await?;
        let hundred = async |round: &str| {
            let began = Instant::now();
            for n in 0..100 {
                well.create_endpoint(EndpointSpec::new(format!("{round}{n}"))).await?;
            }
            anyhow::Ok(began.elapsed().as_secs_f64())
        };
        hundred("warm").await?;
        let normal = hundred("normal").await?;
        let waiting: Vec<_> = (0..STUCK)
            .map(|n| {
                let stuck = stuck.clone();
                tokio::spawn(async move { stuck.create_endpoint(EndpointSpec::new(format!("e{n}"))).await })
            })
            .collect();
        while place.engine.inspect().await?.operations.len() < STUCK {
            tokio::task::yield_now().await;
        }
        let beside = hundred("beside").await?;
        anyhow::ensure!(waiting.iter().all(|call| !call.is_finished()), "the driver does not hang");
        place.engine.shutdown(ShutdownMode::Immediate).await?;
        Ok(vec![beside / normal])
    })
}

/// A driver whose endpoints never come.
struct Stuck;

impl Stuck {
    const KIND: &'static str = "stuck";
}

impl Driver for Stuck {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn capability(&self) -> Capability {
        Capability {
            scope: Scope::Local,
            needs_ipam: true,
            shares_pools: false,
            provides_gateway: true,
            adopts: &[],
            permanent: false,
            hears_of_bare: false,
        }
    }

    fn create_network(&mut self, _: &DriverCx, _: CreateNetwork) -> Begun<NetworkCreated> {
        done(NetworkCreated::default())
    }

    fn delete_network(&mut self, _: &DriverCx, _: NetworkId) -> Begun<()> {
        done(())
    }

    fn create_endpoint(&mut self, _: &DriverCx, _: CreateEndpoint) -> Begun<EndpointCreated> {
        Ok(Box::pin(pending()))
    }

    fn delete_endpoint(&mut self, _: &DriverCx, _: NetworkId, _: EndpointId) -> Begun<()> {
        done(())
    }

    fn join(&mut self, _: &DriverCx, _: Join) -> Begun<Joined> {
        done(Joined::default())
    }

    fn leave(&mut self, _: &DriverCx, _: Leave) -> Begun<Left> {
        done(Left::default())
    }
}
