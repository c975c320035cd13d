//! The network that is the way out of sandboxes whose endpoints have none (libnetwork's `docker_gwbridge`).

use std::collections::BTreeSet;

use futures::future::join_all;
use netloom::kernel::{Kernel, Netns};
use netloom::snapshot::EndpointSnapshot;
use netloom::testkit::SimKernel;
use netloom::{
    Endpoint, EndpointSpec, Engine, EngineConfig, ErrorKind, JoinSpec, Network, NetworkSpec, Reason, Sandbox,
    SandboxSpec, StaticRoute, Victim, WayOut,
};

use crate::outless::{Brings, INFO, Outless};
use crate::support::{PATIENCE, World, bounded, until};

pub(crate) const BRIDGE: &str = "docker_gwbridge";

/// What is there before anything is asked for.
struct Out {
    world: World,
    /// Its networks lead nowhere.
    outless: Outless,
}

impl Out {
    async fn new() -> Self {
        Self::with(EngineConfig::default(), Vec::new()).await
    }

    /// With these kinds of networks beside the one that leads nowhere.
    async fn with(config: EngineConfig, others: Vec<&Outless>) -> Self {
        let kernel = SimKernel::new();
        let before = kernel.snapshot();
        let outless = Outless::new("outless");
        let simulation = Engine::simulation().config(config).kernel(kernel).driver(outless.registration());
        let simulation =
            others.iter().fold(simulation, |simulation, other| simulation.driver(other.registration()));
        let simulation = simulation.start().await.expect("the engine starts");
        Self { world: World { simulation, before }, outless }
    }

    async fn create(&self, spec: NetworkSpec) -> Network {
        self.world.engine().controller().create_network(spec).await.expect("a network")
    }

    /// A network that leads nowhere.
    async fn nowhere(&self) -> Network {
        self.create(self.outless.network("nowhere")).await
    }

    /// The network that is the way out, if it is there.
    fn bridge(&self) -> Option<Network> {
        self.world.engine().controller().network_by_name(BRIDGE).ok()
    }

    /// Its endpoints.
    async fn ways_out(&self) -> Vec<EndpointSnapshot> {
        match self.bridge() {
            Some(network) => network.inspect().await.expect("inspected").endpoints,
            None => Vec::new(),
        }
    }

    /// The link by which packets to anywhere leave a sandbox.
    async fn leaves_by(&self, sandbox: &Sandbox) -> Option<String> {
        let netns = Netns::Named(sandbox.netns().expect("a name"));
        let deadline = std::time::Instant::now() + PATIENCE;
        let routes = self.world.kernel().routes(netns, deadline).await.expect("routes");
        let defaults: Vec<_> = routes.iter().filter(|route| route.destination.prefix_len() == 0).collect();
        assert!(defaults.len() < 2, "{defaults:?}");
        let link = defaults.first()?.link;
        let links = self.world.kernel().links(netns, deadline).await.expect("links");
        links.iter().find(|found| Some(found.index) == link).map(|link| link.name.to_string())
    }

    async fn ends_clean(self) {
        self.world.settles().await;
        self.world.delete_everything().await;
        self.world.assert_pristine_soon().await;
    }
}

async fn endpoint(network: &Network, name: &str) -> Endpoint {
    network.create_endpoint(EndpointSpec::new(name)).await.expect("an endpoint")
}

async fn joined(network: &Network, name: &str, sandbox: &Sandbox) -> Endpoint {
    let endpoint = endpoint(network, name).await;
    endpoint.join(sandbox, JoinSpec::default()).await.expect("joined");
    endpoint
}

#[tokio::test]
async fn it_appears_on_need_goes_when_another_leads_out_and_comes_back() {
    let out = Out::new().await;
    let (nowhere, blue) = (out.nowhere().await, out.world.network("blue").await);
    assert!(out.bridge().is_none(), "nobody needs it yet");
    let sandbox = out.world.sandbox("0123456789abcdef").await;
    let own = joined(&nowhere, "web", &sandbox).await;
    let bridge = out.bridge().expect("somebody needs it");
    let made = bridge.inspect().await.expect("inspected");
    assert_eq!((made.driver.as_str(), made.ipv6, made.internal), ("bridge", false, false));
    assert_eq!(made.options["com.docker.network.bridge.name"], BRIDGE);
    assert_eq!(made.options["com.docker.network.bridge.enable_icc"], "false");
    let [way_out] = <[_; 1]>::try_from(out.ways_out().await).expect("one");
    assert_eq!(way_out.name, "gateway_0123456789ab");
    assert!(way_out.names.anonymous, "{:?}", way_out.names);
    assert_eq!(way_out.sandbox, Some(sandbox.id()));
    let seen = sandbox.inspect().await.expect("inspected");
    assert_eq!(seen.gateway, made.v4[0].gateway);
    assert_eq!(out.leaves_by(&sandbox).await, Some(way_out.ifname.expect("a link").to_string()));
    let roles: Vec<_> = seen.endpoints.iter().map(|inside| (inside.endpoint, inside.way_out)).collect();
    assert_eq!(roles, [(own.id(), WayOut::Wanted), (way_out.id, WayOut::Provided)], "it comes last");
    out.world.settles().await;

    let other = joined(&blue, "web", &sandbox).await;
    assert_eq!(out.ways_out().await, [], "the other one leads out");
    let by =
        async |end: &Endpoint| end.inspect().await.expect("inspected").ifname.map(|name| name.to_string());
    assert_eq!(out.leaves_by(&sandbox).await, by(&other).await);
    out.world.settles().await;
    other.leave(&sandbox).await.expect("left");
    let [back] = <[_; 1]>::try_from(out.ways_out().await).expect("it is back");
    assert_eq!(
        (&*back.name, out.leaves_by(&sandbox).await),
        ("gateway_0123456789ab", back.ifname.map(|n| n.to_string()))
    );
    out.world.settles().await;

    other.join(&sandbox, JoinSpec::default()).await.expect("joined");
    assert_eq!(out.ways_out().await, []);
    other.delete_with_force().await.expect("deleted");
    out.world.settles().await;
    assert_eq!(out.ways_out().await.len(), 1, "it comes back also after force");
    own.leave(&sandbox).await.expect("left");
    assert_eq!(out.ways_out().await, [], "nobody is left who needs it");
    assert_eq!(out.leaves_by(&sandbox).await, None);
    out.ends_clean().await;
}

/// The first container of all finds its interface under the same name as every later one.
#[tokio::test]
async fn the_first_one_gets_the_same_names_as_all_others() {
    let out = Out::new().await;
    let nowhere = out.nowhere().await;
    for n in 0..3 {
        let sandbox = out.world.sandbox(&format!("c{n}")).await;
        let own = joined(&nowhere, &format!("e{n}"), &sandbox).await;
        let name = own.inspect().await.expect("inspected").ifname.expect("a link").to_string();
        assert_eq!(
            (name.as_str(), out.leaves_by(&sandbox).await.as_deref()),
            ("eth0", Some("eth1")),
            "sandbox {n}"
        );
    }
    out.ends_clean().await;
}

#[tokio::test]
async fn it_is_named_as_configured() {
    let config = EngineConfig { gateway_network: "outside0".into(), ..EngineConfig::default() };
    let out = Out::with(config, Vec::new()).await;
    let nowhere = out.nowhere().await;
    joined(&nowhere, "web", &out.world.sandbox("c1").await).await;
    assert!(out.bridge().is_none());
    let made = out.world.engine().controller().network_by_name("outside0").expect("the way out");
    let made = made.inspect().await.expect("inspected");
    assert_eq!((made.endpoints.len(), &*made.endpoints[0].name), (1, "gateway_c1"));
    assert_eq!(made.options["com.docker.network.bridge.name"], "outside0");
    out.ends_clean().await;
}

/// Who asks for no way out has none made; who brings one needs none.
#[tokio::test]
async fn it_is_there_for_nobody_who_does_not_need_it() {
    let route = |via| StaticRoute { destination: "0.0.0.0/0".parse().expect("a net"), via };
    let routed = Outless::bringing("routed", Brings { routes: vec![route(None)], ..Brings::default() });
    let content = Outless::bringing("content", Brings { content: true, ..Brings::default() });
    let out = Out::with(EngineConfig::default(), vec![&routed, &content]).await;
    let specs = [
        NetworkSpec::new("internal").internal(true),
        out.outless.network("closed").internal(true),
        routed.network("routed"),
        content.network("content"),
        NetworkSpec::new("bridged"),
        NetworkSpec::new("none").driver("null"),
        NetworkSpec::new("host").driver("host"),
    ];
    let all = out.world.sandbox("all").await;
    for (n, spec) in specs.into_iter().enumerate() {
        let network = out.create(spec).await;
        let sandbox = out.world.sandbox(&format!("c{n}")).await;
        let first = joined(&network, "one", &sandbox).await;
        assert!(out.bridge().is_none(), "for {}", network.name());
        first.leave(&sandbox).await.expect("left");
        first.delete().await.expect("deleted");
        sandbox.delete().await.expect("deleted");
        // Two default routes exclude each other.
        if network.name() != "bridged" {
            joined(&network, "all", &all).await;
        }
    }
    // One that asks does not make it appear as long as another leads out.
    let asks = joined(&out.nowhere().await, "asks", &all).await;
    assert!(out.bridge().is_none());
    for inside in all.inspect().await.expect("inspected").endpoints {
        let network = out.world.engine().controller().network(inside.network).expect("it is there");
        if network.name() == "routed" {
            network.endpoint(inside.endpoint).await.expect("found").leave(&all).await.expect("left");
        }
    }
    assert_eq!(out.ways_out().await.len(), 1, "now it is the only way");
    asks.leave(&all).await.expect("left");
    assert_eq!(out.ways_out().await, [], "internal, null, host and content endpoints ask for none");
    out.world.settles().await;
}

/// The host's own namespace has one of its own.
#[tokio::test]
async fn a_sandbox_that_is_the_host_gets_none() {
    let out = Out::new().await;
    let (nowhere, host) = (out.nowhere().await, out.create(NetworkSpec::new("h").driver("host")).await);
    let controller = out.world.engine().controller();
    let sandbox =
        controller.create_sandbox(SandboxSpec::new("c1").host_namespace()).await.expect("a sandbox");
    let error =
        endpoint(&nowhere, "web").await.join(&sandbox, JoinSpec::default()).await.expect_err("a link");
    assert!(matches!(error.reason(), Reason::HostInterface { .. }), "{error:?}");
    joined(&host, "own", &sandbox).await;
    assert!(out.bridge().is_none());
    assert_eq!(sandbox.inspect().await.expect("inspected").gateway, None);
    out.world.settles().await;
}

/// The container's published ports are where its packets leave, and so is what is told about it.
#[tokio::test]
async fn what_comes_from_outside_comes_in_by_it() {
    let gate = Outless::bringing("gate", Brings { gateway: true, ..Brings::default() });
    let out = Out::with(EngineConfig::default(), vec![&gate]).await;
    // The user made it, of another driver than libnetwork would: found by its name, it serves as well.
    let made = out.create(gate.network(BRIDGE)).await;
    let (nowhere, blue) = (out.nowhere().await, out.world.network("blue").await);
    let sandbox = out.world.sandbox("c1").await;
    let own = joined(&nowhere, "web", &sandbox).await;
    let [way_out] = <[_; 1]>::try_from(out.ways_out().await).expect("one");
    assert_eq!((way_out.network, gate.outward()), (made.id(), vec![way_out.id]));
    assert_eq!(out.outless.programmed(), 0, "not by the endpoint that leads nowhere");
    let info = own.driver_info().await.expect("told");
    assert_eq!(info[INFO], format!("gate of {}", way_out.id));

    // The driver and its network's actor that die are told again.
    for victim in [Victim::Driver("gate".into()), Victim::Network(made.id())] {
        out.world.simulation.crash_actor(victim).await.expect("told");
        until("it is told again", async || gate.outward() == [way_out.id]).await;
        out.world.settles().await;
    }

    let other = joined(&blue, "web", &sandbox).await;
    assert_eq!(gate.outward(), [], "revoked");
    assert_eq!(own.driver_info().await.expect("told")[INFO], format!("outless of {}", own.id()));
    other.leave(&sandbox).await.expect("left");
    let [back] = <[_; 1]>::try_from(out.ways_out().await).expect("one");
    assert_eq!(gate.outward(), [back.id]);
    sandbox.delete().await.expect("deleted");
    assert_eq!((gate.outward(), out.ways_out().await), (vec![], vec![]));
    out.ends_clean().await;
}

// === Many, and others ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_that_need_it_at_once_one_makes_it_for_all() {
    let out = Out::new().await;
    let nowhere = out.nowhere().await;
    let mut ready = Vec::new();
    for n in 0..50 {
        ready.push((endpoint(&nowhere, &format!("e{n}")).await, out.world.sandbox(&format!("c{n}")).await));
    }
    let joins = ready.iter().map(|(endpoint, sandbox)| {
        let (endpoint, sandbox) = (endpoint.clone(), sandbox.clone());
        tokio::spawn(async move { endpoint.join(&sandbox, JoinSpec::default()).await })
    });
    for outcome in bounded("fifty joins", join_all(joins)).await {
        outcome.expect("no panic").expect("joined");
    }
    let names = out.world.engine().controller().networks();
    assert_eq!(names.iter().filter(|network| network.name() == BRIDGE).count(), 1);
    let ways_out = out.ways_out().await;
    let of: BTreeSet<_> = ways_out.iter().filter_map(|end| end.sandbox).collect();
    assert_eq!((ways_out.len(), of.len()), (50, 50));
    out.world.settles().await;
    let deletions = ready.iter().enumerate().map(async |(n, (endpoint, sandbox))| match n % 3 {
        0 => endpoint.leave(sandbox).await,
        1 => sandbox.delete().await,
        _ => sandbox.delete_with_force().await,
    });
    for outcome in bounded("fifty ends", join_all(deletions)).await {
        outcome.expect("gone");
    }
    assert_eq!(out.ways_out().await, []);
    out.ends_clean().await;
}

#[tokio::test]
async fn containers_whose_names_begin_alike_have_one_each() {
    let out = Out::new().await;
    let nowhere = out.nowhere().await;
    let mut sandboxes = Vec::new();
    // In letters of several bytes: twelve letters, not bytes.
    for n in 0..3 {
        let sandbox = out.world.sandbox(&format!("gräßlich-öde-{n}")).await;
        joined(&nowhere, &format!("e{n}"), &sandbox).await;
        sandboxes.push(sandbox);
    }
    let ways_out = out.ways_out().await;
    let names: BTreeSet<_> = ways_out.iter().map(|end| end.name.clone()).collect();
    let expected = [
        "gateway_gräßlich-öde".to_owned(),
        format!("gateway_{}", sandboxes[1].id().short()),
        format!("gateway_{}", sandboxes[2].id().short()),
    ];
    assert_eq!(names, BTreeSet::from(expected));
    for sandbox in &sandboxes {
        assert!(out.leaves_by(sandbox).await.is_some());
    }
    // The first name is free again for whoever comes next.
    sandboxes[0].delete().await.expect("deleted");
    let next = out.world.sandbox("gräßlich-öde-4").await;
    joined(&nowhere, "next", &next).await;
    assert!(out.ways_out().await.iter().any(|end| end.name == "gateway_gräßlich-öde"));
    out.ends_clean().await;
}

/// A network of that name whose endpoints lead nowhere either serves as well as it can, and harms nobody.
#[tokio::test]
async fn a_network_of_that_name_that_leads_nowhere_is_used_all_the_same() {
    let out = Out::new().await;
    out.create(out.outless.network(BRIDGE)).await;
    let nowhere = out.nowhere().await;
    let sandbox = out.world.sandbox("c1").await;
    let own = joined(&nowhere, "web", &sandbox).await;
    assert_eq!((out.ways_out().await.len(), out.leaves_by(&sandbox).await), (1, None));
    own.leave(&sandbox).await.expect("left");
    assert_eq!(out.ways_out().await, []);
    out.ends_clean().await;
}

/// A network of that name that cannot be made refuses the join that needs it, and leaves nothing.
#[tokio::test]
async fn a_way_out_that_cannot_be_made_fails_the_join_and_leaves_nothing() {
    let out = Out::new().await;
    let nowhere = out.nowhere().await;
    let blocker =
        out.create(NetworkSpec::new("blocker").option("com.docker.network.bridge.name", BRIDGE)).await;
    let sandbox = out.world.sandbox("c1").await;
    let own = endpoint(&nowhere, "web").await;
    let error = own.join(&sandbox, JoinSpec::default()).await.expect_err("its device is another network's");
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error:?}");
    assert!(error.to_string().contains("blocker"), "it names who is in the way: {error}");
    assert!(out.bridge().is_none() && own.inspect().await.expect("inspected").sandbox.is_none());
    out.world.settles().await;
    blocker.delete().await.expect("deleted");
    own.join(&sandbox, JoinSpec::default()).await.expect("nothing is in the way now");
    out.ends_clean().await;
}

/// The user takes endpoint or network away: the sandbox has no way out then, and gets another one with the next
/// request that looks at it.
#[tokio::test]
async fn what_the_user_deletes_is_made_again_at_the_next_occasion() {
    let out = Out::new().await;
    let nowhere = out.nowhere().await;
    let second = out.create(out.outless.network("second")).await;
    let sandbox = out.world.sandbox("c1").await;
    joined(&nowhere, "web", &sandbox).await;
    let bridge = out.bridge().expect("it is there");
    let error = bridge.delete().await.expect_err("it is in use");
    assert!(matches!(error.reason(), Reason::ActiveEndpoints { .. }), "{error:?}");
    let way_out = bridge.endpoints().await.expect("listed").remove(0);
    let error = way_out.delete().await.expect_err("it is in use");
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error:?}");

    way_out.delete_with_force().await.expect("deleted");
    out.world.settles().await;
    assert_eq!((out.ways_out().await, out.leaves_by(&sandbox).await), (vec![], None));
    let next = joined(&second, "next", &sandbox).await;
    assert!(out.ways_out().await.len() == 1 && out.leaves_by(&sandbox).await.is_some());
    out.world.settles().await;

    out.bridge().expect("there").delete_with_force().await.expect("deleted");
    out.world.settles().await;
    assert!(out.bridge().is_none() && out.leaves_by(&sandbox).await.is_none());
    next.leave(&sandbox).await.expect("left");
    assert!(out.ways_out().await.len() == 1 && out.leaves_by(&sandbox).await.is_some(), "who stays needs it");
    out.world.settles().await;

    // Taken out of its sandbox only.
    let way_out = out.bridge().expect("there").endpoints().await.expect("listed").remove(0);
    way_out.leave(&sandbox).await.expect("left");
    assert_eq!(out.leaves_by(&sandbox).await, None);
    next.join(&sandbox, JoinSpec::default()).await.expect("joined");
    assert!(out.leaves_by(&sandbox).await.is_some());
    out.world.delete_everything().await;
    out.world.assert_pristine_soon().await;
}

/// An endpoint of the user's on that network is one like any other.
#[tokio::test]
async fn an_endpoint_of_the_users_on_it_is_left_alone() {
    let out = Out::new().await;
    let nowhere = out.nowhere().await;
    let sandbox = out.world.sandbox("c1").await;
    joined(&nowhere, "web", &sandbox).await;
    let mine = joined(&out.bridge().expect("there"), "gateway_mine", &sandbox).await;
    let names = async |out: &Out| out.ways_out().await.into_iter().map(|end| end.name).collect::<Vec<_>>();
    assert_eq!(names(&out).await, ["gateway_mine"], "it leads out, so no other one is needed");
    out.world.settles().await;
    let world = out.world.kill_and_restart().await;
    let out = Out { world, ..out };
    assert_eq!(names(&out).await, ["gateway_mine"]);
    let sandbox = out.world.engine().controller().sandbox(sandbox.id()).expect("restored");
    let found = out.bridge().expect("there").endpoint(mine.id()).await.expect("there");
    found.leave(&sandbox).await.expect("left");
    assert_eq!(names(&out).await, ["gateway_c1", "gateway_mine"]);
    out.ends_clean().await;
}
