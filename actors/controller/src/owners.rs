//! What of the kernel belongs to whom: asked of those who answer for it. Behind reconciliations and differences.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::future::join_all;
use netloom_actor_network::{EndpointLink, ListLinks};
use netloom_actor_services::{Services, answered};
use netloom_kernel::{LinkTag, Netns};
use netloom_model::{EndpointId, IfName, Left, NetworkId, Stray};
use netloom_runtime::{Addr, Handle};

use super::*;
use crate::message::{ListOwners, Owners, SandboxOwner};

/// Objects of the kernel that are the engine's own and that nobody answers for; a link with its number and its mark.
pub(super) type Strays = BTreeMap<Stray, Option<(u32, LinkTag)>>;

impl Handle<ListOwners> for ControllerActor {
    fn handle(&mut self, _: OpCtx, _: ListOwners, reply: Reply<Owners>, _: &mut Cx<'_, Self>) {
        let networks = self.estate.networks.iter().map(|(id, child)| (*id, child.running.addr.clone()));
        let sandboxes = self.estate.sandboxes.iter().map(|(id, child)| SandboxOwner {
            id: *id,
            container_id: child.container_id.clone(),
            born: child.born.filter(|_| child.state == State::Told),
            addr: child.running.addr.clone(),
        });
        reply.send(Owners { networks: networks.collect(), sandboxes: sandboxes.collect() });
    }
}

pub(super) async fn owners(op: &OpCtx, controller: &Addr<ControllerActor>) -> Result<Owners> {
    answered(op, "the controller", controller.ask(op, ListOwners).await.map(Ok))
}

/// Looks for strays: at the kernel first, then at those who answer for what is there. What is made between the two is
/// not seen, and what is being made is known to its owner before the kernel is asked for it. Whoever is started again
/// at this moment does not know all of that, so one look does not prove that something is nobody's.
///
/// # Errors
/// When the kernel or the controller does not answer. What could not be judged is told beside.
pub(super) async fn strays(
    services: &Services,
    controller: &Addr<ControllerActor>,
    op: &OpCtx,
) -> Result<(Strays, Vec<Left>)> {
    let deadline = op.deadline_std();
    let links = services.kernel.links(Netns::Host, deadline).await?;
    let namespaces = services.kernel.namespaces(deadline).await?;
    let Owners { networks, sandboxes } = owners(op, controller).await?;
    let known: BTreeSet<_> = sandboxes.iter().map(|sandbox| sandbox.id.short().to_string()).collect();
    let lost = namespaces.into_iter().filter(|netns| !known.contains(netns.as_str()));
    let mut strays: Strays = lost.map(|netns| (Stray::Namespace(netns), None)).collect();

    let asked = networks.iter().map(|(_, addr)| addr.ask(op, ListLinks));
    let answers = join_all(asked).await;
    let silent: Vec<_> =
        networks.iter().zip(&answers).filter(|(_, answer)| answer.is_err()).map(|((id, _), _)| *id).collect();
    let links_of: HashMap<_, _> =
        answers.into_iter().flatten().flatten().map(|link| (link.endpoint, link)).collect();
    let networks: BTreeSet<_> = networks.into_iter().map(|(id, _)| id).collect();
    let mut unjudged = Vec::new();
    for link in links {
        let Some(tag) = link.tag().filter(|tag| *tag.instance == *services.instance) else { continue };
        if is_owned(services, &tag, link.name, &networks, &links_of) {
            continue;
        }
        match silent.first() {
            Some(network) if tag.kind == ENDPOINT => {
                let why = format!("network {} does not answer, and may know it", network.short());
                unjudged.push(Left { object: Stray::Link(link.name).to_string(), why });
            }
            _ => drop(strays.insert(Stray::Link(link.name), Some((link.index, tag)))),
        }
    }
    Ok((strays, unjudged))
}

/// The kinds of marks on links that are built in.
pub(super) const NETWORK: &str = "network";
pub(super) const ENDPOINT: &str = "endpoint";

/// Whether somebody answers for a marked link: by having it, by being about to make or to remove it, or by seeing to
/// it that it goes.
fn is_owned(
    services: &Services,
    tag: &LinkTag,
    name: IfName,
    networks: &BTreeSet<NetworkId>,
    links: &HashMap<EndpointId, EndpointLink>,
) -> bool {
    match tag.kind.as_str() {
        NETWORK => {
            let id = tag.id.parse::<NetworkId>();
            id.is_ok_and(|id| networks.contains(&id) || services.removals.contains(id))
        }
        ENDPOINT => tag.id.parse::<EndpointId>().is_ok_and(|id| {
            let known = links.get(&id).is_some_and(|known| !known.settled || known.link == Some(name));
            known || services.quarantine.holds(id)
        }),
        // The mark of a driver that is not built in; its own business.
        _ => true,
    }
}
