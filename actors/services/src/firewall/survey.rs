//! What of the host's stands in the way of packets that the rules let through: looked at when networks come and go, when
//! somebody changes tables of nftables, and when somebody asks. Of settings and of the old iptables the kernel tells nobody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use netloom_firewall::io::{Variant, Xtables};
use netloom_firewall::iptables::Version;
use netloom_firewall::obstacles::{Drops, Host, obstacles};
use netloom_firewall::{NetworkRules, TABLES};
use netloom_kernel::nft::Point;
use netloom_kernel::{Kernel, Netns};
use netloom_model::snapshot::{FirewallSnapshot, Obstacle};
use netloom_model::{Error, Result};
use netloom_runtime::{Cause, Cx, Handle, OpCtx, Panicked, Reply, messages};

use super::actor::{FirewallActor, PATIENCE};
use super::backend::Backend;
use super::message::SurveyDue;

/// How long a survey may take. What it has not seen by then is as it was.
const PATIENT: Duration = Duration::from_secs(1);
/// How long changes gather before a survey.
const SETTLE: Duration = Duration::from_millis(200);
/// A survey is not made more often than for this part of the time.
const SHARE: u32 = 20;

/// The table of firewalld.
const FIREWALLD: &str = "inet firewalld";

/// Surveys that are under way and asked for.
#[derive(Debug, Default)]
pub(super) struct Surveys {
    /// One is under way.
    running: bool,
    /// One is coming.
    coming: bool,
    /// Those who wait for the one that is under way, and for the next one.
    answered: Vec<Reply<FirewallSnapshot>>,
    pub(super) asked: Vec<Reply<FirewallSnapshot>>,
    /// How long the last one took.
    took: Duration,
}

/// A survey has ended.
#[derive(Debug)]
pub(super) struct Surveyed {
    outcome: std::result::Result<Result<Vec<Obstacle>>, Panicked>,
    began: Instant,
}

messages! {
    Surveyed => ();
}

impl FirewallActor {
    /// Surveys the host for those who ask. What begins after they have asked is what they are told.
    pub(super) fn survey(&mut self, cx: &mut Cx<'_, Self>) {
        if self.surveys.running {
            return;
        }
        self.surveys.running = true;
        self.surveys.answered = std::mem::take(&mut self.surveys.asked);
        let known = self.deps.state.get();
        let networks: Vec<_> = match known.is_silent() {
            true => Vec::new(),
            false => known.wanted.said().filter_map(|(_, said)| said.network.clone()).collect(),
        };
        let backend = known.backend.clone();
        let by_zone = known.has_zone();
        drop(known);
        let (kernel, xtables) = (Arc::clone(&self.deps.kernel), self.deps.xtables.clone());
        let began = Instant::now();
        let work = async move {
            let look = look(&*kernel, xtables.as_deref(), &backend, (&networks, by_zone), began + PATIENT);
            // The programs may be busy with what the host is to have.
            let late = |_| Err(Error::internal("the host did not say in time what stands in the way"));
            tokio::time::timeout(PATIENT, look).await.unwrap_or_else(late)
        };
        let op = OpCtx::new(Cause::Event("the firewall"), PATIENCE);
        cx.run(&op, work, move |outcome| Surveyed { outcome, began });
    }

    /// Has the host surveyed once things have settled.
    pub(super) fn survey_soon(&mut self, cx: &mut Cx<'_, Self>) {
        if self.surveys.coming || self.deps.state.get().is_silent() {
            return;
        }
        self.surveys.coming = true;
        // Not the actor's own work, for whose end whoever starts it again would wait.
        let (me, rest) = (cx.me(), SETTLE.max(self.surveys.took * SHARE));
        self.deps.tasks.spawn(async move {
            tokio::time::sleep(rest).await;
            me.tell(&OpCtx::new(Cause::Tick("the firewall"), PATIENCE), SurveyDue);
        });
    }
}

impl Handle<SurveyDue> for FirewallActor {
    fn handle(&mut self, _: OpCtx, _: SurveyDue, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        self.surveys.coming = false;
        self.survey(cx);
        // Somebody may have moved a bridge to another zone.
        self.settle_zone(cx);
    }
}

impl Handle<Surveyed> for FirewallActor {
    fn handle(
        &mut self,
        _: OpCtx,
        Surveyed { outcome, began }: Surveyed,
        _: Reply<()>,
        cx: &mut Cx<'_, Self>,
    ) {
        self.surveys.running = false;
        self.surveys.took = began.elapsed();
        match outcome {
            Ok(Ok(found)) => {
                let mut known = self.deps.state.get();
                tell(&known.obstacles, &found);
                known.obstacles = found;
            }
            Ok(Err(error)) => tracing::debug!(%error, "the host was not surveyed"),
            Err(panicked) => tracing::error!(?panicked, "a survey of the host panicked"),
        }
        let picture = self.picture();
        self.surveys.answered.drain(..).for_each(|reply| reply.send(picture.clone()));
        if !self.surveys.asked.is_empty() {
            self.survey(cx);
        }
    }
}

/// Tells what is new, once, and what is gone.
pub(super) fn tell(before: &[Obstacle], now: &[Obstacle]) {
    let among = |all: &[Obstacle], one: &Obstacle| all.iter().any(|other| other.name == one.name);
    for one in now.iter().filter(|one| !among(before, one)) {
        tracing::warn!(obstacle = one.name, remedy = ?one.remedy, "{}", one.what);
    }
    for one in before.iter().filter(|one| !among(now, one)) {
        tracing::info!(obstacle = one.name, "it does not stand in the way any more");
    }
}

async fn look(
    kernel: &dyn Kernel,
    xtables: Option<&dyn Xtables>,
    backend: &Backend,
    (networks, by_zone): (&[Arc<NetworkRules>], bool),
    deadline: Instant,
) -> Result<Vec<Obstacle>> {
    if networks.is_empty() {
        return Ok(Vec::new());
    }
    let is_on = async |key: &str| {
        let text = kernel.read_setting(Netns::Host, key, deadline).await;
        text.ok().map(|text| text.trim() != "0")
    };
    let forwards = [is_on("ipv4/ip_forward").await, is_on("ipv6/conf/all/forwarding").await];
    let bridged =
        [is_on("bridge/bridge-nf-call-iptables").await, is_on("bridge/bridge-nf-call-ip6tables").await];
    let mut host = Host { drops: Vec::new(), forwards, bridged: bridged.map(|on| on == Some(true)) };
    let called = |variant, version| xtables.and_then(|xtables| xtables.called(variant, version));
    let programs = [Version::V4, Version::V6].map(|version| called(Variant::Nft, version));
    let chains = match kernel.base_chains(Point::Forward, TABLES, deadline).await {
        Err(error) if error.unsupported() => Vec::new(),
        chains => chains.map_err(Error::from)?,
    };
    let programs_there = programs.each_ref().map(Option::as_deref);
    host.drops.extend(chains.iter().filter_map(|one| Drops::of_nftables(one, programs_there)));
    // Our own jump comes first there, and decides.
    let own = match backend {
        Backend::Iptables { xtables, .. } => Some(xtables.chosen()),
        Backend::Nftables | Backend::None => None,
    };
    if let Some(xtables) = xtables.filter(|_| own != Some(Variant::Legacy)) {
        for version in [Version::V4, Version::V6] {
            let Some(program) = xtables.called(Variant::Legacy, version) else { continue };
            let saved = xtables.save(Variant::Legacy, version, deadline).await.map_err(Error::from)?;
            host.drops.extend(Drops::of_iptables(&program, version, &saved));
        }
    }
    if own == Some(Variant::Nft) {
        host.drops.retain(|drops| !programs.iter().flatten().any(|program| drops.is_of(program)));
    }
    // What the chains of a firewalld that runs do with a bridge is said by the zone that it is in.
    host.drops.retain(|drops| !(by_zone && drops.is_in_table(FIREWALLD)));
    Ok(obstacles(&host, networks))
}
