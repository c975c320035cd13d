//! The address space that the hosts of a cluster share, over a store with compare-and-swap.
//!
//! The store has a head: the number of an image, and the changes made since. Whoever changes something adds it to the head
//! that it has seen, in one swap; who comes too late looks again and decides anew. So all hosts make the same changes in the
//! same order, and no address is given twice. When the head has become long, an image is written beside it, and the next
//! head begins there.
//!
//! Each host keeps a replica. It decides by that, without asking, and finds out by the swap whether it was of today.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::lock::Mutex;
use ipnet::IpNet;
use netloom_model::config::DefaultPool;
use netloom_model::snapshot::{Holders, PoolSnapshot};
use netloom_model::{EndpointId, NetworkId, Result};
use netloom_store::cluster::ClusterStore;
use rustc_hash::FxHashSet;

use crate::back_off::Rest;
use crate::change::Change;
pub use crate::claim::Place;
use crate::default::{DefaultIpam, PoolHolding, RestoredPools};
use crate::history::Replica;
use crate::image::Contradiction;
use crate::picture;
use crate::pool::PoolUsage;
use crate::request::{AddressSpace, Granted, Lease, LeaseRequest, PoolsRequest};

/// This host's part of a shared address space.
///
/// Answers wait for the store, and for those asked before: whoever asks sets the deadline. A future that is dropped has
/// made its change or not.
#[derive(Debug)]
pub struct ClusterIpam {
    pub(crate) store: Arc<dyn ClusterStore>,
    pub(crate) place: Place,
    pub(crate) rest: Rest,
    pub(crate) replica: Mutex<Replica>,
}

impl ClusterIpam {
    /// The part of an engine, by whose host its endpoints are known to others. The host's name is taken with the first
    /// change, unless it was taken before ([`Place::claim`]): every request is refused when another engine has it.
    #[must_use]
    pub fn new(store: Arc<dyn ClusterStore>, place: Place, default_pools: &[DefaultPool]) -> Self {
        let mut ipam = DefaultIpam::new(&[]);
        ipam.open_global(default_pools);
        let replica = Mutex::new(Replica::new(ipam, place.start));
        Self { store, place, rest: Rest::default(), replica }
    }

    /// Rests in this way when others were faster, for as long as it is told. Without it, it asks again at once.
    #[must_use]
    pub fn resting(
        mut self,
        rest: impl Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        self.rest = Rest::new(rest);
        self
    }

    // === Requests ===

    /// As [`DefaultIpam::request_pools`]. A network that has pools in the space gets the same ones again.
    ///
    /// # Errors
    /// As there; `IdTaken` when another host has a network of that identifier, and `Store` when the store does not
    /// answer.
    pub async fn request_pools(&self, request: &PoolsRequest<'_>) -> Result<Granted> {
        let network = request.network;
        let mut spec = request.spec.clone();
        spec.address_space = AddressSpace::Global.name().to_owned();
        let host = self.place.host.clone();
        self.change(|ipam| {
            if let Some(other) = ipam.of_another_host(network, &host) {
                return Err(other);
            }
            if let Some(granted) = ipam.granted(network) {
                return Ok((Vec::new(), granted));
            }
            let granted = ipam.plan_pools(&PoolsRequest { spec: &spec, ..request.clone() })?;
            let (name, address_space, shares) = (&*request.name, &*spec.address_space, request.shares);
            let (v4, v6) = (&*granted.v4, &*granted.v6);
            let pools = RestoredPools { network, name, address_space, shares, v4, v6 };
            Ok((vec![taken(&host, &pools)], granted))
        })
        .await
    }

    /// As [`DefaultIpam::release_pools`]. What another host has stays with it.
    ///
    /// # Errors
    /// `Store` when the store does not answer.
    pub async fn release_pools(&self, network: NetworkId) -> Result<()> {
        let host = self.place.host.clone();
        self.change(|ipam| {
            let known = ipam.knows(network) && ipam.of_another_host(network, &host).is_none();
            Ok((known.then_some(Change::PoolsReleased { network }).into_iter().collect(), ()))
        })
        .await?;
        self.replica.lock().await.quarantined.retain(|(of, _)| *of != network);
        Ok(())
    }

    /// Sees to it that the space has what this host's records say: a network's pools, and the addresses of all its
    /// endpoints here. What the space has of others of this host is of endpoints that are gone, and given back. Answers
    /// with how many those were.
    ///
    /// # Errors
    /// `PoolOverlap`, `IdTaken` or `AddressTaken` when somebody else has something of it; `Store`.
    pub async fn restore(
        &self,
        pools: &RestoredPools<'_>,
        endpoints: &[(EndpointId, &str, Lease)],
    ) -> Result<usize> {
        let address_space = AddressSpace::Global.name();
        let pools = RestoredPools { address_space, ..*pools };
        let host = self.place.host.clone();
        self.change(|ipam| {
            if let Some(other) = ipam.of_another_host(pools.network, &host) {
                return Err(other);
            }
            let known = ipam.knows(pools.network);
            let nets = pools.v4.iter().chain(pools.v6).map(|record| record.pool);
            let mut changes = ipam.trying(AddressSpace::Global, nets, |ipam| {
                ipam.restore_pools(&pools)?;
                let missing = missing(ipam, &host, pools.network, endpoints);
                if !known {
                    ipam.release_pools(pools.network);
                }
                missing
            })?;
            if !known {
                changes.insert(0, taken(&host, &pools));
            }
            let recorded: FxHashSet<_> = endpoints.iter().map(|(endpoint, ..)| *endpoint).collect();
            let mut orphans = ipam.endpoints_of(pools.network, &host);
            orphans.retain(|endpoint| !recorded.contains(endpoint));
            let release =
                |endpoint: &EndpointId| Change::Released { network: pools.network, endpoint: *endpoint };
            changes.extend(orphans.iter().map(release));
            Ok((changes, orphans.len()))
        })
        .await
    }

    /// As [`DefaultIpam::lease`].
    ///
    /// # Errors
    /// As there, and `Store` when the store does not answer.
    pub async fn lease(&self, network: NetworkId, want: &LeaseRequest) -> Result<Lease> {
        let host = self.place.host.clone();
        self.change(|ipam| {
            let lease = ipam.plan_lease(network, want)?;
            if ipam.lease_of(network, want.owner).is_some() {
                return Ok((Vec::new(), lease));
            }
            Ok((vec![leased(&host, network, (want.owner, &want.name), &lease)], lease))
        })
        .await
    }

    /// As [`DefaultIpam::release`].
    ///
    /// # Errors
    /// `Store` when the store does not answer.
    pub async fn release(&self, network: NetworkId, endpoint: EndpointId) -> Result<()> {
        self.change(|ipam| {
            let held = ipam.lease_of(network, endpoint);
            Ok((held.map(|_| Change::Released { network, endpoint }).into_iter().collect(), ()))
        })
        .await?;
        self.replica.lock().await.quarantined.remove(&(network, endpoint));
        Ok(())
    }

    /// As [`DefaultIpam::quarantine`]. Nobody else needs to know: until the addresses are released they are taken.
    pub async fn quarantine(&self, network: NetworkId, endpoint: EndpointId) {
        let mut replica = self.replica.lock().await;
        if replica.ipam.lease_of(network, endpoint).is_some() {
            replica.quarantined.insert((network, endpoint));
            replica.ipam.quarantine(network, endpoint);
        }
    }

    /// As [`DefaultIpam::rename`], for this host alone.
    pub async fn rename(&self, network: NetworkId, endpoint: EndpointId, name: &str) {
        self.replica.lock().await.ipam.rename(network, endpoint, name);
    }

    /// As [`DefaultIpam::reserve`].
    ///
    /// # Errors
    /// As there, and `Store` when the store does not answer.
    pub async fn reserve(&self, network: NetworkId, name: &str, addresses: &[IpAddr]) -> Result<()> {
        self.change(|ipam| {
            let new = ipam.plan_reservation(network, name, addresses)?;
            let (name, addresses) = (name.to_owned(), addresses.to_vec());
            Ok((new.then_some(Change::Reserved { network, name, addresses }).into_iter().collect(), ()))
        })
        .await
    }

    /// As [`DefaultIpam::unreserve`].
    ///
    /// # Errors
    /// `Store` when the store does not answer.
    pub async fn unreserve(&self, network: NetworkId, name: &str) -> Result<()> {
        self.change(|ipam| {
            let known = ipam.knows_reservation(network, name);
            let change = || Change::Unreserved { network, name: name.to_owned() };
            Ok((known.then(change).into_iter().collect(), ()))
        })
        .await
    }

    // === Queries ===

    /// As [`DefaultIpam::usage`], by what this host knows.
    pub async fn usage(&self, network: NetworkId) -> Option<Vec<PoolUsage>> {
        self.replica.lock().await.ipam.usage(network)
    }

    /// As [`DefaultIpam::holders`], by what this host knows.
    pub async fn holders(&self, network: NetworkId, limit: usize) -> Option<Holders> {
        self.replica.lock().await.ipam.holders(network, limit)
    }

    /// As [`DefaultIpam::overlapping`], by what this host knows.
    pub async fn overlapping(&self, net: IpNet) -> Vec<PoolHolding> {
        self.replica.lock().await.ipam.overlapping(net)
    }

    /// Every pool in use, by what this host knows.
    pub async fn pools(&self) -> Vec<PoolSnapshot> {
        picture::pools(&self.replica.lock().await.ipam)
    }

    /// What the store said since the last time that cannot be.
    pub async fn take_found(&self) -> Vec<Contradiction> {
        std::mem::take(&mut self.replica.lock().await.found)
    }
}

fn taken(host: &str, pools: &RestoredPools<'_>) -> Change {
    Change::PoolsTaken {
        network: pools.network,
        name: pools.name.to_owned(),
        address_space: pools.address_space.to_owned(),
        host: Some(host.to_owned()),
        shares: pools.shares,
        v4: pools.v4.to_vec(),
        v6: pools.v6.to_vec(),
    }
}

fn leased(host: &str, network: NetworkId, (endpoint, name): (EndpointId, &str), lease: &Lease) -> Change {
    let (name, host) = (name.to_owned(), Some(host.to_owned()));
    Change::Leased { network, endpoint, name, host, ipv4: lease.ipv4, ipv6: lease.ipv6 }
}

/// The leases of recorded endpoints that the space does not have.
fn missing(
    ipam: &DefaultIpam,
    host: &str,
    network: NetworkId,
    endpoints: &[(EndpointId, &str, Lease)],
) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for (endpoint, name, lease) in endpoints {
        let addresses: Vec<_> = lease.addresses().collect();
        if addresses.is_empty() || ipam.lease_of(network, *endpoint).is_some_and(|held| held == addresses) {
            continue;
        }
        let (ipv4, ipv6) = (lease.ipv4.map(|net| net.addr()), lease.ipv6.map(|net| net.addr()));
        ipam.plan_lease(network, &LeaseRequest { owner: *endpoint, name: (*name).to_owned(), ipv4, ipv6 })?;
        changes.push(leased(host, network, (*endpoint, name), lease));
    }
    Ok(changes)
}
