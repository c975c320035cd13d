//! The default IPAM driver: all networks' pools in one address space.

use std::net::IpAddr;

use ipnet::IpNet;
use netloom_model::config::DefaultPool;
use netloom_model::record::PoolRecord;
use netloom_model::{
    EndpointId, Error, Holder, HostOverlap, IpamPoolSpec, IpamSpec, NetworkId, ObjectKind, PoolsConsidered,
    Reason, Result,
};
use rustc_hash::FxHashMap;

use crate::block::SkippedPool;
use crate::host::{Choice, HostNets};
use crate::network::Network;
use crate::pool::{Pool, PoolUsage};
use crate::request::{Granted, Lease, LeaseRequest, PoolsRequest};
use crate::space::Space;
use crate::span::Family;

/// The name of the only address space, libnetwork's for networks of one host.
pub const ADDRESS_SPACE: &str = "LocalDefault";

/// How many networks an error text names that hold default pools.
const SHOWN_HOLDERS: usize = 3;

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
/// Every call either does all it was asked or changes nothing. Addresses go out in order and wrap around, so
/// that a released one comes back last. Pools are the lowest free ones of the default blocks, in the order of
/// the blocks.
#[derive(Clone, PartialEq, Debug)]
pub struct DefaultIpam {
    space: Space,
    networks: FxHashMap<NetworkId, Network>,
}

impl DefaultIpam {
    /// An allocator without networks. A default pool that makes no sense is left out: the configuration has
    /// its own check.
    #[must_use]
    pub fn new(default_pools: &[DefaultPool]) -> Self {
        Self { space: Space::new(default_pools), networks: FxHashMap::default() }
    }

    /// Replaces the default pools. Networks keep theirs.
    pub fn replace_default_pools(&mut self, default_pools: &[DefaultPool]) {
        self.space.replace_blocks(default_pools);
    }

    /// Takes every pool of a network, with gateways and auxiliary addresses reserved. An empty list of IPv4
    /// pools stands for one automatic pool, and so does an empty list of IPv6 pools where IPv6 is enabled.
    ///
    /// # Errors
    /// `PoolOverlap`, `PoolOverlapsHost` and `PoolsExhausted` for subnets; `AddressTaken` and
    /// `AddressUnusable` for reserved addresses; `AddressesExhausted` where no gateway can be chosen;
    /// `IdTaken` if the network has pools already; `NotFound` for a foreign address space.
    pub fn request_pools(&mut self, request: &PoolsRequest<'_>) -> Result<Granted> {
        let PoolsRequest { network: id, spec, ipv6, .. } = *request;
        if let Some(network) = self.networks.get(&id) {
            return Err(Reason::IdTaken { id: id.to_string(), holder: network.holder() }.into());
        }
        check(spec, ipv6)?;
        let mut network = Network::new(id, request.name.clone());
        let mut skipped = Vec::new();
        match self.take_all(request, &mut network, &mut skipped) {
            Ok(()) => {
                let (v4, v6) = (network.records(Family::V4), network.records(Family::V6));
                self.networks.insert(id, network);
                Ok(Granted { v4, v6, skipped })
            }
            Err(error) => {
                self.free_all(&network);
                Err(error)
            }
        }
    }

    /// Frees all pools and addresses of a network, if it has any.
    pub fn release_pools(&mut self, network: NetworkId) {
        if let Some(network) = self.networks.remove(&network) {
            self.free_all(&network);
        }
    }

    /// Takes recorded pools again, at start-up. Host subnets are not looked at: the network's own bridge is
    /// among them. Does nothing if the network has exactly these pools.
    ///
    /// # Errors
    /// `PoolOverlap` if another network took one of them; `IdTaken` if the network has other pools; and
    /// whatever makes a record invalid.
    pub fn restore_pools(
        &mut self,
        network: NetworkId,
        name: &str,
        v4: &[PoolRecord],
        v6: &[PoolRecord],
    ) -> Result<()> {
        if let Some(known) = self.networks.get(&network) {
            return if known.has_pools(v4, v6) {
                Ok(())
            } else {
                Err(Reason::IdTaken { id: network.to_string(), holder: known.holder() }.into())
            };
        }
        let mut restored = Network::new(network, name.to_owned());
        for (family, records) in [(Family::V4, v4), (Family::V6, v6)] {
            for record in records {
                if let Err(error) = self.restore_pool(&mut restored, family, record) {
                    self.free_all(&restored);
                    return Err(error);
                }
            }
        }
        self.networks.insert(network, restored);
        Ok(())
    }

    /// Leases one address of each family the network has pools for. Pools are used in order, the next one only
    /// when those before are exhausted. An owner that has a lease gets the same one again.
    ///
    /// # Errors
    /// `NotFound` for the network; `AddressTaken`, `AddressUnusable` and `AddressesExhausted`; `IdTaken` if the
    /// owner has another lease than the one it wants; `WrongPhase` if its lease is in quarantine.
    pub fn lease(&mut self, network: NetworkId, want: &LeaseRequest) -> Result<Lease> {
        self.network_mut(network)?.lease(want)
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
        self.network_mut(network)?.restore(owner, name, lease)
    }

    /// Frees the addresses of an owner, in quarantine or not, if it has any.
    pub fn release(&mut self, network: NetworkId, owner: EndpointId) {
        if let Some(network) = self.networks.get_mut(&network) {
            network.release(&owner);
        }
    }

    /// Keeps the addresses of a deleted owner from being handed out until they are released: the kernel may
    /// still answer for them.
    pub fn quarantine(&mut self, network: NetworkId, owner: EndpointId) {
        if let Some(network) = self.networks.get_mut(&network) {
            network.quarantine(&owner);
        }
    }

    /// How full each pool of a network is, IPv4 first.
    #[must_use]
    pub fn usage(&self, network: NetworkId) -> Option<Vec<PoolUsage>> {
        self.networks.get(&network).map(Network::usage)
    }

    /// Who holds an address of a network, in words; `None` if it is free or not an address of the network.
    #[must_use]
    pub fn holder(&self, network: NetworkId, address: IpAddr) -> Option<String> {
        self.networks.get(&network)?.holder_of(address)
    }

    /// The pools in use that overlap a subnet, such as a route that the host just learnt.
    #[must_use]
    pub fn overlapping(&self, net: IpNet) -> Vec<PoolHolding> {
        let holding = |network: &Network, pool| PoolHolding {
            pool,
            network: network.id(),
            name: network.name().to_owned(),
        };
        let in_use = self.space.overlapping(&net);
        in_use.filter_map(|used| Some(holding(self.networks.get(&used.network)?, used.pool))).collect()
    }

    fn network_mut(&mut self, id: NetworkId) -> Result<&mut Network> {
        self.networks.get_mut(&id).ok_or_else(|| Error::not_found(ObjectKind::Network, id))
    }

    /// Takes pools into `network`; on an error it has those taken so far.
    fn take_all(
        &mut self,
        request: &PoolsRequest<'_>,
        network: &mut Network,
        skipped: &mut Vec<SkippedPool>,
    ) -> Result<()> {
        let automatic = [IpamPoolSpec::default()];
        let PoolsRequest { spec, ipv6, host, .. } = *request;
        let v4 = if spec.v4.is_empty() { &automatic[..] } else { &spec.v4 };
        let v6 = match (ipv6, spec.v6.is_empty()) {
            (false, _) => &[],
            (true, true) => &automatic[..],
            (true, false) => &spec.v6,
        };
        for (family, specs) in [(Family::V4, v4), (Family::V6, v6)] {
            let mut automatic = HostNets::new(host, family, Choice::Automatic);
            let mut given = HostNets::new(host, family, Choice::Given);
            for spec in specs {
                let host = if spec.subnet.is_some() { &mut given } else { &mut automatic };
                self.take_one(network, family, spec, host, skipped)?;
            }
        }
        Ok(())
    }

    fn take_one(
        &mut self,
        network: &mut Network,
        family: Family,
        spec: &IpamPoolSpec,
        host: &mut HostNets<'_>,
        skipped: &mut Vec<SkippedPool>,
    ) -> Result<()> {
        let subnet = match spec.subnet {
            Some(subnet) => {
                check_family(&subnet, family)?;
                // Our own networks come first: their bridges are among the host's subnets, and the network is
                // the more useful name.
                self.check_free(&subnet, network.id())?;
                if let Some((_, other)) = host.conflict(&crate::span::Span::of(&subnet)) {
                    let (other, what) = (other.net, other.used_as.name());
                    return Err(Reason::PoolOverlapsHost { pool: subnet, other, what }.into());
                }
                subnet
            }
            None => {
                let before = skipped.len();
                let found = self.space.find(host, family, skipped);
                found.ok_or_else(|| self.exhausted(family, network, skipped.get(before)))?
            }
        };
        let mut pool = Pool::new(&PoolRecord {
            range: spec.range,
            gateway: spec.gateway,
            auxiliary: spec.auxiliary.clone(),
            ..PoolRecord::new(subnet)
        })?;
        if spec.gateway.is_none() {
            pool.choose_gateway()?;
        }
        self.take(network, family, pool)
    }

    /// Why there is no default pool to be had. `asking` has taken some already, but is not in the list yet.
    fn exhausted(&self, family: Family, asking: &Network, skipped: Option<&SkippedPool>) -> Error {
        let sizes: Vec<_> = self.space.default_pools(family).into_iter().collect();
        let total = sizes.iter().fold(0u64, |sum, (_, pools)| sum.saturating_add(*pools));
        let held = self.space.occupied(family);
        let occupants = self.space.occupants(family);
        let holder = |(id, _): &(NetworkId, u64)| match self.networks.get(id) {
            Some(network) => network.holder(),
            None => asking.holder(),
        };
        let considered = PoolsConsidered {
            family: family.name(),
            sizes,
            held,
            networks: occupants.len(),
            holders: occupants.iter().take(SHOWN_HOLDERS).map(holder).collect(),
            // There is no third reason.
            of_host: total.saturating_sub(held),
            example: skipped.map(|SkippedPool { pool, host }| HostOverlap {
                pool: *pool,
                other: host.net,
                what: host.used_as.name(),
            }),
        };
        Reason::PoolsExhausted(Box::new(considered)).into()
    }

    fn restore_pool(&mut self, network: &mut Network, family: Family, record: &PoolRecord) -> Result<()> {
        check_family(&record.pool, family)?;
        let pool = Pool::new(record)?;
        self.take(network, family, pool)
    }

    /// The last step of taking a pool: nothing fails after it.
    fn take(&mut self, network: &mut Network, family: Family, pool: Pool) -> Result<()> {
        let subnet = pool.record().pool;
        self.check_free(&subnet, network.id())?;
        match self.space.take(subnet, network.id()) {
            Ok(()) => {
                network.push(family, pool);
                Ok(())
            }
            Err(other) => Err(self.overlap(&subnet, &other.pool, other.network, network.id())),
        }
    }

    fn check_free(&self, subnet: &IpNet, network: NetworkId) -> Result<()> {
        match self.space.overlapping(subnet).next() {
            Some(other) => Err(self.overlap(subnet, &other.pool, other.network, network)),
            None => Ok(()),
        }
    }

    fn overlap(&self, pool: &IpNet, other: &IpNet, holder: NetworkId, asking: NetworkId) -> Error {
        let holder = if holder == asking {
            "the same request".to_owned()
        } else {
            let known = self.networks.get(&holder).map(Network::holder);
            known.unwrap_or_else(|| Holder::new(ObjectKind::Network, holder, "")).to_string()
        };
        Reason::PoolOverlap { pool: *pool, other: *other, holder }.into()
    }

    fn free_all(&mut self, network: &Network) {
        for subnet in network.subnets() {
            self.space.free(subnet);
        }
    }
}

/// What the request's own check does not cover, and what must hold for the arithmetic to be right.
fn check(spec: &IpamSpec, ipv6: bool) -> Result<()> {
    let space = spec.address_space.as_str();
    if !space.is_empty() && space != ADDRESS_SPACE {
        return Err(Error::not_found(ObjectKind::AddressSpace, space));
    }
    if !ipv6 && !spec.v6.is_empty() {
        return Err(Error::invalid("ipv6", ipv6, "an IPv6 pool is given but IPv6 is off"));
    }
    Ok(())
}

fn check_family(subnet: &IpNet, family: Family) -> Result<()> {
    if Family::of(subnet) != family {
        let why = format!("an {} subnet is expected here", family.name());
        return Err(Error::invalid("subnet", subnet, why));
    }
    if subnet.addr() != subnet.network() || subnet.prefix_len() == 0 {
        return Err(Error::invalid("subnet", subnet, "a subnet without host bits is needed"));
    }
    Ok(())
}
