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

use futures::lock::Mutex;
use ipnet::IpNet;
use netloom_model::config::DefaultPool;
use netloom_model::snapshot::{Holders, PoolSnapshot};
use netloom_model::{EndpointId, Error, NetworkId, Reason, Result};
use netloom_store::cluster::{ClusterStore, Revision, Swapped};
use netloom_store::{StoreError, decode, encode};
use rustc_hash::FxHashSet;
use uuid::Uuid;

use crate::change::Change;
use crate::default::{DefaultIpam, PoolHolding, RestoredPools};
use crate::head::{Head, head_key};
use crate::image::Contradiction;
use crate::picture;
use crate::pool::PoolUsage;
use crate::request::{AddressSpace, Granted, Lease, LeaseRequest, PoolsRequest};

/// How many times others may be faster, or the store unclear, before a request gives up.
const ATTEMPTS: usize = 32;

/// This host's part of a shared address space.
///
/// Answers wait for the store, and for those asked before: whoever asks sets the deadline. A future that is dropped has
/// made its change or not.
#[derive(Debug)]
pub struct ClusterIpam {
    store: Arc<dyn ClusterStore>,
    host: Arc<str>,
    history: Uuid,
    replica: Mutex<Replica>,
}

/// What this host knows of the space.
#[derive(Debug)]
struct Replica {
    ipam: DefaultIpam,
    history: Uuid,
    /// How many changes were followed.
    at: u64,
    /// The head as it was last seen and its version, while nobody is known to have changed it.
    seen: Option<(Head, Option<Revision>)>,
    /// Whether a change may still come into effect though nobody waits for it any more. Only another change of the head
    /// keeps it out.
    unclear: bool,
    /// Endpoints of this host whose links are dying.
    quarantined: FxHashSet<(NetworkId, EndpointId)>,
    /// What the store says and cannot be.
    found: Vec<Contradiction>,
}

impl ClusterIpam {
    /// The part of this host, by which its endpoints are known to others. `history` is a fresh identifier, used when the
    /// store is empty.
    #[must_use]
    pub fn new(
        store: Arc<dyn ClusterStore>,
        host: &str,
        default_pools: &[DefaultPool],
        history: Uuid,
    ) -> Self {
        let mut ipam = DefaultIpam::new(&[]);
        ipam.open_global(default_pools);
        let (quarantined, found) = (FxHashSet::default(), Vec::new());
        let replica = Replica { ipam, history, at: 0, seen: None, unclear: false, quarantined, found };
        Self { store, host: host.into(), history, replica: Mutex::new(replica) }
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
        let host = self.host.clone();
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
        let host = self.host.clone();
        self.change(|ipam| {
            let known = ipam.knows(network) && ipam.of_another_host(network, &host).is_none();
            Ok((known.then_some(Change::PoolsReleased { network }).into_iter().collect(), ()))
        })
        .await
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
        let host = self.host.clone();
        self.change(|ipam| {
            if let Some(other) = ipam.of_another_host(pools.network, &host) {
                return Err(other);
            }
            let mut changes = Vec::new();
            let known = ipam.knows(pools.network);
            // Tried, and taken back.
            ipam.restore_pools(&pools)?;
            if !known {
                changes.push(taken(&host, &pools));
            }
            let missing = missing(ipam, &host, pools.network, endpoints);
            if !known {
                ipam.release_pools(pools.network);
            }
            changes.extend(missing?);
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
        let host = self.host.clone();
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

    // === The store ===

    /// Makes the changes that `plan` wants, by the space as it is. `plan` leaves it as it was, and is asked again when
    /// that was not of today.
    async fn change<T>(
        &self,
        mut plan: impl FnMut(&mut DefaultIpam) -> Result<(Vec<Change>, T)>,
    ) -> Result<T> {
        let mut replica = self.replica.lock().await;
        let mut asked = false;
        for _ in 0..ATTEMPTS {
            let looked = replica.seen.is_none();
            if looked {
                // What was asked for before may have been done.
                self.look(&mut replica)
                    .await
                    .map_err(|error| if asked { error.uncertain() } else { error })?;
            }
            let (changes, answer) = match plan(&mut replica.ipam) {
                Ok(planned) => planned,
                Err(refusal) if looked => return Err(refusal),
                // It may be the refusal of yesterday.
                Err(_) => {
                    replica.seen = None;
                    continue;
                }
            };
            if changes.is_empty() && looked && !replica.unclear {
                return Ok(answer);
            }
            if changes.is_empty() && !looked {
                replica.seen = None;
                continue;
            }
            match self.append(&mut replica, changes).await {
                Ok(true) => return Ok(answer),
                Ok(false) => {}
                // It is not known whether it was made, which the next look tells.
                Err(StoreError::CommitUncertain { .. }) => asked = true,
                Err(error) if asked => return Err(Error::from(error).uncertain()),
                Err(error) => return Err(error.into()),
            }
        }
        let message = "others change the address space all the time".to_owned();
        let error = Error::from(Reason::Store { action: "change the cluster's address space", message });
        Err(if asked { error.uncertain() } else { error })
    }

    /// Adds changes to the head that was seen last, and follows them. `false` when it is not the last any more. Also when
    /// this is dropped half-way, the head is looked at before the next change.
    async fn append(&self, replica: &mut Replica, changes: Vec<Change>) -> Result<bool, StoreError> {
        let Some((mut head, revision)) = replica.seen.take() else { return Ok(false) };
        let before = head.image;
        if head.is_long() {
            head = Head { history: head.history, image: head.last(), changes: Vec::new() };
            let image = replica.ipam.image(AddressSpace::Global);
            // One that is there already is of the same changes: of somebody who did not come further.
            self.store.swap(&head.image_key(), image, None).await?;
        }
        head.changes.extend(changes.iter().cloned());
        replica.unclear = true;
        let swapped = match self.store.swap(&head_key(), encode(&head)?, revision).await {
            Err(error) if !matches!(error, StoreError::CommitUncertain { .. }) => {
                replica.unclear = false;
                return Err(error);
            }
            swapped => swapped?,
        };
        // Whatever was on its way before has come too late now.
        replica.unclear = false;
        let Swapped::Done(revision) = swapped else { return Ok(false) };
        changes.iter().for_each(|change| replica.follow(change));
        let (last, images) = (head.image_key(), head.image != before);
        replica.seen = Some((head, Some(revision)));
        if images {
            self.clear_before(&last).await;
        }
        Ok(true)
    }

    /// Removes images that no head begins with any more. Later ones may be about to be used.
    async fn clear_before(&self, last: &str) {
        // What stays is removed with the next image.
        let of_history = last.rsplit_once('/').map_or(last, |(images, _)| images);
        let Ok(keys) = self.store.keys(of_history).await else { return };
        for key in keys.iter().filter(|key| key.as_str() < last) {
            let _ = self.store.remove(key).await;
        }
    }

    /// Looks at the head and follows what others have changed.
    async fn look(&self, replica: &mut Replica) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let Some(found) = self.store.get(&head_key()).await? else {
                if replica.at > 0 {
                    return Err(lost("it is gone from the store"));
                }
                let head = Head { history: self.history, image: 0, changes: Vec::new() };
                replica.begin(self.history);
                replica.seen = Some((head, None));
                return Ok(());
            };
            let head: Head = decode(&found.value)?;
            if replica.at > 0 && (replica.history != head.history || replica.at > head.last()) {
                return Err(lost("the store has been set back, or begun anew"));
            }
            let within = (head.image..=head.last()).contains(&replica.at) && replica.history == head.history;
            if !within && !self.read_image(replica, &head).await? {
                // The head has gone on, and taken its image with it.
                continue;
            }
            let known = usize::try_from(replica.at - head.image).unwrap_or(usize::MAX);
            head.changes.iter().skip(known).for_each(|change| replica.follow(change));
            replica.seen = Some((head, Some(found.revision)));
            return Ok(());
        }
        let message = "it has no image of what it says to have".to_owned();
        Err(Reason::Store { action: "read the cluster's address space", message }.into())
    }

    /// Begins anew at the image of a head; `false` when it is not there.
    async fn read_image(&self, replica: &mut Replica, head: &Head) -> Result<bool> {
        if head.image == 0 {
            replica.begin(head.history);
            return Ok(true);
        }
        let Some(image) = self.store.get(&head.image_key()).await? else { return Ok(false) };
        replica.begin(head.history);
        let loaded = replica.ipam.load_image(AddressSpace::Global, &image.value);
        let found = loaded.map_err(|error| {
            let damaged = StoreError::Damaged { what: head.image_key(), why: error.to_string() };
            Error::from(damaged)
        })?;
        replica.found.extend(found);
        replica.at = head.image;
        for (network, endpoint) in replica.quarantined.clone() {
            replica.ipam.quarantine(network, endpoint);
        }
        Ok(true)
    }
}

impl Replica {
    /// Nothing has changed yet.
    fn begin(&mut self, history: Uuid) {
        self.ipam = self.ipam.without_networks();
        (self.history, self.at) = (history, 0);
    }

    /// Makes a change that is in the store.
    fn follow(&mut self, change: &Change) {
        self.at += 1;
        if let Err(error) = self.ipam.apply(change) {
            // Nobody can have added it; everybody leaves it out alike.
            self.found.push(Contradiction { what: format!("{change:?}"), why: error.to_string() });
        }
    }
}

/// What was given away is not known to the store any more: to go on would give it away again.
fn lost(why: &str) -> Error {
    let message = format!(
        "{why}; start the engines of all hosts again, one after the other, so that each says what it has"
    );
    Reason::Store { action: "follow the cluster's address space", message }.into()
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
