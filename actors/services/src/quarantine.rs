//! Endpoints whose links the kernel has not let go of yet.
//!
//! A link that was cut off can carry no traffic, but until the kernel has destroyed it the address behind
//! it must not be given to anybody else. So the address of a deleted endpoint is released by whichever ends
//! last: the endpoint's deletion or its link's. A link that could not even be cut off keeps its endpoint
//! from being joined elsewhere.
//!
//! Who asks for the very address that a deleted endpoint still has, be it of IP or of hardware, waits here until that
//! one has let go of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use futures::channel::oneshot;
use netloom_model::record::EndpointRecord;
use netloom_model::{EndpointId, JoinId, NetworkId};
use rustc_hash::FxBuildHasher;

type Then = Box<dyn FnOnce()>;
type Map<V> = HashMap<EndpointId, V, FxBuildHasher>;

/// How far the removal of a link has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dying {
    /// It may still pass traffic.
    Uncut,
    /// It passes none, but exists.
    Cut,
}

/// The dying links of each endpoint, and what is to happen when the last one is gone. Shared by the actors
/// of one engine thread, so that it survives the restart of any of them.
#[derive(Clone, Default)]
pub struct Quarantine(Rc<Inner>);

#[derive(Default)]
struct Inner {
    /// Endpoints with dying links.
    dying: RefCell<Map<Entry>>,
    /// Deleted endpoints that have not given back what they had.
    retired: RefCell<Map<Retired>>,
}

struct Retired {
    record: Arc<EndpointRecord>,
    waiting: Vec<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Entry {
    links: Vec<(JoinId, Dying)>,
    then: Vec<Then>,
    /// The record of an endpoint that is deleted: its addresses are still held.
    deleted: Option<Arc<EndpointRecord>>,
}

impl fmt::Debug for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { dying, retired } = &*self.0;
        write!(f, "Quarantine({} dying, {} retired)", dying.borrow().len(), retired.borrow().len())
    }
}

impl Quarantine {
    /// The link of a join begins to die, or has come further.
    pub fn dying(&self, endpoint: EndpointId, join: JoinId, state: Dying) {
        let mut entries = self.0.dying.borrow_mut();
        let links = &mut entries.entry(endpoint).or_default().links;
        match links.iter_mut().find(|(known, _)| *known == join) {
            Some((_, known)) => *known = state,
            None => links.push((join, state)),
        }
    }

    /// The kernel has confirmed that the link of a join is gone.
    pub fn gone(&self, endpoint: EndpointId, join: JoinId) {
        let mut entries = self.0.dying.borrow_mut();
        let Some(entry) = entries.get_mut(&endpoint) else { return };
        entry.links.retain(|(known, _)| *known != join);
        if !entry.links.is_empty() {
            return;
        }
        let entry = entries.remove(&endpoint);
        drop(entries);
        for then in entry.into_iter().flat_map(|entry| entry.then) {
            then();
        }
    }

    /// Whether a link of this endpoint is still dying.
    #[must_use]
    pub fn holds(&self, endpoint: EndpointId) -> bool {
        self.0.dying.borrow().contains_key(&endpoint)
    }

    /// Whether a dying link of this endpoint may still pass traffic.
    #[must_use]
    pub fn passes(&self, endpoint: EndpointId) -> bool {
        let entries = self.0.dying.borrow();
        entries
            .get(&endpoint)
            .is_some_and(|entry| entry.links.iter().any(|(_, state)| *state == Dying::Uncut))
    }

    /// The endpoint is deleted while its links die: its addresses stay taken, also for an IPAM that is restarted.
    pub fn keep(&self, record: Arc<EndpointRecord>) {
        if let Some(entry) = self.0.dying.borrow_mut().get_mut(&record.id) {
            entry.deleted = Some(record);
        }
    }

    /// The records of deleted endpoints of a network whose links are still dying.
    #[must_use]
    pub fn kept(&self, network: NetworkId) -> Vec<EndpointRecord> {
        let entries = self.0.dying.borrow();
        let kept = entries.values().filter_map(|entry| entry.deleted.as_deref());
        kept.filter(|record| record.network == network).cloned().collect()
    }

    /// A deleted endpoint still has its addresses, and will give them back.
    pub fn retire(&self, record: Arc<EndpointRecord>) {
        let id = record.id;
        self.0.retired.borrow_mut().insert(id, Retired { record, waiting: Vec::new() });
    }

    /// It has given them back, if it had any left: who waits for that goes on.
    pub fn returned(&self, endpoint: EndpointId) {
        let retired = self.0.retired.borrow_mut().remove(&endpoint);
        for waiting in retired.into_iter().flat_map(|retired| retired.waiting) {
            // Some do not wait any more.
            let _ = waiting.send(());
        }
    }

    /// A deleted endpoint of a network that still has something, and the moment at which it has not any more.
    #[must_use]
    pub fn retired(
        &self,
        network: NetworkId,
        has: impl Fn(&EndpointRecord) -> bool,
    ) -> Option<(Arc<EndpointRecord>, oneshot::Receiver<()>)> {
        let mut all = self.0.retired.borrow_mut();
        let retired = all.values_mut().find(|retired| {
            let record = &*retired.record;
            record.network == network && has(record)
        })?;
        // Whoever has given up waiting must not be remembered for as long as a link can take.
        retired.waiting.retain(|waiting| !waiting.is_canceled());
        let (sender, returned) = oneshot::channel();
        retired.waiting.push(sender);
        Some((retired.record.clone(), returned))
    }

    /// Does something once no link of this endpoint is dying: now, or when the last one is gone.
    pub fn after(&self, endpoint: EndpointId, then: impl FnOnce() + 'static) {
        let mut entries = self.0.dying.borrow_mut();
        match entries.get_mut(&endpoint) {
            Some(entry) => entry.then.push(Box::new(then)),
            None => {
                drop(entries);
                then();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_waits_happens_when_the_last_link_is_gone() {
        let quarantine = Quarantine::default();
        let id: EndpointId = "a".repeat(64).parse().expect("an id");
        let happened = Rc::new(Cell::new(0));
        let count = |happened: &Rc<Cell<i32>>| {
            let happened = happened.clone();
            move || happened.set(happened.get() + 1)
        };
        quarantine.after(id, count(&happened));
        assert_eq!(happened.get(), 1, "nothing is dying");
        let (first, second) = (JoinId(1), JoinId(2));
        quarantine.dying(id, first, Dying::Uncut);
        quarantine.dying(id, second, Dying::Cut);
        quarantine.after(id, count(&happened));
        assert!(quarantine.passes(id));
        quarantine.dying(id, first, Dying::Cut);
        assert!(!quarantine.passes(id));
        quarantine.gone(id, first);
        quarantine.gone(id, first);
        assert_eq!((happened.get(), quarantine.holds(id)), (1, true));
        quarantine.gone(id, second);
        assert_eq!((happened.get(), quarantine.holds(id)), (2, false));
    }

    #[test]
    fn who_waits_for_a_deleted_endpoint_is_woken_once_and_forgotten_when_it_gives_up() {
        let quarantine = Quarantine::default();
        let network: NetworkId = "b".repeat(64).parse().expect("an id");
        let other: NetworkId = "c".repeat(64).parse().expect("an id");
        let id: EndpointId = "a".repeat(64).parse().expect("an id");
        let spec = netloom_model::EndpointSpec::new("web");
        let any = |_: &EndpointRecord| true;
        assert!(quarantine.retired(network, any).is_none());
        quarantine.retire(Arc::new(EndpointRecord::asked(id, network, spec)));
        assert!(quarantine.retired(other, any).is_none() && quarantine.retired(network, |_| false).is_none());
        for _ in 0..100 {
            drop(quarantine.retired(network, any));
        }
        let (holder, mut returned) = quarantine.retired(network, any).expect("it has something");
        assert_eq!((holder.name.as_str(), returned.try_recv()), ("web", Ok(None)));
        let waiting = quarantine.0.retired.borrow().get(&id).map(|retired| retired.waiting.len());
        assert_eq!(waiting, Some(1), "nobody else waits");
        quarantine.returned(id);
        quarantine.returned(id);
        assert_eq!(returned.try_recv(), Ok(Some(())));
        assert!(quarantine.retired(network, any).is_none());
    }
}
