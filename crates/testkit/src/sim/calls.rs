//! Calls that take time: their operations take effect when their time comes, whether anybody still waits for
//! the answer or not.
//!
//! There is no task behind this. Whoever looks at the model next first carries out what has become due, in
//! the order of the due times, so that nobody can see a state that is behind the clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use futures::channel::oneshot;
use netloom_kernel::nft::Table;
use netloom_kernel::{KernelError, Netns, Op};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::conflict::collide;
use super::state::{State, Turn};

/// The answers of one call.
pub(super) type Answers = Vec<Result<(), KernelError>>;

/// Every call that is not answered, or still has something to do.
#[derive(Debug, Default)]
pub(super) struct Calls {
    live: FxHashMap<u64, Call>,
    /// Due time, order of entry, call.
    due: BinaryHeap<Reverse<(Instant, u64, u64)>>,
    entered: u64,
    next: u64,
    /// Looks at a table that wait behind changes of it: dropped when those can go on.
    behind: Vec<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct Call {
    ops: Vec<Op>,
    /// The answers so far; their number is the place of the current operation.
    answers: Answers,
    step: Step,
    /// When the next step is due; meaningless while it hangs.
    at: Instant,
    began: Instant,
    /// Nobody waits for the answers.
    abandoned: bool,
    /// Dropped to wake the caller before the time it waits for.
    wake: Option<oneshot::Sender<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The current operation begins.
    Begin,
    /// Its time is over, and it takes effect.
    Effect,
    /// It hangs, until it is released.
    Hanging,
    /// It waits behind an earlier call that hangs and is about the same objects: the thread that carries out
    /// both takes them one after the other.
    Held,
    /// The machine went down under it: it is never answered.
    Forgotten,
    /// All are answered.
    Done,
}

/// What a caller finds.
#[derive(Debug)]
pub(super) enum Collected {
    Answers(Answers),
    /// Nothing before this time, or before the receiver wakes.
    Wait(Instant, oneshot::Receiver<()>),
}

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    pub(super) fn hanging(&self) -> usize {
        self.live.values().filter(|call| call.step == Step::Hanging).count()
    }

    /// Whether an earlier call that cannot go on still has to do something with an object of this operation.
    fn hold_up(&self, id: u64, op: &Op) -> bool {
        let stuck = |call: &Call| matches!(call.step, Step::Hanging | Step::Held);
        let earlier = self.live.iter().filter(|(other, call)| **other < id && stuck(call));
        earlier.flat_map(|(_, call)| &call.ops[call.answers.len()..]).any(|first| collide(first, op))
    }

    /// Tells when a look at a table may be taken; `None` for at once. One thread takes changes and looks in their order.
    pub(super) fn before_look(&mut self, table: &Table) -> Option<oneshot::Receiver<()>> {
        let look = Op::ChangeTable { netns: Netns::Host, table: table.clone(), changes: Vec::new() };
        self.hold_up(u64::MAX, &look).then(|| {
            let (waits, gone) = oneshot::channel();
            self.behind.push(waits);
            gone
        })
    }

    fn enter(&mut self, at: Instant, id: u64) {
        self.entered += 1;
        self.due.push(Reverse((at, self.entered, id)));
    }
}

impl State {
    /// Begins a call and carries out what is due now.
    pub(super) fn begin_call(&mut self, ops: Vec<Op>, now: Instant) -> u64 {
        self.calls.next += 1;
        let id = self.calls.next;
        let answers = Vec::with_capacity(ops.len());
        let call =
            Call { ops, answers, step: Step::Begin, at: now, began: now, abandoned: false, wake: None };
        self.calls.live.insert(id, call);
        self.calls.enter(now, id);
        self.advance(now);
        id
    }

    /// Carries out everything that is due.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some(Reverse((at, _, id))) = self.calls.due.peek().copied() {
            if at > now {
                return;
            }
            self.calls.due.pop();
            self.step(id);
        }
    }

    /// Runs one call until it has to wait again.
    fn step(&mut self, id: u64) {
        let Some(mut call) = self.calls.live.remove(&id) else { return };
        let before = call.at;
        let deleted = self.stats.links_deleted;
        while call.at == before {
            let Some(op) = call.ops.get(call.answers.len()) else {
                call.step = Step::Done;
                break;
            };
            let latency = self.latency.of(op.verb());
            if call.step == Step::Begin && self.latency.effect_at_end() && !latency.is_zero() {
                call.step = Step::Effect;
                call.at += latency;
                continue;
            }
            if self.calls.hold_up(id, op) {
                call.step = Step::Held;
                break;
            }
            match self.take_turn(op) {
                Turn::Answered(answer) => call.answers.push(answer),
                Turn::Hangs => {
                    call.step = Step::Hanging;
                    break;
                }
            }
            if call.step == Step::Begin {
                call.at += latency;
            }
            call.step = Step::Begin;
        }
        self.count_deletions(deleted);
        self.put_back(id, call);
    }

    fn put_back(&mut self, id: u64, mut call: Call) {
        match call.step {
            Step::Begin | Step::Effect => self.calls.enter(call.at, id),
            Step::Hanging | Step::Held | Step::Forgotten => {}
            Step::Done => {
                call.wake = None;
                if call.abandoned {
                    return;
                }
            }
        }
        self.calls.live.insert(id, call);
    }

    /// Lets every hanging operation take effect, and what waits behind it go on.
    pub(super) fn release(&mut self, now: Instant) -> usize {
        let stuck = |call: &Call| matches!(call.step, Step::Hanging | Step::Held);
        let live = self.calls.live.iter();
        let mut waiting: Vec<u64> = live.filter(|(_, call)| stuck(call)).map(|(id, _)| *id).collect();
        waiting.sort_unstable();
        let mut released = 0;
        for id in waiting {
            let Some(mut call) = self.calls.live.remove(&id) else { continue };
            if call.step == Step::Hanging
                && let Some(op) = call.ops.get(call.answers.len())
            {
                let answer = self.carry_out(op);
                call.answers.push(answer);
                released += 1;
            }
            call.step = Step::Begin;
            call.at = now;
            call.wake = None;
            self.put_back(id, call);
        }
        self.advance(now);
        self.calls.behind.clear();
        released
    }

    /// Drops what calls still have to do. Their callers wait until their deadlines.
    pub(super) fn forget_calls(&mut self) {
        self.calls.due.clear();
        self.calls.live.retain(|_, call| !call.abandoned);
        for call in self.calls.live.values_mut() {
            if call.step != Step::Done {
                call.step = Step::Forgotten;
            }
        }
    }

    /// The answers of a call, if there are all of them or its deadline has passed.
    pub(super) fn collect(&mut self, id: u64, deadline: Instant, now: Instant) -> Collected {
        let Some(mut call) = self.calls.live.remove(&id) else { return Collected::Answers(Vec::new()) };
        if call.step == Step::Done {
            return Collected::Answers(call.answers);
        }
        if now >= deadline {
            let answers = given_up(&call, deadline, now);
            call.abandoned = true;
            if call.step != Step::Forgotten {
                self.calls.live.insert(id, call);
            }
            return Collected::Answers(answers);
        }
        let until = match call.step {
            Step::Hanging | Step::Held | Step::Forgotten => deadline,
            Step::Begin | Step::Effect | Step::Done => call.at.min(deadline),
        };
        let (wake, woken) = oneshot::channel();
        call.wake = Some(wake);
        self.calls.live.insert(id, call);
        Collected::Wait(until, woken)
    }

    /// The caller went away. What the call has to do is still done.
    pub(super) fn abandon(&mut self, id: u64) {
        if let Some(call) = self.calls.live.get_mut(&id) {
            call.abandoned = true;
            if matches!(call.step, Step::Done | Step::Forgotten) {
                self.calls.live.remove(&id);
            }
        }
    }
}

/// The answers that came, and for the rest that none came.
fn given_up(call: &Call, deadline: Instant, now: Instant) -> Answers {
    let allowed: Duration = deadline.saturating_duration_since(call.began);
    // An operation that took effect at its start has no answer before its time is over.
    let unanswered = usize::from(call.step == Step::Begin && call.at > now);
    let arrived = call.answers.len().saturating_sub(unanswered);
    let late = call.ops[arrived..].iter().map(|op| Err(KernelError::timed_out(op, allowed)));
    call.answers[..arrived].iter().cloned().chain(late).collect()
}
