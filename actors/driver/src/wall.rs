//! The firewall, as one call of a driver reaches it.

use futures::FutureExt;
use netloom_actor_services::answered;
use netloom_actor_services::firewall::{FirewallActor, SetNetworkRules};
use netloom_drivers::{Firewall, Work};
use netloom_firewall::NetworkRules;
use netloom_model::NetworkId;
use netloom_runtime::{Addr, AskError, OpCtx};

/// Whoever is the firewall's actor when the driver is called, and the operation that the call belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Wall {
    pub(crate) actor: Option<Addr<FirewallActor>>,
    pub(crate) op: OpCtx,
}

impl Firewall for Wall {
    fn set_network(&self, network: NetworkId, rules: Option<NetworkRules>) -> Work<()> {
        let asked =
            self.actor.as_ref().map(|actor| actor.outcome(&self.op, SetNetworkRules { network, rules }));
        let op = self.op.clone();
        async move {
            let outcome = match asked {
                Some(asked) => asked.await,
                None => Err(AskError::Gone),
            };
            answered(&op, "the firewall", outcome)
        }
        .boxed()
    }
}
