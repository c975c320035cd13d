//! Ports: those that a container serves, and those of the host that lead to them.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, Result};
use crate::seldom::Nothing;

/// The most ports one spec may expose, and the most bindings it may ask for.
const MAX_PORTS: usize = 16_384;

/// A transport protocol, by its IANA number (libnetwork's `types.Protocol`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// Has no ports: a binding of it is refused.
    Icmp,
    /// The usual one.
    Tcp,
    /// Datagrams.
    Udp,
    /// Messages in streams.
    Sctp,
}

impl Protocol {
    /// Its number in an IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Icmp => "icmp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl FromStr for Protocol {
    type Err = Error;

    /// Reads its name, in any case, or its number.
    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Icmp, Self::Tcp, Self::Udp, Self::Sctp];
        let is = |protocol: &Self| {
            text.eq_ignore_ascii_case(&protocol.to_string()) || text == protocol.number().to_string()
        };
        let why = "a protocol is tcp, udp, sctp or icmp";
        all.into_iter().find(is).ok_or_else(|| Error::invalid("protocol", text, why))
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A port that a container serves (libnetwork's `types.TransportPort`). In text `80/tcp`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl TransportPort {
    /// A TCP port.
    #[must_use]
    pub fn tcp(port: u16) -> Self {
        Self { protocol: Protocol::Tcp, port }
    }

    /// A UDP port.
    #[must_use]
    pub fn udp(port: u16) -> Self {
        Self { protocol: Protocol::Udp, port }
    }

    fn validate(self, field: &str) -> Result<()> {
        if self.protocol == Protocol::Icmp {
            return Err(Error::invalid(field, self, "icmp has no ports"));
        }
        if self.port == 0 {
            return Err(Error::invalid(field, self, "a container's port is 1 to 65535"));
        }
        Ok(())
    }
}

impl fmt::Display for TransportPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

impl FromStr for TransportPort {
    type Err = Error;

    /// Reads `80/tcp`, `tcp/80`, as libnetwork writes it, and `80`, which is TCP.
    fn from_str(text: &str) -> Result<Self> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (port, protocol) =
            if port.bytes().all(|b| b.is_ascii_digit()) { (port, protocol) } else { (protocol, port) };
        let why = "a port is a number of 1 to 65535 and a protocol, such as 80/tcp";
        let port = port.parse().map_err(|_| Error::invalid("port", text, why))?;
        Ok(Self { protocol: protocol.parse()?, port })
    }
}

/// A port of the host that leads to one of a container (libnetwork's `types.PortBinding`). In text
/// `192.0.2.1:8080->80/tcp`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortBinding {
    /// The protocol.
    pub protocol: Protocol,
    /// The container's port.
    pub port: u16,
    /// The container's address; its endpoint's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// The host's address; every one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The host's port, or the first of a range from which one is chosen; any free one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// The last port of that range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port_end: Option<u16>,
}

impl PortBinding {
    /// Binds a port of a container to any free port of the host.
    #[must_use]
    pub fn any(port: TransportPort) -> Self {
        let TransportPort { protocol, port } = port;
        Self { protocol, port, ip: None, host_ip: None, host_port: None, host_port_end: None }
    }

    /// Binds a port of a container to this port of the host.
    #[must_use]
    pub fn new(host_port: u16, port: TransportPort) -> Self {
        Self { host_port: Some(host_port), ..Self::any(port) }
    }

    /// Binds it on one address of the host only.
    #[must_use]
    pub fn on(mut self, host: IpAddr) -> Self {
        self.host_ip = Some(host);
        self
    }

    /// The binding that many ports further on, on both sides; `None` where there is none, or where the host's port is left
    /// open.
    #[must_use]
    pub fn further(self, ports: u16) -> Option<Self> {
        let behind = |port: u16| port.checked_add(ports);
        let host_port = self.host_port.filter(|_| self.host_port_end.is_none()).and_then(behind)?;
        Some(Self { port: behind(self.port)?, host_port: Some(host_port), ..self })
    }

    fn container_port(self) -> TransportPort {
        TransportPort { protocol: self.protocol, port: self.port }
    }

    fn validate(self) -> Result<()> {
        self.container_port().validate("port_map")?;
        if self.host_port == Some(0) || self.host_port_end == Some(0) {
            let why = "a host's port is 1 to 65535; leave it out for any free one";
            return Err(Error::invalid("port_map", self, why));
        }
        match (self.host_port, self.host_port_end) {
            (None, Some(_)) => {
                Err(Error::invalid("port_map", self, "the end of a range needs its beginning: host_port"))
            }
            (Some(first), Some(last)) if last < first => {
                Err(Error::invalid("port_map", self, "the range of the host's ports ends before it begins"))
            }
            _ => match (self.ip, self.host_ip) {
                (Some(ip), _) if ip.is_unspecified() || ip.is_multicast() => {
                    Err(Error::invalid("port_map", self, "the container's address must be one of its own"))
                }
                (_, Some(host)) if host.is_multicast() => {
                    Err(Error::invalid("port_map", self, "the host's address must be one of its own"))
                }
                _ => Ok(()),
            },
        }
    }
}

impl fmt::Display for PortBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(host @ IpAddr::V6(_)) => write!(f, "[{host}]:")?,
            Some(host) => write!(f, "{host}:")?,
            None => {}
        }
        match (self.host_port, self.host_port_end) {
            (Some(first), Some(last)) => write!(f, "{first}-{last}->")?,
            (Some(port), None) => write!(f, "{port}->")?,
            (None, _) => write!(f, "->")?,
        }
        match self.ip {
            Some(ip @ IpAddr::V6(_)) => write!(f, "[{ip}]:")?,
            Some(ip) => write!(f, "{ip}:")?,
            None => {}
        }
        write!(f, "{}", self.container_port())
    }
}

/// The ports of an endpoint or of a sandbox.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ports {
    /// Those that are served, whether or not the host leads to them (`ExposedPorts`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exposed: Vec<TransportPort>,
    /// Those of the host that lead to them (`PortMapping`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub map: Vec<PortBinding>,
}

impl Nothing for Ports {
    const NOTHING: &'static Self = &Self { exposed: Vec::new(), map: Vec::new() };
}

impl Ports {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exposed.is_empty() && self.map.is_empty()
    }

    /// Checks each, and that no two bindings want the same port of the host.
    pub(super) fn validate(&self) -> Result<()> {
        for (field, count) in [("exposed_ports", self.exposed.len()), ("port_map", self.map.len())] {
            if count > MAX_PORTS {
                return Err(Error::invalid(field, count, format!("at most {MAX_PORTS} entries")));
            }
        }
        self.exposed.iter().try_for_each(|port| port.validate("exposed_ports"))?;
        let mut fixed = HashMap::new();
        for binding in &self.map {
            binding.validate()?;
            let Some(port) = binding.host_port.filter(|_| binding.host_port_end.is_none()) else { continue };
            if let Some(other) = fixed.insert((binding.protocol, binding.host_ip, port), binding) {
                let why = format!("{other} wants the same port of the host");
                return Err(Error::invalid("port_map", binding, why));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_docker_and_libnetwork_write_them() {
        for text in ["80/tcp", "tcp/80", "80/TCP", "80", "80/6"] {
            assert_eq!(text.parse::<TransportPort>().expect(text), TransportPort::tcp(80), "{text}");
        }
        assert_eq!("53/udp".parse::<TransportPort>().expect("a port").to_string(), "53/udp");
        assert_eq!("9/sctp".parse::<TransportPort>().expect("a port").protocol.number(), 132);
        for text in ["", "/", "tcp", "80/", "/tcp", "65536/tcp", "-1/tcp", "80/quic", "80/tcp/80", " 80/tcp"]
        {
            let _ = text.parse::<TransportPort>().expect_err(text);
        }
    }

    #[test]
    fn bindings_are_shown_as_docker_does() {
        let v6: IpAddr = "2001:db8::1".parse().expect("an address");
        let range =
            PortBinding { host_port_end: Some(8089), ..PortBinding::new(8080, TransportPort::tcp(80)) };
        for (binding, text) in [
            (PortBinding::new(8080, TransportPort::tcp(80)), "8080->80/tcp"),
            (range.on([192, 0, 2, 1].into()), "192.0.2.1:8080-8089->80/tcp"),
            (PortBinding::any(TransportPort::udp(53)).on(v6), "[2001:db8::1]:->53/udp"),
            (PortBinding { ip: Some(v6), ..range }, "8080-8089->[2001:db8::1]:80/tcp"),
        ] {
            assert_eq!(binding.to_string(), text);
            let json = serde_json::to_string(&binding).expect("written");
            assert_eq!(serde_json::from_str::<PortBinding>(&json).expect("read"), binding);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let http = PortBinding::new(8080, TransportPort::tcp(80));
        let map = |map: &[PortBinding]| Ports { exposed: Vec::new(), map: map.to_vec() };
        map(&[http, PortBinding::new(8080, TransportPort::udp(80))]).validate().expect("two protocols");
        map(&[http, http.on([192, 0, 2, 1].into())]).validate().expect("left to the one who binds them");
        for bad in [
            map(&[http, PortBinding { port: 81, ..http }]),
            map(&[PortBinding { port: 0, ..http }]),
            map(&[PortBinding { host_port: Some(0), ..http }]),
            map(&[PortBinding { host_port_end: Some(8079), ..http }]),
            map(&[PortBinding { host_port: None, host_port_end: Some(8079), ..http }]),
            map(&[PortBinding { protocol: Protocol::Icmp, ..http }]),
            map(&[PortBinding { ip: Some([0, 0, 0, 0].into()), ..http }]),
            map(&[http.on([224, 0, 0, 1].into())]),
            map(&vec![PortBinding { host_port: None, ..http }; MAX_PORTS + 1]),
        ] {
            let error = bad.validate().expect_err("refused").to_string();
            assert!(error.contains("port_map"), "{error}");
        }
        let exposed = Ports { exposed: vec![TransportPort::tcp(0)], map: Vec::new() };
        assert!(exposed.validate().expect_err("refused").to_string().contains("exposed_ports"));
    }
}
