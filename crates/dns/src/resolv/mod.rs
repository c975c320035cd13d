//! resolv.conf: what one says, and what a sandbox's says. Pure; reading and writing are in [`crate::io`].
//!
//! [`ResolvConf::parse`] reads a file of the host, [`build()`] makes a sandbox's from it. Both tell what they left out,
//! and why: a line that was dropped without a word is looked for in the wrong place.

mod build;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

pub use build::{AskedFrom, Built, Given, Mode, Ndots, Upstream, build};

/// Where a sandbox's own name server listens, as libnetwork's.
pub const EMBEDDED_SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 11));
/// Of a longer file, the rest is not read: bytes.
pub const LONGEST_FILE: usize = 64 * 1024;
/// A longer line is left out: bytes.
pub const LONGEST_LINE: usize = 4096;
/// How many name servers, search domains, options and other lines of a file are taken, of each.
pub const MOST: usize = 64;

/// The longest name of an interface (`IFNAMSIZ` without its end).
const LONGEST_ZONE: usize = 15;

/// A name server: its address, and for a link-local one the link it is on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NameServer {
    /// The address.
    pub address: IpAddr,
    /// The interface, by its name or number, of the namespace that the file is of: `fe80::1%eth0`.
    pub zone: Option<Box<str>>,
}

impl NameServer {
    /// Whether it is the machine, or the container, that asks: a loopback address, or the unspecified one, which
    /// resolvers take for it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let address = self.address.to_canonical();
        address.is_loopback() || address.is_unspecified()
    }
}

impl From<IpAddr> for NameServer {
    fn from(address: IpAddr) -> Self {
        Self { address, zone: None }
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        self.zone.iter().try_for_each(|zone| write!(f, "%{zone}"))
    }
}

impl FromStr for NameServer {
    type Err = Why;

    fn from_str(text: &str) -> Result<Self, Why> {
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(zone)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| Why::NoAddress)?;
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        if address.is_multicast() || broadcast {
            return Err(Why::NotOneHost);
        }
        let Some(zone) = zone else { return Ok(address.into()) };
        let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let named = (1..=LONGEST_ZONE).contains(&zone.len())
            && zone.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'%' | b'/' | b'#' | b';'));
        if !(link_local && named) {
            return Err(Why::Zone);
        }
        Ok(Self { address, zone: Some(zone.into()) })
    }
}

/// What a file in the form of resolv.conf says (`resolv.conf(5)`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ResolvConf {
    /// Its name servers, in its order, each once.
    pub name_servers: Vec<NameServer>,
    /// The domains of its last `search` or `domain` line.
    pub search: Vec<String>,
    /// The options of all of its `options` lines.
    pub options: Vec<String>,
    /// Lines of other kinds, such as `sortlist`, with one blank between words.
    pub other: Vec<String>,
    /// What it says in vain.
    pub left_out: Vec<LeftOut>,
}

/// Something that is in a file, or was given, and not in what was made of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeftOut {
    /// The line of the file, from 1; of what was given or is about the whole file, none.
    pub line: Option<usize>,
    /// What it is, as it is written; of a long one the beginning.
    pub what: String,
    /// Why.
    pub why: Why,
}

impl LeftOut {
    fn new(line: Option<usize>, what: &str, why: Why) -> Self {
        const SHOWN: usize = 64;
        let mut shown: String = what.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        if what.chars().nth(SHOWN).is_some() {
            shown.push('…');
        }
        Self { line, what: shown, why }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.what.is_empty() {
            write!(f, "{}: ", self.what)?;
        }
        write!(f, "{}", self.why)
    }
}

/// Why something was left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// A `nameserver` line without an address.
    #[error("not an IP address")]
    NoAddress,
    /// A group's address, or everybody's.
    #[error("not the address of one host")]
    NotOneHost,
    /// A zone that is no interface's, or with an address that is not link-local.
    #[error("a zone is an interface of a link-local address, such as fe80::1%eth0")]
    Zone,
    /// A line that says nothing after its keyword.
    #[error("nothing follows")]
    Empty,
    /// Bytes that are no text, or would be another line in a file.
    #[error("holds bytes that are not text")]
    NotText,
    /// It is there already.
    #[error("named twice")]
    Twice,
    /// Another `search` or `domain` line comes later.
    #[error("a later search or domain line counts")]
    Replaced,
    /// More than [`MOST`] of its kind.
    #[error("more than {MOST} of its kind")]
    TooMany,
    /// Longer than [`LONGEST_LINE`].
    #[error("longer than {LONGEST_LINE} bytes")]
    LongLine,
    /// What follows [`LONGEST_FILE`] bytes.
    #[error("what follows after {LONGEST_FILE} bytes is not read")]
    LongFile,
    /// The host's own name server, which a container does not reach.
    #[error("the host itself, which the container would take for itself")]
    Local,
    /// An IPv6 name server, and the container has IPv4 only.
    #[error("the container has no IPv6")]
    NoIpv6,
    /// A link-local name server on a link of the host's.
    #[error("on a link of the host's")]
    HostLink,
    /// The sandbox's name server would ask itself.
    #[error("the container's own name server, which would ask itself")]
    Itself,
    /// An `ndots` option that no resolver understands.
    #[error("ndots takes a number, such as ndots:1")]
    Ndots,
    /// The file is not there, or cannot be read.
    #[error("the file cannot be read")]
    Unreadable,
}

/// Which file of the host a [`ResolvConf`] is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The file that was read.
    pub path: PathBuf,
    /// The file that was to be read, where that names the stub of systemd-resolved alone, which is only there for
    /// the host itself.
    pub instead_of: Option<PathBuf>,
}

impl Source {
    /// A file that is read itself.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), instead_of: None }
    }
}

/// The stub of systemd-resolved: a name server for programs of the host.
pub const SYSTEMD_STUB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 53));
/// Where systemd-resolved writes the name servers that its stub asks.
pub const BEHIND_SYSTEMD_STUB: &str = "/run/systemd/resolve/resolv.conf";

impl ResolvConf {
    /// Whether it names the stub of systemd-resolved, and no other name server. Then [`BEHIND_SYSTEMD_STUB`] is what
    /// a container's is made of.
    ///
    /// Parity: moby `resolvconf.Path`, which looks once in the life of a process; here it is looked at each time.
    #[must_use]
    pub fn is_systemd_stub(&self) -> bool {
        matches!(&self.name_servers[..], [only] if only.address == SYSTEMD_STUB)
    }
}
