//! The slow half of each command, one file a verb. Sagas see no actor state: they are given what they need
//! and hand back what they found out.

mod create_endpoint;
mod detach;
mod establish;
mod host;
mod ports;
mod remove;
mod reserve;
mod undo;

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;

use netloom_actor_driver::DriverActor;
use netloom_actor_services::ipam::IpamPort;
use netloom_actor_services::{Outcome, SagaWorld, Services, answered};
use netloom_drivers::Capability;
use netloom_ipam::Order;
use netloom_model::{Error, NetworkId, Reason, Result};
use netloom_runtime::{EventSink, Fact, OpCtx, Port};

use crate::event::NetworkEvent;

pub(crate) use create_endpoint::{
    CreatedEndpoint, attach, commit_attachment, create_endpoint, rename_endpoint,
};
pub(crate) use detach::{abandon, detach, reap};
pub use establish::driver_request;
pub(crate) use establish::{Established, establish, restore_in_driver};
pub(crate) use ports::{Reached, Standing, Way, ended, program};
pub(crate) use remove::{delete_endpoint, delete_network};
pub(crate) use reserve::{Recorded, release_reservation, reserve};
pub(crate) use undo::Undone;

/// Everybody whom the sagas of one network ask; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct World(Rc<Everybody>);

#[derive(Debug)]
pub(crate) struct Everybody {
    pub(crate) services: Services,
    pub(crate) driver: Port<DriverActor>,
    /// The network's IPAM driver.
    pub(crate) ipam: IpamPort,
    pub(crate) network: NetworkId,
    pub(crate) capability: Capability,
    pub(crate) events: EventSink<NetworkEvent>,
    /// How far the choice of addresses may have come.
    pub(crate) order: RefCell<Order>,
}

/// What an operation has to tell, in order, once the actor has applied it.
pub(crate) type Facts = Vec<Fact<NetworkEvent>>;

impl Deref for World {
    type Target = Everybody;

    fn deref(&self) -> &Everybody {
        &self.0
    }
}

impl SagaWorld for World {
    type Undone = Undone;

    fn services(&self) -> &Services {
        &self.services
    }
}

impl World {
    pub(crate) fn new(everybody: Everybody) -> Self {
        Self(Rc::new(everybody))
    }

    /// Refuses to commit what an IPAM that died meanwhile has leased: its successor learns what is taken from
    /// the records, and this is not in them yet.
    fn still_leased(&self, by: u64) -> Result<()> {
        if self.ipam.incarnation() == by {
            return Ok(());
        }
        Err(Error::from(Reason::Gone { who: self.ipam.to_string() }).unwound())
    }

    fn ipam_answered<T>(&self, op: &OpCtx, outcome: Outcome<T>) -> Result<T> {
        answered(op, &self.ipam, outcome)
    }

    fn driver_answered<T>(&self, op: &OpCtx, outcome: Outcome<T>) -> Result<T> {
        answered(op, "the driver", outcome)
    }
}
