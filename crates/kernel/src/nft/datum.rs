//! What keys and values are made of.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use netloom_model::IfName;
use serde::{Deserialize, Serialize};

use super::Verdict;

/// Bytes of a link's name in a key, padded with zeros (`IFNAMSIZ`).
const INTERFACE: usize = 16;

/// The kind of a part of a key or value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// IPv4 or IPv6, an `NFPROTO`.
    Family,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A protocol above IP, as `IPPROTO_TCP`.
    Protocol,
    /// A port.
    Port,
    /// A link's name.
    Interface,
    /// What becomes of a packet. Only alone, and only as a value.
    Verdict,
}

impl fmt::Display for Type {
    /// The name that the `nft` program has for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Family => "nf_proto",
            Self::Ipv4 => "ipv4_addr",
            Self::Ipv6 => "ipv6_addr",
            Self::Protocol => "inet_proto",
            Self::Port => "inet_service",
            Self::Interface => "ifname",
            Self::Verdict => "verdict",
        })
    }
}

impl Type {
    /// The number by which the `nft` program knows it.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Verdict => 0xffff_ff00,
            Self::Family => 2,
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Interface => 41,
        }
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        [Self::Verdict, Self::Family, Self::Ipv4, Self::Ipv6, Self::Protocol, Self::Port, Self::Interface]
            .into_iter()
            .find(|kind| kind.number() == number)
    }

    /// Its bytes, without padding.
    #[must_use]
    pub fn len(self) -> usize {
        match self {
            Self::Verdict => 0,
            Self::Family | Self::Protocol => 1,
            Self::Port => 2,
            Self::Ipv4 => 4,
            Self::Ipv6 | Self::Interface => 16,
        }
    }

    /// Only a verdict has no bytes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// The bytes of a key: what stands alone is as long as it is, parts of a longer one fill words of four bytes.
#[must_use]
pub fn width(types: &[Type]) -> usize {
    match types {
        [alone] => alone.len(),
        parts => parts.iter().map(|part| part.len().next_multiple_of(4)).sum(),
    }
}

/// A part of a key or value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Datum {
    /// IPv4 or IPv6, an `NFPROTO`.
    Family(u8),
    /// An IPv4 or IPv6 address.
    Address(IpAddr),
    /// A protocol above IP.
    Protocol(u8),
    /// A port.
    Port(u16),
    /// A link's name.
    Interface(IfName),
    /// What becomes of a packet.
    Verdict(Verdict),
}

impl Datum {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Type {
        match self {
            Self::Family(_) => Type::Family,
            Self::Address(IpAddr::V4(_)) => Type::Ipv4,
            Self::Address(IpAddr::V6(_)) => Type::Ipv6,
            Self::Protocol(_) => Type::Protocol,
            Self::Port(_) => Type::Port,
            Self::Interface(_) => Type::Interface,
            Self::Verdict(_) => Type::Verdict,
        }
    }

    /// Adds its bytes, in network order.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Address(IpAddr::V4(address)) => out.extend(address.octets()),
            Self::Address(IpAddr::V6(address)) => out.extend(address.octets()),
            Self::Family(number) | Self::Protocol(number) => out.push(*number),
            Self::Port(port) => out.extend(port.to_be_bytes()),
            Self::Interface(name) => {
                let end = out.len() + INTERFACE;
                out.extend(name.as_str().as_bytes());
                out.resize(end, 0);
            }
            Self::Verdict(_) => {}
        }
    }

    /// Reads one of this kind. Never a verdict: those are not bytes.
    fn read(kind: Type, bytes: &[u8]) -> Option<Self> {
        Some(match kind {
            Type::Ipv4 => Self::Address(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?).into()),
            Type::Ipv6 => Self::Address(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(..16)?).ok()?).into()),
            Type::Family => Self::Family(*bytes.first()?),
            Type::Protocol => Self::Protocol(*bytes.first()?),
            Type::Port => Self::Port(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?)),
            Type::Interface => {
                let name = bytes.split(|byte| *byte == 0).next()?;
                Self::Interface(std::str::from_utf8(name).ok()?.parse().ok()?)
            }
            Type::Verdict => return None,
        })
    }

    /// The bytes of a whole key or value.
    #[must_use]
    pub fn join(parts: &[Self]) -> Vec<u8> {
        let mut out = Vec::new();
        for part in parts {
            part.write(&mut out);
            if parts.len() > 1 {
                out.resize(out.len().next_multiple_of(4), 0);
            }
        }
        out
    }

    /// The parts of a whole key or value; `None` when the bytes are too few or make no sense.
    #[must_use]
    pub fn split(types: &[Type], bytes: &[u8]) -> Option<Arc<[Self]>> {
        let mut at = 0;
        types
            .iter()
            .map(|kind| {
                let part = Self::read(*kind, bytes.get(at..)?)?;
                at += kind.len().next_multiple_of(4);
                Some(part)
            })
            .collect()
    }
}

impl From<IfName> for Datum {
    fn from(name: IfName) -> Self {
        Self::Interface(name)
    }
}

impl From<IpAddr> for Datum {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Family(2) => f.write_str("ipv4"),
            Self::Family(10) => f.write_str("ipv6"),
            Self::Family(number) => write!(f, "{number}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Protocol(6) => f.write_str("tcp"),
            Self::Protocol(17) => f.write_str("udp"),
            Self::Protocol(132) => f.write_str("sctp"),
            Self::Protocol(protocol) => write!(f, "{protocol}"),
            Self::Port(port) => write!(f, "{port}"),
            Self::Interface(name) => write!(f, "{name}"),
            Self::Verdict(verdict) => write!(f, "{verdict}"),
        }
    }
}
