//! A set of numbers kept as runs: one entry per gap, whatever the runs' lengths.

use std::collections::BTreeMap;

/// A set of `u64` stored as disjoint runs that never touch, so equal sets are equal values.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct RunSet {
    /// First number of a run to its last, both inside.
    runs: BTreeMap<u64, u64>,
}

impl RunSet {
    /// The run that holds `x`.
    fn run_of(&self, x: u64) -> Option<(u64, u64)> {
        let (&first, &last) = self.runs.range(..=x).next_back()?;
        (x <= last).then_some((first, last))
    }

    /// The last number of the run that holds `x`.
    pub(crate) fn run_end(&self, x: u64) -> Option<u64> {
        if self.runs.is_empty() {
            return None;
        }
        self.run_of(x).map(|(_, last)| last)
    }

    /// Adds every number from `first` to `last`.
    pub(crate) fn insert(&mut self, first: u64, last: u64) {
        let (mut from, mut to) = (first, last);
        // A run that ends right before `first` grows; one that begins right after `last` is swallowed.
        if let Some((start, end)) = self.run_of(first.saturating_sub(1)).or_else(|| self.run_of(first)) {
            from = from.min(start);
            to = to.max(end);
        }
        while let Some((&start, &end)) = self.runs.range(from..=to.saturating_add(1)).next() {
            self.runs.remove(&start);
            to = to.max(end);
        }
        self.runs.insert(from, to);
    }

    /// Takes every number from `first` to `last` out.
    pub(crate) fn remove(&mut self, first: u64, last: u64) {
        if let Some((start, end)) = self.run_of(first)
            && start < first
        {
            self.runs.insert(start, first - 1);
            if end > last {
                self.runs.insert(last + 1, end);
            }
        }
        while let Some((&start, &end)) = self.runs.range(first..=last).next() {
            self.runs.remove(&start);
            if end > last {
                self.runs.insert(last + 1, end);
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
    fn runs_merge_and_split_at_both_ends_of_the_range() {
        let mut set = RunSet::default();
        set.insert(u64::MAX, u64::MAX);
        set.insert(0, 0);
        set.insert(1, u64::MAX - 1);
        assert_eq!(set.runs.len(), 1);
        assert_eq!(set.run_end(0), Some(u64::MAX));
        set.remove(5, 6);
        assert_eq!((set.run_end(0), set.run_end(5), set.run_end(7)), (Some(4), None, Some(u64::MAX)));
        set.insert(6, 6);
        assert_eq!((set.run_end(5), set.run_end(6)), (None, Some(u64::MAX)));
        set.remove(0, u64::MAX);
        assert_eq!(set, RunSet::default());
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 1..80)) {
            let (mut set, mut plain) = (RunSet::default(), BTreeSet::new());
            for (add, first, len) in steps {
                let last = first + len;
                if add {
                    set.insert(first, last);
                    plain.extend(first..=last);
                } else {
                    set.remove(first, last);
                    plain.retain(|x| !(first..=last).contains(x));
                }
                for x in 0..80 {
                    let end = (x..80).take_while(|y| plain.contains(y)).last();
                    prop_assert_eq!(set.run_end(x), end);
                }
                let gaps = plain.iter().filter(|x| !plain.contains(&(*x + 1))).count();
                prop_assert_eq!(set.runs.len(), gaps);
            }
        }
    }
}
