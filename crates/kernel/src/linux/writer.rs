//! The host writer: every change of the host's namespace that does not wait for RCU.

use std::io;
use std::sync::Arc;

use super::batch;
use super::call::Call;
use super::mounts::Mounts;
use super::numbers::Numbers;
use super::transport::{Counters, Transport};
use crate::worker::Worker;

/// How many calls are answered together. A link costs 0.5 ms to make and a send 3 µs, so larger batches
/// would only keep the first callers waiting.
const CALLS_PER_BATCH: usize = 16;

/// Starts the writer in the caller's namespace.
pub(super) fn spawn(bound: usize, mounts: Mounts, counters: &Arc<Counters>) -> io::Result<Worker<Call>> {
    let mut transport = Transport::open(counters)?;
    let mut numbers = Numbers::new();
    Worker::spawn("nl-writer", bound, move |calls: Vec<Call>| {
        let mut calls = calls.into_iter().filter_map(Call::if_in_time).peekable();
        while calls.peek().is_some() {
            write(&mut transport, &mut numbers, &mounts, calls.by_ref().take(CALLS_PER_BATCH).collect());
        }
    })
}

fn write(transport: &mut Transport, numbers: &mut Numbers, mounts: &Mounts, calls: Vec<Call>) {
    let Some(deadline) = calls.iter().map(|call| call.allowance.deadline).max() else { return };
    let ops: Vec<_> = calls.iter().flat_map(Call::run).collect();
    let open = batch::opener(|name| mounts.open(name));
    let mut answers = batch::carry_out(transport, &ops, &open, Some(numbers), deadline).into_iter();
    for call in calls {
        let length = call.run().len();
        call.answer(answers.by_ref().take(length));
    }
}
