//! What a foreign IPAM driver has given to whom: plain data, without actors.
//!
//! Whatever is asked for is noted before it is asked for, and struck out when the driver has refused it or has taken it
//! back. So what the books say can be given back at any moment, whatever became of the request.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netloom_ipam::driver::{GATEWAY, Owner, PoolId};
use netloom_ipam::{Lease, LeaseRequest, PoolHolding, PoolUsage, picture};
use netloom_model::record::{EndpointRecord, NetworkRecord, PoolRecord};
use netloom_model::snapshot::{AddressHolder, Holders, PoolSnapshot};
use netloom_model::{EndpointId, Error, Holder, NetworkId, ObjectKind, Reason, Result};
use rustc_hash::FxBuildHasher;

use kept::{Kept, Standing};

mod kept;

type Map<K, V> = HashMap<K, V, FxBuildHasher>;

/// The books of one driver. Shared by the incarnations of its actor and their tasks on one engine thread: what a driver
/// has given does not come back by itself when the actor around it dies.
#[derive(Clone, Default)]
pub struct Books(Rc<RefCell<Map<NetworkId, Account>>>);

impl fmt::Debug for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Books({} networks)", self.0.borrow().len())
    }
}

/// What a network has.
#[derive(Default)]
struct Account {
    name: String,
    pools: Vec<HeldPool>,
    /// Gateways and auxiliary addresses.
    reserved: Vec<HeldAddress>,
    tenants: Map<EndpointId, Tenant>,
    /// What is kept for names, by these.
    kept: Map<String, Kept>,
    /// Addresses of these that endpoints have at the moment.
    lent: Map<IpAddr, EndpointId>,
    /// Who has which address.
    taken: Map<IpAddr, Owner>,
}

/// A pool that was given, or may have been.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct HeldPool {
    pub(super) v6: bool,
    /// Its name, unless the request for it did not answer.
    pub(super) id: Option<PoolId>,
    /// As it is recorded, once all of it is known.
    pub(super) record: Option<Rc<PoolRecord>>,
}

/// An address that was given, or may have been.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HeldAddress {
    pub(super) pool: PoolId,
    pub(super) owner: Owner,
    /// Which one, unless the request for it did not answer.
    pub(super) address: Option<IpAddr>,
}

/// An endpoint.
struct Tenant {
    name: String,
    held: Vec<HeldAddress>,
    /// What it was given, once all of it is.
    lease: Option<Lease>,
    quarantined: bool,
}

/// Why an address that was given is not used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Unsettled {
    /// Somebody else of the same network has it.
    Taken(String),
    /// Nobody waits for it any more.
    Abandoned,
}

impl Account {
    fn slots(&mut self, owner: &Owner) -> Option<&mut Vec<HeldAddress>> {
        match owner {
            Owner::Endpoint(id) => self.tenants.get_mut(id).map(|tenant| &mut tenant.held),
            Owner::Reservation(_, name) => self.kept.get_mut(name).map(|kept| &mut kept.held),
            Owner::Gateway(_) | Owner::Auxiliary(..) => Some(&mut self.reserved),
        }
    }

    fn describe(&self, owner: &Owner) -> String {
        match owner {
            Owner::Endpoint(id) => {
                let name = self.tenants.get(id).map(|tenant| tenant.name.as_str()).unwrap_or_default();
                Holder::new(ObjectKind::Endpoint, id, name).to_string()
            }
            Owner::Gateway(_) => "the gateway".to_owned(),
            Owner::Auxiliary(_, name) => format!("auxiliary address {name:?}"),
            Owner::Reservation(_, name) => format!("reservation {name:?}"),
        }
    }

    fn holder(&self, id: NetworkId) -> Holder {
        Holder::new(ObjectKind::Network, id, self.name.as_str())
    }

    /// The recorded pool that an address is from.
    fn pool_of(&self, address: IpAddr) -> Option<PoolId> {
        let records = self.pools.iter().filter_map(|pool| pool.record.as_ref());
        let found = records.filter(|record| record.pool.contains(&address));
        found.max_by_key(|record| record.pool.prefix_len()).map(|record| PoolId(record.id.clone()))
    }

    fn restore_tenant(&mut self, endpoint: &EndpointRecord) {
        let owner = Owner::Endpoint(endpoint.id);
        let addresses = endpoint.ipv4.map(IpNet::V4).into_iter().chain(endpoint.ipv6.map(IpNet::V6));
        let mut held = Vec::new();
        for address in addresses.map(|net| net.addr()) {
            // One of no pool is the network driver's.
            let Some(pool) = self.pool_of(address) else { continue };
            if matches!(self.taken.get(&address), Some(Owner::Reservation(..))) {
                self.lent.insert(address, endpoint.id);
                continue;
            }
            self.taken.insert(address, owner.clone());
            held.push(HeldAddress { pool, owner: owner.clone(), address: Some(address) });
        }
        let (name, lease) = (endpoint.name.clone(), Lease { ipv4: endpoint.ipv4, ipv6: endpoint.ipv6 });
        self.tenants.insert(endpoint.id, Tenant { name, held, lease: Some(lease), quarantined: false });
    }
}

/// The gateway that came with a pool, as far as its text is one.
pub(super) fn gateway_of(pool: &PoolRecord) -> Option<IpAddr> {
    let text = pool.meta.get(GATEWAY)?;
    text.parse::<IpNet>().map(|net| net.addr()).or_else(|_| text.parse()).ok()
}

/// The addresses that were requested for a pool: those that came with it were not.
pub(super) fn reserved_of(network: NetworkId, pool: &PoolRecord) -> Vec<(Owner, IpAddr)> {
    let requested = pool.gateway.filter(|gateway| gateway_of(pool) != Some(*gateway));
    let gateway = requested.map(|address| (Owner::Gateway(network), address));
    let auxiliary = |(name, address): (&String, &IpAddr)| (Owner::Auxiliary(network, name.clone()), *address);
    gateway.into_iter().chain(pool.auxiliary.iter().map(auxiliary)).collect()
}

impl Books {
    fn with<T>(&self, network: NetworkId, f: impl FnOnce(&mut Account) -> T) -> Option<T> {
        self.0.borrow_mut().get_mut(&network).map(f)
    }

    // === Networks ===

    /// Opens the account of a network that has none.
    pub(super) fn open(&self, network: NetworkId, name: &str) -> Result<()> {
        let mut accounts = self.0.borrow_mut();
        if let Some(account) = accounts.get(&network) {
            return Err(Reason::IdTaken { id: network.to_string(), holder: account.holder(network) }.into());
        }
        accounts.insert(network, Account { name: name.to_owned(), ..Account::default() });
        Ok(())
    }

    /// Closes it.
    pub(super) fn close(&self, network: NetworkId) {
        self.0.borrow_mut().remove(&network);
    }

    /// Enters what is recorded. Endpoints that are not recorded, because they are being made or deleted, stay.
    pub(super) fn restore(&self, network: &NetworkRecord, endpoints: &[EndpointRecord]) {
        let mut accounts = self.0.borrow_mut();
        let account = accounts.entry(network.id).or_default();
        account.name.clone_from(&network.spec.name);
        (account.pools, account.reserved) = (Vec::new(), Vec::new());
        for (v6, record) in recorded(network) {
            let id = PoolId(record.id.clone());
            for (owner, address) in reserved_of(network.id, record) {
                account.taken.insert(address, owner.clone());
                account.reserved.push(HeldAddress { pool: id.clone(), owner, address: Some(address) });
            }
            account.pools.push(HeldPool { v6, id: Some(id), record: Some(Rc::new(record.clone())) });
        }
        network.reservations.iter().for_each(|(name, kept)| account.restore_kept(network.id, name, kept));
        endpoints.iter().for_each(|endpoint| account.restore_tenant(endpoint));
    }

    /// A network other than this one that has a pool of this name.
    pub(super) fn other_holder(&self, network: NetworkId, id: &PoolId) -> Option<Holder> {
        let accounts = self.0.borrow();
        let mut others = accounts.iter().filter(|(other, _)| **other != network);
        let held = |account: &Account| account.pools.iter().any(|pool| pool.id.as_ref() == Some(id));
        others.find(|(_, account)| held(account)).map(|(other, account)| account.holder(*other))
    }

    // === Pools ===

    /// A pool is about to be asked for.
    pub(super) fn expect_pool(&self, network: NetworkId, v6: bool) {
        self.with(network, |account| account.pools.push(HeldPool { v6, id: None, record: None }));
    }

    /// The pool that was asked for last has this name, or, later, is this. Tells whether it is still wanted.
    pub(super) fn settle_pool(&self, network: NetworkId, id: &PoolId, record: Option<&PoolRecord>) -> bool {
        let settled = self.with(network, |account| {
            let Some(last) = account.pools.last_mut() else { return false };
            (last.id, last.record) = (Some(id.clone()), record.map(|record| Rc::new(record.clone())));
            true
        });
        settled.unwrap_or(false)
    }

    /// A pool is not held, or not any more.
    pub(super) fn forget_pool(&self, network: NetworkId, id: Option<&PoolId>) {
        self.with(network, |account| {
            if let Some(at) = account.pools.iter().rposition(|pool| pool.id.as_ref() == id) {
                account.pools.remove(at);
            }
        });
    }

    /// Every pool of a network, in the order they were given.
    pub(super) fn pools(&self, network: NetworkId) -> Vec<HeldPool> {
        self.with(network, |account| account.pools.clone()).unwrap_or_default()
    }

    // === Addresses ===

    /// An address is about to be asked for.
    pub(super) fn expect_address(&self, network: NetworkId, owner: &Owner, pool: &PoolId) {
        let held = HeldAddress { pool: pool.clone(), owner: owner.clone(), address: None };
        self.with(network, |account| account.slots(owner).map(|slots| slots.push(held)));
    }

    /// The address that was asked for is this one.
    pub(super) fn settle_address(
        &self,
        network: NetworkId,
        owner: &Owner,
        pool: &PoolId,
        address: IpAddr,
    ) -> Result<(), Unsettled> {
        let settled = self.with(network, |account| {
            let records = account.pools.iter().filter_map(|pool| pool.record.as_deref());
            if !matches!(owner, Owner::Gateway(_)) && records.map(gateway_of).any(|own| own == Some(address))
            {
                return Err(Unsettled::Taken("the gateway that came with its pool".to_owned()));
            }
            let other = account.taken.get(&address).filter(|other| *other != owner);
            if let Some(other) = other.cloned() {
                return Err(Unsettled::Taken(account.describe(&other)));
            }
            let slots = account.slots(owner).ok_or(Unsettled::Abandoned)?;
            let slot = slots.iter_mut().find(|held| held.pool == *pool && held.owner == *owner);
            slot.ok_or(Unsettled::Abandoned)?.address = Some(address);
            account.taken.insert(address, owner.clone());
            Ok(())
        });
        settled.unwrap_or(Err(Unsettled::Abandoned))
    }

    /// An address is not held, or not any more.
    pub(super) fn forget_address(&self, network: NetworkId, owner: &Owner, pool: &PoolId) {
        self.with(network, |account| {
            let find = |slots: &Vec<HeldAddress>| {
                slots.iter().rposition(|held| held.pool == *pool && held.owner == *owner)
            };
            let removed = match account.slots(owner).and_then(|slots| find(slots).map(|at| slots.remove(at)))
            {
                Some(own) => own,
                None => {
                    // What a name and an endpoint had one after the other is with the later one.
                    let kept = account.kept.values_mut().map(|kept| &mut kept.held);
                    let tenants = account.tenants.values_mut().map(|tenant| &mut tenant.held);
                    kept.chain(tenants).find_map(|slots| find(slots).map(|at| slots.remove(at)))?
                }
            };
            account.taken.remove(&removed.address?)
        });
    }

    /// What an endpoint holds, or everybody of a network: the gateways and auxiliary addresses first.
    pub(super) fn held(&self, network: NetworkId, endpoint: Option<EndpointId>) -> Vec<HeldAddress> {
        let held = self.with(network, |account| {
            if let Some(id) = endpoint {
                return account.tenants.get(&id).map(|tenant| tenant.held.clone()).unwrap_or_default();
            }
            let mut tenants: Vec<_> = account.tenants.iter().collect();
            tenants.sort_by_key(|(id, _)| **id);
            let of_tenants = tenants.into_iter().flat_map(|(_, tenant)| &tenant.held);
            let mut kept: Vec<_> = account.kept.iter().collect();
            kept.sort_by_key(|(name, _)| *name);
            let kept = kept.into_iter().flat_map(|(_, kept)| &kept.held);
            account.reserved.iter().chain(kept).chain(of_tenants).cloned().collect()
        });
        held.unwrap_or_default()
    }

    // === Endpoints ===

    /// An endpoint is about to be given its addresses; `Some` if it has them.
    pub(super) fn begin_lease(&self, network: NetworkId, want: &LeaseRequest) -> Result<Option<Lease>> {
        let mut accounts = self.0.borrow_mut();
        let account = accounts.get_mut(&network);
        let account = account.ok_or_else(|| Error::not_found(ObjectKind::Network, network))?;
        let Some(tenant) = account.tenants.get(&want.owner) else {
            let (name, held) = (want.name.clone(), Vec::new());
            account.tenants.insert(want.owner, Tenant { name, held, lease: None, quarantined: false });
            return Ok(None);
        };
        let holder = || Holder::new(ObjectKind::Endpoint, want.owner, tenant.name.as_str());
        let Some(lease) = tenant.lease.filter(|_| !tenant.quarantined) else {
            return Err(Reason::WrongPhase { object: holder(), phase: "being deleted" }.into());
        };
        let other4 = want.ipv4.is_some_and(|asked| lease.ipv4.map(|net| net.addr()) != Some(asked));
        let other6 = want.ipv6.is_some_and(|asked| lease.ipv6.map(|net| net.addr()) != Some(asked));
        if other4 || other6 {
            return Err(Reason::IdTaken { id: want.owner.to_string(), holder: holder() }.into());
        }
        Ok(Some(lease))
    }

    /// It has all of them.
    pub(super) fn complete(&self, network: NetworkId, endpoint: EndpointId, lease: Lease) {
        self.with(network, |account| account.tenants.get_mut(&endpoint).map(|t| t.lease = Some(lease)));
    }

    /// It has another name.
    pub(super) fn rename(&self, network: NetworkId, endpoint: EndpointId, name: &str) {
        self.with(network, |account| account.tenants.get_mut(&endpoint).map(|t| t.name = name.to_owned()));
    }

    /// It is gone.
    pub(super) fn leave(&self, network: NetworkId, endpoint: EndpointId) {
        self.with(network, |account| {
            account.lent.retain(|_, holder| *holder != endpoint);
            account.tenants.remove(&endpoint)
        });
    }

    /// It is deleted, and keeps its addresses until they are released.
    pub(super) fn quarantine(&self, network: NetworkId, endpoint: EndpointId) {
        self.with(network, |account| account.tenants.get_mut(&endpoint).map(|t| t.quarantined = true));
    }

    // === Questions ===

    /// How full each pool of a network is. What the driver itself keeps back is not known.
    pub(super) fn usage(&self, network: NetworkId) -> Option<Vec<PoolUsage>> {
        self.with(network, |account| {
            let usage = |record: &PoolRecord| {
                let (mut used, mut reserved, mut quarantined) = (0, 0, 0);
                for Standing { endpoint, .. } in account.standing().filter(|held| held.pool.0 == record.id) {
                    match endpoint {
                        None => reserved += 1,
                        Some(id) if account.is_quarantined(id) => quarantined += 1,
                        Some(_) => used += 1,
                    }
                }
                let bits = if record.pool.addr().is_ipv4() { 32 } else { 128 };
                PoolUsage {
                    pool: record.pool,
                    range: record.range,
                    gateway: record.gateway,
                    size: 1_u128.checked_shl(bits - u32::from(record.pool.prefix_len())).unwrap_or(u128::MAX),
                    used,
                    reserved,
                    quarantined,
                }
            };
            account.pools.iter().filter_map(|pool| pool.record.as_deref()).map(usage).collect()
        })
    }
}

impl Books {
    /// Every pool in use, by the names of the networks. All are said to be in one address space: in which one a driver has
    /// put a pool is in its name of it, which only the driver can read.
    pub(super) fn picture(&self, space: &str) -> Vec<PoolSnapshot> {
        let mut networks: Vec<_> =
            self.0.borrow().iter().map(|(id, account)| (account.name.clone(), *id)).collect();
        networks.sort_unstable();
        let of = |(name, id): (String, NetworkId)| {
            picture::pools_of(id, &name, space, self.usage(id).unwrap_or_default())
        };
        networks.into_iter().flat_map(of).collect()
    }

    /// The pools in use that overlap a subnet.
    pub(super) fn overlapping(&self, net: IpNet) -> Vec<PoolHolding> {
        let accounts = self.0.borrow();
        let of = |(id, account): (&NetworkId, &Account)| {
            let records = account.pools.iter().filter_map(|pool| pool.record.as_deref());
            let overlap = records.filter(|record| record.pool.contains(&net) || net.contains(&record.pool));
            let holding = |record: &PoolRecord| PoolHolding {
                pool: record.pool,
                network: *id,
                name: account.name.clone(),
            };
            overlap.map(holding).collect::<Vec<_>>()
        };
        accounts.iter().flat_map(of).collect()
    }

    /// Who holds which addresses of a network, by address: `limit` of them, the rest is counted. `None` for a network
    /// that has no account.
    pub(super) fn holders(&self, network: NetworkId, limit: usize) -> Option<Holders> {
        self.with(network, |account| {
            let mut held: Vec<_> = account.standing().collect();
            held.sort_unstable_by_key(|held| held.address);
            let more = held.len().saturating_sub(limit) as u64;
            let shown = held.into_iter().take(limit);
            let holders = shown.map(|Standing { address, endpoint, owner, .. }| {
                let holder = match endpoint {
                    None => account.describe(owner),
                    Some(id) if account.is_quarantined(id) => {
                        format!("quarantine of {}", account.describe(&Owner::Endpoint(id)))
                    }
                    Some(id) => account.describe(&Owner::Endpoint(id)),
                };
                AddressHolder { address, holder }
            });
            Holders { holders: holders.collect(), more }
        })
    }
}

/// The recorded pools of a network, with whether they are of IPv6.
pub(super) fn recorded(network: &NetworkRecord) -> impl Iterator<Item = (bool, &PoolRecord)> {
    let v4 = network.v4.iter().map(|pool| (false, pool));
    v4.chain(network.v6.iter().map(|pool| (true, pool)))
}

/// Puts an address into a lease.
pub(super) fn add_to(lease: &mut Lease, address: IpNet) {
    match address {
        IpNet::V4(net) => lease.ipv4 = Ipv4Net::new(net.addr(), net.prefix_len()).ok(),
        IpNet::V6(net) => lease.ipv6 = Ipv6Net::new(net.addr(), net.prefix_len()).ok(),
    }
}
