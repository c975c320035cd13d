//! Addresses that are kept for a name, whether an endpoint of that name is there or not.

use std::net::IpAddr;

use netloom_model::{Holder, ObjectKind, Reason, Result};

use crate::network::{Network, family_of};
use crate::owner::{Owner, OwnerId};
use crate::space::Space;
use crate::subnet::{Held, OwnerNo};

/// A reservation that can be made.
#[derive(Debug)]
pub(crate) struct Planned {
    owner: Owner,
    /// Those of its addresses that nobody has.
    free: Vec<IpAddr>,
    /// Endpoints of its name that have the others.
    holders: Vec<OwnerNo>,
}

impl Network {
    /// Keeps addresses for endpoints of a name. One that such an endpoint has already stays with it.
    pub(crate) fn reserve(&mut self, space: &mut Space, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let planned = self.plan_reservation(space, name, addresses, Some(name))?;
        self.keep(space, planned)
    }

    /// Makes a reservation that was made before, here or on another host. Whoever has an address of it had that name when it
    /// was made; which one it has now, or others know it by, does not matter.
    pub(crate) fn follow_reservation(
        &mut self,
        space: &mut Space,
        name: &str,
        addresses: &[IpAddr],
    ) -> Result<()> {
        let planned = self.plan_reservation(space, name, addresses, None)?;
        self.keep(space, planned)
    }

    fn keep(&mut self, space: &mut Space, planned: Option<Planned>) -> Result<()> {
        let Some(Planned { owner, free, holders }) = planned else { return Ok(()) };
        let number = self.owners.insert(owner).ok_or_else(|| self.too_many())?;
        for holder in holders {
            self.owners.note_reservation(holder, number);
        }
        for address in free {
            if let Some(pool) = self.pool_of_mut(address) {
                pool.keep(space.subnet_mut(pool.slot), address, number);
            }
        }
        Ok(())
    }

    /// What a reservation would do; nothing if it is there already. Endpoints of one name may have addresses of it; those of
    /// any name if none is given.
    pub(crate) fn plan_reservation(
        &self,
        space: &Space,
        name: &str,
        addresses: &[IpAddr],
        held_by: Option<&str>,
    ) -> Result<Option<Planned>> {
        if let Some(kept) = self.owners.reservation(name) {
            let same = addresses.len() == kept.addresses().count();
            if same && addresses.iter().all(|address| kept.has(*address)) {
                return Ok(None);
            }
            let holder = Holder::new(ObjectKind::Reservation, name, "");
            return Err(Reason::NameTaken { name: name.to_owned(), holder }.into());
        }
        let (mut free, mut holders) = (Vec::new(), Vec::new());
        for address in addresses {
            let pool = self.pool_of(*address).ok_or_else(|| self.outside(family_of(*address), *address))?;
            let subnet = space.subnet(pool.slot);
            match subnet.offset(*address).and_then(|offset| subnet.held(offset)) {
                None => free.push(*address),
                Some(Held::By(tenant, number))
                    if tenant == pool.tenant() && self.owners.is_endpoint(number, held_by) =>
                {
                    // Under another name it may have got what is kept for that: one address is kept for one name.
                    if let Some(kept) = self.owners.reservation_behind(number, *address) {
                        return Err(self.taken(space, pool, *address, Held::By(tenant, kept)));
                    }
                    holders.push(number);
                }
                Some(held) => return Err(self.taken(space, pool, *address, held)),
            }
        }
        let owner = Owner::new(OwnerId::Reservation, name, addresses.iter().copied());
        Ok(Some(Planned { owner, free, holders }))
    }

    /// Gives up what is kept for a name; `false` when nothing is. An endpoint that has it keeps it.
    pub(crate) fn unreserve(&mut self, space: &mut Space, name: &str) -> bool {
        let Some(number) = self.owners.reservation_number(name) else { return false };
        let Some(kept) = self.owners.remove_reservation(name) else { return false };
        for address in kept.addresses() {
            let Some(pool) = self.pool_of_mut(address) else { continue };
            let subnet = space.subnet_mut(pool.slot);
            let held = subnet.offset(address).and_then(|offset| subnet.held(offset));
            match held {
                Some(Held::By(_, holder)) if holder == number => pool.give_up(subnet, address),
                Some(Held::By(_, holder)) => self.owners.forget_reservation(holder),
                _ => {}
            }
        }
        true
    }
}
