//! Names that the kernel and the file system see: interfaces and namespaces.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, Reason};

/// The longest interface name, in bytes (`IFNAMSIZ - 1`).
pub const MAX_IFNAME_LEN: usize = 15;

macro_rules! kernel_name {
    ($(#[$doc:meta])* $name:ident, $len:expr, $option:literal, $valid:expr, $why:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                let end = self.0.iter().position(|b| *b == 0).unwrap_or($len);
                std::str::from_utf8(&self.0[..end]).unwrap_or_default()
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let valid: fn(u8) -> bool = $valid;
                if text.is_empty() || text.len() > $len || text == "." || text == ".." || !text.bytes().all(valid) {
                    return Err(Reason::InvalidOption {
                        option: $option.into(),
                        value: text.chars().take(80).collect(),
                        why: $why.into(),
                    }
                    .into());
                }
                let mut padded = [0; $len];
                padded[..text.len()].copy_from_slice(text.as_bytes());
                Ok(Self(padded))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(|error: Error| de::Error::custom(error))
            }
        }
    };
}

kernel_name!(
    /// The name of a network interface: what `dev_valid_name` in the kernel accepts, and ASCII only. No `%`:
    /// the kernel would take the name for a template (`eth%d`) and choose another.
    IfName,
    MAX_IFNAME_LEN,
    "interface name",
    |b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'),
    "an interface name is 1 to 15 printable ASCII characters without '/', ':' and '%'"
);
kernel_name!(
    /// The name of a network namespace: a file name below the engine's `netns` directory.
    NetnsName,
    64,
    "namespace name",
    |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'),
    "a namespace name is 1 to 64 characters of A-Z a-z 0-9 _ . -"
);

impl IfName {
    /// What stands before the digits at its end, and those digits: `eth` and `0` of `eth0`.
    #[must_use]
    pub fn numbered(&self) -> (&str, &str) {
        let name = self.as_str();
        name.split_at(name.trim_end_matches(|c: char| c.is_ascii_digit()).len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_refuse_are_refused_here() {
        assert_eq!("br-0123456789ab".parse::<IfName>().expect("fits").as_str(), "br-0123456789ab");
        for bad in ["", ".", "..", "a b", "a/b", "eth0:1", "eth%d", "100%", "sixteen-chars-xx", "ü"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
        for bad in ["", "..", "a/b", "a b", &"n".repeat(65)] {
            assert!(bad.parse::<NetnsName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_split_before_the_digits_at_its_end() {
        for (name, parts) in
            [("eth0", ("eth", "0")), ("wan1-12", ("wan1-", "12")), ("lo", ("lo", "")), ("42", ("", "42"))]
        {
            assert_eq!(name.parse::<IfName>().expect("fits").numbered(), parts);
        }
    }
}
