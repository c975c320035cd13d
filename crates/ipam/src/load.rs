//! Owners of a network that are read back in large numbers.

use netloom_model::{Holder, ObjectKind, Reason, Result};

use crate::network::{Network, family_of};
use crate::owner::{Owner, OwnerId};
use crate::space::Space;
use crate::subnet::Held;

impl Network {
    /// Adds an owner that was here before, as it was. Where the pools begin to choose does not change.
    ///
    /// # Errors
    /// As for a lease, or a reservation; nothing was changed then.
    pub(crate) fn load(&mut self, space: &mut Space, mut owner: Owner) -> Result<()> {
        self.check_new(&owner)?;
        let mut places = [None; 2];
        for (place, address) in places.iter_mut().zip(owner.addresses()) {
            let family = family_of(address);
            let number = self.pools(family).iter().position(|pool| pool.contains(address));
            let number = number.ok_or_else(|| self.outside(family, address))?;
            let pool = &self.pools(family)[number];
            let subnet = space.subnet(pool.slot);
            let kept = match subnet.offset(address).and_then(|offset| subnet.held(offset)) {
                None => None,
                Some(Held::By(tenant, kept))
                    if tenant == pool.tenant() && self.owners.is_reservation(kept, None) =>
                {
                    Some(kept)
                }
                Some(held) => return Err(self.taken(space, pool, address, held)),
            };
            *place = Some((address, number, kept));
        }
        let kept = places.iter().flatten().find_map(|(_, _, kept)| *kept);
        owner.reservation = kept.and_then(|kept| self.owners.at(kept)).map(|kept| kept.name.clone());
        let (keeps, quarantined) = (owner.id == OwnerId::Reservation, owner.quarantined);
        let owner = self.owners.insert(owner).ok_or_else(|| self.too_many())?;
        for (address, number, kept) in places.into_iter().flatten() {
            let pool = &mut self.pools_mut(family_of(address))[number];
            let subnet = space.subnet_mut(pool.slot);
            match kept {
                Some(_) => pool.lease_reserved(subnet, address, owner),
                None if keeps => pool.keep(subnet, address, owner),
                None => pool.lease(subnet, address, owner),
            }
            if quarantined {
                pool.quarantine(subnet, address);
            }
        }
        Ok(())
    }

    /// Whether an owner is not there yet.
    fn check_new(&self, owner: &Owner) -> Result<()> {
        match owner.id {
            OwnerId::Endpoint(id) if self.owners.endpoint(&id).is_some() => {
                let holder = Holder::new(ObjectKind::Endpoint, id, &*owner.name);
                Err(Reason::IdTaken { id: id.to_string(), holder }.into())
            }
            OwnerId::Reservation if self.owners.reservation(&owner.name).is_some() => {
                let holder = Holder::new(ObjectKind::Reservation, &owner.name, "");
                Err(Reason::NameTaken { name: owner.name.to_string(), holder }.into())
            }
            _ => Ok(()),
        }
    }
}
