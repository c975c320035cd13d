//! The configuration: handed to drivers, replaced while the engine runs, and kept when somebody dies.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use netloom::drivers::{DatastoreConfig, Discovery, DriverConfig, NodeDiscovery, Scope};
use netloom::testkit::{Fault, FaultKind};
use netloom::{
    Certainty, ClientConfig, DefaultPool, EndpointSpec, Engine, EngineConfig, ErrorKind, EventKind,
    FirewallBackend, JoinSpec, NetworkSpec, Reason, SandboxSpec, ScopeConfig, Victim, config_from_file,
};

use crate::listening::{Heard, KIND, Told};
use crate::support::{World, bounded};

// === Configurations ===

fn scope(provider: &str, address: &str) -> ScopeConfig {
    let config = [("kv.certfile".to_owned(), "/c".to_owned())].into();
    ScopeConfig { client: ClientConfig { provider: provider.into(), address: address.into(), config } }
}

fn with_stores(stores: &[(&str, &str, &str)]) -> EngineConfig {
    let scopes =
        stores.iter().map(|(name, provider, address)| ((*name).to_owned(), scope(provider, address)));
    EngineConfig { scopes: scopes.collect(), ..EngineConfig::default() }
}

fn etcd() -> DatastoreConfig {
    DatastoreConfig {
        scope: Scope::Global,
        provider: "etcd".into(),
        address: "a:1".into(),
        config: [("kv.certfile".to_owned(), "/c".to_owned())].into(),
    }
}

fn discovered(store: DatastoreConfig) -> Told {
    Told::Discovered(Discovery::DatastoreConfigured(store))
}

fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[track_caller]
fn refused(outcome: netloom::Result<()>, kind: ErrorKind, says: &str) {
    let error = outcome.expect_err("refused");
    assert_eq!((error.kind(), error.certainty()), (kind, Certainty::Aborted), "{error}");
    assert!(error.to_string().contains(says), "{error}");
}

// === Drivers ===

#[tokio::test]
async fn a_driver_is_made_with_what_the_configuration_has_for_it() {
    let config = EngineConfig {
        drivers: [(KIND.to_owned(), options(&[("speed", "7")]))].into(),
        ..with_stores(&[("global", " etcd", "a:1 "), ("local", "boltdb", "/l")])
    };
    let config = config.with_labels([
        "com.docker.network.driver.listening.colour=green",
        "com.docker.network.driver.other.colour=red",
    ]);
    let heard = Heard::start(config).await.expect("started");
    let told = heard.told("first").await;
    let local =
        DatastoreConfig { scope: Scope::Local, provider: "boltdb".into(), address: "/l".into(), ..etcd() };
    let expected = DriverConfig {
        options: options(&[("com.docker.network.driver.listening.colour", "green"), ("speed", "7")]),
        datastores: vec![etcd(), local],
    };
    // Made once to look at what the kernel has, once to serve; then told of the cluster's store.
    let configured = Told::Configured(expected);
    assert_eq!(told, [configured.clone(), configured.clone(), discovered(etcd())]);
    assert_eq!(heard.ipam_store().await, Some(etcd()));
    heard.crash(Victim::Driver(KIND.into())).await;
    let mut told = heard.told("second").await;
    assert_eq!(told.pop(), Some(Told::Network("first".into())), "it is told of its network again");
    assert_eq!(told, [configured, discovered(etcd())]);
}

#[tokio::test]
async fn an_engine_whose_driver_cannot_use_its_options_does_not_start() {
    for (kind, option) in [(KIND, "colour"), ("bridge", "EnableIPTables")] {
        let drivers = [(kind.to_owned(), options(&[(option, "x")]))].into();
        let config = EngineConfig { drivers, ..EngineConfig::default() };
        refused(Heard::start(config).await.map(drop), ErrorKind::InvalidParameter, option);
    }
}

// === Reloads ===

/// libnetwork's test of its controller: a second configuration with the same store is accepted, one with another
/// store is not.
#[tokio::test]
async fn a_reload_adds_stores_and_takes_none_away() {
    let heard = Heard::start(EngineConfig::default()).await.expect("started");
    let controller = heard.controller();
    assert_eq!(heard.told("first").await.len(), 2, "made twice, and told of nothing");
    assert_eq!(heard.ipam_store().await, None);

    let both = with_stores(&[("local", "boltdb", "/l"), ("global", "etcd", "a:1")]);
    controller.reload(both.clone()).await.expect("stores are added");
    assert_eq!(controller.config(), both);
    assert_eq!(heard.ipam_store().await, Some(etcd()));
    let told = heard.told("second").await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(matches!(&told[0], Told::Configured(config) if config.datastores.len() == 2), "tried: {told:?}");
    assert_eq!(told[1], discovered(etcd()));

    controller.reload(both.clone()).await.expect("the same");
    assert_eq!(heard.told("third").await, [], "nothing is new");

    for (stores, text) in [
        (&[("local", "boltdb", "/l")][..], "removes an existing datastore client"),
        (
            &[("local", "boltdb", "/l"), ("global", "etcd", "a:2")][..],
            "modifies an existing datastore client",
        ),
        (
            &[("local", "boltdb", "/l"), ("global", "consul", "a:1")][..],
            "modifies an existing datastore client",
        ),
    ] {
        let outcome = controller.reload(with_stores(stores)).await;
        refused(outcome, ErrorKind::Forbidden, &format!("cannot accept new configuration because it {text}"));
    }
    refused(
        controller.reload(with_stores(&[("swarm", "etcd", "a:1")])).await,
        ErrorKind::InvalidParameter,
        "swarm",
    );
    assert_eq!(controller.config(), both, "what is refused changes nothing");
    assert_eq!(heard.told("fourth").await, []);

    // New certificates are for the same store.
    let mut renewed = both.clone();
    let client = &mut renewed.scopes.get_mut("global").expect("there").client;
    client.config = options(&[("kv.certfile", "/new")]);
    controller.reload(renewed).await.expect("accepted");
    let store = DatastoreConfig { config: options(&[("kv.certfile", "/new")]), ..etcd() };
    assert_eq!(heard.told("fifth").await.pop(), Some(discovered(store.clone())));
    assert_eq!(heard.ipam_store().await, Some(store));
}

#[tokio::test]
async fn a_local_store_alone_is_told_to_nobody_by_discovery() {
    let heard = Heard::start(EngineConfig::default()).await.expect("started");
    heard.told("first").await;
    heard.controller().reload(with_stores(&[("local", "boltdb", "/l")])).await.expect("accepted");
    let told = heard.told("second").await;
    assert!(matches!(&*told, [Told::Configured(config)] if config.datastores.len() == 1), "{told:?}");
    assert_eq!(heard.ipam_store().await, None);
}

#[tokio::test]
async fn whoever_dies_after_a_reload_comes_back_with_what_it_brought() {
    let heard = Heard::start(EngineConfig::default()).await.expect("started");
    let (controller, id) = (heard.controller(), heard.controller().id());
    let config = EngineConfig {
        default_driver: Some(KIND.into()),
        default_pools: vec![DefaultPool { base: "10.77.0.0/16".parse().expect("a net"), size: 24 }],
        drivers: [(KIND.to_owned(), options(&[("speed", "7")]))].into(),
        ..with_stores(&[("global", "etcd", "a:1")])
    };
    controller.reload(config.clone()).await.expect("accepted");
    heard.told("first").await;
    for victim in [Victim::Controller, Victim::Ipam, Victim::Driver(KIND.into())] {
        heard.crash(victim).await;
    }
    assert_eq!((controller.config(), controller.id()), (config.clone(), id));
    assert_eq!(heard.ipam_store().await, Some(etcd()));
    let told = heard.told("second").await;
    let expected = DriverConfig { options: options(&[("speed", "7")]), datastores: vec![etcd()] };
    assert_eq!(told, [Told::Configured(expected), discovered(etcd()), Told::Network("first".into())]);
    let blank = controller.create_network(NetworkSpec::new("third").driver(" ")).await.expect("made");
    let picture = blank.inspect().await.expect("there");
    assert_eq!(picture.driver, KIND);
    assert_eq!(picture.v4[0].pool.to_string(), "10.77.2.0/24", "the third pool of the new block");
    // It still refuses what it refused before it died.
    refused(controller.reload(EngineConfig::default()).await, ErrorKind::Forbidden, "removes");
}

#[tokio::test]
async fn a_reload_that_a_driver_cannot_use_changes_nothing() {
    let heard = Heard::start(EngineConfig::default()).await.expect("started");
    let controller = heard.controller();
    let before = controller.config();
    for (kind, option) in [(KIND, "colour"), ("bridge", "EnableIPTables")] {
        let config = EngineConfig {
            debug: true,
            drivers: [(kind.to_owned(), options(&[(option, "x")]))].into(),
            ..with_stores(&[("global", "etcd", "a:1")])
        };
        refused(controller.reload(config).await, ErrorKind::InvalidParameter, option);
        assert_eq!(controller.config(), before);
        assert_eq!(heard.ipam_store().await, None);
    }
    heard.told("first").await;
    heard.crash(Victim::Driver(KIND.into())).await;
    heard.told("second").await;
}

#[tokio::test]
async fn what_an_engine_is_built_on_is_refused_by_name() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let before = controller.config();
    let mut backlog = before.clone();
    backlog.limits.event_backlog = 7;
    let mut firewall = before.clone();
    firewall.firewall.backend = FirewallBackend::Iptables;
    for (key, config) in [
        ("firewall.backend", firewall),
        ("data_dir", EngineConfig { data_dir: "/elsewhere".into(), ..before.clone() }),
        ("run_dir", EngineConfig { run_dir: "/elsewhere".into(), ..before.clone() }),
        ("instance", EngineConfig { instance: "other".into(), ..before.clone() }),
        ("limits.event_backlog", backlog),
        // In the firewall's table.
        (
            "drivers.bridge.bridge_accept_fwmark",
            EngineConfig {
                drivers: [("bridge".to_owned(), options(&[("bridge_accept_fwmark", "0x1/0x3")]))].into(),
                ..before.clone()
            },
        ),
    ] {
        let config = EngineConfig { debug: true, ..config };
        let error = controller.reload(config).await.expect_err(key);
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
        assert!(
            matches!(error.reason(), Reason::NeedsRestart { key: named, .. } if *named == key),
            "{error}"
        );
        assert!(error.remedy().is_some());
        assert_eq!(controller.config(), before);
    }
}

#[tokio::test]
async fn what_can_take_effect_does_at_once() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let blue = world.network("blue").await;
    let mut events = world.engine().events();

    let missing = controller.default_network().expect_err("none is configured");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let blank = controller.create_network(NetworkSpec::new("red").driver("")).await;
    refused(blank.map(drop), ErrorKind::InvalidParameter, "driver");

    let mut config = EngineConfig {
        default_network: Some(" blue ".into()),
        default_driver: Some("bridge".into()),
        default_pools: vec![DefaultPool { base: "10.77.0.0/16".parse().expect("a net"), size: 24 }],
        ..EngineConfig::default()
    };
    config.limits.operations = 1;
    config.timeouts.operation = Duration::from_secs(5);
    controller.reload(config.clone()).await.expect("accepted");
    assert_eq!(*world.engine().config(), config.clone().normalized());
    let event = bounded("the event", events.next()).await.expect("it runs").expect("nothing is missed");
    let changed =
        ["default_pools", "limits.operations", "timeouts.operation", "default_network", "default_driver"];
    assert_eq!(event.kind, EventKind::ConfigurationReloaded { changed: changed.map(str::to_owned).to_vec() });

    assert_eq!(controller.default_network().expect("configured").id(), blue.id());
    let red = controller.create_network(NetworkSpec::new("red").driver("")).await.expect("made");
    let red = red.inspect().await.expect("there");
    assert_eq!((&*red.driver, &*red.v4[0].pool.to_string()), ("bridge", "10.77.0.0/24"));

    // One operation at a time: while one hangs, another is turned away.
    world.kernel().plan(Fault::verb("create_netns", 1, FaultKind::Hang).always());
    let mut stuck = Box::pin(controller.create_sandbox(SandboxSpec::new("c")));
    assert!(futures::poll!(&mut stuck).is_pending());
    let busy = blue.create_endpoint(EndpointSpec::new("web")).await.expect_err("it is full");
    assert!(matches!(busy.reason(), Reason::Busy { limit: 1, .. }), "{busy}");
}

/// A limit on one object holds for objects that were there before.
#[tokio::test]
async fn objects_that_are_there_follow_a_new_limit() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let sandbox = world.sandbox("c").await;
    let blue = world.network("blue").await;
    let web = blue.create_endpoint(EndpointSpec::new("web")).await.expect("made");
    let next = blue.create_endpoint(EndpointSpec::new("next")).await.expect("made");
    let mut config = EngineConfig::default();
    config.limits.operations_per_object = 1;
    controller.reload(config).await.expect("accepted");
    world.kernel().plan(Fault::verb("create_veth", 1, FaultKind::Hang).always());
    let mut stuck = Box::pin(web.join(&sandbox, JoinSpec::default()));
    assert!(futures::poll!(&mut stuck).is_pending());
    let busy = next.join(&sandbox, JoinSpec::default()).await.expect_err("the sandbox is full");
    assert!(matches!(busy.reason(), Reason::Busy { limit: 1, .. }), "{busy}");
}

/// Reloads take turns, and networks are made beside them; each sees one configuration and not parts of two.
#[tokio::test]
async fn reloads_beside_each_other_and_beside_creations() {
    const ROUNDS: u8 = 40;
    let world = World::new().await;
    let controller = world.engine().controller();
    let mut events = world.engine().events();
    // Each configuration is recognized by its pools, and its heartbeat is the same number.
    let numbered = |n: u8| {
        let base = format!("10.{n}.0.0/16").parse().expect("a net");
        let mut config = EngineConfig {
            default_pools: vec![DefaultPool { base, size: 24 }],
            default_driver: Some("bridge".into()),
            ..EngineConfig::default()
        };
        config.cluster.heartbeat = Duration::from_secs(u64::from(n));
        config
    };
    controller.reload(numbered(1)).await.expect("accepted");
    let reloads = join_all((2..=ROUNDS).map(|n| controller.reload(numbered(n))));
    let creations = join_all(
        (0..ROUNDS).map(|n| controller.create_network(NetworkSpec::new(format!("n{n}")).driver(""))),
    );
    let reader = async {
        for _ in 0..1_000 {
            let config = controller.config();
            let n = u8::try_from(config.cluster.heartbeat.as_secs()).expect("small");
            assert_eq!(config, numbered(n));
            tokio::task::yield_now().await;
        }
    };
    let all = async { tokio::join!(reloads, creations, reader) };
    let (reloaded, created, ()) = bounded("all of it", all).await;
    assert!(reloaded.into_iter().all(|outcome| outcome.is_ok()));
    let blocks: Vec<_> = (1..=ROUNDS).map(|n| numbered(n).default_pools[0].base).collect();
    for network in created {
        let picture = network.expect("made").inspect().await.expect("there");
        let subnet = picture.v4[0].pool;
        assert!(blocks.iter().any(|block| block.contains(&subnet)), "{subnet}");
    }
    // As many as were asked for, whatever their order, and the last one is in force.
    let mut seen = 0;
    while seen < ROUNDS {
        let event = bounded("an event", events.next()).await.expect("it runs").expect("nothing is missed");
        seen += u8::from(matches!(event.kind, EventKind::ConfigurationReloaded { .. }));
    }
    let last = u8::try_from(controller.config().cluster.heartbeat.as_secs()).expect("small");
    let late = controller.create_network(NetworkSpec::new("late")).await.expect("made");
    let subnet = late.inspect().await.expect("there").v4[0].pool;
    assert!(numbered(last).default_pools[0].base.contains(&subnet), "{subnet} of {last}");
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// Only one of two reloads that exclude each other is accepted, and that one is in force everywhere.
#[tokio::test]
async fn of_two_reloads_that_exclude_each_other_one_is_accepted() {
    let heard = Heard::start(EngineConfig::default()).await.expect("started");
    let controller = heard.controller();
    let addresses: Vec<_> = (1..=8).map(|n| format!("a:{n}")).collect();
    let reloads =
        addresses.iter().map(|address| controller.reload(with_stores(&[("global", "etcd", address)])));
    let outcomes = bounded("the reloads", join_all(reloads)).await;
    let (accepted, others): (Vec<_>, Vec<_>) =
        addresses.iter().zip(outcomes).partition(|(_, outcome)| outcome.is_ok());
    let [(address, _)] = &*accepted else { panic!("{accepted:?}") };
    for (_, outcome) in others {
        refused(outcome, ErrorKind::Forbidden, "modifies an existing datastore client");
    }
    let store = DatastoreConfig { address: (*address).clone(), ..etcd() };
    assert_eq!(controller.config().cluster_store(), Some(store.clone()));
    assert_eq!(heard.ipam_store().await, Some(store.clone()));
    let told = heard.told("first").await;
    let discoveries: Vec<_> = told.into_iter().filter(|told| matches!(told, Told::Discovered(_))).collect();
    assert_eq!(discoveries, [discovered(store)]);
}

/// IPAM dies and is filled again from the records of many networks. A reload comes earlier or later on that way: it is
/// lost with the dead one, or would be to the new one, which was made before it.
#[tokio::test]
async fn a_reload_at_any_moment_of_a_restart_of_ipam_reaches_it() {
    let block = DefaultPool { base: "10.77.0.0/16".parse().expect("a net"), size: 24 };
    let next = EngineConfig { default_pools: vec![block], ..with_stores(&[("global", "etcd", "a:1")]) };
    for questions in 0..5 {
        let heard = Heard::start(EngineConfig::default()).await.expect("started");
        let controller = heard.controller();
        let networks = (0..300).map(|n| controller.create_network(NetworkSpec::new(format!("n{n}"))));
        assert!(join_all(networks).await.iter().all(Result::is_ok));
        let mut events = heard.simulation.engine().events();
        let crash = heard.simulation.crash_actor(Victim::Ipam);
        let reload = async {
            // Each takes its turn in the controller, and so a while.
            for _ in 0..questions {
                controller.drivers().await.expect("listed");
            }
            controller.reload(next.clone()).await
        };
        let (crashed, reloaded) = bounded("both", async { tokio::join!(crash, reload) }).await;
        crashed.expect("told");
        reloaded.expect("accepted");
        let back = async {
            while let Some(event) = events.next().await {
                if matches!(event.expect("nothing missed").kind, EventKind::ActorRestarted { .. }) {
                    return;
                }
            }
        };
        bounded("the restart", back).await;
        assert_eq!(heard.ipam_store().await, Some(etcd()), "after {questions} questions");
        let last = controller.create_network(NetworkSpec::new("last")).await.expect("made");
        let pool = last.inspect().await.expect("there").v4[0].pool;
        assert!(block.base.contains(&pool), "{pool} after {questions} questions");
    }
}

#[tokio::test]
async fn a_stopped_engine_keeps_its_configuration_and_takes_no_other() {
    let world = World::new().await;
    let controller = world.engine().controller();
    world.engine().shutdown(netloom::ShutdownMode::Graceful).await.expect("stopped");
    let outcome = controller.reload(EngineConfig { debug: true, ..EngineConfig::default() }).await;
    refused(outcome, ErrorKind::Unavailable, "shutting down");
    assert_eq!(controller.config(), EngineConfig::default());
}

// === Lists, and files ===

#[tokio::test]
async fn a_controller_names_itself_and_its_drivers() {
    let (one, two) = (World::new().await, World::new().await);
    let (one, two) = (one.engine().controller(), two.engine().controller());
    assert_ne!(one.id(), two.id());
    assert_eq!(one.id(), one.clone().id());
    assert_eq!(one.drivers().await.expect("listed"), ["bridge", "host", "null"]);
    assert_eq!(one.ipam_drivers().await.expect("listed"), ["default", "null"]);
    // What it gives is a copy.
    let mut copy = one.config();
    copy.debug = true;
    assert!(!one.config().debug);
}

#[tokio::test]
async fn an_engine_is_configured_by_a_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("netloom.toml");
    let text = "title = \"old\"\ninstance = \"filed\"\n[daemon]\nDefaultDriver = \"bridge\"\n[datastore]\nembedded = true\n";
    std::fs::write(&path, text).expect("written");
    let (config, ignored) = config_from_file(&path).expect("read");
    let ignored: Vec<_> = ignored.iter().map(|key| (&*key.key, key.line)).collect();
    assert_eq!(ignored, [("title", 1), ("datastore", 5)]);
    let kernel = netloom::testkit::SimKernel::new();
    let builder = Engine::builder().config_file(&path).expect("read");
    let store = netloom_store::MemoryDisk::default().open();
    let builder = builder.kernel(std::sync::Arc::new(kernel)).store(Box::new(store));
    let engine = builder.start().await.expect("started");
    assert_eq!(*engine.config(), config);
    assert_eq!(engine.identity(), "filed");

    std::fs::write(&path, "instance = \"filed\"\n[timeouts]\noperation = \"soon\"\n").expect("written");
    let error = config_from_file(&path).expect_err("no time");
    let Reason::ConfigFile { file, line, key, .. } = error.reason() else { panic!("{error:?}") };
    assert_eq!((file.as_deref(), *line, &**key), (path.to_str(), 3, "timeouts.operation"));
    let gone = Engine::builder().config_file(dir.path().join("gone")).map(drop);
    refused(gone, ErrorKind::InvalidParameter, "gone");
}

/// Drivers whose networks reach other nodes are told of them, once and again after they have died.
#[tokio::test]
async fn nodes_are_told_to_drivers_that_reach_them() {
    let heard = Heard::start(EngineConfig::default()).await.expect("started");
    heard.told("first").await;
    let (address, this_node) = ([192, 0, 2, 2].into(), false);
    let node = || NodeDiscovery { address, this_node };
    for present in [true, true, false, false, true] {
        heard.simulation.tell_of_node(address, this_node, present).await.expect("told");
    }
    let appeared = || Told::Discovered(Discovery::NodeAppeared(node()));
    let lost = Told::Discovered(Discovery::NodeLost(node()));
    assert_eq!(heard.told("second").await, [appeared(), lost, appeared()]);
    heard.crash(Victim::Driver(KIND.into())).await;
    let told = heard.told("third").await;
    let nodes: Vec<_> = told.into_iter().filter(|told| matches!(told, Told::Discovered(_))).collect();
    assert_eq!(nodes, [appeared()], "of those there are");
}
