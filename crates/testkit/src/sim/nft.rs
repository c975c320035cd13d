//! Tables of nftables: what a transaction changes, and what it is refused for. Packets are not judged here.

use std::collections::BTreeMap;
use std::sync::Arc;

use netloom_kernel::nft::{Chain, Change, Contents, Datum, Element, Expr, Rule, Set, Table, Verdict};
use rustc_hash::FxHashMap;

use crate::errno::{EBUSY, EEXIST, EINVAL, ENOENT, EOPNOTSUPP, Refusal};

type Key = Arc<[Datum]>;
/// Takes back one step of a transaction.
type Undo = Box<dyn FnOnce(&mut Tables)>;

/// Every table of a namespace.
#[derive(Debug, Default)]
pub(super) struct Tables {
    all: BTreeMap<Table, State>,
    /// The kernel has no nftables.
    pub(super) absent: bool,
}

#[derive(Clone, Debug, Default)]
struct State {
    chains: Vec<(Chain, Vec<Rule>)>,
    sets: BTreeMap<String, Members>,
}

#[derive(Clone, Debug)]
struct Members {
    set: Set,
    /// By their first keys.
    elements: FxHashMap<Key, Element>,
}

impl Tables {
    /// Carries out all changes, or none.
    pub(super) fn change(&mut self, table: &Table, changes: &[Change]) -> Result<(), Refusal> {
        if self.absent {
            return Err(Refusal::new(EOPNOTSUPP));
        }
        let mut done = Vec::new();
        for change in changes {
            if let Err(refusal) = self.step(table, change, &mut done) {
                for undo in done.into_iter().rev() {
                    undo(self);
                }
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// What is in a table; `None` without it, and without chains as on Linux.
    pub(super) fn contents(&self, table: &Table) -> Option<Contents> {
        let State { chains, sets } = self.all.get(table).filter(|state| !state.chains.is_empty())?;
        let sets = sets.values().map(|members| {
            let mut elements: Vec<_> = members.elements.values().cloned().collect();
            elements.sort();
            (members.set.clone(), elements)
        });
        Some(Contents { chains: chains.clone(), sets: sets.collect() })
    }

    /// Their names.
    pub(super) fn names(&self) -> impl Iterator<Item = &Table> {
        self.all.keys()
    }

    /// Somebody else's `nft flush ruleset`: the tables that are gone.
    pub(super) fn clear(&mut self) -> Vec<Table> {
        std::mem::take(&mut self.all).into_keys().collect()
    }

    /// The table, for a step that can be taken back as a whole: chains and rules are few.
    fn kept(&mut self, table: &Table, done: &mut Vec<Undo>) -> Result<&mut State, Refusal> {
        let state = self.all.get_mut(table).ok_or(Refusal::new(ENOENT))?;
        let (chains, table) = (state.chains.clone(), table.clone());
        done.push(Box::new(move |tables| {
            if let Some(state) = tables.all.get_mut(&table) {
                state.chains = chains;
            }
        }));
        Ok(state)
    }

    fn step(&mut self, table: &Table, change: &Change, done: &mut Vec<Undo>) -> Result<(), Refusal> {
        match change {
            Change::AddTable => {
                if !self.all.contains_key(table) {
                    self.all.insert(table.clone(), State::default());
                    let table = table.clone();
                    done.push(Box::new(move |tables| drop(tables.all.remove(&table))));
                }
            }
            Change::DeleteTable => {
                let state = self.all.remove(table).ok_or(Refusal::new(ENOENT))?;
                let table = table.clone();
                done.push(Box::new(move |tables| drop(tables.all.insert(table, state))));
            }
            Change::AddChain(chain) => {
                let state = self.kept(table, done)?;
                match state.chains.iter().find(|(found, _)| found.name == chain.name) {
                    Some((found, _)) if found == chain => {}
                    Some(_) => return Err(Refusal::new(EEXIST)),
                    None => state.chains.push((chain.clone(), Vec::new())),
                }
            }
            Change::DeleteChain(name) => {
                let state = self.kept(table, done)?;
                let place = state.place(name)?;
                if !state.chains[place].1.is_empty() || state.leads_to(name) {
                    return Err(Refusal::new(EBUSY));
                }
                state.chains.remove(place);
            }
            Change::FlushChain(name) => {
                let state = self.kept(table, done)?;
                let place = state.place(name)?;
                state.chains[place].1.clear();
            }
            Change::AddRule { chain, rule } => {
                let state = self.kept(table, done)?;
                let place = state.place(chain)?;
                for expr in &rule.exprs {
                    match expr {
                        Expr::Lookup { set, .. } if !state.sets.contains_key(set) => {
                            return Err(Refusal::new(ENOENT));
                        }
                        Expr::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) => {
                            state.place(chain)?;
                        }
                        Expr::Other(_) => return Err(Refusal::new(EINVAL)),
                        _ => {}
                    }
                }
                state.chains[place].1.push(rule.clone());
            }
            Change::AddSet(set) => {
                let state = self.state(table)?;
                match state.sets.get(&set.name) {
                    Some(members) if members.set == *set => {}
                    Some(_) => return Err(Refusal::new(EEXIST)),
                    None => {
                        let members = Members { set: set.clone(), elements: FxHashMap::default() };
                        state.sets.insert(set.name.clone(), members);
                        self.owe(table, &set.name, None, done);
                    }
                }
            }
            Change::DeleteSet(name) => {
                let state = self.state(table)?;
                if state.uses(name) {
                    return Err(Refusal::new(EBUSY));
                }
                let members = state.sets.remove(name).ok_or(Refusal::new(ENOENT))?;
                self.owe(table, name, Some(members), done);
            }
            Change::FlushSet(name) => {
                let members = self.members(table, name)?;
                let before = members.clone();
                members.elements.clear();
                self.owe(table, name, Some(before), done);
            }
            Change::AddElements { set, elements } => self.add(table, set, elements, done)?,
            Change::DeleteElements { set, elements } => {
                for element in elements {
                    let members = self.members(table, set)?;
                    let fits =
                        members.elements.get(&element.key).is_some_and(|found| found.end == element.end);
                    let gone = fits.then(|| members.elements.remove(&element.key)).flatten();
                    let gone = gone.ok_or(Refusal::new(ENOENT))?;
                    let (table, set) = (table.clone(), set.clone());
                    done.push(Box::new(move |tables| {
                        if let Ok(members) = tables.members(&table, &set) {
                            members.elements.insert(gone.key.clone(), gone);
                        }
                    }));
                }
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        table: &Table,
        set: &str,
        elements: &[Element],
        done: &mut Vec<Undo>,
    ) -> Result<(), Refusal> {
        for element in elements {
            let state = self.state(table)?;
            if let [Datum::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain))] = &*element.value {
                state.place(chain)?;
            }
            let members = state.sets.get_mut(set).ok_or(Refusal::new(ENOENT))?;
            if !members.set.takes(element) {
                return Err(Refusal::new(EINVAL));
            }
            match members.elements.get(&element.key) {
                Some(found) if found == element => continue,
                Some(_) => return Err(Refusal::new(EEXIST)),
                None if members.set.interval
                    && members.elements.values().any(|found| found.meets(element)) =>
                {
                    return Err(Refusal::new(EEXIST));
                }
                None => drop(members.elements.insert(element.key.clone(), element.clone())),
            }
            let (table, set, key) = (table.clone(), set.to_owned(), element.key.clone());
            done.push(Box::new(move |tables| {
                if let Ok(members) = tables.members(&table, &set) {
                    members.elements.remove(&key);
                }
            }));
        }
        Ok(())
    }

    /// Notes how a set was.
    fn owe(&self, table: &Table, name: &str, before: Option<Members>, done: &mut Vec<Undo>) {
        let (table, name) = (table.clone(), name.to_owned());
        done.push(Box::new(move |tables| {
            if let Some(state) = tables.all.get_mut(&table) {
                match before {
                    Some(members) => drop(state.sets.insert(name, members)),
                    None => drop(state.sets.remove(&name)),
                }
            }
        }));
    }

    fn state(&mut self, table: &Table) -> Result<&mut State, Refusal> {
        self.all.get_mut(table).ok_or(Refusal::new(ENOENT))
    }

    fn members(&mut self, table: &Table, set: &str) -> Result<&mut Members, Refusal> {
        self.state(table)?.sets.get_mut(set).ok_or(Refusal::new(ENOENT))
    }
}

impl State {
    fn place(&self, chain: &str) -> Result<usize, Refusal> {
        self.chains.iter().position(|(found, _)| found.name == chain).ok_or(Refusal::new(ENOENT))
    }

    /// Whether a rule or an element goes to this chain.
    fn leads_to(&self, chain: &str) -> bool {
        let leads =
            |verdict: &Verdict| matches!(verdict, Verdict::Jump(to) | Verdict::Goto(to) if to == chain);
        let mut exprs = self.chains.iter().flat_map(|(_, rules)| rules).flat_map(|rule| &rule.exprs);
        let mut values = self.sets.values().flat_map(|set| set.elements.values()).flat_map(|one| &*one.value);
        exprs.any(|expr| matches!(expr, Expr::Verdict(verdict) if leads(verdict)))
            || values.any(|value| matches!(value, Datum::Verdict(verdict) if leads(verdict)))
    }

    /// Whether a rule looks into this set.
    fn uses(&self, set: &str) -> bool {
        let mut exprs = self.chains.iter().flat_map(|(_, rules)| rules).flat_map(|rule| &rule.exprs);
        exprs.any(|expr| matches!(expr, Expr::Lookup { set: used, .. } if used == set))
    }
}

/// Whether the parts of an element are those of a set.
trait Takes {
    fn takes(&self, element: &Element) -> bool;
}

impl Takes for Set {
    fn takes(&self, element: &Element) -> bool {
        let kinds = |parts: &[Datum], kinds: &[_]| parts.iter().map(Datum::kind).eq(kinds.iter().copied());
        kinds(&element.key, &self.key)
            && kinds(&element.value, &self.value)
            && element.end.is_some() == self.interval
            && element.end.as_ref().is_none_or(|end| {
                kinds(end, &self.key) && element.key.iter().zip(&**end).all(|(first, last)| first <= last)
            })
    }
}
