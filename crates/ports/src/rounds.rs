//! Which port was given last: the next search begins behind it.

use std::collections::VecDeque;
use std::net::IpAddr;

use netloom_model::{PortRange, Protocol};
use rustc_hash::FxHashMap;

/// How many searches are remembered. One that is forgotten begins at the front again.
const REMEMBERED: usize = 4_096;

/// An address, a protocol, and the range that was searched.
type Search = (IpAddr, Protocol, PortRange);

/// The port given last by each search.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    last: FxHashMap<Search, u16>,
    /// The oldest first.
    order: VecDeque<Search>,
}

impl Rounds {
    /// Where a search begins (libnetwork: behind the last one, and at the beginning of the range after its end).
    pub(crate) fn next(&self, address: IpAddr, protocol: Protocol, range: PortRange) -> u16 {
        match self.last.get(&(address, protocol, range)) {
            Some(last) if *last < range.last => last + 1,
            _ => range.first,
        }
    }

    /// A search has given this port.
    pub(crate) fn gave(&mut self, address: IpAddr, protocol: Protocol, range: PortRange, port: u16) {
        let search = (address, protocol, range);
        if self.last.insert(search, port).is_some() {
            return;
        }
        self.order.push_back(search);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.last.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_search_is_forgotten_first() {
        let mut rounds = Rounds::default();
        let range = PortRange { first: 10, last: 20 };
        let search = |n: usize| {
            let [.., a, b] = n.to_be_bytes();
            IpAddr::from([10, 0, a, b])
        };
        for n in 0..REMEMBERED {
            rounds.gave(search(n), Protocol::Tcp, range, 15);
        }
        assert_eq!(rounds.next(search(0), Protocol::Tcp, range), 16);
        rounds.gave(search(REMEMBERED), Protocol::Tcp, range, 20);
        assert_eq!(rounds.next(search(0), Protocol::Tcp, range), 10, "forgotten");
        assert_eq!(rounds.next(search(REMEMBERED), Protocol::Tcp, range), 10, "begun again behind the end");
        assert_eq!((rounds.last.len(), rounds.order.len()), (REMEMBERED, REMEMBERED));
    }
}
