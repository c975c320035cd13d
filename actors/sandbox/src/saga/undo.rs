//! How each step of a sandbox's sagas is taken back.

use std::fmt;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use netloom_actor_network::{AbandonAttachment, DetachEndpoint, ProgramEndpoint, RevokeEndpoint};
use netloom_actor_services::SagaWorld;
use netloom_actor_services::{interrupted, panicked};
use netloom_kernel::{Netns, Op};
use netloom_model::{Certainty, EndpointId, Error, ErrorKind, JoinId, NetworkId, Reason, Result, SandboxId};
use netloom_runtime::{OpCtx, Panicked, Undo};
use netloom_store::{Change, Key, RecordKind};

use super::World;

/// One step, to be taken back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Undone {
    /// The namespace.
    Netns(Netns),
    /// The sandbox's record.
    Record(SandboxId),
    /// The attachment of a failed join.
    Attachment(NetworkId, EndpointId, JoinId),
    /// An endpoint that could not leave.
    Membership(NetworkId, EndpointId),
    /// What was done inside the namespace, with what takes it back.
    Plumbing(Vec<Op>),
    /// The way in from outside that an endpoint was given.
    Connectivity(NetworkId, EndpointId),
    /// The way in from outside that an endpoint lost.
    LostConnectivity(NetworkId, EndpointId, std::collections::BTreeMap<String, String>),
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Netns(netns) => write!(f, "{netns}"),
            Self::Record(id) => write!(f, "record of sandbox {}", id.short()),
            Self::Attachment(_, id, _) => write!(f, "attachment of endpoint {}", id.short()),
            Self::Membership(_, id) => write!(f, "endpoint {} in a sandbox that is gone", id.short()),
            Self::Plumbing(ops) => {
                write!(f, "routes and addresses (")?;
                for (i, op) in ops.iter().enumerate() {
                    write!(f, "{}{op}", if i == 0 { "" } else { ", " })?;
                }
                write!(f, ")")
            }
            Self::Connectivity(_, id) => write!(f, "published ports of endpoint {}", id.short()),
            Self::LostConnectivity(_, id, _) => {
                write!(f, "missing published ports of endpoint {}", id.short())
            }
        }
    }
}

impl Undone {
    async fn take_back(self, world: World, op: OpCtx) -> Result<()> {
        match self {
            Self::Netns(Netns::Host) => Ok(()),
            Self::Netns(Netns::Named(name)) => world.remove(&op, vec![Op::DeleteNetns { name }]).await,
            Self::Record(sandbox) => {
                let key = Key::new(RecordKind::Sandbox, sandbox);
                world.commit(&op, vec![Change::Delete { key }]).await
            }
            Self::Attachment(network, endpoint, join) => {
                let abandon = AbandonAttachment { endpoint, join };
                gone_is_fine(world.ask_network(&op, network, abandon).await)
            }
            Self::Membership(network, endpoint) => {
                let detach = DetachEndpoint(endpoint, world.sandbox);
                not_there_is_fine(world.ask_network(&op, network, detach).await)
            }
            Self::Plumbing(ops) => world.remove(&op, ops).await,
            Self::Connectivity(network, endpoint) => {
                let revoke = RevokeEndpoint(endpoint, world.sandbox);
                not_there_is_fine(world.ask_network(&op, network, revoke).await)
            }
            Self::LostConnectivity(network, endpoint, labels) => {
                let program = ProgramEndpoint(endpoint, world.sandbox, labels);
                not_there_is_fine(world.ask_network(&op, network, program).await)
            }
        }
    }
}

/// A network that is gone has taken with it what was to be taken back.
fn gone_is_fine(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// An endpoint that has left meanwhile has neither a way in to lose nor one to be given.
fn not_there_is_fine(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error) if matches!(error.reason(), Reason::NotJoined { .. }) => Ok(()),
        outcome => gone_is_fine(outcome),
    }
}

impl Undo for Undone {
    type World = World;
    type Error = Error;

    fn undo(&self, world: &World, op: &OpCtx) -> LocalBoxFuture<'static, Result<()>> {
        self.clone().take_back(world.clone(), op.clone()).boxed_local()
    }

    fn uncertain(error: &Error) -> bool {
        error.certainty() == Certainty::Uncertain
    }

    fn interrupted(op: &OpCtx, step: &'static str) -> Error {
        interrupted(op, step)
    }

    fn panicked(cause: &Panicked) -> Error {
        panicked(cause)
    }
}
