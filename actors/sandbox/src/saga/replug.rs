//! Unplugging every endpoint and plugging it in again: for a container that is started again with other settings,
//! and for a namespace that somebody else has made.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netloom_actor_network::{AttachEndpoint, CommitAttachment};
use netloom_actor_services::SagaWorld;
use netloom_drivers::SandboxOptions;
use netloom_kernel::{Netns, Op};
use netloom_model::record::WayOut;
use netloom_model::{Error, JoinSpec, Result};
use netloom_runtime::OpCtx;
use netloom_runtime::saga::Patience;

use super::establish::{files_are_fine, keep};
use super::join::join;
use super::leave::{LeavePlan, clear, unplugged};
use super::undo::Place;
use super::{Undone, World, files, names, way_out};
use crate::inside::{Changed, Inside};
use crate::member::Member;
use crate::message::{JoinSandbox, RefreshSandbox, SetSandboxKey, WayOutOffer};
use crate::turns::Kind;

/// Has a sandbox begin anew under another spec. An endpoint that cannot be plugged in again stays out, and the
/// answer says why; all others are in.
pub(crate) async fn refresh(
    world: World,
    op: OpCtx,
    mut inside: Box<Inside>,
    RefreshSandbox { spec, way_out }: RefreshSandbox,
) -> Changed {
    if let Some(settings) = &spec.settings
        && let Err(error) = files_are_fine(&world, &op, settings).await
    {
        return Changed { inside, result: Err(error) };
    }
    if let Err(error) = way_out::is_there(&inside, &way_out) {
        return Changed { inside, result: Err(error) };
    }
    world.turns.begin(Kind::Key);
    let waiting = inside.waiting;
    let old = (inside.record.spec.clone(), inside.options.clone());
    let (left, mut result) =
        if waiting { (Vec::new(), Ok(())) } else { unplug(&world, &op, &mut inside, false).await };
    if result.is_ok() {
        inside.options = Arc::new(SandboxOptions::from(&*spec));
        inside.record.spec = Arc::from(spec);
        result = files::make(&world, &op, &inside).await;
        if result.is_ok() {
            result = keep(&world, &op, &inside.record).await;
        }
        if result.is_err() {
            (inside.record.spec, inside.options) = old;
            files::make_again(&world, &op, &inside).await;
        }
    }
    let back = come_back(&world, &op, &mut inside, &left, &way_out).await;
    let result = result.and(back);
    if result.is_err() {
        // Who stays out is entered still, unless the files were made anew.
        files::follow(&world, &op, files::wanted(&world, &inside)).await;
    }
    names::settle(&world, &op, &inside).await;
    Changed { inside, result }
}

/// Gives a sandbox the namespace that somebody else has made, and plugs in what waits for it. When that fails
/// everything waits as before.
pub(crate) async fn set_key(
    world: World,
    op: OpCtx,
    mut inside: Box<Inside>,
    SetSandboxKey { source, held, way_out }: SetSandboxKey,
) -> Changed {
    if !inside.waiting {
        let away = async {
            way_out::is_there(&inside, &way_out)?;
            take_key_away(&world, &op, &mut inside, &source, &way_out).await
        };
        if let Err(error) = away.await {
            return Changed { inside, result: Err(error) };
        }
    }
    let adopted = adopt(&world, &op, &inside, source, &way_out).await;
    drop(held);
    match adopted {
        Ok(inside) => {
            // It may have a way out now.
            names::settle(&world, &op, &inside).await;
            Changed { inside, result: Ok(()) }
        }
        Err(error) => Changed { inside, result: Err(error) },
    }
}

/// Mounts the namespace and plugs in what waits, as one saga.
async fn adopt(
    world: &World,
    op: &OpCtx,
    before: &Inside,
    source: PathBuf,
    way_out: &WayOutOffer,
) -> Result<Box<Inside>> {
    let name = before.record.netns;
    let sandbox = world.sandbox;
    // What is left of the namespace before, which had the same name, must not hit this one.
    let turn = world.turns.begin(Kind::Key);
    let object = fmt::from_fn(move |f| write!(f, "sandbox {}", sandbox.short()));
    let adopted = world.saga(op, "set_sandbox_key", object, async |saga| {
        let mut inside = Box::new(before.clone());
        // Also when it is refused: what is left of the namespace before, which is out of date now, must not stay.
        let adopt = async {
            world.execute(op, vec![Op::AdoptNetns { name, source }]).await.map_err(Error::uncertain)
        };
        saga.step("adopt the namespace", Undone::Netns(Netns::Named(name)).unless_later(turn), adopt).await?;
        inside.waiting = false;
        // None has been used in this namespace.
        inside.record.interfaces = 0;
        for member in &before.members {
            let undo = Undone::Place(Box::new(place(world, before, member))).unless_later(turn);
            let joined = join(world.clone(), op.clone(), inside.clone(), again(member));
            // A failed one has lost its place, so that has to be kept again also then.
            let joined = saga.step("plug in", undo, async { joined.await.map_err(Error::uncertain) });
            inside = joined.await?.inside;
        }
        if inside.lacks_way_out() {
            // Its own saga takes it back when it fails itself.
            let undo = match way_out {
                WayOutOffer::Offered(offered) => Some(Undone::WayOut(offered.network, offered.endpoint)),
                WayOutOffer::Missing { .. } => None,
            };
            saga.step("make a way out", undo, way_out::add(world, op, &mut inside, way_out)).await?;
        }
        // Last: a crash before it leaves a sandbox that waits, and links that belong to nobody.
        inside.record.keyed = true;
        let back = Undone::Key(Box::new(before.record.clone())).unless_later(turn);
        saga.step("commit", back, keep(world, op, &inside.record)).await?;
        Ok(inside)
    });
    adopted.await
}

/// Unplugs everything from the namespace that a sandbox has, keeps the places, and lets the namespace go. When that
/// fails everything is plugged in again.
async fn take_key_away(
    world: &World,
    op: &OpCtx,
    inside: &mut Box<Inside>,
    next: &Path,
    way_out: &WayOutOffer,
) -> Result<()> {
    let turn = world.turns.begin(Kind::Key);
    // Whether the next one can be had at all is seen before anything is given up.
    let trial = format!("k-{}", inside.record.netns).parse()?;
    // One of an earlier attempt may be there still.
    world.remove(op, vec![Op::DeleteNetns { name: trial }]).await?;
    let found = world.execute(op, vec![Op::AdoptNetns { name: trial, source: next.to_owned() }]).await;
    world.finish(op, Undone::Netns(Netns::Named(trial)), Patience::Usual).await;
    found?;

    // What is left of it in that namespace would stay there.
    world.finish(op, Undone::Names(None), Patience::Usual).await;
    // A crash from here on leaves a sandbox that waits, with everything in it.
    inside.record.keyed = false;
    let (left, result) = match keep(world, op, &inside.record).await {
        Ok(()) => unplug(world, op, inside, true).await,
        Err(error) => (Vec::new(), Err(error)),
    };
    if let Err(error) = result {
        inside.record.keyed = true;
        if let Err(why) = come_back(world, op, inside, &left, way_out).await {
            tracing::warn!(error = %why, "an endpoint that was to move to another namespace is out of its sandbox");
            files::follow(world, op, files::wanted(world, inside)).await;
        }
        names::restore(world, op, inside).await;
        let keyed = Undone::Key(Box::new(inside.record.clone())).unless_later(turn);
        world.finish(op, keyed, Patience::Usual).await;
        return Err(error);
    }
    world.finish(op, Undone::Netns(world.netns).unless_later(turn), Patience::Usual).await;
    inside.waiting = true;
    inside.members = left.into_iter().map(Member::kept).collect();
    Ok(())
}

/// Has every endpoint leave, and deletes the one that was the way out. Those that have left are told, in order;
/// who cannot leave stays, in order.
async fn unplug(
    world: &World,
    op: &OpCtx,
    inside: &mut Inside,
    keeps_places: bool,
) -> (Vec<Member>, Result<()>) {
    let (mut left, mut result) = (Vec::new(), Ok(()));
    for member in inside.members.clone() {
        if member.way_out == WayOut::Provided {
            continue;
        }
        let outcome = unplugged(world, op, &member, keeps_places).await;
        if outcome.is_ok() {
            left.push(member);
        }
        result = result.and(outcome);
    }
    let gone: Vec<_> = left.iter().map(|member| member.endpoint).collect();
    clear(world, op, LeavePlan::of(inside, |member| gone.contains(&member.endpoint))).await;
    inside.forget(&gone);
    way_out::drop_if_needless(world, op, inside).await;
    (left, result)
}

/// Plugs endpoints in again that have left. One that cannot be stays out.
async fn come_back(
    world: &World,
    op: &OpCtx,
    inside: &mut Box<Inside>,
    left: &[Member],
    way_out: &WayOutOffer,
) -> Result<()> {
    let mut result = Ok(());
    for member in left {
        match join(world.clone(), op.clone(), inside.clone(), again(member)).await {
            Ok(joined) => *inside = joined.inside,
            Err(error) => result = result.and(Err(error)),
        }
    }
    let settled = way_out::settle(world, op, inside, way_out).await;
    result.and(settled)
}

/// The join that brings an endpoint back. Whether a way out is needed shows when all are back.
fn again(member: &Member) -> JoinSandbox {
    let spec = JoinSpec { priority: member.priority };
    JoinSandbox { endpoint: member.endpoint, network: member.network, spec, way_out: None }
}

/// The place that is kept for an endpoint.
fn place(world: &World, inside: &Inside, member: &Member) -> Place {
    let number = world.services.joins.next();
    world.turns.keep_place(member.endpoint, number);
    Place {
        network: member.network,
        endpoint: member.endpoint,
        number,
        index: member.number(),
        priority: member.priority,
        options: inside.options.clone(),
    }
}

impl Place {
    /// Whether this is the place that is to be kept, and no later one.
    pub(super) fn is_wanted(&self, world: &World) -> bool {
        world.turns.keeps_place(self.endpoint, self.number)
    }

    /// Has the place kept again for an endpoint that was plugged in.
    pub(super) async fn keep(self, world: &World, op: &OpCtx) -> Result<()> {
        let Self { network, endpoint, index, priority, options, number: _ } = self;
        let join = world.services.joins.next();
        let sandbox = world.sandbox;
        let (netns, as_way_out) = (None, false);
        let attach = AttachEndpoint { endpoint, sandbox, join, netns, index, priority, as_way_out, options };
        world.ask_network(op, network, attach).await?;
        let kept = world.ask_network(op, network, CommitAttachment { endpoint, join, beside: None }).await;
        if kept.is_err() {
            // One that is half-way would be in the way of the next try.
            world.finish(op, Undone::Attachment(network, endpoint, join), Patience::Usual).await;
        }
        kept
    }
}
