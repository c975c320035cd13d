//! What the store of a cluster has of the last changes of an address space.

use netloom_model::{Error, Reason};
use netloom_store::{StoreError, encode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::change::Change;

/// How many changes a head has at most before an image is written.
const LONG: usize = 64;
/// How many bytes it has at most before: stores have a limit, of 1.5 MiB for etcd.
const LARGE: usize = 256 * 1024;
/// Where everything lies in the store.
const PREFIX: &str = "netloom/v1/ipam/GlobalDefault";

/// What the store has of the last changes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Which history this is: a store that was emptied begins another one.
    pub history: Uuid,
    /// How many changes are in the image; there is none for zero.
    pub image: u64,
    /// Those after it.
    pub changes: Vec<Change>,
}

impl Head {
    pub(crate) fn last(&self) -> u64 {
        self.image + self.changes.len() as u64
    }

    pub(crate) fn image_key(&self) -> String {
        format!("{}{:020}", self.images(), self.image)
    }

    /// What the keys of its history's images begin with.
    pub(crate) fn images(&self) -> String {
        format!("{PREFIX}/image/{}/", self.history.simple())
    }

    pub(crate) fn is_long(&self) -> bool {
        let large = || encode(self).is_ok_and(|bytes| bytes.len() > LARGE);
        self.changes.len() >= LONG || (self.changes.len() > 1 && large())
    }
}

pub(crate) fn head_key() -> String {
    format!("{PREFIX}/head")
}

/// How the space begins anew: what a host has is in its own store, and it says so when it starts.
const ANEW: &str = "put it back as it was, from a backup of the cluster's store; or remove the key \
                    \"netloom/v1/ipam/GlobalDefault/head\" there and start the engines of all hosts again, one after the \
                    other, so that each says what it has";

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
