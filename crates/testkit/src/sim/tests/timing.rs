//! Latency, faults and deadlines, on tokio's paused time.

use tokio::time::Instant as Clock;

use super::*;
use crate::errno::EBUSY;
use crate::sim::{EffectTime, Fault, FaultKind, FaultPlan, Latency, RandomFaults};
use netloom_model::Certainty;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn within(time: Duration) -> Instant {
    (Clock::now() + time).into_std()
}

#[tokio::test(start_paused = true)]
async fn each_operation_takes_its_time() {
    let latency = Latency::all(ms(1)).verb("create_bridge", ms(10));
    let kernel = SimKernel::builder().latency(latency).build();
    let begin = Clock::now();
    let answers = kernel.execute(vec![netns("a"), bridge("br0"), netns("b")], within(ms(100))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(begin.elapsed(), ms(12));
}

#[tokio::test(start_paused = true)]
async fn effects_come_first_or_last() {
    for (effect, seen) in [(EffectTime::Start, [true, true]), (EffectTime::End, [false, true])] {
        let kernel = SimKernel::builder().latency(Latency::all(ms(10)).effect(effect)).build();
        let call = kernel.execute(vec![bridge("br0")], within(ms(100)));
        let early = view(&kernel, HOST_NS, "br0").is_some();
        call.await[0].as_ref().expect("made");
        assert_eq!([early, view(&kernel, HOST_NS, "br0").is_some()], seen, "{effect:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_at_the_same_time_do_not_queue() {
    let kernel = SimKernel::builder().latency(Latency::all(ms(10))).build();
    let begin = Clock::now();
    let names = ["a", "b", "c"];
    let calls = names.map(|name| kernel.execute(vec![netns(name)], within(ms(100))));
    futures::future::join_all(calls).await;
    assert_eq!(begin.elapsed(), ms(10));
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_happens_though_nobody_waits() {
    let kernel = SimKernel::builder().latency(Latency::all(ms(10)).effect(EffectTime::End)).build();
    drop(kernel.execute(vec![bridge("br0"), bridge("br1")], within(ms(100))));
    tokio::time::sleep(ms(15)).await;
    assert!(view(&kernel, HOST_NS, "br0").is_some());
    assert!(view(&kernel, HOST_NS, "br1").is_none());
    tokio::time::sleep(ms(10)).await;
    assert!(view(&kernel, HOST_NS, "br1").is_some());
    assert!(kernel.lock().calls.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_wait_and_not_the_work() {
    for effect in [EffectTime::Start, EffectTime::End] {
        let kernel = SimKernel::builder().latency(Latency::all(ms(10)).effect(effect)).build();
        let begin = Clock::now();
        let answers = kernel.execute(vec![bridge("br0"), bridge("br1")], within(ms(15))).await;
        assert_eq!(begin.elapsed(), ms(15));
        answers[0].as_ref().expect("answered after 10 ms");
        let late = answers[1].as_ref().expect_err("not answered");
        assert_eq!((late.certainty, late.timed_out), (Certainty::Uncertain, Some(ms(15))));
        tokio::time::sleep(ms(10)).await;
        assert!(view(&kernel, HOST_NS, "br1").is_some());
        assert!(kernel.lock().calls.is_empty());
    }
}

#[test]
fn a_refusal_has_no_effect() {
    let kernel = SimKernel::new();
    kernel.plan(Fault::verb("create_bridge", 2, FaultKind::Refuse(EBUSY)));
    let before = kernel.snapshot();
    let answers = execute(&kernel, vec![bridge("br0"), netns("a"), bridge("br1")]);
    let error = answers[2].as_ref().expect_err("refused");
    assert_eq!((error.errno, error.certainty), (EBUSY, Certainty::Aborted));
    assert_eq!(error.to_string(), "cannot create bridge br1: Device or resource busy (EBUSY)");
    assert!(kernel.pending_faults().is_empty());
    does(&kernel, [delete("br0"), drop_netns("a")]);
    kernel.assert_pristine(&before);
}

#[test]
fn a_lost_answer_leaves_the_effect_or_not() {
    for (kind, effect) in [(FaultKind::Lose, true), (FaultKind::LoseBefore, false)] {
        let kernel = SimKernel::new();
        kernel.plan(Fault::nth(1, kind));
        let error = execute(&kernel, vec![bridge("br0")]).remove(0).expect_err("lost");
        assert_eq!((error.certainty, error.timed_out), (Certainty::Uncertain, None));
        assert_eq!(view(&kernel, HOST_NS, "br0").is_some(), effect, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hanging_operation_is_answered_when_it_is_released() {
    let kernel = SimKernel::new();
    kernel.plan(Fault::nth(2, FaultKind::Hang));
    let ops = vec![bridge("br0"), bridge("br1"), bridge("br2")];
    let call = tokio::spawn(kernel.execute(ops, within(ms(1000))));
    tokio::time::sleep(ms(10)).await;
    assert_eq!(kernel.hanging(), 1);
    assert!(view(&kernel, HOST_NS, "br0").is_some());
    assert!(view(&kernel, HOST_NS, "br1").is_none());
    let begin = Clock::now();
    assert_eq!(kernel.release(), 1);
    let answers = call.await.expect("no panic");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!((kernel.hanging(), kernel.release()), (0, 0));
    assert!(kernel.lock().calls.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hanging_operation_is_given_up_at_the_deadline_and_happens_later() {
    let kernel = SimKernel::new();
    kernel.plan(Fault::nth(1, FaultKind::Hang));
    let begin = Clock::now();
    let answers = kernel.execute(vec![bridge("br0"), bridge("br1")], within(ms(50))).await;
    assert_eq!(begin.elapsed(), ms(50));
    for answer in answers {
        let error = answer.expect_err("given up");
        assert_eq!((error.certainty, error.timed_out), (Certainty::Uncertain, Some(ms(50))));
    }
    assert!(view(&kernel, HOST_NS, "br0").is_none());
    assert_eq!(kernel.release(), 1);
    assert!(view(&kernel, HOST_NS, "br0").is_some() && view(&kernel, HOST_NS, "br1").is_some());
    assert!(kernel.lock().calls.is_empty());
}

#[tokio::test(start_paused = true)]
async fn others_go_on_while_one_hangs() {
    let kernel = SimKernel::new();
    kernel.plan(Fault::nth(1, FaultKind::Hang));
    let stuck = kernel.execute(vec![bridge("br0")], within(ms(50)));
    does(&kernel, [bridge("br1")]);
    kernel.clear_faults();
    does(&kernel, [bridge("br2")]);
    stuck.await[0].as_ref().expect_err("nobody released it");
}

#[test]
fn faults_are_counted_from_the_plan_on() {
    let kernel = SimKernel::new();
    does(&kernel, [netns("a"), netns("b")]);
    kernel.plan(Fault::nth(2, FaultKind::Refuse(EBUSY)).times(2));
    let answers = execute(&kernel, vec![netns("c"), netns("d"), netns("e"), netns("f")]);
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, false, true]);
    kernel.plan(Fault::verb("create_netns", 1, FaultKind::Refuse(EBUSY)).always());
    execute(&kernel, vec![netns("g")]).remove(0).expect_err("refused");
    assert_eq!(kernel.pending_faults().len(), 1);
    kernel.clear_faults();
    does(&kernel, [netns("g")]);
    assert_eq!(kernel.ops_count(), 8);
}

#[test]
fn random_faults_are_the_same_for_the_same_seed() {
    let outcome = |seed| {
        let kinds = vec![FaultKind::Refuse(EBUSY), FaultKind::Lose, FaultKind::LoseBefore];
        let random = Some(RandomFaults { seed, probability: 0.3, kinds });
        let kernel = SimKernel::builder().faults(FaultPlan { faults: Vec::new(), random }).build();
        let answers = execute(&kernel, (0..50).map(|n| netns(&format!("n{n}"))).collect());
        (answers, kernel.snapshot())
    };
    assert_eq!(outcome(1), outcome(1));
    assert_ne!(outcome(1), outcome(2));
}

#[test]
fn a_fault_of_an_unknown_verb_is_a_mistake() {
    let plan = std::panic::catch_unwind(|| Fault::verb("make_netns", 1, FaultKind::Lose));
    assert!(plan.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_reboot_answers_nobody() {
    let kernel = SimKernel::builder().latency(Latency::all(ms(10)).effect(EffectTime::End)).build();
    let call = kernel.execute(vec![bridge("br0")], within(ms(50)));
    let before = kernel.snapshot();
    kernel.reboot();
    let error = call.await.remove(0).expect_err("the machine went down");
    assert_eq!(error.timed_out, Some(ms(50)));
    kernel.assert_pristine(&before);
    assert!(kernel.lock().calls.is_empty());
}
