//! Who leases what in one network.

use std::hash::BuildHasher as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use netloom_model::{EndpointId, Holder, ObjectKind};
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::name::Name;
use crate::subnet::{MAX_OWNERS, OwnerNo};

/// Who an owner is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OwnerId {
    /// An endpoint.
    Endpoint(EndpointId),
    /// A name for which addresses are kept: an endpoint of that name gets them.
    Reservation,
}

/// An owner and its addresses.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Owner {
    pub id: OwnerId,
    pub name: Name,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    /// The host whose endpoint it is, where hosts share the address space.
    pub host: Option<Arc<str>>,
    /// The reservation that it has one of them from, which gets it back: that of the first, of two. Few have one.
    pub reservation: Option<Box<Name>>,
    /// Gone for its caller, but the kernel may still answer for its addresses.
    pub quarantined: bool,
}

impl Owner {
    /// An owner of these addresses, at most one of each family.
    pub(crate) fn new(id: OwnerId, name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let (mut ipv4, mut ipv6) = (None, None);
        for address in addresses {
            match address {
                IpAddr::V4(ip) => ipv4 = Some(ip),
                IpAddr::V6(ip) => ipv6 = Some(ip),
            }
        }
        Self { id, name: name.into(), ipv4, ipv6, host: None, reservation: None, quarantined: false }
    }

    /// The owner in an error text.
    pub(crate) fn describe(&self) -> String {
        let own = self.describe_here();
        match &self.host {
            None => own,
            Some(host) => format!("{own} of host {host}"),
        }
    }

    fn describe_here(&self) -> String {
        match self.id {
            OwnerId::Endpoint(id) if self.quarantined => format!("quarantine of endpoint {}", id.short()),
            OwnerId::Endpoint(id) => Holder::new(ObjectKind::Endpoint, id, &*self.name).to_string(),
            OwnerId::Reservation => format!("reservation {:?}", self.name),
        }
    }

    /// Its addresses, IPv4 first.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }

    /// Whether an address is one of its own.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.addresses().any(|own| own == address)
    }
}

/// The owners of one network.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    /// Where the endpoints are. Their identifiers, which are long, are there and not here as well.
    endpoints: HashTable<OwnerNo>,
    reservations: FxHashMap<Box<str>, OwnerNo>,
    slots: Vec<Option<Owner>>,
    vacant: Vec<OwnerNo>,
}

impl PartialEq for Owners {
    /// Equal owners; in which slots they are does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.endpoints.len() == other.endpoints.len()
            && self.reservations.len() == other.reservations.len()
            && self.endpoints().all(|owner| {
                let OwnerId::Endpoint(id) = owner.id else { return false };
                other.endpoint(&id) == Some(owner)
            })
            && self.reservations.keys().all(|name| self.reservation(name) == other.reservation(name))
    }
}

impl Owners {
    /// An endpoint that leases addresses.
    pub(crate) fn endpoint(&self, id: &EndpointId) -> Option<&Owner> {
        self.at(self.number_of(id)?)
    }

    /// The same, to be changed.
    pub(crate) fn endpoint_mut(&mut self, id: &EndpointId) -> Option<&mut Owner> {
        let number = self.number_of(id)?;
        self.slots.get_mut(number as usize)?.as_mut()
    }

    /// A name for which addresses are kept.
    pub(crate) fn reservation(&self, name: &str) -> Option<&Owner> {
        self.at(self.reservation_number(name)?)
    }

    /// The number of the reservation of this name, if it is of this address.
    pub(crate) fn reservation_of(&self, name: &str, address: IpAddr) -> Option<OwnerNo> {
        let number = self.reservation_number(name)?;
        self.at(number).filter(|kept| kept.has(address)).map(|_| number)
    }

    /// Whether this is the reservation of this name; of any name if none is given.
    pub(crate) fn is_reservation(&self, number: OwnerNo, name: Option<&str>) -> bool {
        let owner = self.at(number).filter(|owner| owner.id == OwnerId::Reservation);
        owner.is_some_and(|owner| name.is_none_or(|name| &*owner.name == name))
    }

    /// Whether this is an endpoint of this name; of any name if none is given.
    pub(crate) fn is_endpoint(&self, number: OwnerNo, name: Option<&str>) -> bool {
        let owner = self.at(number).filter(|owner| owner.id != OwnerId::Reservation);
        owner.is_some_and(|owner| name.is_none_or(|name| &*owner.name == name))
    }

    /// Notes that an endpoint has an address from a reservation, which has one of its addresses now.
    pub(crate) fn note_reservation(&mut self, number: OwnerNo, kept: OwnerNo) {
        let Some(name) = self.at(kept).map(|kept| kept.name.clone()) else { return };
        let first = self.at(number).and_then(|owner| {
            let noted = owner.reservation.as_deref();
            owner.addresses().find_map(|address| {
                let of = |name: &Name| self.reservation_of(name, address).is_some();
                noted.filter(|noted| of(noted)).or_else(|| Some(&name).filter(|name| of(name))).cloned()
            })
        });
        self.set_reservation(number, first);
    }

    /// Notes that a reservation from which an endpoint has an address is gone: of another one it may have the other.
    pub(crate) fn forget_reservation(&mut self, number: OwnerNo) {
        let kept = self.at(number).and_then(|owner| {
            let number = owner.addresses().find_map(|address| self.reservation_keeping(address))?;
            self.at(number).map(|kept| kept.name.clone())
        });
        self.set_reservation(number, kept);
    }

    fn set_reservation(&mut self, number: OwnerNo, kept: Option<Name>) {
        if let Some(owner) = self.slots.get_mut(number as usize).and_then(Option::as_mut) {
            owner.reservation = kept.map(Box::new);
        }
    }

    /// The reservation that gets an address of an endpoint back, if there is one: most often the one that is noted. An
    /// endpoint that was renamed may have its two addresses from two of them.
    pub(crate) fn reservation_behind(&self, number: OwnerNo, address: IpAddr) -> Option<OwnerNo> {
        self.reservation_for(self.at(number)?, address)
    }

    /// The same of an endpoint that is gone.
    pub(crate) fn reservation_for(&self, owner: &Owner, address: IpAddr) -> Option<OwnerNo> {
        let noted = owner.reservation.as_ref()?;
        self.reservation_of(noted, address).or_else(|| self.reservation_keeping(address))
    }

    fn reservation_keeping(&self, address: IpAddr) -> Option<OwnerNo> {
        let keeps = |number: &OwnerNo| self.at(*number).is_some_and(|kept| kept.has(address));
        self.reservations.values().copied().find(keeps)
    }

    /// The reservations, in no order that means anything.
    pub(crate) fn reservations(&self) -> impl Iterator<Item = &Owner> {
        self.reservations.values().filter_map(|number| self.at(*number))
    }

    /// What is kept for names, and by which reservation.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (OwnerNo, IpAddr)> {
        let numbers = self.reservations.values().copied();
        numbers.flat_map(|number| {
            self.at(number).into_iter().flat_map(Owner::addresses).map(move |address| (number, address))
        })
    }

    /// Gives an endpoint another name.
    pub(crate) fn rename(&mut self, id: &EndpointId, name: &str) {
        if let Some(owner) = self.endpoint_mut(id) {
            owner.name = name.into();
        }
    }

    /// The number of a reservation.
    pub(crate) fn reservation_number(&self, name: &str) -> Option<OwnerNo> {
        // Seldom is there any.
        if self.reservations.is_empty() { None } else { self.reservations.get(name).copied() }
    }

    /// The owner with this number.
    pub(crate) fn at(&self, number: OwnerNo) -> Option<&Owner> {
        self.slots.get(number as usize)?.as_ref()
    }

    /// Every endpoint, in no order that means anything.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Owner> {
        self.slots.iter().flatten().filter(|owner| owner.id != OwnerId::Reservation)
    }

    /// Every owner, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Owner> {
        self.slots.iter().flatten()
    }

    /// How many owners there are.
    pub(crate) fn len(&self) -> usize {
        self.endpoints.len() + self.reservations.len()
    }

    /// How many endpoints there are.
    pub(crate) fn endpoint_count(&self) -> usize {
        self.endpoints.len()
    }

    /// Adds an owner that is not there yet and returns its number; `None` when there are as many as can be.
    pub(crate) fn insert(&mut self, owner: Owner) -> Option<OwnerNo> {
        let number = match self.vacant.pop() {
            Some(number) => number,
            None => {
                let number =
                    OwnerNo::try_from(self.slots.len()).ok().filter(|number| *number < MAX_OWNERS)?;
                self.slots.push(None);
                number
            }
        };
        if owner.id == OwnerId::Reservation {
            self.reservations.insert((&*owner.name).into(), number);
        }
        let id = owner.id;
        self.slots[number as usize] = Some(owner);
        if let OwnerId::Endpoint(id) = id {
            let slots = &self.slots;
            self.endpoints.insert_unique(hash(&id), number, |number| hash_of(slots, *number));
        }
        Some(number)
    }

    /// These owners, each with its place as its number; all of them back if two have one identifier or name, or if
    /// there are more than can be.
    pub(crate) fn from_slots(slots: Vec<Option<Owner>>) -> Result<Self, Vec<Option<Owner>>> {
        let mut endpoints = HashTable::with_capacity(slots.len());
        let mut reservations = FxHashMap::default();
        for (number, owner) in (0..MAX_OWNERS).zip(&slots) {
            let new = match owner {
                Some(Owner { id: OwnerId::Endpoint(id), .. }) => {
                    let known = |number: &OwnerNo| is(&slots, *number, id);
                    match endpoints.entry(hash(id), known, |number| hash_of(&slots, *number)) {
                        Entry::Vacant(place) => {
                            place.insert(number);
                            true
                        }
                        Entry::Occupied(_) => false,
                    }
                }
                Some(Owner { id: OwnerId::Reservation, name, .. }) => {
                    reservations.insert((&**name).into(), number).is_none()
                }
                None => false,
            };
            if !new {
                return Err(slots);
            }
        }
        if slots.len() > endpoints.len() + reservations.len() {
            return Err(slots);
        }
        Ok(Self { endpoints, reservations, slots, vacant: Vec::new() })
    }

    /// Takes an endpoint out.
    pub(crate) fn remove_endpoint(&mut self, id: &EndpointId) -> Option<Owner> {
        let slots = &self.slots;
        let entry = self.endpoints.find_entry(hash(id), |number| is(slots, *number, id)).ok()?;
        let (number, _) = entry.remove();
        self.vacate(number)
    }

    /// Takes a reservation out.
    pub(crate) fn remove_reservation(&mut self, name: &str) -> Option<Owner> {
        let number = self.reservations.remove(name)?;
        self.vacate(number)
    }

    fn number_of(&self, id: &EndpointId) -> Option<OwnerNo> {
        self.endpoints.find(hash(id), |number| is(&self.slots, *number, id)).copied()
    }

    fn vacate(&mut self, number: OwnerNo) -> Option<Owner> {
        self.vacant.push(number);
        self.slots.get_mut(number as usize)?.take()
    }
}

fn hash(id: &EndpointId) -> u64 {
    FxBuildHasher.hash_one(id)
}

/// The hash of the endpoint in a slot.
fn hash_of(slots: &[Option<Owner>], number: OwnerNo) -> u64 {
    match slots.get(number as usize) {
        Some(Some(Owner { id: OwnerId::Endpoint(id), .. })) => hash(id),
        _ => 0,
    }
}

/// Whether the endpoint in a slot is this one.
fn is(slots: &[Option<Owner>], number: OwnerNo, id: &EndpointId) -> bool {
    matches!(slots.get(number as usize), Some(Some(Owner { id: OwnerId::Endpoint(known), .. })) if known == id)
}
