//! The taken addresses of a subnet, as offsets from its first one, and who holds each.
//!
//! Offsets are grouped in pages of 4096. A page with few offsets is part of one sorted list; one with more has a
//! bitmap and its holders beside it. Full pages are known as runs of page numbers, so that a search skips any
//! number of them in one step. So memory follows what is taken, be the subnet a /30 or an IPv6 /64, and the
//! search for the next free offset looks at three pages at most: the page it begins in, the run of full pages
//! after it, and the page behind that run, which has a free offset because it does not belong to the run.

use rustc_hash::FxHashMap;

use crate::page::Page;
use crate::runs::RunSet;
use crate::sparse::{SparseMap, merged};

/// Offsets from which on a page has a bitmap.
const DENSE: usize = 128;
/// Offsets below which it goes back to the list. Lower than [`DENSE`], so that one address that comes and goes
/// does not change the form each time.
const THIN: u16 = 80;
/// The number of bits of an offset inside its page.
const PAGE_SHIFT: u32 = Page::BITS.trailing_zeros();
const _: () = assert!(PAGE_SHIFT == 12, "bit_of masks twelve bits");

/// Offsets, each with the number of its holder, that knows the next free one.
///
/// ```
/// use netloom_ipam::AddressMap;
///
/// let mut map = AddressMap::default();
/// assert!(map.insert(7, 1) && !map.insert(7, 2));
/// assert_eq!((map.get(7), map.next_free(7, u64::MAX)), (Some(1), Some(8)));
/// assert_eq!(map.remove(7), Some(1));
/// assert!(map.is_empty());
/// ```
#[derive(Clone, PartialEq, Debug, Default)]
pub struct AddressMap {
    /// Pages in which everything is taken; they are among the dense ones.
    full: RunSet,
    /// Pages with a bitmap, by number.
    dense: FxHashMap<u64, Box<Page>>,
    /// Offsets of all other pages.
    sparse: SparseMap,
    len: u64,
}

fn page_of(offset: u64) -> u64 {
    offset >> PAGE_SHIFT
}

fn bit_of(offset: u64) -> u16 {
    (offset & 0xfff) as u16
}

fn first_of(page: u64) -> u64 {
    page << PAGE_SHIFT
}

fn last_of(page: u64) -> u64 {
    first_of(page) | u64::from(Page::BITS - 1)
}

impl AddressMap {
    /// How many offsets are taken.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no offset is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Who holds an offset.
    #[must_use]
    pub fn get(&self, offset: u64) -> Option<u32> {
        match self.dense.get(&page_of(offset)) {
            Some(page) => page.get(bit_of(offset)),
            None => self.sparse.get(offset),
        }
    }

    /// Gives an offset to a holder; `false` when it was taken, and stays with who has it.
    pub fn insert(&mut self, offset: u64, holder: u32) -> bool {
        let number = page_of(offset);
        let new = if let Some(page) = self.dense.get_mut(&number) {
            let new = page.insert(bit_of(offset), holder);
            if new && page.count() == Page::BITS {
                self.full.insert(number, number);
            }
            new
        } else {
            let new = self.sparse.insert(offset, holder);
            if new && self.sparse.count(first_of(number), last_of(number), DENSE) >= DENSE {
                self.make_dense(number);
            }
            new
        };
        self.len += u64::from(new);
        new
    }

    /// Whether none of these offsets is taken. They are in ascending order.
    pub(crate) fn are_free(&self, items: &[(u64, u32)]) -> bool {
        if self.len > items.len() as u64 {
            return items.iter().all(|(offset, _)| self.get(*offset).is_none());
        }
        self.iter().all(|(taken, _)| items.binary_search_by_key(&taken, |(offset, _)| *offset).is_err())
    }

    /// Gives offsets to holders: all of them are free, in ascending order, each once. The pages are made as they
    /// will be, not one offset after the other.
    pub(crate) fn insert_sorted(&mut self, items: &[(u64, u32)]) {
        if self.len / 4 > items.len() as u64 {
            return items.iter().for_each(|(offset, holder)| {
                self.insert(*offset, *holder);
            });
        }
        let mut sparse = Vec::new();
        for group in items.chunk_by(|a, b| page_of(a.0) == page_of(b.0)) {
            let number = page_of(group[0].0);
            if let Some(page) = self.dense.get_mut(&number) {
                for (offset, holder) in group {
                    page.insert(bit_of(*offset), *holder);
                }
            } else {
                let (first, last) = (first_of(number), last_of(number));
                if self.sparse.count(first, last, DENSE) + group.len() < DENSE {
                    sparse.extend_from_slice(group);
                    continue;
                }
                let before = self.sparse.split_out(first, last);
                let all = merged(before.into_iter(), group.iter().copied());
                let page = Page::from_sorted(all.map(|(offset, holder)| (bit_of(offset), holder)));
                self.dense.insert(number, page);
            }
            if self.dense.get(&number).is_some_and(|page| page.count() == Page::BITS) {
                self.full.insert(number, number);
            }
        }
        self.sparse.insert_sorted(sparse);
        self.len += items.len() as u64;
    }

    /// Frees an offset and says who held it.
    pub fn remove(&mut self, offset: u64) -> Option<u32> {
        let number = page_of(offset);
        let holder = if let Some(page) = self.dense.get_mut(&number) {
            let was_full = page.count() == Page::BITS;
            let holder = page.remove(bit_of(offset))?;
            let thin = page.count() < THIN;
            if was_full {
                self.full.remove(number, number);
            }
            if thin {
                self.make_sparse(number);
            }
            holder
        } else {
            self.sparse.remove(offset)?
        };
        self.len -= 1;
        Some(holder)
    }

    /// The lowest free offset from `from` to `to`, both included.
    #[must_use]
    pub fn next_free(&self, from: u64, to: u64) -> Option<u64> {
        let mut from = from;
        while from <= to {
            let number = page_of(from);
            let next_page = if let Some(page) = self.dense.get(&number) {
                if let Some(bit) = page.next_free(bit_of(from)) {
                    let free = first_of(number) | u64::from(bit);
                    return (free <= to).then_some(free);
                }
                self.full.run_end(number).unwrap_or(number) + 1
            } else if let Some(free) = self.sparse.next_free(from, last_of(number)) {
                return (free <= to).then_some(free);
            } else {
                number + 1
            };
            if next_page > page_of(u64::MAX) {
                return None;
            }
            from = first_of(next_page);
        }
        None
    }

    /// Every taken offset with its holder, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32)> {
        let mut numbers: Vec<_> = self.dense.keys().copied().collect();
        numbers.sort_unstable();
        let dense = numbers.into_iter().flat_map(|number| {
            let page = self.dense.get(&number).into_iter();
            page.flat_map(move |page| {
                page.iter().map(move |(bit, holder)| (first_of(number) | u64::from(bit), holder))
            })
        });
        merged(dense, self.sparse.iter())
    }

    /// Bytes of memory behind this value, as far as they can be told from inside.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        // A hash map keeps one control byte per entry and fills at most 7/8 of a power of two.
        let slots = (self.dense.capacity() * 8 / 7).next_power_of_two();
        let table = if self.dense.capacity() == 0 { 0 } else { slots * (size_of::<(u64, Box<Page>)>() + 1) };
        table + self.dense.values().map(|page| page.bytes()).sum::<usize>() + self.sparse.heap_bytes()
    }

    fn make_dense(&mut self, number: u64) {
        let mut page = Page::empty();
        for (offset, holder) in self.sparse.split_out(first_of(number), last_of(number)) {
            page.insert(bit_of(offset), holder);
        }
        self.dense.insert(number, page);
    }

    fn make_sparse(&mut self, number: u64) {
        if let Some(page) = self.dense.remove(&number) {
            for (bit, holder) in page.iter() {
                self.sparse.insert(first_of(number) | u64::from(bit), holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn holder(offset: u64) -> u32 {
        (offset % 1_000_003) as u32
    }

    #[test]
    fn pages_pass_through_all_forms_and_back() {
        let mut map = AddressMap::default();
        let all = 3 * u64::from(Page::BITS);
        for offset in 0..all {
            assert_eq!(map.next_free(0, u64::MAX), Some(offset));
            assert!(map.insert(offset, holder(offset)));
            assert_eq!(map.get(offset), Some(holder(offset)));
        }
        assert!(map.dense.len() == 3 && map.sparse.is_empty());
        assert_eq!((map.len(), map.next_free(0, all - 1), map.next_free(5, all)), (all, None, Some(all)));
        for offset in 0..all {
            assert_eq!((map.remove(offset), map.remove(offset)), (Some(holder(offset)), None));
            assert_eq!(map.get(offset), None);
        }
        assert!(map.is_empty() && map.dense.is_empty() && map.sparse.is_empty());
        assert_eq!(map.full, RunSet::default());
    }

    #[test]
    fn the_last_page_of_all_can_be_filled() {
        let mut map = AddressMap::default();
        for offset in first_of(page_of(u64::MAX))..=u64::MAX {
            assert!(map.insert(offset, 1));
        }
        assert_eq!(map.next_free(first_of(page_of(u64::MAX)), u64::MAX), None);
        assert_eq!(map.next_free(u64::MAX - 10_000, u64::MAX), Some(u64::MAX - 10_000));
    }

    #[test]
    fn one_free_address_among_four_million_is_found_behind_full_pages() {
        let mut map = AddressMap::default();
        let last = (1 << 22) - 1;
        for offset in 0..=last {
            map.insert(offset, 1);
        }
        let each = map.heap_bytes() as f64 / (last + 1) as f64;
        assert!(each < 5.0, "{each} bytes an address");
        assert_eq!(map.next_free(0, last), None);
        for hole in [0, 4095, 4096, last / 2, last] {
            assert_eq!(map.remove(hole), Some(1));
            assert_eq!(map.next_free(0, last), Some(hole));
            assert_eq!(map.next_free(hole + 1, last), None);
            assert!(map.insert(hole, 2));
        }
    }

    /// Numbers that look random and are the same in every run.
    fn scattered(n: u64) -> impl Iterator<Item = u64> {
        (1..=n).map(|i| {
            let x = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        })
    }

    #[test]
    fn a_scattered_address_costs_at_most_sixteen_bytes() {
        for (what, bits) in [("an IPv4 /8", 24), ("an IPv6 /64", 64)] {
            let mut map = AddressMap::default();
            for x in scattered(200_000) {
                map.insert(x >> (64 - bits), 1);
            }
            let each = map.heap_bytes() as f64 / map.len() as f64;
            assert!(each <= 16.0, "{what}: {each} bytes an address");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_map(
            base in prop::sample::select(vec![0u64, 4096 - 200, 1 << 40, u64::MAX - 8_600]),
            steps in prop::collection::vec((0u8..4, 0u64..8_200, 1u64..300), 1..60),
        ) {
            let (mut map, mut plain) = (AddressMap::default(), BTreeMap::new());
            for (what, at, len) in steps {
                for x in (at..at + len).map(|x| base + x.min(8_250)) {
                    if what == 0 {
                        prop_assert_eq!(map.remove(x), plain.remove(&x));
                    } else {
                        prop_assert_eq!(map.insert(x, holder(x)), plain.insert(x, holder(x)).is_none());
                    }
                }
                prop_assert_eq!(map.len(), plain.len() as u64);
                for from in [base, base + at, base + at + len / 2] {
                    let free = (from..=base + 8_299).find(|y| !plain.contains_key(y));
                    prop_assert_eq!(map.next_free(from, base + 8_299), free);
                    prop_assert_eq!(map.get(from), plain.get(&from).copied());
                }
            }
            prop_assert!(map.iter().eq(plain.into_iter()));
        }

        /// Many at once are the same as one after the other, whatever was there before.
        #[test]
        fn many_at_once_are_the_same_as_one_by_one(
            before in prop::collection::btree_set(0u64..12_000, 0..400),
            runs in prop::collection::vec((0u64..12_000, 1u64..5_000, 1usize..70), 0..4),
            base in prop::sample::select(vec![0u64, 1 << 40, u64::MAX - 20_000]),
        ) {
            let mut map = AddressMap::default();
            before.iter().for_each(|x| assert!(map.insert(base + x, 1)));
            let mut one_by_one = map.clone();
            let added: BTreeMap<_, _> = runs
                .iter()
                .flat_map(|(at, len, step)| (*at..at + len).step_by(*step).map(|x| base + x))
                .map(|x| (x, holder(x)))
                .collect();
            let items: Vec<_> = added.into_iter().collect();
            let free = items.iter().all(|(x, _)| !before.contains(&(x - base)));
            prop_assert_eq!(map.are_free(&items), free);
            let items: Vec<_> = items.into_iter().filter(|(x, _)| !before.contains(&(x - base))).collect();
            map.insert_sorted(&items);
            items.iter().for_each(|(x, holder)| assert!(one_by_one.insert(*x, *holder)));
            prop_assert!(map.iter().eq(one_by_one.iter()) && map.full == one_by_one.full);
            prop_assert_eq!(map.len(), one_by_one.len());
            for (x, holder) in items {
                prop_assert_eq!(map.next_free(x, u64::MAX), one_by_one.next_free(x, u64::MAX));
                prop_assert_eq!(map.remove(x), Some(holder));
            }
            prop_assert!(map.iter().map(|(x, _)| x - base).eq(before));
        }
    }
}
