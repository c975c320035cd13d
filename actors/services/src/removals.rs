//! Networks that are being taken down in their drivers, or could not be yet.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;

use netloom_model::NetworkId;
use rustc_hash::FxBuildHasher;

/// Identifiers that are not free again yet. Shared by the actors of one engine thread, so that it survives the
/// restart of any of them.
#[derive(Clone, Default)]
pub struct Removals(Rc<RefCell<HashSet<NetworkId, FxBuildHasher>>>);

impl fmt::Debug for Removals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Removals({} networks)", self.0.borrow().len())
    }
}

impl Removals {
    /// A network is being taken down.
    pub fn begin(&self, network: NetworkId) {
        self.0.borrow_mut().insert(network);
    }

    /// It is gone.
    pub fn end(&self, network: NetworkId) {
        self.0.borrow_mut().remove(&network);
    }

    /// Whether something of a network of this identifier may be left.
    #[must_use]
    pub fn contains(&self, network: NetworkId) -> bool {
        self.0.borrow().contains(&network)
    }
}
