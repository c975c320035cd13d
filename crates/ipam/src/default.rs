//! The default IPAM driver: all networks' pools in its address spaces.

use std::net::IpAddr;

use ipnet::IpNet;
use netloom_model::config::DefaultPool;
use netloom_model::record::PoolRecord;
use netloom_model::snapshot::Holders;
use netloom_model::{EndpointId, Error, IpamPoolSpec, IpamSpec, NetworkId, ObjectKind, Reason, Result};
use rustc_hash::FxHashMap;

use crate::doubt::Doubts;
use crate::host::{HostNets, overlaps_host};
use crate::network::Network;
use crate::pool::{Pool, PoolUsage, window};
use crate::refusal::{check_family, check_request, no_room, no_store, pools_exhausted};
use crate::request::{AddressSpace, Granted, Lease, LeaseRequest, PoolsRequest, SkippedPool};
use crate::space::Space;
use crate::span::{Family, Span};
use crate::subnet::{Held, Tenant};

/// A pool that a network has in use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolHolding {
    /// The subnet.
    pub pool: IpNet,
    /// The network.
    pub network: NetworkId,
    /// Its name.
    pub name: String,
}

/// Hands out pools to networks and addresses to endpoints.
///
/// Every call either does all it was asked or changes nothing. Addresses go out in order and wrap around, and
/// the 64 that were released last are passed over as long as there are others: of so few the one released first comes first.
/// Pools are the lowest free ones of the default blocks, in the order of the blocks.
#[derive(Clone, PartialEq, Debug)]
pub struct DefaultIpam {
    pub(crate) local: Space,
    /// Absent until there is a store that all hosts of the cluster use.
    pub(crate) global: Option<Space>,
    pub(crate) networks: FxHashMap<NetworkId, (AddressSpace, Network)>,
    /// What of the global one cannot be known, while a part of its image is lost.
    pub(crate) doubts: Option<Box<Doubts>>,
}

impl DefaultIpam {
    /// An allocator without networks, whose local address space has these default pools. One that makes no sense
    /// is left out: the configuration has its own check.
    #[must_use]
    pub fn new(default_pools: &[DefaultPool]) -> Self {
        let (local, networks) = (Space::new(default_pools), FxHashMap::default());
        Self { local, global: None, networks, doubts: None }
    }

    /// Replaces the default pools of the local address space. Networks keep theirs.
    pub fn replace_default_pools(&mut self, default_pools: &[DefaultPool]) {
        self.local.replace_blocks(default_pools);
    }

    /// Opens the global address space, or replaces its default pools if it is open.
    pub fn open_global(&mut self, default_pools: &[DefaultPool]) {
        match &mut self.global {
            Some(space) => space.replace_blocks(default_pools),
            None => self.global = Some(Space::new(default_pools)),
        }
    }

    /// Takes every pool of a network, with gateways and auxiliary addresses reserved; a pool of one address has a gateway
    /// only if it is asked for. An empty list of IPv4
    /// pools stands for one automatic pool, and so does an empty list of IPv6 pools where IPv6 is enabled.
    ///
    /// # Errors
    /// `PoolOverlap`, `PoolOverlapsHost` and `PoolsExhausted` for subnets; `AddressTaken` and
    /// `AddressUnusable` for reserved addresses; `AddressesExhausted` where no gateway can be chosen;
    /// `IdTaken` if the network has pools already; `NotFound` for an address space of others, or for the global one
    /// before it is open.
    pub fn request_pools(&mut self, request: &PoolsRequest<'_>) -> Result<Granted> {
        let PoolsRequest { network: id, spec, ipv6, .. } = *request;
        if let Some((_, network)) = self.networks.get(&id) {
            return Err(Reason::IdTaken { id: id.to_string(), holder: network.holder() }.into());
        }
        let kind = check_request(spec, ipv6)?;
        let space = self.space_mut(kind)?;
        let mut network = Network::new(id, request.name.clone());
        let mut skipped = Vec::new();
        let before = space.cooling_in(named(spec));
        match take_all(space, request, &mut network, &mut skipped) {
            Ok(()) => {
                let (v4, v6) = (network.records(Family::V4), network.records(Family::V6));
                self.networks.insert(id, (kind, network));
                Ok(Granted { v4, v6, skipped })
            }
            Err(error) => {
                free_all(space, &network);
                space.cool_as(before);
                Err(error)
            }
        }
    }

    /// Frees all pools and addresses of a network, if it has any.
    pub fn release_pools(&mut self, network: NetworkId) {
        if let Some((kind, network)) = self.networks.remove(&network)
            && let Ok(space) = self.space_mut(kind)
        {
            free_all(space, &network);
        }
    }

    /// Takes recorded pools again, at start-up. Host subnets are not looked at: the network's own bridge is
    /// among them. Does nothing if the network has exactly these pools.
    ///
    /// # Errors
    /// `PoolOverlap` if another network took one of them; `IdTaken` if the network has other pools; `NotFound` as for
    /// [`DefaultIpam::request_pools`]; and whatever makes a record invalid.
    pub fn restore_pools(&mut self, restored: &RestoredPools<'_>) -> Result<()> {
        let RestoredPools { network: id, name, address_space, shares, v4, v6 } = *restored;
        if let Some((_, known)) = self.networks.get(&id) {
            return if known.has_pools(v4, v6) {
                Ok(())
            } else {
                Err(Reason::IdTaken { id: id.to_string(), holder: known.holder() }.into())
            };
        }
        let kind = AddressSpace::named(address_space)?;
        let space = self.space_mut(kind)?;
        let mut network = Network::new(id, name.to_owned());
        let before = space.cooling_in(v4.iter().chain(v6).map(|record| record.pool));
        for (family, records) in [(Family::V4, v4), (Family::V6, v6)] {
            for record in records {
                let taken = check_family(&record.pool, family)
                    .and_then(|()| take(space, &mut network, family, record, shares).map(drop));
                if let Err(error) = taken {
                    free_all(space, &network);
                    space.cool_as(before);
                    return Err(error);
                }
            }
        }
        self.networks.insert(id, (kind, network));
        Ok(())
    }

    /// Leases one address of each family the network has pools for. Pools are used in order, the next one only
    /// when those before are exhausted. An owner that has a lease gets the same one again; one whose name has a
    /// reservation gets what is kept for it.
    ///
    /// # Errors
    /// `NotFound` for the network; `AddressTaken`, `AddressUnusable` and `AddressesExhausted`; `IdTaken` if the
    /// owner has another lease than the one it wants; `WrongPhase` if its lease is in quarantine; `Full` for more
    /// than sixteen million endpoints.
    pub fn lease(&mut self, network: NetworkId, want: &LeaseRequest) -> Result<Lease> {
        let (space, network) = self.network_mut(network)?;
        network.lease(space, want)
    }

    /// Takes recorded addresses again, at start-up. Does nothing if the owner has exactly these.
    ///
    /// # Errors
    /// As [`DefaultIpam::lease`], except that nothing is chosen.
    pub fn restore_lease(
        &mut self,
        network: NetworkId,
        owner: EndpointId,
        name: &str,
        lease: &Lease,
    ) -> Result<()> {
        let (space, network) = self.network_mut(network)?;
        network.restore(space, owner, name, lease)
    }

    /// Frees the addresses of an owner, in quarantine or not, if it has any. Those kept for its name stay reserved.
    pub fn release(&mut self, network: NetworkId, owner: EndpointId) {
        if let Ok((space, network)) = self.network_mut(network) {
            network.release(space, &owner);
        }
    }

    /// Keeps the addresses of a deleted owner from being handed out until they are released: the kernel may
    /// still answer for them.
    pub fn quarantine(&mut self, network: NetworkId, owner: EndpointId) {
        if let Ok((space, network)) = self.network_mut(network) {
            network.quarantine(space, &owner);
        }
    }

    /// Keeps addresses of a network for endpoints of a name, whether there is one or not: at most one of each
    /// family. An endpoint of that name that has one keeps it. Does nothing if exactly these are kept.
    ///
    /// # Errors
    /// `NotFound` for the network; `AddressTaken` if somebody else has one; `AddressUnusable`; `NameTaken` if others
    /// are kept for the name.
    pub fn reserve(&mut self, network: NetworkId, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let (space, network) = self.network_mut(network)?;
        network.reserve(space, name, addresses)
    }

    /// Keeps nothing for a name any more; `false` when nothing was kept. An endpoint that has such an address keeps
    /// it until it is released.
    pub fn unreserve(&mut self, network: NetworkId, name: &str) -> bool {
        self.network_mut(network).is_ok_and(|(space, network)| network.unreserve(space, name))
    }

    /// An endpoint has another name. What it leases stays its own, and what is kept for its old name is still kept for
    /// that.
    pub fn rename(&mut self, network: NetworkId, owner: EndpointId, name: &str) {
        if let Ok((_, network)) = self.network_mut(network) {
            network.owners.rename(&owner, name);
        }
    }

    // === Queries ===

    /// How full each pool of a network is, IPv4 first.
    #[must_use]
    pub fn usage(&self, network: NetworkId) -> Option<Vec<PoolUsage>> {
        self.network(network).map(|(space, network)| network.usage(space))
    }

    /// The address spaces that are open.
    pub fn spaces(&self) -> impl Iterator<Item = AddressSpace> {
        let global = self.global.as_ref().map(|_| AddressSpace::Global);
        std::iter::once(AddressSpace::Local).chain(global)
    }

    /// Every network that has pools, with its name and address space, in no order that means anything.
    pub fn networks(&self) -> impl Iterator<Item = (NetworkId, &str, AddressSpace)> {
        self.networks.iter().map(|(id, (space, network))| (*id, network.name(), *space))
    }

    /// Who holds an address of a network, in words; `None` if it is free or not an address of the network.
    #[must_use]
    pub fn holder(&self, network: NetworkId, address: IpAddr) -> Option<String> {
        let (space, network) = self.network(network)?;
        network.holder_of(space, address)
    }

    /// The network that has an address of a network's subnets: another one where networks share the subnet.
    #[must_use]
    pub fn network_of(&self, network: NetworkId, address: IpAddr) -> Option<NetworkId> {
        let (space, network) = self.network(network)?;
        let subnet = space.subnet(network.pool_of(address)?.slot);
        match subnet.held(subnet.offset(address)?)? {
            Held::By(tenant, _) => subnet.tenant(tenant).map(|tenant| tenant.network),
            Held::Never(_) => None,
        }
    }

    /// Who has which addresses of a network's subnets, in order of pools and addresses: at most `limit` of them, the rest
    /// is counted. Network and broadcast addresses are nobody's.
    #[must_use]
    pub fn holders(&self, network: NetworkId, limit: usize) -> Option<Holders> {
        self.network(network).map(|(space, network)| network.holders(space, limit))
    }

    /// The pools in use that overlap a subnet, such as a route that the host just learnt.
    #[must_use]
    pub fn overlapping(&self, net: IpNet) -> Vec<PoolHolding> {
        let spaces = std::iter::once(&self.local).chain(&self.global);
        let subnets = spaces.flat_map(|space| space.overlapping(&net));
        let holdings = subnets.flat_map(|subnet| {
            subnet.tenants().map(|tenant| PoolHolding {
                pool: subnet.net(),
                network: tenant.network,
                name: tenant.name.to_string(),
            })
        });
        holdings.collect()
    }

    // === Helpers ===

    pub(crate) fn space(&self, kind: AddressSpace) -> Option<&Space> {
        match kind {
            AddressSpace::Local => Some(&self.local),
            AddressSpace::Global => self.global.as_ref(),
        }
    }

    pub(crate) fn space_mut(&mut self, kind: AddressSpace) -> Result<&mut Space> {
        match kind {
            AddressSpace::Local => Ok(&mut self.local),
            AddressSpace::Global => self.global.as_mut().ok_or_else(|| no_store(kind)),
        }
    }

    pub(crate) fn network(&self, id: NetworkId) -> Option<(&Space, &Network)> {
        let (kind, network) = self.networks.get(&id)?;
        Some((self.space(*kind)?, network))
    }

    pub(crate) fn network_mut(&mut self, id: NetworkId) -> Result<(&mut Space, &mut Network)> {
        let Self { local, global, networks, .. } = self;
        let (kind, network) =
            networks.get_mut(&id).ok_or_else(|| Error::not_found(ObjectKind::Network, id))?;
        let space = match kind {
            AddressSpace::Local => local,
            AddressSpace::Global => global.as_mut().ok_or_else(|| no_store(*kind))?,
        };
        Ok((space, network))
    }
}

/// Recorded pools of a network.
#[derive(Clone, Copy, Debug)]
pub struct RestoredPools<'a> {
    /// The network.
    pub network: NetworkId,
    /// Its name, for error texts.
    pub name: &'a str,
    /// The address space they are in, as it was asked for.
    pub address_space: &'a str,
    /// As in the request.
    pub shares: bool,
    /// IPv4 pools.
    pub v4: &'a [PoolRecord],
    /// IPv6 pools.
    pub v6: &'a [PoolRecord],
}

/// Takes pools into `network`; on an error it has those taken so far.
fn take_all(
    space: &mut Space,
    request: &PoolsRequest<'_>,
    network: &mut Network,
    skipped: &mut Vec<SkippedPool>,
) -> Result<()> {
    let automatic = [IpamPoolSpec::default()];
    let PoolsRequest { spec, ipv6, host, shares, .. } = *request;
    let v4 = if spec.v4.is_empty() { &automatic[..] } else { &spec.v4 };
    let v6 = match (ipv6, spec.v6.is_empty()) {
        (false, _) => &[],
        (true, true) => &automatic[..],
        (true, false) => &spec.v6,
    };
    for (family, specs) in [(Family::V4, v4), (Family::V6, v6)] {
        let mut choosing = HostNets::automatic(host, family);
        let mut given = HostNets::given(host, family);
        for spec in specs {
            let host = if spec.names_subnet() { &mut given } else { &mut choosing };
            let subnet = find_subnet(space, (network, family, shares), spec, host, skipped)?;
            let record = PoolRecord {
                range: spec.range,
                gateway: spec.gateway,
                auxiliary: spec.auxiliary.clone(),
                ..PoolRecord::new(subnet)
            };
            let (pool, slot) = take(space, network, family, &record, shares)?;
            let subnet = space.subnet_mut(slot);
            // The only address of a /32 or /128 is for an endpoint, unless the caller says otherwise.
            let needs_gateway = spec.gateway.is_none() && !subnet.is_one();
            if needs_gateway && !pool.choose_gateway(subnet) {
                if subnet.tenants().count() == 1 {
                    return Err(no_room(&subnet.net(), spec.range));
                }
                return Err(network.exhausted(space, family));
            }
        }
    }
    Ok(())
}

/// The subnets that a request names.
pub(crate) fn named(spec: &IpamSpec) -> impl Iterator<Item = IpNet> {
    spec.v4.iter().chain(&spec.v6).filter_map(|pool| pool.subnet)
}

/// The subnet that was asked for, or the one to use where none was.
fn find_subnet(
    space: &mut Space,
    (network, family, shares): (&Network, Family, bool),
    spec: &IpamPoolSpec,
    host: &mut HostNets<'_>,
    skipped: &mut Vec<SkippedPool>,
) -> Result<IpNet> {
    let Some(subnet) = spec.subnet.filter(|_| spec.names_subnet()) else {
        let before = skipped.len();
        let size = spec.subnet.map(|size| size.prefix_len());
        let found = space.find(host, family, size, skipped);
        return found.ok_or_else(|| pools_exhausted(space, family, size, skipped.get(before)));
    };
    check_family(&subnet, family)?;
    // Our own networks come first: their bridges are among the host's subnets, and the network is the more useful
    // name.
    space.check_free(&subnet, &tenant(network, shares))?;
    // Networks that share a subnet lie beside the host in one that it has an address of.
    if !shares && let Some((_, other)) = host.conflict(&Span::of(&subnet)) {
        return Err(overlaps_host(subnet, other));
    }
    Ok(subnet)
}

/// Takes a pool into `network`, or changes nothing. Returns it and the place of its subnet.
fn take<'a>(
    space: &mut Space,
    network: &'a mut Network,
    family: Family,
    record: &PoolRecord,
    shares: bool,
) -> Result<(&'a mut Pool, usize)> {
    window(&record.pool, record.range.as_ref())?;
    let (slot, number) = space.join(record.pool, tenant(network, shares))?;
    match Pool::new(record, (slot, space.subnet_mut(slot)), number) {
        Ok(pool) => Ok((network.push(family, pool), slot)),
        Err(error) => {
            space.leave(slot, number);
            Err(error)
        }
    }
}

fn free_all(space: &mut Space, network: &Network) {
    for pool in network.all_pools() {
        space.leave(pool.slot, pool.tenant());
    }
}

fn tenant(network: &Network, shares: bool) -> Tenant {
    Tenant { network: network.id(), name: network.name().into(), shares }
}
