//! Owns the name servers of all sandboxes. Rank 1. Spawned by the controller; asks nobody.
//!
//! | message | kind | answers with |
//! |---|---|---|
//! | SetNames | command | whether there is one |
//! | EndNames | command | () |
//! | StopNames | command | () |
//! | ListNameServers | query | every name server |
//! | HostServersRead | event | |
//! | RetryDue | tick | |
//! | Opened | outcome | |
//! | OriginRead | outcome | |
//! | Ended | outcome | |
//!
//! A sandbox says as a whole what its name server is to be like. The first time sockets are opened in its namespace and
//! questions led to them; then only what questions see, and who is asked outside, is changed, and no socket is touched.
//! Records need no message at all: questions read what networks write ([`Zones`]).
//!
//! What could not be started is no reason to refuse a join: it is told, and tried again. The death of this actor ends no
//! name server ([`NamesState`]); its successor goes on with those that were being started or ended.

use std::collections::hash_map::Entry as Place;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use netloom_dns::server::Names;
use netloom_kernel::{Kernel, Netns};
use netloom_model::{Result, SandboxId};
use netloom_runtime::{Actor, Cause, Cx, Handle, OpCtx, Reply, TaskGroup, messages};
use rustc_hash::FxHashMap;

use super::host::{HostServers, follow, origin};
use super::message::{HostServersRead, ListNameServers, NameServer, RetryDue, SetNames};
use super::open::{self, Opened as Way};
use super::state::{Entry, NamesState, Stage};
use super::wanted::NamesWanted;
use super::zones::Zones;
use crate::panicked;

/// How long it may take to start or to end a name server.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long one rests that could not be started, and twice as long after each further attempt, up to 256 times.
const REST: Duration = Duration::from_millis(100);
const LONGEST_REST: u32 = 8;

// === Actor ===

/// The name servers of all sandboxes.
#[derive(Debug)]
pub struct NamesActor {
    pub(super) kernel: Arc<dyn Kernel>,
    zones: Zones,
    pub(super) state: NamesState,
    /// Who waits for a name server to serve.
    waiting: FxHashMap<SandboxId, Vec<Reply<bool>>>,
    /// Who waits for the end of one.
    pub(super) ending: FxHashMap<SandboxId, Vec<Reply<Result<()>>>>,
    /// Those that are ready wait for the host's name servers to be known.
    unasked: Vec<Reply<bool>>,
    /// Whether the host's name servers are followed. Nobody does before they are needed.
    follows: bool,
    listening: TaskGroup,
}

impl NamesActor {
    /// An actor that goes on from this state.
    #[must_use]
    pub fn new(kernel: Arc<dyn Kernel>, zones: Zones, state: NamesState) -> Self {
        let (waiting, ending, unasked, follows, listening) = Default::default();
        Self { kernel, zones, state, waiting, ending, unasked, follows, listening }
    }

    fn follow(&mut self, cx: &Cx<'_, Self>) {
        if !std::mem::replace(&mut self.follows, true) {
            let file = self.state.get().host_file.clone();
            self.listening.spawn(follow(cx.me(), Arc::clone(&self.kernel), file));
        }
    }

    /// Opens a sandbox's sockets.
    pub(super) fn begin(&mut self, sandbox: SandboxId, cx: &mut Cx<'_, Self>) {
        let mut known = self.state.get();
        let attempt = known.number();
        let Some(entry) = known.sandboxes.get_mut(&sandbox) else { return };
        (entry.stage, entry.attempt) = (Stage::Opening, attempt);
        let (netns, kernel) = (entry.wanted.netns, Arc::clone(&self.kernel));
        let named = entry.wanted.origin().cloned();
        let op = OpCtx::new(Cause::Event("a sandbox needs a name server"), PATIENCE);
        let deadline = op.deadline_std();
        let work = async move {
            let origin = origin(&*kernel, named).await;
            open::open(kernel, netns, deadline).await.map(|way| (way, origin))
        };
        cx.run(&op, work, move |result| {
            let result = result.unwrap_or_else(|cause| Err(panicked(&cause)));
            Opened { sandbox, attempt, result }
        });
    }

    /// Another file says which name servers a sandbox that has one asks.
    fn read_origin(&self, entry: &Entry, cx: &mut Cx<'_, Self>) {
        let (sandbox, path) = (entry.wanted.sandbox, entry.wanted.origin().cloned());
        let (kernel, named) = (Arc::clone(&self.kernel), path.clone());
        let op = OpCtx::new(Cause::Event("a sandbox has another resolv.conf"), PATIENCE);
        let work = async move { origin(&*kernel, named).await };
        cx.run(&op, work, move |read| OriginRead { sandbox, path, origin: read.unwrap_or_default() });
    }

    /// Answers those who wait for a sandbox's name server.
    pub(super) fn answer(&mut self, sandbox: SandboxId) {
        for reply in self.waiting.remove(&sandbox).unwrap_or_default() {
            self.ready(reply);
        }
    }

    /// A question that came before the host's name servers are known would be asked of nobody.
    fn ready(&mut self, reply: Reply<bool>) {
        if self.state.get().host.is_some() {
            reply.send(true);
        } else {
            self.unasked.push(reply);
        }
    }

    /// Makes one serve whose sockets are open.
    fn serve(&mut self, sandbox: SandboxId, way: Way, origin: Option<Arc<HostServers>>) -> Result<()> {
        let mut known = self.state.get();
        let known = &mut *known;
        let Some(entry) = known.sandboxes.get_mut(&sandbox) else { return Ok(()) };
        entry.origin = origin;
        let host = known.host.as_ref().and_then(Option::as_deref);
        let forwarding = entry.refresh(&self.zones, host);
        let Way { sockets, ports } = way;
        let names = match sockets {
            Some(sockets) => Some(known.carriers.serve(entry, sockets, &forwarding, &self.kernel)?),
            None => None,
        };
        (entry.stage, entry.failures, entry.trouble) = (Stage::Serving(names, ports), 0, None);
        Ok(())
    }

    /// It could not be started: it is told, and tried again.
    fn failed(&mut self, sandbox: SandboxId, why: String, cx: &mut Cx<'_, Self>) {
        let mut known = self.state.get();
        let Some(entry) = known.sandboxes.get_mut(&sandbox) else { return };
        if entry.trouble.as_ref() != Some(&why) {
            tracing::warn!(sandbox = %sandbox.short(), why, "a sandbox has no name server");
        }
        entry.stage = Stage::Resting;
        entry.trouble = Some(why);
        let rest = REST * 2_u32.pow(entry.failures.min(LONGEST_REST));
        entry.failures += 1;
        let attempt = entry.attempt;
        let op = OpCtx::new(Cause::Tick("a name server"), PATIENCE);
        cx.run(&op, tokio::time::sleep(rest), move |_| RetryDue { sandbox, attempt });
    }

    fn shown(&self, entry: &Entry) -> NameServer {
        let wanted = Arc::clone(&entry.wanted);
        let networks = wanted.networks.iter().filter_map(|(network, _)| self.zones.name(*network)).collect();
        let (names, ports) = match &entry.stage {
            Stage::Serving(names, ports) => (names.as_ref(), Some(*ports)),
            Stage::Resting | Stage::Opening | Stage::Ending { .. } | Stage::Left => (None, None),
        };
        NameServer {
            networks,
            ports,
            counts: names.map(Names::counts),
            upstreams: names.map(Names::upstreams).unwrap_or_default(),
            trouble: entry.trouble.clone(),
            wanted,
        }
    }
}

/// What came of opening a sandbox's sockets.
#[derive(Debug)]
pub(super) struct Opened {
    sandbox: SandboxId,
    attempt: u64,
    result: Result<(Way, Option<Arc<HostServers>>)>,
}

/// What the file says that a caller has named for a sandbox.
#[derive(Debug)]
pub(super) struct OriginRead {
    sandbox: SandboxId,
    path: Option<PathBuf>,
    origin: Option<Arc<HostServers>>,
}

messages! {
    Opened => ();
    OriginRead => ();
}

// === Lifecycle ===

impl Actor for NamesActor {
    const KIND: &'static str = "names";

    fn started(&mut self, cx: &mut Cx<'_, Self>) {
        if !self.state.get().sandboxes.is_empty() {
            self.follow(cx);
        }
        // What an earlier incarnation was at: what came of it is lost.
        let (mut open, mut end) = (Vec::new(), Vec::new());
        for (sandbox, entry) in &self.state.get().sandboxes {
            match entry.stage {
                Stage::Resting | Stage::Opening => open.push(*sandbox),
                Stage::Ending { .. } => end.push(*sandbox),
                Stage::Serving(..) | Stage::Left => {}
            }
        }
        open.into_iter().for_each(|sandbox| self.begin(sandbox, cx));
        end.into_iter().for_each(|sandbox| self.end(sandbox, cx));
    }
}

// === Commands ===

impl Handle<SetNames> for NamesActor {
    fn handle(
        &mut self,
        _: OpCtx,
        SetNames { wanted, starts, waits }: SetNames,
        reply: Reply<bool>,
        cx: &mut Cx<'_, Self>,
    ) {
        let NamesWanted { sandbox, netns, .. } = *wanted;
        if netns == Netns::Host {
            // Its own name server is the host's.
            return reply.send(false);
        }
        self.follow(cx);
        let (serves, begins) = {
            let mut known = self.state.get();
            let known = &mut *known;
            let entry = match known.sandboxes.entry(sandbox) {
                Place::Occupied(entry) => {
                    let entry = entry.into_mut();
                    let before = std::mem::replace(&mut entry.wanted, wanted);
                    if entry.wanted.origin() != before.origin() {
                        self.read_origin(entry, cx);
                    }
                    entry
                }
                Place::Vacant(place) if starts => place.insert(Entry::new(wanted)),
                Place::Vacant(_) => return reply.send(false),
            };
            entry.refresh(&self.zones, known.host.as_ref().and_then(Option::as_deref));
            match &mut entry.stage {
                Stage::Serving(..) => (true, false),
                Stage::Resting | Stage::Left => (false, true),
                Stage::Opening => (false, false),
                Stage::Ending { again, .. } => {
                    *again = true;
                    (false, false)
                }
            }
        };
        match (waits, serves) {
            (false, _) => reply.send(true),
            (true, true) => self.ready(reply),
            (true, false) => self.waiting.entry(sandbox).or_default().push(reply),
        }
        if begins {
            self.begin(sandbox, cx);
        }
    }
}

// === Queries ===

impl Handle<ListNameServers> for NamesActor {
    fn handle(&mut self, _: OpCtx, _: ListNameServers, reply: Reply<Vec<NameServer>>, _: &mut Cx<'_, Self>) {
        let known = self.state.get();
        let mut all: Vec<_> = known.sandboxes.values().map(|entry| self.shown(entry)).collect();
        all.sort_by(|one, other| {
            let key = |server: &NameServer| (server.wanted.spec.container_id.clone(), server.wanted.sandbox);
            key(one).cmp(&key(other))
        });
        reply.send(all);
    }
}

// === Events ===

impl Handle<HostServersRead> for NamesActor {
    fn handle(
        &mut self,
        _: OpCtx,
        HostServersRead(host): HostServersRead,
        _: Reply<()>,
        _: &mut Cx<'_, Self>,
    ) {
        let mut known = self.state.get();
        let known = &mut *known;
        if known.host.as_ref() != Some(&host) {
            for entry in known.sandboxes.values() {
                entry.refresh(&self.zones, host.as_deref());
            }
            known.host = Some(host);
        }
        self.unasked.drain(..).for_each(|reply| reply.send(true));
    }
}

// === Ticks ===

impl Handle<RetryDue> for NamesActor {
    fn handle(
        &mut self,
        _: OpCtx,
        RetryDue { sandbox, attempt }: RetryDue,
        _: Reply<()>,
        cx: &mut Cx<'_, Self>,
    ) {
        let rests = |entry: &Entry| matches!(entry.stage, Stage::Resting) && entry.attempt == attempt;
        let due = self.state.get().sandboxes.get(&sandbox).is_some_and(rests);
        if due {
            self.begin(sandbox, cx);
        }
    }
}

// === Outcomes ===

impl Handle<Opened> for NamesActor {
    fn handle(
        &mut self,
        _: OpCtx,
        Opened { sandbox, attempt, result }: Opened,
        _: Reply<()>,
        cx: &mut Cx<'_, Self>,
    ) {
        let ends = {
            let known = self.state.get();
            let entry = known.sandboxes.get(&sandbox).filter(|entry| entry.attempt == attempt);
            match entry.map(|entry| &entry.stage) {
                Some(Stage::Opening) => false,
                Some(Stage::Ending { opening: true, .. }) => true,
                // Sockets that nobody wants any more are closed.
                Some(Stage::Resting | Stage::Serving(..) | Stage::Ending { .. } | Stage::Left) | None => {
                    return;
                }
            }
        };
        if ends {
            drop(result);
            return self.end(sandbox, cx);
        }
        let served = result.and_then(|(way, origin)| self.serve(sandbox, way, origin));
        if let Err(error) = served {
            self.failed(sandbox, error.to_string(), cx);
        }
        self.answer(sandbox);
    }
}

impl Handle<OriginRead> for NamesActor {
    fn handle(
        &mut self,
        _: OpCtx,
        OriginRead { sandbox, path, origin }: OriginRead,
        _: Reply<()>,
        _: &mut Cx<'_, Self>,
    ) {
        let mut known = self.state.get();
        let known = &mut *known;
        let entry = known.sandboxes.get_mut(&sandbox);
        if let Some(entry) = entry.filter(|entry| entry.wanted.origin() == path.as_ref()) {
            entry.origin = origin;
            entry.refresh(&self.zones, known.host.as_ref().and_then(Option::as_deref));
        }
    }
}
