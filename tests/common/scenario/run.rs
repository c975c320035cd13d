//! Carrying out a scenario.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::{LocalBoxFuture, join_all};
use netloom::drivers::Registration;
use netloom::kernel::{LinkTag, Netns, Op};
use netloom::{Engine, EngineBuilder, EngineConfig, Error, MacAddr, Mark, Result};

use super::expect::{Differences, word};
use super::looks::Namespace;
use super::names::Names;
use super::picture::{Detail, picture};
use super::step::{Act, Lifecycle, Step};
use super::whole::live_list;
use super::{How, Machine, Scenario};

/// How long a step, or the clearing up, may take before it is called a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a run showed after each step.
pub(crate) type Trace = Vec<(String, Vec<String>)>;

/// A scenario did not go as written.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The number of the step from 1; `None` after the last.
    pub(crate) step: Option<usize>,
    /// The step as it is written.
    pub(crate) text: String,
    pub(crate) why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Some(step) => write!(f, "step {step} {}:\n    {}", self.text, self.why),
            None => write!(f, "at the end:\n    {}", self.why),
        }
    }
}

/// What is not as expected. An error of the interface that a step may expect is inside.
pub(super) type Found<T> = std::result::Result<T, String>;

/// Carries out a scenario and clears up, and says what was seen.
pub(crate) async fn play<M: Machine>(
    machine: &mut M,
    scenario: &Scenario,
) -> (std::result::Result<(), Failure>, Trace) {
    let mut run = Run {
        machine,
        config: scenario.config.clone(),
        drivers: scenario.drivers.clone(),
        engine: None,
        running: false,
        names: RefCell::default(),
        links_before: 0,
        foreign: Vec::new(),
        outside: BTreeMap::new(),
        marks: RefCell::default(),
        detail: Cell::new(Detail::Full),
        trace: Vec::new(),
    };
    let outcome = run.play(scenario).await;
    (outcome, run.trace)
}

pub(super) struct Run<'a, M> {
    pub(super) machine: &'a mut M,
    config: EngineConfig,
    drivers: Vec<Registration>,
    /// The present engine, or the one that was stopped.
    pub(super) engine: Option<Engine>,
    pub(super) running: bool,
    /// Never borrowed over an await.
    pub(super) names: RefCell<Names>,
    pub(super) links_before: usize,
    /// Links that are not ours, to be taken away at the end.
    pub(super) foreign: Vec<String>,
    /// Namespaces of others by name, and where they are found.
    pub(super) outside: BTreeMap<String, PathBuf>,
    /// Moments that the scenario kept.
    pub(super) marks: RefCell<BTreeMap<String, Mark>>,
    pub(super) detail: Cell<Detail>,
    trace: Trace,
}

impl<M: Machine> Run<'_, M> {
    async fn play(&mut self, scenario: &Scenario) -> std::result::Result<(), Failure> {
        let last = |why| Failure { step: None, text: String::new(), why };
        self.links_before =
            Namespace::of(self.machine.kernel(), Netns::Host).await.map_err(last)?.links.len();
        self.start(None).await.map_err(last)?;
        for (number, step) in scenario.steps.iter().enumerate() {
            let failed = |why| Failure { step: Some(number + 1), text: step.text.clone(), why };
            let seen = in_time(self.top(step)).await.map_err(failed)?;
            if matches!(step.act, Act::SetKey { .. }) {
                self.machine.look_anew();
            }
            self.settle().await.map_err(failed)?;
            let engine = self.engine.as_ref().filter(|_| self.running);
            let picture = picture(engine, self.machine.kernel(), &self.names, self.detail.get()).await;
            self.trace.push((seen, picture.map_err(failed)?));
        }
        in_time(self.clear_up()).await.map_err(last)
    }

    /// Starts an engine, with what lives if anybody says.
    pub(super) async fn start(&mut self, live: Option<&Vec<String>>) -> Found<()> {
        self.engine = None;
        self.names.borrow_mut().forget_handles();
        let live = live.map(|live| live_list(&self.names.borrow(), live)).transpose()?;
        let (config, drivers) = (&self.config, &self.drivers);
        let builder = || {
            let builder = Engine::builder().config(config.clone());
            let builder = drivers.iter().cloned().fold(builder, EngineBuilder::driver);
            match &live {
                Some(live) => builder.live_sandboxes(live.iter().cloned()),
                None => builder,
            }
        };
        let started = self.machine.start(builder).await;
        self.engine = Some(started.map_err(|error| format!("start: {error}"))?);
        self.running = true;
        Ok(())
    }

    /// Waits for what goes on behind the answers, so that what is seen is not chance.
    async fn settle(&self) -> Found<()> {
        match &self.engine {
            Some(engine) if self.running => in_time(async { engine.drain().await.map_err(told) }).await,
            _ => Ok(()),
        }
    }

    /// A step of the scenario itself, and in words how it ended.
    async fn top(&mut self, step: &Step) -> Found<String> {
        match &step.act {
            Act::Lifecycle(what) => {
                self.lifecycle(what).await?;
                Ok("ok".to_owned())
            }
            Act::ForeignBridge { name, addresses } => {
                let link = name.parse().map_err(told)?;
                let tag = LinkTag::new("somebody", "else", name);
                let mut ops = vec![Op::CreateBridge { name: link, mac: None, mtu: None, tag }];
                let netns = Netns::Host;
                ops.extend(addresses.iter().map(|&address| Op::AddAddress { netns, link, address }));
                self.execute(ops).await?;
                self.foreign.push(name.clone());
                Ok("ok".to_owned())
            }
            Act::ForeignInterface { name, sandbox } => {
                let (netns, peer) = (self.netns(sandbox)?, name.parse().map_err(told)?);
                let host = format!("foreign-{name}").parse().map_err(told)?;
                // Given, because Linux would draw one.
                let mac = Some(MacAddr([2, 0, 0, 0, 0, 0xff]));
                let (master, mtu) = (None, None);
                let tag = LinkTag::new("somebody", "else", name);
                self.execute(vec![Op::CreateVeth { host, peer, netns, master, mac, mtu, tag }]).await?;
                Ok("ok".to_owned())
            }
            Act::ForeignNamespace(name) => {
                let path = self.machine.make_namespace(name).await;
                self.outside.insert(name.clone(), path);
                Ok("ok".to_owned())
            }
            Act::EndForeignNamespace(name) => {
                self.outside.remove(name).ok_or_else(|| format!("nobody made a namespace {name:?}"))?;
                // What is in it is the business of whoever still has it.
                self.machine.end_namespace(name).await;
                Ok("ok".to_owned())
            }
            _ => self.step(step).await,
        }
    }

    async fn lifecycle(&mut self, what: &Lifecycle) -> Found<()> {
        let stopped = "the engine is stopped";
        match what {
            Lifecycle::Stop(mode) => {
                self.engine()?.shutdown(*mode).await.map_err(told)?;
                self.running = false;
                Ok(())
            }
            Lifecycle::Start { live } => self.start(live.as_ref()).await,
            Lifecycle::Restart { how, live } => {
                self.names.borrow_mut().forget_handles();
                let engine = self.engine.take().ok_or(stopped)?;
                match how.mode() {
                    Some(mode) => engine.shutdown(mode).await.map_err(told)?,
                    None => self.machine.kill(engine).await,
                }
                if *how == How::Reboot {
                    self.machine.reboot().await;
                }
                self.start(live.as_ref()).await
            }
            Lifecycle::Repairs { counts: expected, besides } => {
                let mut found = BTreeMap::<String, usize>::new();
                let repairs = self.engine()?.repairs();
                for repair in repairs {
                    let text = format!("{repair:?}");
                    let word = text.split([' ', '{', '(']).next().unwrap_or_default();
                    *found.entry(word.to_owned()).or_default() += 1;
                }
                let found: Vec<_> = found.into_iter().filter(|(word, _)| !besides.contains(word)).collect();
                if *expected == found {
                    return Ok(());
                }
                Err(format!("repairs: expected {expected:?}, found {found:?}: {repairs:?}"))
            }
        }
    }

    /// The present engine, where there must be one.
    pub(super) fn present(&self) -> &Engine {
        self.engine.as_ref().expect("a step begins with a look at it")
    }

    pub(super) fn engine(&self) -> Found<&Engine> {
        self.engine.as_ref().ok_or_else(|| "there is no engine".to_owned())
    }

    /// A step that several callers may do at once.
    fn step<'s>(&'s self, step: &'s Step) -> LocalBoxFuture<'s, Found<String>> {
        Box::pin(async move {
            match &step.act {
                Act::Together { branches, outcomes } => {
                    self.together(branches, outcomes.as_ref()).await?;
                    return Ok("together".to_owned());
                }
                Act::Repeat(steps) => {
                    for step in steps {
                        self.step(step).await.map_err(|why| format!("in {}: {why}", step.text))?;
                    }
                    return Ok("repeated".to_owned());
                }
                _ => {}
            }
            let outcome = self.act(step).await?;
            let names = self.names.borrow();
            let seen = match &outcome {
                Ok(()) => "ok".to_owned(),
                Err(error) => without_numbers(&names.without_ids(&format!("{error:?}"))),
            };
            step.expected.judge(outcome, &names)?;
            Ok(seen)
        })
    }

    /// Branches at once. With `outcomes` any of them may end in any of these ways, so often each.
    async fn together(&self, branches: &[Vec<Step>], outcomes: Option<&Vec<(String, usize)>>) -> Found<()> {
        let chance = |step: &Step| !step.expected.may_fail.is_empty();
        if outcomes.is_none() && branches.iter().flatten().any(chance) {
            self.detail.set(Detail::Nothing);
        } else if branches.len() > 1 {
            self.detail.set(self.detail.get().min(Detail::Counts));
        }
        let ends = join_all(branches.iter().map(async |steps| {
            let mut end = "ok".to_owned();
            for step in steps {
                let failed = |why| format!("in {}: {why}", step.text);
                if outcomes.is_none() || matches!(step.act, Act::Together { .. } | Act::Repeat(_)) {
                    self.step(step).await.map_err(failed)?;
                    continue;
                }
                let outcome = self.act(step).await.map_err(failed)?;
                end = word(&outcome);
                if outcome.is_err() {
                    let expected = &step.expected;
                    let kind = outcome.as_ref().err().map(Error::kind);
                    let judge = super::step::Expected { fails: kind, ..expected.clone() };
                    judge.judge(outcome, &self.names.borrow()).map_err(failed)?;
                    break;
                }
            }
            Ok(end)
        }));
        let ends: Vec<String> = ends.await.into_iter().collect::<Found<_>>()?;
        let Some(outcomes) = outcomes else { return Ok(()) };
        let mut found = BTreeMap::<String, usize>::new();
        for end in ends {
            *found.entry(end).or_default() += 1;
        }
        let found: Vec<_> = found.into_iter().collect();
        if *outcomes == found {
            Ok(())
        } else {
            Err(format!("outcomes: expected {outcomes:?}, found {found:?}"))
        }
    }

    /// Does what a step says. The inner result is what the engine answered, the outer one says what is not as
    /// expected otherwise.
    async fn act(&self, step: &Step) -> Found<Result<()>> {
        let engine = self.engine()?;
        let controller = engine.controller();
        let save = |id: String| {
            if let Some(name) = &step.saves {
                self.names.borrow_mut().save(name, id);
            }
        };
        let answer = match &step.act {
            Act::CreateNetwork(spec) => controller.create_network(spec.clone()).await.map(|network| {
                save(network.id().to_string());
                self.names.borrow_mut().add_network(network);
            }),
            Act::DeleteNetwork { name, force } => match self.network(name) {
                Ok(network) if *force => network.delete_with_force().await,
                Ok(network) => network.delete().await,
                Err(error) => Err(error),
            },
            Act::CreateEndpoint { path, network, spec } => match self.network(network) {
                Ok(network) => network.create_endpoint(spec.clone()).await.map(|endpoint| {
                    save(endpoint.id().to_string());
                    self.names.borrow_mut().add_endpoint(path, endpoint);
                }),
                Err(error) => Err(error),
            },
            Act::DeleteEndpoint { path, force } => match self.endpoint(path).await {
                Ok(endpoint) if *force => endpoint.delete_with_force().await,
                Ok(endpoint) => endpoint.delete().await,
                Err(error) => Err(error),
            },
            Act::CreateSandbox(spec) => controller.create_sandbox(spec.clone()).await.map(|sandbox| {
                save(sandbox.id().to_string());
                self.names.borrow_mut().add_sandbox(sandbox);
            }),
            Act::DeleteSandbox { container, force } => match self.sandbox(container) {
                Ok(sandbox) if *force => sandbox.delete_with_force().await,
                Ok(sandbox) => sandbox.delete().await,
                Err(error) => Err(error),
            },
            Act::DestroySandbox(container) => controller.destroy_sandbox(container).await,
            Act::Join { endpoint, sandbox, spec } => match self.pair(endpoint, sandbox).await {
                Ok((endpoint, sandbox)) => endpoint.join(&sandbox, *spec).await.map(drop),
                Err(error) => Err(error),
            },
            Act::Leave { endpoint, sandbox } => match self.pair(endpoint, sandbox).await {
                Ok((endpoint, sandbox)) => endpoint.leave(&sandbox).await,
                Err(error) => Err(error),
            },
            Act::Find { what, is } => match self.find(what).await? {
                Ok(id) => {
                    if let Some(is) = is {
                        let expected = self.names.borrow().resolve(is)?;
                        if expected != id {
                            return Err(format!("is: expected {is}, which is {expected}, found {id}"));
                        }
                    }
                    save(id);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Act::List { what, are } => match self.list(what).await {
                Ok(found) if found == *are => Ok(()),
                Ok(found) => return Err(format!("listed: expected {are:?}, found {found:?}")),
                Err(error) => Err(error),
            },
            Act::EndpointStatistics(path) => match self.endpoint(path).await {
                Ok(endpoint) => endpoint.statistics().await.map(drop),
                Err(error) => Err(error),
            },
            Act::Statistics { container, interfaces } => match self.sandbox(container) {
                Ok(sandbox) => match sandbox.statistics().await {
                    Ok(found) => {
                        let found: Vec<_> = found.keys().map(ToString::to_string).collect();
                        if found != *interfaces {
                            return Err(format!("interfaces: expected {interfaces:?}, found {found:?}"));
                        }
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            },
            Act::Drain => engine.drain().await,
            Act::InspectNetwork(..)
            | Act::InspectEndpoint(..)
            | Act::InspectSandbox(..)
            | Act::InspectEngine(_)
            | Act::DriverInfo(..) => return self.inspect(engine, &step.act, &save).await,
            Act::Inside(container, look) => {
                let netns = self.place(container).await?;
                let mut differences = Differences::default();
                look.compare(&Namespace::of(self.machine.kernel(), netns).await?, &mut differences);
                differences.into_result()?;
                Ok(())
            }
            Act::OnHost(look) => {
                self.look_at_host(look).await?;
                Ok(())
            }
            Act::Reaches { from, to, answered } => {
                let sandbox = self.sandbox(from).map_err(told)?;
                let to = self.address(to).await?;
                let found = self.machine.reaches(&sandbox, to, *answered).await;
                if found != *answered {
                    return Err(format!("answered by {to}: expected {answered}, found {found}"));
                }
                Ok(())
            }
            Act::LoseBridge(network) => {
                let name = self.bridge(&format!("@{network}"))?.parse().map_err(told)?;
                self.execute(vec![Op::DeleteLink { name, tag: None }]).await?;
                Ok(())
            }
            Act::LoseNamespace(container) => {
                self.lose_namespace(container).await?;
                Ok(())
            }
            Act::LoseLink(path) => {
                let id = self.names.borrow().resolve(&format!("${path}"))?;
                let host = Namespace::of(self.machine.kernel(), Netns::Host).await?;
                let ours = host.links.iter().find(|link| link.tag().is_some_and(|tag| tag.id == id));
                let name = ours.ok_or_else(|| format!("{path} has no link"))?.name;
                self.execute(vec![Op::DeleteLink { name, tag: None }]).await?;
                Ok(())
            }
            Act::Lifecycle(_)
            | Act::ForeignBridge { .. }
            | Act::ForeignInterface { .. }
            | Act::ForeignNamespace(_)
            | Act::EndForeignNamespace(_)
            | Act::Together { .. }
            | Act::Repeat(_) => unreachable!("carried out before"),
            other => return self.act_on_whole(engine, other).await,
        };
        Ok(answer)
    }
}

/// A text without the names of error numbers, which only one of the kernels adds: ` (ENOENT)`.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (E");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((name, rest)) if name.bytes().all(|b| b.is_ascii_uppercase()) => whole.push_str(rest),
            _ => whole.extend([" (E", part]),
        }
    }
    whole
}

/// An error that no step expects.
pub(super) fn told(error: impl fmt::Display) -> String {
    error.to_string()
}

async fn in_time<T>(work: impl Future<Output = Found<T>>) -> Found<T> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("it hangs: not done within {PATIENCE:?}")),
    }
}
