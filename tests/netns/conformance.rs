//! The simulated kernel against the real one: the same operations on both, then the same answers and the
//! same links, addresses, routes and permanent neighbours in every namespace.

mod generator;
mod lifecycle;
mod pair;
mod scenarios;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use netloom::kernel::Op;

use crate::lab::in_lab;
use generator::Generator;
use pair::{Pair, machine};
use scenarios::{Scenario, scenarios};

/// The seeds of every run; one fresh seed is added to them.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=40;
/// How many operations each seed makes.
const OPERATIONS: usize = 70;
/// Repeats one seed, and only that.
const SEED_VARIABLE: &str = "NETLOOM_TEST_SEED";

#[expect(clippy::print_stdout, reason = "seeds and figures belong in the output of a test")]
fn note(text: impl std::fmt::Display) {
    println!("{text}");
}

#[test]
fn written_scenarios_end_as_documented_on_both_kernels() {
    in_lab(async |lab| {
        for (number, Scenario { name, steps }) in scenarios().into_iter().enumerate() {
            let mut pair = Pair::new(machine(lab.dir.path().join(format!("run{number}"))).await);
            for step in steps {
                let answers = pair.carry_out(step.ops).await.unwrap_or_else(|difference| {
                    panic!("scenario {name:?}: {difference}");
                });
                let wrong = answers.iter().find(|answer| **answer != step.expected);
                if let Some(answer) = wrong {
                    let history = pair.history();
                    panic!(
                        "scenario {name:?}: {answer} instead of {} at the end of\n{history}",
                        step.expected
                    );
                }
            }
        }
    });
}

/// The documentation of the operations, read: each error number it names is expected by some scenario.
#[test]
fn every_documented_refusal_is_in_a_scenario() {
    let source = include_str!("../../crates/kernel/src/op.rs");
    let (_, operations) = source.split_once("pub enum Op {").expect("the operations");
    let (operations, _) = operations.split_once("\n}").expect("their end");
    let mut documented = BTreeSet::new();
    let mut words = BTreeSet::new();
    for line in operations.lines() {
        if let Some(text) = line.strip_prefix("    /// ") {
            words.extend(text.split('`').skip(1).step_by(2).filter(|word| is_errno_name(word)));
        } else if let Some(name) = line.strip_suffix(" {").and_then(|line| line.strip_prefix("    ")) {
            let verb = snake_case(name);
            documented.extend(std::mem::take(&mut words).into_iter().map(|word| (verb.clone(), word)));
        }
    }
    assert!(documented.len() > 20, "the documentation is not read well: {documented:?}");
    let steps: Vec<_> = scenarios().into_iter().flat_map(|scenario| scenario.steps).collect();
    let tried: BTreeSet<_> = steps
        .iter()
        // Inside of a namespace a table's change has another verb.
        .flat_map(|step| step.ops.iter().map(|op| (op.verb().replace("_inside", ""), step.expected)))
        .collect();
    let missing: Vec<_> = documented.difference(&tried).collect();
    assert!(missing.is_empty(), "no scenario expects {missing:?}");
}

fn is_errno_name(word: &str) -> bool {
    word.starts_with('E') && word.bytes().all(|byte| byte.is_ascii_uppercase())
}

fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// How often each operation came to each answer.
type Tally = BTreeMap<(&'static str, String), usize>;

/// Runs the operations of one seed on a machine of its own.
async fn fuzz(pair: &mut Pair, seed: u64) -> Result<Tally, String> {
    let mut generator = Generator::new(seed);
    let mut tally = Tally::new();
    for _ in 0..OPERATIONS {
        let op: Op = generator.next_op();
        if pair.would_loop(&op).await {
            continue;
        }
        let verb = op.verb();
        let answer = pair.carry_out(vec![op]).await?.remove(0);
        *tally.entry((verb, answer)).or_default() += 1;
    }
    Ok(tally)
}

#[test]
fn random_operations_come_to_the_same_on_both_kernels() {
    in_lab(async |lab| {
        let given = std::env::var(SEED_VARIABLE).ok().map(|text| text.parse().expect("a number"));
        let fresh = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            u64::from(now.subsec_nanos())
        };
        let seeds = given.map_or_else(|| SEEDS.chain([fresh()]).collect(), |seed| vec![seed]);
        note(format!("{SEED_VARIABLE}: {seeds:?}"));
        let runs = seeds.iter().map(async |seed| {
            let mut pair = Pair::new(machine(lab.dir.path().join(format!("seed{seed}"))).await);
            let outcome = fuzz(&mut pair, *seed).await;
            outcome.unwrap_or_else(|difference| panic!("{SEED_VARIABLE}={seed}: {difference}"))
        });
        let mut total = Tally::new();
        for (key, count) in join_all(runs).await.into_iter().flatten() {
            *total.entry(key).or_default() += count;
        }
        for ((verb, answer), count) in &total {
            note(format!("{verb}: {count} x {answer}"));
        }
        if given.is_none() {
            for verb in generator::VERBS {
                let did =
                    |done: bool| total.keys().any(|(of, answer)| *of == verb && (answer == "ok") == done);
                assert!(did(true) && did(false), "{verb} was not both carried out and refused");
            }
        }
    });
}
