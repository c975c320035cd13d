//! The reference: plain maps, searched in full.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// How many endpoints there are.
pub(crate) const OWNERS: u64 = 40;

/// How many released addresses cool down.
const COOLING: usize = 64;

/// An address of each family, where one is asked for.
pub(crate) type Wanted = [Option<IpAddr>; 2];

#[derive(Clone, PartialEq, Eq, Debug)]
enum Holder {
    Nobody,
    Gateway,
    Endpoint(u64),
    Quarantine(u64),
    Reservation(String),
}

/// One family of a network: one pool.
pub(crate) struct Family {
    net: IpNet,
    /// First and last address that is chosen.
    window: (u128, u128),
    taken: BTreeMap<u128, Holder>,
    cooling: VecDeque<u128>,
    cursor: u128,
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

impl Family {
    fn new((net, range, gateway): &(&str, Option<&str>, &str)) -> Self {
        let net: IpNet = net.parse().expect("a subnet");
        let range: IpNet = range.map_or(net, |range| range.parse().expect("a range"));
        let mut first = number(range.network());
        let last = number(range.broadcast()).min(first | u128::from(u64::MAX));
        let mut taken = BTreeMap::from([(number(net.network()), Holder::Nobody)]);
        if net.addr().is_ipv4() {
            taken.insert(number(net.broadcast()), Holder::Nobody);
        }
        taken.insert(number(gateway.parse().expect("an address")), Holder::Gateway);
        let window = (first, last);
        first = window.0;
        Self { net, window, taken, cooling: VecDeque::new(), cursor: first }
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.net {
            IpNet::V4(_) => Ipv4Addr::from(u32::try_from(number).expect("IPv4")).into(),
            IpNet::V6(_) => Ipv6Addr::from(number).into(),
        }
    }

    /// An address counted from two before the window.
    pub(crate) fn address_near(&self, place: u128) -> IpAddr {
        self.address(self.window.0.saturating_sub(2) + place)
    }

    fn is_free(&self, x: u128) -> bool {
        !self.taken.contains_key(&x) && !self.cooling.contains(&x)
    }

    /// The next one in order. Never more are taken than a few beyond the number of endpoints.
    fn next_in_order(&self) -> Option<u128> {
        let (first, last) = self.window;
        let from = (self.cursor..=last).take(1_000).find(|x| self.is_free(*x));
        from.or_else(|| (first..self.cursor).take(1_000).find(|x| self.is_free(*x)))
    }

    fn choose(&self, wanted: Option<IpAddr>, name: &str) -> Option<u128> {
        let Some(wanted) = wanted else {
            let cooled =
                || self.cooling.iter().copied().find(|x| (self.window.0..=self.window.1).contains(x));
            return self.next_in_order().or_else(cooled);
        };
        let x = number(wanted);
        let usable = match self.taken.get(&x) {
            None => true,
            Some(Holder::Reservation(kept)) => kept == name,
            Some(_) => false,
        };
        (self.net.contains(&wanted) && usable).then_some(x)
    }

    fn take(&mut self, x: u128, holder: Holder) {
        if self.next_in_order() == Some(x) {
            self.cursor = if x == self.window.1 { self.window.0 } else { x + 1 };
        }
        self.cooling.retain(|cooling| *cooling != x);
        self.taken.insert(x, holder);
    }

    fn cool(&mut self, x: u128) {
        self.taken.remove(&x);
        self.cooling.push_back(x);
        if self.cooling.len() > COOLING {
            self.cooling.pop_front();
        }
    }

    /// Used, reserved and quarantined addresses.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let count = |kind: fn(&Holder) -> bool| self.taken.values().filter(|held| kind(held)).count() as u64;
        let used = count(|held| matches!(held, Holder::Endpoint(_)));
        let quarantined = count(|held| matches!(held, Holder::Quarantine(_)));
        (used, self.taken.len() as u64 - used - quarantined, quarantined)
    }

    /// How many addresses nobody holds.
    pub(crate) fn free(&self) -> u128 {
        let size = number(self.net.broadcast()) - number(self.net.network()) + 1;
        size - self.taken.len() as u128
    }
}

#[derive(Clone, Debug)]
struct Lease {
    addresses: Vec<IpAddr>,
    /// The reservation that gets its address back.
    reservation: Option<String>,
    quarantined: bool,
}

pub(crate) struct Network {
    pub(crate) families: [Family; 2],
    leases: BTreeMap<u64, Lease>,
    reservations: BTreeMap<String, Vec<IpAddr>>,
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

impl Network {
    pub(crate) fn new(pools: &[(&str, Option<&str>, &str); 2]) -> Self {
        let families = [Family::new(&pools[0]), Family::new(&pools[1])];
        Self { families, leases: BTreeMap::new(), reservations: BTreeMap::new() }
    }

    pub(crate) fn lease(&mut self, owner: u64, name: &str, wanted: Wanted) -> Option<Vec<IpAddr>> {
        if let Some(lease) = self.leases.get(&owner) {
            let same = wanted.iter().flatten().all(|address| lease.addresses.contains(address));
            return (same && !lease.quarantined).then(|| lease.addresses.clone());
        }
        let kept = self.reservations.get(name).cloned().unwrap_or_default();
        let choose = |n: usize| {
            let kept = kept.iter().copied().find(|address| family(*address) == n);
            self.families[n].choose(wanted[n].or(kept), name)
        };
        let chosen = [choose(0)?, choose(1)?];
        let mut lease = Lease { addresses: Vec::new(), reservation: None, quarantined: false };
        for (pool, x) in self.families.iter_mut().zip(chosen) {
            if let Some(Holder::Reservation(kept)) = pool.taken.get(&x) {
                lease.reservation = Some(kept.clone());
                pool.taken.insert(x, Holder::Endpoint(owner));
            } else {
                pool.take(x, Holder::Endpoint(owner));
            }
            lease.addresses.push(pool.address(x));
        }
        self.leases.insert(owner, lease.clone());
        Some(lease.addresses)
    }

    pub(crate) fn release(&mut self, owner: u64) {
        let Some(lease) = self.leases.remove(&owner) else { return };
        for address in lease.addresses {
            let pool = &mut self.families[family(address)];
            let kept = lease
                .reservation
                .as_ref()
                .filter(|name| self.reservations.get(*name).is_some_and(|kept| kept.contains(&address)));
            match kept {
                Some(name) => {
                    pool.taken.insert(number(address), Holder::Reservation(name.clone()));
                }
                None => pool.cool(number(address)),
            }
        }
    }

    pub(crate) fn quarantine(&mut self, owner: u64) {
        let Some(lease) = self.leases.get_mut(&owner) else { return };
        lease.quarantined = true;
        for address in &lease.addresses {
            let pool = &mut self.families[family(*address)];
            pool.taken.insert(number(*address), Holder::Quarantine(owner));
        }
    }

    /// Whether it can be done; does it then.
    pub(crate) fn reserve(&mut self, name: &str, addresses: &[IpAddr]) -> bool {
        if let Some(kept) = self.reservations.get(name) {
            return kept == addresses;
        }
        let mut of_endpoints = Vec::new();
        for address in addresses {
            let pool = &self.families[family(*address)];
            match pool.taken.get(&number(*address)) {
                None if pool.net.contains(address) => {}
                Some(Holder::Endpoint(owner) | Holder::Quarantine(owner))
                    if format!("e{}", owner % 10) == name =>
                {
                    of_endpoints.push((*owner, *address));
                }
                _ => return false,
            }
        }
        for address in addresses {
            let pool = &mut self.families[family(*address)];
            if of_endpoints.iter().all(|(_, held)| held != address) {
                pool.cooling.retain(|cooling| *cooling != number(*address));
                pool.taken.insert(number(*address), Holder::Reservation(name.to_owned()));
            }
        }
        for (owner, _) in of_endpoints {
            self.leases.get_mut(&owner).expect("it holds it").reservation = Some(name.to_owned());
        }
        self.reservations.insert(name.to_owned(), addresses.to_vec());
        true
    }

    pub(crate) fn unreserve(&mut self, name: &str) -> bool {
        let Some(addresses) = self.reservations.remove(name) else { return false };
        for address in addresses {
            let pool = &mut self.families[family(address)];
            match pool.taken.get(&number(address)) {
                Some(Holder::Reservation(_)) => pool.cool(number(address)),
                Some(Holder::Endpoint(owner) | Holder::Quarantine(owner)) => {
                    self.leases.get_mut(owner).expect("it holds it").reservation = None;
                }
                held => panic!("{address} was reserved for {name} and is held by {held:?}"),
            }
        }
        true
    }

    /// What is not recorded is forgotten: quarantine, what cools down, and which address comes next.
    pub(crate) fn reboot(&mut self) {
        let gone: Vec<_> = self.quarantined().collect();
        gone.into_iter().for_each(|owner| self.release(owner));
        for pool in &mut self.families {
            pool.cooling.clear();
            pool.cursor = pool.window.0;
        }
        for lease in self.leases.values() {
            for address in &lease.addresses {
                let (pool, x) = (&mut self.families[family(*address)], number(*address));
                let (first, last) = pool.window;
                if (pool.cursor..=last).contains(&x) {
                    pool.cursor = if x == last { first } else { x + 1 };
                }
            }
        }
    }

    pub(crate) fn quarantined(&self) -> impl Iterator<Item = u64> {
        self.leases.iter().filter(|(_, lease)| lease.quarantined).map(|(owner, _)| *owner)
    }

    pub(crate) fn leases(&self) -> impl Iterator<Item = (u64, &[IpAddr])> {
        self.leases.iter().map(|(owner, lease)| (*owner, lease.addresses.as_slice()))
    }

    pub(crate) fn reservations(&self) -> impl Iterator<Item = (&str, &[IpAddr])> {
        self.reservations.iter().map(|(name, addresses)| (name.as_str(), addresses.as_slice()))
    }

    /// Every address that is not free, with a part of the text that says who holds it.
    pub(crate) fn holders(&self) -> Vec<(IpAddr, String)> {
        let text = |holder: &Holder| match holder {
            Holder::Nobody => "its pool".to_owned(),
            Holder::Gateway => "gateway".to_owned(),
            Holder::Endpoint(owner) => format!("endpoint \"e{}\"", owner % 10),
            Holder::Quarantine(owner) => format!("quarantine of endpoint {owner:012x}"),
            Holder::Reservation(name) => format!("reservation {name:?}"),
        };
        let of = |pool: &Family| {
            let held = pool.taken.iter().filter(|(_, held)| **held != Holder::Nobody);
            held.map(|(x, held)| (pool.address(*x), text(held))).collect::<Vec<_>>()
        };
        self.families.iter().flat_map(of).collect()
    }
}
