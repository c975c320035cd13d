//! The question what the kernel should have of a network.

use netloom_drivers::{DesiredObject, Place};
use netloom_model::NetworkId;
use netloom_runtime::{Cx, Handle, OpCtx, Reply, messages};

use crate::actor::DriverActor;

/// What the kernel should have of a network, and of these endpoints of it.
#[derive(Clone, Debug)]
pub struct DesireDriverNetwork(pub NetworkId, pub Vec<Place>);

messages! {
    DesireDriverNetwork => Vec<DesiredObject>;
}

impl Handle<DesireDriverNetwork> for DriverActor {
    fn handle(
        &mut self,
        op: OpCtx,
        DesireDriverNetwork(network, joined): DesireDriverNetwork,
        reply: Reply<Vec<DesiredObject>>,
        _: &mut Cx<'_, Self>,
    ) {
        reply.send(self.driver.desired(&self.cx(&op), network, &joined));
    }
}
