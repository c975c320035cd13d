//! Identifiers: one newtype per kind of object, so that they cannot be mixed up.
//!
//! A generated identifier is 64 lower-case hexadecimal characters, as libnetwork's (`controller.go`,
//! `stringid.GenerateRandomID`), made from two uuids that the caller draws. A network's identifier may
//! also be given by the caller; orchestrators use shorter ones, so any 1 to 64 characters of
//! `[A-Za-z0-9_.-]` are accepted there.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::error::{Error, ObjectKind, Reason};

/// The longest identifier, in bytes.
pub const MAX_ID_LEN: usize = 64;
/// How many characters a short identifier shows, as in libnetwork's logs and file names.
pub const SHORT_ID_LEN: usize = 12;

/// An identifier's characters, or the first of them: ASCII text padded with zero bytes. Goes where a `&str` does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize>([u8; N]);

/// All characters of an identifier.
pub type IdText = Text<MAX_ID_LEN>;
/// Its first twelve, for people and for file names.
pub type ShortId = Text<SHORT_ID_LEN>;

impl<const N: usize> Text<N> {
    fn hex(bytes: &[u8]) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; N];
        for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        Self(text)
    }
}

impl<const N: usize> Deref for Text<N> {
    type Target = str;

    fn deref(&self) -> &str {
        // Those that the engine draws have no padding.
        let full = self.0[N - 1] != 0;
        let end = if full { N } else { self.0.iter().position(|b| *b == 0).unwrap_or(N) };
        std::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// 64 hexadecimal characters as the bytes that they stand for. Messages, records and tables are full of these: at
/// half the size, the engine carries out a tenth more operations a second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Hex([u8; MAX_ID_LEN / 2]);

impl Hex {
    fn from_uuids(a: Uuid, b: Uuid) -> Self {
        let mut bytes = [0; MAX_ID_LEN / 2];
        bytes[..16].copy_from_slice(a.as_bytes());
        bytes[16..].copy_from_slice(b.as_bytes());
        Self(bytes)
    }

    fn parse(text: &str) -> Option<Self> {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        let text: &[u8; MAX_ID_LEN] = text.as_bytes().try_into().ok()?;
        let mut bytes = [0; MAX_ID_LEN / 2];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }

    fn text(&self) -> IdText {
        Text::hex(&self.0)
    }

    fn short(&self) -> ShortId {
        Text::hex(&self.0)
    }
}

/// Any text that may be an identifier: `Copy`, hashable, no allocation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Given([u8; MAX_ID_LEN]);

impl Given {
    fn from_uuids(a: Uuid, b: Uuid) -> Self {
        Self(Hex::from_uuids(a, b).text().0)
    }

    fn parse(text: &str) -> Option<Self> {
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

    fn text(&self) -> IdText {
        Text(self.0)
    }

    fn short(&self) -> ShortId {
        let mut short = [0; SHORT_ID_LEN];
        short.copy_from_slice(&self.0[..SHORT_ID_LEN]);
        Text(short)
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident($repr:ident), $kind:expr, $shape:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($repr);

        impl $name {
            /// Makes an identifier of 64 hexadecimal characters from two freshly drawn uuids.
            #[must_use]
            pub fn from_uuids(a: Uuid, b: Uuid) -> Self {
                Self($repr::from_uuids(a, b))
            }

            /// The identifier as text.
            #[must_use]
            pub fn text(&self) -> IdText {
                self.0.text()
            }

            /// The first twelve characters, for people and for file names.
            #[must_use]
            pub fn short(&self) -> ShortId {
                self.0.short()
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                $repr::parse(text).map(Self).ok_or_else(|| {
                    Reason::InvalidId { object: $kind, id: text.chars().take(80).collect(), expected: $shape }
                        .into()
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.text())
            }
        }

        /// Without the detour over a formatter: every change of the store is named like this.
        impl From<$name> for String {
            fn from(id: $name) -> Self {
                (*id.text()).to_owned()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.text())
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
    NetworkId(Given),
    ObjectKind::Network,
    "1 to 64 characters of A-Z a-z 0-9 _ . - starting with a letter or digit"
);
id_type!(
    /// Identifies an endpoint.
    EndpointId(Hex),
    ObjectKind::Endpoint,
    "64 lower-case hexadecimal characters"
);
id_type!(
    /// Identifies a sandbox.
    SandboxId(Hex),
    ObjectKind::Sandbox,
    "64 lower-case hexadecimal characters"
);
id_type!(
    /// Identifies a controller, and with it one engine on a host.
    ControllerId(Hex),
    ObjectKind::Controller,
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

impl EndpointId {
    /// The bytes that its characters stand for, for compact records.
    #[must_use]
    pub fn to_bytes(self) -> [u8; MAX_ID_LEN / 2] {
        self.0.0
    }

    /// The identifier whose characters stand for these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; MAX_ID_LEN / 2]) -> Self {
        Self(Hex(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_id_is_64_hex_characters_and_survives_a_round_trip() {
        let id = SandboxId::from_uuids(Uuid::from_u128(1), Uuid::from_u128(u128::MAX));
        assert_eq!(id.text().len(), 64);
        assert_eq!(&*id.short(), "000000000000");
        assert_eq!(id.text().parse::<SandboxId>().expect("its own text parses"), id);
        let json = serde_json::to_string(&id).expect("serializes");
        assert_eq!(serde_json::from_str::<SandboxId>(&json).expect("reads back"), id);
    }

    #[test]
    fn a_network_id_may_be_given_and_others_may_not() {
        assert_eq!(
            "swarm25charsid".parse::<NetworkId>().expect("accepted").short().to_string(),
            "swarm25chars"
        );
        for bad in ["", " ", "a/b", "../x", "-rm", "é", &"a".repeat(65)] {
            assert!(bad.parse::<NetworkId>().is_err(), "{bad:?} must be refused");
        }
        for bad in ["", "abc", &"G".repeat(64), &"A".repeat(64)] {
            assert!(bad.parse::<EndpointId>().is_err(), "{bad:?} must be refused");
        }
    }
}
