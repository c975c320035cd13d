//! Deleting a sandbox: every endpoint leaves, then the record goes, then the namespace.

use futures::future::join_all;
use netloom_model::{EndpointId, Result};
use netloom_runtime::OpCtx;
use netloom_store::{Change, Key, RecordKind};

use super::leave::detached;
use super::{Undone, World};
use crate::member::Member;

/// What came of it: also a failed deletion may have unplugged some endpoints.
#[derive(Debug)]
pub(crate) struct Deleted {
    pub(crate) left: Vec<EndpointId>,
    pub(crate) result: Result<()>,
}

/// Unplugs everything at once and deletes the sandbox; when an endpoint cannot leave, the sandbox stays.
pub(crate) async fn delete(world: World, op: OpCtx, members: Vec<Member>) -> Result<Deleted> {
    let object = format!("sandbox {}", world.sandbox.short());
    let entry = world.services.tools.ledger.enter(&op, "delete_sandbox", object);
    entry.step("detach every endpoint");
    // Nothing is cleared inside: the namespace goes as a whole.
    let outcomes = join_all(members.iter().map(|member| detached(&world, &op, member))).await;
    let mut left = Vec::new();
    let mut result = Ok(());
    for (member, outcome) in members.iter().zip(outcomes) {
        match outcome {
            Ok(()) => left.push(member.endpoint),
            Err(error) => result = result.and(Err(error)),
        }
    }
    if result.is_err() {
        return Ok(Deleted { left, result });
    }
    entry.step("commit");
    let key = Key::new(RecordKind::Sandbox, world.sandbox.as_str());
    if let Err(error) = world.commit(&op, vec![Change::Delete { key }]).await {
        return Ok(Deleted { left, result: Err(error) });
    }
    entry.step("delete the namespace");
    let op = op.for_undo(world.services.operation_timeout);
    world.finish(&op, Undone::Netns(world.netns)).await;
    Ok(Deleted { left, result: Ok(()) })
}
