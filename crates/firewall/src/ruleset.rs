//! Everything that is wanted, with its owners.

use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use netloom_kernel::nft::{Change, Contents, Datum, Element, Table};
use netloom_model::{EndpointId, NetworkId};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::elements::{Placed, inside, of_network, outside};
use crate::holders::Holders;
use crate::network::NetworkRules;
use crate::port::{Conflict, PortRules};
use crate::table::{Sets, TableConfig, chains, sets};

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

/// What an owner has said: of a network its rules, of an endpoint its ports. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Said {
    /// The network's rules.
    pub network: Option<Arc<NetworkRules>>,
    /// The endpoint's ports.
    pub ports: Arc<[PortRules]>,
}

impl Said {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.network.is_none() && self.ports.is_empty()
    }

    /// As elements of the table, and for each of the ports how many there are up to its last.
    fn placed(&self) -> (Vec<Placed>, Vec<usize>) {
        let mut placed = self.network.as_deref().map(of_network).unwrap_or_default();
        let mut ends = Vec::with_capacity(self.ports.len());
        for port in &*self.ports {
            placed.extend(outside(port));
            ends.push(placed.len());
        }
        placed.extend(inside(&self.ports));
        (placed, ends)
    }
}

/// A key of a set or map.
type Key = (&'static str, Arc<[Datum]>);

/// An element, and who wants it.
#[derive(Clone, Debug)]
struct Held {
    element: Element,
    owners: Holders,
}

/// Everything that is wanted of the table.
#[derive(Clone, Debug)]
pub struct Ruleset {
    config: TableConfig,
    owners: FxHashMap<Owner, (Said, Vec<Placed>)>,
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

    /// What differs from other engines.
    #[must_use]
    pub fn config(&self) -> &TableConfig {
        &self.config
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
        let said = Said { network: rules.cloned().map(Arc::new), ports: Arc::default() };
        let what = || rules.map(|rules| format!("bridge {}", rules.bridge)).unwrap_or_default();
        let (placed, _) = said.placed();
        self.replace(Owner::Network(network), said, placed, |_| what())
    }

    /// Publishes these ports for an endpoint and no others: what to change in the kernel.
    ///
    /// # Errors
    /// A port that leads somewhere else. Nothing has changed.
    pub fn set_ports(&mut self, endpoint: EndpointId, ports: &[PortRules]) -> Result<Vec<Change>, Conflict> {
        let said = Said { network: None, ports: ports.into() };
        let (placed, ends) = said.placed();
        let what = |place| {
            let port = ends.iter().position(|end| place < *end).and_then(|number| ports.get(number));
            match (port, ports) {
                (Some(port), _) => port.to_string(),
                (None, [first, ..]) => format!("what is published of {}", first.container),
                (None, []) => String::new(),
            }
        };
        self.replace(Owner::Endpoint(endpoint), said, placed, what)
    }

    /// What an owner has said, to be [put back](Self::put).
    #[must_use]
    pub fn held(&self, owner: Owner) -> Said {
        self.owners.get(&owner).map(|(said, _)| said.clone()).unwrap_or_default()
    }

    /// Forgets where the engine's own port is, so that nobody is led there any more: what to change in the kernel. What is
    /// said of ports afterwards says it anew.
    pub fn lead_nowhere(&mut self) -> Vec<Change> {
        let own = self.elements.extract_if(|(name, _), _| [Sets::SWITCHBOARD, Sets::OWN].contains(name));
        let gone = own.map(|((set, _), held)| Placed { set, element: held.element }).collect();
        Steps { gone, new: Vec::new() }.into_changes()
    }

    /// What everybody has said, in no order.
    pub fn said(&self) -> impl Iterator<Item = (Owner, &Said)> {
        self.owners.iter().map(|(owner, (said, _))| (*owner, said))
    }

    /// Gives an owner what it had: what to change in the kernel. Whoever took a port of it meanwhile, or contradicts the
    /// network, keeps it.
    pub fn put(&mut self, owner: Owner, had: &Said) -> Vec<Change> {
        let free = |placed: &[Placed]| placed.iter().all(|one| self.other_meaning(owner, one).is_none());
        let network = had.network.clone().filter(|rules| free(&of_network(rules)));
        let ports = had
            .ports
            .iter()
            .filter(|port| free(&outside(port)) && free(&inside(std::slice::from_ref(*port))))
            .cloned()
            .collect();
        let said = Said { network, ports };
        let (placed, _) = said.placed();
        self.replace(owner, said, placed, |_| String::new()).unwrap_or_default()
    }

    /// Who wants an element.
    pub(crate) fn wanted_by(&self, set: &str, element: &Element) -> Vec<Owner> {
        let name = self.elements.keys().map(|(name, _)| *name).find(|name| *name == set);
        let held = name.and_then(|name| self.elements.get(&(name, element.key.clone())));
        held.map(|held| (&held.owners).into()).unwrap_or_default()
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
        said: Said,
        new: Vec<Placed>,
        what: impl Fn(usize) -> String,
    ) -> Result<Vec<Change>, Conflict> {
        for (place, one) in new.iter().enumerate() {
            if let Some(holder) = self.other_meaning(owner, one) {
                return Err(Conflict { asked: what(place), holder });
            }
        }
        let (_, old) = self.owners.remove(&owner).unwrap_or_default();
        let mut changes = Steps::default();
        if !old.is_empty() {
            let kept: FxHashSet<_> = new.iter().collect();
            for one in old.iter().filter(|one| !kept.contains(one)) {
                self.take_out(owner, one, &mut changes.gone);
            }
        }
        for one in &new {
            self.put_in(owner, one, &mut changes.new);
        }
        if !new.is_empty() {
            self.owners.insert(owner, (said, new));
        }
        Ok(changes.into_changes())
    }

    /// Who else gives this key another meaning.
    fn other_meaning(&self, owner: Owner, one: &Placed) -> Option<Owner> {
        let other = |held: &Held| held.owners.other_than(owner);
        let key = (one.set, one.element.key.clone());
        // A port that is led is one container's, although the kernel is not told which one.
        let differs = |held: &&Held| held.element != one.element || Sets::is_of_one_owner(one.set);
        let same = self.elements.get(&key).filter(differs).and_then(other);
        if same.is_some() {
            return same;
        }
        // One of its own that begins alike says nothing about who is further on.
        one.element.end.as_ref()?;
        let ranges = self.ranges.iter().filter(|(set, _)| *set == one.set);
        let met = ranges.filter_map(|key| self.elements.get(key)).filter(differs);
        met.filter(|held| held.element.meets(&one.element)).find_map(other)
    }

    fn take_out(&mut self, owner: Owner, one: &Placed, gone: &mut Vec<Placed>) {
        let key = (one.set, one.element.key.clone());
        let Entry::Occupied(mut entry) = self.elements.entry(key) else { return };
        if entry.get_mut().owners.remove(owner) {
            let (key, held) = entry.remove_entry();
            self.ranges.remove(&key);
            gone.push(Placed { set: one.set, element: held.element });
        }
    }

    fn put_in(&mut self, owner: Owner, one: &Placed, new: &mut Vec<Placed>) {
        let key = (one.set, one.element.key.clone());
        match self.elements.entry(key.clone()) {
            Entry::Occupied(mut entry) => entry.get_mut().owners.insert(owner),
            Entry::Vacant(entry) => {
                entry.insert(Held { element: one.element.clone(), owners: owner.into() });
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
