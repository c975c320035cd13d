//! The reaper: deletions of links. One deletion waits 20 to 30 ms for RCU however many links it takes, so
//! those that come in while one is under way go together, by group.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nix::errno::Errno;

use super::batch;
use super::call::Call;
use super::decode;
use super::encode;
use super::failure::Failure;
use super::numbers;
use super::transport::{Answer, Counters, Transport};
use crate::op::{LinkTag, Op};
use crate::view::LinkView;
use crate::worker::Worker;

/// The most links that one deletion takes: RTNL is held for all of it (0.5 ms each), and creations wait.
const LINKS_PER_DELETION: usize = 128;
/// How many group numbers are tried before links are deleted one by one.
const GROUP_DRAWS: usize = 4;

/// Starts the reaper in the caller's namespace.
pub(super) fn spawn(bound: usize, counters: &Arc<Counters>) -> io::Result<Worker<Call>> {
    let transport = Transport::open(counters)?;
    let mut reaper = Reaper { transport, group: None, counters: Arc::clone(counters) };
    Worker::spawn("nl-reaper", bound, move |calls: Vec<Call>| {
        let mut calls = calls.into_iter().filter_map(Call::if_in_time).peekable();
        while calls.peek().is_some() {
            let mut links = 0;
            let mut batch = Vec::new();
            while let Some(call) =
                calls.next_if(|call| links == 0 || links + call.run().len() <= LINKS_PER_DELETION)
            {
                links += call.run().len();
                batch.push(call);
            }
            reaper.reap(batch);
        }
    })
}

struct Reaper {
    transport: Transport,
    /// The group whose links may be deleted together, once one has been found that nobody uses.
    group: Option<u32>,
    counters: Arc<Counters>,
}

impl Reaper {
    fn reap(&mut self, calls: Vec<Call>) {
        let Some(deadline) = calls.iter().map(|call| call.allowance.deadline).max() else { return };
        let ops: Vec<&Op> = calls.iter().flat_map(Call::run).collect();
        let mut answers = self.delete(&ops, deadline).into_iter();
        for call in calls {
            let length = call.run().len();
            call.answer(answers.by_ref().take(length));
        }
    }

    fn delete(&mut self, ops: &[&Op], deadline: Instant) -> Vec<Result<(), Failure>> {
        let requests: Vec<_> =
            ops.iter().filter_map(|op| target(op)).map(|(name, _)| encode::get_link(name)).collect();
        let found = self.transport.exchange(&requests, deadline);
        let mut answers: Vec<_> = ops.iter().zip(found).map(|(op, answer)| check(op, answer)).collect();
        let mut chosen: Vec<u32> = answers.iter().flatten().copied().collect();
        chosen.sort_unstable();
        chosen.dedup();
        let gone = self.delete_links(&chosen, deadline);
        let mut taken = vec![false; chosen.len()];
        answers
            .drain(..)
            .map(|answer| {
                let at = answer.map(|index| chosen.binary_search(&index).unwrap_or_default())?;
                // Asked for twice: the second finds nothing.
                if std::mem::replace(&mut taken[at], true) {
                    return gone[at].clone().and(Err(Failure::errno(Errno::ENODEV)));
                }
                gone[at].clone()
            })
            .collect()
    }

    /// Deletes links by their numbers, which neither the kernel nor the writer uses again.
    fn delete_links(&mut self, links: &[u32], deadline: Instant) -> Vec<Result<(), Failure>> {
        if links.len() > 1
            && let Some(group) = self.free_group(deadline)
            && let Some(answers) = self.delete_group(links, group, deadline)
        {
            return answers;
        }
        let one = |link: &u32| {
            self.counters.deletions.fetch_add(1, Ordering::Relaxed);
            self.transport.ask(&encode::delete_index(*link), deadline)?;
            self.counters.links_deleted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        links.iter().map(one).collect()
    }

    /// Deletes links as a group; `None` when it was refused as a whole and nothing happened.
    fn delete_group(
        &mut self,
        links: &[u32],
        group: u32,
        deadline: Instant,
    ) -> Option<Vec<Result<(), Failure>>> {
        let requests: Vec<_> = links.iter().map(|link| encode::set_group(*link, group)).collect();
        let mut answers: Vec<Result<(), Failure>> =
            self.transport.exchange(&requests, deadline).into_iter().map(|answer| answer.map(drop)).collect();
        if answers.iter().all(Result::is_err) {
            return Some(answers);
        }
        self.counters.deletions.fetch_add(1, Ordering::Relaxed);
        match self.transport.ask(&encode::delete_group(group), deadline) {
            Ok(_) => {
                let gone = answers.iter().filter(|answer| answer.is_ok()).count() as u64;
                self.counters.links_deleted.fetch_add(gone, Ordering::Relaxed);
            }
            Err(Failure::Refused { errno, text }) => {
                tracing::debug!(errno, text, "a group of links is deleted one by one");
                return None;
            }
            Err(uncertain) => {
                for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
                    *answer = Err(uncertain.clone());
                }
            }
        }
        Some(answers)
    }

    /// A group that holds no link: checked with a listing when it is drawn, and with a probe at every use.
    fn free_group(&mut self, deadline: Instant) -> Option<u32> {
        for _ in 0..GROUP_DRAWS {
            let group = match self.group.take() {
                Some(group) => group,
                None => self.draw_group(deadline)?,
            };
            match self.transport.ask(&encode::probe_group(group), deadline) {
                Ok(_) => {
                    self.group = Some(group);
                    return self.group;
                }
                Err(failure) => {
                    tracing::warn!(group, ?failure, "a link group is in use; another one is drawn");
                }
            }
        }
        None
    }

    /// Draws a group that no link is in.
    fn draw_group(&mut self, deadline: Instant) -> Option<u32> {
        let listing = encode::list_links();
        let used = self.transport.dump(&listing, libc::RTM_NEWLINK, deadline, decode::link_group).ok()?;
        (0..GROUP_DRAWS).map(|_| numbers::draw()).find(|group| !used.contains(group))
    }
}

fn target(op: &Op) -> Option<(netloom_model::IfName, Option<&LinkTag>)> {
    match op {
        Op::DeleteLink { name, tag } => Some((*name, tag.as_ref())),
        _ => None,
    }
}

/// The number of the link to delete, if it is there and carries the mark it must.
fn check(op: &Op, answer: Answer) -> Result<u32, Failure> {
    let Some((_, Some(tag))) = target(op) else { return batch::number(answer) };
    let found = answer.as_ref().ok().and_then(|body| body.as_deref()).and_then(decode::link);
    let index = batch::number(answer)?;
    if found.as_ref().and_then(LinkView::tag).as_ref() == Some(tag) {
        return Ok(index);
    }
    let text = match found.and_then(|link| link.alias) {
        None => "the link carries no mark".into(),
        Some(other) => format!("the link carries another mark: {other:?}"),
    };
    Err(Failure::refused(libc::EPERM, Some(text)))
}
