//! One pool of a network: its part of a subnet, what it has reserved there, and which address comes next.

use std::net::IpAddr;

use ipnet::IpNet;
use netloom_model::record::PoolRecord;
use netloom_model::{Error, PoolFill, Reason, Result};

use crate::order::Place;
use crate::span::{Family, Span};
use crate::subnet::{AUXILIARY, Free, GATEWAY, Held, Offset, OwnerNo, Subnet, TenantNo, Window};

/// How full a pool is. All numbers are addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolUsage {
    /// The subnet.
    pub pool: IpNet,
    /// The part of it from which addresses are chosen.
    pub range: Option<IpNet>,
    /// The gateway's address.
    pub gateway: Option<IpAddr>,
    /// The addresses of the subnet.
    pub size: u128,
    /// Leased to endpoints.
    pub used: u64,
    /// What the network cannot have for another reason: network and broadcast address, gateway, auxiliary addresses,
    /// what is kept for names, and whatever other networks have that share the subnet.
    pub reserved: u64,
    /// Held back until the kernel has let go of a deleted endpoint.
    pub quarantined: u64,
}

/// A pool of a network. Its subnet, which others may share, is handed to each call.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    record: PoolRecord,
    /// Where its subnet is.
    pub(crate) slot: usize,
    tenant: TenantNo,
    window: Window,
    /// The offset inside the window at which the next automatic choice begins.
    cursor: u64,
    counts: Counts,
}

/// How many addresses are what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub used: u64,
    pub quarantined: u64,
    /// The same, of the window alone.
    pub quarantined_here: u64,
}

impl PartialEq for Pool {
    /// Equal pools; which numbers they have in their subnets does not matter.
    fn eq(&self, other: &Self) -> bool {
        let of = |pool: &Self| (pool.window, pool.cursor, pool.counts);
        self.record == other.record && of(self) == of(other)
    }
}

/// The window of a range in a subnet.
///
/// # Errors
/// `InvalidParameter` when it is not a part of the subnet.
pub(crate) fn window(pool: &IpNet, range: Option<&IpNet>) -> Result<Window> {
    let span = Span::of(pool);
    let choice = range.map_or(span, Span::of);
    // One with host bits would be another one when it is read back.
    let odd =
        range.is_some_and(|range| Family::of(range) != Family::of(pool) || range.addr() != range.network());
    if odd || choice.first < span.first || choice.last > span.last {
        let why = format!("a range must be a subnet of {pool} without host bits");
        return Err(Error::invalid("range", range.unwrap_or(pool), why));
    }
    let first = Offset::new(choice.first - span.first);
    let last = Offset::new(choice.last - span.first);
    let last = if last.high == first.high { last.low } else { u64::MAX };
    Ok(Window { high: first.high, first: first.low, last })
}

impl Pool {
    /// A pool as recorded, in its subnet, with its gateway and auxiliary addresses reserved.
    ///
    /// # Errors
    /// `AddressTaken` when two of them are the same, `AddressUnusable` when one is not for hosts. The tenant has to
    /// be evicted then.
    pub(crate) fn new(
        record: &PoolRecord,
        (slot, subnet): (usize, &mut Subnet),
        tenant: TenantNo,
    ) -> Result<Self> {
        let window = window(&record.pool, record.range.as_ref())?;
        let (pool, range) = (record.pool, record.range);
        let empty = PoolRecord { range, ..PoolRecord::new(pool) };
        let mut pool =
            Self { record: empty, slot, tenant, window, cursor: window.first, counts: Counts::default() };
        // In this order a clash is reported with what the caller is more sure about as the holder.
        if let Some(gateway) = record.gateway {
            pool.reserve(subnet, gateway, GATEWAY)?;
            pool.record.gateway = Some(gateway);
        }
        for (name, address) in &record.auxiliary {
            pool.reserve(subnet, *address, AUXILIARY)?;
            pool.record.auxiliary.insert(name.clone(), *address);
        }
        Ok(pool)
    }

    /// Gives the pool the first free address as its gateway; `false` when there is none.
    pub(crate) fn choose_gateway(&mut self, subnet: &mut Subnet) -> bool {
        let Some(Free::Next(offset) | Free::Cooled(offset)) = subnet.next(self.window, self.window.first)
        else {
            return false;
        };
        subnet.take(offset, self.tenant, GATEWAY);
        self.record.gateway = Some(subnet.address(offset));
        true
    }

    /// What the store keeps of it.
    pub(crate) fn record(&self) -> &PoolRecord {
        &self.record
    }

    /// Whether an address belongs to the pool.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.record.pool.contains(&address)
    }

    /// Who the tenant is.
    pub(crate) fn tenant(&self) -> TenantNo {
        self.tenant
    }

    /// The next free address after the last one chosen, going round at the end.
    pub(crate) fn next(&self, subnet: &Subnet) -> Option<Free> {
        subnet.next(self.window, self.cursor)
    }

    /// Gives a free address to an owner of the network.
    pub(crate) fn lease(&mut self, subnet: &mut Subnet, address: IpAddr, owner: OwnerNo) {
        if let Some(offset) = subnet.offset(address)
            && subnet.take(offset, self.tenant, owner)
        {
            self.counts.used += 1;
        }
    }

    /// Lets the next automatic choice begin behind an address.
    pub(crate) fn move_cursor_behind(&mut self, offset: Offset) {
        if self.window.contains(offset) {
            self.cursor = if offset.low == self.window.last { self.window.first } else { offset.low + 1 };
        }
    }

    /// The same, unless the next choice begins further on already.
    pub(crate) fn move_cursor_at_least_behind(&mut self, offset: Offset) {
        if offset.low >= self.cursor {
            self.move_cursor_behind(offset);
        }
    }

    /// Where in its window the next automatic choice begins.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor - self.window.first
    }

    /// Lets the next automatic choice begin there; `false` when it lies outside of the window.
    pub(crate) fn set_cursor(&mut self, cursor: u64) -> bool {
        let place = self.window.first.checked_add(cursor).filter(|place| *place <= self.window.last);
        self.cursor = place.unwrap_or(self.cursor);
        place.is_some()
    }

    /// Lets the next automatic choice begin at an address, if it is one to choose from.
    pub(crate) fn go_on_at(&mut self, offset: Offset) {
        if self.window.contains(offset) {
            self.cursor = offset.low;
        }
    }

    /// The same place, in addresses.
    pub(crate) fn place(&self, subnet: &Subnet) -> Place {
        let Window { high, first, last } = self.window;
        let address = |low| subnet.address(Offset { high, low });
        Place { first: address(first), last: address(last), next: address(self.cursor) }
    }

    /// Counts addresses that were taken for owners of the network all at once.
    pub(crate) fn count(&mut self, more: &Counts) {
        self.counts.used += more.used;
        self.counts.quarantined += more.quarantined;
        self.counts.quarantined_here += more.quarantined_here;
    }

    /// Whether automatic choice looks at an address.
    pub(crate) fn may_choose(&self, offset: Offset) -> bool {
        self.window.contains(offset)
    }

    /// Frees a leased address, or gives it back to the reservation it was leased from.
    pub(crate) fn release(
        &mut self,
        subnet: &mut Subnet,
        address: IpAddr,
        quarantined: bool,
        reservation: Option<OwnerNo>,
    ) {
        let Some(offset) = subnet.offset(address) else { return };
        match reservation {
            Some(owner) => {
                subnet.pass_on(offset, self.tenant, owner);
            }
            None => subnet.release(offset),
        }
        if quarantined {
            self.counts.quarantined -= 1;
            self.counts.quarantined_here -= u64::from(self.window.contains(offset));
        } else {
            self.counts.used -= 1;
        }
    }

    /// Counts a leased address as quarantined.
    pub(crate) fn quarantine(&mut self, subnet: &Subnet, address: IpAddr) {
        self.counts.used -= 1;
        self.counts.quarantined += 1;
        let here = subnet.offset(address).is_some_and(|offset| self.window.contains(offset));
        self.counts.quarantined_here += u64::from(here);
    }

    /// Passes an address from its reservation to an endpoint.
    pub(crate) fn lease_reserved(&mut self, subnet: &mut Subnet, address: IpAddr, owner: OwnerNo) {
        let Some(offset) = subnet.offset(address) else { return };
        subnet.pass_on(offset, self.tenant, owner);
        self.counts.used += 1;
    }

    /// Keeps a free address for a name.
    pub(crate) fn keep(&mut self, subnet: &mut Subnet, address: IpAddr, owner: OwnerNo) {
        if let Some(offset) = subnet.offset(address)
            && subnet.take(offset, self.tenant, owner)
        {}
    }

    /// Gives up an address that was kept for a name.
    pub(crate) fn give_up(&mut self, subnet: &mut Subnet, address: IpAddr) {
        if let Some(offset) = subnet.offset(address) {
            subnet.release(offset);
        }
    }

    /// The name of an auxiliary address.
    pub(crate) fn auxiliary(&self, address: IpAddr) -> Option<&str> {
        let mut auxiliary = self.record.auxiliary.iter();
        auxiliary.find(|(_, taken)| **taken == address).map(|(name, _)| name.as_str())
    }

    /// How full it is.
    pub(crate) fn usage(&self, subnet: &Subnet) -> PoolUsage {
        PoolUsage {
            pool: self.record.pool,
            range: self.record.range,
            gateway: self.record.gateway,
            size: subnet.size(),
            used: self.counts.used,
            reserved: subnet.taken_count() - self.counts.used - self.counts.quarantined,
            quarantined: self.counts.quarantined,
        }
    }

    /// How the addresses are used of which none is free; `kept`: what is kept for names, and by which reservation.
    pub(crate) fn fill(&self, subnet: &Subnet, kept: impl Iterator<Item = (OwnerNo, IpAddr)>) -> PoolFill {
        let in_window = |offset: &Offset| self.window.contains(*offset);
        let named = self.record.gateway.iter().chain(self.record.auxiliary.values());
        let named = named.filter_map(|address| subnet.offset(*address));
        let unused = kept.filter_map(|(owner, address)| {
            let offset = subnet.offset(address)?;
            (subnet.held(offset) == Some(Held::By(self.tenant, owner))).then_some(offset)
        });
        let reserved = subnet.ends().chain(named).chain(unused).filter(in_window).count() as u64;
        PoolFill {
            pool: self.record.pool,
            range: self.record.range,
            size: u128::from(self.window.last - self.window.first) + 1,
            reserved,
            quarantined: self.counts.quarantined_here,
        }
    }

    /// Who holds an address, in words; `own` describes an owner of the pool's own network.
    pub(crate) fn describe(
        &self,
        subnet: &Subnet,
        address: IpAddr,
        (tenant, owner): (TenantNo, OwnerNo),
        own: impl FnOnce(OwnerNo) -> String,
    ) -> String {
        match owner {
            _ if tenant != self.tenant => subnet.describe_foreign(tenant, owner),
            GATEWAY => "gateway".into(),
            AUXILIARY => format!("auxiliary {}", self.auxiliary(address).unwrap_or_default()),
            owner => own(owner),
        }
    }

    /// The error for an address that somebody holds.
    pub(crate) fn taken(
        &self,
        subnet: &Subnet,
        address: IpAddr,
        held: Held,
        own: impl FnOnce(OwnerNo) -> String,
    ) -> Error {
        let pool = self.record.pool;
        match held {
            Held::Never(why) => Reason::AddressUnusable { address, why: why.into() }.into(),
            Held::By(tenant, owner) => {
                let holder = self.describe(subnet, address, (tenant, owner), own);
                Reason::AddressTaken { address, pool, holder }.into()
            }
        }
    }

    fn reserve(&mut self, subnet: &mut Subnet, address: IpAddr, owner: OwnerNo) -> Result<()> {
        let Some(offset) = subnet.offset(address) else {
            let why = format!("it lies outside of {}", self.record.pool);
            return Err(Reason::AddressUnusable { address, why }.into());
        };
        if let Some(held) = subnet.held(offset) {
            return Err(self.taken(subnet, address, held, |_| String::new()));
        }
        subnet.take(offset, self.tenant, owner);
        Ok(())
    }
}
