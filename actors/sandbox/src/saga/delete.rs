//! Deleting a sandbox: every endpoint leaves, then the record goes, then the namespace.

use std::fmt;

use futures::future::join_all;
use netloom_actor_services::SagaWorld;
use netloom_model::{EndpointId, Result};
use netloom_runtime::OpCtx;
use netloom_runtime::saga::Patience;
use netloom_store::{Change, Key, RecordKind};

use super::leave::{LeavePlan, clear, detached};
use super::{Undone, World};
use crate::member::Member;

/// What came of it: also a failed deletion may have unplugged some endpoints.
#[derive(Debug)]
pub(crate) struct Deleted {
    pub(crate) left: Vec<EndpointId>,
    pub(crate) result: Result<()>,
}

/// Unplugs everything at once and deletes the sandbox. When that fails the sandbox stays, in order, with the
/// endpoints that could not leave; with force those do not count.
pub(crate) async fn delete(world: World, op: OpCtx, mut plan: LeavePlan, force: bool) -> Result<Deleted> {
    let sandbox = world.sandbox;
    let object = fmt::from_fn(move |f| write!(f, "sandbox {}", sandbox.short()));
    let entry = world.services.tools.ledger.enter(&op, "delete_sandbox", object);
    entry.step("detach every endpoint");
    let outcomes = join_all(plan.leaving.iter().map(|member| left(&world, &op, member, force))).await;
    let mut result = Ok(());
    let mut outcomes = outcomes.into_iter();
    let mut stay = |_: &mut Member| match outcomes.next() {
        Some(Err(error)) => {
            result = std::mem::replace(&mut result, Ok(())).and(Err(error));
            true
        }
        _ => false,
    };
    plan.rest = plan.leaving.extract_if(.., &mut stay).collect();
    if result.is_ok() || force {
        entry.step("commit");
        let key = Key::new(RecordKind::Sandbox, world.sandbox);
        result = world.commit(&op, vec![Change::Delete { key }]).await;
    }
    let left = plan.leaving.iter().map(|member| member.endpoint).collect();
    if result.is_err() {
        // It lives on, so it must be right inside: the way out may have to be another one.
        clear(&world, &op, plan).await;
        return Ok(Deleted { left, result });
    }
    for member in &plan.rest {
        // Force did not wait for these; until they are out they are in a sandbox that does not exist.
        let stuck = Undone::Membership(member.network, member.endpoint);
        world.services.tools.janitor.adopt_undo(&op, &world, stuck);
    }
    // Nothing is cleared inside: the namespace goes as a whole.
    entry.step("delete the namespace");
    // Whoever uses force waits a second in all: what it took to end what was under way counts.
    let patience =
        if force { Patience::Until(op.began() + Patience::Short.allowed()) } else { Patience::Usual };
    let op = op.renewed(world.services.operation_timeout.get());
    world.finish(&op, Undone::Netns(world.netns), patience).await;
    Ok(Deleted { left, result: Ok(()) })
}

/// Has an endpoint leave. With force it is given a moment only: what is stuck must not hold the deletion up.
async fn left(world: &World, op: &OpCtx, member: &Member, force: bool) -> Result<()> {
    let op = if force { op.for_undo(Patience::Short.allowed()) } else { op.clone() };
    detached(world, &op, member).await
}
