//! A fault at every step of everything the engine does: it ends clean, or what is left has a name.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use netloom::testkit::{Fault, FaultKind};
use netloom::{
    Controller, EndpointSpec, ErrorKind, EventKind, JoinSpec, NetworkSpec, PortBinding, Reason, Result,
    SandboxSpec, TransportPort,
};

use crate::support::{World, bounded, check_truth, delete_everything, note, until, within};

/// `EBUSY`.
const EBUSY: i32 = 16;
/// Scenarios that run beside each other.
const BESIDE: usize = 16;

/// Everything an engine is for, once: two endpoints on a network of both families, one plugged out by hand,
/// one by the deletion of its sandbox, and a third one on another network that takes over the way out of one
/// sandbox, then of the other. Two of them publish ports. Ends at the first error, and names the step.
pub(crate) async fn everything_once(controller: Controller) -> Result<(), (&'static str, netloom::Error)> {
    fn at<T>(step: &'static str, outcome: Result<T>) -> Result<T, (&'static str, netloom::Error)> {
        outcome.map_err(|error| (step, error))
    }
    let subnet = |text: &str| text.parse().expect("a subnet");
    let spec = NetworkSpec::new("dual").subnet(subnet("10.9.0.0/24")).subnet(subnet("fd09::/64"));
    let network = at("create network", controller.create_network(spec).await)?;
    let spec = NetworkSpec::new("side").subnet(subnet("10.8.0.0/24"));
    let side = at("create network", controller.create_network(spec).await)?;
    let serves = |name: &str, port| {
        let web = PortBinding::new(port, TransportPort::tcp(80));
        EndpointSpec::new(name).publish(web).publish(PortBinding::any(TransportPort::udp(53)))
    };
    let three = at("create endpoint", side.create_endpoint(serves("three", 8083)).await)?;
    let one = at("create endpoint", network.create_endpoint(serves("one", 8081)).await)?;
    let two = at("create endpoint", network.create_endpoint(EndpointSpec::new("two")).await)?;
    let first = at("create sandbox", controller.create_sandbox(SandboxSpec::new("first")).await)?;
    let second = at("create sandbox", controller.create_sandbox(SandboxSpec::new("second")).await)?;
    at("join", one.join(&first, JoinSpec::default()).await)?;
    at("join", two.join(&second, JoinSpec::default()).await)?;
    at("join", three.join(&first, JoinSpec::priority(1)).await)?;
    at("leave", three.leave(&first).await)?;
    at("join", three.join(&second, JoinSpec::priority(1)).await)?;
    at("leave", one.leave(&first).await)?;
    at("delete endpoint", one.delete().await)?;
    at("delete sandbox", second.delete().await)?;
    at("delete sandbox", first.delete().await)?;
    at("delete endpoint", two.delete().await)?;
    at("delete endpoint", three.delete().await)?;
    at("delete network", side.delete().await)?;
    at("delete network", network.delete().await)
}

/// How a run with a fault ended.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum End {
    /// The fault never happened: the sweep is past the last step.
    NotReached,
    /// It happened and every call succeeded all the same.
    Succeeded,
    /// A call failed, typed.
    Failed(&'static str, ErrorKindText),
}

/// An [`ErrorKind`] that can be sorted.
type ErrorKindText = String;

/// Runs the scenario with a fault that `plan` sets and `pending` knows about, with a store in place and with one
/// that gathers. Returns how it ended with the former.
async fn run(
    plan: impl Fn(&World),
    pending: impl Fn(&World) -> bool,
    timeout: Duration,
) -> Result<End, String> {
    let in_place = run_in(false, &plan, &pending, timeout);
    let gathering = run_in(true, &plan, &pending, timeout);
    let (in_place, gathering) = tokio::join!(in_place, gathering);
    // Where commits go together, the n-th step is another one; it has to end well all the same.
    gathering.map_err(|error| format!("with a store that gathers: {error}"))?;
    in_place
}

async fn run_in(
    gathers: bool,
    plan: impl Fn(&World),
    pending: impl Fn(&World) -> bool,
    timeout: Duration,
) -> Result<End, String> {
    let config = within(timeout);
    let world = if gathers { World::gathering(config).await } else { World::with(config).await };
    let mut events = world.engine().events();
    plan(&world);
    let outcome = bounded("the scenario", everything_once(world.engine().controller())).await;
    if pending(&world) {
        return match outcome {
            Ok(()) => Ok(End::NotReached),
            Err((step, error)) => Err(format!("{step} failed without a fault: {error:?}")),
        };
    }
    let end = match outcome {
        Ok(()) => End::Succeeded,
        Err((step, error)) => {
            // An endpoint whose link could not be cut off yet joins nobody.
            let uncut = matches!(error.reason(), Reason::WrongPhase { phase: "leaving its sandbox", .. });
            if !uncut && !matches!(error.kind(), ErrorKind::Internal | ErrorKind::Timeout) {
                return Err(format!("{step} failed with {error:?}"));
            }
            End::Failed(step, format!("{:?}", error.kind()))
        }
    };
    // What the engine left undone it must know of: the kernel works again, and it gets there by itself.
    world.kernel().clear_faults();
    world.kernel().release();
    world.simulation.disk().clear_faults();
    world.settled().await.map_err(|why| format!("{end:?}, and then {why}"))?;
    delete_everything(world.engine()).await.map_err(|error| format!("afterwards: {error:?}"))?;
    bounded("draining", world.engine().drain()).await.map_err(|error| error.to_string())?;
    let left = world.leftovers().await;
    if !left.is_empty() {
        return Err(format!("{end:?} and left over: {}", left.join("; ")));
    }
    // Every leak was told, and so was its end.
    let (mut found, mut cleared) = (0, 0);
    let last = world.engine().controller().create_network(NetworkSpec::new("last")).await;
    let last = last.map_err(|error| format!("the next network: {error:?}"))?.id();
    while let Some(Ok(event)) = bounded("events", events.next()).await {
        match event.kind {
            EventKind::LeakFound { .. } => found += 1,
            EventKind::LeakCleared { .. } => cleared += 1,
            EventKind::NetworkCreated { network, .. } if network == last => break,
            _ => {}
        }
    }
    if found == cleared { Ok(end) } else { Err(format!("{found} leaks found, {cleared} cleared")) }
}

/// Runs the scenario with a fault at step 1, 2, 3… until it is past the last one, and returns how often it
/// ended which way.
async fn sweep<F: Future<Output = Result<End, String>>>(
    name: &str,
    at_least: u64,
    run: impl Fn(u64) -> F,
) -> BTreeMap<End, usize> {
    let mut ends = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut runs = futures::stream::iter(1..).map(|n| {
        let run = run(n);
        async move { (n, run.await) }
    });
    let mut runs = std::pin::pin!(runs.by_ref().buffered(BESIDE));
    let mut steps = 0;
    while let Some((n, end)) = runs.next().await {
        match end {
            Ok(End::NotReached) => break,
            Ok(end) => *ends.entry(end).or_default() += 1,
            Err(why) => wrong.push(format!("{name} at {n}: {why}")),
        }
        steps = n;
    }
    assert!(wrong.is_empty(), "{} of {steps} steps end badly:\n  {}", wrong.len(), wrong.join("\n  "));
    assert!(steps >= at_least, "{name}: only {steps} steps were reached");
    note(format!("{name}: {steps} steps: {ends:?}"));
    ends
}

/// A fault of this kind, so often in a row, at each kernel operation.
async fn kernel_sweep(name: &str, kind: FaultKind, times: u64) -> BTreeMap<End, usize> {
    let timeout = if kind == FaultKind::Hang { Duration::from_millis(400) } else { Duration::from_secs(30) };
    sweep(name, 20, |n| {
        run(
            move |world| world.kernel().plan(Fault::nth(n, kind).times(times)),
            move |world| world.kernel().pending_faults().iter().any(|fault| fault.times == times),
            timeout,
        )
    })
    .await
}

fn failures(ends: &BTreeMap<End, usize>) -> usize {
    ends.iter().filter(|(end, _)| matches!(end, End::Failed(..))).map(|(_, n)| n).sum()
}

#[tokio::test]
async fn a_refusal_at_every_kernel_operation_ends_clean() {
    let ends = kernel_sweep("refused", FaultKind::Refuse(EBUSY), 1).await;
    assert!(failures(&ends) >= 10, "{ends:?}");
}

#[tokio::test]
async fn an_answer_lost_at_every_kernel_operation_ends_clean() {
    let ends = kernel_sweep("lost after its effect", FaultKind::Lose, 1).await;
    assert!(failures(&ends) >= 10, "{ends:?}");
}

#[tokio::test]
async fn a_request_lost_at_every_kernel_operation_ends_clean() {
    let ends = kernel_sweep("lost before its effect", FaultKind::LoseBefore, 1).await;
    assert!(failures(&ends) >= 10, "{ends:?}");
}

/// The undoing fails too, and again: it becomes a leak, which goes away when the kernel works again.
#[tokio::test]
async fn refusals_that_hit_the_undoing_too_end_clean() {
    let ends = kernel_sweep("refused six times", FaultKind::Refuse(EBUSY), 6).await;
    assert!(failures(&ends) >= 10, "{ends:?}");
}

#[tokio::test]
async fn a_hanging_kernel_operation_ends_with_a_timeout_and_clean() {
    let ends = kernel_sweep("hanging", FaultKind::Hang, 1).await;
    assert!(failures(&ends) >= 10, "{ends:?}");
}

/// While the kernel refuses everything, what cannot be undone is listed by name.
#[tokio::test]
async fn what_cannot_be_undone_is_listed_by_name() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let (_, sandbox) = world.joined(&network, "web").await;
    world.kernel().plan(Fault::verb("delete_netns", 1, FaultKind::Refuse(EBUSY)).always());
    sandbox.delete().await.expect("its record is gone, and so is the way back");
    let leaks = world.engine().inspect().await.unwrap().leaks;
    let name = sandbox.netns().unwrap().to_string();
    assert!(leaks.iter().any(|leak| leak.contains(&name)), "{name} is not in {leaks:?}");
    world.kernel().clear_faults();
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}

/// A creation that fails and whose undoing fails says so in its error.
#[tokio::test]
async fn an_error_says_what_it_left_behind() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let endpoint = network.create_endpoint(EndpointSpec::new("web")).await.unwrap();
    let sandbox = world.sandbox("c1").await;
    // The second route is not there, so the first operation to fail is the address; then nothing can be
    // taken away again.
    world.kernel().plan(Fault::verb("add_address", 1, FaultKind::Lose));
    world.kernel().plan(Fault::verb("delete_route", 1, FaultKind::Refuse(EBUSY)).always());
    let error = endpoint.join(&sandbox, JoinSpec::default()).await.expect_err("the address was lost");
    assert_eq!(error.kind(), ErrorKind::Internal, "{error:?}");
    match error.reason() {
        Reason::Leaked { leaks, .. } => assert!(!leaks.is_empty()),
        other => panic!("{other:?}"),
    }
    assert!(!world.engine().inspect().await.unwrap().leaks.is_empty());
    world.kernel().clear_faults();
    until("the janitor", async || world.engine().inspect().await.unwrap().leaks.is_empty()).await;
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("it can join now");
    check_truth(world.engine(), world.kernel()).await.unwrap();
    world.delete_everything().await;
    world.assert_pristine().await;
}

// === The store ===

/// A fault of the disk at each commit, begin or end. The disk does not tell whether a fault is still to
/// come, so the number of steps is taken from a run without any.
async fn store_sweep(name: &str, steps: u64, plan: impl Fn(&World, u32) + Copy) -> BTreeMap<End, usize> {
    sweep(name, steps, |n| async move {
        if n > steps {
            return Ok(End::NotReached);
        }
        let nth = u32::try_from(n).expect("few steps");
        run(move |world| plan(world, nth), |_| false, Duration::from_secs(30)).await
    })
    .await
}

async fn commits_of_the_scenario() -> u64 {
    let world = World::new().await;
    everything_once(world.engine().controller()).await.expect("no fault");
    let commits = world.simulation.disk().commits();
    assert!(commits >= 12, "two writes an operation at most, and one each at least: {commits}");
    commits
}

#[tokio::test]
async fn a_failed_commit_at_every_step_ends_clean() {
    let steps = commits_of_the_scenario().await;
    let ends = store_sweep("commit refused", steps, |world, n| world.simulation.disk().fail_commit(n)).await;
    // But for the ports that lead to an endpoint again when another one has left: that is tried again behind it.
    assert_eq!(failures(&ends) as u64, steps - 1, "a commit that fails, fails its operation: {ends:?}");
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_at_every_step_ends_clean() {
    let steps = commits_of_the_scenario().await;
    let ends =
        store_sweep("commit uncertain", steps, |world, n| world.simulation.disk().lose_answer(n)).await;
    assert!(failures(&ends) > 0, "{ends:?}");
}

/// The creations and the deletions of networks note an intent each.
#[tokio::test]
async fn an_intent_that_cannot_be_noted_fails_its_operation_cleanly() {
    let ends = store_sweep("begin refused", 4, |world, n| world.simulation.disk().fail_begin(n)).await;
    assert_eq!(failures(&ends), 4, "{ends:?}");
}

/// An intent whose end cannot be noted is tried again; should the engine die before, the next start closes
/// it, and nothing else changes.
#[tokio::test]
async fn an_intent_whose_end_cannot_be_noted_is_closed_later() {
    for nth in 1..=4 {
        let world = World::new().await;
        let mut events = world.engine().events();
        world.simulation.disk().fail_end(nth);
        everything_once(world.engine().controller()).await.expect("nothing fails for the caller");
        let found = async {
            while !matches!(events.next().await, Some(Ok(event)) if matches!(event.kind, EventKind::LeakFound { .. }))
            {
            }
        };
        bounded("the fault", found).await;
        world.assert_pristine_soon().await;
    }
    let world = World::new().await;
    world.simulation.disk().fail_end(1);
    let network = world.network("blue").await;
    let (endpoint, _) = world.joined(&network, "web").await;
    let world = world.kill_and_restart().await;
    assert_eq!(world.engine().repairs(), [], "it had been committed");
    let found = world.engine().controller().network_by_name("blue").unwrap();
    assert_eq!(found.endpoint(endpoint.id()).await.unwrap().name(), "web");
    check_truth(world.engine(), world.kernel()).await.unwrap();
    world.delete_everything().await;
    world.assert_pristine().await;
}
