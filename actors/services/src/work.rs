//! What the sagas of every actor above do in the same way.

use std::fmt;

use netloom_model::{Error, Result};
use netloom_runtime::saga::{self, Patience};
use netloom_runtime::{OpCtx, Saga, Undo};
use netloom_store::Change;

use crate::store::Commit;
use crate::{Services, Trouble, answered};

/// The world of an actor's sagas: everybody whom they ask, with the services among them.
pub trait SagaWorld: Clone + 'static {
    /// How its sagas' steps are taken back.
    type Undone: Undo<World = Self, Error = Error>;

    /// The services.
    fn services(&self) -> &Services;

    /// Runs a saga whose failure becomes one error.
    ///
    /// # Errors
    /// What failed first, and what is left behind.
    fn saga<T>(
        &self,
        op: &OpCtx,
        verb: &'static str,
        object: impl fmt::Display + Send + Sync + 'static,
        body: impl AsyncFnOnce(&mut Saga<Self::Undone>) -> Result<T>,
    ) -> impl Future<Output = Result<T>> {
        async move {
            let outcome = saga::run(&self.services().tools, op, verb, object, self.clone(), body).await;
            outcome.map_err(Trouble::into_error)
        }
    }

    /// Carries a removal to its end: now, or later as a visible leak.
    fn finish(&self, op: &OpCtx, removal: Self::Undone, patience: Patience) -> impl Future<Output = ()> {
        saga::finish(&self.services().tools, op, self, removal, patience)
    }

    /// Makes changes durable.
    ///
    /// # Errors
    /// The store's own; `Unavailable` when it died on the way.
    fn commit(&self, op: &OpCtx, changes: Vec<Change>) -> impl Future<Output = Result<()>> {
        let asked = self.services().store.outcome(op, Commit(changes));
        async move { answered(op, "the store", asked.await) }
    }
}
