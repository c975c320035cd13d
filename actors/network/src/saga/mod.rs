//! The slow half of each command, one file a verb. Sagas see no actor state: they are given what they need
//! and hand back what they found out.

mod create_endpoint;
mod detach;
mod establish;
mod remove;
mod undo;

use netloom_actor_driver::DriverActor;
use netloom_actor_services::store::Commit;
use netloom_actor_services::{Outcome, Services, Trouble, answered};
use netloom_model::{Error, NetworkId, Reason, Result};
use netloom_runtime::saga::Patience;
use netloom_runtime::{EventSink, Fact, OpCtx, Port, Saga, saga};
use netloom_store::Change;

use crate::event::NetworkEvent;

pub(crate) use create_endpoint::{CreatedEndpoint, attach, commit_attachment, create_endpoint, program};
pub(crate) use detach::{abandon, detach, reap};
pub use establish::driver_request;
pub(crate) use establish::{Established, establish, restore_in_driver};
pub(crate) use remove::{delete_endpoint, delete_network};
pub(crate) use undo::Undone;

/// Everybody whom the sagas of one network ask.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) services: Services,
    pub(crate) driver: Port<DriverActor>,
    pub(crate) network: NetworkId,
    pub(crate) needs_ipam: bool,
    pub(crate) events: EventSink<NetworkEvent>,
}

/// What an operation has to tell, in order, once the actor has applied it.
pub(crate) type Facts = Vec<Fact<NetworkEvent>>;

impl World {
    /// Runs a saga whose failure becomes one error.
    async fn saga<T>(
        &self,
        op: &OpCtx,
        verb: &'static str,
        object: impl std::fmt::Display,
        body: impl AsyncFnOnce(&mut Saga<Undone>) -> Result<T>,
    ) -> Result<T> {
        let outcome = saga::run(&self.services.tools, op, verb, object, self.clone(), body).await;
        outcome.map_err(Trouble::into_error)
    }

    /// Carries a removal to its end: now, or later as a visible leak.
    async fn finish(&self, op: &OpCtx, removal: Undone, patience: Patience) {
        saga::finish(&self.services.tools, op, self, removal, patience).await;
    }

    async fn commit(&self, op: &OpCtx, changes: Vec<Change>) -> Result<()> {
        answered(op, "the store", self.services.store.outcome(op, Commit(changes)).await)
    }

    /// Refuses to commit what an IPAM that died meanwhile has leased: its successor learns what is taken from
    /// the records, and this is not in them yet.
    fn still_leased(&self, by: u64) -> Result<()> {
        if self.services.ipam.incarnation() == by {
            return Ok(());
        }
        Err(Error::from(Reason::Gone { who: "ipam".into() }).unwound())
    }

    fn driver_answered<T>(&self, op: &OpCtx, outcome: Outcome<T>) -> Result<T> {
        answered(op, "the driver", outcome)
    }
}
