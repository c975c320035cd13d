//! nftables as data: tables, chains, rules, sets and maps, and transactions that change one table.
//!
//! What is here can be compared, printed, simulated and failed on purpose. [`LinuxKernel`](crate::LinuxKernel) speaks
//! it over netlink; no `nft` process is started. Only what the engine uses exists: [`Expr`] is a part of what the
//! kernel knows, and a rule of somebody else that uses more reads as [`Expr::Other`].
//!
//! Numbers and layouts are those of `linux/netfilter/nf_tables.h`; the types of keys are those of the `nft` program,
//! so that it can show our table.

mod datum;
mod expr;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use datum::{Datum, Type, width};
pub use expr::{Base, CtKey, Expr, FibResult, MetaKey, NatKind, Reg, Verdict};

/// What packets a table sees.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    /// The kernel's number, an `NFPROTO`.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        })
    }
}

/// Which table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Table {
    /// What it sees.
    pub family: Family,
    /// Its name, of at most 255 bytes.
    pub name: String,
}

impl Table {
    /// A table for both families.
    pub fn inet(name: impl Into<String>) -> Self {
        Self { family: Family::Inet, name: name.into() }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// Where packets enter a base chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hook {
    /// What the chain is for.
    pub kind: ChainKind,
    /// Where.
    pub point: Point,
    /// Chains of lower priority come first.
    pub priority: i32,
}

/// What a base chain is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainKind {
    /// Verdicts about every packet.
    Filter,
    /// Address translation: sees the first packet of each connection.
    Nat,
}

impl ChainKind {
    /// The kernel's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// A point in a packet's way through the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// It came in, and nobody has decided where it goes.
    Prerouting,
    /// It is for this host.
    Input,
    /// It is for others.
    Forward,
    /// This host made it.
    Output,
    /// It leaves.
    Postrouting,
}

impl Point {
    /// The kernel's number, an `NF_INET` hook.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }

    /// The name that the `nft` program has for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }

    /// The point of the kernel's number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting]
            .into_iter()
            .find(|point| point.number() == number)
    }
}

/// A chain without its rules. What leaves the end of a base chain is accepted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where packets enter it; `None` for a chain that others jump to.
    pub hook: Option<Hook>,
}

/// A rule: what it does, and words for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// One after another; the first that does not hold ends the rule.
    pub exprs: Vec<Expr>,
    /// Shown by `nft list`, at most 127 bytes.
    pub comment: Option<String>,
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.hook {
            None => Ok(()),
            Some(Hook { kind, point, priority }) => {
                write!(f, " ({} hook {} priority {priority})", kind.name(), point.name())
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, expr) in self.exprs.iter().enumerate() {
            write!(f, "{}{expr}", if n == 0 { "" } else { " " })?;
        }
        self.comment.iter().try_for_each(|comment| write!(f, " # {comment}"))
    }
}

/// A set, or a map when it has values.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// The parts of a key.
    pub key: Vec<Type>,
    /// The parts of a value; empty for a set.
    pub value: Vec<Type>,
    /// Keys are ranges, from [`Element::key`] to [`Element::end`].
    pub interval: bool,
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = |f: &mut fmt::Formatter<'_>, types: &[Type]| {
            types
                .iter()
                .enumerate()
                .try_for_each(|(n, part)| write!(f, "{}{part}", if n == 0 { "" } else { " . " }))
        };
        write!(f, "{} of ", self.name)?;
        parts(f, &self.key)?;
        if !self.value.is_empty() {
            f.write_str(" : ")?;
            parts(f, &self.value)?;
        }
        f.write_str(if self.interval { " in ranges" } else { "" })
    }
}

/// A member of a set, or an entry of a map.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Element {
    /// The key, or its first.
    pub key: Arc<[Datum]>,
    /// The last key of a range, included; `None` in a set without ranges.
    pub end: Option<Arc<[Datum]>>,
    /// What a map gives for it; empty in a set.
    pub value: Arc<[Datum]>,
}

impl Element {
    /// A member of a set without ranges.
    #[must_use]
    pub fn member(key: impl Into<Arc<[Datum]>>) -> Self {
        Self { key: key.into(), end: None, value: Arc::default() }
    }

    /// An entry of a map without ranges.
    #[must_use]
    pub fn entry(key: impl Into<Arc<[Datum]>>, value: impl Into<Arc<[Datum]>>) -> Self {
        Self { key: key.into(), end: None, value: value.into() }
    }

    /// Whether two have a key in common: ranges do when all their parts do.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let ends = self.last().iter().zip(other.last());
        let mut parts = self.key.iter().zip(&*other.key).zip(ends);
        parts.all(|((first, others_first), (last, others_last))| first <= others_last && others_first <= last)
    }

    /// The last key.
    fn last(&self) -> &[Datum] {
        self.end.as_ref().unwrap_or(&self.key)
    }

    /// The same with a key that is a range.
    #[must_use]
    pub fn to(mut self, end: impl Into<Arc<[Datum]>>) -> Self {
        self.end = Some(end.into());
        self
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, part) in self.key.iter().enumerate() {
            if n > 0 {
                f.write_str(" . ")?;
            }
            write!(f, "{part}")?;
            match self.end.as_ref().and_then(|end| end.get(n)) {
                Some(end) if end != part => write!(f, "-{end}")?,
                _ => {}
            }
        }
        for (n, part) in self.value.iter().enumerate() {
            write!(f, "{}{part}", if n == 0 { " : " } else { " . " })?;
        }
        Ok(())
    }
}

/// One step of a transaction on a table. The documentation names the errors that Linux gives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// Makes the table if it is not there.
    AddTable,
    /// Removes the table with all that is in it. `ENOENT` without it.
    DeleteTable,
    /// Makes a chain; nothing happens when the same one is there. `ENOENT` without the table, `EEXIST` or
    /// `EOPNOTSUPP` when it is there with another hook.
    AddChain(Chain),
    /// Removes a chain. `ENOENT` without it, `EBUSY` when others jump to it or it has rules.
    DeleteChain(String),
    /// Removes the rules of a chain. `ENOENT` without it.
    FlushChain(String),
    /// Adds a rule at the end of a chain. `ENOENT` without the chain or a set or chain that it uses.
    AddRule {
        /// The chain.
        chain: String,
        /// The rule.
        rule: Rule,
    },
    /// Makes a set or map; nothing happens when the same one is there. `EEXIST` when it is there in another form.
    AddSet(Set),
    /// Removes a set. `ENOENT` without it, `EBUSY` when a rule uses it.
    DeleteSet(String),
    /// Removes the elements of a set. `ENOENT` without it.
    FlushSet(String),
    /// Adds elements. One that is there is left alone; `EEXIST` when it is there with another value, or overlaps
    /// another range.
    AddElements {
        /// The set.
        set: String,
        /// What to add.
        elements: Vec<Element>,
    },
    /// Removes elements. `ENOENT` when one is not there.
    DeleteElements {
        /// The set.
        set: String,
        /// What to remove. Values do not matter.
        elements: Vec<Element>,
    },
}

impl Change {
    /// The change's name, for fault plans and errors.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::AddTable => "nft_add_table",
            Self::DeleteTable => "nft_delete_table",
            Self::AddChain(_) => "nft_add_chain",
            Self::DeleteChain(_) => "nft_delete_chain",
            Self::FlushChain(_) => "nft_flush_chain",
            Self::AddRule { .. } => "nft_add_rule",
            Self::AddSet(_) => "nft_add_set",
            Self::DeleteSet(_) => "nft_delete_set",
            Self::FlushSet(_) => "nft_flush_set",
            Self::AddElements { .. } => "nft_add_elements",
            Self::DeleteElements { .. } => "nft_delete_elements",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddTable => f.write_str("add the table"),
            Self::DeleteTable => f.write_str("delete the table"),
            Self::AddChain(chain) => write!(f, "add chain {}", chain.name),
            Self::DeleteChain(name) => write!(f, "delete chain {name}"),
            Self::FlushChain(name) => write!(f, "flush chain {name}"),
            Self::AddRule { chain, .. } => write!(f, "add a rule to chain {chain}"),
            Self::AddSet(set) => write!(f, "add set {}", set.name),
            Self::DeleteSet(name) => write!(f, "delete set {name}"),
            Self::FlushSet(name) => write!(f, "flush set {name}"),
            Self::AddElements { set, elements } => write!(f, "add {} elements to set {set}", elements.len()),
            Self::DeleteElements { set, elements } => {
                write!(f, "delete {} elements of set {set}", elements.len())
            }
        }
    }
}

/// A chain that packets enter by themselves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseChain {
    /// Its table.
    pub table: Table,
    /// Its name.
    pub chain: String,
    /// Whether its policy is to drop what its rules do not accept.
    pub drops: bool,
    /// The rules of all chains of its table, each with the chain's name, those of a chain in their order.
    pub rules: Arc<[(String, Rule)]>,
}

/// What is in a table.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Contents {
    /// Its chains, each with its rules in their order.
    pub chains: Vec<(Chain, Vec<Rule>)>,
    /// Its sets and maps, each with its elements in no order. Those without a name of their own are left out.
    pub sets: Vec<(Set, Vec<Element>)>,
}
