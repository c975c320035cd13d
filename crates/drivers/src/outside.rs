//! What drivers say to the host's firewall.

use std::fmt::Debug;

use futures::FutureExt;
use netloom_firewall::NetworkRules;
use netloom_model::NetworkId;

use crate::driver::Work;

/// The engine's part of the host's firewall, as drivers reach it. What is said stays said until something else is, over
/// restarts of the driver too; after a start of the engine each driver says again what it wants.
pub trait Firewall: Debug + Send + Sync {
    /// Says this about a network, or nothing any more. Saying the same again costs nothing, and so does taking back what
    /// was never said.
    ///
    /// # Errors
    /// What is said contradicts another network, or the kernel refuses; then what was said before still holds.
    fn set_network(&self, network: NetworkId, rules: Option<NetworkRules>) -> Work<()>;
}

/// No firewall: what is said has no effect. For tests of drivers.
#[derive(Clone, Copy, Debug)]
pub struct NoFirewall;

impl Firewall for NoFirewall {
    fn set_network(&self, _: NetworkId, _: Option<NetworkRules>) -> Work<()> {
        std::future::ready(Ok(())).boxed()
    }
}
