//! The question what of the rules is not as it should be. It takes its turn among transactions, so that nothing of the
//! engine's own is under way meanwhile; nothing is changed.

use std::sync::Arc;
use std::time::Instant;

use netloom_firewall::iptables::{Saved, Version, Wanted, leftovers};
use netloom_firewall::{Deviation, Owner, Ruleset, Said, compare};
use netloom_kernel::Kernel;
use netloom_model::{Error, Reason, Result};
use netloom_runtime::{Cx, Handle, OpCtx, Panicked, Reply, messages};

use super::actor::FirewallActor;
use super::backend::Backend;
use crate::panicked;

/// How many may ask at a time.
const ASKING: usize = 64;

/// Compare what the host has with what is wanted, and change nothing. Answered with what differs;
/// with nothing where there is no firewall, or before a start has ended.
#[derive(Clone, Copy, Debug)]
pub struct CompareRules;

/// A comparison has ended.
#[derive(Debug)]
pub(super) struct Compared {
    outcome: std::result::Result<Result<Vec<Deviation>>, Panicked>,
    replies: Vec<Reply<Result<Vec<Deviation>>>>,
}

messages! {
    CompareRules => Result<Vec<Deviation>>;
    Compared => ();
}

/// Those who ask, until it is their turn.
#[derive(Debug, Default)]
pub(super) struct Comparisons {
    asked: Vec<(OpCtx, Reply<Result<Vec<Deviation>>>)>,
    /// The last turn was one: now it is that of a transaction.
    last: bool,
}

impl FirewallActor {
    /// Begins a comparison, if one is asked for and it is its turn.
    pub(super) fn compare(&mut self, cx: &mut Cx<'_, Self>) -> bool {
        let last = std::mem::take(&mut self.comparisons.last);
        if self.comparisons.asked.is_empty() || (last && self.has_reason()) {
            return false;
        }
        let known = self.deps.state.get();
        // Without what still waits to be said.
        let mut said = known.wanted.clone();
        for one in self.waiting.iter().rev().filter(|one| !one.alone) {
            said.put(one.owner, &one.before);
        }
        let backend = known.backend.clone();
        drop(known);
        let (ops, replies): (Vec<_>, Vec<_>) = self.comparisons.asked.drain(..).unzip();
        let Some(op) = ops.into_iter().max_by_key(|op| op.deadline) else { return false };
        (self.busy, self.comparisons.last) = (true, true);
        let (kernel, deadline) = (Arc::clone(&self.deps.kernel), op.deadline_std());
        let work = async move { look(&backend, &*kernel, &said, deadline).await };
        cx.run(&op, work, move |outcome| Compared { outcome, replies });
        true
    }
}

async fn look(
    backend: &Backend,
    kernel: &dyn Kernel,
    said: &Ruleset,
    deadline: Instant,
) -> Result<Vec<Deviation>> {
    let (xtables, versions) = match backend {
        Backend::None => return Ok(Vec::new()),
        Backend::Nftables => {
            let is = kernel.table(said.table(), deadline).await?;
            return Ok(compare(is.as_ref(), said));
        }
        Backend::Iptables { xtables, versions } => (xtables, versions),
    };
    let mut all = Vec::new();
    for version in versions {
        let saved = xtables.save(xtables.chosen(), *version, deadline).await?;
        all.extend(chains(said, *version, &saved)?);
    }
    Ok(all)
}

fn chains(said: &Ruleset, version: Version, saved: &Saved) -> Result<Vec<Deviation>> {
    let config = said.config();
    let all: Vec<(Owner, Said)> = said.said().map(|(owner, said)| (owner, said.clone())).collect();
    if all.is_empty() {
        return Ok(leftovers(&config.names(), version, saved));
    }
    let networks: Vec<_> = all.iter().filter_map(|(_, said)| said.network.clone()).collect();
    let ports: Vec<_> = all.iter().flat_map(|(_, said)| said.ports.iter()).collect();
    let wanted = Wanted::new(&config.names(), config.mark, &networks, &ports).map_err(Error::from)?;
    Ok(wanted.compare(version, saved, config.mark, &all))
}

impl Handle<CompareRules> for FirewallActor {
    fn handle(
        &mut self,
        op: OpCtx,
        _: CompareRules,
        reply: Reply<Result<Vec<Deviation>>>,
        cx: &mut Cx<'_, Self>,
    ) {
        let (restoring, silent) = {
            let known = self.deps.state.get();
            (known.restoring, known.is_silent())
        };
        if restoring || silent {
            return reply.send(Ok(Vec::new()));
        }
        if self.comparisons.asked.len() >= ASKING {
            return reply.send(Err(Reason::Busy { what: "the firewall".into(), limit: ASKING }.into()));
        }
        self.comparisons.asked.push((op, reply));
        self.go_on(cx);
    }
}

impl Handle<Compared> for FirewallActor {
    fn handle(&mut self, _: OpCtx, done: Compared, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        self.busy = false;
        let answer = done.outcome.unwrap_or_else(|cause| Err(panicked(&cause)));
        done.replies.into_iter().for_each(|reply| reply.send(answer.clone()));
        self.go_on(cx);
    }
}
