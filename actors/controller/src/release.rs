//! Sandboxes whose containers do not live: released with their endpoints, at the start and by a reconciliation. What
//! cannot be released stays, and whoever creates a sandbox for the same container is given it.
//!
//! Parity: libnetwork's `sandboxCleanup` and its stubs. Different on purpose: only what is not in use is released, and
//! a stub is listed, out of service, with the reason.

use futures::future::join_all;
use netloom_actor_network::{EvictFrom, Networks};
use netloom_actor_sandbox::{
    AdoptSandbox, DeleteSandbox as DeleteInSandbox, InspectSandbox, LeaveSandbox, MarkFailed,
};
use netloom_actor_services::answered;
use netloom_runtime::{Addr, Handle};

use super::sandboxes::evicted;
use super::*;
use crate::message::ReleaseSandbox;

/// Deletes a sandbox with its endpoints, whatever is under way in it. Tells which those were.
async fn release(
    op: OpCtx,
    networks: Networks,
    id: SandboxId,
    addr: Addr<SandboxActor>,
) -> Result<Vec<EndpointId>> {
    // Nothing joins it any more: that would be neither in the picture nor deleted.
    addr.tell(&op, MarkFailed("its container does not live".into()));
    let picture = answered(&op, "the sandbox", addr.ask(&op, InspectSandbox).await.map(Ok))?;
    let evictions = picture.endpoints.iter().map(|inside| {
        let (op, networks) = (&op, &networks);
        async move {
            let evict = EvictFrom(inside.endpoint, id);
            match evicted(op, networks, inside.network, evict).await {
                // It was deleted meanwhile.
                Err(error) if is_missing(&error, ObjectKind::Endpoint) => Ok(()),
                outcome => outcome.map(|_| ()),
            }
        }
    });
    // All of them are tried. Without its network an endpoint cannot be deleted, and what is recorded of the sandbox
    // must stay then: it is the only one that still says where the endpoint belongs.
    let outcomes = join_all(evictions).await;
    let gone = picture.endpoints.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
    let gone: Vec<_> = gone.map(|(inside, _)| *inside).collect();
    if let Some(error) = outcomes.into_iter().find_map(Result::err) {
        // It lives on, so it must not list what is gone.
        let leaves = gone.iter().map(|inside| {
            addr.outcome(
                &op,
                LeaveSandbox { endpoint: inside.endpoint, network: inside.network, way_out: None },
            )
        });
        join_all(leaves).await;
        return Err(error);
    }
    answered(&op, "the sandbox", addr.outcome(&op, DeleteInSandbox { force: true }).await)?;
    Ok(gone.iter().map(|inside| inside.endpoint).collect())
}

fn is_missing(error: &Error, kind: ObjectKind) -> bool {
    matches!(error.reason(), Reason::NotFound { object, .. } if *object == kind)
}

impl Handle<ReleaseSandbox> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        ReleaseSandbox { id, born }: ReleaseSandbox,
        reply: Reply<Result<Option<ReleasedSandbox>>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let found = self.estate.sandboxes.get_mut(id);
        // One that is being deleted goes by itself, and one that was adopted meanwhile is another container's.
        let meant = |child: &&mut SandboxChild| born.is_none() || child.born == born;
        let Some(child) = found.filter(|child| child.state == State::Told).filter(meant) else {
            return reply.send(Ok(None));
        };
        (child.state, child.dead) = (State::Deleting, true);
        // An operation of its own: what is stuck in it has a second however many came before it, and whoever ends this
        // one with force ends no other.
        let own = OpCtx::new(op.cause, op.remaining());
        let addr = child.running.addr.clone();
        let work = release(own, self.estate.directory.reader().networks, id, addr);
        self.run(&op, work, move |result| Outcome::SandboxReleased(id, result, reply), cx);
    }
}

impl ControllerActor {
    pub(super) fn sandbox_released(
        &mut self,
        op: &OpCtx,
        id: SandboxId,
        result: Result<Vec<EndpointId>>,
    ) -> Result<Option<ReleasedSandbox>> {
        let Some(child) = self.estate.sandboxes.get_mut(id) else { return Ok(None) };
        match result {
            Ok(endpoints) => {
                let container_id = child.container_id.clone();
                self.forget_sandbox(op, id);
                Ok(Some(ReleasedSandbox { sandbox: id, container_id, endpoints }))
            }
            Err(error) => {
                child.state = State::Told;
                let cause = format!("its container does not live, and it could not be released: {error}");
                child.running.addr.tell(op, MarkFailed(cause.clone()));
                let (object, id) = (ObjectKind::Sandbox, id.to_string());
                self.estate.events.emit(op, EventKind::ObjectFailed { object, id, cause });
                Err(error)
            }
        }
    }

    /// The sandbox that a dead container has left, if it could not be released.
    pub(super) fn dead_sandbox_of(&self, container_id: &str) -> Option<SandboxId> {
        let id = self.estate.sandboxes.id_of(container_id)?;
        self.estate
            .sandboxes
            .get(id)
            .is_some_and(|child| child.dead && child.state == State::Told)
            .then_some(id)
    }

    /// Makes a sandbox in place of a dead one, which is released first if it can be now, and adopted otherwise.
    pub(super) fn replace_dead(
        &mut self,
        op: &OpCtx,
        dead: SandboxId,
        wanted: (SandboxId, SandboxSpec),
        reply: Reply<Result<SandboxSnapshot>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let Some(child) = self.estate.sandboxes.get_mut(dead) else {
            return self.create_sandbox(op, wanted, reply, cx);
        };
        child.state = State::Deleting;
        let addr = child.running.addr.clone();
        let released = release(op.clone(), self.estate.directory.reader().networks, dead, addr.clone());
        let (own, spec) = (op.clone(), wanted.1.clone());
        let work = async move {
            let Err(error) = released.await else { return Ok(None) };
            tracing::warn!(%error, sandbox = %dead.short(), "still not to be released; adopted instead");
            answered(&own, "the sandbox", addr.outcome(&own, AdoptSandbox(spec)).await).map(Some)
        };
        let wanted = Box::new(wanted);
        self.run(op, work, move |result| Outcome::DeadReplaced { dead, wanted, result, reply }, cx);
    }

    pub(super) fn dead_replaced(
        &mut self,
        op: &OpCtx,
        dead: SandboxId,
        wanted: (SandboxId, SandboxSpec),
        result: Result<Option<SandboxSnapshot>>,
        reply: Reply<Result<SandboxSnapshot>>,
        cx: &mut Cx<'_, Self>,
    ) {
        match result {
            Ok(None) => {
                self.forget_sandbox(op, dead);
                self.create_sandbox(op, wanted, reply, cx);
            }
            Ok(Some(snapshot)) => {
                if let Some(child) = self.estate.sandboxes.get_mut(dead) {
                    // To those who look and listen it is a new one. Whoever has judged the old one is late.
                    (child.state, child.dead, child.born) = (State::Creating, false, None);
                }
                self.publish_sandbox(op, dead);
                reply.send(Ok(snapshot));
            }
            Err(error) => {
                if let Some(child) = self.estate.sandboxes.get_mut(dead) {
                    child.state = State::Told;
                }
                reply.send(Err(error));
            }
        }
    }
}
