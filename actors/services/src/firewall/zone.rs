//! The bridges' zone in firewalld: brought up to date when networks come and go, when firewalld comes, reloads or changes its
//! rules, and again later when it did not do what it was asked for. Nothing of an engine's own fails for it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::StreamExt;
use netloom_firewall::Owner;
use netloom_firewalld::{Event, Settled, Trouble, Wishes, ZONE, obstacles, settle};
use netloom_model::snapshot::{FirewalldSnapshot, Obstacle};
use netloom_model::{IfName, Result};
use netloom_runtime::{Cause, Cx, Handle, OpCtx, Panicked, Reply, messages};

use super::actor::{FirewallActor, PATIENCE};
use super::backend::Backend;
use super::message::{FirewalldChanged, ZoneDue};
use super::state::Known;
use super::survey::tell;

/// How long bringing it up to date may take: nearly all of it is for a reload. What does not answer is given up earlier.
const TOGETHER: Duration = Duration::from_secs(25);
/// How long firewalld rests after it did not do what it was asked for: twice as long each time, up to the last.
const REST: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];
/// How often it is reloaded at the most until it is started again: a zone that does not come with that, will not.
const RELOADS: u8 = 3;

/// What is known of firewalld.
#[derive(Debug, Default)]
pub(super) struct ZoneState {
    settled: Settled,
    /// Interfaces that may be in the zone by this engine's doing.
    tried: BTreeSet<IfName>,
    /// Why it is not known whether all is as it should be.
    trouble: Option<String>,
    reloads: u8,
}

/// What is under way with firewalld.
#[derive(Debug, Default)]
pub(super) struct ZoneWork {
    /// It is being brought up to date.
    running: bool,
    /// It has to be again after that.
    again: bool,
    /// Those who wait for what is under way, and for what comes after it.
    answered: Vec<Reply<Result<bool>>>,
    asked: Vec<Reply<Result<bool>>>,
    /// Another attempt is coming.
    coming: bool,
    /// How often in a row it did not do what it was asked for.
    failures: u32,
}

/// It has been brought up to date, or has not.
#[derive(Debug)]
pub(super) struct Zoned {
    outcome: std::result::Result<std::result::Result<Settled, Trouble>, Panicked>,
    wishes: Wishes,
}

messages! {
    Zoned => ();
}

impl ZoneState {
    /// Those that are not known to be where packets pass.
    fn unplaced(&self, bridges: &BTreeSet<IfName>) -> BTreeSet<IfName> {
        let known =
            |one: &&IfName| self.settled.placed.contains(one) || self.settled.elsewhere.contains_key(one);
        bridges.iter().filter(|one| !known(one)).copied().collect()
    }

    /// Whether bridges are where they should be, as far as that goes.
    fn is_settled(&self, bridges: &BTreeSet<IfName>) -> bool {
        self.unplaced(bridges).is_empty() && self.tried.is_subset(bridges)
    }
}

impl Known {
    fn bridges(&self) -> BTreeSet<IfName> {
        if self.is_silent() {
            return BTreeSet::new();
        }
        self.wanted.said().filter_map(|(_, said)| Some(said.network.as_ref()?.bridge)).collect()
    }

    /// What of firewalld's stands in the way.
    pub(super) fn zone_obstacles(&self) -> Vec<Obstacle> {
        let unplaced = self.zone.unplaced(&self.bridges());
        obstacles(&self.zone.settled, &unplaced, self.zone.trouble.as_deref())
    }

    /// Whether there is a firewalld that decides by zones.
    pub(super) fn has_zone(&self) -> bool {
        self.zone.settled.running.is_some()
    }

    pub(super) fn zone_picture(&self) -> FirewalldSnapshot {
        let ZoneState { settled, trouble, .. } = &self.zone;
        let running = settled.running.clone();
        FirewalldSnapshot {
            running: running.is_some(),
            version: running.as_ref().map(|running| running.version.clone()).unwrap_or_default(),
            backend: running.map(|running| running.backend).unwrap_or_default(),
            zone: ZONE.into(),
            bridges: settled.placed.iter().copied().collect(),
            elsewhere: settled.elsewhere.clone().into_iter().collect(),
            trouble: trouble.clone().or_else(|| settled.refused.values().next().cloned()),
        }
    }
}

impl FirewallActor {
    /// Listens to firewalld. Ends with it, or when this incarnation is gone.
    pub(super) fn listen_to_firewalld(&self, cx: &Cx<'_, Self>) {
        let Some(firewalld) = &self.deps.firewalld else { return };
        let (mut events, me) = (firewalld.events(), cx.me());
        self.deps.tasks.spawn(async move {
            while let Some(event) = events.next().await {
                if !me.is_alive() {
                    return;
                }
                me.tell(&OpCtx::new(Cause::Event("firewalld"), PATIENCE), FirewalldChanged(event));
            }
        });
    }

    /// Answers those whose rules the host has. Who came with a network, or went with it, is answered when firewalld knows of
    /// it as well, unless it is away or in trouble.
    pub(super) fn answer(
        &mut self,
        all: impl IntoIterator<Item = (Owner, Reply<Result<bool>>)>,
        cx: &mut Cx<'_, Self>,
    ) {
        let waits = {
            let known = self.deps.state.get();
            let there = known.zone.settled.running.is_some() || self.zone.running;
            there && known.zone.trouble.is_none() && !known.zone.is_settled(&known.bridges())
        };
        for (owner, reply) in all {
            match waits && matches!(owner, Owner::Network(_)) {
                true => self.zone.asked.push(reply),
                false => reply.send(Ok(true)),
            }
        }
        if waits {
            self.settle_zone(cx);
        }
    }

    /// Brings firewalld up to date.
    pub(super) fn settle_zone(&mut self, cx: &mut Cx<'_, Self>) {
        let mut known = self.deps.state.get();
        let Some(firewalld) = self.deps.firewalld.clone().filter(|_| !known.restoring) else { return };
        if self.zone.running {
            self.zone.again = true;
            return;
        }
        (self.zone.running, self.zone.again) = (true, false);
        self.zone.answered = std::mem::take(&mut self.zone.asked);
        let bridges = known.bridges();
        let gone = known.zone.tried.difference(&bridges).copied().collect();
        known.zone.tried.extend(&bridges);
        let wishes = Wishes { bridges, gone, may_reload: known.zone.reloads < RELOADS };
        drop(known);
        let ours = wishes.clone();
        let work = async move {
            let work = settle(&*firewalld, &ours, Instant::now() + TOGETHER);
            // Whoever speaks to it keeps the deadline; that he does, he cannot be trusted with.
            tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(Trouble::Lost))
        };
        let op = OpCtx::new(Cause::Event("firewalld"), PATIENCE);
        cx.run(&op, work, move |outcome| Zoned { outcome, wishes });
    }

    fn zoned(&mut self, Zoned { outcome, wishes }: Zoned, cx: &mut Cx<'_, Self>) {
        self.zone.running = false;
        let mut known = self.deps.state.get();
        let before = known.zone_obstacles();
        let zone = &mut known.zone;
        match outcome {
            Ok(Ok(settled)) => {
                zone.reloads = match settled.running {
                    Some(_) => zone.reloads + u8::from(settled.reloaded),
                    None => 0,
                };
                // Who was not let go, will be asked for again; who died has forgotten all.
                zone.tried.retain(|one| wishes.bridges.contains(one) || settled.refused.contains_key(one));
                (zone.settled, zone.trouble) = (settled, None);
            }
            Ok(Err(trouble)) => {
                // A zone that does not come with a reload is not tried for ever.
                zone.reloads += u8::from(matches!(trouble, Trouble::Idle(_)) && wishes.may_reload);
                tracing::warn!(%trouble, "the bridges may not be in firewalld's zone");
                zone.trouble = Some(trouble.to_string());
            }
            Err(panicked) => {
                tracing::error!(?panicked, "what brings firewalld up to date panicked");
                zone.trouble = Some("what brings it up to date panicked".into());
            }
        }
        let failed = zone.trouble.is_some() || !zone.settled.refused.is_empty();
        tell(&before, &known.zone_obstacles());
        drop(known);
        self.zone.answered.drain(..).for_each(|reply| reply.send(Ok(true)));
        self.zone.failures = if failed { self.zone.failures.saturating_add(1) } else { 0 };
        if failed {
            // It has been said why; nobody is held up for it.
            self.zone.asked.drain(..).for_each(|reply| reply.send(Ok(true)));
            self.settle_zone_later(cx);
        }
        if self.zone.again {
            self.settle_zone(cx);
        }
    }

    fn settle_zone_later(&mut self, cx: &Cx<'_, Self>) {
        if std::mem::replace(&mut self.zone.coming, true) {
            return;
        }
        let doubled = 2_u32.saturating_pow(self.zone.failures.saturating_sub(1).min(8));
        let (me, rest) = (cx.me(), (REST[0] * doubled).min(REST[1]));
        // Not the actor's own work, for whose end whoever starts it again would wait.
        self.deps.tasks.spawn(async move {
            tokio::time::sleep(rest).await;
            me.tell(&OpCtx::new(Cause::Tick("firewalld"), PATIENCE), ZoneDue);
        });
    }
}

// === Handlers ===

impl Handle<FirewalldChanged> for FirewallActor {
    fn handle(
        &mut self,
        _: OpCtx,
        FirewalldChanged(event): FirewalldChanged,
        _: Reply<()>,
        cx: &mut Cx<'_, Self>,
    ) {
        tracing::info!(?event, "firewalld");
        {
            let mut known = self.deps.state.get();
            // What was in its zones may be in none.
            let running = known.zone.settled.running.take().filter(|_| event == Event::Reloaded);
            known.zone.settled = Settled { running, ..Settled::default() };
            if event == Event::Gone {
                known.zone.trouble = None;
            }
        }
        self.settle_zone(cx);
        // With its own chains of iptables it flushes those of all others, and has ended with that: they are looked at at once.
        // Tables of nftables it leaves alone, and of those the kernel tells.
        let flushed = matches!(self.deps.state.get().backend, Backend::Iptables { .. });
        if flushed && event != Event::Gone {
            self.deps.state.get().stale = true;
            self.go_on(cx);
        }
    }
}

impl Handle<ZoneDue> for FirewallActor {
    fn handle(&mut self, _: OpCtx, _: ZoneDue, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        self.zone.coming = false;
        self.settle_zone(cx);
    }
}

impl Handle<Zoned> for FirewallActor {
    fn handle(&mut self, _: OpCtx, zoned: Zoned, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        self.zoned(zoned, cx);
    }
}
