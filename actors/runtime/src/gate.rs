//! Who may run beside whom: operations on one key queue first-in first-out, operations on everything run
//! alone, and there is a bound on all of them.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;

use rustc_hash::FxHashMap;

/// What an operation touches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scope<K> {
    /// One key: beside operations on other keys, after earlier ones on this.
    One(K),
    /// Everything: alone.
    All,
}

/// What became of an operation that asked to run.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission<P> {
    /// It runs now; [`Gate::release`] must follow.
    Start(P),
    /// It waits; a release will hand it out.
    Queued,
}

/// The gate of one actor: plain data, owned and driven by it.
pub struct Gate<K, P> {
    limit: usize,
    waiting: usize,
    running: usize,
    alone: bool,
    keys: FxHashMap<K, VecDeque<P>>,
    /// Everything that arrived after an exclusive operation began to wait, in order of arrival. The front
    /// is always exclusive, unless one runs now.
    behind: VecDeque<(Scope<K>, P)>,
}

impl<K, P> fmt::Debug for Gate<K, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({} running, {} waiting)", self.running, self.waiting)
    }
}

impl<K: Copy + Eq + Hash, P> Gate<K, P> {
    /// A gate that is full with `limit` operations. Whether one of them still comes in is for its actor to say: one
    /// that undoes another must.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            waiting: 0,
            running: 0,
            alone: false,
            keys: FxHashMap::default(),
            behind: VecDeque::new(),
        }
    }

    /// Asks to run.
    pub fn admit(&mut self, scope: Scope<K>, operation: P) -> Admission<P> {
        let free = self.behind.is_empty()
            && !self.alone
            && match scope {
                Scope::One(key) => self.claim(key),
                Scope::All => self.running == 0,
            };
        if free {
            self.running += 1;
            self.alone = scope == Scope::All;
            return Admission::Start(operation);
        }
        self.waiting += 1;
        match scope {
            Scope::One(key) if self.behind.is_empty() && !self.alone => {
                self.keys.entry(key).or_default().push_back(operation);
            }
            Scope::One(_) | Scope::All => self.behind.push_back((scope, operation)),
        }
        Admission::Queued
    }

    /// Asks to run operations on one key, one after another, before everything that waits; they wait for nothing
    /// but what runs on this key or runs alone. Hands out the first one if it runs now.
    pub fn admit_first(&mut self, key: K, operations: Vec<P>) -> Option<P> {
        let mut operations = operations.into_iter();
        let free = !self.alone && !operations.as_slice().is_empty() && self.claim(key);
        let first = if free { operations.next() } else { None };
        if first.is_some() {
            self.running += 1;
        }
        for operation in operations.rev() {
            self.waiting += 1;
            if self.alone {
                self.behind.push_front((Scope::One(key), operation));
            } else {
                self.keys.entry(key).or_default().push_front(operation);
            }
        }
        first
    }

    /// Ends an operation and hands out those that may run now. They count as running.
    pub fn release(&mut self, scope: Scope<K>) -> Vec<P> {
        self.running -= 1;
        let mut ready = Vec::new();
        match scope {
            Scope::All => self.alone = false,
            Scope::One(key) => {
                if let Entry::Occupied(mut queue) = self.keys.entry(key) {
                    match queue.get_mut().pop_front() {
                        Some(next) => {
                            self.waiting -= 1;
                            self.running += 1;
                            ready.push(next);
                        }
                        None => drop(queue.remove()),
                    }
                }
            }
        }
        self.open(&mut ready);
        ready
    }

    /// Takes everything that waits, to refuse it.
    pub fn clear(&mut self) -> Vec<P> {
        self.waiting = 0;
        let queued = self.keys.values_mut().flat_map(std::mem::take);
        queued.chain(self.behind.drain(..).map(|(_, operation)| operation)).collect()
    }

    /// Takes what waits for one key, to refuse it.
    pub fn take(&mut self, key: K) -> Vec<P> {
        let queue = self.keys.get_mut(&key).map(std::mem::take);
        let mut taken: Vec<_> = queue.into_iter().flatten().collect();
        let behind = std::mem::take(&mut self.behind).into_iter();
        let (of_key, others): (Vec<_>, _) = behind.partition(|(scope, _)| *scope == Scope::One(key));
        self.behind = others.into();
        taken.extend(of_key.into_iter().map(|(_, operation)| operation));
        self.waiting -= taken.len();
        taken
    }

    /// How many operations wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many operations run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    /// Whether what runs touches everything.
    #[must_use]
    pub fn runs_alone(&self) -> bool {
        self.alone
    }

    /// Whether as many operations run and wait as may.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.running + self.waiting >= self.limit
    }

    /// Sets how many may run and wait. Those that do already go on.
    pub fn bound(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// How many may run and wait.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Takes a key, if nothing runs on it.
    fn claim(&mut self, key: K) -> bool {
        match self.keys.entry(key) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                true
            }
        }
    }

    /// Moves on what waited behind an exclusive operation.
    fn open(&mut self, ready: &mut Vec<P>) {
        while !self.alone {
            match self.behind.front() {
                None => return,
                Some((Scope::All, _)) if self.running > 0 => return,
                Some(_) => {}
            }
            let Some((scope, operation)) = self.behind.pop_front() else { return };
            match scope {
                Scope::One(key) if !self.claim(key) => {
                    self.keys.entry(key).or_default().push_back(operation);
                }
                Scope::One(_) | Scope::All => {
                    self.waiting -= 1;
                    self.running += 1;
                    self.alone = scope == Scope::All;
                    ready.push(operation);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Scope::{All, One};
    use super::*;

    #[test]
    fn a_new_bound_holds_for_the_next_and_leaves_those_that_are_in() {
        let mut gate = Gate::new(2);
        assert_eq!(gate.admit(One(1), "a"), Admission::Start("a"));
        assert_eq!(gate.admit(One(1), "b"), Admission::Queued);
        assert!(gate.is_full());
        gate.bound(3);
        assert!(!gate.is_full());
        gate.bound(1);
        assert!(gate.is_full());
        assert_eq!(gate.release(One(1)), ["b"]);
        assert_eq!((gate.limit(), gate.running()), (1, 1));
    }

    #[test]
    fn one_key_is_first_in_first_out_and_keys_run_side_by_side() {
        let mut gate = Gate::new(10);
        assert_eq!(gate.admit(One(1), "a1"), Admission::Start("a1"));
        assert_eq!(gate.admit(One(1), "a2"), Admission::Queued);
        assert_eq!(gate.admit(One(2), "b1"), Admission::Start("b1"));
        assert_eq!(gate.admit(One(1), "a3"), Admission::Queued);
        assert_eq!(gate.release(One(1)), ["a2"]);
        assert_eq!(gate.release(One(1)), ["a3"]);
        assert_eq!(gate.release(One(1)), Vec::<&str>::new());
        assert_eq!(gate.release(One(2)), Vec::<&str>::new());
        assert_eq!((gate.running(), gate.waiting()), (0, 0));
    }

    #[test]
    fn an_exclusive_operation_waits_for_all_and_nobody_overtakes_it() {
        let mut gate = Gate::new(10);
        assert_eq!(gate.admit(One(1), "a1"), Admission::Start("a1"));
        assert_eq!(gate.admit(One(2), "b1"), Admission::Start("b1"));
        assert_eq!(gate.admit(All, "all"), Admission::Queued);
        assert_eq!(gate.admit(One(3), "c1"), Admission::Queued);
        assert_eq!(gate.admit(One(3), "c2"), Admission::Queued);
        assert_eq!(gate.release(One(1)), Vec::<&str>::new());
        assert_eq!(gate.release(One(2)), ["all"]);
        assert_eq!(gate.release(All), ["c1"]);
        assert_eq!(gate.release(One(3)), ["c2"]);
        assert_eq!(gate.release(One(3)), Vec::<&str>::new());
    }

    #[test]
    fn what_runs_and_what_waits_make_it_full() {
        let mut gate = Gate::new(3);
        assert_eq!(gate.admit(One(1), 1), Admission::Start(1));
        assert_eq!(gate.admit(One(1), 2), Admission::Queued);
        assert!(!gate.is_full());
        assert_eq!(gate.admit(One(2), 3), Admission::Start(3));
        assert!(gate.is_full());
        assert_eq!(gate.release(One(1)), [2]);
        assert!(!gate.is_full());
        assert_eq!(gate.admit(All, 4), Admission::Queued);
        assert!(gate.is_full());
    }

    #[test]
    fn what_waits_for_one_key_can_be_taken_wherever_it_waits() {
        let mut gate = Gate::new(10);
        for operation in ["a1", "a2", "a3"] {
            gate.admit(One(1), operation);
        }
        gate.admit(One(2), "b1");
        gate.admit(All, "all");
        for (key, operation) in [(1, "a4"), (3, "c1"), (1, "a5")] {
            gate.admit(One(key), operation);
        }
        assert_eq!(gate.take(1), ["a2", "a3", "a4", "a5"]);
        assert_eq!((gate.take(1), gate.take(9)), (Vec::new(), Vec::new()));
        assert_eq!((gate.running(), gate.waiting()), (2, 2));
        assert_eq!(gate.admit(One(1), "a6"), Admission::Queued, "a1 runs, and nobody overtakes");
        assert_eq!(gate.release(One(1)), Vec::<&str>::new());
        assert_eq!(gate.release(One(2)), ["all"]);
        assert_eq!(gate.release(All), ["c1", "a6"]);
    }

    #[test]
    fn who_goes_first_waits_for_nothing_but_its_key_and_who_runs_alone() {
        let mut gate = Gate::new(2);
        assert_eq!(gate.admit(One(1), "a1"), Admission::Start("a1"));
        assert_eq!(gate.admit(All, "all"), Admission::Queued);
        assert_eq!(gate.admit(One(1), "a2"), Admission::Queued);
        assert_eq!(gate.admit_first(2, vec!["b1", "b2"]), Some("b1"), "past the queue");
        assert_eq!(gate.admit_first(1, vec!["a3", "a4"]), None);
        assert_eq!(gate.release(One(2)), ["b2"]);
        assert_eq!(gate.release(One(1)), ["a3"]);
        assert_eq!(gate.release(One(1)), ["a4"]);
        assert_eq!(gate.release(One(1)), Vec::<&str>::new());
        assert_eq!(gate.release(One(2)), ["all"]);
        assert_eq!(gate.admit_first(3, vec!["c1"]), None, "one runs alone");
        assert_eq!(gate.release(All), ["c1", "a2"]);
        assert_eq!((gate.running(), gate.waiting()), (2, 0));
    }

    /// Against a straightforward model: the list of everything admitted, in order, with what runs.
    #[test]
    fn random_runs_agree_with_a_simple_model() {
        use std::collections::BTreeMap;
        for seed in 0..500_u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let mut gate: Gate<u64, u64> = Gate::new(1000);
            let mut queue: Vec<(u64, Scope<u64>)> = Vec::new();
            let mut running: BTreeMap<u64, Scope<u64>> = BTreeMap::new();
            let conflict = |a: Scope<u64>, b: Scope<u64>| a == All || b == All || a == b;
            for id in 0..200 {
                if next(3) > 0 || running.is_empty() {
                    let scope = if next(6) == 0 { All } else { One(next(4)) };
                    let blocked = running.values().any(|r| conflict(*r, scope))
                        || queue.iter().any(|(_, q)| conflict(*q, scope));
                    // Behind a waiting exclusive operation everything queues, also what would not conflict.
                    let started = matches!(gate.admit(scope, id), Admission::Start(_));
                    assert_eq!(started, !blocked, "seed {seed}, operation {id}");
                    if started {
                        running.insert(id, scope);
                    } else {
                        queue.push((id, scope));
                    }
                } else {
                    let nth = usize::try_from(next(running.len() as u64)).expect("small");
                    let (ended, scope) = running.iter().nth(nth).map(|(i, s)| (*i, *s)).expect("one runs");
                    running.remove(&ended);
                    let mut expected = Vec::new();
                    let mut still: Vec<(u64, Scope<u64>)> = Vec::new();
                    for (id, scope) in queue.drain(..) {
                        let blocked = running.values().any(|r| conflict(*r, scope))
                            || still.iter().any(|(_, q)| conflict(*q, scope));
                        if blocked {
                            still.push((id, scope));
                        } else {
                            running.insert(id, scope);
                            expected.push(id);
                        }
                    }
                    queue = still;
                    let mut ready = gate.release(scope);
                    ready.sort_unstable();
                    assert_eq!(ready, expected, "seed {seed}");
                }
            }
        }
    }
}
