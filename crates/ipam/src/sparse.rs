//! A sorted set of far-apart numbers in chunks: about 12 bytes a number, however they are spread.

/// The most numbers of one chunk; a full one is split in two.
const CAPACITY: usize = 512;
/// A chunk that shrinks below this is joined with its neighbour when both fit well into one.
const SMALL: usize = CAPACITY / 4;

#[derive(Clone, Debug)]
struct Chunk {
    /// Copy of the first item, so that the search over chunks stays in one array.
    first: u64,
    /// Never empty, sorted.
    items: Vec<u64>,
}

/// A set of `u64`, sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct SparseSet {
    chunks: Vec<Chunk>,
}

impl PartialEq for SparseSet {
    /// Equal contents; where the chunks are cut does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl SparseSet {
    fn iter(&self) -> impl Iterator<Item = u64> {
        self.chunks.iter().flat_map(|chunk| chunk.items.iter().copied())
    }

    /// Whether there is nothing in it.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The chunk in which `x` is or would be.
    fn chunk_of(&self, x: u64) -> Option<usize> {
        (!self.chunks.is_empty())
            .then(|| self.chunks.partition_point(|chunk| chunk.first <= x).saturating_sub(1))
    }

    /// Where the first number that is at least `x` stands.
    fn lower_bound(&self, x: u64) -> (usize, usize) {
        let Some(chunk) = self.chunk_of(x) else { return (0, 0) };
        let item = self.chunks[chunk].items.partition_point(|y| *y < x);
        if item == self.chunks[chunk].items.len() { (chunk + 1, 0) } else { (chunk, item) }
    }

    /// The numbers from `x` on.
    fn from(&self, x: u64) -> impl Iterator<Item = u64> {
        let (chunk, item) = self.lower_bound(x);
        let head = self.chunks.get(chunk).map_or(&[][..], |chunk| &chunk.items[item..]);
        let tail = self.chunks.get(chunk + 1..).unwrap_or(&[]);
        head.iter().chain(tail.iter().flat_map(|chunk| &chunk.items)).copied()
    }

    /// Whether `x` is in the set.
    pub(crate) fn contains(&self, x: u64) -> bool {
        self.from(x).next() == Some(x)
    }

    /// Adds `x`; `false` when it was there.
    pub(crate) fn insert(&mut self, x: u64) -> bool {
        let Some(at) = self.chunk_of(x) else {
            self.chunks.push(Chunk { first: x, items: vec![x] });
            return true;
        };
        let chunk = &mut self.chunks[at];
        let Err(place) = chunk.items.binary_search(&x) else { return false };
        chunk.items.insert(place, x);
        chunk.first = chunk.items[0];
        if chunk.items.len() == CAPACITY {
            let items = chunk.items.split_off(CAPACITY / 2);
            chunk.items.shrink_to(CAPACITY / 2);
            self.chunks.insert(at + 1, Chunk { first: items[0], items });
        }
        true
    }

    /// Takes `x` out; `false` when it was not there.
    pub(crate) fn remove(&mut self, x: u64) -> bool {
        let Some(at) = self.chunk_of(x) else { return false };
        let chunk = &mut self.chunks[at];
        let Ok(place) = chunk.items.binary_search(&x) else { return false };
        chunk.items.remove(place);
        match chunk.items.first() {
            None => {
                self.chunks.remove(at);
            }
            Some(&first) => {
                chunk.first = first;
                self.join(at);
            }
        }
        true
    }

    /// Joins a chunk that became small with the one before it.
    fn join(&mut self, at: usize) {
        let len = self.chunks[at].items.len();
        if at == 0 || len >= SMALL || self.chunks[at - 1].items.len() + len > CAPACITY * 3 / 4 {
            return;
        }
        let chunk = self.chunks.remove(at);
        self.chunks[at - 1].items.extend(chunk.items);
    }

    /// How many numbers from `first` to `last` are in the set, counting no further than `enough`.
    pub(crate) fn count(&self, first: u64, last: u64, enough: usize) -> usize {
        // Both ends lie in one chunk most of the time, and then two searches do.
        let (chunk, item) = self.lower_bound(first);
        let Some(items) = self.chunks.get(chunk).map(|chunk| &chunk.items[item..]) else { return 0 };
        let here = items.partition_point(|y| *y <= last);
        if here < items.len() || here >= enough {
            return here.min(enough);
        }
        let rest = self.chunks[chunk + 1..].iter().flat_map(|chunk| &chunk.items);
        here + rest.take_while(|y| **y <= last).take(enough - here).count()
    }

    /// Takes every number from `first` to `last` out and returns them.
    pub(crate) fn split_out(&mut self, first: u64, last: u64) -> Vec<u64> {
        let taken: Vec<_> = self.from(first).take_while(|y| *y <= last).collect();
        for x in &taken {
            self.remove(*x);
        }
        taken
    }

    /// The lowest number from `from` to `to` that is not in the set.
    pub(crate) fn next_free(&self, from: u64, to: u64) -> Option<u64> {
        let mut free = from;
        for taken in self.from(from) {
            if taken != free {
                break;
            }
            free = free.checked_add(1)?;
        }
        (free <= to).then_some(free)
    }

    /// Bytes of memory behind this value.
    pub(crate) fn heap_bytes(&self) -> usize {
        let items: usize = self.chunks.iter().map(|chunk| chunk.items.capacity() * size_of::<u64>()).sum();
        items + self.chunks.capacity() * size_of::<Chunk>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn chunks_split_and_join() {
        let mut set = SparseSet::default();
        for x in (0..10_000).rev() {
            assert!(set.insert(x * 3) && !set.insert(x * 3));
        }
        assert!(set.chunks.len() > 10_000 / CAPACITY);
        assert!(set.chunks.iter().all(|chunk| chunk.items.len() < CAPACITY && chunk.first == chunk.items[0]));
        assert_eq!(set.count(0, 29_999, usize::MAX), 10_000);
        assert_eq!(set.split_out(0, 29_000).len(), 9_667);
        assert!(set.chunks.len() < 4, "{}", set.chunks.len());
        assert_eq!(set.next_free(29_001, u64::MAX), Some(29_002));
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(steps in prop::collection::vec((0u8..3, 0u64..2_000), 1..1_500)) {
            let (mut set, mut plain) = (SparseSet::default(), BTreeSet::new());
            for (what, x) in steps {
                if what == 0 {
                    prop_assert_eq!(set.remove(x), plain.remove(&x));
                } else {
                    prop_assert_eq!(set.insert(x), plain.insert(x));
                }
                prop_assert_eq!(set.contains(x), plain.contains(&x));
                prop_assert_eq!(set.next_free(x, 5_000), (x..=5_000).find(|y| !plain.contains(y)));
                prop_assert_eq!(set.count(x, x + 63, 9), plain.range(x..x + 64).take(9).count());
            }
            prop_assert!(set.iter().eq(plain.iter().copied()));
        }
    }
}
