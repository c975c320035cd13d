//! The pools of one network and who leases their addresses.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netloom_model::record::PoolRecord;
use netloom_model::snapshot::{AddressHolder, Holders};
use netloom_model::{AddressesConsidered, EndpointId, Error, Holder, NetworkId, ObjectKind, Reason, Result};

use crate::owner::{Owner, OwnerId, Owners};
use crate::pool::{Pool, PoolUsage};
use crate::request::{Lease, LeaseRequest};
use crate::space::Space;
use crate::span::Family;
use crate::subnet::{Free, Held, Offset, OwnerNo};

/// How many pools an error text lists.
const SHOWN_POOLS: usize = 8;
/// How many endpoints an error text names.
const SHOWN_HOLDERS: usize = 3;

/// A network as the allocator knows it. The space its pools lie in is handed to each call.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Network {
    id: NetworkId,
    name: String,
    /// The host whose network it is, where hosts share the address space.
    pub(crate) host: Option<Arc<str>>,
    /// Whether it was deleted there, and will give its pools back.
    pub(crate) retired: bool,
    v4: Vec<Pool>,
    v6: Vec<Pool>,
    pub(crate) owners: Owners,
}

/// An address that can be leased, and where it is.
#[derive(Clone, Copy, Debug)]
struct Choice {
    pool: usize,
    address: IpAddr,
    from: From,
}

/// Why it can be leased.
#[derive(Clone, Copy, PartialEq, Debug)]
enum From {
    /// It is the next one in order, which lies here.
    Order(Offset),
    /// It is free, and was asked for or nothing else is.
    Free,
    /// It is kept for an endpoint of this name, by this reservation.
    Reservation(OwnerNo),
}

impl Network {
    pub(crate) fn new(id: NetworkId, name: String) -> Self {
        let (v4, v6, owners) = (Vec::new(), Vec::new(), Owners::default());
        Self { id, name, host: None, retired: false, v4, v6, owners }
    }

    pub(crate) fn id(&self) -> NetworkId {
        self.id
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The network in an error text.
    pub(crate) fn holder(&self) -> Holder {
        Holder::new(ObjectKind::Network, self.id, self.name.as_str())
    }

    pub(crate) fn push(&mut self, family: Family, pool: Pool) -> &mut Pool {
        let pools = self.pools_mut(family);
        pools.push(pool);
        let last = pools.len() - 1;
        &mut pools[last]
    }

    pub(crate) fn pools(&self, family: Family) -> &[Pool] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    pub(crate) fn pools_mut(&mut self, family: Family) -> &mut Vec<Pool> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    pub(crate) fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        self.pools(family_of(address)).iter().find(|pool| pool.contains(address))
    }

    pub(crate) fn pool_of_mut(&mut self, address: IpAddr) -> Option<&mut Pool> {
        self.pools_mut(family_of(address)).iter_mut().find(|pool| pool.contains(address))
    }

    /// Every pool, IPv4 first.
    pub(crate) fn all_pools(&self) -> impl Iterator<Item = &Pool> {
        self.v4.iter().chain(&self.v6)
    }

    /// What the store keeps of the pools of a family.
    pub(crate) fn records(&self, family: Family) -> Vec<PoolRecord> {
        self.pools(family).iter().map(|pool| pool.record().clone()).collect()
    }

    /// Whether these are the recorded pools.
    pub(crate) fn has_pools(&self, v4: &[PoolRecord], v6: &[PoolRecord]) -> bool {
        let same = |pools: &[Pool], records: &[PoolRecord]| pools.iter().map(Pool::record).eq(records);
        same(&self.v4, v4) && same(&self.v6, v6)
    }

    // === Queries ===

    /// How full each pool is, IPv4 first.
    pub(crate) fn usage(&self, space: &Space) -> Vec<PoolUsage> {
        self.all_pools().map(|pool| pool.usage(space.subnet(pool.slot))).collect()
    }

    /// Who holds an address, in words.
    pub(crate) fn holder_of(&self, space: &Space, address: IpAddr) -> Option<String> {
        let pool = self.pool_of(address)?;
        let subnet = space.subnet(pool.slot);
        Some(self.in_words(space, pool, address, subnet.held(subnet.offset(address)?)?))
    }

    /// Every address that somebody holds, in order of pools and addresses; beyond `limit` they are counted.
    pub(crate) fn holders(&self, space: &Space, limit: usize) -> Holders {
        let mut found = Holders::default();
        for pool in self.all_pools() {
            let subnet = space.subnet(pool.slot);
            for (offset, held) in subnet.holdings() {
                // Nobody has the ends of a pool.
                if matches!(held, Held::Never(_)) {
                    continue;
                }
                if found.holders.len() == limit {
                    found.more += 1;
                    continue;
                }
                let address = subnet.address(offset);
                let holder = self.in_words(space, pool, address, held);
                found.holders.push(AddressHolder { address, holder });
            }
        }
        found
    }

    fn in_words(&self, space: &Space, pool: &Pool, address: IpAddr, held: Held) -> String {
        match held {
            Held::Never(why) => why.trim_start_matches("it is the ").into(),
            Held::By(tenant, owner) => {
                let subnet = space.subnet(pool.slot);
                pool.describe(subnet, address, (tenant, owner), |owner| self.describe(owner))
            }
        }
    }

    // === Leases ===

    /// Leases one address per family.
    pub(crate) fn lease(&mut self, space: &mut Space, want: &LeaseRequest) -> Result<Lease> {
        if let Some(owner) = self.owners.endpoint(&want.owner) {
            return self.existing(owner, want.differs(owner));
        }
        // Nothing changes before both families have their address.
        let [v4, v6] = self.choose_both(space, want)?;
        let who = (want.owner, want.name.as_str(), None);
        self.add_lease(space, who, [v4, v6], Pool::move_cursor_behind)
    }

    /// Puts a recorded lease back, and lets choice go on behind the highest one: the mark that is recorded for it says
    /// better where, and is set after all leases, where there is one.
    pub(crate) fn restore(
        &mut self,
        space: &mut Space,
        id: EndpointId,
        name: &str,
        lease: &Lease,
    ) -> Result<()> {
        self.take_again(space, (id, name, None), lease, |_, _| {})?;
        for address in lease.addresses() {
            if let Some(pool) = self.pool_of_mut(address)
                && let Some(offset) = space.subnet(pool.slot).offset(address)
            {
                pool.move_cursor_at_least_behind(offset);
            }
        }
        Ok(())
    }

    /// The addresses that a lease would get. Nothing changes.
    pub(crate) fn plan(&self, space: &Space, want: &LeaseRequest) -> Result<Lease> {
        let mut lease = Lease::default();
        if let Some(owner) = self.owners.endpoint(&want.owner) {
            return self.existing(owner, want.differs(owner));
        }
        for choice in self.choose_both(space, want)?.into_iter().flatten() {
            let pool = &self.pools(family_of(choice.address))[choice.pool];
            lease.add(choice.address, pool);
        }
        Ok(lease)
    }

    /// Makes a lease that was made before, here or on another host: the next addresses are the same then.
    pub(crate) fn follow(
        &mut self,
        space: &mut Space,
        who: (EndpointId, &str, Option<Arc<str>>),
        lease: &Lease,
    ) -> Result<()> {
        self.take_again(space, who, lease, Pool::move_cursor_behind)
    }

    fn take_again(
        &mut self,
        space: &mut Space,
        who: (EndpointId, &str, Option<Arc<str>>),
        lease: &Lease,
        chosen: impl FnMut(&mut Pool, Offset),
    ) -> Result<()> {
        let (ipv4, ipv6) = (lease.ipv4.map(|net| net.addr()), lease.ipv6.map(|net| net.addr()));
        if let Some(owner) = self.owners.endpoint(&who.0) {
            return self.existing(owner, owner.ipv4 != ipv4 || owner.ipv6 != ipv6).map(drop);
        }
        let recorded = |family, address: Option<IpAddr>| {
            // Whoever has an address that is kept for a name got it by that name, and may have another one now.
            let chosen = address.map(|address| self.choose(space, family, Some(address), None));
            chosen.transpose().map(Option::flatten)
        };
        let v4 = recorded(Family::V4, ipv4.map(IpAddr::V4))?;
        let v6 = recorded(Family::V6, ipv6.map(IpAddr::V6))?;
        self.add_lease(space, who, [v4, v6], chosen).map(drop)
    }

    fn add_lease(
        &mut self,
        space: &mut Space,
        (id, name, host): (EndpointId, &str, Option<Arc<str>>),
        choices: [Option<Choice>; 2],
        mut chosen: impl FnMut(&mut Pool, Offset),
    ) -> Result<Lease> {
        let addresses = choices.iter().flatten().map(|choice| choice.address);
        let mut owner = Owner::new(OwnerId::Endpoint(id), name, addresses);
        owner.host = host;
        for choice in choices.iter().flatten() {
            if let From::Reservation(number) = choice.from
                && owner.reservation.is_none()
            {
                owner.reservation = self.owners.at(number).map(|kept| Box::new(kept.name.clone()));
            }
        }
        let owner = self.owners.insert(owner).ok_or_else(|| self.too_many())?;
        let mut lease = Lease::default();
        for choice in choices.into_iter().flatten() {
            let pool = &mut self.pools_mut(family_of(choice.address))[choice.pool];
            let subnet = space.subnet_mut(pool.slot);
            match choice.from {
                From::Order(offset) => {
                    pool.lease(subnet, choice.address, owner);
                    chosen(pool, offset);
                }
                From::Free => pool.lease(subnet, choice.address, owner),
                From::Reservation(_) => pool.lease_reserved(subnet, choice.address, owner),
            }
            lease.add(choice.address, pool);
        }
        Ok(lease)
    }

    /// Frees the addresses of an endpoint, if it has any.
    pub(crate) fn release(&mut self, space: &mut Space, id: &EndpointId) {
        let Some(owner) = self.owners.remove_endpoint(id) else { return };
        for address in owner.addresses() {
            let kept = self.owners.reservation_for(&owner, address);
            if let Some(pool) = self.pool_of_mut(address) {
                pool.release(space.subnet_mut(pool.slot), address, owner.quarantined, kept);
            }
        }
    }

    /// Keeps the addresses of an endpoint taken in the name of its quarantine.
    pub(crate) fn quarantine(&mut self, space: &Space, id: &EndpointId) {
        let Some(owner) = self.owners.endpoint_mut(id).filter(|owner| !owner.quarantined) else { return };
        owner.quarantined = true;
        for address in owner.addresses() {
            if let Some(pool) = self.pool_of_mut(address) {
                pool.quarantine(space.subnet(pool.slot), address);
            }
        }
    }

    // === Helpers ===

    /// The answer for an endpoint that has a lease.
    fn existing(&self, owner: &Owner, differs: bool) -> Result<Lease> {
        let OwnerId::Endpoint(id) = owner.id else { return Ok(Lease::default()) };
        let holder = || Holder::new(ObjectKind::Endpoint, id, &*owner.name);
        if owner.quarantined {
            return Err(Reason::WrongPhase { object: holder(), phase: "being deleted" }.into());
        }
        if differs {
            return Err(Reason::IdTaken { id: id.to_string(), holder: holder() }.into());
        }
        let mut lease = Lease::default();
        for address in owner.addresses() {
            if let Some(pool) = self.pool_of(address) {
                lease.add(address, pool);
            }
        }
        Ok(lease)
    }

    /// Finds an address of each family that there are pools of.
    fn choose_both(&self, space: &Space, want: &LeaseRequest) -> Result<[Option<Choice>; 2]> {
        let kept = self.owners.reservation(&want.name);
        let ipv4 = want.ipv4.or(kept.and_then(|kept| kept.ipv4)).map(IpAddr::V4);
        let ipv6 = want.ipv6.or(kept.and_then(|kept| kept.ipv6)).map(IpAddr::V6);
        let name = Some(want.name.as_str());
        let v4 = self.choose(space, Family::V4, ipv4, name)?;
        Ok([v4, self.choose(space, Family::V6, ipv6, name)?])
    }

    /// Finds the address of a family: the one that is wanted, if any. It may be kept for an endpoint of this name; of
    /// any name if none is given.
    fn choose(
        &self,
        space: &Space,
        family: Family,
        wanted: Option<IpAddr>,
        name: Option<&str>,
    ) -> Result<Option<Choice>> {
        let pools = self.pools(family);
        let Some(address) = wanted else { return self.choose_any(space, family) };
        let Some(place) = pools.iter().position(|pool| pool.contains(address)) else {
            return Err(self.outside(family, address));
        };
        let pool = &pools[place];
        let subnet = space.subnet(pool.slot);
        let offset = subnet.offset(address);
        let from = match offset.and_then(|offset| subnet.held(offset)) {
            // Who asks for what would have been chosen gets the same, so that a log of leases can be followed.
            None => match pool.next(subnet) {
                Some(Free::Next(next)) if offset == Some(next) => From::Order(next),
                _ => From::Free,
            },
            Some(Held::By(tenant, owner))
                if tenant == pool.tenant() && self.owners.is_reservation(owner, name) =>
            {
                From::Reservation(owner)
            }
            Some(held) => return Err(self.taken(space, pool, address, held)),
        };
        Ok(Some(Choice { pool: place, address, from }))
    }

    fn choose_any(&self, space: &Space, family: Family) -> Result<Option<Choice>> {
        let pools = self.pools(family);
        for (place, pool) in pools.iter().enumerate() {
            let subnet = space.subnet(pool.slot);
            let (offset, from) = match pool.next(subnet) {
                Some(Free::Next(offset)) => (offset, From::Order(offset)),
                Some(Free::Cooled(offset)) => (offset, From::Free),
                None => continue,
            };
            return Ok(Some(Choice { pool: place, address: subnet.address(offset), from }));
        }
        if pools.is_empty() { Ok(None) } else { Err(self.exhausted(space, family)) }
    }

    /// The error for a network that has no free address of a family.
    pub(crate) fn exhausted(&self, space: &Space, family: Family) -> Error {
        let named = self.owners.endpoints().take(SHOWN_HOLDERS).filter_map(|owner| match owner.id {
            OwnerId::Endpoint(id) => Some(Holder::new(ObjectKind::Endpoint, id, &*owner.name)),
            OwnerId::Reservation => None,
        });
        let fill = |pool: &Pool| pool.fill(space.subnet(pool.slot), self.owners.kept());
        let considered = AddressesConsidered {
            network: self.holder(),
            pools: self.pools(family).iter().map(fill).collect(),
            endpoints: self.owners.endpoint_count() as u64,
            holders: named.collect(),
        };
        Reason::AddressesExhausted(Box::new(considered)).into()
    }

    pub(crate) fn taken(&self, space: &Space, pool: &Pool, address: IpAddr, held: Held) -> Error {
        pool.taken(space.subnet(pool.slot), address, held, |owner| self.describe(owner))
    }

    pub(crate) fn outside(&self, family: Family, address: IpAddr) -> Error {
        let pools = self.pools(family);
        let why = if pools.is_empty() {
            format!("network {:?} has no {} pool", self.name, family.name())
        } else {
            let list: Vec<_> =
                pools.iter().take(SHOWN_POOLS).map(|pool| pool.record().pool.to_string()).collect();
            let more = if pools.len() > SHOWN_POOLS { " and more" } else { "" };
            format!("it lies outside of {}{more}, the pools of network {:?}", list.join(", "), self.name)
        };
        Reason::AddressUnusable { address, why }.into()
    }

    fn describe(&self, owner: OwnerNo) -> String {
        self.owners.at(owner).map_or_else(|| "an unknown owner".into(), Owner::describe)
    }

    pub(crate) fn too_many(&self) -> Error {
        let limit = u64::from(crate::subnet::MAX_OWNERS);
        Reason::Full { object: self.holder().to_string(), limit, what: "endpoints" }.into()
    }
}

pub(crate) fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

impl LeaseRequest {
    /// Whether it asks for another address than an owner has.
    fn differs(&self, owner: &Owner) -> bool {
        self.ipv4.is_some_and(|ip| owner.ipv4 != Some(ip))
            || self.ipv6.is_some_and(|ip| owner.ipv6 != Some(ip))
    }
}

impl Lease {
    fn add(&mut self, address: IpAddr, pool: &Pool) {
        let prefix = pool.record().pool.prefix_len();
        match address {
            IpAddr::V4(ip) => self.ipv4 = Ipv4Net::new(ip, prefix).ok(),
            IpAddr::V6(ip) => self.ipv6 = Ipv6Net::new(ip, prefix).ok(),
        }
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.ipv4.map(|net| IpNet::V4(net).addr());
        v4.into_iter().chain(self.ipv6.map(|net| IpNet::V6(net).addr()))
    }
}
