//! What the store of a cluster has of the last changes of an address space.

use netloom_model::{Error, Reason, Result};
use netloom_store::StoreError;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::change::Change;
use crate::tree::{Name, Rebuilt};

/// How many changes a head has at most before an image is written.
const LONG: usize = 64;
/// How many bytes it has at most before, and how many the changes of one request may take: stores have a limit, of 1.5 MiB
/// for etcd.
const LARGE: usize = 256 * 1024;
/// How many heads of before are kept for those who are not far behind: so they need no image.
const KEPT: usize = 16;
/// What the keys of everything that is in the store of the space begin with.
const PREFIX: &str = "netloom/v1/ipam/GlobalDefault";
/// What the keys of pieces of the history begin with.
pub(crate) const PIECES: &str = "netloom/v1/ipam/GlobalDefault/history/";
/// What the keys of the parts of images begin with.
pub(crate) const IMAGES: &str = "netloom/v1/ipam/GlobalDefault/image/";

/// What the store has of the last changes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    /// Which history this is: a store that was emptied begins another one.
    pub history: Uuid,
    /// How many changes are in the image; there is none for zero.
    pub image: u64,
    /// Its uppermost part; none for an image of nothing.
    pub root: Option<Name>,
    /// How many parts it has.
    pub parts: u64,
    /// Where pieces of the history before the image begin and end: from each of these numbers to the next.
    pub pieces: Vec<u64>,
    /// Up to which image parts that are of no use were looked for.
    pub swept: u64,
    /// Whether somebody found that a part of the image is lost or damaged: whoever knows all writes a whole one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub broken: bool,
    /// The changes after the image.
    #[serde(with = "crate::packed")]
    pub changes: Vec<Change>,
    /// How many bytes it has in the store.
    #[serde(skip)]
    pub bytes: usize,
}

impl Head {
    /// Of a history in which nothing has happened yet.
    pub(crate) fn new(history: Uuid) -> Self {
        let (pieces, changes) = (Vec::new(), Vec::new());
        Self { history, image: 0, root: None, parts: 0, pieces, swept: 0, broken: false, changes, bytes: 0 }
    }

    pub(crate) fn last(&self) -> u64 {
        self.image + self.changes.len() as u64
    }

    pub(crate) fn is_long(&self) -> bool {
        self.changes.len() >= LONG || (!self.changes.is_empty() && self.bytes > LARGE)
    }

    /// The head that begins at the image of all changes of this one; and whether what is of no use has to be looked for:
    /// as seldom as there are parts, so that it costs each change the same.
    pub(crate) fn after(&self, rebuilt: &Rebuilt) -> (Self, bool) {
        let (history, image, root) = (self.history, self.last(), rebuilt.root);
        let before = if rebuilt.anew { 0 } else { self.parts };
        let parts = (before + rebuilt.new.len() as u64).saturating_sub(rebuilt.old.len() as u64);
        let due = rebuilt.anew || image - self.swept.min(image) >= parts.max(LONG as u64);
        let swept = if due { image } else { self.swept };
        let first = self.pieces.is_empty().then_some(self.image);
        let mut pieces: Vec<_> = first.into_iter().chain(self.pieces.iter().copied()).collect();
        pieces.push(image);
        pieces.drain(..pieces.len().saturating_sub(KEPT + 1));
        let (broken, changes) = (false, Vec::new());
        (Self { history, image, root, parts, pieces, swept, broken, changes, bytes: 0 }, due)
    }
}

/// A piece of the history: the changes that a head had.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Piece {
    /// How many there were before.
    pub after: u64,
    /// The changes.
    #[serde(with = "crate::packed")]
    pub changes: Vec<Change>,
}

/// Refuses changes of one request that would make a head so many bytes larger: too much at once.
///
/// # Errors
/// `InvalidParameter`.
pub(crate) fn check_size(bytes: usize) -> Result<()> {
    if bytes <= LARGE {
        return Ok(());
    }
    let why = format!(
        "it takes {bytes} bytes in the cluster's store, and at most {LARGE} fit there at once; give the network fewer pools \
         or auxiliary addresses, or shorter names for these"
    );
    Err(Error::invalid("what is asked of the cluster's address space", format!("{bytes} bytes"), why))
}

pub(crate) fn head_key() -> String {
    format!("{PREFIX}/head")
}

/// How the space begins anew: what a host has is in its own store, and it says so when it starts.
const ANEW: &str = "put it back as it was, from a backup of the cluster's store; or remove the key \
                    \"netloom/v1/ipam/GlobalDefault/head\" there and start the engines of all hosts again, one after the \
                    other, so that each says what it has";

/// What heals a part that is lost: until then, what it can have said is not given out.
pub(crate) const HEALS: &str = "change something in the cluster's address space on a host whose engine was there before: \
                                it writes the part again, and this engine reads it then; where there is no such host, put \
                                the key back from a backup of the cluster's store, or remove the key \
                                \"netloom/v1/ipam/GlobalDefault/head\" there and start the engines of all hosts again, one \
                                after the other, so that each says what it has";
/// How large a head becomes at most of changes by those who do not know all, and so write no image.
pub(crate) const LARGEST: usize = 768 * 1024;

/// The error for what is of no use as it is in the store. Nothing writes over it, so every start meets it again.
pub(crate) fn unusable(key: String, why: impl Into<String>) -> Error {
    Reason::ClusterStore { key, why: why.into(), remedy: ANEW.to_owned() }.into()
}

/// The error for what cannot be read; `remedy` is for what is damaged.
pub(crate) fn unread(key: String, error: &StoreError, remedy: &str) -> Error {
    let remedy = if matches!(error, StoreError::Newer { .. }) {
        format!("if other hosts have a later version of the engine, start that one here; otherwise {remedy}")
    } else {
        remedy.to_owned()
    };
    Reason::ClusterStore { key, why: error.to_string(), remedy }.into()
}

/// The same, for what the space is made of.
pub(crate) fn damaged(key: String, error: &StoreError) -> Error {
    unread(key, error, ANEW)
}
