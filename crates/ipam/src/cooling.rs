//! Addresses that were released last: they are passed over as long as there are others.

use std::collections::VecDeque;

use rustc_hash::FxHashSet;

use crate::subnet::Offset;

/// How many cool down at a time in a subnet. When so many others were released after it, an address is free like any
/// other.
const COOLING: usize = 256;

/// Addresses in the order of their release.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Cooling {
    order: VecDeque<Offset>,
    members: FxHashSet<Offset>,
}

impl Cooling {
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(crate) fn contains(&self, offset: Offset) -> bool {
        !self.members.is_empty() && self.members.contains(&offset)
    }

    /// All of them, the first released first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Offset> {
        self.order.iter().copied()
    }

    /// Adds the one that was released last; the oldest of too many has cooled down.
    pub(crate) fn push(&mut self, offset: Offset) {
        self.order.push_back(offset);
        self.members.insert(offset);
        if self.order.len() > COOLING
            && let Some(oldest) = self.order.pop_front()
        {
            self.members.remove(&oldest);
        }
    }

    /// Takes one out that is taken again.
    pub(crate) fn remove(&mut self, offset: Offset) {
        if self.members.is_empty() || !self.members.remove(&offset) {
            return;
        }
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
        (0..300).for_each(|low| cooling.push(at(low)));
        assert_eq!((cooling.len(), cooling.iter().next()), (COOLING, Some(at(44))));
        assert!(!cooling.contains(at(43)) && cooling.contains(at(44)));
        cooling.remove(at(44));
        cooling.remove(at(44));
        cooling.remove(at(100));
        assert_eq!((cooling.len(), cooling.iter().next()), (COOLING - 2, Some(at(45))));
        assert_eq!(cooling.members.len(), cooling.len());
        (0..400).for_each(|low| cooling.remove(at(low)));
        assert_eq!(cooling, Cooling::default());
    }
}
