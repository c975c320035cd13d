//! Deleting a sandbox: every endpoint leaves, then the record goes, then the namespace.

use std::fmt;

use futures::future::join_all;
use futures::join;
use netloom_actor_services::SagaWorld;
use netloom_model::Result;
use netloom_model::record::WayOut;
use netloom_runtime::OpCtx;
use netloom_runtime::saga::Patience;
use netloom_store::{Change, Key, RecordKind};

use super::leave::{LeavePlan, clear, detached};
use super::{Undone, World, files, names, way_out};
use crate::inside::{Changed, Inside};
use crate::member::Member;

/// Unplugs everything at once and deletes the sandbox. When that fails the sandbox stays, in order, with the
/// endpoints that could not leave; with force those do not count.
pub(crate) async fn delete(world: World, op: OpCtx, mut inside: Box<Inside>, force: bool) -> Changed {
    let sandbox = world.sandbox;
    let object = fmt::from_fn(move |f| write!(f, "sandbox {}", sandbox.short()));
    let entry = world.services.tools.ledger.enter(&op, "delete_sandbox", object);
    entry.step("detach every endpoint");
    // The way out goes last: who has to stay needs it.
    let (way_out, own): (Vec<_>, Vec<_>) =
        inside.members.clone().into_iter().partition(|member| member.way_out == WayOut::Provided);
    let (mut left, mut stuck, mut result) = unplug(&world, &op, own, force).await;
    if result.is_ok() || force {
        let (out, stays, outcome) = unplug(&world, &op, way_out, force).await;
        result = result.and(outcome);
        left.extend(out);
        stuck.extend(stays);
    }
    if (result.is_ok() || force) && world.lent {
        // Before the record, by which a start knows that the namespace was lent.
        entry.step("end the name server");
        world.finish(&op, Undone::Names(None), Patience::of(&op)).await;
    }
    if result.is_ok() || force {
        entry.step("commit");
        let key = Key::new(RecordKind::Sandbox, world.sandbox);
        result = world.commit(&op, vec![Change::Delete { key }]).await;
    }
    let gone: Vec<_> = left.iter().map(|member| member.endpoint).collect();
    if result.is_err() {
        // It lives on, so it must be right inside: the way out may have to be another one.
        let plan = LeavePlan::of(&inside, |member| gone.contains(&member.endpoint));
        let stays = |member: &Member| !gone.contains(&member.endpoint);
        join!(clear(&world, &op, plan), files::follow_leaving(&world, &op, &inside, stays));
    }
    inside.forget(&gone);
    forget_way_out(&world, &op, &left).await;
    if result.is_err() {
        way_out::drop_if_needless(&world, &op, &mut inside).await;
        names::restore(&world, &op, &inside).await;
        return Changed { inside, result };
    }
    for member in &stuck {
        // Force did not wait for these; until they are out they are in a sandbox that does not exist.
        let undo = match member.way_out {
            WayOut::Provided => Undone::WayOut(member.network, member.endpoint),
            WayOut::Wanted | WayOut::Unwanted => Undone::Membership(member.network, member.endpoint),
        };
        world.services.tools.janitor.adopt_undo(&op, &world, undo);
    }
    // Nothing is cleared inside: the namespace goes as a whole.
    entry.step("delete the namespace");
    // Whoever uses force waits a second in all: what it took to end what was under way counts.
    let patience =
        if force { Patience::Until(op.began() + Patience::Short.allowed()) } else { Patience::Usual };
    let op = op.renewed(world.services.operation_timeout.get());
    let namespace = async {
        if inside.record.has_namespace() {
            world.finish(&op, Undone::Netns(world.netns), patience).await;
        }
    };
    join!(namespace, files::drop_all(&world, &op, &inside, patience));
    Changed { inside, result }
}

/// Has endpoints leave, all at once: those that have left, those that could not, and why.
async fn unplug(
    world: &World,
    op: &OpCtx,
    members: Vec<Member>,
    force: bool,
) -> (Vec<Member>, Vec<Member>, Result<()>) {
    let outcomes = join_all(members.iter().map(|member| left(world, op, member, force))).await;
    let (mut out, mut stuck, mut result) = (Vec::new(), Vec::new(), Ok(()));
    for (member, outcome) in members.into_iter().zip(outcomes) {
        if outcome.is_ok() { &mut out } else { &mut stuck }.push(member);
        result = result.and(outcome);
    }
    (out, stuck, result)
}

/// Has an endpoint leave. With force it is given a moment only: what is stuck must not hold the deletion up.
async fn left(world: &World, op: &OpCtx, member: &Member, force: bool) -> Result<()> {
    let op = if force { op.for_undo(Patience::Short.allowed()) } else { op.clone() };
    detached(world, &op, member).await
}

/// Deletes the endpoint that was the way out, if it has left.
async fn forget_way_out(world: &World, op: &OpCtx, left: &[Member]) {
    for member in left.iter().filter(|member| member.way_out == WayOut::Provided) {
        let gone = Undone::WayOut(member.network, member.endpoint);
        world.finish(op, gone, Patience::Usual).await;
    }
}
