//! A default block: equal pools cut from one subnet.

use ipnet::IpNet;
use netloom_model::config::DefaultPool;

use crate::host::HostNets;
use crate::occupancy::{Aligned, Occupancy};
use crate::request::SkippedPool;
use crate::span::{Family, Span};

/// A block. Which of its pools are free, the space knows whose block it is.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Block {
    family: Family,
    span: Span,
    /// Its own prefix length.
    base: u8,
    /// The prefix length of each pool.
    size: u8,
    /// The number of the last pool. Of a block of more than 2^64 pools, those are counted.
    last_pool: u64,
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
        valid.then_some(Self { family, span, base, size, last_pool })
    }

    pub(crate) fn family(&self) -> Family {
        self.family
    }

    pub(crate) fn span(&self) -> Span {
        self.span
    }

    /// Its own prefix length.
    pub(crate) fn base(&self) -> u8 {
        self.base
    }

    /// How many pools it has.
    pub(crate) fn pools(&self) -> u64 {
        self.last_pool.saturating_add(1)
    }

    /// The prefix length of each.
    pub(crate) fn size(&self) -> u8 {
        self.size
    }

    /// How many of its pools share an address with a span.
    pub(crate) fn shared_with(&self, span: &Span) -> u64 {
        self.pools_in(span).map_or(0, |(first, last)| (last - first).saturating_add(1))
    }

    /// How many of its pools share an address with subnets that do not overlap, the highest one first.
    pub(crate) fn touched(&self, subnets: impl Iterator<Item = IpNet>) -> u64 {
        let (mut pools, mut above) = (0_u64, None);
        for (first, last) in subnets.filter_map(|net| self.pools_in(&Span::of(&net))) {
            // One that is shared by two small ones was counted with the one above.
            let last = if above == Some(last) { last.checked_sub(1) } else { Some(last) };
            let more = last.and_then(|last| last.checked_sub(first)).map_or(0, |more| more.saturating_add(1));
            pools = pools.saturating_add(more);
            above = Some(first);
        }
        pools
    }

    /// The numbers of the pools that share an address with a span.
    fn pools_in(&self, span: &Span) -> Option<(u64, u64)> {
        if !self.span.overlaps(span) {
            return None;
        }
        let host_bits = u32::from(self.family.bits() - self.size);
        let pool_of = |number: u128| (number - self.span.first).checked_shr(host_bits).unwrap_or(0);
        let first = u64::try_from(pool_of(span.first.max(self.span.first))).ok()?;
        let last = u64::try_from(pool_of(span.last.min(self.span.last))).unwrap_or(self.last_pool);
        (first <= self.last_pool).then_some((first, last.min(self.last_pool)))
    }

    /// The lowest free pool that the host does not use; of this prefix length, if one is given.
    pub(crate) fn find(
        &self,
        in_use: &Occupancy,
        size: Option<u8>,
        host: &mut HostNets<'_>,
        skipped: &mut Vec<SkippedPool>,
    ) -> Option<IpNet> {
        let size = size.unwrap_or(self.size);
        let aligned = |first, prefix| Aligned::new(self.family, first, prefix);
        let (block, mut from) = (aligned(self.span.first, self.base), self.span.first);
        loop {
            let first = in_use.first_free(block, aligned(0, size).len, from)?;
            let net = self.family.net(first, size)?;
            let Some((conflict, host)) = host.conflict(&Span::of(&net)) else { return Some(net) };
            skipped.push(SkippedPool { pool: net, host: *host });
            from = conflict.last.checked_add(1)?;
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

    /// The pool found beside what is in use.
    fn find(block: &Block, in_use: &[&str], host: &[HostNet]) -> Option<IpNet> {
        let mut tree = Occupancy::default();
        in_use.iter().for_each(|subnet| tree.insert(Aligned::of(&net(subnet))));
        block.find(&tree, None, &mut HostNets::automatic(host, block.family()), &mut Vec::new())
    }

    /// How many pools are touched.
    fn touched(block: &Block, in_use: &[&str]) -> u64 {
        block.touched(in_use.iter().rev().map(|subnet| net(subnet)))
    }

    #[test]
    fn a_small_subnet_blocks_its_pool_until_the_last_one_in_it_is_gone() {
        let block = block("10.0.0.0/16", 24);
        let (a, b) = ("10.0.0.0/28", "10.0.0.128/28");
        for (in_use, expected) in [(&[a, b][..], 1), (&[b], 1), (&[], 0)] {
            assert_eq!(find(&block, in_use, &[]), Some(net(&format!("10.0.{expected}.0/24"))));
            assert_eq!(touched(&block, in_use), expected);
        }
        assert_eq!(touched(&block, &[a, b, "10.0.1.0/24", "10.0.4.0/22", "10.0.8.0/32"]), 7);
    }

    #[test]
    fn a_subnet_around_the_block_takes_all_of_it() {
        let block = block("10.0.0.0/16", 24);
        assert_eq!(find(&block, &["10.0.0.0/8"], &[]), None);
        assert_eq!(touched(&block, &["10.0.0.0/8"]), 256);
        assert_eq!(touched(&block, &["11.0.0.0/8"]), 0);
    }

    #[test]
    fn host_subnets_are_jumped_over_and_named() {
        let block = block("10.0.0.0/16", 24);
        let host = ["10.0.0.7/32", "10.0.0.0/22", "10.0.4.0/30", "10.0.6.0/24"];
        let host = host.map(|text| HostNet { net: net(text), used_as: HostUse::Route, link: None });
        let mut skipped = Vec::new();
        let mut nets = HostNets::automatic(&host, Family::V4);
        let found = block.find(&Occupancy::default(), None, &mut nets, &mut skipped);
        assert_eq!(found, Some(net("10.0.5.0/24")));
        assert_eq!(skipped[0].pool, net("10.0.0.0/24"));
        assert!(skipped.len() <= 4, "{skipped:?}");
        let all = HostNet { net: net("10.0.0.0/9"), used_as: HostUse::Route, link: None };
        assert_eq!(find(&block, &[], &[all]), None);
    }

    #[test]
    fn extreme_blocks_work() {
        assert_eq!(find(&block("::/0", 128), &[], &[]), Some(net("::/128")));
        assert_eq!(find(&block("fd00::/8", 120), &[], &[]), Some(net("fd00::/120")));
        let one = block("0.0.0.0/0", 0);
        assert_eq!((one.pools(), find(&one, &[], &[])), (1, Some(net("0.0.0.0/0"))));
        assert_eq!(find(&one, &["1.2.3.0/24"], &[]), None);
        assert_eq!(touched(&one, &["1.2.3.0/24", "9.0.0.0/8"]), 1);
        assert!(Block::new(&DefaultPool { base: net("10.0.0.0/8"), size: 7 }).is_none());
        assert!(Block::new(&DefaultPool { base: net("10.0.0.0/8"), size: 33 }).is_none());
        let v6 = block("fd00::/8", 64);
        assert_eq!(find(&v6, &["fd00::/9"], &[]), Some(net("fd80::/64")));
        assert_eq!(
            (touched(&v6, &["fd00::/9"]), touched(&block("::/0", 128), &["::/1"])),
            (1 << 55, u64::MAX)
        );
    }
}
