//! Which ports lead where: whole ranges, found by any port of them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Ports of an address that clients connect to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FrontRange {
    /// The address. `0.0.0.0` and `::` stand for every address of their family, and yield to ranges that name one.
    pub address: IpAddr,
    /// The first port; not 0.
    pub first: u16,
    /// The last port; not before the first.
    pub last: u16,
}

impl FrontRange {
    /// One port alone.
    #[must_use]
    pub fn one(address: IpAddr, port: u16) -> Self {
        Self { address, first: port, last: port }
    }

    /// Is this one of them?
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for FrontRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", SocketAddr::new(self.address, self.first))?;
        if self.last == self.first { Ok(()) } else { write!(f, "-{}", self.last) }
    }
}

/// Ranges, none of which has a port of another one of its address. Each is one entry, however long it is.
#[derive(Debug)]
pub(crate) struct Fronts<W> {
    /// By their first ports.
    by_address: HashMap<IpAddr, BTreeMap<u16, Lead<W>>>,
}

/// Where a range leads, port by port.
#[derive(Debug)]
struct Lead<W> {
    last: u16,
    to: SocketAddr,
    whose: W,
}

impl<W> Fronts<W> {
    pub(crate) fn new() -> Self {
        Self { by_address: HashMap::new() }
    }

    /// Has a range lead to as many ports, of which `to` is the first. Where it overlaps another one nothing is changed,
    /// and the other one returned.
    pub(crate) fn insert(
        &mut self,
        front: FrontRange,
        to: SocketAddr,
        whose: W,
    ) -> Result<(), (FrontRange, SocketAddr)> {
        let ranges = self.by_address.entry(front.address).or_default();
        // The last one that begins before this one ends is the only one that can overlap it first.
        if let Some((first, lead)) = ranges.range(..=front.last).next_back()
            && lead.last >= front.first
        {
            let holder = FrontRange { address: front.address, first: *first, last: lead.last };
            return Err((holder, lead.to));
        }
        ranges.insert(front.first, Lead { last: front.last, to, whose });
        Ok(())
    }

    /// Takes a range out that was put in.
    pub(crate) fn remove(&mut self, front: FrontRange) {
        let Some(ranges) = self.by_address.get_mut(&front.address) else { return };
        ranges.remove(&front.first);
        if ranges.is_empty() {
            self.by_address.remove(&front.address);
        }
    }

    /// Where a client goes that wants to go there, and whose that is.
    pub(crate) fn find(&self, wanted: SocketAddr) -> Option<(SocketAddr, &W)> {
        let any = match wanted {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        [wanted.ip(), any].iter().find_map(|address| {
            let (first, lead) = self.by_address.get(address)?.range(..=wanted.port()).next_back()?;
            let mut to = lead.to;
            // No range leads beyond the last port.
            to.set_port(lead.to.port().saturating_add(wanted.port() - first));
            (wanted.port() <= lead.last).then_some((to, &lead.whose))
        })
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_address.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use proptest::prelude::*;

    use super::{FrontRange, Fronts};

    /// Those of two families, named and not.
    const ADDRESSES: [&str; 5] = ["::", "::1", "fd00::1", "0.0.0.0", "127.0.0.1"];
    /// Ports at both ends of all that there are.
    const LOW: u16 = 24;
    const HIGH: u16 = u16::MAX - LOW;

    fn address(which: usize) -> IpAddr {
        ADDRESSES[which % ADDRESSES.len()].parse().expect("an address")
    }

    fn all_ports() -> impl Iterator<Item = u16> {
        (1..=LOW).chain(HIGH..=u16::MAX)
    }

    fn range() -> impl Strategy<Value = FrontRange> {
        let port = prop_oneof![1..=LOW, HIGH..=u16::MAX];
        let end = prop_oneof![8 => 0..5_u16, 1 => Just(u16::MAX)];
        (0..ADDRESSES.len(), port, end).prop_map(|(which, first, more)| {
            let last = first.saturating_add(more);
            FrontRange { address: address(which), first, last }
        })
    }

    /// Every range by itself, looked through from the first to the last.
    type Plain = Vec<(FrontRange, SocketAddr, usize)>;

    fn look(plain: &Plain, address: IpAddr, port: u16) -> Option<(SocketAddr, usize)> {
        let (front, to, whose) =
            plain.iter().find(|(front, ..)| front.address == address && front.contains(port))?;
        Some((SocketAddr::new(to.ip(), to.port() + (port - front.first)), *whose))
    }

    proptest! {
        /// Against a list of all ranges, which is asked port by port.
        #[test]
        fn every_port_is_found_as_if_it_were_alone(
            steps in prop::collection::vec((0..4_u8, range(), any::<u16>()), 1..40),
        ) {
            let mut fronts = Fronts::new();
            let mut plain = Plain::new();
            for (whose, (step, front, chosen)) in steps.into_iter().enumerate() {
                if step == 0 && !plain.is_empty() {
                    let (gone, ..) = plain.swap_remove(usize::from(chosen) % plain.len());
                    fronts.remove(gone);
                } else {
                    // As far up as the range allows.
                    let port = chosen.clamp(1, u16::MAX - (front.last - front.first));
                    let to = SocketAddr::from(([10, 0, 0, 1], port));
                    let taken = all_ports()
                        .any(|port| front.contains(port) && look(&plain, front.address, port).is_some());
                    match fronts.insert(front, to, whose) {
                        Ok(()) => {
                            prop_assert!(!taken, "{} is taken", front);
                            plain.push((front, to, whose));
                        }
                        Err((holder, holder_to)) => {
                            prop_assert!(taken, "{} is free", front);
                            let known = plain.iter().any(|(range, to, _)| (*range, *to) == (holder, holder_to));
                            prop_assert!(known, "{} is none", holder);
                            prop_assert!(holder.first <= front.last && front.first <= holder.last);
                        }
                    }
                }
                prop_assert_eq!(fronts.len(), plain.len());
            }
            for asked in ADDRESSES.map(|text| text.parse::<IpAddr>().expect("an address")) {
                let any: IpAddr = if asked.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
                for port in all_ports() {
                    let expected = look(&plain, asked, port).or_else(|| look(&plain, any, port));
                    let found = fronts.find(SocketAddr::new(asked, port)).map(|(to, whose)| (to, *whose));
                    prop_assert_eq!(found, expected, "{} {}", asked, port);
                }
            }
        }
    }

    #[test]
    fn a_row_of_sixty_thousand_is_one_entry() {
        let mut fronts = Fronts::new();
        let row = FrontRange { address: address(1), first: 5000, last: 64_999 };
        let to: SocketAddr = "10.0.0.1:5001".parse().expect("an address");
        fronts.insert(row, to, ()).expect("free");
        assert_eq!(fronts.len(), 1);
        let find = |port| fronts.find(SocketAddr::new(row.address, port)).map(|(to, ())| to.port());
        assert_eq!([4999, 5000, 64_999, 65_000].map(find), [None, Some(5001), Some(65_000), None]);
        fronts.remove(row);
        assert!(fronts.by_address.is_empty());
    }

    #[test]
    fn ranges_are_written_as_addresses_are() {
        let mut range = FrontRange::one(address(1), 80);
        assert_eq!(range.to_string(), "[::1]:80");
        range.last = 90;
        assert_eq!(range.to_string(), "[::1]:80-90");
        assert!(range.contains(80) && range.contains(90) && !range.contains(91));
    }
}
