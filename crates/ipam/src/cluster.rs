//! The address space that the hosts of a cluster share, over a store with compare-and-swap.
//!
//! The store has a head: the number of an image, and the changes made since. Whoever changes something adds it to the head
//! that it has seen, in one swap; who comes too late looks again and decides anew. So all hosts make the same changes in the
//! same order, and no address is given twice. Each host keeps a replica. It decides by that, without asking, and finds out by
//! the swap whether it was of today.
//!
//! When the head has become long (64 changes, or 256 KiB), whoever changes something next writes the image of all changes
//! so far, and its head begins there. An image is a tree of parts of some kilobytes (`tree`): those at the bottom have the
//! entries in order (`entry`), those above name parts by a number and a hash of what is in them. Only parts in which
//! something has changed are made anew, with those that name them; all others are named again. So what is written follows
//! how much has changed, and no value grows with the space:
//!
//! - a part is written before any head names it, and never changed. Two hosts that write one image write the same parts, or
//!   each its own; whose swap of the head comes first has made it, and nothing of the other's is in it;
//! - a part bears the number of the image that it was made for, the number of changes in that. An image is made of parts
//!   of the one before and of those with its own number, so a part that an image does not have is in none after it. Whoever
//!   has made an image removes those of the one before that it does not use;
//! - what somebody left behind who died before his swap, or whose removals failed, has a number that is not higher than that
//!   of a later image, and is not in it. It is looked for after as many changes as there are parts, and after each image
//!   of a small space;
//! - the changes of the last 16 heads before are kept beside the image, so a host that is some hundred changes behind follows
//!   those. One that is further behind, or new, reads the whole image. Where a part is gone, the
//!   head has gone on meanwhile: it looks again, and reads what it has not read yet.
//!
//! A part that is gone though the head has not gone on, or that does not have the hash it is named by, is lost. A host that
//! knows all, because it has followed or because the history beside the image goes back to its beginning, writes a whole
//! image with its next change. One that does not reads what can be read, notes in the head that the image is not whole, and
//! goes on: what the part can have said is in doubt (`doubt`), is told, and is not given out. It writes no image, and reads
//! the next one when somebody has.

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
use crate::doubt::Doubt;
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
    /// As there; `IdTaken` when another host has a network of that identifier, `WrongPhase` when a deleted network still
    /// has a pool in the way, `InvalidParameter` for more than the store takes at once, and `Store` when it does not answer.
    pub async fn request_pools(&self, request: &PoolsRequest<'_>) -> Result<Granted> {
        let network = request.network;
        let mut spec = request.spec.clone();
        spec.address_space = AddressSpace::Global.name().to_owned();
        let host = self.place.host.clone();
        self.change(|ipam| {
            ipam.check_known(network)?;
            if let Some(other) = ipam.of_another_host(network, &host) {
                return Err(other);
            }
            if let Some(granted) = ipam.granted(network) {
                return Ok((Vec::new(), granted));
            }
            ipam.check_pools()?;
            let planned = ipam.plan_pools(&PoolsRequest { spec: &spec, ..request.clone() });
            let granted = planned.map_err(|error| ipam.retired_before(error))?;
            let (name, address_space, shares) = (&*request.name, &*spec.address_space, request.shares);
            let (v4, v6) = (&*granted.v4, &*granted.v6);
            let pools = RestoredPools { network, name, address_space, shares, v4, v6 };
            ipam.sure(network, Ok((vec![taken(&host, &pools)], granted)))
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
            ipam.check_known(network)?;
            let known = ipam.knows(network) && ipam.of_another_host(network, &host).is_none();
            Ok((known.then_some(Change::PoolsReleased { network }).into_iter().collect(), ()))
        })
        .await?;
        let mut replica = self.replica.lock().await;
        replica.quarantined.retain(|(of, _)| *of != network);
        replica.renamed.retain(|(of, _), _| *of != network);
        Ok(())
    }

    /// Notes that a network's pools will be given back, when the last of its links are gone: others who want them are told.
    ///
    /// # Errors
    /// `Store` when the store does not answer.
    pub async fn retire_pools(&self, network: NetworkId) -> Result<()> {
        let host = self.place.host.clone();
        self.change(|ipam| {
            let own = ipam.of_another_host(network, &host).is_none();
            let change = own && ipam.is_retired(network) == Some(false);
            Ok((change.then_some(Change::PoolsRetired { network }).into_iter().collect(), ()))
        })
        .await
    }

    /// Sees to it that the space has what this host's records say: a network's pools, the addresses of all its endpoints
    /// here, and what is kept for names. What the space has of other endpoints of this host is of such as are gone, and given
    /// back. Answers with how many those were.
    ///
    /// # Errors
    /// `PoolOverlap`, `IdTaken` or `AddressTaken` when somebody else has something of it: nothing was changed if that was so
    /// from the beginning. `Store`. Much of it is restored a part at a time: an error that comes in between is marked
    /// as uncertain, and whoever asks again has the rest restored.
    pub async fn restore(
        &self,
        pools: &RestoredPools<'_>,
        endpoints: &[(EndpointId, &str, Lease)],
        reservations: &[(&str, Vec<IpAddr>)],
    ) -> Result<usize> {
        let address_space = AddressSpace::Global.name();
        let (pools, network) = (RestoredPools { address_space, ..*pools }, pools.network);
        let host = self.place.host.clone();
        let recorded: FxHashSet<_> = endpoints.iter().map(|(endpoint, ..)| *endpoint).collect();
        let addressed = endpoints.iter().filter(|(_, _, lease)| lease.addresses().next().is_some());
        let mut all: Vec<_> =
            addressed.map(|(id, name, lease)| leased(&host, network, (*id, name), lease)).collect();
        all.extend(reservations.iter().map(|(name, addresses)| {
            let (name, addresses) = ((*name).to_owned(), addresses.clone());
            Change::Reserved { network, name, addresses }
        }));
        let restored = self.change_in_parts(|ipam| {
            if let Some(other) = ipam.of_another_host(network, &host) {
                return Err(other);
            }
            let known = ipam.knows(network);
            let nets = pools.v4.iter().chain(pools.v6).map(|record| record.pool);
            let mut changes = ipam.trying(AddressSpace::Global, nets, |ipam| {
                ipam.restore_pools(&pools)?;
                let missing = ipam.missing(&all);
                if !known {
                    ipam.release_pools(network);
                }
                missing
            })?;
            if !known {
                changes.insert(0, taken(&host, &pools));
            }
            let mut orphans = ipam.endpoints_of(network, &host);
            orphans.retain(|endpoint| !recorded.contains(endpoint));
            changes.extend(orphans.iter().map(|endpoint| Change::Released { network, endpoint: *endpoint }));
            Ok((changes, orphans.len()))
        });
        let orphans = restored.await?;
        // Others, and so the store, may know them by the names under which they were leased.
        let mut replica = self.replica.lock().await;
        for (endpoint, name, _) in endpoints {
            if replica.ipam.name_of(network, *endpoint).is_some_and(|known| known != *name) {
                replica.rename(network, *endpoint, name);
            }
        }
        Ok(orphans)
    }

    /// As [`DefaultIpam::lease`].
    ///
    /// # Errors
    /// As there, and `Store` when the store does not answer.
    pub async fn lease(&self, network: NetworkId, want: &LeaseRequest) -> Result<Lease> {
        let host = self.place.host.clone();
        self.change(|ipam| {
            let planned = ipam.plan_lease(network, want).map(|lease| {
                if ipam.lease_of(network, want.owner).is_some() {
                    return (Vec::new(), lease);
                }
                // One that nobody knows of would keep it from having this one.
                let before = Change::Released { network, endpoint: want.owner };
                let before = ipam.may_have_others(network).then_some(before);
                let new = leased(&host, network, (want.owner, &want.name), &lease);
                (before.into_iter().chain([new]).collect(), lease)
            });
            ipam.sure(network, planned)
        })
        .await
    }

    /// As [`DefaultIpam::release`].
    ///
    /// # Errors
    /// `Store` when the store does not answer.
    pub async fn release(&self, network: NetworkId, endpoint: EndpointId) -> Result<()> {
        self.change(|ipam| {
            ipam.check_known(network)?;
            let held = ipam.lease_of(network, endpoint).is_some() || ipam.may_have_others(network);
            Ok((held.then_some(Change::Released { network, endpoint }).into_iter().collect(), ()))
        })
        .await?;
        let mut replica = self.replica.lock().await;
        replica.quarantined.remove(&(network, endpoint));
        replica.renamed.remove(&(network, endpoint));
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

    /// As [`DefaultIpam::rename`], for this host alone: others go on by the name that it was leased under.
    pub async fn rename(&self, network: NetworkId, endpoint: EndpointId, name: &str) {
        self.replica.lock().await.rename(network, endpoint, name);
    }

    /// As [`DefaultIpam::reserve`].
    ///
    /// # Errors
    /// As there, and `Store` when the store does not answer.
    pub async fn reserve(&self, network: NetworkId, name: &str, addresses: &[IpAddr]) -> Result<()> {
        self.change(|ipam| {
            let planned = ipam.plan_reservation(network, name, addresses).map(|new| {
                let (name, addresses) = (name.to_owned(), addresses.to_vec());
                // Others may be kept for it, of which nobody knows.
                let before = Change::Unreserved { network, name: name.clone() };
                let before = (new && ipam.may_have_others(network)).then_some(before);
                let new = new.then_some(Change::Reserved { network, name, addresses });
                (before.into_iter().chain(new).collect(), ())
            });
            ipam.sure(network, planned)
        })
        .await
    }

    /// As [`DefaultIpam::unreserve`].
    ///
    /// # Errors
    /// `Store` when the store does not answer.
    pub async fn unreserve(&self, network: NetworkId, name: &str) -> Result<()> {
        self.change(|ipam| {
            ipam.check_known(network)?;
            let known = ipam.knows_reservation(network, name) || ipam.may_have_others(network);
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

    /// What cannot be known, as long as parts of the image in the store are lost; by what this host knows.
    pub async fn doubts(&self) -> Vec<Doubt> {
        self.replica.lock().await.ipam.all_doubts().to_vec()
    }

    /// The same, where it was found since the last time.
    pub async fn take_doubts(&self) -> Vec<Doubt> {
        self.replica.lock().await.ipam.new_doubts().to_vec()
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
