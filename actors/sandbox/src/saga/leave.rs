//! Unplugging an endpoint. The network's record goes first; from there on there is no way back, and what
//! fails is retried behind the caller's back as a visible leak.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use netloom_actor_network::{DetachEndpoint, InspectEndpoint, RevokeEndpoint};
use netloom_actor_services::SagaWorld;
use netloom_model::snapshot::EndpointSnapshot;
use netloom_model::{Error, ErrorKind, Reason, Result};
use netloom_runtime::OpCtx;
use netloom_runtime::saga::Patience;

use super::{Undone, World};
use crate::gateway::{Gateways, elect};
use crate::member::Member;
use crate::message::LeaveSandbox;

/// What a sandbox has before endpoints leave it.
#[derive(Clone, Debug)]
pub(crate) struct LeavePlan {
    pub(crate) leaving: Vec<Member>,
    pub(crate) rest: Vec<Member>,
    /// The gateways that are in effect.
    pub(crate) before: Gateways,
    pub(crate) labels: BTreeMap<String, String>,
}

impl LeavePlan {
    /// The gateways once those that leave have left.
    pub(crate) fn after(&self) -> Gateways {
        elect(&self.rest)
    }
}

/// Has the network cut an endpoint off, clears what is left of it inside, and gives the default route to
/// the next in line.
pub(crate) async fn leave(world: World, op: OpCtx, command: LeaveSandbox, plan: LeavePlan) -> Result<()> {
    if plan.leaving.is_empty() {
        return Err(not_here(&world, &op, command).await);
    }
    for leaving in &plan.leaving {
        let (endpoint, sandbox) = (leaving.endpoint, world.sandbox);
        let object = fmt::from_fn(move |f| {
            write!(f, "endpoint {} from sandbox {}", endpoint.short(), sandbox.short())
        });
        let entry = world.services.tools.ledger.enter(&op, "leave_sandbox", object);
        entry.step("detach");
        detached(&world, &op, leaving).await?;
    }
    clear(&world, &op, plan).await;
    Ok(())
}

/// Why an endpoint cannot leave that is not here. Only its network knows its name, and whether there is such an
/// endpoint.
async fn not_here(world: &World, op: &OpCtx, LeaveSandbox { endpoint, network }: LeaveSandbox) -> Error {
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
    let LeavePlan { leaving, rest, before, labels } = plan;
    entry.step("clear what is left inside");
    let mut ops = before.change(after, world.netns);
    ops.extend(leaving.iter().flat_map(|member| member.undress(world.netns)));
    world.finish(&op, Undone::Plumbing(ops), Patience::Usual).await;
    let provider = before.provider();
    let Some(old) = leaving.iter().find(|member| Some(member.endpoint) == provider) else { return };
    entry.step("hand the way out over");
    let revoke = RevokeEndpoint(old.endpoint, world.sandbox);
    // An endpoint that has left has lost it in any case.
    let _ = world.ask_network(&op, old.network, revoke).await;
    let next = rest.iter().find(|member| Some(member.endpoint) == after.provider());
    if let Some(next) = next {
        let gained = Undone::LostConnectivity(next.network, next.endpoint, labels);
        world.finish(&op, gained, Patience::Usual).await;
    }
}

/// How often a network that is being started again is asked.
const RESTART_PAUSE: Duration = Duration::from_millis(10);

/// Has the network cut an endpoint off. One that the network no longer knows, or knows elsewhere, is out
/// already.
pub(super) async fn detached(world: &World, op: &OpCtx, member: &Member) -> Result<()> {
    let detach = DetachEndpoint(member.endpoint, world.sandbox);
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
