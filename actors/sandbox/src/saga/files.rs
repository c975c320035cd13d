//! A sandbox's hosts file and resolv.conf, in the course of its life. They follow what is plugged in: whatever happens to a
//! sandbox, its files are told how they are to be, as a whole.
//!
//! A join that cannot write them fails and is undone, as in libnetwork. A leave has no way back, and neither has a start:
//! there the files are a visible leak that is tried again. (libnetwork says so in its log, and the lines stay.)

use std::net::IpAddr;
use std::sync::Arc;

use futures::future::Either;
use netloom_actor_services::files::{Fresh, RemoveFiles, SettleFiles};
use netloom_actor_services::{SagaWorld, answered};
use netloom_dns::io::{Asked, Wanted};
use netloom_dns::resolv::EMBEDDED_SERVER;
use netloom_model::record::WayOut;
use netloom_model::{NamespaceSpec, Result, SandboxSpec};
use netloom_runtime::saga::Patience;
use netloom_runtime::{OpCtx, Saga};

use super::{Undone, World, names};
use crate::inside::Inside;
use crate::member::Member;
use crate::turns::Kind;

/// How the files of a sandbox are to be.
pub(super) fn wanted(world: &World, inside: &Inside) -> Wanted {
    wanted_with(world, inside, inside.members.iter())
}

/// The same, had it these endpoints. The way out of those that have none is nobody's name.
fn wanted_with<'a>(
    world: &World,
    inside: &Inside,
    members: impl Iterator<Item = &'a Member> + Clone,
) -> Wanted {
    let spec = inside.record.spec.clone();
    let server = names::serves(world, members.clone()).then_some(EMBEDDED_SERVER);
    let own = members.filter(|member| member.way_out != WayOut::Provided);
    let mut addresses: Vec<IpAddr> = match spec.namespace {
        NamespaceSpec::Host => Vec::new(),
        NamespaceSpec::Own | NamespaceSpec::External => {
            own.flat_map(Member::addresses).map(|net| net.addr()).collect()
        }
    };
    addresses.sort_unstable();
    let ipv6 = addresses.iter().any(IpAddr::is_ipv6);
    Wanted { spec, addresses, ipv6, server }
}

/// Has the files be so. Answers with whom the sandbox's own name server asks, where it has one.
pub(super) async fn settle(world: &World, op: &OpCtx, wanted: Wanted, fresh: Fresh) -> Result<Option<Asked>> {
    let files = &world.services.files;
    if !files.are_kept() {
        return Ok(None);
    }
    let settle = SettleFiles { sandbox: world.sandbox, wanted: Box::new(wanted), fresh };
    answered(op, "the files service", files.keeper.outcome(op, settle).await)
}

/// Removes them.
pub(super) async fn remove(world: &World, op: &OpCtx, spec: Arc<SandboxSpec>) -> Result<()> {
    let files = &world.services.files;
    if !files.are_kept() {
        return Ok(());
    }
    let remove = RemoveFiles { sandbox: world.sandbox, spec };
    answered(op, "the files service", files.keeper.outcome(op, remove).await)
}

/// Makes them for a sandbox that is new, or begins anew.
pub(super) async fn make(world: &World, op: &OpCtx, inside: &Inside) -> Result<()> {
    world.turns.begin(Kind::Files);
    settle(world, op, wanted(world, inside), Fresh::Anew).await.map(drop)
}

/// Takes the step of a join that needs the kernel, and beside it has the files follow: neither needs the other, and the
/// disk is waited for only where it is slower.
pub(super) fn beside<'a>(
    saga: &'a mut Saga<Undone>,
    (world, op): (&'a World, &'a OpCtx),
    (before, after): (&Inside, &Inside),
    (name, undo): (&'static str, Undone),
    work: impl Future<Output = Result<()>> + 'a,
) -> impl Future<Output = Result<()>> + 'a {
    let change = world.services.files.are_kept().then(|| (wanted(world, before), wanted(world, after)));
    let Some((now, next)) = change.filter(|(now, next)| now != next) else {
        return Either::Left(saga.step(name, undo, work));
    };
    let turn = world.turns.begin(Kind::Files);
    let back = Undone::Files(Box::new(now), Fresh::GoesOn).unless_later(turn);
    let follow = async { settle(world, op, next, Fresh::GoesOn).await.map(drop) };
    Either::Right(saga.both(name, (undo, work), (back, follow)))
}

/// Has the files follow endpoints that have left, or a sandbox that was read back: now, or later as a visible leak.
pub(super) async fn follow(world: &World, op: &OpCtx, wanted: Wanted) {
    finish(world, op, wanted, Fresh::GoesOn).await;
}

/// Makes them anew after all, for a sandbox that does not begin anew: now, or later as a visible leak.
pub(super) async fn make_again(world: &World, op: &OpCtx, inside: &Inside) {
    finish(world, op, wanted(world, inside), Fresh::Anew).await;
}

async fn finish(world: &World, op: &OpCtx, wanted: Wanted, fresh: Fresh) {
    if world.services.files.are_kept() {
        let turn = world.turns.begin(Kind::Files);
        let files = Undone::Files(Box::new(wanted), fresh).unless_later(turn);
        world.finish(op, files, Patience::Usual).await;
    }
}

/// The same for endpoints that leave, where that makes a difference.
pub(super) async fn follow_leaving(
    world: &World,
    op: &OpCtx,
    inside: &Inside,
    stays: impl Fn(&Member) -> bool + Copy,
) {
    if !world.services.files.are_kept() {
        return;
    }
    let next = wanted_with(world, inside, inside.members.iter().filter(|member| stays(member)));
    if next != wanted(world, inside) {
        follow(world, op, next).await;
    }
}

/// Removes the files of a sandbox that is gone: now, or later as a visible leak.
pub(super) async fn drop_all(world: &World, op: &OpCtx, inside: &Inside, patience: Patience) {
    if world.services.files.are_kept() {
        // Nothing that was to be written is written behind this.
        world.turns.begin(Kind::Files);
        world.finish(op, Undone::NoFiles(inside.record.spec.clone()), patience).await;
    }
}
