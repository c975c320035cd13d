//! A bitmap of 4096 numbers that finds a free one in two steps.

/// Words of a page.
const WORDS: usize = 64;

/// 4096 bits and one summary bit per word that is full.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Page {
    words: [u64; WORDS],
    full_words: u64,
    count: u16,
}

/// The word and the bit inside it of a number of the page.
fn place(bit: u16) -> (usize, u64) {
    (usize::from(bit / 64) % WORDS, 1 << (bit % 64))
}

impl Page {
    /// How many numbers a page covers.
    pub(crate) const BITS: u16 = 4096;

    /// An empty page.
    pub(crate) fn empty() -> Box<Self> {
        Box::new(Self { words: [0; WORDS], full_words: 0, count: 0 })
    }

    /// A page in which every number is taken.
    pub(crate) fn full() -> Box<Self> {
        Box::new(Self { words: [u64::MAX; WORDS], full_words: u64::MAX, count: Self::BITS })
    }

    /// How many numbers are taken.
    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    /// Whether a number is taken.
    pub(crate) fn contains(&self, bit: u16) -> bool {
        let (word, mask) = place(bit);
        self.words[word] & mask != 0
    }

    /// Takes a number; `false` when it was taken.
    pub(crate) fn insert(&mut self, bit: u16) -> bool {
        let (word, mask) = place(bit);
        if self.words[word] & mask != 0 {
            return false;
        }
        self.words[word] |= mask;
        if self.words[word] == u64::MAX {
            self.full_words |= 1 << word;
        }
        self.count += 1;
        true
    }

    /// Frees a number; `false` when it was free.
    pub(crate) fn remove(&mut self, bit: u16) -> bool {
        let (word, mask) = place(bit);
        if self.words[word] & mask == 0 {
            return false;
        }
        self.words[word] &= !mask;
        self.full_words &= !(1 << word);
        self.count -= 1;
        true
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
        let word = later.trailing_zeros();
        let free = !self.words[word as usize % WORDS];
        Some(Self::number(word as usize, free.trailing_zeros()))
    }

    /// Every taken number in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u16> {
        (0..Self::BITS).filter(|bit| self.contains(*bit))
    }

    fn number(word: usize, bit: u32) -> u16 {
        u16::try_from(word * 64 + bit as usize).expect("a page has 4096 numbers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_free_number_is_found_from_anywhere_before_it() {
        for hole in [0, 1, 63, 64, 100, 4095] {
            let mut page = Page::full();
            assert!(page.remove(hole) && !page.remove(hole));
            for from in 0..Page::BITS {
                assert_eq!(page.next_free(from), (from <= hole).then_some(hole), "hole {hole} from {from}");
            }
            assert!(page.insert(hole) && !page.insert(hole));
            assert_eq!(page, Page::full());
        }
    }

    #[test]
    fn an_empty_page_gives_what_is_asked_for() {
        let page = Page::empty();
        assert!((0..Page::BITS).all(|bit| page.next_free(bit) == Some(bit)));
        assert_eq!((page.count(), page.iter().count()), (0, 0));
        assert_eq!(Page::full().iter().count(), usize::from(Page::BITS));
    }
}
