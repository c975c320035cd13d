//! Endpoints whose links the kernel has not let go of yet.
//!
//! A link that was cut off can carry no traffic, but until the kernel has destroyed it the address behind
//! it must not be given to anybody else. So the address of a deleted endpoint is released by whichever ends
//! last: the endpoint's deletion or its link's. A link that could not even be cut off keeps its endpoint
//! from being joined elsewhere.
//!
//! Who asks for the very address that a deleted endpoint still has, be it of IP or of hardware, waits here until that
//! one has let go of it. A network keeps its pools for as long as a link of its endpoints is dying, also when it is deleted
//! itself: who is refused because of these waits here as well.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use futures::channel::oneshot;
use netloom_model::config::Scope;
use netloom_model::record::{EndpointRecord, NetworkRecord};
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
    retired: RefCell<Map<Retired<Arc<EndpointRecord>>>>,
    /// Deleted networks that have not given back their pools.
    networks: RefCell<HashMap<NetworkId, Retired<Rc<RetiredNetwork>>, FxBuildHasher>>,
    /// What is to happen when the last dying link of a network is gone.
    after: RefCell<HashMap<NetworkId, Vec<Then>, FxBuildHasher>>,
}

/// A deleted network that still has pools.
#[derive(Clone, Debug)]
pub struct RetiredNetwork {
    /// Its last record.
    pub record: NetworkRecord,
    /// How far it reached.
    pub scope: Scope,
    /// Whether it shared its pools.
    pub shares: bool,
}

/// Something deleted that others wait for.
struct Retired<T> {
    what: T,
    waiting: Vec<oneshot::Sender<()>>,
}

impl<T: Clone> Retired<T> {
    fn new(what: T) -> Self {
        Self { what, waiting: Vec::new() }
    }

    /// One more waits.
    fn wait(&mut self) -> (T, oneshot::Receiver<()>) {
        // Whoever has given up waiting must not be remembered for as long as a link can take.
        self.waiting.retain(|waiting| !waiting.is_canceled());
        let (sender, returned) = oneshot::channel();
        self.waiting.push(sender);
        (self.what.clone(), returned)
    }

    fn returned(self) {
        for waiting in self.waiting {
            // Some do not wait any more.
            let _ = waiting.send(());
        }
    }
}

struct Entry {
    network: NetworkId,
    links: Vec<(JoinId, Dying)>,
    then: Vec<Then>,
    /// The record of an endpoint that is deleted: its addresses are still held.
    deleted: Option<Arc<EndpointRecord>>,
}

impl fmt::Debug for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { dying, retired, networks, .. } = &*self.0;
        let (dying, retired, networks) =
            (dying.borrow().len(), retired.borrow().len(), networks.borrow().len());
        write!(f, "Quarantine({dying} dying, {retired} retired, {networks} networks)")
    }
}

impl Quarantine {
    /// The link of a join begins to die, or has come further.
    pub fn dying(&self, (network, endpoint): (NetworkId, EndpointId), join: JoinId, state: Dying) {
        let mut entries = self.0.dying.borrow_mut();
        let new = || Entry { network, links: Vec::new(), then: Vec::new(), deleted: None };
        let links = &mut entries.entry(endpoint).or_insert_with(new).links;
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
        let Some(Entry { network, then, .. }) = entries.remove(&endpoint) else { return };
        drop(entries);
        then.into_iter().for_each(|then| then());
        if self.0.after.borrow().contains_key(&network) && !self.holds_network(network) {
            // Behind what its endpoints had to do.
            let then = self.0.after.borrow_mut().remove(&network);
            then.into_iter().flatten().for_each(|then| then());
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
        self.0.retired.borrow_mut().insert(id, Retired::new(record));
    }

    /// It has given them back, if it had any left: who waits for that goes on.
    pub fn returned(&self, endpoint: EndpointId) {
        let retired = self.0.retired.borrow_mut().remove(&endpoint);
        retired.into_iter().for_each(Retired::returned);
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
            let record = &*retired.what;
            record.network == network && has(record)
        })?;
        Some(retired.wait())
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

    // === Networks ===

    /// Whether a link of any endpoint of this network is still dying.
    #[must_use]
    pub fn holds_network(&self, network: NetworkId) -> bool {
        self.0.dying.borrow().values().any(|entry| entry.network == network)
    }

    /// Does something once no link of this network's endpoints is dying any more, of which at least one is.
    pub fn after_network(&self, network: NetworkId, then: impl FnOnce() + 'static) {
        debug_assert!(self.holds_network(network), "nobody would ever do it");
        self.0.after.borrow_mut().entry(network).or_default().push(Box::new(then));
    }

    /// A deleted network still has its pools, and will give them back.
    pub fn retire_network(&self, network: RetiredNetwork) {
        let id = network.record.id;
        self.0.networks.borrow_mut().insert(id, Retired::new(Rc::new(network)));
    }

    /// It has given them back, if it had any left: who waits for that goes on.
    pub fn network_returned(&self, network: NetworkId) {
        let retired = self.0.networks.borrow_mut().remove(&network);
        retired.into_iter().for_each(Retired::returned);
    }

    /// A deleted network that still has pools which somebody wants, and the moment at which it has not any more.
    #[must_use]
    pub fn retired_network(
        &self,
        wanted: impl Fn(&RetiredNetwork) -> bool,
    ) -> Option<(Rc<RetiredNetwork>, oneshot::Receiver<()>)> {
        let mut all = self.0.networks.borrow_mut();
        let first = all.values_mut().filter(|retired| wanted(&retired.what));
        // The same one for everybody, so that what happens does not depend on the map.
        Some(first.min_by_key(|retired| retired.what.record.id)?.wait())
    }

    /// All of them, by their identifiers.
    #[must_use]
    pub fn retired_networks(&self) -> Vec<Rc<RetiredNetwork>> {
        let networks = self.0.networks.borrow();
        let mut all: Vec<_> = networks.values().map(|retired| retired.what.clone()).collect();
        all.sort_unstable_by_key(|retired| retired.record.id);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn ids() -> (NetworkId, EndpointId) {
        ("b".repeat(64).parse().expect("an id"), "a".repeat(64).parse().expect("an id"))
    }

    #[test]
    fn what_waits_happens_when_the_last_link_is_gone() {
        let quarantine = Quarantine::default();
        let (network, id) = ids();
        let happened = Rc::new(Cell::new(0));
        let count = |happened: &Rc<Cell<i32>>| {
            let happened = happened.clone();
            move || happened.set(happened.get() + 1)
        };
        quarantine.after(id, count(&happened));
        assert_eq!(happened.get(), 1, "nothing is dying");
        let (first, second) = (JoinId(1), JoinId(2));
        quarantine.dying((network, id), first, Dying::Uncut);
        quarantine.dying((network, id), second, Dying::Cut);
        quarantine.after(id, count(&happened));
        assert!(quarantine.passes(id));
        quarantine.dying((network, id), first, Dying::Cut);
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
        let (network, id) = ids();
        let other: NetworkId = "c".repeat(64).parse().expect("an id");
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

    #[test]
    fn a_network_waits_for_the_last_link_of_all_its_endpoints() {
        let quarantine = Quarantine::default();
        let (network, first) = ids();
        let other: NetworkId = "c".repeat(64).parse().expect("an id");
        let second: EndpointId = "d".repeat(64).parse().expect("an id");
        let third: EndpointId = "e".repeat(64).parse().expect("an id");
        quarantine.dying((network, first), JoinId(1), Dying::Uncut);
        quarantine.dying((network, second), JoinId(2), Dying::Cut);
        quarantine.dying((other, third), JoinId(3), Dying::Cut);
        let happened = Rc::new(RefCell::new(Vec::new()));
        let says = |what: &'static str| {
            let happened = happened.clone();
            move || happened.borrow_mut().push(what)
        };
        quarantine.after_network(network, says("pools"));
        quarantine.after(second, says("addresses"));
        quarantine.gone(first, JoinId(1));
        quarantine.gone(third, JoinId(3));
        assert!(quarantine.holds_network(network) && happened.borrow().is_empty());
        quarantine.gone(second, JoinId(2));
        assert_eq!(*happened.borrow(), ["addresses", "pools"], "first what is in them");
        assert!(!quarantine.holds_network(network));

        let spec = netloom_model::NetworkSpec::new("blue");
        let record = NetworkRecord::asked(network, spec);
        quarantine.retire_network(RetiredNetwork { record, scope: Scope::Local, shares: false });
        assert!(quarantine.retired_network(|_| false).is_none());
        let (retired, mut returned) = quarantine.retired_network(|_| true).expect("it has pools");
        assert_eq!((retired.record.id, returned.try_recv()), (network, Ok(None)));
        assert_eq!(quarantine.retired_networks().len(), 1);
        quarantine.network_returned(network);
        quarantine.network_returned(network);
        assert_eq!(returned.try_recv(), Ok(Some(())));
        assert!(quarantine.retired_networks().is_empty());
    }
}
