//! What a caller asks for. Each spec is a plain struct with builder methods; nothing is checked before
//! [`NetworkSpec::validate`] and its siblings, which the controller calls before any effect.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

mod endpoint;
mod network;
mod ports;
mod sandbox;

pub use endpoint::{EndpointSpec, Names, parse_link};
pub use network::{IpamPoolSpec, IpamSpec, NetworkSpec};
pub use ports::{PortBinding, Ports, Protocol, TransportPort};
pub use sandbox::{ExtraHost, NamespaceSpec, ParentUpdate, SandboxSettings, SandboxSpec};

/// The longest key of an option or label, in bytes.
const MAX_KEY_LEN: usize = 255;
/// The longest option or label value, in bytes.
const MAX_VALUE_LEN: usize = 16 * 1024;
/// The most bytes of all options, or of all labels, together: every inspection copies them.
const MAX_MAP_LEN: usize = 256 * 1024;
/// The most options, labels, pools or auxiliary addresses one spec may carry.
const MAX_ENTRIES: usize = 1024;

fn check_map(field: &str, map: &BTreeMap<String, String>) -> Result<()> {
    if map.len() > MAX_ENTRIES {
        return Err(Error::invalid(field, map.len(), "at most 1024 entries"));
    }
    for (key, value) in map {
        if key.trim().is_empty() {
            return Err(Error::invalid(field, key, "a key must not be blank"));
        }
        if key.len() > MAX_KEY_LEN || value.len() > MAX_VALUE_LEN {
            let why = "a key has at most 255 bytes, a value at most 16384";
            return Err(Error::invalid(format!("{field}.{}", abridged(key)), abridged(value), why));
        }
    }
    let length: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if length > MAX_MAP_LEN {
        let why = "keys and values have at most 262144 bytes together";
        return Err(Error::invalid(field, format!("{length} bytes"), why));
    }
    Ok(())
}

/// The beginning of a text that is too long to be shown.
fn abridged(text: &str) -> String {
    text.chars().take(40).collect()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
pub(crate) fn is_false(flag: &bool) -> bool {
    !flag
}

/// How an endpoint joins a sandbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JoinSpec {
    /// Higher wins the election of the endpoint that provides the default route; ties go to the network's
    /// name (libnetwork's `JoinOptionPriority`).
    pub priority: i32,
}

impl JoinSpec {
    /// A join with a priority.
    #[must_use]
    pub fn priority(priority: i32) -> Self {
        Self { priority }
    }
}

#[cfg(test)]
mod tests;
