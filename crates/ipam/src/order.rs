//! How far the choice of addresses may have come, as it is recorded: after a start it goes on behind that.
//!
//! What is taken is known from the records of endpoints, but not what was released last: its record is gone, and neighbours
//! may still know its owner. So a mark is recorded for each pool, some way ahead of where choice is. One is written only
//! when choice has passed the one before, together with the endpoint whose address did so. Choice that goes on at the
//! mark comes to everything that was released before only after all of the rest.

use std::net::IpAddr;

use netloom_model::NetworkId;

use crate::default::DefaultIpam;
use crate::request::Lease;
use crate::span::{Family, number};

/// How many addresses ahead a mark is, where the pool has four times as many.
const AHEAD: u128 = 64;

/// Where choice goes on in a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The first address of those that are chosen from.
    pub(crate) first: IpAddr,
    /// The last one.
    pub(crate) last: IpAddr,
    /// The one that is looked at next.
    pub(crate) next: IpAddr,
}

impl Place {
    fn size(&self) -> u128 {
        (number(self.last) - number(self.first)).saturating_add(1)
    }

    fn has(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&address)
    }

    /// Whether choice that goes on at a mark has all that was chosen before behind it. A mark that is half a round or
    /// more ahead is one that was passed. One that was set later than this place was told lies less far ahead.
    fn is_covered_by(&self, mark: IpAddr) -> bool {
        let (size, first) = (self.size(), number(self.first));
        let ahead = (number(mark) - first + (size - (number(self.next) - first))) % size;
        ahead.saturating_mul(2) < size
    }

    /// A mark as far ahead as is good for a pool of this size: of a small one, a quarter.
    fn mark(&self) -> IpAddr {
        let (size, first) = (self.size(), number(self.first));
        let at = (number(self.next) - first + AHEAD.min(size / 4)) % size;
        let family = if self.first.is_ipv4() { Family::V4 } else { Family::V6 };
        family.address(first + at)
    }
}

/// The marks of a network's pools, and whether they are to be written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Order {
    marks: Vec<IpAddr>,
    due: bool,
}

impl Order {
    /// The marks as they are recorded, one for each pool at most.
    #[must_use]
    pub fn recorded(marks: Vec<IpAddr>) -> Self {
        Self { marks, due: false }
    }

    /// Choice has come to a place.
    pub fn advance(&mut self, place: &Place) {
        let known = self.marks.iter_mut().find(|mark| place.has(**mark));
        match known {
            Some(mark) if place.is_covered_by(*mark) => return,
            Some(mark) => *mark = place.mark(),
            None => self.marks.push(place.mark()),
        }
        self.due = true;
    }

    /// The marks, if they are to be written: whoever asks first does it.
    pub fn take_due(&mut self) -> Option<Vec<IpAddr>> {
        std::mem::take(&mut self.due).then(|| self.marks.clone())
    }

    /// They were not written, or perhaps not.
    pub fn not_written(&mut self) {
        self.due = true;
    }
}

/// An endpoint's addresses, and where choice goes on in the pool of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leased {
    /// The addresses.
    pub lease: Lease,
    /// The places, where they are to be recorded.
    pub places: [Option<Place>; 2],
}

impl From<Lease> for Leased {
    /// A lease of a driver that remembers the order by itself, or has none.
    fn from(lease: Lease) -> Self {
        Self { lease, places: [None; 2] }
    }
}

impl DefaultIpam {
    /// Where choice goes on in the pools that a lease of a network is from.
    #[must_use]
    pub fn places(&self, network: NetworkId, lease: &Lease) -> [Option<Place>; 2] {
        let mut places = [None; 2];
        let Some((space, network)) = self.network(network) else { return places };
        for (place, address) in places.iter_mut().zip(lease.addresses()) {
            *place = network.pool_of(address).map(|pool| pool.place(space.subnet(pool.slot)));
        }
        places
    }

    /// Lets choice go on at recorded marks, after everything else was restored. One that is no place to choose from is
    /// passed over: choice goes on behind the highest address in use then, as it does where nothing is recorded.
    pub fn go_on_at(&mut self, network: NetworkId, marks: &[IpAddr]) {
        let Ok((space, network)) = self.network_mut(network) else { return };
        for mark in marks {
            if let Some(pool) = network.pool_of_mut(*mark)
                && let Some(offset) = space.subnet(pool.slot).offset(*mark)
            {
                pool.go_on_at(offset);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(first: &str, last: &str, next: &str) -> Place {
        let address = |text: &str| text.parse().expect("an address");
        Place { first: address(first), last: address(last), next: address(next) }
    }

    fn marks(text: &[&str]) -> Vec<IpAddr> {
        text.iter().map(|mark| mark.parse().expect("an address")).collect()
    }

    #[test]
    fn a_mark_is_due_each_time_that_choice_has_passed_it() {
        let mut order = Order::default();
        let at = |next: &str| place("10.0.0.0", "10.0.255.255", next);
        order.advance(&at("10.0.0.3"));
        assert_eq!(order.take_due(), Some(marks(&["10.0.0.67"])));
        for next in ["10.0.0.4", "10.0.0.67"] {
            order.advance(&at(next));
            assert_eq!(order.take_due(), None, "{next}");
        }
        order.advance(&at("10.0.0.68"));
        assert_eq!(order.take_due(), Some(marks(&["10.0.0.132"])));
        order.not_written();
        assert_eq!(order.take_due(), Some(marks(&["10.0.0.132"])));
        // An answer that comes late.
        order.advance(&at("10.0.0.9"));
        assert_eq!(order.take_due(), None);
        // Round, and another pool of the same network.
        for next in ["10.0.100.0", "10.0.200.0", "10.0.255.250"] {
            order.advance(&at(next));
        }
        order.advance(&place("fd00::", "fd00::ffff:ffff:ffff:ffff", "fd00::2"));
        assert_eq!(order.take_due(), Some(marks(&["10.0.0.58", "fd00::42"])));
    }

    #[test]
    fn the_smallest_pools_have_marks_too() {
        let all = [("10.0.0.0", "10.0.0.0"), ("10.0.0.0", "10.0.0.1"), ("::", "::ffff:ffff:ffff:ffff")];
        for (first, last) in all {
            let mut order = Order::default();
            order.advance(&place(first, last, first));
            assert_eq!(order.take_due().map(|marks| marks.len()), Some(1), "{first} {last}");
        }
        let mut order = Order::recorded(marks(&["10.0.0.0"]));
        order.advance(&place("10.0.0.0", "10.0.0.1", "10.0.0.1"));
        assert_eq!(order.take_due(), Some(marks(&["10.0.0.1"])));
    }

    proptest! {
        /// Choice takes the next free address each time, some of which are taken for good; it is cut short anywhere, and
        /// goes on at the mark: that is never behind where choice has come to, nor half a round ahead of it.
        #[test]
        fn a_crash_leaves_choice_where_it_was_or_ahead(
            size in 1u32..700,
            taken in prop::collection::vec(any::<u16>(), 0..200),
            lives in prop::collection::vec(1u32..200, 1..12),
        ) {
            let address = |at: u32| IpAddr::V4((0x0a00_0000 + at).into());
            let taken: std::collections::BTreeSet<_> = taken.into_iter().map(|at| u32::from(at) % size).collect();
            prop_assume!(taken.len() < size as usize);
            let (mut order, mut at, mut written, mut choices) = (Order::default(), 0, 0, 0);
            for life in &lives {
                for _ in 0..*life {
                    let next = (at..size).chain(0..at).find(|at| !taken.contains(at)).expect("one is free");
                    at = (next + 1) % size;
                    order.advance(&Place { first: address(0), last: address(size - 1), next: address(at) });
                    written += u32::from(order.take_due().is_some());
                    choices += 1;
                }
                // What is recorded is all that is left.
                let IpAddr::V4(mark) = order.marks[0] else { unreachable!("IPv4") };
                let mark = u32::from(mark) - 0x0a00_0000;
                let ahead = (mark + size - at) % size;
                prop_assert!(2 * ahead < size, "{mark} is {ahead} ahead of {at} in {size}");
                if taken.is_empty() {
                    prop_assert!(ahead <= (size / 4).min(64), "{mark} is {ahead} ahead of {at} in {size}");
                }
                at = mark;
            }
            if taken.is_empty() {
                let each = (size / 4).min(64) + 1;
                let lives = u32::try_from(lives.len()).expect("few");
                prop_assert!(written <= choices / each + 1 + lives, "{written} of {choices}");
            }
        }
    }
}
