//! Everything that must be refused: with a typed error that names the object, and nothing changed.

use std::sync::Arc;

use netloom::testkit::SimKernel;
use netloom::{
    Certainty, EndpointSpec, Error, ErrorKind, IpamPoolSpec, JoinSpec, MacAddr, NetworkSpec, Reason,
    SandboxSpec,
};

use crate::mortal::{Death, Mortal};
use crate::support::{World, bounded, delete_everything};

fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>, kind: ErrorKind, names: &str) {
    let error = outcome.expect_err("must be refused");
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(error.certainty(), Certainty::Aborted, "{error}");
    assert!(error.to_string().contains(names), "{error} must name {names}");
}

#[tokio::test]
async fn malformed_networks_change_nothing() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let subnet = |text: &str| NetworkSpec::new("n").subnet(text.parse().unwrap());
    let of_ipam = |key: &str, value: &str| {
        let mut spec = NetworkSpec::new("n");
        spec.ipam.options.insert(key.into(), value.into());
        spec
    };
    let named_auxiliary = |name: &str| {
        let mut spec = subnet("10.0.0.0/24");
        spec.ipam.v4[0].auxiliary.insert(name.into(), "10.0.0.9".parse().unwrap());
        spec
    };
    for (spec, names) in [
        (NetworkSpec::new(""), "blank"),
        (NetworkSpec::new(" \t"), "blank"),
        (NetworkSpec::new("a\nb"), "control"),
        (NetworkSpec::new("n".repeat(300)), "255"),
        (subnet("10.0.0.1/8"), "10.0.0.0/8"),
        (subnet("224.0.0.0/24"), "224.0.0.0/24"),
        (NetworkSpec::new("n").option("com.docker.network.driver.mtu", "many"), "mtu"),
        (NetworkSpec::new("n").option("com.docker.network.bridge.name", "no/slash"), "bridge.name"),
        (NetworkSpec::new("n").option("com.docker.network.bridge.name", "all"), "bridge.name"),
        (NetworkSpec::new("n").option("com.docker.network.bridge.name", "default"), "choose another"),
        (NetworkSpec::new("n").option("com.docker.network.driver.mtuu", "1500"), "driver.mtuu"),
        (NetworkSpec::new("n").option("com.docker.network.enable_ipv6", "x"), "the field \"ipv6\""),
        (NetworkSpec::new("n").option("com.docker.network.container_iface_prefix", "a/b"), "iface_prefix"),
        (NetworkSpec::new("n").option("com.docker.network.container_iface_prefix", "eth1"), "iface_prefix"),
        (NetworkSpec::new("n").option("k", "v".repeat(20_000)), "options.k"),
        (of_ipam("k", &"v".repeat(20_000)), "ipam.options.k"),
        (of_ipam(" ", "v"), "ipam.options"),
        (named_auxiliary(" "), "10.0.0.9"),
        (subnet("10.0.0.0/24").subnet("10.1.0.0/24".parse().unwrap()), "one IPv4 pool"),
    ] {
        let outcome = controller.create_network(spec.clone()).await;
        let error = outcome.expect_err(&format!("{spec:?}"));
        assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{error} of {spec:?}");
        assert!(error.to_string().contains(names), "{error} must name {names}");
        assert_eq!(error.certainty(), Certainty::Aborted, "{error}");
    }
    refused(
        controller.create_network(NetworkSpec::new("n").driver("warp")).await,
        ErrorKind::NotFound,
        "warp",
    );
    let mut foreign = NetworkSpec::new("n");
    foreign.ipam.driver = "acme".into();
    refused(controller.create_network(foreign).await, ErrorKind::NotFound, "acme (known: default, null)");
    assert!(controller.networks().is_empty());
    world.assert_pristine().await;
}

/// What an operator asks for and does not get is said, and not found out by others later.
#[tokio::test]
async fn options_that_would_have_no_effect_are_refused() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let with = |key: &str, value: &str| NetworkSpec::new("n").option(key, value);
    for (key, value) in [
        ("com.docker.network.bridge.default_bridge", "true"),
        ("com.docker.network.bridge.gateway_mode_ipv4", "isolated"),
        ("com.docker.network.bridge.gateway_mode_ipv6", "routed"),
        ("com.docker.network.bridge.trusted_host_interfaces", "eth0:"),
        ("com.docker.network.host_ipv6", "2001:db8::7"),
    ] {
        refused(controller.create_network(with(key, value)).await, ErrorKind::InvalidParameter, key);
    }
    assert!(controller.networks().is_empty());
    let plain = with("com.docker.network.bridge.enable_icc", "true")
        .option("com.docker.network.bridge.enable_ip_masquerade", "false")
        .option("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0")
        .option("com.example.color", "blue");
    let network = controller.create_network(plain).await.expect("it is so already");
    for key in ["com.docker.network.endpoint.macaddress", "com.docker.network.endpoint.sysctls"] {
        let outcome = network.create_endpoint(EndpointSpec::new("e").option(key, "x")).await;
        refused(outcome, ErrorKind::InvalidParameter, key);
    }
    assert!(network.endpoints().await.unwrap().is_empty());
    let others = EndpointSpec::new("e").option("com.example.color", "blue");
    network.create_endpoint(others).await.expect("somebody else's option");
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn a_host_name_that_would_be_more_than_a_name_is_refused() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let named = |hostname: &str| SandboxSpec { hostname: hostname.into(), ..SandboxSpec::new("c") };
    for bad in ["web\n127.0.0.1 bank", "a b", "a\tb", "a\u{1}", "a..b", "#"] {
        refused(controller.create_sandbox(named(bad)).await, ErrorKind::InvalidParameter, "hostname");
    }
    assert!(controller.sandboxes().is_empty());
    controller.create_sandbox(named("my_host-1.example.com")).await.expect("an ordinary one");
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn default_pools_that_no_container_can_use_keep_the_engine_from_starting() {
    let config = |pools: &[(&str, u8)]| netloom::EngineConfig {
        default_pools: pools
            .iter()
            .map(|(base, size)| netloom::DefaultPool { base: base.parse().unwrap(), size: *size })
            .collect(),
        ..netloom::EngineConfig::default()
    };
    for (base, size) in [("0.0.0.0/0", 30), ("224.0.0.0/4", 24), ("fe80::/64", 80), ("ff00::/8", 64)] {
        let start = netloom::Engine::simulation().config(config(&[(base, size)])).start().await;
        let error = start.map(drop).expect_err("must be refused");
        assert_eq!((error.kind(), error.certainty()), (ErrorKind::InvalidParameter, Certainty::Aborted));
        assert!(error.to_string().contains("default_pools") && error.to_string().contains(base), "{error}");
    }
    let start = netloom::Engine::simulation().config(config(&[("10.0.0.0/23", 24), ("10.0.0.0/22", 25)]));
    let error = start.start().await.map(drop).expect_err("they overlap").to_string();
    assert!(error.contains("10.0.0.0/23 size 24") && error.contains("10.0.0.0/22 size 25"), "{error}");
}

#[tokio::test]
async fn taken_names_and_overlapping_subnets_name_their_holder() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let subnet = "10.5.0.0/16";
    let first = controller
        .create_network(
            NetworkSpec::new("first").id("given-id".parse().unwrap()).subnet(subnet.parse().unwrap()),
        )
        .await
        .unwrap();
    refused(controller.create_network(NetworkSpec::new("first")).await, ErrorKind::Conflict, "given-id");
    let same_id = NetworkSpec::new("second").id(first.id());
    refused(controller.create_network(same_id).await, ErrorKind::Conflict, "first");
    for overlapping in ["10.5.0.0/16", "10.5.1.0/24", "10.0.0.0/8"] {
        let spec = NetworkSpec::new("second").subnet(overlapping.parse().unwrap());
        refused(controller.create_network(spec).await, ErrorKind::Forbidden, "first");
    }
    let spec = NetworkSpec::new("second").option("com.docker.network.bridge.name", "br-given-id");
    refused(controller.create_network(spec).await, ErrorKind::Forbidden, "br-given-id");
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn addresses_must_be_free_and_of_the_network() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let pool = IpamPoolSpec {
        subnet: Some("10.6.0.0/29".parse().unwrap()),
        auxiliary: [("router".to_owned(), "10.6.0.6".parse().unwrap())].into(),
        ..IpamPoolSpec::default()
    };
    let network = controller.create_network(NetworkSpec::new("small").pool(pool)).await.unwrap();
    let fixed = |name: &str, address: &str| EndpointSpec::new(name).address(address.parse().unwrap());
    network.create_endpoint(fixed("one", "10.6.0.3")).await.unwrap();
    refused(network.create_endpoint(fixed("two", "10.6.0.3")).await, ErrorKind::Forbidden, "one");
    refused(network.create_endpoint(fixed("two", "10.6.0.1")).await, ErrorKind::Forbidden, "gateway");
    refused(network.create_endpoint(fixed("two", "10.6.0.6")).await, ErrorKind::Forbidden, "router");
    for outside in ["10.6.0.8", "192.0.2.1", "10.6.0.0", "10.6.0.7", "fd00::1"] {
        let outcome = network.create_endpoint(fixed("two", outside)).await;
        refused(outcome, ErrorKind::InvalidParameter, outside);
    }
    refused(network.create_endpoint(EndpointSpec::new("one")).await, ErrorKind::Conflict, "one");
    refused(network.create_endpoint(EndpointSpec::new(" ")).await, ErrorKind::InvalidParameter, "endpoint");
    let group = EndpointSpec::new("two").mac(MacAddr([1, 0, 0, 0, 0, 1]));
    refused(network.create_endpoint(group).await, ErrorKind::InvalidParameter, "mac");
    for n in 0..3 {
        network.create_endpoint(EndpointSpec::new(format!("more{n}"))).await.unwrap();
    }
    refused(network.create_endpoint(EndpointSpec::new("last")).await, ErrorKind::Exhausted, "10.6.0.0/29");
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn what_is_in_use_cannot_be_deleted_or_joined_twice() {
    let world = World::new().await;
    let network = world.network("blue").await;
    let (endpoint, sandbox) = world.joined(&network, "web").await;
    let error = network.delete().await.expect_err("it has an endpoint");
    assert_eq!(error.kind(), ErrorKind::Forbidden);
    match error.reason() {
        Reason::ActiveEndpoints { endpoints, .. } => {
            assert_eq!(endpoints.len(), 1);
            assert_eq!(
                (endpoints[0].name.as_str(), endpoints[0].id.as_str()),
                ("web", &*endpoint.id().text())
            );
        }
        other => panic!("{other:?}"),
    }
    refused(endpoint.delete().await, ErrorKind::Forbidden, "web");
    let join = JoinSpec::default();
    refused(endpoint.join(&sandbox, join).await, ErrorKind::Forbidden, &sandbox.id().short());
    let other = world.sandbox("other").await;
    refused(endpoint.join(&other, join).await, ErrorKind::Forbidden, &sandbox.id().short());
    refused(endpoint.leave(&other).await, ErrorKind::Forbidden, "web");
    let mac = endpoint.inspect().await.unwrap().mac.expect("it has one");
    let twin = network.create_endpoint(EndpointSpec::new("twin").mac(mac)).await;
    refused(twin, ErrorKind::Forbidden, "\"web\"");
    let second = world.engine().controller().create_sandbox(SandboxSpec::new("other")).await;
    refused(second, ErrorKind::Conflict, "other");
    let blank = world.engine().controller().create_sandbox(SandboxSpec::new(" ")).await;
    refused(blank, ErrorKind::InvalidParameter, "sandbox");
    assert_eq!(endpoint.inspect().await.unwrap().sandbox, Some(sandbox.id()), "nothing was changed");
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn who_is_gone_is_not_found() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let network = world.network("blue").await;
    let (endpoint, sandbox) = world.joined(&network, "web").await;
    endpoint.leave(&sandbox).await.unwrap();
    refused(endpoint.leave(&sandbox).await, ErrorKind::Forbidden, "web");
    endpoint.delete().await.unwrap();
    refused(endpoint.delete().await, ErrorKind::NotFound, &endpoint.id().short());
    refused(endpoint.inspect().await, ErrorKind::NotFound, &endpoint.id().short());
    refused(endpoint.join(&sandbox, JoinSpec::default()).await, ErrorKind::NotFound, &endpoint.id().short());
    sandbox.delete().await.unwrap();
    refused(sandbox.delete().await, ErrorKind::NotFound, &sandbox.id().short());
    network.delete().await.unwrap();
    refused(network.delete().await, ErrorKind::NotFound, &network.id().short());
    refused(
        network.create_endpoint(EndpointSpec::new("e")).await,
        ErrorKind::NotFound,
        &network.id().short(),
    );
    refused(controller.network_by_name("blue"), ErrorKind::NotFound, "blue");
    refused(controller.network_by_name(""), ErrorKind::InvalidParameter, "blank");
    refused(controller.sandbox_by_container("nobody"), ErrorKind::NotFound, "nobody");
    world.assert_pristine().await;
}

#[tokio::test]
async fn a_pool_of_the_host_is_neither_chosen_nor_given() {
    let kernel = SimKernel::builder().host_link("eth0", "172.17.0.5/16").unwrap().build();
    let before = kernel.snapshot();
    let simulation = netloom::Engine::simulation().kernel(kernel).start().await.unwrap();
    let controller = simulation.engine().controller();
    let automatic = controller.create_network(NetworkSpec::new("auto")).await.unwrap();
    let pool = automatic.inspect().await.unwrap().v4[0].pool;
    assert_eq!(pool.to_string(), "172.18.0.0/16", "the first default pool is the host's");
    let spec = NetworkSpec::new("given").subnet("172.17.3.0/24".parse().unwrap());
    refused(controller.create_network(spec).await, ErrorKind::Forbidden, "172.17.0.0/16");
    automatic.delete().await.unwrap();
    simulation.engine().drain().await.unwrap();
    simulation.kernel().assert_pristine(&before);
}

/// The first default pools are in the way of the host's name servers. A subnet that is given is taken at its word,
/// as libnetwork does.
#[tokio::test]
async fn a_pool_with_a_name_server_in_it_is_not_chosen_but_may_be_given() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("resolv.conf");
    let config = || netloom::EngineConfig {
        name_server_files: vec![dir.path().join("gone"), file.clone()],
        ..netloom::EngineConfig::default()
    };
    let kernel = SimKernel::new();
    let before = kernel.snapshot();
    let host = Arc::new(Mortal::new(kernel.clone(), Death::never()).with_jobs());
    let disk = netloom_store::MemoryDisk::default();
    let engine = netloom::Engine::builder().config(config()).kernel(host).store(Box::new(disk.open()));
    let engine = engine.start().await.unwrap();
    let pools = async |name: &str| {
        let network = engine.controller().create_network(NetworkSpec::new(name).ipv6(true)).await.unwrap();
        let picture = network.inspect().await.unwrap();
        [picture.v4[0].pool.to_string(), picture.v6[0].pool.to_string()]
    };
    assert_eq!(pools("nothing").await, ["172.17.0.0/16", "fda3:2d68:6785::/64"]);
    // Whatever the file says at the moment.
    std::fs::write(&file, "nameserver 172.18.0.53\nnameserver fda3:2d68:6785:1::53\n").unwrap();
    assert_eq!(pools("both").await, ["172.19.0.0/16", "fda3:2d68:6785:2::/64"]);
    let given = NetworkSpec::new("given").ipv6(true).subnet("172.18.0.0/24".parse().unwrap());
    let given = engine.controller().create_network(given).await.expect("the caller knows better");
    let chosen = given.inspect().await.unwrap().v6[0].pool;
    assert_eq!(chosen.to_string(), "fda3:2d68:6785:3::/64", "what is left to the engine keeps away");
    std::fs::write(&file, "nameserver 172.20.0.1\n").unwrap();
    assert_eq!(pools("next").await[0], "172.21.0.0/16");
    delete_everything(&engine).await.unwrap();
    bounded("draining", engine.drain()).await.unwrap();
    kernel.assert_pristine(&before);

    // A simulated machine has no such file, whatever the real one has.
    std::fs::write(&file, "nameserver 172.17.0.1\n").unwrap();
    let world = World::with(config()).await;
    let network = world.network("blue").await;
    assert_eq!(network.inspect().await.unwrap().v4[0].pool.to_string(), "172.17.0.0/16");
}
