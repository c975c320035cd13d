//! What the firewall knows, kept outside of its actor: an incarnation that dies loses none of it.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use netloom_firewall::iptables::Wanted;
use netloom_firewall::{Ruleset, TableConfig};
use netloom_model::RepairCause;
use netloom_model::snapshot::Obstacle;

use super::backend::Backend;
use super::choice::Choice;
use super::zone::ZoneState;

/// What is wanted, and how far the host is.
#[derive(Clone)]
pub struct FirewallState(Rc<RefCell<Known>>);

impl fmt::Debug for FirewallState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FirewallState")
    }
}

pub(super) struct Known {
    pub(super) wanted: Ruleset,
    pub(super) backend: Backend,
    /// Why it is that one.
    pub(super) reason: String,
    /// What was there before the start is still being said again.
    pub(super) restoring: bool,
    /// The host may differ from what is wanted: it has to be read.
    pub(super) stale: bool,
    /// Why that is so.
    pub(super) cause: RepairCause,
    /// A repair has failed, and may have left something although nobody has rules.
    pub(super) unfinished: bool,
    /// It has been as wanted once. What differs then was somebody else's doing.
    pub(super) seen: bool,
    /// What iptables was told.
    pub(super) told: Option<Arc<Wanted>>,
    /// Why there are no rules.
    pub(super) missing: Option<String>,
    pub(super) repairs: u64,
    pub(super) trouble: Option<String>,
    /// What other backends had of this engine is gone.
    pub(super) cleaned: bool,
    /// Why it is not.
    pub(super) leftovers: Option<String>,
    /// What of the host's stood in the way at the last survey.
    pub(super) obstacles: Vec<Obstacle>,
    /// What is known of firewalld.
    pub(super) zone: ZoneState,
}

impl Known {
    /// The host may differ from what is wanted, because of this.
    pub(super) fn doubt(&mut self, cause: RepairCause) {
        (self.stale, self.cause) = (true, cause);
    }

    /// Whether there is nothing that rules are said to.
    pub(super) fn is_silent(&self) -> bool {
        self.missing.is_some() || matches!(self.backend, Backend::None)
    }
}

impl FirewallState {
    /// Nothing is wanted yet, and nothing is known of the host.
    #[must_use]
    pub fn new(config: TableConfig, Choice { backend, reason, missing }: Choice) -> Self {
        Self(Rc::new(RefCell::new(Known {
            wanted: Ruleset::new(config),
            backend,
            reason,
            restoring: true,
            stale: true,
            cause: RepairCause::Unsure,
            unfinished: false,
            seen: false,
            told: None,
            missing,
            repairs: 0,
            trouble: None,
            cleaned: false,
            leftovers: None,
            obstacles: Vec::new(),
            zone: ZoneState::default(),
        })))
    }

    pub(super) fn get(&self) -> RefMut<'_, Known> {
        self.0.borrow_mut()
    }
}
