//! What the user sees: the one place of the program that writes to the terminal.

use std::fmt::Display;
use std::io::{self, Stdout, Write};
use std::time::Duration;

use anyhow::Context;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Cell, CellAlignment, Table};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// One step of the demonstration.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Step {
    /// What was done.
    pub(crate) name: String,
    /// How long it took, in milliseconds.
    pub(crate) ms: f64,
    /// What came of it, in words.
    #[serde(skip)]
    pub(crate) result: String,
}

/// The whole demonstration.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Outcome {
    /// Whether everything worked and nothing is left.
    pub(crate) ok: bool,
    /// Every step, in order.
    pub(crate) steps: Vec<Step>,
    /// What is left behind; empty where everything was meant to stay.
    pub(crate) leftovers: Vec<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// What can be done about that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

/// Standard output, for as long as somebody reads it.
///
/// A reader may go when it has seen enough, as `head` does. Nothing is wrong then: the rest is not written, and
/// the exit status goes on telling about the work. Any other failure, a full disk for one, ends the output too and
/// is an error.
#[derive(Debug)]
pub(crate) struct Output<W = Stdout> {
    writer: W,
    ended: Option<io::Error>,
}

impl Output {
    /// The program's own.
    pub(crate) fn standard() -> Self {
        Self::new(io::stdout())
    }
}

impl<W: Write> Output<W> {
    fn new(writer: W) -> Self {
        Self { writer, ended: None }
    }

    /// Writes lines, unless the output has ended; tells whether they were written.
    pub(crate) fn line(&mut self, text: impl Display) -> bool {
        if self.ended.is_none() {
            self.ended = writeln!(self.writer, "{text}").and_then(|()| self.writer.flush()).err();
        }
        self.ended.is_none()
    }

    /// Why not everything was written, where that is a failure.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        match self.ended {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(error).context("cannot write to standard output")
            }
            _ => Ok(()),
        }
    }
}

impl Step {
    pub(crate) fn new(name: &str, took: Duration, result: impl Into<String>) -> Self {
        let ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        Self { name: name.to_owned(), ms, result: result.into() }
    }
}

/// Shows a demonstration to a person.
pub(crate) fn table(out: &mut Output, outcome: &Outcome) {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(["step", "ms", "result"]);
    for step in &outcome.steps {
        let ms = Cell::new(format!("{:.3}", step.ms)).set_alignment(CellAlignment::Right);
        table.add_row([Cell::new(&step.name), ms, Cell::new(&step.result)]);
    }
    out.line(table);
}

/// Shows a demonstration to a program.
pub(crate) fn json(out: &mut Output, outcome: &Outcome) -> anyhow::Result<()> {
    out.line(serde_json::to_string(outcome)?);
    Ok(())
}

/// Rows of figures: names to the left, the rest to the right.
pub(crate) fn rows(out: &mut Output, header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header);
    for row in rows {
        let aligned = row.into_iter().enumerate().map(|(place, text)| {
            Cell::new(text).set_alignment(if place == 0 { CellAlignment::Left } else { CellAlignment::Right })
        });
        table.add_row(aligned);
    }
    out.line(table);
}

/// Shows how far something has come, where somebody looks at a terminal.
pub(crate) fn progress(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
    let bar = ProgressBar::new(total);
    style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
}

/// Shows that something goes on whose length nobody knows.
pub(crate) fn spinner(what: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(what);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// A line for a person where standard output is for a program, or nobody reads it.
pub(crate) fn aside(text: impl Display) {
    // Where this cannot be written, nothing can be told.
    let _ = writeln!(io::stderr(), "{text}");
}

/// An error, with what can be done about it.
pub(crate) fn failure(error: &anyhow::Error) {
    aside(format_args!("error: {error:#}"));
    if let Some(remedy) = remedy(error) {
        aside(format_args!("remedy: {remedy}"));
    }
}

/// What can be done about an error, where the engine knows it.
pub(crate) fn remedy(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| cause.downcast_ref::<netloom::Error>()?.remedy())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then refuses.
    struct Narrow(usize, io::ErrorKind);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(self.1)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_who_goes_is_no_failure() {
        let mut out = Output::new(Narrow(6, io::ErrorKind::BrokenPipe));
        assert!(out.line("first"));
        assert!(!out.line("second"));
        // Would fit, and would leave a gap.
        assert!(!out.line(""));
        out.finish().expect("quiet");
    }

    #[test]
    fn a_full_disk_is_a_failure() {
        let mut out = Output::new(Narrow(0, io::ErrorKind::StorageFull));
        assert!(!out.line("first"));
        let error = format!("{:#}", out.finish().expect_err("told"));
        assert!(error.starts_with("cannot write to standard output: "), "{error}");
    }

    #[test]
    fn the_remedy_is_found_below_what_was_added() {
        let error = anyhow::Error::from(netloom::Error::not_found(netloom::ObjectKind::Network, "blue"));
        let error = error.context("delete the network").context("not all was taken down");
        assert_eq!(remedy(&error).as_deref(), Some("list the networks and check the spelling"));
        assert_eq!(remedy(&anyhow::anyhow!("no answer")), None);
    }
}
