//! What the firewall is told about a bridge network.

use ipnet::IpNet;
use netloom_firewall::{FamilyRules, Mode, NetworkRules};

use super::config::BridgeConfig;

/// How containers and the rest of the world reach each other.
pub(super) fn mode(_: &BridgeConfig, _v4: bool) -> Mode {
    Mode::Nat
}

/// Everything about the network itself; published ports are said by endpoints.
pub(super) fn of(config: &BridgeConfig) -> NetworkRules {
    let family = |subnet: IpNet| FamilyRules {
        subnet: subnet.trunc(),
        mode: mode(config, subnet.addr().is_ipv4()),
        masquerade: config.masquerade,
        host_address: None,
    };
    NetworkRules {
        bridge: config.bridge,
        icc: config.icc,
        internal: config.internal,
        trusted: Vec::new(),
        v4: Some(family(config.address.into())),
        v6: config.address6.map(|address| family(address.into())),
    }
}
