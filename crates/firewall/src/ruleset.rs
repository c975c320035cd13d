//! Everything that is wanted, with its owners.

use std::collections::hash_map::Entry;
use std::fmt;

use netloom_kernel::nft::{Change, Contents, Datum, Element, Table};
use netloom_model::{EndpointId, NetworkId};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::elements::{Placed, of_network, of_port};
use crate::network::NetworkRules;
use crate::port::{Conflict, PortRules};
use crate::table::{TableConfig, chains, sets};

/// Whose rules these are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Owner {
    /// A network.
    Network(NetworkId),
    /// An endpoint, with its published ports.
    Endpoint(EndpointId),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(id) => write!(f, "network {id}"),
            Self::Endpoint(id) => write!(f, "endpoint {id}"),
        }
    }
}

/// A key of a set or map.
type Key = (&'static str, Box<[Datum]>);

/// An element, and who wants it.
#[derive(Clone, Debug)]
struct Held {
    element: Element,
    owners: Vec<Owner>,
}

/// Everything that is wanted of the table.
#[derive(Clone, Debug)]
pub struct Ruleset {
    config: TableConfig,
    owners: FxHashMap<Owner, Vec<Placed>>,
    elements: FxHashMap<Key, Held>,
    /// The keys of elements that are ranges: few, and looked through where a new one might meet another.
    ranges: FxHashSet<Key>,
}

impl Ruleset {
    /// Nothing but the rules that are always there.
    #[must_use]
    pub fn new(config: TableConfig) -> Self {
        let (owners, elements, ranges) = Default::default();
        Self { config, owners, elements, ranges }
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> Table {
        self.config.table()
    }

    /// Who has rules in it.
    pub fn owners(&self) -> impl Iterator<Item = Owner> {
        self.owners.keys().copied()
    }

    /// Says something else about a network, or nothing any more: what to change in the kernel.
    ///
    /// # Errors
    /// What is said contradicts what is said about another network. Nothing has changed.
    pub fn set_network(
        &mut self,
        network: NetworkId,
        rules: Option<&NetworkRules>,
    ) -> Result<Vec<Change>, Conflict> {
        let new = rules.map(of_network).unwrap_or_default();
        let what = || rules.map(|rules| format!("bridge {}", rules.bridge)).unwrap_or_default();
        self.replace(Owner::Network(network), new, |_| what())
    }

    /// Publishes these ports for an endpoint and no others: what to change in the kernel.
    ///
    /// # Errors
    /// A port that leads somewhere else. Nothing has changed.
    pub fn set_ports(&mut self, endpoint: EndpointId, ports: &[PortRules]) -> Result<Vec<Change>, Conflict> {
        let mut new = Vec::new();
        let mut ends = Vec::with_capacity(ports.len());
        for port in ports {
            new.extend(of_port(port));
            ends.push(new.len());
        }
        let what = |place| {
            let port = ends.iter().position(|end| place < *end).and_then(|number| ports.get(number));
            port.map(ToString::to_string).unwrap_or_default()
        };
        self.replace(Owner::Endpoint(endpoint), new, what)
    }

    /// What an owner has in the table, to be [put back](Self::put).
    #[must_use]
    pub fn held(&self, owner: Owner) -> Vec<Placed> {
        self.owners.get(&owner).cloned().unwrap_or_default()
    }

    /// Gives an owner what it had: what to change in the kernel. Whoever took a part of it meanwhile keeps it.
    pub fn put(&mut self, owner: Owner, had: Vec<Placed>) -> Vec<Change> {
        let free = had.into_iter().filter(|one| self.other_meaning(owner, one).is_none()).collect();
        self.replace(owner, free, |_| String::new()).unwrap_or_default()
    }

    /// The whole table as it should be.
    #[must_use]
    pub fn contents(&self) -> Contents {
        let mut sets: Vec<_> = sets().into_iter().map(|set| (set, Vec::new())).collect();
        let places: FxHashMap<_, _> =
            sets.iter().enumerate().map(|(place, (set, _))| (set.name.clone(), place)).collect();
        for ((set, _), held) in &self.elements {
            if let Some(place) = places.get(*set) {
                sets[*place].1.push(held.element.clone());
            }
        }
        Contents { chains: chains(&self.config), sets }
    }

    fn replace(
        &mut self,
        owner: Owner,
        new: Vec<Placed>,
        what: impl Fn(usize) -> String,
    ) -> Result<Vec<Change>, Conflict> {
        for (place, one) in new.iter().enumerate() {
            if let Some(holder) = self.other_meaning(owner, one) {
                return Err(Conflict { asked: what(place), holder });
            }
        }
        let old = self.owners.remove(&owner).unwrap_or_default();
        let kept: FxHashSet<_> = new.iter().collect();
        let mut changes = Steps::default();
        for one in old.iter().filter(|one| !kept.contains(one)) {
            self.take_out(owner, one, &mut changes.gone);
        }
        for one in &new {
            self.put_in(owner, one, &mut changes.new);
        }
        if !new.is_empty() {
            self.owners.insert(owner, new);
        }
        Ok(changes.into_changes())
    }

    /// Who else gives this key another meaning.
    fn other_meaning(&self, owner: Owner, one: &Placed) -> Option<Owner> {
        let other = |held: &Held| held.owners.iter().copied().find(|holder| *holder != owner);
        let key = (one.set, one.element.key.clone());
        if let Some(held) = self.elements.get(&key).filter(|held| held.element != one.element) {
            return other(held);
        }
        one.element.end.as_ref()?;
        let ranges = self.ranges.iter().filter(|(set, _)| *set == one.set);
        let met = ranges.filter_map(|key| self.elements.get(key)).filter(|held| held.element != one.element);
        met.filter(|held| held.element.meets(&one.element)).find_map(other)
    }

    fn take_out(&mut self, owner: Owner, one: &Placed, gone: &mut Vec<Placed>) {
        let key = (one.set, one.element.key.clone());
        let Entry::Occupied(mut entry) = self.elements.entry(key) else { return };
        entry.get_mut().owners.retain(|holder| *holder != owner);
        if entry.get().owners.is_empty() {
            let (key, held) = entry.remove_entry();
            self.ranges.remove(&key);
            gone.push(Placed { set: one.set, element: held.element });
        }
    }

    fn put_in(&mut self, owner: Owner, one: &Placed, new: &mut Vec<Placed>) {
        let key = (one.set, one.element.key.clone());
        match self.elements.entry(key.clone()) {
            Entry::Occupied(mut entry) if !entry.get().owners.contains(&owner) => {
                entry.get_mut().owners.push(owner);
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(entry) => {
                entry.insert(Held { element: one.element.clone(), owners: vec![owner] });
                if one.element.end.is_some() {
                    self.ranges.insert(key);
                }
                new.push(one.clone());
            }
        }
    }
}

/// What comes and what goes.
#[derive(Default)]
struct Steps {
    gone: Vec<Placed>,
    new: Vec<Placed>,
}

impl Steps {
    /// Deletions first: a key may get another value.
    fn into_changes(self) -> Vec<Change> {
        let gone = by_set(self.gone).map(|(set, elements)| Change::DeleteElements { set, elements });
        let new = by_set(self.new).map(|(set, elements)| Change::AddElements { set, elements });
        gone.chain(new).collect()
    }
}

/// The elements of each set, sets in the order in which they come.
fn by_set(all: Vec<Placed>) -> impl Iterator<Item = (String, Vec<Element>)> {
    let mut sets: Vec<(&'static str, Vec<Element>)> = Vec::new();
    for Placed { set, element } in all {
        match sets.iter_mut().find(|(found, _)| *found == set) {
            Some((_, elements)) => elements.push(element),
            None => sets.push((set, vec![element])),
        }
    }
    sets.into_iter().map(|(set, elements)| (set.to_owned(), elements))
}
