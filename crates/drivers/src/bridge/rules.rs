//! What the firewall is told about a bridge network.

use ipnet::IpNet;
use netloom_firewall::{FamilyRules, NetworkRules};

use super::config::BridgeConfig;

/// Everything about the network itself; published ports are said by endpoints.
pub(super) fn of(config: &BridgeConfig) -> NetworkRules {
    let family = |subnet: IpNet| {
        let own = config.family(subnet.addr().is_ipv4());
        FamilyRules {
            subnet: subnet.trunc(),
            mode: own.mode.rule(),
            masquerade: config.masquerade,
            host_address: own.host_address,
        }
    };
    NetworkRules {
        bridge: config.bridge,
        icc: config.icc,
        internal: config.internal,
        trusted: config.trusted.clone(),
        v4: Some(family(config.address.into())),
        v6: config.address6.map(|address| family(address.into())),
    }
}
