//! Who has which addresses: put together from IPAM, the networks, the configuration and the host.

use futures::future::join_all;
use ipnet::IpNet;
use netloom_actor_services::answered;
use netloom_actor_services::ipam::{
    CLUSTER, DRIVER, InspectIpam, ListHolders as ListInIpam, PurgeHost as PurgeInIpam,
};
use netloom_ipam::{AddressSpace, no_store, picture};
use netloom_model::PurgedHost;
use netloom_model::config::DefaultPool;
use netloom_model::snapshot::{Holders, IpamSnapshot};
use netloom_runtime::Handle;

use super::*;
use crate::membership::Entered;
use crate::message::{InspectAddresses, ListHolders, PurgeHost};

/// The default pools in force of each address space.
pub(super) type DefaultPools = [(AddressSpace, Vec<DefaultPool>); 2];

/// Completes what IPAM drivers say of themselves with the default pools in force, which are those of the driver
/// `default`. Without the host's subnets it is not said which of them are the host's.
pub(super) fn complete(all: &mut [IpamSnapshot], default_pools: &DefaultPools, host: Option<&[IpNet]>) {
    for ipam in all.iter_mut().filter(|ipam| ipam.driver == DRIVER) {
        for (space, blocks) in default_pools {
            if ipam.spaces.iter().any(|has| has == space.name()) {
                let pools = ipam.pools.iter().filter(|pool| pool.space == space.name());
                let shown = picture::default_pools(blocks, pools.map(|pool| pool.pool), host);
                ipam.default_pools.extend(shown);
            }
        }
    }
}

impl ControllerActor {
    /// The default pools in force of each address space.
    pub(super) fn default_pools(&self) -> DefaultPools {
        let local = self.estate.default_pools(&self.estate.directory.config());
        let cluster = self.estate.respawn.cluster.as_ref().map(Entered::default_pools);
        [(AddressSpace::Local, local), (AddressSpace::Global, cluster.unwrap_or_default().to_vec())]
    }
}

impl Handle<InspectAddresses> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        _: InspectAddresses,
        reply: Reply<Vec<IpamSnapshot>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let ipam: Vec<_> = self.estate.ipams.values().map(|child| child.port.ask(&op, InspectIpam)).collect();
        let default_pools = self.default_pools();
        let kernel = self.estate.services.kernel.clone();
        cx.tasks().spawn(async move {
            // A host that does not answer is missing from the picture, as an actor is that is being started again.
            let host = overlap::uses(&*kernel, &op).await;
            let host: Option<Vec<IpNet>> = host.ok().map(|uses| uses.iter().map(|(net, ..)| *net).collect());
            let mut all: Vec<_> = join_all(ipam).await.into_iter().flatten().collect();
            complete(&mut all, &default_pools, host.as_deref());
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
        // The one that has given it pools knows them.
        let asked = self.estate.ipams.values().map(|ipam| ipam.port.ask(&op, ListInIpam { network, limit }));
        let (asked, own): (Vec<_>, _) = (asked.collect(), op.clone());
        let work = async move {
            let listed: Vec<_> = join_all(asked).await;
            if let Some(holders) = listed.iter().flatten().flatten().next() {
                return Ok(holders.clone());
            }
            // One whose driver chooses no addresses has none; of one whose IPAM driver does not answer, nobody knows.
            let silent = listed.into_iter().find(std::result::Result::is_err);
            silent.map_or(Ok(Holders::default()), |silent| {
                answered(&own, "ipam", silent.map(Ok)).map(Option::unwrap_or_default)
            })
        };
        self.serve(&op, reply, work, cx);
    }
}

impl Handle<PurgeHost> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        PurgeHost(host): PurgeHost,
        reply: Reply<Result<PurgedHost>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let cluster = self.admit().and_then(|()| {
            let cluster = self.estate.ipams.get(CLUSTER).map(|ipam| ipam.port.clone());
            cluster.ok_or_else(|| no_store(AddressSpace::Global))
        });
        let cluster = match cluster {
            Ok(cluster) => cluster,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        let own = op.clone();
        let work = async move {
            let purged = answered(&own, &cluster, cluster.outcome(&own, PurgeInIpam(host)).await)?;
            tracing::warn!(%purged, "what a host of the cluster had was given back");
            Ok(purged)
        };
        self.serve(&op, reply, work, cx);
    }
}
