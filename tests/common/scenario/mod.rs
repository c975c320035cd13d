//! Scenarios: what a caller does through the public interface and what must come of it, written as data in
//! `tests/scenarios/*.toml` and carried out over the simulated and over the real kernel with the same expectations.
//!
//! A scenario is a list of steps. A step is a table that begins with a verb, whose value is what it is about; its other
//! keys are arguments (for what is created: the fields of its spec) and what is expected:
//!
//! ```toml
//! [[scenario]]
//! name = "an endpoint is in one sandbox"
//! covers = ["inventory 1.4 join"]
//! steps = [
//!     { create_network = "blue", subnet = "10.1.0.0/24" },
//!     { create_endpoint = "blue/web" },
//!     { create_sandbox = "c1" },
//!     { create_sandbox = "c2" },
//!     { join = "blue/web", sandbox = "c1" },
//!     { join = "blue/web", sandbox = "c2", fails = "Forbidden", says = ["web", "$c1"] },
//!     { inside = "c1", interfaces = { eth0 = { mac = "02:42:0a:01", up = true } }, gateway = "10.1.0.1" },
//! ]
//! ```
//!
//! - A network, an endpoint (`network/endpoint`) or a sandbox (its container) is called by its name. The scenario keeps
//!   the handle it got at the creation, also when the object is gone; after a restart it looks names up again.
//! - `fails` is the kind of error (`ErrorKind`), and unless the step says `uncertain = true` nothing may have changed.
//!   `may_fail` lists kinds beside success. `says` is what the error's text must contain, `remedy` the same of its
//!   remedy. Without either the step must succeed.
//! - `$name` stands for an identifier: one that a step saved with `saves`, or that of the latest object of this name.
//!   In `says` it is the short one.
//! - `drivers = ["routed"]` beside `steps` registers drivers of an embedder's: those of `tests/common`.
//! - `foreign_namespace = "p1"` makes a namespace as a container's process has one, for `set_key = "c1", namespace =
//!   "p1"`; at the end only its loopback may be in it.
//! - `reload = { … }` and `configuration = { … }` are about the keys they name; all others stay.
//! - `live = […]` of a `start` or `restart`, and the value of `reconcile`, are containers, or sandboxes by `$container`.
//! - `together = […]` runs branches at once, each a step or a list of steps; `repeat = […]` runs steps one after the
//!   other. Both take `times`, and `#` stands for the copy's number then. `outcomes` counts how the branches end.
//! - At the end everything is deleted, and nothing of ours may be left in kernel and store, nor come back with the next
//!   engine.
//!
//! All verbs are in [`step`]. Unknown keys are errors. `NETLOOM_SCENARIO=<part of a name>` runs some scenarios only.

mod args;
mod coverage;
mod expect;
mod file;
mod looks;
mod machine;
mod names;
mod objects;
mod picture;
mod run;
mod sim;
pub(crate) mod step;
mod whole;

#[allow(unused_imports, reason = "what is covered is tested over the simulated kernel only")]
pub(crate) use coverage::{TOPICS, covers};
#[allow(unused_imports, reason = "the runner is tested over the simulated kernel only")]
pub(crate) use file::{Scenario, load, parse};
pub(crate) use machine::{How, Machine};
#[allow(unused_imports, reason = "only two runs are compared")]
pub(crate) use run::{Failure, Trace, play};
pub(crate) use sim::SimMachine;

/// The scenarios that are to be run: all, or those of `NETLOOM_SCENARIO`.
pub(crate) fn chosen() -> Vec<Scenario> {
    let part = std::env::var("NETLOOM_SCENARIO").unwrap_or_default();
    let chosen: Vec<_> = load().into_iter().filter(|scenario| scenario.name.contains(&part)).collect();
    assert!(!chosen.is_empty(), "no scenario is called like {part:?}");
    chosen
}

/// Prints how every scenario ended on each kernel, and fails with all that is wrong.
#[expect(clippy::print_stdout, reason = "the table belongs in the output of the test")]
pub(crate) fn conclude(kernels: &[&str], rows: &[(Scenario, Vec<Result<(), Failure>>)]) {
    let width = rows.iter().map(|(scenario, _)| scenario.name.len()).max().unwrap_or_default();
    let mut file = "";
    for (scenario, ends) in rows {
        if file != scenario.file {
            file = &scenario.file;
            println!("{:width$} | {}", format!("--- {file}"), kernels.join(" | "));
        }
        let cells = kernels.iter().zip(ends).map(|(kernel, end)| {
            let cell = if end.is_ok() { "ok" } else { "NO" };
            format!("{cell:width$}", width = kernel.len())
        });
        println!("{:width$} | {}", scenario.name, cells.collect::<Vec<_>>().join(" | "));
    }
    println!("--- covered by scenarios");
    for topic in TOPICS {
        let covering = rows.iter().filter(|(scenario, _)| covers(scenario, topic));
        let (good, bad): (Vec<_>, Vec<_>) = covering.partition(|(_, ends)| ends.iter().all(Result::is_ok));
        let fail = if bad.is_empty() { String::new() } else { format!(", {} of them fail", bad.len()) };
        println!("{topic:width$} | {}{fail}", good.len() + bad.len());
    }
    let steps: usize = rows.iter().map(|(scenario, _)| scenario.steps.len()).sum();
    println!("{} scenarios, {steps} steps, on {}", rows.len(), kernels.join(" and "));
    let wrong = rows.iter().flat_map(|(scenario, ends)| {
        let ends = kernels.iter().zip(ends);
        ends.filter_map(move |(kernel, end)| {
            let failure = end.as_ref().err()?;
            let Scenario { file, name, covers, .. } = scenario;
            Some(format!(
                "{file} {name:?} on the {kernel} kernel, {failure}\n    covers {}",
                covers.join(", ")
            ))
        })
    });
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{} of {} scenarios fail:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}
