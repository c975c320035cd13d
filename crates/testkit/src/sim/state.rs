//! Everything a simulated kernel is: the model, the plan of faults, the calls under way, the counters.

use std::collections::VecDeque;

use netloom_kernel::{KernelError, KernelStats, Op};

use super::calls::{Answers, Calls};
use super::faults::{FaultKind, Faults};
use super::latency::Latency;
use super::world::World;
use crate::errno::Refusal;

/// The state behind a [`super::SimKernel`].
#[derive(Debug)]
pub(super) struct State {
    pub(super) world: World,
    pub(super) faults: Faults,
    pub(super) latency: Latency,
    pub(super) calls: Calls,
    pub(super) log: Log,
    pub(super) stats: KernelStats,
    pub(super) ops: u64,
    /// How often the neighbours of a link were told.
    pub(super) announcements: u64,
}

/// The operations carried out and their answers, the newest up to a limit.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) entries: VecDeque<(Op, Result<(), KernelError>)>,
    /// How many are kept; zero keeps none.
    pub(super) limit: usize,
}

/// What becomes of an operation whose turn it is.
#[derive(Debug)]
pub(super) enum Turn {
    Answered(Result<(), KernelError>),
    Hangs,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            world: World::new(),
            faults: Faults::default(),
            latency: Latency::default(),
            calls: Calls::default(),
            log: Log::default(),
            stats: KernelStats::default(),
            ops: 0,
            announcements: 0,
        }
    }

    /// Whether operations take effect at once and as they should.
    pub(super) fn is_plain(&self) -> bool {
        self.faults.is_empty() && self.latency.is_zero() && self.calls.hanging() == 0
    }

    /// Counts a call: one send, one message for each operation.
    pub(super) fn count_call(&mut self, ops: &[Op]) {
        self.stats.sends += 1;
        self.stats.messages += ops.len() as u64;
    }

    /// Counts what was deleted since `before` links were: all at once.
    pub(super) fn count_deletions(&mut self, before: u64) {
        self.stats.deletions += u64::from(self.stats.links_deleted > before);
    }

    /// Carries out a call of which no operation takes time or fails on purpose.
    pub(super) fn run_plain(&mut self, ops: &[Op]) -> Answers {
        self.ops += ops.len() as u64;
        let deleted = self.stats.links_deleted;
        let answers = ops.iter().map(|op| self.carry_out(op)).collect();
        self.count_deletions(deleted);
        answers
    }

    /// Counts an operation and carries it out, unless a fault is due.
    pub(super) fn take_turn(&mut self, op: &Op) -> Turn {
        self.ops += 1;
        let answer = match self.faults.decide(op.verb()) {
            None => return Turn::Answered(self.carry_out(op)),
            Some(FaultKind::Hang) => return Turn::Hangs,
            Some(FaultKind::Refuse(errno)) => {
                Err(KernelError::refused(op, errno, Refusal::new(errno).message()))
            }
            Some(FaultKind::Lose) => {
                // Whatever it came to, nobody hears of it.
                let _ = self.take_effect(op);
                Err(lost(op))
            }
            Some(FaultKind::LoseBefore) => Err(lost(op)),
        };
        self.log.record(op, &answer);
        Turn::Answered(answer)
    }

    /// Carries out an operation.
    pub(super) fn carry_out(&mut self, op: &Op) -> Result<(), KernelError> {
        let answer = self
            .take_effect(op)
            .map_err(|refusal| KernelError::refused(op, refusal.errno, refusal.message()));
        self.log.record(op, &answer);
        answer
    }

    fn take_effect(&mut self, op: &Op) -> Result<(), Refusal> {
        self.world.apply(op)?;
        self.stats.links_deleted += u64::from(matches!(op, Op::DeleteLink { .. }));
        self.announcements += u64::from(matches!(op, Op::Announce { .. }));
        Ok(())
    }
}

impl Log {
    fn record(&mut self, op: &Op, answer: &Result<(), KernelError>) {
        if self.limit == 0 {
            return;
        }
        if self.entries.len() >= self.limit {
            self.entries.pop_front();
        }
        self.entries.push_back((op.clone(), answer.clone()));
    }

    pub(super) fn keep(&mut self, limit: usize) {
        self.limit = limit;
        let surplus = self.entries.len().saturating_sub(limit);
        self.entries.drain(..surplus);
    }
}

fn lost(op: &Op) -> KernelError {
    KernelError::lost(op, "the answer was lost")
}
