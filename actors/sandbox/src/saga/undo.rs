//! How each step of a sandbox's sagas is taken back.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use netloom_actor_network::{
    AbandonAttachment, DeleteEndpoint, ProgramEndpoint, RenameEndpoint, RevokeEndpoint,
};
use netloom_actor_services::SagaWorld;
use netloom_actor_services::files::Fresh;
use netloom_actor_services::names::NamesWanted;
use netloom_actor_services::{interrupted, panicked};
use netloom_dns::io::Wanted;
use netloom_drivers::SandboxOptions;
use netloom_kernel::{Netns, Op};
use netloom_model::record::SandboxRecord;
use netloom_model::{
    Certainty, EndpointId, Error, ErrorKind, JoinId, NetworkId, Reason, Result, SandboxId, SandboxSpec,
};
use netloom_runtime::{OpCtx, Panicked, Undo};
use netloom_store::{Change, Key, RecordKind};

use super::establish::keep;
use super::{World, files, names};
use crate::turns::Turn;

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
    LostConnectivity(NetworkId, EndpointId, Arc<SandboxOptions>),
    /// The way in from outside that an endpoint had when this sandbox, or what it works with, began anew.
    KnownConnectivity(NetworkId, EndpointId, Arc<SandboxOptions>),
    /// The endpoint that is the way out of a sandbox whose others have none.
    WayOut(NetworkId, EndpointId),
    /// Another name of an endpoint, with the one it had.
    Name(NetworkId, EndpointId, String),
    /// An endpoint that waited for its sandbox's namespace.
    Place(Box<Place>),
    /// A record that says otherwise whether the sandbox's namespace is there than the one before, which is given.
    Key(Box<SandboxRecord>),
    /// Files of names that say something else than before, with how they were.
    Files(Box<Wanted>, Fresh),
    /// Files of names, with what was asked for of the sandbox.
    NoFiles(Arc<SandboxSpec>),
    /// The name server that a sandbox has been given, or with what it was told before.
    Names(Option<Arc<NamesWanted>>),
    /// A step that is out of date as soon as a later operation of its kind has begun, which does not look at what the
    /// janitor has not managed yet.
    Latest(Turn, Box<Undone>),
}

/// The place of an endpoint in a sandbox that waits for its namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(super) network: NetworkId,
    pub(super) endpoint: EndpointId,
    /// This place, unlike those that were kept for it before.
    pub(super) number: JoinId,
    /// The number of its interface.
    pub(super) index: u32,
    pub(super) priority: i32,
    pub(super) options: Arc<SandboxOptions>,
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
            Self::LostConnectivity(_, id, _) | Self::KnownConnectivity(_, id, _) => {
                write!(f, "missing published ports of endpoint {}", id.short())
            }
            Self::WayOut(_, id) => write!(f, "endpoint {} that was a way out", id.short()),
            Self::Name(_, id, name) => write!(f, "name {name:?} of endpoint {}", id.short()),
            Self::Place(place) => write!(f, "place of endpoint {}", place.endpoint.short()),
            Self::Key(record) => write!(f, "record of sandbox {}", record.id.short()),
            Self::Files(..) => write!(f, "what the files of names say"),
            Self::NoFiles(spec) => write!(f, "files of names of container {:?}", spec.container_id),
            Self::Names(None) => f.write_str("a name server"),
            Self::Names(Some(wanted)) => write!(f, "name server of sandbox {}", wanted.sandbox.short()),
            Self::Latest(_, step) => step.fmt(f),
        }
    }
}

impl Undone {
    /// A step that is out of date as soon as a later operation of its kind has begun.
    pub(super) fn unless_later(self, turn: Turn) -> Self {
        Self::Latest(turn, Box::new(self))
    }

    async fn take_back(self, world: World, op: OpCtx) -> Result<()> {
        let again = matches!(self, Self::KnownConnectivity(..));
        match self {
            Self::Netns(Netns::Host) => Ok(()),
            Self::Netns(Netns::Named(name)) => {
                // Its sockets would keep the namespace alive; of one that lives on its rules have to go.
                if world.netns == Netns::Named(name) {
                    names::end(&world, &op, world.lent && world.ruled.get()).await?;
                }
                world.remove(&op, vec![Op::DeleteNetns { name }]).await
            }
            Self::Record(sandbox) => {
                let key = Key::new(RecordKind::Sandbox, sandbox);
                world.commit(&op, vec![Change::Delete { key }]).await
            }
            Self::Attachment(network, endpoint, join) => {
                let abandon = AbandonAttachment { endpoint, join };
                gone_is_fine(world.ask_network(&op, network, abandon).await)
            }
            Self::Membership(network, endpoint) => {
                let detach = world.detach(endpoint, false);
                not_there_is_fine(world.ask_network(&op, network, detach).await)
            }
            Self::Plumbing(ops) => world.remove(&op, ops).await,
            Self::Connectivity(network, endpoint) => {
                let revoke = RevokeEndpoint(endpoint, world.sandbox);
                not_there_is_fine(world.ask_network(&op, network, revoke).await)
            }
            Self::LostConnectivity(network, endpoint, options)
            | Self::KnownConnectivity(network, endpoint, options) => {
                let program = ProgramEndpoint { endpoint, sandbox: world.sandbox, options, again };
                not_there_is_fine(world.ask_network(&op, network, program).await)
            }
            Self::WayOut(network, endpoint) => {
                let detach = world.detach(endpoint, false);
                not_there_is_fine(world.ask_network(&op, network, detach).await)?;
                gone_is_fine(world.ask_network(&op, network, DeleteEndpoint(endpoint)).await)
            }
            Self::Name(network, endpoint, name) => {
                let rename = RenameEndpoint { endpoint, name };
                gone_is_fine(world.ask_network(&op, network, rename).await)
            }
            // It has left meanwhile, or a later attempt to plug it in keeps it now.
            Self::Place(place) if !place.is_wanted(&world) => Ok(()),
            Self::Place(place) => {
                let detach = world.detach(place.endpoint, true);
                match world.ask_network(&op, place.network, detach).await {
                    Err(error) if matches!(error.reason(), Reason::NotJoined { .. }) => {
                        gone_is_fine(place.keep(&world, &op).await)
                    }
                    outcome => gone_is_fine(outcome),
                }
            }
            Self::Key(record) => keep(&world, &op, &record).await,
            Self::Files(wanted, fresh) => files::settle(&world, &op, *wanted, fresh).await.map(drop),
            Self::NoFiles(spec) => files::remove(&world, &op, spec).await,
            Self::Names(before) => names::take_back(&world, &op, before).await,
            Self::Latest(turn, _) if world.turns.is_over(turn) => Ok(()),
            Self::Latest(_, step) => step.undo(&world, &op).await,
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
