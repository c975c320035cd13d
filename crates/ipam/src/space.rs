//! An address space: which subnets are in use by which network, and the blocks automatic pools come from.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netloom_model::NetworkId;
use netloom_model::config::DefaultPool;
use rustc_hash::FxHashMap;

use crate::block::{Block, SkippedPool};
use crate::host::HostNets;
use crate::span::{Family, Span};

/// A subnet in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InUse {
    /// The subnet.
    pub pool: IpNet,
    /// The network that has it.
    pub network: NetworkId,
}

/// The subnets in use, which never overlap, in order of their first address; and the default blocks.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Space {
    v4: BTreeMap<u128, InUse>,
    v6: BTreeMap<u128, InUse>,
    blocks: Vec<Block>,
}

impl Space {
    pub(crate) fn new(default_pools: &[DefaultPool]) -> Self {
        let blocks = default_pools.iter().filter_map(Block::new).collect();
        Self { v4: BTreeMap::new(), v6: BTreeMap::new(), blocks }
    }

    /// Replaces the default blocks. What is in use stays in use.
    pub(crate) fn replace_blocks(&mut self, default_pools: &[DefaultPool]) {
        self.blocks = Self::new(default_pools).blocks;
        for used in self.v4.values().chain(self.v6.values()) {
            let (family, span) = (Family::of(&used.pool), Span::of(&used.pool));
            let blocks = self.blocks.iter_mut().filter(|block| block.family() == family);
            blocks.for_each(|block| block.occupy(&span));
        }
    }

    fn of(&self, family: Family) -> &BTreeMap<u128, InUse> {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn of_mut(&mut self, family: Family) -> &mut BTreeMap<u128, InUse> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Every subnet in use that overlaps `net`, the one with the highest first address first.
    pub(crate) fn overlapping(&self, net: &IpNet) -> impl Iterator<Item = &InUse> {
        overlapping(self.of(Family::of(net)), Span::of(net))
    }

    /// Puts a subnet into use.
    ///
    /// # Errors
    /// One of the subnets it overlaps.
    pub(crate) fn take(&mut self, pool: IpNet, network: NetworkId) -> Result<(), InUse> {
        if let Some(other) = self.overlapping(&pool).next() {
            return Err(*other);
        }
        let (family, span) = (Family::of(&pool), Span::of(&pool));
        self.of_mut(family).insert(span.first, InUse { pool, network });
        self.blocks.iter_mut().filter(|block| block.family() == family).for_each(|block| block.occupy(&span));
        Ok(())
    }

    /// Takes a subnet out of use.
    pub(crate) fn free(&mut self, pool: &IpNet) {
        let (family, span) = (Family::of(pool), Span::of(pool));
        self.of_mut(family).remove(&span.first);
        let Self { v4, v6, blocks } = self;
        let in_use = match family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        for block in blocks.iter_mut().filter(|block| block.family() == family) {
            block.vacate(&span, |pool| overlapping(in_use, *pool).next().is_some());
        }
    }

    /// The first free pool of the default blocks, in their order.
    pub(crate) fn find(
        &self,
        host: &mut HostNets<'_>,
        family: Family,
        skipped: &mut Vec<SkippedPool>,
    ) -> Option<IpNet> {
        let mut blocks = self.blocks_of(family);
        blocks.find_map(|block| block.find(host, skipped))
    }

    /// The default blocks of a family.
    fn blocks_of(&self, family: Family) -> impl Iterator<Item = &Block> + Clone {
        self.blocks.iter().filter(move |block| block.family() == family)
    }

    /// How many default pools of a family there are of each prefix length, the largest pools first.
    pub(crate) fn default_pools(&self, family: Family) -> BTreeMap<u8, u64> {
        let mut sizes = BTreeMap::new();
        for block in self.blocks_of(family) {
            let pools: &mut u64 = sizes.entry(block.size()).or_default();
            *pools = pools.saturating_add(block.pools());
        }
        sizes
    }

    /// How many default pools of a family are in use, in whole or in part.
    pub(crate) fn occupied(&self, family: Family) -> u64 {
        self.blocks_of(family).fold(0, |sum, block| sum.saturating_add(block.occupied()))
    }

    /// Who has default pools of a family in use, and how many: those with most first, then by address.
    pub(crate) fn occupants(&self, family: Family) -> Vec<(NetworkId, u64)> {
        let blocks = self.blocks_of(family);
        let mut places: FxHashMap<NetworkId, usize> = FxHashMap::default();
        let mut occupants: Vec<(NetworkId, u64)> = Vec::new();
        for used in self.of(family).values() {
            let span = Span::of(&used.pool);
            let pools = blocks.clone().fold(0u64, |sum, block| sum.saturating_add(block.shared_with(&span)));
            if pools == 0 {
                continue;
            }
            let place = *places.entry(used.network).or_insert(occupants.len());
            match occupants.get_mut(place) {
                Some((_, all)) => *all = all.saturating_add(pools),
                None => occupants.push((used.network, pools)),
            }
        }
        occupants.sort_by_key(|(_, pools)| std::cmp::Reverse(*pools));
        occupants
    }
}

/// Subnets in use that share an address with `span`. They do not overlap each other, so in descending order
/// of their first address their last addresses descend too, and the first one that ends before `span` ends
/// the search.
fn overlapping(in_use: &BTreeMap<u128, InUse>, span: Span) -> impl Iterator<Item = &InUse> {
    let below = in_use.range(..=span.last).rev().map(|(_, used)| used);
    below.take_while(move |used| Span::of(&used.pool).last >= span.first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::Choice;

    fn id(n: u32) -> NetworkId {
        format!("n{n}").parse().expect("an id")
    }

    proptest! {
        /// Subnets of 10.0.0.0/20 against a list that is searched in full.
        #[test]
        fn agrees_with_a_plain_list(
            steps in prop::collection::vec((0u8..4, 0u32..4096, 20u8..=29), 1..120),
        ) {
            let block = |base: &str, size| DefaultPool { base: base.parse().expect("a net"), size };
            let blocks = [block("10.0.0.0/22", 25), block("10.0.4.0/24", 24), block("10.0.0.0/21", 26)];
            let mut space = Space::new(&blocks);
            let mut plain: Vec<InUse> = Vec::new();
            for (n, (what, offset, prefix)) in steps.into_iter().enumerate() {
                let overlaps = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
                let mut skipped = Vec::new();
                let net = match what {
                    0 if !plain.is_empty() => {
                        let gone = plain.swap_remove(offset as usize % plain.len());
                        space.free(&gone.pool);
                        continue;
                    }
                    1 => {
                        let found = space.find(&mut HostNets::new(&[], Family::V4, Choice::Automatic), Family::V4, &mut skipped);
                        let expected = blocks
                            .iter()
                            .flat_map(|block| block.base.subnets(block.size).expect("valid"))
                            .find(|net| plain.iter().all(|used| !overlaps(&used.pool, net)));
                        prop_assert_eq!(found, expected);
                        let Some(found) = found else { continue };
                        found
                    }
                    _ => Family::V4.net(0x0a00_0000 | u128::from(offset), prefix).expect("a net").trunc(),
                };
                let expected: Vec<_> = plain.iter().filter(|used| overlaps(&used.pool, &net)).collect();
                prop_assert_eq!(space.overlapping(&net).count(), expected.len());
                let network = id(u32::try_from(n).expect("small"));
                match space.take(net, network) {
                    Ok(()) => {
                        prop_assert!(expected.is_empty());
                        plain.push(InUse { pool: net, network });
                    }
                    Err(other) => prop_assert!(expected.contains(&&other)),
                }
            }
            // What is in use is known to blocks that come later.
            let mut replaced = space.clone();
            replaced.replace_blocks(&[]);
            prop_assert_eq!(replaced.default_pools(Family::V4).len(), 0);
            replaced.replace_blocks(&blocks);
            prop_assert_eq!(replaced, space);
        }
    }
}
