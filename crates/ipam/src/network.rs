//! The pools of one network and who leases their addresses.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netloom_model::record::PoolRecord;
use netloom_model::{EndpointId, Error, Holder, NetworkId, ObjectKind, Reason, Result};

use crate::owner::{Owner, OwnerIndex, Owners};
use crate::pool::{Held, Pool, PoolUsage, taken};
use crate::request::{Lease, LeaseRequest};
use crate::span::Family;

/// How many pools an error text lists.
const SHOWN_POOLS: usize = 8;

/// A network as the allocator knows it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Network {
    id: NetworkId,
    name: String,
    v4: Vec<Pool>,
    v6: Vec<Pool>,
    owners: Owners,
}

/// An address that is free, and where it is.
#[derive(Clone, Copy, Debug)]
struct Choice {
    pool: usize,
    address: IpAddr,
    automatic: bool,
}

impl Network {
    pub(crate) fn new(id: NetworkId, name: String) -> Self {
        Self { id, name, v4: Vec::new(), v6: Vec::new(), owners: Owners::default() }
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

    pub(crate) fn push(&mut self, family: Family, pool: Pool) {
        self.pools_mut(family).push(pool);
    }

    pub(crate) fn pools(&self, family: Family) -> &[Pool] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn pools_mut(&mut self, family: Family) -> &mut Vec<Pool> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    fn pool_of_mut(&mut self, address: IpAddr) -> Option<&mut Pool> {
        let family = Family::of(&IpNet::from(address));
        self.pools_mut(family).iter_mut().find(|pool| pool.contains(address))
    }

    /// Every subnet, IPv4 first.
    pub(crate) fn subnets(&self) -> impl Iterator<Item = &IpNet> {
        self.v4.iter().chain(&self.v6).map(|pool| &pool.record().pool)
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

    /// How full each pool is, IPv4 first.
    pub(crate) fn usage(&self) -> Vec<PoolUsage> {
        self.v4.iter().chain(&self.v6).map(Pool::usage).collect()
    }

    /// Who holds an address.
    pub(crate) fn holder_of(&self, address: IpAddr) -> Option<String> {
        let family = Family::of(&IpNet::from(address));
        let pool = self.pools(family).iter().find(|pool| pool.contains(address))?;
        Some(match pool.held(address)? {
            Held::Never(_) => "its pool".into(),
            Held::Gateway => "gateway".into(),
            Held::Auxiliary(name) => format!("auxiliary {name}"),
            Held::Owner(owner) => self.describe(owner),
        })
    }

    /// Leases one address per family.
    pub(crate) fn lease(&mut self, want: &LeaseRequest) -> Result<Lease> {
        if let Some(owner) = self.owners.get(&want.owner) {
            let differs = want.ipv4.is_some_and(|ip| owner.ipv4 != Some(ip))
                || want.ipv6.is_some_and(|ip| owner.ipv6 != Some(ip));
            return self.existing(owner, differs);
        }
        // Nothing changes before both families have their address.
        let v4 = self.choose(Family::V4, want.ipv4.map(IpAddr::V4))?;
        let v6 = self.choose(Family::V6, want.ipv6.map(IpAddr::V6))?;
        let owner = self.add_owner(want.owner, &want.name, v4.map(|c| c.address), v6.map(|c| c.address));
        let mut lease = Lease::default();
        for choice in v4.into_iter().chain(v6) {
            let pools = if choice.address.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
            let pool = &mut pools[choice.pool];
            pool.lease(choice.address, owner);
            if choice.automatic {
                pool.move_cursor_behind(choice.address);
            }
            lease.add(choice.address, pool);
        }
        Ok(lease)
    }

    /// Puts a recorded lease back.
    pub(crate) fn restore(&mut self, id: EndpointId, name: &str, lease: &Lease) -> Result<()> {
        let (ipv4, ipv6) = (lease.ipv4.map(|net| net.addr()), lease.ipv6.map(|net| net.addr()));
        if let Some(owner) = self.owners.get(&id) {
            return self.existing(owner, owner.ipv4 != ipv4 || owner.ipv6 != ipv6).map(drop);
        }
        let (ipv4, ipv6) = (ipv4.map(IpAddr::V4), ipv6.map(IpAddr::V6));
        let v4 = ipv4.map(|address| self.choose(Family::V4, Some(address))).transpose()?;
        let v6 = ipv6.map(|address| self.choose(Family::V6, Some(address))).transpose()?;
        let owner = self.add_owner(id, name, ipv4, ipv6);
        for choice in [v4, v6].into_iter().flatten().flatten() {
            let pools = if choice.address.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
            let pool = &mut pools[choice.pool];
            pool.lease(choice.address, owner);
            // Which address was handed out last is not recorded. Behind the highest one is where addresses
            // freed before the restart are reused last.
            pool.move_cursor_at_least_behind(choice.address);
        }
        Ok(())
    }

    /// Frees the addresses of an owner, if it has any.
    pub(crate) fn release(&mut self, id: &EndpointId) {
        let Some(owner) = self.owners.remove(id) else { return };
        for address in addresses(&owner) {
            if let Some(pool) = self.pool_of_mut(address) {
                pool.release(address, owner.quarantined);
            }
        }
    }

    /// Keeps the addresses of an owner taken in the name of its quarantine.
    pub(crate) fn quarantine(&mut self, id: &EndpointId) {
        let Some(owner) = self.owners.get_mut(id).filter(|owner| !owner.quarantined) else { return };
        owner.quarantined = true;
        for address in addresses(owner) {
            if let Some(pool) = self.pool_of_mut(address) {
                pool.quarantine();
            }
        }
    }

    fn add_owner(
        &mut self,
        id: EndpointId,
        name: &str,
        ipv4: Option<IpAddr>,
        ipv6: Option<IpAddr>,
    ) -> OwnerIndex {
        let ipv4 = ipv4.and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
        let ipv6 = ipv6.and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None });
        self.owners.insert(Owner { id, name: name.into(), ipv4, ipv6, quarantined: false })
    }

    /// The answer for an owner that has a lease.
    fn existing(&self, owner: &Owner, differs: bool) -> Result<Lease> {
        let holder = || Holder::new(ObjectKind::Endpoint, owner.id, &*owner.name);
        if owner.quarantined {
            return Err(Reason::WrongPhase { object: holder(), phase: "being deleted" }.into());
        }
        if differs {
            return Err(Reason::IdTaken { id: owner.id.to_string(), holder: holder() }.into());
        }
        let mut lease = Lease::default();
        for address in addresses(owner) {
            let pools = if address.is_ipv4() { &self.v4 } else { &self.v6 };
            if let Some(pool) = pools.iter().find(|pool| pool.contains(address)) {
                lease.add(address, pool);
            }
        }
        Ok(lease)
    }

    fn choose(&self, family: Family, wanted: Option<IpAddr>) -> Result<Option<Choice>> {
        let pools = self.pools(family);
        let Some(address) = wanted else {
            let mut free = pools.iter().enumerate().filter_map(|(i, pool)| pool.next().map(|ip| (i, ip)));
            return match (free.next(), pools.last()) {
                (Some((pool, address)), _) => Ok(Some(Choice { pool, address, automatic: true })),
                (None, Some(pool)) => Err(pool.exhausted()),
                (None, None) => Ok(None),
            };
        };
        let Some(pool) = pools.iter().position(|pool| pool.contains(address)) else {
            return Err(self.outside(family, address));
        };
        match pools[pool].held(address) {
            Some(held) => {
                let owner =
                    || if let Held::Owner(owner) = held { self.describe(owner) } else { String::new() };
                Err(taken(address, pools[pool].record().pool, held, owner))
            }
            None => Ok(Some(Choice { pool, address, automatic: false })),
        }
    }

    fn outside(&self, family: Family, address: IpAddr) -> Error {
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

    fn describe(&self, owner: OwnerIndex) -> String {
        self.owners.at(owner).map_or_else(|| "an unknown owner".into(), Owner::describe)
    }
}

fn addresses(owner: &Owner) -> impl Iterator<Item = IpAddr> + use<> {
    owner.ipv4.map(IpAddr::V4).into_iter().chain(owner.ipv6.map(IpAddr::V6))
}

impl Lease {
    fn add(&mut self, address: IpAddr, pool: &Pool) {
        let prefix = pool.record().pool.prefix_len();
        match address {
            IpAddr::V4(ip) => self.ipv4 = Ipv4Net::new(ip, prefix).ok(),
            IpAddr::V6(ip) => self.ipv6 = Ipv6Net::new(ip, prefix).ok(),
        }
    }
}
