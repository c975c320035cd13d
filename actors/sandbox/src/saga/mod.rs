//! The slow half of each command, one file a verb.

mod delete;
mod establish;
mod join;
mod leave;
mod port;
mod restore;
mod undo;

use netloom_actor_network::{NetworkActor, Networks};
use netloom_actor_services::{SagaWorld, Services, answered};
use netloom_kernel::{Netns, Op};
use netloom_model::{Error, NetworkId, ObjectKind, Result, SandboxId};
use netloom_runtime::{Addr, Handle, Message, OpCtx};

pub(crate) use delete::{Deleted, delete};
pub(crate) use establish::establish;
use establish::record_of;
pub(crate) use join::{JoinPlan, Joined, join};
pub(crate) use leave::{LeavePlan, leave};
pub(crate) use restore::{program_again, restore};
pub(crate) use undo::Undone;

/// Everybody whom the sagas of one sandbox ask.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) services: Services,
    pub(crate) networks: Networks,
    pub(crate) sandbox: SandboxId,
    pub(crate) netns: Netns,
}

impl SagaWorld for World {
    type Undone = Undone;

    fn services(&self) -> &Services {
        &self.services
    }
}

impl World {
    /// Asks a network, looked up now: it may have been restarted since the last time.
    async fn ask_network<M, T>(&self, op: &OpCtx, network: NetworkId, message: M) -> Result<T>
    where
        M: Message<Reply = Result<T>>,
        NetworkActor: Handle<M>,
    {
        let entry = self.networks.get(&network);
        let entry = entry.ok_or_else(|| Error::not_found(ObjectKind::Network, network))?;
        let addr: &Addr<NetworkActor> = &entry.addr;
        answered(op, format_args!("network {:?}", entry.name), addr.outcome(op, message).await)
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
