//! How a network's operations end: applied to the state, answered, told.

use std::collections::HashMap;

use netloom_drivers::{Interface, Joined};
use netloom_model::snapshot::EndpointPhase;
use netloom_runtime::Handle;

use super::commands::prefix_of;
use super::*;
use crate::endpoint::Endpoint;

impl Handle<Finished> for NetworkActor {
    fn handle(
        &mut self,
        op: OpCtx,
        Finished { scope, outcome }: Finished,
        _: Reply<()>,
        cx: &mut Cx<'_, Self>,
    ) {
        match outcome {
            Outcome::Established { endpoints, result, reply } => {
                reply.send(self.established(endpoints, result));
            }
            Outcome::EndpointCreated { endpoint, result, reply } => {
                reply.send(self.endpoint_created(&op, endpoint, result));
            }
            Outcome::EndpointDeleted { endpoint, result, reply } => {
                reply.send(self.endpoint_deleted(&op, endpoint, result));
            }
            Outcome::Attached { command, ifname, result, reply } => {
                reply.send(self.attached(&command, ifname, result));
            }
            Outcome::Committed { endpoint, result, reply } => {
                reply.send(result.and_then(|()| self.committed(&op, endpoint)));
            }
            Outcome::Abandoned { endpoint, result, reply } => {
                if result.is_ok() {
                    self.abandoned(&op, endpoint);
                }
                reply.send(result);
            }
            Outcome::Detached { command, result, reply } => reply.send(self.detached(&op, command, result)),
            Outcome::Programmed { result, reply } => reply.send(result),
            Outcome::Deleted { result, reply } => {
                if result.is_err() {
                    self.phase =
                        if self.failure.is_some() { NetworkPhase::Failed } else { NetworkPhase::Active };
                }
                reply.send(result);
            }
            Outcome::RestoredInDriver { result, reply } => reply.send(result.map(|_| ())),
        }
        self.release(scope, cx);
    }
}

impl NetworkActor {
    fn established(
        &mut self,
        records: Vec<EndpointRecord>,
        result: Result<Established>,
    ) -> Result<Vec<netloom_model::Repair>> {
        let Established { record, prefixes, repairs } = match result {
            Ok(done) => done,
            Err(error) => {
                // It goes out of service, but what is recorded is there: its endpoints still hold it.
                let prefixes = records.iter().map(|record| (record.id, prefix_of(record))).collect();
                self.enter(records, prefixes)?;
                return Err(error);
            }
        };
        self.record = record;
        self.enter(records, prefixes)?;
        // It may have been put out of service meanwhile; its endpoints are known all the same.
        self.phase = if self.failure.is_some() { NetworkPhase::Failed } else { NetworkPhase::Active };
        Ok(repairs)
    }

    /// Lists the endpoints that the store has.
    fn enter(
        &mut self,
        records: Vec<EndpointRecord>,
        mut prefixes: HashMap<EndpointId, String>,
    ) -> Result<()> {
        // An earlier attempt to come into service may have listed them already.
        self.endpoints = Endpoints::default();
        for record in records {
            let joined = record.attachment.is_some();
            let phase = if joined { EndpointPhase::Joined } else { EndpointPhase::Idle };
            let prefix = prefixes.remove(&record.id).unwrap_or_default();
            self.endpoints.insert(Endpoint { record, phase, prefix })?;
        }
        Ok(())
    }

    fn endpoint_created(
        &mut self,
        op: &OpCtx,
        endpoint: EndpointId,
        result: Result<CreatedEndpoint>,
    ) -> Result<netloom_model::snapshot::EndpointSnapshot> {
        let CreatedEndpoint { record, prefix } = match result {
            Ok(created) => created,
            Err(error) => {
                self.endpoints.remove(endpoint);
                return Err(error);
            }
        };
        let name = record.name.clone();
        let entry = self.endpoints.get_mut(endpoint)?;
        (entry.record, entry.prefix, entry.phase) = (record, prefix, EndpointPhase::Idle);
        let snapshot = entry.snapshot();
        let network = self.record.id;
        self.deps.events.emit(op, NetworkEvent::EndpointCreated { network, endpoint, name });
        Ok(snapshot)
    }

    fn endpoint_deleted(&mut self, op: &OpCtx, endpoint: EndpointId, result: Result<()>) -> Result<()> {
        if let Err(error) = result {
            self.endpoints.get_mut(endpoint)?.phase = EndpointPhase::Idle;
            return Err(error);
        }
        let Some(entry) = self.endpoints.remove(endpoint) else { return Ok(()) };
        let network = self.record.id;
        let name = entry.record.name;
        self.deps.events.emit(op, NetworkEvent::EndpointDeleted { network, endpoint, name });
        Ok(())
    }

    fn attached(
        &mut self,
        command: &AttachEndpoint,
        ifname: netloom_model::IfName,
        result: Result<Joined>,
    ) -> Result<Attachment> {
        let network_name = self.record.spec.name.clone();
        let joined = match result {
            Ok(joined) => joined,
            Err(error) => {
                self.back_to_idle(command.endpoint);
                return Err(error);
            }
        };
        let entry = self.endpoints.get_mut(command.endpoint)?;
        if let Some(attachment) = entry.record.attachment.as_mut() {
            (attachment.gateway, attachment.gateway6) = (joined.gateway, joined.gateway6);
            if let Interface::InPlace { link } = &joined.interface {
                attachment.link = *link;
            }
        }
        Ok(Attachment {
            network_name,
            interface: joined.interface,
            ifname,
            ipv4: entry.record.ipv4,
            ipv6: entry.record.ipv6,
            gateway: joined.gateway,
            gateway6: joined.gateway6,
            routes: joined.routes,
        })
    }

    fn committed(&mut self, op: &OpCtx, endpoint: EndpointId) -> Result<()> {
        let entry = self.endpoints.get_mut(endpoint)?;
        entry.phase = EndpointPhase::Joined;
        if let Some(attachment) = &entry.record.attachment {
            let (sandbox, ifname) = (attachment.sandbox, attachment.ifname);
            let network = self.record.id;
            let event = NetworkEvent::EndpointAttached { network, endpoint, sandbox, ifname };
            self.deps.events.emit(op, event);
        }
        Ok(())
    }

    fn detached(&mut self, op: &OpCtx, command: DetachEndpoint, result: Result<()>) -> Result<()> {
        let DetachEndpoint(endpoint, sandbox) = command;
        if let Err(error) = result {
            self.endpoints.get_mut(endpoint)?.phase = EndpointPhase::Joined;
            return Err(error);
        }
        self.back_to_idle(endpoint);
        let network = self.record.id;
        self.deps.events.emit(op, NetworkEvent::EndpointDetached { network, endpoint, sandbox });
        Ok(())
    }

    fn abandoned(&mut self, op: &OpCtx, endpoint: EndpointId) {
        let joined = self.endpoints.get(endpoint).ok().filter(|entry| entry.phase == EndpointPhase::Joined);
        if let Some(sandbox) = joined.and_then(Endpoint::sandbox) {
            let network = self.record.id;
            self.deps.events.emit(op, NetworkEvent::EndpointDetached { network, endpoint, sandbox });
        }
        self.back_to_idle(endpoint);
    }

    fn back_to_idle(&mut self, endpoint: EndpointId) {
        if let Ok(entry) = self.endpoints.get_mut(endpoint) {
            entry.record.attachment = None;
            entry.phase = EndpointPhase::Idle;
        }
    }
}
