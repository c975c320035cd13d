//! Addresses that were released last: they are passed over as long as there are others.

use std::collections::VecDeque;

use crate::subnet::Offset;

/// How many cool down at a time in a subnet. When so many others were released after it, an address is free like any
/// other: it comes back when choice, which goes round in order, comes to it.
///
/// So where at most so many are free, a released address is the last to come back; elsewhere it comes back after so many
/// releases at least, and in a pool that choice has not gone through yet after all that were never given. An order of all
/// releases would take memory for each address that was ever given, and not only for those that are held: 16 bytes each at
/// least, for two neighbours in the order and a place in a table, as much as those held may take altogether; and an IPv6 pool
/// would never give it back. So few are looked through in no time, and a thousand networks keep them in a processor's cache.
const COOLING: usize = 64;

/// Addresses in the order of their release.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Cooling {
    /// Oldest first.
    order: VecDeque<Offset>,
}

impl Cooling {
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(crate) fn contains(&self, offset: Offset) -> bool {
        self.order.contains(&offset)
    }

    /// All of them, the first released first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Offset> {
        self.order.iter().copied()
    }

    /// Adds the one that was released last; the oldest of too many has cooled down.
    pub(crate) fn push(&mut self, offset: Offset) {
        if self.order.len() == COOLING {
            self.order.pop_front();
        }
        self.order.push_back(offset);
    }

    /// Takes one out that is taken again.
    pub(crate) fn remove(&mut self, offset: Offset) {
        if let Some(place) = self.order.iter().position(|cooling| *cooling == offset) {
            self.order.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(low: u64) -> Offset {
        Offset { high: 0, low }
    }

    #[test]
    fn only_so_many_cool_down_and_the_oldest_goes_first() {
        let mut cooling = Cooling::default();
        (0..100).for_each(|low| cooling.push(at(low)));
        assert_eq!((cooling.len(), cooling.iter().next()), (COOLING, Some(at(36))));
        assert!(!cooling.contains(at(35)) && cooling.contains(at(36)));
        cooling.remove(at(36));
        cooling.remove(at(36));
        cooling.remove(at(80));
        assert_eq!((cooling.len(), cooling.iter().next()), (COOLING - 2, Some(at(37))));
        (0..400).for_each(|low| cooling.remove(at(low)));
        assert_eq!(cooling, Cooling::default());
    }
}
