//! The zone of the engine's bridges: made where it is missing, and filled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use netloom_model::IfName;
use netloom_model::snapshot::Obstacle;

use crate::{Answer, Firewalld, Request, Running, Trouble, code};

/// The zone that bridges are in. All engines of a host share it; each takes out only what it has put in.
pub const ZONE: &str = "netloom";
/// The policy that lets into the zone what comes from anywhere. What of it reaches containers, the engine's own rules say.
pub const POLICY: &str = "netloom-forwarding";

/// How long a question or a small change may take. A reload may take what is left of the whole.
const PATIENCE: Duration = Duration::from_secs(5);

/// What firewalld is to be made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wishes {
    /// Interfaces that have to be in the zone.
    pub bridges: BTreeSet<IfName>,
    /// Interfaces that have to leave it: those that this engine may have put there. Others are others'.
    pub gone: BTreeSet<IfName>,
    /// Whether firewalld may be reloaded, which it takes to bring a new zone into force.
    pub may_reload: bool,
}

/// What firewalld is now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settled {
    /// It; `None` when it is not there.
    pub running: Option<Running>,
    /// Bridges that are in the zone.
    pub placed: BTreeSet<IfName>,
    /// Bridges that somebody has put into another zone, where they are left.
    pub elsewhere: BTreeMap<IfName, String>,
    /// Bridges that firewalld did not take, or did not let go, and why.
    pub refused: BTreeMap<IfName, String>,
    /// It was reloaded for this.
    pub reloaded: bool,
}

/// Makes firewalld what is wished. Changes nothing where all is as it should be, and no configuration while there are no
/// bridges. Where firewalld is not there that is no trouble: whoever listens hears when it comes.
///
/// Unlike moby, which counts a zone of its configuration as one in force, this also reloads when somebody has made the
/// zone or the policy and it is not in force yet.
///
/// # Errors
/// [`Trouble`] that concerns more than one interface.
pub async fn settle(
    firewalld: &dyn Firewalld,
    wishes: &Wishes,
    deadline: Instant,
) -> Result<Settled, Trouble> {
    match settled(&Asking { firewalld, deadline }, wishes).await {
        // It may also have gone meanwhile.
        Err(Trouble::Away(_)) => Ok(Settled::default()),
        settled => settled,
    }
}

async fn settled(at: &Asking<'_>, wishes: &Wishes) -> Result<Settled, Trouble> {
    let Some(running) = at.running().await? else { return Ok(Settled::default()) };
    let mut settled = Settled { running: Some(running), ..Settled::default() };
    if wishes.bridges.is_empty() && wishes.gone.is_empty() {
        return Ok(settled);
    }
    if !wishes.bridges.is_empty() {
        settled.reloaded = at.prepare(wishes.may_reload).await?;
    }
    let there: BTreeSet<String> = match at.names(Request::Interfaces(ZONE)).await {
        Ok(names) => names.into_iter().collect(),
        Err(trouble) if trouble.is(code::INVALID_ZONE) && wishes.bridges.is_empty() => return Ok(settled),
        Err(trouble) => return Err(trouble),
    };
    for interface in wishes.gone.difference(&wishes.bridges).filter(|one| there.contains(one.as_str())) {
        match at.done(Request::RemoveInterface { zone: ZONE, interface: *interface }).await {
            Err(refused @ Trouble::Refused { .. })
                if !refused.is(code::UNKNOWN_INTERFACE) && !refused.is(code::ZONE_CONFLICT) =>
            {
                settled.refused.insert(*interface, refused.to_string());
            }
            Ok(()) | Err(Trouble::Refused { .. }) => {}
            Err(trouble) => return Err(trouble),
        }
    }
    for interface in &wishes.bridges {
        let added = match there.contains(interface.as_str()) {
            true => Ok(()),
            false => at.done(Request::AddInterface { zone: ZONE, interface: *interface }).await,
        };
        match added {
            Err(refused) if refused.is(code::ZONE_CONFLICT) => {
                let zone = at.names(Request::ZoneOf(*interface)).await?.pop();
                settled.elsewhere.insert(*interface, zone.unwrap_or_default());
            }
            Err(refused @ Trouble::Refused { .. }) if !refused.is(code::ZONE_ALREADY_SET) => {
                settled.refused.insert(*interface, refused.to_string());
            }
            Ok(()) | Err(Trouble::Refused { .. }) => {
                settled.placed.insert(*interface);
            }
            Err(trouble) => return Err(trouble),
        }
    }
    Ok(settled)
}

/// What stands in the way of the bridges' packets as far as firewalld goes.
#[must_use]
pub fn obstacles(settled: &Settled, unplaced: &BTreeSet<IfName>, trouble: Option<&str>) -> Vec<Obstacle> {
    let change = |bridge: &IfName| format!("firewall-cmd --zone={ZONE} --change-interface='{bridge}'");
    let mut all: Vec<_> = settled
        .elsewhere
        .iter()
        .map(|(bridge, zone)| Obstacle {
            name: format!("firewalld's zone of {bridge}"),
            what: format!(
                "{bridge} was put into zone {zone} of firewalld, where the engine leaves it: what that zone does not allow, \
                 containers on it do not reach, and nobody reaches their ports. In zone {ZONE} the engine's own rules \
                 decide."
            ),
            remedy: vec![change(bridge)],
        })
        .collect();
    all.extend(settled.refused.iter().map(|(bridge, why)| Obstacle {
        name: format!("firewalld's zone of {bridge}"),
        what: format!("{bridge} is not in zone {ZONE} of firewalld as it should be: {why}."),
        remedy: if unplaced.contains(bridge) { vec![change(bridge)] } else { Vec::new() },
    }));
    if let Some(trouble) = trouble.filter(|_| !unplaced.is_empty()) {
        let names = unplaced.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let mut remedy = vec![
            format!(
                "firewall-cmd --permanent --get-zones | grep -qw {ZONE} || firewall-cmd --permanent --new-zone={ZONE}"
            ),
            format!("firewall-cmd --permanent --zone={ZONE} --set-target=ACCEPT"),
            "firewall-cmd --reload".into(),
        ];
        remedy.extend(unplaced.iter().map(change));
        all.push(Obstacle {
            name: "firewalld".into(),
            what: format!(
                "{names}: not known to be in zone {ZONE} of firewalld, which rejects what is forwarded for interfaces of \
                 no zone that allows it. {trouble}. It is tried again."
            ),
            remedy,
        });
    }
    all
}

/// Whoever asks, and until when.
struct Asking<'a> {
    firewalld: &'a dyn Firewalld,
    deadline: Instant,
}

impl Asking<'_> {
    async fn ask(&self, request: Request) -> Result<Answer, Trouble> {
        let deadline = match request {
            Request::Reload => self.deadline,
            _ => self.deadline.min(Instant::now() + PATIENCE),
        };
        self.firewalld.call(request, deadline).await
    }

    async fn running(&self) -> Result<Option<Running>, Trouble> {
        match self.ask(Request::Running).await? {
            Answer::Running(running) => Ok(running),
            Answer::Done | Answer::Names(_) => Err(Trouble::Unclear(Request::Running)),
        }
    }

    async fn names(&self, request: Request) -> Result<Vec<String>, Trouble> {
        match self.ask(request.clone()).await? {
            Answer::Names(names) => Ok(names),
            Answer::Done | Answer::Running(_) => Err(Trouble::Unclear(request)),
        }
    }

    async fn done(&self, request: Request) -> Result<(), Trouble> {
        self.ask(request).await.map(drop)
    }

    /// Whether there is something of this name in force.
    async fn has(&self, list: Request, name: &str) -> Result<bool, Trouble> {
        Ok(self.names(list).await?.iter().any(|known| known == name))
    }

    /// Makes sure that zone and policy are in force: `true` when it took a reload.
    async fn prepare(&self, may_reload: bool) -> Result<bool, Trouble> {
        let zone = self.has(Request::Zones, ZONE).await?;
        let policy = match self.has(Request::Policies, POLICY).await {
            // It is older than policies. What its zones accept is forwarded to them too.
            Err(trouble) if trouble.is(code::UNKNOWN_METHOD) => true,
            policy => policy?,
        };
        for (there, add) in
            [(zone, Request::AddZone(ZONE)), (policy, Request::AddPolicy { policy: POLICY, zone: ZONE })]
        {
            match if there { Ok(()) } else { self.done(add).await } {
                // It waits for a reload.
                Err(trouble) if trouble.is(code::NAME_CONFLICT) => {}
                done => done?,
            }
        }
        if zone && policy {
            return Ok(false);
        }
        if !may_reload {
            return if zone { Ok(false) } else { Err(Trouble::Idle(ZONE)) };
        }
        self.done(Request::Reload).await?;
        if self.has(Request::Zones, ZONE).await? { Ok(true) } else { Err(Trouble::Idle(ZONE)) }
    }
}
