//! A sorted map of far-apart numbers in chunks: about 13 bytes a number, however they are spread.

use crate::page::grow;

/// The most numbers of one chunk; a full one is split in two.
const CAPACITY: usize = 512;
/// A chunk that shrinks below this is joined with its neighbour when both fit well into one.
const SMALL: usize = CAPACITY / 4;
/// How many numbers a chunk gets when many are added at once: with room for more.
const FILLED: usize = CAPACITY * 3 / 4;

#[derive(Clone, Debug)]
struct Chunk {
    /// Copy of the first number, so that the search over chunks stays in one array.
    first: u64,
    /// Never empty, sorted.
    numbers: Vec<u64>,
    /// Who holds each.
    holders: Vec<u32>,
}

/// Numbers and who holds each, sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct SparseMap {
    chunks: Vec<Chunk>,
}

impl PartialEq for SparseMap {
    /// Equal contents; where the chunks are cut does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl SparseMap {
    /// Every number with its holder, in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u32)> {
        self.chunks.iter().flat_map(|chunk| chunk.numbers.iter().copied().zip(chunk.holders.iter().copied()))
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
        let item = self.chunks[chunk].numbers.partition_point(|y| *y < x);
        if item == self.chunks[chunk].numbers.len() { (chunk + 1, 0) } else { (chunk, item) }
    }

    /// The numbers from `x` on.
    fn from(&self, x: u64) -> impl Iterator<Item = u64> {
        let (chunk, item) = self.lower_bound(x);
        let head = self.chunks.get(chunk).map_or(&[][..], |chunk| &chunk.numbers[item..]);
        let tail = self.chunks.get(chunk + 1..).unwrap_or(&[]);
        head.iter().chain(tail.iter().flat_map(|chunk| &chunk.numbers)).copied()
    }

    /// Who holds `x`.
    pub(crate) fn get(&self, x: u64) -> Option<u32> {
        let chunk = &self.chunks[self.chunk_of(x)?];
        let place = chunk.numbers.binary_search(&x).ok()?;
        chunk.holders.get(place).copied()
    }

    /// Gives `x` to a holder; `false` when it was taken, and stays with who has it.
    pub(crate) fn insert(&mut self, x: u64, holder: u32) -> bool {
        let Some(at) = self.chunk_of(x) else {
            self.chunks.push(Chunk { first: x, numbers: vec![x], holders: vec![holder] });
            return true;
        };
        let chunk = &mut self.chunks[at];
        let Err(place) = chunk.numbers.binary_search(&x) else { return false };
        grow(&mut chunk.numbers);
        grow(&mut chunk.holders);
        chunk.numbers.insert(place, x);
        chunk.holders.insert(place, holder);
        chunk.first = chunk.numbers[0];
        if chunk.numbers.len() == CAPACITY {
            self.split(at);
        }
        true
    }

    /// Adds numbers that are not in the map, in ascending order, each once.
    pub(crate) fn insert_sorted(&mut self, items: Vec<(u64, u32)>) {
        if items.is_empty() {
            return;
        }
        let all =
            if self.chunks.is_empty() { items } else { merged(self.iter(), items.into_iter()).collect() };
        let chunk = |items: &[(u64, u32)]| Chunk {
            first: items[0].0,
            numbers: items.iter().map(|(number, _)| *number).collect(),
            holders: items.iter().map(|(_, holder)| *holder).collect(),
        };
        self.chunks = all.chunks(FILLED).map(chunk).collect();
    }

    fn split(&mut self, at: usize) {
        let chunk = &mut self.chunks[at];
        let (numbers, holders) =
            (chunk.numbers.split_off(CAPACITY / 2), chunk.holders.split_off(CAPACITY / 2));
        chunk.numbers.shrink_to_fit();
        chunk.holders.shrink_to_fit();
        // One list of many chunks grows in steps too.
        grow(&mut self.chunks);
        self.chunks.insert(at + 1, Chunk { first: numbers[0], numbers, holders });
    }

    /// Takes `x` out and says who held it.
    pub(crate) fn remove(&mut self, x: u64) -> Option<u32> {
        let at = self.chunk_of(x)?;
        let chunk = &mut self.chunks[at];
        let place = chunk.numbers.binary_search(&x).ok()?;
        chunk.numbers.remove(place);
        let holder = chunk.holders.remove(place);
        match chunk.numbers.first() {
            None => {
                self.chunks.remove(at);
            }
            Some(&first) => {
                chunk.first = first;
                self.join(at);
            }
        }
        Some(holder)
    }

    /// Joins a chunk that became small with the one before it.
    fn join(&mut self, at: usize) {
        let len = self.chunks[at].numbers.len();
        if at == 0 || len >= SMALL || self.chunks[at - 1].numbers.len() + len > CAPACITY * 3 / 4 {
            return;
        }
        let chunk = self.chunks.remove(at);
        self.chunks[at - 1].numbers.extend(chunk.numbers);
        self.chunks[at - 1].holders.extend(chunk.holders);
    }

    /// How many numbers from `first` to `last` are in the map, counting no further than `enough`.
    pub(crate) fn count(&self, first: u64, last: u64, enough: usize) -> usize {
        // Both ends lie in one chunk most of the time, and then two searches do.
        let (chunk, item) = self.lower_bound(first);
        let Some(items) = self.chunks.get(chunk).map(|chunk| &chunk.numbers[item..]) else { return 0 };
        let here = items.partition_point(|y| *y <= last);
        if here < items.len() || here >= enough {
            return here.min(enough);
        }
        let rest = self.chunks[chunk + 1..].iter().flat_map(|chunk| &chunk.numbers);
        here + rest.take_while(|y| **y <= last).take(enough - here).count()
    }

    /// Takes every number from `first` to `last` out and returns them with their holders.
    pub(crate) fn split_out(&mut self, first: u64, last: u64) -> Vec<(u64, u32)> {
        let taken: Vec<_> = self.from(first).take_while(|y| *y <= last).collect();
        taken.into_iter().filter_map(|x| Some((x, self.remove(x)?))).collect()
    }

    /// The lowest number from `from` to `to` that is not in the map.
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
        let of = |chunk: &Chunk| {
            chunk.numbers.capacity() * size_of::<u64>() + chunk.holders.capacity() * size_of::<u32>()
        };
        self.chunks.iter().map(of).sum::<usize>() + self.chunks.capacity() * size_of::<Chunk>()
    }
}

/// Two ascending sequences as one.
pub(crate) fn merged<T: Ord>(
    a: impl Iterator<Item = T>,
    b: impl Iterator<Item = T>,
) -> impl Iterator<Item = T> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some(x), Some(y)) if x <= y => a.next(),
        (Some(_), None) => a.next(),
        _ => b.next(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn chunks_split_and_join() {
        let mut map = SparseMap::default();
        for x in (0..10_000).rev() {
            assert!(map.insert(x * 3, 1) && !map.insert(x * 3, 2));
        }
        assert!(map.chunks.len() > 10_000 / CAPACITY);
        assert!(
            map.chunks.iter().all(|chunk| chunk.numbers.len() < CAPACITY && chunk.first == chunk.numbers[0])
        );
        assert_eq!(map.count(0, 29_999, usize::MAX), 10_000);
        assert_eq!(map.split_out(0, 29_000).len(), 9_667);
        assert!(map.chunks.len() < 4, "{}", map.chunks.len());
        assert_eq!(map.next_free(29_001, u64::MAX), Some(29_002));
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_map(
            steps in prop::collection::vec((0u8..3, 0u64..2_000, any::<u32>()), 1..1_500),
        ) {
            let (mut map, mut plain) = (SparseMap::default(), BTreeMap::new());
            for (what, x, holder) in steps {
                if what == 0 {
                    prop_assert_eq!(map.remove(x), plain.remove(&x));
                } else {
                    prop_assert_eq!(map.insert(x, holder), !plain.contains_key(&x));
                    plain.entry(x).or_insert(holder);
                }
                prop_assert_eq!(map.get(x), plain.get(&x).copied());
                prop_assert_eq!(map.next_free(x, 5_000), (x..=5_000).find(|y| !plain.contains_key(y)));
                prop_assert_eq!(map.count(x, x + 63, 9), plain.range(x..x + 64).take(9).count());
            }
            prop_assert!(map.iter().eq(plain.into_iter()));
        }
    }
}
