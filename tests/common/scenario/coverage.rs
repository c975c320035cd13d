//! What the scenarios have to cover together.

use super::Scenario;

/// Parts of the inventory of libnetwork's behaviour, complaints of users of such engines, and what reconciles. A
/// scenario covers one when an entry of its `covers` is that, or begins with it and goes on after a blank or a colon.
pub(crate) const TOPICS: &[&str] = &[
    "inventory 1.1",
    "inventory 1.2",
    "inventory 1.4",
    "inventory 1.5",
    "inventory 1.6",
    "inventory 1.7",
    "inventory 1.8",
    "inventory 1.13",
    "inventory 1.14",
    "inventory 1.18",
    "inventory 1.19",
    "inventory 1.22",
    "inventory 1.28",
    "inventory 2.1",
    "engine reconcile",
    "engine diff",
    "pains C1",
    "pains C2",
    "pains C3",
    "pains C4",
    "pains C5",
    "pains C6",
    "pains C7",
    "pains R1",
    "pains R2",
    "pains R3",
    "pains R4",
    "pains R5",
    "pains R6",
    "pains R7",
    "pains R8",
    "pains R9",
    "pains I6",
    "pains V2",
    "pains V3",
    "pains B2",
    "pains A1",
];

/// Whether a scenario covers a topic.
pub(crate) fn covers(scenario: &Scenario, topic: &str) -> bool {
    scenario.covers.iter().any(|entry| {
        entry.strip_prefix(topic).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ':']))
    })
}
