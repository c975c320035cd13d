//! What IPAM drivers of the embedder's own do wrong: they refuse, answer with what cannot be used, hang, panic, and do not
//! take back what is theirs. Nothing of it is lost, and nobody else waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use netloom::ipam::{AddressRelease, AllocatedPool, IpamCapability, Owner, PoolId, PoolRelease, PoolRequest};
use netloom::kernel::{LinkKind, Netns, Op};
use netloom::{Certainty, EndpointSpec, EngineConfig, ErrorKind, EventKind, NetworkSpec, Reason, Victim};

use crate::acme::{Acme, Call, NAME, Twist, of_acme};
use crate::scripted::{Asked, Scripted};
use crate::support::{World, bounded, until, within};

/// Long enough for everything that does not hang.
const SHORT: Duration = Duration::from_secs(2);

async fn world(config: EngineConfig) -> (Acme, World) {
    let acme = Acme::new(IpamCapability::default());
    let world = acme.world(config, |more| more).await;
    (acme, world)
}

async fn ends_clean(acme: &Acme, world: &World) {
    bounded("draining", world.engine().drain()).await.expect("drained");
    world.delete_everything().await;
    bounded("draining", world.engine().drain()).await.expect("drained");
    acme.assert_all_is_back();
    world.assert_pristine().await;
}

#[tokio::test]
async fn a_refusal_is_the_answer_and_gives_back_what_came_before_it() {
    let (acme, world) = world(EngineConfig::default()).await;
    let controller = world.engine().controller();
    // Each call of the creation in turn: two pools, two gateways.
    for n in 0..4 {
        let mut seen = 0;
        acme.script(move |call| {
            let asks = matches!(call, Call::Pool(_) | Call::Address(_));
            seen += usize::from(asks);
            (asks && seen == n + 1).then_some(Twist::Refuse(ErrorKind::Exhausted))
        });
        let refused = controller.create_network(of_acme("blue").ipv6(true)).await.unwrap_err();
        assert_eq!((refused.kind(), refused.certainty()), (ErrorKind::Exhausted, Certainty::Aborted));
        assert!(refused.to_string().contains("\"acme\": told to refuse"), "{refused}");
        acme.assert_all_is_back();
    }
    acme.behave();
    let blue = controller.create_network(of_acme("blue").ipv6(true)).await.expect("it gives now");
    let before = acme.given();
    for n in 0..2 {
        let mut seen = 0;
        acme.script(move |call| {
            seen += usize::from(call.of_endpoint());
            (call.of_endpoint() && seen == n + 1).then_some(Twist::Refuse(ErrorKind::Forbidden))
        });
        let refused = blue.create_endpoint(EndpointSpec::new("web")).await.unwrap_err();
        assert_eq!((refused.kind(), refused.certainty()), (ErrorKind::Forbidden, Certainty::Aborted));
        assert_eq!(acme.given(), before, "{n}");
    }
    acme.behave();
    blue.create_endpoint(EndpointSpec::new("web")).await.expect("it gives now");
    ends_clean(&acme, &world).await;
}

#[tokio::test]
async fn the_next_pool_is_a_reserve() {
    let acme = Acme::new(IpamCapability::default());
    let driver = Scripted::new(|_| Ok(std::future::ready(Ok(())).boxed()));
    let world = acme.world(EngineConfig::default(), |more| more.driver(driver.registration())).await;
    let subnet = |text: &str| text.parse().expect("a subnet");
    let spec =
        of_acme("blue").driver(Scripted::KIND).subnet(subnet("10.1.0.0/30")).subnet(subnet("10.2.0.0/24"));
    let blue = world.engine().controller().create_network(spec).await.expect("a network");
    let mut given = Vec::new();
    for name in ["a", "b"] {
        let endpoint = blue.create_endpoint(EndpointSpec::new(name)).await.expect("an endpoint");
        given.push(endpoint.inspect().await.unwrap().ipv4.unwrap().to_string());
    }
    assert_eq!(given, ["10.1.0.2/30", "10.2.0.2/24"]);
    ends_clean(&acme, &world).await;
}

#[tokio::test]
async fn a_pool_that_cannot_be_used_is_refused_by_name_and_given_back() {
    let (acme, world) = world(EngineConfig::default()).await;
    let controller = world.engine().controller();
    let given = |id: &str, pool: &str, gateway: Option<&str>| {
        let meta = gateway.map(|gateway| ("com.docker.network.gateway".to_owned(), gateway.to_owned()));
        let (id, pool) = (PoolId(id.into()), pool.parse().expect("a subnet"));
        AllocatedPool { id, pool, meta: meta.into_iter().collect() }
    };
    let asked = || of_acme("n").subnet("10.5.0.0/24".parse().expect("a subnet"));
    for (spec, answer, says) in [
        (of_acme("n"), given("odd", "fd00::/64", None), "an IPv4 pool was asked for"),
        (asked(), given("odd", "10.6.0.0/24", None), "10.5.0.0/24 was asked for"),
        (of_acme("n"), given("odd", "10.5.0.1/24", None), "host bits are set; 10.5.0.0/24 has none"),
        (of_acme("n"), given("odd", "224.1.0.0/16", None), "it overlaps multicast"),
        (of_acme("n"), given("odd", "96.0.0.0/3", None), "it overlaps loopback"),
        (of_acme("n"), given("odd\n", "10.5.0.0/24", None), "control characters"),
        (of_acme("n"), given("", "10.5.0.0/24", None), "its name has 0 bytes"),
        (of_acme("n"), given(&"x".repeat(2000), "10.5.0.0/24", None), "its name has 2000 bytes"),
        (of_acme("n"), given("odd", "10.5.0.0/24", Some("10.6.0.1/24")), "lies outside of pool 10.5.0.0/24"),
        (of_acme("n"), given("odd", "10.5.0.0/24", Some("first")), "it is no address"),
    ] {
        let id = answer.id.clone();
        acme.script(move |call| match call {
            Call::Pool(_) => Some(Twist::Pool(answer.clone())),
            _ => None,
        });
        acme.calls();
        let error = controller.create_network(spec).await.expect_err(says);
        assert!(matches!(error.reason(), Reason::IpamAnswer { driver, .. } if driver == NAME), "{error:?}");
        assert!(error.to_string().contains(says), "{error} must say {says}");
        assert_eq!((error.kind(), error.certainty()), (ErrorKind::Internal, Certainty::Aborted));
        let back =
            |call: &Call| matches!(call, Call::PoolBack(PoolRelease { id: Some(back), .. }) if *back == id);
        assert_eq!(acme.calls().iter().filter(|call| back(call)).count(), 1, "given back: {says}");
    }
    assert!(controller.networks().is_empty());
    // One that another network has is that one's: giving it back would take it away.
    acme.behave();
    let blue = controller.create_network(of_acme("blue")).await.expect("a network");
    let (id, before) = (blue.inspect().await.unwrap().v4[0].id.clone(), acme.given());
    let same = given(&id, "10.77.5.0/24", None);
    acme.script(move |call| matches!(call, Call::Pool(_)).then(|| Twist::Pool(same.clone())));
    let error = controller.create_network(of_acme("red")).await.unwrap_err();
    assert!(error.to_string().contains("network \"blue\""), "{error}");
    assert_eq!(acme.given(), before);
    // One that comes with its gateway is asked for none.
    let whole = given("whole", "10.5.0.0/24", Some("10.5.0.254/24"));
    acme.script(move |call| matches!(call, Call::Pool(_)).then(|| Twist::Pool(whole.clone())));
    acme.calls();
    let green = controller.create_network(of_acme("green")).await.expect("a network");
    assert_eq!(green.inspect().await.unwrap().v4[0].gateway, Some([10, 5, 0, 254].into()));
    green.delete().await.unwrap();
    let calls = acme.calls();
    assert!(matches!(&calls[..], [Call::Pool(_), Call::PoolBack(_)]), "{calls:?}");
}

/// What the host uses is no pool, whoever chose it: the driver `default` says the same.
#[tokio::test]
async fn a_pool_that_the_host_uses_is_refused_as_by_the_default_driver() {
    let (acme, world) = world(EngineConfig::default()).await;
    let (kernel, controller) = (world.kernel().clone(), world.engine().controller());
    let tunnel = "tun0".parse().expect("a name");
    kernel.foreign_link(Netns::Host, tunnel, LinkKind::Device, None).expect("made");
    let address = "10.5.0.7/24".parse().expect("an address");
    kernel.foreign_op(&Op::AddAddress { netns: Netns::Host, link: tunnel, address }).expect("added");
    let overlaps = |error: &netloom::Error| {
        assert_eq!((error.kind(), error.certainty()), (ErrorKind::Forbidden, Certainty::Aborted), "{error}");
        let Reason::PoolOverlapsHost { pool, other, what, .. } = error.reason() else { panic!("{error:?}") };
        format!("{pool} {other} {what}")
    };
    let named = |spec: NetworkSpec| spec.subnet("10.5.0.0/16".parse().expect("a subnet"));
    acme.calls();
    let error = controller.create_network(named(of_acme("n"))).await.unwrap_err();
    let plain = controller.create_network(named(NetworkSpec::new("n"))).await.unwrap_err();
    assert_eq!((overlaps(&error), error.to_string()), (overlaps(&plain), plain.to_string()));
    assert_eq!(acme.calls(), [], "it was not even asked");
    // One that the driver chose, although it was told.
    let chosen = AllocatedPool {
        id: PoolId("chosen".into()),
        pool: "10.5.0.0/25".parse().expect("a subnet"),
        meta: [].into(),
    };
    acme.script(move |call| matches!(call, Call::Pool(_)).then(|| Twist::Pool(chosen.clone())));
    let error = controller.create_network(of_acme("n")).await.unwrap_err();
    assert_eq!(overlaps(&error), "10.5.0.0/25 10.5.0.0/24 an address");
    let calls = acme.calls();
    let [Call::Pool(asked), Call::PoolBack(back)] = &calls[..] else { panic!("{calls:?}") };
    assert!(asked.exclude.contains(&"10.5.0.0/24".parse().expect("a subnet")), "{asked:?}");
    assert_eq!(back.id, Some(PoolId("chosen".into())));
    assert!(controller.networks().is_empty());
    acme.behave();
    world.network("blue").await;
    world.delete_everything().await;
}

/// By its name alone an address is asked for, so it must say which of the two is meant.
#[tokio::test]
async fn pools_of_both_families_have_names_of_their_own() {
    let (acme, world) = world(EngineConfig::default()).await;
    acme.script(|call| {
        let Call::Pool(PoolRequest { v6, .. }) = call else { return None };
        let (pool, gateway) = if *v6 { ("fd05::/64", "fd05::1/64") } else { ("10.5.0.0/24", "10.5.0.1/24") };
        let meta = [("com.docker.network.gateway".to_owned(), gateway.to_owned())].into();
        let pool = pool.parse().expect("a subnet");
        Some(Twist::Pool(AllocatedPool { id: PoolId("both".into()), pool, meta }))
    });
    let error = world.engine().controller().create_network(of_acme("n").ipv6(true)).await.unwrap_err();
    assert!(matches!(error.reason(), Reason::IpamAnswer { .. }), "{error:?}");
    assert!(error.to_string().contains("pool 10.5.0.0/24 of the same network has that name"), "{error}");
    let back = |call: &Call| matches!(call, Call::PoolBack(back) if back.id == Some(PoolId("both".into())));
    assert!(acme.calls().iter().any(back), "given back");
    assert!(world.engine().controller().networks().is_empty());
}

#[tokio::test]
async fn an_address_that_cannot_be_used_is_refused_by_name_and_given_back() {
    let (acme, world) = world(EngineConfig::default()).await;
    let blue = world.engine().controller().create_network(of_acme("blue")).await.unwrap();
    let web = blue.create_endpoint(EndpointSpec::new("web")).await.unwrap();
    assert_eq!(web.inspect().await.unwrap().ipv4.unwrap().to_string(), "10.77.0.2/24");
    let before = acme.given();
    let any = || EndpointSpec::new("e");
    let fixed = || EndpointSpec::new("e").address([10, 77, 0, 9].into());
    for (spec, answer, says, is_given_back) in [
        (any(), Some("10.78.0.5/24"), "lies outside of pool 10.77.0.0/24", true),
        (any(), Some("fd00::5/64"), "lies outside of pool 10.77.0.0/24", true),
        (any(), Some("10.77.0.255/24"), "network or broadcast address", true),
        (fixed(), Some("10.77.0.8/24"), "10.77.0.9 was asked for", true),
        (fixed(), None, "10.77.0.9 of pool 10.77.0.0/24 was asked for", false),
        // These are somebody else's: giving them back would take them away.
        (any(), Some("10.77.0.2/24"), "endpoint \"web\"", false),
        (any(), Some("10.77.0.1/24"), "the gateway has it", false),
    ] {
        let address = answer.map(|answer| answer.parse().expect("an address"));
        acme.script(move |call| call.of_endpoint().then_some(Twist::Address(address)));
        acme.calls();
        let error = blue.create_endpoint(spec).await.expect_err(says);
        assert!(matches!(error.reason(), Reason::IpamAnswer { driver, .. } if driver == NAME), "{error:?}");
        assert!(error.to_string().contains(says), "{error} must say {says}");
        assert_eq!(error.certainty(), Certainty::Aborted);
        let back = acme.calls().into_iter().filter(|call| matches!(call, Call::AddressBack(_))).count();
        assert_eq!(back, usize::from(is_given_back), "{says}");
        assert_eq!((acme.given(), blue.endpoints().await.unwrap().len()), (before.clone(), 1));
    }
    acme.behave();
    blue.create_endpoint(any()).await.expect("the name is free");
}

/// It costs its own endpoint its deadline, is given back without an address to name, and nobody else waits.
#[tokio::test]
async fn a_hanging_ipam_driver_holds_up_nobody_else() {
    let (acme, world) = world(within(SHORT)).await;
    let controller = world.engine().controller();
    let blue = controller.create_network(of_acme("blue")).await.unwrap();
    let before = acme.given();
    let once = AtomicBool::new(true);
    acme.script(move |call| {
        (call.of_endpoint() && once.swap(false, Ordering::SeqCst)).then_some(Twist::Hang)
    });
    let began = Instant::now();
    let stuck = tokio::spawn({
        let blue = blue.clone();
        async move { blue.create_endpoint(EndpointSpec::new("stuck")).await }
    });
    until("it hangs", async || acme.given().len() > before.len()).await;
    let free = blue.create_endpoint(EndpointSpec::new("free")).await.expect("it is not held up");
    let red = controller.create_network(of_acme("red")).await.expect("nor is another network");
    red.delete().await.expect("deleted");
    world.network("green").await.delete().await.expect("nor another driver");
    assert!(began.elapsed() < SHORT, "{:?}", began.elapsed());
    let error = bounded("the stuck one", stuck).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (ErrorKind::Timeout, Certainty::Aborted), "{error}");
    assert!(error.to_string().contains("the ipam driver \"acme\""), "{error}");
    let unnamed = |call: &Call| {
        matches!(call, Call::AddressBack(AddressRelease { address: None, owner: Owner::Endpoint(_), .. }))
    };
    assert_eq!(acme.calls().iter().filter(|call| unnamed(call)).count(), 1);
    assert_eq!(acme.given().len(), before.len() + 1, "what it had given is back: {:?}", acme.given());
    free.delete().await.unwrap();
    // The same for a whole network.
    acme.script(|call| matches!(call, Call::Pool(_)).then_some(Twist::Hang));
    let error = controller.create_network(of_acme("red")).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (ErrorKind::Timeout, Certainty::Aborted), "{error}");
    acme.behave();
    bounded("draining", world.engine().drain()).await.unwrap();
    assert_eq!(acme.given(), before);
    ends_clean(&acme, &world).await;
}

/// Force does not wait for it, and what it gives afterwards is given back.
#[tokio::test]
async fn force_does_not_wait_for_a_hanging_ipam_driver() {
    let (acme, world) = world(within(Duration::from_secs(6))).await;
    let blue = world.engine().controller().create_network(of_acme("blue")).await.unwrap();
    let before = acme.given();
    acme.script(|call| call.of_endpoint().then_some(Twist::Hang));
    let stuck = tokio::spawn({
        let blue = blue.clone();
        async move { blue.create_endpoint(EndpointSpec::new("stuck")).await }
    });
    until("it hangs", async || acme.given().len() > before.len()).await;
    acme.behave();
    let endpoint = blue.endpoint_by_name("stuck").await.expect("it is listed");
    let began = Instant::now();
    let _ = bounded("the deletion", endpoint.delete_with_force()).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    bounded("the creation", stuck).await.unwrap().expect_err("it was ended");
    assert!(blue.endpoints().await.unwrap().is_empty());
    let leaks = world.engine().inspect().await.unwrap().leaks;
    assert!(leaks.iter().any(|leak| leak.contains("addresses of endpoint")), "{leaks:?}");
    until("it is given back", async || acme.given() == before).await;
    until("nothing is left", async || world.engine().inspect().await.unwrap().leaks.is_empty()).await;
    ends_clean(&acme, &world).await;
}

/// A panic in a decision ends the actor, one in the slow part the request; either way what was given is known.
#[tokio::test]
async fn an_ipam_driver_that_panics_is_made_again_and_loses_nothing() {
    for twist in [Twist::Panic, Twist::PanicLater] {
        let (acme, world) = world(EngineConfig::default()).await;
        let controller = world.engine().controller();
        let blue = controller.create_network(of_acme("blue")).await.unwrap();
        let (web, _) = world.joined(&blue, "web").await;
        let dies = matches!(twist, Twist::Panic);
        let once = AtomicBool::new(true);
        acme.script(move |call| {
            (call.of_endpoint() && once.swap(false, Ordering::SeqCst)).then(|| twist.clone())
        });
        let mut events = world.engine().events();
        let error = blue.create_endpoint(EndpointSpec::new("next")).await.unwrap_err();
        let kind = if dies { ErrorKind::Unavailable } else { ErrorKind::Internal };
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("the ipam driver \"acme\""), "{error}");
        if dies {
            let restarted = async {
                while !matches!(&events.next().await.unwrap().unwrap().kind,
                    EventKind::ActorRestarted { id, .. } if id == NAME)
                {}
            };
            bounded("the restart", restarted).await;
        }
        assert_eq!(acme.made(), 1 + usize::from(dies));
        world.settles().await;
        let next = blue.create_endpoint(EndpointSpec::new("next")).await.expect("it works again");
        let address = async |endpoint: &netloom::Endpoint| endpoint.inspect().await.unwrap().ipv4.unwrap();
        assert_eq!(address(&web).await.to_string(), "10.77.0.2/24");
        assert_eq!(address(&next).await.to_string(), "10.77.0.3/24");
        ends_clean(&acme, &world).await;
    }
}

#[tokio::test]
async fn an_ipam_driver_that_panics_too_often_is_out_of_service_alone() {
    let (acme, world) = world(EngineConfig::default()).await;
    let controller = world.engine().controller();
    let blue = controller.create_network(of_acme("blue")).await.unwrap();
    let green = world.network("green").await;
    let mut events = world.engine().events();
    acme.script(|call| call.of_endpoint().then_some(Twist::Panic));
    let failed = async {
        loop {
            match events.next().await.unwrap().unwrap().kind {
                EventKind::ObjectFailed { id, cause, .. } if id == NAME => return cause,
                _ => {}
            }
        }
    };
    let crashes = async {
        loop {
            let _ = blue.create_endpoint(EndpointSpec::new("web")).await;
            tokio::task::yield_now().await;
        }
    };
    let cause = bounded("it gives up", async {
        tokio::select! { cause = failed => cause, () = crashes => unreachable!() }
    });
    let cause = cause.await;
    assert!(cause.contains("died too often"), "{cause}");
    assert_eq!(acme.made(), 4, "the first one, and three more");
    let error = blue.create_endpoint(EndpointSpec::new("web")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    green.create_endpoint(EndpointSpec::new("web")).await.expect("the others go on");
    // The next start has a new one, which is asked to take back what this one could not.
    acme.behave();
    let world = world.kill_and_restart().await;
    ends_clean(&acme, &world).await;
}

/// A release that fails is a visible leak until it has succeeded, and nothing is released twice.
#[tokio::test]
async fn what_an_ipam_driver_does_not_take_back_is_a_leak_until_it_does() {
    let (acme, world) = world(EngineConfig::default()).await;
    let blue = world.engine().controller().create_network(of_acme("blue")).await.unwrap();
    let web = blue.create_endpoint(EndpointSpec::new("web")).await.unwrap();
    let refuses = Arc::new(AtomicUsize::new(3));
    acme.script({
        let refuses = refuses.clone();
        move |call| {
            let back = matches!(call, Call::AddressBack(_) | Call::PoolBack(_));
            let left = back && refuses.load(Ordering::SeqCst) > 0;
            left.then(|| {
                refuses.fetch_sub(1, Ordering::SeqCst);
                Twist::Refuse(ErrorKind::Unavailable)
            })
        }
    });
    web.delete().await.expect("the endpoint is gone whatever becomes of its address");
    let leaks = async || world.engine().inspect().await.unwrap().leaks;
    until("the leak shows", async || {
        leaks().await.iter().any(|leak| leak.contains("addresses of endpoint"))
            || refuses.load(Ordering::SeqCst) == 0
    })
    .await;
    until("it is cleared", async || leaks().await.is_empty()).await;
    assert_eq!(acme.given(), ["here/10.77.0.0/24", "10.77.0.1"]);
    refuses.store(2, Ordering::SeqCst);
    blue.delete().await.expect("deleted");
    ends_clean(&acme, &world).await;
    assert_eq!(refuses.load(Ordering::SeqCst), 0);
}

/// The engine dies while a network is being made, or deleted: the next one gives its pools back.
#[tokio::test]
async fn pools_of_a_network_that_was_under_way_at_a_kill_are_given_back() {
    for at in [Asked::CreateNetwork, Asked::DeleteNetwork] {
        let acme = Acme::new(IpamCapability::default());
        let hangs = Arc::new(AtomicBool::new(true));
        let driver = Scripted::new({
            let hangs = hangs.clone();
            move |asked| {
                let stuck = asked == at && hangs.load(Ordering::SeqCst);
                Ok(if stuck { std::future::pending().boxed() } else { std::future::ready(Ok(())).boxed() })
            }
        });
        let world = acme.world(EngineConfig::default(), |more| more.driver(driver.registration())).await;
        let spec: NetworkSpec = of_acme("blue").driver(Scripted::KIND);
        let controller = world.engine().controller();
        let under_way = tokio::spawn(async move {
            let blue = controller.create_network(spec).await?;
            blue.delete().await
        });
        let step = async || world.engine().operations().iter().any(|operation| operation.step == "driver");
        until("it is in the driver", step).await;
        if at == Asked::DeleteNetwork {
            until("its record is gone", async || world.simulation.disk().records().is_empty()).await;
        }
        assert_eq!(acme.given(), ["here/10.77.0.0/24", "10.77.0.1"]);
        let world = {
            let killed = world.kill_and_restart();
            hangs.store(false, Ordering::SeqCst);
            killed.await
        };
        bounded("the old one", under_way).await.unwrap().expect_err("its engine is gone");
        ends_clean(&acme, &world).await;
    }
}

/// Its actor dies while it holds things for everybody: networks of other drivers never notice.
#[tokio::test]
async fn a_dead_ipam_driver_is_restarted_beside_the_others() {
    let (acme, world) = world(EngineConfig::default()).await;
    let blue = world.engine().controller().create_network(of_acme("blue")).await.unwrap();
    let green = world.network("green").await;
    for round in 0..3 {
        world.simulation.crash_actor(Victim::IpamDriver(NAME.into())).await.unwrap();
        green.create_endpoint(EndpointSpec::new(format!("e{round}"))).await.expect("it has another driver");
        until("it is back", async || {
            let made = blue.create_endpoint(EndpointSpec::new(format!("e{round}"))).await;
            made.is_ok()
        })
        .await;
    }
    let addresses: Vec<_> = blue.inspect().await.unwrap().endpoints.iter().map(|e| e.ipv4.unwrap()).collect();
    assert_eq!(addresses.len(), 3);
    world.settles().await;
    ends_clean(&acme, &world).await;
}
