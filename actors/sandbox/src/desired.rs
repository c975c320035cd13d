//! What a sandbox answers for in the kernel: its namespace, and the way out of it.

use netloom_drivers::{DesiredObject, KernelObject, Place};
use netloom_kernel::Netns;
use netloom_model::snapshot::SandboxPhase;
use netloom_model::{Holder, NetworkId};
use netloom_runtime::{Cx, Handle, OpCtx, Reply, messages};

use crate::actor::SandboxActor;
use crate::member::Member;

/// What the kernel should have of the sandbox.
#[derive(Clone, Copy, Debug)]
pub struct DesireSandbox;

/// What a sandbox wants the kernel to have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SandboxDesire {
    /// The objects, and whose each is. Empty while the sandbox is out of service or something is under way in it.
    pub objects: Vec<(DesiredObject, Holder)>,
    /// Its endpoints, for their networks to say the rest.
    pub places: Vec<(NetworkId, Place)>,
}

messages! {
    DesireSandbox => SandboxDesire;
}

impl Handle<DesireSandbox> for SandboxActor {
    fn handle(&mut self, _: OpCtx, _: DesireSandbox, reply: Reply<SandboxDesire>, _: &mut Cx<'_, Self>) {
        let quiet = self.gate.running() == 0 && self.gate.waiting() == 0;
        reply.send(if quiet && self.phase == SandboxPhase::Ready {
            self.desire()
        } else {
            SandboxDesire::default()
        });
    }
}

impl SandboxActor {
    fn desire(&self) -> SandboxDesire {
        let netns = self.world.netns;
        let namespace = match netns {
            Netns::Host => None,
            Netns::Named(name) => Some(KernelObject::Namespace { name }),
        };
        let routes =
            self.inside.members.iter().filter(|member| !member.reserved).flat_map(Member::static_routes);
        let routes = routes.map(|route| KernelObject::Route { netns, route });
        let way_out =
            self.inside.gateways.routes().flatten().map(|route| KernelObject::Route { netns, route });
        let owned = |object| (DesiredObject::of_network(object), self.holder());
        let place = |member: &Member| {
            (member.network, Place { endpoint: member.endpoint, netns, ifname: member.ifname })
        };
        SandboxDesire {
            objects: namespace.into_iter().chain(way_out).chain(routes).map(owned).collect(),
            places: self.inside.members.iter().filter(|member| !member.reserved).map(place).collect(),
        }
    }
}
