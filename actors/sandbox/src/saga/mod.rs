//! The slow half of each command, one file a verb.

mod adopt;
mod delete;
mod establish;
mod files;
mod join;
mod leave;
mod names;
mod port;
mod rename;
mod replug;
mod restore;
mod undo;
mod way_out;

use std::cell::Cell;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use netloom_actor_network::{DetachEndpoint, NetworkActor, Networks};
use netloom_actor_services::{SagaWorld, Services, answered};
use netloom_kernel::{Netns, Op};
use netloom_model::{EndpointId, Error, NetworkId, ObjectKind, Result, SandboxId};
use netloom_runtime::{Handle, Message, OpCtx};

use crate::turns::Turns;

pub(crate) use adopt::adopt;
pub(crate) use delete::delete;
pub(crate) use establish::establish;
use establish::record_of;
pub(crate) use join::{Joined, join};
pub(crate) use leave::leave;
pub(crate) use rename::rename;
pub(crate) use replug::{refresh, set_key};
pub(crate) use restore::{program_again, restore};
pub(crate) use undo::Undone;

/// Everybody whom the sagas of one sandbox ask; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct World(Rc<Everybody>);

#[derive(Debug)]
pub(crate) struct Everybody {
    pub(crate) services: Services,
    pub(crate) networks: Networks,
    pub(crate) sandbox: SandboxId,
    pub(crate) netns: Netns,
    /// Whether the namespace is somebody else's, and outlives the sandbox.
    pub(crate) lent: bool,
    /// Whether it has a name server.
    pub(crate) named: Cell<bool>,
    /// Whether rules that lead to one may be in its namespace.
    pub(crate) ruled: Cell<bool>,
    /// What has begun in it so far.
    pub(crate) turns: Turns,
}

impl Deref for World {
    type Target = Everybody;

    fn deref(&self) -> &Everybody {
        &self.0
    }
}

impl SagaWorld for World {
    type Undone = Undone;

    fn services(&self) -> &Services {
        &self.services
    }
}

impl World {
    pub(crate) fn new(everybody: Everybody) -> Self {
        Self(Rc::new(everybody))
    }

    fn detach(&self, endpoint: EndpointId, keeps_place: bool) -> DetachEndpoint {
        DetachEndpoint { endpoint, sandbox: self.sandbox, keeps_place }
    }

    /// Asks a network, looked up when this is polled: it may have been restarted since the last time.
    #[expect(clippy::manual_async_fn, reason = "it would keep the message twice, and steps are nested")]
    fn ask_network<M, T>(&self, op: &OpCtx, network: NetworkId, message: M) -> impl Future<Output = Result<T>>
    where
        M: Message<Reply = Result<T>>,
        NetworkActor: Handle<M>,
    {
        async move {
            let asked = self.networks.get(&network).map(|entry| entry.addr.outcome(op, message));
            let asked = asked.ok_or_else(|| Error::not_found(ObjectKind::Network, network))?;
            answered(op, fmt::from_fn(|f| self.name_network(network, f)), asked.await)
        }
    }

    fn name_network(&self, network: NetworkId, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.networks.get(&network) {
            Some(entry) => write!(f, "network {:?}", entry.name),
            None => write!(f, "network {}", network.short()),
        }
    }

    /// Carries out operations of which every one must succeed, except that a route to be removed may be gone
    /// already: the container can do that itself.
    ///
    /// Of several operations some may have taken effect although one was refused, so that error is uncertain
    /// and its step is undone.
    async fn execute(&self, op: &OpCtx, ops: Vec<Op>) -> Result<()> {
        if ops.is_empty() {
            return Ok(());
        }
        let removals: Vec<_> = ops.iter().map(|op| matches!(op, Op::DeleteRoute { .. })).collect();
        let results = self.services.execute(op, ops).await;
        let several = results.len() > 1;
        let failed = results
            .into_iter()
            .zip(removals)
            .find_map(|(result, removal)| result.err().filter(|error| !(removal && error.already_gone())));
        let Some(error) = failed.map(Error::from) else { return Ok(()) };
        Err(if several { error.uncertain() } else { error })
    }

    /// Carries out removals: what is gone already is fine.
    async fn remove(&self, op: &OpCtx, ops: Vec<Op>) -> Result<()> {
        if ops.is_empty() {
            return Ok(());
        }
        let results = self.services.execute(op, ops).await;
        let failed = results
            .into_iter()
            .find_map(|result| result.err().filter(|error| !error.already_gone() && !error.already_there()));
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}
