//! What a sandbox is asked to do, and what waits for its turn.

use netloom_model::snapshot::{SandboxEndpoint, SandboxSnapshot};

use super::*;

/// An operation that waits, with the place where its answer goes.
#[derive(Debug)]
pub(crate) enum Pending {
    Establish(Origin, Reply<Result<Standing>>),
    Join(JoinSandbox, Reply<Result<SandboxEndpoint>>),
    Leave(LeaveSandbox, Reply<Result<()>>),
    Rename(RenameSandbox, Reply<Result<()>>),
    Refresh(RefreshSandbox, Reply<Result<()>>),
    SetKey(SetSandboxKey, Reply<Result<()>>),
    Delete(DeleteSandbox, Reply<Result<()>>),
    Adopt(AdoptSandbox, Reply<Result<SandboxSnapshot>>),
}

impl Pending {
    pub(super) fn refuse(self, error: Error) {
        match self {
            Self::Join(_, reply) => reply.send(Err(error)),
            Self::Adopt(_, reply) => reply.send(Err(error)),
            Self::Establish(_, reply) => reply.send(Err(error)),
            Self::Leave(_, reply)
            | Self::Rename(_, reply)
            | Self::Refresh(_, reply)
            | Self::SetKey(_, reply)
            | Self::Delete(_, reply) => reply.send(Err(error)),
        }
    }
}

impl Handle<Establish> for SandboxActor {
    fn handle(
        &mut self,
        op: OpCtx,
        Establish(origin): Establish,
        reply: Reply<Result<Standing>>,
        cx: &mut Cx<'_, Self>,
    ) {
        self.admit(op, Pending::Establish(origin, reply), cx);
    }
}

impl Handle<JoinSandbox> for SandboxActor {
    fn handle(
        &mut self,
        op: OpCtx,
        command: JoinSandbox,
        reply: Reply<Result<SandboxEndpoint>>,
        cx: &mut Cx<'_, Self>,
    ) {
        self.admit(op, Pending::Join(command, reply), cx);
    }
}

impl Handle<LeaveSandbox> for SandboxActor {
    fn handle(&mut self, op: OpCtx, command: LeaveSandbox, reply: Reply<Result<()>>, cx: &mut Cx<'_, Self>) {
        self.admit(op, Pending::Leave(command, reply), cx);
    }
}

impl Handle<RenameSandbox> for SandboxActor {
    fn handle(&mut self, op: OpCtx, command: RenameSandbox, reply: Reply<Result<()>>, cx: &mut Cx<'_, Self>) {
        self.admit(op, Pending::Rename(command, reply), cx);
    }
}

impl Handle<RefreshSandbox> for SandboxActor {
    fn handle(
        &mut self,
        op: OpCtx,
        command: RefreshSandbox,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        self.admit(op, Pending::Refresh(command, reply), cx);
    }
}

impl Handle<SetSandboxKey> for SandboxActor {
    fn handle(&mut self, op: OpCtx, command: SetSandboxKey, reply: Reply<Result<()>>, cx: &mut Cx<'_, Self>) {
        self.admit(op, Pending::SetKey(command, reply), cx);
    }
}

impl Handle<DeleteSandbox> for SandboxActor {
    fn handle(&mut self, op: OpCtx, command: DeleteSandbox, reply: Reply<Result<()>>, cx: &mut Cx<'_, Self>) {
        if command.force {
            self.cancel.cancel(Stop::Overtaken);
            // What waits would be begun before it, and may hang as well.
            for (_, pending) in self.gate.clear() {
                pending.refuse(Reason::WrongPhase { object: self.holder(), phase: "being deleted" }.into());
            }
        }
        self.admit(op, Pending::Delete(command, reply), cx);
    }
}

impl Handle<AdoptSandbox> for SandboxActor {
    fn handle(
        &mut self,
        op: OpCtx,
        command: AdoptSandbox,
        reply: Reply<Result<SandboxSnapshot>>,
        cx: &mut Cx<'_, Self>,
    ) {
        self.admit(op, Pending::Adopt(command, reply), cx);
    }
}

impl Handle<MarkFailed> for SandboxActor {
    fn handle(&mut self, _: OpCtx, MarkFailed(cause): MarkFailed, reply: Reply<()>, _: &mut Cx<'_, Self>) {
        self.phase = SandboxPhase::Failed;
        self.failure = Some(cause);
        reply.send(());
    }
}
