//! What `iptables-save` shows.

use super::{Chains, Table, Tables};

/// The chains of the host, ours and others', as one of the programs shows them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Saved {
    tables: Tables,
    /// Chains of the table `filter` whose policy is to drop.
    dropping: Vec<String>,
}

impl Saved {
    /// Reads what `iptables-save` or `ip6tables-save` wrote. Tables that we have nothing in are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (mut tables, mut dropping) = (Tables::new(), Vec::new());
        let mut filter = false;
        let mut current: Option<&mut Chains> = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                let table = Table::ALL.into_iter().find(|table| table.name() == name.trim());
                filter = table == Some(Table::Filter);
                current = table.map(|table| tables.entry(table).or_default());
            } else if let Some(chains) = current.as_mut() {
                if let Some(rest) = line.strip_prefix(':') {
                    let mut words = rest.split(' ');
                    let Some(chain) = words.next() else { continue };
                    if filter && words.next() == Some("DROP") {
                        dropping.push(chain.to_owned());
                    }
                    chains.entry(chain.to_owned()).or_default();
                } else if let Some((chain, rule)) =
                    line.strip_prefix("-A ").and_then(|rest| rest.split_once(' '))
                {
                    chains.entry(chain.to_owned()).or_default().push(rule.to_owned());
                }
            }
        }
        Self { tables, dropping }
    }

    pub(super) fn chains(&self, table: Table) -> impl Iterator<Item = (&str, &[String])> {
        let chains = self.tables.get(&table).into_iter().flatten();
        chains.map(|(name, rules)| (name.as_str(), rules.as_slice()))
    }

    /// The rules of a chain; none without it.
    pub(super) fn rules(&self, table: Table, chain: &str) -> &[String] {
        self.tables.get(&table).and_then(|chains| chains.get(chain)).map_or(&[], Vec::as_slice)
    }

    /// Whether a chain of the table `filter` drops what leaves its end.
    #[must_use]
    pub fn drops(&self, chain: &str) -> bool {
        self.dropping.iter().any(|one| one == chain)
    }

    /// The rules of a chain of the table `filter`; none without it.
    #[must_use]
    pub fn filter(&self, chain: &str) -> &[String] {
        self.rules(Table::Filter, chain)
    }

    pub(super) fn has(&self, table: Table, chain: &str) -> bool {
        self.tables.get(&table).is_some_and(|chains| chains.contains_key(chain))
    }
}
