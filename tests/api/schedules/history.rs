//! What callers asked and were answered, in the order in which it happened.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netloom::{Certainty, Error, ErrorKind};

/// An object, numbered in the order in which the callers met it.
pub(super) type Id = usize;

/// What a caller asks. Names are numbers; objects are those that its handles stand for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Action {
    CreateNetwork {
        name: u8,
    },
    DeleteNetwork {
        network: Id,
        force: bool,
    },
    CreateEndpoint {
        network: Id,
        name: u8,
    },
    DeleteEndpoint {
        network: Id,
        endpoint: Id,
        force: bool,
    },
    CreateSandbox {
        name: u8,
    },
    DeleteSandbox {
        sandbox: Id,
        force: bool,
    },
    /// Gives all endpoints of a sandbox this name.
    Rename {
        sandbox: Id,
        name: u8,
    },
    /// Has all endpoints of a sandbox leave and join again.
    Refresh {
        sandbox: Id,
    },
    /// Makes this network the default one, or none.
    Reload {
        default: Option<u8>,
    },
    Join {
        network: Id,
        endpoint: Id,
        sandbox: Id,
    },
    Leave {
        network: Id,
        endpoint: Id,
        sandbox: Id,
    },
    FindNetwork {
        name: u8,
    },
    FindEndpoint {
        network: Id,
        name: u8,
    },
    FindSandbox {
        name: u8,
    },
    FindDefault,
    /// In which sandbox an endpoint is.
    Locate {
        network: Id,
        endpoint: Id,
    },
    /// The picture of everything: whether it contradicts itself.
    Inspect,
    Shutdown,
}

impl Action {
    /// Whether it may change something that others are answered by.
    pub(super) fn changes(self) -> bool {
        !matches!(
            self,
            Self::FindNetwork { .. }
                | Self::FindEndpoint { .. }
                | Self::FindSandbox { .. }
                | Self::FindDefault
                | Self::Locate { .. }
                | Self::Inspect
                | Self::Shutdown
        )
    }
}

/// What it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Answer {
    Done,
    Made(Id),
    Found(Option<Id>),
    /// With this kind of error, and nothing has changed.
    Refused(ErrorKind),
    /// With this kind of error, and it may have been done.
    Unsure(ErrorKind),
    /// Not yet, or never: the engine ended first.
    None,
}

impl Answer {
    pub(super) fn of_error(error: &Error) -> Self {
        match error.certainty() {
            Certainty::Aborted => Self::Refused(error.kind()),
            Certainty::Uncertain => Self::Unsure(error.kind()),
        }
    }

    /// Whether it leaves open what was done.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Unsure(_) | Self::None)
    }
}

/// A question and its answer.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) caller: usize,
    pub(super) action: Action,
    pub(super) answer: Answer,
    /// The text of an error.
    pub(super) told: String,
    /// Places in the history: asked and answered.
    pub(super) begun: u32,
    pub(super) ended: u32,
    /// The same on the engine's clock, in milliseconds from the beginning of the schedule.
    pub(super) at: (u64, u64),
}

/// Something that happens: their order is the interleaving.
#[derive(Hash)]
pub(super) enum Event<'a> {
    Asked(usize, Action),
    Told(usize, &'a Answer),
    /// A call of the kernel, by its number, with its verbs.
    Called(u32, Vec<&'static str>),
    TookEffect(u32),
    Answered(u32),
}

/// The history of a schedule.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) records: Vec<Record>,
    ids: HashMap<String, Id>,
    /// How much has happened.
    pub(super) events: u32,
    order: DefaultHasher,
    began: Option<tokio::time::Instant>,
}

/// A history that survives the engine's thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared(Arc<Mutex<History>>);

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    /// The number of an object.
    pub(super) fn id(&mut self, id: &impl ToString) -> Id {
        let next = self.ids.len();
        *self.ids.entry(id.to_string()).or_insert(next)
    }

    pub(super) fn note(&mut self, event: &Event<'_>) -> u32 {
        self.events += 1;
        event.hash(&mut self.order);
        self.events
    }

    /// A caller asks; the number of its record.
    pub(super) fn ask(&mut self, caller: usize, action: Action) -> usize {
        let begun = self.note(&Event::Asked(caller, action));
        let (answer, told, ended) = (Answer::None, String::new(), u32::MAX);
        let now = self.now();
        self.records.push(Record { caller, action, answer, told, begun, ended, at: (now, u64::MAX) });
        self.records.len() - 1
    }

    /// A caller is answered.
    pub(super) fn tell(&mut self, record: usize, answer: Answer, told: String) {
        let caller = self.records[record].caller;
        let ended = self.note(&Event::Told(caller, &answer));
        let now = self.now();
        let record = &mut self.records[record];
        (record.answer, record.told, record.ended, record.at.1) = (answer, told, ended, now);
    }

    /// Milliseconds of the engine's clock since the history began.
    pub(super) fn now(&mut self) -> u64 {
        let began = *self.began.get_or_insert_with(tokio::time::Instant::now);
        u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Stands for the order of everything that happened.
    pub(super) fn interleaving(&self) -> u64 {
        self.order.finish()
    }

    /// How many operations changed something or tried to, and how many of them while another one was under way.
    pub(super) fn changes(&self) -> (usize, usize) {
        let changes: Vec<_> = self.records.iter().filter(|record| record.action.changes()).collect();
        let meets = |a: &&&Record| {
            changes.iter().any(|b| a.caller != b.caller && a.begun < b.ended && b.begun < a.ended)
        };
        (changes.len(), changes.iter().filter(meets).count())
    }

    /// Everything, for a failure.
    pub(super) fn story(&self) -> String {
        let line = |record: &Record| {
            let Record { caller, action, answer, told, begun, ended, at } = record;
            format!(
                "  {begun:4}-{ended:<4} {:3}-{:<3} ms caller {caller}: {action:?} {answer:?} {told}\n",
                at.0, at.1
            )
        };
        self.records.iter().map(line).collect()
    }
}
