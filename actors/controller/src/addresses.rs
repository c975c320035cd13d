//! Who has which addresses: put together from IPAM, the networks, the configuration and the host.

use ipnet::IpNet;
use netloom_actor_services::answered;
use netloom_actor_services::ipam::{InspectIpam, ListHolders as ListInIpam};
use netloom_ipam::picture;
use netloom_model::config::DefaultPool;
use netloom_model::snapshot::{Holders, IpamSnapshot};
use netloom_runtime::Handle;

use super::*;
use crate::message::{InspectAddresses, ListHolders};

/// Completes what IPAM says of itself with the default pools in force. Without the host's subnets it is not said which of
/// those are the host's.
pub(super) fn complete(ipam: &mut IpamSnapshot, default_pools: &[DefaultPool], host: Option<&[IpNet]>) {
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
        let ipam = self.estate.services.ipam.ask(&op, InspectIpam);
        let default_pools = self.estate.default_pools(&self.estate.directory.config());
        let kernel = self.estate.services.kernel.clone();
        cx.tasks().spawn(async move {
            // A host that does not answer is missing from the picture, as an actor is that is being started again.
            let host = overlap::uses(&*kernel, &op).await;
            let host: Option<Vec<IpNet>> = host.ok().map(|uses| uses.iter().map(|(net, ..)| *net).collect());
            let mut all: Vec<_> = ipam.await.into_iter().collect();
            for ipam in &mut all {
                complete(ipam, &default_pools, host.as_deref());
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
        if self.estate.networks.get(network).is_none() {
            return reply.send(Err(Error::not_found(ObjectKind::Network, network)));
        }
        let listed = self.estate.services.ipam.ask(&op, ListInIpam { network, limit });
        let own = op.clone();
        let work = async move {
            // One whose driver chooses no addresses has none.
            Ok(answered(&own, "ipam", listed.await.map(Ok))?.unwrap_or_default())
        };
        self.serve(&op, reply, work, cx);
    }
}
