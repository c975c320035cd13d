//! Sandboxes: created, restored, deleted; and endpoints deleted by force, wherever they are.

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use netloom_actor_network::{EvictEndpoint, InspectEndpoint, Networks};
use netloom_actor_sandbox::{
    DeleteSandbox as DeleteInSandbox, Establish, LeaveSandbox, OfferedWayOut, Origin, SandboxEntry, Standing,
    WayOutOffer,
};
use netloom_actor_services::answered;
use netloom_model::{EndpointId, ErrorKind, NamespaceSpec};
use netloom_runtime::saga::Patience;
use netloom_runtime::{Addr, Handle, Message};
use uuid::Uuid;

use super::*;
use crate::message::{CreateSandbox, DeleteSandbox, ForceDeleteEndpoint, RestoreSandbox};

impl ControllerActor {
    pub(super) fn begin_sandbox(
        &mut self,
        record: SandboxRecord,
        state: State,
    ) -> Result<Addr<SandboxActor>> {
        let (id, container_id) = (record.id, record.spec.container_id.clone());
        let host = record.spec.namespace == NamespaceSpec::Host;
        if let Some(holder) = self.estate.sandboxes.named(&container_id) {
            return Err(Reason::NameTaken { name: container_id, holder }.into());
        }
        if let Some(child) = self.estate.sandboxes.get(id) {
            let holder = netloom_model::Holder::new(ObjectKind::Sandbox, id, &child.container_id);
            return Err(Reason::IdTaken { id: id.to_string(), holder }.into());
        }
        let turns = Turns::default();
        let actor = self.sandbox_actor(record, turns.clone());
        let running = self.start(actor, Child::Sandbox(id));
        let addr = running.addr.clone();
        let child = SandboxChild {
            container_id: container_id.clone(),
            host,
            state,
            born: None,
            dead: false,
            turns,
            running,
        };
        self.estate.sandboxes.insert(id, &container_id, child);
        Ok(addr)
    }

    /// Makes a sandbox known; tells of it when nobody was told before.
    pub(super) fn publish_sandbox(&mut self, op: &OpCtx, id: SandboxId) {
        let estate = &mut *self.estate;
        let Some(child) = estate.sandboxes.get_mut(id) else { return };
        let (container_id, addr, host) = (child.container_id.clone(), child.running.addr.clone(), child.host);
        let before = std::mem::replace(&mut child.state, State::Told);
        let directory = &estate.directory;
        child.born.get_or_insert_with(|| directory.birth());
        // Before anybody is told: who hears of it may ask at once.
        let entry = SandboxEntry { id, container_id: container_id.clone(), host, addr };
        estate.directory.publish_sandbox(entry);
        if before == State::Creating {
            estate.events.emit(op, EventKind::SandboxCreated { sandbox: id, container_id });
        }
    }

    /// Forgets a sandbox; tells of it when somebody knew of it.
    pub(super) fn forget_sandbox(&mut self, op: &OpCtx, id: SandboxId) {
        self.estate.directory.withdraw_sandbox(id);
        let Some(child) = self.estate.sandboxes.remove(id, |child| &child.container_id) else { return };
        if child.state != State::Creating {
            let container_id = child.container_id;
            self.estate.events.emit(op, EventKind::SandboxDeleted { sandbox: id, container_id });
        }
    }

    pub(super) fn sandbox_created(
        &mut self,
        op: &OpCtx,
        id: SandboxId,
        result: Result<SandboxSnapshot>,
    ) -> Result<SandboxSnapshot> {
        match result {
            Ok(snapshot) => {
                self.publish_sandbox(op, id);
                Ok(snapshot)
            }
            Err(error) => {
                let alive = self.estate.sandboxes.get(id).is_none_or(|child| child.running.addr.is_alive());
                // Of one whose actor died, the store says whether it exists: its restart finds out.
                if alive {
                    self.forget_sandbox(op, id);
                }
                Err(error)
            }
        }
    }

    pub(super) fn sandbox_restored(
        &mut self,
        op: &OpCtx,
        id: SandboxId,
        result: Result<Vec<Repair>>,
    ) -> Result<Vec<Repair>> {
        // Also one that could not be put right stays: visible, inspectable, deletable.
        self.publish_sandbox(op, id);
        if let Err(error) = &result
            && let Some(child) = self.estate.sandboxes.get(id)
        {
            let cause = error.to_string();
            child.running.addr.tell(op, netloom_actor_sandbox::MarkFailed(cause.clone()));
            let (object, id) = (ObjectKind::Sandbox, id.to_string());
            self.estate.events.emit(op, EventKind::ObjectFailed { object, id, cause });
        }
        result
    }

    pub(super) fn sandbox_deleted(&mut self, op: &OpCtx, id: SandboxId, result: Result<()>) -> Result<()> {
        match &result {
            Ok(()) => self.forget_sandbox(op, id),
            Err(_) => {
                if let Some(child) = self.estate.sandboxes.get_mut(id) {
                    child.state = State::Told;
                }
            }
        }
        result
    }

    fn sandbox(&self, id: SandboxId) -> Result<Addr<SandboxActor>> {
        let child = self.estate.sandboxes.get(id).ok_or_else(|| Error::not_found(ObjectKind::Sandbox, id))?;
        Ok(child.running.addr.clone())
    }

    fn network(&self, id: NetworkId) -> Result<Addr<NetworkActor>> {
        let child = self.estate.networks.get(id).ok_or_else(|| Error::not_found(ObjectKind::Network, id))?;
        Ok(child.running.addr.clone())
    }

    /// Runs work that answers by itself.
    pub(super) fn serve<T: Send + 'static>(
        &mut self,
        op: &OpCtx,
        reply: Reply<Result<T>>,
        work: impl Future<Output = Result<T>> + 'static,
        cx: &mut Cx<'_, Self>,
    ) {
        let work = async move {
            reply.send(work.await);
            Ok(())
        };
        self.run(op, work, Outcome::Done, cx);
    }
}

impl Handle<CreateSandbox> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        CreateSandbox { id, spec }: CreateSandbox,
        reply: Reply<Result<SandboxSnapshot>>,
        cx: &mut Cx<'_, Self>,
    ) {
        if let Err(refusal) = self.admit().and_then(|()| spec.validate()) {
            return reply.send(Err(refusal));
        }
        match self.dead_sandbox_of(&spec.container_id) {
            Some(dead) => self.replace_dead(&op, dead, (id, spec), reply, cx),
            None => self.create_sandbox(&op, (id, spec), reply, cx),
        }
    }
}

impl ControllerActor {
    pub(super) fn create_sandbox(
        &mut self,
        op: &OpCtx,
        (id, spec): (SandboxId, SandboxSpec),
        reply: Reply<Result<SandboxSnapshot>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let begun = id.short().parse().and_then(|netns| {
            let record = SandboxRecord::new(id, netns, spec);
            self.begin_sandbox(record, State::Creating)
        });
        let addr = match begun {
            Ok(addr) => addr,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        let own = op.clone();
        let asked = addr.outcome(&own, Establish(Origin::Fresh));
        let work = async move {
            answered(&own, "the sandbox", asked.await).map(|Standing { snapshot, .. }| snapshot)
        };
        self.run(op, work, move |result| Outcome::SandboxCreated(id, result, reply), cx);
    }
}

impl Handle<RestoreSandbox> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        RestoreSandbox { record, members, dead }: RestoreSandbox,
        reply: Reply<Result<Vec<Repair>>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let id = record.id;
        let addr = match self.begin_sandbox(record, State::Told) {
            Ok(addr) => addr,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        if let Some(child) = self.estate.sandboxes.get_mut(id) {
            child.dead = dead;
        }
        let own = op.clone();
        let work = async move {
            let establish = Establish(if dead { Origin::Dead(members) } else { Origin::Recorded(members) });
            answered(&own, "the sandbox", addr.outcome(&own, establish).await)
                .map(|standing| standing.repairs)
        };
        self.run(&op, work, move |result| Outcome::SandboxRestored(id, result, reply), cx);
    }
}

impl Handle<DeleteSandbox> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        DeleteSandbox { id, force }: DeleteSandbox,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let addr = match self.admit().and_then(|()| self.sandbox(id)) {
            Ok(addr) => addr,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        if let Some(child) = self.estate.sandboxes.get_mut(id).filter(|child| child.state == State::Told) {
            child.state = State::Deleting;
        }
        let own = op.clone();
        let delete = DeleteInSandbox { force };
        let work = async move { answered(&own, "the sandbox", addr.outcome(&own, delete).await) };
        self.run(&op, work, move |result| Outcome::SandboxDeleted(id, result, reply), cx);
    }
}

impl Handle<ForceDeleteEndpoint> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        ForceDeleteEndpoint { network, endpoint, spare }: ForceDeleteEndpoint,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        if let Err(refusal) = self.admit().and_then(|()| self.network(network).map(drop)) {
            return reply.send(Err(refusal));
        }
        let work = self.evictor(spare)(op.clone(), network, endpoint);
        self.serve(&op, reply, work, cx);
    }
}

impl ControllerActor {
    /// Deletes endpoints by force, wherever they are, and has their sandboxes clear their sides. `spare` becomes the
    /// identifiers of ways out that have to be made for that.
    pub(super) fn evictor(
        &self,
        spare: Uuid,
    ) -> impl Fn(OpCtx, NetworkId, EndpointId) -> LocalBoxFuture<'static, Result<()>> + use<> {
        let Directory { networks, sandboxes, network_names, .. } = self.directory();
        let turn = self.estate.services.operation_timeout.get() * 2;
        let way_out = self.estate.directory.config().gateway_network.clone();
        let joins = self.estate.services.joins.clone();
        move |op, network, endpoint| {
            let (networks, sandboxes) = (networks.clone(), sandboxes.clone());
            // One that is not there is not made for this: who forces takes what comes.
            let way_out = network_names.get(&way_out).map(|network| {
                // Another one for each, from its first characters on.
                let own = Uuid::from_u128(spare.as_u128() ^ (u128::from(joins.next().0) << 96));
                let endpoint = EndpointId::from_uuids(own, spare);
                WayOutOffer::Offered(Box::new(OfferedWayOut { network: *network, endpoint }))
            });
            async move {
                // Known before, since whoever evicts it may die before it answers.
                let known = async {
                    let entry = networks.get(&network)?.addr.clone();
                    let known = entry.outcome(&op, InspectEndpoint(endpoint)).await;
                    answered(&op, "the network", known).ok()?.sandbox
                };
                let mut sandbox = known.await;
                match evicted(&op, &networks, network, EvictEndpoint(endpoint)).await {
                    Ok(from) => sandbox = from.or(sandbox),
                    // The first one to try had done it.
                    Err(error) if error.kind() == ErrorKind::NotFound && sandbox.is_some() => {}
                    Err(error) => return Err(error),
                }
                let sandbox = sandbox.and_then(|id| sandboxes.get(&id));
                if let Some(sandbox) = sandbox {
                    // It may be busy, or stuck: it clears its side when its turn comes, with or without anybody
                    // waiting for that.
                    let later = op.for_undo(turn);
                    let cleared = sandbox.addr.outcome(&later, LeaveSandbox { endpoint, network, way_out });
                    if tokio::time::timeout(Patience::Short.allowed(), cleared).await.is_err() {
                        tracing::warn!(
                            endpoint = %endpoint.short(),
                            "its sandbox is busy and clears its side later"
                        );
                    }
                }
                Ok(())
            }
            .boxed_local()
        }
    }
}

/// How often a network that is being started again is asked.
const RESTART_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// Has a network evict an endpoint; one that dies on the way is asked again when it is back.
pub(super) async fn evicted<M>(
    op: &OpCtx,
    networks: &Networks,
    network: NetworkId,
    evict: M,
) -> Result<Option<SandboxId>>
where
    M: Message<Reply = Result<Option<SandboxId>>> + Copy,
    NetworkActor: Handle<M>,
{
    loop {
        let entry = networks.get(&network).ok_or_else(|| Error::not_found(ObjectKind::Network, network))?;
        let outcome = entry.addr.outcome(op, evict).await;
        match answered(op, "the network", outcome) {
            Err(error) if matches!(error.reason(), Reason::Gone { .. }) && op.pause(RESTART_PAUSE).await => {}
            outcome => return outcome,
        }
    }
}
