//! Records: what they are called and how they are written.

use std::cell::RefCell;

use netloom_model::{NetworkId, ObjectKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::StoreError;

/// The format written here; readers take this one and all before it.
const FORMAT: u8 = 1;
/// The format byte and the checksum.
const HEADER: usize = 5;

/// The kinds of records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RecordKind {
    /// A network.
    Network,
    /// An endpoint.
    Endpoint,
    /// A sandbox.
    Sandbox,
    /// A driver's own data.
    Driver,
    /// The engine's own data, such as its identity.
    Engine,
    /// How far the choice of addresses may have come in a network.
    Order,
    /// Addresses of a network that are kept for a name.
    Reservation,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Network,
        Self::Endpoint,
        Self::Sandbox,
        Self::Driver,
        Self::Engine,
        Self::Order,
        Self::Reservation,
    ];

    /// Its number on disk. Never reused for another kind.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Network => 1,
            Self::Endpoint => 2,
            Self::Sandbox => 3,
            Self::Driver => 4,
            Self::Engine => 5,
            Self::Order => 6,
            Self::Reservation => 7,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

impl From<RecordKind> for ObjectKind {
    /// The kind of object the record is about; the engine's is the controller.
    fn from(kind: RecordKind) -> Self {
        match kind {
            RecordKind::Network | RecordKind::Order => Self::Network,
            RecordKind::Endpoint => Self::Endpoint,
            RecordKind::Sandbox => Self::Sandbox,
            RecordKind::Driver => Self::Driver,
            RecordKind::Engine => Self::Controller,
            RecordKind::Reservation => Self::Reservation,
        }
    }
}

/// The name of a record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// Its kind.
    pub kind: RecordKind,
    /// Its identifier, unique among its kind.
    pub id: String,
}

impl Key {
    /// A key.
    pub fn new(kind: RecordKind, id: impl Into<String>) -> Self {
        Self { kind, id: id.into() }
    }

    /// The key of what is kept for a name in a network. Either may be any text, so the length of one is told.
    #[must_use]
    pub fn reservation(network: &NetworkId, name: &str) -> Self {
        let network = network.text();
        Self::new(RecordKind::Reservation, format!("{}/{network}/{name}", network.len()))
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + self.id.len());
        bytes.push(self.kind.code());
        bytes.extend(self.id.as_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        let parsed = bytes.split_first().and_then(|(code, id)| {
            Some(Self { kind: RecordKind::from_code(*code)?, id: std::str::from_utf8(id).ok()?.to_owned() })
        });
        parsed.ok_or_else(|| StoreError::damaged("a key of the store", format!("{bytes:02x?}")))
    }
}

/// A change of one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Writes a record, in place of the old one if there is one.
    Put {
        /// Its name.
        key: Key,
        /// Its bytes, made by [`encode`].
        value: Vec<u8>,
    },
    /// Removes a record, if it is there.
    Delete {
        /// Its name.
        key: Key,
    },
}

impl Change {
    /// Encodes and writes a record.
    ///
    /// # Errors
    /// As [`encode`].
    pub fn put<T: Serialize>(key: Key, record: &T) -> Result<Self, StoreError> {
        Ok(Self::Put { key, value: encode(record)? })
    }
}

/// Writes a record as bytes: a format number, a checksum, JSON.
///
/// # Errors
/// `Unencodable` if it cannot be JSON, such as a map whose keys are no strings.
pub fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, StoreError> {
    SCRATCH.with_borrow_mut(|bytes| {
        bytes.clear();
        bytes.resize(HEADER, 0);
        serde_json::to_writer(&mut *bytes, record)
            .map_err(|error| StoreError::Unencodable { what: "a record", why: error.to_string() })?;
        let crc = crc32fast::hash(&bytes[HEADER..]);
        bytes[0] = FORMAT;
        bytes[1..HEADER].copy_from_slice(&crc.to_le_bytes());
        Ok(bytes.as_slice().to_vec())
    })
}

thread_local! {
    /// Where a record is written first: it grows to the longest one, and each is copied out at its own length.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// `Damaged` if the bytes are torn, altered or of another type; `Newer` if a later engine wrote them.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    let what = "a record";
    let Some((header, json)) = bytes.split_at_checked(HEADER) else {
        return Err(StoreError::damaged(what, format!("it has {} bytes", bytes.len())));
    };
    if header[0] > FORMAT {
        return Err(StoreError::Newer { what: what.into(), found: header[0].into(), known: FORMAT.into() });
    }
    if header[0] == 0 || header[1..] != crc32fast::hash(json).to_le_bytes() {
        return Err(StoreError::damaged(what, "its checksum is wrong"));
    }
    serde_json::from_slice(json).map_err(|error| StoreError::damaged(what, error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn records_survive_a_round_trip_and_any_damage_is_noticed() {
        let record = BTreeMap::from([("größe".to_owned(), vec![1u64, u64::MAX])]);
        let bytes = encode(&record).expect("JSON");
        assert_eq!(decode::<BTreeMap<String, Vec<u64>>>(&bytes).expect("whole"), record);
        for len in 0..bytes.len() {
            assert!(decode::<BTreeMap<String, Vec<u64>>>(&bytes[..len]).is_err(), "cut to {len}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut altered = bytes.clone();
                altered[at] ^= 1 << bit;
                assert!(decode::<BTreeMap<String, Vec<u64>>>(&altered).is_err(), "byte {at} bit {bit}");
            }
        }
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(StoreError::Damaged { .. })), "another type");
        let mut newer = bytes;
        newer[0] = FORMAT + 1;
        assert!(matches!(decode::<()>(&newer), Err(StoreError::Newer { found: 2, known: 1, .. })));
        assert!(matches!(encode(&BTreeMap::from([(vec![1], 1)])), Err(StoreError::Unencodable { .. })));
    }

    #[test]
    fn keys_survive_a_round_trip() {
        for kind in RecordKind::ALL {
            for id in ["", "a", "ü/.."] {
                let key = Key::new(kind, id);
                assert_eq!(Key::from_bytes(&key.to_bytes()), Ok(key));
            }
        }
        for bad in [&[][..], &[0, 65], &[99, 65], &[1, 0xff]] {
            assert!(Key::from_bytes(bad).is_err(), "{bad:?}");
        }
    }
}
