//! What differs between the chains that are there and those that are wanted, in words.

use std::collections::BTreeSet;

use super::rules::{COMMENT, Hook};
use super::{Chains, Names, Saved, Table, Tables, Version};
use crate::compare::{Deviates, Deviation, in_order};

/// What of one program's tables is not as it should be. The users' chain is missed, and what is in it is theirs.
pub(super) fn compare(
    (names, version): (&Names, Version),
    wanted: &Tables,
    hooks: &[Hook],
    saved: &Saved,
) -> Vec<Deviation> {
    let mut all = Vec::new();
    for table in Table::ALL {
        let none = Chains::new();
        let wanted = wanted.get(&table).unwrap_or(&none);
        let named = |chain: &str| format!("chain {chain} of table {} of {version}", table.name());
        for (chain, rules) in wanted {
            if saved.has(table, chain) {
                in_order(&mut all, &named(chain), rules, saved.rules(table, chain));
            } else {
                all.push(Deviation::of(named(chain), Deviates::Missing));
            }
        }
        let needed = !wanted.is_empty();
        for (chain, _) in saved.chains(table).filter(|(chain, _)| names.own(chain)) {
            if !wanted.contains_key(chain) {
                all.push(Deviation::of(named(chain), Deviates::Unexpected));
            }
        }
        if needed && table == Table::Filter && !saved.has(table, &names.user()) {
            all.push(Deviation::of(named(&names.user()), Deviates::Missing));
        }
        for Hook { chain, rule, .. } in hooks.iter().filter(|hook| hook.table == table) {
            let rules = saved.rules(table, chain);
            let count = rules.iter().filter(|found| *found == rule).count();
            let first = rules.iter().take_while(|found| found.contains(COMMENT)).any(|found| found == rule);
            let what = match (count, needed) {
                (0, true) => Deviates::Missing,
                (1.., false) => Deviates::Unexpected,
                (1, true) if !first => {
                    Deviates::Different { desired: "the first".into(), found: "behind others".into() }
                }
                (2.., true) => Deviates::Different {
                    desired: "there once".into(),
                    found: format!("there {count} times"),
                },
                (0, false) | (1, true) => continue,
            };
            all.push(Deviation::of(format_args!("rule `{rule}` of {}", named(chain)), what));
        }
    }
    all
}

/// Chains and rules of one owner, as [`compare`] names them.
pub(super) fn objects(version: Version, tables: &Tables) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (table, chains) in tables {
        for (chain, rules) in chains {
            let name = format!("chain {chain} of table {} of {version}", table.name());
            all.extend(rules.iter().map(|rule| format!("rule `{rule}` of {name}")));
            all.insert(name);
        }
    }
    all
}
