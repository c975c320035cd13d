//! What discovery has to say of the cluster's nodes, passed on to drivers.
//!
//! Nobody discovers nodes yet: who will sends [`NodeChanged`], and so does a harness. Drivers of networks hear of nodes if
//! their networks reach them, as in libnetwork (`processNodeDiscovery`); IPAM drivers, to which libnetwork never passes
//! them on although its interface has them, all do. A driver that is started later, or again, is told of the nodes there
//! are.

use netloom_actor_driver::Discovered;
use netloom_actor_services::ipam::NodeDiscovered;
use netloom_drivers::{Discovery, NodeDiscovery};
use netloom_ipam::driver::IpamDiscovery;
use netloom_runtime::Handle;

use super::*;
use crate::message::NodeChanged;

/// The news for a driver.
pub(super) fn to_driver(NodeChanged { address, this_node, present }: NodeChanged) -> Discovered {
    let node = NodeDiscovery { address, this_node };
    Discovered(if present { Discovery::NodeAppeared(node) } else { Discovery::NodeLost(node) })
}

/// The news for an IPAM driver.
pub(super) fn to_ipam(NodeChanged { address, this_node, present }: NodeChanged) -> NodeDiscovered {
    NodeDiscovered(if present {
        IpamDiscovery::NodeAppeared { address, this_node }
    } else {
        IpamDiscovery::NodeLost { address, this_node }
    })
}

impl ControllerActor {
    /// The nodes there are.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeChanged> {
        let nodes = self.estate.nodes.iter();
        nodes.map(|(address, this_node)| NodeChanged {
            address: *address,
            this_node: *this_node,
            present: true,
        })
    }
}

impl Handle<NodeChanged> for ControllerActor {
    fn handle(&mut self, op: OpCtx, node: NodeChanged, reply: Reply<()>, _: &mut Cx<'_, Self>) {
        let NodeChanged { address, this_node, present } = node;
        let before = if present {
            self.estate.nodes.insert(address, this_node)
        } else {
            self.estate.nodes.remove(&address)
        };
        // What is known is not told again: a list of all nodes comes again and again.
        let new = before != present.then_some(this_node);
        let drivers = self.estate.drivers.values().filter(|driver| driver.capability.scope == Scope::Global);
        for driver in drivers.filter(|_| new) {
            driver.port.tell(&op, to_driver(node));
        }
        for ipam in self.estate.services.ipam.all().iter().filter(|_| new) {
            ipam.tell(&op, to_ipam(node));
        }
        reply.send(());
    }
}
