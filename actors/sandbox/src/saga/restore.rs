//! Putting a sandbox right that was read back: its way out may have been about to move when the engine or its
//! actor died.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use netloom_actor_services::SagaWorld;
use netloom_kernel::{Op, Route, RouteView};
use netloom_model::{IfName, Repair, Result};
use netloom_runtime::OpCtx;
use netloom_runtime::saga::Patience;

use super::{Undone, World};
use crate::gateway::{Gateways, elect};
use crate::member::Member;

/// Compares the default routes inside with those that the endpoints call for, corrects them, and tells the
/// driver of the endpoint that provides them once more: it may have been restarted and know nothing.
pub(crate) async fn restore(
    world: World,
    op: OpCtx,
    members: Vec<Member>,
    labels: BTreeMap<String, String>,
) -> Result<Vec<Repair>> {
    let wanted = elect(&members);
    let Some(provider) = members.iter().find(|member| Some(member.endpoint) == wanted.provider()) else {
        return Ok(Vec::new());
    };
    let deadline = op.deadline_std();
    let names: Vec<_> = members.iter().map(|member| member.ifname).collect();
    let found = world.services.kernel.find_links(world.netns, names, deadline).await?;
    let links: HashMap<_, _> = found.into_iter().flatten().map(|link| (link.index, link.name)).collect();
    let present = world.services.kernel.routes(world.netns, deadline).await?;
    let ops = corrections(&world, wanted, &present, &links);
    let repairs = ops.iter().filter_map(|op| remade(&world, op)).collect();
    world.finish(&op, Undone::Plumbing(ops), Patience::Usual).await;
    let (network, endpoint) = (provider.network, provider.endpoint);
    world.finish(&op, Undone::LostConnectivity(network, endpoint, labels), Patience::Usual).await;
    Ok(repairs)
}

/// What makes the default routes right. One that leaves by a link of nobody here is the container's own
/// business: a tunnel that it made itself, say.
fn corrections(
    world: &World,
    wanted: Gateways,
    present: &[RouteView],
    links: &HashMap<u32, IfName>,
) -> Vec<Op> {
    let netns = world.netns;
    let mut ops = Vec::new();
    for route in wanted.routes().flatten() {
        let family = |address: IpAddr| address.is_ipv4() == route.destination.addr().is_ipv4();
        let of_family =
            |view: &&RouteView| view.destination.prefix_len() == 0 && family(view.destination.addr());
        let defaults: Vec<_> = present.iter().filter(of_family).collect();
        let own = |view: &&RouteView| view.link.and_then(|link| links.get(&link)).copied();
        let right = |view: &RouteView| own(&view) == Some(route.link) && view.via == route.via;
        if defaults.iter().any(|view| right(view)) {
            continue;
        }
        let foreign = defaults.iter().any(|view| own(view).is_none());
        let outdated = defaults.iter().filter_map(|view| {
            let route = Route { destination: view.destination, via: view.via, link: own(view)? };
            Some(Op::DeleteRoute { netns, route })
        });
        ops.extend(outdated);
        if foreign {
            tracing::info!(%netns, "the container has a default route of its own");
        } else {
            ops.push(Op::AddRoute { netns, route });
        }
    }
    ops
}

fn remade(world: &World, op: &Op) -> Option<Repair> {
    let Op::AddRoute { route, .. } = op else { return None };
    let object = format!("way out of sandbox {}: {route}", world.sandbox.short());
    Some(Repair::KernelObjectRemade { object })
}
