//! What the firewall can be asked.

use netloom_firewall::{NetworkRules, PortRules};
use netloom_model::{EndpointId, NetworkId, Result};
use netloom_runtime::messages;

/// Say this about a network from now on, or nothing any more. Answered when the kernel has it, all or none; `false` where
/// there is no firewall to say it to.
#[derive(Clone, Debug)]
pub struct SetNetworkRules {
    /// The network.
    pub network: NetworkId,
    /// What is said; `None` for nothing.
    pub rules: Option<NetworkRules>,
}

/// Publish these ports for an endpoint and no others. Answered when the kernel has them, all or none; `false` where there
/// is no firewall, so that nothing comes of it.
#[derive(Clone, Debug)]
pub struct SetPortRules {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its ports; none withdraws them all.
    pub ports: Vec<PortRules>,
}

/// Everything that was there before the start has been said again: what else is in the table goes now. Until then what
/// is said is only noted, so that nothing of what runs is touched. Answered with the number of changes it took.
#[derive(Clone, Copy, Debug)]
pub struct EndRestore;

/// Compare the kernel's table with what is wanted, and repair it. Answered with the number of changes it took.
#[derive(Clone, Copy, Debug)]
pub struct ReapplyRules;

/// Ask how things are.
#[derive(Clone, Copy, Debug)]
pub struct InspectFirewall;

/// How things are with the firewall.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FirewallPicture {
    /// The table, such as `inet netloom`.
    pub table: String,
    /// Why there is none, where the kernel has no nftables.
    pub missing: Option<String>,
    /// How many networks have rules.
    pub networks: usize,
    /// How many endpoints have published ports.
    pub endpoints: usize,
    /// How often the table was found other than it should be, and repaired.
    pub repairs: u64,
    /// Why it is not as it should be now.
    pub trouble: Option<String>,
}

/// Somebody else changed the table, or nobody knows whether.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableTouched;

/// It is time to try again.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryDue;

messages! {
    SetNetworkRules => Result<bool>;
    SetPortRules => Result<bool>;
    EndRestore => Result<usize>;
    ReapplyRules => Result<usize>;
    InspectFirewall => FirewallPicture;
    TableTouched => ();
    RetryDue => ();
}
