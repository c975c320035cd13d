//! One sandbox's actor over real networks and a simulated kernel, on stopped time.

mod restore;
mod stage;

use std::sync::atomic::Ordering;
use std::time::Duration;

use netloom_actor_sandbox::{DeleteSandbox, MarkFailed};
use netloom_kernel::{Kernel, LinkKind, Netns, Op, execute_all};
use netloom_model::snapshot::{EndpointPhase, SandboxPhase};
use netloom_model::{Certainty, EngineConfig, ErrorKind, Reason};
use netloom_store::RecordKind;
use netloom_testkit::{EffectTime, Fault, FaultKind, Latency};
use tokio::time::Instant;

use stage::{Stage, on_stopped_time, op, until, within};

const EBUSY: i32 = 16;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn operations_take_turns_and_each_decides_by_what_is_plugged_in_then() {
    on_stopped_time(async {
        let mut stage = Stage::set(16).await;
        let low = stage.end("low", &["10.1.0.0/24"]).await;
        let high = stage.end("high", &["10.2.0.0/24"]).await;
        let middle = stage.end("middle", &["10.3.0.0/24"]).await;
        stage.kernel.set_latency(Latency::all(Duration::from_millis(50)));
        stage.kernel.set_log(64);
        let joins = [low.join(0), high.join(9), middle.join(5)].map(|join| stage.begin(&op(), join));
        let leaves = [high.leave(), low.leave()].map(|leave| stage.begin(&op(), leave));
        for join in joins {
            join.await.expect("joined");
        }
        for leave in leaves {
            leave.await.expect("left");
        }
        let ways = stage.kernel.log().into_iter().filter_map(|(op, outcome)| match op {
            Op::AddRoute { route, .. } => {
                outcome.expect("there is no other");
                Some(format!("add {route}"))
            }
            // That of a link that was cut off may have gone with it.
            Op::DeleteRoute { route, .. } => Some(format!("delete {route}")),
            _ => None,
        });
        let by = |link: &str, via: &str| format!("0.0.0.0/0 via {via} dev {link}");
        let (one, two, three) = (by("eth0", "10.1.0.1"), by("eth1", "10.2.0.1"), by("eth2", "10.3.0.1"));
        let expected = [
            format!("add {one}"),
            format!("delete {one}"),
            format!("add {two}"),
            format!("delete {two}"),
            format!("add {three}"),
        ];
        assert_eq!(ways.collect::<Vec<_>>(), expected);
        let (low, high, middle) = (low.endpoint, high.endpoint, middle.endpoint);
        let expected = [
            ("join", low),
            ("program", low),
            ("join", high),
            ("revoke", low),
            ("program", high),
            ("join", middle),
            ("leave", high),
            ("revoke", high),
            ("program", middle),
            ("leave", low),
        ];
        assert_eq!(stage.told(), expected);
        assert_eq!(stage.inside().await, [middle]);
        assert_eq!(stage.picture().await.gateway, Some([10, 3, 0, 1].into()));
    });
}

#[test]
fn a_join_answers_when_its_port_forwards_or_has_been_waited_for() {
    on_stopped_time(async {
        let mut stage = Stage::set(16).await;
        let (first, second) = (stage.end("one", &["10.1.0.0/24"]).await, stage.end("two", &[]).await);
        let deadline = (Instant::now() + HOUR).into_std();
        let bridges = stage.kernel.links(Netns::Host, deadline).await.expect("links").into_iter();
        let bridges: Vec<_> = bridges.filter(|link| link.kind == LinkKind::Bridge).collect();
        let set = |up| bridges.iter().map(|b| Op::SetLink { netns: Netns::Host, name: b.name, up }).collect();
        let kernel = stage.kernel.clone();
        let set = async |up| execute_all(&kernel, set(up), deadline).await.expect("set");

        set(false).await;
        let began = Instant::now();
        let join = stage.begin(&op(), first.join(0));
        let (joined, ()) = futures::join!(join, async {
            tokio::time::sleep(SECOND / 4).await;
            set(true).await;
        });
        joined.expect("joined");
        assert_eq!(began.elapsed(), SECOND / 4, "as soon as it forwards");

        set(false).await;
        let began = Instant::now();
        stage.ask(second.join(0)).await.expect("a late port is no reason to refuse");
        assert_eq!(began.elapsed(), SECOND);
        assert_eq!(stage.inside().await, [first.endpoint, second.endpoint]);
    });
}

#[test]
fn a_full_queue_refuses_at_once() {
    on_stopped_time(async {
        let mut stage = Stage::set(2).await;
        let first = stage.end("first", &["10.1.0.0/24"]).await;
        let second = stage.end("second", &["10.2.0.0/24"]).await;
        stage.kernel.set_latency(Latency::all(SECOND));
        let runs = stage.begin(&op(), first.join(0));
        let waits = stage.begin(&op(), second.join(0));
        let began = Instant::now();
        let refused = stage.ask(second.join(0)).await.expect_err("one waits already");
        assert_eq!((refused.kind(), began.elapsed()), (ErrorKind::Busy, Duration::ZERO), "{refused}");
        assert_eq!(refused.certainty(), Certainty::Aborted);
        assert!(refused.to_string().contains("c1"), "{refused} says whose queue it is");
        let refused = stage.ask(first.leave()).await.expect_err("one waits already");
        assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
        runs.await.expect("joined");
        waits.await.expect("joined");
        stage.ask(first.leave()).await.expect("there is room again");
        assert_eq!(stage.inside().await, [second.endpoint]);
    });
}

#[test]
fn a_join_whose_network_hangs_ends_at_its_deadline_and_the_next_one_goes_on() {
    on_stopped_time(async {
        let mut stage = Stage::set(16).await;
        let stuck = stage.end("stuck", &["10.1.0.0/24"]).await;
        let next = stage.end("next", &["10.2.0.0/24"]).await;
        let before = stage.kernel.snapshot();
        stage.hangs.store(true, Ordering::Relaxed);
        let began = Instant::now();
        let hanging = stage.begin(&within(5 * SECOND), stuck.join(9));
        let late = stage.begin(&within(5 * SECOND), stuck.join(9));
        let following = stage.begin(&op(), next.join(0));
        until(|| stage.told().contains(&("join", stuck.endpoint))).await;
        stage.hangs.store(false, Ordering::Relaxed);
        let error = hanging.await.expect_err("its network hangs");
        assert_eq!((error.kind(), error.certainty()), (ErrorKind::Timeout, Certainty::Aborted), "{error}");
        assert_eq!(began.elapsed(), 5 * SECOND);
        // Its time was over when its turn came: it is not begun.
        let error = late.await.expect_err("it is late");
        assert_eq!((error.kind(), error.certainty()), (ErrorKind::Timeout, Certainty::Aborted), "{error}");
        following.await.expect("it is not held up any longer");
        assert_eq!(began.elapsed(), 5 * SECOND);
        assert_eq!(stage.inside().await, [next.endpoint]);
        assert_eq!(stage.seen(stuck).await.phase, EndpointPhase::Idle);
        let told = stage.told();
        assert_eq!(told[0], ("leave", stuck.endpoint), "what the driver had noted is taken back");
        assert!(!told.contains(&("join", stuck.endpoint)), "{told:?}");
        stage.ask(next.leave()).await.expect("left");
        stage.settled().await;
        stage.assert_clean(&before);
        let ifname = stage.joined(stuck, 9).await.ifname;
        assert_eq!(ifname.to_string(), "eth2", "what was late used no number up");
    });
}

/// Each operation of a join that would win the way out fails once, in each of the ways in which it can: all
/// before it is undone, and so is what was sent together with it and took effect. Only where neighbours cannot be told
/// the join stands.
#[test]
fn a_set_up_that_fails_half_way_is_undone_wholly() {
    on_stopped_time(async {
        for kind in [FaultKind::Refuse(EBUSY), FaultKind::Lose, FaultKind::LoseBefore] {
            let mut failed = Vec::new();
            for n in 1.. {
                let mut stage = Stage::set(16).await;
                let old = stage.end("old", &["10.1.0.0/24", "fd01::/64"]).await;
                let new = stage.end("new", &["10.2.0.0/24", "fd02::/64"]).await;
                stage.joined(old, 0).await;
                let (before, picture) = (stage.settled().await, stage.picture().await);
                stage.told();
                stage.kernel.set_log(64);
                stage.kernel.plan(Fault::nth(n, kind));
                let outcome = stage.ask(new.join(9)).await;
                if !stage.kernel.pending_faults().is_empty() {
                    outcome.expect("past the last operation");
                    break;
                }
                let lost = |(op, outcome): &(Op, Result<_, _>)| match (outcome, op) {
                    (Ok(_), _) => None,
                    (Err(_), Op::Sysctl { key, .. }) if key.ends_with("disable_ipv6") => Some("switch"),
                    (Err(_), op) => Some(op.verb()),
                };
                failed.extend(stage.kernel.log().iter().find_map(lost));
                if matches!(failed.last(), Some(&("sysctl" | "announce"))) {
                    outcome.expect("nothing depends on it");
                    assert!(stage.inside().await.contains(&new.endpoint));
                    continue;
                }
                let error = outcome.expect_err("an operation failed");
                assert_eq!((error.kind(), error.certainty()), (ErrorKind::Internal, Certainty::Aborted));
                stage.settled().await;
                stage.assert_clean(&before);
                assert_eq!(stage.picture().await, picture);
                assert_eq!(stage.seen(new).await.phase, EndpointPhase::Idle);
                assert_eq!(stage.told(), [("join", new.endpoint), ("leave", new.endpoint)]);
                // The number is used up: something may have seen the name.
                let ifname = stage.joined(new, 9).await.ifname;
                assert_eq!(ifname.to_string(), "eth2");
            }
            let routes = ["delete_route", "add_route", "delete_route", "add_route"];
            let expected =
                ["create_veth", "switch", "set_link", "add_address", "add_address"].into_iter().chain(routes);
            let expected = expected.chain(["sysctl", "sysctl", "announce"]);
            assert_eq!(failed, expected.collect::<Vec<_>>(), "{kind:?}");
        }
    });
}

/// Each operation of a join hangs in turn.
#[test]
fn force_waits_a_second_for_a_join_that_hangs_and_what_is_stuck_is_a_leak_until_it_goes_on() {
    on_stopped_time(async {
        for n in 1.. {
            let mut stage = Stage::set(16).await;
            let inside = stage.end("inside", &["10.1.0.0/24"]).await;
            let stuck = stage.end("stuck", &["10.2.0.0/24"]).await;
            let before = stage.kernel.snapshot();
            stage.joined(inside, 0).await;
            stage.kernel.plan(Fault::nth(n, FaultKind::Hang));
            let join = tokio::task::spawn_local(stage.begin(&op(), stuck.join(9)));
            until(|| stage.kernel.hanging() > 0 || join.is_finished()).await;
            let began = Instant::now();
            if n == 6 {
                // Before it: a link, its state, an address, and the way out: out, and in.
                join.await.expect("it ends").expect("joined, though neighbours cannot be told");
                assert_eq!((began.elapsed(), stage.kernel.hanging()), (SECOND, 1));
                break;
            }
            stage.ask(DeleteSandbox { force: true }).await.expect("deleted");
            assert!(began.elapsed() <= SECOND, "operation {n}: {:?}", began.elapsed());
            let error = join.await.expect("it ends").expect_err("it was ended");
            assert_eq!((error.kind(), began.elapsed()), (ErrorKind::Forbidden, SECOND), "{error}");
            assert!(error.to_string().contains("force"), "{error}");
            assert!(stage.disk.records().iter().all(|(key, _)| key.kind != RecordKind::Sandbox));
            assert_eq!(stage.seen(inside).await.phase, EndpointPhase::Idle);
            let netns = stage.netns.to_string();
            assert!(stage.leaks().contains(&netns), "operation {n}: {:?}", stage.leaks());

            // While it hangs everything is tried again and again, and stays visible.
            tokio::time::sleep(100 * SECOND).await;
            assert!(stage.leaks().contains(&netns), "operation {n}: {:?}", stage.leaks());
            stage.kernel.release();
            tokio::time::sleep(100 * SECOND).await;
            stage.settled().await;
            assert_eq!(stage.leaks(), Vec::<String>::new(), "operation {n}");
            for end in [inside, stuck] {
                stage.delete_endpoint(end).await;
            }
            let lines = stage.kernel.leftovers(&before);
            assert!(lines.iter().all(|line| line.contains(&netns)), "only the namespace went: {lines:?}");
        }
    });
}

/// What waits might hang as well, so it is not begun any more; and there is room for force in a full queue.
#[test]
fn force_overtakes_what_waits() {
    on_stopped_time(async {
        let mut stage = Stage::set(3).await;
        let ends = [stage.end("a", &["10.1.0.0/24"]).await, stage.end("b", &["10.2.0.0/24"]).await];
        let inside = stage.end("c", &["10.3.0.0/24"]).await;
        stage.joined(inside, 0).await;
        stage.hangs.store(true, Ordering::Relaxed);
        let hanging = stage.begin(&op(), ends[0].join(0));
        until(|| stage.told().contains(&("join", ends[0].endpoint))).await;
        let waiting = stage.begin(&op(), ends[1].join(0));
        let leaving = stage.begin(&op(), inside.leave());
        let began = Instant::now();
        stage.ask(DeleteSandbox { force: true }).await.expect("deleted");
        assert!(began.elapsed() <= SECOND, "{:?}", began.elapsed());
        let error = hanging.await.expect_err("it was ended");
        assert!(matches!(error.reason(), Reason::Overtaken { .. }), "{error}");
        for error in [waiting.await.expect_err("not begun"), leaving.await.expect_err("not begun")] {
            assert_eq!((error.kind(), error.certainty()), (ErrorKind::Forbidden, Certainty::Aborted));
            assert!(error.to_string().contains("being deleted"), "{error}");
        }
        let told = stage.told();
        assert!(told.iter().all(|(what, _)| *what != "join"), "{told:?}");
        assert_eq!(stage.seen(inside).await.phase, EndpointPhase::Idle);
        assert_eq!(stage.leaks(), Vec::<String>::new());
    });
}

/// Each lets the next one in, so that one inside the other they would be too deep for the stack.
#[test]
fn a_full_queue_of_what_is_late_is_refused_to_its_end() {
    on_stopped_time(async {
        let waiting = EngineConfig::default().limits.operations_per_object;
        let mut stage = Stage::set(waiting).await;
        let stuck = stage.end("stuck", &["10.1.0.0/24"]).await;
        stage.hangs.store(true, Ordering::Relaxed);
        let all: Vec<_> = (0..waiting).map(|_| stage.begin(&within(SECOND), stuck.join(0))).collect();
        for join in all {
            assert_eq!(join.await.expect_err("it hangs, or is late").kind(), ErrorKind::Timeout);
        }
        assert_eq!(stage.inside().await, []);
    });
}

#[test]
fn a_way_out_that_cannot_be_handed_over_is_tried_again_and_visible_until_then() {
    on_stopped_time(async {
        for verb in ["delete_route", "add_route", "delete_address"] {
            let mut stage = Stage::set(16).await;
            let low = stage.end("low", &["10.1.0.0/24"]).await;
            let high = stage.end("high", &["10.2.0.0/24"]).await;
            stage.joined(low, 0).await;
            stage.joined(high, 9).await;
            stage.told();
            // Its link outlives the leave, with all that is on it, and so the kernel's own clean-up helps nobody.
            stage.kernel.set_latency(Latency::default().verb("delete_link", HOUR).effect(EffectTime::End));
            stage.kernel.plan(Fault::verb(verb, 1, FaultKind::Refuse(EBUSY)).always());
            let began = Instant::now();
            stage.ask(high.leave()).await.expect("its record says so");
            assert_eq!(began.elapsed(), Duration::ZERO, "the caller does not wait for another attempt");
            assert_eq!(stage.inside().await, [low.endpoint]);
            let seen = stage.seen(high).await;
            assert_eq!((seen.phase, seen.sandbox), (EndpointPhase::Idle, None));
            let told = stage.told();
            assert_eq!(
                told.last(),
                Some(&("program", low.endpoint)),
                "the way in moves all the same: {told:?}"
            );
            assert_eq!(stage.picture().await.gateway, Some([10, 1, 0, 1].into()), "what is meant to be");
            let right = [("eth0".parse().expect("a name"), [10, 1, 0, 1].into())];
            // A route goes with the last address of its link, also one that cannot be removed by itself.
            assert_eq!(stage.ways_out().await == right, verb != "add_route", "and what is");

            tokio::time::sleep(100 * SECOND).await;
            let (routes, links): (Vec<_>, Vec<_>) =
                stage.leaks().into_iter().partition(|leak| leak.contains("routes"));
            assert!(matches!(&routes[..], [leak] if leak.contains("10.1.0.1")), "{verb}: {routes:?}");
            stage.kernel.clear_faults();
            tokio::time::sleep(100 * SECOND).await;
            assert_eq!(stage.leaks(), links, "{verb}: only the link is left");
            assert_eq!(stage.ways_out().await, right, "{verb}");
            let deadline = op().deadline_std();
            let addresses = stage.kernel.addresses(stage.netns, deadline).await.expect("addresses");
            let of_high = addresses.iter().filter(|view| view.address.to_string().starts_with("10.2."));
            assert_eq!(of_high.count(), 0, "{verb}");
        }
    });
}

#[test]
fn a_sandbox_out_of_service_lets_its_endpoints_go_and_can_be_deleted() {
    on_stopped_time(async {
        let mut stage = Stage::set(16).await;
        let ends = [stage.end("a", &["10.1.0.0/24"]).await, stage.end("b", &["10.2.0.0/24"]).await];
        let before = stage.kernel.snapshot();
        for end in ends {
            stage.joined(end, 0).await;
        }
        stage.ask(MarkFailed("told to".into())).await;
        let picture = stage.picture().await;
        assert_eq!((picture.phase, picture.failure.as_deref()), (SandboxPhase::Failed, Some("told to")));
        let other = stage.endpoint(ends[0].network, "other").await;
        let error = stage.ask(other.join(0)).await.expect_err("out of service");
        assert!(matches!(error.reason(), Reason::OutOfService { .. }), "{error}");
        assert!(error.to_string().contains("c1") && error.to_string().contains("told to"), "{error}");

        stage.ask(ends[0].leave()).await.expect("it may leave");
        assert_eq!(stage.inside().await, [ends[1].endpoint]);
        assert_eq!(stage.ways_out().await, [("eth1".parse().expect("a name"), [10, 2, 0, 1].into())]);
        // A deletion that fails puts it back to what it was: not into service.
        stage.disk.fail_commit(2);
        stage.ask(DeleteSandbox { force: false }).await.expect_err("its record stays");
        assert_eq!(stage.picture().await.phase, SandboxPhase::Failed);
        assert_eq!(stage.inside().await, []);
        stage.ask(DeleteSandbox { force: false }).await.expect("deleted");
        for end in [ends[0], ends[1], other] {
            assert_eq!(stage.seen(end).await.phase, EndpointPhase::Idle);
        }
        stage.settled().await;
        let netns = stage.netns.to_string();
        let lines = stage.kernel.leftovers(&before);
        assert!(!lines.is_empty() && lines.iter().all(|line| line.contains(&netns)), "{lines:?}");
        assert!(lines.iter().all(|line| line.starts_with("missing")), "{lines:?}");
        assert!(stage.disk.records().iter().all(|(key, _)| key.kind != RecordKind::Sandbox));
        assert_eq!(stage.leaks(), Vec::<String>::new());
    });
}
