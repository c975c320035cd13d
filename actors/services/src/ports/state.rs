//! What the ports service knows, kept outside of its actor: an incarnation that dies closes no socket and no connection.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::rc::Rc;

use netloom_model::PortRange;
use netloom_ports::PortAllocator;

use super::board::Board;
use super::keep::Keep;
use super::serve::Carriers;

/// Who has which port, and what holds or serves it.
#[derive(Clone)]
pub struct PortsState(Rc<RefCell<Known>>);

pub(super) struct Known {
    pub(super) allocator: PortAllocator,
    pub(super) keep: Keep,
    pub(super) carriers: Carriers,
    pub(super) board: Board,
}

impl fmt::Debug for PortsState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PortsState")
    }
}

impl PortsState {
    /// Nothing is taken yet. `dynamic` is where ports come from that nobody names.
    #[must_use]
    pub fn new(dynamic: PortRange) -> Self {
        let (keep, carriers, board) = Default::default();
        Self(Rc::new(RefCell::new(Known { allocator: PortAllocator::new(dynamic), keep, carriers, board })))
    }

    pub(super) fn get(&self) -> RefMut<'_, Known> {
        self.0.borrow_mut()
    }
}
