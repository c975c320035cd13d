//! Owns address pools. Rank 1. Spawned by the controller's start; asks nobody.
//!
//! | message | kind | answers with |
//! |---|---|---|
//! | RequestPools | command | Granted |
//! | ReleasePools | command | () |
//! | RestorePools | command | () |
//! | LeaseAddresses | command | Lease |
//! | ReleaseAddresses | command | () |
//! | QuarantineAddresses | command | () |
//! | ListOverlaps | query | pools in use |
//! | InspectPools | query | usage of each pool |
//! | ReplaceDefaultPools | command | () |
//! | ClusterStoreConfigured | event | |
//! | InspectIpam | query | IpamSnapshot |
//! | ListHolders | query | Holders |
//!
//! The allocator is plain data, so every answer is given in the handler. Nothing is stored: after a start
//! the records of networks and endpoints say what is taken.

use ipnet::IpNet;
use netloom_ipam::{
    DefaultIpam, Granted, Lease, PoolHolding, PoolUsage, PoolsRequest, RestoredPools, picture,
};
use netloom_model::Result;
use netloom_model::config::{DatastoreConfig, DefaultPool};
use netloom_model::snapshot::{Holders, IpamSnapshot};
use netloom_runtime::{Actor, Cx, Handle, OpCtx, Reply};

use super::message::{
    ClusterStoreConfigured, InspectIpam, InspectPools, LeaseAddresses, ListHolders, ListOverlaps,
    QuarantineAddresses, ReleaseAddresses, ReleasePools, ReplaceDefaultPools, RequestPools, RestorePools,
};

// === Actor ===

/// The name of the IPAM driver.
pub const DRIVER: &str = "default";

/// The IPAM actor.
#[derive(Debug)]
pub struct IpamActor {
    ipam: DefaultIpam,
    /// The cluster store it was told of. Pools of one host need none.
    cluster_store: Option<DatastoreConfig>,
}

impl IpamActor {
    /// An actor that knows no network yet.
    #[must_use]
    pub fn new(default_pools: &[DefaultPool]) -> Self {
        Self { ipam: DefaultIpam::new(default_pools), cluster_store: None }
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
        _: OpCtx,
        RequestPools { network, spec, shares, host }: RequestPools,
        reply: Reply<Result<Granted>>,
        _: &mut Cx<'_, Self>,
    ) {
        reply.send(self.ipam.request_pools(&PoolsRequest {
            network,
            name: spec.name.clone(),
            spec: &spec.ipam,
            ipv6: spec.ipv6,
            shares,
            host: &host,
        }));
    }
}

impl Handle<ReleasePools> for IpamActor {
    fn handle(
        &mut self,
        _: OpCtx,
        ReleasePools(network): ReleasePools,
        reply: Reply<()>,
        _: &mut Cx<'_, Self>,
    ) {
        self.ipam.release_pools(network);
        reply.send(());
    }
}

impl Handle<RestorePools> for IpamActor {
    fn handle(
        &mut self,
        _: OpCtx,
        RestorePools { network, shares, endpoints }: RestorePools,
        reply: Reply<Result<()>>,
        _: &mut Cx<'_, Self>,
    ) {
        let pools = RestoredPools {
            network: network.id,
            name: &network.spec.name,
            address_space: &network.spec.ipam.address_space,
            shares,
            v4: &network.v4,
            v6: &network.v6,
        };
        let restored = self.ipam.restore_pools(&pools).and_then(|()| {
            endpoints.iter().try_for_each(|endpoint| {
                let lease = Lease { ipv4: endpoint.ipv4, ipv6: endpoint.ipv6 };
                self.ipam.restore_lease(network.id, endpoint.id, &endpoint.name, &lease)
            })
        });
        reply.send(restored);
    }
}

impl Handle<LeaseAddresses> for IpamActor {
    fn handle(
        &mut self,
        _: OpCtx,
        LeaseAddresses(network, want): LeaseAddresses,
        reply: Reply<Result<Lease>>,
        _: &mut Cx<'_, Self>,
    ) {
        reply.send(self.ipam.lease(network, &want));
    }
}

impl Handle<ReleaseAddresses> for IpamActor {
    fn handle(
        &mut self,
        _: OpCtx,
        ReleaseAddresses(network, endpoint): ReleaseAddresses,
        reply: Reply<()>,
        _: &mut Cx<'_, Self>,
    ) {
        self.ipam.release(network, endpoint);
        reply.send(());
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
        self.ipam.quarantine(network, endpoint);
        reply.send(());
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
        self.ipam.replace_default_pools(&pools);
        reply.send(());
    }
}

// === Events ===

impl Handle<ClusterStoreConfigured> for IpamActor {
    fn handle(
        &mut self,
        _: OpCtx,
        ClusterStoreConfigured(store): ClusterStoreConfigured,
        _: Reply<()>,
        _: &mut Cx<'_, Self>,
    ) {
        self.cluster_store = Some(store);
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
        let pools = |net: IpNet| self.ipam.overlapping(net).into_iter().map(move |holding| (net, holding));
        reply.send(nets.into_iter().flat_map(pools).collect());
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
        reply.send(self.ipam.usage(network));
    }
}

impl Handle<InspectIpam> for IpamActor {
    fn handle(&mut self, _: OpCtx, _: InspectIpam, reply: Reply<IpamSnapshot>, _: &mut Cx<'_, Self>) {
        reply.send(IpamSnapshot {
            driver: DRIVER.to_owned(),
            cluster_store: self.cluster_store.clone(),
            spaces: self.ipam.spaces().map(|space| space.name().to_owned()).collect(),
            default_pools: Vec::new(),
            pools: picture::pools(&self.ipam),
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
        reply.send(self.ipam.holders(network, limit));
    }
}
