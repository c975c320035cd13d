//! What the firewall can be asked.

use netloom_firewall::{NetworkRules, PortRules};
use netloom_firewalld::Event;
use netloom_model::snapshot::FirewallSnapshot;
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

/// Everything that was there before the start has been said again: what else is among the engine's rules goes now. Until then what
/// is said is only noted, so that nothing of what runs is touched. Answered with the number of changes it took.
#[derive(Clone, Copy, Debug)]
pub struct EndRestore;

/// Compare what the host has with what is wanted, and repair it. Answered with the number of changes it took.
#[derive(Clone, Copy, Debug)]
pub struct ReapplyRules;

/// Ask whether rules can lead to a port of the host's own what they cannot lead to a container
/// ([`PortRules::by_proxy`]): a table of nftables can, where the kernel has them.
#[derive(Clone, Copy, Debug)]
pub struct LeadsToEngine;

/// Ask how things are.
#[derive(Clone, Copy, Debug)]
pub struct InspectFirewall;

/// Somebody may have changed the rules.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableTouched;

/// Somebody has changed tables of nftables.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostTouched;

/// The rules have been left alone for long enough to be looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct LookDue;

/// It is time to look at what of the host's stands in the way.
#[derive(Clone, Copy, Debug)]
pub(super) struct SurveyDue;

/// It is time to remove what other backends have.
#[derive(Clone, Copy, Debug)]
pub(super) struct CleanDue;

/// Something has happened to firewalld.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirewalldChanged(pub(super) Event);

/// It is time to ask firewalld again.
#[derive(Clone, Copy, Debug)]
pub(super) struct ZoneDue;

/// It is time to try again.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryDue;

messages! {
    SetNetworkRules => Result<bool>;
    SetPortRules => Result<bool>;
    EndRestore => Result<usize>;
    ReapplyRules => Result<usize>;
    LeadsToEngine => bool;
    InspectFirewall => FirewallSnapshot;
    TableTouched => ();
    HostTouched => ();
    LookDue => ();
    SurveyDue => ();
    CleanDue => ();
    FirewalldChanged => ();
    ZoneDue => ();
    RetryDue => ();
}
