//! One network's actor with a scripted driver below it, on stopped time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use netloom_actor_driver::{DriverActor, DriverDeps};
use netloom_actor_network::{
    AbandonAttachment, AttachEndpoint, CommitAttachment, CreateEndpoint, DeleteEndpoint, DeleteNetwork,
    DetachEndpoint, Establish, EvictEndpoint, EvictFrom, InspectNetwork, Leaving, MarkFailed, NetworkActor,
    NetworkDeps, NetworkEvent, Origin,
};
use netloom_actor_services::ipam::IpamActor;
use netloom_actor_services::store::{Backend, StoreActor};
use netloom_actor_services::{JoinIds, Kit, Quarantine, Removals, Services, ToldPorts};
use netloom_drivers::{
    Begun, Capability, CreateEndpoint as DriverEndpoint, CreateNetwork, Driver, DriverCx, EndpointCreated,
    Join, Joined, Leave, Left, NetworkCreated, Scope, done,
};
use netloom_kernel::{LinkTag, Netns, Op};
use netloom_model::record::{EndpointRecord, NetworkRecord};
use netloom_model::snapshot::{EndpointPhase, EndpointSnapshot, NetworkPhase, NetworkSnapshot};
use netloom_model::{
    EndpointId, EndpointSpec, EngineConfig, Error, ErrorKind, MacAddr, NetworkId, NetworkSpec, Reason,
    Result, SandboxId,
};
use netloom_runtime::{
    Addr, Cause, EventSink, Handle, Janitor, Ledger, Message, OpCtx, Port, SagaTools, TaskGroup, spawn,
};
use netloom_store::{Change, Key, MemoryDisk, RecordKind, decode};
use netloom_testkit::{Latency, SimKernel};
use tokio::task::LocalSet;
use uuid::Uuid;

/// What the scripted driver is to do next, and what it was asked.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    refuse_endpoints: bool,
    hang_endpoints: bool,
    hang_joins: bool,
    calls: Vec<&'static str>,
}

impl Script {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().expect("nobody panics with it"));
    }

    fn calls(&self) -> Vec<&'static str> {
        self.0.lock().expect("nobody panics with it").calls.clone()
    }

    fn called(&self, what: &'static str) -> (bool, bool) {
        let mut state = self.0.lock().expect("nobody panics with it");
        state.calls.push(what);
        (state.refuse_endpoints, state.hang_endpoints)
    }
}

impl Driver for Script {
    fn kind(&self) -> &str {
        "script"
    }

    fn capability(&self) -> Capability {
        Capability {
            scope: Scope::Local,
            needs_ipam: true,
            shares_pools: false,
            provides_gateway: true,
            adopts: &[],
            permanent: false,
            hears_of_bare: true,
        }
    }

    fn create_network(&mut self, _: &DriverCx, _: CreateNetwork) -> Begun<NetworkCreated> {
        self.called("create network");
        done(NetworkCreated::default())
    }

    fn delete_network(&mut self, _: &DriverCx, _: NetworkId) -> Begun<()> {
        self.called("delete network");
        done(())
    }

    fn create_endpoint(&mut self, _: &DriverCx, _: DriverEndpoint) -> Begun<EndpointCreated> {
        let (refuse, hang) = self.called("create endpoint");
        if refuse {
            return Err(Error::invalid("script", "endpoint", "told to refuse"));
        }
        if hang {
            return Ok(std::future::pending().boxed());
        }
        done(EndpointCreated { interface_prefix: Some("eth".into()), ..EndpointCreated::default() })
    }

    fn delete_endpoint(&mut self, _: &DriverCx, _: NetworkId, _: EndpointId) -> Begun<()> {
        self.called("delete endpoint");
        done(())
    }

    fn join(&mut self, _: &DriverCx, _: Join) -> Begun<Joined> {
        self.called("join");
        if self.0.lock().expect("nobody panics with it").hang_joins {
            return Ok(std::future::pending().boxed());
        }
        done(Joined::default())
    }

    /// Leaves a link to the kernel, so that its address has to be kept for a while.
    fn leave(&mut self, _: &DriverCx, _: Leave) -> Begun<Left> {
        self.called("leave");
        done(Left { remains: vec![Op::DeleteLink { name: "dying0".parse()?, tag: None }] })
    }
}

/// A network's actor and everything below it.
struct Stage {
    network: Addr<NetworkActor>,
    script: Script,
    kernel: SimKernel,
    disk: MemoryDisk,
    services: Services,
    told: Arc<Mutex<Vec<NetworkEvent>>>,
    driver: Port<DriverActor>,
}

fn services(kernel: &SimKernel, disk: &MemoryDisk, waiting: usize) -> Services {
    let config = EngineConfig::default();
    let backend = Backend::in_place(Box::new(disk.open()));
    Services::from(Kit {
        store: Port::new(spawn(StoreActor::new(backend), |_| {}).0),
        ipam: Port::new(spawn(IpamActor::new(&config.default_pools), |_| {}).0).into(),
        // Its driver says nothing to it.
        firewall: Port::vacant(),
        ports: Port::vacant(),
        names: Port::vacant(),
        zones: netloom_actor_services::names::Zones::default(),
        kernel: Arc::new(kernel.clone()),
        tools: SagaTools { ledger: Ledger::default(), janitor: Janitor::new(|_, _| {}) },
        quarantine: Quarantine::default(),
        removals: Removals::default(),
        joins: JoinIds::starting_at(1),
        told: ToldPorts::default(),
        reaping: TaskGroup::default(),
        instance: "test".into(),
        files: netloom_actor_services::files::NameFiles::below(None),
        name_server_files: Default::default(),
        operations_per_object: waiting.into(),
        operation_timeout: Duration::from_secs(30).into(),
    })
}

fn network_deps(
    services: &Services,
    driver: &Port<DriverActor>,
    script: &Script,
    told: &Arc<Mutex<Vec<NetworkEvent>>>,
) -> NetworkDeps {
    let heard = told.clone();
    NetworkDeps {
        services: services.clone(),
        driver: driver.clone(),
        capability: script.capability(),
        events: EventSink::new(move |_, event| heard.lock().expect("not poisoned").push(event)),
        leaving: Leaving::default(),
    }
}

/// A network that is to be made, under its name as its identifier.
fn unmade(spec: NetworkSpec) -> NetworkRecord {
    let id = spec.name.parse().expect("an id");
    NetworkRecord::asked(id, spec)
}

impl Stage {
    async fn set(subnet: &str, waiting: usize) -> Self {
        let (script, kernel, disk) = (Script::default(), SimKernel::new(), MemoryDisk::default());
        let services = services(&kernel, &disk, waiting);
        let deps = DriverDeps {
            kernel: services.kernel.clone(),
            instance: services.instance.clone(),
            firewall: services.firewall.clone(),
            ports: services.ports.clone(),
            tasks: TaskGroup::default(),
        };
        let driver = Port::new(spawn(DriverActor::new(Box::new(script.clone()), deps), |_| {}).0);
        let told = Arc::default();
        let spec = NetworkSpec::new("blue").driver("script").subnet(subnet.parse().expect("a subnet"));
        let deps = network_deps(&services, &driver, &script, &told);
        let (network, _) = spawn(NetworkActor::new(unmade(spec), deps), |_| {});
        let stage = Self { network, script, kernel, disk, services, told, driver };
        stage.ask(Establish(Origin::Fresh)).await.expect("established");
        stage
    }

    fn deps(&self) -> NetworkDeps {
        network_deps(&self.services, &self.driver, &self.script, &self.told)
    }

    /// Another network beside the one of the stage.
    async fn beside(&self, spec: NetworkSpec) -> Result<NetworkSnapshot> {
        let (network, _) = spawn(NetworkActor::new(unmade(spec), self.deps()), |_| {});
        network.ask(&op(), Establish(Origin::Fresh)).await.expect("it answers")?;
        Ok(network.ask(&op(), InspectNetwork).await.expect("it answers"))
    }

    async fn ask<M: Message>(&self, message: M) -> M::Reply
    where
        NetworkActor: Handle<M>,
    {
        self.network.ask(&op(), message).await.expect("it answers")
    }

    async fn create(&self, name: &str) -> Result<EndpointSnapshot> {
        self.ask(create(name)).await
    }

    /// Of a sandbox of its own.
    fn attach(&self, endpoint: EndpointId) -> AttachEndpoint {
        AttachEndpoint {
            endpoint,
            sandbox: SandboxId::from_uuids(Uuid::new_v4(), Uuid::new_v4()),
            join: self.services.joins.next(),
            netns: Some(Netns::Named("c1".parse().expect("a name"))),
            index: 0,
            priority: 0,
            as_way_out: false,
            options: Arc::default(),
        }
    }

    async fn names(&self) -> Vec<String> {
        self.ask(InspectNetwork).await.endpoints.into_iter().map(|endpoint| endpoint.name).collect()
    }
}

fn op() -> OpCtx {
    OpCtx::new(Cause::Request, Duration::from_secs(300))
}

fn create(name: &str) -> CreateEndpoint {
    let endpoint = EndpointId::from_uuids(Uuid::new_v4(), Uuid::new_v4());
    CreateEndpoint { endpoint, spec: EndpointSpec::new(name) }
}

fn on_stopped_time(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), test);
}

#[test]
fn a_refused_endpoint_leaves_no_name_and_no_address() {
    on_stopped_time(async {
        // Room for exactly one endpoint beside the gateway.
        let stage = Stage::set("10.1.0.0/30", 16).await;
        stage.script.set(|state| state.refuse_endpoints = true);
        for _ in 0..3 {
            let error = stage.create("web").await.expect_err("told to refuse");
            assert_eq!(error.kind(), ErrorKind::InvalidParameter);
        }
        assert!(stage.names().await.is_empty());
        stage.script.set(|state| state.refuse_endpoints = false);
        stage.create("web").await.expect("name and address are free");
        assert_eq!(stage.create("db").await.expect_err("full").kind(), ErrorKind::Exhausted);
        assert!(matches!(&stage.told.lock().unwrap()[..], [NetworkEvent::EndpointCreated { .. }]));
    });
}

#[test]
fn a_hanging_driver_costs_its_own_endpoint_its_deadline_and_others_nothing() {
    on_stopped_time(async {
        let stage = Stage::set("10.1.0.0/24", 16).await;
        stage.script.set(|state| state.hang_endpoints = true);
        let short = OpCtx::new(Cause::Request, Duration::from_secs(5));
        let started = tokio::time::Instant::now();
        let stuck = stage.network.outcome(&short, create("stuck"));
        // The driver has decided about the first one before it is asked about the second.
        while !stage.script.calls().contains(&"create endpoint") {
            tokio::task::yield_now().await;
        }
        stage.script.set(|state| state.hang_endpoints = false);
        stage.create("free").await.expect("it is not held up");
        assert!(started.elapsed() < Duration::from_secs(5));
        let error = stuck.await.expect("it answers").expect_err("it hung");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(started.elapsed() >= Duration::from_secs(5));
        assert_eq!(stage.names().await, ["free"]);
        assert!(stage.script.calls().contains(&"delete endpoint"), "what it had decided is taken back");
        assert!(stage.services.tools.ledger.is_empty());
    });
}

#[test]
fn the_queue_of_a_network_has_a_bound() {
    on_stopped_time(async {
        let stage = Stage::set("10.1.0.0/24", 2).await;
        let held = create("one");
        let id = held.endpoint;
        stage.script.set(|state| state.hang_endpoints = true);
        let short = OpCtx::new(Cause::Request, Duration::from_secs(5));
        let first = stage.network.outcome(&short, held);
        let second = stage.network.outcome(&op(), DeleteEndpoint(id));
        let third = stage.network.outcome(&op(), DeleteEndpoint(id));
        let refused = third.await.expect("it answers").expect_err("the queue is full");
        assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
        assert_eq!(first.await.expect("it answers").expect_err("it hung").kind(), ErrorKind::Timeout);
        let error = second.await.expect("it answers").expect_err("there is none to delete");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

/// All of them are answered at once when their turn comes, and each lets the next one in.
#[test]
fn a_full_queue_of_what_is_late_is_refused_to_its_end() {
    on_stopped_time(async {
        let waiting = EngineConfig::default().limits.operations_per_object;
        let stage = Stage::set("10.1.0.0/24", waiting).await;
        stage.script.set(|state| state.hang_endpoints = true);
        let short = OpCtx::new(Cause::Request, Duration::from_secs(5));
        let held = create("one");
        let late = std::iter::repeat_n(held.endpoint, waiting - 1);
        let held = stage.network.outcome(&short, held);
        let late: Vec<_> = late.map(|id| stage.network.outcome(&short, DeleteEndpoint(id))).collect();
        held.await.expect("it answers").expect_err("it hung");
        for one in late {
            let error = one.await.expect("it answers").expect_err("it is late");
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        }
        assert!(stage.names().await.is_empty());
    });
}

#[test]
fn deleting_the_network_waits_for_what_runs_and_nobody_slips_in_behind() {
    on_stopped_time(async {
        let stage = Stage::set("10.1.0.0/24", 16).await;
        stage.script.set(|state| state.hang_endpoints = true);
        let short = OpCtx::new(Cause::Request, Duration::from_secs(5));
        let running = stage.network.outcome(&short, create("running"));
        let delete = stage.network.outcome(&op(), DeleteNetwork);
        let late = stage.network.outcome(&op(), create("late"));
        running.await.expect("it answers").expect_err("it hung");
        delete.await.expect("it answers").expect("nothing is left on it");
        let error = late.await.expect("it answers").expect_err("the network is gone");
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
        assert_eq!(stage.script.calls().last(), Some(&"delete network"));
    });
}

/// A start that has run out of time still lists what is recorded: a network that looks empty could be deleted
/// under its containers.
#[test]
fn a_network_that_is_read_back_too_late_has_its_endpoints_all_the_same() {
    on_stopped_time(async {
        let stage = Stage::set("10.1.0.0/24", 16).await;
        let endpoint = stage.create("web").await.expect("created").id;
        let attach = stage.attach(endpoint);
        let join = attach.join;
        stage.ask(attach).await.expect("attached");
        let beside = Change::Delete { key: Key::new(RecordKind::Sandbox, "nothing") };
        stage.ask(CommitAttachment { endpoint, join, beside: Some(beside) }).await.expect("joined");
        let records = stage.disk.records();
        let of = |kind| &records.iter().find(|(key, _)| key.kind == kind).expect("a record").1;
        let record: NetworkRecord = decode(of(RecordKind::Network)).expect("readable");
        let endpoints: Vec<EndpointRecord> = vec![decode(of(RecordKind::Endpoint)).expect("readable")];
        for origin in [
            Origin::FromStore(record.clone(), endpoints.clone()),
            Origin::AfterRestart(record.clone(), endpoints.clone()),
        ] {
            let (network, _) = spawn(NetworkActor::new(record.clone(), stage.deps()), |_| {});
            let late = OpCtx::new(Cause::Start, Duration::ZERO);
            let _ = network.outcome(&late, Establish(origin)).await.expect("it answers");
            network.ask(&op(), MarkFailed("too late".into())).await.expect("it answers");
            let picture = network.ask(&op(), InspectNetwork).await.expect("it answers");
            assert_eq!((picture.phase, picture.v4), (NetworkPhase::Failed, record.v4.clone()));
            assert_eq!(
                picture.endpoints.iter().map(|e| e.phase).collect::<Vec<_>>(),
                [EndpointPhase::Joined]
            );
            let refused = network.ask(&op(), DeleteNetwork).await.expect("it answers").expect_err("in use");
            assert!(matches!(refused.reason(), Reason::ActiveEndpoints { .. }), "{refused}");
        }
    });
}

/// What is left of a network that could not be removed at a start carries our mark, and IPAM does not know it.
#[test]
fn a_pool_is_kept_away_from_a_bridge_of_ours_that_no_network_has() {
    on_stopped_time(async {
        let stage = Stage::set("10.1.0.0/24", 16).await;
        let (netns, link) = (Netns::Host, "br-old".parse().expect("a name"));
        let tag = LinkTag::new(&stage.services.instance, "network", "old");
        for op in [
            Op::CreateBridge { name: link, mac: None, mtu: None, tag },
            Op::AddAddress { netns, link, address: "172.17.0.1/16".parse().expect("an address") },
        ] {
            stage.kernel.foreign_op(&op).expect("it may");
        }
        let red = NetworkSpec::new("red").driver("script");
        let chosen = stage.beside(red).await.expect("there are others").v4[0].pool;
        assert_eq!(chosen.to_string(), "172.18.0.0/16");
        let given = NetworkSpec::new("green").driver("script");
        let given = given.subnet("172.17.5.0/24".parse().expect("a subnet"));
        let refused = stage.beside(given).await.expect_err("the bridge has it");
        assert!(matches!(refused.reason(), Reason::PoolOverlapsHost { .. }), "{refused}");
    });
}

/// What waits might hang as well, so it is not begun any more; and there is room for force in a full queue.
#[test]
fn an_eviction_overtakes_what_runs_and_what_waits() {
    on_stopped_time(async {
        let stage = Stage::set("10.1.0.0/24", 4).await;
        let endpoint = stage.create("web").await.expect("created").id;
        stage.script.set(|state| state.hang_joins = true);
        let (first, second) = (stage.attach(endpoint), stage.attach(endpoint));
        let abandon = AbandonAttachment { endpoint, join: first.join };
        let hanging = stage.network.outcome(&op(), first);
        while !stage.script.calls().contains(&"join") {
            tokio::task::yield_now().await;
        }
        let waiting = stage.network.outcome(&op(), second);
        let abandon = stage.network.outcome(&op(), abandon);
        let deletion = stage.network.outcome(&op(), DeleteEndpoint(endpoint));
        let began = tokio::time::Instant::now();
        assert_eq!(stage.ask(EvictEndpoint(endpoint)).await.expect("evicted"), None);
        assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
        let ended = hanging.await.expect("it answers").expect_err("it was ended");
        assert!(matches!(ended.reason(), Reason::Overtaken { .. }), "{ended}");
        let waiting = waiting.await.expect("it answers").expect_err("not begun");
        let deletion = deletion.await.expect("it answers").expect_err("not begun");
        for error in [waiting, deletion] {
            assert!(error.to_string().contains("being deleted"), "{error}");
        }
        abandon.await.expect("it answers").expect("taking back always has its turn");
        assert!(stage.names().await.is_empty());
        assert_eq!(stage.script.calls().iter().filter(|call| **call == "join").count(), 1);
    });
}

#[test]
fn an_endpoint_goes_with_a_dead_sandbox_only_if_it_is_in_it() {
    on_stopped_time(async {
        let stage = Stage::set("10.1.0.0/24", 16).await;
        let endpoint = stage.create("web").await.expect("created").id;
        let attach = stage.attach(endpoint);
        let (here, elsewhere) = (attach.sandbox, stage.attach(endpoint).sandbox);
        stage.ask(attach).await.expect("attached");
        assert_eq!(stage.ask(EvictFrom(endpoint, elsewhere)).await.expect("left alone"), None);
        assert_eq!(stage.names().await, ["web"]);
        assert_eq!(stage.ask(EvictFrom(endpoint, here)).await.expect("evicted"), Some(here));
        assert!(stage.names().await.is_empty());
        assert_eq!(stage.ask(EvictFrom(endpoint, here)).await.expect("gone already"), None);
    });
}

#[test]
fn an_address_stays_taken_until_the_kernel_has_let_go_of_its_link() {
    on_stopped_time(async {
        let stage = Stage::set("10.1.0.0/30", 16).await;
        stage.kernel.foreign_op(&dying_link()).expect("a link that takes its time");
        stage.kernel.set_latency(Latency::default().verb("delete_link", Duration::from_secs(20)));
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 7]));
        let with_mac = |name| {
            let mut create = create(name);
            create.spec.mac = mac;
            create
        };
        let endpoint = stage.ask(with_mac("web")).await.expect("created").id;
        let attach = stage.attach(endpoint);
        let AttachEndpoint { sandbox, join, .. } = attach;
        stage.ask(attach).await.expect("attached");
        let beside = Change::Delete { key: Key::new(RecordKind::Sandbox, "nothing") };
        stage.ask(CommitAttachment { endpoint, join, beside: Some(beside) }).await.expect("joined");
        stage.ask(DetachEndpoint { endpoint, sandbox, keeps_place: false }).await.expect("left at once");
        stage.ask(DeleteEndpoint(endpoint)).await.expect("deleted at once");
        let error = stage.create("next").await.expect_err("its link may still answer");
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
        // Who asks for its hardware address waits for it, and gets the other one as well then.
        let began = tokio::time::Instant::now();
        stage.ask(with_mac("again")).await.expect("both addresses are free now");
        assert_eq!(began.elapsed(), Duration::from_secs(20));
        let error = stage.ask(with_mac("next")).await.expect_err("it has them");
        assert!(matches!(error.reason(), Reason::MacTaken { .. }), "{error:?}");
    });
}

fn dying_link() -> Op {
    Op::CreateBridge {
        name: "dying0".parse().expect("a name"),
        mac: None,
        mtu: None,
        tag: LinkTag::new("somebody", "else", "1"),
    }
}
