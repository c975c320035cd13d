//! What the user sees.

// The one place of the program that writes to the terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::time::Duration;

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
}

impl Step {
    pub(crate) fn new(name: &str, took: Duration, result: impl Into<String>) -> Self {
        let ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        Self { name: name.to_owned(), ms, result: result.into() }
    }
}

/// Shows a demonstration to a person.
pub(crate) fn table(outcome: &Outcome) {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(["step", "ms", "result"]);
    for step in &outcome.steps {
        let ms = Cell::new(format!("{:.3}", step.ms)).set_alignment(CellAlignment::Right);
        table.add_row([Cell::new(&step.name), ms, Cell::new(&step.result)]);
    }
    println!("{table}");
}

/// Shows a demonstration to a program.
pub(crate) fn json(outcome: &Outcome) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(outcome)?);
    Ok(())
}

/// Rows of figures: names to the left, the rest to the right.
pub(crate) fn rows(header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header);
    for row in rows {
        let aligned = row.into_iter().enumerate().map(|(place, text)| {
            Cell::new(text).set_alignment(if place == 0 { CellAlignment::Left } else { CellAlignment::Right })
        });
        table.add_row(aligned);
    }
    println!("{table}");
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

/// A line for a person.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// A line for a person where standard output is for a program.
pub(crate) fn aside(text: &str) {
    eprintln!("{text}");
}

/// An error, with what can be done about it.
pub(crate) fn failure(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
    let remedy = error.downcast_ref::<netloom::Error>().and_then(netloom::Error::remedy);
    if let Some(remedy) = remedy {
        eprintln!("remedy: {remedy}");
    }
}
