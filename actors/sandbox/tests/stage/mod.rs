//! What the tests of a sandbox share: its actor over real networks, a bridge driver that can be made to hang,
//! and a simulated kernel, all on stopped time.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use futures::FutureExt;
use netloom_actor_driver::{DriverActor, DriverDeps};
use netloom_actor_network::{
    CreateEndpoint, DeleteEndpoint, Establish as EstablishNetwork, InspectEndpoint, Leaving, NetworkActor,
    NetworkDeps, NetworkEntry, Origin as NetworkOrigin,
};
use netloom_actor_sandbox::{
    Establish, InspectSandbox, JoinSandbox, LeaveSandbox, Member, Origin, SandboxActor, SandboxDeps, Turns,
    WayOutOffer,
};
use netloom_actor_services::files::NameFiles;
use netloom_actor_services::firewall::{
    Backend as Rules, Choice, FirewallActor, FirewallDeps, FirewallState,
};
use netloom_actor_services::ipam::IpamActor;
use netloom_actor_services::names::{NamesActor, NamesState, Zones};
use netloom_actor_services::store::{Backend, StoreActor};
use netloom_actor_services::{JoinIds, Kit, Quarantine, Removals, Services, ToldPorts};
use netloom_dns::io::HostFile;
use netloom_drivers::bridge::{Bridge, KIND};
use netloom_drivers::{
    Begun, Capability, CreateEndpoint as DriverEndpoint, CreateNetwork, Driver, DriverCx, EndpointCreated,
    ExternalConnectivity, Join, Joined, Leave, Left, NetworkCreated, Programmed, done,
};
use netloom_firewall::TableConfig;
use netloom_kernel::{Kernel, Netns};
use netloom_model::record::{EndpointRecord, NetworkRecord, SandboxRecord};
use netloom_model::snapshot::{EndpointSnapshot, SandboxEndpoint, SandboxSnapshot};
use netloom_model::{
    EndpointId, EndpointSpec, EngineConfig, IfName, JoinSpec, MacAddr, NetworkId, NetworkSpec, Repair,
    Result, SandboxId, SandboxSpec,
};
use netloom_runtime::{
    Addr, Cause, EventSink, Handle, Janitor, Ledger, Message, OpCtx, Port, ReadModel, ReadModelWriter,
    SagaTools, TaskGroup, spawn,
};
use netloom_store::{MemoryDisk, RecordKind, decode};
use netloom_testkit::{SimKernel, SimSnapshot};
use tokio::task::LocalSet;
use uuid::Uuid;

/// How long an operation may take that no test wants to see end early.
const LONG: Duration = Duration::from_secs(30);

/// The bridge driver, which tells what it is asked. While `hangs` is set its joins do nothing and never end.
struct Told {
    bridge: Bridge,
    told: mpsc::Sender<(&'static str, EndpointId)>,
    hangs: Arc<AtomicBool>,
}

impl Told {
    fn note(&self, what: &'static str, endpoint: EndpointId) {
        // Nobody reads it any more when the test is over.
        let _ = self.told.send((what, endpoint));
    }
}

impl Driver for Told {
    fn kind(&self) -> &str {
        KIND
    }

    fn capability(&self) -> Capability {
        // Its calls are counted.
        Capability { hears_of_bare: true, ..self.bridge.capability() }
    }

    fn create_network(&mut self, cx: &DriverCx, request: CreateNetwork) -> Begun<NetworkCreated> {
        self.bridge.create_network(cx, request)
    }

    fn delete_network(&mut self, cx: &DriverCx, network: NetworkId) -> Begun<()> {
        self.bridge.delete_network(cx, network)
    }

    fn create_endpoint(&mut self, cx: &DriverCx, request: DriverEndpoint) -> Begun<EndpointCreated> {
        self.bridge.create_endpoint(cx, request)
    }

    fn delete_endpoint(&mut self, cx: &DriverCx, network: NetworkId, endpoint: EndpointId) -> Begun<()> {
        self.bridge.delete_endpoint(cx, network, endpoint)
    }

    fn join(&mut self, cx: &DriverCx, request: Join) -> Begun<Joined> {
        self.note("join", request.endpoint);
        if self.hangs.load(Ordering::Relaxed) {
            return Ok(std::future::pending().boxed());
        }
        self.bridge.join(cx, request)
    }

    fn leave(&mut self, cx: &DriverCx, request: Leave) -> Begun<Left> {
        self.note("leave", request.endpoint);
        self.bridge.leave(cx, request)
    }

    fn program_external_connectivity(
        &mut self,
        _: &DriverCx,
        request: ExternalConnectivity,
    ) -> Begun<Programmed> {
        self.note("program", request.endpoint);
        done(Programmed::default())
    }

    fn revoke_external_connectivity(
        &mut self,
        _: &DriverCx,
        _: NetworkId,
        endpoint: EndpointId,
    ) -> Begun<()> {
        self.note("revoke", endpoint);
        done(())
    }
}

/// An endpoint and its network.
#[derive(Clone, Copy)]
pub(crate) struct End {
    pub(crate) network: NetworkId,
    pub(crate) endpoint: EndpointId,
}

impl End {
    pub(crate) fn join(self, priority: i32) -> JoinSandbox {
        let (endpoint, network) = (self.endpoint, self.network);
        let way_out = Some(WayOutOffer::Missing { network: "out".into() });
        JoinSandbox { endpoint, network, spec: JoinSpec::priority(priority), way_out }
    }

    pub(crate) fn leave(self) -> LeaveSandbox {
        LeaveSandbox { endpoint: self.endpoint, network: self.network, way_out: None }
    }
}

/// A sandbox's actor and everything below it.
pub(crate) struct Stage {
    pub(crate) sandbox: Addr<SandboxActor>,
    pub(crate) netns: Netns,
    pub(crate) kernel: SimKernel,
    pub(crate) disk: MemoryDisk,
    pub(crate) services: Services,
    /// Joins of the driver that begin from now on never end.
    pub(crate) hangs: Arc<AtomicBool>,
    record: SandboxRecord,
    told: mpsc::Receiver<(&'static str, EndpointId)>,
    driver: Port<DriverActor>,
    networks: ReadModelWriter<NetworkId, NetworkEntry>,
}

fn services(kernel: &SimKernel, disk: &MemoryDisk, waiting: usize) -> Services {
    let config = EngineConfig::default();
    let backend = Backend::in_place(Box::new(disk.open()));
    let state = FirewallState::new(TableConfig::of("test"), Choice::asked(Rules::Nftables));
    let tasks = TaskGroup::default();
    let events = EventSink::new(|_, _| {});
    let (sim, sim_again) = (Arc::new(kernel.clone()), Arc::new(kernel.clone()));
    let zones = Zones::default();
    let wall = FirewallDeps { kernel: sim, xtables: None, firewalld: None, state, events, tasks };
    Services::from(Kit {
        store: Port::new(spawn(StoreActor::new(backend), |_| {}).0),
        ipam: Port::new(spawn(IpamActor::new(&config.default_pools), |_| {}).0).into(),
        firewall: Port::new(spawn(FirewallActor::new(wall), |_| {}).0),
        ports: Port::vacant(),
        names: Port::new(
            spawn(NamesActor::new(sim_again, zones.clone(), NamesState::new(HostFile::default())), |_| {}).0,
        ),
        zones,
        kernel: Arc::new(kernel.clone()),
        tools: SagaTools { ledger: Ledger::default(), janitor: Janitor::new(|_, _| {}) },
        quarantine: Quarantine::default(),
        removals: Removals::default(),
        joins: JoinIds::starting_at(1),
        told: ToldPorts::default(),
        reaping: TaskGroup::default(),
        instance: "test".into(),
        files: NameFiles::below(None),
        name_server_files: Default::default(),
        operations_per_object: waiting.into(),
        operation_timeout: LONG.into(),
    })
}

impl Stage {
    /// A sandbox in service, on which so many operations may wait.
    pub(crate) async fn set(waiting: usize) -> Self {
        let (kernel, disk) = (SimKernel::new(), MemoryDisk::default());
        let services = services(&kernel, &disk, waiting);
        let (tell, told) = mpsc::channel();
        let hangs = Arc::new(AtomicBool::new(false));
        let driver = Told { bridge: Bridge::default(), told: tell, hangs: hangs.clone() };
        let deps = DriverDeps {
            kernel: services.kernel.clone(),
            instance: services.instance.clone(),
            firewall: services.firewall.clone(),
            ports: services.ports.clone(),
            tasks: TaskGroup::default(),
        };
        let driver = Port::new(spawn(DriverActor::new(Box::new(driver), deps), |_| {}).0);
        let networks = ReadModel::writer();
        let id = SandboxId::from_uuids(Uuid::new_v4(), Uuid::new_v4());
        let netns = id.short().parse().expect("a name");
        let record = SandboxRecord::new(id, netns, SandboxSpec::new("c1"));
        let deps =
            SandboxDeps { services: services.clone(), networks: networks.reader(), turns: Turns::default() };
        let (sandbox, _) = spawn(SandboxActor::new(record.clone(), deps), |_| {});
        let netns = Netns::Named(netns);
        let stage = Self { sandbox, netns, kernel, disk, services, hangs, record, told, driver, networks };
        stage.ask(Establish(Origin::Fresh)).await.expect("established");
        stage
    }

    /// Adds a network in service.
    pub(crate) async fn network(&mut self, name: &str, subnets: &[&str]) -> NetworkId {
        let spec = subnets
            .iter()
            .fold(NetworkSpec::new(name), |spec, subnet| spec.subnet(subnet.parse().expect("a subnet")));
        let id = name.parse().expect("an id");
        let record = NetworkRecord::asked(id, spec);
        let deps = NetworkDeps {
            services: self.services.clone(),
            driver: self.driver.clone(),
            capability: Capability { hears_of_bare: true, ..Bridge::default().capability() },
            events: EventSink::new(|_, _| {}),
            leaving: Leaving::default(),
        };
        let (addr, _) = spawn(NetworkActor::new(record, deps), |_| {});
        addr.ask(&op(), EstablishNetwork(NetworkOrigin::Fresh))
            .await
            .expect("it answers")
            .expect("in service");
        self.networks.insert(id, NetworkEntry { id, name: name.into(), addr, leaving: Leaving::default() });
        id
    }

    /// Adds an endpoint that is in no sandbox.
    pub(crate) async fn endpoint(&self, network: NetworkId, name: &str) -> End {
        let chance = Uuid::new_v4();
        let endpoint = EndpointId::from_uuids(chance, Uuid::new_v4());
        let [a, b, c, d, e, ..] = *chance.as_bytes();
        // Not what follows from its address, so that a join has all it can have to do.
        let spec = EndpointSpec::new(name).mac(MacAddr([2, a, b, c, d, e]));
        let create = CreateEndpoint { endpoint, spec };
        self.of(network).ask(&op(), create).await.expect("it answers").expect("created");
        End { network, endpoint }
    }

    /// Adds a network with one endpoint.
    pub(crate) async fn end(&mut self, network: &str, subnets: &[&str]) -> End {
        let network = self.network(network, subnets).await;
        self.endpoint(network, "web").await
    }

    fn of(&self, network: NetworkId) -> Addr<NetworkActor> {
        self.networks.reader().get(&network).expect("a network").addr.clone()
    }

    /// An endpoint as its network shows it.
    pub(crate) async fn seen(&self, end: End) -> EndpointSnapshot {
        let seen = self.of(end.network).ask(&op(), InspectEndpoint(end.endpoint)).await;
        seen.expect("it answers").expect("it exists")
    }

    pub(crate) async fn delete_endpoint(&self, end: End) {
        let deleted = self.of(end.network).ask(&op(), DeleteEndpoint(end.endpoint)).await;
        deleted.expect("it answers").expect("deleted");
    }

    pub(crate) async fn ask<M: Message>(&self, message: M) -> M::Reply
    where
        SandboxActor: Handle<M>,
    {
        self.sandbox.ask(&op(), message).await.expect("it answers")
    }

    /// Asks now, and answers when the outcome is known.
    pub(crate) fn begin<M: Message>(&self, op: &OpCtx, message: M) -> impl Future<Output = M::Reply> + use<M>
    where
        SandboxActor: Handle<M>,
    {
        let outcome = self.sandbox.outcome(op, message);
        async move { outcome.await.expect("it answers") }
    }

    pub(crate) async fn joined(&self, end: End, priority: i32) -> SandboxEndpoint {
        self.ask(end.join(priority)).await.expect("joined")
    }

    pub(crate) async fn picture(&self) -> SandboxSnapshot {
        self.ask(InspectSandbox).await
    }

    /// The endpoints that the sandbox says are in it, best gateway first.
    pub(crate) async fn inside(&self) -> Vec<EndpointId> {
        self.picture().await.endpoints.into_iter().map(|inside| inside.endpoint).collect()
    }

    /// The default routes in the kernel, IPv4 before IPv6: the link's name, and the next hop.
    pub(crate) async fn ways_out(&self) -> Vec<(IfName, IpAddr)> {
        let deadline = op().deadline_std();
        let links = self.kernel.links(self.netns, deadline).await.expect("links");
        let routes = self.kernel.routes(self.netns, deadline).await.expect("routes");
        let defaults = routes.into_iter().filter(|route| route.destination.prefix_len() == 0);
        let mut ways: Vec<_> = defaults
            .map(|route| {
                let link = links.iter().find(|link| Some(link.index) == route.link).expect("its link");
                (link.name, route.via.expect("a next hop"))
            })
            .collect();
        ways.sort_by_key(|(_, via)| *via);
        ways
    }

    /// What the driver was asked about endpoints since the last time.
    pub(crate) fn told(&self) -> Vec<(&'static str, EndpointId)> {
        self.told.try_iter().collect()
    }

    /// Has the next incarnation of the sandbox's actor take over, with what the store says is in it.
    pub(crate) async fn restart(&mut self) -> Result<Vec<Repair>> {
        self.restart_within(LONG).await
    }

    /// The same with so much time for coming into service.
    pub(crate) async fn restart_within(&mut self, allowed: Duration) -> Result<Vec<Repair>> {
        let deps = SandboxDeps {
            services: self.services.clone(),
            networks: self.networks.reader(),
            turns: Turns::default(),
        };
        let records = self.disk.records();
        let of = |kind| records.iter().filter(move |(key, _)| key.kind == kind).map(|(_, value)| value);
        let record = of(RecordKind::Sandbox).next().expect("its record");
        self.record = decode(record).expect("readable");
        let endpoints = of(RecordKind::Endpoint).map(|value| decode::<EndpointRecord>(value));
        let members = endpoints.filter_map(|record| {
            let record = record.expect("readable");
            Member::recorded(&record, &record.network.text())
        });
        let members = members.collect();
        (self.sandbox, _) = spawn(SandboxActor::new(self.record.clone(), deps), |_| {});
        self.begin(&within(allowed), Establish(Origin::Recorded(members)))
            .await
            .map(|standing| standing.repairs)
    }

    /// Waits until the kernel has let go of what was removed, and says what there is.
    pub(crate) async fn settled(&self) -> SimSnapshot {
        self.services.reaping.idle().await;
        self.kernel.snapshot()
    }

    pub(crate) fn leaks(&self) -> Vec<String> {
        self.services.tools.janitor.leaks()
    }

    /// Asserts that nothing is under way and nothing is left behind, and that the kernel is as it was, but for the rules of
    /// the sandbox's name server: it stays until the sandbox goes.
    #[track_caller]
    pub(crate) fn assert_clean(&self, before: &SimSnapshot) {
        assert_eq!(self.leaks(), Vec::<String>::new());
        assert!(self.services.tools.ledger.is_empty(), "{:?}", self.services.tools.ledger.list());
        let mut left = self.kernel.snapshot().differences(before);
        left.retain(|line| !line.contains(&format!("table {} of", netloom_actor_services::names::table())));
        assert_eq!(left, Vec::<String>::new());
    }
}

/// An operation with time enough.
pub(crate) fn op() -> OpCtx {
    within(LONG)
}

/// An operation that ends by then.
pub(crate) fn within(allowed: Duration) -> OpCtx {
    OpCtx::new(Cause::Request, allowed)
}

pub(crate) fn on_stopped_time(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), test);
}

/// Lets everybody go on until a condition holds. Time does not pass meanwhile.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it does not happen");
}
