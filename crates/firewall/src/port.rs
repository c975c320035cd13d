//! What is to be said about a published port.

use std::fmt;
use std::net::IpAddr;

use netloom_model::Protocol;
use serde::{Deserialize, Serialize};

use crate::ruleset::Owner;

/// A port of the host, or several in a row, that lead to a container.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PortRules {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; every one of the container's family when absent. `0.0.0.0` and `::` are every one of theirs.
    pub host: Option<IpAddr>,
    /// The first of the host's ports.
    pub first: u16,
    /// The last of them.
    pub last: u16,
    /// The container's address.
    pub container: IpAddr,
    /// The container's port that the first of the host's leads to; the others follow.
    pub container_port: u16,
    /// Nothing is translated: the container is reached under its own address, and no port of the host leads to it.
    pub routed: bool,
    /// Connections are led to this port of the host's own, where the engine passes them on to the container: what the
    /// kernel cannot lead there by itself, from one family to the other and from `::1`. TCP only, and nftables only.
    pub by_proxy: Option<u16>,
}

impl PortRules {
    /// Whether it is published on the host's IPv4 loopback, which others do not reach.
    pub(crate) fn is_for_the_host_alone(&self) -> bool {
        !self.routed
            && self.by_proxy.is_none()
            && matches!(self.host, Some(IpAddr::V4(host)) if host.is_loopback())
    }

    /// How many ports there are behind the first.
    pub(crate) fn length(&self) -> u16 {
        self.last.saturating_sub(self.first)
    }

    /// The last of the container's ports.
    pub(crate) fn container_last(&self) -> u16 {
        self.container_port.saturating_add(self.length())
    }
}

impl fmt::Display for PortRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |first, last| if first == last { format!("{first}") } else { format!("{first}-{last}") };
        let inside = range(self.container_port, self.container_last());
        if self.routed {
            return write!(f, "{}/{} of {}", inside, self.protocol, self.container);
        }
        match self.host {
            Some(host) => write!(f, "{host} ")?,
            None => f.write_str("every address, ")?,
        }
        write!(f, "port {}/{} to {}", range(self.first, self.last), self.protocol, self.container)?;
        write!(f, " port {inside}")?;
        self.by_proxy.iter().try_for_each(|own| write!(f, " by way of {own}"))
    }
}

/// What was asked for has another meaning already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// What was asked for, in words.
    pub asked: String,
    /// Whose it is.
    pub holder: Owner,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is taken by {} already", self.asked, self.holder)
    }
}

impl std::error::Error for Conflict {}
