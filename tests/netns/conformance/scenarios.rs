//! Scenarios written by hand, with what each operation must come to.
pub(super) struct Step { pub(super) ops: Vec<netloom::kernel::Op>, pub(super) expected: &'static str }
pub(super) struct Scenario { pub(super) name: &'static str, pub(super) steps: Vec<Step> }
pub(super) fn scenarios() -> Vec<Scenario> { Vec::new() }
