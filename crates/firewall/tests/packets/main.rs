//! What the rules do to packets: a host, its LAN, containers of two networks, in IPv4 and IPv6, with nftables and with
//! both variants of iptables.

#[path = "../../../kernel/tests/common/mod.rs"]
mod common;

mod backend;
mod led;
mod world;

use netloom_firewall::{Mark, Mode, PortRules};
use netloom_model::Protocol;

use backend::{BACKENDS, Backend};
use common::{foreign, ifname, isolated};
use world::{Family, Heard, SILENCE, Who, World, at, network, port};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Runs a test for each backend and family.
#[expect(clippy::print_stdout, reason = "shown when the test fails")]
fn each_family(mark: Option<Mark>, test: fn(&mut World, Family)) {
    for backend in BACKENDS {
        println!("with {backend:?}");
        isolated(move |lab| {
            let mut world = World::new(lab, backend, mark);
            for family in FAMILIES {
                for who in [Who::Lan, Who::Host, Who::One, Who::OneMore, Who::Two] {
                    world.serve(who, family, 80);
                }
                test(&mut world, family);
                world.assert_as_wanted();
            }
        });
    }
}

#[test]
fn a_published_port_is_reached_from_everywhere_and_nothing_else_is() {
    each_family(None, |world, family| {
        let host = Who::Host.address(family);
        let published = world.publish(&[port(Who::One, family, None, 8080)]);
        assert_eq!(
            world.reaches(Who::Lan, at(host, 8080)),
            Some(Who::Lan.address(family)),
            "with its own address"
        );
        assert!(world.reaches(Who::Host, at(host, 8080)).is_some(), "by the host");
        assert!(world.reaches(Who::Two, at(host, 8080)).is_some(), "from another network");
        assert!(world.reaches(Who::One, at(host, 8080)).is_some(), "from itself");
        assert!(world.reaches(Who::OneMore, at(host, 8080)).is_some(), "from beside it");
        assert!(world.is_shut_out(Who::Lan, at(Who::One.address(family), 80)), "under its own address");
        assert!(world.is_shut_out(Who::Two, at(Who::One.address(family), 80)), "from another network");
        assert!(world.is_shut_out(Who::Lan, at(Who::OneMore.address(family), 80)));
        assert!(
            world.reaches(Who::OneMore, at(Who::One.address(family), 80)).is_some(),
            "within the network"
        );
        assert!(world.reaches(Who::Host, at(Who::One.address(family), 80)).is_some(), "by the host");
        world.withdraw(published);
        assert!(world.is_refused(Who::Lan, at(host, 8080)));
    });
}

#[test]
fn containers_leave_under_the_hosts_address_unless_that_is_switched_off() {
    each_family(None, |world, family| {
        let lan = at(Who::Lan.address(family), 80);
        assert_eq!(world.reaches(Who::One, lan), Some(Who::Host.address(family)));
        let mut rules = network("br1");
        for one in [&mut rules.v4, &mut rules.v6].into_iter().flatten() {
            one.masquerade = false;
        }
        world.set_network(0, Some(&rules));
        assert_eq!(world.reaches(Who::One, lan), Some(Who::One.address(family)));
        assert_eq!(world.reaches(Who::Two, lan), Some(Who::Host.address(family)), "the other network's are");
        world.set_network(0, Some(&network("br1")));
    });
}

#[test]
fn containers_leave_under_the_address_that_was_named() {
    each_family(None, |world, family| {
        let (second, length) = match family {
            Family::V4 => ("192.0.2.7", 24),
            Family::V6 => ("2001:db8::7", 64),
        };
        foreign(&format!("ip addr add {second}/{length} dev uplink nodad"));
        let second = second.parse().expect("an address");
        let mut rules = network("br1");
        let one = if family == Family::V4 { &mut rules.v4 } else { &mut rules.v6 };
        one.as_mut().expect("there").host_address = Some(second);
        world.set_network(0, Some(&rules));
        assert_eq!(world.reaches(Who::One, at(Who::Lan.address(family), 80)), Some(second));
        world.set_network(0, Some(&network("br1")));
    });
}

#[test]
fn each_gateway_mode_lets_in_what_it_says() {
    each_family(None, |world, family| {
        let direct = at(Who::One.address(family), 80);
        let more = at(Who::OneMore.address(family), 80);
        let mode = |world: &mut World, mode| {
            let mut rules = network("br1");
            for one in [&mut rules.v4, &mut rules.v6].into_iter().flatten() {
                one.mode = mode;
            }
            world.set_network(0, Some(&rules));
        };
        assert!(world.is_shut_out(Who::Lan, direct));
        mode(world, Mode::NatUnprotected);
        assert_eq!(world.reaches(Who::Lan, direct), Some(Who::Lan.address(family)));
        mode(world, Mode::Routed);
        assert!(world.is_shut_out(Who::Lan, direct), "not published");
        let routed = PortRules { routed: true, ..port(Who::One, family, None, 80) };
        let published = world.publish(&[routed]);
        assert_eq!(world.reaches(Who::Lan, direct), Some(Who::Lan.address(family)));
        assert!(world.is_shut_out(Who::Lan, more), "not published");
        let lan = at(Who::Lan.address(family), 80);
        assert_eq!(world.reaches(Who::One, lan), Some(Who::One.address(family)), "nothing is translated");
        world.withdraw(published);
        assert!(world.is_shut_out(Who::Lan, direct));
        mode(world, Mode::Nat);
    });
}

#[test]
fn an_internal_network_reaches_nothing_and_is_reached_by_nobody() {
    each_family(None, |world, family| {
        let mut rules = network("br1");
        rules.internal = true;
        world.set_network(0, Some(&rules));
        assert!(world.reaches(Who::One, at(Who::OneMore.address(family), 80)).is_some(), "itself");
        assert!(world.is_shut_out(Who::One, at(Who::Lan.address(family), 80)));
        assert!(world.is_shut_out(Who::One, at(Who::Two.address(family), 80)));
        assert!(world.is_shut_out(Who::Lan, at(Who::One.address(family), 80)));
        assert!(world.is_shut_out(Who::Two, at(Who::One.address(family), 80)));
        world.set_network(0, Some(&network("br1")));
    });
}

/// Docker sets it, and so do many hosts. A table of nftables cannot help it: a packet has to be accepted everywhere.
#[test]
fn a_policy_of_drop_does_not_concern_the_chains_of_iptables() {
    let variants = BACKENDS.into_iter().filter_map(|backend| match backend {
        Backend::Nftables => None,
        Backend::Iptables(variant) => Some((backend, variant)),
    });
    for (backend, variant) in variants {
        isolated(move |lab| {
            let mut world = World::new(lab, backend, None);
            for family in FAMILIES {
                for who in [Who::Lan, Who::One, Who::Two] {
                    world.serve(who, family, 80);
                }
                let program = if family == Family::V4 { "iptables" } else { "ip6tables" };
                foreign(&format!("{program}-{variant} -P FORWARD DROP"));
                world.publish(&[port(Who::One, family, None, 8080)]);
                assert!(world.reaches(Who::Lan, at(Who::Host.address(family), 8080)).is_some());
                assert!(world.reaches(Who::One, at(Who::Lan.address(family), 80)).is_some());
                assert!(world.is_shut_out(Who::Lan, at(Who::Two.address(family), 80)));
            }
        });
    }
}

#[test]
fn what_is_published_on_the_loopback_is_for_the_host_alone() {
    for backend in BACKENDS {
        isolated(move |lab| loopback_of(&mut World::new(lab, backend, None)));
    }
}

fn loopback_of(world: &mut World) {
    let loopback = "127.0.0.1".parse().expect("an address");
    world.serve(Who::One, Family::V4, 80);
    world.publish(&[port(Who::One, Family::V4, Some(loopback), 8080)]);
    assert!(world.reaches(Who::Host, at(loopback, 8080)).is_some());
    let host = at(Who::Host.address(Family::V4), 8080);
    assert!(world.is_refused(Who::Lan, host));
    // Whoever sends it there all the same. One datagram is enough for harm, so its arrival is what counts.
    world.publish(&[PortRules {
        protocol: Protocol::Udp,
        ..port(Who::One, Family::V4, Some(loopback), 8080)
    }]);
    let secret = world.hear_datagrams(Who::Host, at(loopback, 9000));
    let published = world.hear_datagrams(Who::One, at(Who::One.address(Family::V4), 80));
    for (who, gateway) in [(Who::Lan, "192.0.2.1"), (Who::Two, "10.2.0.1")] {
        world.foreign_in(who, "ip route del local 127.0.0.0/8 dev lo table local");
        world.foreign_in(who, "ip route del local 127.0.0.1 dev lo table local");
        world.foreign_in(who, &format!("ip route add 127.0.0.1 via {gateway}"));
        assert!(!world.arrives(who, at(loopback, 9000), &secret), "{who:?}");
        assert!(!world.arrives(who, at(loopback, 8080), &published), "{who:?}");
    }
    assert!(world.arrives(Who::Host, at(loopback, 8080), &published));
    // Without the rules both get through.
    world.backend.forget_loopback();
    assert!(world.arrives(Who::Two, at(loopback, 9000), &secret));
    world.backend.publish_loopback();
    assert!(world.arrives(Who::Lan, at(loopback, 8080), &published));
    world.backend.withdraw_loopback();
    world.repair();
    assert!(!world.arrives(Who::Two, at(loopback, 9000), &secret));
    assert!(!world.arrives(Who::Lan, at(loopback, 8080), &published));
}

#[test]
fn of_two_addresses_the_named_one_comes_before_every_one() {
    each_family(None, |world, family| {
        let host = Who::Host.address(family);
        let every = world.publish(&[port(Who::Two, family, None, 8080)]);
        let named = world.publish(&[port(Who::One, family, Some(host), 8080)]);
        assert_eq!(world.answers(Who::Lan, at(host, 8080)), Some(Who::One.address(family)));
        world.withdraw(named);
        assert_eq!(world.answers(Who::Lan, at(host, 8080)), Some(Who::Two.address(family)));
        world.withdraw(every);
    });
}

#[test]
fn a_trusted_interface_reaches_what_is_published_and_a_mark_every_port() {
    let mark = Mark { mask: 0xff, value: 0x2a };
    each_family(Some(mark), |world, family| {
        let own = Who::One.address(family);
        let (direct, other, hidden) = (at(own, 80), at(own, 81), at(own, 82));
        for number in [81, 82] {
            world.serve(Who::One, family, number);
        }
        let range =
            PortRules { first: 9083, last: 9084, container_port: 83, ..port(Who::One, family, None, 9083) };
        world.serve(Who::One, family, 84);
        let mut all = vec![port(Who::One, family, None, 8080), range];
        if family == Family::V4 {
            let loopback = "127.0.0.1".parse().expect("an address");
            all.push(PortRules { container_port: 82, ..port(Who::One, family, Some(loopback), 8082) });
        }
        let published = world.publish(&all);
        // All at once: what is dropped takes its time.
        let is_open = |world: &World, who| {
            let ask = |to| world.ask(who, to, SILENCE) != Heard::Nothing;
            std::thread::scope(|scope| {
                let all = [direct, at(own, 84), other, hidden].map(|to| scope.spawn(move || ask(to)));
                all.map(|one| one.join().expect("it is asked"))
            })
        };
        assert_eq!(is_open(world, Who::Lan), [false; 4]);
        let mut rules = network("br1");
        rules.trusted = vec![ifname("uplink"), ifname("br2")];
        world.set_network(0, Some(&rules));
        assert_eq!(world.reaches(Who::Lan, direct), Some(Who::Lan.address(family)), "what is published");
        assert_eq!(is_open(world, Who::Lan), [true, true, false, false], "by a trusted interface");
        assert_eq!(is_open(world, Who::Two), [true, true, false, false], "from a trusted network");
        // Who is apart stays apart, whoever trusts it.
        let mut apart = network("br2");
        apart.internal = true;
        world.set_network(1, Some(&apart));
        assert_eq!(is_open(world, Who::Two), [false; 4], "from an internal network");
        world.set_network(1, Some(&network("br2")));
        world.withdraw(published);
        assert_eq!(is_open(world, Who::Lan), [false; 4], "withdrawn");
        world.set_network(0, Some(&network("br1")));
        let published = world.publish(&all);
        assert_eq!(is_open(world, Who::Lan), [false; 4], "trusted no longer");
        foreign("nft add table inet marks");
        foreign("nft add chain inet marks first { type filter hook prerouting priority -150 ; }");
        foreign("nft add rule inet marks first iifname uplink meta mark set 0x12a");
        assert_eq!(is_open(world, Who::Lan), [true; 4], "by its mark");
        foreign("nft delete table inet marks");
        world.withdraw(published);
    });
}

#[test]
fn users_rules_come_first_and_are_never_touched() {
    each_family(None, |world, family| {
        let host = at(Who::Host.address(family), 8080);
        let published = world.publish(&[port(Who::One, family, None, 8080)]);
        assert!(world.reaches(Who::Lan, host).is_some());
        world.backend.user_drops(8080);
        assert!(world.is_shut_out(Who::Lan, host));
        assert!(world.reaches(Who::Two, host).is_some(), "others are not concerned");
        world.assert_as_wanted();
        world.backend.user_allows();
        world.withdraw(published);
    });
}

#[test]
fn ranges_lead_to_the_same_port_or_to_one_that_is_as_far_on() {
    each_family(None, |world, family| {
        let host = Who::Host.address(family);
        for number in [2005, 3005] {
            world.serve(Who::One, family, number);
        }
        let range = |first, container_port| PortRules {
            last: first + 9,
            container_port,
            ..port(Who::One, family, None, first)
        };
        let named = PortRules { host: Some(host), ..range(2100, 3000) };
        let published = world.publish(&[range(2000, 2000), named]);
        assert!(world.reaches(Who::Lan, at(host, 2005)).is_some());
        assert!(world.reaches(Who::Lan, at(host, 2105)).is_some());
        assert!(world.is_refused(Who::Lan, at(host, 2010)));
        assert!(world.is_shut_out(Who::Lan, at(Who::One.address(family), 2005)));
        world.withdraw(published);
    });
}

#[test]
fn datagrams_take_the_same_ways() {
    each_family(None, |world, family| {
        world.serve_datagrams(Who::One, family, 53);
        let dns =
            PortRules { protocol: Protocol::Udp, container_port: 53, ..port(Who::One, family, None, 5353) };
        let published = world.publish(&[dns]);
        let host = at(Who::Host.address(family), 5353);
        assert_eq!(world.datagram(Who::Lan, host), Some(Who::Lan.address(family)));
        assert!(world.datagram(Who::Two, host).is_some());
        world.withdraw(published);
    });
}
