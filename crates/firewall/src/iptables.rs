//! The other backend: the same networks and ports as chains of iptables, for hosts that need it.
//!
//! Pure. [`Wanted`] is what should be there. Its [`restore`](Wanted::restore) compares that with what `iptables-save` shows
//! and says what to feed to one `iptables-restore --noflush`, which may be nothing: at a start nothing is flushed that is
//! right. Its [`delta`](Wanted::delta) is the same between two wishes, without a look at the host: the chains of one
//! network or container, and the lines that lead to them. Rules are written the way `iptables-save` shows them.
//!
//! A packet's way, where `N` is what [`Names`] makes of the engine's name:
//!
//! | table | chain | what it does |
//! |---|---|---|
//! | raw | `N-RAW` | containers do not reach what listens on the host's loopback (IPv4) |
//! | filter | `N-FORWARD` | to a bridge of ours: its `N-I-…`; from one to elsewhere: its `N-O-…`; all else is none of our business |
//! | filter | `N-I-<bridge>` | users' rules, answers, published ports, its own network, and what else may come in; all else is dropped |
//! | filter | `N-O-<bridge>` | users' rules, answers; then everything leaves, or nothing does where the network is internal |
//! | filter | `N-PORTS`, `N-E-…` | by the container's address to the ports that it has published |
//! | filter | `N-INTERNAL` | what comes from an internal network is dropped |
//! | filter | `N-USER` | the users' own: made where it is not there, and never written |
//! | nat | `N-NAT` | connections to an address of the host: `N-NAMED`, then `N-ANY`, lead to containers |
//! | nat | `N-LEAVE` | containers leave under the host's address; one that reaches its network through a port of the host, too |
//!
//! Verdicts are those of the nftables table. What differs is owed to iptables: which bridge a packet came from is not known
//! where it leaves, so what is masqueraded is told by the network's subnet (as libnetwork does), and what leaves is
//! accepted for good, because a policy of DROP, as Docker sets it, would come behind it.

mod compare;
mod difference;
mod job;
mod names;
mod rules;
mod saved;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;

use netloom_model::IfName;
use rustc_hash::FxHashMap;

pub use job::{Calls, Job, Settled};
pub use names::Names;
pub use saved::Saved;

use crate::compare::Deviation;
use crate::network::NetworkRules;
use crate::port::PortRules;
use crate::ruleset::{Owner, Said};
use crate::table::Mark;

/// Which of the two programs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Version {
    /// `iptables`.
    V4,
    /// `ip6tables`.
    V6,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        })
    }
}

/// The tables that we have chains in, in the order in which they are changed: a port is open before it leads anywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Table {
    Raw,
    Filter,
    Nat,
}

impl Table {
    const ALL: [Self; 3] = [Self::Raw, Self::Filter, Self::Nat];

    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// Chains with their rules, each rule without the chain's name.
type Chains = BTreeMap<String, Vec<String>>;
/// The chains of each table.
type Tables = BTreeMap<Table, Chains>;

/// What iptables cannot say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// An interface's name that iptables would take for something else: `br+` means all that begin with `br`.
    Interface(IfName),
    /// A port that leads to a container of the other family, which only the proxy can do.
    Families(Box<PortRules>),
    /// A port that is led to the engine's own, which only nftables does.
    Led(Box<PortRules>),
    /// A protocol without ports, or a range of ports that ends before it begins or behind the last port.
    Ports(Box<PortRules>),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(name) => {
                write!(f, "iptables cannot name interface {name}: give it a name of A-Z a-z 0-9 _ . @ -")
            }
            Self::Families(port) => {
                write!(f, "iptables cannot publish {port}: the addresses are of two families; use the proxy")
            }
            Self::Led(port) => {
                write!(f, "iptables does not lead {port}: have the proxy listen on the port itself")
            }
            Self::Ports(port) => write!(f, "iptables cannot publish {port}: that is no range of ports"),
        }
    }
}

impl std::error::Error for Unfit {}

/// What should be there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    names: Names,
    v4: Tables,
    v6: Tables,
}

impl Wanted {
    /// All that is to be said about these networks and ports. Their order does not matter.
    ///
    /// # Errors
    /// [`Unfit`]: the first that iptables cannot say.
    pub fn new(
        names: &Names,
        mark: Option<Mark>,
        networks: &[impl Borrow<NetworkRules>],
        ports: &[impl Borrow<PortRules>],
    ) -> Result<Self, Unfit> {
        let networks: Vec<_> = networks.iter().map(Borrow::borrow).collect();
        let ports: Vec<_> = ports.iter().map(Borrow::borrow).collect();
        let of = |version| rules::translate(names, mark, &networks, &ports, version);
        Ok(Self { names: names.clone(), v4: of(Version::V4)?, v6: of(Version::V6)? })
    }

    /// What to feed to `iptables-restore --noflush` where this is what `iptables-save` has shown; nothing where all is as it
    /// should be. Chains of ours that are not wanted any more are removed; what is not ours is not mentioned.
    #[must_use]
    pub fn restore(&self, version: Version, saved: &Saved) -> Option<String> {
        difference::restore(&self.names, self.tables(version), &rules::hooks(&self.names, version), saved)
    }

    /// What to feed to it where `before` is there; nothing where both are the same. It is refused as a whole, table by
    /// table, where something of it is not there; then [`restore`](Self::restore) puts it right.
    #[must_use]
    pub fn delta(&self, version: Version, before: &Self) -> Option<String> {
        difference::delta(before.tables(version), self.tables(version))
    }

    /// What to feed to it so that chains of ours are what they were, where `before` has shown that and `now` shows what
    /// has become of it.
    fn back(names: &Names, version: Version, before: &Saved, now: &Saved) -> Option<String> {
        difference::back(names, &rules::hooks(names, version), before, now)
    }

    /// What is not as it should be where this is what `iptables-save` has shown; nothing where
    /// [`restore`](Self::restore) has nothing to say. Who wants what is missing is told by what each has `said`.
    #[must_use]
    pub fn compare(
        &self,
        version: Version,
        saved: &Saved,
        mark: Option<Mark>,
        said: &[(Owner, Said)],
    ) -> Vec<Deviation> {
        let (names, hooks) = (&self.names, rules::hooks(&self.names, version));
        let mut all = compare::compare((names, version), self.tables(version), &hooks, saved);
        if all.is_empty() {
            return all;
        }
        let of = |networks: &[&NetworkRules], ports: &[&PortRules]| {
            let tables = rules::translate(names, mark, networks, ports, version);
            tables.map(|tables| compare::objects(version, &tables)).unwrap_or_default()
        };
        let common = of(&[], &[]);
        let mut owners: FxHashMap<String, Vec<Owner>> = FxHashMap::default();
        for (owner, Said { network, ports }) in said {
            let networks: Vec<_> = network.as_deref().into_iter().collect();
            let ports: Vec<_> = ports.iter().collect();
            for object in of(&networks, &ports).difference(&common) {
                owners.entry(object.clone()).or_default().push(*owner);
            }
        }
        for one in &mut all {
            one.owners = owners.get(&one.object).cloned().unwrap_or_default();
        }
        all
    }

    fn tables(&self, version: Version) -> &Tables {
        match version {
            Version::V4 => &self.v4,
            Version::V6 => &self.v6,
        }
    }
}

/// What is there of an engine that wants nothing: all of it is too much.
#[must_use]
pub fn leftovers(names: &Names, version: Version, saved: &Saved) -> Vec<Deviation> {
    compare::compare((names, version), &Tables::new(), &rules::hooks(names, version), saved)
}

/// What to feed to `iptables-restore --noflush` so that nothing of this engine is left; nothing where nothing is. The users'
/// chain stays while there is something in it, or others lead to it: that is not ours.
#[must_use]
pub fn removal(names: &Names, version: Version, saved: &Saved) -> Option<String> {
    difference::removal(names, &rules::hooks(names, version), saved)
}
