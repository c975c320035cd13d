//! What rules are made of.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A register: sixteen words of four bytes, from 0. What is longer takes the words behind it too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reg(pub u8);

/// Where a packet's bytes are counted from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// The IP header.
    Network,
    /// The header above it.
    Transport,
}

/// What the kernel knows of a packet beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetaKey {
    /// Its mark.
    Mark,
    /// The link it came in by; 16 bytes.
    Iifname,
    /// The link it leaves by; 16 bytes.
    Oifname,
    /// IPv4 or IPv6, an `NFPROTO`; one byte.
    Nfproto,
    /// The protocol above IP; one byte.
    L4proto,
}

/// What connection tracking knows of a packet's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CtKey {
    /// Bits of its state for this packet.
    State,
    /// Which way this packet goes: 0 as the first one, 1 back; one byte.
    Direction,
    /// Bits of what was done to it, `IPS_DST_NAT` among them.
    Status,
}

/// What the routing table knows of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FibResult {
    /// The kind of a packet's destination, an `RTN`.
    DestinationType,
    /// The kind of a packet's source.
    SourceType,
}

/// Which address is translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NatKind {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// What becomes of a packet.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It may go on; later base chains may still refuse it.
    Accept,
    /// It is gone.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// Through another chain, then on here.
    Jump(String),
    /// Through another chain, and not back.
    Goto(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

/// One step of a rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "expr", rename_all = "snake_case")]
pub enum Expr {
    /// Loads bytes of the packet.
    Payload {
        /// From where they are counted.
        base: Base,
        /// The first.
        offset: u32,
        /// How many.
        len: u32,
        /// Where to.
        to: Reg,
    },
    /// Loads what the kernel knows of the packet.
    Meta {
        /// What.
        key: MetaKey,
        /// Where to.
        to: Reg,
    },
    /// Loads what is known of its connection.
    Ct {
        /// What.
        key: CtKey,
        /// Where to.
        to: Reg,
    },
    /// Loads what the routing table says.
    Fib {
        /// What.
        result: FibResult,
        /// Where to.
        to: Reg,
    },
    /// Loads these bytes.
    Immediate {
        /// The bytes.
        data: Vec<u8>,
        /// Where to.
        to: Reg,
    },
    /// Keeps some bits: `(from & mask) ^ xor`.
    Bitwise {
        /// What is changed.
        from: Reg,
        /// Where to.
        to: Reg,
        /// Bits to keep.
        mask: Vec<u8>,
        /// Bits to turn over afterwards.
        xor: Vec<u8>,
    },
    /// Holds when a register is, or is not, this.
    Cmp {
        /// The register.
        from: Reg,
        /// Holds when they are the same; otherwise when they differ.
        equal: bool,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Holds when the key in a register is in a set, and loads a map's value; one that is a verdict is done.
    Lookup {
        /// The set.
        set: String,
        /// The key.
        from: Reg,
        /// Where a map's value goes; `None` for a set, or for a map of verdicts.
        to: Option<Reg>,
        /// The map's values are verdicts.
        verdicts: bool,
        /// Holds when it is not there.
        missing: bool,
    },
    /// Decides.
    Verdict(Verdict),
    /// Translates an address, a port, or both: what no register is named for stays as it is. With a port alone a
    /// connection to this host goes to another port of the same address. (`redirect` goes to the first address of the
    /// link that it came in by instead, and is a drop where that has none of the family.)
    Nat {
        /// Which.
        kind: NatKind,
        /// IPv6 instead of IPv4.
        ipv6: bool,
        /// The new address.
        address: Option<Reg>,
        /// The new port.
        port: Option<Reg>,
    },
    /// Translates the source to the address of the link that the packet leaves by.
    Masquerade,
    /// Refuses a TCP connection with a reset. For packets of other protocols it is a drop.
    ResetTcp,
    /// Something of a rule that is not ours.
    Other(String),
}

impl fmt::Display for Expr {
    /// In the words of the `nft` program as far as one step has words; which register it uses is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |f: &mut fmt::Formatter<'_>, data: &[u8]| {
            f.write_str("0x")?;
            data.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        };
        match self {
            Self::Payload { base, offset, len, .. } => {
                let base = match base {
                    Base::Network => "nh",
                    Base::Transport => "th",
                };
                write!(f, "@{base},{},{}", offset * 8, len * 8)
            }
            Self::Meta { key, .. } => f.write_str(match key {
                MetaKey::Mark => "mark",
                MetaKey::Iifname => "iifname",
                MetaKey::Oifname => "oifname",
                MetaKey::Nfproto => "nfproto",
                MetaKey::L4proto => "l4proto",
            }),
            Self::Ct { key, .. } => f.write_str(match key {
                CtKey::State => "ct state",
                CtKey::Direction => "ct direction",
                CtKey::Status => "ct status",
            }),
            Self::Fib { result, .. } => f.write_str(match result {
                FibResult::DestinationType => "fib daddr type",
                FibResult::SourceType => "fib saddr type",
            }),
            Self::Immediate { data, .. } => bytes(f, data),
            Self::Bitwise { mask, xor, .. } => {
                f.write_str("& ")?;
                bytes(f, mask)?;
                if xor.iter().any(|byte| *byte != 0) {
                    f.write_str(" ^ ")?;
                    bytes(f, xor)?;
                }
                Ok(())
            }
            Self::Cmp { equal, data, .. } => {
                f.write_str(if *equal { "== " } else { "!= " })?;
                bytes(f, data)
            }
            Self::Lookup { set, to, verdicts, missing, .. } => {
                let how = match (to.is_some() || *verdicts, missing) {
                    (true, _) => "map",
                    (false, false) => "in",
                    (false, true) => "not in",
                };
                write!(f, "{how} @{set}")
            }
            Self::Verdict(verdict) => write!(f, "{verdict}"),
            Self::Nat { kind, ipv6, address, port } => {
                let kind = match kind {
                    NatKind::Source => "snat",
                    NatKind::Destination => "dnat",
                };
                let family = if *ipv6 { "ip6" } else { "ip" };
                let to = match (address, port) {
                    (Some(_), Some(_)) => "that address and port",
                    (Some(_), None) => "that address",
                    (None, Some(_)) => "that port",
                    (None, None) => "the same",
                };
                write!(f, "{kind} {family} to {to}")
            }
            Self::Masquerade => f.write_str("masquerade"),
            Self::ResetTcp => f.write_str("reject with tcp reset"),
            Self::Other(name) => f.write_str(name),
        }
    }
}
