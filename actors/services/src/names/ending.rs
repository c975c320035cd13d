//! How name servers end: with their sandboxes, or all of them with the engine.

use std::sync::Arc;

use futures::future::join_all;
use netloom_dns::server::Ending;
use netloom_kernel::Netns;
use netloom_model::{Error, Result, SandboxId};
use netloom_runtime::{Cause, Cx, Handle, OpCtx, Panicked, Reply, messages};

use super::actor::{NamesActor, PATIENCE};
use super::message::{EndNames, StopNames};
use super::open::forget;
use super::state::{Entry, Stage};
use crate::panicked;

/// A name server has ended, and its rules are gone if they had to go.
#[derive(Debug)]
pub(super) struct Ended {
    sandbox: SandboxId,
    attempt: u64,
    result: Result<()>,
}

messages! {
    Ended => ();
}

impl NamesActor {
    /// Ends a sandbox's name server, which is not being opened.
    pub(super) fn end(&mut self, sandbox: SandboxId, cx: &mut Cx<'_, Self>) {
        let (netns, ending, stays, attempt) = {
            let mut known = self.state.get();
            let attempt = known.number();
            let served = known.carriers.end(sandbox);
            let Some(entry) = known.sandboxes.get_mut(&sandbox) else { return };
            entry.attempt = attempt;
            let Stage::Ending { stays, opening, .. } = &mut entry.stage else { return };
            *opening = false;
            (entry.wanted.netns, served, *stays, attempt)
        };
        if ending.is_none() && !stays {
            return self.ended(sandbox, &Ok(()), cx);
        }
        let kernel = Arc::clone(&self.kernel);
        let op = OpCtx::new(Cause::Event("a name server ends"), PATIENCE);
        let (own, deadline) = (op.clone(), op.deadline_std());
        let work = async move {
            if let Some(ending) = ending
                && own.in_time(ending.ended()).await.is_none()
            {
                tracing::warn!(%netns, "a name server takes its time to end");
            }
            if stays { forget(&*kernel, netns, deadline).await.map_err(Error::from) } else { Ok(()) }
        };
        cx.run(&op, work, move |result: std::result::Result<Result<()>, Panicked>| {
            let result = result.unwrap_or_else(|cause| Err(panicked(&cause)));
            Ended { sandbox, attempt, result }
        });
    }

    /// Nothing of it is left, unless its rules are.
    fn ended(&mut self, sandbox: SandboxId, result: &Result<()>, cx: &mut Cx<'_, Self>) {
        let again = {
            let mut known = self.state.get();
            match (known.sandboxes.get_mut(&sandbox), result) {
                (Some(Entry { stage: Stage::Ending { again: true, .. }, .. }), _) => true,
                (Some(_), Ok(())) => {
                    known.sandboxes.remove(&sandbox);
                    false
                }
                (Some(entry), Err(error)) => {
                    (entry.stage, entry.trouble) = (Stage::Left, Some(error.to_string()));
                    false
                }
                (None, _) => false,
            }
        };
        for reply in self.ending.remove(&sandbox).unwrap_or_default() {
            reply.send(result.clone());
        }
        if again {
            self.begin(sandbox, cx);
        } else {
            self.answer(sandbox);
        }
    }
}

// === Commands ===

impl Handle<EndNames> for NamesActor {
    fn handle(
        &mut self,
        _: OpCtx,
        EndNames { sandbox, netns, stays }: EndNames,
        reply: Reply<Result<()>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let ends = {
            let mut known = self.state.get();
            match known.sandboxes.get_mut(&sandbox) {
                Some(entry) if entry.wanted.netns != netns => return reply.send(Ok(())),
                Some(entry) => match &mut entry.stage {
                    Stage::Ending { stays: also, again, .. } => {
                        (*also, *again) = (*also || stays, false);
                        false
                    }
                    // Its sockets are closed as soon as they are open, and the namespace takes its rules along.
                    Stage::Opening if !stays => {
                        known.sandboxes.remove(&sandbox);
                        drop(known);
                        self.answer(sandbox);
                        return reply.send(Ok(()));
                    }
                    Stage::Opening => {
                        entry.stage = Stage::Ending { stays, again: false, opening: true };
                        false
                    }
                    Stage::Resting | Stage::Serving(..) | Stage::Left => {
                        entry.stage = Stage::Ending { stays, again: false, opening: false };
                        true
                    }
                },
                None => {
                    drop(known);
                    return self.forget_rules(netns, stays, reply, cx);
                }
            }
        };
        self.ending.entry(sandbox).or_default().push(reply);
        if ends {
            self.end(sandbox, cx);
        }
    }
}

impl NamesActor {
    /// There is no name server; rules of one of an earlier engine may be there still.
    fn forget_rules(&self, netns: Netns, stays: bool, reply: Reply<Result<()>>, cx: &mut Cx<'_, Self>) {
        if !stays {
            return reply.send(Ok(()));
        }
        let kernel = Arc::clone(&self.kernel);
        let op = OpCtx::new(Cause::Event("a name server ends"), PATIENCE);
        cx.tasks().spawn(async move {
            reply.send(forget(&*kernel, netns, op.deadline_std()).await.map_err(Error::from));
        });
    }
}

impl Handle<StopNames> for NamesActor {
    fn handle(&mut self, op: OpCtx, _: StopNames, reply: Reply<()>, cx: &mut Cx<'_, Self>) {
        let endings: Vec<_> = {
            let mut known = self.state.get();
            // What is being opened finds that nobody wants it any more.
            let all: Vec<_> = known.sandboxes.drain().map(|(sandbox, _)| sandbox).collect();
            all.into_iter().filter_map(|sandbox| known.carriers.end(sandbox)).collect()
        };
        let ended = join_all(endings.into_iter().map(Ending::ended));
        cx.tasks().spawn(async move {
            if op.in_time(ended).await.is_some() {
                reply.send(());
            }
        });
    }
}

// === Outcomes ===

impl Handle<Ended> for NamesActor {
    fn handle(
        &mut self,
        _: OpCtx,
        Ended { sandbox, attempt, result }: Ended,
        _: Reply<()>,
        cx: &mut Cx<'_, Self>,
    ) {
        let current = {
            let known = self.state.get();
            known.sandboxes.get(&sandbox).is_some_and(|entry| entry.attempt == attempt)
        };
        if current {
            self.ended(sandbox, &result, cx);
        }
    }
}
