//! What the ports service knows, kept outside of its actor: an incarnation that dies closes no socket and no connection.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::rc::Rc;

use netloom_model::{HostPorts, PortRange, Protocol};
use netloom_ports::PortAllocator;
use rustc_hash::FxHashSet;

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
    /// TCP ports that records named at the start.
    pub(super) recorded: FxHashSet<u16>,
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
        let (keep, carriers, board, recorded) = Default::default();
        let allocator = PortAllocator::new(dynamic);
        Self(Rc::new(RefCell::new(Known { allocator, keep, carriers, board, recorded })))
    }

    /// Ports that endpoints have by their records, and take again as their networks come: the engine takes none of them
    /// for itself meanwhile.
    pub fn recorded<'a>(&self, ports: impl Iterator<Item = &'a HostPorts>) {
        let tcp = ports.filter(|ports| ports.protocol == Protocol::Tcp);
        self.get().recorded.extend(tcp.flat_map(|ports| ports.range.ports()));
    }

    pub(super) fn get(&self) -> RefMut<'_, Known> {
        self.0.borrow_mut()
    }
}
