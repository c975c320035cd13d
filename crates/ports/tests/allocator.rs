//! What the allocator promises, one promise at a time.

use std::net::IpAddr;
use std::sync::Arc;

use netloom_model::{
    EndpointId, Error, ErrorKind, HostPort, HostPorts, PortRange, PortReason, Protocol, Reason,
};
use netloom_ports::{MAX_REQUESTS, PortAllocator, PortOwner, PortRequest};
use uuid::Uuid;

const TCP: Protocol = Protocol::Tcp;

fn owner(n: u128) -> PortOwner {
    PortOwner { id: EndpointId::from_uuids(Uuid::from_u128(n), Uuid::nil()), name: format!("e{n}").into() }
}

fn on(addresses: &[&str]) -> Arc<[IpAddr]> {
    addresses.iter().map(|text| text.parse::<IpAddr>().expect("an address")).collect()
}

fn range(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

fn allocator(first: u16, last: u16) -> PortAllocator {
    PortAllocator::new(range(first, last))
}

fn firsts(given: &[HostPorts]) -> Vec<u16> {
    given.iter().map(|ports| ports.range.first).collect()
}

/// The address and the holder's name of a refusal.
fn taken(error: &Error) -> (String, String, bool) {
    match error.reason() {
        Reason::Port(PortReason::Taken { port, holder, leaving }) => {
            (port.to_string(), holder.name.clone(), *leaving)
        }
        _ => panic!("not a port that is taken: {error}"),
    }
}

#[test]
fn dynamic_ports_go_round_and_each_address_and_protocol_has_its_own_round() {
    let mut ports = allocator(100, 103);
    let mut any = |n, protocol, addresses: &[&str]| {
        let given = ports.reserve(&owner(n), &[PortRequest::any(protocol, on(addresses))]);
        given.map(|given| given[0].range.first)
    };
    let all = ["0.0.0.0"];
    assert_eq!((any(1, TCP, &all), any(2, TCP, &all)), (Ok(100), Ok(101)));
    assert_eq!(any(3, Protocol::Udp, &all), Ok(100), "another protocol");
    assert_eq!(any(4, TCP, &["::"]), Ok(100), "another family");
    assert_eq!(any(5, TCP, &["192.0.2.1"]), Ok(102), "behind what is taken on all addresses");
    ports.release(owner(1).id);
    let mut any = |n| {
        let given = ports.reserve(&owner(n), &[PortRequest::any(TCP, on(&["0.0.0.0"]))]);
        given.map(|given| given[0].range.first)
    };
    assert_eq!(any(6), Ok(103), "a port that was given back waits for its turn");
    assert_eq!(any(7), Ok(100), "and begins again behind the end");
    let error = any(8).expect_err("nothing is left");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.to_string().contains("0.0.0.0:100-103/tcp"), "{error}");
}

#[test]
fn a_range_gives_its_first_free_port_in_turn_or_all_of_them() {
    let mut ports = allocator(1, 1);
    let one = PortRequest::one_of(TCP, on(&["0.0.0.0"]), range(8000, 8002));
    let given = ports.reserve(&owner(1), &[one.clone(), one.clone()]).expect("two are free");
    assert_eq!(firsts(&given), [8000, 8001]);
    ports.release(owner(1).id);
    let given = ports.reserve(&owner(2), std::slice::from_ref(&one)).expect("free");
    assert_eq!(firsts(&given), [8002], "round robin");
    let whole = PortRequest::all_of(TCP, on(&["0.0.0.0"]), range(8000, 8999)).expect("a range");
    let error = ports.reserve(&owner(3), std::slice::from_ref(&whole)).expect_err("one is taken");
    assert_eq!(taken(&error), ("0.0.0.0:8002/tcp".into(), "e2".into(), false));
    assert_eq!(ports.ports_of(owner(3).id), [], "all or nothing");
    ports.release(owner(2).id);
    let given = ports.reserve(&owner(3), &[whole]).expect("free");
    assert_eq!(given[0].range, range(8000, 8999));
    assert_eq!(given[0].each().count(), 1000);
}

#[test]
fn every_address_and_a_single_one_are_in_each_others_way_within_a_family() {
    let mut ports = allocator(1, 1);
    let mut ask = |n, address: &str| {
        ports.reserve(&owner(n), &[PortRequest::exactly(TCP, on(&[address]), 80)]).map(|_| ())
    };
    ask(1, "192.0.2.1").expect("free");
    ask(2, "192.0.2.2").expect("another address");
    let error = ask(3, "0.0.0.0").expect_err("one address has it");
    assert_eq!(taken(&error), ("192.0.2.1:80/tcp".into(), "e1".into(), false));
    ask(4, "::").expect("IPv6 only");
    let error = ask(5, "2001:db8::1").expect_err("all addresses have it");
    assert_eq!(taken(&error), ("[::]:80/tcp".into(), "e4".into(), false));
    ports.release(owner(1).id);
    let error = ports.reserve(&owner(3), &[PortRequest::exactly(TCP, on(&["0.0.0.0"]), 80)]);
    assert_eq!(taken(&error.expect_err("the other has it still")).0, "192.0.2.2:80/tcp");
    ports.release(owner(2).id);
    ports.reserve(&owner(3), &[PortRequest::exactly(TCP, on(&["0.0.0.0"]), 80)]).expect("free");
}

#[test]
fn several_addresses_get_the_same_port_or_none() {
    let mut ports = allocator(100, 109);
    ports.reserve(&owner(1), &[PortRequest::any(TCP, on(&["0.0.0.0"]))]).expect("100 of IPv4");
    let v6 = PortRequest::exactly(TCP, on(&["2001:db8::1"]), 101);
    ports.reserve(&owner(2), &[v6]).expect("101 of IPv6");
    let both = on(&["0.0.0.0", "::"]);
    let given = ports.reserve(&owner(3), &[PortRequest::any(TCP, both.clone())]).expect("free");
    assert_eq!((given[0].range.first, given[0].addresses.len()), (102, 2));
    let error =
        ports.reserve(&owner(4), &[PortRequest::exactly(TCP, both, 101)]).expect_err("half of it is taken");
    assert_eq!(taken(&error).1, "e2");
    let port = HostPort { address: [0; 4].into(), protocol: TCP, port: 101 };
    assert_eq!(ports.holder(port), None, "the other half is free");
}

#[test]
fn requests_of_one_call_do_not_take_ports_from_each_other() {
    let mut ports = allocator(100, 103);
    let all = on(&["0.0.0.0"]);
    let given = ports
        .reserve(
            &owner(1),
            &[
                PortRequest::any(TCP, all.clone()),
                PortRequest::one_of(TCP, all.clone(), range(100, 101)),
                PortRequest::exactly(TCP, all.clone(), 100),
            ],
        )
        .expect("all are free");
    assert_eq!(firsts(&given), [102, 101, 100]);
    let two = PortRequest::all_of(TCP, all.clone(), range(200, 209)).expect("a range");
    let error = ports.reserve(&owner(2), &[two, PortRequest::exactly(TCP, all, 205)]).expect_err("overlap");
    assert_eq!(error.kind(), ErrorKind::InvalidParameter);
    assert!(
        error.to_string().contains("205/tcp on 0.0.0.0") && error.to_string().contains("200-209"),
        "{error}"
    );
    assert_eq!(ports.holdings().count(), 1, "nothing of it is kept");
}

#[test]
fn a_deleted_endpoints_ports_stay_taken_until_they_are_released() {
    let mut ports = allocator(1, 1);
    let http = PortRequest::exactly(TCP, on(&["0.0.0.0"]), 80);
    ports.reserve(&owner(1), std::slice::from_ref(&http)).expect("free");
    ports.rename(owner(1).id, &"web".into());
    assert!(ports.quarantine(owner(1).id));
    let error = ports.reserve(&owner(2), std::slice::from_ref(&http)).expect_err("taken");
    assert_eq!(taken(&error), ("0.0.0.0:80/tcp".into(), "web".into(), true));
    let error = ports.reserve(&owner(1), &[PortRequest::exactly(TCP, on(&["::"]), 80)]);
    assert_eq!(error.expect_err("it is deleted").kind(), ErrorKind::Forbidden);
    ports.release(owner(1).id);
    ports.reserve(&owner(2), &[http]).expect("free");
    assert!(!ports.quarantine(owner(1).id), "it has nothing");
}

#[test]
fn what_was_held_before_a_crash_is_taken_again_and_only_once() {
    let mut ports = allocator(100, 199);
    let had = HostPorts { protocol: TCP, addresses: on(&["0.0.0.0", "::"]), range: range(8000, 8009) };
    ports.adopt(&owner(1), std::slice::from_ref(&had)).expect("free");
    ports.adopt(&owner(1), std::slice::from_ref(&had)).expect("its own");
    assert_eq!(ports.ports_of(owner(1).id), std::slice::from_ref(&had), "taken once");
    let more = HostPorts { range: range(8005, 8014), ..had.clone() };
    ports.adopt(&owner(1), std::slice::from_ref(&more)).expect("half of it its own");
    assert_eq!(ports.ports_of(owner(1).id)[1].range, range(8010, 8014));
    let error = ports.adopt(&owner(2), &[had]).expect_err("somebody else's");
    assert_eq!(taken(&error).1, "e1");
    // The same owner asks for a port as anybody does: it has it already.
    let again = PortRequest::exactly(TCP, on(&["::"]), 8000);
    assert_eq!(taken(&ports.reserve(&owner(1), &[again]).expect_err("taken")).1, "e1");
    ports.release(owner(1).id);
    assert_eq!(ports.holdings().count(), 0);
}

#[test]
fn another_port_is_found_while_those_that_others_use_stay_taken() {
    let mut ports = allocator(100, 102);
    let any = PortRequest::any(TCP, on(&["0.0.0.0"]));
    let first = ports.reserve(&owner(1), std::slice::from_ref(&any)).expect("free").remove(0);
    let second = ports.reserve_other(&owner(1), &any, 1).expect("free");
    let third = ports.reserve_other(&owner(1), &any, 2).expect("free");
    assert_eq!(firsts(&[first.clone(), second.clone(), third.clone()]), [100, 101, 102]);
    let error = ports.reserve_other(&owner(1), &any, 3).expect_err("nothing is left");
    assert!(error.to_string().contains("3 tried are in use"), "{error}");
    ports.give_back(owner(1).id, &first);
    ports.give_back(owner(1).id, &first);
    ports.give_back(owner(1).id, &second);
    assert_eq!(ports.ports_of(owner(1).id), [third]);
}

#[test]
fn what_makes_no_sense_is_refused_by_field_and_value() {
    let mut ports = allocator(100, 102);
    let all = on(&["0.0.0.0"]);
    let exactly = |addresses: &[&str]| PortRequest::exactly(TCP, on(addresses), 80);
    let wide = PortRequest { count: 5, ..PortRequest::one_of(TCP, all.clone(), range(80, 89)) };
    let cases = [
        (PortRequest::exactly(TCP, all.clone(), 0), "1 to 65535"),
        (PortRequest::one_of(TCP, all.clone(), range(90, 80)), "ends before it begins"),
        (PortRequest::any(Protocol::Icmp, all.clone()), "icmp has no ports"),
        (PortRequest { count: 0, ..PortRequest::any(TCP, all.clone()) }, "at least one port"),
        (wide.clone(), "10 ports for 5"),
        (PortRequest { count: 11, ..wide }, "10 ports for 11"),
        (exactly(&[]), "1 to 16 addresses"),
        (exactly(&["0.0.0.0"; 17]), "1 to 16 addresses"),
        (exactly(&["224.0.0.1"]), "one of its own"),
        (exactly(&["ff02::1"]), "one of its own"),
        (exactly(&["255.255.255.255"]), "one of its own"),
        (exactly(&["::ffff:192.0.2.1"]), "written as one"),
        (exactly(&["fe80::1"]), "together with its link"),
        (exactly(&["192.0.2.1", "0.0.0.0"]), "overlap"),
        (exactly(&["::", "::"]), "overlap"),
    ];
    for (request, why) in cases {
        let error = ports.reserve(&owner(1), std::slice::from_ref(&request)).expect_err(why);
        assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{error}");
        let text = error.to_string();
        assert!(text.contains(why) && text.contains("port_map"), "{text}");
    }
    let many = vec![PortRequest::any(TCP, all.clone()); MAX_REQUESTS + 1];
    assert!(ports.reserve(&owner(1), &many).expect_err("too many").to_string().contains("at most 16384"));
    let most = PortRequest::all_of(TCP, all.clone(), range(1, 65_535)).expect("a range");
    let error = ports.reserve(&owner(1), &vec![most; 3]).expect_err("too many");
    assert!(error.to_string().contains("at most 131072 ports"), "{error}");
    assert!(PortRequest::all_of(TCP, all, range(0, 65_535)).is_err());
    assert_eq!(ports.holdings().count(), 0, "no refusal leaves an owner behind");
}

#[test]
fn forty_thousand_ports_are_taken_and_given_back_one_by_one() {
    let mut ports = allocator(10_000, 49_999);
    let both = on(&["0.0.0.0", "::"]);
    for n in 0..40_000 {
        let given = ports.reserve(&owner(n), &[PortRequest::any(TCP, both.clone())]).expect("free");
        assert_eq!(u128::from(given[0].range.first), 10_000 + n);
    }
    let error = ports.reserve(&owner(99_999), &[PortRequest::any(TCP, both.clone())]).expect_err("full");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    for n in (0..40_000).rev() {
        ports.release(owner(n).id);
    }
    let whole = PortRequest::all_of(TCP, both, range(10_000, 49_999)).expect("a range");
    ports.reserve(&owner(1), &[whole]).expect("all are free");
}
