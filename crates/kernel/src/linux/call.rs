//! A call on its way through the threads that carry out its operations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use netloom_model::NetnsName;

use super::failure::Failure;
use super::netns::Task;
use super::nft;
use super::transport::Transport;
use crate::KernelError;
use crate::op::{Netns, Op};
use crate::worker::Worker;

/// The thread that carries out an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Executor {
    /// Changes of the host's namespace.
    Writer,
    /// Deletions of links, which wait for RCU.
    Reaper,
    /// Everything inside other namespaces, and the namespaces themselves.
    Netns,
    /// Tables of nftables, and tracked connections.
    Nft,
    /// Tables of another namespace: a socket is opened there, and then they are changed beside those of the host, so that
    /// what goes on inside of namespaces does not wait for the kernel's lock of tables.
    NftOf(NetnsName),
}

/// Decides which thread carries out an operation.
fn executor(op: &Op) -> Executor {
    match op {
        Op::DeleteLink { .. } => Executor::Reaper,
        Op::ChangeTable { netns: Netns::Named(name), .. } => Executor::NftOf(*name),
        Op::ChangeTable { .. } | Op::ForgetConnections { .. } => Executor::Nft,
        // Namespaces at both ends, or settings, which are read through the thread's own namespace.
        Op::CreateNetns { .. }
        | Op::AdoptNetns { .. }
        | Op::DeleteNetns { .. }
        | Op::MoveLink { .. }
        | Op::Sysctl { .. } => Executor::Netns,
        Op::CreateBridge { .. }
        | Op::CreateVeth { .. }
        | Op::CutLink { .. }
        | Op::SetLink { .. }
        | Op::SetMaster { .. }
        | Op::SetPortFlag { .. }
        | Op::SetMtu { .. }
        | Op::AddAddress { .. }
        | Op::DeleteAddress { .. }
        | Op::AddRoute { .. }
        | Op::DeleteRoute { .. }
        | Op::AddNeighbour { .. }
        | Op::DeleteNeighbour { .. }
        | Op::Announce { .. } => match op.netns() {
            Netns::Host => Executor::Writer,
            Netns::Named(_) => Executor::Netns,
        },
    }
}

/// The threads that carry out operations.
///
/// Only the kernel's owner and the calls under way hold this: when both are gone, the threads end.
#[derive(Debug)]
pub(super) struct Executors {
    pub(super) writer: Worker<Call>,
    pub(super) reaper: Worker<Call>,
    pub(super) netns: Worker<Task>,
    pub(super) nft: Worker<nft::Task>,
}

/// The time that a call has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    pub(super) deadline: Instant,
    pub(super) allowed: Duration,
}

impl Allowance {
    pub(super) fn until(deadline: Instant) -> Self {
        Self { deadline, allowed: deadline.saturating_duration_since(Instant::now()) }
    }

    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// Operations under way. Consecutive ones with the same executor make a run; a call visits the executor of
/// each run in turn and needs nobody to wait for it.
#[derive(Debug)]
pub(super) struct Call {
    ops: Arc<[Op]>,
    done: Vec<Result<(), KernelError>>,
    pub(super) allowance: Allowance,
    executors: Arc<Executors>,
    reply: oneshot::Sender<Vec<Result<(), KernelError>>>,
}

impl Call {
    /// Sends a call on its way.
    pub(super) fn start(
        executors: Arc<Executors>,
        ops: Arc<[Op]>,
        allowance: Allowance,
        reply: oneshot::Sender<Vec<Result<(), KernelError>>>,
    ) {
        let done = Vec::with_capacity(ops.len());
        Self { ops, done, allowance, executors, reply }.proceed();
    }

    /// The operations of the run that is at its executor now.
    pub(super) fn run(&self) -> &[Op] {
        let rest = &self.ops[self.done.len()..];
        let Some(mine) = rest.first().map(executor) else { return rest };
        let length = rest.iter().position(|op| executor(op) != mine).unwrap_or(rest.len());
        &rest[..length]
    }

    /// Records the answers of a run, one for each of its operations, and goes on to the next executor.
    pub(super) fn answer(mut self, answers: impl IntoIterator<Item = Result<(), Failure>>) {
        let allowed = self.allowance.allowed;
        for answer in answers {
            let Some(op) = self.ops.get(self.done.len()) else { break };
            self.done.push(answer.map_err(|failure| failure.of(op, allowed)));
        }
        self.proceed();
    }

    /// Ends the call: what is not done yet fails for this reason.
    pub(super) fn fail(mut self, failure: &Failure) {
        for op in &self.ops[self.done.len()..] {
            self.done.push(Err(failure.clone().of(op, self.allowance.allowed)));
        }
        // The caller may have stopped waiting; the work was done all the same.
        let _ = self.reply.send(self.done);
    }

    /// Passes the call on unless its time is over.
    pub(super) fn if_in_time(self) -> Option<Self> {
        if !self.allowance.is_over() {
            return Some(self);
        }
        self.fail(&Failure::NotStarted);
        None
    }

    /// Passes the call on with a socket for the tables of the namespace that it is about.
    pub(super) fn go_inside(self, socket: Result<Transport, Failure>) {
        let socket = match socket {
            Ok(socket) => socket,
            Err(failure) => {
                let answers = vec![Err(failure); self.run().len()];
                return self.answer(answers);
            }
        };
        let executors = Arc::clone(&self.executors);
        if let Err(nft::Task::Inside { call, .. }) =
            executors.nft.submit(nft::Task::Inside { call: self, socket })
        {
            call.fail(&Failure::QueueFull);
        }
    }

    fn proceed(self) {
        let executors = Arc::clone(&self.executors);
        let refused = match self.ops.get(self.done.len()).map(executor) {
            None => {
                let _ = self.reply.send(self.done);
                return;
            }
            Some(Executor::Writer) => executors.writer.submit(self).err(),
            Some(Executor::Reaper) => executors.reaper.submit(self).err(),
            Some(Executor::Netns) => match executors.netns.submit(Task::Call(self)) {
                Err(Task::Call(call)) => Some(call),
                _ => None,
            },
            Some(Executor::Nft) => match executors.nft.submit(nft::Task::Call(self)) {
                Err(nft::Task::Call(call)) => Some(call),
                _ => None,
            },
            Some(Executor::NftOf(name)) => match executors.netns.submit(Task::OpenNft { name, call: self }) {
                Err(Task::OpenNft { call, .. }) => Some(call),
                _ => None,
            },
        };
        if let Some(call) = refused {
            call.fail(&Failure::QueueFull);
        }
    }
}
