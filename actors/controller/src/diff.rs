//! What the kernel has against what it should have: asked of everybody who answers for something, and looked at.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt, stream};
use netloom_actor_network::{DesireNetwork, NetworkDesire};
use netloom_actor_sandbox::{DesireSandbox, SandboxDesire};
use netloom_actor_services::firewall::CompareRules;
use netloom_actor_services::ports::{ListPorts, PortsOf, UnheldPort};
use netloom_actor_services::{Outcome, Services, answered};
use netloom_drivers::{DesiredObject, KernelObject, Place};
use netloom_firewall::{Deviates, Deviation, Owner};
use netloom_kernel::{Kernel, KernelError, LinkTag, Netns};
use netloom_model::{Holder, Stray};
use netloom_runtime::{Addr, AskError, Handle};

use super::owners::{ENDPOINT, owners, strays};
use super::*;
use crate::difference::{Difference, Picture, Seen, Subject, Wanted, What, compare};
use crate::message::{Diff, Owners};

/// How many namespaces are looked into at a time.
const LOOKS_AT_A_TIME: usize = 64;

impl Handle<Diff> for ControllerActor {
    fn handle(&mut self, op: OpCtx, _: Diff, reply: Reply<Result<Vec<Difference>>>, cx: &mut Cx<'_, Self>) {
        let (services, me, own) = (self.estate.services.clone(), cx.me(), op.clone());
        let work = async move {
            let mut found = look(&services, &me, &own).await?;
            if !found.is_empty() {
                // What was on its way somewhere is there now, or is under way again: then it is not told.
                let second = look(&services, &me, &own).await?;
                found.retain(|difference| second.contains(difference));
            }
            Ok(found)
        };
        self.serve(&op, reply, work, cx);
    }
}

/// One look. Owners are asked before and after the kernel, and only what all of them want in both moments, with nothing
/// under way, is compared.
async fn look(
    services: &Services,
    controller: &Addr<ControllerActor>,
    op: &OpCtx,
) -> Result<Vec<Difference>> {
    let before = wanted(controller, op).await?;
    let seen = see(&*services.kernel, &before, op).await?;
    let (strays, _) = strays(services, controller, op).await?;
    let after = wanted(controller, op).await?;
    let mut all = after.clone();
    all.extend(before.iter().map(|(object, how)| (*object, how.clone())));
    let judged = |object: &KernelObject| {
        let both = before.get(object).zip(after.get(object));
        both.is_some_and(|(before, after)| before == after)
    };
    let mut found = compare(&all, judged, &seen);
    found.extend(strays.iter().map(nobodys));
    found.extend(outside(services, &all, op).await?);
    found.sort_by(|a, b| a.object.cmp(&b.object));
    Ok(found)
}

/// A stray as a difference: by its mark, or by its name, it belongs to an object that does not exist.
fn nobodys((stray, link): (&Stray, &Option<(u32, LinkTag)>)) -> Difference {
    let (object, owner) = match *stray {
        Stray::Namespace(name) => {
            (KernelObject::Namespace { name }, Holder::new(ObjectKind::Sandbox, name, ""))
        }
        Stray::Link(name) => {
            let tag = link.as_ref().map(|(_, tag)| tag);
            let kind = if tag.is_some_and(|tag| tag.kind == ENDPOINT) {
                ObjectKind::Endpoint
            } else {
                ObjectKind::Network
            };
            let id = tag.map(|tag| tag.id.as_str()).unwrap_or_default();
            (KernelObject::Link { netns: Netns::Host, name }, Holder::new(kind, id, ""))
        }
    };
    Difference { object: object.into(), what: What::Unexpected, owner }
}

/// What of the host's firewall and its ports is not as it should be. Their services know what is wanted; one that is out of
/// service says nothing.
async fn outside(services: &Services, wanted: &Wanted, op: &OpCtx) -> Result<Vec<Difference>> {
    let rules = services.firewall.outcome(op, CompareRules).await;
    let ports = services.ports.outcome(op, ListPorts).await;
    // Owners have names if anything else of theirs is wanted.
    let owners: HashMap<_, _> =
        wanted.values().map(|(_, owner)| ((owner.object, owner.id.as_str()), owner)).collect();
    let named = |object: ObjectKind, id: String| {
        let known = owners.get(&(object, id.as_str())).copied().cloned();
        known.unwrap_or_else(|| Holder::new(object, id, ""))
    };
    let mut found = Vec::new();
    for Deviation { object, what, owners } in served(op, "the firewall", rules)?.unwrap_or_default() {
        let what = match what {
            Deviates::Missing => What::Missing,
            Deviates::Unexpected => What::Unexpected,
            Deviates::Different { desired, found } => What::Different { desired, found },
        };
        let owner = owners.first().map_or_else(
            || Holder::new(ObjectKind::Controller, &services.instance, ""),
            |owner| match owner {
                Owner::Network(id) => named(ObjectKind::Network, id.to_string()),
                Owner::Endpoint(id) => named(ObjectKind::Endpoint, id.to_string()),
            },
        );
        found.push(Difference { object: Subject::Firewall { rule: object }, what, owner });
    }
    for PortsOf { holder: owner, leaving, unheld, .. } in
        served(op, "the ports service", ports.map(Ok))?.unwrap_or_default()
    {
        // One that is on its way away need not be held.
        for UnheldPort { port, why } in unheld.into_iter().filter(|_| !leaving) {
            let (desired, is) = ("held".to_owned(), format!("not held ({why})"));
            let (object, what) = (Subject::Port { port }, What::Different { desired, found: is });
            found.push(Difference { object, what, owner: owner.clone() });
        }
    }
    Ok(found)
}

/// A service's answer; `None` while there is nobody to give one.
fn served<T>(op: &OpCtx, who: &'static str, outcome: Outcome<T>) -> Result<Option<T>> {
    match outcome {
        Err(AskError::Gone) => Ok(None),
        outcome => answered(op, who, outcome).map(Some),
    }
}

/// What everybody wants. Who is out of service, or has something under way, wants nothing at this moment.
async fn wanted(controller: &Addr<ControllerActor>, op: &OpCtx) -> Result<Wanted> {
    let Owners { networks, sandboxes } = owners(op, controller).await?;
    let asked = sandboxes.iter().map(|sandbox| sandbox.addr.ask(op, DesireSandbox));
    let mut all = Wanted::new();
    let mut places: HashMap<NetworkId, Vec<Place>> = HashMap::new();
    for SandboxDesire { objects, places: inside } in join_all(asked).await.into_iter().flatten() {
        objects.into_iter().for_each(|object| want(&mut all, object));
        for (network, place) in inside {
            places.entry(network).or_default().push(place);
        }
    }
    let asked = networks.into_iter().map(|(id, addr)| {
        let joined = places.remove(&id).unwrap_or_default();
        addr.ask(op, DesireNetwork(joined))
    });
    let asked: Vec<_> = asked.collect();
    for NetworkDesire { objects } in join_all(asked).await.into_iter().flatten() {
        objects.into_iter().for_each(|object| want(&mut all, object));
    }
    Ok(all)
}

fn want(all: &mut Wanted, (DesiredObject { object, link, .. }, owner): (DesiredObject, Holder)) {
    let wanted = match all.remove(&object) {
        Some((known, owner)) => (known.or(link), owner),
        None => (link, owner),
    };
    all.insert(object, wanted);
}

/// Looks at everything that is wanted.
async fn see(kernel: &dyn Kernel, wanted: &Wanted, op: &OpCtx) -> Result<Seen> {
    let namespaces: BTreeSet<_> = kernel.namespaces(op.deadline_std()).await?.into_iter().collect();
    let mut with_neighbours: BTreeMap<Netns, bool> = BTreeMap::new();
    for object in wanted.keys() {
        let Some(netns) = object.netns() else { continue };
        let neighbours = with_neighbours.entry(netns).or_default();
        *neighbours |= matches!(object, KernelObject::Neighbour { .. });
    }
    let there = |netns: &Netns| match netns {
        Netns::Host => true,
        Netns::Named(name) => namespaces.contains(name),
    };
    let looks =
        with_neighbours.into_iter().filter(|(netns, _)| there(netns)).map(async |(netns, neighbours)| {
            match picture(kernel, netns, neighbours, op).await {
                Ok(picture) => Ok(Some((netns, picture))),
                // It went meanwhile.
                Err(error) if error.already_gone() => Ok(None),
                Err(error) => Err(Error::from(error)),
            }
        });
    let looks = stream::iter(looks).buffer_unordered(LOOKS_AT_A_TIME);
    let inside: Vec<_> = looks.try_collect().await?;
    Ok(Seen { namespaces, inside: inside.into_iter().flatten().collect() })
}

async fn picture(
    kernel: &dyn Kernel,
    netns: Netns,
    neighbours: bool,
    op: &OpCtx,
) -> Result<Picture, KernelError> {
    let deadline = op.deadline_std();
    Ok(Picture {
        links: kernel.links(netns, deadline).await?,
        addresses: kernel.addresses(netns, deadline).await?,
        routes: kernel.routes(netns, deadline).await?,
        neighbours: if neighbours { kernel.neighbours(netns, deadline).await? } else { Vec::new() },
    })
}
