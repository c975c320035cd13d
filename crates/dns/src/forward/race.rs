//! Who is asked, and when: so that the client has an answer, or the word that there is none, before it asks again.
//!
//! The upstreams are asked in their order, those that were silent lately after the others. The next one is asked when
//! the last one has failed (SERVFAIL, REFUSED, unreachable: at once) or was silent for `each`; those before may still
//! answer, and the first answer counts. When all have been asked and there is time, they are asked again, the other way
//! (over TCP what was asked over UDP): a datagram may be lost, and a server may take one way only. Whatever an upstream
//! says is passed on, but for SERVFAIL and REFUSED. If all are silent, the client learns that after `all`.
//!
//! An upstream that was silent is asked beside the others every two seconds, as long as there are questions, and takes
//! its place again with its first answer.

use std::future::Future;
use std::io;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::Budget;
use super::reply::Judged;
use super::upstream::Known;
use crate::query::Transport;

/// How a question reaches an upstream.
pub(super) trait Exchange {
    /// Asks, and waits for as long as it takes. An error says that this upstream cannot be asked this way.
    fn ask(
        &self,
        known: &Known,
        transport: Transport,
        query: &[u8],
    ) -> impl Future<Output = io::Result<(Judged, Vec<u8>)>> + Send;
}

/// How it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Won {
    /// With this answer.
    Answer(Vec<u8>),
    /// Without one.
    Nobody,
}

/// One question to all upstreams.
pub(super) struct Race<'a> {
    pub(super) upstreams: &'a [Arc<Known>],
    pub(super) query: &'a [u8],
    pub(super) transport: Transport,
    pub(super) budget: Budget,
}

/// What has become of an upstream in this race.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Runner {
    Waits,
    /// Asked, and silent so far.
    Runs,
    /// It said no, or cannot be reached either way.
    Out,
}

impl Race<'_> {
    /// Runs until there is an answer to deliver, and then for as long as it takes to see whether silent ones are back.
    pub(super) async fn run<E: Exchange + Sync>(&self, exchange: &E, deliver: impl FnOnce(Won) + Send) {
        let start = Instant::now();
        let (end, each) = (start + self.budget.all, self.budget.each);
        let order = self.order();
        let mut runners = vec![Runner::Waits; order.len()];
        let mut last_resort = None;
        let mut running = FuturesUnordered::new();
        let ask = |at: usize, first: Transport| {
            let known = &order[at];
            async move { (at, Instant::now(), self.ask(exchange, known, first).await) }
        };
        // Whoever may be back is asked beside the one whose turn it is.
        let mut looks = vec![false; order.len()];
        if order.first().is_some_and(|first| first.suspect_since() == 0) {
            for (at, known) in order.iter().enumerate() {
                if known.suspect_since() > 0 && known.take_look() {
                    looks[at] = true;
                    running.push(ask(at, self.transport));
                }
            }
        }
        let (mut turn, mut next_at) = (0, start);
        let won = loop {
            let next = (0..order.len())
                .map(|step| turn + step)
                .find(|turn| runners[turn % order.len()] != Runner::Out);
            if next.is_none() && running.is_empty() {
                break Won::Nobody;
            }
            tokio::select! {
                biased;
                Some((at, since, result)) = running.next(), if !running.is_empty() => {
                    let known = &order[at];
                    match result {
                        Ok((Judged::Answer, reply)) => {
                            known.answered.add(1);
                            known.is_well(since.elapsed());
                            looks[at] = false;
                            break Won::Answer(reply);
                        }
                        Ok((_, reply)) => {
                            known.failed.add(1);
                            known.is_well(since.elapsed());
                            last_resort = Some(reply);
                        }
                        Err(_) => known.missed(),
                    }
                    // A look at one whose turn had not come is no reason to hurry.
                    if runners[at] == Runner::Runs {
                        next_at = Instant::now();
                    }
                    looks[at] = false;
                    runners[at] = Runner::Out;
                }
                () = sleep_until(end) => break Won::Nobody,
                () = sleep_until(next_at), if next.is_some() => {
                    let Some(next) = next else { continue };
                    // Those that were asked before have been silent for long enough to ask another one.
                    for (at, runner) in runners.iter().enumerate() {
                        if *runner == Runner::Runs && turn > 0 && (turn - 1) % order.len() == at {
                            order[at].missed();
                        }
                    }
                    let at = next % order.len();
                    let round = next / order.len();
                    runners[at] = Runner::Runs;
                    running.push(ask(at, if round & 1 == 0 { self.transport } else { other(self.transport) }));
                    turn = next + 1;
                    next_at = Instant::now() + each;
                }
            }
        };
        if won == Won::Nobody {
            for (at, runner) in runners.iter().enumerate() {
                if *runner == Runner::Runs {
                    order[at].missed();
                }
            }
        }
        // SERVFAIL in an upstream's own words says more than in ours; REFUSED is between it and us.
        let servfail = last_resort.filter(|reply| reply.get(3).is_some_and(|byte| byte & 15 == 2));
        deliver(match (won, servfail) {
            (Won::Nobody, Some(reply)) => Won::Answer(reply),
            (won, _) => won,
        });
        while looks.contains(&true) {
            tokio::select! {
                Some((at, since, result)) = running.next(), if !running.is_empty() => {
                    if result.is_ok() {
                        order[at].is_well(since.elapsed());
                    }
                    looks[at] = false;
                }
                () = sleep_until(end.min(start + each)) => break,
            }
        }
    }

    /// One upstream, this way first, and the other way when it cannot be asked so.
    async fn ask<E: Exchange + Sync>(
        &self,
        exchange: &E,
        known: &Known,
        first: Transport,
    ) -> io::Result<(Judged, Vec<u8>)> {
        known.asked.add(1);
        match exchange.ask(known, first, self.query).await {
            Err(_) => exchange.ask(known, other(first), self.query).await,
            answered => answered,
        }
    }

    /// Those that are well, as they are listed, and then the others, whoever has been silent for longest first.
    fn order(&self) -> Vec<Arc<Known>> {
        let mut order: Vec<(u64, Arc<Known>)> =
            self.upstreams.iter().map(|known| (known.suspect_since(), Arc::clone(known))).collect();
        order.sort_by_key(|(since, _)| *since);
        order.into_iter().map(|(_, known)| known).collect()
    }
}

fn other(transport: Transport) -> Transport {
    match transport {
        Transport::Udp => Transport::Tcp,
        Transport::Tcp => Transport::Udp,
    }
}

#[cfg(test)]
mod tests;
