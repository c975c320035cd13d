//! 4096 neighbouring numbers and who holds each of those that are taken.

/// Words of a page.
const WORDS: usize = 64;
/// From how many taken numbers on there is a place for the holder of each number, taken or not. Below, holders
/// stand close together in the order of their numbers: shifting so few costs little.
const WIDE: u16 = 1536;
/// Below how many they are put close together again. Lower than [`WIDE`], so that one number that comes and goes
/// does not change the form each time.
const NARROW: u16 = 1024;

/// A bitmap that finds a free number in two steps, with the holders beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Page {
    words: [u64; WORDS],
    /// How many numbers are taken in all words before each one.
    before: [u16; WORDS],
    /// The words in which everything is taken.
    full_words: u64,
    count: u16,
    holders: Holders,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Holders {
    /// Of taken numbers only, in their order.
    Close(Vec<u32>),
    /// Of every number; nothing is said about free ones.
    Wide(Box<[u32]>),
}

/// The word and the bit inside it of a number of the page.
fn place(bit: u16) -> (usize, u64) {
    (usize::from(bit / 64) % WORDS, 1 << (bit % 64))
}

/// Makes room for one more in a vector that is seldom changed: an eighth more, not twice as much.
pub(crate) fn grow<T>(items: &mut Vec<T>) {
    if items.len() == items.capacity() {
        items.reserve_exact(items.len() / 8 + 4);
    }
}

impl Page {
    /// How many numbers a page covers.
    pub(crate) const BITS: u16 = 4096;

    /// An empty page.
    pub(crate) fn empty() -> Box<Self> {
        let holders = Holders::Close(Vec::new());
        Box::new(Self { words: [0; WORDS], before: [0; WORDS], full_words: 0, count: 0, holders })
    }

    /// A page of these numbers and their holders, in ascending order, each once.
    pub(crate) fn from_sorted(items: impl Iterator<Item = (u16, u32)>) -> Box<Self> {
        let mut page = Self::empty();
        let mut holders = Vec::with_capacity(items.size_hint().0);
        for (bit, holder) in items {
            let (word, mask) = place(bit);
            page.words[word] |= mask;
            page.before[word] += 1;
            holders.push(holder);
        }
        for word in 0..WORDS {
            let here = std::mem::replace(&mut page.before[word], page.count);
            page.count += here;
            page.full_words |= u64::from(page.words[word] == u64::MAX) << word;
        }
        page.holders = Holders::Close(holders);
        if page.count >= WIDE {
            page.widen();
        }
        page
    }

    /// How many numbers are taken.
    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    /// How many of the numbers before this one are taken.
    fn rank(&self, bit: u16) -> usize {
        let (word, mask) = place(bit);
        usize::from(self.before[word]) + (self.words[word] & (mask - 1)).count_ones() as usize
    }

    /// Where the holder of a taken number stands.
    fn slot(&self, bit: u16) -> usize {
        match &self.holders {
            Holders::Close(_) => self.rank(bit),
            Holders::Wide(_) => usize::from(bit),
        }
    }

    /// Who holds a number.
    pub(crate) fn get(&self, bit: u16) -> Option<u32> {
        let (word, mask) = place(bit);
        if self.words[word] & mask == 0 {
            return None;
        }
        let slot = self.slot(bit);
        match &self.holders {
            Holders::Close(holders) => holders.get(slot).copied(),
            Holders::Wide(holders) => holders.get(slot).copied(),
        }
    }

    /// Gives a number to a holder; `false` when it was taken, and stays with who has it.
    pub(crate) fn insert(&mut self, bit: u16, holder: u32) -> bool {
        let (word, mask) = place(bit);
        if self.words[word] & mask != 0 {
            return false;
        }
        let slot = self.slot(bit);
        match &mut self.holders {
            Holders::Close(holders) => {
                grow(holders);
                holders.insert(slot, holder);
            }
            Holders::Wide(holders) => holders[slot] = holder,
        }
        self.words[word] |= mask;
        if self.words[word] == u64::MAX {
            self.full_words |= 1 << word;
        }
        self.before[word + 1..].iter_mut().for_each(|before| *before += 1);
        self.count += 1;
        if self.count == WIDE {
            self.widen();
        }
        true
    }

    /// Frees a number and says who held it.
    pub(crate) fn remove(&mut self, bit: u16) -> Option<u32> {
        let holder = self.get(bit)?;
        let slot = self.slot(bit);
        if let Holders::Close(holders) = &mut self.holders {
            holders.remove(slot);
        }
        let (word, mask) = place(bit);
        self.words[word] &= !mask;
        self.full_words &= !(1 << word);
        self.before[word + 1..].iter_mut().for_each(|before| *before -= 1);
        self.count -= 1;
        if self.count < NARROW && matches!(self.holders, Holders::Wide(_)) {
            self.holders = Holders::Close(self.iter().map(|(_, holder)| holder).collect());
        }
        Some(holder)
    }

    fn widen(&mut self) {
        let mut wide = vec![0; usize::from(Self::BITS)].into_boxed_slice();
        self.iter().for_each(|(bit, holder)| wide[usize::from(bit)] = holder);
        self.holders = Holders::Wide(wide);
    }

    /// The lowest free number from `from` on.
    pub(crate) fn next_free(&self, from: u16) -> Option<u16> {
        let (word, mask) = place(from);
        // `mask - 1` are the bits below `from`.
        let here = !self.words[word] & !(mask - 1);
        if here != 0 {
            return Some(Self::number(word, here.trailing_zeros()));
        }
        let later = !self.full_words & (u64::MAX.checked_shl(u32::from(from / 64) + 1).unwrap_or(0));
        if later == 0 {
            return None;
        }
        let word = later.trailing_zeros() as usize % WORDS;
        Some(Self::number(word, (!self.words[word]).trailing_zeros()))
    }

    /// Every taken number with its holder, in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, u32)> {
        let numbers = self.words.iter().enumerate().flat_map(|(word, bits)| {
            let mut rest = *bits;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(Self::number(word, bit))
            })
        });
        numbers.filter_map(|bit| Some((bit, self.get(bit)?)))
    }

    /// Bytes of memory, this value's own among them.
    pub(crate) fn bytes(&self) -> usize {
        let holders = match &self.holders {
            Holders::Close(holders) => holders.capacity(),
            Holders::Wide(holders) => holders.len(),
        };
        size_of::<Self>() + holders * size_of::<u32>()
    }

    fn number(word: usize, bit: u32) -> u16 {
        u16::try_from(word * 64 + bit as usize).expect("a page has 4096 numbers")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn full() -> Box<Page> {
        let mut page = Page::empty();
        assert!((0..Page::BITS).all(|bit| page.insert(bit, u32::from(bit))));
        page
    }

    #[test]
    fn the_only_free_number_is_found_from_anywhere_before_it() {
        for hole in [0, 1, 63, 64, 100, 4095] {
            let mut page = full();
            assert_eq!((page.remove(hole), page.remove(hole)), (Some(u32::from(hole)), None));
            for from in 0..Page::BITS {
                assert_eq!(page.next_free(from), (from <= hole).then_some(hole), "hole {hole} from {from}");
            }
            assert!(page.insert(hole, u32::from(hole)) && !page.insert(hole, 7));
            assert_eq!(page, full());
        }
    }

    #[test]
    fn an_empty_page_gives_what_is_asked_for() {
        let page = Page::empty();
        assert!((0..Page::BITS).all(|bit| page.next_free(bit) == Some(bit)));
        assert_eq!((page.count(), page.iter().count()), (0, 0));
        assert_eq!(full().iter().count(), usize::from(Page::BITS));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Long enough to pass through both forms of the holders, there and back.
        #[test]
        fn agrees_with_a_plain_map(steps in prop::collection::vec((0u16..1700, any::<u32>()), 4000), thin in 0u16..1700) {
            let (mut page, mut plain) = (Page::empty(), BTreeMap::new());
            for (bit, holder) in steps {
                let bit = bit * 2;
                prop_assert_eq!(page.insert(bit, holder), !plain.contains_key(&bit));
                plain.entry(bit).or_insert(holder);
            }
            prop_assert!(page.iter().eq(plain.iter().map(|(bit, holder)| (*bit, *holder))));
            for bit in (0..Page::BITS).filter(|bit| *bit > thin || bit % 16 != 0) {
                prop_assert_eq!(page.remove(bit), plain.remove(&bit));
                prop_assert_eq!(page.get(bit), None);
            }
            prop_assert!(page.iter().eq(plain.iter().map(|(bit, holder)| (*bit, *holder))));
            prop_assert_eq!(usize::from(page.count()), plain.len());
        }
    }
}
