//! Everything that must be refused: with a typed error that names the object, and nothing changed.

use netloom::{
    Certainty, EndpointSpec, Error, ErrorKind, IpamPoolSpec, JoinSpec, MacAddr, NetworkSpec, Reason,
    SandboxSpec,
};

use crate::support::World;

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
    for (spec, names) in [
        (NetworkSpec::new(""), "blank"),
        (NetworkSpec::new(" \t"), "blank"),
        (NetworkSpec::new("a\nb"), "control"),
        (NetworkSpec::new("n".repeat(300)), "255"),
        (subnet("10.0.0.1/8"), "10.0.0.0/8"),
        (subnet("224.0.0.0/24"), "224.0.0.0/24"),
        (NetworkSpec::new("n").option("com.docker.network.driver.mtu", "many"), "mtu"),
        (NetworkSpec::new("n").option("com.docker.network.bridge.name", "no/slash"), "bridge.name"),
        (NetworkSpec::new("n").option("k", "v".repeat(20_000)), "options.k"),
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
    foreign.ipam.driver = "dhcp".into();
    refused(controller.create_network(foreign).await, ErrorKind::NotFound, "dhcp");
    assert!(controller.networks().is_empty());
    world.assert_pristine().await;
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
                ("web", endpoint.id().as_str())
            );
        }
        other => panic!("{other:?}"),
    }
    refused(endpoint.delete().await, ErrorKind::Forbidden, "web");
    let join = JoinSpec::default();
    refused(endpoint.join(&sandbox, join).await, ErrorKind::Forbidden, sandbox.id().short());
    let other = world.sandbox("other").await;
    refused(endpoint.join(&other, join).await, ErrorKind::Forbidden, sandbox.id().short());
    refused(endpoint.leave(&other).await, ErrorKind::Forbidden, "web");
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
    refused(endpoint.delete().await, ErrorKind::NotFound, endpoint.id().short());
    refused(endpoint.inspect().await, ErrorKind::NotFound, endpoint.id().short());
    refused(endpoint.join(&sandbox, JoinSpec::default()).await, ErrorKind::NotFound, endpoint.id().short());
    sandbox.delete().await.unwrap();
    refused(sandbox.delete().await, ErrorKind::NotFound, sandbox.id().short());
    network.delete().await.unwrap();
    refused(network.delete().await, ErrorKind::NotFound, network.id().short());
    refused(network.create_endpoint(EndpointSpec::new("e")).await, ErrorKind::NotFound, network.id().short());
    refused(controller.network_by_name("blue"), ErrorKind::NotFound, "blue");
    refused(controller.network_by_name(""), ErrorKind::InvalidParameter, "blank");
    refused(controller.sandbox_by_container("nobody"), ErrorKind::NotFound, "nobody");
    world.assert_pristine().await;
}

#[tokio::test]
async fn a_pool_of_the_host_is_neither_chosen_nor_given() {
    let kernel = netloom::testkit::SimKernel::builder().host_link("eth0", "172.17.0.5/16").unwrap().build();
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
