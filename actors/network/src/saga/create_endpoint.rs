//! Making an endpoint, making its link, and making the link durable.

use netloom_actor_driver::JoinDriverEndpoint;
use netloom_actor_services::answered;
use netloom_actor_services::ipam::LeaseAddresses;
use netloom_drivers::{Join, Joined, Restored};
use netloom_ipam::LeaseRequest;
use netloom_model::record::EndpointRecord;
use netloom_model::{EndpointSpec, Error, Result};
use netloom_runtime::OpCtx;
use netloom_store::{Change, Key, RecordKind, encode};

use super::establish::create_endpoint_in_driver;
use super::{Undone, World};

/// An endpoint as it came out.
#[derive(Debug)]
pub(crate) struct CreatedEndpoint {
    pub(crate) record: EndpointRecord,
    pub(crate) prefix: String,
}

/// Leases addresses, tells the driver, commits the record.
pub(crate) async fn create_endpoint(
    world: World,
    op: OpCtx,
    record: EndpointRecord,
    spec: EndpointSpec,
) -> Result<CreatedEndpoint> {
    let id = record.id;
    let object = format!("endpoint {:?} ({})", record.name, id.short());
    let made = world.saga(&op, "create_endpoint", object, async |saga| {
        let mut record = record;
        let leased_by = world.services.ipam.incarnation();
        if world.needs_ipam {
            let lease = saga.step("lease addresses", Undone::Addresses(id), async {
                let name = record.name.clone();
                let want = LeaseRequest { owner: id, name, ipv4: spec.ipv4, ipv6: spec.ipv6 };
                answered(
                    &op,
                    "ipam",
                    world.services.ipam.outcome(&op, LeaseAddresses(world.network, want)).await,
                )
            });
            let lease = lease.await?;
            (record.ipv4, record.ipv6) = (lease.ipv4, lease.ipv6);
        }
        let created = create_endpoint_in_driver(&world, &op, &record, Restored::Fresh, None);
        let created = saga.step("driver", Undone::DriverEndpoint(id), created).await?;
        record.mac = record.mac.or(created.mac);
        record.ipv4 = record.ipv4.or(created.ipv4);
        record.ipv6 = record.ipv6.or(created.ipv6);
        saga.step("commit", Undone::EndpointRecord(id), async {
            world.still_leased(leased_by)?;
            world.commit(&op, vec![put(&record)?]).await
        })
        .await?;
        Ok(CreatedEndpoint { record, prefix: created.interface_prefix.unwrap_or_default() })
    });
    made.await
}

/// Has the driver make the link.
pub(crate) async fn attach(world: World, op: OpCtx, join: Join) -> Result<Joined> {
    let id = join.endpoint;
    let object = format!("endpoint {}", id.short());
    let joined = world.saga(&op, "attach_endpoint", object, async |saga| {
        saga.step("make the link", Undone::Link(id), async {
            let outcome = world.driver.outcome(&op, JoinDriverEndpoint(join)).await;
            world.driver_answered(&op, outcome)
        })
        .await
    });
    joined.await
}

/// Commits an endpoint's record with its attachment.
pub(crate) async fn commit_attachment(world: World, op: OpCtx, record: EndpointRecord) -> Result<()> {
    world.commit(&op, vec![put(&record)?]).await
}

pub(super) fn put(record: &EndpointRecord) -> Result<Change> {
    let key = Key { kind: RecordKind::Endpoint, id: record.id.to_string() };
    let value = encode(record).map_err(|error| Error::internal(error.to_string()))?;
    Ok(Change::Put { key, value })
}
