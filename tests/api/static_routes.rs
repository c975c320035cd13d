//! Further routes that a driver wants in a sandbox (libnetwork's `AddStaticRoute`).

use std::time::Instant;

use netloom::kernel::{Kernel, Netns, Op, Route};
use netloom::testkit::SimKernel;
use netloom::{EndpointSpec, Engine, EngineConfig, JoinSpec, Network, Repair, SandboxSpec, StaticRoute};

use crate::outless::{Brings, Outless};
use crate::support::{PATIENCE, World, check_truth};

/// One by a next hop, and one on the link itself.
fn routes() -> Vec<StaticRoute> {
    let net = |text: &str| text.parse().expect("a net");
    vec![
        StaticRoute { destination: net("10.50.0.0/16"), via: Some([10, 7, 0, 9].into()) },
        StaticRoute { destination: net("10.60.0.0/16"), via: None },
        StaticRoute { destination: net("fd50::/48"), via: Some("fd07::9".parse().expect("an address")) },
    ]
}

async fn world() -> (World, Network) {
    let kernel = SimKernel::new();
    let before = kernel.snapshot();
    let driver = Outless::bringing("routed", Brings { gateway: true, routes: routes(), content: false });
    let simulation = Engine::simulation().config(EngineConfig::default()).kernel(kernel);
    let simulation = simulation.driver(driver.registration()).start().await.expect("the engine starts");
    let world = World { simulation, before };
    let spec = driver.network("blue");
    let spec = ["10.7.0.0/24", "fd07::/64"]
        .into_iter()
        .fold(spec, |spec, s| spec.subnet(s.parse().expect("a subnet")));
    let network = world.engine().controller().create_network(spec).await.expect("a network");
    (world, network)
}

/// The routes in a sandbox, without default routes and those of its subnets.
async fn seen(world: &World, netns: Netns) -> Vec<StaticRoute> {
    let found = world.kernel().routes(netns, Instant::now() + PATIENCE).await.expect("routes");
    let mut found: Vec<_> = found
        .into_iter()
        .map(|route| StaticRoute { destination: route.destination, via: route.via })
        .collect();
    found.retain(|route| routes().iter().any(|own| own.destination == route.destination));
    found.sort_by_key(|route| route.destination.to_string());
    found
}

#[tokio::test]
async fn they_come_with_the_endpoint_are_listed_and_go_with_it() {
    let (world, network) = world().await;
    let (endpoint, sandbox) = world.joined(&network, "web").await;
    let netns = Netns::Named(sandbox.netns().expect("a name"));
    assert_eq!(seen(&world, netns).await, routes());
    assert_eq!(endpoint.inspect().await.expect("inspected").routes, routes());
    check_truth(world.engine(), world.kernel()).await.expect("the truth");
    endpoint.leave(&sandbox).await.expect("left");
    assert_eq!(
        (seen(&world, netns).await, endpoint.inspect().await.expect("inspected").routes),
        (vec![], vec![])
    );
    // What is in a sandbox keeps its own while another one leaves.
    endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
    let other =
        world.network("other").await.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
    other.join(&sandbox, JoinSpec::default()).await.expect("joined");
    other.leave(&sandbox).await.expect("left");
    assert_eq!(seen(&world, netns).await, routes());
    sandbox.refresh(SandboxSpec::new("blue-web").hostname("again")).await.expect("again");
    assert_eq!(seen(&world, netns).await, routes());
    check_truth(world.engine(), world.kernel()).await.expect("the truth");
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// Each one that the container has dropped is told of, and put back by the next engine.
#[tokio::test]
async fn missing_ones_are_told_of_and_put_back_by_a_restart() {
    let (mut world, network) = world().await;
    let (endpoint, sandbox) = world.joined(&network, "web").await;
    let netns = Netns::Named(sandbox.netns().expect("a name"));
    let link = endpoint.inspect().await.expect("inspected").ifname.expect("a link");
    for StaticRoute { destination, via } in routes() {
        let route = Route { destination, via, link };
        world.kernel().foreign_op(&Op::DeleteRoute { netns, route }).expect("it was there");
        let told = world.engine().diff().await.expect("compared");
        let told: Vec<_> = told.iter().map(ToString::to_string).collect();
        let missing = format!("route {route} of {netns} is missing, which sandbox");
        assert!(told.len() == 1 && told[0].starts_with(&missing), "{told:?}");
        world = world.kill_and_restart().await;
        let repairs = world.engine().repairs();
        let remade = format!("route of sandbox {}: {route}", sandbox.id().short());
        assert!(
            matches!(repairs, [Repair::KernelObjectRemade { object }] if *object == remade),
            "{repairs:?}"
        );
        assert_eq!(seen(&world, netns).await, routes());
        check_truth(world.engine(), world.kernel()).await.expect("the truth");
    }
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// One that cannot be set fails the join, which leaves nothing.
#[tokio::test]
async fn one_that_is_there_already_fails_the_join_and_leaves_nothing() {
    let (world, network) = world().await;
    let (_, sandbox) = world.joined(&network, "web").await;
    let before = world.kernel().snapshot();
    let second = network.create_endpoint(EndpointSpec::new("second")).await.expect("an endpoint");
    let error = second.join(&sandbox, JoinSpec::default()).await.expect_err("its routes are taken");
    assert!(error.to_string().contains("10.50.0.0/16"), "{error}");
    world.settles().await;
    world.kernel().assert_pristine(&before);
    assert_eq!(seen(&world, Netns::Named(sandbox.netns().expect("a name"))).await, routes());
    world.delete_everything().await;
    world.assert_pristine().await;
}
