//! Making an endpoint, making its link, and making the link durable.

use std::fmt;
use std::sync::Arc;

use netloom_actor_driver::JoinDriverEndpoint;
use netloom_actor_services::SagaWorld;
use netloom_actor_services::ipam::{LeaseAddresses, OwnerRenamed};
use netloom_drivers::{Join, Joined, Restored};
use netloom_ipam::{LeaseRequest, Leased};
use netloom_model::record::{AttachmentRecord, EndpointRecord, OrderRecord, Reservation};
use netloom_model::{EndpointId, Error, Holder, JoinId, MacAddr, ObjectKind, Reason, Result};
use netloom_runtime::{Fact, OpCtx};
use netloom_store::{Change, Key, RecordKind, encode};

use super::establish::create_endpoint_in_driver;
use super::ports::changed;
use super::{Facts, Undone, World};
use crate::event::NetworkEvent;

/// An endpoint as it came out.
#[derive(Debug)]
pub(crate) struct CreatedEndpoint {
    pub(crate) record: Arc<EndpointRecord>,
    pub(crate) told: Fact<NetworkEvent>,
}

/// Leases addresses, tells the driver, commits the record. `wanted`: the addresses that are asked for, and those that
/// are kept for its name. `shown_ipv6`: whether the driver is shown the IPv6 address.
pub(crate) async fn create_endpoint(
    world: World,
    op: OpCtx,
    asked: Arc<EndpointRecord>,
    (wanted, kept): (Reservation, Reservation),
    shown_ipv6: bool,
) -> Result<CreatedEndpoint> {
    let (id, Reservation { ipv4, ipv6 }) = (asked.id, wanted);
    let named = asked.clone();
    let object = fmt::from_fn(move |f| write!(f, "endpoint {:?} ({})", named.name, named.id.short()));
    let made = world.saga(&op, "create_endpoint", object, async |saga| {
        let mut shared = asked;
        let record = Arc::make_mut(&mut shared);
        let due = Reservation { ipv4: ipv4.or(kept.ipv4), ipv6: ipv6.or(kept.ipv6) };
        if record.mac.is_some() || due != Reservation::default() {
            let free = until_free(&world, &op, record.mac, due);
            saga.step("wait for the link of a deleted endpoint", None, free).await?;
        }
        let leased_by = world.ipam.incarnation();
        if world.capability.needs_ipam {
            let lease = saga.step("lease addresses", Undone::Addresses(id), async {
                let name = record.name.clone();
                let want = LeaseRequest { owner: id, name, ipv4, ipv6 };
                let lease = LeaseAddresses(world.network, want, record.mac);
                world.ipam_answered(&op, world.ipam.outcome(&op, lease).await)
            });
            let Leased { lease, places } = lease.await?;
            let mut order = world.order.borrow_mut();
            places.iter().flatten().for_each(|place| order.advance(place));
            (record.ipv4, record.ipv6) = (lease.ipv4, lease.ipv6);
        } else if let Some(address) = wanted.addresses().next() {
            let why = "the driver of this network leaves no addresses to choose".into();
            return Err(Reason::AddressUnusable { address, why }.into());
        }
        let hidden = if shown_ipv6 { None } else { record.ipv6.take() };
        let created = create_endpoint_in_driver(&world, &op, record, Restored::Fresh);
        let created = saga.step("driver", Undone::DriverEndpoint(id), created).await?;
        record.ipv6 = hidden.or(record.ipv6);
        record.mac = record.mac.or(created.mac);
        record.ipv4 = record.ipv4.or(created.ipv4);
        record.ipv6 = record.ipv6.or(created.ipv6);
        record.prefix = created.interface_prefix;
        saga.step("commit", Undone::EndpointRecord(id), async {
            world.still_leased(leased_by)?;
            commit_in_order(&world, &op, vec![put(record)?]).await
        })
        .await?;
        let (network, name) = (world.network, record.name.clone());
        let event = NetworkEvent::EndpointCreated { network, endpoint: id, name };
        Ok(CreatedEndpoint { record: shared, told: world.events.fact(&op, event) })
    });
    made.await
}

/// Commits changes, and with them how far the choice of addresses may have come, if that is due: a crash from then on
/// gives none of those again at once.
async fn commit_in_order(world: &World, op: &OpCtx, mut changes: Vec<Change>) -> Result<()> {
    let due = world.order.borrow_mut().take_due();
    let Some(next) = due else { return world.commit(op, changes).await };
    let record = OrderRecord { network: world.network, next };
    let key = Key { kind: RecordKind::Order, id: world.network.into() };
    let value = encode(&record).map_err(|error| Error::internal(error.to_string()))?;
    changes.push(Change::Put { key, value });
    let committed = world.commit(op, changes).await;
    if committed.is_err() {
        // The next one tries again.
        world.order.borrow_mut().not_written();
    }
    committed
}

/// Waits until no deleted endpoint of the network has this hardware address or one of these addresses any more. The
/// kernel may still answer for them; whoever asks for them means to have them all the same, as a container does that is
/// started again.
async fn until_free(world: &World, op: &OpCtx, mac: Option<MacAddr>, due: Reservation) -> Result<()> {
    let has = |record: &EndpointRecord| {
        let (ipv4, ipv6) = (record.ipv4.map(|net| net.addr()), record.ipv6.map(|net| net.addr()));
        (mac.is_some() && record.mac == mac)
            || (due.ipv4.is_some() && ipv4 == due.ipv4)
            || (due.ipv6.is_some() && ipv6 == due.ipv6)
    };
    while let Some((holder, returned)) = world.services.quarantine.retired(world.network, has) {
        if op.in_time(returned).await.is_none() {
            let holder = Holder::new(ObjectKind::Endpoint, holder.id, &holder.name);
            let what = format!("the end of the link of deleted {holder}, whose address is asked for,");
            return Err(Error::from(Reason::DeadlineExceeded { what, waited: op.allowed }).unwound());
        }
    }
    Ok(())
}

/// Commits the record of an endpoint under its new name.
pub(crate) async fn rename_endpoint(world: World, op: OpCtx, record: EndpointRecord) -> Result<Facts> {
    let (endpoint, network) = (record.id, world.network);
    let object = fmt::from_fn(move |f| write!(f, "endpoint {}", endpoint.short()));
    let entry = world.services.tools.ledger.enter(&op, "rename_endpoint", object);
    entry.step("commit");
    world.commit(&op, vec![put(&record)?]).await?;
    // For what it says of who holds an address.
    world.ipam.tell(&op, OwnerRenamed(network, endpoint, record.name.clone()));
    let event = NetworkEvent::EndpointRenamed { network, endpoint, name: record.name };
    Ok(vec![world.events.fact(&op, event)])
}

/// Has the driver make the link, unless only a place is kept for it.
pub(crate) async fn attach(
    world: World,
    op: OpCtx,
    (id, which): (EndpointId, JoinId),
    join: Option<Join>,
) -> Result<Joined> {
    let Some(join) = join else { return Ok(Joined::default()) };
    let object = fmt::from_fn(move |f| write!(f, "endpoint {}", id.short()));
    let joined = world.saga(&op, "attach_endpoint", object, async |saga| {
        saga.step("make the link", Undone::Link(id, which), async {
            let outcome = world.driver.outcome(&op, JoinDriverEndpoint(join)).await;
            world.driver_answered(&op, outcome)
        })
        .await
    });
    joined.await
}

/// Commits an endpoint's record with its attachment, and what its sandbox wants recorded with it. `reached`: whether it is
/// its sandbox's way out, by the ports that are recorded.
pub(crate) async fn commit_attachment(
    world: World,
    op: OpCtx,
    (record, reached): (Arc<EndpointRecord>, bool),
    beside: Option<Change>,
) -> Result<Facts> {
    let changes = std::iter::once(put(&record)?).chain(beside).collect();
    world.commit(&op, changes).await?;
    let (network, endpoint) = (world.network, record.id);
    let attached = record.attachment.as_ref().map(|&AttachmentRecord { sandbox, ifname, .. }| {
        NetworkEvent::EndpointAttached { network, endpoint, sandbox, ifname }
    });
    let mut told: Facts = attached.map(|event| world.events.fact(&op, event)).into_iter().collect();
    if reached {
        told.extend(changed(&world, &op, &record, &record.published));
    }
    Ok(told)
}

pub(super) fn put(record: &EndpointRecord) -> Result<Change> {
    let key = Key { kind: RecordKind::Endpoint, id: record.id.into() };
    let value = encode(record).map_err(|error| Error::internal(error.to_string()))?;
    Ok(Change::Put { key, value })
}
