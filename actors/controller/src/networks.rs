//! Networks: created, restored, deleted.

use futures::future::join_all;
use netloom_actor_network::{
    DeleteNetwork as DeleteInNetwork, Establish, InspectNetwork, ListEndpoints, NetworkEntry, Origin,
};
use netloom_actor_services::answered;
use netloom_actor_services::ipam::CLUSTER;
use netloom_model::{ErrorKind, Holder, NetworkSpec};
use netloom_runtime::{Addr, Handle};

use super::*;
use crate::message::{CreateNetwork, DeleteNetwork, RestoreNetwork};

impl ControllerActor {
    pub(super) fn begin_network(
        &mut self,
        id: NetworkId,
        record: NetworkRecord,
        restored: bool,
    ) -> Result<Addr<NetworkActor>> {
        let name = record.spec.name.clone();
        if let Some(holder) = self.estate.networks.named(&name) {
            return Err(Reason::NameTaken { name, holder }.into());
        }
        if let Some(child) = self.estate.networks.get(id) {
            let holder = Holder::new(ObjectKind::Network, id, &child.name);
            return Err(Reason::IdTaken { id: id.to_string(), holder }.into());
        }
        if !restored {
            self.fits_its_driver(&record.spec)?;
        }
        if self.estate.services.removals.contains(id) {
            let object = Holder::new(ObjectKind::Network, id, "");
            return Err(Reason::WrongPhase { object, phase: "still being taken down" }.into());
        }
        let driver = record.spec.driver.clone();
        let leaving = Leaving::default();
        let adopts = self.adopted_by(&record.spec);
        let capability = self.estate.drivers.get(&driver).map(|driver| driver.capability);
        let scope = capability.map_or(Scope::Local, |capability| capability.scope);
        let in_cluster = capability.is_none_or(|capability| capability.needs_ipam)
            && self.estate.services.ipam.of_network(&record.spec.ipam, scope).name() == CLUSTER;
        let actor = match self.network_actor(record.clone(), leaving.clone()) {
            Err(_) if restored => self.orphan(record, leaving.clone()),
            made => made?,
        };
        let running = self.start(actor, Child::Network(id));
        let addr = running.addr.clone();
        let state = if restored { State::Told } else { State::Creating };
        let known_to = self.estate.drivers.get(&driver).map(|driver| driver.incarnation).unwrap_or_default();
        let child = NetworkChild {
            name: name.clone(),
            state,
            driver,
            adopts,
            leaving,
            known_to,
            in_cluster,
            running,
        };
        self.estate.networks.insert(id, &name, child);
        Ok(addr)
    }

    /// Whether a new network is one that its driver can have, as far as that is known without asking the driver.
    /// Networks that are still being made, or deleted, count.
    fn fits_its_driver(&self, spec: &NetworkSpec) -> Result<()> {
        let Some(driver) = self.estate.drivers.get(&spec.driver) else { return Ok(()) };
        let mut others = self.estate.networks.iter().filter(|(_, other)| other.driver == spec.driver);
        if driver.capability.permanent
            && let Some((id, other)) = others.next()
        {
            let holder = Holder::new(ObjectKind::Network, id, &other.name);
            return Err(Reason::OnlyInstance { driver: spec.driver.clone(), holder }.into());
        }
        let subnet = spec.ipam.v4.iter().chain(&spec.ipam.v6).next();
        if let Some(pool) = subnet
            && !driver.capability.needs_ipam
        {
            let given = pool.subnet.map(|subnet| subnet.to_string()).unwrap_or_default();
            let why = format!("driver {:?} leaves no addresses to choose; leave it out", spec.driver);
            return Err(Error::invalid("subnet", given, why));
        }
        Ok(())
    }

    /// The links of the host that a network's options name for its driver.
    fn adopted_by(&self, spec: &NetworkSpec) -> Vec<String> {
        let driver = self.estate.drivers.get(&spec.driver);
        let keys = driver.map_or(&[][..], |driver| driver.capability.adopts);
        keys.iter().filter_map(|key| spec.options.get(*key).cloned()).collect()
    }

    /// Whether a network is one of those that are not deleted while they are in service.
    fn stays(&self, id: NetworkId) -> bool {
        let driver = self.estate.networks.get(id).and_then(|child| self.estate.drivers.get(&child.driver));
        driver.is_some_and(|driver| driver.capability.permanent)
    }

    /// Makes a network known; tells of it when nobody was told before.
    pub(super) fn publish_network(&mut self, op: &OpCtx, id: NetworkId) {
        let estate = &mut *self.estate;
        let Some(child) = estate.networks.get_mut(id) else { return };
        let (name, addr, leaving) = (child.name.clone(), child.running.addr.clone(), child.leaving.clone());
        let before = std::mem::replace(&mut child.state, State::Told);
        // Before anybody is told: who hears of it may ask at once.
        estate.directory.publish_network(NetworkEntry { id, name: name.clone(), addr, leaving });
        if before == State::Creating {
            estate.events.emit(op, EventKind::NetworkCreated { network: id, name });
        }
    }

    /// Forgets a network; its actor ends when the last address of it is gone. Tells of it when somebody knew
    /// of the network.
    pub(super) fn forget_network(&mut self, op: &OpCtx, id: NetworkId) {
        self.estate.directory.withdraw_network(id);
        let Some(child) = self.estate.networks.remove(id, |child| &child.name) else { return };
        self.forget_overlaps(op, id);
        self.estate.services.zones.remove(id);
        if child.state != State::Creating {
            self.estate.events.emit(op, EventKind::NetworkDeleted { network: id, name: child.name });
        }
    }

    pub(super) fn network_created<T>(&mut self, op: &OpCtx, id: NetworkId, result: Result<T>) -> Result<T> {
        let settled = result.as_ref().map(|_| id).map_err(Clone::clone);
        let result = self.network_settled(op, id, result);
        // After it is published: who waits for it looks it up at once.
        self.way_out_settled(id, &settled);
        result
    }

    fn network_settled<T>(&mut self, op: &OpCtx, id: NetworkId, result: Result<T>) -> Result<T> {
        match result {
            Ok(snapshot) => {
                self.publish_network(op, id);
                self.look_if_something_came_meanwhile(op, id);
                Ok(snapshot)
            }
            Err(error) => {
                let alive = self.estate.networks.get(id).is_none_or(|child| child.running.addr.is_alive());
                // Of one whose actor died, the store says whether it exists: its restart finds out.
                if alive {
                    self.forget_network(op, id);
                }
                Err(error)
            }
        }
    }

    pub(super) fn network_deleted(&mut self, op: &OpCtx, id: NetworkId, result: Result<()>) -> Result<()> {
        match &result {
            Ok(()) => self.forget_network(op, id),
            Err(_) => {
                if let Some(child) = self.estate.networks.get_mut(id) {
                    child.state = State::Told;
                }
            }
        }
        result
    }

    pub(super) fn network_restored(
        &mut self,
        op: &OpCtx,
        id: NetworkId,
        result: Result<Vec<Repair>>,
        cx: &mut Cx<'_, Self>,
    ) -> Result<Vec<Repair>> {
        // Also one that could not be restored stays: visible, inspectable, deletable.
        self.publish_network(op, id);
        if let Err(error) = &result
            && let Some(child) = self.estate.networks.get(id)
        {
            let cause = error.to_string();
            child.running.addr.tell(op, netloom_actor_network::MarkFailed(cause.clone()));
            self.try_again(op, id, error, cx);
            let (object, id) = (ObjectKind::Network, id.to_string());
            self.estate.events.emit(op, EventKind::ObjectFailed { object, id, cause });
        }
        result
    }
}

impl Handle<CreateNetwork> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        CreateNetwork { id, mut spec }: CreateNetwork,
        reply: Reply<Result<NetworkSnapshot>>,
        cx: &mut Cx<'_, Self>,
    ) {
        if spec.driver.trim().is_empty()
            && let Some(driver) = &self.estate.directory.config().default_driver
        {
            spec.driver.clone_from(driver);
        }
        let driver = self.estate.drivers.get(&spec.driver);
        let scope = driver.map_or(Scope::Local, |driver| driver.capability.scope);
        let needs_ipam = driver.is_none_or(|driver| driver.capability.needs_ipam);
        let mut record = NetworkRecord::asked(id, spec);
        let ipam = self.estate.services.ipam.of(&record.spec.ipam, scope);
        record.in_cluster = needs_ipam && ipam.as_ref().is_ok_and(|port| port.name() == CLUSTER);
        let begun = self
            .admit()
            .and_then(|()| record.spec.validate())
            .and_then(|()| ipam.map(drop))
            .and_then(|()| self.begin_network(id, record, false));
        let addr = match begun {
            Ok(addr) => addr,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        let own = op.clone();
        let work = async move {
            answered(&own, "the network", addr.outcome(&own, Establish(Origin::Fresh)).await)?;
            answered(&own, "the network", addr.outcome(&own, InspectNetwork).await.map(Ok))
        };
        self.run(&op, work, move |result| Outcome::NetworkCreated(id, result, reply), cx);
    }
}

impl Handle<RestoreNetwork> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        RestoreNetwork(record, endpoints): RestoreNetwork,
        reply: Reply<Result<Vec<Repair>>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let id = record.id;
        let addr = match self.begin_network(id, record.clone(), true) {
            Ok(addr) => addr,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        let own = op.clone();
        let work = async move {
            let establish = Establish(Origin::FromStore(record, endpoints));
            answered(&own, "the network", addr.outcome(&own, establish).await)
        };
        self.run(&op, work, move |result| Outcome::NetworkRestored(id, result, reply), cx);
    }
}

impl Handle<DeleteNetwork> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        DeleteNetwork { id, force }: DeleteNetwork,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let found = self.admit().and_then(|()| {
            let child = self.estate.networks.get_mut(id);
            let child = child.ok_or_else(|| Error::not_found(ObjectKind::Network, id))?;
            if child.state == State::Told {
                child.state = State::Deleting;
            }
            Ok(child.running.addr.clone())
        });
        let addr = match found {
            Ok(addr) => addr,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        let own = op.clone();
        let evict = force.map(|spare| self.evictor(spare));
        // One that stays keeps its endpoints. Of others they go first: the deletion waits for what is under way on them.
        let mut goes = !self.stays(id);
        let work = async move {
            loop {
                if let Some(evict) = evict.as_ref().filter(|_| goes) {
                    let listed = addr.outcome(&own, ListEndpoints).await.map(Ok);
                    let endpoints = answered(&own, "the network", listed)?;
                    let evicted = endpoints.iter().map(|endpoint| evict(own.clone(), id, endpoint.id));
                    join_all(evicted).await.into_iter().try_for_each(|outcome| match outcome {
                        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                        _ => Ok(()),
                    })?;
                }
                let outcome = answered(&own, "the network", addr.outcome(&own, DeleteInNetwork).await);
                let Err(error) = outcome else { return Ok(()) };
                // As often as others make new ones meanwhile, until the deadline.
                goes = matches!(error.reason(), Reason::ActiveEndpoints { .. });
                if evict.is_none() || !goes {
                    return Err(error);
                }
            }
        };
        self.run(&op, work, move |result| Outcome::NetworkDeleted(id, result, reply), cx);
    }
}
