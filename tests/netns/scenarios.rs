//! Every scenario of `tests/scenarios` over the real kernel and over the simulated one: both end as written, and
//! show the same after each step.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use netloom::kernel::{Kernel, Netns, Op};
use netloom::{Engine, EngineBuilder, ErrorKind, Result, Sandbox};

use crate::container::Container;
use crate::lab::{Lab, as_root, machine, pings, soon};
use crate::scenario::{Failure, Machine, Scenario, SimMachine, Trace, chosen, conclude, play};

/// How long an answer is waited for that must not come.
const ANSWER: Duration = Duration::from_millis(500);

/// How many scenarios play at once: each mostly waits for the kernel.
const AT_ONCE: usize = 4;

/// A machine that is a lab.
struct RealMachine {
    lab: Lab,
    /// Processes with namespaces of their own.
    containers: BTreeMap<String, Container>,
}

impl Machine for RealMachine {
    fn kernel(&self) -> &dyn Kernel {
        &self.lab.kernel
    }

    fn look_anew(&mut self) {
        self.lab.look_anew();
    }

    async fn start(&mut self, builder: impl Fn() -> EngineBuilder) -> Result<Engine> {
        let patience = soon();
        loop {
            let builder = builder().data_dir(self.lab.data_dir()).run_dir(self.lab.run_dir());
            match builder.start().await {
                // The thread of one that was killed may live a moment longer, and holds its place.
                Err(error) if error.kind() == ErrorKind::Conflict && Instant::now() < patience => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn kill(&mut self, engine: Engine) {
        drop(engine);
    }

    async fn reboot(&mut self) {
        let namespaces = self.lab.kernel.namespaces(soon()).await.expect("namespaces");
        let mut ops: Vec<_> = namespaces.into_iter().map(|name| Op::DeleteNetns { name }).collect();
        let links = self.lab.kernel.links(Netns::Host, soon()).await.expect("links");
        let ours = links.iter().filter(|link| link.tag().is_some());
        ops.extend(ours.map(|link| Op::DeleteLink { name: link.name, tag: None }));
        for answer in self.lab.kernel.execute(ops, soon()).await {
            // The other end of a link that is gone takes it along.
            assert!(
                answer.as_ref().err().is_none_or(netloom::kernel::KernelError::already_gone),
                "{answer:?}"
            );
        }
    }

    async fn make_namespace(&mut self, name: &str) -> PathBuf {
        let container = Container::start();
        let path = container.netns();
        self.containers.insert(name.to_owned(), container);
        path
    }

    async fn end_namespace(&mut self, name: &str) -> Vec<String> {
        let container = self.containers.remove(name).expect("it was made");
        let links = container.links();
        container.end();
        links.into_iter().filter(|link| link != "lo").collect()
    }

    async fn reaches(&self, from: &Sandbox, to: IpAddr, expected: bool) -> bool {
        let patience = if expected { soon().saturating_duration_since(Instant::now()) } else { ANSWER };
        pings(from, to, patience).await
    }

    async fn left(&self) -> Vec<String> {
        self.lab.left().await
    }
}

/// How a scenario ended on each kernel, simulated and real.
type Ends = Vec<std::result::Result<(), Failure>>;

fn play_on_both(scenario: &Scenario) -> Ends {
    let played = scenario.clone();
    let run = machine(move |lab| async move {
        let simulated = play(&mut SimMachine::new(), &played).await;
        let real = play(&mut RealMachine { lab, containers: BTreeMap::new() }, &played).await;
        (simulated, real)
    });
    let ((simulated, on_simulated), (real, on_real)) = run.unwrap_or_else(|panic| {
        // Which one it was is in the output above.
        std::panic::resume_unwind(panic)
    });
    let same = real
        .and_then(|()| if simulated.is_ok() { compare(scenario, &on_simulated, &on_real) } else { Ok(()) });
    vec![simulated, same]
}

/// The first step after which the two show something different.
fn compare(scenario: &Scenario, simulated: &Trace, real: &Trace) -> std::result::Result<(), Failure> {
    let steps = scenario.steps.iter().zip(simulated.iter().zip(real)).enumerate();
    for (number, (step, (simulated, real))) in steps {
        if simulated == real {
            continue;
        }
        let only = |here: &Vec<String>, there: &Vec<String>| {
            here.iter().filter(|line| !there.contains(line)).cloned().collect::<Vec<_>>()
        };
        let why = format!(
            "simulated: {} {:#?}\n    real: {} {:#?}",
            simulated.0,
            only(&simulated.1, &real.1),
            real.0,
            only(&real.1, &simulated.1)
        );
        return Err(Failure { step: Some(number + 1), text: step.text.clone(), why });
    }
    Ok(())
}

#[test]
fn every_scenario_ends_the_same_on_both_kernels() {
    as_root(|| {
        let name = std::thread::current().name().expect("libtest names its threads").to_owned();
        let scenarios = chosen();
        let next = AtomicUsize::new(0);
        let work = || {
            let numbers = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
            let taken = numbers.map_while(|number| Some((number, scenarios.get(number)?)));
            taken.map(|(number, scenario)| (number, play_on_both(scenario))).collect::<Vec<_>>()
        };
        let mut ends: Vec<_> = std::thread::scope(|scope| {
            let thread = |_| std::thread::Builder::new().name(name.clone()).spawn_scoped(scope, work);
            let threads: Vec<_> = (0..AT_ONCE).map(|n| thread(n).expect("a thread")).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no scenario panics")).collect()
        });
        ends.sort_by_key(|(number, _)| *number);
        let rows: Vec<_> = scenarios.iter().cloned().zip(ends.into_iter().map(|(_, ends)| ends)).collect();
        conclude(&["simulated", "real"], &rows);
    });
}
