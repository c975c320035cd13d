//! Who leases what in one network.

use std::net::{Ipv4Addr, Ipv6Addr};

use netloom_model::{EndpointId, Holder, ObjectKind};
use rustc_hash::FxHashMap;

/// The number of an owner inside its network, for the compact map from address to owner.
pub(crate) type OwnerIndex = u32;

/// An owner and its addresses.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Owner {
    pub id: EndpointId,
    pub name: Box<str>,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    /// Gone for its caller, but the kernel may still answer for its addresses.
    pub quarantined: bool,
}

impl Owner {
    /// The owner in an error text.
    pub(crate) fn describe(&self) -> String {
        if self.quarantined {
            format!("quarantine of endpoint {}", self.id.short())
        } else {
            Holder::new(ObjectKind::Endpoint, self.id, &*self.name).to_string()
        }
    }
}

/// The owners of one network.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    index: FxHashMap<EndpointId, OwnerIndex>,
    slots: Vec<Option<Owner>>,
    vacant: Vec<OwnerIndex>,
}

impl PartialEq for Owners {
    /// Equal owners; in which slots they are does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.index.len() == other.index.len() && self.index.keys().all(|id| self.get(id) == other.get(id))
    }
}

impl Owners {
    /// The owner with this identifier.
    pub(crate) fn get(&self, id: &EndpointId) -> Option<&Owner> {
        self.index.get(id).and_then(|index| self.at(*index))
    }

    /// The owner with this identifier, to be changed.
    pub(crate) fn get_mut(&mut self, id: &EndpointId) -> Option<&mut Owner> {
        let index = *self.index.get(id)?;
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// The owner with this number.
    pub(crate) fn at(&self, index: OwnerIndex) -> Option<&Owner> {
        self.slots.get(index as usize)?.as_ref()
    }

    /// Adds an owner that is not there yet and returns its number.
    pub(crate) fn insert(&mut self, owner: Owner) -> OwnerIndex {
        let id = owner.id;
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            OwnerIndex::try_from(self.slots.len() - 1).expect("2^32 owners do not fit into memory")
        });
        self.slots[index as usize] = Some(owner);
        self.index.insert(id, index);
        index
    }

    /// Takes an owner out.
    pub(crate) fn remove(&mut self, id: &EndpointId) -> Option<Owner> {
        let index = self.index.remove(id)?;
        self.vacant.push(index);
        self.slots.get_mut(index as usize)?.take()
    }
}
