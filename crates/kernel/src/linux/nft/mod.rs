//! Tables of nftables: transactions and inquiries, on a thread of their own. A transaction waits for the kernel's lock of
//! all tables of a namespace, and for RCU when it removes something; links should not wait for that. Tracked connections
//! are forgotten on the same thread, so that they never come before the change that was asked for before them.

mod attributes;
mod base;
mod conntrack;
mod decode;
mod encode;
mod numbers;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use futures::channel::oneshot;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_NETFILTER;

use self::encode::{Message, named};
use self::numbers::{BATCH_BEGIN, BATCH_END, CHAIN, ELEMENT, NFTABLES, RULE, SET};
use super::call::{Allowance, Call};
use super::failure::Failure;
use super::transport::{Counters, Transport};
use crate::nft::{BaseChain, Change, Contents, Element, Family, Point, Set, Table};
use crate::op::Op;
use crate::worker::Worker;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// The number of nftables among the parts of netfilter.
const SUBSYSTEM: u16 = NFTABLES << 8;

/// From how many calls on that wait for connections to be forgotten they share one listing of all connections. A call by
/// itself has the kernel choose, which saves the telling, but the kernel goes through its whole table for it: 5 ms where
/// the table has 262,144 places, however few of them are taken.
const TOGETHER: usize = 4;

/// What the thread is asked.
#[derive(Debug)]
pub(super) enum Task {
    /// Operations.
    Call(Call),
    /// Operations on the tables of another namespace, with a socket of that.
    Inside { call: Call, socket: Transport },
    /// What is in a table.
    Read { table: Table, allowance: Allowance, reply: oneshot::Sender<Result<Option<Contents>, Failure>> },
    /// Which base chains drop what they do not accept.
    BaseChains {
        point: Point,
        except: &'static str,
        allowance: Allowance,
        reply: oneshot::Sender<Result<Vec<BaseChain>, Failure>>,
    },
}

/// A socket that is opened when it is needed: a kernel without nftables is good for all else.
struct Lazy {
    transport: Option<Transport>,
    counters: Arc<Counters>,
    /// The socket's number, for those who listen to what others do.
    own: Arc<AtomicU32>,
}

impl Lazy {
    fn open(&mut self) -> Result<&mut Transport, Failure> {
        if self.transport.is_none() {
            let opened = open(&self.counters)?;
            self.own.store(opened.port().unwrap_or(0), Ordering::Relaxed);
            self.transport = Some(opened);
        }
        self.transport.as_mut().ok_or_else(|| Failure::Lost("no socket".into()))
    }
}

/// A socket for the tables of the namespace that this thread is in.
pub(super) fn open(counters: &Arc<Counters>) -> Result<Transport, Failure> {
    Transport::open_for(NETLINK_NETFILTER, counters).map_err(|error| {
        match Failure::io(&error, "this kernel has no nftables, or does not allow it") {
            Failure::Refused { errno: libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT, text } => {
                Failure::Refused { errno: libc::EOPNOTSUPP, text }
            }
            failure => failure,
        }
    })
}

/// Starts the thread in the caller's namespace. It tells the number of its socket in `own`.
pub(super) fn spawn(bound: usize, counters: &Arc<Counters>, own: Arc<AtomicU32>) -> io::Result<Worker<Task>> {
    let mut socket = Lazy { transport: None, counters: Arc::clone(counters), own };
    Worker::spawn("nl-nft", bound, move |tasks: Vec<Task>| {
        let mut tasks = tasks.into_iter().peekable();
        while let Some(task) = tasks.next() {
            match task {
                Task::Call(call) => {
                    let mut calls = vec![call];
                    if only_forgets(&calls[0]) {
                        let alike = |next: &Task| matches!(next, Task::Call(next) if only_forgets(next));
                        while let Some(Task::Call(next)) = tasks.next_if(alike) {
                            calls.push(next);
                        }
                    }
                    serve(&mut socket, calls);
                }
                Task::Inside { call, mut socket } => {
                    if let Some(call) = call.if_in_time() {
                        let deadline = call.allowance.deadline;
                        let ops = call.run().iter();
                        let answers: Vec<_> = ops.map(|op| change(&mut socket, op, deadline)).collect();
                        // Before it is answered: it would keep the namespace alive.
                        drop(socket);
                        call.answer(answers);
                    }
                }
                Task::Read { table, allowance, reply } => {
                    let read = if allowance.is_over() {
                        Err(Failure::NotStarted)
                    } else {
                        socket.open().and_then(|socket| contents(socket, &table, allowance.deadline))
                    };
                    // The caller may have stopped waiting.
                    let _ = reply.send(read);
                }
                Task::BaseChains { point, except, allowance, reply } => {
                    let read = if allowance.is_over() {
                        Err(Failure::NotStarted)
                    } else {
                        socket.open().and_then(|socket| base::at(socket, point, except, allowance.deadline))
                    };
                    // The caller may have stopped waiting.
                    let _ = reply.send(read);
                }
            }
        }
    })
}

/// Carries out calls that came one behind the other: one, or several that all want connections to be forgotten.
fn serve(socket: &mut Lazy, calls: Vec<Call>) {
    let calls: Vec<_> = calls.into_iter().filter_map(Call::if_in_time).collect();
    if calls.len() >= TOGETHER {
        return forget_together(socket, calls);
    }
    for call in calls {
        let deadline = call.allowance.deadline;
        let answers: Vec<_> = call.run().iter().map(|op| carry_out(socket, op, deadline)).collect();
        call.answer(answers);
    }
}

/// Whether connections are all that a call wants to have forgotten next.
fn only_forgets(call: &Call) -> bool {
    call.run().iter().all(|op| matches!(op, Op::ForgetConnections { .. }))
}

/// Forgets what several calls want in one listing. What fails then fails for all of them.
fn forget_together(socket: &mut Lazy, calls: Vec<Call>) {
    let ops = calls.iter().flat_map(Call::run);
    let filter: Vec<_> = ops
        .filter_map(|op| match op {
            Op::ForgetConnections { filter } => Some(filter),
            _ => None,
        })
        .flatten()
        .copied()
        .collect();
    // Each may take as long as the most patient of them: the others' connections are found on the way.
    let Some(deadline) = calls.iter().map(|call| call.allowance.deadline).max() else { return };
    let forgotten = socket
        .open()
        .and_then(|socket| conntrack::forget(socket, &filter, deadline))
        .map_err(conntrack::untracked);
    for call in calls {
        let answers = vec![forgotten.clone(); call.run().len()];
        call.answer(answers);
    }
}

fn carry_out(socket: &mut Lazy, op: &Op, deadline: Instant) -> Result<(), Failure> {
    match op {
        Op::ChangeTable { .. } => change(socket.open()?, op, deadline),
        Op::ForgetConnections { filter } => socket
            .open()
            .and_then(|socket| conntrack::forget(socket, filter, deadline))
            .map_err(conntrack::untracked),
        // Sent here by mistake: nothing was done.
        _ => Err(Failure::refused(libc::EINVAL, Some("not an operation on a table".into()))),
    }
}

fn change(socket: &mut Transport, op: &Op, deadline: Instant) -> Result<(), Failure> {
    match op {
        Op::ChangeTable { table, changes, .. } => transact(socket, table, changes, deadline),
        _ => Err(Failure::refused(libc::EINVAL, Some("not an operation on a table".into()))),
    }
}

/// Carries out all changes, or none.
fn transact(
    transport: &mut Transport,
    table: &Table,
    changes: &[Change],
    deadline: Instant,
) -> Result<(), Failure> {
    let mut messages = Vec::new();
    // The change of each message.
    let mut of = Vec::new();
    for (place, change) in changes.iter().enumerate() {
        messages.extend(encode::change(table, change));
        of.resize(messages.len(), place);
    }
    if messages.is_empty() {
        return Ok(());
    }
    let last = messages.len() - 1;
    let write = |out: &mut Vec<u8>, first: u32| {
        let mut number = first;
        let mut put = |kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]| {
            message(out, kind, flags, number, family, resource, body);
            number = number.wrapping_add(1);
        };
        put(BATCH_BEGIN, 0, 0, NFTABLES, &[]);
        for (place, Message { kind, flags, body }) in messages.iter().enumerate() {
            let flags = if place == last { flags | NLM_F_ACK } else { *flags };
            put(SUBSYSTEM | kind, flags, table.family.number(), 0, body);
        }
        put(BATCH_END, 0, 0, NFTABLES, &[]);
        number.wrapping_sub(first)
    };
    transport.commit(write, deadline).map_err(|(place, failure)| match failure {
        // The first message only opens the transaction.
        Failure::Refused { errno, text } => match place.checked_sub(1).and_then(|place| of.get(place)) {
            // The operation names a change that is alone.
            Some(change) if changes.len() > 1 => {
                Failure::Refused { errno, text: format!("{}: {text}", changes[*change]) }
            }
            _ => Failure::Refused { errno, text },
        },
        other => other,
    })
}

/// What is in a table; `None` without it.
fn contents(
    transport: &mut Transport,
    table: &Table,
    deadline: Instant,
) -> Result<Option<Contents>, Failure> {
    let (name, family, by) = (table.name.as_str(), table.family, deadline);
    // Not every kernel can list the chains of one table only.
    let body = named(name, CHAIN.table, None);
    let chains =
        list(transport, family, numbers::message::NEW_CHAIN, &body, by, |body| decode::chain(body, name))?;
    if chains.is_empty() {
        return Ok(None);
    }
    let body = named(name, RULE.table, None);
    let rules = list(transport, family, numbers::message::NEW_RULE, &body, by, decode::rule)?;
    let mut chains: Vec<_> = chains.into_iter().map(|chain| (chain, Vec::new())).collect();
    for (chain, rule) in rules {
        if let Some((_, rules)) = chains.iter_mut().find(|(found, _)| found.name == chain) {
            rules.push(rule);
        }
    }
    let body = named(name, SET.table, None);
    let found = list(transport, family, numbers::message::NEW_SET, &body, by, decode::set)?;
    let mut sets = Vec::with_capacity(found.len());
    for set in found {
        let elements = elements(transport, table, &set, by)?;
        sets.push((set, elements));
    }
    Ok(Some(Contents { chains, sets }))
}

/// The elements of a set, sorted.
///
/// The kernel lists a set in several messages, each from the place on where the one before ended. A set that has grown
/// is put into a bigger hash table in the background, where its elements have other places: some are then told twice,
/// *and others not at all*, without the mark that other interrupted listings have. So one that tells an element twice
/// is not believed.
fn elements(
    transport: &mut Transport,
    table: &Table,
    set: &Set,
    deadline: Instant,
) -> Result<Vec<Element>, Failure> {
    let body = named(&table.name, ELEMENT.table, Some((ELEMENT.set, &set.name)));
    loop {
        let read = |body: &[u8]| Some(decode::elements(body, set));
        let told = list(transport, table.family, numbers::message::NEW_ELEMENTS, &body, deadline, read)?;
        let mut told: Vec<_> = told.into_iter().flatten().collect();
        told.sort_unstable();
        if !told.windows(2).any(|pair| pair[0] == pair[1]) {
            return Ok(told);
        }
        if Instant::now() >= deadline {
            return Err(Failure::TimedOut);
        }
    }
}

/// The table that a notification is about.
pub(super) fn concerns(kind: u16, body: &[u8]) -> Option<Table> {
    let message = kind.checked_sub(SUBSYSTEM)?;
    let named = [
        numbers::message::NEW_TABLE..=numbers::message::DELETE_TABLE,
        numbers::message::NEW_CHAIN..=numbers::message::DELETE_CHAIN,
        numbers::message::NEW_RULE..=numbers::message::DELETE_RULE,
        numbers::message::NEW_SET..=numbers::message::DELETE_SET,
        numbers::message::NEW_ELEMENTS..=numbers::message::DELETE_ELEMENTS,
    ];
    named.iter().any(|kinds| kinds.contains(&message)).then(|| decode::table(body))?
}

/// What there is of a kind. The request to list has the number behind that of the request to make.
fn list<T>(
    transport: &mut Transport,
    family: Family,
    new: u16,
    body: &[u8],
    deadline: Instant,
    read: impl FnMut(&[u8]) -> Option<T>,
) -> Result<Vec<T>, Failure> {
    let write = |out: &mut Vec<u8>, number| {
        message(out, SUBSYSTEM | (new + 1), NLM_F_DUMP, number, family.number(), 0, body);
    };
    transport.list(write, SUBSYSTEM | new, deadline, read)
}

/// Adds a message: its header, a `nfgenmsg`, its attributes.
fn message(out: &mut Vec<u8>, kind: u16, flags: u16, number: u32, family: u8, resource: u16, body: &[u8]) {
    let length = u32::try_from(HEADER + decode::HEADER + body.len()).unwrap_or(u32::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    out.extend(number.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
    out.extend(body);
    out.resize(out.len().next_multiple_of(4), 0);
}
