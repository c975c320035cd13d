//! An address space: which subnets are in use by which networks, and the blocks automatic pools come from.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netloom_model::config::DefaultPool;
use netloom_model::{Error, Holder, NetworkId, ObjectKind, Reason, Result};
use rustc_hash::FxHashMap;

use crate::block::Block;
use crate::cooling::Cooling;
use crate::host::HostNets;
use crate::occupancy::{Aligned, Occupancy};
use crate::request::SkippedPool;
use crate::span::{Family, Span};
use crate::subnet::{Subnet, Tenant, TenantNo};

/// The subnets in use, which never overlap; and the default blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Space {
    v4: InUse,
    v6: InUse,
    subnets: Vec<Option<Subnet>>,
    vacant: Vec<usize>,
    blocks: Vec<Block>,
}

/// The subnets of one family.
#[derive(Clone, Debug, Default)]
struct InUse {
    /// Where each one is, by its first address.
    places: BTreeMap<u128, usize>,
    /// What is free between them.
    tree: Occupancy,
}

impl PartialEq for Space {
    /// Equal subnets and blocks; where they are kept does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.in_order().eq(other.in_order()) && self.blocks == other.blocks
    }
}

impl Space {
    pub(crate) fn new(default_pools: &[DefaultPool]) -> Self {
        Self { blocks: default_pools.iter().filter_map(Block::new).collect(), ..Self::default() }
    }

    /// The same default blocks with nothing in use.
    pub(crate) fn emptied(&self) -> Self {
        Self { blocks: self.blocks.clone(), ..Self::default() }
    }

    /// Replaces the default blocks. What is in use stays in use.
    pub(crate) fn replace_blocks(&mut self, default_pools: &[DefaultPool]) {
        self.blocks = default_pools.iter().filter_map(Block::new).collect();
    }

    fn of(&self, family: Family) -> &InUse {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn of_mut(&mut self, family: Family) -> &mut InUse {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    // === Subnets ===

    /// The subnet in this place.
    pub(crate) fn subnet(&self, slot: usize) -> &Subnet {
        self.subnets[slot].as_ref().expect("a place is vacant only when no pool lies in it")
    }

    /// The same, to be changed.
    pub(crate) fn subnet_mut(&mut self, slot: usize) -> &mut Subnet {
        self.subnets[slot].as_mut().expect("a place is vacant only when no pool lies in it")
    }

    /// Every subnet, IPv4 first, by address.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = &Subnet> {
        self.v4.places.values().chain(self.v6.places.values()).map(|slot| self.subnet(*slot))
    }

    /// The subnet that is exactly this one, if it is in use.
    pub(crate) fn exact(&self, net: &IpNet) -> Option<&Subnet> {
        let slot = *self.of(Family::of(net)).places.get(&Span::of(net).first)?;
        Some(self.subnet(slot)).filter(|subnet| subnet.net() == *net)
    }

    /// The same, to be changed.
    pub(crate) fn exact_mut(&mut self, net: &IpNet) -> Option<&mut Subnet> {
        let slot = *self.of(Family::of(net)).places.get(&Span::of(net).first)?;
        Some(self.subnet_mut(slot)).filter(|subnet| subnet.net() == *net)
    }

    /// What cools down in those of these subnets that are in use: before something is tried in them.
    pub(crate) fn cooling_in(&mut self, nets: impl IntoIterator<Item = IpNet>) -> Vec<(IpNet, Cooling)> {
        let nets = nets.into_iter();
        nets.filter_map(|net| Some((net, self.exact_mut(&net)?.cooling_now()))).collect()
    }

    /// Lets the same cool down again, after what was tried has been taken back.
    pub(crate) fn cool_as(&mut self, before: Vec<(IpNet, Cooling)>) {
        for (net, cooling) in before {
            if let Some(subnet) = self.exact_mut(&net) {
                subnet.cool_as(cooling);
            }
        }
    }

    /// Every subnet in use that overlaps `net`, the one with the highest first address first.
    pub(crate) fn overlapping(&self, net: &IpNet) -> impl Iterator<Item = &Subnet> {
        let span = Span::of(net);
        self.sharing(Family::of(net), span)
    }

    /// Subnets in use that share an address with `span`. They do not overlap each other, so in descending order
    /// of their first address their last addresses descend too, and the first one that ends before `span` ends
    /// the search.
    fn sharing(&self, family: Family, span: Span) -> impl Iterator<Item = &Subnet> {
        let below = self.of(family).places.range(..=span.last).rev().map(|(_, slot)| self.subnet(*slot));
        below.take_while(move |subnet| Span::of(&subnet.net()).last >= span.first)
    }

    /// Why a network cannot have a pool in this subnet.
    ///
    /// # Errors
    /// `PoolOverlap`, naming a network whose pool is in the way.
    pub(crate) fn check_free(&self, net: &IpNet, tenant: &Tenant) -> Result<()> {
        match self.overlapping(net).find_map(|subnet| Some((subnet, in_the_way(subnet, net, tenant)?))) {
            None => Ok(()),
            Some((subnet, other)) => {
                let holder = if other.network == tenant.network {
                    "the same request".to_owned()
                } else {
                    other.holder().to_string()
                };
                Err(Reason::PoolOverlap { pool: *net, other: subnet.net(), holder }.into())
            }
        }
    }

    /// Gives a network a place in a subnet, which comes into use if it is not.
    ///
    /// # Errors
    /// `PoolOverlap`; `Full` when the subnet has as many tenants as can be.
    pub(crate) fn join(&mut self, net: IpNet, tenant: Tenant) -> Result<(usize, TenantNo)> {
        self.check_free(&net, &tenant)?;
        let (family, span) = (Family::of(&net), Span::of(&net));
        let slot = match self.of(family).places.get(&span.first) {
            Some(slot) => *slot,
            None => self.put_into_use(net),
        };
        let number = self.subnet_mut(slot).admit(tenant).ok_or_else(|| {
            let object = Holder::new(ObjectKind::Pool, net, "").to_string();
            Error::from(Reason::Full { object, limit: u64::from(TenantNo::MAX), what: "networks" })
        })?;
        Ok((slot, number))
    }

    /// Takes a network out of a subnet, with all it holds there. The subnet is out of use when it was the last.
    pub(crate) fn leave(&mut self, slot: usize, tenant: TenantNo) {
        let subnet = self.subnet_mut(slot);
        if subnet.tenants().count() > 1 {
            return subnet.evict(tenant);
        }
        let net = subnet.net();
        self.subnets[slot] = None;
        self.vacant.push(slot);
        let InUse { places, tree } = self.of_mut(Family::of(&net));
        let block = Aligned::of(&net);
        places.remove(&block.first);
        tree.remove(block);
    }

    fn put_into_use(&mut self, net: IpNet) -> usize {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.subnets.push(None);
            self.subnets.len() - 1
        });
        self.subnets[slot] = Some(Subnet::new(net));
        let InUse { places, tree } = self.of_mut(Family::of(&net));
        let block = Aligned::of(&net);
        places.insert(block.first, slot);
        tree.insert(block);
        slot
    }

    // === Default blocks ===

    /// The first free pool of the default blocks, in their order; of this prefix length, if one is given.
    pub(crate) fn find(
        &self,
        host: &mut HostNets<'_>,
        family: Family,
        size: Option<u8>,
        skipped: &mut Vec<SkippedPool>,
    ) -> Option<IpNet> {
        let tree = &self.of(family).tree;
        self.blocks_of(family).find_map(|block| block.find(tree, size, host, skipped))
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

    /// The prefix length of the largest default block of a family.
    pub(crate) fn largest_block(&self, family: Family) -> Option<u8> {
        self.blocks_of(family).map(Block::base).min()
    }

    /// How many default pools of a family are in use, in whole or in part.
    pub(crate) fn occupied(&self, family: Family) -> u64 {
        let of = |block: &Block| block.touched(self.sharing(family, block.span()).map(Subnet::net));
        self.blocks_of(family).fold(0, |sum, block| sum.saturating_add(of(block)))
    }

    /// Who has default pools of a family in use, and how many: those with most first, then by address.
    pub(crate) fn occupants(&self, family: Family) -> Vec<(Holder, u64)> {
        let blocks = self.blocks_of(family);
        let mut places: FxHashMap<NetworkId, usize> = FxHashMap::default();
        let mut occupants: Vec<(Holder, u64)> = Vec::new();
        for subnet in self.of(family).places.values().map(|slot| self.subnet(*slot)) {
            let span = Span::of(&subnet.net());
            let pools = blocks.clone().fold(0u64, |sum, block| sum.saturating_add(block.shared_with(&span)));
            if pools == 0 {
                continue;
            }
            for tenant in subnet.tenants() {
                let place = *places.entry(tenant.network).or_insert(occupants.len());
                match occupants.get_mut(place) {
                    Some((_, all)) => *all = all.saturating_add(pools),
                    None => occupants.push((tenant.holder(), pools)),
                }
            }
        }
        occupants.sort_by_key(|(_, pools)| std::cmp::Reverse(*pools));
        occupants
    }
}

/// The network that keeps another one out of an overlapping subnet.
fn in_the_way<'a>(subnet: &'a Subnet, net: &IpNet, tenant: &Tenant) -> Option<&'a Tenant> {
    let same = subnet.net() == *net && tenant.shares;
    let mut others = subnet.tenants();
    others.find(|other| !same || !other.shares || other.network == tenant.network)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::{HostNet, HostUse};

    fn tenant(n: usize, shares: bool) -> Tenant {
        Tenant { network: format!("n{n}").parse().expect("an id"), name: format!("n{n}").into(), shares }
    }

    proptest! {
        /// Subnets of 10.0.0.0/20 against a list that is searched in full.
        #[test]
        fn agrees_with_a_plain_list(
            steps in prop::collection::vec((0u8..5, 0u32..4096, 20u8..=29), 1..120),
        ) {
            let block = |base: &str, size| DefaultPool { base: base.parse().expect("a net"), size };
            let blocks = [block("10.0.0.0/22", 25), block("10.0.4.0/24", 24), block("10.0.0.0/21", 26)];
            let host = ["10.0.0.200/29", "10.0.1.64/26", "10.0.5.0/24", "0.0.0.0/1"].map(|text| HostNet {
                net: text.parse().expect("a net"),
                used_as: HostUse::Address,
                link: None,
            });
            let mut space = Space::new(&blocks);
            let mut plain: Vec<(IpNet, usize)> = Vec::new();
            for (n, (what, offset, prefix)) in steps.into_iter().enumerate() {
                let overlaps = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
                let mut skipped = Vec::new();
                let net = match what {
                    0 if !plain.is_empty() => {
                        let (_, slot) = plain.swap_remove(offset as usize % plain.len());
                        space.leave(slot, 0);
                        continue;
                    }
                    1 | 2 => {
                        let size = (what == 2).then_some(prefix);
                        let mut nets = HostNets::automatic(&host, Family::V4);
                        let found = space.find(&mut nets, Family::V4, size, &mut skipped);
                        let expected = blocks
                            .iter()
                            .filter(|block| size.is_none_or(|size| size >= block.base.prefix_len()))
                            .flat_map(|block| block.base.subnets(size.unwrap_or(block.size)).expect("valid"))
                            .filter(|net| plain.iter().all(|(used, _)| !overlaps(used, net)))
                            .find(|net| host[..3].iter().all(|host| !overlaps(&host.net, net)));
                        prop_assert_eq!(found, expected);
                        for SkippedPool { pool, host } in skipped {
                            prop_assert!(overlaps(&pool, &host.net) && space.overlapping(&pool).count() == 0);
                        }
                        let Some(found) = found else { continue };
                        found
                    }
                    _ => Family::V4.net(0x0a00_0000 | u128::from(offset), prefix).expect("a net").trunc(),
                };
                let touched = |block: &DefaultPool| {
                    let pools = block.base.subnets(block.size).expect("valid");
                    pools.filter(|pool| plain.iter().any(|(used, _)| overlaps(used, pool))).count() as u64
                };
                prop_assert_eq!(space.occupied(Family::V4), blocks.iter().map(touched).sum::<u64>());
                let expected: Vec<_> = plain.iter().filter(|(used, _)| overlaps(used, &net)).collect();
                prop_assert_eq!(space.overlapping(&net).count(), expected.len());
                match space.join(net, tenant(n, false)) {
                    Ok((slot, number)) => {
                        prop_assert!(expected.is_empty() && number == 0);
                        plain.push((net, slot));
                    }
                    Err(error) => {
                        let Reason::PoolOverlap { other, .. } = error.reason() else { panic!("{error}") };
                        prop_assert!(expected.iter().any(|(used, _)| used == other));
                    }
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

    #[test]
    fn networks_that_share_have_one_subnet_together() {
        let net = |text: &str| text.parse::<IpNet>().expect("a net");
        let mut space = Space::default();
        let (slot, first) = space.join(net("10.0.0.0/16"), tenant(1, true)).expect("free");
        assert_eq!(space.join(net("10.0.0.0/16"), tenant(2, true)).expect("shared"), (slot, first + 1));
        for (other, shares, why) in [
            ("10.0.0.0/16", false, "it does not share"),
            ("10.0.0.0/17", true, "a part is another subnet"),
            ("10.0.0.0/15", true, "and so is what is around it"),
        ] {
            let error = space.join(net(other), tenant(3, shares)).expect_err(why);
            assert!(matches!(error.reason(), Reason::PoolOverlap { .. }), "{why}: {error}");
        }
        let error = space.join(net("10.0.0.0/16"), tenant(1, true)).expect_err("it has a pool there");
        assert!(error.to_string().contains("the same request"), "{error}");
        space.leave(slot, first);
        space.join(net("10.0.0.0/16"), tenant(3, false)).expect_err("network 2 is still there");
        space.leave(slot, first + 1);
        assert_eq!(space, Space::default());
        space.join(net("10.0.0.0/16"), tenant(3, false)).expect("free");
        space.join(net("10.0.0.0/16"), tenant(4, true)).expect_err("network 3 does not share");
    }
}
