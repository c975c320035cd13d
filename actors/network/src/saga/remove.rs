//! Deleting endpoints and networks: the record goes first, and from there on there is no way back.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use netloom_actor_services::ipam::{QuarantineAddresses, ReleaseAddresses};
use netloom_actor_services::{RetiredNetwork, SagaWorld};
use netloom_drivers::Capability;
use netloom_model::record::{AttachmentRecord, EndpointRecord, NetworkRecord};
use netloom_model::{OpId, Result};
use netloom_runtime::OpCtx;
use netloom_runtime::saga::Patience;
use netloom_store::{Change, Key, RecordKind};

use super::establish::{end_intent, intent_for, note};
use super::ports::ended;
use super::{Facts, Undone, World};
use crate::event::NetworkEvent;

/// Deletes an endpoint's record, takes the endpoint out of its sandbox if it is in one, and tells the driver.
pub(crate) async fn delete_endpoint(
    world: World,
    op: OpCtx,
    record: Arc<EndpointRecord>,
    patience: Patience,
) -> Result<Facts> {
    let (network, endpoint) = (world.network, record.id);
    let object = fmt::from_fn(move |f| write!(f, "endpoint {}", endpoint.short()));
    let entry = world.services.tools.ledger.enter(&op, "delete_endpoint", object);
    entry.step("commit");
    world.commit(&op, vec![delete(RecordKind::Endpoint, endpoint)]).await?;
    let mut told = ended(&world, &op, &record);
    world.services.told.forget(endpoint);
    if let Some(&AttachmentRecord { sandbox, join, .. }) = record.attachment.as_ref() {
        told.push(world.events.fact(&op, NetworkEvent::EndpointDetached { network, endpoint, sandbox }));
        entry.step("cut the link off");
        world.finish(&op, Undone::Link(endpoint, join), patience).await;
    }
    told.push(
        world
            .events
            .fact(&op, NetworkEvent::EndpointDeleted { network, endpoint, name: record.name.clone() }),
    );
    entry.step("driver");
    world.finish(&op, Undone::DriverEndpoint(endpoint), patience).await;
    // Here and not in the actor, which may have died since the commit: nobody else would do it.
    release_addresses(&world, &op, record);
    Ok(told)
}

/// Gives the addresses of a deleted endpoint back: at once, or when the kernel has let go of its last link.
fn release_addresses(world: &World, op: &OpCtx, record: Arc<EndpointRecord>) {
    let (network, endpoint, services) = (world.network, record.id, &world.services);
    let (ipam, own) = (world.ipam.clone(), op.clone());
    let dying = services.quarantine.holds(endpoint);
    if dying {
        ipam.tell(op, QuarantineAddresses(network, endpoint));
        services.quarantine.keep(record.clone());
    }
    if dying || !ipam.is_default() {
        // Who wants the same addresses waits for them.
        services.quarantine.retire(record);
    }
    let again = world.clone();
    services.quarantine.after(endpoint, move || {
        if !ipam.is_default() {
            // It may take long, and may fail: then it is a leak until it has succeeded.
            let (reaping, world) = (again.services.reaping.clone(), again.clone());
            return reaping.spawn(async move {
                world.finish(&own, Undone::Addresses(endpoint), Patience::Usual).await;
            });
        }
        if ipam.is_alive() {
            ipam.order(&own, ReleaseAddresses(network, endpoint));
            // What is asked for from now on is asked for behind that.
            return again.services.quarantine.returned(endpoint);
        }
        // It is being filled from records of a moment ago, with this endpoint among them: it has to be told when
        // it is back.
        again.services.tools.janitor.adopt_undo(&own, &again, Undone::Addresses(endpoint));
    });
}

/// Deletes a network's record, then the network in its driver, then gives its pools back: at once, or behind the answer
/// when links of its endpoints are still dying.
/// `unsure`: the names of reservations that may be recorded besides.
pub(crate) async fn delete_network(
    world: World,
    op: OpCtx,
    record: NetworkRecord,
    unsure: BTreeSet<String>,
) -> Result<()> {
    let object = format!("network {:?} ({})", record.spec.name, record.id.short());
    let entry = world.services.tools.ledger.enter(&op, "delete_network", object);
    entry.step("intent");
    let intent = intent_for("delete_network", &op, &record)?;
    note(&world, &op, intent).await?;
    entry.step("commit");
    let mut changes = vec![delete(RecordKind::Network, record.id), delete(RecordKind::Order, record.id)];
    let kept = record.reservations.keys().chain(&unsure);
    changes.extend(kept.map(|name| Change::Delete { key: Key::reservation(&record.id, name) }));
    if let Err(error) = world.commit(&op, changes).await {
        end_intent(&world, &op).await;
        return Err(error);
    }
    entry.step("driver");
    let (id, Capability { scope, shares_pools: shares, .. }) = (record.id, world.capability);
    if world.capability.needs_ipam {
        // Who wants the same subnets waits for them.
        world.services.quarantine.retire_network(RetiredNetwork { record, scope, shares });
    }
    world.finish(&op, Undone::Network(id, OpId(op.id)), Patience::Usual).await;
    Ok(())
}

fn delete(kind: RecordKind, id: impl Into<String>) -> Change {
    Change::Delete { key: Key { kind, id: id.into() } }
}
