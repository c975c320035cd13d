//! How each step of a network's sagas is taken back.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use netloom_actor_driver::{DeleteDriverEndpoint, DeleteDriverNetwork, LeaveDriverEndpoint};
use netloom_actor_services::SagaWorld;
use netloom_actor_services::ipam::{PoolsRetired, ReleaseAddresses, ReleasePools, UnreserveAddresses};
use netloom_actor_services::{Dying, interrupted, panicked};
use netloom_drivers::Leave;
use netloom_model::{Certainty, EndpointId, Error, JoinId, NetworkId, OpId, Result};
use netloom_runtime::saga::Patience;
use netloom_runtime::{OpCtx, Panicked, Undo};
use netloom_store::{Change, Key, RecordKind};

use super::establish::end_intent;
use super::{World, reap};

/// One step, to be taken back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Undone {
    /// The network in its driver, then its pools, which must not be handed out before: at once, or when the kernel
    /// has let go of the last link of its endpoints.
    Network(NetworkId, OpId),
    /// The pools of a network, then the intent that was noted for the operation.
    Pools(NetworkId, OpId),
    /// The network's record.
    NetworkRecord(NetworkId),
    /// The addresses of an endpoint.
    Addresses(EndpointId),
    /// An endpoint in its driver.
    DriverEndpoint(EndpointId),
    /// An endpoint's record.
    EndpointRecord(EndpointId),
    /// The link of one join of an endpoint.
    Link(EndpointId, JoinId),
    /// What is kept for a name.
    Reservation(Arc<str>),
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(id, _) => write!(f, "network {} in its driver, with its pools", id.short()),
            Self::Pools(id, _) => write!(f, "pools of network {}", id.short()),
            Self::NetworkRecord(id) => write!(f, "record of network {}", id.short()),
            Self::Addresses(id) => write!(f, "addresses of endpoint {}", id.short()),
            Self::DriverEndpoint(id) => write!(f, "endpoint {} in its driver", id.short()),
            Self::EndpointRecord(id) => write!(f, "record of endpoint {}", id.short()),
            Self::Link(id, join) => write!(f, "link of join {join} of endpoint {}", id.short()),
            Self::Reservation(name) => write!(f, "addresses kept for {name:?}"),
        }
    }
}

impl Undone {
    async fn take_back(self, world: World, op: OpCtx) -> Result<()> {
        let drop_record = |kind, id| vec![Change::Delete { key: Key { kind, id } }];
        match self {
            Self::Addresses(endpoint) => {
                let release = ReleaseAddresses(world.network, endpoint);
                world.ipam_answered(&op, world.ipam.outcome(&op, release).await)?;
                world.services.quarantine.returned(endpoint);
                Ok(())
            }
            Self::Reservation(name) => {
                // Until it is gone nobody makes one of the same name: this would take that one down.
                world.services.removals.begin_reservation(world.network, &name);
                let release = UnreserveAddresses(world.network, name.clone());
                world.ipam_answered(&op, world.ipam.outcome(&op, release).await)?;
                world.services.removals.end_reservation(world.network, &name);
                Ok(())
            }
            Self::Network(network, intent) => {
                // Until it is gone nobody makes one of the same identifier: this would take that one down.
                world.services.removals.begin(network);
                let outcome = world.driver.outcome(&op, DeleteDriverNetwork(network)).await;
                world.driver_answered(&op, outcome)?;
                let pools = Self::Pools(network, intent);
                let services = world.services.clone();
                if !(world.capability.needs_ipam && services.quarantine.holds_network(network)) {
                    return pools.undo(&world, &op).await;
                }
                // What is left of its links may still answer under its addresses. Nobody waits for that here; who makes
                // another one of its identifier, or wants its subnets, waits there.
                services.removals.end(network);
                world.ipam.tell(&op, PoolsRetired(network));
                services.quarantine.after_network(network, move || {
                    let reaping = world.services.reaping.clone();
                    reaping.spawn(async move { world.finish(&op, pools, Patience::Usual).await });
                });
                Ok(())
            }
            Self::Pools(network, OpId(intent)) => {
                world.ipam_answered(&op, world.ipam.outcome(&op, ReleasePools(network)).await)?;
                world.services.removals.end(network);
                world.services.quarantine.network_returned(network);
                end_intent(&world, &op.identified(intent)).await;
                Ok(())
            }
            Self::DriverEndpoint(endpoint) => {
                let outcome = world.driver.outcome(&op, DeleteDriverEndpoint(world.network, endpoint)).await;
                world.driver_answered(&op, outcome)
            }
            Self::NetworkRecord(network) => {
                world.commit(&op, drop_record(RecordKind::Network, network.into())).await
            }
            Self::EndpointRecord(endpoint) => {
                world.commit(&op, drop_record(RecordKind::Endpoint, endpoint.into())).await
            }
            Self::Link(endpoint, join) => {
                // Until the driver has answered, the link may pass traffic.
                world.services.quarantine.dying((world.network, endpoint), join, Dying::Uncut);
                let leave = Leave { network: world.network, endpoint, join };
                let outcome = world.driver.outcome(&op, LeaveDriverEndpoint(leave)).await;
                let left = world.driver_answered(&op, outcome)?;
                reap(&world, endpoint, join, left.remains);
                Ok(())
            }
        }
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
