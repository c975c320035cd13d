//! Endpoints whose links the kernel has not let go of yet.
//!
//! A link that was cut off can carry no traffic, but until the kernel has destroyed it the address behind
//! it must not be given to anybody else. So the address of a deleted endpoint is released by whichever ends
//! last: the endpoint's deletion or its link's.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use netloom_model::EndpointId;

type Then = Box<dyn FnOnce()>;

/// Counts the dying links of each endpoint, and what is to happen when the last one is gone. Shared by the
/// actors of one engine thread, so that it survives the restart of any of them.
#[derive(Clone, Default)]
pub struct Quarantine(Rc<RefCell<HashMap<EndpointId, Entry>>>);

#[derive(Default)]
struct Entry {
    links: Cell<usize>,
    then: Vec<Then>,
}

impl fmt::Debug for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quarantine({} endpoints)", self.0.borrow().len())
    }
}

/// One dying link; drop it when the kernel has confirmed its end.
pub struct Dying {
    quarantine: Quarantine,
    endpoint: EndpointId,
}

impl fmt::Debug for Dying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dying({:?})", self.endpoint)
    }
}

impl Quarantine {
    /// A link of this endpoint begins to die.
    #[must_use = "the quarantine ends when this is dropped"]
    pub fn begin(&self, endpoint: EndpointId) -> Dying {
        let mut entries = self.0.borrow_mut();
        let links = &entries.entry(endpoint).or_default().links;
        links.set(links.get() + 1);
        Dying { quarantine: self.clone(), endpoint }
    }

    /// Whether a link of this endpoint is still dying.
    #[must_use]
    pub fn holds(&self, endpoint: EndpointId) -> bool {
        self.0.borrow().contains_key(&endpoint)
    }

    /// Does something once no link of this endpoint is dying: now, or when the last one is gone.
    pub fn after(&self, endpoint: EndpointId, then: impl FnOnce() + 'static) {
        let mut entries = self.0.borrow_mut();
        match entries.get_mut(&endpoint) {
            Some(entry) => entry.then.push(Box::new(then)),
            None => {
                drop(entries);
                then();
            }
        }
    }
}

impl Drop for Dying {
    fn drop(&mut self) {
        let mut entries = self.quarantine.0.borrow_mut();
        let Some(entry) = entries.get(&self.endpoint) else { return };
        entry.links.set(entry.links.get() - 1);
        if entry.links.get() > 0 {
            return;
        }
        let entry = entries.remove(&self.endpoint);
        drop(entries);
        for then in entry.into_iter().flat_map(|entry| entry.then) {
            then();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> EndpointId {
        "a".repeat(64).parse().expect("an id")
    }

    #[test]
    fn what_waits_happens_when_the_last_link_is_gone() {
        let quarantine = Quarantine::default();
        let happened = Rc::new(Cell::new(0));
        let count = |happened: &Rc<Cell<i32>>| {
            let happened = happened.clone();
            move || happened.set(happened.get() + 1)
        };
        quarantine.after(id(), count(&happened));
        assert_eq!(happened.get(), 1, "nothing is dying");
        let (first, second) = (quarantine.begin(id()), quarantine.begin(id()));
        quarantine.after(id(), count(&happened));
        drop(first);
        assert_eq!((happened.get(), quarantine.holds(id())), (1, true));
        drop(second);
        assert_eq!((happened.get(), quarantine.holds(id())), (2, false));
    }
}
