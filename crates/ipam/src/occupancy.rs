//! What of an address space is in use, as a tree whose nodes know the largest free block below them.
//!
//! It is a binary tree over the bits of an address in which a node stands where two subnets in use part ways, so a space
//! with `n` subnets has `2n - 1` nodes, and every change and every search takes at most as many steps as an address has
//! bits, whatever sizes were asked for before.

use ipnet::IpNet;

use crate::span::{Family, Span};

/// The place of a node.
type Place = u32;

/// The prefix length of the largest free block where there is none: no prefix is as long.
const NONE: u8 = u8::MAX;

/// The subnets in use of one family. They never overlap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Occupancy {
    root: Option<Place>,
    nodes: Vec<Node>,
    vacant: Vec<Place>,
}

/// A block: aligned to its size, as subnets are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Aligned {
    /// The number of its first address.
    pub(crate) first: u128,
    /// The length of its prefix, of 128 bits for both families.
    pub(crate) len: u8,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    block: Aligned,
    /// The prefix length of the largest free block within it.
    free: u8,
    /// What is in its lower and in its upper half; `None` of a subnet in use.
    halves: Option<[Place; 2]>,
}

impl Aligned {
    /// A subnet.
    pub(crate) fn of(net: &IpNet) -> Self {
        Self::new(Family::of(net), Span::of(net).first, net.prefix_len())
    }

    /// A subnet by its first address and the length of its prefix.
    pub(crate) fn new(family: Family, first: u128, prefix: u8) -> Self {
        Self { first, len: prefix + (128 - family.bits()) }
    }

    /// The number of its last address.
    fn last(self) -> u128 {
        self.first | hosts(self.len)
    }
}

impl Occupancy {
    /// Notes that a subnet came into use, which overlaps none that is.
    pub(crate) fn insert(&mut self, subnet: Aligned) {
        let leaf = self.put(Node { block: subnet, free: NONE, halves: None });
        self.root = Some(match self.root {
            Some(root) => self.insert_below(root, leaf),
            None => leaf,
        });
    }

    fn insert_below(&mut self, place: Place, leaf: Place) -> Place {
        let (node, block) = (self.node(place), self.node(leaf).block);
        let common = common(node.block, block);
        if common < node.block.len {
            // They part ways before this node.
            let parted = Aligned { first: start(block.first, common), len: common };
            let halves = if half(block.first, common) == 0 { [leaf, place] } else { [place, leaf] };
            let free = self.free_in(parted, halves);
            return self.put(Node { block: parted, free, halves: Some(halves) });
        }
        let Some(mut halves) = node.halves else { unreachable!("subnets in use do not overlap") };
        let half = half(block.first, node.block.len);
        halves[half] = self.insert_below(halves[half], leaf);
        self.change(place, halves);
        place
    }

    /// Notes that a subnet is out of use.
    pub(crate) fn remove(&mut self, subnet: Aligned) {
        self.root = self.root.and_then(|root| self.remove_below(root, subnet));
    }

    /// What is left in the place of this node.
    fn remove_below(&mut self, place: Place, subnet: Aligned) -> Option<Place> {
        let node = self.node(place);
        let Some(mut halves) = node.halves else {
            debug_assert_eq!(node.block, subnet, "it is in use");
            self.vacant.push(place);
            return None;
        };
        let half = half(subnet.first, node.block.len);
        let Some(left) = self.remove_below(halves[half], subnet) else {
            self.vacant.push(place);
            return Some(halves[1 - half]);
        };
        halves[half] = left;
        self.change(place, halves);
        Some(place)
    }

    /// The lowest free block of a size within another block, at or above an address.
    pub(crate) fn first_free(&self, within: Aligned, len: u8, from: u128) -> Option<u128> {
        if len < within.len {
            return None;
        }
        let mut place = self.root;
        // Down to what lies within the block, or around it.
        while let Some(node) = place.map(|place| self.node(place)) {
            if common(node.block, within) < node.block.len.min(within.len) {
                place = None;
            } else if node.block.len >= within.len {
                break;
            } else {
                place = Some(node.halves?[half(within.first, node.block.len)]);
            }
        }
        self.search(place, within, len, from)
    }

    /// The same where all that is in use within the block is this node's.
    fn search(&self, place: Option<Place>, within: Aligned, len: u8, from: u128) -> Option<u128> {
        let last = within.last();
        if last < from {
            return None;
        }
        let Some(node) = place.map(|place| self.node(place)) else {
            let hosts = hosts(len);
            let aligned = from.max(within.first).checked_add(hosts)? & !hosts;
            return (aligned <= last).then_some(aligned);
        };
        if self.largest(node, within.len) > len {
            return None;
        }
        let part = |half: u128| {
            let below = within.len + 1;
            let first = within.first | half << (128 - below);
            Aligned { first, len: below }
        };
        let below = if node.block.len == within.len {
            node.halves?.map(Some)
        } else if half(node.block.first, within.len) == 0 {
            [place, None]
        } else {
            [None, place]
        };
        self.search(below[0], part(0), len, from).or_else(|| self.search(below[1], part(1), len, from))
    }

    /// The prefix length of the largest free block where a node is all that is in use of a block of this length.
    fn largest(&self, node: Node, len: u8) -> u8 {
        // In one half of the block, and the other one is free.
        if node.block.len > len { len + 1 } else { node.free }
    }

    fn free_in(&self, block: Aligned, halves: [Place; 2]) -> u8 {
        let free = halves.map(|half| self.largest(self.node(half), block.len + 1));
        free[0].min(free[1])
    }

    fn change(&mut self, place: Place, halves: [Place; 2]) {
        let block = self.node(place).block;
        let free = self.free_in(block, halves);
        self.nodes[place as usize] = Node { block, free, halves: Some(halves) };
    }

    fn node(&self, place: Place) -> Node {
        self.nodes[place as usize]
    }

    fn put(&mut self, node: Node) -> Place {
        if let Some(place) = self.vacant.pop() {
            self.nodes[place as usize] = node;
            return place;
        }
        self.nodes.push(node);
        Place::try_from(self.nodes.len() - 1).expect("each network has an actor: memory ends before")
    }
}

// === Bits ===

/// The bits of an address behind a prefix, all set.
fn hosts(len: u8) -> u128 {
    u128::MAX.checked_shr(len.into()).unwrap_or(0)
}

/// The first address of the block of this length around an address.
fn start(address: u128, len: u8) -> u128 {
    address & !hosts(len)
}

/// In which half of a block of this length, which has two, an address lies.
fn half(address: u128, len: u8) -> usize {
    usize::from(address << len >> 127 == 1)
}

/// How many bits two blocks' prefixes begin with alike.
fn common(one: Aligned, other: Aligned) -> u8 {
    let alike = (one.first ^ other.first).leading_zeros();
    u8::try_from(alike).unwrap_or(NONE).min(one.len).min(other.len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Occupancy {
        /// How many subnets are in use; fails where a node is not what its halves say.
        fn check(&self, place: Option<Place>) -> usize {
            let Some(place) = place else { return 0 };
            let node = self.node(place);
            let Some(halves) = node.halves else {
                assert_eq!(node.free, NONE);
                return 1;
            };
            for (which, place) in halves.into_iter().enumerate() {
                let block = self.node(place).block;
                assert!(block.len > node.block.len && start(block.first, node.block.len) == node.block.first);
                assert_eq!(half(block.first, node.block.len), which);
            }
            assert_eq!(node.free, self.free_in(node.block, halves));
            halves.into_iter().map(|half| self.check(Some(half))).sum()
        }
    }

    /// The same by looking at everything.
    fn plain(used: &[Aligned], within: Aligned, len: u8, from: u128) -> Option<u128> {
        let overlap = |a: Aligned, b: Aligned| a.first <= b.last() && b.first <= a.last();
        let mut first = within.first;
        loop {
            let block = Aligned { first, len };
            if len < within.len || first > within.last() || block.last() > within.last() {
                return None;
            }
            if first >= from && used.iter().all(|used| !overlap(*used, block)) {
                return Some(first);
            }
            first = block.last().checked_add(1)?;
        }
    }

    /// In ten bits somewhere in the space; the prefix lengths count from there.
    fn agrees(high: u128, steps: Vec<(u8, u128, u8, u8)>) {
        const OUTER: u8 = 118;
        let mut tree = Occupancy::default();
        let mut used: Vec<Aligned> = Vec::new();
        for (what, at, len, other) in steps {
            let (len, other) = (OUTER + len, OUTER + other);
            let block = Aligned { first: start(high | at, len), len };
            match what {
                0 if !used.is_empty() => {
                    let index = usize::try_from(at).expect("ten bits") % used.len();
                    tree.remove(used.swap_remove(index));
                }
                1 => {
                    if plain(&used, block, len, 0).is_some() {
                        tree.insert(block);
                        used.push(block);
                    }
                }
                2 => {
                    let all = Aligned { first: high, len: OUTER };
                    assert_eq!(tree.first_free(all, other, high | at), plain(&used, all, other, high | at));
                }
                _ => assert_eq!(tree.first_free(block, other, 0), plain(&used, block, other, 0)),
            }
            assert_eq!(tree.check(tree.root), used.len());
            assert!(tree.nodes.len() - tree.vacant.len() <= (2 * used.len()).saturating_sub(1));
        }
    }

    proptest! {
        #[test]
        fn agrees_with_looking_at_everything(
            steps in prop::collection::vec((0u8..5, 0u128..1024, 0u8..=10, 0u8..=10), 1..200),
        ) {
            for high in [0, 0xffff_fc00, 0xfd << 120, u128::MAX << 10] {
                agrees(high, steps.clone());
            }
        }
    }

    #[test]
    fn the_whole_space_is_one_block() {
        let all = Aligned { first: 0, len: 0 };
        let mut tree = Occupancy::default();
        assert_eq!((tree.first_free(all, 0, 0), tree.first_free(all, 0, 1)), (Some(0), None));
        let one = Aligned { first: 0, len: 128 };
        tree.insert(one);
        assert_eq!((tree.first_free(all, 0, 0), tree.first_free(all, 1, 0)), (None, Some(1 << 127)));
        assert_eq!((tree.first_free(all, 128, 0), tree.first_free(one, 128, 0)), (Some(1), None));
        assert_eq!(tree.first_free(all, 128, u128::MAX), Some(u128::MAX));
        tree.remove(one);
        tree.insert(all);
        assert_eq!((tree.first_free(all, 128, 0), tree.first_free(one, 128, 0)), (None, None));
    }
}
