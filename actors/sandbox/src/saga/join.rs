//! Plugging an endpoint in.

use std::fmt;

use netloom_actor_network::{AttachEndpoint, Attachment, CommitAttachment, ProgramEndpoint, RevokeEndpoint};
use netloom_actor_services::SagaWorld;
use netloom_drivers::Interface;
use netloom_kernel::{Netns, Op, Route};
use netloom_model::record::SandboxRecord;
use netloom_model::{Certainty, Error, Reason, Result};
use netloom_runtime::{OpCtx, Saga};

use super::{Undone, World, port, record_of};
use crate::gateway::{Gateways, elect};
use crate::member::Member;
use crate::message::JoinSandbox;

/// What the sandbox has decided about a join before it begins.
#[derive(Clone, Debug)]
pub(crate) struct JoinPlan {
    pub(crate) command: JoinSandbox,
    /// Its record as it is; the number of the next interface is in it.
    pub(crate) record: SandboxRecord,
    pub(crate) members: Vec<Member>,
    pub(crate) gateways: Gateways,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) member: Member,
    pub(crate) gateways: Gateways,
    /// The number of the next interface.
    pub(crate) interfaces: u32,
}

/// How many names of interfaces are tried: one may be in use by what the container made itself, or by the
/// remains of an earlier join that the kernel has not let go of yet.
const NAMES: u32 = 16;

/// Plugs an endpoint in under the first name that is free.
pub(crate) async fn join(world: World, op: OpCtx, mut plan: Box<JoinPlan>) -> Result<Joined> {
    for _ in 1..NAMES {
        match try_join(&world, &op, &plan).await {
            Err(error) if is_name_taken(&error) => {
                tracing::info!(%error, "trying the next name");
                plan.record.interfaces += 1;
            }
            outcome => return outcome,
        }
    }
    try_join(&world, &op, &plan).await
}

fn is_name_taken(error: &Error) -> bool {
    matches!(error.reason(), Reason::LinkTaken { .. }) && error.certainty() == Certainty::Aborted
}

/// Has the network make the link, sets it up inside, moves the default route if the newcomer wins the
/// election, and commits.
async fn try_join(world: &World, op: &OpCtx, plan: &JoinPlan) -> Result<Joined> {
    let JoinSandbox { endpoint, network, spec } = plan.command;
    let sandbox = world.sandbox;
    let object =
        fmt::from_fn(move |f| write!(f, "endpoint {} to sandbox {}", endpoint.short(), sandbox.short()));
    let join = world.services.joins.next();
    let joined = world.saga(op, "join_sandbox", object, async |saga| {
        let attach = AttachEndpoint {
            endpoint,
            sandbox: world.sandbox,
            join,
            netns: world.netns,
            index: plan.record.interfaces,
            priority: spec.priority,
            labels: plan.record.spec.labels.clone(),
        };
        let undo = Undone::Attachment(network, endpoint, join);
        let attachment = saga.step("attach", undo, world.ask_network(op, network, attach)).await?;
        let member = Member::attached(endpoint, network, spec.priority, &attachment);
        let mut members = plan.members.clone();
        members.push(member.clone());
        let gateways = elect(&members);

        if let Interface::Move { from } = attachment.interface {
            move_in(saga, world, op, from, &member).await?;
        }
        let ops = set_up(world, &attachment, &member, plan.gateways, gateways);
        let back = gateways.change(plan.gateways, world.netns);
        saga.step("set it up inside", Undone::Plumbing(back), world.execute(op, ops)).await?;
        hand_over(saga, world, op, plan, &members, gateways).await?;

        let interfaces = plan.record.interfaces + 1;
        let beside = record_of(&SandboxRecord { interfaces, ..plan.record.clone() })?;
        let commit = world.ask_network(op, network, CommitAttachment { endpoint, join, beside });
        let commit = saga.step("commit", None, async { commit.await.map_err(forgotten) });
        let opened = op.unless_cancelled(port::opened(world, op, &attachment.interface));
        futures::try_join!(commit, async { Ok(opened.await) })?;
        Ok(Joined { member, gateways, interfaces })
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
    // Looked at before: Linux moves a link first and then finds that it cannot have the name.
    let found = world.services.kernel.find_links(netns, vec![name], op.deadline_std()).await?;
    if found.iter().any(Option::is_some) {
        let why = format!("{netns} has a link of this name");
        return Err(Reason::LinkTaken { ifname: name, why }.into());
    }
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
        let undo = Undone::LostConnectivity(network, endpoint, plan.record.spec.labels.clone());
        let revoke = world.ask_network(op, network, RevokeEndpoint(endpoint, world.sandbox));
        saga.step("revoke the old way out", undo, revoke).await?;
    }
    if let (Some(endpoint), Some(network)) = (new, network_of(new)) {
        let undo = Undone::Connectivity(network, endpoint);
        let labels = plan.record.spec.labels.clone();
        let program = world.ask_network(op, network, ProgramEndpoint(endpoint, world.sandbox, labels));
        saga.step("program the new way out", undo, async { program.await.map_err(forgotten) }).await?;
    }
    Ok(())
}
