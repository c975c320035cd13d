//! What a sandbox's name server has done: numbers that anybody may read at any time.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::answer::Outcome;

/// What became of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Answered from the records.
    Here(Outcome),
    /// Answered by an upstream.
    Forwarded,
    /// Nobody who was asked had an answer in time.
    Failed,
    /// Nobody could be asked.
    NobodyToAsk,
    /// Too many questions were outstanding.
    TooMany,
    /// It got no answer: it was none that has one, or the answer could not be sent.
    Silence,
}

/// How many there are.
const ENDS: usize = 11;
/// Times up to half an hour, by powers of two of a microsecond.
const BUCKETS: usize = 32;

impl Ended {
    fn index(self) -> usize {
        match self {
            Self::Here(Outcome::Records) => 0,
            Self::Here(Outcome::NoData) => 1,
            Self::Here(Outcome::NoSuchName) => 2,
            Self::Here(Outcome::Malformed) => 3,
            Self::Here(Outcome::NotImplemented) => 4,
            Self::Here(Outcome::Refused) => 5,
            Self::Forwarded => 6,
            Self::Failed => 7,
            Self::NobodyToAsk => 8,
            Self::TooMany => 9,
            Self::Silence => 10,
        }
    }

    /// Whether it took as long as somebody else did.
    fn waited(self) -> bool {
        matches!(self, Self::Forwarded | Self::Failed)
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Questions by how long their answers took.
#[derive(Debug)]
struct Histogram([Counter; BUCKETS]);

impl Histogram {
    fn add(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.0[bucket.min(BUCKETS - 1)].add(1);
    }
}

/// Counters of one sandbox. It may be ended and served again; whoever keeps them reads them for as long as they like.
#[derive(Debug)]
pub struct Counters {
    ends: [Counter; ENDS],
    here: Histogram,
    elsewhere: Histogram,
    pub(crate) merged: Counter,
    pub(crate) cut: Counter,
    pub(crate) connections: Counter,
    pub(crate) connections_refused: Counter,
    pub(crate) unsent: Counter,
}

impl Default for Counters {
    fn default() -> Self {
        let histogram = || Histogram(array::from_fn(|_| Counter::default()));
        Self {
            ends: array::from_fn(|_| Counter::default()),
            here: histogram(),
            elsewhere: histogram(),
            merged: Counter::default(),
            cut: Counter::default(),
            connections: Counter::default(),
            connections_refused: Counter::default(),
            unsent: Counter::default(),
        }
    }
}

impl Counters {
    pub(crate) fn count(&self, ended: Ended, took: Duration) {
        self.ends[ended.index()].add(1);
        if ended.waited() {
            self.elsewhere.add(took);
        } else if ended != Ended::Silence {
            self.here.add(took);
        }
    }

    /// How many questions ended so.
    #[must_use]
    pub fn ended(&self, ended: Ended) -> u64 {
        self.ends[ended.index()].get()
    }

    /// What they are now; each by itself, not all in one moment.
    #[must_use]
    pub fn read(&self) -> Counts {
        let times = |histogram: &Histogram| Times(histogram.0.each_ref().map(Counter::get));
        Counts {
            questions: self.ends.iter().map(Counter::get).sum(),
            records: self.ended(Ended::Here(Outcome::Records)),
            no_data: self.ended(Ended::Here(Outcome::NoData)),
            no_such_name: self.ended(Ended::Here(Outcome::NoSuchName)),
            malformed: self.ended(Ended::Here(Outcome::Malformed)),
            not_implemented: self.ended(Ended::Here(Outcome::NotImplemented)),
            refused: self.ended(Ended::Here(Outcome::Refused)),
            forwarded: self.ended(Ended::Forwarded),
            failed: self.ended(Ended::Failed),
            nobody_to_ask: self.ended(Ended::NobodyToAsk),
            too_many: self.ended(Ended::TooMany),
            silence: self.ended(Ended::Silence),
            merged: self.merged.get(),
            cut: self.cut.get(),
            connections: self.connections.get(),
            connections_refused: self.connections_refused.get(),
            unsent: self.unsent.get(),
            here: times(&self.here),
            elsewhere: times(&self.elsewhere),
        }
    }
}

/// What a sandbox's name server has done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counts {
    /// All questions that have ended.
    pub questions: u64,
    /// Answered with records of the sandbox's networks.
    pub records: u64,
    /// Names that are known without what was wanted.
    pub no_data: u64,
    /// Names that would be here and are not.
    pub no_such_name: u64,
    /// What was no readable question.
    pub malformed: u64,
    /// Requests of other kinds.
    pub not_implemented: u64,
    /// Questions that nobody gets an answer to.
    pub refused: u64,
    /// Answered by an upstream.
    pub forwarded: u64,
    /// Nobody who was asked had an answer in time: SERVFAIL.
    pub failed: u64,
    /// Nobody could be asked.
    pub nobody_to_ask: u64,
    /// Beyond the bound of outstanding questions: SERVFAIL at once.
    pub too_many: u64,
    /// Without any answer.
    pub silence: u64,
    /// Of the forwarded ones, those that another's answer served too.
    pub merged: u64,
    /// Answers of upstreams that were too large for their client, which was told to come over TCP.
    pub cut: u64,
    /// TCP connections so far.
    pub connections: u64,
    /// TCP connections that were closed at once, because there were too many.
    pub connections_refused: u64,
    /// Answers that the socket did not take.
    pub unsent: u64,
    /// How long answers from here took.
    pub here: Times,
    /// How long answers of upstreams took, and failures.
    pub elsewhere: Times,
}

/// Questions by how long their answers took.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Times([u64; BUCKETS]);

impl Times {
    /// Pairs of a time and of how many took less than that, and at least half of it; the last one has no end.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        (0_u32..).zip(self.0).map(|(power, count)| (Duration::from_micros(1 << power), count))
    }

    /// The time below which this part of them stayed (0.99: all but one of a hundred), to a factor of two. `None` when
    /// there are none.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let all: u64 = self.0.iter().sum();
        let mut below = 0;
        let mut buckets = self.buckets();
        buckets.find_map(|(time, count)| {
            below += count;
            (count > 0 && below as f64 >= part * all as f64).then_some(time)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Counters, Ended};
    use crate::answer::Outcome;

    #[test]
    fn times_are_counted_by_powers_of_two() {
        let counters = Counters::default();
        assert_eq!(counters.read().here.quantile(0.5), None);
        for micros in [0, 1, 3, 3, 1000] {
            counters.count(Ended::Here(Outcome::Records), Duration::from_micros(micros));
        }
        counters.count(Ended::Failed, Duration::MAX);
        counters.count(Ended::Silence, Duration::ZERO);
        let counts = counters.read();
        assert_eq!((counts.questions, counts.records, counts.failed, counts.silence), (7, 5, 1, 1));
        let there: Vec<(u128, u64)> =
            counts.here.buckets().filter(|(_, n)| *n > 0).map(|(time, n)| (time.as_micros(), n)).collect();
        assert_eq!(there, [(1, 1), (2, 1), (4, 2), (1024, 1)]);
        assert_eq!(counts.here.quantile(0.5), Some(Duration::from_micros(4)));
        assert_eq!(counts.here.quantile(1.0), Some(Duration::from_micros(1024)));
        assert_eq!(counts.elsewhere.buckets().map(|(_, n)| n).sum::<u64>(), 1);
    }
}
