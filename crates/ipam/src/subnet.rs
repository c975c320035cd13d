//! A subnet in use: which of its addresses are taken, and which cool down.
//!
//! Mostly one network has a subnet. Networks whose drivers can share one, such as macvlan networks of different
//! parents, are tenants of the same subnet: they choose from one set of addresses, so none is handed out twice.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netloom_model::{Holder, NetworkId, ObjectKind};

use crate::addresses::AddressMap;
use crate::cooling::Cooling;
use crate::span::{Family, Span, number};

/// The number of a tenant of a subnet.
pub(crate) type TenantNo = u8;

/// The number of an owner in its network, in 24 bits.
pub(crate) type OwnerNo = u32;

/// The gateway of the tenant's pool.
pub(crate) const GATEWAY: OwnerNo = 0xff_ffff;
/// One of the auxiliary addresses of the tenant's pool.
pub(crate) const AUXILIARY: OwnerNo = 0xff_fffe;
/// Owners have smaller numbers.
pub(crate) const MAX_OWNERS: OwnerNo = 0xff_fffe;

/// The first or last address of a subnet, which nobody can have.
const END: u32 = u32::MAX;
/// Tenants have smaller numbers.
const MAX_TENANTS: usize = 255;

/// An address of a subnet, as the distance from its first address. Only IPv6 subnets larger than a /64 have a
/// `high` part.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Offset {
    pub high: u64,
    pub low: u64,
}

impl Offset {
    pub(crate) fn new(distance: u128) -> Self {
        Self { high: (distance >> 64) as u64, low: (distance & 0xffff_ffff_ffff_ffff) as u64 }
    }
}

/// Where automatic choice looks: a range, or the whole subnet, up to 2^64 addresses.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Window {
    pub high: u64,
    pub first: u64,
    pub last: u64,
}

impl Window {
    pub(crate) fn contains(&self, offset: Offset) -> bool {
        offset.high == self.high && (self.first..=self.last).contains(&offset.low)
    }
}

/// An address that can be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Free {
    /// The next one in order.
    Next(Offset),
    /// There is no other: the one of those that cool down which was released first.
    Cooled(Offset),
}

/// Who holds an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Held {
    /// Nobody can hold it: the reason.
    Never(&'static str),
    /// An owner of a tenant.
    By(TenantNo, OwnerNo),
}

/// A network that has a pool in the subnet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tenant {
    pub network: NetworkId,
    pub name: Box<str>,
    /// Whether it lets others have pools in the subnet.
    pub shares: bool,
}

impl Tenant {
    /// The network in an error text.
    pub(crate) fn holder(&self) -> Holder {
        Holder::new(ObjectKind::Network, self.network, &*self.name)
    }
}

/// A subnet in use.
#[derive(Clone, Debug)]
pub(crate) struct Subnet {
    net: IpNet,
    family: Family,
    span: Span,
    /// Every 2^64 neighbours of which at least one is taken. All subnets up to 2^64 addresses have one at most.
    slices: BTreeMap<u64, Box<AddressMap>>,
    cooling: Cooling,
    tenants: Vec<Option<Tenant>>,
    /// What may be somebody's and nobody knows, as numbers.
    doubts: Vec<Span>,
}

impl PartialEq for Subnet {
    /// Equal addresses; which numbers owners and tenants have does not matter.
    fn eq(&self, other: &Self) -> bool {
        let taken = |subnet: &Self| subnet.taken().map(|(offset, _)| offset).collect::<Vec<_>>();
        let tenants = |subnet: &Self| {
            let mut networks: Vec<_> = subnet.tenants.iter().flatten().map(|tenant| tenant.network).collect();
            networks.sort();
            networks
        };
        self.net == other.net
            && self.cooling == other.cooling
            && tenants(self) == tenants(other)
            && taken(self) == taken(other)
    }
}

impl Subnet {
    /// A subnet without tenants, its ends reserved.
    pub(crate) fn new(net: IpNet) -> Self {
        let mut subnet = Self {
            net,
            family: Family::of(&net),
            span: Span::of(&net),
            slices: BTreeMap::new(),
            cooling: Cooling::default(),
            tenants: Vec::new(),
            doubts: Vec::new(),
        };
        for end in subnet.ends() {
            subnet.slice(end).insert(end.low, END);
        }
        subnet
    }

    pub(crate) fn net(&self) -> IpNet {
        self.net
    }

    /// Whether it has one address alone.
    pub(crate) fn is_one(&self) -> bool {
        self.span.first == self.span.last
    }

    /// How many addresses it has, one less where that is every number there is.
    pub(crate) fn size(&self) -> u128 {
        (self.span.last - self.span.first).saturating_add(1)
    }

    // === Tenants ===

    /// The networks that have a pool here.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.tenants.iter().flatten()
    }

    pub(crate) fn tenant(&self, number: TenantNo) -> Option<&Tenant> {
        self.tenants.get(usize::from(number))?.as_ref()
    }

    /// What another network has at an address of this one's, in words.
    pub(crate) fn describe_foreign(&self, number: TenantNo, owner: OwnerNo) -> String {
        let what = match owner {
            GATEWAY => "the gateway",
            AUXILIARY => "an auxiliary address",
            _ => "an endpoint or reservation",
        };
        match self.tenant(number) {
            Some(tenant) => format!("{what} of {}", tenant.holder()),
            None => what.to_owned(),
        }
    }

    /// Whether others may have pools in it as well.
    pub(crate) fn is_shared(&self) -> bool {
        self.tenants().any(|tenant| tenant.shares)
    }

    /// Adds a tenant; `None` when there are as many as can be.
    pub(crate) fn admit(&mut self, tenant: Tenant) -> Option<TenantNo> {
        let place = self.tenants.iter().position(Option::is_none).unwrap_or(self.tenants.len());
        let number = TenantNo::try_from(place).ok().filter(|_| place < MAX_TENANTS)?;
        if place == self.tenants.len() {
            self.tenants.push(None);
        }
        self.tenants[place] = Some(tenant);
        Some(number)
    }

    /// Takes a tenant out, with all that it holds, which cools down: neighbours may still know it there.
    pub(crate) fn evict(&mut self, number: TenantNo) {
        let mine = |holder: u32| holder != END && holder >> 24 == u32::from(number);
        let held: Vec<_> =
            self.taken().filter(|(_, holder)| mine(*holder)).map(|(offset, _)| offset).collect();
        held.into_iter().for_each(|offset| self.release(offset));
        self.tenants[usize::from(number)] = None;
    }

    // === Addresses ===

    /// Where an address of the subnet lies in it.
    pub(crate) fn offset(&self, address: IpAddr) -> Option<Offset> {
        self.net.contains(&address).then(|| Offset::new(number(address) - self.span.first))
    }

    pub(crate) fn address(&self, offset: Offset) -> IpAddr {
        self.family.address(self.span.first + (u128::from(offset.high) << 64) + u128::from(offset.low))
    }

    /// Who holds an address. Nobody holds one that cools down.
    pub(crate) fn held(&self, offset: Offset) -> Option<Held> {
        match self.slices.get(&offset.high)?.get(offset.low)? {
            END => Some(Held::Never(self.why_never(offset))),
            holder => Some(by(holder)),
        }
    }

    /// Gives a free address to an owner; `false` when it is taken.
    pub(crate) fn take(&mut self, offset: Offset, tenant: TenantNo, owner: OwnerNo) -> bool {
        let taken = self.slice(offset).insert(offset.low, u32::from(tenant) << 24 | owner);
        if taken {
            self.cooling.remove(offset);
        }
        taken
    }

    /// Whether all of these addresses are free. They share their upper half, and are in ascending order.
    pub(crate) fn are_free(&self, high: u64, lows: &[(u64, OwnerNo)]) -> bool {
        let last = lows.last().map(|(low, _)| u128::from(high) << 64 | u128::from(*low));
        last.is_none_or(|last| last <= self.span.last - self.span.first)
            && self.slices.get(&high).is_none_or(|slice| slice.are_free(lows))
    }

    /// Gives free addresses to owners of a tenant, all at once.
    pub(crate) fn take_sorted(&mut self, high: u64, mut lows: Vec<(u64, OwnerNo)>, tenant: TenantNo) {
        for (low, owner) in &mut lows {
            if !self.cooling.is_empty() {
                self.cooling.remove(Offset { high, low: *low });
            }
            *owner |= u32::from(tenant) << 24;
        }
        if !lows.is_empty() {
            self.slice(Offset { high, low: 0 }).insert_sorted(&lows);
        }
    }

    /// Passes a taken address on to another owner of the same tenant.
    pub(crate) fn pass_on(&mut self, offset: Offset, tenant: TenantNo, owner: OwnerNo) {
        self.free(offset);
        self.take(offset, tenant, owner);
    }

    /// Takes an address from its owner. It cools down: the last to be handed out again.
    pub(crate) fn release(&mut self, offset: Offset) {
        self.free(offset);
        self.cooling.push(offset);
    }

    /// Notes that these addresses may be somebody's, as far as it is not known whose they are: none is chosen.
    pub(crate) fn doubt(&mut self, span: Span) {
        self.doubts.push(span);
    }

    pub(crate) fn has_doubts(&self) -> bool {
        !self.doubts.is_empty()
    }

    pub(crate) fn is_in_doubt(&self, offset: Offset) -> bool {
        self.doubt_around(offset).is_some()
    }

    /// The doubts that an address is in, where there are any.
    fn doubt_around(&self, offset: Offset) -> Option<&Span> {
        let number = self.span.first + (u128::from(offset.high) << 64) + u128::from(offset.low);
        self.doubts.iter().find(|span| (span.first..=span.last).contains(&number))
    }

    /// What cools down, to be put back by [`Subnet::cool_as`].
    pub(crate) fn cooling_now(&self) -> Cooling {
        self.cooling.clone()
    }

    /// Lets cool down what did before something was tried, and taken back.
    pub(crate) fn cool_as(&mut self, before: Cooling) {
        self.cooling = before;
    }

    /// Those that cool down, the first released first.
    pub(crate) fn cooling(&self) -> impl Iterator<Item = Offset> {
        self.cooling.iter()
    }

    /// Lets an address that is free cool down as if it had just been released; `false` when it is not free.
    pub(crate) fn cool(&mut self, offset: Offset) -> bool {
        let within =
            (u128::from(offset.high) << 64 | u128::from(offset.low)) <= self.span.last - self.span.first;
        let free = within && self.held(offset).is_none() && !self.cooling.contains(offset);
        if free {
            self.cooling.push(offset);
        }
        free
    }

    /// Makes an address free at once.
    pub(crate) fn free(&mut self, offset: Offset) {
        let Some(slice) = self.slices.get_mut(&offset.high) else { return };
        slice.remove(offset.low);
        if slice.is_empty() {
            self.slices.remove(&offset.high);
        }
    }

    /// An address that can be had, from `from` on and round.
    pub(crate) fn next(&self, window: Window, from: u64) -> Option<Free> {
        let Window { high, first, last } = window;
        // Where only those are free that cool down, no search is needed to find out.
        let others = self.cooling.is_empty() || self.free_count() > self.cooling.len() as u128;
        let next = || {
            self.next_cold(high, from, last).or_else(|| {
                let before = from.checked_sub(1).filter(|before| *before >= first)?;
                self.next_cold(high, first, before)
            })
        };
        match others.then(next).flatten() {
            Some(free) => Some(Free::Next(free)),
            None => {
                let may = |offset: &Offset| window.contains(*offset) && !self.is_in_doubt(*offset);
                self.cooling.iter().find(may).map(Free::Cooled)
            }
        }
    }

    /// The lowest address from `from` to `to` that is free, does not cool down and is not in doubt.
    fn next_cold(&self, high: u64, from: u64, to: u64) -> Option<Offset> {
        let slice = self.slices.get(&high);
        let mut from = from;
        loop {
            let low = slice.map_or(Some(from), |slice| slice.next_free(from, to))?;
            let offset = Offset { high, low };
            let passed = match self.doubt_around(offset) {
                Some(doubt) => doubt_end(doubt.last - self.span.first, high),
                None if self.cooling.contains(offset) => low,
                None => return Some(offset),
            };
            from = passed.checked_add(1).filter(|next| *next <= to)?;
        }
    }

    /// How many addresses nobody holds.
    fn free_count(&self) -> u128 {
        self.size() - u128::from(self.taken_count())
    }

    /// How many addresses can be had by nobody else: those that somebody holds, and the ends.
    pub(crate) fn taken_count(&self) -> u64 {
        self.slices.values().map(|slice| slice.len()).sum()
    }

    /// Everything that is held, in ascending order.
    pub(crate) fn holdings(&self) -> impl Iterator<Item = (Offset, Held)> {
        self.taken().map(|(offset, holder)| match holder {
            END => (offset, Held::Never(self.why_never(offset))),
            holder => (offset, by(holder)),
        })
    }

    /// The addresses nobody can have. Point-to-point subnets (/31, /32, /127, /128) have none, other than in
    /// libnetwork.
    pub(crate) fn ends(&self) -> impl Iterator<Item = Offset> + use<> {
        let last = self.span.last - self.span.first;
        let has = self.family.bits() - self.net.prefix_len() >= 2;
        let broadcast = (has && self.family == Family::V4).then_some(last);
        has.then_some(0).into_iter().chain(broadcast).map(Offset::new)
    }

    fn why_never(&self, offset: Offset) -> &'static str {
        match (self.family, offset == Offset::new(0)) {
            (Family::V4, true) => "it is the network address of its pool",
            (Family::V6, true) => "it is the router anycast address of its pool",
            (_, false) => "it is the broadcast address of its pool",
        }
    }

    fn taken(&self) -> impl Iterator<Item = (Offset, u32)> {
        self.slices
            .iter()
            .flat_map(|(high, slice)| slice.iter().map(|(low, holder)| (Offset { high: *high, low }, holder)))
    }

    fn slice(&mut self, offset: Offset) -> &mut AddressMap {
        self.slices.entry(offset.high).or_default()
    }
}

/// The lower half of the last address of a doubt, among the neighbours with this upper half.
fn doubt_end(last: u128, high: u64) -> u64 {
    let Offset { high: of_last, low } = Offset::new(last);
    if of_last > high { u64::MAX } else { low }
}

fn by(holder: u32) -> Held {
    Held::By((holder >> 24) as TenantNo, holder & 0xff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        let mut subnet = Subnet::new(text.parse().expect("a subnet"));
        let network = "n".parse().expect("an id");
        assert_eq!(subnet.admit(Tenant { network, name: "n".into(), shares: true }), Some(0));
        subnet
    }

    const ALL: Window = Window { high: 0, first: 0, last: 7 };

    fn choose(subnet: &mut Subnet, from: u64) -> Option<u64> {
        let offset = match subnet.next(ALL, from)? {
            Free::Next(offset) | Free::Cooled(offset) => offset,
        };
        assert!(subnet.take(offset, 0, 5));
        Some(offset.low)
    }

    fn at(low: u64) -> Offset {
        Offset { high: 0, low }
    }

    #[test]
    fn what_was_released_comes_back_in_the_order_of_its_release() {
        let mut subnet = subnet("10.0.0.0/29");
        assert_eq!(
            (1..=6).map(|_| choose(&mut subnet, 0)).collect::<Vec<_>>(),
            (1..=6).map(Some).collect::<Vec<_>>()
        );
        assert_eq!(choose(&mut subnet, 0), None);
        for low in [4, 2, 5] {
            subnet.release(at(low));
            assert_eq!(subnet.held(at(low)), None);
        }
        // Who asks for one gets it, and it has not cooled down when it is released again.
        assert!(subnet.take(at(4), 0, 7) && !subnet.take(at(4), 0, 8));
        subnet.release(at(4));
        assert_eq!(
            (1..=4).map(|_| choose(&mut subnet, 3)).collect::<Vec<_>>(),
            [Some(2), Some(5), Some(4), None]
        );
    }

    #[test]
    fn what_was_released_long_ago_is_free_like_any_other() {
        let mut subnet = subnet("10.0.0.0/16");
        for low in 1..=300 {
            assert!(subnet.take(at(low), 0, 1));
        }
        (1..=300).for_each(|low| subnet.release(at(low)));
        let window = Window { high: 0, first: 0, last: 65_535 };
        assert_eq!(subnet.next(window, 1), Some(Free::Next(at(1))));
        assert_eq!(subnet.next(window, 236), Some(Free::Next(at(236))));
        assert_eq!(subnet.next(window, 237), Some(Free::Next(at(301))));
    }

    #[test]
    fn a_tenant_leaves_with_what_it_holds() {
        let mut subnet = subnet("fd00::/48");
        let other = Tenant { network: "m".parse().expect("an id"), name: "m".into(), shares: true };
        assert_eq!(subnet.admit(other.clone()), Some(1));
        let far = Offset { high: 3, low: 9 };
        assert!(subnet.take(far, 0, GATEWAY) && subnet.take(at(9), 1, AUXILIARY));
        assert_eq!(subnet.held(far), Some(Held::By(0, GATEWAY)));
        subnet.evict(0);
        assert_eq!((subnet.held(far), subnet.held(at(9))), (None, Some(Held::By(1, AUXILIARY))));
        assert_eq!(subnet.tenants().count(), 1);
        assert_eq!(subnet.admit(other.clone()), Some(0), "its number is given again");
        let more = (2..400).map(|_| subnet.admit(other.clone())).take_while(Option::is_some).count();
        assert_eq!(more + 2, MAX_TENANTS);
    }
}
