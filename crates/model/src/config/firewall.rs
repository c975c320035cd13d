//! The engine's part of the host's firewall.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How the engine has its part of the host's firewall.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FirewallConfig {
    /// What rules are said to.
    pub backend: FirewallBackend,
}

/// What rules are said to (moby's `firewall-backend`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirewallBackend {
    /// nftables where the kernel has it, else iptables where its programs are, else nothing.
    #[default]
    Auto,
    /// A table of nftables.
    Nftables,
    /// Chains of iptables.
    Iptables,
    /// Nothing: networks are not kept apart, nothing is translated.
    None,
}

impl FirewallBackend {
    /// Every choice.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Nftables, Self::Iptables, Self::None];
}

impl fmt::Display for FirewallBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::None => "none",
        })
    }
}

impl FromStr for FirewallBackend {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|one| one.to_string() == text);
        found.ok_or("expected \"auto\", \"nftables\", \"iptables\" or \"none\"")
    }
}
