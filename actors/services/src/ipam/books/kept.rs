//! What a foreign driver has given for names: addresses that are kept for endpoints of a name.
//!
//! The driver was asked for such an address once, for whoever the owner was then: the reservation, or an endpoint that had
//! it already. The books alone say whose it is today. So an endpoint of the name is lent it without the driver hearing of
//! that, and it is given back for that owner when neither the name nor an endpoint has it any more.

use std::net::IpAddr;
use std::rc::Rc;

use netloom_ipam::LeaseRequest;
use netloom_ipam::driver::{Owner, PoolId};
use netloom_model::record::{PoolRecord, Reservation};
use netloom_model::{EndpointId, Error, Holder, NetworkId, ObjectKind, Reason, Result};

use super::super::dealer::check_in_pool;
use super::{Account, Books, HeldAddress, gateway_of};

/// The addresses of a name.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) held: Vec<HeldAddress>,
    /// Whether all of them are there, and none is being given up.
    whole: bool,
}

/// An address that the driver has to be asked for.
pub(in crate::ipam) type Missing = (Rc<PoolRecord>, IpAddr);

fn holder(name: &str) -> Holder {
    Holder::new(ObjectKind::Reservation, name, "")
}

impl Account {
    fn record_of(&self, address: IpAddr) -> Option<Rc<PoolRecord>> {
        let id = self.pool_of(address)?;
        let mut records = self.pools.iter().filter_map(|pool| pool.record.as_ref());
        records.find(|record| record.id == id.0 && !record.is_none()).cloned()
    }

    /// The endpoint of a name that has an address of its own.
    fn own_of(&self, name: &str, address: IpAddr) -> Option<EndpointId> {
        let Some(Owner::Endpoint(id)) = self.taken.get(&address) else { return None };
        self.tenants.get(id).filter(|tenant| tenant.name == name).map(|_| *id)
    }

    /// Whether an address can be kept for a name.
    fn check_keeping(&self, name: &str, address: IpAddr) -> Result<Rc<PoolRecord>> {
        let Some(record) = self.record_of(address) else {
            let pools = self.pools.iter().filter_map(|pool| pool.record.as_ref());
            let pools: Vec<_> =
                pools.filter(|pool| !pool.is_none()).map(|pool| pool.pool.to_string()).collect();
            let why = match pools.as_slice() {
                [] => "its network has no pool of its IPAM driver".to_owned(),
                pools => format!("it lies outside of {}, the pools of its network", pools.join(", ")),
            };
            return Err(Reason::AddressUnusable { address, why }.into());
        };
        check_in_pool(record.pool, address).map_err(|why| Reason::AddressUnusable { address, why })?;
        let taken = |holder| Error::from(Reason::AddressTaken { address, pool: record.pool, holder });
        if gateway_of(&record) == Some(address) {
            return Err(taken("the gateway that came with its pool".to_owned()));
        }
        match self.taken.get(&address) {
            Some(other) if self.own_of(name, address).is_none() => Err(taken(self.describe(other))),
            _ => Ok(record),
        }
    }

    /// Enters what is recorded. Names that are not recorded, because they are being given up, stay.
    pub(super) fn restore_kept(&mut self, network: NetworkId, name: &str, kept: &Reservation) {
        let owner = Owner::Reservation(network, name.to_owned());
        let mut held = Vec::new();
        for address in kept.addresses() {
            let Some(pool) = self.pool_of(address) else { continue };
            self.taken.insert(address, owner.clone());
            held.push(HeldAddress { pool, owner: owner.clone(), address: Some(address) });
        }
        self.kept.insert(name.to_owned(), Kept { held, whole: true });
    }
}

impl Books {
    /// Addresses are about to be kept for a name; `None` if they are, and else those to be asked for. One that an endpoint
    /// of the name has stays with it.
    pub(in crate::ipam) fn begin_keeping(
        &self,
        network: NetworkId,
        name: &str,
        wanted: &Reservation,
    ) -> Result<Option<Vec<Missing>>> {
        let begun = self.with(network, |account| {
            if let Some(kept) = account.kept.get(name) {
                let mut present: Vec<_> = kept.held.iter().filter_map(|held| held.address).collect();
                present.sort_unstable();
                return match (kept.whole, present == wanted.addresses().collect::<Vec<_>>()) {
                    (true, true) => Ok(None),
                    (true, false) => {
                        Err(Reason::NameTaken { name: name.to_owned(), holder: holder(name) }.into())
                    }
                    (false, _) => {
                        Err(Reason::WrongPhase { object: holder(name), phase: "being given up" }.into())
                    }
                };
            }
            let checked =
                wanted.addresses().map(|address| Ok((account.check_keeping(name, address)?, address)));
            let checked = checked.collect::<Result<Vec<_>>>()?;
            let mut kept = Kept::default();
            let mut missing = Vec::new();
            for (record, address) in checked {
                let Some(endpoint) = account.own_of(name, address) else {
                    missing.push((record, address));
                    continue;
                };
                let Some(tenant) = account.tenants.get_mut(&endpoint) else { continue };
                let own = tenant.held.iter().position(|held| held.address == Some(address));
                kept.held.extend(own.map(|at| tenant.held.remove(at)));
                account.lent.insert(address, endpoint);
                account.taken.insert(address, Owner::Reservation(network, name.to_owned()));
            }
            account.kept.insert(name.to_owned(), kept);
            Ok(Some(missing))
        });
        begun.unwrap_or_else(|| Err(Error::not_found(ObjectKind::Network, network)))
    }

    /// All of them are there.
    pub(in crate::ipam) fn keep(&self, network: NetworkId, name: &str) {
        self.with(network, |account| account.kept.get_mut(name).map(|kept| kept.whole = true));
    }

    /// A name is being given up: what an endpoint has of it is the endpoint's from here on, the rest is to be given back.
    pub(in crate::ipam) fn give_up(&self, network: NetworkId, name: &str) -> Vec<HeldAddress> {
        let left = self.with(network, |account| {
            let Some(kept) = account.kept.get_mut(name) else { return Vec::new() };
            kept.whole = false;
            let (lent, left): (Vec<_>, Vec<_>) = std::mem::take(&mut kept.held)
                .into_iter()
                .partition(|held| held.address.is_some_and(|address| account.lent.contains_key(&address)));
            kept.held.clone_from(&left);
            for held in lent {
                let Some(address) = held.address else { continue };
                let Some(endpoint) = account.lent.remove(&address) else { continue };
                account.taken.insert(address, Owner::Endpoint(endpoint));
                account.tenants.entry(endpoint).and_modify(|tenant| tenant.held.push(held));
            }
            left
        });
        left.unwrap_or_default()
    }

    /// Nothing is kept for a name any more.
    pub(in crate::ipam) fn forget_kept(&self, network: NetworkId, name: &str) {
        self.with(network, |account| account.kept.remove(name));
    }

    /// What is kept for the name of an endpoint, unless another one has it, and is what it wants: it has it from here on.
    pub(in crate::ipam) fn lend(
        &self,
        network: NetworkId,
        want: &LeaseRequest,
        v6: bool,
        asked: Option<IpAddr>,
    ) -> Option<(Rc<PoolRecord>, HeldAddress)> {
        self.with(network, |account| {
            let kept = account.kept.get(&want.name).filter(|kept| kept.whole)?;
            let fits = |held: &&HeldAddress| {
                held.address.is_some_and(|address| {
                    address.is_ipv6() == v6
                        && asked.is_none_or(|asked| asked == address)
                        && !account.lent.contains_key(&address)
                })
            };
            let held = kept.held.iter().find(fits)?.clone();
            let address = held.address?;
            let record = account.record_of(address)?;
            account.lent.insert(address, want.owner);
            Some((record, held))
        })?
    }

    /// Refuses an address that is kept for others, by their name.
    pub(in crate::ipam) fn check_unkept(&self, network: NetworkId, address: IpAddr) -> Result<()> {
        let taken = self.with(network, |account| {
            let owner =
                account.taken.get(&address).filter(|owner| matches!(owner, Owner::Reservation(..)))?;
            let holder = account.lent.get(&address).map(|endpoint| Owner::Endpoint(*endpoint));
            let pool = account.record_of(address)?.pool;
            Some(Reason::AddressTaken {
                address,
                pool,
                holder: account.describe(holder.as_ref().unwrap_or(owner)),
            })
        });
        taken.flatten().map_or(Ok(()), |reason| Err(reason.into()))
    }
}

/// Whose an address is today, and in which pool.
pub(super) struct Standing<'a> {
    pub(super) pool: &'a PoolId,
    pub(super) address: IpAddr,
    pub(super) endpoint: Option<EndpointId>,
    pub(super) owner: &'a Owner,
}

impl Account {
    /// Every address that was given.
    pub(super) fn standing(&self) -> impl Iterator<Item = Standing<'_>> {
        let of_tenants = self.tenants.iter().flat_map(|(id, tenant)| {
            let own = move |held: &'_ HeldAddress| (Some(*id), held.address);
            tenant.held.iter().map(move |held| (own(held), held))
        });
        let reserved = self.reserved.iter().map(|held| ((None, held.address), held));
        let kept = self.kept.values().flat_map(|kept| &kept.held).map(|held| {
            let lent = held.address.and_then(|address| self.lent.get(&address)).copied();
            ((lent, held.address), held)
        });
        of_tenants.chain(reserved).chain(kept).filter_map(|((endpoint, address), held)| {
            let address = address?;
            let owner = self.taken.get(&address).unwrap_or(&held.owner);
            Some(Standing { pool: &held.pool, address, endpoint, owner })
        })
    }

    /// Whether an endpoint is deleted, and what it had waits for the kernel.
    pub(super) fn is_quarantined(&self, endpoint: EndpointId) -> bool {
        self.tenants.get(&endpoint).is_some_and(|tenant| tenant.quarantined)
    }
}
