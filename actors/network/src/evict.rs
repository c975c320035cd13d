//! Endpoints of a sandbox that is dead: each is deleted, unless it has left by itself.

use netloom_model::{EndpointId, Result, SandboxId};
use netloom_runtime::{Cx, Handle, OpCtx, Reply, messages};

use crate::actor::NetworkActor;
use crate::message::EvictEndpoint;

/// Delete an endpoint as [`EvictEndpoint`] does, if it is in this sandbox or on its way into or out of it. Succeeds
/// when it is not: it may be in another one by now.
#[derive(Clone, Copy, Debug)]
pub struct EvictFrom(pub EndpointId, pub SandboxId);

messages! {
    EvictFrom => Result<Option<SandboxId>>;
}

impl Handle<EvictFrom> for NetworkActor {
    fn handle(
        &mut self,
        op: OpCtx,
        EvictFrom(endpoint, sandbox): EvictFrom,
        reply: Reply<Result<Option<SandboxId>>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let here = |entry: &crate::endpoint::Endpoint| entry.sandbox() == Some(sandbox);
        if self.endpoints.get(endpoint).is_ok_and(here) {
            self.handle(op, EvictEndpoint(endpoint), reply, cx);
        } else {
            reply.send(Ok(None));
        }
    }
}
