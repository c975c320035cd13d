//! What a message costs: an ask through the runtime beside a bare tokio channel round trip, on one thread
//! and between two.
//!
//! Run with `cargo bench --bench mailbox`. The bare round trip (`mpsc` there, `oneshot` back) is the floor: it
//! carries no operation, no deadline and no span. On two threads both pay for a wake-up, which costs more
//! than everything else together.

use std::time::{Duration, Instant};

use anyhow::Context;
use criterion::{BenchmarkId, Criterion, Throughput};
use netloom_runtime::{
    Actor, Addr, Cause, Cx, EngineThread, Handle, OpCtx, Reply, ThreadGone, messages, spawn,
};
use tokio::sync::{mpsc, oneshot};

/// Round trips under way at the same time.
const IN_FLIGHT: [u64; 2] = [1, 64];

/// Answers what it is told.
struct Echo;

struct Say(u64);

messages! {
    Say => u64;
}

impl Actor for Echo {
    const KIND: &'static str = "echo";
}

impl Handle<Say> for Echo {
    fn handle(&mut self, _: OpCtx, Say(word): Say, reply: Reply<u64>, _: &mut Cx<'_, Self>) {
        reply.send(word);
    }
}

/// The same without the runtime: a task that answers.
#[derive(Clone)]
struct RawEcho(mpsc::UnboundedSender<(u64, oneshot::Sender<u64>)>);

impl RawEcho {
    /// Starts the task on this thread.
    fn start() -> Self {
        let (sender, mut inbox) = mpsc::unbounded_channel::<(u64, oneshot::Sender<u64>)>();
        tokio::task::spawn_local(async move {
            while let Some((word, reply)) = inbox.recv().await {
                let _ = reply.send(word);
            }
        });
        Self(sender)
    }

    async fn say(&self, word: u64) -> u64 {
        let (reply, answer) = oneshot::channel();
        assert!(self.0.send((word, reply)).is_ok(), "the raw echo is gone");
        answer.await.expect("the raw echo answers")
    }
}

fn operation() -> OpCtx {
    OpCtx::new(Cause::Request, Duration::from_secs(3600))
}

/// Times `total` round trips, `in_flight` of them at a time; each caller is a task of its own.
async fn timed<F: Future<Output = u64> + 'static>(
    total: u64,
    in_flight: u64,
    caller: impl Fn(u64) -> F,
) -> Duration {
    let each = total.div_ceil(in_flight);
    let began = Instant::now();
    let callers: Vec<_> = (0..in_flight).map(|_| tokio::task::spawn_local(caller(each))).collect();
    let mut done = 0;
    for caller in callers {
        done += caller.await.expect("a caller ends");
    }
    assert_eq!(done, each * in_flight, "every word came back");
    // The last round may be larger than asked for.
    began.elapsed().mul_f64(total as f64 / done as f64)
}

async fn ask_repeatedly(addr: Addr<Echo>, op: OpCtx, rounds: u64) -> u64 {
    let mut done = 0;
    for word in 0..rounds {
        done += u64::from(addr.ask(&op, Say(word)).await == Ok(word));
    }
    done
}

async fn call_repeatedly(thread: EngineThread, addr: Addr<Echo>, op: OpCtx, rounds: u64) -> u64 {
    let mut done = 0;
    for word in 0..rounds {
        let answer = thread.ask(addr.clone(), op.clone(), Say(word), op.deadline, None);
        done += u64::from(answer.await == Ok(word));
    }
    done
}

async fn say_repeatedly(echo: RawEcho, rounds: u64) -> u64 {
    let mut done = 0;
    for word in 0..rounds {
        done += u64::from(echo.say(word).await == word);
    }
    done
}

/// Runs a measurement on the engine thread itself.
fn on_thread<F: Future<Output = Duration> + 'static>(
    host: &tokio::runtime::Runtime,
    thread: &EngineThread,
    work: impl FnOnce() -> F + Send + 'static,
) -> Duration {
    host.block_on(thread.call(work)).expect("the engine thread lives")
}

fn same_thread(
    c: &mut Criterion,
    host: &tokio::runtime::Runtime,
    thread: &EngineThread,
    actor: &Addr<Echo>,
    raw: &RawEcho,
) {
    let mut group = c.benchmark_group("mailbox, same thread");
    group.throughput(Throughput::Elements(1));
    for in_flight in IN_FLIGHT {
        group.bench_function(BenchmarkId::new("ask", in_flight), |b| {
            b.iter_custom(|total| {
                let addr = actor.clone();
                on_thread(host, thread, move || {
                    let op = operation();
                    timed(total, in_flight, move |rounds| ask_repeatedly(addr.clone(), op.clone(), rounds))
                })
            });
        });
        group.bench_function(BenchmarkId::new("raw channel", in_flight), |b| {
            b.iter_custom(|total| {
                let raw = raw.clone();
                on_thread(host, thread, move || {
                    timed(total, in_flight, move |rounds| say_repeatedly(raw.clone(), rounds))
                })
            });
        });
    }
    group.finish();
}

fn two_threads(
    c: &mut Criterion,
    host: &tokio::runtime::Runtime,
    thread: &EngineThread,
    actor: &Addr<Echo>,
    raw: &RawEcho,
) {
    let mut group = c.benchmark_group("mailbox, two threads");
    group.throughput(Throughput::Elements(1));
    for in_flight in IN_FLIGHT {
        group.bench_function(BenchmarkId::new("call", in_flight), |b| {
            b.to_async(host).iter_custom(|total| async move {
                let op = operation();
                let caller = |rounds| call_repeatedly(thread.clone(), actor.clone(), op.clone(), rounds);
                tokio::task::LocalSet::new().run_until(timed(total, in_flight, caller)).await
            });
        });
        group.bench_function(BenchmarkId::new("raw channel", in_flight), |b| {
            b.to_async(host).iter_custom(|total| async move {
                let caller = |rounds| say_repeatedly(raw.clone(), rounds);
                tokio::task::LocalSet::new().run_until(timed(total, in_flight, caller)).await
            });
        });
    }
    group.finish();
}

fn main() -> anyhow::Result<()> {
    let host = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = EngineThread::start("bench").context("an engine thread")?;
    let started = thread.call(|| async { (spawn(Echo, drop).0, RawEcho::start()) });
    let (actor, raw) = host.block_on(started).map_err(|ThreadGone| anyhow::anyhow!("the thread ended"))?;
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    same_thread(&mut criterion, &host, &thread, &actor, &raw);
    two_threads(&mut criterion, &host, &thread, &actor, &raw);
    criterion.final_summary();
    Ok(())
}
