//! Who has ports, and which.

use std::sync::Arc;

use netloom_model::{EndpointId, Holder, HostPorts, ObjectKind};
use rustc_hash::FxHashMap;

/// An owner in tables: small, and used again once its owner has nothing any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OwnerKey(u32);

/// An endpoint with ports.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) id: EndpointId,
    pub(crate) name: Arc<str>,
    pub(crate) pieces: Vec<HostPorts>,
    /// It is deleted, and keeps its ports until its link is gone.
    pub(crate) leaving: bool,
}

impl Owner {
    pub(crate) fn holder(&self) -> Holder {
        Holder::new(ObjectKind::Endpoint, self.id, &*self.name)
    }
}

/// Every owner.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    keys: FxHashMap<EndpointId, OwnerKey>,
    all: Vec<Option<Owner>>,
    free: Vec<OwnerKey>,
}

impl OwnerKey {
    fn index(self) -> usize {
        self.0 as usize
    }
}

impl Owners {
    pub(crate) fn key(&self, id: EndpointId) -> Option<OwnerKey> {
        self.keys.get(&id).copied()
    }

    /// The owner with this identifier, which is made when absent.
    pub(crate) fn enter(&mut self, id: EndpointId, name: &Arc<str>) -> OwnerKey {
        if let Some(key) = self.key(id) {
            return key;
        }
        let owner = Owner { id, name: name.clone(), pieces: Vec::new(), leaving: false };
        let key = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            // There are fewer owners than ports, addresses and protocols, which fit by far.
            OwnerKey(u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX))
        });
        self.all[key.index()] = Some(owner);
        self.keys.insert(id, key);
        key
    }

    pub(crate) fn get(&self, key: OwnerKey) -> Option<&Owner> {
        self.all.get(key.index())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: OwnerKey) -> Option<&mut Owner> {
        self.all.get_mut(key.index())?.as_mut()
    }

    /// Forgets an owner.
    pub(crate) fn remove(&mut self, key: OwnerKey) -> Option<Owner> {
        let owner = self.all.get_mut(key.index())?.take()?;
        self.keys.remove(&owner.id);
        self.free.push(key);
        Some(owner)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Owner> {
        self.all.iter().flatten()
    }
}
