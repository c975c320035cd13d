//! The network that is the way out of sandboxes whose endpoints have none (libnetwork's `docker_gwbridge`): made
//! when the first sandbox needs it.

use netloom_actor_network::{Establish, Origin};
use netloom_actor_services::answered;
use netloom_drivers::bridge::config::{ENABLE_ICC, NAME};
use netloom_model::NetworkSpec;
use netloom_runtime::Handle;

use super::*;
use crate::message::ProvideWayOut;

impl ControllerActor {
    /// Answers those who wait for a network, once it is known what became of it.
    pub(super) fn way_out_settled(&mut self, id: NetworkId, result: &Result<NetworkId>) {
        for (_, reply) in self.for_way_out.extract_if(.., |(network, _)| *network == id) {
            reply.send(result.clone());
        }
    }
}

impl Handle<ProvideWayOut> for ControllerActor {
    /// Found by its name first: one that a user made serves as well. Of many who ask at once the first has it made,
    /// and all wait for that.
    fn handle(
        &mut self,
        op: OpCtx,
        ProvideWayOut { id }: ProvideWayOut,
        reply: Reply<Result<NetworkId>>,
        cx: &mut Cx<'_, Self>,
    ) {
        if let Err(refusal) = self.admit() {
            return reply.send(Err(refusal));
        }
        let name = self.estate.directory.config().gateway_network.clone();
        if let Some(id) = self.estate.networks.id_of(&name) {
            let state = self.estate.networks.get(id).map(|child| child.state);
            return match state {
                Some(State::Creating) => self.for_way_out.push((id, reply)),
                Some(State::Told) => reply.send(Ok(id)),
                Some(State::Deleting) | None => {
                    let object = netloom_model::Holder::new(ObjectKind::Network, id, name);
                    reply.send(Err(Reason::WrongPhase { object, phase: "being deleted" }.into()));
                }
            };
        }
        let spec = NetworkSpec::new(&name).option(NAME, &name).option(ENABLE_ICC, "false");
        let begun = self.begin_network(id, NetworkRecord::asked(id, spec), false);
        let addr = match begun {
            Ok(addr) => addr,
            Err(refusal) => return reply.send(Err(refusal)),
        };
        self.for_way_out.push((id, reply));
        let own = op.clone();
        let work = async move {
            answered(&own, "the network", addr.outcome(&own, Establish(Origin::Fresh)).await).map(drop)
        };
        self.run(&op, work, move |result| Outcome::WayOutCreated(id, result), cx);
    }
}
