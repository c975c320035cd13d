//! The set of taken addresses of a pool, as offsets from its first address.
//!
//! Offsets are grouped in pages of 4096. A page is kept in the cheapest of three forms: a few offsets in a
//! sorted list, more in a bitmap, and all of them as part of a run of full pages that costs nothing per
//! page. So memory follows what is taken, be the pool a /30 or an IPv6 /64, and the search for the next free
//! offset looks at three pages at most: the page it begins in, the run of full pages after it, and the page
//! behind that run, which has a free offset because it does not belong to the run.

use rustc_hash::FxHashMap;

use crate::page::Page;
use crate::runs::RunSet;
use crate::sparse::SparseSet;

/// Offsets from which on a page becomes a bitmap.
const DENSE: usize = 64;
/// Offsets below which a bitmap becomes a list again. Lower than [`DENSE`], so that one address that comes
/// and goes does not change the form each time.
const THIN: u16 = 40;
/// The number of bits of an offset inside its page.
const PAGE_SHIFT: u32 = Page::BITS.trailing_zeros();
const _: () = assert!(PAGE_SHIFT == 12, "bit_of masks twelve bits");

/// A set of offsets that knows the next free one.
///
/// ```
/// use netloom_ipam::AddressSet;
///
/// let mut set = AddressSet::default();
/// assert!(set.insert(7) && !set.insert(7));
/// assert_eq!(set.next_free(7, u64::MAX), Some(8));
/// assert!(set.remove(7) && set.is_empty());
/// ```
#[derive(Clone, PartialEq, Debug, Default)]
pub struct AddressSet {
    /// Pages in which everything is taken.
    full: RunSet,
    /// Pages that are bitmaps, by number.
    dense: FxHashMap<u64, Box<Page>>,
    /// Offsets of all other pages.
    sparse: SparseSet,
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

impl AddressSet {
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

    /// Whether an offset is taken.
    #[must_use]
    pub fn contains(&self, offset: u64) -> bool {
        let page = page_of(offset);
        match self.dense.get(&page) {
            Some(bitmap) => bitmap.contains(bit_of(offset)),
            None => self.sparse.contains(offset) || self.full.run_end(page).is_some(),
        }
    }

    /// Takes an offset; `false` when it was taken already.
    pub fn insert(&mut self, offset: u64) -> bool {
        let page = page_of(offset);
        let new = if let Some(bitmap) = self.dense.get_mut(&page) {
            let new = bitmap.insert(bit_of(offset));
            if bitmap.count() == Page::BITS {
                self.dense.remove(&page);
                self.full.insert(page, page);
            }
            new
        } else if self.full.run_end(page).is_some() {
            false
        } else {
            let new = self.sparse.insert(offset);
            if new && self.sparse.count(first_of(page), last_of(page), DENSE) >= DENSE {
                self.make_dense(page);
            }
            new
        };
        self.len += u64::from(new);
        new
    }

    /// Frees an offset; `false` when it was free already.
    pub fn remove(&mut self, offset: u64) -> bool {
        let page = page_of(offset);
        let was_taken = if let Some(bitmap) = self.dense.get_mut(&page) {
            let was_taken = bitmap.remove(bit_of(offset));
            if bitmap.count() < THIN {
                self.make_sparse(page);
            }
            was_taken
        } else if self.full.run_end(page).is_some() {
            self.full.remove(page, page);
            let mut bitmap = Page::full();
            bitmap.remove(bit_of(offset));
            self.dense.insert(page, bitmap);
            true
        } else {
            self.sparse.remove(offset)
        };
        self.len -= u64::from(was_taken);
        was_taken
    }

    /// The lowest free offset from `from` to `to`, both included.
    #[must_use]
    pub fn next_free(&self, from: u64, to: u64) -> Option<u64> {
        let mut from = from;
        while from <= to {
            let page = page_of(from);
            let next_page = if let Some(bitmap) = self.dense.get(&page) {
                if let Some(bit) = bitmap.next_free(bit_of(from)) {
                    let free = first_of(page) | u64::from(bit);
                    return (free <= to).then_some(free);
                }
                page + 1
            } else if let Some(last) = self.full.run_end(page) {
                last + 1
            } else if let Some(free) = self.sparse.next_free(from, last_of(page)) {
                return (free <= to).then_some(free);
            } else {
                page + 1
            };
            if next_page > page_of(u64::MAX) {
                return None;
            }
            from = first_of(next_page);
        }
        None
    }

    /// Bytes of memory behind this value, as far as they can be told from inside.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        // A hash map keeps one control byte per entry and fills at most 7/8 of a power of two.
        let slots = (self.dense.capacity() * 8 / 7).next_power_of_two();
        let table = if self.dense.capacity() == 0 { 0 } else { slots * (size_of::<(u64, Box<Page>)>() + 1) };
        table + self.dense.len() * size_of::<Page>() + self.sparse.heap_bytes()
    }

    fn make_dense(&mut self, page: u64) {
        let mut bitmap = Page::empty();
        for offset in self.sparse.split_out(first_of(page), last_of(page)) {
            bitmap.insert(bit_of(offset));
        }
        self.dense.insert(page, bitmap);
    }

    fn make_sparse(&mut self, page: u64) {
        if let Some(bitmap) = self.dense.remove(&page) {
            for bit in bitmap.iter() {
                self.sparse.insert(first_of(page) | u64::from(bit));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pages_pass_through_all_forms_and_back() {
        let mut set = AddressSet::default();
        let all = 3 * u64::from(Page::BITS);
        for offset in 0..all {
            assert_eq!(set.next_free(0, u64::MAX), Some(offset));
            assert!(set.insert(offset) && set.contains(offset));
        }
        assert!(set.dense.is_empty() && set.sparse.is_empty(), "full pages cost nothing");
        assert_eq!((set.len(), set.next_free(0, all - 1), set.next_free(5, all)), (all, None, Some(all)));
        for offset in 0..all {
            assert!(set.remove(offset) && !set.remove(offset) && !set.contains(offset));
        }
        assert!(set.is_empty() && set.dense.is_empty() && set.sparse.is_empty());
        assert_eq!(set.full, RunSet::default());
    }

    #[test]
    fn the_last_page_of_all_can_be_filled() {
        let mut set = AddressSet::default();
        for offset in first_of(page_of(u64::MAX))..=u64::MAX {
            assert!(set.insert(offset));
        }
        assert_eq!(set.next_free(first_of(page_of(u64::MAX)), u64::MAX), None);
        assert_eq!(set.next_free(u64::MAX - 10_000, u64::MAX), Some(u64::MAX - 10_000));
    }

    #[test]
    fn one_free_address_among_four_million_is_found_behind_full_pages() {
        let mut set = AddressSet::default();
        let last = (1 << 22) - 1;
        for offset in 0..=last {
            set.insert(offset);
        }
        assert!(set.heap_bytes() < 4096, "{}", set.heap_bytes());
        set.remove(last - 3);
        assert_eq!(set.next_free(1, last), Some(last - 3));
        assert_eq!(set.next_free(last - 2, last), None);
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
            let mut set = AddressSet::default();
            for x in scattered(200_000) {
                set.insert(x >> (64 - bits));
            }
            let each = set.heap_bytes() as u64 / set.len();
            assert!(each <= 16, "{what}: {each} bytes an address");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(
            base in prop::sample::select(vec![0u64, 4096 - 200, 1 << 40, u64::MAX - 8_600]),
            steps in prop::collection::vec((0u8..4, 0u64..8_200, 1u64..300), 1..60),
        ) {
            let (mut set, mut plain) = (AddressSet::default(), BTreeSet::new());
            for (what, at, len) in steps {
                for x in (at..at + len).map(|x| base + x.min(8_250)) {
                    if what == 0 {
                        prop_assert_eq!(set.remove(x), plain.remove(&x));
                    } else {
                        prop_assert_eq!(set.insert(x), plain.insert(x));
                    }
                }
                prop_assert_eq!(set.len(), plain.len() as u64);
                for from in [base, base + at, base + at + len / 2] {
                    let free = (from..=base + 8_299).find(|y| !plain.contains(y));
                    prop_assert_eq!(set.next_free(from, base + 8_299), free);
                    prop_assert_eq!(set.contains(from), plain.contains(&from));
                }
            }
        }
    }
}
