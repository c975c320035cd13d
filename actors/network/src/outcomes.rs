//! How a network's operations end: applied to the state, answered, told.

use netloom_drivers::{Interface, Joined};
use netloom_model::record::WayOut;
use netloom_runtime::Handle;

use super::*;
use crate::endpoint::Endpoint;

impl Handle<Finished> for NetworkActor {
    fn handle(
        &mut self,
        _: OpCtx,
        Finished { scope, outcome }: Finished,
        _: Reply<()>,
        cx: &mut Cx<'_, Self>,
    ) {
        match outcome {
            Outcome::Established { recorded, result, reply } => {
                reply.send(self.established(recorded, result.map(|done| *done)));
            }
            Outcome::EndpointCreated { endpoint, result, reply } => {
                reply.send(self.endpoint_created(endpoint, *result));
            }
            Outcome::EndpointDeleted { endpoint, result, reply } => {
                let back = EndpointPhase::Idle;
                reply.send(self.endpoint_deleted(endpoint, back, result));
            }
            Outcome::Evicted { endpoint, before, sandbox, result, reply } => {
                reply.send(self.endpoint_deleted(endpoint, before, result).map(|()| sandbox));
            }
            Outcome::Renamed { endpoint, old, name, result, reply } => {
                reply.send(self.renamed(endpoint, old, name, result));
            }
            Outcome::Reserved { name, kept, result, reply } => {
                reply.send(self.reserved(name, kept, result));
            }
            Outcome::Unreserved { name, result, reply } => reply.send(self.unreserved(&name, result)),
            Outcome::Attached { command, ifname, kept, result, reply } => {
                reply.send(self.attached(&command, ifname, kept, result));
            }
            Outcome::Committed { endpoint, result, reply } => {
                reply.send(result.and_then(|facts| self.committed(endpoint, facts)));
            }
            Outcome::Abandoned { endpoint, result, reply } => {
                reply.send(result.map(|facts| self.detached(endpoint, facts)));
            }
            Outcome::Detached { endpoint, keeps_place, result, reply } => {
                let left = result.is_ok();
                if (!left || keeps_place)
                    && let Ok(entry) = self.endpoints.get_mut(endpoint)
                {
                    if left {
                        let record = Arc::make_mut(&mut entry.record);
                        record.attachment = record.attachment.take().map(AttachmentRecord::kept);
                        entry.outward = None;
                    }
                    entry.phase = Endpoint::phase_of(&entry.record);
                    reply.send(result.map(drop));
                } else {
                    reply.send(result.map(|facts| self.detached(endpoint, facts)));
                }
            }
            Outcome::Programmed { endpoint, options, result, reply } => {
                reply.send(self.programmed(endpoint, options, result));
            }
            Outcome::Deleted { result, reply } => {
                if result.is_err() {
                    self.leaving.set(false);
                    self.phase =
                        if self.failure.is_some() { NetworkPhase::Failed } else { NetworkPhase::Active };
                }
                reply.send(result);
            }
            Outcome::RestoredInDriver { result, reply } => reply.send(self.led_again(result)),
            Outcome::Revived { failure, result, reply } => {
                let result = self.led_again(result);
                // Not if it was put out of service for something else meanwhile.
                if result.is_ok() && self.failure == failure {
                    (self.failure, self.phase) = (None, NetworkPhase::Active);
                }
                reply.send(result);
            }
        }
        self.release(scope, cx);
    }
}

impl NetworkActor {
    fn established(
        &mut self,
        recorded: Vec<Arc<EndpointRecord>>,
        result: Result<Established>,
    ) -> Result<Vec<netloom_model::Repair>> {
        let Established { record, endpoints, repairs } = match result {
            Ok(done) => done,
            Err(error) => {
                // It goes out of service, but what is recorded is there: its endpoints still hold it.
                self.enter(recorded)?;
                return Err(error);
            }
        };
        self.record = record;
        self.enter(endpoints)?;
        // It may have been put out of service meanwhile; its endpoints are known all the same.
        self.phase = if self.failure.is_some() { NetworkPhase::Failed } else { NetworkPhase::Active };
        Ok(repairs)
    }

    /// Lists the endpoints that the store has.
    fn enter(&mut self, records: Vec<Arc<EndpointRecord>>) -> Result<()> {
        // An earlier attempt to come into service may have listed them already.
        self.endpoints = Endpoints::default();
        for record in records {
            let phase = Endpoint::phase_of(&record);
            self.endpoints.insert(Endpoint::new(record, phase))?;
        }
        self.say_names();
        Ok(())
    }

    /// Enters the names of all endpoints, and no others. Those that an earlier incarnation has entered stay meanwhile.
    fn say_names(&self) {
        let endpoints = self.endpoints.iter().map(|endpoint| &*endpoint.record);
        let alone = self.world.capability.needs_ipam && !self.world.capability.shares_pools;
        self.world.services.zones.settle(&self.record, alone, endpoints);
    }

    fn endpoint_created(
        &mut self,
        endpoint: EndpointId,
        result: Result<CreatedEndpoint>,
    ) -> Result<netloom_model::snapshot::EndpointSnapshot> {
        // Told when it is in the list: who hears of it may ask at once.
        let CreatedEndpoint { record, told: _told } = match result {
            Ok(created) => created,
            Err(error) => {
                self.endpoints.remove(endpoint);
                return Err(error);
            }
        };
        let entry = self.endpoints.get_mut(endpoint)?;
        (entry.record, entry.phase) = (record, EndpointPhase::Idle);
        // It is found as soon as whoever made it knows of it.
        self.world.services.zones.publish(&entry.record);
        Ok(entry.snapshot())
    }

    fn endpoint_deleted(
        &mut self,
        endpoint: EndpointId,
        before: EndpointPhase,
        result: Result<Facts>,
    ) -> Result<()> {
        let _told = match result {
            Ok(facts) => facts,
            Err(error) => {
                self.endpoints.get_mut(endpoint)?.phase = before;
                return Err(error);
            }
        };
        self.endpoints.remove(endpoint);
        self.world.services.zones.withdraw(self.record.id, endpoint);
        Ok(())
    }

    /// The endpoint has the new name, or its old one still.
    fn renamed(
        &mut self,
        endpoint: EndpointId,
        old: String,
        name: String,
        result: Result<Facts>,
    ) -> Result<()> {
        match result {
            Ok(_told) => {
                self.endpoints.settle_name(endpoint, name, &old);
                if let Ok(entry) = self.endpoints.get(endpoint) {
                    self.world.services.zones.publish(&entry.record);
                }
            }
            Err(error) => {
                self.endpoints.settle_name(endpoint, old, &name);
                return Err(error);
            }
        }
        Ok(())
    }

    fn attached(
        &mut self,
        command: &AttachEndpoint,
        ifname: netloom_model::IfName,
        kept: Option<AttachmentRecord>,
        result: Result<Joined>,
    ) -> Result<Attachment> {
        let network_name = self.name.clone();
        let joined = match result {
            Ok(joined) if self.world.capability.provides_gateway => joined,
            Ok(joined) => Joined { gateway: None, gateway6: None, ..joined },
            Err(error) => {
                self.back_to_idle(command.endpoint);
                if let Ok(entry) = self.endpoints.get_mut(command.endpoint) {
                    Arc::make_mut(&mut entry.record).attachment = kept;
                    entry.phase = Endpoint::phase_of(&entry.record);
                }
                return Err(error);
            }
        };
        let wanted = !self.record.spec.internal
            && self.world.capability.provides_gateway
            && !joined.disable_gateway_service;
        let way_out = match (command.as_way_out, wanted) {
            (true, _) => WayOut::Provided,
            (false, true) => WayOut::Wanted,
            (false, false) => WayOut::Unwanted,
        };
        let entry = self.endpoints.get_mut(command.endpoint)?;
        if let Some(attachment) = Arc::make_mut(&mut entry.record).attachment.as_mut() {
            (attachment.gateway, attachment.gateway6) = (joined.gateway, joined.gateway6);
            (attachment.routes, attachment.way_out) = (joined.routes.clone(), way_out);
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
            way_out,
            ipv4_settled: joined.ipv4_settled,
            names: entry.record.names.clone(),
        })
    }

    fn committed(&mut self, endpoint: EndpointId, _told: Facts) -> Result<()> {
        let entry = self.endpoints.get_mut(endpoint)?;
        entry.phase = Endpoint::phase_of(&entry.record);
        Ok(())
    }

    fn detached(&mut self, endpoint: EndpointId, _told: Facts) {
        self.back_to_idle(endpoint);
    }

    fn back_to_idle(&mut self, endpoint: EndpointId) {
        if let Ok(entry) = self.endpoints.get_mut(endpoint) {
            (Arc::make_mut(&mut entry.record).attachment, entry.outward) = (None, None);
            entry.phase = EndpointPhase::Idle;
        }
    }
}
