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
//! | InspectPools | query | usage of each pool |
//!
//! The allocator is plain data, so every answer is given in the handler. Nothing is stored: after a start
//! the records of networks and endpoints say what is taken.

use netloom_ipam::{DefaultIpam, Granted, Lease, PoolUsage, PoolsRequest};
use netloom_model::Result;
use netloom_model::config::DefaultPool;
use netloom_runtime::{Actor, Cx, Handle, OpCtx, Reply};

use super::message::{
    InspectPools, LeaseAddresses, QuarantineAddresses, ReleaseAddresses, ReleasePools, RequestPools,
    RestorePools,
};

// === Actor ===

/// The IPAM actor.
#[derive(Debug)]
pub struct IpamActor {
    ipam: DefaultIpam,
}

impl IpamActor {
    /// An actor that knows no network yet.
    #[must_use]
    pub fn new(default_pools: &[DefaultPool]) -> Self {
        Self { ipam: DefaultIpam::new(default_pools) }
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
        RequestPools { network, spec, host }: RequestPools,
        reply: Reply<Result<Granted>>,
        _: &mut Cx<'_, Self>,
    ) {
        reply.send(self.ipam.request_pools(&PoolsRequest {
            network,
            name: spec.name.clone(),
            spec: &spec.ipam,
            ipv6: spec.ipv6,
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
        RestorePools { network, endpoints }: RestorePools,
        reply: Reply<Result<()>>,
        _: &mut Cx<'_, Self>,
    ) {
        let restored = self
            .ipam
            .restore_pools(network.id, &network.spec.name, &network.v4, &network.v6)
            .and_then(|()| {
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

// === Queries ===

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
