//! A default block: equal pools cut from one subnet, and which of them are free.

use ipnet::IpNet;
use netloom_model::config::DefaultPool;

use crate::host::HostNets;
use crate::request::SkippedPool;
use crate::runs::RunSet;
use crate::span::{Family, Span};

/// A block and its occupied pools, as runs of pool numbers: a block of thousands of pools in use is one run.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Block {
    family: Family,
    span: Span,
    /// Its own prefix length.
    base: u8,
    /// The prefix length of each pool.
    size: u8,
    /// The number of the last pool. A block of more than 2^64 pools is used up to that.
    last_pool: u64,
    occupied: RunSet,
}

impl Block {
    /// A block; `None` if the configuration makes no sense, which its own check refuses.
    pub(crate) fn new(default: &DefaultPool) -> Option<Self> {
        let family = Family::of(&default.base);
        let bits = default.size.checked_sub(default.base.prefix_len())?;
        let last_pool = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        let valid = default.size <= family.bits();
        let span = Span::of(&default.base);
        let (base, size) = (default.base.prefix_len(), default.size);
        valid.then_some(Self { family, span, base, size, last_pool, occupied: RunSet::default() })
    }

    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// The same block cut into pools of another prefix length, nothing of it in use; `None` if it is smaller than
    /// one of them.
    pub(crate) fn cut(&self, size: u8) -> Option<Self> {
        let base = self.family.net(self.span.first, self.base)?;
        Self::new(&DefaultPool { base, size })
    }

    /// The same block with nothing in use.
    pub(crate) fn emptied(&self) -> Self {
        Self { occupied: RunSet::default(), ..self.clone() }
    }

    /// Whether this is the same block, cut in the same way.
    pub(crate) fn same_cut(&self, other: &Self) -> bool {
        (self.family, self.span, self.size) == (other.family, other.span, other.size)
    }

    /// How many pools it has.
    pub(crate) fn pools(&self) -> u64 {
        self.last_pool.saturating_add(1)
    }

    /// The prefix length of each.
    pub(crate) fn size(&self) -> u8 {
        self.size
    }

    /// How many of its pools are in use, in whole or in part.
    pub(crate) fn occupied(&self) -> u64 {
        self.occupied.len()
    }

    /// How many of its pools share an address with a span.
    pub(crate) fn shared_with(&self, span: &Span) -> u64 {
        self.pools_in(span).map_or(0, |(first, last)| (last - first).saturating_add(1))
    }

    /// The bits of an address inside one pool.
    fn host_bits(&self) -> u32 {
        u32::from(self.family.bits() - self.size)
    }

    fn pool_span(&self, pool: u64) -> Span {
        // A pool of 2^128 addresses would be the only one of its block.
        let first = self.span.first + u128::from(pool).checked_shl(self.host_bits()).unwrap_or(0);
        let size = 1u128.checked_shl(self.host_bits()).unwrap_or(0);
        Span { first, last: first.wrapping_add(size).wrapping_sub(1) }
    }

    /// The numbers of the pools that share an address with a span.
    fn pools_in(&self, span: &Span) -> Option<(u64, u64)> {
        if !self.span.overlaps(span) {
            return None;
        }
        let pool_of = |number: u128| (number - self.span.first).checked_shr(self.host_bits()).unwrap_or(0);
        let first = u64::try_from(pool_of(span.first.max(self.span.first))).ok()?;
        let last = u64::try_from(pool_of(span.last.min(self.span.last))).unwrap_or(self.last_pool);
        (first <= self.last_pool).then_some((first, last.min(self.last_pool)))
    }

    /// Notes that a span came into use.
    pub(crate) fn occupy(&mut self, span: &Span) {
        if let Some((first, last)) = self.pools_in(span) {
            self.occupied.insert(first, last);
        }
    }

    /// Notes that a span is out of use; `in_use` tells whether anything else uses a span. Only a span smaller
    /// than a pool can have a neighbour in the same pool.
    pub(crate) fn vacate(&mut self, span: &Span, in_use: impl Fn(&Span) -> bool) {
        if let Some((first, last)) = self.pools_in(span)
            && (first != last || !in_use(&self.pool_span(first)))
        {
            self.occupied.remove(first, last);
        }
    }

    /// The lowest free pool that the host does not use.
    pub(crate) fn find(&self, host: &mut HostNets<'_>, skipped: &mut Vec<SkippedPool>) -> Option<IpNet> {
        let mut from = 0;
        loop {
            let pool = self.occupied.next_free(from, self.last_pool)?;
            let span = self.pool_span(pool);
            let net = self.family.net(span.first, self.size)?;
            let Some((conflict, host)) = host.conflict(&span) else { return Some(net) };
            skipped.push(SkippedPool { pool: net, host: *host });
            from = self.pools_in(&conflict).map_or(pool, |(_, last)| last).checked_add(1)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostNet, HostUse};

    fn net(text: &str) -> IpNet {
        text.parse().expect("a subnet")
    }

    fn block(base: &str, size: u8) -> Block {
        Block::new(&DefaultPool { base: net(base), size }).expect("a block")
    }

    fn find(block: &Block, host: &[HostNet]) -> Option<IpNet> {
        block.find(&mut HostNets::automatic(host, block.family()), &mut Vec::new())
    }

    #[test]
    fn a_small_subnet_blocks_its_pool_until_the_last_one_in_it_is_gone() {
        let mut block = block("10.0.0.0/16", 24);
        let (a, b) = (Span::of(&net("10.0.0.0/28")), Span::of(&net("10.0.0.128/28")));
        block.occupy(&a);
        block.occupy(&b);
        assert_eq!(find(&block, &[]), Some(net("10.0.1.0/24")));
        block.vacate(&a, |span| span.overlaps(&b));
        assert_eq!(find(&block, &[]), Some(net("10.0.1.0/24")));
        block.vacate(&b, |_| false);
        assert_eq!(find(&block, &[]), Some(net("10.0.0.0/24")));
    }

    #[test]
    fn a_subnet_around_the_block_takes_all_of_it() {
        let mut block = block("10.0.0.0/16", 24);
        let all = Span::of(&net("10.0.0.0/8"));
        block.occupy(&all);
        assert_eq!(find(&block, &[]), None);
        block.vacate(&all, |_| false);
        assert_eq!(find(&block, &[]), Some(net("10.0.0.0/24")));
    }

    #[test]
    fn host_subnets_are_jumped_over_and_named() {
        let block = block("10.0.0.0/16", 24);
        let host = ["10.0.0.7/32", "10.0.0.0/22", "10.0.4.0/30", "10.0.6.0/24"];
        let host = host.map(|text| HostNet { net: net(text), used_as: HostUse::Route });
        let mut skipped = Vec::new();
        let found = block.find(&mut HostNets::automatic(&host, Family::V4), &mut skipped);
        assert_eq!(found, Some(net("10.0.5.0/24")));
        assert_eq!(skipped[0].pool, net("10.0.0.0/24"));
        assert!(skipped.len() <= 4, "{skipped:?}");
        assert_eq!(find(&block, &[HostNet { net: net("10.0.0.0/9"), used_as: HostUse::Route }]), None);
    }

    #[test]
    fn extreme_blocks_work() {
        assert_eq!(find(&block("::/0", 128), &[]), Some(net("::/128")));
        assert_eq!(find(&block("fd00::/8", 120), &[]), Some(net("fd00::/120")));
        let mut one = block("0.0.0.0/0", 0);
        assert_eq!((one.pools(), find(&one, &[])), (1, Some(net("0.0.0.0/0"))));
        one.occupy(&Span::of(&net("1.2.3.0/24")));
        assert_eq!(find(&one, &[]), None);
        assert!(Block::new(&DefaultPool { base: net("10.0.0.0/8"), size: 7 }).is_none());
        assert!(Block::new(&DefaultPool { base: net("10.0.0.0/8"), size: 33 }).is_none());
        let mut v6 = block("fd00::/8", 64);
        v6.occupy(&Span::of(&net("fd00::/9")));
        assert_eq!(find(&v6, &[]), Some(net("fd80::/64")));
    }
}
