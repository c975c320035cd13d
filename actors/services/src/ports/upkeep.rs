//! What the ports' actor does beside reserving: adoption, quarantine, release, the list.

use netloom_kernel::{HoldRefusal, PortToHold};
use netloom_model::{EndpointId, Holder, HostPorts, ObjectKind, Result};
use netloom_runtime::{Cx, Handle, OpCtx, Reply};

use super::actor::PortsActor;
use super::keep::State;
use super::message::{
    AdoptPorts, AdoptedHeld, ListPorts, PortsOf, PortsOwnerRenamed, QuarantinePorts, ReleasePorts,
    ReplaceDynamicRange, UnheldPort,
};

/// Ports that are taken again, while sockets are opened for them.
#[derive(Debug)]
pub(super) struct Adoption {
    owner: EndpointId,
    ports: Vec<PortToHold>,
    reply: Reply<Result<Vec<UnheldPort>>>,
}

// === Commands ===

impl Handle<AdoptPorts> for PortsActor {
    fn handle(
        &mut self,
        op: OpCtx,
        message: AdoptPorts,
        reply: Reply<Result<Vec<UnheldPort>>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let AdoptPorts { owner, ports } = message;
        let adopted = self.refuse_if_releasing(&owner);
        if let Err(error) = adopted.and_then(|()| self.state.get().allocator.adopt(&owner, &ports)) {
            return reply.send(Err(error));
        }
        let owner = owner.id;
        let missing = self.state.get().keep.missing(owner, &ports);
        if missing.is_empty() {
            return reply.send(Ok(Vec::new()));
        }
        self.begin(owner);
        let number = self.number();
        let answers = self.try_to_hold(&op, missing.clone());
        self.adoptions.insert(number, Adoption { owner, ports: missing, reply });
        cx.run(&op, answers, move |answers| AdoptedHeld {
            adoption: number,
            answers: answers.unwrap_or_default(),
        });
    }
}

impl Handle<QuarantinePorts> for PortsActor {
    fn handle(
        &mut self,
        _: OpCtx,
        QuarantinePorts(owner): QuarantinePorts,
        reply: Reply<Vec<HostPorts>>,
        _: &mut Cx<'_, Self>,
    ) {
        let allocator = &mut self.state.get().allocator;
        allocator.quarantine(owner);
        reply.send(allocator.ports_of(owner).to_vec());
    }
}

impl Handle<ReleasePorts> for PortsActor {
    fn handle(
        &mut self,
        op: OpCtx,
        ReleasePorts(owner): ReleasePorts,
        reply: Reply<()>,
        cx: &mut Cx<'_, Self>,
    ) {
        self.release(op, owner, reply, cx);
    }
}

impl Handle<ReplaceDynamicRange> for PortsActor {
    fn handle(
        &mut self,
        _: OpCtx,
        ReplaceDynamicRange(range): ReplaceDynamicRange,
        reply: Reply<()>,
        _: &mut Cx<'_, Self>,
    ) {
        self.state.get().allocator.replace_dynamic(range);
        reply.send(());
    }
}

// === Queries ===

impl Handle<ListPorts> for PortsActor {
    fn handle(&mut self, _: OpCtx, _: ListPorts, reply: Reply<Vec<PortsOf>>, _: &mut Cx<'_, Self>) {
        let known = self.state.get();
        let ports = known.allocator.holdings().map(|holding| PortsOf {
            holder: Holder::new(ObjectKind::Endpoint, holding.owner.id, &*holding.owner.name),
            ports: holding.ports,
            leaving: holding.leaving,
            unheld: known.keep.unheld(holding.owner.id),
            served: known.keep.served(holding.owner.id).chain(known.board.served(holding.owner.id)).collect(),
        });
        let mut all: Vec<PortsOf> = ports.collect();
        all.sort_by(|one, two| (&one.holder.name, &one.holder.id).cmp(&(&two.holder.name, &two.holder.id)));
        reply.send(all);
    }
}

// === Events ===

impl Handle<PortsOwnerRenamed> for PortsActor {
    fn handle(
        &mut self,
        _: OpCtx,
        PortsOwnerRenamed(owner, name): PortsOwnerRenamed,
        _: Reply<()>,
        _: &mut Cx<'_, Self>,
    ) {
        self.state.get().allocator.rename(owner, &name);
    }
}

// === Outcomes ===

impl Handle<AdoptedHeld> for PortsActor {
    fn handle(&mut self, _: OpCtx, message: AdoptedHeld, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        let AdoptedHeld { adoption, answers } = message;
        let Some(Adoption { owner, ports, reply }) = self.adoptions.remove(&adoption) else { return };
        let mut answers = answers.into_iter();
        let news = ports.into_iter().map(|port| {
            let state = match answers.next().unwrap_or(Err(HoldRefusal::Lost)) {
                Ok(socket) => State::Held(socket),
                Err(refusal) => State::Unheld(refusal.into_error(port.named(), None)),
            };
            (port, state)
        });
        let unheld = self.state.get().keep.settle(owner, news.collect());
        for UnheldPort { port, why } in &unheld {
            tracing::warn!(endpoint = %owner, %port, %why, "a port is taken and not held");
        }
        reply.send(Ok(unheld));
        self.end(owner, cx);
    }
}
