//! Which operations of a sandbox came last, so that what an earlier one could not undo is not undone behind a later one's
//! back.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use netloom_model::{EndpointId, JoinId};

/// Operations of which a later one makes what is left of an earlier one out of date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// They give its endpoints a name.
    Name,
    /// They give it a namespace, or plug everything in again.
    Key,
    /// They change the endpoint through which it is reached from outside.
    Provider,
    /// They say how its files are to be.
    Files,
    /// They tell its name server what is plugged in.
    Names,
}

/// The number of an operation among those of its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Turn(Kind, u64);

/// How many operations of each kind have begun in a sandbox, and whose places are to be kept. Its clones are one, and it belongs to the sandbox and not to
/// its actor: what is left to undo outlives that.
#[derive(Clone, Debug, Default)]
pub struct Turns(Rc<Begun>);

#[derive(Debug, Default)]
struct Begun {
    names: Cell<u64>,
    keys: Cell<u64>,
    providers: Cell<u64>,
    files: Cell<u64>,
    servers: Cell<u64>,
    /// The place that is to be kept for each endpoint, should it not be plugged in.
    places: RefCell<BTreeMap<EndpointId, JoinId>>,
}

impl Turns {
    fn count(&self, kind: Kind) -> &Cell<u64> {
        match kind {
            Kind::Name => &self.0.names,
            Kind::Key => &self.0.keys,
            Kind::Provider => &self.0.providers,
            Kind::Files => &self.0.files,
            Kind::Names => &self.0.servers,
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

    /// A place is to be kept for an endpoint, under this number.
    pub(crate) fn keep_place(&self, endpoint: EndpointId, number: JoinId) {
        self.0.places.borrow_mut().insert(endpoint, number);
    }

    /// None is any more: the endpoint leaves.
    pub(crate) fn drop_place(&self, endpoint: EndpointId) {
        self.0.places.borrow_mut().remove(&endpoint);
    }

    /// Whether this is the place that is to be kept, and no later one.
    pub(crate) fn keeps_place(&self, endpoint: EndpointId, number: JoinId) -> bool {
        self.0.places.borrow().get(&endpoint) == Some(&number)
    }
}
