//! How often news of the host are looked at: a host where routes come and go all the time must not keep the engine busy
//! with listing them.
//!
//! The first news are looked at once. What comes soon after waits until as much time has passed as three looks like the
//! last one take, a quarter of a second at least and ten at most; then all of it is one look.

use std::time::Duration;

use netloom_runtime::Handle;
use tokio::time::Instant;

use super::*;
use crate::message::{HostChanged, LookDue};

/// The shortest time between the end of a look and the next one.
const SHORTEST: Duration = Duration::from_millis(250);
/// The longest one, however long a look takes.
const LONGEST: Duration = Duration::from_secs(10);
/// The time between looks, in looks.
const REST: u32 = 3;

/// When the next look is due.
#[derive(Debug, Default)]
pub(super) struct Pace {
    began: Option<Instant>,
    /// Not before this.
    next: Option<Instant>,
    /// Whether somebody waits for that moment.
    awaited: bool,
}

/// When news can be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// At once.
    Now,
    /// Then: whoever is told so waits for it.
    At(Instant),
    /// Later, and somebody waits for that already.
    Awaited,
}

impl Pace {
    /// A look begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.began = Some(now);
    }

    /// It has ended.
    pub(super) fn end(&mut self, now: Instant) {
        let took = self.began.take().map(|began| now - began).unwrap_or_default();
        self.next = Some(now + (took * REST).clamp(SHORTEST, LONGEST));
    }

    /// There is something to look at.
    pub(super) fn ask(&mut self, now: Instant) -> Turn {
        match self.next {
            Some(next) if next > now => {
                if std::mem::replace(&mut self.awaited, true) {
                    Turn::Awaited
                } else {
                    Turn::At(next)
                }
            }
            _ => Turn::Now,
        }
    }

    /// The moment that was waited for has come.
    pub(super) fn came(&mut self) {
        self.awaited = false;
    }
}

impl ControllerActor {
    /// Whether what has come is looked at later, with what comes until then.
    pub(super) fn waits_for_more(&mut self, cx: &mut Cx<'_, Self>) -> bool {
        if self.lookout.pending == HostChanged::default() {
            return false;
        }
        match self.lookout.pace.ask(Instant::now()) {
            Turn::Now => false,
            Turn::Awaited => true,
            Turn::At(due) => {
                let (me, op) =
                    (self.estate.port.clone(), self.estate.services.operation(Cause::Tick("looks")));
                cx.tasks().spawn(async move {
                    tokio::time::sleep_until(due).await;
                    me.tell(&op, LookDue);
                });
                true
            }
        }
    }
}

impl Handle<LookDue> for ControllerActor {
    fn handle(&mut self, _: OpCtx, _: LookDue, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        self.lookout.pace.came();
        self.look_on(cx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks that take so long, with news every millisecond for so long: how many there are, and how long the oldest
    /// news waited for one to begin.
    async fn looks(takes: Duration, time: Duration) -> (u32, Duration) {
        let (mut pace, mut looks, mut longest) = (Pace::default(), 0, Duration::ZERO);
        let (start, mut oldest, mut due) = (Instant::now(), None, None);
        while start.elapsed() < time {
            tokio::time::advance(Duration::from_millis(1)).await;
            let now = Instant::now();
            oldest = oldest.or(Some(now));
            if due.is_some_and(|due| due <= now) {
                due = None;
                pace.came();
            }
            match pace.ask(now) {
                Turn::Now => {
                    longest = longest.max(now - oldest.take().unwrap_or(now));
                    looks += 1;
                    pace.begin(now);
                    tokio::time::advance(takes).await;
                    pace.end(Instant::now());
                }
                Turn::At(at) => {
                    assert_eq!(due.replace(at), None, "one timer at a time");
                }
                Turn::Awaited => assert!(due.is_some(), "somebody waits"),
            }
        }
        (looks, longest)
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_is_news_all_the_time_looks_keep_a_distance() {
        let minute = Duration::from_secs(60);
        let (quick, waited) = looks(Duration::from_millis(2), minute).await;
        assert!((230..=240).contains(&quick), "{quick} looks");
        assert!(waited <= SHORTEST, "{waited:?}");
        // A quarter of the time where a look takes long, and no wait is longer than the longest.
        let (slow, waited) = looks(Duration::from_millis(500), minute).await;
        assert!((29..=31).contains(&slow), "{slow} looks");
        assert!(waited <= Duration::from_millis(1_500), "{waited:?}");
        let (slowest, waited) = looks(Duration::from_secs(20), Duration::from_secs(300)).await;
        assert!((10..=11).contains(&slowest), "{slowest} looks");
        assert!(waited <= LONGEST, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn news_after_a_quiet_time_are_looked_at_once() {
        let mut pace = Pace::default();
        assert_eq!(pace.ask(Instant::now()), Turn::Now);
        pace.begin(Instant::now());
        pace.end(Instant::now());
        assert_eq!(pace.ask(Instant::now()), Turn::At(Instant::now() + SHORTEST));
        assert_eq!(pace.ask(Instant::now()), Turn::Awaited);
        tokio::time::advance(SHORTEST).await;
        pace.came();
        assert_eq!(pace.ask(Instant::now()), Turn::Now);
    }
}
