//! Ports of the host: one, the same on several addresses, ranges of them, and where they lead.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::seldom::Nothing;
use crate::spec::Protocol;

/// A port on an address of the host; `0.0.0.0` and `::` stand for every address of their family. In text
/// `192.0.2.1:8080/tcp`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPort {
    /// The address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, protocol, port } = self;
        match address {
            IpAddr::V4(address) => write!(f, "{address}:{port}/{protocol}"),
            IpAddr::V6(address) => write!(f, "[{address}]:{port}/{protocol}"),
        }
    }
}

/// Ports of the host from one to another, both included. In text `8000-8099`, or `8000` for one port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRange {
    /// The first port; not 0.
    pub first: u16,
    /// The last port; not before the first.
    pub last: u16,
}

impl PortRange {
    /// The dynamic range of a host that does not say what its own is (libnetwork's
    /// `defaultPortRangeStart` and `defaultPortRangeEnd`; RFC 6335, 6).
    pub const DYNAMIC: Self = Self { first: 49_153, last: 65_535 };

    /// One port.
    #[must_use]
    pub fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// Checks that it begins with a port and does not end before it begins.
    ///
    /// # Errors
    /// `InvalidParameter`, which names `field`.
    pub fn validate(self, field: &str) -> Result<()> {
        if self.first == 0 {
            let why = "a host's port is 1 to 65535; leave it out for any free one";
            return Err(Error::invalid(field, self, why));
        }
        if self.last < self.first {
            return Err(Error::invalid(field, self, "the range of the host's ports ends before it begins"));
        }
        Ok(())
    }

    /// Reads what Linux says in `net.ipv4.ip_local_port_range`: two numbers.
    ///
    /// # Errors
    /// `InvalidParameter` for anything else.
    pub fn of_setting(text: &str) -> Result<Self> {
        let mut numbers = text.split_whitespace().map(str::parse);
        let field = "net.ipv4.ip_local_port_range";
        let (Some(Ok(first)), Some(Ok(last)), None) = (numbers.next(), numbers.next(), numbers.next()) else {
            return Err(Error::invalid(field, text, "a range is two ports"));
        };
        let range = Self { first, last };
        range.validate(field).map(|()| range)
    }

    /// How many ports these are.
    #[must_use]
    pub fn count(self) -> usize {
        usize::from(self.last).saturating_sub(usize::from(self.first)) + 1
    }

    /// Each of them.
    pub fn ports(self) -> impl DoubleEndedIterator<Item = u16> + use<> {
        self.first..=self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// The same ports on one or several addresses of the host. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPorts {
    /// The protocol.
    pub protocol: Protocol,
    /// The addresses; `0.0.0.0` and `::` stand for every address of their family.
    pub addresses: Arc<[IpAddr]>,
    /// The ports.
    pub range: PortRange,
}

impl HostPorts {
    /// Each port on each address.
    pub fn each(&self) -> impl Iterator<Item = HostPort> {
        let on =
            move |port| move |address: &IpAddr| HostPort { address: *address, protocol: self.protocol, port };
        self.range.ports().flat_map(move |port| self.addresses.iter().map(on(port)))
    }

    /// Whether this port is among them.
    #[must_use]
    pub fn contains(&self, port: HostPort) -> bool {
        let PortRange { first, last } = self.range;
        port.protocol == self.protocol
            && (first..=last).contains(&port.port)
            && self.addresses.contains(&port.address)
    }
}

impl fmt::Display for HostPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, address) in self.addresses.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            match address {
                IpAddr::V4(address) => write!(f, "{comma}{address}:{}", self.range)?,
                IpAddr::V6(address) => write!(f, "{comma}[{address}]:{}", self.range)?,
            }
        }
        write!(f, "/{}", self.protocol)
    }
}

/// Ports of the host that lead to a container's. In text `0.0.0.0:8080/tcp->80`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedPorts {
    /// The host's ports.
    pub host: HostPorts,
    /// The container's port that the first of them leads to; the others follow.
    pub port: u16,
}

impl PublishedPorts {
    /// The container's ports.
    #[must_use]
    pub fn inside(&self) -> PortRange {
        let PortRange { first, last } = self.host.range;
        PortRange { first: self.port, last: self.port.saturating_add(last.saturating_sub(first)) }
    }
}

impl fmt::Display for PublishedPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}", self.host, self.inside())
    }
}

/// Every port of the host that leads to an endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Published(pub Vec<PublishedPorts>);

impl Nothing for Published {
    const NOTHING: &'static Self = &Self(Vec::new());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dynamic_range_is_read_as_linux_writes_it() {
        let read = |text| PortRange::of_setting(text).map(|range| range.to_string());
        assert_eq!(read("32768\t60999\n").expect("a range"), "32768-60999");
        assert_eq!(read("5000 5000").expect("a range"), "5000");
        for text in ["", "1", "0 9", "9 1", "1 2 3", "1 65536", "a b"] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains("ip_local_port_range"), "{error}");
        }
    }

    #[test]
    fn ports_are_shown_with_their_addresses() {
        let addresses: Arc<[IpAddr]> = Arc::new(["0.0.0.0".parse().expect("v4"), "::".parse().expect("v6")]);
        let ports =
            HostPorts { protocol: Protocol::Udp, addresses, range: PortRange { first: 53, last: 54 } };
        assert_eq!(ports.to_string(), "0.0.0.0:53-54, [::]:53-54/udp");
        let each: Vec<String> = ports.each().map(|port| port.to_string()).collect();
        assert_eq!(each, ["0.0.0.0:53/udp", "[::]:53/udp", "0.0.0.0:54/udp", "[::]:54/udp"]);
        assert!(ports.each().all(|port| ports.contains(port)));
        let json = serde_json::to_string(&ports).expect("written");
        assert_eq!(serde_json::from_str::<HostPorts>(&json).expect("read"), ports);
    }
}
