//! Owns the address pools of one IPAM driver. Rank 1. Spawned by the controller; asks nobody.
//!
//! | message | kind | answers with |
//! |---|---|---|
//! | RequestPools | command | Granted |
//! | ReleasePools | command | () |
//! | TakeBackPools | command | () |
//! | RestorePools | command | () |
//! | LeaseAddresses | command | Leased |
//! | ReleaseAddresses | command | () |
//! | QuarantineAddresses | command | () |
//! | PoolsRetired | event | |
//! | ReserveAddresses | command | () |
//! | UnreserveAddresses | command | () |
//! | PurgeHost | command | PurgedHost |
//! | OwnerRenamed | event | |
//! | ListOverlaps | query | pools in use |
//! | InspectPools | query | usage of each pool |
//! | ReplaceDefaultPools | command | () |
//! | ClusterStoreConfigured | event | |
//! | NodeDiscovered | event | |
//! | InspectIpam | query | IpamSnapshot |
//! | ListHolders | query | Holders |
//! | AskPool | command | AllocatedPool |
//! | GivePoolBack | command | () |
//! | AskAddress | command | AllocatedAddress |
//! | GiveAddressBack | command | () |
//! | Finished | outcome | |
//!
//! The allocator of the driver `default` is plain data, so each of its answers is given in the handler. Nothing is stored:
//! after a start the records of networks and endpoints say what is taken. Every other driver is asked as `foreign.rs`
//! says: its requests are composed in tasks (`compose.rs`), which come back with the last five messages for each call.

use ipnet::IpNet;
use netloom_ipam::cluster::ClusterIpam;
use netloom_ipam::driver::{IpamDiscovery, MadeIpam};
use netloom_ipam::{
    AddressSpace, DefaultIpam, Granted, Lease, Leased, PoolHolding, PoolUsage, PoolsRequest, RestoredPools,
    no_store, picture,
};
use netloom_model::PurgedHost;
use netloom_model::Result;
use netloom_model::config::{DatastoreConfig, DefaultPool};
use netloom_model::snapshot::{Holders, IpamSnapshot};
use netloom_runtime::{Actor, Cx, Handle, OpCtx, Reply, TaskGroup};

use super::foreign::{Foreign, IpamDeps, Pending};
use super::message::{
    ClusterStoreConfigured, InspectIpam, InspectPools, LeaseAddresses, ListHolders, ListOverlaps,
    NodeDiscovered, OwnerRenamed, PoolsRetired, PurgeHost, QuarantineAddresses, ReleaseAddresses,
    ReleasePools, ReplaceDefaultPools, RequestPools, ReserveAddresses, RestorePools, TakeBackPools,
    UnreserveAddresses,
};
use super::shared::Shared;

// === Actor ===

/// The name of the IPAM driver that needs no other.
pub const DRIVER: &str = "default";

/// The actor of one IPAM driver.
#[derive(Debug)]
pub struct IpamActor {
    body: Body,
    /// The cluster store it was told of. Pools of one host need none.
    cluster_store: Option<DatastoreConfig>,
}

/// Who chooses.
#[derive(Debug)]
enum Body {
    Default(Box<DefaultIpam>),
    Shared(Shared),
    Foreign(Box<Foreign>),
}

impl IpamActor {
    /// An actor of the driver `default` that knows no network yet.
    #[must_use]
    pub fn new(default_pools: &[DefaultPool]) -> Self {
        let body = Body::Default(Box::new(DefaultIpam::new(default_pools)));
        Self { body, cluster_store: None }
    }

    /// An actor of the address space that the driver `default` has in a cluster.
    #[must_use]
    pub fn shared(ipam: ClusterIpam) -> Self {
        Self { body: Body::Shared(Shared::new(ipam, TaskGroup::default())), cluster_store: None }
    }

    /// An actor around another driver.
    #[must_use]
    pub fn around(made: MadeIpam, deps: IpamDeps) -> Self {
        Self { body: Body::Foreign(Box::new(Foreign::new(made, deps))), cluster_store: None }
    }

    pub(super) fn foreign(&mut self) -> Option<&mut Foreign> {
        match &mut self.body {
            Body::Default(_) | Body::Shared(_) => None,
            Body::Foreign(foreign) => Some(foreign),
        }
    }
}

// === Lifecycle ===

impl Actor for IpamActor {
    const KIND: &'static str = "ipam";
}

// === Commands ===

impl Handle<RequestPools> for IpamActor {
    fn handle(
        &mut self,
        op: OpCtx,
        message: RequestPools,
        reply: Reply<Result<Granted>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let network = message.network;
        match &mut self.body {
            Body::Default(ipam) => {
                let RequestPools { spec, host, shares, .. } = message;
                reply.send(ipam.request_pools(&PoolsRequest {
                    network,
                    name: spec.name.clone(),
                    spec: &spec.ipam,
                    ipv6: spec.ipv6,
                    shares,
                    host: &host,
                }));
            }
            Body::Shared(shared) => shared.request(op, message, reply),
            Body::Foreign(foreign) => {
                foreign.admit(op, network, Pending::Request(Box::new(message), reply), cx);
            }
        }
    }
}

impl Handle<ReleasePools> for IpamActor {
    fn handle(
        &mut self,
        op: OpCtx,
        ReleasePools(network): ReleasePools,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        match &mut self.body {
            Body::Default(ipam) => {
                ipam.release_pools(network);
                reply.send(Ok(()));
            }
            Body::Shared(shared) => shared.release(op, network, reply),
            Body::Foreign(foreign) => foreign.admit(op, network, Pending::Release(reply), cx),
        }
    }
}

impl Handle<TakeBackPools> for IpamActor {
    fn handle(
        &mut self,
        op: OpCtx,
        TakeBackPools(record): TakeBackPools,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let network = record.id;
        match &mut self.body {
            Body::Default(ipam) => {
                ipam.release_pools(network);
                reply.send(Ok(()));
            }
            Body::Shared(shared) => shared.release(op, network, reply),
            Body::Foreign(foreign) => {
                foreign.admit(op, network, Pending::TakeBack(Box::new(record), reply), cx);
            }
        }
    }
}

impl Handle<RestorePools> for IpamActor {
    fn handle(&mut self, op: OpCtx, message: RestorePools, reply: Reply<Result<()>>, cx: &mut Cx<'_, Self>) {
        match &mut self.body {
            Body::Default(ipam) => {
                let RestorePools { network, endpoints, shares, .. } = message;
                let pools = RestoredPools {
                    network: network.id,
                    name: &network.spec.name,
                    address_space: &network.spec.ipam.address_space,
                    shares,
                    v4: &network.v4,
                    v6: &network.v6,
                };
                let reserve = |ipam: &mut DefaultIpam| {
                    network.reservations.iter().try_for_each(|(name, kept)| {
                        ipam.reserve(network.id, name, &kept.addresses().collect::<Vec<_>>())
                    })
                };
                // Reservations first: endpoints have their addresses from them.
                let reserved = ipam.restore_pools(&pools).and_then(|()| reserve(ipam));
                let restored = reserved.and_then(|()| {
                    endpoints.iter().try_for_each(|endpoint| {
                        let lease = Lease { ipv4: endpoint.ipv4, ipv6: endpoint.ipv6 };
                        ipam.restore_lease(network.id, endpoint.id, &endpoint.name, &lease)
                    })
                });
                ipam.go_on_at(network.id, &network.order);
                reply.send(restored);
            }
            Body::Shared(shared) => shared.restore(op, message, reply),
            Body::Foreign(foreign) => {
                let network = message.network.id;
                foreign.admit(op, network, Pending::Restore(Box::new(message), reply), cx);
            }
        }
    }
}

impl Handle<LeaseAddresses> for IpamActor {
    fn handle(
        &mut self,
        op: OpCtx,
        message: LeaseAddresses,
        reply: Reply<Result<Leased>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let network = message.0;
        match &mut self.body {
            Body::Default(ipam) => {
                let lease = ipam.lease(network, &message.1);
                reply.send(lease.map(|lease| Leased { lease, places: ipam.places(network, &lease) }));
            }
            Body::Shared(shared) => shared.lease(op, message, reply),
            Body::Foreign(foreign) => foreign.admit(op, network, Pending::Lease(message, reply), cx),
        }
    }
}

impl Handle<ReleaseAddresses> for IpamActor {
    fn handle(
        &mut self,
        op: OpCtx,
        ReleaseAddresses(network, endpoint): ReleaseAddresses,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        match &mut self.body {
            Body::Default(ipam) => {
                ipam.release(network, endpoint);
                reply.send(Ok(()));
            }
            Body::Shared(shared) => shared.give_back(op, (network, endpoint), reply),
            Body::Foreign(foreign) => {
                foreign.admit(op, network, Pending::ReleaseOne(endpoint, reply), cx);
            }
        }
    }
}

impl Handle<QuarantineAddresses> for IpamActor {
    fn handle(
        &mut self,
        _: OpCtx,
        QuarantineAddresses(network, endpoint): QuarantineAddresses,
        reply: Reply<()>,
        _: &mut Cx<'_, Self>,
    ) {
        match &mut self.body {
            Body::Default(ipam) => ipam.quarantine(network, endpoint),
            Body::Shared(shared) => return shared.quarantine(network, endpoint, reply),
            Body::Foreign(foreign) => foreign.books().quarantine(network, endpoint),
        }
        reply.send(());
    }
}

impl Handle<PoolsRetired> for IpamActor {
    fn handle(
        &mut self,
        op: OpCtx,
        PoolsRetired(network): PoolsRetired,
        reply: Reply<()>,
        _: &mut Cx<'_, Self>,
    ) {
        // On this host whoever wants them waits.
        if let Body::Shared(shared) = &self.body {
            shared.retire(op, network);
        }
        reply.send(());
    }
}

impl Handle<ReserveAddresses> for IpamActor {
    fn handle(
        &mut self,
        op: OpCtx,
        ReserveAddresses { network, name, kept }: ReserveAddresses,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        match &mut self.body {
            Body::Default(ipam) => {
                reply.send(ipam.reserve(network, &name, &kept.addresses().collect::<Vec<_>>()));
            }
            Body::Shared(shared) => shared.reserve(op, (network, name, kept), reply),
            Body::Foreign(foreign) => {
                let message = ReserveAddresses { network, name, kept };
                foreign.admit(op, network, Pending::Keep(message, reply), cx);
            }
        }
    }
}

impl Handle<UnreserveAddresses> for IpamActor {
    fn handle(
        &mut self,
        op: OpCtx,
        UnreserveAddresses(network, name): UnreserveAddresses,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        match &mut self.body {
            Body::Default(ipam) => {
                ipam.unreserve(network, &name);
                reply.send(Ok(()));
            }
            Body::Shared(shared) => shared.unreserve(op, network, name, reply),
            Body::Foreign(foreign) => foreign.admit(op, network, Pending::GiveUp(name, reply), cx),
        }
    }
}

impl Handle<PurgeHost> for IpamActor {
    fn handle(
        &mut self,
        op: OpCtx,
        PurgeHost(host): PurgeHost,
        reply: Reply<Result<PurgedHost>>,
        _: &mut Cx<'_, Self>,
    ) {
        match &self.body {
            Body::Shared(shared) => shared.purge(op, host, reply),
            Body::Default(_) | Body::Foreign(_) => reply.send(Err(no_store(AddressSpace::Global))),
        }
    }
}

impl Handle<ReplaceDefaultPools> for IpamActor {
    fn handle(
        &mut self,
        _: OpCtx,
        ReplaceDefaultPools(pools): ReplaceDefaultPools,
        reply: Reply<()>,
        _: &mut Cx<'_, Self>,
    ) {
        if let Body::Default(ipam) = &mut self.body {
            ipam.replace_default_pools(&pools);
        }
        reply.send(());
    }
}

// === Events ===

impl Handle<OwnerRenamed> for IpamActor {
    fn handle(
        &mut self,
        _: OpCtx,
        OwnerRenamed(network, endpoint, name): OwnerRenamed,
        _: Reply<()>,
        _: &mut Cx<'_, Self>,
    ) {
        match &mut self.body {
            Body::Default(ipam) => ipam.rename(network, endpoint, &name),
            Body::Shared(shared) => shared.rename(network, endpoint, name),
            Body::Foreign(foreign) => foreign.books().rename(network, endpoint, &name),
        }
    }
}

impl Handle<ClusterStoreConfigured> for IpamActor {
    fn handle(
        &mut self,
        op: OpCtx,
        ClusterStoreConfigured(store): ClusterStoreConfigured,
        _: Reply<()>,
        cx: &mut Cx<'_, Self>,
    ) {
        self.cluster_store = Some(store.clone());
        if let Some(foreign) = self.foreign() {
            foreign.discovered(&op, IpamDiscovery::DatastoreConfigured(store), &cx.tasks());
        }
    }
}

impl Handle<NodeDiscovered> for IpamActor {
    fn handle(
        &mut self,
        op: OpCtx,
        NodeDiscovered(discovery): NodeDiscovered,
        _: Reply<()>,
        cx: &mut Cx<'_, Self>,
    ) {
        if let Some(foreign) = self.foreign() {
            foreign.discovered(&op, discovery, &cx.tasks());
        }
    }
}

// === Queries ===

impl Handle<ListOverlaps> for IpamActor {
    fn handle(
        &mut self,
        _: OpCtx,
        ListOverlaps(nets): ListOverlaps,
        reply: Reply<Vec<(IpNet, PoolHolding)>>,
        _: &mut Cx<'_, Self>,
    ) {
        let overlapping = |find: &dyn Fn(IpNet) -> Vec<PoolHolding>| {
            let pools =
                |net: &IpNet| find(*net).into_iter().map(|holding| (*net, holding)).collect::<Vec<_>>();
            nets.iter().flat_map(pools).collect()
        };
        match &self.body {
            Body::Default(ipam) => reply.send(overlapping(&|net| ipam.overlapping(net))),
            Body::Foreign(foreign) => reply.send(overlapping(&|net| foreign.books().overlapping(net))),
            Body::Shared(shared) => shared.overlaps(nets, reply),
        }
    }
}

impl Handle<InspectPools> for IpamActor {
    fn handle(
        &mut self,
        _: OpCtx,
        InspectPools(network): InspectPools,
        reply: Reply<Option<Vec<PoolUsage>>>,
        _: &mut Cx<'_, Self>,
    ) {
        match &self.body {
            Body::Default(ipam) => reply.send(ipam.usage(network)),
            Body::Foreign(foreign) => reply.send(foreign.books().usage(network)),
            Body::Shared(shared) => shared.usage(network, reply),
        }
    }
}

impl Handle<InspectIpam> for IpamActor {
    fn handle(&mut self, _: OpCtx, _: InspectIpam, reply: Reply<IpamSnapshot>, _: &mut Cx<'_, Self>) {
        let (driver, spaces, pools) = match &self.body {
            Body::Default(ipam) => {
                let spaces = ipam.spaces().map(|space| space.name().to_owned()).collect();
                (DRIVER, spaces, picture::pools(ipam))
            }
            Body::Foreign(foreign) => (foreign.name(), foreign.spaces(), foreign.pools()),
            Body::Shared(shared) => return shared.inspect(self.cluster_store.clone(), reply),
        };
        reply.send(IpamSnapshot {
            driver: driver.to_owned(),
            cluster_store: self.cluster_store.clone(),
            spaces,
            default_pools: Vec::new(),
            pools,
        });
    }
}

impl Handle<ListHolders> for IpamActor {
    fn handle(
        &mut self,
        _: OpCtx,
        ListHolders { network, limit }: ListHolders,
        reply: Reply<Option<Holders>>,
        _: &mut Cx<'_, Self>,
    ) {
        match &self.body {
            Body::Default(ipam) => reply.send(ipam.holders(network, limit)),
            Body::Foreign(foreign) => reply.send(foreign.books().holders(network, limit)),
            Body::Shared(shared) => shared.holders((network, limit), reply),
        }
    }
}
