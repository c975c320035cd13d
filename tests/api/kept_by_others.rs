//! Addresses that are kept for names by IPAM drivers of others, and what is told of any that are kept: the counterpart of
//! `reservations.rs`, which has what is the same for all.

use std::net::Ipv4Addr;

use netloom::ipam::{AddressRelease, AddressRequest, IpamCapability, Owner, PoolId};
use netloom::{
    Certainty, EndpointSpec, Engine, EngineConfig, ErrorKind, EventKind, Network, NetworkSpec, Reason,
    Reservation, Victim,
};

use crate::acme::{Acme, Call, NAME, Twist, of_acme};
use crate::support::{World, bounded, until};

const REPLAYS: IpamCapability = IpamCapability { requires_mac_address: false, requires_request_replay: true };
const KEPT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 5);
const POOL: &str = "here/10.77.0.0/24";

fn found(engine: &Engine) -> Network {
    engine.controller().network_by_name("blue").expect("it stays")
}

async fn holder(network: &Network, address: Ipv4Addr) -> Option<String> {
    let held = network.holders(1_000).await.expect("listed").holders;
    let held = held.into_iter().find(|held| held.address == address)?.holder;
    held.split(" (").next().map(str::to_owned)
}

async fn address(network: &Network, name: &str) -> Ipv4Addr {
    let endpoint = network.endpoint_by_name(name).await.expect("it is there");
    endpoint.inspect().await.expect("inspected").ipv4.expect("an address").addr()
}

async fn delete(world: &World, network: &Network, name: &str) {
    network.endpoint_by_name(name).await.expect("it is there").delete().await.expect("deleted");
    bounded("draining", world.engine().drain()).await.expect("drained");
}

async fn usage(engine: &Engine) -> (u64, u64) {
    let spaces = engine.controller().ipam().await.expect("inspected");
    let mut pools = spaces.into_iter().flat_map(|space| space.pools);
    let pool = pools.find(|pool| pool.name == "blue").expect("its pool");
    (pool.used, pool.reserved)
}

fn asked(network: &Network) -> Call {
    let owner = Owner::Reservation(network.id(), "db".into());
    let address = Some(KEPT.into());
    Call::Address(AddressRequest { pool: PoolId(POOL.into()), address, options: [].into(), owner })
}

fn given_back(owner: Owner) -> Call {
    Call::AddressBack(AddressRelease { pool: PoolId(POOL.into()), address: Some(KEPT.into()), owner })
}

/// From one owner to the next without the driver's losing hold of it, over kills, restarts and the driver's death.
#[tokio::test]
async fn a_driver_of_others_holds_an_address_for_as_long_as_a_name_or_its_endpoint_has_it() {
    for capability in [IpamCapability::default(), REPLAYS] {
        let acme = Acme::new(capability);
        let mut world = acme.world(EngineConfig::default(), |more| more).await;
        let blue = world.engine().controller().create_network(of_acme("blue")).await.expect("a network");
        acme.calls();
        blue.reserve_address("db", Some(KEPT), None).await.expect("kept");
        blue.reserve_address("db", Some(KEPT), None).await.expect("it is so already");
        assert_eq!(acme.calls(), [asked(&blue)]);
        assert_eq!(usage(world.engine()).await, (0, 2));
        let given = acme.given();
        assert_eq!(given, [POOL, "10.77.0.1", "10.77.0.5"]);

        for again in ["killed", "ipam died", "at last"] {
            let blue = found(world.engine());
            assert_eq!(holder(&blue, KEPT).await.as_deref(), Some("reservation \"db\""), "{again}");
            let spec = EndpointSpec::new("other").address(KEPT.into());
            let error = blue.create_endpoint(spec).await.expect_err("kept for others");
            assert!(matches!(error.reason(), Reason::AddressTaken { .. }), "{error:?}");
            assert!(error.to_string().contains("reservation \"db\""), "{error}");
            acme.calls();
            blue.create_endpoint(EndpointSpec::new("db")).await.expect("an endpoint");
            assert_eq!(acme.calls(), [asked(&blue)], "for its prefix length");
            assert_eq!((address(&blue, "db").await, acme.given()), (KEPT, given.clone()));
            assert_eq!(holder(&blue, KEPT).await.as_deref(), Some("endpoint \"db\""), "{again}");
            assert_eq!(usage(world.engine()).await, (1, 1));
            if capability.requires_request_replay {
                acme.forget();
            }
            match again {
                "killed" => world = world.kill_and_restart().await,
                "ipam died" => {
                    let made = acme.made();
                    world.simulation.crash_actor(Victim::IpamDriver(NAME.into())).await.expect("killed");
                    until("it is made again", async || acme.made() > made).await;
                }
                _ => {
                    blue.release_reservation("db").await.expect("released");
                    blue.reserve_address("db", Some(KEPT), None).await.expect("it has it already");
                    blue.release_reservation("db").await.expect("released");
                    if capability.requires_request_replay {
                        world = world.kill_and_restart().await;
                    }
                    break;
                }
            }
            world.settles().await;
            until("it has it all again", async || acme.given() == given).await;
            let blue = found(world.engine());
            assert_eq!(holder(&blue, KEPT).await.as_deref(), Some("endpoint \"db\""), "{again}");
            delete(&world, &blue, "db").await;
            assert_eq!(acme.given(), given, "{again}");
        }
        world.settles().await;
        until("the endpoint has it alone", async || acme.given() == given).await;
        let blue = found(world.engine());
        assert_eq!(holder(&blue, KEPT).await.as_deref(), Some("endpoint \"db\""));
        delete(&world, &blue, "db").await;
        assert_eq!(acme.given(), given[..2]);
        world.delete_everything().await;
        acme.assert_all_is_back();
        world.assert_pristine().await;
    }
}

/// The driver gave it to the endpoint, and nobody asks it anew.
#[tokio::test]
async fn what_an_endpoint_of_the_name_has_of_a_driver_of_others_is_kept_from_then_on() {
    let acme = Acme::new(IpamCapability::default());
    let world = acme.world(EngineConfig::default(), |more| more).await;
    let blue = world.engine().controller().create_network(of_acme("blue")).await.expect("a network");
    let db = blue.create_endpoint(EndpointSpec::new("db").address(KEPT.into())).await.expect("made");
    let owner = Owner::Endpoint(db.id());
    acme.calls();
    let error = blue.reserve_address("web", Some(KEPT), None).await.expect_err("another's");
    assert!(error.to_string().contains("endpoint \"db\""), "{error}");
    blue.reserve_address("db", Some(KEPT), None).await.expect("its own");
    delete(&world, &blue, "db").await;
    assert_eq!(holder(&blue, KEPT).await.as_deref(), Some("reservation \"db\""));
    assert_eq!(acme.calls(), []);
    blue.release_reservation("db").await.expect("released");
    assert_eq!(acme.calls(), [given_back(owner)]);
    assert_eq!(holder(&blue, KEPT).await, None);
    // A network takes along what is kept of it.
    blue.reserve_address("db", Some(KEPT), None).await.expect("kept");
    world.delete_everything().await;
    acme.assert_all_is_back();
    world.assert_pristine().await;
}

#[tokio::test]
async fn what_a_driver_of_others_does_not_keep_is_not_kept_in_part() {
    let acme = Acme::new(IpamCapability::default());
    let world = acme.world(EngineConfig::default(), |more| more).await;
    let controller = world.engine().controller();
    let blue = controller.create_network(of_acme("blue").ipv6(true)).await.expect("a network");
    let given = acme.given();
    let kept6 = Some("fd77::5".parse().expect("an address"));
    for (twist, kind) in [
        (Twist::Refuse(ErrorKind::Exhausted), ErrorKind::Exhausted),
        (Twist::PanicLater, ErrorKind::Internal),
        (Twist::Address(Some("fd77::6/64".parse().expect("an address"))), ErrorKind::Internal),
        (Twist::Address(None), ErrorKind::Internal),
    ] {
        acme.script(move |call| match call {
            Call::Address(AddressRequest { address: Some(address), .. }) if address.is_ipv6() => {
                Some(twist.clone())
            }
            _ => None,
        });
        let error = blue.reserve_address("db", Some(KEPT), kept6).await.expect_err("not of IPv6");
        assert_eq!((error.kind(), error.certainty()), (kind, Certainty::Aborted), "{error:?}");
        assert_eq!(blue.inspect().await.expect("inspected").reservations, [].into());
        assert_eq!((acme.given(), holder(&blue, KEPT).await), (given.clone(), None), "{error}");
        acme.behave();
    }
    blue.reserve_address("db", Some(KEPT), kept6).await.expect("kept now");
    let error = blue.reserve_address("db", Some(KEPT), None).await.expect_err("others are kept");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");

    // What is not taken back is a leak until it is, and the name is not free before.
    acme.script(|call| matches!(call, Call::AddressBack(_)).then_some(Twist::Refuse(ErrorKind::Unavailable)));
    blue.release_reservation("db").await.expect("from here on there is no way back");
    let error = blue.reserve_address("db", Some(KEPT), None).await.expect_err("being given up");
    assert!(matches!(error.reason(), Reason::WrongPhase { .. }), "{error:?}");
    acme.behave();
    world.settles().await;
    assert_eq!(acme.given(), given);
    for (address, says) in
        [([10, 77, 0, 1], "gateway"), ([10, 77, 0, 255], "broadcast"), ([10, 78, 0, 1], "10.77.0.0/24")]
    {
        let error = blue.reserve_address("db", Some(address.into()), None).await.expect_err("refused");
        assert!(error.to_string().contains(says), "{error}");
    }
    world.delete_everything().await;
    // What it made up it had not given, and was given back all the same.
    assert_eq!(acme.given(), [""; 0]);
    world.assert_pristine().await;
}

#[tokio::test]
async fn each_reservation_made_and_released_is_told_once() {
    let world = World::new().await;
    let blue = world.engine().controller().create_network(NetworkSpec::new("blue")).await.expect("a network");
    let kept = Reservation { ipv4: Some([172, 17, 0, 9].into()), ipv6: None };
    let mut events = world.engine().events();
    blue.reserve_address("db", kept.ipv4, None).await.expect("kept");
    blue.reserve_address("db", kept.ipv4, None).await.expect("it is so already");
    blue.reserve_address("db", Some([172, 17, 0, 8].into()), None).await.expect_err("others are kept");
    blue.release_reservation("other").await.expect("nothing is kept");
    blue.release_reservation("db").await.expect("released");
    blue.release_reservation("db").await.expect("nothing is kept");
    blue.delete().await.expect("deleted");
    let (network, name) = (blue.id(), "db".to_owned());
    let expected = [
        EventKind::AddressesReserved { network, name: name.clone(), kept },
        EventKind::ReservationReleased { network, name },
        EventKind::NetworkDeleted { network, name: "blue".into() },
    ];
    for expected in expected {
        let event = bounded("the event", events.next()).await.expect("it goes on").expect("none is lost");
        assert_eq!(event.kind, expected);
    }
}
