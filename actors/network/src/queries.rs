//! What a network tells about itself.

use netloom_actor_driver::InspectDriverEndpoint;
use netloom_actor_services::answered;
use netloom_drivers::OperInfo;
use netloom_model::snapshot::EndpointSnapshot;
use netloom_runtime::Handle;

use super::*;
use crate::endpoint::Endpoint;
use crate::message::{EndpointInfo, InspectEndpoint, InspectNetwork, ListEndpoints};

impl Handle<InspectNetwork> for NetworkActor {
    fn handle(
        &mut self,
        _: OpCtx,
        _: InspectNetwork,
        reply: Reply<netloom_model::snapshot::NetworkSnapshot>,
        _: &mut Cx<'_, Self>,
    ) {
        reply.send(self.snapshot());
    }
}

impl Handle<InspectEndpoint> for NetworkActor {
    fn handle(
        &mut self,
        _: OpCtx,
        InspectEndpoint(endpoint): InspectEndpoint,
        reply: Reply<Result<EndpointSnapshot>>,
        _: &mut Cx<'_, Self>,
    ) {
        reply.send(self.endpoints.get(endpoint).map(Endpoint::snapshot));
    }
}

impl Handle<ListEndpoints> for NetworkActor {
    fn handle(
        &mut self,
        _: OpCtx,
        _: ListEndpoints,
        reply: Reply<Vec<EndpointSnapshot>>,
        _: &mut Cx<'_, Self>,
    ) {
        reply.send(self.endpoints.snapshots());
    }
}

impl Handle<EndpointInfo> for NetworkActor {
    fn handle(
        &mut self,
        op: OpCtx,
        EndpointInfo(endpoint): EndpointInfo,
        reply: Reply<Result<OperInfo>>,
        cx: &mut Cx<'_, Self>,
    ) {
        if let Err(error) = self.endpoints.get(endpoint) {
            return reply.send(Err(error));
        }
        let asked = self.world.driver.ask(&op, InspectDriverEndpoint(self.record.id, endpoint));
        cx.tasks().spawn(async move { reply.send(answered(&op, "the driver", asked.await)) });
    }
}
