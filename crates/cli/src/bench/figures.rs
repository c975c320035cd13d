//! Figures: samples, percentiles, and the report that people and programs read.

use std::time::Duration;

use netloom::kernel::floor::Measured;
use serde::Serialize;

use super::load::Counts;
use super::usage::Spent;
use super::{Churn, Mode};

/// How long each step took, for every container.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    pub(super) up: Vec<Duration>,
    pub(super) down: Vec<Duration>,
    pub(super) create: Vec<Duration>,
    pub(super) sandbox: Vec<Duration>,
    pub(super) join: Vec<Duration>,
    pub(super) leave: Vec<Duration>,
    pub(super) delete: Vec<Duration>,
    pub(super) delete_sandbox: Vec<Duration>,
}

impl Samples {
    /// The steps by name, in the order of a life.
    pub(super) fn named(&self) -> [(&'static str, &[Duration]); 8] {
        [
            ("create", &self.create),
            ("sandbox", &self.sandbox),
            ("join", &self.join),
            ("up", &self.up),
            ("leave", &self.leave),
            ("delete", &self.delete),
            ("delete_sandbox", &self.delete_sandbox),
            ("down", &self.down),
        ]
    }

    pub(super) fn add(&mut self, other: Self) {
        let Self { up, down, create, sandbox, join, leave, delete, delete_sandbox } = other;
        self.up.extend(up);
        self.down.extend(down);
        self.create.extend(create);
        self.sandbox.extend(sandbox);
        self.join.extend(join);
        self.leave.extend(leave);
        self.delete.extend(delete);
        self.delete_sandbox.extend(delete_sandbox);
    }
}

/// A step in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub(super) struct Step {
    pub(super) mean_us: u64,
    pub(super) p50_us: u64,
    pub(super) p95_us: u64,
    pub(super) p99_us: u64,
    pub(super) max_us: u64,
}

impl Step {
    /// The mean, and exact percentiles: the smallest sample that so many in a hundred do not exceed.
    pub(super) fn of(samples: &[Duration]) -> Self {
        let mut sorted: Vec<u64> =
            samples.iter().map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)).collect();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or_default()
        };
        let mean_us = sorted.iter().sum::<u64>() / (sorted.len() as u64).max(1);
        Self { mean_us, p50_us: at(50), p95_us: at(95), p99_us: at(99), max_us: at(100) }
    }
}

/// What the kernel alone comes to.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub(super) struct Floor {
    pub(super) up_per_s: f64,
    pub(super) down_per_s: f64,
    pub(super) lifecycles_per_s: f64,
    pub(super) up_p50_us: u64,
}

impl Floor {
    pub(super) fn of(measured: &Measured) -> Self {
        let count = measured.up.len() as f64;
        let (up, down) = (measured.all_up.as_secs_f64(), measured.all_down.as_secs_f64());
        Self {
            up_per_s: count / up,
            down_per_s: count / down,
            lifecycles_per_s: count / (up + down),
            up_p50_us: Step::of(&measured.up).p50_us,
        }
    }

    /// Of a measurement before and one after.
    pub(super) fn mean(a: Self, b: Self) -> Self {
        Self {
            up_per_s: f64::midpoint(a.up_per_s, b.up_per_s),
            down_per_s: f64::midpoint(a.down_per_s, b.down_per_s),
            lifecycles_per_s: f64::midpoint(a.lifecycles_per_s, b.lifecycles_per_s),
            up_p50_us: u64::midpoint(a.up_p50_us, b.up_p50_us),
        }
    }
}

/// The engine's rates as parts of the floor's.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub(super) struct Ratio {
    pub(super) up: f64,
    pub(super) down: f64,
    pub(super) churn: f64,
}

/// What went to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub(super) struct Netlink {
    pub(super) messages: u64,
    pub(super) sends: u64,
    pub(super) deletions: u64,
}

/// Every step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub(super) struct Steps {
    pub(super) up: Step,
    pub(super) down: Step,
    pub(super) create: Step,
    pub(super) sandbox: Step,
    pub(super) join: Step,
    pub(super) leave: Step,
    pub(super) delete: Step,
    pub(super) delete_sandbox: Step,
}

/// A whole measurement.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Report {
    pub(super) mode: Mode,
    pub(super) driver: String,
    pub(super) endpoints: u64,
    pub(super) concurrency: u64,
    pub(super) networks: u64,
    pub(super) up_per_s: f64,
    pub(super) down_per_s: f64,
    pub(super) lifecycles_per_s: f64,
    /// Absent over the simulated kernel: there is none.
    pub(super) floor: Option<Floor>,
    pub(super) ratio: Option<Ratio>,
    pub(super) steps: Steps,
    pub(super) fsyncs: u64,
    pub(super) netlink: Netlink,
    /// Processor time of the engine's threads, in microseconds a lifecycle.
    pub(super) cpu_us_per_lifecycle: f64,
    pub(super) peak_rss_kib: u64,
    /// Processor time of each of the program's threads, in microseconds a lifecycle.
    pub(super) threads: Vec<(String, f64)>,
}

impl Report {
    pub(super) fn new(churn: &Churn, samples: &Samples) -> Self {
        Self {
            mode: churn.mode,
            driver: churn.driver.clone(),
            endpoints: churn.endpoints,
            concurrency: churn.concurrency,
            networks: churn.networks,
            up_per_s: 0.0,
            down_per_s: 0.0,
            lifecycles_per_s: 0.0,
            floor: None,
            ratio: None,
            steps: Steps {
                up: Step::of(&samples.up),
                down: Step::of(&samples.down),
                create: Step::of(&samples.create),
                sandbox: Step::of(&samples.sandbox),
                join: Step::of(&samples.join),
                leave: Step::of(&samples.leave),
                delete: Step::of(&samples.delete),
                delete_sandbox: Step::of(&samples.delete_sandbox),
            },
            fsyncs: 0,
            netlink: Netlink::default(),
            cpu_us_per_lifecycle: 0.0,
            peak_rss_kib: 0,
            threads: Vec::new(),
        }
    }

    pub(super) fn rates(&mut self, all_up: Duration, all_down: Duration, mode: Mode) {
        let count = self.endpoints as f64;
        self.up_per_s = count / all_up.as_secs_f64();
        self.down_per_s = count / all_down.as_secs_f64();
        let all = match mode {
            Mode::Churn => all_up,
            Mode::Hold => all_up + all_down,
        };
        self.lifecycles_per_s = count / all.as_secs_f64();
    }

    pub(super) fn costs(&mut self, counts: &Counts, spent: &Spent) {
        let Counts { syncs, messages, sends, deletions } = *counts;
        self.fsyncs = syncs;
        self.netlink = Netlink { messages, sends, deletions };
        let each = |took: Duration| took.as_secs_f64() * 1e6 / self.endpoints as f64;
        self.cpu_us_per_lifecycle = each(spent.engine);
        self.peak_rss_kib = spent.peak_rss_kib;
        self.threads = spent.threads.iter().map(|(name, took)| (name.clone(), each(*took))).collect();
    }

    pub(super) fn compare(&mut self, floor: Floor) {
        self.floor = Some(floor);
        self.ratio = Some(match self.mode {
            // Up and down go on at the same time: only the whole can be compared.
            Mode::Churn => {
                let churn = self.lifecycles_per_s / floor.lifecycles_per_s;
                Ratio { up: churn, down: churn, churn }
            }
            Mode::Hold => Ratio {
                up: self.up_per_s / floor.up_per_s,
                down: self.down_per_s / floor.down_per_s,
                churn: self.lifecycles_per_s / floor.lifecycles_per_s,
            },
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let of = |samples: &[u64]| {
            let samples: Vec<_> = samples.iter().map(|us| Duration::from_micros(*us)).collect();
            Step::of(&samples)
        };
        assert_eq!(of(&[]), Step::default());
        assert_eq!(of(&[7]), Step { mean_us: 7, p50_us: 7, p95_us: 7, p99_us: 7, max_us: 7 });
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(of(&hundred), Step { mean_us: 50, p50_us: 50, p95_us: 95, p99_us: 99, max_us: 100 });
        assert_eq!(of(&[1, 2, 3]).p50_us, 2);
    }

    #[test]
    fn a_floor_is_what_was_done_in_the_time_it_took() {
        let second = Duration::from_secs(1);
        let floor = Floor::of(&Measured { up: vec![second; 4], all_up: second, all_down: second * 3 });
        assert_eq!((floor.up_per_s, floor.lifecycles_per_s), (4.0, 1.0));
        assert_eq!(Floor::mean(floor, Floor { up_per_s: 2.0, ..floor }).up_per_s, 3.0);
    }
}
