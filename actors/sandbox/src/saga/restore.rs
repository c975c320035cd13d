//! Putting a sandbox right that was read back: its way out may have been about to move when the engine or its
//! actor died.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures::join;
use netloom_actor_services::SagaWorld;
use netloom_drivers::SandboxOptions;
use netloom_kernel::{LinkKind, LinkView, Netns, Op, Route, RouteView};
use netloom_model::{IfName, Repair, Result};
use netloom_runtime::OpCtx;
use netloom_runtime::saga::Patience;

use super::{Undone, World, files, names, way_out};
use crate::gateway::Gateways;
use crate::inside::Inside;
use crate::member::Member;
use crate::turns::Kind;

/// Takes the way out away that is not needed any more, should that have been cut short; then
/// compares the default routes inside with those that the endpoints call for, corrects them, and tells the
/// driver of the endpoint that provides them once more: it may have been restarted and know nothing.
pub(crate) async fn restore(
    world: World,
    op: OpCtx,
    mut inside: Box<Inside>,
) -> Result<(Vec<Member>, Vec<Repair>)> {
    let way_out = inside.way_out().map(|member| member.endpoint);
    way_out::drop_if_needless(&world, &op, &mut inside).await;
    let released = way_out.filter(|_| inside.way_out().is_none());
    let mut repairs: Vec<_> =
        released.map(|endpoint| Repair::WayOutReleased { endpoint }).into_iter().collect();
    names::restore(&world, &op, &inside).await;
    let wanted = files::wanted(&world, &inside);
    // Its files cannot be what keeps it out of service.
    let (righted, ()) =
        join!(put_right(world.clone(), op.clone(), &inside), files::follow(&world, &op, wanted));
    repairs.extend(righted?);
    Ok((inside.members, repairs))
}

async fn put_right(world: World, op: OpCtx, inside: &Inside) -> Result<Vec<Repair>> {
    let Inside { record, options, members, gateways: wanted, .. } = inside;
    let provider = members.iter().find(|member| Some(member.endpoint) == wanted.provider());
    let routed = members.iter().any(|member| !member.reserved && !member.routes.is_empty());
    if record.waits() || world.netns == Netns::Host || (provider.is_none() && !routed) {
        return Ok(Vec::new());
    }
    let deadline = op.deadline_std();
    let found = world.services.kernel.links(world.netns, deadline).await?;
    let own = |link: &LinkView| {
        let joined = members.iter().any(|member| member.ifname == link.name);
        joined || was_ours(link, record.interfaces)
    };
    let links: HashMap<_, _> =
        found.iter().filter(|link| own(link)).map(|link| (link.index, link.name)).collect();
    let present = world.services.kernel.routes(world.netns, deadline).await?;
    let mut ops = corrections(&world, *wanted, &present, &links);
    ops.extend(missing(&world, members, &present, &links));
    let repairs = ops.iter().filter_map(|op| remade(&world, op)).collect();
    world.finish(&op, Undone::Plumbing(ops), Patience::Usual).await;
    if let Some(provider) = provider {
        program_again(world, op, provider.clone(), options.clone()).await;
    }
    Ok(repairs)
}

/// Has the endpoint that provides the way out be reached from outside once more.
pub(crate) async fn program_again(world: World, op: OpCtx, provider: Member, options: Arc<SandboxOptions>) {
    let again = Undone::KnownConnectivity(provider.network, provider.endpoint, options);
    let again = again.unless_later(world.turns.last(Kind::Provider));
    world.finish(&op, again, Patience::Usual).await;
}

/// Whether a link looks like that of an endpoint which has left, and which the kernel has not let go of yet: an
/// end of a pair, with a number that has been given.
fn was_ours(link: &LinkView, interfaces: u32) -> bool {
    let (prefix, digits) = link.name.numbered();
    let given = digits.parse::<u32>().is_ok_and(|number| number < interfaces);
    link.kind == LinkKind::Veth && !prefix.is_empty() && given
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
        if !links.values().any(|link| *link == route.link) {
            tracing::info!(%netns, %route, "no route leads over an interface that is not there");
        } else if foreign {
            tracing::info!(%netns, "the container has a default route of its own");
        } else {
            ops.push(Op::AddRoute { netns, route });
        }
    }
    ops
}

/// The static routes of drivers that are not there.
fn missing(
    world: &World,
    members: &[Member],
    present: &[RouteView],
    links: &HashMap<u32, IfName>,
) -> Vec<Op> {
    let netns = world.netns;
    let is_there = |route: &Route| {
        present.iter().any(|view| {
            let link = view.link.and_then(|link| links.get(&link));
            link == Some(&route.link) && view.destination == route.destination && view.via == route.via
        })
    };
    let routes = members.iter().filter(|member| !member.reserved).flat_map(Member::static_routes);
    let leads = |route: &Route| links.values().any(|link| *link == route.link);
    routes
        .filter(|route| leads(route) && !is_there(route))
        .map(|route| Op::AddRoute { netns, route })
        .collect()
}

fn remade(world: &World, op: &Op) -> Option<Repair> {
    let Op::AddRoute { route, .. } = op else { return None };
    let what = if route.destination.prefix_len() == 0 { "way out" } else { "route" };
    let object = format!("{what} of sandbox {}: {route}", world.sandbox.short());
    Some(Repair::KernelObjectRemade { object })
}
