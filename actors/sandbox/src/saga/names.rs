//! The sandbox's name server. It comes with the first endpoint on a network for whose sake there is one, is told of every
//! change of what is plugged in, and goes with the namespace (libnetwork's `startResolver`).
//!
//! A join has it started beside what is set up inside, and waits for it with the commit: whoever is told of the join can
//! ask for names. One that cannot be started is no reason to refuse a join; the name service says so and tries again.

use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use netloom_actor_services::names::{EndNames, NamesWanted, SetNames};
use netloom_actor_services::{SagaWorld, answered};
use netloom_kernel::Netns;
use netloom_model::Result;
use netloom_model::record::WayOut;
use netloom_runtime::saga::Patience;
use netloom_runtime::{AskError, OpCtx, Saga};
use tokio::time::{Instant, timeout_at};

use super::{Undone, World};
use crate::inside::Inside;
use crate::member::Member;
use crate::turns::Kind;

/// How long a join waits for its name server, and an end for the service that has died and comes back.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a service that is being started again is asked.
const RESTART_PAUSE: Duration = Duration::from_millis(10);

/// Who keeps name servers.
const SERVICE: &str = "the name service";

/// A name server that has been asked for.
pub(super) type Asked<'a> = LocalBoxFuture<'a, ()>;

/// Whether there is a name server for the sake of what is plugged in.
fn is_called_for(world: &World, inside: &Inside) -> bool {
    let plugged_in = inside.members.iter().filter(|member| is_seen(member));
    serves(world, plugged_in)
}

/// Whether its programs are told to ask there, and nobody else, had the sandbox these endpoints. So they are when they
/// come only later, with the namespace.
pub(super) fn serves<'a>(world: &World, mut members: impl Iterator<Item = &'a Member>) -> bool {
    matches!(world.netns, Netns::Named(_)) && members.any(|member| calls(world, member))
}

fn calls(world: &World, member: &Member) -> bool {
    let has_names = member.way_out != WayOut::Provided && !member.names.no_resolution;
    has_names && world.services.zones.resolves(member.network)
}

/// Whether the records of an endpoint's network are seen. That of the way out is nobody's to look into.
fn is_seen(member: &Member) -> bool {
    !member.reserved && member.way_out != WayOut::Provided
}

/// What the name server is to be like, by what is plugged in.
fn picture(world: &World, inside: &Inside) -> Arc<NamesWanted> {
    let mut seen: Vec<_> = inside.members.iter().filter(|member| is_seen(member)).collect();
    seen.sort_by(|one, other| one.rank().cmp(&other.rank()));
    Arc::new(NamesWanted {
        sandbox: world.sandbox,
        netns: world.netns,
        spec: Arc::clone(&inside.record.spec),
        networks: seen.into_iter().map(|member| (member.network, member.names.clone())).collect(),
        external: inside.gateways.provider().is_some(),
    })
}

/// Has the name server be as what is plugged in now calls for, if there is one or one is called for.
pub(super) async fn ask<'a>(
    saga: &mut Saga<Undone>,
    world: &'a World,
    op: &'a OpCtx,
    before: &Inside,
    after: &Inside,
) -> Result<Option<Asked<'a>>> {
    let had = world.named.get();
    if !had && !is_called_for(world, after) {
        return Ok(None);
    }
    let turn = world.turns.begin(Kind::Names);
    let undo = Undone::Names(had.then(|| picture(world, before))).unless_later(turn);
    let wanted = picture(world, after);
    let asked = saga.step("ask for a name server", undo, async {
        world.named.set(true);
        Ok(served(world, op, wanted, true))
    });
    asked.await.map(Some)
}

/// Asks for a name server at once; what is returned waits for it, for a while. `starts`: also where there is none yet.
fn served<'a>(world: &'a World, op: &'a OpCtx, wanted: Arc<NamesWanted>, starts: bool) -> Asked<'a> {
    let ask = move || SetNames { wanted: Arc::clone(&wanted), starts, waits: true };
    world.ruled.set(world.ruled.get() || starts);
    let asked = world.services.names.outcome(op, ask());
    let until = op.deadline.min(Instant::now() + PATIENCE);
    Box::pin(async move {
        let mut heard = timeout_at(until, asked).await;
        while heard == Ok(Err(AskError::Gone)) && Instant::now() < until && op.pause(RESTART_PAUSE).await {
            heard = timeout_at(until, world.services.names.outcome(op, ask())).await;
        }
        match heard {
            Ok(Ok(there)) => world.named.set(there),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(sandbox = %world.sandbox.short(), "it takes time until names can be asked for");
            }
        }
    })
}

/// Waits for a name server that has been asked for.
pub(super) async fn heard(op: &OpCtx, asked: Option<Asked<'_>>) {
    if let Some(asked) = asked {
        // Whoever ends the operation does not wait for it.
        let _ = op.unless_cancelled(asked).await;
    }
}

/// Tells the name server what is plugged in by now. What fails is tried again behind the caller's back.
pub(super) async fn settle(world: &World, op: &OpCtx, inside: &Inside) {
    if world.named.get() {
        let turn = world.turns.begin(Kind::Names);
        let told = Undone::Names(Some(picture(world, inside))).unless_later(turn);
        world.finish(op, told, Patience::Usual).await;
    }
}

/// The same after a start, of the engine or of the sandbox's actor, and where a name server has been ended too early: whether
/// there is to be one follows from what is plugged in. One that is there stays.
pub(super) async fn restore(world: &World, op: &OpCtx, inside: &Inside) {
    if inside.waiting || world.netns == Netns::Host {
        return;
    }
    let starts = is_called_for(world, inside);
    world.named.set(world.named.get() || starts);
    world.turns.begin(Kind::Names);
    served(world, op, picture(world, inside), starts).await;
}

/// Takes back what the name server was told, or that there is one.
pub(super) async fn take_back(world: &World, op: &OpCtx, before: Option<Arc<NamesWanted>>) -> Result<()> {
    let Some(before) = before else { return end(world, op, true).await };
    let told = world.services.names.ask(op, SetNames { wanted: before, starts: true, waits: false }).await;
    answered(op, SERVICE, told.map(|_| Ok(())))
}

/// Ends the name server, so that nothing of it holds the namespace. `stays`: the namespace goes on, and loses the rules.
pub(super) async fn end(world: &World, op: &OpCtx, stays: bool) -> Result<()> {
    world.named.set(false);
    let until = Instant::now() + PATIENCE;
    loop {
        let end = EndNames { sandbox: world.sandbox, netns: world.netns, stays };
        match world.services.names.ask(op, end).await {
            Err(AskError::Gone) if Instant::now() >= until => break,
            Err(AskError::Gone) => tokio::time::sleep(RESTART_PAUSE).await,
            ended => {
                let ended = answered(op, SERVICE, ended);
                world.ruled.set(world.ruled.get() && !(stays && ended.is_ok()));
                return ended;
            }
        }
    }
    // It is out of service, which is told: the namespace lives until the engine is started again.
    tracing::warn!(sandbox = %world.sandbox.short(), "nobody ends its name server");
    Ok(())
}
