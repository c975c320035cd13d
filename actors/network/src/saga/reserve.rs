//! Keeping addresses for a name, and giving them up.

use std::fmt;
use std::sync::Arc;

use netloom_actor_services::SagaWorld;
use netloom_actor_services::ipam::ReserveAddresses;
use netloom_model::record::{Reservation, ReservationRecord};
use netloom_model::{Certainty, Error, NetworkId, Result};
use netloom_runtime::OpCtx;
use netloom_runtime::saga::Patience;
use netloom_store::{Change, Key};

use super::{Facts, Undone, World};
use crate::event::NetworkEvent;

/// Whether a change is in the store.
#[derive(Debug)]
pub(crate) enum Recorded {
    Surely(Facts),
    /// It did not answer: this says why.
    Perhaps(Error),
}

fn put(network: NetworkId, name: &str, kept: Reservation) -> Result<Change> {
    let record = ReservationRecord { network, name: name.to_owned(), kept };
    Change::put(Key::reservation(&network, name), &record).map_err(|error| Error::internal(error.to_string()))
}

/// Has IPAM keep addresses, then commits the record that says so. `recorded`: an earlier attempt may have done both.
pub(crate) async fn reserve(
    world: World,
    op: OpCtx,
    name: Arc<str>,
    kept: Reservation,
    recorded: bool,
) -> Result<Recorded> {
    let shown = name.clone();
    let object = fmt::from_fn(move |f| write!(f, "reservation {shown:?}"));
    let made = world.saga(&op, "reserve_address", object, async |saga| {
        let by = world.ipam.incarnation();
        // What an earlier attempt may have recorded stays kept, whatever becomes of this one.
        let undo = (!recorded).then(|| Undone::Reservation(name.clone()));
        saga.step("reserve addresses", undo, async {
            let reserve = ReserveAddresses { network: world.network, name: name.clone(), kept };
            world.ipam_answered(&op, world.ipam.outcome(&op, reserve).await)
        })
        .await?;
        saga.step("commit", None, std::future::ready(world.still_leased(by))).await?;
        // Waited for to its end, as it cannot be called back: what it says decides whether IPAM goes on keeping them.
        match world.commit(&op, vec![put(world.network, &name, kept)?]).await {
            Ok(()) => {
                let (network, name) = (world.network, name.to_string());
                let event = NetworkEvent::AddressesReserved { network, name, kept };
                Ok(Recorded::Surely(vec![world.events.fact(&op, event)]))
            }
            Err(error) if error.certainty() == Certainty::Uncertain => Ok(Recorded::Perhaps(error)),
            Err(error) => Err(error),
        }
    });
    made.await
}

/// Removes the record of a reservation, if there may be one, then has IPAM give the addresses up. From the commit on
/// there is no way back. `listed`: there is something to tell of.
pub(crate) async fn release_reservation(
    world: World,
    op: OpCtx,
    name: Arc<str>,
    (recorded, listed): (bool, bool),
) -> Result<Facts> {
    let shown = name.clone();
    let object = fmt::from_fn(move |f| write!(f, "reservation {shown:?}"));
    let entry = world.services.tools.ledger.enter(&op, "release_reservation", object);
    if recorded {
        entry.step("commit");
        let key = Key::reservation(&world.network, &name);
        world.commit(&op, vec![Change::Delete { key }]).await?;
    }
    let network = world.network;
    let event = || NetworkEvent::ReservationReleased { network, name: name.to_string() };
    let told = listed.then(|| world.events.fact(&op, event()));
    entry.step("give the addresses up");
    world.finish(&op, Undone::Reservation(name.clone()), Patience::of(&op)).await;
    Ok(told.into_iter().collect())
}
