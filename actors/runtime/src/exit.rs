//! How actors end, and how often they may be started again.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::tasks::Panicked;

/// How an actor ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exit {
    /// It stopped itself, or nobody had its address any more.
    Stopped,
    /// A handler panicked.
    Panicked(Panicked),
    /// Its engine thread went away.
    Dropped,
}

type OnExit = Box<dyn FnOnce(Exit)>;

/// Reports an exit exactly once, whatever way the actor ends.
pub(crate) struct ExitGuard {
    kind: &'static str,
    on_exit: Option<OnExit>,
}

impl ExitGuard {
    pub(crate) fn new(kind: &'static str, on_exit: impl FnOnce(Exit) + 'static) -> Self {
        Self { kind, on_exit: Some(Box::new(on_exit)) }
    }

    pub(crate) fn report(mut self, panicked: Option<Panicked>) {
        let exit = match panicked {
            None => Exit::Stopped,
            Some(panicked) => {
                tracing::error!(actor = self.kind, %panicked, "an actor died");
                Exit::Panicked(panicked)
            }
        };
        self.tell(exit);
    }

    fn tell(&mut self, exit: Exit) {
        if let Some(on_exit) = self.on_exit.take() {
            on_exit(exit);
        }
    }
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        self.tell(Exit::Dropped);
    }
}

/// How many restarts an actor has left: at most `max` in any `window`.
#[derive(Clone)]
pub struct RestartBudget {
    max: usize,
    window: Duration,
    used: VecDeque<Instant>,
}

impl fmt::Debug for RestartBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RestartBudget({} of {} used)", self.used.len(), self.max)
    }
}

impl Default for RestartBudget {
    fn default() -> Self {
        Self::new(3, Duration::from_secs(60))
    }
}

impl RestartBudget {
    /// A budget of `max` restarts in any `window`.
    #[must_use]
    pub fn new(max: usize, window: Duration) -> Self {
        Self { max, window, used: VecDeque::with_capacity(max) }
    }

    /// Takes one restart; `false` when none is left.
    pub fn take(&mut self, now: Instant) -> bool {
        while self.used.front().is_some_and(|at| now.duration_since(*at) >= self.window) {
            self.used.pop_front();
        }
        if self.used.len() >= self.max {
            return false;
        }
        self.used.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_restarts_a_minute_and_no_more() {
        let mut budget = RestartBudget::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(budget.take(at(0)) && budget.take(at(10)) && budget.take(at(20)));
        assert!(!budget.take(at(59)));
        assert!(budget.take(at(60)), "the first one is a minute old");
        assert!(!budget.take(at(61)));
    }
}
