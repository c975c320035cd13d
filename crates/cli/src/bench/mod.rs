//! `netloom bench`: how fast the engine is, beside what the kernel alone would need.

mod check;
mod figures;
mod load;
mod plot;
mod table;
mod usage;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use netloom::Engine;
use netloom::kernel::{floor, isolate};

use self::figures::{Floor, Report};
use self::load::{Run, Stage};
use crate::report::{self, Output};

/// Measures the engine.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Containers come and go: throughput and latencies, with the kernel's own cost measured in the same run.
    Churn(Churn),
    /// Whether the engine is as fast as it must be.
    Check(check::Check),
}

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Churn {
    /// The network driver.
    #[arg(long, default_value = "bridge")]
    driver: String,
    /// How many containers live in all.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    endpoints: u64,
    /// How many callers there are at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    concurrency: u64,
    /// How they live.
    #[arg(long, value_enum, default_value_t = Mode::Churn)]
    mode: Mode,
    /// Over how many networks.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    networks: u64,
    /// Uses the simulated kernel and a store in memory: the engine alone.
    #[arg(long)]
    sim: bool,
    /// Writes the figures as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws latencies and throughput.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Where the store is put; on a disk, so that a sync is a sync.
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

impl Default for Churn {
    fn default() -> Self {
        Self {
            driver: "bridge".into(),
            endpoints: 500,
            concurrency: 64,
            mode: Mode::Churn,
            networks: 4,
            sim: false,
            json: None,
            plot: None,
            dir: None,
        }
    }
}

/// How containers live.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// Each caller brings one up and takes it down again.
    Churn,
    /// All of them come up, then all go.
    Hold,
}

/// How many bridges the floor is measured on at most: its own addresses are few.
const MAX_FLOOR_BRIDGES: u64 = 32;
/// As many ports as a bridge has.
const MAX_PORTS: u64 = 1023;

/// Runs what was asked for; tells whether all of it held.
pub(crate) fn run(options: Options, out: &mut Output) -> anyhow::Result<bool> {
    match options.command {
        Command::Churn(churn) => {
            let (report, run) = measure(&churn)?;
            table::print(out, &report);
            if let Some(path) = &churn.json {
                let text = serde_json::to_string_pretty(&report)?;
                std::fs::write(path, text + "\n")
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            if let Some(path) = &churn.plot {
                plot::draw(path, &report, &run)?;
                out.line(format_args!("drawn: {}", path.display()));
            }
            Ok(true)
        }
        Command::Check(check) => check::run(&check, out),
    }
}

/// Measures the floor, then the engine, then the floor again.
fn measure(churn: &Churn) -> anyhow::Result<(Report, Run)> {
    let per_network = churn.endpoints.div_ceil(churn.networks);
    ensure!(
        churn.sim || churn.mode == Mode::Churn || churn.driver != "bridge" || per_network <= MAX_PORTS,
        "{per_network} endpoints a network are too many: a bridge has {MAX_PORTS} ports; give more --networks"
    );
    if !churn.sim {
        // Also as root: what is measured here must not meet the machine's own network.
        isolate::enter_own_namespaces().context("no namespaces to measure in; run as root")?;
    }
    let dir = directory(churn.dir.as_deref())?;
    let before = if churn.sim { None } else { Some(measure_floor(churn, dir.path())?) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut report, run) = runtime.block_on(async {
        let stage = Stage::set(churn, dir.path()).await?;
        let outcome = stage.run(churn).await;
        stage.strike().await.and(outcome)
    })?;
    if let Some(before) = before {
        let after = measure_floor(churn, dir.path())?;
        report.compare(Floor::mean(before, after));
    }
    Ok((report, run))
}

/// A directory for a store, below the given one if any.
fn directory(below: Option<&Path>) -> anyhow::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("netloom-bench-");
    let dir = below.map_or_else(|| builder.tempdir(), |below| builder.tempdir_in(below));
    dir.context("no directory for the store")
}

fn measure_floor(churn: &Churn, dir: &Path) -> anyhow::Result<Floor> {
    let progress = report::spinner("measuring what the kernel alone needs");
    let shape = floor::Shape {
        endpoints: usize::try_from(churn.endpoints)?,
        bridges: usize::try_from(churn.networks.min(MAX_FLOOR_BRIDGES))?,
        hold: churn.mode == Mode::Hold,
    };
    let began = Instant::now();
    let measured = floor::measure(&dir.join("floor"), shape).context("the floor cannot be measured")?;
    progress.finish_and_clear();
    tracing::debug!(took = ?began.elapsed(), "measured the floor");
    Ok(Floor::of(&measured))
}

/// An engine as the options ask for it.
async fn start(churn: &Churn, dir: &Path) -> anyhow::Result<(Engine, Option<netloom::Simulation>)> {
    let config = load::config(churn.concurrency);
    if churn.sim {
        let simulation = Engine::simulation().config(config).start().await?;
        return Ok((simulation.engine().clone(), Some(simulation)));
    }
    let builder = Engine::builder().config(config).data_dir(dir.join("data")).run_dir(dir.join("run"));
    Ok((builder.start().await?, None))
}
