//! The records of a data directory, only read: an engine may be at work with it.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use netloom::Error;
use netloom_store::{Held, Key, Peeked, peek};

use crate::report::{self, Output};

/// Where records are read, and how they are shown.
#[derive(Debug, clap::Args)]
pub(crate) struct Source {
    /// The engine's data directory. It is only read, also while an engine has it.
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/netloom")]
    pub(crate) data_dir: PathBuf,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// How records are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Every record. Whoever reads beside an engine is told so.
pub(crate) fn read(dir: &Path) -> anyhow::Result<Vec<(Key, Vec<u8>)>> {
    let Peeked { records, held } = peek(dir).map_err(Error::from).with_context(|| {
        format!("cannot read the store of {}; --data-dir names an engine's data directory", dir.display())
    })?;
    if let Some(Held { process }) = held {
        let process = process.map(|process| format!(" (process {process})")).unwrap_or_default();
        report::aside(format_args!(
            "note: an engine{process} has {}; what it has not recorded is not shown, which is what is under way",
            dir.display()
        ));
    }
    Ok(records)
}

/// A warning about what cannot be shown.
pub(crate) fn left_out(what: &str, why: &dyn Display) {
    report::aside(format_args!("warning: {what} is left out: {why}"));
}

/// Lines, for as long as somebody reads them.
pub(crate) fn lines(out: &mut Output, lines: impl IntoIterator<Item = impl Display>) {
    for line in lines {
        if !out.line(line) {
            return;
        }
    }
}
