//! A firewalld that is not there: zones and policies in its configuration and in force, and what it forgets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::FutureExt;
use futures::channel::mpsc;
use netloom_firewalld::{Answer, Call, EVENTS, Event, Events, Firewalld, Request, Running, Trouble, code};

/// What becomes of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FirewalldFault {
    /// It is refused with this word, and nothing has changed.
    Refuse(&'static str),
    /// It is carried out, and not answered before its deadline.
    Lose,
    /// It is not carried out, and not answered before its deadline.
    Hang,
    /// firewalld dies over it.
    Die,
}

/// A host's firewalld, shared by its clones. Interfaces that were put into zones at run time are forgotten by a reload, and
/// everything but the configuration when it ends, as firewalld 1.3 does.
#[derive(Clone, Debug, Default)]
pub struct SimFirewalld(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// It is older than policies.
    old: bool,
    /// It does not take zones that were added.
    broken: bool,
    /// Zones and policies of the configuration.
    written: [BTreeSet<String>; 2],
    /// Those in force, and the interfaces in each zone.
    zones: BTreeMap<String, BTreeSet<String>>,
    policies: BTreeSet<String>,
    listeners: Vec<mpsc::Sender<Event>>,
    planned: VecDeque<Option<FirewalldFault>>,
    /// What becomes of every request that nothing is planned for.
    always: Option<FirewalldFault>,
    requests: Vec<Request>,
}

impl SimFirewalld {
    /// One that runs.
    #[must_use]
    pub fn started() -> Self {
        let sim = Self::default();
        sim.start();
        sim
    }

    /// Starts it.
    pub fn start(&self) {
        let mut state = self.lock();
        state.running = true;
        state.read_configuration();
        state.tell(Event::Appeared);
    }

    /// Ends it.
    pub fn stop(&self) {
        self.lock().end();
    }

    /// Somebody reloads it.
    pub fn reload(&self) {
        let mut state = self.lock();
        state.read_configuration();
        state.tell(Event::Reloaded);
    }

    /// Makes it one from before policies.
    pub fn make_old(&self) {
        self.lock().old = true;
    }

    /// Has it leave out of what is in force what was added to its configuration.
    pub fn break_configuration(&self) {
        self.lock().broken = true;
    }

    /// Plans what becomes of the next requests; `None` for nothing out of the ordinary.
    pub fn plan(&self, faults: impl IntoIterator<Item = Option<FirewalldFault>>) {
        self.lock().planned.extend(faults);
    }

    /// Says what becomes of every request from now on; `None` for what it should.
    pub fn always(&self, fault: Option<FirewalldFault>) {
        self.lock().always = fault;
    }

    /// Somebody writes a zone into its configuration.
    pub fn write_zone(&self, zone: &str) {
        self.lock().written[0].insert(zone.to_owned());
    }

    /// Somebody puts an interface into a zone, out of any other.
    pub fn move_interface(&self, zone: &str, interface: &str) {
        let mut state = self.lock();
        for all in state.zones.values_mut() {
            all.remove(interface);
        }
        state.zones.entry(zone.to_owned()).or_default().insert(interface.to_owned());
    }

    /// The interfaces that are in a zone in force; `None` without the zone.
    #[must_use]
    pub fn interfaces(&self, zone: &str) -> Option<Vec<String>> {
        self.lock().zones.get(zone).map(|all| all.iter().cloned().collect())
    }

    /// The policies in force.
    #[must_use]
    pub fn policies(&self) -> Vec<String> {
        self.lock().policies.iter().cloned().collect()
    }

    /// What it was asked for so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    /// How often it was asked to reload.
    #[must_use]
    pub fn reloads(&self) -> usize {
        self.lock().requests.iter().filter(|request| **request == Request::Reload).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Firewalld for SimFirewalld {
    fn call(&self, request: Request, deadline: Instant) -> Call {
        let mut state = self.lock();
        state.requests.push(request.clone());
        let fault = match state.running {
            true => state.planned.pop_front().unwrap_or_else(|| state.always.clone()),
            false => None,
        };
        let answer = match fault {
            Some(FirewalldFault::Refuse(code)) => Err(refused(&request, code)),
            Some(FirewalldFault::Hang) => Ok(Answer::Done),
            Some(FirewalldFault::Die) => {
                state.end();
                Err(Trouble::Away("it died, as planned".into()))
            }
            Some(FirewalldFault::Lose) | None => state.carry_out(&request),
        };
        if !matches!(fault, Some(FirewalldFault::Hang | FirewalldFault::Lose)) {
            return std::future::ready(answer).boxed();
        }
        async move {
            let waited = deadline.saturating_duration_since(Instant::now());
            tokio::time::sleep(waited).await;
            Err(Trouble::Late { request, waited })
        }
        .boxed()
    }

    fn events(&self) -> Events {
        let (mut sender, events) = mpsc::channel(EVENTS);
        let mut state = self.lock();
        if state.running {
            // The first of a channel always finds room.
            let _ = sender.try_send(Event::Appeared);
        }
        state.listeners.push(sender);
        events
    }
}

fn refused(request: &Request, code: &str) -> Trouble {
    Trouble::Refused {
        request: request.clone(),
        code: code.to_owned(),
        message: "as a simulation has it".into(),
    }
}

impl State {
    fn tell(&mut self, event: Event) {
        self.listeners
            .retain_mut(|listener| !listener.try_send(event).is_err_and(|error| error.is_disconnected()));
    }

    fn end(&mut self) {
        self.running = false;
        self.zones.clear();
        self.policies.clear();
        self.tell(Event::Gone);
    }

    fn read_configuration(&mut self) {
        let added = if self.broken { &Default::default() } else { &self.written };
        let [zones, policies] = added;
        self.zones = ["public"]
            .into_iter()
            .map(str::to_owned)
            .chain(zones.iter().cloned())
            .map(|zone| (zone, BTreeSet::new()))
            .collect();
        self.policies = policies.clone();
    }

    fn zone_of(&self, interface: &str) -> Option<&String> {
        self.zones.iter().find(|(_, all)| all.contains(interface)).map(|(zone, _)| zone)
    }

    fn carry_out(&mut self, request: &Request) -> Result<Answer, Trouble> {
        if !self.running {
            return Err(Trouble::Away("it does not run".into()));
        }
        let no = |code| Err(refused(request, code));
        let names = |names: Vec<String>| Ok(Answer::Names(names));
        match request {
            Request::Running => {
                let (version, backend) = ("1.3.3".into(), "nftables".into());
                return Ok(Answer::Running(Some(Running { version, backend })));
            }
            Request::Zones => return names(self.zones.keys().cloned().collect()),
            Request::Policies | Request::AddPolicy { .. } if self.old => return no(code::UNKNOWN_METHOD),
            Request::Policies => return names(self.policies.iter().cloned().collect()),
            Request::ZoneOf(interface) => {
                return names(self.zone_of(interface.as_str()).cloned().into_iter().collect());
            }
            Request::Interfaces(zone) => match self.zones.get(*zone) {
                Some(all) => return names(all.iter().cloned().collect()),
                None => return no(code::INVALID_ZONE),
            },
            Request::AddZone(name) => {
                if !self.written[0].insert((*name).to_owned()) {
                    return no(code::NAME_CONFLICT);
                }
            }
            Request::AddPolicy { policy, .. } => {
                if !self.written[1].insert((*policy).to_owned()) {
                    return no(code::NAME_CONFLICT);
                }
            }
            Request::Reload => {
                self.read_configuration();
                self.tell(Event::Reloaded);
            }
            Request::AddInterface { zone, interface } => match self.zone_of(interface.as_str()) {
                Some(there) if there == zone => return no(code::ZONE_ALREADY_SET),
                Some(_) => return no(code::ZONE_CONFLICT),
                None => match self.zones.get_mut(*zone) {
                    Some(all) => drop(all.insert(interface.to_string())),
                    None => return no(code::INVALID_ZONE),
                },
            },
            Request::RemoveInterface { zone, interface } => match self.zone_of(interface.as_str()) {
                None => return no(code::UNKNOWN_INTERFACE),
                Some(there) if there != zone => return no(code::ZONE_CONFLICT),
                Some(_) => {
                    self.zones.get_mut(*zone).map(|all| all.remove(interface.as_str()));
                }
            },
        }
        Ok(Answer::Done)
    }
}
