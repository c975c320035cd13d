//! IPAM drivers of the embedder's own, and the driver `null`: what they are asked, what comes of it, and that it comes back
//! after a restart. What they do wrong is in `custom_ipam_faults.rs`.

use futures::FutureExt;
use netloom::drivers::{EndpointCreated, Joined};
use netloom::ipam::{
    AddressRelease, AddressRequest, GATEWAY, IpamCapability, IpamDiscovery, IpamRegistration, MAC_ADDRESS,
    Owner, PoolId, PoolRequest, REQUEST_ADDRESS_TYPE,
};
use netloom::snapshot::NetworkPhase;
use netloom::{
    DatastoreConfig, EndpointSpec, Engine, EngineConfig, ErrorKind, IpamPoolSpec, JoinSpec, NetworkSpec,
    Reason, Victim,
};

use crate::acme::{Acme, Call, NAME, of_acme};
use crate::scripted::Scripted;
use crate::support::{World, bounded, until};

const REPLAYS: IpamCapability = IpamCapability { requires_mac_address: false, requires_request_replay: true };

#[tokio::test]
async fn an_ipam_driver_gives_pools_and_addresses_and_gets_each_back_once() {
    let acme = Acme::new(IpamCapability::default());
    let world = acme.world(EngineConfig::default(), |more| more).await;
    let controller = world.engine().controller();
    assert_eq!(controller.ipam_drivers().await.unwrap(), ["acme", "default", "null"]);
    let mut spec = of_acme("blue");
    spec.ipam.options = [("color".to_owned(), "blue".to_owned())].into();
    spec.ipam.v4 = vec![IpamPoolSpec {
        subnet: Some("10.5.0.0/16".parse().unwrap()),
        range: Some("10.5.1.0/24".parse().unwrap()),
        auxiliary: [("printer".to_owned(), [10, 5, 1, 9].into())].into(),
        ..IpamPoolSpec::default()
    }];
    let blue = controller.create_network(spec.ipv6(true)).await.expect("a network");
    let options = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let (v4, v6) = (PoolId("here/10.5.0.0/16".into()), PoolId("here/fd77:0::/64".into()));
    let calls = acme.calls();
    let Some(Call::Pool(first)) = calls.first() else { panic!("{calls:?}") };
    let expected = PoolRequest {
        space: "here".into(),
        pool: Some("10.5.0.0/16".parse().unwrap()),
        sub_pool: Some("10.5.1.0/24".parse().unwrap()),
        options: options("color", "blue"),
        exclude: first.exclude.clone(),
        v6: false,
        network: blue.id(),
        replay: None,
    };
    let address = |pool: &PoolId, owner, address: Option<[u8; 4]>, options| {
        let address = address.map(Into::into);
        Call::Address(AddressRequest { pool: pool.clone(), address, options, owner })
    };
    let v6 = PoolId(v6.0.replace(":0::", "::"));
    let for_gateway = || options(REQUEST_ADDRESS_TYPE, GATEWAY);
    let printer = || Owner::Auxiliary(blue.id(), "printer".into());
    let expected6 = PoolRequest { pool: None, sub_pool: None, v6: true, ..expected.clone() };
    let expected = [
        Call::Pool(expected),
        address(&v4, Owner::Gateway(blue.id()), None, for_gateway()),
        address(&v4, printer(), Some([10, 5, 1, 9]), [].into()),
        Call::Pool(expected6),
        address(&v6, Owner::Gateway(blue.id()), None, for_gateway()),
    ];
    assert_eq!(calls, expected);
    let picture = blue.inspect().await.unwrap();
    assert_eq!((&picture.v4[0].id, &picture.v6[0].id), (&v4.0, &v6.0));
    assert_eq!(picture.v4[0].gateway, Some([10, 5, 0, 1].into()));

    let (web, sandbox) = world.joined(&blue, "web").await;
    let found = web.inspect().await.unwrap();
    assert_eq!(found.ipv4.unwrap().to_string(), "10.5.0.2/16");
    assert_eq!(found.ipv6.unwrap().to_string(), "fd77::2/64");
    let of_web = || Owner::Endpoint(web.id());
    assert_eq!(
        acme.calls(),
        [address(&v4, of_web(), None, [].into()), address(&v6, of_web(), None, [].into())]
    );
    let fixed = blue.create_endpoint(EndpointSpec::new("fixed").address([10, 5, 7, 7].into())).await.unwrap();
    assert_eq!(fixed.inspect().await.unwrap().ipv4.unwrap().to_string(), "10.5.7.7/16");
    let taken =
        blue.create_endpoint(EndpointSpec::new("other").address([10, 5, 7, 7].into())).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Forbidden, "the driver's own refusal: {taken}");
    let outside =
        blue.create_endpoint(EndpointSpec::new("other").address([10, 6, 0, 7].into())).await.unwrap_err();
    assert!(outside.to_string().contains("10.5.0.0/16"), "{outside}");
    world.settles().await;
    fixed.delete().await.unwrap();
    web.leave(&sandbox).await.unwrap();
    web.delete().await.unwrap();
    bounded("draining", world.engine().drain()).await.unwrap();
    acme.calls();
    world.delete_everything().await;
    // In the reverse order.
    let back = |pool: &PoolId, owner, address: &str| {
        Call::AddressBack(AddressRelease { pool: pool.clone(), address: address.parse().ok(), owner })
    };
    let calls = acme.calls();
    let reserved = [
        back(&v6, Owner::Gateway(blue.id()), "fd77::1"),
        back(&v4, printer(), "10.5.1.9"),
        back(&v4, Owner::Gateway(blue.id()), "10.5.0.1"),
    ];
    assert_eq!(calls[..3], reserved);
    assert!(
        matches!(&calls[3..], [Call::PoolBack(a), Call::PoolBack(b)] if a.id == Some(v6) && b.id == Some(v4))
    );
    acme.assert_all_is_back();
    world.assert_pristine().await;
}

/// A driver that remembers is asked for nothing again; one that forgets, for all of it.
#[tokio::test]
async fn after_a_restart_only_a_driver_that_forgets_is_asked_again() {
    for capability in [IpamCapability::default(), REPLAYS] {
        let acme = Acme::new(capability);
        let mut world = acme.world(EngineConfig::default(), |more| more).await;
        let blue = world.engine().controller().create_network(of_acme("blue")).await.unwrap();
        world.joined(&blue, "web").await;
        let given = acme.given();
        assert_eq!(given, ["here/10.77.0.0/24", "10.77.0.1", "10.77.0.2"]);
        for whole in [true, false] {
            if capability.requires_request_replay {
                acme.forget();
            }
            acme.calls();
            if whole {
                world = world.kill_and_restart().await;
            } else {
                let made = acme.made();
                world.simulation.crash_actor(Victim::IpamDriver(NAME.into())).await.unwrap();
                until("it is made again", async || acme.made() > made).await;
            }
            world.settles().await;
            until("it was asked", async || acme.given() == given).await;
            let calls = acme.calls();
            assert_eq!(calls.is_empty(), !capability.requires_request_replay, "{calls:?}");
            if let Some(Call::Pool(first)) = calls.first() {
                assert_eq!(first.replay, Some(PoolId("here/10.77.0.0/24".into())));
            }
            assert!(world.engine().repairs().is_empty(), "{:?}", world.engine().repairs());
            let network = world.engine().controller().network_by_name("blue").unwrap();
            // It may be that the driver is still being told what there is.
            let next = async || network.create_endpoint(EndpointSpec::new("next")).await.ok();
            let mut made = None;
            until("it works", async || {
                made = next().await;
                made.is_some()
            })
            .await;
            let next = made.expect("made");
            assert_eq!(next.inspect().await.unwrap().ipv4.unwrap().to_string(), "10.77.0.3/24");
            next.delete().await.unwrap();
            bounded("draining", world.engine().drain()).await.unwrap();
        }
        world.delete_everything().await;
        bounded("draining", world.engine().drain()).await.unwrap();
        acme.assert_all_is_back();
        world.assert_pristine().await;
    }
}

/// What it asks for again must be what is recorded; else the network is out of service, and can be deleted.
#[tokio::test]
async fn a_network_whose_pool_is_not_given_again_is_out_of_service_by_name() {
    let acme = Acme::new(REPLAYS);
    let world = acme.world(EngineConfig::default(), |more| more).await;
    let controller = world.engine().controller();
    for name in ["blue", "red"] {
        controller.create_network(of_acme(name)).await.unwrap();
    }
    let lost = controller.network_by_name("red").unwrap().id();
    acme.script(move |call| match call {
        Call::Pool(request) if request.network == lost => {
            let pool = "10.99.0.0/24".parse().expect("a subnet");
            let id = PoolId("elsewhere".into());
            Some(crate::acme::Twist::Pool(netloom::ipam::AllocatedPool { id, pool, meta: [].into() }))
        }
        _ => None,
    });
    let world = world.kill_and_restart().await;
    acme.behave();
    let controller = world.engine().controller();
    let phase = async |name: &str| controller.network_by_name(name).unwrap().inspect().await.unwrap();
    assert_eq!(phase("blue").await.phase, NetworkPhase::Active);
    let red = phase("red").await;
    let why = red.failure.expect("a reason");
    assert!(
        red.phase == NetworkPhase::Failed && why.contains("\"acme\"") && why.contains("elsewhere"),
        "{why}"
    );
    world.delete_everything().await;
    bounded("draining", world.engine().drain()).await.unwrap();
    acme.assert_all_is_back();
    world.assert_pristine().await;
}

/// An engine without the driver keeps the network visible and says which one is missing; one with it has it again.
#[tokio::test]
async fn a_network_whose_ipam_driver_is_not_there_waits_for_it() {
    let acme = Acme::new(IpamCapability::default());
    let world = acme.world(EngineConfig::default(), |more| more).await;
    let blue = world.engine().controller().create_network(of_acme("blue")).await.unwrap();
    blue.create_endpoint(EndpointSpec::new("web")).await.unwrap();
    let World { simulation, before } = world;
    let (kernel, disk) = (simulation.kernel().clone(), simulation.disk().clone());
    drop(simulation.kill().await);
    let bare = Engine::simulation().kernel(kernel.clone()).disk(disk.clone()).start().await.unwrap();
    let found = bare.engine().controller().network_by_name("blue").unwrap().inspect().await.unwrap();
    assert_eq!((found.phase, found.endpoints.len()), (NetworkPhase::Failed, 1));
    assert!(found.failure.unwrap().contains("no such ipam driver: acme (known: default, null)"));
    drop(bare.kill().await);
    let whole = Engine::simulation().kernel(kernel).disk(disk).ipam_driver(acme.registration());
    let world = World { simulation: whole.start().await.unwrap(), before };
    world.settles().await;
    world.delete_everything().await;
    bounded("draining", world.engine().drain()).await.unwrap();
    acme.assert_all_is_back();
    world.assert_pristine().await;
}

/// The hardware address is chosen before the address is asked for, and stays.
#[tokio::test]
async fn a_driver_that_requires_hardware_addresses_is_told_the_one_that_stays() {
    let acme = Acme::new(IpamCapability { requires_mac_address: true, requires_request_replay: true });
    let world = acme.world(EngineConfig::default(), |more| more).await;
    let blue = world.engine().controller().create_network(of_acme("blue")).await.unwrap();
    let own = "02:42:00:00:00:07".parse().unwrap();
    let told = || {
        let calls = acme.calls().into_iter().filter(Call::of_endpoint);
        let mac = |call| match call {
            Call::Address(request) => request.options.get(MAC_ADDRESS).cloned(),
            _ => None,
        };
        calls.map(mac).collect::<Vec<_>>()
    };
    let mut macs = Vec::new();
    for (name, mac) in [("a", None), ("b", Some(own)), ("c", None)] {
        let spec = EndpointSpec { mac, ..EndpointSpec::new(name) };
        let endpoint = blue.create_endpoint(spec).await.unwrap();
        let found = endpoint.inspect().await.unwrap().mac.expect("one");
        assert_eq!(told(), [Some(found.to_string())], "told of {name}");
        assert!(mac.is_none_or(|mac| mac == found));
        assert!(found.to_string().starts_with("02:42:") && !macs.contains(&found), "{found}");
        macs.push(found);
    }
    acme.forget();
    let world = world.kill_and_restart().await;
    let blue = world.engine().controller().network_by_name("blue").unwrap();
    let mut again = told();
    again.sort();
    let mut expected: Vec<_> = macs.iter().map(|mac| Some(mac.to_string())).collect();
    expected.sort();
    assert_eq!(again, expected);
    let kept: Vec<_> = blue.inspect().await.unwrap().endpoints.iter().map(|e| e.mac.unwrap()).collect();
    assert_eq!(kept, macs);
    world.delete_everything().await;
    bounded("draining", world.engine().drain()).await.unwrap();
    acme.assert_all_is_back();
}

fn of_null(name: &str) -> NetworkSpec {
    let mut spec = NetworkSpec::new(name).driver(Scripted::KIND);
    spec.ipam.driver = "null".into();
    spec
}

/// A network driver with the IPAM driver `null` chooses its endpoints' addresses, or leaves them without.
#[tokio::test]
async fn the_null_ipam_leaves_addresses_to_the_network_driver() {
    for address in [None, Some("10.9.9.9/24".parse().unwrap())] {
        let mut driver = Scripted::new(|_| Ok(std::future::ready(Ok(())).boxed()));
        driver.endpoint = EndpointCreated { ipv4: address, ..EndpointCreated::default() };
        driver.joined = Joined::default();
        let world = driver.world(EngineConfig::default()).await;
        let controller = world.engine().controller();
        let blue = controller.create_network(of_null("blue")).await.expect("a network");
        controller.create_network(of_null("red")).await.expect("all of them have the same pool");
        let picture = blue.inspect().await.unwrap();
        assert_eq!((picture.v4.len(), picture.v6.len()), (1, 0));
        assert_eq!((&*picture.v4[0].id, picture.v4[0].gateway), ("null/0.0.0.0/0", None));
        let web = blue.create_endpoint(EndpointSpec::new("web")).await.expect("an endpoint");
        assert_eq!(web.inspect().await.unwrap().ipv4, address);
        let fixed = EndpointSpec::new("fixed").address([10, 9, 9, 8].into());
        let refused = blue.create_endpoint(fixed).await.unwrap_err();
        assert!(matches!(refused.reason(), Reason::AddressUnusable { .. }), "{refused}");
        let sandbox = world.sandbox("c1").await;
        web.join(&sandbox, JoinSpec::default()).await.expect("joined");
        let world = world.kill_and_restart().await;
        let controller = world.engine().controller();
        let blue = controller.network_by_name("blue").unwrap();
        let found = blue.inspect().await.unwrap();
        assert_eq!((found.phase, found.endpoints[0].ipv4), (NetworkPhase::Active, address));
        world.delete_everything().await;
        world.assert_pristine().await;
    }
}

#[tokio::test]
async fn names_of_ipam_drivers_are_unique_and_some_are_kept() {
    let acme = Acme::new(IpamCapability::default());
    let named = |name: &str| IpamRegistration { name: name.into(), ..acme.registration() };
    for (name, kind, says) in [
        ("default", ErrorKind::Conflict, "already exists"),
        ("null", ErrorKind::Conflict, "already exists"),
        ("dhcp", ErrorKind::InvalidParameter, "kept for"),
        ("remote", ErrorKind::InvalidParameter, "kept for"),
        (" ", ErrorKind::InvalidParameter, "blank"),
        ("other", ErrorKind::InvalidParameter, "register it under its own name"),
    ] {
        let refused = Engine::simulation().ipam_driver(named(name)).start().await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{refused}");
        assert!(refused.to_string().contains(says), "{refused}");
    }
    let twice = Engine::simulation().ipam_driver(named(NAME)).ipam_driver(named(NAME)).start().await;
    assert!(matches!(twice.unwrap_err().reason(), Reason::NameTaken { name, .. } if name == NAME));
}

/// It hears of the cluster store at its start, when that changes, and again when it was made again.
#[tokio::test]
async fn an_ipam_driver_is_told_of_the_cluster_store() {
    let with_store = |address: &str| {
        let client = netloom::ClientConfig {
            provider: "etcd".into(),
            address: address.into(),
            ..netloom::ClientConfig::default()
        };
        let scopes = [("global".to_owned(), netloom::ScopeConfig { client })].into();
        EngineConfig { scopes, ..EngineConfig::default() }
    };
    let acme = Acme::new(IpamCapability::default());
    let world = acme.world(EngineConfig::default(), |more| more).await;
    let told = || {
        let calls = acme.calls().into_iter();
        calls.filter_map(|call| match call {
            Call::Discovered(IpamDiscovery::DatastoreConfigured(DatastoreConfig { address, .. })) => {
                Some(address)
            }
            _ => None,
        })
    };
    assert_eq!(told().count(), 0);
    world.engine().controller().reload(with_store("a:1")).await.unwrap();
    let mut heard = Vec::new();
    until("it is told", async || {
        heard.extend(told());
        !heard.is_empty()
    })
    .await;
    world.simulation.crash_actor(Victim::IpamDriver(NAME.into())).await.unwrap();
    until("it is told again", async || {
        heard.extend(told());
        heard.len() > 1
    })
    .await;
    assert_eq!(heard, ["a:1", "a:1"]);
}

/// Nodes of the cluster: each is told once, and all there are to a driver that is started again.
#[tokio::test]
async fn an_ipam_driver_is_told_of_nodes_and_again_after_it_has_died() {
    let acme = Acme::new(IpamCapability::default());
    let world = acme.world(EngineConfig::default(), |more| more).await;
    let mut heard = Vec::new();
    let mut told = async |count: usize| {
        until("it is told", async || {
            heard.extend(acme.calls().into_iter().filter(|call| matches!(call, Call::Discovered(_))));
            heard.len() >= count
        })
        .await;
        std::mem::take(&mut heard)
    };
    let (own, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    let appeared = |address, this_node| Call::Discovered(IpamDiscovery::NodeAppeared { address, this_node });
    for (address, this_node) in [(own, true), (other, false), (own, true)] {
        world.simulation.tell_of_node(address, this_node, true).await.expect("told");
    }
    assert_eq!(told(2).await, [appeared(own, true), appeared(other, false)]);
    for _ in 0..2 {
        world.simulation.tell_of_node(other, false, false).await.expect("told");
    }
    let lost = Call::Discovered(IpamDiscovery::NodeLost { address: other, this_node: false });
    assert_eq!(told(1).await, [lost]);
    world.simulation.crash_actor(Victim::IpamDriver(NAME.into())).await.expect("crashed");
    assert_eq!(told(1).await, [appeared(own, true)], "of those there are");
}
