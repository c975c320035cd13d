//! An address that is asked for again while the kernel has not let go of the deleted endpoint that had it: whoever starts
//! a container again with a fixed address gets it, as soon as nothing else can answer for it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use netloom::ipam::IpamCapability;
use netloom::testkit::{Fault, FaultKind};
use netloom::{
    Certainty, Endpoint, EndpointSpec, EngineConfig, ErrorKind, MacAddr, Network, NetworkSpec, Reason,
    Result, ShutdownMode,
};
use tokio::task::JoinHandle;

use crate::acme::{Acme, Call, Twist, of_acme};
use crate::support::{World, bounded, until, within};

const FIXED: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 9);
const FIXED6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 9);
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

fn fixed() -> EndpointSpec {
    let spec = EndpointSpec::new("web").address(FIXED.into()).address(FIXED6.into());
    EndpointSpec { mac: Some(MAC), ..spec }
}

/// A network whose endpoint with fixed addresses is deleted; its link dies when the test lets it.
async fn dying(config: EngineConfig, spec: EndpointSpec) -> (World, Network, Endpoint) {
    let world = World::with(config).await;
    let network = NetworkSpec::new("blue").ipv6(true);
    let network = network
        .subnet("10.1.0.0/24".parse().expect("a subnet"))
        .subnet("fd00:1::/64".parse().expect("a subnet"));
    let network = world.engine().controller().create_network(network).await.expect("a network");
    let endpoint = network.create_endpoint(spec).await.expect("made");
    let sandbox = world.sandbox("c1").await;
    endpoint.join(&sandbox, netloom::JoinSpec::default()).await.expect("joined");
    world.kernel().plan(Fault::verb("delete_link", 1, FaultKind::Hang));
    sandbox.delete().await.expect("deleted");
    endpoint.delete().await.expect("deleted");
    until("the hang", async || world.kernel().hanging() == 1).await;
    (world, network, endpoint)
}

/// Asks for an endpoint, and sees that it waits.
async fn asked_again(world: &World, network: &Network, spec: EndpointSpec) -> JoinHandle<Result<Endpoint>> {
    let network = network.clone();
    let again = tokio::spawn(async move { network.create_endpoint(spec).await });
    until("it waits", async || {
        let seen = world.engine().inspect().await.expect("inspected").operations;
        seen.iter().any(|operation| operation.step == "wait for the link of a deleted endpoint")
    })
    .await;
    again
}

async fn ends(again: JoinHandle<Result<Endpoint>>) -> Result<Endpoint> {
    bounded("the creation", again).await.expect("it ends")
}

#[tokio::test]
async fn a_container_that_is_started_again_gets_its_fixed_addresses_when_the_kernel_has_let_go() {
    // All of them, and each alone.
    let only = |spec: EndpointSpec| EndpointSpec { mac: None, ..spec };
    for spec in [
        fixed(),
        only(EndpointSpec { ipv6: None, ..fixed() }),
        only(EndpointSpec { ipv4: None, ..fixed() }),
        EndpointSpec { mac: Some(MAC), ..EndpointSpec::new("web") },
    ] {
        let (world, network, _) = dying(EngineConfig::default(), fixed()).await;
        let again = asked_again(&world, &network, spec.clone()).await;
        // Others are served meanwhile, and get none of these; what lives refuses at once.
        let next = network.create_endpoint(EndpointSpec::new("next")).await.expect("made");
        let seen = next.inspect().await.expect("inspected");
        assert!(seen.ipv4.map(|net| net.addr()) != Some(FIXED) && seen.mac != Some(MAC));
        let of_next = seen.ipv4.expect("an address").addr();
        let late = EndpointSpec::new("late").address(of_next.into());
        let error = bounded("at once", network.create_endpoint(late)).await.expect_err("taken");
        assert!(error.to_string().contains("endpoint \"next\""), "{error}");
        assert!(!again.is_finished());
        assert_eq!(world.kernel().release(), 1);
        let web = ends(again).await.expect("made");
        let seen = web.inspect().await.expect("inspected");
        assert!(spec.ipv4.is_none() || seen.ipv4.map(|net| net.addr()) == Some(FIXED), "{seen:?}");
        assert!(spec.ipv6.is_none() || seen.ipv6.map(|net| net.addr()) == Some(FIXED6), "{seen:?}");
        assert!(spec.mac.is_none() || seen.mac == Some(MAC), "{seen:?}");
        let sandbox = world.sandbox("c1").await;
        web.join(&sandbox, netloom::JoinSpec::default()).await.expect("joined");
        world.settles().await;
        world.delete_everything().await;
        world.assert_pristine().await;
    }
}

/// The same for what is kept for a name, without asking for it.
#[tokio::test]
async fn what_is_kept_for_a_name_is_waited_for_as_well() {
    let (world, network, _) = dying(EngineConfig::default(), fixed()).await;
    let error = network.reserve_address("other", Some(FIXED), None).await.expect_err("in quarantine");
    assert!(error.to_string().contains("quarantine"), "{error}");
    network.reserve_address("web", Some(FIXED), Some(FIXED6)).await.expect("its own");
    let again = asked_again(&world, &network, EndpointSpec::new("web")).await;
    assert_eq!(world.kernel().release(), 1);
    let seen = ends(again).await.expect("made").inspect().await.expect("inspected");
    let addresses = (seen.ipv4.map(|net| net.addr()), seen.ipv6.map(|net| net.addr()));
    assert_eq!(addresses, (Some(FIXED), Some(FIXED6)));
    world.delete_everything().await;
    world.assert_pristine().await;
}

/// An IPAM driver of the embedder's own may take its time with what is given back, and with links there is none to see.
#[tokio::test]
async fn an_address_that_an_ipam_driver_takes_back_late_is_waited_for() {
    let acme = Acme::new(IpamCapability::default());
    let world = acme.world(EngineConfig::default(), |more| more).await;
    let network = world.engine().controller().create_network(of_acme("blue")).await.expect("a network");
    let spec = || EndpointSpec::new("web").address([10, 77, 0, 9].into());
    let web = network.create_endpoint(spec()).await.expect("made");
    acme.script(|call| matches!(call, Call::AddressBack(_)).then_some(Twist::Refuse(ErrorKind::Unavailable)));
    web.delete().await.expect("deleted");
    let again = asked_again(&world, &network, spec()).await;
    network.create_endpoint(EndpointSpec::new("next")).await.expect("nobody else waits");
    assert!(!again.is_finished());
    acme.behave();
    let web = ends(again).await.expect("made");
    assert_eq!(web.inspect().await.expect("inspected").ipv4.expect("one").to_string(), "10.77.0.9/24");
    world.settles().await;
    world.delete_everything().await;
    world.engine().drain().await.expect("drained");
    acme.assert_all_is_back();
    world.assert_pristine().await;
}

/// Of two that wait for one address, one gets it, and the other is told who did.
#[tokio::test]
async fn one_of_two_that_wait_gets_it() {
    let (world, network, _) = dying(EngineConfig::default(), fixed()).await;
    let one = EndpointSpec::new("one").address(FIXED.into());
    let two = EndpointSpec::new("two").address(FIXED.into());
    let one = asked_again(&world, &network, one).await;
    let two = asked_again(&world, &network, two).await;
    until("both wait", async || world.engine().inspect().await.expect("inspected").operations.len() == 2)
        .await;
    assert_eq!(world.kernel().release(), 1);
    let (one, two) = (ends(one).await, ends(two).await);
    let error = match (&one, &two) {
        (Ok(_), Err(error)) | (Err(error), Ok(_)) => error,
        other => panic!("{other:?}"),
    };
    let text = error.to_string();
    assert!(text.contains("held by endpoint \"one\"") || text.contains("held by endpoint \"two\""), "{text}");
    world.delete_everything().await;
    world.assert_pristine().await;
}

#[tokio::test]
async fn who_waits_too_long_is_told_for_whom_and_has_changed_nothing() {
    let (world, network, gone) = dying(within(Duration::from_millis(400)), fixed()).await;
    let error = ends(asked_again(&world, &network, fixed()).await).await.expect_err("too late");
    assert!(matches!(error.reason(), Reason::DeadlineExceeded { .. }), "{error:?}");
    assert_eq!(error.certainty(), Certainty::Aborted);
    let text = error.to_string();
    assert!(text.contains("endpoint \"web\"") && text.contains(&*gone.id().short().to_string()), "{text}");
    assert_eq!(network.endpoints().await.expect("listed").len(), 0);
    world.kernel().release();
    world.engine().drain().await.expect("drained");
    network.create_endpoint(fixed()).await.expect("it is free now");
    world.delete_everything().await;
    world.assert_pristine_soon().await;
}

/// Neither a deletion with force nor the end of the engine waits with it.
#[tokio::test]
async fn force_and_shutdown_end_the_wait() {
    const SOON: Duration = Duration::from_secs(10);
    for how in 0..3 {
        let (world, network, _) = dying(EngineConfig::default(), fixed()).await;
        let again = asked_again(&world, &network, fixed()).await;
        let began = Instant::now();
        match how {
            0 => {
                let web = network.endpoint_by_name("web").await.expect("it is being made");
                bounded("force", web.delete_with_force()).await.expect("deleted");
            }
            1 => bounded("force", network.delete_with_force()).await.expect("deleted"),
            _ => {
                let stopped = world.engine().shutdown(ShutdownMode::Immediate);
                bounded("the shutdown", stopped).await.expect("stopped");
            }
        }
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        let error = ends(again).await.expect_err("ended");
        let kind = if how == 2 { ErrorKind::Unavailable } else { ErrorKind::Forbidden };
        assert_eq!(error.kind(), kind, "{error:?}");
        if how == 2 {
            continue;
        }
        world.kernel().release();
        world.engine().drain().await.expect("drained");
        world.delete_everything().await;
        world.assert_pristine_soon().await;
    }
}
