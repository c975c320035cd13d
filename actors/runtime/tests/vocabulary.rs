//! The runtime's own promises: asks that never hang, work that outlives its actor, sagas that leave nothing
//! behind or say what.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use netloom_runtime::saga::{self, SagaTools};
use netloom_runtime::{
    Actor, Addr, AskError, Cause, Cx, Exit, Handle, Janitor, Ledger, OpCtx, Panicked, Reply, Stop, Undo,
    messages, spawn,
};
use tokio::task::LocalSet;

#[derive(Default)]
struct Worker {
    held: Vec<Reply<u32>>,
    finished: Vec<Result<u32, Panicked>>,
}

struct Now(u32);
struct Hold;
struct Forget;
struct Die;
struct Slow(Duration, Option<u32>);
struct SlowFinished(Result<u32, Panicked>);
struct Finished;

messages! {
    Now => u32;
    Hold => u32;
    Forget => u32;
    Die => u32;
    Slow => ();
    SlowFinished => ();
    Finished => Vec<Result<u32, Panicked>>;
}

impl Actor for Worker {
    const KIND: &'static str = "worker";
}

impl Handle<Now> for Worker {
    fn handle(&mut self, _: OpCtx, Now(n): Now, reply: Reply<u32>, _: &mut Cx<'_, Self>) {
        reply.send(n);
    }
}

impl Handle<Hold> for Worker {
    fn handle(&mut self, _: OpCtx, _: Hold, reply: Reply<u32>, _: &mut Cx<'_, Self>) {
        self.held.push(reply);
    }
}

impl Handle<Forget> for Worker {
    fn handle(&mut self, _: OpCtx, _: Forget, _: Reply<u32>, _: &mut Cx<'_, Self>) {}
}

impl Handle<Die> for Worker {
    fn handle(&mut self, _: OpCtx, _: Die, _: Reply<u32>, _: &mut Cx<'_, Self>) {
        panic!("told to");
    }
}

impl Handle<Slow> for Worker {
    fn handle(&mut self, op: OpCtx, Slow(time, value): Slow, reply: Reply<()>, cx: &mut Cx<'_, Self>) {
        cx.run(
            &op,
            async move {
                tokio::time::sleep(time).await;
                value.expect("no value to give")
            },
            SlowFinished,
        );
        reply.send(());
    }
}

impl Handle<SlowFinished> for Worker {
    fn handle(&mut self, _: OpCtx, SlowFinished(outcome): SlowFinished, _: Reply<()>, _: &mut Cx<'_, Self>) {
        self.finished.push(outcome);
    }
}

impl Handle<Finished> for Worker {
    fn handle(
        &mut self,
        _: OpCtx,
        _: Finished,
        reply: Reply<Vec<Result<u32, Panicked>>>,
        _: &mut Cx<'_, Self>,
    ) {
        reply.send(self.finished.clone());
    }
}

/// Runs a test on one thread whose clock stands still and jumps when nothing can run.
fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), test);
}

fn op() -> OpCtx {
    OpCtx::new(Cause::Request, Duration::from_secs(5))
}

fn worker() -> (Addr<Worker>, Rc<RefCell<Vec<Exit>>>) {
    let exits = Rc::new(RefCell::new(Vec::new()));
    let told = exits.clone();
    (spawn(Worker::default(), move |exit| told.borrow_mut().push(exit)).0, exits)
}

#[test]
fn an_ask_is_answered_or_says_why_not() {
    local(async {
        let (worker, _) = worker();
        assert_eq!(worker.ask(&op(), Now(3)).await, Ok(3));
        assert_eq!(worker.ask(&op(), Forget).await, Err(AskError::Gone));
        assert_eq!(worker.ask(&op(), Hold).await, Err(AskError::Timeout), "at the operation's deadline");
        let (hold, die) = (worker.ask(&op(), Hold), worker.ask(&op(), Die));
        assert_eq!(hold.await, Err(AskError::Gone), "its reply dies with the actor");
        assert_eq!(die.await, Err(AskError::Gone));
        assert_eq!(worker.ask(&op(), Now(3)).await, Err(AskError::Gone));
        assert!(!worker.is_alive());
    });
}

#[test]
fn a_command_is_handled_though_its_caller_left() {
    local(async {
        let (worker, _) = worker();
        drop(worker.ask(&op(), Slow(Duration::ZERO, Some(1))));
        while worker.ask(&op(), Finished).await.expect("alive").is_empty() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn work_that_panics_comes_back_as_a_message() {
    local(async {
        let (worker, exits) = worker();
        worker.tell(&op(), Slow(Duration::from_secs(1), Some(1)));
        worker.tell(&op(), Slow(Duration::from_secs(2), None));
        tokio::time::sleep(Duration::from_secs(3)).await;
        let finished = worker.ask(&op(), Finished).await.expect("alive");
        assert_eq!(finished[0], Ok(1));
        assert!(finished[1].as_ref().is_err_and(|panicked| panicked.0.contains("no value to give")));
        assert!(exits.borrow().is_empty());
    });
}

#[test]
fn every_exit_is_reported_once_and_tasks_can_be_waited_for() {
    local(async {
        let exits = Rc::new(RefCell::new(Vec::new()));
        let told = exits.clone();
        let (worker, tasks) = spawn(Worker::default(), move |exit| told.borrow_mut().push(exit));
        worker.ask(&op(), Slow(Duration::from_secs(60), Some(1))).await.expect("started");
        let _ = worker.ask(&op(), Die).await;
        assert!(matches!(exits.borrow().as_slice(), [Exit::Panicked(_)]));
        assert_eq!(tasks.running(), 1, "work outlives its actor");
        tasks.idle().await;
        assert_eq!(tasks.running(), 0);
    });
}

// === Sagas ===

/// A world of named things that exist or not, with undo steps that can be made to fail.
#[derive(Clone, Default)]
struct World {
    things: Rc<RefCell<Vec<&'static str>>>,
    stuck: Rc<RefCell<Vec<&'static str>>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Failure {
    Certain,
    Unsure,
    Interrupted,
    Panicked,
    Stuck,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[derive(Clone, Debug)]
struct Remove(&'static str);

impl fmt::Display for Remove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "remove {}", self.0)
    }
}

impl Undo for Remove {
    type World = World;
    type Error = Failure;

    fn undo(&self, world: &World, _: &OpCtx) -> LocalBoxFuture<'static, Result<(), Failure>> {
        let (world, thing) = (world.clone(), self.0);
        async move {
            if world.stuck.borrow().contains(&thing) {
                return Err(Failure::Stuck);
            }
            world.things.borrow_mut().retain(|t| *t != thing);
            Ok(())
        }
        .boxed_local()
    }

    fn uncertain(error: &Failure) -> bool {
        *error == Failure::Unsure
    }

    fn interrupted(_: &OpCtx, _: &'static str) -> Failure {
        Failure::Interrupted
    }

    fn panicked(_: &Panicked) -> Failure {
        Failure::Panicked
    }
}

fn tools() -> SagaTools {
    SagaTools { ledger: Ledger::default(), janitor: Janitor::new(|_, _| {}) }
}

impl World {
    async fn make(&self, thing: &'static str, outcome: Result<(), Failure>) -> Result<(), Failure> {
        // An uncertain failure did happen; a certain one did not.
        if outcome != Err(Failure::Certain) {
            self.things.borrow_mut().push(thing);
        }
        outcome
    }
}

async fn build(
    world: &World,
    op: &OpCtx,
    tools: &SagaTools,
    last: Result<(), Failure>,
) -> Result<(), saga::Unwound<Failure>> {
    saga::run(tools, op, "build", "house", world.clone(), async |saga| {
        saga.step("floor", Remove("floor"), world.make("floor", Ok(()))).await?;
        saga.step("wall", Remove("wall"), world.make("wall", Ok(()))).await?;
        saga.step("roof", Remove("roof"), world.make("roof", last)).await
    })
    .await
}

#[test]
fn a_saga_commits_or_leaves_nothing() {
    local(async {
        for (last, left) in [(Ok(()), 3), (Err(Failure::Certain), 0), (Err(Failure::Unsure), 0)] {
            let (world, tools) = (World::default(), tools());
            let outcome = build(&world, &op(), &tools, last.clone()).await;
            assert_eq!(outcome.map_err(|unwound| unwound.cause), last);
            assert_eq!(world.things.borrow().len(), left);
            assert!(tools.ledger.is_empty() && tools.janitor.leaks().is_empty());
        }
    });
}

#[test]
fn what_cannot_be_undone_is_named_and_retried() {
    local(async {
        let (world, tools) = (World::default(), tools());
        world.stuck.borrow_mut().push("wall");
        let unwound = build(&world, &op(), &tools, Err(Failure::Certain)).await.expect_err("failed");
        assert_eq!(unwound.leaks, ["remove wall: Stuck"]);
        assert_eq!(*world.things.borrow(), ["wall"], "undoing went on past the failure");
        assert_eq!(tools.janitor.leaks(), ["remove wall"]);
        world.stuck.borrow_mut().clear();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(world.things.borrow().is_empty() && tools.janitor.leaks().is_empty());
    });
}

/// Whichever fails, the other one is waited for; and what certainly did not happen is not undone.
#[test]
fn of_two_steps_beside_each_other_each_is_undone_by_itself() {
    local(async {
        let outcomes = [Ok(()), Err(Failure::Certain), Err(Failure::Unsure)];
        let pairs = outcomes.iter().flat_map(|a| outcomes.iter().map(move |b| (a.clone(), b.clone())));
        for (wall, fence) in pairs {
            let (world, tools, op) = (World::default(), tools(), op());
            for (thing, outcome) in [("wall", &wall), ("fence", &fence)] {
                if *outcome == Err(Failure::Certain) {
                    world.stuck.borrow_mut().push(thing);
                }
            }
            let outcome = saga::run(&tools, &op, "build", "house", world.clone(), async |saga| {
                saga.step("floor", Remove("floor"), world.make("floor", Ok(()))).await?;
                let slow = async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    world.make("fence", fence.clone()).await
                };
                let quick = world.make("wall", wall.clone());
                saga.both("wall and fence", (Remove("wall"), quick), (Remove("fence"), slow)).await
            });
            let expected = wall.clone().and(fence.clone());
            let left: &[_] = if expected.is_ok() { &["floor", "wall", "fence"] } else { &[] };
            match outcome.await {
                Ok(()) => assert_eq!(Ok(()), expected),
                Err(unwound) => {
                    assert_eq!(Err(unwound.cause), expected);
                    assert_eq!(unwound.leaks, Vec::<String>::new(), "{wall:?} {fence:?}");
                }
            }
            assert_eq!(*world.things.borrow(), left, "{wall:?} {fence:?}");
        }
    });
}

/// Interrupted on the way both may have taken effect.
#[test]
fn two_steps_that_are_interrupted_are_both_undone() {
    local(async {
        let (world, tools, op) = (World::default(), tools(), op());
        let outcome = saga::run(&tools, &op, "build", "house", world.clone(), async |saga| {
            let wall = world.make("wall", Ok(()));
            let fence = async {
                world.make("fence", Ok(())).await?;
                op.cancel.cancel(Stop::Shutdown);
                std::future::pending().await
            };
            saga.both("wall and fence", (Remove("wall"), wall), (Remove("fence"), fence)).await
        });
        assert_eq!(outcome.await.expect_err("stopped").cause, Failure::Interrupted);
        assert!(world.things.borrow().is_empty(), "{:?}", world.things);
    });
}

#[test]
fn a_cancelled_or_late_saga_stops_at_the_next_step() {
    local(async {
        for cancel in [true, false] {
            let (world, tools, op) = (World::default(), tools(), op());
            let outcome = saga::run(&tools, &op, "build", "house", world.clone(), async |saga| {
                saga.step("floor", Remove("floor"), world.make("floor", Ok(()))).await?;
                if cancel {
                    op.cancel.cancel(Stop::Shutdown);
                } else {
                    tokio::time::sleep(Duration::from_secs(6)).await;
                }
                saga.step("wall", Remove("wall"), world.make("wall", Ok(()))).await
            });
            assert_eq!(outcome.await.expect_err("stopped").cause, Failure::Interrupted);
            assert!(world.things.borrow().is_empty());
        }
    });
}

#[test]
fn a_saga_that_panics_or_is_dropped_is_undone() {
    local(async {
        let (world, tools, op) = (World::default(), tools(), op());
        let outcome = saga::run(&tools, &op, "build", "house", world.clone(), async |saga| {
            saga.step("floor", Remove("floor"), world.make("floor", Ok(()))).await?;
            assert!(!saga.op().remaining().is_zero() && tools.ledger.is_empty(), "a bug in a saga");
            Ok(())
        });
        assert_eq!(outcome.await.expect_err("died").cause, Failure::Panicked);
        assert!(world.things.borrow().is_empty());

        let never = saga::run(&tools, &op, "build", "house", world.clone(), async |saga| {
            saga.step("floor", Remove("floor"), world.make("floor", Ok(()))).await?;
            std::future::pending::<Result<(), Failure>>().await
        });
        assert!(tokio::time::timeout(Duration::from_secs(1), never).await.is_err());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(world.things.borrow().is_empty(), "the janitor did it");
        assert!(tools.ledger.is_empty());
    });
}

#[test]
fn the_ledger_shows_the_step() {
    local(async {
        let (world, tools) = (World::default(), tools());
        saga::run(&tools, &op(), "build", "house", world.clone(), async |saga| {
            saga.step("floor", Remove("floor"), async {
                let rows = tools.ledger.list();
                assert_eq!((rows.len(), rows[0].verb, rows[0].step), (1, "build", "floor"));
                Ok::<(), Failure>(())
            })
            .await
        })
        .await
        .expect("built");
        assert!(tools.ledger.is_empty());
    });
}

#[test]
fn who_waits_for_what_was_under_way_does_not_wait_for_what_comes_later() {
    local(async {
        let ledger = Ledger::default();
        let earlier = ledger.enter(&op(), "build", "house");
        let own = ledger.enter(&op(), "sweep", "site");
        let _later = ledger.enter(&op(), "build", "shed");
        let mut ended = std::pin::pin!(ledger.ended_before(&own));
        assert!(futures::poll!(&mut ended).is_pending());
        drop(earlier);
        ended.await;
        assert_eq!(ledger.len(), 2);
    });
}
