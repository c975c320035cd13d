//! Renaming, and beginning anew.

use netloom::testkit::{Fault, FaultKind};
use netloom::{EndpointSpec, ErrorKind, EventKind, JoinSpec, SandboxSpec};

use crate::support::{World, bounded};

/// libnetwork's `Sandbox.Rename`: all endpoints, or none.
#[tokio::test]
async fn a_sandbox_is_renamed_on_all_its_networks_or_on_none() {
    let world = World::new().await;
    let sandbox = world.sandbox("c1").await;
    let networks = world.blue_and_red(&sandbox).await;
    let mut events = world.engine().events();
    sandbox.rename("new").await.expect("renamed");
    for network in &networks {
        network.endpoint_by_name("new").await.expect("its new name");
        assert_eq!(network.endpoint_by_name("old").await.expect_err("free").kind(), ErrorKind::NotFound);
        let event = bounded("the event", events.next()).await.expect("told").expect("none missed");
        assert!(matches!(&event.kind, EventKind::EndpointRenamed { name, .. } if name == "new"), "{event:?}");
    }
    // The old name is free again, and the new one is not.
    networks[1].create_endpoint(EndpointSpec::new("old")).await.expect("it is free");
    let taken = networks[1].create_endpoint(EndpointSpec::new("new")).await.expect_err("taken");
    assert_eq!(taken.kind(), ErrorKind::Conflict);

    let taken = sandbox.rename("old").await.expect_err("taken on one of them");
    assert_eq!(taken.kind(), ErrorKind::Conflict);
    for bad in ["", " ", "a\nb"] {
        assert_eq!(sandbox.rename(bad).await.expect_err(bad).kind(), ErrorKind::InvalidParameter);
    }
    sandbox.rename("new").await.expect("it has that name already");
    let world = world.kill_and_restart().await;
    for name in ["blue", "red"] {
        let network = world.engine().controller().network_by_name(name).expect("there");
        network.endpoint_by_name("new").await.expect("renamed on both or none, and recorded");
    }
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn a_refresh_applies_the_new_spec_and_keeps_addresses_order_and_priorities() {
    let world = World::new().await;
    let controller = world.engine().controller();
    let sandbox = world.sandbox("c1").await;
    let mut before = Vec::new();
    for (name, priority) in [("blue", 0), ("red", 7)] {
        let network = world.network(name).await;
        let endpoint = network.create_endpoint(EndpointSpec::new("e")).await.expect("an endpoint");
        endpoint.join(&sandbox, JoinSpec::priority(priority)).await.expect("joined");
        let seen = endpoint.inspect().await.expect("inspected");
        before.push((endpoint, seen.ipv4, seen.mac, priority));
    }
    for (spec, field) in [
        (SandboxSpec::new("c2"), "container_id"),
        (SandboxSpec::new("c1").host_namespace(), "namespace"),
        (SandboxSpec::new("c1").hostname("a b"), "hostname"),
    ] {
        let error = sandbox.refresh(spec).await.expect_err(field);
        assert_eq!(error.kind(), ErrorKind::InvalidParameter);
        assert!(error.to_string().contains(field), "{error}");
    }
    assert_eq!(sandbox.inspect().await.expect("inspected").endpoints[0].ifname.as_str(), "eth1", "untouched");

    sandbox.refresh(SandboxSpec::new("c1").hostname("new").label("a", "b")).await.expect("refreshed");
    let seen = sandbox.inspect().await.expect("inspected");
    assert_eq!((seen.hostname.as_str(), seen.labels.len()), ("new", 1));
    // Names of interfaces are never used again; the order is that of the first joins.
    let names: Vec<_> =
        seen.endpoints.iter().map(|e| (e.endpoint, e.ifname.to_string(), e.priority)).collect();
    let [blue, red] = [&before[0].0, &before[1].0];
    assert_eq!(names, [(red.id(), "eth3".to_owned(), 7), (blue.id(), "eth2".to_owned(), 0)]);
    for (endpoint, ipv4, mac, _) in &before {
        let seen = endpoint.inspect().await.expect("inspected");
        assert_eq!((seen.ipv4, seen.mac), (*ipv4, *mac));
    }
    world.settles().await;
    let world = world.kill_and_restart().await;
    let again = world.engine().controller().sandbox_by_container("c1").expect("there");
    assert_eq!(again.inspect().await.expect("inspected").hostname, "new");
    world.settles().await;
    world.delete_everything().await;
    world.assert_pristine().await;
    drop(controller);
}

/// One that cannot be plugged in again stays out, the others are in, and the answer says which and why.
#[tokio::test]
async fn a_refresh_that_fails_on_the_way_leaves_a_sandbox_in_order() {
    for verb in ["create_veth", "set_link", "add_address"] {
        for nth in 1..=2 {
            let world = World::new().await;
            let sandbox = world.sandbox("c1").await;
            for name in ["blue", "red"] {
                let network = world.network(name).await;
                let endpoint = network.create_endpoint(EndpointSpec::new("e")).await.expect("an endpoint");
                endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
            }
            // Counted from here on.
            world.kernel().plan(Fault::verb(verb, nth, FaultKind::Refuse(12)));
            sandbox.refresh(SandboxSpec::new("c1").hostname("new")).await.expect_err("one is refused");
            world.kernel().clear_faults();
            let seen = sandbox.inspect().await.expect("inspected");
            assert_eq!((seen.endpoints.len(), seen.hostname.as_str()), (1, "new"), "{verb} {nth}");
            world.settles().await;
            world.delete_everything().await;
            world.assert_pristine_soon().await;
        }
    }
}
