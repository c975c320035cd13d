//! Ports of the host that lead to an endpoint: had from the driver, recorded, and told.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use netloom_actor_driver::ProgramConnectivity;
use netloom_actor_services::{SagaWorld, interrupted};
use netloom_drivers::{Addresses, ExternalConnectivity, SandboxOptions};
use netloom_model::record::EndpointRecord;
use netloom_model::{Error, Published, Result, Seldom};
use netloom_runtime::OpCtx;

use super::create_endpoint::put;
use super::{Facts, World};
use crate::event::NetworkEvent;

/// Whether it is still this call that says by which ports an endpoint is reached. A later one begins at once.
#[derive(Clone, Debug)]
pub(crate) struct Standing(Rc<Cell<bool>>);

impl Default for Standing {
    fn default() -> Self {
        Self(Rc::new(Cell::new(true)))
    }
}

impl Standing {
    /// A later call has begun.
    pub(crate) fn end(&self) {
        self.0.set(false);
    }

    pub(crate) fn holds(&self) -> bool {
        self.0.get()
    }
}

/// What the driver is asked to lead to.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) record: Arc<EndpointRecord>,
    /// Whether its place in the sandbox is recorded and told. Otherwise its ports are with that.
    pub(crate) recorded: bool,
    pub(crate) sandbox: Arc<SandboxOptions>,
    /// Whether it was reached from outside before, as far as its sandbox knows.
    pub(crate) again: bool,
    pub(crate) standing: Standing,
}

/// By which ports it is reached.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) published: Seldom<Published>,
    /// Whether it still is.
    pub(crate) stands: bool,
    pub(crate) told: Facts,
}

/// Has the driver let an endpoint be reached from outside; the ports of the host by which it is. They are recorded if the
/// endpoint's place is, or else with that.
pub(crate) async fn program(world: World, op: OpCtx, way: Way) -> Result<Reached> {
    let Way { mut record, recorded, sandbox, again, standing } = way;
    let request = ExternalConnectivity {
        network: world.network,
        endpoint: record.id,
        name: (*record.name).into(),
        addresses: Addresses { v4: record.ipv4.map(|net| net.addr()), v6: record.ipv6.map(|net| net.addr()) },
        ports: record.ports.clone(),
        sandbox,
        published: record.published.clone(),
    };
    let asked = world.driver.outcome(&op, ProgramConnectivity(request));
    // The driver goes on; whoever asked for it takes it back.
    let published = match op.unless_cancelled(asked).await {
        Some(outcome) => world.driver_answered(&op, outcome)?.published,
        None => return Err(interrupted(&op, "program external connectivity").uncertain()),
    };
    let before = record.published.clone();
    if recorded && published != before {
        Arc::make_mut(&mut record).published = published.clone();
        world.commit(&op, vec![put(&record)?]).await.map_err(Error::uncertain)?;
    }
    let stands = standing.holds();
    let mut told = Facts::new();
    if recorded && stands {
        if again {
            world.services.told.known(record.id, &before);
        }
        told = changed(&world, &op, &record, &published);
    }
    Ok(Reached { published, stands, told })
}

/// What there is to tell when these ports of the host lead to an endpoint: those that do no more come first.
pub(super) fn changed(world: &World, op: &OpCtx, record: &EndpointRecord, now: &Seldom<Published>) -> Facts {
    let (network, endpoint) = (world.network, record.id);
    let (ended, begun) = world.services.told.change(endpoint, now);
    let name = || record.name.clone();
    let ended = (!ended.is_empty()).then(|| NetworkEvent::PortsWithdrawn {
        network,
        endpoint,
        name: name(),
        ports: ended,
    });
    let begun = (!begun.is_empty()).then(|| NetworkEvent::PortsPublished {
        network,
        endpoint,
        name: name(),
        ports: begun,
    });
    ended.into_iter().chain(begun).map(|event| world.events.fact(op, event)).collect()
}

/// What there is to tell when an endpoint leaves its sandbox, is its way out no more, or is gone: nothing leads to it.
pub(crate) fn ended(world: &World, op: &OpCtx, record: &EndpointRecord) -> Facts {
    changed(world, op, record, &Seldom::default())
}
