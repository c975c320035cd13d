//! Names as they are compared: lower-cased, without the last dot, labels joined by dots.
//!
//! DNS compares ASCII letters without case (RFC 4343); libnetwork lower-cases what it stores and what it is asked
//! (`Resolver.handleIPQuery`, `networkNormalizeName`). A label on the wire may hold any byte, a dot too: such a name is
//! no name of ours and is never taken for one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use domain::base::Name;
use domain::base::name::{Label, NameBuilder};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The longest name on the wire, in bytes (RFC 1035, 2.3.4).
const LONGEST: usize = 255;

/// A name as records are kept under it; `None` for one that is empty.
#[must_use]
pub fn stored(name: &str) -> Option<Arc<str>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    (!name.is_empty()).then(|| name.to_ascii_lowercase().into())
}

/// A name on the wire as a key of records, without an allocation.
#[derive(Clone, Debug)]
pub struct Key {
    bytes: [u8; LONGEST],
    len: u8,
}

impl Key {
    /// Reads the labels of a question. `None` when it cannot be the name of a record: the root, or a label with a dot
    /// or with bytes that are no text.
    pub fn of<'a>(labels: impl Iterator<Item = &'a Label>) -> Option<Self> {
        let mut key = Self { bytes: [0; LONGEST], len: 0 };
        let mut at = 0;
        for label in labels.take_while(|label| !label.is_root()) {
            let label = label.as_slice();
            if at > 0 {
                *key.bytes.get_mut(at)? = b'.';
                at += 1;
            }
            let space = key.bytes.get_mut(at..at + label.len())?;
            for (to, from) in space.iter_mut().zip(label) {
                if *from == b'.' {
                    return None;
                }
                *to = from.to_ascii_lowercase();
            }
            at += label.len();
        }
        key.len = u8::try_from(at).ok()?;
        (at > 0 && std::str::from_utf8(&key.bytes[..at]).is_ok()).then_some(key)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // It was looked at when it was read.
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

/// A name as it goes on the wire; `None` when it cannot go there: an empty label, one above 63 bytes, or all above 255.
#[must_use]
pub fn wire(name: &str) -> Option<Name<Vec<u8>>> {
    let mut builder = NameBuilder::new_vec();
    for label in name.split('.') {
        if label.is_empty() || label.len() > Label::MAX_LEN {
            return None;
        }
        builder.append_label(label.as_bytes()).ok()?;
    }
    builder.into_name().ok()
}

/// What a name below `in-addr.arpa` or `ip6.arpa` stands for: an address when it is complete, a range when it is the
/// name of a zone above. `None` for every other name.
#[must_use]
pub fn reverse(name: &str) -> Option<IpNet> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut given = 0;
        for label in labels.rsplit('.') {
            // RFC 1035, 3.5: no leading zeros, which other readers may take for octal numbers.
            let canonical = label == "0" || !label.starts_with(['0', '+']);
            *octets.get_mut(given)? = canonical.then(|| label.parse::<u8>().ok()).flatten()?;
            given += 1;
        }
        let bits = u8::try_from(given * 8).ok()?;
        return Ipv4Net::new(Ipv4Addr::from(octets), bits).ok().map(IpNet::V4);
    }
    let labels = name.strip_suffix(".ip6.arpa")?;
    let (mut address, mut given) = (0_u128, 0_u8);
    for label in labels.rsplit('.') {
        let mut digits = label.chars();
        let digit = digits.next()?.to_digit(16)?;
        if digits.next().is_some() || given == 128 {
            return None;
        }
        address |= u128::from(digit) << (124 - given);
        given += 4;
    }
    Ipv6Net::new(Ipv6Addr::from(address), given).ok().map(IpNet::V6)
}

/// The address that a range stands for when it holds exactly one.
#[must_use]
pub(crate) fn single(range: IpNet) -> Option<IpAddr> {
    (range.prefix_len() == range.max_prefix_len()).then(|| range.addr())
}

#[cfg(test)]
mod tests {
    use super::{Key, reverse, stored, wire};

    fn key(name: &str) -> Option<String> {
        Key::of(wire(name).expect("a name").iter()).map(|key| key.as_str().to_owned())
    }

    #[test]
    fn keys_are_lower_case_and_have_no_last_dot() {
        assert_eq!(key("Web.My-Net").as_deref(), Some("web.my-net"));
        assert_eq!(key("büro").as_deref(), Some("büro"));
        assert_eq!(stored("Web.").as_deref(), Some("web"));
        assert_eq!(stored("."), None);
        assert_eq!(stored(""), None);
    }

    #[test]
    fn a_label_with_a_dot_is_no_name_of_ours() {
        let mut builder = domain::base::name::NameBuilder::new_vec();
        builder.append_label(b"a.b").expect("short");
        assert!(Key::of(builder.into_name().expect("short").iter()).is_none());
        let mut builder = domain::base::name::NameBuilder::new_vec();
        builder.append_label(&[0xff, 0xfe]).expect("short");
        assert!(Key::of(builder.into_name().expect("short").iter()).is_none());
        assert!(Key::of(domain::base::Name::root_vec().iter()).is_none());
    }

    #[test]
    fn names_that_do_not_fit_stay_off_the_wire() {
        assert!(wire(&"a".repeat(63)).is_some());
        assert!(wire(&"a".repeat(64)).is_none());
        assert!(wire(&vec!["a"; 127].join(".")).is_some());
        assert!(wire(&vec!["a"; 128].join(".")).is_none());
        for name in ["", ".", "a..b", ".a", "a."] {
            assert!(wire(name).is_none(), "{name:?}");
        }
        let longest = key(&vec!["a"; 127].join(".")).expect("fits");
        assert_eq!(longest.len(), 253);
    }

    #[test]
    fn reverse_names() {
        let zeros = ["0"; 31].join(".");
        for (name, range) in [
            ("2.0.17.172.in-addr.arpa", Some("172.17.0.2/32")),
            ("17.172.in-addr.arpa", Some("172.17.0.0/16")),
            (&format!("1.{zeros}.ip6.arpa"), Some("::1/128")),
            ("d.f.ip6.arpa", Some("fd00::/8")),
            ("256.0.17.172.in-addr.arpa", None),
            ("02.0.17.172.in-addr.arpa", None),
            ("+2.0.17.172.in-addr.arpa", None),
            ("1.2.3.4.5.in-addr.arpa", None),
            ("in-addr.arpa", None),
            (".in-addr.arpa", None),
            ("xin-addr.arpa", None),
            (&format!("1.0.{zeros}.ip6.arpa"), None),
            ("10.ip6.arpa", None),
            ("g.ip6.arpa", None),
            ("web", None),
        ] {
            assert_eq!(reverse(name).map(|range| range.to_string()).as_deref(), range, "{name}");
        }
    }
}
