//! What is taken back when the engine ends: where its own port is, which anybody may have from then on. All else stays, so
//! that containers are reached while no engine runs.

use std::sync::Arc;

use netloom_kernel::{Netns, Op, execute_all};
use netloom_model::{Error, Result};
use netloom_runtime::{Cx, Handle, OpCtx, Reply, messages};

use super::actor::FirewallActor;

/// Lead nobody to the engine's own port any more: the engine ends. Answered when the kernel does not.
///
/// Errors: what the kernel says.
#[derive(Clone, Copy, Debug)]
pub struct LeadNowhere;

messages! {
    LeadNowhere => Result<()>;
}

impl Handle<LeadNowhere> for FirewallActor {
    fn handle(&mut self, op: OpCtx, _: LeadNowhere, reply: Reply<Result<()>>, cx: &mut Cx<'_, Self>) {
        let (table, changes, silent) = {
            let mut known = self.deps.state.get();
            (known.wanted.table(), known.wanted.lead_nowhere(), known.is_silent())
        };
        if changes.is_empty() || silent {
            return reply.send(Ok(()));
        }
        let kernel = Arc::clone(&self.deps.kernel);
        cx.tasks().spawn(async move {
            let ops = vec![Op::ChangeTable { netns: Netns::Host, table, changes }];
            let changed = execute_all(&*kernel, ops, op.deadline_std()).await;
            reply.send(changed.map_err(Error::from));
        });
    }
}
