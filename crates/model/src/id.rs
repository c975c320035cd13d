//! Identifiers: one newtype per kind of object, so that they cannot be mixed up.
//!
//! A generated identifier is 64 lower-case hexadecimal characters, as libnetwork's (`controller.go`,
//! `stringid.GenerateRandomID`), made from two uuids that the caller draws. A network's identifier may
//! also be given by the caller; orchestrators use shorter ones, so any 1 to 64 characters of
//! `[A-Za-z0-9_.-]` are accepted there.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::error::{Error, ObjectKind, Reason};

/// The longest identifier, in bytes.
pub const MAX_ID_LEN: usize = 64;
/// How many characters a short identifier shows, as in libnetwork's logs and file names.
pub const SHORT_ID_LEN: usize = 12;

/// ASCII text padded with zero bytes: `Copy`, hashable, no allocation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Text([u8; MAX_ID_LEN]);

impl Text {
    fn from_uuids(a: Uuid, b: Uuid) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; MAX_ID_LEN];
        for (pair, byte) in text.chunks_exact_mut(2).zip(a.as_bytes().iter().chain(b.as_bytes())) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        Self(text)
    }

    fn given(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        // A leading dot or dash would read as a hidden file or as an option where ids become arguments.
        let starts_well = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if !starts_well || text.len() > MAX_ID_LEN || !text.bytes().all(allowed) {
            return None;
        }
        let mut padded = [0; MAX_ID_LEN];
        padded[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self(padded))
    }

    fn hex(text: &str) -> Option<Self> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == MAX_ID_LEN && text.bytes().all(hex)).then(|| Self::given(text)).flatten()
    }

    fn as_str(&self) -> &str {
        // Those that the engine draws have no padding.
        let full = self.0[MAX_ID_LEN - 1] != 0;
        let end = if full { MAX_ID_LEN } else { self.0.iter().position(|b| *b == 0).unwrap_or(MAX_ID_LEN) };
        std::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $kind:expr, $parse:ident, $shape:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Text);

        impl $name {
            /// Makes an identifier of 64 hexadecimal characters from two freshly drawn uuids.
            #[must_use]
            pub fn from_uuids(a: Uuid, b: Uuid) -> Self {
                Self(Text::from_uuids(a, b))
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// The first twelve characters, for people and for file names.
            #[must_use]
            pub fn short(&self) -> &str {
                let text = self.as_str();
                &text[..text.len().min(SHORT_ID_LEN)]
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Text::$parse(text).map(Self).ok_or_else(|| {
                    Reason::InvalidId { object: $kind, id: text.chars().take(80).collect(), expected: $shape }
                        .into()
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
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

id_type!(
    /// Identifies a network.
    NetworkId,
    ObjectKind::Network,
    given,
    "1 to 64 characters of A-Z a-z 0-9 _ . - starting with a letter or digit"
);
id_type!(
    /// Identifies an endpoint.
    EndpointId,
    ObjectKind::Endpoint,
    hex,
    "64 lower-case hexadecimal characters"
);
id_type!(
    /// Identifies a sandbox.
    SandboxId,
    ObjectKind::Sandbox,
    hex,
    "64 lower-case hexadecimal characters"
);
id_type!(
    /// Identifies a controller, and with it one engine on a host.
    ControllerId,
    ObjectKind::Controller,
    hex,
    "64 lower-case hexadecimal characters"
);

/// Identifies one join of an endpoint among all joins of an engine's life, failed ones too: what is to be
/// undone of one join must never hit a later one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JoinId(pub u32);

impl fmt::Display for JoinId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies one operation, from the caller's request through every mailbox it crosses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpId(pub Uuid);

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_id_is_64_hex_characters_and_survives_a_round_trip() {
        let id = SandboxId::from_uuids(Uuid::from_u128(1), Uuid::from_u128(u128::MAX));
        assert_eq!(id.as_str().len(), 64);
        assert_eq!(id.short(), "000000000000");
        assert_eq!(id.as_str().parse::<SandboxId>().expect("its own text parses"), id);
        let json = serde_json::to_string(&id).expect("serializes");
        assert_eq!(serde_json::from_str::<SandboxId>(&json).expect("reads back"), id);
    }

    #[test]
    fn a_network_id_may_be_given_and_others_may_not() {
        assert_eq!("swarm25charsid".parse::<NetworkId>().expect("accepted").short(), "swarm25chars");
        for bad in ["", " ", "a/b", "../x", "-rm", "é", &"a".repeat(65)] {
            assert!(bad.parse::<NetworkId>().is_err(), "{bad:?} must be refused");
        }
        for bad in ["", "abc", &"G".repeat(64), &"A".repeat(64)] {
            assert!(bad.parse::<EndpointId>().is_err(), "{bad:?} must be refused");
        }
    }
}
