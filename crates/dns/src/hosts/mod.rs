//! Hosts files: what they begin with, the lines that the engine adds, and how it finds them again. Pure; reading and
//! writing are in [`crate::io`].
//!
//! A line of the engine's is an address, one tab, and names with single blanks between them. Only such lines are ever
//! changed or taken away, and never those that the file began with. All else, comments and whatever a user writes in
//! another form, stays as it is to the byte.

mod edit;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

use netloom_model::{Error, ExtraHost, Result};

pub use edit::{Change, Own, edit};

/// What a hosts file begins with.
const IPV4_LINES: [&str; 1] = ["127.0.0.1\tlocalhost"];
/// And after that, where the sandbox has IPv6.
const IPV6_LINES: [&str; 5] = [
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "ff00::0\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
];
/// The longest name, in bytes (RFC 1123).
const LONGEST_NAME: usize = 253;
/// The most names of one line.
const MOST_NAMES: usize = 64;

/// A line of the engine's: an address and its names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Entry {
    address: IpAddr,
    /// With single blanks between them.
    names: Box<str>,
}

impl Entry {
    /// A line; the first name is the one that a reader takes for the address's own.
    ///
    /// # Errors
    /// `InvalidParameter`, naming the name that cannot be in such a file: an empty one, one with blanks, `#` or
    /// characters that are not printable ASCII, or longer than 253 bytes; no name at all; more than 64.
    pub fn new(address: IpAddr, names: &[&str]) -> Result<Self> {
        if names.is_empty() || names.len() > MOST_NAMES {
            return Err(Error::invalid("hosts", address, "a line of a hosts file has 1 to 64 names"));
        }
        names.iter().try_for_each(|name| check_name(name))?;
        Ok(Self { address, names: names.join(" ").into() })
    }

    /// The line of an extra host.
    ///
    /// # Errors
    /// As [`Entry::new`].
    pub fn extra(host: &ExtraHost) -> Result<Self> {
        Self::new(host.address, &[&host.name])
    }

    /// The lines of an endpoint's addresses for the sandbox that it is in: the name with its domain and the bare name,
    /// where there is a domain, in the host name or of its own. No lines without a host name.
    ///
    /// Parity: libnetwork `sandbox.updateHostsFile`. An endpoint without IPv4 got a line without an address there.
    ///
    /// # Errors
    /// As [`Entry::new`].
    pub fn of_endpoint(
        hostname: &str,
        domain: &str,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Vec<Self>> {
        let names = own_names(hostname, domain);
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        addresses.into_iter().map(|address| Self::new(address, &names)).collect()
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The names, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.split(' ')
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{}", self.address, self.names)
    }
}

/// What a sandbox is called in its hosts file: the full name and the bare one. Nothing without a host name.
fn own_names(hostname: &str, domain: &str) -> Vec<String> {
    if hostname.is_empty() {
        return Vec::new();
    }
    let full = if domain.is_empty() { hostname.to_owned() } else { format!("{hostname}.{domain}") };
    let full = full.trim_end_matches('.');
    let bare = full.split_once('.').map(|(bare, _)| bare);
    std::iter::once(full).chain(bare).map(str::to_owned).collect()
}

/// Refuses what would be another line, another word, or a comment.
fn check_name(name: &str) -> Result<()> {
    let why = if name.is_empty() {
        "a name must not be empty"
    } else if name.len() > LONGEST_NAME {
        "a name has at most 253 bytes"
    } else if !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        "a name is one word of printable ASCII without #"
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
    Err(Error::invalid("hosts", shown, why))
}

/// A new hosts file: the lines that every one begins with, those of IPv6 only where the sandbox has it (moby), and then
/// the extra hosts.
///
/// Parity: libnetwork `etchosts.Build`.
///
/// # Errors
/// As [`Entry::new`], for an extra host.
pub fn build(ipv6: bool, extra: &[ExtraHost]) -> Result<String> {
    let mut text = String::new();
    let defaults = IPV4_LINES.iter().chain(IPV6_LINES.iter().filter(|_| ipv6));
    for line in defaults {
        text.push_str(line);
        text.push('\n');
    }
    for host in extra {
        text.push_str(&Entry::extra(host)?.to_string());
        text.push('\n');
    }
    Ok(text)
}
