//! Ports that the engine passes on: the kernel leads to the engine's one port, whoever comes, and to nothing else.

use std::net::{IpAddr, TcpListener};

use netloom_firewall::PortRules;

use crate::backend::Backend;
use crate::common::isolated;
use crate::world::{Family, Heard, Who, World, at, network, port};

/// Stands for the engine's.
const OWN: u16 = 41_000;

/// Whoever comes to the engine's port hears its number.
fn serve_own(world: &World) {
    let listener = world.lab.run(Who::Host.netns(), || TcpListener::bind(("::", OWN)).expect("a free port"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let own = stream.local_addr().expect("known");
            let text = format!("{} {}", own.ip().to_canonical(), stream.peer_addr().expect("known").ip());
            let _ = std::io::Write::write_all(&mut stream, text.as_bytes());
        }
    });
}

fn led(host: &str, first: u16, last: u16, family: Family) -> PortRules {
    let host: IpAddr = host.parse().expect("an address");
    PortRules { last, by_proxy: Some(OWN), ..port(Who::One, family, Some(host), first) }
}

#[test]
fn what_is_led_to_the_engine_keeps_its_address_and_nothing_else_gets_there() {
    isolated(|lab| {
        let mut world = World::new(lab, Backend::Nftables, None);
        serve_own(&world);
        let own = |family| Who::Host.address(family);
        // IPv6 clients of a container of IPv4, and the other way round; a row, and `::1` of what the kernel leads otherwise.
        let published = world.publish(&[
            led("::", 8000, 8000, Family::V4),
            led("0.0.0.0", 8001, 8001, Family::V6),
            led("::", 9000, 9999, Family::V4),
            port(Who::One, Family::V6, None, 8002),
            led("::1", 8002, 8002, Family::V6),
            led("2001:db8::1", 8003, 8003, Family::V4),
        ]);
        world.serve(Who::One, Family::V6, 80);
        for who in [Who::Lan, Who::Host, Who::One, Who::Two] {
            for to in [at(own(Family::V6), 8000), at(own(Family::V4), 8001), at(own(Family::V6), 8003)] {
                assert_eq!(world.answers(who, to), Some(to.ip()), "{who:?} at {to}");
            }
            for row in [9000, 9500, 9999] {
                assert!(world.reaches(who, at(own(Family::V6), row)).is_some(), "{who:?} at {row}");
            }
            for shut in [at(own(Family::V4), 8000), at(own(Family::V6), 8001), at(own(Family::V6), 10_000)] {
                assert!(world.is_refused(who, shut), "{who:?} at {shut}");
            }
        }
        // It is not there for those who come to it of their own accord.
        for who in [Who::Lan, Who::Host, Who::One] {
            for family in [Family::V4, Family::V6] {
                assert!(world.is_refused(who, at(own(family), OWN)), "{who:?}");
            }
        }
        let itself: IpAddr = "::1".parse().expect("an address");
        assert!(world.is_refused(Who::Host, at(itself, OWN)));
        for to in [8000, 8002, 9999] {
            assert_eq!(world.answers(Who::Host, at(itself, to)), Some(itself), "at {to}");
        }
        assert!(world.is_refused(Who::Host, at(itself, 8003)), "another address was named");
        let direct = world.answers(Who::Lan, at(own(Family::V6), 8002));
        assert_eq!(direct, Some(Who::One.address(Family::V6)), "the kernel leads by itself");
        // A bridge's address is the host's too, but not for those who are to reach nothing.
        let mut rules = network("br2");
        rules.internal = true;
        world.set_network(1, Some(&rules));
        assert_eq!(
            world.ask(Who::Two, at("fd02::1".parse().expect("v6"), 8000), crate::SILENCE),
            Heard::Refused
        );
        world.set_network(1, Some(&network("br2")));
        assert!(world.reaches(Who::Two, at("fd02::1".parse().expect("v6"), 8000)).is_some());
        world.assert_as_wanted();
        world.withdraw(published);
        for who in [Who::Lan, Who::Host] {
            assert!(world.is_refused(who, at(own(Family::V6), 8000)));
            let direct = at(own(Family::V6), OWN);
            assert_eq!(world.answers(who, direct), Some(direct.ip()), "whoever has the port now");
        }
        world.assert_as_wanted();
    });
}
