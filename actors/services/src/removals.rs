//! What is being taken down, or could not be yet: its name is not free again.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use netloom_model::NetworkId;
use rustc_hash::FxBuildHasher;

/// Identifiers of networks, and names of reservations, that are not free again yet. Shared by the actors of one engine
/// thread, so that it survives the restart of any of them.
#[derive(Clone, Default)]
pub struct Removals(Rc<RefCell<Inner>>);

#[derive(Default)]
struct Inner {
    networks: HashSet<NetworkId, FxBuildHasher>,
    reservations: HashSet<(NetworkId, Arc<str>), FxBuildHasher>,
}

impl fmt::Debug for Removals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.0.borrow();
        write!(f, "Removals({} networks, {} reservations)", inner.networks.len(), inner.reservations.len())
    }
}

impl Removals {
    /// A network is being taken down.
    pub fn begin(&self, network: NetworkId) {
        self.0.borrow_mut().networks.insert(network);
    }

    /// It is gone.
    pub fn end(&self, network: NetworkId) {
        self.0.borrow_mut().networks.remove(&network);
    }

    /// Whether something of a network of this identifier may be left.
    #[must_use]
    pub fn contains(&self, network: NetworkId) -> bool {
        self.0.borrow().networks.contains(&network)
    }

    /// What is kept for a name is being given up. One that is made meanwhile would be given up with it.
    pub fn begin_reservation(&self, network: NetworkId, name: &Arc<str>) {
        self.0.borrow_mut().reservations.insert((network, name.clone()));
    }

    /// Nothing is kept for it any more.
    pub fn end_reservation(&self, network: NetworkId, name: &Arc<str>) {
        self.0.borrow_mut().reservations.remove(&(network, name.clone()));
    }

    /// Whether something may still be kept for a name that is being given up.
    #[must_use]
    pub fn contains_reservation(&self, network: NetworkId, name: &Arc<str>) -> bool {
        self.0.borrow().reservations.contains(&(network, name.clone()))
    }
}
