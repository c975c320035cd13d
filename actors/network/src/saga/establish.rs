//! Bringing a network into service: new, or read back from the store.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::join_all;
use netloom_actor_driver::{CreateDriverEndpoint, CreateDriverNetwork, SurveyDriverNetwork};
use netloom_actor_services::SagaWorld;
use netloom_actor_services::ipam::{RequestPools, RestorePools};
use netloom_actor_services::store::{BeginIntent, EndIntent};
use netloom_actor_services::{RetiredNetwork, answered};
use netloom_drivers::{
    CreateEndpoint, CreateNetwork, EndpointCreated, NetworkCreated, Present, Restored, Scope,
};
use netloom_ipam::Granted;
use netloom_model::record::{EndpointRecord, NetworkRecord, PoolRecord};
use netloom_model::{
    Certainty, Error, ErrorKind, Holder, IpamPoolSpec, NetworkSpec, ObjectKind, OpId, Reason, Repair, Result,
};
use netloom_runtime::{Cause, OpCtx};
use netloom_store::{Change, Intent, Key, RecordKind, encode};

use super::host::host_nets;
use super::{Undone, World};

/// What came of it.
#[derive(Debug)]
pub(crate) struct Established {
    /// The network with its pools.
    pub(crate) record: NetworkRecord,
    /// Its endpoints.
    pub(crate) endpoints: Vec<Arc<EndpointRecord>>,
    /// What had to be put right.
    pub(crate) repairs: Vec<Repair>,
}

/// How often a network whose chosen pool somebody else had first tries the next one. Of those that meet one gets the
/// pool, so it takes as many others that are being made at the same moment to use the tries up.
const TRIES: usize = 32;

/// Makes a new network.
pub(crate) async fn establish(world: World, op: OpCtx, record: NetworkRecord) -> Result<Established> {
    let mut tries = 1;
    loop {
        let reached = Cell::new(false);
        let outcome = attempt(&world, &op, record.clone(), &reached).await;
        let Err(error) = &outcome else { return outcome };
        // Where IPAM has refused the pool it would do so again; the next look at the host sees who was before the driver.
        if tries == TRIES || !reached.get() || !has_other_pools(&record.spec, error) {
            return outcome;
        }
        tries += 1;
        tracing::info!(network = %record.id, %error, "somebody else was first; trying another pool");
    }
}

/// Whether a network that did not get a pool, because somebody else had it first, may have another one.
fn has_other_pools(spec: &NetworkSpec, error: &Error) -> bool {
    let Reason::PoolOverlapsHost { pool, .. } = error.reason() else { return false };
    let mut all = spec.ipam.v4.iter().chain(&spec.ipam.v6);
    !all.any(|asked| asked.names_subnet() && asked.subnet.is_some_and(|subnet| subnet.trunc() == *pool))
}

/// One attempt. `reached` tells whether the driver was asked.
async fn attempt(
    world: &World,
    op: &OpCtx,
    record: NetworkRecord,
    reached: &Cell<bool>,
) -> Result<Established> {
    let object = format!("network {:?} ({})", record.spec.name, record.id.short());
    let undo = Undone::Network(record.id, OpId(op.id));
    let outcome = world.saga(op, "create_network", object, async |saga| {
        let mut record = record;
        let pools_of = world.ipam.incarnation();
        if world.capability.needs_ipam {
            if !world.ipam.is_default() {
                // Before anything is asked of one that remembers: should the engine die, the next start gives back what it
                // has given. With the driver `default` that is free again by itself.
                let intent = intent_for("create_network", op, &record)?;
                saga.step("note the request", None, note(world, op, intent)).await?;
            }
            let mut refused = None;
            let Granted { v4, v6, skipped } = loop {
                if let Some(holder) = still_held(world, &record, refused.as_ref()) {
                    saga.step("wait for the pools of a deleted network", None, given_back(op, holder))
                        .await?;
                } else if let Some(refusal) = refused {
                    return Err(refusal);
                }
                let host = saga.step("look at the host", None, host_nets(world, op, &record.spec)).await?;
                let pools = saga.step("reserve pools", undo.clone(), async {
                    let (network, spec, capability) = (record.id, record.spec.clone(), world.capability);
                    let (scope, shares) = (capability.scope, capability.shares_pools);
                    let request = RequestPools { network, spec, host, scope, shares };
                    world.ipam_answered(op, world.ipam.outcome(op, request).await)
                });
                match pools.await {
                    Ok(granted) => break granted,
                    Err(refusal) if refusal.certainty() == Certainty::Aborted => refused = Some(refusal),
                    Err(error) => return Err(error),
                }
            };
            skipped.iter().for_each(|pool| record.passed_over.push(pool.into()));
            (record.v4, record.v6) = (v4, v6);
        }
        let survey = SurveyDriverNetwork(driver_request(&record, Restored::Fresh));
        record.found = saga
            .step("look at what is there", None, async {
                world.driver_answered(op, world.driver.outcome(op, survey).await)
            })
            .await?;
        // With the pools and what was there: the next start needs them to find what the driver did. It is in the place of
        // what was noted before.
        let intent = intent_for("create_network", op, &record)?;
        saga.step("note the intent", None, note(world, op, intent)).await?;
        reached.set(true);
        saga.step(
            "driver",
            // With pools, their undo covers the driver too.
            (!world.capability.needs_ipam).then_some(undo),
            create_in_driver(world, op, &record, Restored::Fresh),
        )
        .await?;
        saga.step("commit", Undone::NetworkRecord(record.id), async {
            world.still_leased(pools_of)?;
            world.commit(op, vec![put_network(&record)?]).await
        })
        .await?;
        Ok(Established { record, endpoints: Vec::new(), repairs: Vec::new() })
    });
    let outcome = outcome.await;
    // With something left behind the intent stays open until that is gone, be it at the next start.
    if outcome
        .as_ref()
        .err()
        .is_none_or(|error| !matches!(error.reason(), netloom_model::Reason::Leaked { .. }))
    {
        end_intent(world, op).await;
    }
    outcome
}

/// A deleted network that stands in the way of this one with pools which it has not given back, because links of its
/// endpoints may still answer: it has the same identifier, or a request for pools was refused that would not be without it.
fn still_held(world: &World, record: &NetworkRecord, refused: Option<&Error>) -> Option<Held> {
    let services = &world.services;
    let kind = refused.map(Error::kind);
    let named = |pool: &&IpamPoolSpec| pool.names_subnet();
    let named = || record.spec.ipam.v4.iter().chain(&record.spec.ipam.v6).filter(named);
    let overlaps = |other: &NetworkRecord| {
        let pools = || other.v4.iter().chain(&other.v6).map(|pool| pool.pool);
        let mut subnets = named().filter_map(|pool| pool.subnet);
        subnets.any(|net| pools().any(|pool| pool.contains(&net) || net.contains(&pool)))
    };
    services.quarantine.retired_network(|RetiredNetwork { record: other, scope, .. }| {
        let of_same = || services.ipam.of_network(&other.spec.ipam, *scope).name() == world.ipam.name();
        let may_help = match kind {
            Some(ErrorKind::Exhausted) => true,
            Some(ErrorKind::Forbidden) => overlaps(other),
            _ => false,
        };
        other.id == record.id || (may_help && of_same())
    })
}

/// A deleted network, and the moment at which it has given its pools back.
type Held = (Rc<RetiredNetwork>, oneshot::Receiver<()>);

async fn given_back(op: &OpCtx, (other, returned): Held) -> Result<()> {
    if op.in_time(returned).await.is_some() {
        return Ok(());
    }
    let holder = Holder::new(ObjectKind::Network, other.record.id, &other.record.spec.name);
    let what = format!("the end of the links of deleted {holder}, whose pools are asked for,");
    Err(Error::from(Reason::DeadlineExceeded { what, waited: op.allowed }).unwound())
}

/// The change that records a new network: nothing is kept in it for anybody yet.
fn put_network(record: &NetworkRecord) -> Result<Change> {
    let key = Key { kind: RecordKind::Network, id: record.id.into() };
    let value = encode(record).map_err(|error| Error::internal(error.to_string()))?;
    Ok(Change::Put { key, value })
}

/// Notes what is about to be done to a network: its effects may lie in objects that carry no mark of ours.
pub(super) fn intent_for(verb: &str, op: &OpCtx, record: &NetworkRecord) -> Result<Intent> {
    let detail = serde_json::to_value(record).map_err(|error| Error::internal(error.to_string()))?;
    Ok(Intent {
        op: OpId(op.id),
        verb: verb.to_owned(),
        object: ObjectKind::Network,
        id: record.id.to_string(),
        detail,
    })
}

/// Notes it in the store's journal.
pub(super) async fn note(world: &World, op: &OpCtx, intent: Intent) -> Result<()> {
    answered(op, "the store", world.services.store.outcome(op, BeginIntent(intent)).await)
}

pub(super) async fn end_intent(world: &World, op: &OpCtx) {
    let (services, intent) = (world.services.clone(), OpId(op.id));
    let end = async move |op: OpCtx| {
        answered(&op, "the store", services.store.outcome(&op, EndIntent(intent)).await)
    };
    let Err(error) = end(op.for_undo(world.services.operation_timeout.get())).await else { return };
    // Should the engine die before it is noted, the next start compares it with the records and takes down what
    // no record knows, which is gone already.
    tracing::warn!(%error, "cannot note the end of an operation");
    let services = world.services.clone();
    world.services.tools.janitor.adopt(format!("open note of operation {intent}"), move || {
        let (end, op) = (end.clone(), services.operation(Cause::Tick("janitor")));
        async move { end(op).await.map_err(|error| error.to_string()) }.boxed_local()
    });
}

/// Brings a network into service whose record was read back.
pub(crate) async fn restore_in_driver(
    world: World,
    op: OpCtx,
    record: NetworkRecord,
    mut endpoints: Vec<Arc<EndpointRecord>>,
    with_ipam: bool,
) -> Result<Established> {
    if with_ipam && world.capability.needs_ipam {
        // Which one is missing is more than that nobody answers.
        world.services.ipam.of(&record.spec.ipam, world.capability.scope)?;
        let known = endpoints.iter().map(|endpoint| EndpointRecord::clone(endpoint)).collect();
        let (network, scope, shares) =
            (record.clone(), world.capability.scope, world.capability.shares_pools);
        let restore = RestorePools { network, endpoints: known, scope, shares };
        world.ipam_answered(&op, world.ipam.outcome(&op, restore).await)?;
    }
    let created = match create_in_driver(&world, &op, &record, Restored::FromStore).await {
        // Only IPAM had to be told again: the driver has known the network and its endpoints all along.
        Err(error) if with_ipam && matches!(error.reason(), Reason::IdTaken { .. }) => {
            return Ok(Established { record, endpoints, repairs: Vec::new() });
        }
        created => created?,
    };
    let mut remade = created.remade;
    let all = endpoints
        .iter()
        .map(|endpoint| create_endpoint_in_driver(&world, &op, endpoint, Restored::FromStore));
    let all = join_all(all).await;
    for (endpoint, created) in endpoints.iter_mut().zip(all) {
        let created = created?;
        remade.extend(created.remade);
        // Most often it says what it said before.
        if endpoint.prefix != created.interface_prefix {
            Arc::make_mut(endpoint).prefix = created.interface_prefix;
        }
    }
    let repairs = remade.into_iter().map(|object| Repair::KernelObjectRemade { object }).collect();
    Ok(Established { record, endpoints, repairs })
}

async fn create_in_driver(
    world: &World,
    op: &OpCtx,
    record: &NetworkRecord,
    restored: Restored,
) -> Result<NetworkCreated> {
    let request = driver_request(record, restored);
    let outcome = world.driver.outcome(op, CreateDriverNetwork(request)).await;
    let created = world.driver_answered(op, outcome)?;
    if let (Scope::Local, Some(table)) = (world.capability.scope, created.tables.first()) {
        // Parity: libnetwork's "table registration is not allowed for local scope drivers".
        let message = format!("it wants gossip table {table:?}, which only drivers of global scope may");
        let (driver, kind) = (record.spec.driver.clone(), ErrorKind::Forbidden);
        return Err(Error::from(Reason::Driver { driver, kind, message }).uncertain());
    }
    Ok(created)
}

/// What a driver is told about a network. A pool that stands for none is not among it.
#[must_use]
pub fn driver_request(record: &NetworkRecord, restored: Restored) -> CreateNetwork {
    let shown = |pools: &[PoolRecord]| pools.iter().filter(|pool| !pool.is_none()).cloned().collect();
    CreateNetwork {
        network: record.id,
        name: record.spec.name.clone(),
        restored,
        options: record.spec.options.clone(),
        internal: record.spec.internal,
        ipv6: record.spec.ipv6,
        v4: shown(&record.v4),
        v6: shown(&record.v6),
        found: record.found.clone(),
    }
}

pub(super) async fn create_endpoint_in_driver(
    world: &World,
    op: &OpCtx,
    record: &EndpointRecord,
    restored: Restored,
) -> Result<EndpointCreated> {
    let request = CreateEndpoint {
        network: record.network,
        endpoint: record.id,
        name: record.name.clone(),
        restored,
        ipv4: record.ipv4,
        ipv6: record.ipv6,
        mac: record.mac,
        options: record.options.clone(),
        ports: record.ports.clone(),
        joined: record.plugged().map(|at| Present { join: at.join, link: at.link }),
    };
    let outcome = world.driver.outcome(op, CreateDriverEndpoint(request)).await;
    world.driver_answered(op, outcome)
}
