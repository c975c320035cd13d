//! Deleting endpoints and networks: the record goes first, and from there on there is no way back.

use std::fmt::Display;

use futures::FutureExt;
use netloom_actor_services::answered;
use netloom_actor_services::store::BeginIntent;
use netloom_model::record::NetworkRecord;
use netloom_model::{EndpointId, OpId, Result};
use netloom_runtime::{Cause, OpCtx, Undo};
use netloom_store::{Change, Key, RecordKind};

use super::establish::{end_intent, intent_for};
use super::{Undone, World};

/// Deletes an endpoint's record and tells the driver.
pub(crate) async fn delete_endpoint(world: World, op: OpCtx, endpoint: EndpointId) -> Result<()> {
    let object = format!("endpoint {}", endpoint.short());
    let entry = world.services.tools.ledger.enter(&op, "delete_endpoint", object);
    entry.step("commit");
    world.commit(&op, vec![delete(RecordKind::Endpoint, endpoint)]).await?;
    entry.step("driver");
    finish(&world, &op, Undone::DriverEndpoint(endpoint)).await;
    Ok(())
}

/// Deletes a network's record, then the network in its driver, then gives its pools back.
pub(crate) async fn delete_network(world: World, op: OpCtx, record: NetworkRecord) -> Result<()> {
    let object = format!("network {:?} ({})", record.spec.name, record.id.short());
    let entry = world.services.tools.ledger.enter(&op, "delete_network", object);
    entry.step("intent");
    let intent = intent_for("delete_network", &op, &record)?;
    answered(&op, "the store", world.services.store.outcome(&op, BeginIntent(intent)).await)?;
    entry.step("commit");
    if let Err(error) = world.commit(&op, vec![delete(RecordKind::Network, record.id)]).await {
        end_intent(&world, &op).await;
        return Err(error);
    }
    entry.step("driver");
    finish(&world, &op, Undone::Network(record.id, OpId(op.id))).await;
    Ok(())
}

fn delete(kind: RecordKind, id: impl Display) -> Change {
    Change::Delete { key: Key { kind, id: id.to_string() } }
}

/// Carries a removal to its end: now, or later as a visible leak.
async fn finish(world: &World, op: &OpCtx, removal: Undone) {
    let now = op.for_undo(world.services.operation_timeout);
    let Err(error) = removal.undo(world, &now).await else { return };
    tracing::warn!(%error, what = %removal, "cannot remove");
    let world = world.clone();
    let janitor = world.services.tools.janitor.clone();
    janitor.adopt(removal.to_string(), move || {
        let op = world.services.operation(Cause::Tick("janitor"));
        let retry = removal.undo(&world, &op);
        async move { retry.await.map_err(|error| error.to_string()) }.boxed_local()
    });
}
