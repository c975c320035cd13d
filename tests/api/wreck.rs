//! A machine on which an engine died in the middle of everything, and engines that are started on it on
//! stopped time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use netloom::drivers::Registration;
use netloom::drivers::bridge::{Bridge, KIND};
use netloom::kernel::{AddressView, Kernel, LinkKind, Netns, Op, Route};
use netloom::snapshot::{EngineSnapshot, NetworkSnapshot, SandboxSnapshot};
use netloom::testkit::{Fault, FaultKind, SimKernel, SimSnapshot};
use netloom::{
    DefaultPool, Endpoint, EndpointSpec, Engine, EngineConfig, Error, EventHub, JoinSpec, Network, NetworkId,
    NetworkSpec, Sandbox, SandboxSpec,
};
use netloom_actor_controller::{
    BootInput, Booted, ControllerActor, CreateNetwork, DeleteNetwork, DeleteSandbox, Directory,
    InspectEngine, Neighbours, boot,
};
use netloom_actor_network::DeleteEndpoint;
use netloom_runtime::{Addr, Cause, Handle, Message, OpCtx};
use netloom_store::MemoryDisk;
use tokio::task::LocalSet;
use uuid::Uuid;

use crate::mortal::{Death, Mortal};
use crate::support::{World, bounded, until};

/// What somebody did to the machine while no engine ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Damage {
    Nothing,
    /// A bridge vanished, and with it its ports; one container lost its default route, the other one has it
    /// through the wrong network.
    Much,
}

/// The machine. On it: a network with a bridge of its own and one on a bridge that was there before; three
/// endpoints in two sandboxes; and from the moment of the death a link, a namespace and a bridge that no record
/// knows, and a network that is half deleted.
pub(crate) struct Wreck {
    pub(crate) kernel: SimKernel,
    pub(crate) disk: MemoryDisk,
    pub(crate) before: SimSnapshot,
    /// Networks with the names of those of their endpoints that are joined.
    pub(crate) networks: Vec<NetworkSnapshot>,
    pub(crate) sandboxes: Vec<SandboxSnapshot>,
    /// Who is to reach whom when everything is right.
    talks: Vec<(Netns, IpAddr)>,
}

/// Who does not reach whom, and why not.
pub(crate) type Silent = BTreeMap<(Netns, IpAddr), String>;

async fn joined(network: &Network, name: &str, sandbox: &Sandbox, priority: i32) -> Endpoint {
    let endpoint = network.create_endpoint(EndpointSpec::new(name)).await.expect("an endpoint");
    endpoint.join(sandbox, JoinSpec::priority(priority)).await.expect("joined");
    endpoint
}

/// Lets an operation begin that is to hang at its first operation of this verb.
async fn hangs<T: Send + 'static>(
    kernel: &SimKernel,
    verb: &'static str,
    work: impl Future<Output = netloom::Result<T>> + Send + 'static,
) {
    let others = kernel.hanging();
    kernel.plan(Fault::verb(verb, 1, FaultKind::Hang));
    tokio::spawn(work);
    until(verb, async || kernel.hanging() > others).await;
}

impl Wreck {
    pub(crate) async fn new(damage: Damage) -> Self {
        let (kernel, disk) = (SimKernel::new(), MemoryDisk::default());
        let lan0 = "lan0".parse().expect("a name");
        kernel.foreign_link(Netns::Host, lan0, LinkKind::Bridge, None).expect("made");
        let address = "192.0.2.1/24".parse().expect("an address");
        kernel.foreign_op(&Op::AddAddress { netns: Netns::Host, link: lan0, address }).expect("added");
        let before = kernel.snapshot();

        let death = Death::never();
        let mortal = Arc::new(Mortal::new(kernel.clone(), death.clone()));
        let engine = Engine::builder().kernel(mortal).store(Box::new(disk.open()));
        let engine = bounded("the start", engine.start()).await.expect("it starts");
        let controller = engine.controller();
        let blue = controller.create_network(NetworkSpec::new("blue")).await.expect("a network");
        let lan = NetworkSpec::new("lan")
            .subnet("10.88.0.0/24".parse().expect("a subnet"))
            .subnet("fd88::/64".parse().expect("a subnet"))
            .option("com.docker.network.bridge.name", "lan0");
        let lan = controller.create_network(lan).await.expect("a network");
        let gone = controller.create_network(NetworkSpec::new("gone")).await.expect("a network");
        let c1 = controller.create_sandbox(SandboxSpec::new("c1")).await.expect("a sandbox");
        let c2 = controller.create_sandbox(SandboxSpec::new("c2")).await.expect("a sandbox");
        joined(&blue, "web", &c1, 0).await;
        joined(&blue, "db", &c2, 0).await;
        joined(&lan, "web", &c1, 1).await;
        let stray = blue.create_endpoint(EndpointSpec::new("stray")).await.expect("an endpoint");
        let mut picture = engine.inspect().await.expect("inspected");
        picture.networks.retain(|network| network.name != "gone");

        let into = c2.clone();
        hangs(&kernel, "add_address", async move { stray.join(&into, JoinSpec::default()).await }).await;
        let own = controller.clone();
        // So that the dead leave a namespace that belongs to no record.
        disk.fail_commit(1);
        hangs(&kernel, "create_netns", async move { own.create_sandbox(SandboxSpec::new("c3")).await }).await;
        let half = NetworkSpec::new("half");
        hangs(&kernel, "create_bridge", async move { controller.create_network(half).await }).await;
        hangs(&kernel, "delete_link", async move { gone.delete().await }).await;
        death.now();
        drop(engine);
        // A process does not die in the middle of a system call.
        kernel.release();

        let mut wreck = Self {
            kernel,
            disk,
            before,
            networks: picture.networks,
            sandboxes: picture.sandboxes,
            talks: Vec::new(),
        };
        wreck.talks = wreck.meant_to_talk();
        assert!(wreck.silent().is_empty(), "the dead disturb nobody: {:?}", wreck.silent());
        if damage == Damage::Much {
            wreck.break_it(&[c1, c2]).await;
        }
        wreck
    }

    /// Every joined endpoint with its gateways, and with every other one of its network.
    fn meant_to_talk(&self) -> Vec<(Netns, IpAddr)> {
        let mut talks = Vec::new();
        for network in &self.networks {
            let gateways = network.v4.iter().chain(&network.v6).filter_map(|pool| pool.gateway);
            let joined = network.endpoints.iter().filter(|endpoint| endpoint.sandbox.is_some());
            let addresses = joined.clone().filter_map(|endpoint| endpoint.ipv4.map(|net| net.addr().into()));
            let all: Vec<IpAddr> = gateways.chain(addresses).collect();
            for endpoint in joined {
                let sandbox = endpoint.sandbox.expect("it is joined");
                let from = Netns::Named(sandbox.short().parse().expect("a name"));
                talks.extend(all.iter().map(|to| (from, *to)));
            }
        }
        talks
    }

    async fn break_it(&self, [c1, c2]: &[Sandbox; 2]) {
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        let links = self.kernel.links(Netns::Host, deadline).await.expect("links");
        let blue = &self.networks[0];
        let bridge = links.iter().find(|link| {
            link.kind == LinkKind::Bridge && link.tag().is_some_and(|tag| tag.id == blue.id.to_string())
        });
        self.kernel.vanish_link(Netns::Host, bridge.expect("its bridge").name).expect("it was there");
        let default = |via: IpAddr, link: &str| Route {
            destination: "0.0.0.0/0".parse().expect("a net"),
            via: Some(via),
            link: link.parse().expect("a name"),
        };
        let blue = blue.v4[0].gateway.expect("a gateway");
        let lan = [10, 88, 0, 1].into();
        let [c1, c2] = [c1, c2].map(|sandbox| Netns::Named(sandbox.netns().expect("a name")));
        for op in [
            Op::DeleteRoute { netns: c1, route: default(lan, "eth1") },
            Op::AddRoute { netns: c1, route: default(blue, "eth0") },
            Op::DeleteRoute { netns: c2, route: default(blue, "eth0") },
        ] {
            self.kernel.foreign_op(&op).expect("it may");
        }
    }

    /// Who is to reach somebody and does not, and why not.
    pub(crate) fn silent(&self) -> Silent {
        let failed = |talk: &(Netns, IpAddr)| Some((*talk, self.kernel.can_reach(talk.0, talk.1).err()?));
        self.talks.iter().filter_map(failed).collect()
    }

    /// What carries the mark of the dead engine and belongs to nothing that is recorded.
    pub(crate) async fn remains(&self) -> Vec<String> {
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        let known: Vec<_> = self.networks.iter().map(|network| network.id.to_string()).collect();
        let joined = self.networks.iter().flat_map(|network| &network.endpoints);
        let joined: Vec<_> =
            joined.filter(|e| e.sandbox.is_some()).map(|endpoint| endpoint.id.to_string()).collect();
        let links = self.kernel.links(Netns::Host, deadline).await.expect("links");
        let foreign = |id: &String| !known.contains(id) && !joined.contains(id);
        let links = links.iter().filter(|link| link.tag().is_some_and(|tag| foreign(&tag.id)));
        let mut remains: Vec<_> = links.map(|link| format!("link {}", link.name)).collect();
        let used: Vec<_> = self.sandboxes.iter().map(|sandbox| sandbox.id.short().to_string()).collect();
        let namespaces = self.kernel.namespaces(deadline).await.expect("namespaces").into_iter();
        let namespaces = namespaces.filter(|netns| !used.contains(&netns.to_string()));
        remains.extend(namespaces.map(|netns| format!("namespace {netns}")));
        remains
    }

    /// Subnets that two links of the host have.
    pub(crate) async fn doubled(&self) -> Vec<IpNet> {
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        let views = self.kernel.addresses(Netns::Host, deadline).await.expect("addresses");
        let meet = |one: &IpNet, other: &IpNet| one.contains(&other.addr()) || other.contains(&one.addr());
        let elsewhere = |view: &&AddressView| {
            views.iter().any(|other| other.link != view.link && meet(&other.address, &view.address))
        };
        let link_local = |net: &IpNet| matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
        views.iter().filter(elsewhere).map(|view| view.address).filter(|net| !link_local(net)).collect()
    }

    /// The next engine on this machine, through the public interface.
    pub(crate) async fn next(&self) -> World {
        let builder = Engine::simulation().kernel(self.kernel.clone()).disk(self.disk.clone());
        let simulation = bounded("the next start", builder.start()).await.expect("it starts");
        World { simulation, before: self.before.clone() }
    }
}

/// An engine without a thread of its own, on stopped time.
pub(crate) struct Still {
    controller: Addr<ControllerActor>,
    directory: Directory,
}

/// How long anything may take before a test calls it a hang; stopped time passes at once.
const PATIENCE: Duration = Duration::from_secs(300);

/// Starts an engine, does something with it, and kills it: its process ends, wherever it stood.
pub(crate) fn killed_after<T>(
    kernel: Arc<dyn Kernel>,
    disk: &MemoryDisk,
    work: impl AsyncFnOnce(Result<Still, Error>) -> T,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let config = EngineConfig::default();
        let own = DefaultPool { base: "fd00:1::/48".parse().expect("a net"), size: 64 };
        let input = BootInput {
            host_pools: own,
            identity: config.instance.clone(),
            engine: None,
            kernel,
            files: None,
            neighbours: Neighbours::default(),
            store: Box::new(disk.open()),
            store_blocks: false,
            findings: Vec::new(),
            missing: false,
            drivers: vec![Registration::new(KIND, Bridge::default)],
            ipam_drivers: Vec::new(),
            cluster: None,
            live: None,
            events: EventHub::new(config.limits.event_backlog),
            config,
        };
        let started = tokio::time::timeout(PATIENCE, boot(input)).await.expect("a start ends");
        let still = started.map(|Booted { directory, .. }| Still {
            controller: (*directory.controller.get(&()).expect("a controller")).clone(),
            directory,
        });
        work(still).await
    })
}

impl Still {
    async fn ask<M: Message>(&self, message: M) -> M::Reply
    where
        ControllerActor: Handle<M>,
    {
        let op = OpCtx::new(Cause::Request, PATIENCE);
        self.controller.ask(&op, message).await.expect("it answers")
    }

    pub(crate) async fn inspect(&self) -> EngineSnapshot {
        self.ask(InspectEngine).await
    }

    /// Makes a network for which a pool has to be chosen.
    pub(crate) async fn create_network(&self, name: &str) -> netloom::Result<()> {
        let id = NetworkId::from_uuids(Uuid::new_v4(), Uuid::new_v4());
        self.ask(CreateNetwork { id, spec: NetworkSpec::new(name) }).await.map(drop)
    }

    /// Deletes everything there is.
    pub(crate) async fn delete_everything(&self) -> netloom::Result<()> {
        let picture = self.inspect().await;
        for sandbox in picture.sandboxes {
            self.ask(DeleteSandbox { id: sandbox.id, force: false }).await?;
        }
        for network in picture.networks {
            for endpoint in network.endpoints {
                let network = self.directory.networks.get(&network.id).expect("a network");
                let deleted =
                    network.addr.ask(&OpCtx::new(Cause::Request, PATIENCE), DeleteEndpoint(endpoint.id));
                deleted.await.expect("the network lives")?;
            }
            self.ask(DeleteNetwork { id: network.id, force: None }).await?;
        }
        Ok(())
    }
}
