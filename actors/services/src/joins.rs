//! Numbers for joins, unlike each other for as long as the engine lives.

use std::cell::Cell;
use std::rc::Rc;

use netloom_model::JoinId;

/// Hands out numbers of joins. Shared by the actors of one engine thread, so that the restart of any of them
/// does not begin again.
#[derive(Clone, Debug)]
pub struct JoinIds(Rc<Cell<u32>>);

impl JoinIds {
    /// Begins somewhere: another place at each start, because links of an earlier engine may still be dying
    /// under the names that its numbers gave them.
    #[must_use]
    pub fn starting_at(first: u32) -> Self {
        Self(Rc::new(Cell::new(first)))
    }

    /// The next number.
    #[must_use]
    pub fn next(&self) -> JoinId {
        let next = self.0.get();
        self.0.set(next.wrapping_add(1));
        JoinId(next)
    }
}
