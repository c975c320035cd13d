//! Plugging an endpoint in.

use std::fmt;

use netloom_actor_network::{AttachEndpoint, Attachment, CommitAttachment, ProgramEndpoint, RevokeEndpoint};
use netloom_actor_services::SagaWorld;
use netloom_drivers::Interface;
use netloom_kernel::{Netns, Op};
use netloom_model::record::SandboxRecord;
use netloom_model::{Certainty, EndpointId, Error, JoinId, NamespaceSpec, NetworkId, Reason, Result};
use netloom_runtime::{OpCtx, Saga};
use netloom_store::Change;

use super::port::Untold;
use super::{Undone, World, files, names, port, record_of, way_out};
use crate::gateway::elect;
use crate::inside::Inside;
use crate::member::Member;
use crate::message::JoinSandbox;
use crate::turns::Kind;

/// What came of a join.
#[derive(Debug)]
pub(crate) struct Joined {
    /// The sandbox as it is now.
    pub(crate) inside: Box<Inside>,
    /// The newcomer.
    pub(crate) endpoint: EndpointId,
}

/// How many names of interfaces are tried: one may be in use by what the container made itself, or by the
/// remains of an earlier join that the kernel has not let go of yet.
const NAMES: u32 = 16;

/// Plugs an endpoint in under the first name that is free.
pub(crate) async fn join(
    world: World,
    op: OpCtx,
    mut inside: Box<Inside>,
    command: JoinSandbox,
) -> Result<Joined> {
    for _ in 1..NAMES {
        match try_join(&world, &op, &inside, &command).await {
            Err(error) if is_name_taken(&error) => {
                tracing::info!(%error, "trying the next name");
                inside.record.interfaces += 1;
            }
            outcome => return outcome,
        }
    }
    try_join(&world, &op, &inside, &command).await
}

pub(super) fn is_name_taken(error: &Error) -> bool {
    matches!(error.reason(), Reason::LinkTaken { .. }) && error.certainty() == Certainty::Aborted
}

/// Has the network make the link, and that of a way out if none is there, sets up what came in, moves the
/// default route if a newcomer wins the election, and commits.
async fn try_join(world: &World, op: &OpCtx, before: &Inside, command: &JoinSandbox) -> Result<Joined> {
    let JoinSandbox { endpoint, network, spec, .. } = *command;
    let sandbox = world.sandbox;
    let object =
        fmt::from_fn(move |f| write!(f, "endpoint {} to sandbox {}", endpoint.short(), sandbox.short()));
    let joined = world.saga(op, "join_sandbox", object, async |saga| {
        let mut inside = Box::new(before.clone());
        // One for which a place was kept takes it.
        inside.members.retain(|member| member.endpoint != endpoint);
        let plug = Plug { network, endpoint, priority: spec.priority, as_way_out: false };
        let mut newcomers = vec![attach(saga, world, op, &mut inside, plug).await?];
        if let Some(offer) = &command.way_out
            && inside.lacks_way_out()
        {
            newcomers.push(way_out::attach(saga, world, op, &mut inside, offer).await?);
        }
        inside.gateways = elect(&inside.members);
        for newcomer in &newcomers {
            if let Interface::Move { from } = newcomer.interface {
                move_in(saga, world, op, from, newcomer.member(&inside)?).await?;
            }
        }
        let asked = names::ask(saga, world, op, before, &inside).await?;
        let ops = set_up(world, &newcomers, before, &inside)?;
        let back = inside.gateways.change(before.gateways, world.netns);
        let step = ("set it up inside", Undone::Plumbing(back));
        files::beside(saga, (world, op), (before, &inside), step, world.execute(op, ops)).await?;
        hand_over(saga, world, op, before, &inside).await?;

        for newcomer in newcomers.iter().rev() {
            let commit = async { newcomer.commit(world, op, &inside.record).await.map_err(forgotten) };
            let commit = saga.step("commit", None, commit);
            let opened =
                op.unless_cancelled(port::opened(world, op, newcomer.untold(&inside)?, &newcomer.interface));
            futures::try_join!(commit, async { Ok(opened.await) })?;
        }
        names::heard(op, asked).await;
        Ok(Joined { inside, endpoint })
    });
    let mut joined = joined.await?;
    // A newcomer with a way out of its own makes the one for those without superfluous.
    way_out::drop_if_needless(world, op, &mut joined.inside).await;
    Ok(joined)
}

/// An endpoint that is to be plugged in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plug {
    pub(super) network: NetworkId,
    pub(super) endpoint: EndpointId,
    pub(super) priority: i32,
    pub(super) as_way_out: bool,
}

/// One whose link is there.
#[derive(Debug)]
pub(super) struct Newcomer {
    network: NetworkId,
    endpoint: EndpointId,
    join: JoinId,
    pub(super) interface: Interface,
    ipv4_settled: bool,
}

impl Newcomer {
    fn member<'a>(&self, inside: &'a Inside) -> Result<&'a Member> {
        let own = inside.members.iter().find(|member| member.endpoint == self.endpoint);
        own.ok_or_else(|| Error::internal("a newcomer is not inside"))
    }

    /// What its neighbours have to be told.
    pub(super) fn untold(&self, inside: &Inside) -> Result<Untold> {
        let Member { ifname: link, ipv4, ipv6, .. } = *self.member(inside)?;
        Ok(Untold { link, ipv4: ipv4.is_some() && !self.ipv4_settled, ipv6: ipv6.is_some() })
    }

    /// Makes its attachment durable, and with it the number of the sandbox's next interface.
    pub(super) fn commit(
        &self,
        world: &World,
        op: &OpCtx,
        record: &SandboxRecord,
    ) -> impl Future<Output = Result<()>> {
        let (endpoint, join) = (self.endpoint, self.join);
        let commit = record_of(record).map(|beside: Change| {
            world.ask_network(op, self.network, CommitAttachment { endpoint, join, beside: Some(beside) })
        });
        async move { commit?.await }
    }
}

/// Has a network make the link of an endpoint, or only keep a place for it while the sandbox waits.
pub(super) async fn attach(
    saga: &mut Saga<Undone>,
    world: &World,
    op: &OpCtx,
    inside: &mut Inside,
    Plug { network, endpoint, priority, as_way_out }: Plug,
) -> Result<Newcomer> {
    let join = world.services.joins.next();
    let waiting = inside.waiting;
    let attach = AttachEndpoint {
        endpoint,
        sandbox: world.sandbox,
        join,
        netns: (!waiting).then_some(world.netns),
        index: inside.record.interfaces,
        priority,
        as_way_out,
        options: inside.options.clone(),
    };
    let undo = Undone::Attachment(network, endpoint, join);
    let attachment = saga.step("attach", undo, world.ask_network(op, network, attach)).await?;
    let mut member = Member::attached(endpoint, network, priority, &attachment);
    member.reserved = waiting;
    if world.netns == Netns::Host {
        member = member.on_host();
    }
    // What brings no interface takes no number from those that do.
    if waiting || attachment.interface != Interface::None {
        inside.record.interfaces += 1;
    }
    // Most sandboxes have one member, and there are many sandboxes.
    inside.members.reserve_exact(1);
    inside.members.push(member);
    let Attachment { interface, ipv4_settled, .. } = attachment;
    Ok(Newcomer { network, endpoint, join, interface, ipv4_settled })
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

/// Everything inside the namespace, in one send, but for what has to be switched on before it.
///
/// An interface without an IPv6 address has no IPv6 at all, as in moby: it would ask for routers and tell of groups as
/// long as it is there, and every other container of its network would have to look at that.
pub(super) fn set_up(
    world: &World,
    newcomers: &[Newcomer],
    before: &Inside,
    after: &Inside,
) -> Result<Vec<Op>> {
    let netns = world.netns;
    let (mut switches, mut ops) = (Vec::new(), Vec::new());
    for newcomer in newcomers.iter().filter(|newcomer| newcomer.interface != Interface::None) {
        let member = newcomer.member(after)?;
        let link = member.ifname;
        // In a namespace that the engine made IPv6 is off already.
        if member.ipv6.is_some() || after.record.spec.namespace == NamespaceSpec::External {
            let value = if member.ipv6.is_some() { "0" } else { "1" };
            let key = format!("ipv6/conf/{link}/disable_ipv6");
            switches.push(Op::Sysctl { netns, key, value: value.into() });
        }
        ops.push(Op::SetLink { netns, name: link, up: true });
        ops.extend(member.addresses().map(|address| Op::AddAddress { netns, link, address }));
        ops.extend(member.static_routes().map(|route| Op::AddRoute { netns, route }));
    }
    ops.extend(before.gateways.change(after.gateways, netns));
    // Most have nothing to switch.
    switches.append(&mut ops);
    Ok(switches)
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
pub(super) async fn hand_over(
    saga: &mut Saga<Undone>,
    world: &World,
    op: &OpCtx,
    before: &Inside,
    after: &Inside,
) -> Result<()> {
    let (old, new) = (before.gateways.provider(), after.gateways.provider());
    if old == new {
        return Ok(());
    }
    let turn = world.turns.begin(Kind::Provider);
    let network_of =
        |id| after.members.iter().find(|member| Some(member.endpoint) == id).map(|member| member.network);
    if let (Some(endpoint), Some(network)) = (old, network_of(old)) {
        let undo = Undone::LostConnectivity(network, endpoint, after.options.clone()).unless_later(turn);
        let revoke = world.ask_network(op, network, RevokeEndpoint(endpoint, world.sandbox));
        saga.step("revoke the old way out", undo, revoke).await?;
    }
    if let (Some(endpoint), Some(network)) = (new, network_of(new)) {
        let undo = Undone::Connectivity(network, endpoint).unless_later(turn);
        let (sandbox, options) = (world.sandbox, after.options.clone());
        let program =
            world.ask_network(op, network, ProgramEndpoint { endpoint, sandbox, options, again: false });
        saga.step("program the new way out", undo, async { program.await.map_err(forgotten) }).await?;
    }
    Ok(())
}
