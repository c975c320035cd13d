//! A reconciliation: sandboxes that do not live are released, and what is the engine's own and belongs to nobody is
//! removed, beside everything that goes on.

use futures::{StreamExt, stream};
use netloom_actor_services::{Services, answered};
use netloom_kernel::Op;
use netloom_model::{Left, LiveSet, Mark, ReconcileReport, Stray, Verdict};
use netloom_runtime::{Addr, Handle};

use super::owners::{Strays, owners, strays};
use super::*;
use crate::message::{Reconcile, ReleaseSandbox, SandboxOwner};
use crate::reconcile::UNCLEAR;

/// How many sandboxes are released at a time.
const RELEASED_AT_A_TIME: usize = 512;

impl Handle<Reconcile> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        Reconcile(live): Reconcile,
        reply: Reply<Result<ReconcileReport>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let Mark { engine, .. } = live.mark;
        let known = (engine == self.estate.engine).then_some(()).ok_or_else(|| {
            let why =
                "it was taken of another engine, or before this one was started: take one of this engine";
            Error::invalid("mark", engine, why)
        });
        if let Err(refusal) = self.admit().and(known) {
            return reply.send(Err(refusal));
        }
        let (services, events, me) = (self.estate.services.clone(), self.estate.events.clone(), cx.me());
        let own = op.clone();
        let work = async move {
            let mut report = released(&me, &own, &live).await?;
            swept(&services, &me, &own, &mut report).await;
            for stray in &report.removed {
                let repair = Repair::KernelObjectRemoved { object: stray.to_string() };
                events.emit(&own, EventKind::Repaired(repair));
            }
            report.released.sort_by(|a, b| a.container_id.cmp(&b.container_id));
            report.left.sort_by(|a, b| a.object.cmp(&b.object));
            Ok(report)
        };
        self.serve(&op, reply, work, cx);
    }
}

/// Releases every sandbox that had come into service before the set was listed and is not in it.
async fn released(controller: &Addr<ControllerActor>, op: &OpCtx, set: &LiveSet) -> Result<ReconcileReport> {
    let LiveSet { mark, live } = set;
    let sandboxes = owners(op, controller).await?.sandboxes;
    let known: Vec<_> = sandboxes.iter().map(|s| (s.id, s.container_id.clone())).collect();
    let mut report = ReconcileReport { unknown: live.beyond(&known), ..ReconcileReport::default() };
    let named = |sandbox: &SandboxOwner| {
        format!("sandbox {} of container {:?}", sandbox.id.short(), sandbox.container_id)
    };
    let mut dead = Vec::new();
    for sandbox in sandboxes {
        let Some(born) = sandbox.born.filter(|born| *born <= mark.born) else { continue };
        match live.judge(sandbox.id, &sandbox.container_id) {
            Verdict::Lives => {}
            Verdict::Dead => dead.push((born, sandbox)),
            Verdict::Unclear => {
                report.left.push(Left { object: named(&sandbox), why: UNCLEAR.to_owned() });
            }
        }
    }
    let releases = dead.into_iter().map(async |(born, sandbox)| {
        let release = ReleaseSandbox { id: sandbox.id, born: Some(born) };
        let outcome = answered(op, "the controller", controller.ask(op, release).await);
        outcome.map_err(|error| Left { object: named(&sandbox), why: error.to_string() })
    });
    let mut releases = stream::iter(releases).buffer_unordered(RELEASED_AT_A_TIME);
    while let Some(outcome) = releases.next().await {
        match outcome {
            Ok(released) => report.released.extend(released),
            Err(left) => report.left.push(left),
        }
    }
    Ok(report)
}

/// Removes what nobody answers for at two looks, between which everything has ended that was under way at the first:
/// an owner that was started again at the first look may not have known what its predecessor's tasks still had to take
/// back.
async fn swept(
    services: &Services,
    controller: &Addr<ControllerActor>,
    op: &OpCtx,
    report: &mut ReconcileReport,
) {
    let unseen = |error: Error| Left { object: "what no record knows".into(), why: error.to_string() };
    let (mut found, mut unjudged) = match strays(services, controller, op).await {
        Ok(found) => found,
        Err(error) => return report.left.push(unseen(error)),
    };
    if !found.is_empty() {
        let entry = services.tools.ledger.enter(op, "reconcile", "what no record knows");
        entry.step("wait for what is under way");
        let quiet = op.unless_cancelled(services.tools.ledger.ended_before(&entry));
        // The other half of the time is for the removals.
        let quiet = tokio::time::timeout(op.remaining() / 2, quiet).await;
        if !matches!(quiet, Ok(Some(()))) {
            let why = "operations are under way that may have made it and do not end; try again";
            let left = |stray: &Stray| Left { object: stray.to_string(), why: why.into() };
            report.left.extend(found.keys().map(left).chain(unjudged));
            return;
        }
        entry.step("look again");
        let second = match strays(services, controller, op).await {
            Ok((second, still)) => {
                unjudged = still;
                second
            }
            Err(error) => return report.left.push(unseen(error)),
        };
        found.retain(|stray, what| second.get(stray) == Some(what));
        entry.step("remove");
        removed(services, op, found, report).await;
    }
    report.left.extend(unjudged);
}

/// Removes strays. A link is removed by its mark, so that what has got its name since then is left alone.
async fn removed(services: &Services, op: &OpCtx, strays: Strays, report: &mut ReconcileReport) {
    let ops = strays.iter().map(|(stray, link)| match stray {
        Stray::Link(name) => Op::DeleteLink { name: *name, tag: link.as_ref().map(|(_, tag)| tag.clone()) },
        Stray::Namespace(name) => Op::DeleteNetns { name: *name },
    });
    let ops: Vec<_> = ops.collect();
    // One call for each: a deletion that hangs holds up no other, and they are gathered all the same.
    let outcomes = ops.into_iter().map(|removal| services.execute(op, vec![removal]));
    let outcomes = futures::future::join_all(outcomes).await.into_iter().flatten();
    for (stray, outcome) in strays.into_keys().zip(outcomes) {
        match outcome {
            Ok(()) => report.removed.push(stray),
            // By itself, or by somebody else.
            Err(error) if error.already_gone() => {}
            Err(error) => report.left.push(Left { object: stray.to_string(), why: error.to_string() }),
        }
    }
}
