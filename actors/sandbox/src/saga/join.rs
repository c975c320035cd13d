//! Plugging an endpoint in.

use std::collections::BTreeMap;

use netloom_actor_network::{AttachEndpoint, Attachment, CommitAttachment, ProgramEndpoint, RevokeEndpoint};
use netloom_drivers::Interface;
use netloom_kernel::{Netns, Op, Route};
use netloom_model::{Error, Reason, Result};
use netloom_runtime::{OpCtx, Saga};

use super::{Undone, World};
use crate::gateway::{Gateways, elect};
use crate::member::Member;
use crate::message::JoinSandbox;

/// What the sandbox has decided about a join before it begins.
#[derive(Clone, Debug)]
pub(crate) struct JoinPlan {
    pub(crate) command: JoinSandbox,
    pub(crate) index: u32,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) members: Vec<Member>,
    pub(crate) gateways: Gateways,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) member: Member,
    pub(crate) gateways: Gateways,
}

/// Has the network make the link, sets it up inside, moves the default route if the newcomer wins the
/// election, and commits.
pub(crate) async fn join(world: World, op: OpCtx, plan: JoinPlan) -> Result<Joined> {
    let JoinSandbox { endpoint, network, spec } = plan.command;
    let object = format!("endpoint {} to sandbox {}", endpoint.short(), world.sandbox.short());
    let joined = world.saga(&op, "join_sandbox", object, async |saga| {
        let attach = AttachEndpoint {
            endpoint,
            sandbox: world.sandbox,
            netns: world.netns,
            index: plan.index,
            priority: spec.priority,
            labels: plan.labels.clone(),
        };
        let undo = Undone::Attachment(network, endpoint, plan.index);
        let attachment = saga.step("attach", undo, world.ask_network(&op, network, attach)).await?;
        let member = Member::attached(endpoint, network, spec.priority, &attachment);
        let mut members = plan.members.clone();
        members.push(member.clone());
        let gateways = elect(&members);

        if let Interface::Move { from } = attachment.interface {
            move_in(saga, &world, &op, from, &member).await?;
        }
        let ops = set_up(&world, &attachment, &member, plan.gateways, gateways);
        let back = gateways.change(plan.gateways, world.netns);
        saga.step("set it up inside", Undone::Plumbing(back), world.execute(&op, ops)).await?;
        hand_over(saga, &world, &op, &plan, &members, gateways).await?;

        let commit = world.ask_network(&op, network, CommitAttachment(endpoint, world.sandbox));
        saga.step("commit", None, async { commit.await.map_err(forgotten) }).await?;
        Ok(Joined { member, gateways })
    });
    joined.await
}

/// A network that was restarted after it made the link knows nothing of the attachment. To the caller that
/// is the death of the network on the way, not a mistake of its own.
fn forgotten(error: Error) -> Error {
    match error.reason() {
        Reason::NotJoined { .. } | Reason::WrongPhase { .. } => {
            Reason::Gone { who: "the network".into() }.into()
        }
        _ => error,
    }
}

/// Everything inside the namespace, in one send.
fn set_up(
    world: &World,
    attachment: &Attachment,
    member: &Member,
    before: Gateways,
    after: Gateways,
) -> Vec<Op> {
    if attachment.interface == Interface::None {
        return Vec::new();
    }
    let (netns, link) = (world.netns, member.ifname);
    let mut ops = vec![Op::SetLink { netns, name: link, up: true }];
    ops.extend(member.addresses().map(|address| Op::AddAddress { netns, link, address }));
    ops.extend(attachment.routes.iter().map(|route| {
        let route = Route { destination: route.destination, via: route.via, link };
        Op::AddRoute { netns, route }
    }));
    ops.extend(before.change(after, netns));
    ops
}

/// A driver that made the link outside leaves it to the sandbox to move it in.
async fn move_in(
    saga: &mut Saga<Undone>,
    world: &World,
    op: &OpCtx,
    from: netloom_model::IfName,
    member: &Member,
) -> Result<()> {
    let (netns, name) = (world.netns, member.ifname);
    let there = Op::MoveLink { from: Netns::Host, name: from, to: netns, rename: name };
    let back = Op::MoveLink { from: netns, name, to: Netns::Host, rename: from };
    saga.step("move the link in", Undone::Plumbing(vec![back]), world.execute(op, vec![there])).await
}

/// Takes the way in from outside away from the old provider and gives it to the new one.
async fn hand_over(
    saga: &mut Saga<Undone>,
    world: &World,
    op: &OpCtx,
    plan: &JoinPlan,
    members: &[Member],
    after: Gateways,
) -> Result<()> {
    let (old, new) = (plan.gateways.provider(), after.provider());
    if old == new {
        return Ok(());
    }
    let network_of =
        |id| members.iter().find(|member| Some(member.endpoint) == id).map(|member| member.network);
    if let (Some(endpoint), Some(network)) = (old, network_of(old)) {
        let undo = Undone::LostConnectivity(network, endpoint, plan.labels.clone());
        let revoke = world.ask_network(op, network, RevokeEndpoint(endpoint));
        saga.step("revoke the old way out", undo, revoke).await?;
    }
    if let (Some(endpoint), Some(network)) = (new, network_of(new)) {
        let undo = Undone::Connectivity(network, endpoint);
        let program = world.ask_network(op, network, ProgramEndpoint(endpoint, plan.labels.clone()));
        saga.step("program the new way out", undo, async { program.await.map_err(forgotten) }).await?;
    }
    Ok(())
}
