//! One address pool: what is reserved, what is leased, and which address comes next.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netloom_model::record::PoolRecord;
use netloom_model::{Error, Reason, Result};
use rustc_hash::FxHashMap;

use crate::bitmap::AddressSet;
use crate::owner::OwnerIndex;
use crate::span::{Family, Span, number};

/// An address of a pool, as the distance from its first address. Only IPv6 pools larger than a /64 have a
/// `high` part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Offset {
    high: u64,
    low: u64,
}

impl Offset {
    fn new(distance: u128) -> Self {
        Self { high: (distance >> 64) as u64, low: (distance & 0xffff_ffff_ffff_ffff) as u64 }
    }
}

/// The taken addresses of up to 2^64 neighbours.
#[derive(Clone, Debug, Default)]
struct Slice {
    taken: AddressSet,
    /// Leased addresses only; reserved ones are few and named by the record.
    owners: FxHashMap<u64, OwnerIndex>,
}

impl PartialEq for Slice {
    /// Equal addresses; which numbers the owners have does not matter.
    fn eq(&self, other: &Self) -> bool {
        let leased = |offset| other.owners.contains_key(offset);
        self.taken == other.taken && self.owners.len() == other.owners.len() && self.owners.keys().all(leased)
    }
}

/// Where automatic choice looks: the range, or the whole pool, up to 2^64 addresses.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Window {
    high: u64,
    first: u64,
    last: u64,
}

/// Who holds an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Held<'a> {
    /// Nobody can hold it: the reason.
    Never(&'static str),
    /// It is the gateway's.
    Gateway,
    /// It is the auxiliary address with this name.
    Auxiliary(&'a str),
    /// It is leased to this owner.
    Owner(OwnerIndex),
}

/// How full a pool is. All numbers are addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolUsage {
    /// The subnet.
    pub pool: IpNet,
    /// The part of it from which addresses are chosen.
    pub range: Option<IpNet>,
    /// The addresses of the subnet.
    pub size: u128,
    /// Leased to endpoints.
    pub used: u64,
    /// Never handed out: network and broadcast address, gateway, auxiliary addresses.
    pub reserved: u64,
    /// Held back until the kernel has let go of a deleted endpoint.
    pub quarantined: u64,
}

/// A pool of a network.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Pool {
    record: PoolRecord,
    family: Family,
    span: Span,
    window: Window,
    /// The offset inside the window at which the next automatic choice begins.
    cursor: u64,
    /// Slices with at least one taken address. All pools up to 2^64 addresses have one at most.
    slices: BTreeMap<u64, Box<Slice>>,
    used: u64,
    quarantined: u64,
    reserved: u64,
}

impl Pool {
    /// A pool as recorded, with its gateway and auxiliary addresses reserved.
    ///
    /// # Errors
    /// `AddressTaken` when two of them are the same, `AddressUnusable` when one is not for hosts.
    pub(crate) fn new(record: &PoolRecord) -> Result<Self> {
        let (family, span) = (Family::of(&record.pool), Span::of(&record.pool));
        let choice = record.range.as_ref().map_or(span, Span::of);
        if choice.first < span.first || choice.last > span.last {
            let range = record.range.unwrap_or(record.pool);
            let why = format!("a range must be a subnet of {}", record.pool);
            return Err(Error::invalid("range", range, why));
        }
        let first = Offset::new(choice.first - span.first);
        let last = Offset::new(choice.last - span.first);
        let last = if last.high == first.high { last.low } else { u64::MAX };
        let window = Window { high: first.high, first: first.low, last };
        let mut pool = Self {
            record: PoolRecord { range: record.range, ..PoolRecord::new(record.pool) },
            family,
            span,
            window,
            cursor: first.low,
            slices: BTreeMap::new(),
            used: 0,
            quarantined: 0,
            reserved: 0,
        };
        for number in [span.first, span.last] {
            if pool.unusable(number).is_some() {
                pool.set(Offset::new(number - span.first));
                pool.reserved += 1;
            }
        }
        // In this order a clash is reported with what the caller is more sure about as the holder.
        if let Some(gateway) = record.gateway {
            pool.reserve(gateway)?;
            pool.record.gateway = Some(gateway);
        }
        for (name, address) in &record.auxiliary {
            pool.reserve(*address)?;
            pool.record.auxiliary.insert(name.clone(), *address);
        }
        Ok(pool)
    }

    /// Gives the pool the first free address as its gateway.
    ///
    /// # Errors
    /// `AddressesExhausted`.
    pub(crate) fn choose_gateway(&mut self) -> Result<()> {
        let Window { high, first, last } = self.window;
        let free = self.next_free(high, first, last).ok_or_else(|| self.exhausted())?;
        let gateway = self.address(Offset { high, low: free });
        self.reserve(gateway)?;
        self.record.gateway = Some(gateway);
        Ok(())
    }

    /// What the store keeps of it.
    pub(crate) fn record(&self) -> &PoolRecord {
        &self.record
    }

    /// Whether an address belongs to the pool.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.record.pool.contains(&address)
    }

    /// The next free address after the last one chosen, going round at the end.
    pub(crate) fn next(&self) -> Option<IpAddr> {
        let Window { high, first, last } = self.window;
        let free = self.next_free(high, self.cursor, last).or_else(|| {
            let before = self.cursor.checked_sub(1).filter(|before| *before >= first)?;
            self.next_free(high, first, before)
        })?;
        Some(self.address(Offset { high, low: free }))
    }

    /// Leases a free address of the pool.
    pub(crate) fn lease(&mut self, address: IpAddr, owner: OwnerIndex) {
        let offset = self.offset(address);
        self.set(offset);
        self.slices.entry(offset.high).or_default().owners.insert(offset.low, owner);
        self.used += 1;
    }

    /// Lets the next automatic choice begin behind an address.
    pub(crate) fn move_cursor_behind(&mut self, address: IpAddr) {
        let Offset { high, low } = self.offset(address);
        let Window { high: window, first, last } = self.window;
        if high == window && (first..=last).contains(&low) {
            self.cursor = if low == last { first } else { low + 1 };
        }
    }

    /// The same, unless the next choice begins further on already.
    pub(crate) fn move_cursor_at_least_behind(&mut self, address: IpAddr) {
        if self.offset(address).low >= self.cursor {
            self.move_cursor_behind(address);
        }
    }

    /// Frees a leased address.
    pub(crate) fn release(&mut self, address: IpAddr, quarantined: bool) {
        let Offset { high, low } = self.offset(address);
        let Some(slice) = self.slices.get_mut(&high) else { return };
        if slice.owners.remove(&low).is_none() {
            return;
        }
        slice.taken.remove(low);
        if slice.taken.is_empty() {
            self.slices.remove(&high);
        }
        let count = if quarantined { &mut self.quarantined } else { &mut self.used };
        *count -= 1;
    }

    /// Counts a leased address as quarantined.
    pub(crate) fn quarantine(&mut self) {
        self.used -= 1;
        self.quarantined += 1;
    }

    /// Who holds an address of the pool.
    pub(crate) fn held(&self, address: IpAddr) -> Option<Held<'_>> {
        if let Some(why) = self.unusable(number(address)) {
            return Some(Held::Never(why));
        }
        let Offset { high, low } = self.offset(address);
        let slice = self.slices.get(&high).filter(|slice| slice.taken.contains(low))?;
        if let Some(owner) = slice.owners.get(&low) {
            return Some(Held::Owner(*owner));
        }
        if self.record.gateway == Some(address) {
            return Some(Held::Gateway);
        }
        let mut auxiliary = self.record.auxiliary.iter();
        auxiliary.find(|(_, taken)| **taken == address).map(|(name, _)| Held::Auxiliary(name))
    }

    /// How full it is.
    pub(crate) fn usage(&self) -> PoolUsage {
        PoolUsage {
            pool: self.record.pool,
            range: self.record.range,
            // A pool is never the whole IPv6 space, so this does not overflow.
            size: (self.span.last - self.span.first).saturating_add(1),
            used: self.used,
            reserved: self.reserved,
            quarantined: self.quarantined,
        }
    }

    /// The error for a pool without a free address. Every address of the window is taken then.
    pub(crate) fn exhausted(&self) -> Error {
        let Window { high, first, last } = self.window;
        let in_window = |number: &u128| {
            let offset = Offset::new(number - self.span.first);
            offset.high == high && (first..=last).contains(&offset.low)
        };
        let ends = [self.span.first, self.span.last].into_iter().filter(|end| self.unusable(*end).is_some());
        let named = self.record.gateway.iter().chain(self.record.auxiliary.values()).map(|ip| number(*ip));
        let reserved = ends.chain(named).filter(in_window).count() as u64;
        let used = (last - first).saturating_add(1).saturating_sub(reserved);
        let pool = self.record.range.unwrap_or(self.record.pool);
        Reason::AddressesExhausted { pool, used, reserved }.into()
    }

    fn reserve(&mut self, address: IpAddr) -> Result<()> {
        let pool = self.record.pool;
        if !self.contains(address) {
            let why = format!("it lies outside of {pool}");
            return Err(Reason::AddressUnusable { address, why }.into());
        }
        match self.held(address) {
            Some(held) => Err(taken(address, pool, held, String::new)),
            None => {
                self.set(self.offset(address));
                self.reserved += 1;
                Ok(())
            }
        }
    }

    /// Why nobody may have an address. Point-to-point pools (/31, /32, /127, /128) have no such address,
    /// other than in libnetwork.
    fn unusable(&self, number: u128) -> Option<&'static str> {
        if self.family.bits() - self.record.pool.prefix_len() < 2 {
            None
        } else if number == self.span.first {
            Some(match self.family {
                Family::V4 => "it is the network address of its pool",
                Family::V6 => "it is the router anycast address of its pool",
            })
        } else if number == self.span.last && self.family == Family::V4 {
            Some("it is the broadcast address of its pool")
        } else {
            None
        }
    }

    fn set(&mut self, offset: Offset) {
        self.slices.entry(offset.high).or_default().taken.insert(offset.low);
    }

    fn next_free(&self, high: u64, from: u64, to: u64) -> Option<u64> {
        match self.slices.get(&high) {
            Some(slice) => slice.taken.next_free(from, to),
            None => Some(from),
        }
    }

    /// The offset of an address of the pool; callers have checked that it is one.
    fn offset(&self, address: IpAddr) -> Offset {
        Offset::new(number(address).saturating_sub(self.span.first))
    }

    fn address(&self, offset: Offset) -> IpAddr {
        self.family.address(self.span.first + (u128::from(offset.high) << 64) + u128::from(offset.low))
    }
}

/// The error for an address that somebody holds; `owner` describes a lease.
pub(crate) fn taken(address: IpAddr, pool: IpNet, held: Held<'_>, owner: impl FnOnce() -> String) -> Error {
    let holder = match held {
        Held::Never(why) => return Reason::AddressUnusable { address, why: why.into() }.into(),
        Held::Gateway => "gateway".into(),
        Held::Auxiliary(name) => format!("auxiliary {name}"),
        Held::Owner(_) => owner(),
    };
    Reason::AddressTaken { address, pool, holder }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pool: &str, range: Option<&str>) -> PoolRecord {
        let range = range.map(|range| range.parse().expect("a range"));
        PoolRecord { range, ..PoolRecord::new(pool.parse().expect("a subnet")) }
    }

    /// Leases until nothing is free.
    fn drain(pool: &mut Pool) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(address) = pool.next() {
            pool.lease(address, 0);
            pool.move_cursor_behind(address);
            all.push(address.to_string());
        }
        all
    }

    #[test]
    fn what_each_size_of_pool_hands_out() {
        for (pool, range, expected) in [
            (
                "10.0.0.0/29",
                None,
                &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"][..],
            ),
            ("10.0.0.0/30", None, &["10.0.0.1", "10.0.0.2"]),
            ("10.0.0.0/31", None, &["10.0.0.0", "10.0.0.1"]),
            ("10.0.0.9/32", None, &["10.0.0.9"]),
            ("fd00::/126", None, &["fd00::1", "fd00::2", "fd00::3"]),
            ("fd00::/127", None, &["fd00::", "fd00::1"]),
            ("fd00::5/128", None, &["fd00::5"]),
            ("10.0.0.0/24", Some("10.0.0.4/30"), &["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"]),
            ("10.0.0.0/24", Some("10.0.0.0/30"), &["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
            ("10.0.0.0/24", Some("10.0.0.252/30"), &["10.0.0.252", "10.0.0.253", "10.0.0.254"]),
            (
                "fd00::/48",
                Some("fd00:0:0:7::8/126"),
                &["fd00:0:0:7::8", "fd00:0:0:7::9", "fd00:0:0:7::a", "fd00:0:0:7::b"],
            ),
            ("255.255.255.252/30", None, &["255.255.255.253", "255.255.255.254"]),
            (
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127",
                None,
                &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
            ),
        ] {
            let mut pool = Pool::new(&record(pool, range)).expect("a pool");
            assert_eq!(drain(&mut pool), expected, "{:?}", pool.record);
            let error = pool.exhausted().to_string();
            assert!(error.contains(&format!("{} in use", expected.len())), "{error}");
        }
    }

    #[test]
    fn a_released_address_comes_back_last() {
        let mut pool = Pool::new(&record("10.0.0.0/29", None)).expect("a pool");
        let first: IpAddr = "10.0.0.1".parse().expect("an address");
        for expected in [1, 2, 3, 4, 5, 6, 1, 2] {
            let address = pool.next().expect("free");
            assert_eq!(address.to_string(), format!("10.0.0.{expected}"));
            pool.lease(address, 0);
            pool.move_cursor_behind(address);
            pool.release(address, false);
        }
        assert_eq!(pool.held(first), None);
        assert_eq!(pool.usage().used, 0);
    }

    #[test]
    fn the_gateway_is_the_first_free_address_of_the_range() {
        let mut plain = record("10.0.0.0/24", Some("10.0.0.16/28"));
        plain.auxiliary.insert("router".into(), "10.0.0.16".parse().expect("an address"));
        let mut pool = Pool::new(&plain).expect("a pool");
        pool.choose_gateway().expect("free");
        assert_eq!(pool.record.gateway.map(|gw| gw.to_string()), Some("10.0.0.17".into()));
        assert_eq!(pool.usage().reserved, 4);
        let gateway = pool.record.gateway.expect("chosen");
        assert_eq!(pool.held(gateway), Some(Held::Gateway));
        assert_eq!(pool.next().map(|ip| ip.to_string()), Some("10.0.0.18".into()));
    }

    #[test]
    fn clashing_reservations_are_refused() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let aux =
            |list: &[(&str, &str)]| list.iter().map(|(name, at)| ((*name).to_owned(), ip(at))).collect();
        let base = record("10.0.0.0/24", None);
        for (record, text) in [
            (PoolRecord { gateway: Some(ip("10.0.0.0")), ..base.clone() }, "the network address"),
            (PoolRecord { gateway: Some(ip("10.0.0.255")), ..base.clone() }, "the broadcast address"),
            (PoolRecord { gateway: Some(ip("10.0.1.1")), ..base.clone() }, "outside of 10.0.0.0/24"),
            (PoolRecord { gateway: Some(ip("fd00::1")), ..base.clone() }, "outside of 10.0.0.0/24"),
            (
                PoolRecord {
                    gateway: Some(ip("10.0.0.5")),
                    auxiliary: aux(&[("a", "10.0.0.5")]),
                    ..base.clone()
                },
                "held by gateway",
            ),
            (
                PoolRecord { auxiliary: aux(&[("a", "10.0.0.5"), ("b", "10.0.0.5")]), ..base.clone() },
                "auxiliary a",
            ),
            (PoolRecord { range: Some("10.0.0.0/23".parse().expect("a net")), ..base }, "a range must be"),
        ] {
            let error = Pool::new(&record).expect_err(text).to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
