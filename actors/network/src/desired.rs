//! What a network answers for in the kernel: its links, and how they should be.

use netloom_actor_driver::DesireDriverNetwork;
use netloom_drivers::{DesiredObject, KernelObject, LinkState, Place};
use netloom_model::snapshot::{EndpointPhase, NetworkPhase};
use netloom_model::{EndpointId, Holder, IfName, ObjectKind};
use netloom_runtime::{Cx, Handle, OpCtx, Reply, messages};
use rustc_hash::FxHashMap;

use crate::actor::NetworkActor;

/// Every endpoint with its link.
#[derive(Clone, Copy, Debug)]
pub struct ListLinks;

/// An endpoint with the host's end of its link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndpointLink {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The link, if it is joined and has one.
    pub link: Option<IfName>,
    /// Whether nothing is under way on it: otherwise it may have a link that is not known yet, or not any more.
    pub settled: bool,
}

/// What the kernel should have of the network, and of these endpoints of it: in each of them its sandbox has nothing
/// under way.
#[derive(Clone, Debug)]
pub struct DesireNetwork(pub Vec<Place>);

/// What a network wants the kernel to have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NetworkDesire {
    /// The objects, and whose each is. Empty while the network is not in service.
    pub objects: Vec<(DesiredObject, Holder)>,
}

messages! {
    ListLinks => Vec<EndpointLink>;
    DesireNetwork => NetworkDesire;
}

impl Handle<ListLinks> for NetworkActor {
    fn handle(&mut self, _: OpCtx, _: ListLinks, reply: Reply<Vec<EndpointLink>>, _: &mut Cx<'_, Self>) {
        let links = self.endpoints.iter().map(|endpoint| EndpointLink {
            endpoint: endpoint.record.id,
            link: endpoint.record.attachment.as_ref().and_then(|attachment| attachment.link),
            settled: matches!(endpoint.phase, EndpointPhase::Idle | EndpointPhase::Joined),
        });
        reply.send(links.collect());
    }
}

impl Handle<DesireNetwork> for NetworkActor {
    fn handle(
        &mut self,
        op: OpCtx,
        DesireNetwork(mut joined): DesireNetwork,
        reply: Reply<NetworkDesire>,
        cx: &mut Cx<'_, Self>,
    ) {
        if self.phase != NetworkPhase::Active || self.gate.runs_alone() {
            return reply.send(NetworkDesire::default());
        }
        joined.retain(|place| {
            let endpoint = self.endpoints.get(place.endpoint);
            endpoint.is_ok_and(|endpoint| endpoint.phase == EndpointPhase::Joined)
        });
        let own: Vec<_> = joined.iter().flat_map(|place| self.inside(*place)).collect();
        let holders: FxHashMap<_, _> = joined
            .iter()
            .filter_map(|place| Some((place.endpoint, self.endpoints.get(place.endpoint).ok()?.holder())))
            .collect();
        let network = self.holder();
        let asked = self.world.driver.ask(&op, DesireDriverNetwork(self.record.id, joined));
        cx.tasks().spawn(async move {
            // A driver that is being started again does not know yet; of half a picture nothing could be told.
            let Ok(driver) = asked.await else { return reply.send(NetworkDesire::default()) };
            let owned = |object: DesiredObject| {
                let holder = object.endpoint.map_or_else(
                    || network.clone(),
                    |id| {
                        holders.get(&id).cloned().unwrap_or_else(|| Holder::new(ObjectKind::Endpoint, id, ""))
                    },
                );
                (object, holder)
            };
            reply.send(NetworkDesire { objects: own.into_iter().chain(driver).map(owned).collect() });
        });
    }
}

impl NetworkActor {
    /// An endpoint's interface inside its sandbox: up, with its addresses and no others.
    fn inside(&self, place: Place) -> Vec<DesiredObject> {
        let Place { endpoint: id, netns, ifname } = place;
        let Ok(endpoint) = self.endpoints.get(id) else { return Vec::new() };
        if endpoint.record.prefix.is_none() {
            // It brings no interface.
            return Vec::new();
        }
        let state = LinkState { up: Some(true), exclusive: true, ..LinkState::default() };
        let link = DesiredObject::of_endpoint(id, KernelObject::Link { netns, name: ifname }).like(state);
        let addresses = endpoint.addresses().map(|address| {
            DesiredObject::of_endpoint(id, KernelObject::Address { netns, link: ifname, address })
        });
        std::iter::once(link).chain(addresses).collect()
    }
}
