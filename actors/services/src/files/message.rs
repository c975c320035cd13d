//! What the files service can be asked, and what it tells.

use std::sync::Arc;

use netloom_dns::io::{Asked, HostResolv, Wanted};
use netloom_model::{Result, SandboxId, SandboxSpec};
use netloom_runtime::messages;

use super::state::Fresh;

/// Have a sandbox's files be like this. Answers with whom its own name server asks, where it has one.
#[derive(Clone, Debug)]
pub struct SettleFiles {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// How they are to be.
    pub wanted: Box<Wanted>,
    /// Whether they are made anew, or go on from what they are.
    pub fresh: Fresh,
}

/// Remove those of a sandbox's files that are the engine's own. Nothing where there is nothing.
#[derive(Clone, Debug)]
pub struct RemoveFiles {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// What was asked for of it: where its files are.
    pub spec: Arc<SandboxSpec>,
}

/// Remove the files of all sandboxes but these. Answers with whose those were.
#[derive(Clone, Debug)]
pub struct SweepFiles(pub Vec<SandboxId>);

/// The host's resolv.conf says something else.
#[derive(Clone, Debug)]
pub(crate) struct HostResolvChanged(pub(crate) Arc<HostResolv>);

messages! {
    SettleFiles => Result<Option<Asked>>;
    RemoveFiles => Result<()>;
    SweepFiles => Result<Vec<SandboxId>>;
    HostResolvChanged => ();
}

/// A fact that the service emits.
#[derive(Clone, Debug)]
pub enum FilesEvent {
    /// The host's resolv.conf says something else, and so do those of the sandboxes by now: those that a user has not
    /// changed, and that could be written.
    HostChanged(Arc<HostResolv>),
}
