//! Owners of a network that are read back in large numbers.

use std::net::IpAddr;

use netloom_model::{Error, Holder, ObjectKind, Reason};

use crate::network::{Network, family_of};
use crate::owner::{Owner, OwnerId, Owners};
use crate::pool::Counts;
use crate::space::Space;
use crate::span::{Family, Span, number};
use crate::subnet::{Held, MAX_OWNERS, Offset, OwnerNo};

/// With addresses in more pools, or more parts of large ones, owners are added one after the other.
const MAX_CLAIMS: usize = 64;

/// What owners have of 2^64 neighbours of one pool.
struct Claims {
    family: Family,
    /// The place of the pool among those of its family.
    pool: usize,
    span: Span,
    high: u64,
    /// The lower halves of the addresses and whose they are.
    lows: Vec<(u64, OwnerNo)>,
    counts: Counts,
}

impl Claims {
    /// The claims of an address, if they are these.
    fn offset(&self, family: Family, number: u128) -> Option<Offset> {
        let here = self.family == family && (self.span.first..=self.span.last).contains(&number);
        here.then(|| Offset::new(number - self.span.first)).filter(|offset| offset.high == self.high)
    }
}

/// An endpoint that has an address from a reservation, and the reservation.
type Passed = (OwnerNo, OwnerNo);

impl Network {
    /// Adds owners that were here before, as they were; `refused` is told what cannot be. Where the pools begin to
    /// choose does not change.
    ///
    /// All at once if nothing contradicts anything, which takes a fraction of the time; else one after the other, so
    /// that it is known which of them cannot be, and why.
    pub(crate) fn load_all(
        &mut self,
        space: &mut Space,
        owners: Vec<Option<Owner>>,
        mut refused: impl FnMut(&Owner, &Error),
    ) {
        let Err(owners) = self.load_at_once(space, owners) else { return };
        for owner in owners.into_iter().flatten() {
            let told = Owner { id: owner.id, ..Owner::new(owner.id, &owner.name, owner.addresses()) };
            if let Err(error) = self.load(space, owner) {
                refused(&told, &error);
            }
        }
    }

    /// Adds all of them, or gives them back and changes nothing.
    fn load_at_once(
        &mut self,
        space: &mut Space,
        owners: Vec<Option<Owner>>,
    ) -> Result<(), Vec<Option<Owner>>> {
        if self.owners.len() > 0 {
            return Err(owners);
        }
        let Some((claims, passed)) = self.claims(space, &owners) else { return Err(owners) };
        let slot = |claims: &Claims| self.pools(claims.family)[claims.pool].slot;
        if !claims.iter().all(|of| space.subnet(slot(of)).are_free(of.high, &of.lows)) {
            return Err(owners);
        }
        self.owners = Owners::from_slots(owners)?;
        for (endpoint, kept) in passed {
            self.owners.note_reservation(endpoint, kept);
        }
        for Claims { family, pool, high, lows, counts, .. } in claims {
            let pool = &mut self.pools_mut(family)[pool];
            space.subnet_mut(pool.slot).take_sorted(high, lows, pool.tenant());
            pool.count(&counts);
        }
        Ok(())
    }

    /// What owners have, in order and each once, and who has it from a reservation; `None` if that cannot be.
    fn claims(&self, space: &Space, owners: &[Option<Owner>]) -> Option<(Vec<Claims>, Vec<Passed>)> {
        let kept =
            |owner: &&Option<Owner>| owner.as_ref().is_some_and(|owner| owner.id == OwnerId::Reservation);
        let reservations = OwnerNo::try_from(owners.iter().take_while(kept).count()).ok()?;
        let mut claims: Vec<Claims> = Vec::new();
        for (owner, n) in owners.iter().zip(0..MAX_OWNERS) {
            let owner = owner.as_ref()?;
            // Endpoints have what is theirs from reservations that were there before.
            let keeps = owner.id == OwnerId::Reservation;
            if keeps != (n < reservations) {
                return None;
            }
            for address in owner.addresses() {
                let (family, number) = (family_of(address), number(address));
                let known = claims.iter().position(|claims| claims.offset(family, number).is_some());
                let place = match known {
                    Some(place) => place,
                    None if claims.len() == MAX_CLAIMS => return None,
                    None => {
                        claims.push(self.no_claims(space, address)?);
                        claims.len() - 1
                    }
                };
                let claims = &mut claims[place];
                let offset = claims.offset(family, number)?;
                claims.lows.push((offset.low, n));
                let counts = &mut claims.counts;
                if owner.quarantined && !keeps {
                    counts.quarantined += 1;
                    let here = self.pools(family)[claims.pool].may_choose(offset);
                    counts.quarantined_here += u64::from(here);
                } else {
                    counts.used += u64::from(!keeps);
                }
            }
        }
        let mut passed = Vec::new();
        // IPv4 first: from that reservation an endpoint has what it has.
        claims.sort_by_key(|claims| claims.family == Family::V6);
        for Claims { lows, .. } in &mut claims {
            if !lows.is_sorted() {
                lows.sort_unstable();
            }
            let before = passed.len();
            let twice = |a: &mut (u64, OwnerNo), b: &mut (u64, OwnerNo)| {
                let same = a.0 == b.0;
                // What is passed on is left to whom it was passed to.
                if same {
                    passed.push((a.1, b.1));
                    b.1 = a.1;
                }
                same
            };
            lows.dedup_by(twice);
            let sound = |(taker, from): &Passed| *from < reservations && *taker >= reservations;
            if !passed[before..].iter().all(sound) {
                return None;
            }
        }
        Some((claims, passed))
    }

    /// The claims that an address belongs to, before there are any.
    fn no_claims(&self, space: &Space, address: IpAddr) -> Option<Claims> {
        let family = family_of(address);
        let pool = self.pools(family).iter().position(|pool| pool.contains(address))?;
        let subnet = space.subnet(self.pools(family)[pool].slot);
        let (span, high) = (Span::of(&subnet.net()), subnet.offset(address)?.high);
        Some(Claims { family, pool, span, high, lows: Vec::new(), counts: Counts::default() })
    }

    /// Adds an owner that was here before, as it was. Where the pools begin to choose does not change.
    ///
    /// # Errors
    /// As for a lease, or a reservation; nothing was changed then.
    fn load(&mut self, space: &mut Space, mut owner: Owner) -> netloom_model::Result<()> {
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
        owner.reservation =
            kept.and_then(|kept| self.owners.at(kept)).map(|kept| Box::new(kept.name.clone()));
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
    fn check_new(&self, owner: &Owner) -> netloom_model::Result<()> {
        match owner.id {
            OwnerId::Endpoint(id) if self.owners.endpoint(&id).is_some() => {
                let holder = Holder::new(ObjectKind::Endpoint, id, &*owner.name);
                Err(Reason::IdTaken { id: id.to_string(), holder }.into())
            }
            OwnerId::Reservation if self.owners.reservation(&owner.name).is_some() => {
                let holder = Holder::new(ObjectKind::Reservation, &*owner.name, "");
                Err(Reason::NameTaken { name: owner.name.to_string(), holder }.into())
            }
            _ => Ok(()),
        }
    }
}
