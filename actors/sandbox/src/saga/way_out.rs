//! The way out of a sandbox whose endpoints have none: an endpoint of its own on a network for that
//! (libnetwork's `docker_gwbridge`).
//!
//! Only the controller makes networks, and no sandbox asks upward. So whoever asks a sandbox names that network
//! along with a request. Where it is needed and missing, which may show only when a driver has made its link, the
//! request is taken back, and comes again when the controller has made the network.

use netloom_actor_network::CreateEndpoint;
use netloom_actor_services::SagaWorld;
use netloom_model::record::{WAY_OUT_LABEL, WayOut};
use netloom_model::{EndpointSpec, Names, Reason, Result};
use netloom_runtime::saga::Patience;
use netloom_runtime::{OpCtx, Saga};

use std::collections::BTreeMap;
use std::fmt;

use super::join::{Newcomer, Plug, attach as plug, hand_over, is_name_taken, set_up};
use super::leave::{LeavePlan, clear, detached};
use super::{Undone, World, port};
use crate::gateway::{elect, lacks_way_out};
use crate::inside::Inside;
use crate::message::WayOutOffer;

/// How much of a container's identifier is in the name of its endpoint, as in libnetwork.
const NAMED: usize = 12;

/// Whether the way out is there, should the endpoints of a sandbox need it at any moment while they are plugged in
/// one after another.
pub(super) fn is_there(inside: &Inside, offer: &WayOutOffer) -> Result<()> {
    let WayOutOffer::Missing { network } = offer else { return Ok(()) };
    let own: Vec<_> =
        inside.members.iter().filter(|member| member.way_out != WayOut::Provided).cloned().collect();
    if (1..=own.len()).any(|count| lacks_way_out(&own[..count])) {
        return Err(Reason::NoWayOut { sandbox: inside.holder(), network: network.to_string() }.into());
    }
    Ok(())
}

/// Plugs the way out in.
pub(super) async fn attach(
    saga: &mut Saga<Undone>,
    world: &World,
    op: &OpCtx,
    inside: &mut Inside,
    offer: &WayOutOffer,
) -> Result<Newcomer> {
    let (network, endpoint) = match offer {
        WayOutOffer::Offered(offered) => (offered.network, offered.endpoint),
        WayOutOffer::Missing { network } => {
            let (sandbox, network) = (inside.holder(), network.to_string());
            return Err(Reason::NoWayOut { sandbox, network }.into());
        }
    };
    let container: String = inside.record.spec.container_id.chars().take(NAMED).collect();
    let labels = BTreeMap::from([(WAY_OUT_LABEL.to_owned(), world.sandbox.to_string())]);
    let names = Names { anonymous: true, ..Names::default() };
    let create = async |name: String| {
        let spec =
            EndpointSpec { names: names.clone().into(), labels: labels.clone(), ..EndpointSpec::new(name) };
        world.ask_network(op, network, CreateEndpoint { endpoint, spec }).await
    };
    let created = async {
        match create(format!("gateway_{container}")).await {
            // Of another container whose identifier begins in the same way.
            Err(error) if matches!(error.reason(), Reason::NameTaken { .. }) => {
                create(format!("gateway_{}", world.sandbox.short())).await
            }
            outcome => outcome,
        }
    };
    saga.step("make a way out", Undone::WayOut(network, endpoint), created).await?;
    plug(saga, world, op, inside, Plug { network, endpoint, priority: 0, as_way_out: true }).await
}

/// Plugs a way out in beside endpoints that have lost theirs, or are about to.
pub(super) async fn add(world: &World, op: &OpCtx, inside: &mut Inside, offer: &WayOutOffer) -> Result<()> {
    let sandbox = world.sandbox;
    loop {
        let object = fmt::from_fn(move |f| write!(f, "sandbox {}", sandbox.short()));
        let before = &*inside;
        let added = world.saga(op, "make_way_out", object, async |saga| {
            let mut inside = before.clone();
            let newcomers = [attach(saga, world, op, &mut inside, offer).await?];
            // It comes last in the election, so this changes nothing as long as another one leads out.
            inside.gateways = elect(&inside.members);
            let ops = set_up(world, &newcomers, before, &inside)?;
            let back = inside.gateways.change(before.gateways, world.netns);
            saga.step("set it up inside", Undone::Plumbing(back), world.execute(op, ops)).await?;
            hand_over(saga, world, op, before, &inside).await?;
            let [newcomer] = &newcomers;
            saga.step("commit", None, newcomer.commit(world, op, &inside.record)).await?;
            port::opened(world, op, newcomer.untold(&inside)?, &newcomer.interface).await;
            Ok(inside)
        });
        match added.await {
            Err(error) if is_name_taken(&error) && !op.remaining().is_zero() => inside.record.interfaces += 1,
            Err(error) => return Err(error),
            Ok(added) => {
                *inside = added;
                return Ok(());
            }
        }
    }
}

/// Sees to it that there is a way out if one is needed, and none if not.
pub(super) async fn settle(
    world: &World,
    op: &OpCtx,
    inside: &mut Inside,
    offer: &WayOutOffer,
) -> Result<()> {
    if inside.lacks_way_out() {
        return add(world, op, inside, offer).await;
    }
    drop_if_needless(world, op, inside).await;
    Ok(())
}

/// Takes the way out away that no endpoint needs any more. What fails is retried behind the caller's back.
pub(super) async fn drop_if_needless(world: &World, op: &OpCtx, inside: &mut Inside) {
    if inside.waiting || lacks_way_out(&inside.members) {
        return;
    }
    let Some(way_out) = inside.way_out().cloned() else { return };
    let (network, endpoint) = (way_out.network, way_out.endpoint);
    if let Err(error) = detached(world, op, &way_out).await {
        // The sandbox has done with it all the same: it is nobody's way out, and goes when it can be had to.
        tracing::warn!(%error, "a way out that nobody needs cannot be taken away yet");
    }
    let plan = LeavePlan::of(inside, |member| member.endpoint == endpoint);
    clear(world, op, plan).await;
    inside.forget(&[endpoint]);
    world.finish(op, Undone::WayOut(network, endpoint), Patience::Usual).await;
}
