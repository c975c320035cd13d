//! What nobody can tell of an address space while a part of its image is lost: whatever the part can have said.
//!
//! A part covers a range of keys, which the part above it tells. Of a network whose pools are known, those addresses are in
//! doubt that owners in the range can have: the addresses of the range itself and, since an owner of two families is found
//! by its IPv4 address, all IPv6 addresses beside lost IPv4 ones. Where a network can begin in the range, there may be
//! pools that nobody knows of, and endpoints of theirs in subnets that networks share.
//!
//! Nothing in doubt is given out. What changes say is true all the same, and so is what a host's own records say.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netloom_model::{Error, NetworkId, Reason, Result};
use rustc_hash::FxHashSet;

use crate::change::Change;
use crate::default::DefaultIpam;
use crate::entry::{Of, addresses_from, all_of, network_of};
use crate::head::HEALS;
use crate::network::Network;
use crate::part::Key;
use crate::request::AddressSpace;
use crate::span::{Family, Span};
use crate::subnet::{Offset, Subnet};
use crate::tree::Name;

/// What is in doubt since a part of the image in the cluster's store is lost or damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doubt {
    /// The key of the part.
    pub key: String,
    /// What is wrong with it.
    pub why: &'static str,
    /// What it may have said.
    pub what: InDoubt,
}

/// What may be somebody's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InDoubt {
    /// Addresses of a network, those in between included.
    Addresses {
        /// The network.
        network: NetworkId,
        /// Its name.
        name: String,
        /// The pool that they are of.
        pool: IpNet,
        /// The first.
        first: IpAddr,
        /// The last.
        last: IpAddr,
    },
    /// Pools of networks of certain identifiers.
    Pools {
        /// The first that it may be, if not any.
        first: Option<NetworkId>,
        /// The last that it may be, if not any.
        last: Option<NetworkId>,
    },
}

impl fmt::Display for InDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses { network, name, pool, first, last } => {
                write!(
                    f,
                    "who has addresses {first} to {last} of pool {pool} of network {name:?} ({})",
                    network.short()
                )
            }
            Self::Pools { first, last } => {
                f.write_str("which pools other networks have")?;
                first.iter().try_for_each(|first| write!(f, " from {first} on"))?;
                last.iter().try_for_each(|last| write!(f, " up to {last}"))
            }
        }
    }
}

impl Doubt {
    fn error(&self) -> Error {
        let Self { key, why, what } = self;
        let why = format!("{why}, so {what} is not known, and nothing of that is given out");
        Reason::ClusterStore { key: key.clone(), why, remedy: HEALS.to_owned() }.into()
    }
}

/// A part that cannot be had, and the keys that it covers: from one on, to before another.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Gap {
    pub key: String,
    pub why: &'static str,
    pub from: Option<Key>,
    pub to: Option<Key>,
}

impl Gap {
    fn covers(&self, key: &Key) -> bool {
        self.from.as_ref().is_none_or(|from| from <= key) && self.to.as_ref().is_none_or(|to| key < to)
    }

    /// Whether it has something between two keys.
    fn meets(&self, (first, end): &(Key, Key)) -> bool {
        self.from.as_ref().is_none_or(|from| from < end) && self.to.as_ref().is_none_or(|to| first < to)
    }

    /// The first and the last network that may begin in it, if one can.
    fn strangers(&self) -> Option<(Option<NetworkId>, Option<NetworkId>)> {
        let from = self.from.as_ref().map(|from| network_of(from));
        let to = self.to.as_ref().map(|to| network_of(to));
        match (from, to) {
            // Behind all networks.
            (Some(None), _) => None,
            // Within one.
            (Some(Some(one)), Some(Some(other))) if one == other => {
                self.covers(&Of::Pools(one).key()).then_some((Some(one), Some(one)))
            }
            // The last key of a network may be in it, and its first one.
            (from, to) => Some((from.flatten(), to.flatten())),
        }
    }

    /// The addresses of a family that it has of a network, as numbers.
    fn addresses(&self, network: NetworkId, family: Family) -> Option<Span> {
        let from = self.from.as_ref().map_or(Some(0), |from| addresses_from(network, family, from))?;
        let every = u128::MAX >> (128 - u32::from(family.bits()));
        let last = match self.to.as_ref() {
            None => every,
            Some(to) => match addresses_from(network, family, to) {
                None => every,
                Some(end) => end.checked_sub(1)?,
            },
        };
        (from <= last).then_some(Span { first: from, last })
    }
}

/// What is in doubt of a space.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Doubts {
    /// The uppermost part of the image.
    pub root: Option<Name>,
    gaps: Vec<Gap>,
    /// The first doubt about pools that nobody knows of.
    pools: Option<Doubt>,
    /// All of them, in order.
    all: Vec<Doubt>,
    /// Known networks with endpoints that nobody knows of.
    networks: FxHashSet<NetworkId>,
    /// Whether they were told.
    told: bool,
}

impl DefaultIpam {
    /// Notes what cannot be known, after the rest was loaded.
    pub(crate) fn set_doubts(&mut self, root: Option<Name>, gaps: Vec<Gap>) {
        let (mut all, mut networks) = (Vec::new(), FxHashSet::default());
        let mut spans = Vec::new();
        let mut known: Vec<&Network> = self.networks_in(AddressSpace::Global).collect();
        known.sort_unstable_by_key(|network| network.id());
        for gap in &gaps {
            let doubt = |what| Doubt { key: gap.key.clone(), why: gap.why, what };
            if let Some((first, last)) = gap.strangers() {
                all.push(doubt(InDoubt::Pools { first, last }));
            }
            for network in known.iter().filter(|network| gap.meets(&all_of(network.id()))) {
                networks.insert(network.id());
                let v4 = gap.addresses(network.id(), Family::V4);
                for pool in network.all_pools().map(|pool| pool.record().pool) {
                    let (family, here) = (Family::of(&pool), Span::of(&pool));
                    let lost = match (family, v4) {
                        (Family::V6, Some(_)) if !network.pools(Family::V4).is_empty() => Some(here),
                        _ => gap.addresses(network.id(), family),
                    };
                    let Some(lost) = lost.filter(|lost| lost.overlaps(&here)) else { continue };
                    let span = Span { first: lost.first.max(here.first), last: lost.last.min(here.last) };
                    let (network, name) = (network.id(), network.name().to_owned());
                    let (first, last) = (family.address(span.first), family.address(span.last));
                    all.push(doubt(InDoubt::Addresses { network, name, pool, first, last }));
                    spans.push((pool, span));
                }
            }
        }
        let pools = all.iter().find(|doubt| matches!(doubt.what, InDoubt::Pools { .. })).cloned();
        if pools.is_some() {
            let shared = self.subnets_in(AddressSpace::Global).filter(|subnet| subnet.is_shared());
            spans.extend(shared.map(|subnet| (subnet.net(), Span::of(&subnet.net()))));
        }
        for (pool, span) in spans {
            if let Some(subnet) = self.subnet_mut(AddressSpace::Global, &pool) {
                subnet.doubt(span);
            }
        }
        self.doubts = Some(Box::new(Doubts { root, gaps, pools, all, networks, told: false }));
    }

    /// The doubts there are, in order.
    pub(crate) fn all_doubts(&self) -> &[Doubt] {
        self.doubts.as_ref().map(|doubts| &*doubts.all).unwrap_or_default()
    }

    /// The same, if they were not told yet.
    pub(crate) fn new_doubts(&mut self) -> &[Doubt] {
        let untold = self.doubts.as_mut().filter(|doubts| !doubts.told);
        untold.map_or(&[], |doubts| {
            doubts.told = true;
            &doubts.all
        })
    }

    /// Notes what is in doubt of a network whose pools came to be known only now.
    pub(crate) fn doubt_again(&mut self, change: &Change) {
        let Change::PoolsTaken { network, v4, v6, .. } = change else { return };
        if self.hides(*network).is_none() {
            return;
        }
        for pool in v4.iter().chain(v6).map(|record| record.pool) {
            if let Some(subnet) = self.subnet_mut(AddressSpace::Global, &pool) {
                subnet.doubt(Span::of(&pool));
            }
        }
        if let Some(doubts) = &mut self.doubts {
            doubts.networks.insert(*network);
        }
    }

    /// The doubt whether there is a network of this name, if its pools are not known.
    fn hides(&self, network: NetworkId) -> Option<&Doubt> {
        let doubts = self.doubts.as_ref()?;
        let key = Of::Pools(network).key();
        let gap = doubts.gaps.iter().find(|gap| gap.covers(&key))?;
        doubts.all.iter().find(|doubt| doubt.key == gap.key)
    }

    /// Refuses what cannot be said of a network of which it is not known whether it is there.
    ///
    /// # Errors
    /// `ClusterStore`.
    pub(crate) fn check_known(&self, network: NetworkId) -> Result<()> {
        let hidden = (!self.knows(network)).then(|| self.hides(network)).flatten();
        hidden.map_or(Ok(()), |doubt| Err(doubt.error()))
    }

    /// Refuses what depends on everything that there is.
    ///
    /// # Errors
    /// `ClusterStore`.
    pub(crate) fn check_whole(&self) -> Result<()> {
        self.all_doubts().first().map_or(Ok(()), |doubt| Err(doubt.error()))
    }

    /// Refuses new pools where others may have them.
    ///
    /// # Errors
    /// `ClusterStore`.
    pub(crate) fn check_pools(&self) -> Result<()> {
        let doubt = self.doubts.as_ref().and_then(|doubts| doubts.pools.as_ref());
        doubt.map_or(Ok(()), |doubt| Err(doubt.error()))
    }

    /// Whether a known network may have endpoints that nobody knows of.
    pub(crate) fn may_have_others(&self, network: NetworkId) -> bool {
        self.doubts.as_ref().is_some_and(|doubts| doubts.networks.contains(&network))
    }

    /// What was planned, unless it takes something in doubt; and for a refusal that has its reason in that, that.
    pub(crate) fn sure<T>(
        &self,
        network: NetworkId,
        planned: Result<(Vec<Change>, T)>,
    ) -> Result<(Vec<Change>, T)> {
        if self.doubts.is_none() {
            return planned;
        }
        match planned {
            Ok((changes, answer)) => {
                changes.iter().try_for_each(|change| self.check_change(change))?;
                Ok((changes, answer))
            }
            Err(error) => {
                let full = matches!(error.reason(), Reason::AddressesExhausted(_));
                let doubt = self.hides(network).filter(|_| !self.knows(network));
                let doubt = doubt.or_else(|| self.doubt_of(network).filter(|_| full));
                Err(doubt.map_or(error, Doubt::error))
            }
        }
    }

    /// A doubt about addresses of a network.
    fn doubt_of(&self, network: NetworkId) -> Option<&Doubt> {
        let of =
            |doubt: &&Doubt| matches!(doubt.what, InDoubt::Addresses { network: of, .. } if of == network);
        let all = self.all_doubts();
        let subnets = self
            .network(network)
            .into_iter()
            .flat_map(|(space, network)| network.all_pools().map(move |pool| space.subnet(pool.slot)));
        let mut doubtful = subnets.filter(|subnet| subnet.has_doubts());
        doubtful.next().and_then(|_| all.iter().find(of).or(all.first()))
    }

    fn check_change(&self, change: &Change) -> Result<()> {
        let here = |network: &NetworkId, address: IpAddr| {
            let (_, known) = self.network(*network)?;
            Some((known.pool_of(address)?.record().pool, address))
        };
        let taken: Vec<(IpNet, IpAddr)> = match change {
            Change::PoolsTaken { v4, v6, .. } => {
                let named = |record: &netloom_model::record::PoolRecord| {
                    let all = record.gateway.into_iter().chain(record.auxiliary.values().copied());
                    all.map(|address| (record.pool, address)).collect::<Vec<_>>()
                };
                v4.iter().chain(v6).flat_map(named).collect()
            }
            Change::Leased { network, ipv4, ipv6, .. } => {
                let all = ipv4.map(|net| net.addr().into()).into_iter();
                let all = all.chain(ipv6.map(|net| IpAddr::from(net.addr())));
                all.filter_map(|address| here(network, address)).collect()
            }
            Change::Reserved { network, addresses, .. } => {
                addresses.iter().filter_map(|address| here(network, *address)).collect()
            }
            _ => Vec::new(),
        };
        for (pool, address) in taken {
            let subnet = self.space(AddressSpace::Global).and_then(|space| space.exact(&pool));
            let doubtful = |subnet: &Subnet| {
                subnet
                    .offset(address)
                    .is_some_and(|offset: Offset| subnet.is_in_doubt(offset) && subnet.held(offset).is_none())
            };
            if subnet.is_some_and(doubtful) {
                let covers = |doubt: &&Doubt| {
                    matches!(doubt.what, InDoubt::Addresses { pool: of, first, last, .. }
                        if of == pool && (first..=last).contains(&address))
                };
                let all = self.all_doubts();
                let doubt = all.iter().find(covers).or(all.first());
                return doubt.map_or(Ok(()), |doubt| Err(doubt.error()));
            }
        }
        Ok(())
    }
}
