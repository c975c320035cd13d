//! Connections that the kernel remembers (conntrack), as data.
//!
//! A connection keeps the translation that its first packet got. UDP has no end, so a client that goes on sending is led
//! to where a port led when it began, for as long as it sends: also when the port leads elsewhere since, and when nobody
//! is there any more (moby#8795). Whoever changes where a port leads has such connections forgotten
//! ([`Op::ForgetConnections`](crate::Op::ForgetConnections)); the next packet begins a new one.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use netloom_model::Protocol;
use serde::{Deserialize, Serialize};

/// Which connections: those for which everything that is given here holds.
///
/// The ports are those that clients send to, which are the host's, not the container's (moby#53384).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Connections {
    /// Their protocol.
    pub protocol: Protocol,
    /// The first port that they were opened to.
    pub first: u16,
    /// The last one, included.
    pub last: u16,
    /// The address that they were opened to; any when absent.
    pub host: Option<IpAddr>,
    /// The address that answers, which is the container's, whatever address they were opened to; any when absent.
    pub container: Option<IpAddr>,
}

impl Connections {
    /// All that were opened to these ports, of whichever address.
    #[must_use]
    pub fn to(protocol: Protocol, first: u16, last: u16) -> Self {
        Self { protocol, first, last, host: None, container: None }
    }

    /// Of these, those that were opened to this address.
    #[must_use]
    pub fn at(self, host: IpAddr) -> Self {
        Self { host: Some(host), ..self }
    }

    /// Of these, those that this address answers.
    #[must_use]
    pub fn answered_by(self, container: IpAddr) -> Self {
        Self { container: Some(container), ..self }
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn cover(&self, connection: &Connection) -> bool {
        self.protocol.number() == connection.protocol
            && (self.first..=self.last).contains(&connection.destination.port())
            && self.host.is_none_or(|host| host == connection.destination.ip())
            && self.container.is_none_or(|container| container == connection.answers)
    }
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.protocol, self.first)?;
        if self.first != self.last {
            write!(f, "-{}", self.last)?;
        }
        if let Some(host) = self.host {
            write!(f, " of {host}")?;
        }
        self.container.map_or(Ok(()), |container| write!(f, " behind which is {container}"))
    }
}

/// What tells a connection's way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// The number of its protocol, which may be one that has no name here.
    pub protocol: u8,
    /// Who opened it.
    pub source: SocketAddr,
    /// What it was opened to, before anything was translated.
    pub destination: SocketAddr,
    /// Who answers: the destination after translation.
    pub answers: IpAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_everything_holds_for_is_covered() {
        let connection = Connection {
            protocol: 17,
            source: "198.51.100.7:40000".parse().expect("valid"),
            destination: "192.0.2.1:5005".parse().expect("valid"),
            answers: "10.0.0.2".parse().expect("valid"),
        };
        let address = |text: &str| text.parse::<IpAddr>().expect("valid");
        let udp = |first, last| Connections::to(Protocol::Udp, first, last);
        for (covered, filter) in [
            (true, udp(5005, 5005)),
            (true, udp(5000, 5005)),
            (true, udp(5005, 5009)),
            (false, udp(5006, 5009)),
            (false, udp(5000, 5004)),
            (false, Connections::to(Protocol::Tcp, 5005, 5005)),
            (true, udp(5005, 5005).at(address("192.0.2.1"))),
            (false, udp(5005, 5005).at(address("192.0.2.2"))),
            (true, udp(5005, 5005).answered_by(address("10.0.0.2"))),
            (false, udp(5005, 5005).answered_by(address("192.0.2.1"))),
            (false, udp(5005, 5005).at(address("192.0.2.2")).answered_by(address("10.0.0.2"))),
        ] {
            assert_eq!(filter.cover(&connection), covered, "{filter}");
        }
        let named = udp(5000, 5005).at(address("192.0.2.1")).answered_by(address("fd00::2"));
        assert_eq!(named.to_string(), "udp port 5000-5005 of 192.0.2.1 behind which is fd00::2");
    }
}
