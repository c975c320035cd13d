//! What is to be said about a network.

use std::net::IpAddr;

use ipnet::IpNet;
use netloom_model::IfName;
use serde::{Deserialize, Serialize};

use crate::iptables::Version;

/// How containers of a network and the rest of the world reach each other, for one family
/// (`com.docker.network.bridge.gateway_mode_ipv4` and `…_ipv6`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Containers leave under the host's address, and are reached through published ports only.
    #[default]
    Nat,
    /// The same, but whoever has a route to a container's address reaches all of its ports.
    NatUnprotected,
    /// Nothing is translated: containers are reached under their own addresses, at their published ports.
    Routed,
}

/// What is to be said about one family of a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FamilyRules {
    /// The network's subnet.
    pub subnet: IpNet,
    /// How containers and the rest of the world reach each other.
    pub mode: Mode,
    /// Whether containers leave under an address of the host. Has no effect where nothing is translated.
    pub masquerade: bool,
    /// The address that they leave under; the one of the interface that they leave by when absent
    /// (`com.docker.network.host_ipv4`).
    pub host_address: Option<IpAddr>,
}

/// What is to be said about a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetworkRules {
    /// Its bridge.
    pub bridge: IfName,
    /// Whether its containers reach each other where their packets pass the firewall. Ports of the bridge keep apart
    /// those that do not.
    pub icc: bool,
    /// Whether it reaches nothing but itself.
    pub internal: bool,
    /// Interfaces of the host from which published ports of its containers are reached under their own addresses, but for
    /// those that are published on the host's loopback (`com.docker.network.bridge.trusted_host_interfaces`).
    pub trusted: Vec<IfName>,
    /// IPv4, if the network has it.
    pub v4: Option<FamilyRules>,
    /// IPv6, if the network has it.
    pub v6: Option<FamilyRules>,
}

impl NetworkRules {
    /// What is said about one family.
    pub(crate) fn family(&self, version: Version) -> Option<FamilyRules> {
        match version {
            Version::V4 => self.v4,
            Version::V6 => self.v6,
        }
    }
}
