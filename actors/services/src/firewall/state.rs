//! What the firewall knows, kept outside of its actor: an incarnation that dies loses none of it.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::rc::Rc;

use netloom_firewall::{Ruleset, TableConfig};

/// What is wanted, and how far the kernel is.
#[derive(Clone)]
pub struct FirewallState(Rc<RefCell<Known>>);

impl fmt::Debug for FirewallState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FirewallState")
    }
}

pub(super) struct Known {
    pub(super) wanted: Ruleset,
    /// What was there before the start is still being said again.
    pub(super) restoring: bool,
    /// The kernel's table may differ from what is wanted: it has to be read.
    pub(super) stale: bool,
    /// It has been as wanted once. What differs then was somebody else's doing.
    pub(super) seen: bool,
    /// Why there is no table.
    pub(super) missing: Option<String>,
    pub(super) repairs: u64,
    pub(super) trouble: Option<String>,
}

impl FirewallState {
    /// Nothing is wanted yet, and nothing is known of the kernel.
    #[must_use]
    pub fn new(config: TableConfig) -> Self {
        Self(Rc::new(RefCell::new(Known {
            wanted: Ruleset::new(config),
            restoring: true,
            stale: true,
            seen: false,
            missing: None,
            repairs: 0,
            trouble: None,
        })))
    }

    pub(super) fn get(&self) -> RefMut<'_, Known> {
        self.0.borrow_mut()
    }
}
