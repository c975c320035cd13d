//! Addresses that are kept for endpoints of a name.
//!
//! Each has a record of its own, and there is one operation on them at a time. What the records say is the truth, and IPAM
//! is filled from them. A commit that did not answer may have gone through; the address stays kept then, and whoever asks
//! again for the same makes it sure.

use netloom_model::Certainty;
use netloom_model::error::check_name;

use super::commands::{Started, checked};
use super::*;
use crate::phase::NetworkCommand;
use crate::saga;

/// How many names of one network may have addresses kept for them: every picture of the network has all of them.
const MOST: usize = 4096;

impl NetworkActor {
    pub(super) fn reserve(
        &mut self,
        op: &OpCtx,
        ReserveAddress { name, kept }: ReserveAddress,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) -> Started {
        let reply = checked(self.may_reserve(&name, kept), reply)?;
        let recorded = self.record.reservations.contains_key(&name);
        if recorded && !self.unsure.contains(&name) {
            return Err(Box::new(|| reply.send(Ok(()))));
        }
        let work = saga::reserve(self.world.clone(), op.clone(), name.as_str().into(), kept, recorded);
        let outcome = move |result| Outcome::Reserved { name, kept, result, reply };
        self.run(op, Scope::One(Turn::Record), work, outcome, cx);
        Ok(())
    }

    fn may_reserve(&self, name: &str, kept: Reservation) -> Result<()> {
        self.allows(NetworkCommand::Reserve)?;
        check_name(ObjectKind::Reservation, name)?;
        let Some(first) = kept.addresses().next() else {
            let why = "it keeps no address; give one of IPv4, of IPv6, or one of each";
            return Err(Error::invalid("reservation", name, why));
        };
        if !self.world.capability.needs_ipam {
            let why = "the driver of this network leaves no addresses to choose".into();
            return Err(Reason::AddressUnusable { address: first, why }.into());
        }
        let holder = || Holder::new(ObjectKind::Reservation, name, "");
        if self.world.services.removals.contains_reservation(self.record.id, &name.into()) {
            return Err(Reason::WrongPhase { object: holder(), phase: "being given up" }.into());
        }
        match self.record.reservations.get(name) {
            Some(present) if *present != kept => {
                Err(Reason::NameTaken { name: name.to_owned(), holder: holder() }.into())
            }
            None if self.record.reservations.len() >= MOST => {
                let (object, limit) = (self.holder().to_string(), MOST as u64);
                Err(Reason::Full { object, limit, what: "reservations" }.into())
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn unreserve(
        &mut self,
        op: &OpCtx,
        ReleaseReservation(name): ReleaseReservation,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) -> Started {
        let recorded = self.record.reservations.contains_key(&name);
        // What is there goes, whatever was allowed when it was made.
        let named = || if recorded { Ok(()) } else { check_name(ObjectKind::Reservation, &name) };
        let allowed = self.allows(NetworkCommand::Reserve).and_then(|()| named());
        let reply = checked(allowed, reply)?;
        let (shared, told) = (name.as_str().into(), (recorded || self.unsure.contains(&name), recorded));
        let work = saga::release_reservation(self.world.clone(), op.clone(), shared, told);
        let outcome = move |result| Outcome::Unreserved { name, result, reply };
        self.run(op, Scope::One(Turn::Record), work, outcome, cx);
        Ok(())
    }

    pub(super) fn reserved(
        &mut self,
        name: String,
        kept: Reservation,
        result: Result<Recorded>,
    ) -> Result<()> {
        let recorded = result?;
        self.record.reservations.insert(name.clone(), kept);
        match recorded {
            Recorded::Surely(_told) => {
                self.unsure.remove(&name);
                Ok(())
            }
            Recorded::Perhaps(error) => {
                self.unsure.insert(name);
                Err(error)
            }
        }
    }

    pub(super) fn unreserved(&mut self, name: &str, result: Result<Facts>) -> Result<()> {
        match &result {
            Ok(_told) => {
                self.unsure.remove(name);
                self.record.reservations.remove(name);
            }
            Err(error) if error.certainty() == Certainty::Uncertain => {
                self.unsure.insert(name.to_owned());
            }
            Err(_) => {}
        }
        result.map(drop)
    }
}
