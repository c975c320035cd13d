//! What to feed to `iptables-restore --noflush`.
//!
//! A line `:CHAIN - [0:0]` makes a chain, or empties it where it is there. So a chain that changes by a few rules is not
//! named there: its rules are deleted and inserted one by one. All lines of a table take effect in one moment, or none.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::rules::{COMMENT, Hook};
use super::{Chains, Names, Saved, Table, Tables};

/// What makes `after` of `before`; nothing where they are the same.
pub(super) fn delta(before: &Tables, after: &Tables) -> Option<String> {
    let (none, mut text) = (Chains::new(), String::new());
    for table in Table::ALL {
        let chains = |tables: &'_ Tables| tables.get(&table).unwrap_or(&none).clone();
        Lines::between(&chains(before), &chains(after)).write(table, &mut text);
    }
    (!text.is_empty()).then_some(text)
}

/// What makes a host as it should be.
pub(super) fn restore(names: &Names, wanted: &Tables, hooks: &[Hook], saved: &Saved) -> Option<String> {
    let mut text = String::new();
    for table in Table::ALL {
        let mut lines =
            Lines::between(&own(names, table, saved), wanted.get(&table).unwrap_or(&BTreeMap::new()));
        if table == Table::Filter && !saved.has(table, &names.user()) {
            // Where it is there this would empty it.
            lines.make.push(names.user());
        }
        for hook in hooks.iter().filter(|hook| hook.table == table) {
            let rules = saved.rules(table, hook.chain);
            let first = rules.iter().take_while(|rule| rule.contains(COMMENT)).any(|rule| *rule == hook.rule);
            let count = rules.iter().filter(|rule| **rule == hook.rule).count();
            if !first || count != 1 {
                let Hook { chain, rule, .. } = hook;
                lines.change.extend((0..count).map(|_| format!("-D {chain} {rule}")));
                lines.change.push(format!("-I {chain} 1 {rule}"));
            }
        }
        lines.write(table, &mut text);
    }
    (!text.is_empty()).then_some(text)
}

/// What leaves nothing of ours.
pub(super) fn removal(names: &Names, hooks: &[Hook], saved: &Saved) -> Option<String> {
    let mut text = String::new();
    for table in Table::ALL {
        let mut lines = Lines::between(&own(names, table, saved), &Chains::new());
        for hook in hooks.iter().filter(|hook| hook.table == table) {
            let there = saved.rules(table, hook.chain).iter().filter(|rule| **rule == hook.rule);
            // Before anything else: nothing of ours may lead anywhere when it goes.
            lines.change.splice(0..0, there.map(|rule| format!("-D {} {rule}", hook.chain)));
        }
        let user = names.user();
        if table == Table::Filter && saved.has(table, &user) && saved.rules(table, &user).is_empty() {
            let ends = [format!("-j {user}"), format!("-g {user}")];
            let leads = |rule: &String| ends.iter().any(|end| rule.ends_with(end));
            let others = || saved.chains(table).filter(|(chain, _)| !names.own(chain));
            if !others().any(|(_, rules)| rules.iter().any(leads)) {
                lines.make.push(user.clone());
                lines.remove.push(user);
            }
        }
        lines.write(table, &mut text);
    }
    (!text.is_empty()).then_some(text)
}

/// What takes back what became of chains of ours and of the jumps to them. The users' chain is left alone.
pub(super) fn back(names: &Names, hooks: &[Hook], before: &Saved, now: &Saved) -> Option<String> {
    let mut text = String::new();
    for table in Table::ALL {
        let mut lines = Lines::between(&own(names, table, now), &own(names, table, before));
        for Hook { chain, rule, .. } in hooks.iter().filter(|hook| hook.table == table) {
            let count =
                |saved: &Saved| saved.rules(table, chain).iter().filter(|found| *found == rule).count();
            let (was, is) = (count(before), count(now));
            // Ahead of the chains, which may go.
            lines.change.splice(0..0, (was..is).map(|_| format!("-D {chain} {rule}")));
            lines.change.extend((is..was).map(|_| format!("-I {chain} 1 {rule}")));
        }
        lines.write(table, &mut text);
    }
    (!text.is_empty()).then_some(text)
}

fn own(names: &Names, table: Table, saved: &Saved) -> Chains {
    let own = saved.chains(table).filter(|(name, _)| names.own(name));
    own.map(|(name, rules)| (name.to_owned(), rules.to_vec())).collect()
}

/// What is said about one table.
#[derive(Default)]
struct Lines {
    /// Chains to make, or to empty.
    make: Vec<String>,
    /// Rules that come and go.
    change: Vec<String>,
    /// Chains to remove, empty by now.
    remove: Vec<String>,
}

impl Lines {
    fn between(before: &Chains, after: &Chains) -> Self {
        let mut lines = Self::default();
        for (chain, new) in after {
            match before.get(chain) {
                Some(old) if old == new => continue,
                Some(old) => {
                    if let Some(steps) = steps(chain, old, new) {
                        lines.change.extend(steps);
                        continue;
                    }
                }
                None => {}
            }
            lines.make.push(chain.clone());
            lines.change.extend(new.iter().map(|rule| format!("-A {chain} {rule}")));
        }
        for chain in before.keys().filter(|chain| !after.contains_key(*chain)) {
            lines.make.push(chain.clone());
            lines.remove.push(chain.clone());
        }
        lines
    }

    fn write(self, table: Table, text: &mut String) {
        let Self { make, change, remove } = self;
        if make.is_empty() && change.is_empty() {
            return;
        }
        let lines = [format!("*{}", table.name())]
            .into_iter()
            .chain(make.into_iter().map(|chain| format!(":{chain} - [0:0]")))
            .chain(change)
            .chain(remove.into_iter().map(|chain| format!("-X {chain}")))
            .chain(["COMMIT".to_owned()]);
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
    }
}

/// Deletions and insertions that make the new rules of the old ones; `None` where saying all of them anew is shorter, or
/// what stays is in another order.
fn steps(chain: &str, old: &[String], new: &[String]) -> Option<Vec<String>> {
    let places: HashMap<&str, usize> =
        new.iter().enumerate().map(|(place, rule)| (rule.as_str(), place)).collect();
    let unique = |rules: &[String]| rules.iter().collect::<HashSet<_>>().len() == rules.len();
    if !unique(old) || !unique(new) {
        return None;
    }
    let kept: Vec<usize> = old.iter().filter_map(|rule| places.get(rule.as_str()).copied()).collect();
    if !kept.is_sorted() || old.len() + new.len() - 2 * kept.len() > new.len() {
        return None;
    }
    let kept: HashSet<usize> = kept.into_iter().collect();
    let gone = old.iter().filter(|rule| !places.contains_key(rule.as_str()));
    let mut steps: Vec<_> = gone.map(|rule| format!("-D {chain} {rule}")).collect();
    let come = new.iter().enumerate().filter(|(place, _)| !kept.contains(place));
    // From the first to the last, each finds before it what is to be before it.
    steps.extend(come.map(|(place, rule)| format!("-I {chain} {} {rule}", place + 1)));
    Some(steps)
}
