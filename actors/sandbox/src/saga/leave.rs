//! Unplugging an endpoint. The network's record goes first; from there on there is no way back, and what
//! fails is retried behind the caller's back as a visible leak.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::join;
use netloom_actor_network::{InspectEndpoint, RevokeEndpoint};
use netloom_actor_services::SagaWorld;
use netloom_drivers::SandboxOptions;
use netloom_model::record::WayOut;
use netloom_model::snapshot::EndpointSnapshot;
use netloom_model::{EndpointId, Error, ErrorKind, NetworkId, Reason, Result};
use netloom_runtime::OpCtx;
use netloom_runtime::saga::Patience;

use super::{Undone, World, files, names, way_out};
use crate::gateway::{Gateways, elect, lacks_way_out};
use crate::inside::{Changed, Inside};
use crate::member::Member;
use crate::message::LeaveSandbox;
use crate::turns::Kind;

/// What a sandbox has before endpoints leave it.
#[derive(Clone, Debug)]
pub(crate) struct LeavePlan {
    pub(crate) leaving: Vec<Member>,
    pub(crate) rest: Vec<Member>,
    /// The gateways that are in effect.
    pub(crate) before: Gateways,
    pub(crate) options: Arc<SandboxOptions>,
}

impl LeavePlan {
    /// Those leave that are chosen.
    pub(crate) fn of(inside: &Inside, leaves: impl Fn(&Member) -> bool) -> Self {
        let (leaving, rest) = inside.members.iter().cloned().partition(|member| leaves(member));
        Self { leaving, rest, before: inside.gateways, options: inside.options.clone() }
    }

    /// The gateways once those that leave have left.
    pub(crate) fn after(&self) -> Gateways {
        elect(&self.rest)
    }
}

/// Has the network cut an endpoint off, clears what is left of it inside, and gives the default route to
/// the next in line. Where the rest would have no way out, they are given one before.
pub(crate) async fn leave(
    world: World,
    op: OpCtx,
    mut inside: Box<Inside>,
    LeaveSandbox { endpoint, network, way_out }: LeaveSandbox,
) -> Changed {
    let leaves = |member: &Member| member.endpoint == endpoint;
    let mut plan = LeavePlan::of(&inside, leaves);
    let Some(leaving) = plan.leaving.first() else {
        let result = Err(not_here(&world, &op, endpoint, network).await);
        return Changed { inside, result };
    };
    let strands = !inside.waiting
        && leaving.way_out != WayOut::Provided
        && inside.way_out().is_none()
        && lacks_way_out(&plan.rest);
    let leaving = leaving.clone();
    if let Some(offer) = way_out.filter(|_| strands) {
        if let Err(error) = way_out::add(&world, &op, &mut inside, &offer).await {
            return Changed { inside, result: Err(error) };
        }
        plan = LeavePlan::of(&inside, leaves);
    }
    let result = detached_one(&world, &op, &leaving).await;
    if result.is_ok() {
        let stays = |member: &Member| member.endpoint != endpoint;
        join!(clear(&world, &op, plan), files::follow_leaving(&world, &op, &inside, stays));
        inside.forget(&[endpoint]);
    }
    way_out::drop_if_needless(&world, &op, &mut inside).await;
    names::settle(&world, &op, &inside).await;
    Changed { inside, result }
}

async fn detached_one(world: &World, op: &OpCtx, leaving: &Member) -> Result<()> {
    let (endpoint, sandbox) = (leaving.endpoint, world.sandbox);
    let object =
        fmt::from_fn(move |f| write!(f, "endpoint {} from sandbox {}", endpoint.short(), sandbox.short()));
    let entry = world.services.tools.ledger.enter(op, "leave_sandbox", object);
    entry.step("detach");
    detached(world, op, leaving).await
}

/// Why an endpoint cannot leave that is not here. Only its network knows its name, and whether there is such an
/// endpoint.
async fn not_here(world: &World, op: &OpCtx, endpoint: EndpointId, network: NetworkId) -> Error {
    match world.ask_network(op, network, InspectEndpoint(endpoint)).await {
        Ok(EndpointSnapshot { name, .. }) => {
            Reason::NotJoined { endpoint, name, sandbox: Some(world.sandbox) }.into()
        }
        Err(error) => error,
    }
}

/// Clears what is left inside of endpoints that were cut off: their addresses, and their part in the way out.
/// What fails is retried behind the caller's back.
pub(super) async fn clear(world: &World, op: &OpCtx, plan: LeavePlan) {
    let sandbox = world.sandbox;
    let object = fmt::from_fn(move |f| write!(f, "sandbox {}", sandbox.short()));
    let entry = world.services.tools.ledger.enter(op, "clear_sandbox", object);
    let op = op.renewed(world.services.operation_timeout.get());
    let after = plan.after();
    let LeavePlan { leaving, rest, before, options } = plan;
    entry.step("clear what is left inside");
    let mut ops = before.change(after, world.netns);
    ops.extend(leaving.iter().flat_map(|member| member.undress(world.netns)));
    world.finish(&op, Undone::Plumbing(ops), Patience::Usual).await;
    let provider = before.provider();
    let Some(old) = leaving.iter().find(|member| Some(member.endpoint) == provider) else { return };
    entry.step("hand the way out over");
    let turn = world.turns.begin(Kind::Provider);
    let revoke = RevokeEndpoint(old.endpoint, world.sandbox);
    // An endpoint that has left has lost it in any case.
    let _ = world.ask_network(&op, old.network, revoke).await;
    let next = rest.iter().find(|member| Some(member.endpoint) == after.provider());
    if let Some(next) = next {
        let gained = Undone::LostConnectivity(next.network, next.endpoint, options).unless_later(turn);
        world.finish(&op, gained, Patience::Usual).await;
    }
}

/// How often a network that is being started again is asked.
const RESTART_PAUSE: Duration = Duration::from_millis(10);

/// Has the network cut an endpoint off. One that the network no longer knows, or knows elsewhere, is out
/// already.
pub(super) async fn detached(world: &World, op: &OpCtx, member: &Member) -> Result<()> {
    world.turns.drop_place(member.endpoint);
    unplugged(world, op, member, false).await
}

/// The same, and its place may be kept for it.
pub(super) async fn unplugged(world: &World, op: &OpCtx, member: &Member, keeps_place: bool) -> Result<()> {
    let detach = world.detach(member.endpoint, keeps_place);
    let mut outcome = world.ask_network(op, member.network, detach).await;
    // A network that died on the way may have carried it out. Its next incarnation knows: without its word
    // the two would have different pictures.
    while outcome.as_ref().is_err_and(|error| matches!(error.reason(), Reason::Gone { .. }))
        && op.pause(RESTART_PAUSE).await
    {
        outcome = world.ask_network(op, member.network, detach).await;
    }
    match outcome {
        Err(error)
            if error.kind() == ErrorKind::NotFound || matches!(error.reason(), Reason::NotJoined { .. }) =>
        {
            tracing::warn!(%error, "an endpoint had left before it was asked to");
            Ok(())
        }
        outcome => outcome,
    }
}
