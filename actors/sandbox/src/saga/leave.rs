//! Unplugging an endpoint. The network's record goes first; from there on there is no way back, and what
//! fails is retried behind the caller's back as a visible leak.

use std::collections::BTreeMap;
use std::time::Duration;

use netloom_actor_network::{DetachEndpoint, ProgramEndpoint, RevokeEndpoint};
use netloom_model::{ErrorKind, Reason, Result};
use netloom_runtime::OpCtx;

use super::{Undone, World};
use crate::gateway::Gateways;
use crate::member::Member;

/// Has the network cut the endpoint off, clears what is left of it inside, and gives the default route to
/// the next in line.
pub(crate) async fn leave(
    world: World,
    op: OpCtx,
    leaving: Member,
    rest: Vec<Member>,
    (before, after): (Gateways, Gateways),
    labels: BTreeMap<String, String>,
) -> Result<()> {
    let object = format!("endpoint {} from sandbox {}", leaving.endpoint.short(), world.sandbox.short());
    let entry = world.services.tools.ledger.enter(&op, "leave_sandbox", object);
    entry.step("detach");
    detached(&world, &op, &leaving).await?;
    let op = op.for_undo(world.services.operation_timeout);
    entry.step("clear what is left inside");
    let mut ops = before.change(after, world.netns);
    ops.extend(leaving.undress(world.netns));
    world.finish(&op, Undone::Plumbing(ops)).await;
    if before.provider() == Some(leaving.endpoint) {
        entry.step("hand the way out over");
        let _ = world.ask_network(&op, leaving.network, RevokeEndpoint(leaving.endpoint)).await;
        let next = rest.iter().find(|member| Some(member.endpoint) == after.provider());
        if let Some(next) = next {
            let program = ProgramEndpoint(next.endpoint, labels.clone());
            if let Err(error) = world.ask_network(&op, next.network, program).await {
                tracing::warn!(%error, "cannot program the new way out");
                let again = Undone::LostConnectivity(next.network, next.endpoint, labels);
                world.finish(&op, again).await;
            }
        }
    }
    Ok(())
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
