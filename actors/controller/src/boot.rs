//! The engine's start: records, kernel, repairs, then the actors from the lowest rank up.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::{FutureExt, StreamExt, stream};
use netloom_actor_sandbox::Member;
use netloom_actor_services::files::{FilesSource, FilesState, NameFiles, SweepFiles};
use netloom_actor_services::firewall::{Choice, EndRestore, FirewallState};
use netloom_actor_services::ipam::IpamRegistry;
use netloom_actor_services::names::{NamesState, Zones};
use netloom_actor_services::ports::{PortsState, dynamic_range};
use netloom_actor_services::store::{Backend, Commit, EndIntent};
use netloom_actor_services::{JoinIds, Kit, Quarantine, Removals, Services, ToldPorts, answered};
use netloom_dns::io::HostFile;
use netloom_drivers::{Driver, DriverConfig, Registration, bridge};
use netloom_firewall::TableConfig;
use netloom_firewall::io::Xtables;
use netloom_ipam::driver::IpamRegistration;
use netloom_kernel::{Kernel, Netns, Op};
use netloom_model::config::DefaultPool;
use netloom_model::record::{NetworkRecord, SandboxRecord};
use netloom_model::{
    ControllerId, EngineConfig, Error, EventKind, HostPorts, LiveList, NamespaceSpec, OpId, Repair, Result,
    SandboxId,
};
use netloom_runtime::{Addr, Cause, Janitor, Ledger, OpCtx, Port, SagaTools, TaskGroup};
use netloom_store::{Finding, Intent, Store};

use crate::actor::{ControllerActor, succession};
use crate::directory::Directory;
use crate::estate::{Estate, Neighbours, Respawn};
use crate::events::EventHub;
use crate::membership::{Entered, Membership};
use crate::message::{
    DeleteNetwork, LookAtHost, ReleaseSandbox, RestoreNetwork, RestoreSandbox, StartChildren, TakeDown,
};
use crate::rebuild;
use crate::reconcile::{self, Inventory, Plan, Records};

/// How long a start waits for the kernel to let go of what belongs to nobody.
const STRAYS: Duration = Duration::from_secs(1);

/// How long a start waits to know what its firewall can be said to.
const PROBE: Duration = Duration::from_secs(5);

/// How long a start waits to know what the host uses.
const LOOK: Duration = Duration::from_secs(1);

/// Everything an engine is started from.
pub struct BootInput {
    /// Its configuration, validated.
    pub config: EngineConfig,
    /// What its kernel objects are marked with: unlike that of any other engine whose objects may be in the
    /// same kernel.
    pub identity: String,
    /// What tells the engine from all others, if its kernel's directories know. Where they do not, its store does.
    pub engine: Option<ControllerId>,
    /// The IPv6 pools of this host, for networks that name none.
    pub host_pools: DefaultPool,
    /// The kernel.
    pub kernel: Arc<dyn Kernel>,
    /// Where the files of names of sandboxes are; nowhere in most simulations.
    pub files: Option<FilesSource>,
    /// What else there is on the host that has to do with packets.
    pub neighbours: Neighbours,
    /// The store, opened.
    pub store: Box<dyn Store>,
    /// Whether the store blocks, and so needs a thread of its own.
    pub store_blocks: bool,
    /// What was found when it was opened.
    pub findings: Vec<Finding>,
    /// Whether there were no records although the engine ran before.
    pub missing: bool,
    /// The drivers.
    pub drivers: Vec<Registration>,
    /// The IPAM drivers beside those that every engine has.
    pub ipam_drivers: Vec<IpamRegistration>,
    /// The cluster that the engine is part of.
    pub cluster: Option<Membership>,
    /// What lives, if the embedder says so. Otherwise everything that stands does.
    pub live: Option<LiveList>,
    /// Where events go.
    pub events: EventHub,
}

impl fmt::Debug for BootInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootInput").field("config", &self.config).finish_non_exhaustive()
    }
}

/// An engine that runs.
#[derive(Debug)]
pub struct Booted {
    /// What is where.
    pub directory: Directory,
    /// This start, unlike all others.
    pub engine: OpId,
    /// Operations in flight.
    pub ledger: Ledger,
    /// What had to be put right.
    pub repairs: Vec<Repair>,
}

/// Starts an engine on this engine thread.
///
/// # Errors
/// When the store cannot be read or the kernel does not answer. A single object that cannot be restored
/// does not fail the start: it is out of service, visibly.
pub async fn boot(input: BootInput) -> Result<Booted> {
    let BootInput {
        config,
        identity,
        engine,
        host_pools,
        kernel,
        files,
        neighbours,
        mut store,
        store_blocks,
        findings,
        missing,
        drivers,
        ipam_drivers,
        cluster,
        live,
        events,
    } = input;
    cluster.iter().try_for_each(Membership::validate)?;
    let op = OpCtx::new(Cause::Start, config.timeouts.operation.max(Duration::from_secs(60)));
    // No actor runs yet on this thread, so reading the store blocks nobody.
    let raw = store.load().map_err(Error::from)?;
    let cluster = match cluster {
        Some(cluster) => Some(cluster.enter(engine, &raw, &mut *store, OpId(op.id)).await?),
        None => None,
    };
    let intents = store.open_intents().map_err(Error::from)?;
    let lost = missing || !findings.is_empty();
    let made = drivers.iter().map(|registration| {
        let config = DriverConfig::of(&registration.kind, &config);
        registration.make(&config).map(|(driver, _)| driver)
    });
    let made: Vec<_> = made.collect::<Result<_>>()?;
    let known = Known { records: Records::decode(raw), lost, intents, live };
    let published = known.records.published();
    let plan = make_plan(&*kernel, known, &identity, &made, &op).await?;

    let wall = wall(&config, &*kernel, neighbours.xtables.as_ref(), &op).await?;
    let backend = if store_blocks {
        Backend::threaded(store)
            .map_err(|error| Error::internal(format!("cannot start the store's thread: {error}")))?
    } else {
        Backend::in_place(store)
    };
    let own = Own { config, identity: &identity, host_pools, cluster, wall, neighbours, published, files };
    let drivers = (drivers, ipam_drivers);
    let (controller, services, directory) = start_actors(own, kernel, backend, drivers, &events, &op).await?;

    let mut repairs: Vec<_> = findings.into_iter().map(set_aside).collect();
    repairs.extend(missing.then_some(Repair::StoreMissing));
    repairs.extend(apply(&controller, &services, plan, &op).await?);
    // So that what overlaps is seen at once. Whatever fails is tried again behind the start's back.
    let looked = controller.ask(&op.renewed(LOOK), LookAtHost).await;
    if looked.is_err() {
        tracing::warn!("the host takes its time to say what it uses");
    }
    for repair in &repairs {
        tracing::warn!(%repair, "repaired at start");
        events.emit(&op, EventKind::Repaired(repair.clone()));
    }
    let ledger = services.tools.ledger.clone();
    Ok(Booted { directory, engine: OpId(op.id), ledger, repairs })
}

fn set_aside(finding: Finding) -> Repair {
    Repair::StoreSetAside { path: finding.path.display().to_string(), why: finding.why }
}

/// Where the numbers of joins begin: the random end of a time-ordered uuid.
fn seed(op: &OpCtx) -> u32 {
    let [.., a, b, c, d] = *op.id.as_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// What a start knows before it looks at the kernel.
struct Known {
    records: Records,
    /// Whether records are missing.
    lost: bool,
    intents: Vec<Intent>,
    live: Option<LiveList>,
}

async fn make_plan(
    kernel: &dyn Kernel,
    Known { records, lost, intents, live }: Known,
    identity: &str,
    drivers: &[Box<dyn Driver>],
    op: &OpCtx,
) -> Result<Plan> {
    let deadline = op.deadline_std();
    let links = kernel.links(Netns::Host, deadline).await?;
    let namespaces = kernel.namespaces(deadline).await?;
    let mut inventory = Inventory { links, namespaces, live, ..Inventory::default() };
    if lost || records.damaged() {
        // With a time of its own: there may be many to look into.
        let own = op.renewed(op.allowed);
        let (survey, unseen) = rebuild::survey(kernel, &records, &inventory, &own).await?;
        (inventory.survey, inventory.unseen) = (Some(survey), unseen);
    }
    Ok(reconcile::plan(records, &intents, &inventory, identity, drivers))
}

/// What an engine is apart from others.
struct Own<'a> {
    config: EngineConfig,
    identity: &'a str,
    host_pools: DefaultPool,
    cluster: Option<Entered>,
    wall: FirewallState,
    neighbours: Neighbours,
    /// The ports of the host that records name.
    published: Vec<HostPorts>,
    files: Option<FilesSource>,
}

async fn start_actors(
    Own { config, identity, host_pools, cluster, wall, neighbours, published, files }: Own<'_>,
    kernel: Arc<dyn Kernel>,
    backend: Backend,
    (drivers, ipam_drivers): (Vec<Registration>, Vec<IpamRegistration>),
    events: &EventHub,
    op: &OpCtx,
) -> Result<(Addr<ControllerActor>, Services, Directory)> {
    let (hub, start) = (events.clone(), op.clone());
    let janitor = Janitor::new(move |what, found| {
        let what = what.to_owned();
        hub.emit(&start, if found { EventKind::LeakFound { what } } else { EventKind::LeakCleared { what } });
    });
    let services = Services::from(Kit {
        store: Port::vacant(),
        firewall: Port::vacant(),
        ports: Port::vacant(),
        names: Port::vacant(),
        zones: Zones::default(),
        ipam: IpamRegistry::from(Port::vacant()),
        files: NameFiles::below(files.as_ref().map(|files| files.run_dir.clone())),
        kernel,
        tools: SagaTools { ledger: Ledger::default(), janitor },
        quarantine: Quarantine::default(),
        removals: Removals::default(),
        joins: JoinIds::starting_at(seed(op)),
        told: ToldPorts::default(),
        reaping: TaskGroup::default(),
        instance: identity.into(),
        name_server_files: Arc::<[_]>::from(config.name_server_files.clone()).into(),
        operations_per_object: config.limits.operations_per_object.into(),
        operation_timeout: config.timeouts.operation.into(),
    });
    let held = PortsState::new(dynamic_range(&*services.kernel).await);
    held.recorded(published.iter());
    let naming = NamesState::new(HostFile::at(&config.resolv_conf));
    let names = files.map(FilesState::start).transpose()?;
    let respawn = Respawn::new(backend, host_pools, cluster, (wall, neighbours), held, (names, naming));
    let estate = Estate::new(config, services.clone(), events.clone(), OpId(op.id), respawn);
    let (controller, directory) = succession::found(estate)?;
    answered(op, "the controller", controller.ask(op, StartChildren(drivers, ipam_drivers)).await)?;
    Ok((controller, services, directory))
}

/// Carries the plan out.
async fn apply(
    controller: &Addr<ControllerActor>,
    services: &Services,
    plan: Plan,
    op: &OpCtx,
) -> Result<Vec<Repair>> {
    let Plan { records, changes, links, namespaces, take_down, dead, ended, mut repairs } = plan;
    // Each part has a time of its own: what hangs in one must not cost the others theirs.
    let own = || op.apart(op.allowed);
    if !changes.is_empty() {
        answered(op, "the store", services.store.ask(&own(), Commit(changes)).await)?;
    }
    remove(services, &records, links, namespaces, &own()).await;
    // Those of a sandbox that is released here go with it.
    let released = |sandbox: &SandboxId| repairs.contains(&Repair::SandboxReleased { sandbox: *sandbox });
    let swept = sweep_files(services, &records, &own()).await.into_iter();
    let swept: Vec<_> = swept.filter(|sandbox| !released(sandbox)).collect();
    repairs.extend(swept.into_iter().map(|sandbox| Repair::FilesRemoved { sandbox }));
    let op = own();
    join_all(
        take_down
            .into_iter()
            .map(|(intent, record)| take_down_network(controller, services, intent, record, &op)),
    )
    .await;
    let not_kept: Vec<_> = records.networks.values().filter(|network| !network.spec.persist).collect();
    let not_kept: Vec<_> = not_kept.iter().map(|n| (n.id, n.spec.name.clone())).collect();
    // A network or a sandbox that cannot be put right is out of service.
    let networks = records.networks_with_endpoints().into_iter().map(async |(record, endpoints)| {
        let op = own();
        let restored = controller.outcome(&op, RestoreNetwork(record, endpoints)).await;
        answered(&op, "the controller", restored).unwrap_or_else(|error| not_restored(&error))
    });
    repairs.extend(some_at_a_time(networks).await);
    // What belongs to nobody has names and routes inside of sandboxes until the kernel has let go of it.
    if tokio::time::timeout(STRAYS, services.reaping.idle()).await.is_err() {
        tracing::warn!("the kernel takes its time with what belongs to nobody");
    }
    let sandboxes = records.sandboxes_with_members().into_iter();
    let (gone, live): (Vec<_>, Vec<_>) = sandboxes.partition(|(record, _)| dead.contains_key(&record.id));
    let released = gone.into_iter().map(async |(record, members)| {
        let keep = dead.get(&record.id).cloned().flatten();
        // An operation of its own: with force it ends what is under way in the sandbox.
        let op = OpCtx::new(op.cause, op.allowed);
        release(controller, record, members, keep, &op).await
    });
    repairs.extend(some_at_a_time(released).await);
    let restored = live.into_iter().map(async |(record, members)| {
        let op = own();
        let restored = controller.outcome(&op, RestoreSandbox { record, members, dead: false }).await;
        answered(&op, "the controller", restored).unwrap_or_else(|error| not_restored(&error))
    });
    repairs.extend(some_at_a_time(restored).await);
    // In the ordinary way, with all of theirs: sandboxes give them up, and devices are as they were found.
    let deletions = not_kept.into_iter().map(async |(id, name)| {
        let op = own();
        let delete = DeleteNetwork { id, force: Some(uuid::Uuid::new_v4()) };
        match answered(&op, "the controller", controller.outcome(&op, delete).await) {
            Ok(()) => vec![Repair::NetworkNotKept { name }],
            Err(error) => not_restored(&error),
        }
    });
    repairs.extend(some_at_a_time(deletions).await);
    // Everything that was there has been said again. What the firewall does not take now it tries again by itself.
    let settled = services.firewall.ask(&own(), EndRestore).await;
    if let Err(error) = answered(&op, "the firewall", settled) {
        tracing::warn!(%error, "the firewall is not as it should be yet");
        repairs.extend(not_restored(&error));
    }
    let op = own();
    for intent in ended {
        answered(&op, "the store", services.store.ask(&op, EndIntent(intent)).await)?;
    }
    Ok(repairs)
}

/// Removes the files of sandboxes that no record knows. It is no reason not to start that they stay.
async fn sweep_files(services: &Services, records: &Records, op: &OpCtx) -> Vec<SandboxId> {
    if !services.files.are_kept() {
        return Vec::new();
    }
    let known = records.sandboxes.keys().copied().collect();
    let swept = services.files.keeper.ask(op, SweepFiles(known)).await;
    match answered(op, "the files service", swept) {
        Ok(gone) => gone,
        Err(error) => {
            tracing::warn!(%error, "files of sandboxes that no record knows are left");
            Vec::new()
        }
    }
}

/// What the firewall says, and to whom.
async fn wall(
    config: &EngineConfig,
    kernel: &dyn Kernel,
    xtables: Option<&Arc<dyn Xtables>>,
    op: &OpCtx,
) -> Result<FirewallState> {
    let mark = bridge::accepted_mark(&DriverConfig::of(bridge::KIND, config))?;
    let table = TableConfig { mark, ..TableConfig::of(&config.instance) };
    // With a time of its own: what is not known by then must not cost the start its own.
    let deadline = op.renewed(PROBE).deadline_std();
    let choice = Choice::make(config.firewall.backend, &table, kernel, xtables, deadline).await?;
    match &choice.missing {
        Some(why) => {
            tracing::warn!(why, "there is no firewall: networks are not kept apart, nothing is translated");
        }
        None => tracing::info!(backend = choice.backend.name(), reason = choice.reason, "the firewall"),
    }
    Ok(FirewallState::new(table, choice))
}

/// How many objects are restored at a time: each takes kilobytes while it is, and there may be many thousands.
const RESTORED_AT_A_TIME: usize = 512;

async fn some_at_a_time(restores: impl Iterator<Item = impl Future<Output = Vec<Repair>>>) -> Vec<Repair> {
    let mut restores = stream::iter(restores).buffer_unordered(RESTORED_AT_A_TIME);
    let mut repairs = Vec::new();
    while let Some(repaired) = restores.next().await {
        repairs.extend(repaired);
    }
    repairs
}

/// Lists a sandbox that does not live, and releases it, unless there is a reason to keep it.
async fn release(
    controller: &Addr<ControllerActor>,
    record: SandboxRecord,
    members: Vec<Member>,
    keep: Option<String>,
    op: &OpCtx,
) -> Vec<Repair> {
    let (sandbox, container_id) = (record.id, record.spec.container_id.clone());
    let kept = |why: String| vec![Repair::DeadSandboxKept { sandbox, container_id, why }];
    let restored = controller.outcome(op, RestoreSandbox { record, members, dead: true }).await;
    if let Err(error) = answered(op, "the controller", restored) {
        return kept(error.to_string());
    }
    if let Some(why) = keep {
        return kept(why);
    }
    // As nobody else knows of it yet, it is the one that was just listed.
    match answered(
        op,
        "the controller",
        controller.outcome(op, ReleaseSandbox { id: sandbox, born: None }).await,
    ) {
        Ok(released) => released.into_iter().map(Repair::DeadSandboxReleased).collect(),
        Err(error) => kept(error.to_string()),
    }
}

/// Something that is recorded and could not be brought back.
fn not_restored(error: &Error) -> Vec<Repair> {
    vec![Repair::NotRestored { why: error.to_string() }]
}

/// Removes what is ours and belongs to nobody. Links are cut off before anything is handed out again; their
/// deletion may end behind the start's back.
async fn remove(
    services: &Services,
    records: &Records,
    links: Vec<(netloom_model::IfName, netloom_kernel::LinkTag)>,
    namespaces: Vec<netloom_model::NetnsName>,
    op: &OpCtx,
) {
    let cut = links.iter().map(|(name, _)| Op::CutLink { name: *name }).collect();
    for outcome in services.execute(op, cut).await {
        if let Err(error) = outcome.or_else(|e| if e.already_gone() { Ok(()) } else { Err(e) }) {
            tracing::warn!(%error, "cannot cut off a link that belongs to nobody");
        }
    }
    // One that was lent lives on, so its rules go first. That takes a grace period of RCU, which the others are spared.
    let is_lent = |sandbox: &SandboxRecord| sandbox.spec.namespace == NamespaceSpec::External;
    let lent = records.sandboxes.values().filter(|sandbox| is_lent(sandbox)).map(|sandbox| sandbox.netns);
    let lent: BTreeSet<_> = lent.collect();
    let mut ops: Vec<_> =
        namespaces.into_iter().map(|name| (Op::DeleteNetns { name }, lent.contains(&name))).collect();
    ops.extend(links.into_iter().map(|(name, tag)| (Op::DeleteLink { name, tag: Some(tag) }, false)));
    // One call for each, so that deletions are gathered and one failure is told by itself.
    let removals = ops.into_iter().map(|(removal, lent)| {
        let (services, op) = (services.clone(), op.clone());
        async move {
            let Err(error) = services.remove_stray(&op, removal.clone(), lent).await else { return };
            tracing::warn!(error, "cannot remove what belongs to nobody");
            let again = services.clone();
            services.tools.janitor.adopt(removal.to_string(), move || {
                let (services, removal) = (again.clone(), removal.clone());
                let op = services.operation(Cause::Tick("janitor"));
                async move { services.remove_stray(&op, removal, lent).await }.boxed_local()
            });
        }
    });
    let removals = join_all(removals);
    services.reaping.spawn(async move {
        removals.await;
    });
}

/// A network that was never committed, or half deleted: made known to its driver, then deleted there, then its
/// intent is closed. What cannot be taken down now is a leak, and should the engine die before it is cleared,
/// the next start finds the intent.
async fn take_down_network(
    controller: &Addr<ControllerActor>,
    services: &Services,
    intent: OpId,
    record: NetworkRecord,
    op: &OpCtx,
) {
    let object = format!("remains of network {:?} ({})", record.spec.name, record.id.short());
    let (controller, services) = (controller.clone(), services.clone());
    let store = services.store.clone();
    let take_down = async move |op: OpCtx| {
        answered(&op, "the controller", controller.outcome(&op, TakeDown(record.clone())).await)?;
        answered(&op, "the store", store.outcome(&op, EndIntent(intent)).await)
    };
    let Err(error) = take_down(op.clone()).await else { return };
    tracing::warn!(%error, object, "cannot take down what is left of a network");
    let again = services.clone();
    services.tools.janitor.adopt(object, move || {
        let (take_down, op) = (take_down.clone(), again.operation(Cause::Tick("janitor")));
        async move { take_down(op).await.map_err(|error| error.to_string()) }.boxed_local()
    });
}
