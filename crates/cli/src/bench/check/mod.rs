//! `netloom bench check`: whether the engine is as fast as it must be. Ratios to what the kernel alone needs are
//! measured in one run, so that they mean the same on any machine.

mod alone;
mod ports;
mod real;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;

use crate::report::{self, Output};

/// What is checked.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Check {
    /// How often each is measured; the middle one counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=99))]
    runs: u64,
    /// Only these.
    #[arg(long, value_enum)]
    only: Vec<Topic>,
    /// Writes the figures as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where stores are put; on a disk, so that a sync is a sync.
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
    /// Measures one topic once and prints its figures as JSON.
    #[arg(long, hide = true, value_enum)]
    measure: Option<Topic>,
}

/// What is measured together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Topic {
    // First, while the kernel is at rest: it goes on taking namespaces down long after the others.
    /// The engine alone, over a simulated kernel: throughput.
    Alone,
    /// The same: memory.
    Memory,
    /// The same: a start with 20,000 endpoints.
    Restart,
    /// 500 endpoints on 4 bridges, 64 callers: all come, then all go.
    Hold,
    /// 1,000 endpoints come and go, 64 callers.
    Churn,
    /// 300 endpoints come and go, one caller.
    One,
    /// 1,000 joins at once.
    Joins,
    /// The 1,000th endpoint of a bridge against the 10th.
    Growth,
    /// One driver hangs while another one is used.
    Hang,
    /// What published ports add to a join, on an empty host and beside 5,000 endpoints with four each.
    Publish,
    /// A start with 400 endpoints and 1,000 ports.
    Republish,
    /// A TCP stream to a published port, beside the same over a ruleset by hand.
    Nat,
}

/// A figure with its bound.
#[derive(Clone, Copy, Debug)]
struct Must {
    what: &'static str,
    bound: Bound,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }
}

impl Must {
    const fn at_least(what: &'static str, limit: f64) -> Self {
        Self { what, bound: Bound::AtLeast(limit) }
    }

    const fn at_most(what: &'static str, limit: f64) -> Self {
        Self { what, bound: Bound::AtMost(limit) }
    }
}

impl Topic {
    /// Its figures, in the order in which [`measure`](Self::measure) gives them.
    fn musts(self) -> &'static [Must] {
        match self {
            Self::Hold => {
                const {
                    &[
                        Must::at_least("up/s of 64 callers, as part of the floor", 0.70),
                        Must::at_least("down/s of 64 callers, as part of the floor", 0.70),
                    ]
                }
            }
            Self::Churn => {
                const { &[Must::at_least("lifecycles/s of 64 callers, as part of the floor", 0.60)] }
            }
            Self::One => {
                const {
                    &[
                        Must::at_most("up of one caller, p50, in floors", 2.5),
                        Must::at_most("down of one caller, p50, ms", 5.0),
                    ]
                }
            }
            Self::Joins => const { &[Must::at_most("syncs for 1,000 joins at once", 40.0)] },
            Self::Growth => {
                const { &[Must::at_most("up at the 1,000th port against the 10th, in floors", 1.15)] }
            }
            Self::Hang => {
                const { &[Must::at_most("100 creations beside a driver that hangs, in normal times", 1.5)] }
            }
            Self::Alone => {
                const {
                    &[
                        Must::at_least("lifecycles/s of the engine alone, its memory kept", 20_000.0),
                        Must::at_least("lifecycles/s at 100,000 endpoints against 1,000", 0.85),
                    ]
                }
            }
            Self::Publish => {
                const {
                    &[
                        Must::at_most("1 port adds to a join, ms", 2.0),
                        Must::at_most("100 ports add to a join, ms", 5.0),
                        Must::at_most("1,000 ports add to a join, ms", 20.0),
                        Must::at_most("1,000 ports in a row add to a join, ms", 3.0),
                        Must::at_most(
                            "what 100 ports add beside 5,000 endpoints with 4 each, against the empty host",
                            1.15,
                        ),
                    ]
                }
            }
            Self::Republish => {
                const { &[Must::at_most("start with 400 endpoints and 1,000 ports, ms", 500.0)] }
            }
            Self::Nat => {
                const { &[Must::at_least("TCP to a published port, as part of a ruleset by hand", 0.97)] }
            }
            Self::Memory => const { &[Must::at_most("KiB for a joined endpoint", 8.0)] },
            Self::Restart => const { &[Must::at_most("start with 20,000 endpoints, s", 1.0)] },
        }
    }

    /// Measures it in a process of its own: what one measurement leaves in memory and in namespaces is none of
    /// the next one's business.
    fn measure(self, check: &Check) -> anyhow::Result<Vec<f64>> {
        let name = self.to_possible_value().context("every topic has a name")?;
        let mut program = std::process::Command::new(std::env::current_exe()?);
        program.args(["bench", "check", "--measure", name.get_name()]);
        if let Some(dir) = &check.dir {
            program.arg("--dir").arg(dir);
        }
        if self == Self::Alone {
            // Memory that was fetched once stays, so that every part of it finds the same.
            program.env("_RJEM_MALLOC_CONF", "dirty_decay_ms:-1");
        }
        let output = program.stderr(std::process::Stdio::inherit()).output()?;
        anyhow::ensure!(output.status.success(), "its process failed: {}", output.status);
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn measure_here(self, check: &Check) -> anyhow::Result<Vec<f64>> {
        match self {
            Self::Hold => real::hold(check),
            Self::Churn => real::churn(check),
            Self::One => real::one(check),
            Self::Joins => real::joins(check),
            Self::Growth => real::growth(check),
            Self::Hang => real::hang(check),
            Self::Publish => ports::publish(check),
            Self::Republish => ports::republish(check),
            Self::Nat => ports::nat(check),
            Self::Alone => alone::throughput(),
            Self::Memory => alone::memory(),
            Self::Restart => alone::restart(),
        }
    }
}

/// What became of a figure.
#[derive(Clone, Debug, Serialize)]
struct Verdict {
    min: f64,
    middle: f64,
    max: f64,
    ok: bool,
}

/// Measures what was asked for and tells whether all of it is as it must be.
pub(super) fn run(check: &Check, out: &mut Output) -> anyhow::Result<bool> {
    if let Some(topic) = check.measure {
        out.line(serde_json::to_string(&topic.measure_here(check)?)?);
        return Ok(true);
    }
    let topics: Vec<_> = Topic::value_variants()
        .iter()
        .filter(|topic| check.only.is_empty() || check.only.contains(topic))
        .collect();
    let mut verdicts = BTreeMap::new();
    let mut rows = Vec::new();
    for topic in topics {
        let mut runs = Vec::new();
        for _ in 0..check.runs {
            runs.push(topic.measure(check).with_context(|| format!("cannot measure {topic:?}"))?);
        }
        for (at, must) in topic.musts().iter().enumerate() {
            let verdict = judge(*must, runs.iter().filter_map(|run| run.get(at)).copied().collect());
            rows.push(row(*must, &verdict));
            verdicts.insert(must.what, verdict);
        }
    }
    report::rows(out, &["figure", "must be", "min", "middle", "max", ""], rows);
    if let Some(path) = &check.json {
        let text = serde_json::to_string_pretty(&verdicts)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(verdicts.values().all(|verdict| verdict.ok))
}

fn on_a_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Judges a figure by the middle one of its runs.
fn judge(must: Must, mut values: Vec<f64>) -> Verdict {
    values.sort_by(f64::total_cmp);
    let middle = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    let (min, max) = (values.first().copied(), values.last().copied());
    let (min, max) = (min.unwrap_or(f64::NAN), max.unwrap_or(f64::NAN));
    Verdict { min, middle, max, ok: must.bound.holds(middle) }
}

fn row(must: Must, verdict: &Verdict) -> Vec<String> {
    let number = |value: f64| if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    let bound = match must.bound {
        Bound::AtLeast(limit) => format!("≥ {}", number(limit)),
        Bound::AtMost(limit) => format!("≤ {}", number(limit)),
    };
    let Verdict { min, middle, max, ok } = *verdict;
    let word = if ok { "ok" } else { "MISSED" };
    vec![must.what.to_owned(), bound, number(min), number(middle), number(max), word.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_run_decides_and_nothing_measured_is_no_success() {
        let least = Must::at_least("x", 2.0);
        let verdict = judge(least, vec![9.0, 1.0, 2.0]);
        assert_eq!((verdict.min, verdict.middle, verdict.max, verdict.ok), (1.0, 2.0, 9.0, true));
        assert!(!judge(least, vec![1.0, 1.0, 9.0]).ok);
        assert!(judge(Must::at_most("x", 2.0), vec![2.0]).ok);
        assert!(!judge(least, Vec::new()).ok && !judge(Must::at_most("x", 2.0), Vec::new()).ok);
    }
}
