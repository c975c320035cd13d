//! Is there an order in which the operations could have been carried out one after the other, each between its
//! question and its answer, so that all answers are right and the end is what is seen?

mod meaning;

use std::collections::{BTreeMap, HashSet};

use netloom::ErrorKind;

pub(super) use self::meaning::{Placed, State};
use self::meaning::{carry_out, given_up, look_up, partly, refusals};
use super::history::{Action, Answer, Id, Record};

/// What may happen beside what callers do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Circumstances {
    /// The kernel refuses, loses or holds up operations.
    pub(super) faults: bool,
    /// The end is that of the next engine, which begins with the configuration of its own start.
    pub(super) restarted: bool,
}

/// Finds such an order.
///
/// # Errors
/// Why there is none, in words.
pub(super) fn explain(records: &[Record], last: &State, around: Circumstances) -> Result<(), String> {
    let mut lanes: BTreeMap<usize, Vec<Step>> = BTreeMap::new();
    let shutdown = records.iter().filter(|record| record.action == Action::Shutdown);
    let shutdown = shutdown.map(|record| record.begun).min();
    let made = records.iter().filter_map(|record| match record.answer {
        Answer::Made(id) => Some(id),
        _ => None,
    });
    let made: HashSet<Id> = made.collect();
    for (number, record) in records.iter().enumerate() {
        // What is on its way is nowhere to be told.
        let tells_nothing = matches!((record.action, record.answer), (Action::Locate { .. }, Answer::Done));
        if tells_nothing || matches!(record.action, Action::Shutdown | Action::Inspect) {
            continue;
        }
        let step = Step {
            record: record.clone(),
            ended: if record.answer.is_open() { u32::MAX } else { record.ended },
            refusal_is_free: refusal_is_free(record, records, shutdown, around)?,
            gone_is_done: gone_is_done(record, records),
            sees_half_made: sees_half_made(record, records, &made),
            misses_half_gone: misses_half_gone(record, records),
            meets_renaming: meets_renaming(record, records),
        };
        // What is open may take effect whenever it likes, also behind later questions of its caller.
        let lane = if record.answer.is_open() { usize::MAX - number } else { record.caller };
        lanes.entry(lane).or_default().push(step);
    }
    let search = Search {
        lanes: lanes.into_values().collect(),
        last,
        restarted: around.restarted,
        made,
        seen: HashSet::new(),
    };
    search.run()
}

/// A record with what was found out about it beforehand.
struct Step {
    record: Record,
    ended: u32,
    /// Whether it may have been refused for the sake of what was under way at the time.
    refusal_is_free: bool,
    /// Whether it may have succeeded because what it had to delete was gone.
    gone_is_done: bool,
    /// Whether it may have found something that was being made then, and came to nothing.
    sees_half_made: bool,
    /// Whether it may have missed something that was being deleted then, and could be asked still.
    misses_half_gone: bool,
    /// Whether what it looked for may have had either name then.
    meets_renaming: bool,
}

/// An endpoint is listed while it is made, in that phase; its making may fail yet.
fn sees_half_made(record: &Record, records: &[Record], made: &HashSet<Id>) -> bool {
    let Action::FindEndpoint { network, name } = record.action else { return false };
    let fails = |other: &Record| {
        let same = other.action == Action::CreateEndpoint { network, name };
        same && !matches!(other.answer, Answer::Made(_)) && overlap(record, other)
    };
    matches!(record.answer, Answer::Found(Some(id)) if !made.contains(&id)) && records.iter().any(fails)
}

/// A network is not found by its name while it is deleted; who has its handle can ask it to the end.
fn misses_half_gone(record: &Record, records: &[Record]) -> bool {
    let going =
        |other: &Record| matches!(other.action, Action::DeleteNetwork { .. }) && overlap(record, other);
    let missed = record.answer == Answer::Found(None);
    let by_name = matches!(record.action, Action::FindNetwork { .. } | Action::FindDefault);
    missed && by_name && records.iter().any(going)
}

/// A sandbox's endpoints are renamed one by one, and back again if one cannot be.
fn meets_renaming(record: &Record, records: &[Record]) -> bool {
    let renames = |other: &Record| matches!(other.action, Action::Rename { .. }) && overlap(record, other);
    let looks = matches!((record.action, record.answer), (Action::FindEndpoint { .. }, Answer::Found(_)));
    looks && records.iter().any(renames)
}

/// Force that meets another deletion of the same endpoint is content when that one comes first.
fn gone_is_done(record: &Record, records: &[Record]) -> bool {
    let same = |other: &Record| match (record.action, other.action) {
        (
            Action::DeleteEndpoint { endpoint: wanted, force: true, .. },
            Action::DeleteEndpoint { endpoint, .. },
        ) => endpoint == wanted,
        (
            Action::DeleteEndpoint { network: of, force: true, .. },
            Action::DeleteNetwork { network, force: true },
        ) => network == of,
        _ => false,
    };
    let other = |other: &Record| same(other) && overlap(record, other);
    record.answer == Answer::Done && records.iter().any(other)
}

/// Whether two were under way at the same time.
fn overlap(one: &Record, other: &Record) -> bool {
    one.begun != other.begun && one.begun < other.ended && other.begun < one.ended
}

/// Judges an answer by what else was under way.
fn refusal_is_free(
    record: &Record,
    records: &[Record],
    shutdown: Option<u32>,
    around: Circumstances,
) -> Result<bool, String> {
    let illegal = || Err(format!("illegal: {:?} {:?} {}", record.action, record.answer, record.told));
    let stopping = shutdown.is_some_and(|begun| begun < record.ended);
    match record.answer {
        Answer::Done | Answer::Made(_) | Answer::Found(_) => Ok(false),
        // Nothing stays open without a reason.
        Answer::Unsure(_) | Answer::None if !stopping && !around.faults => illegal(),
        Answer::Unsure(_) | Answer::None => Ok(true),
        Answer::Refused(ErrorKind::Unavailable) if stopping => Ok(true),
        // What the kernel did not let go of is held: a pool, an address, an endpoint that may still be reached.
        Answer::Refused(ErrorKind::Internal | ErrorKind::Forbidden) if around.faults => Ok(true),
        Answer::Refused(ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Forbidden) => {
            let others = records.iter().filter(|other| overlap(record, other));
            Ok(others.filter(|other| other.action.changes()).any(|other| related(record, other, records)))
        }
        Answer::Refused(_) => illegal(),
    }
}

/// Something that two operations can be about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Key {
    Network(Id),
    NetworkName(u8),
    Endpoint(Id),
    Sandbox(Id),
    SandboxName(u8),
}

fn related(one: &Record, other: &Record, records: &[Record]) -> bool {
    // These are about endpoints that they do not name.
    let sweeps = |record: &Record| {
        matches!(
            record.action,
            Action::Rename { .. } | Action::Refresh { .. } | Action::DeleteNetwork { force: true, .. }
        )
    };
    let has_endpoint = |record: &Record| {
        let one = matches!(
            record.action,
            Action::CreateEndpoint { .. }
                | Action::DeleteEndpoint { .. }
                | Action::Join { .. }
                | Action::Leave { .. }
        );
        one || sweeps(record)
    };
    if (sweeps(one) && has_endpoint(other)) || (sweeps(other) && has_endpoint(one)) {
        return true;
    }
    let others = keys(other, records);
    keys(one, records).iter().any(|key| others.contains(key))
}

/// What an operation is about: objects, and the names they were made under.
fn keys(record: &Record, records: &[Record]) -> Vec<Key> {
    let mut keys = Vec::new();
    let network = |keys: &mut Vec<Key>, id| {
        keys.push(Key::Network(id));
        keys.extend(records.iter().find_map(|record| match (record.action, record.answer) {
            (Action::CreateNetwork { name }, Answer::Made(made)) if made == id => {
                Some(Key::NetworkName(name))
            }
            _ => None,
        }));
    };
    let sandbox = |keys: &mut Vec<Key>, id| {
        keys.push(Key::Sandbox(id));
        keys.extend(records.iter().find_map(|record| match (record.action, record.answer) {
            (Action::CreateSandbox { name }, Answer::Made(made)) if made == id => {
                Some(Key::SandboxName(name))
            }
            _ => None,
        }));
    };
    match record.action {
        Action::CreateNetwork { name } => keys.push(Key::NetworkName(name)),
        Action::DeleteNetwork { network: id, .. } | Action::CreateEndpoint { network: id, .. } => {
            network(&mut keys, id);
        }
        Action::DeleteEndpoint { network: id, endpoint, .. } => {
            network(&mut keys, id);
            keys.push(Key::Endpoint(endpoint));
        }
        Action::CreateSandbox { name } => keys.push(Key::SandboxName(name)),
        Action::DeleteSandbox { sandbox: id, .. }
        | Action::Rename { sandbox: id, .. }
        | Action::Refresh { sandbox: id } => sandbox(&mut keys, id),
        Action::Join { network: of, endpoint, sandbox: to }
        | Action::Leave { network: of, endpoint, sandbox: to } => {
            network(&mut keys, of);
            sandbox(&mut keys, to);
            keys.push(Key::Endpoint(endpoint));
        }
        Action::FindNetwork { .. }
        | Action::FindEndpoint { .. }
        | Action::FindSandbox { .. }
        | Action::FindDefault
        | Action::Reload { .. }
        | Action::Locate { .. }
        | Action::Inspect
        | Action::Shutdown => {}
    }
    keys
}

struct Search<'a> {
    /// Steps of a lane come in their order.
    lanes: Vec<Vec<Step>>,
    last: &'a State,
    restarted: bool,
    made: HashSet<Id>,
    /// Where the search was before, without success.
    seen: HashSet<(Vec<u8>, State)>,
}

impl Search<'_> {
    fn run(mut self) -> Result<(), String> {
        let places = vec![0; self.lanes.len()];
        if self.search(&places, &State::default()) {
            return Ok(());
        }
        let deepest =
            self.seen.iter().max_by_key(|(places, _)| places.iter().map(|n| usize::from(*n)).sum::<usize>());
        Err(format!("no order explains it; the longest ends at {deepest:?}, seen is {:?}", self.last))
    }

    fn search(&mut self, places: &[u8], state: &State) -> bool {
        let next = |lane: usize| self.lanes[lane].get(usize::from(places[lane]));
        let mut waiting = (0..self.lanes.len()).filter_map(|lane| Some((lane, next(lane)?))).peekable();
        if waiting.peek().is_none() {
            let default = if self.restarted { self.last.default } else { state.default };
            return State { default, ..state.clone() } == *self.last;
        }
        let waiting: Vec<_> = waiting.collect();
        // Whoever was answered before another one asked comes first.
        let soonest = waiting.iter().map(|(_, step)| step.ended).min().unwrap_or(u32::MAX);
        let mut branches = Vec::new();
        for (lane, step) in
            waiting.iter().filter(|(_, step)| step.record.begun < soonest || step.ended == soonest)
        {
            let mut after = places.to_owned();
            after[*lane] += 1;
            branches.extend(self.outcomes(step, state).into_iter().map(|state| (after.clone(), state)));
            branches.extend(
                partly(step.record.action, state).into_iter().map(|state| (places.to_owned(), state)),
            );
        }
        if !self.seen.insert((places.to_owned(), state.clone())) {
            return false;
        }
        branches.into_iter().any(|(places, state)| {
            let known = self.seen.contains(&(places.clone(), state.clone()));
            !known && self.search(&places, &state)
        })
    }

    /// What there may be after a step with the answer that it got; nothing when it cannot have got that.
    fn outcomes(&self, step: &Step, state: &State) -> Vec<State> {
        let Record { action, answer, .. } = step.record;
        match answer {
            Answer::Done => match carry_out(action, None, state) {
                Some(next) => vec![next],
                None if step.gone_is_done && refusals(action, state) == [ErrorKind::NotFound] => {
                    vec![state.clone()]
                }
                None => Vec::new(),
            },
            Answer::Made(id) => carry_out(action, Some(id), state).into_iter().collect(),
            Answer::Found(found) => {
                let half = step.sees_half_made || step.misses_half_gone || step.meets_renaming;
                let right = half || look_up(action, state) == Some(found);
                right.then(|| state.clone()).into_iter().collect()
            }
            Answer::Refused(kind) => {
                let right = step.refusal_is_free || refusals(action, state).contains(&kind);
                right.then(|| given_up(action, state)).into_iter().collect()
            }
            Answer::Unsure(_) | Answer::None => {
                let id = self.unheard(action);
                [Some(given_up(action, state)), carry_out(action, id, state)].into_iter().flatten().collect()
            }
        }
    }

    /// The object that an operation made which nobody was told about: the one that is there in the end. Objects that are
    /// gone by then may have any number.
    fn unheard(&self, action: Action) -> Option<Id> {
        let new = |id: &&Id| !self.made.contains(id);
        match action {
            Action::CreateNetwork { name } => self.last.networks.get(&name).filter(new).copied(),
            Action::CreateSandbox { name } => self.last.sandboxes.get(&name).filter(new).copied(),
            Action::CreateEndpoint { network, name } => {
                let here = |placed: &Placed| placed.network == network && placed.name == name;
                let found = self.last.endpoints.iter().find(|(_, placed)| here(placed));
                found.map(|(id, _)| id).filter(new).copied()
            }
            _ => None,
        }
        .or(Some(usize::MAX))
    }
}

#[cfg(test)]
mod tests;
