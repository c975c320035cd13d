//! Who has which addresses: put together from IPAM, the networks, the configuration and the host.

use std::net::IpAddr;

use futures::future::join_all;
use ipnet::IpNet;
use netloom_actor_network::InspectNetwork;
use netloom_actor_services::answered;
use netloom_actor_services::ipam::{InspectIpam, ListHolders as ListInIpam};
use netloom_ipam::picture;
use netloom_model::config::DefaultPool;
use netloom_model::snapshot::{Holders, IpamSnapshot};
use netloom_runtime::Handle;
use rustc_hash::FxHashMap;

use super::*;
use crate::message::{InspectAddresses, ListHolders};

/// Completes what IPAM says of itself: gateways, which the networks know, and the default pools in force. Without the
/// host's subnets it is not said which of those are the host's.
pub(super) fn complete(
    ipam: &mut IpamSnapshot,
    networks: &[NetworkSnapshot],
    default_pools: &[DefaultPool],
    host: Option<&[IpNet]>,
) {
    let networks: FxHashMap<NetworkId, &NetworkSnapshot> =
        networks.iter().map(|network| (network.id, network)).collect();
    for pool in &mut ipam.pools {
        let network = networks.get(&pool.network).into_iter();
        let records = network.flat_map(|network| network.v4.iter().chain(&network.v6));
        pool.gateway = records.filter(|record| record.pool == pool.pool).find_map(|record| record.gateway);
    }
    let in_use = ipam.pools.iter().map(|pool| pool.pool);
    ipam.default_pools = picture::default_pools(default_pools, in_use, host);
}

impl Handle<InspectAddresses> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        _: InspectAddresses,
        reply: Reply<Vec<IpamSnapshot>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let networks: Vec<_> =
            self.estate.networks.values().map(|child| child.running.addr.ask(&op, InspectNetwork)).collect();
        let ipam = self.estate.services.ipam.ask(&op, InspectIpam);
        let default_pools = self.estate.default_pools(&self.estate.directory.config());
        let kernel = self.estate.services.kernel.clone();
        cx.tasks().spawn(async move {
            let networks: Vec<_> = join_all(networks).await.into_iter().flatten().collect();
            // A host that does not answer is missing from the picture, as an actor is that is being started again.
            let host = overlap::uses(&*kernel, &op).await;
            let host: Option<Vec<IpNet>> = host.ok().map(|uses| uses.iter().map(|(net, ..)| *net).collect());
            let mut all: Vec<_> = ipam.await.into_iter().collect();
            for ipam in &mut all {
                complete(ipam, &networks, &default_pools, host.as_deref());
            }
            reply.send(all);
        });
    }
}

impl Handle<ListHolders> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        ListHolders { network, limit }: ListHolders,
        reply: Reply<Result<Holders>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let Some(child) = self.estate.networks.get(network) else {
            return reply.send(Err(Error::not_found(ObjectKind::Network, network)));
        };
        let addr = child.running.addr.clone();
        let (services, own) = (self.estate.services.clone(), op.clone());
        let work = async move {
            let inspected = addr.ask(&own, InspectNetwork).await.map(Ok);
            let picture = answered(&own, "the network", inspected)?;
            // Deleted endpoints hold theirs until the kernel has let go of their links. Asked after the network: one that
            // is being deleted is in either.
            let kept = services.quarantine.kept(network);
            let kept = kept.iter().map(|endpoint| (endpoint.ipv4, endpoint.ipv6));
            let leased = picture.endpoints.iter().map(|endpoint| (endpoint.ipv4, endpoint.ipv6)).chain(kept);
            let leased = leased.flat_map(|(v4, v6)| {
                let v4 = v4.map(|net| IpAddr::V4(net.addr()));
                v4.into_iter().chain(v6.map(|net| IpAddr::V6(net.addr())))
            });
            let pools = picture.v4.iter().chain(&picture.v6);
            let reserved = pools.flat_map(|pool| pool.gateway.iter().chain(pool.auxiliary.values()).copied());
            let addresses = reserved.chain(leased).collect();
            let list = ListInIpam { network, addresses, limit };
            let listed = services.ipam.ask(&own, list).await.map(Ok);
            // One whose driver chooses no addresses has none.
            Ok(answered(&own, "ipam", listed)?.unwrap_or_default())
        };
        self.serve(&op, reply, work, cx);
    }
}
