//! What the host uses, for whoever chooses pools.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::channel::oneshot;
use ipnet::IpNet;
use netloom_ipam::io::read_name_servers;
use netloom_ipam::{HostNet, HostUse};
use netloom_kernel::{LinkView, Netns};
use netloom_model::{IpamPoolSpec, NetworkSpec, Result};
use netloom_runtime::OpCtx;

use super::World;

/// The subnets that the host uses, apart from links that the spec names: a bridge that is to be adopted has its
/// address already. Our own bridges are among them: IPAM knows those of its networks by itself, but not what is
/// left of a network that could not be removed at a start.
pub(super) async fn host_nets(world: &World, op: &OpCtx, spec: &NetworkSpec) -> Result<Vec<HostNet>> {
    let (kernel, deadline) = (&world.services.kernel, op.deadline_std());
    let addresses = kernel.addresses(Netns::Host, deadline).await?;
    let routes = kernel.routes_of_all_tables(Netns::Host, deadline).await?;
    // Last, so that whose address was there has a name, too.
    let links = kernel.links(Netns::Host, deadline).await?;
    let taken_over = |key: &&str| spec.options.get(*key).map(String::as_str);
    let adopted: Vec<_> = world.capability.adopts.iter().filter_map(taken_over).collect();
    let named = |link: &LinkView| adopted.contains(&link.name.as_str());
    let named: Vec<_> = links.iter().filter(|link| named(link)).map(|link| link.index).collect();
    let names: BTreeMap<_, _> = links.iter().map(|link| (link.index, link.name)).collect();
    let name = |index: u32| names.get(&index).copied();
    let mut nets: Vec<HostNet> = Vec::new();
    for view in addresses {
        if !named.contains(&view.link) {
            nets.push(HostNet {
                net: view.address.trunc(),
                used_as: HostUse::Address,
                link: name(view.link),
            });
        }
    }
    for view in routes {
        let excepted = view.link.is_some_and(|link| named.contains(&link));
        if !excepted && !is_link_local(&view.destination) {
            let (net, used_as) = (view.destination, HostUse::route(view.table));
            nets.push(HostNet { net, used_as, link: view.link.and_then(name) });
        }
    }
    if chooses_pools(spec) {
        nets.extend(name_servers(world, op).await);
    }
    Ok(nets)
}

/// Whether a pool has to be chosen for a network.
fn chooses_pools(spec: &NetworkSpec) -> bool {
    let chosen = |pools: &[IpamPoolSpec]| pools.is_empty() || pools.iter().any(|pool| !pool.names_subnet());
    chosen(&spec.ipam.v4) || (spec.ipv6 && chosen(&spec.ipam.v6))
}

/// How long a network waits for the host's name servers to be known.
const LOOK: Duration = Duration::from_secs(1);

/// The host's name servers. They are read on a thread of the kernel's, in whose host those files are: nothing
/// blocks the engine's thread, and a simulated kernel has no host whose files could be read.
async fn name_servers(world: &World, op: &OpCtx) -> Vec<HostNet> {
    let files = world.services.name_server_files.get();
    let (sender, found) = oneshot::channel();
    let job = Box::new(move || {
        let _ = sender.send(read_name_servers(&files));
    });
    let within = op.renewed(op.remaining().min(LOOK));
    match world.services.kernel.run_in(Netns::Host, job, within.deadline_std()).await {
        Ok(()) => found.await.unwrap_or_default(),
        Err(error) => {
            tracing::debug!(%error, "the host's name servers are not known");
            Vec::new()
        }
    }
}

fn is_link_local(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local() || net.addr().is_multicast(),
    }
}
