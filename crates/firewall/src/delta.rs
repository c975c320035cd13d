//! A table as it is against one as it should be.

use netloom_kernel::nft::{Change, Contents, Element, Rule};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::table::USER_CHAIN;

/// The changes, in one transaction, that make a table what it should be; none when it is. Chains and sets that are
/// not wanted are left alone, and so is what users have in [`USER_CHAIN`]: their rules may lead to them.
#[must_use]
pub fn delta(is: Option<&Contents>, wanted: &Contents) -> Vec<Change> {
    let nothing = Contents::default();
    let is = is.unwrap_or(&nothing);
    let chains: FxHashMap<_, _> =
        is.chains.iter().map(|(chain, rules)| (&*chain.name, (chain, rules))).collect();
    let sets: FxHashMap<_, _> = is.sets.iter().map(|(set, elements)| (&*set.name, (set, elements))).collect();
    // A rule holds on to its sets, so the rules go first where a set has to be made anew.
    let anew: Vec<_> = wanted
        .sets
        .iter()
        .filter(|(set, _)| sets.get(&*set.name).is_some_and(|(found, _)| *found != set))
        .map(|(set, _)| set.name.clone())
        .collect();
    let mut changes = Vec::new();
    let mut ruled = Vec::new();
    for (chain, rules) in &wanted.chains {
        match chains.get(&*chain.name) {
            None => {}
            Some((found, _)) if *found != chain => {
                changes.push(Change::FlushChain(chain.name.clone()));
                changes.push(Change::DeleteChain(chain.name.clone()));
            }
            Some(_) if chain.name == USER_CHAIN => continue,
            Some((_, found)) if *found == rules && anew.is_empty() => continue,
            Some(_) => changes.push(Change::FlushChain(chain.name.clone())),
        }
        changes.push(Change::AddChain(chain.clone()));
        ruled.push((chain, rules));
    }
    changes.extend(anew.iter().cloned().map(Change::DeleteSet));
    for (set, elements) in &wanted.sets {
        let found = sets.get(&*set.name).filter(|(found, _)| *found == set);
        let found: FxHashSet<&Element> = found.map(|(_, found)| found.iter().collect()).unwrap_or_default();
        if !sets.contains_key(&*set.name) || anew.contains(&set.name) {
            changes.push(Change::AddSet(set.clone()));
        }
        let kept: FxHashSet<&Element> = elements.iter().collect();
        let gone: Vec<_> =
            found.iter().filter(|element| !kept.contains(*element)).map(|one| (*one).clone()).collect();
        let new: Vec<_> = elements.iter().filter(|element| !found.contains(element)).cloned().collect();
        let name = || set.name.clone();
        if !gone.is_empty() {
            changes.push(Change::DeleteElements { set: name(), elements: gone });
        }
        if !new.is_empty() {
            changes.push(Change::AddElements { set: name(), elements: new });
        }
    }
    for (chain, rules) in ruled {
        let add = |rule: &Rule| Change::AddRule { chain: chain.name.clone(), rule: rule.clone() };
        changes.extend(rules.iter().map(add));
    }
    if !changes.is_empty() {
        changes.insert(0, Change::AddTable);
    }
    changes
}

/// Whether there is something of users in a table: rules in their chain, or chains of their own.
#[must_use]
pub fn has_users(is: &Contents, wanted: &Contents) -> bool {
    is.chains.iter().any(|(chain, rules)| {
        let ours = wanted.chains.iter().any(|(known, _)| known.name == chain.name);
        !ours || (chain.name == USER_CHAIN && !rules.is_empty())
    })
}

/// How many of the changes that a comparison has come to nobody has asked for. The table itself counts only with others.
#[must_use]
pub fn unasked(changes: &[Change], asked: &[Change]) -> usize {
    let (mut come, mut gone) = (FxHashSet::default(), FxHashSet::default());
    for change in asked {
        match change {
            Change::AddElements { set, elements } => come.extend(elements.iter().map(|one| (set, one))),
            Change::DeleteElements { set, elements } => gone.extend(elements.iter().map(|one| (set, one))),
            _ => {}
        }
    }
    let is_more = |change: &&Change| match change {
        Change::AddTable => false,
        Change::AddElements { set, elements } => elements.iter().any(|one| !come.contains(&(set, one))),
        Change::DeleteElements { set, elements } => elements.iter().any(|one| !gone.contains(&(set, one))),
        _ => true,
    };
    let count = changes.iter().filter(is_more).count();
    let table = changes.iter().filter(|change| matches!(change, Change::AddTable)).count();
    if count == 0 { 0 } else { count + table }
}
