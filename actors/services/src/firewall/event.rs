//! The facts that the firewall's actor emits.

use netloom_model::RepairCause;

/// What happened to the engine's rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FirewallEvent {
    /// They were not as they should be, and are again.
    Repaired {
        /// Where they are.
        place: String,
        /// How many changes it took.
        changes: usize,
        /// What set off the look.
        cause: RepairCause,
    },
}
