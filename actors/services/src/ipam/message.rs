//! What IPAM can be asked.

use std::sync::Arc;

use ipnet::IpNet;
use netloom_ipam::driver::{
    AddressRelease, AddressRequest, AllocatedAddress, AllocatedPool, IpamDiscovery, PoolRelease, PoolRequest,
};
use netloom_ipam::{Granted, HostNet, LeaseRequest, Leased, PoolHolding, PoolUsage};
use netloom_model::config::{DatastoreConfig, DefaultPool, Scope};
use netloom_model::record::{EndpointRecord, NetworkRecord, Reservation};
use netloom_model::snapshot::{Holders, IpamSnapshot};
use netloom_model::{EndpointId, MacAddr, NetworkId, NetworkSpec, PurgedHost, Result};
use netloom_runtime::messages;

/// Reserve every pool of a network, with gateways and auxiliary addresses: all or nothing.
#[derive(Clone, Debug)]
pub struct RequestPools {
    /// The network.
    pub network: NetworkId,
    /// What it asks for.
    pub spec: NetworkSpec,
    /// Whether other networks whose drivers say the same may have pools in the same subnets.
    pub shares: bool,
    /// What the host uses.
    pub host: Vec<HostNet>,
    /// How far the networks of its driver reach: which address space it gets unless it names one.
    pub scope: Scope,
}

/// Give back every pool of a network, with all addresses in them. Succeeds when there is none.
#[derive(Clone, Copy, Debug)]
pub struct ReleasePools(pub NetworkId);

/// A deleted network gives its pools back when the kernel has let go of its last links. For others who want them: the hosts
/// of a cluster are told.
#[derive(Clone, Copy, Debug)]
pub struct PoolsRetired(pub NetworkId);

/// Give back every pool that a record names: its network never came into service, or is being deleted and the engine
/// was started again meanwhile.
#[derive(Clone, Debug)]
pub struct TakeBackPools(pub NetworkRecord);

/// Reserve what the records say: after a start, or after this service was restarted.
#[derive(Clone, Debug)]
pub struct RestorePools {
    /// The network.
    pub network: NetworkRecord,
    /// As in [`RequestPools`].
    pub shares: bool,
    /// Its endpoints.
    pub endpoints: Vec<EndpointRecord>,
    /// How far the networks of its driver reach.
    pub scope: Scope,
}

/// Lease the addresses of an endpoint: one of each family its network has. The endpoint's hardware address is for
/// drivers that require it.
#[derive(Clone, Debug)]
pub struct LeaseAddresses(pub NetworkId, pub LeaseRequest, pub Option<MacAddr>);

/// Give back the addresses of an endpoint. Succeeds when there is none.
#[derive(Clone, Copy, Debug)]
pub struct ReleaseAddresses(pub NetworkId, pub EndpointId);

/// Keep the addresses of a deleted endpoint until the kernel has let go of its link.
#[derive(Clone, Copy, Debug)]
pub struct QuarantineAddresses(pub NetworkId, pub EndpointId);

/// Keep addresses of a network for endpoints of a name: at most one of each family. Succeeds when exactly these are
/// kept.
#[derive(Clone, Debug)]
pub struct ReserveAddresses {
    /// The network.
    pub network: NetworkId,
    /// The name.
    pub name: Arc<str>,
    /// What is kept.
    pub kept: Reservation,
}

/// Keep nothing for a name any more. Succeeds when nothing is kept.
#[derive(Clone, Debug)]
pub struct UnreserveAddresses(pub NetworkId, pub Arc<str>);

/// Give back all that a host of the cluster has, and its name: it is gone for good.
#[derive(Clone, Debug)]
pub struct PurgeHost(pub String);

/// An endpoint has another name.
#[derive(Clone, Debug)]
pub struct OwnerRenamed(pub NetworkId, pub EndpointId, pub String);

/// The pools in use that overlap each of these subnets.
#[derive(Clone, Debug)]
pub struct ListOverlaps(pub Vec<IpNet>);

/// How full the pools of a network are.
#[derive(Clone, Copy, Debug)]
pub struct InspectPools(pub NetworkId);

/// The configuration has other default pools than before. Networks keep theirs.
#[derive(Clone, Debug)]
pub struct ReplaceDefaultPools(pub Vec<DefaultPool>);

/// The cluster store's configuration is known, or has changed (libnetwork's `DiscoverNew` of an IPAM driver).
#[derive(Clone, Debug)]
pub struct ClusterStoreConfigured(pub DatastoreConfig);

/// A node of the cluster appeared or went away (libnetwork's `DiscoverNew` and `DiscoverDelete`). For drivers of others:
/// the cluster's address space knows its hosts by what they have.
#[derive(Clone, Debug)]
pub struct NodeDiscovered(pub IpamDiscovery);

/// The service's pools in use, and what it knows beside them. The default pools are not in the answer: the
/// configuration has them.
#[derive(Clone, Copy, Debug)]
pub struct InspectIpam;

/// Who holds which addresses of a network. `None` when it has no pools.
#[derive(Clone, Debug)]
pub struct ListHolders {
    /// The network.
    pub network: NetworkId,
    /// How many are listed; the rest is counted.
    pub limit: usize,
}
/// Ask the foreign driver for a pool.
#[derive(Clone, Debug)]
pub(super) struct AskPool(pub(super) PoolRequest);

/// Give a pool back to the foreign driver.
#[derive(Clone, Debug)]
pub(super) struct GivePoolBack(pub(super) PoolRelease);

/// Ask the foreign driver for an address.
#[derive(Clone, Debug)]
pub(super) struct AskAddress(pub(super) AddressRequest);

/// Give an address back to the foreign driver.
#[derive(Clone, Debug)]
pub(super) struct GiveAddressBack(pub(super) AddressRelease);

messages! {
    RequestPools => Result<Granted>;
    ReleasePools => Result<()>;
    TakeBackPools => Result<()>;
    RestorePools => Result<()>;
    LeaseAddresses => Result<Leased>;
    ReleaseAddresses => Result<()>;
    QuarantineAddresses => ();
    PoolsRetired => ();
    ReserveAddresses => Result<()>;
    UnreserveAddresses => Result<()>;
    PurgeHost => Result<PurgedHost>;
    OwnerRenamed => ();
    ListOverlaps => Vec<(IpNet, PoolHolding)>;
    InspectPools => Option<Vec<PoolUsage>>;
    ReplaceDefaultPools => ();
    ClusterStoreConfigured => ();
    NodeDiscovered => ();
    InspectIpam => IpamSnapshot;
    ListHolders => Option<Holders>;
    AskPool => Result<AllocatedPool>;
    GivePoolBack => Result<()>;
    AskAddress => Result<AllocatedAddress>;
    GiveAddressBack => Result<()>;
}
