//! Keeps the files of names of all sandboxes. Rank 1. Spawned by the controller's start; asks nobody; emits that the host's
//! resolv.conf has changed.
//!
//! | message | kind | answers with |
//! |---|---|---|
//! | SettleFiles | command | whom a sandbox's name server asks |
//! | RemoveFiles | command | () |
//! | SweepFiles | command | whose were removed |
//! | HostResolvChanged | event | |
//!
//! A thread of its own writes them, one job after another in the order of the messages: so each file has one writer, and
//! what is removed stays so. When the host's resolv.conf changes, sandboxes follow some at a time, and what others want
//! of the disk comes in between.

use std::sync::Arc;
use std::time::Duration;

use netloom_dns::io::{Asked, HostResolv};
use netloom_model::{Result, SandboxId};
use netloom_runtime::{Actor, Addr, Cause, Cx, EventSink, Handle, OpCtx, Reply, TaskGroup};

use super::message::{FilesEvent, HostResolvChanged, RemoveFiles, SettleFiles, SweepFiles};
use super::state::{FilesState, Job};

/// How long it may take until all sandboxes say what the host's resolv.conf says; those that do not by then follow with
/// the next word about them.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the files service is made with.
#[derive(Debug)]
pub struct FilesDeps {
    /// The files.
    pub state: FilesState,
    /// Who hears of changes.
    pub events: EventSink<FilesEvent>,
    /// Its tasks, which last as long as it does.
    pub tasks: TaskGroup,
}

/// The actor of the files service.
#[derive(Debug)]
pub struct FilesActor {
    deps: FilesDeps,
}

impl FilesActor {
    /// An actor for these files.
    #[must_use]
    pub fn new(deps: FilesDeps) -> Self {
        Self { deps }
    }
}

// === Lifecycle ===

impl Actor for FilesActor {
    const KIND: &'static str = "files";

    fn started(&mut self, cx: &mut Cx<'_, Self>) {
        let Some(mut news) = self.deps.state.news() else { return };
        let me = cx.me();
        self.deps.tasks.spawn(async move {
            // An incarnation that comes later hears the last change at once.
            while news.changed().await.is_ok() && me.is_alive() {
                let says = news.borrow_and_update().clone();
                tell(&me, says);
            }
        });
    }
}

fn tell(me: &Addr<FilesActor>, says: Arc<HostResolv>) {
    me.tell(&OpCtx::new(Cause::Event("the host's resolv.conf"), PATIENCE), HostResolvChanged(says));
}

// === Commands ===

impl Handle<SettleFiles> for FilesActor {
    fn handle(
        &mut self,
        _: OpCtx,
        SettleFiles { sandbox, wanted, fresh }: SettleFiles,
        reply: Reply<Result<Option<Asked>>>,
        _: &mut Cx<'_, Self>,
    ) {
        self.deps.state.give(Job::Settle(sandbox, wanted, fresh, reply));
    }
}

impl Handle<RemoveFiles> for FilesActor {
    fn handle(
        &mut self,
        _: OpCtx,
        RemoveFiles { sandbox, spec }: RemoveFiles,
        reply: Reply<Result<()>>,
        _: &mut Cx<'_, Self>,
    ) {
        self.deps.state.give(Job::Remove(sandbox, spec, reply));
    }
}

impl Handle<SweepFiles> for FilesActor {
    fn handle(
        &mut self,
        _: OpCtx,
        SweepFiles(known): SweepFiles,
        reply: Reply<Result<Vec<SandboxId>>>,
        _: &mut Cx<'_, Self>,
    ) {
        self.deps.state.give(Job::Sweep(known, reply));
    }
}

// === Events ===

impl Handle<HostResolvChanged> for FilesActor {
    fn handle(
        &mut self,
        op: OpCtx,
        HostResolvChanged(says): HostResolvChanged,
        _: Reply<()>,
        _: &mut Cx<'_, Self>,
    ) {
        let (state, events) = (self.deps.state.clone(), self.deps.events.clone());
        self.deps.tasks.spawn(async move {
            if tokio::time::timeout_at(op.deadline, follow(&state, says.clone())).await.is_err() {
                tracing::warn!("the disk takes its time: not every sandbox has the host's name servers yet");
            }
            // An actor that dies meanwhile has its work done once more by the next one, which is told the same.
            if state.is_new(&says) {
                events.emit(&op, FilesEvent::HostChanged(says));
            }
        });
    }
}

/// Has every sandbox say what the host's resolv.conf says, some at a time.
async fn follow(state: &FilesState, says: Arc<HostResolv>) {
    let (reply, answer) = Reply::channel();
    state.give(Job::Host(says, reply));
    let mut more = answer.await.unwrap_or(false);
    while more {
        let (reply, answer) = Reply::channel();
        state.give(Job::CatchUp(reply));
        more = answer.await.unwrap_or(false);
    }
}
