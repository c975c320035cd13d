//! How long operations take, and when within that time they take effect.

use std::time::Duration;

use super::faults::check_verb;

/// When an operation that takes time takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EffectTime {
    /// At the beginning: others see it before the caller has the answer.
    #[default]
    Start,
    /// At the end, when the answer is given.
    End,
}

/// How long operations take. Time is tokio's, so it passes at once where tokio's time is paused.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Latency {
    all: Duration,
    verbs: Vec<(&'static str, Duration)>,
    effect: EffectTime,
}

impl Latency {
    /// Every operation takes this long. Zero, the default, answers at once.
    #[must_use]
    pub fn all(each: Duration) -> Self {
        Self { all: each, ..Self::default() }
    }

    /// Operations of this verb take this long instead.
    ///
    /// # Panics
    /// When no operation has this verb.
    #[must_use]
    pub fn verb(mut self, verb: &'static str, each: Duration) -> Self {
        check_verb(verb);
        self.verbs.retain(|(have, _)| *have != verb);
        self.verbs.push((verb, each));
        self
    }

    /// When they take effect.
    #[must_use]
    pub fn effect(self, effect: EffectTime) -> Self {
        Self { effect, ..self }
    }

    pub(super) fn of(&self, verb: &str) -> Duration {
        self.verbs.iter().find(|(have, _)| *have == verb).map_or(self.all, |(_, each)| *each)
    }

    pub(super) fn effect_at_end(&self) -> bool {
        self.effect == EffectTime::End
    }

    pub(super) fn is_zero(&self) -> bool {
        self.all.is_zero() && self.verbs.iter().all(|(_, each)| each.is_zero())
    }
}
