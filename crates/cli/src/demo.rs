//! `netloom demo`: two containers on a bridge network, from nothing to nothing.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use netloom::kernel::isolate;
use netloom::testkit::probe::{Connector, EchoSocket, Listener, transfer};
use netloom::{
    Endpoint, EndpointSpec, Engine, JoinSpec, Network, NetworkSpec, Sandbox, SandboxSpec, ShutdownMode,
};

use crate::leftovers::{self, Picture};
use crate::report::{self, Outcome, Output, Step};
use crate::signals::Signals;
use crate::standing::{Ending, Place, Standing};

mod ask;
mod visit;

/// How much a TCP transfer carries.
const TRANSFER: u64 = 64 << 20;
/// How many echo requests are sent each way.
const PINGS: u16 = 5;
/// How long one proof may take.
const PROOF: Duration = Duration::from_secs(20);
/// How long taking everything down after a failure may take.
const CLEARING: Duration = Duration::from_secs(30);
/// How often it is looked whether what was in flight has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Options of the demonstration.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Leaves everything standing and prints how to look around.
    #[arg(long)]
    keep: bool,
    /// Prints one JSON object in place of the table.
    #[arg(long)]
    json: bool,
}

/// Runs the demonstration; tells whether everything worked and nothing is left.
pub(crate) fn run(options: &Options, out: &mut Output) -> anyhow::Result<bool> {
    let place = find_place()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // Before there is anything that an early end would leave behind.
    let mut signals = runtime.block_on(async { Signals::listen() }).context("cannot listen for signals")?;
    let dir = tempfile::Builder::new().prefix("netloom-demo-").tempdir().context("no temporary directory")?;
    let stage = Stage::new(dir.path(), place);
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = stage.perform(options.keep) => outcome,
            () = signals.interrupted() => stage.interrupted().await,
        }
    });
    let kept = options.keep && outcome.ok;
    if kept && place == Place::Shared {
        // Before anything is told: what stands needs its store, whoever listens.
        let _ = dir.keep();
    }
    if options.json {
        report::json(out, &outcome)?;
    } else {
        report::table(out, &outcome);
        verdict(out, &outcome, options.keep);
    }
    if kept {
        let ending = Ending::of_standard_input();
        let text = runtime.block_on(stage.standing())?.explain(ending);
        // Standard output carries one JSON object and nothing else, or its reader may have gone: but who kept
        // something has to learn how to take it down.
        if options.json || !out.line(&text) {
            report::aside(&text);
        }
        if place != Place::Shared {
            runtime.block_on(ending.wait(&mut signals));
            runtime.block_on(stage.strike())?;
        }
    }
    // A proof that was interrupted waits for its answer on a thread: nobody waits for that.
    runtime.shutdown_background();
    Ok(outcome.ok)
}

/// Where this process may not change the network it makes namespaces of its own.
fn find_place() -> anyhow::Result<Place> {
    if isolate::is_in_charge() {
        return Ok(Place::Shared);
    }
    let user = isolate::enter_own_namespaces().context(
        "no power over the network here, and no user namespace to be had; run as root, or allow unprivileged \
         user namespaces",
    )?;
    Ok(Place::Own { process: std::process::id(), user })
}

fn verdict(out: &mut Output, outcome: &Outcome, keep: bool) {
    match (&outcome.error, outcome.leftovers.is_empty(), keep) {
        (Some(error), ..) => out.line(format_args!("failed: {error}")),
        (None, true, true) => out.line("everything works and is left standing"),
        (None, true, false) => out.line("everything works, and nothing is left behind"),
        (None, false, _) => out.line("something is left behind:"),
    };
    for left in &outcome.leftovers {
        out.line(format_args!("  {left}"));
    }
    if let Some(remedy) = &outcome.remedy {
        out.line(format_args!("remedy: {remedy}"));
    }
}

/// Where the demonstration plays.
struct Stage {
    data_dir: PathBuf,
    run_dir: PathBuf,
    instance: String,
    place: Place,
    /// The engine once it runs, for whoever has to take everything down in a hurry.
    engine: OnceLock<Engine>,
    before: OnceLock<Picture>,
}

/// An endpoint in its sandbox, with its address.
type Member = (Endpoint, Sandbox, IpAddr);

/// What stands on it.
struct Cast {
    engine: Engine,
    networks: Vec<Network>,
    pairs: Vec<Member>,
}

/// Keeps the time of each step.
struct Clock(Vec<Step>);

impl Clock {
    async fn step<T>(
        &mut self,
        name: &str,
        work: impl Future<Output = anyhow::Result<(T, String)>>,
    ) -> anyhow::Result<T> {
        let started = Instant::now();
        match work.await {
            Ok((value, result)) => {
                self.0.push(Step::new(name, started.elapsed(), result));
                Ok(value)
            }
            Err(error) => {
                self.0.push(Step::new(name, started.elapsed(), "failed"));
                Err(error.context(name.to_owned()))
            }
        }
    }
}

impl Stage {
    fn new(dir: &Path, place: Place) -> Self {
        // Of the directory's own name, which is drawn: process ids recur.
        let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let drawn: String = name.chars().rev().take(6).collect::<String>().to_ascii_lowercase();
        Self {
            data_dir: dir.join("data"),
            run_dir: dir.join("run"),
            instance: format!("demo-{drawn}"),
            place,
            engine: OnceLock::new(),
            before: OnceLock::new(),
        }
    }

    async fn perform(&self, keep: bool) -> Outcome {
        let mut clock = Clock(Vec::new());
        let played = self.play(&mut clock, keep).await;
        self.outcome(clock.0, played, keep).await
    }

    /// Takes down what stands so far.
    async fn interrupted(&self) -> Outcome {
        let mut why = anyhow!("interrupted");
        if let Some(engine) = self.engine.get()
            && let Err(error) = self.clear(engine).await
        {
            why = anyhow!("interrupted; {error:#}");
        }
        self.outcome(Vec::new(), Err(why), false).await
    }

    /// Looks for leftovers, also after a failure.
    async fn outcome(&self, mut steps: Vec<Step>, played: anyhow::Result<()>, keep: bool) -> Outcome {
        let (mut failure, mut leftovers) = (played.err(), Vec::new());
        if !keep || failure.is_some() {
            let started = Instant::now();
            match self.leftovers().await {
                Ok(left) => {
                    let result =
                        if left.is_empty() { "none".to_owned() } else { format!("{} found", left.len()) };
                    steps.push(Step::new("look for leftovers", started.elapsed(), result));
                    leftovers = left;
                }
                Err(error) => failure = failure.or(Some(error.context("look for leftovers"))),
            }
        }
        Outcome {
            ok: failure.is_none() && leftovers.is_empty(),
            steps,
            leftovers,
            error: failure.as_ref().map(|error| format!("{error:#}")),
            remedy: failure.as_ref().and_then(report::remedy),
        }
    }

    async fn leftovers(&self) -> anyhow::Result<Vec<String>> {
        let Some(before) = self.before.get() else { return Ok(Vec::new()) };
        let mut left = Picture::take(&self.run_dir).await?.beyond(before);
        if self.data_dir.exists() {
            left.extend(self.records().await?);
        }
        Ok(left)
    }

    async fn play(&self, clock: &mut Clock, keep: bool) -> anyhow::Result<()> {
        let before = Picture::take(&self.run_dir).await?;
        let _ = self.before.set(before);
        let engine = clock.step("start the engine", self.start()).await?;
        let _ = self.engine.set(engine.clone());
        let played = async {
            let cast = self.build(clock, &engine).await?;
            if keep {
                return engine.shutdown(ShutdownMode::Graceful).await.map_err(anyhow::Error::from);
            }
            self.take_down(clock, cast).await
        };
        let Err(error) = played.await else { return Ok(()) };
        match self.clear(&engine).await {
            Ok(()) => Err(error),
            Err(more) => Err(error.context(format!("failed, and {more:#}"))),
        }
    }

    async fn start(&self) -> anyhow::Result<(Engine, String)> {
        if self.place != Place::Shared {
            visit::forward()?;
        }
        let builder = Engine::builder().data_dir(&self.data_dir).run_dir(&self.run_dir);
        let engine = builder.instance(&self.instance).start().await?;
        Ok((engine, format!("instance {}", self.instance)))
    }

    async fn build(&self, clock: &mut Clock, engine: &Engine) -> anyhow::Result<Cast> {
        let controller = engine.controller();
        let network = clock.step("create a bridge network", async {
            let network = controller.create_network(NetworkSpec::new("demo")).await?;
            let snapshot = network.inspect().await?;
            let pool = snapshot.v4.first().context("no pool")?.pool;
            Ok((network, pool.to_string()))
        });
        let network = network.await?;
        clock.step("look at the firewall", firewall(engine)).await?;
        let mut pairs = Vec::new();
        for name in ["one", "two"] {
            let making = format!("create endpoint {name}");
            let endpoint = clock.step(&making, async {
                let spec = EndpointSpec::new(name);
                let spec = if name == "two" { spec.publish(visit::binding()) } else { spec };
                let endpoint = network.create_endpoint(spec).await?;
                let snapshot = endpoint.inspect().await?;
                let address = snapshot.ipv4.context("no address")?.addr();
                let mac = snapshot.mac.context("no hardware address")?;
                Ok(((endpoint, IpAddr::V4(address)), format!("{address}, {mac}")))
            });
            let (endpoint, address) = endpoint.await?;
            let making = format!("create sandbox {name}");
            let sandbox = clock.step(&making, async {
                let sandbox = controller.create_sandbox(SandboxSpec::new(format!("demo-{name}"))).await?;
                let netns = sandbox.netns()?;
                Ok((sandbox, format!("namespace {netns}")))
            });
            let sandbox = sandbox.await?;
            clock
                .step(&format!("join {name}"), async {
                    let place = endpoint.join(&sandbox, JoinSpec::default()).await?;
                    Ok(((), place.ifname.to_string()))
                })
                .await?;
            pairs.push((endpoint, sandbox, address));
        }
        let [(_, one, first), (published, two, second)] = pairs.as_slice() else { bail!("two were made") };
        clock.step("echo from one to two", echo(one, *second)).await?;
        clock.step("echo from two to one", echo(two, *first)).await?;
        clock.step("ask for two by name", ask::by_name(one, "two", *second)).await?;
        clock.step("TCP from one to two", stream(one, two, *second)).await?;
        let outside = visit::outside(clock, engine, (published, two, *second)).await?;
        clock.step("compare with the kernel", compare(engine)).await?;
        let mut networks = vec![network];
        if let Some((network, visitor)) = outside {
            networks.push(network);
            pairs.push(visitor);
        }
        Ok(Cast { engine: engine.clone(), networks, pairs })
    }

    async fn take_down(&self, clock: &mut Clock, cast: Cast) -> anyhow::Result<()> {
        let Cast { engine, networks, pairs } = cast;
        for (endpoint, sandbox, _) in &pairs {
            let name = endpoint.name().to_owned();
            clock.step(&format!("leave {name}"), done(endpoint.leave(sandbox))).await?;
            clock.step(&format!("delete endpoint {name}"), done(endpoint.delete())).await?;
            clock.step(&format!("delete sandbox {name}"), done(sandbox.delete())).await?;
        }
        for network in networks {
            clock.step(&format!("delete network {}", network.name()), done(network.delete())).await?;
        }
        clock.step("wait for the kernel", done(engine.drain())).await?;
        clock.step("stop the engine", done(engine.shutdown(ShutdownMode::Graceful))).await
    }

    /// Removes whatever stands after a failure, and what was in flight as soon as it stands; what cannot be
    /// removed shows up among the leftovers.
    ///
    /// # Errors
    /// When something is still in flight or in service at the end of the time.
    async fn clear(&self, engine: &Engine) -> anyhow::Result<()> {
        let controller = engine.controller();
        let deadline = Instant::now() + CLEARING;
        let cleared = loop {
            // Behind every request that was sent before, and with what is being made: a handle is there only
            // when it is finished. Fails when the engine is stopped.
            let Ok(seen) = engine.inspect().await else { break Ok(()) };
            if seen.operations.is_empty() && seen.sandboxes.is_empty() && seen.networks.is_empty() {
                break Ok(());
            }
            if Instant::now() >= deadline {
                let flying = seen.operations.iter().map(|op| format!("{} {}", op.verb, op.object));
                let sandboxes =
                    seen.sandboxes.iter().map(|sandbox| format!("sandbox {}", sandbox.container_id));
                let networks = seen.networks.iter().map(|network| format!("network {}", network.name));
                let left: Vec<_> = flying.chain(sandboxes).chain(networks).collect();
                break Err(anyhow!("not taken down in {CLEARING:?}: {}", left.join(", ")));
            }
            for sandbox in controller.sandboxes() {
                let _ = sandbox.delete().await;
            }
            for network in controller.networks() {
                for endpoint in network.endpoints().await.unwrap_or_default() {
                    let _ = endpoint.delete_with_force().await;
                }
                let _ = network.delete().await;
            }
            tokio::time::sleep(LOOK).await;
        };
        let _ = engine.drain().await;
        let _ = engine.shutdown(ShutdownMode::Graceful).await;
        cleared
    }

    /// Takes down what was kept: a new engine takes it over and deletes it.
    async fn strike(&self) -> anyhow::Result<()> {
        let (engine, _) = self.start().await?;
        self.clear(&engine).await
    }

    /// The engine's threads may need a moment to let go of the store.
    async fn records(&self) -> anyhow::Result<Vec<String>> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match leftovers::records(&self.data_dir) {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(5)).await,
                outcome => return outcome,
            }
        }
    }

    /// What is kept.
    async fn standing(&self) -> anyhow::Result<Standing> {
        let netns_dir = self.run_dir.join("netns");
        // The engine's own mark on the directory is no namespace.
        let named = |entry: &std::fs::DirEntry| !entry.file_name().as_encoded_bytes().starts_with(b".");
        let inside = std::fs::read_dir(&netns_dir).into_iter().flatten().flatten().filter(named);
        let mut namespaces: Vec<_> = inside.map(|entry| entry.path()).collect();
        namespaces.sort();
        let dir = self.run_dir.parent().unwrap_or(&self.run_dir).to_owned();
        let now = Picture::take(&self.run_dir).await;
        let now = now.with_context(|| format!("everything is left standing, with {}", dir.display()))?;
        let bridges = self.before.get().map(|before| now.bridges_beyond(before)).unwrap_or_default();
        Ok(Standing { place: self.place, dir, namespaces, bridges })
    }
}

async fn done(work: impl Future<Output = netloom::Result<()>>) -> anyhow::Result<((), String)> {
    work.await?;
    Ok(((), "done".to_owned()))
}

/// What the rules are said to, and what stands in the way of packets that they let through.
async fn firewall(engine: &Engine) -> anyhow::Result<((), String)> {
    let seen = engine.inspect().await?.firewall.context("it is being started again")?;
    let mut told = format!("{}: {}", seen.backend, seen.reason);
    if !seen.place.is_empty() {
        told.push_str(&format!("; {}", seen.place));
    }
    for obstacle in seen.obstacles {
        told.push_str(&format!("; in the way of traffic with others: {}", obstacle.name));
        if !obstacle.remedy.is_empty() {
            told.push_str(&format!(" ({})", obstacle.remedy.join("; ")));
        }
    }
    Ok(((), told))
}

/// Compares what the engine wants with what the kernel has.
async fn compare(engine: &Engine) -> anyhow::Result<((), String)> {
    let found = engine.diff().await?;
    let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
    if lines.is_empty() { Ok(((), "no difference".to_owned())) } else { bail!("{}", lines.join("; ")) }
}

/// Sends echo requests from a sandbox.
async fn echo(from: &Sandbox, to: IpAddr) -> anyhow::Result<((), String)> {
    let socket = from.run(move || EchoSocket::open(to)).await?.context("cannot open an ICMP socket")?;
    let slowest = tokio::task::spawn_blocking(move || -> anyhow::Result<Duration> {
        let deadline = Instant::now() + PROOF;
        let mut slowest = Duration::ZERO;
        for sequence in 1..=PINGS {
            let took = socket.ping(0x6e6c, sequence, 56, deadline).context("no answer")?;
            slowest = slowest.max(took);
        }
        Ok(slowest)
    });
    let slowest = slowest.await.map_err(|error| anyhow!(error))??;
    Ok(((), format!("{PINGS} of {PINGS} answered, slowest {} µs", slowest.as_micros())))
}

/// Sends a stream of bytes from one sandbox to another and compares what arrives.
async fn stream(from: &Sandbox, to: &Sandbox, address: IpAddr) -> anyhow::Result<((), String)> {
    let listener = to.run(move || Listener::open((address, 0).into())).await?.context("cannot listen")?;
    let connector = from.run(move || Connector::open(address)).await?.context("cannot open a socket")?;
    let target = listener.address();
    carry(listener, connector, target).await
}

/// Sends a stream of bytes over sockets that are open.
async fn carry(listener: Listener, connector: Connector, target: SocketAddr) -> anyhow::Result<((), String)> {
    let sent = tokio::task::spawn_blocking(move || {
        transfer(&listener, connector, target, TRANSFER, 1, Instant::now() + PROOF)
    });
    let sent = sent.await.map_err(|error| anyhow!(error))?.context("the transfer failed")?;
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = sent.bytes as f64 * 8.0 / sent.elapsed.as_secs_f64() / 1e9;
    Ok(((), format!("{} MiB intact, {rate:.1} Gbit/s", sent.bytes >> 20)))
}
