//! What `iptables-save` shows.

use std::collections::BTreeMap;

use super::{Chains, Table, Tables};

/// The chains of the host, ours and others', as one of the programs shows them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Saved {
    tables: Tables,
}

impl Saved {
    /// Reads what `iptables-save` or `ip6tables-save` wrote. Tables that we have nothing in are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut tables: Tables = BTreeMap::new();
        let mut current: Option<&mut Chains> = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                let table = Table::ALL.into_iter().find(|table| table.name() == name.trim());
                current = table.map(|table| tables.entry(table).or_default());
            } else if let Some(chains) = current.as_mut() {
                if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
                    chains.entry(chain.to_owned()).or_default();
                } else if let Some((chain, rule)) =
                    line.strip_prefix("-A ").and_then(|rest| rest.split_once(' '))
                {
                    chains.entry(chain.to_owned()).or_default().push(rule.to_owned());
                }
            }
        }
        Self { tables }
    }

    pub(super) fn chains(&self, table: Table) -> impl Iterator<Item = (&str, &[String])> {
        let chains = self.tables.get(&table).into_iter().flatten();
        chains.map(|(name, rules)| (name.as_str(), rules.as_slice()))
    }

    /// The rules of a chain; none without it.
    pub(super) fn rules(&self, table: Table, chain: &str) -> &[String] {
        self.tables.get(&table).and_then(|chains| chains.get(chain)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn has(&self, table: Table, chain: &str) -> bool {
        self.tables.get(&table).is_some_and(|chains| chains.contains_key(chain))
    }
}
