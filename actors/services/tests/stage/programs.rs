//! Simulated programs of iptables, as the firewall calls them.

use std::time::Instant;

use netloom_firewall::io::{Host, Variant, XtablesError};
use netloom_firewall::iptables::{Calls, Saved, Version};
use netloom_kernel::program::ProgramError;
use netloom_testkit::SimIptables;

/// The programs of both variants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Programs {
    pub(crate) nft: One,
    pub(crate) legacy: One,
}

/// Those of one of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct One(pub(crate) SimIptables);

impl Host for Programs {
    fn variant(&mut self, variant: Variant) -> Option<&mut dyn Calls> {
        Some(match variant {
            Variant::Nft => &mut self.nft,
            Variant::Legacy => &mut self.legacy,
        })
    }
}

fn failed(error: String) -> XtablesError {
    let error = std::io::Error::other(error);
    XtablesError::Program { error: ProgramError::Io { program: "/simulated".into(), error }, line: None }
}

impl Calls for One {
    fn save(&mut self, version: Version, _: Instant) -> Result<Saved, XtablesError> {
        Ok(Saved::parse(&self.0.save(version == Version::V6)))
    }

    fn restore(&mut self, version: Version, text: &str, _: Instant) -> Result<(), XtablesError> {
        self.0.restore(version == Version::V6, text).map_err(failed)
    }

    fn test(&mut self, version: Version, text: &str, _: Instant) -> Result<(), XtablesError> {
        self.0.tables(version == Version::V6).feed(text).map_err(failed)
    }
}
