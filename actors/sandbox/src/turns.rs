//! Which operations of a sandbox came last, so that what an earlier one could not undo is not undone behind a later one's
//! back.

use std::cell::Cell;
use std::rc::Rc;

/// Operations of which a later one makes what is left of an earlier one out of date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// They give its endpoints a name.
    Name,
    /// They give it a namespace, or plug everything in again.
    Key,
    /// They change the endpoint through which it is reached from outside.
    Provider,
}

/// The number of an operation among those of its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Turn(Kind, u64);

/// How many operations of each kind have begun in a sandbox. Its clones are one, and it belongs to the sandbox and not to
/// its actor: what is left to undo outlives that.
#[derive(Clone, Debug, Default)]
pub struct Turns(Rc<[Cell<u64>; 3]>);

impl Turns {
    fn count(&self, kind: Kind) -> &Cell<u64> {
        match kind {
            Kind::Name => &self.0[0],
            Kind::Key => &self.0[1],
            Kind::Provider => &self.0[2],
        }
    }

    /// One begins.
    pub(crate) fn begin(&self, kind: Kind) -> Turn {
        let count = self.count(kind);
        count.set(count.get() + 1);
        self.last(kind)
    }

    /// The last one that has begun.
    pub(crate) fn last(&self, kind: Kind) -> Turn {
        Turn(kind, self.count(kind).get())
    }

    /// Whether a later one has begun.
    pub(crate) fn is_over(&self, turn: Turn) -> bool {
        self.last(turn.0) != turn
    }
}
