//! Who has been silent for longest, found without looking at everybody.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Names in the order of when they were last heard of, as far as known: being heard of is not noted here. A name's
/// note is never later than the truth, so the first note that is true is the oldest of all.
#[derive(Debug)]
pub(crate) struct Oldest<K> {
    notes: BinaryHeap<Reverse<(u64, K)>>,
}

impl<K: Ord> Oldest<K> {
    pub(crate) fn new() -> Self {
        Self { notes: BinaryHeap::new() }
    }

    /// Notes a name that was not there.
    pub(crate) fn insert(&mut self, name: K, heard: u64) {
        self.notes.push(Reverse((heard, name)));
    }

    /// Takes the name out that has not been heard of for longest. `heard` knows the truth, and says `None` for names
    /// that are no longer there.
    pub(crate) fn take(&mut self, heard: impl Fn(&K) -> Option<u64>) -> Option<K> {
        loop {
            let mut note = self.notes.peek_mut()?;
            match heard(&note.0.1) {
                // Changing it moves it to its place.
                Some(truth) if truth > note.0.0 => note.0.0 = truth,
                Some(_) => return Some(std::collections::binary_heap::PeekMut::pop(note).0.1),
                None => drop(std::collections::binary_heap::PeekMut::pop(note)),
            }
        }
    }

    /// Forgets names that are no longer there, once they are more than those that are.
    pub(crate) fn tidy(&mut self, there: usize, is_there: impl Fn(&K) -> bool) {
        if self.notes.len() > 2 * there + 16 {
            self.notes.retain(|Reverse((_, name))| is_there(name));
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.notes.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::Oldest;

    proptest! {
        /// Against a search of everybody.
        #[test]
        fn it_is_always_the_oldest(steps in prop::collection::vec((0_u8..4, 0_u32..40), 1..400)) {
            let mut oldest = Oldest::new();
            let mut truth: BTreeMap<u32, u64> = BTreeMap::new();
            let mut next = 100;
            for (now, (step, name)) in (1_u64..).zip(steps) {
                let known: Vec<u32> = truth.keys().copied().collect();
                let chosen = known.get(name as usize % known.len().max(1)).copied();
                match (step, chosen) {
                    (0, Some(chosen)) => drop(truth.remove(&chosen)),
                    (1, Some(chosen)) => drop(truth.insert(chosen, now)),
                    (2, _) => {
                        let expected = truth.iter().min_by_key(|(_, heard)| **heard).map(|(name, _)| *name);
                        prop_assert_eq!(oldest.take(|name| truth.get(name).copied()), expected);
                        expected.map(|name| truth.remove(&name));
                    }
                    _ => {
                        next += 1;
                        truth.insert(next, now);
                        oldest.insert(next, now);
                    }
                }
                oldest.tidy(truth.len(), |name| truth.contains_key(name));
                prop_assert!(oldest.len() <= 2 * truth.len() + 16);
            }
        }
    }
}
