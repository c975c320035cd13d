//! Tables of iptables of a host that is not there, as `iptables-restore` changes and `iptables-save` shows them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Chains = BTreeMap<String, Vec<String>>;

/// The tables of one of the two programs. It refuses what the program refuses of what an engine says, and knows nothing of
/// what rules mean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Iptables(BTreeMap<String, Chains>);

impl Default for Iptables {
    /// Those that every host has, with the kernel's own chains.
    fn default() -> Self {
        let table = |name: &str, chains: &[&str]| {
            (name.to_owned(), chains.iter().map(|chain| ((*chain).to_owned(), Vec::new())).collect())
        };
        Self(BTreeMap::from([
            table("raw", &["PREROUTING", "OUTPUT"]),
            table("filter", &["INPUT", "FORWARD", "OUTPUT"]),
            table("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
        ]))
    }
}

impl Iptables {
    /// `iptables-restore --noflush`: each table changes as a whole or not at all.
    ///
    /// # Errors
    /// What it complains of. Tables behind that one are as they were.
    pub fn feed(&mut self, text: &str) -> Result<(), String> {
        let mut current: Option<(String, Chains)> = None;
        for (number, line) in text.lines().enumerate() {
            let fail = |why: &str| Err(format!("line {} failed: {line}: {why}", number + 1));
            if let Some(name) = line.strip_prefix('*') {
                let Some(chains) = self.0.get(name) else { return fail("no such table") };
                current = Some((name.to_owned(), chains.clone()));
                continue;
            }
            let Some((name, chains)) = current.as_mut() else { return fail("no table") };
            if line == "COMMIT" {
                if let Some(to) = missing(chains) {
                    return fail(&format!("no chain {to}"));
                }
                self.0.insert(name.clone(), std::mem::take(chains));
                current = None;
            } else if let Err(why) = step(chains, line) {
                return fail(&why);
            }
        }
        if current.is_some() { Err("COMMIT expected".into()) } else { Ok(()) }
    }

    /// `iptables-save`.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut text = String::new();
        for (table, chains) in &self.0 {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "# Generated\n*{table}");
            for chain in chains.keys() {
                let policy = if chain.bytes().all(|byte| byte.is_ascii_uppercase()) { "ACCEPT" } else { "-" };
                let _ = writeln!(text, ":{chain} {policy} [0:0]");
            }
            for (chain, rules) in chains {
                for rule in rules {
                    let _ = writeln!(text, "-A {chain} {rule}");
                }
            }
            text.push_str("COMMIT\n");
        }
        text
    }

    /// The rules of a chain, which is made where it is not there.
    ///
    /// # Panics
    /// Without the table.
    pub fn rules(&mut self, table: &str, chain: &str) -> &mut Vec<String> {
        self.0
            .get_mut(table)
            .unwrap_or_else(|| panic!("no table {table}"))
            .entry(chain.to_owned())
            .or_default()
    }

    /// The names of a table's chains.
    #[must_use]
    pub fn chains(&self, table: &str) -> Vec<String> {
        self.0.get(table).into_iter().flat_map(|chains| chains.keys().cloned()).collect()
    }

    /// Takes a chain away, with its rules.
    pub fn forget(&mut self, table: &str, chain: &str) {
        self.0.get_mut(table).map(|chains| chains.remove(chain));
    }
}

/// A chain that a rule leads to and that is not there.
fn missing(chains: &Chains) -> Option<String> {
    let targets = chains.values().flatten().filter_map(|rule| {
        let (_, to) = rule.rsplit_once("-j ").or_else(|| rule.rsplit_once("-g "))?;
        // One of a user's, not of the kernel's or of an extension.
        let name = to.split(' ').next()?;
        name.contains('-').then(|| name.to_owned())
    });
    targets.into_iter().find(|to| !chains.contains_key(to))
}

fn step(chains: &mut Chains, line: &str) -> Result<(), String> {
    let words: Vec<_> = line.splitn(3, ' ').collect();
    let there = |chain: &str| format!("no chain {chain}");
    match words.as_slice() {
        [chain, _, "[0:0]"] if chain.starts_with(':') => {
            chains.insert(chain[1..].to_owned(), Vec::new());
        }
        ["-A", chain, rule] => {
            chains.get_mut(*chain).ok_or_else(|| there(chain))?.push((*rule).to_owned());
        }
        ["-D", chain, rule] => {
            let rules = chains.get_mut(*chain).ok_or_else(|| there(chain))?;
            let place = rules.iter().position(|found| found == rule).ok_or("no such rule")?;
            rules.remove(place);
        }
        ["-I", chain, rest] => {
            let rules = chains.get_mut(*chain).ok_or_else(|| there(chain))?;
            let (place, rule) = rest.split_once(' ').ok_or("no rule")?;
            let place = place.parse::<usize>().ok().and_then(|place| place.checked_sub(1));
            let place = place.filter(|place| *place <= rules.len()).ok_or("no such place")?;
            rules.insert(place, rule.to_owned());
        }
        ["-X", chain] => {
            let rules = chains.get(*chain).ok_or_else(|| there(chain))?;
            let leads = |rule: &String| rule.ends_with(&format!(" {chain}"));
            if !rules.is_empty() || chains.values().flatten().any(leads) {
                return Err("it is in use".into());
            }
            chains.remove(*chain);
        }
        _ => return Err("what is that?".into()),
    }
    Ok(())
}

/// What becomes of a call of the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IptablesFault {
    /// It is refused, and nothing has changed.
    Refuse,
    /// It takes effect, and then fails all the same.
    Lose,
}

/// A host with both programs, shared by its clones.
#[derive(Clone, Debug, Default)]
pub struct SimIptables(Arc<Mutex<Programs>>);

#[derive(Debug, Default)]
struct Programs {
    /// Of IPv4 and of IPv6.
    tables: [Iptables; 2],
    /// Calls of each.
    restores: [usize; 2],
    saves: [usize; 2],
    /// What becomes of the next calls that change something; `None` for nothing out of the ordinary.
    planned: VecDeque<Option<IptablesFault>>,
}

impl SimIptables {
    /// What is in the tables.
    #[must_use]
    pub fn tables(&self, ipv6: bool) -> Iptables {
        self.lock().tables[usize::from(ipv6)].clone()
    }

    /// Somebody else changes them.
    pub fn foreign(&self, ipv6: bool, change: impl FnOnce(&mut Iptables)) {
        change(&mut self.lock().tables[usize::from(ipv6)]);
    }

    /// `iptables-save` or `ip6tables-save`.
    #[must_use]
    pub fn save(&self, ipv6: bool) -> String {
        let mut programs = self.lock();
        programs.saves[usize::from(ipv6)] += 1;
        programs.tables[usize::from(ipv6)].shown()
    }

    /// `iptables-restore --noflush` or `ip6tables-restore --noflush`.
    ///
    /// # Errors
    /// What it complains of, or what was planned.
    pub fn restore(&self, ipv6: bool, text: &str) -> Result<(), String> {
        let mut programs = self.lock();
        programs.restores[usize::from(ipv6)] += 1;
        let planned = programs.planned.pop_front().flatten();
        if planned == Some(IptablesFault::Refuse) {
            return Err("Cannot allocate memory, as planned".into());
        }
        programs.tables[usize::from(ipv6)].feed(text)?;
        match planned {
            Some(_) => Err("killed, as planned".into()),
            None => Ok(()),
        }
    }

    /// Plans what becomes of the next calls that change something.
    pub fn plan(&self, faults: impl IntoIterator<Item = Option<IptablesFault>>) {
        self.lock().planned.extend(faults);
    }

    /// How many calls of a program changed something, or tried to.
    #[must_use]
    pub fn restores(&self, ipv6: bool) -> usize {
        self.lock().restores[usize::from(ipv6)]
    }

    /// How many calls of a program looked.
    #[must_use]
    pub fn saves(&self, ipv6: bool) -> usize {
        self.lock().saves[usize::from(ipv6)]
    }

    fn lock(&self) -> MutexGuard<'_, Programs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
