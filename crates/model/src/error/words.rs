//! Parts of what errors say.

use std::fmt;

use super::Holder;
use crate::id::SandboxId;
use crate::ifname::IfName;

/// Some of many holders.
pub(super) struct List<'a>(pub(super) &'a [Holder]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        for (i, holder) in self.0.iter().take(SHOWN).enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{holder}")?;
        }
        if self.0.len() > SHOWN { write!(f, " and {} more", self.0.len() - SHOWN) } else { Ok(()) }
    }
}

/// Where an option was read from.
pub(super) fn in_file(file: Option<&str>) -> String {
    file.map_or_else(String::new, |file| format!("{file}, "))
}

/// A key before what is said about it, where there is a key.
pub(super) struct Prefix<'a>(pub(super) &'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

/// Where the host has something.
pub(crate) fn on_host(link: Option<&IfName>) -> String {
    link.map_or_else(|| "the host".to_owned(), |link| format!("the host's interface {link}"))
}

/// A sandbox, or whichever.
pub(super) fn sandbox_text(sandbox: Option<&SandboxId>) -> String {
    sandbox.map_or_else(|| "any sandbox".to_owned(), |id| format!("sandbox {}", id.short()))
}
