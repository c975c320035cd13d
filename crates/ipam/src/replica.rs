//! What an image and a log need of the allocator: a look inside, plans that change nothing, changes made again.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netloom_model::{EndpointId, Error, Holder, NetworkId, ObjectKind, Reason, Result};
use rustc_hash::FxHashMap;

use crate::change::Change;
use crate::default::{DefaultIpam, named};
use crate::network::Network;
use crate::owner::{Owner, OwnerId};
use crate::request::{AddressSpace, Granted, Lease, LeaseRequest, PoolsRequest};
use crate::space::Space;
use crate::span::Family;
use crate::subnet::Subnet;

impl DefaultIpam {
    // === Images ===

    pub(crate) fn networks_in(&self, space: AddressSpace) -> impl Iterator<Item = &Network> {
        self.networks.values().filter(move |(kind, _)| *kind == space).map(|(_, network)| network)
    }

    pub(crate) fn subnets_in(&self, space: AddressSpace) -> impl Iterator<Item = &Subnet> {
        self.space(space).into_iter().flat_map(Space::in_order)
    }

    pub(crate) fn subnet_mut(&mut self, space: AddressSpace, net: &IpNet) -> Option<&mut Subnet> {
        self.space_mut(space).ok()?.exact_mut(net)
    }

    /// Whether a network lets others have pools in its subnets.
    pub(crate) fn shares(&self, network: &Network) -> bool {
        let Some((space, _)) = self.network(network.id()) else { return false };
        let subnets = network.all_pools().map(|pool| space.subnet(pool.slot));
        let mut tenants = subnets.flat_map(Subnet::tenants);
        tenants.any(|tenant| tenant.network == network.id() && tenant.shares)
    }

    /// The same address spaces with nothing in use.
    pub(crate) fn without_networks(&self) -> Self {
        let empty = Space::emptied;
        Self {
            local: empty(&self.local),
            global: self.global.as_ref().map(empty),
            networks: FxHashMap::default(),
            doubts: None,
        }
    }

    /// Sets where each pool of a family begins to choose; `false` when one of them cannot begin there.
    pub(crate) fn set_cursors(&mut self, network: NetworkId, family: Family, cursors: &[u64]) -> bool {
        let Some((_, network)) = self.networks.get_mut(&network) else { return cursors.is_empty() };
        let mut pools = network.pools_mut(family).iter_mut().zip(cursors);
        pools.all(|(pool, cursor)| pool.set_cursor(*cursor))
    }

    /// Adds owners of a network that were here before; those that cannot be are left out and told.
    pub(crate) fn load_owners(
        &mut self,
        network: NetworkId,
        owners: Vec<Option<Owner>>,
        refused: impl FnMut(&Owner, &Error),
    ) {
        let mut refused = refused;
        match self.network_mut(network) {
            Ok((space, network)) => network.load_all(space, owners, refused),
            Err(error) => owners.iter().flatten().for_each(|owner| refused(owner, &error)),
        }
    }

    pub(crate) fn follow_lease(
        &mut self,
        network: NetworkId,
        who: (EndpointId, &str, Option<Arc<str>>),
        lease: &Lease,
    ) -> Result<()> {
        let (space, network) = self.network_mut(network)?;
        network.follow(space, who, lease)
    }

    pub(crate) fn follow_reservation(
        &mut self,
        network: NetworkId,
        name: &str,
        addresses: &[IpAddr],
    ) -> Result<()> {
        let (space, network) = self.network_mut(network)?;
        network.follow_reservation(space, name, addresses)
    }

    // === Plans ===

    /// The addresses that [`DefaultIpam::lease`] would give. Nothing changes.
    ///
    /// # Errors
    /// As of the lease itself.
    pub fn plan_lease(&self, network: NetworkId, want: &LeaseRequest) -> Result<Lease> {
        let (space, network) = self.known(network)?;
        network.plan(space, want)
    }

    /// The pools that [`DefaultIpam::request_pools`] would give. Nothing has changed afterwards.
    ///
    /// # Errors
    /// As of the request itself.
    pub fn plan_pools(&mut self, request: &PoolsRequest<'_>) -> Result<Granted> {
        let kind = AddressSpace::named(&request.spec.address_space)?;
        self.trying(kind, named(request.spec), |ipam| {
            let granted = ipam.request_pools(request)?;
            ipam.release_pools(request.network);
            Ok(granted)
        })
    }

    /// Tries something in an address space that is taken back before it ends. What cools down in these subnets does so
    /// afterwards as well.
    pub(crate) fn trying<T>(
        &mut self,
        kind: AddressSpace,
        nets: impl IntoIterator<Item = IpNet>,
        tries: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let before = self.space_mut(kind)?.cooling_in(nets);
        let outcome = tries(self);
        self.space_mut(kind)?.cool_as(before);
        outcome
    }

    /// A network that has to be there.
    fn known(&self, id: NetworkId) -> Result<(&Space, &Network)> {
        self.network(id).ok_or_else(|| Error::not_found(ObjectKind::Network, id))
    }

    /// Notes whose network it is.
    pub(crate) fn set_host(&mut self, network: NetworkId, host: Option<Arc<str>>) {
        if let Some((_, network)) = self.networks.get_mut(&network) {
            network.host = host;
        }
    }

    /// The error for a network that another host has, if one has it. Until hosts share networks, each has its own.
    pub(crate) fn of_another_host(&self, network: NetworkId, host: &str) -> Option<Error> {
        let (_, network) = self.networks.get(&network)?;
        let other = network.host.as_deref().filter(|other| *other != host)?;
        let holder =
            Holder::new(ObjectKind::Network, network.id(), format!("{} of host {other}", network.name()));
        Some(Reason::IdTaken { id: network.id().to_string(), holder }.into())
    }

    /// What a network was granted, if it was.
    pub(crate) fn granted(&self, network: NetworkId) -> Option<Granted> {
        let (_, network) = self.networks.get(&network)?;
        let (v4, v6) = (network.records(Family::V4), network.records(Family::V6));
        Some(Granted { v4, v6, skipped: Vec::new() })
    }

    /// Whether [`DefaultIpam::reserve`] would change something.
    pub(crate) fn plan_reservation(
        &self,
        network: NetworkId,
        name: &str,
        addresses: &[IpAddr],
    ) -> Result<bool> {
        let (space, network) = self.known(network)?;
        Ok(network.plan_reservation(space, name, addresses, Some(name))?.is_some())
    }

    /// Those of these leases, releases and reservations that are not there as they say.
    ///
    /// # Errors
    /// What keeps one of them from being made.
    pub(crate) fn missing(&self, changes: &[Change]) -> Result<Vec<Change>> {
        let mut missing = Vec::new();
        for change in changes {
            if self.is_missing(change)? {
                missing.push(change.clone());
            }
        }
        Ok(missing)
    }

    fn is_missing(&self, change: &Change) -> Result<bool> {
        match change {
            Change::Leased { network, endpoint, name, ipv4, ipv6, .. } => {
                let addresses: Vec<_> = Lease { ipv4: *ipv4, ipv6: *ipv6 }.addresses().collect();
                if self.lease_of(*network, *endpoint).is_some_and(|held| held == addresses) {
                    return Ok(false);
                }
                let (ipv4, ipv6) = (ipv4.map(|net| net.addr()), ipv6.map(|net| net.addr()));
                let want = LeaseRequest { owner: *endpoint, name: name.clone(), ipv4, ipv6 };
                self.plan_lease(*network, &want).map(|_| true)
            }
            Change::Released { network, endpoint } => Ok(self.lease_of(*network, *endpoint).is_some()),
            Change::Reserved { network, name, addresses } => {
                let (space, network) = self.known(*network)?;
                Ok(network.plan_reservation(space, name, addresses, None)?.is_some())
            }
            Change::Unreserved { network, name } => Ok(self.knows_reservation(*network, name)),
            Change::PoolsTaken { network, .. } => Ok(!self.knows(*network)),
            Change::PoolsReleased { network } => Ok(self.knows(*network)),
            Change::PoolsRetired { network } => Ok(self.is_retired(*network) == Some(false)),
        }
    }

    /// Notes that a network will give its pools back.
    pub(crate) fn retire(&mut self, network: NetworkId) {
        if let Some((_, network)) = self.networks.get_mut(&network) {
            network.retired = true;
        }
    }

    /// Whether a network will give its pools back; `None` for one that has none.
    pub(crate) fn is_retired(&self, network: NetworkId) -> Option<bool> {
        self.networks.get(&network).map(|(_, network)| network.retired)
    }

    /// The refusal of pools, where they are in the way that a deleted network will give back: who has them, and that it is
    /// worth waiting.
    pub(crate) fn retired_before(&self, refusal: Error) -> Error {
        let Reason::PoolOverlap { other, .. } = refusal.reason() else { return refusal };
        let holding = self.overlapping(*other).into_iter().map(|holding| holding.network);
        let mut retired = holding.filter_map(|id| self.networks.get(&id)).filter(|(_, of)| of.retired);
        let Some((_, network)) = retired.next() else { return refusal };
        let host = network.host.as_deref().map(|host| format!(" of host {host}")).unwrap_or_default();
        let name = format!("{}{host} with pool {other}", network.name());
        let object = Holder::new(ObjectKind::Network, network.id(), name);
        let phase =
            "being deleted, and gives its pools back when the last of its links are gone: try again then";
        Reason::WrongPhase { object, phase }.into()
    }

    /// Whether addresses are kept for a name.
    pub(crate) fn knows_reservation(&self, network: NetworkId, name: &str) -> bool {
        let network = self.networks.get(&network);
        network.is_some_and(|(_, network)| network.owners.reservation(name).is_some())
    }

    /// Whether a network has pools.
    #[must_use]
    pub fn knows(&self, network: NetworkId) -> bool {
        self.networks.contains_key(&network)
    }

    /// The endpoints of a network that lease addresses for a host.
    pub(crate) fn endpoints_of(&self, network: NetworkId, host: &str) -> Vec<EndpointId> {
        let network = self.networks.get(&network).map(|(_, network)| network);
        let owners = network.into_iter().flat_map(|network| network.owners.iter());
        let own = owners.filter(|owner| owner.host.as_deref() == Some(host));
        own.filter_map(|owner| if let OwnerId::Endpoint(id) = owner.id { Some(id) } else { None }).collect()
    }

    /// What an endpoint that has addresses is called.
    pub(crate) fn name_of(&self, network: NetworkId, endpoint: EndpointId) -> Option<&str> {
        let (_, network) = self.networks.get(&network)?;
        network.owners.endpoint(&endpoint).map(|owner| &*owner.name)
    }

    /// The addresses of an endpoint.
    pub(crate) fn lease_of(&self, network: NetworkId, endpoint: EndpointId) -> Option<Vec<IpAddr>> {
        let (_, network) = self.networks.get(&network)?;
        network.owners.endpoint(&endpoint).map(|owner| owner.addresses().collect())
    }
}
