//! The text for `iptables-restore`, as people read it, and that it makes what is wanted of whatever is there.
//!
//! Golden texts are in `tests/golden`; `NETLOOM_WRITE_GOLDEN=1` writes them anew, to be read before they are kept.

mod common;

use std::path::Path;

use common::{access, names, network, networks, port, ports};
use netloom_firewall::iptables::{Names, Saved, Unfit, Version, Wanted, removal};
use netloom_firewall::{Mark, NetworkRules, PortRules};
use netloom_testkit::Iptables;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const BOTH: [Version; 2] = [Version::V4, Version::V6];

fn wanted(networks: &[NetworkRules], ports: &[PortRules]) -> Wanted {
    let mark = Some(Mark { mask: 3, value: 1 });
    Wanted::new(&names(), mark, networks, ports).unwrap_or_else(|unfit| panic!("{unfit}"))
}

#[track_caller]
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("NETLOOM_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{name} is\n{kept}\nand this would be\n{text}");
}

#[test]
fn the_whole_of_it() {
    let all = wanted(&networks(), &ports());
    golden("whole.v4", &all.restore(Version::V4, &Saved::default()).expect("something"));
    golden("whole.v6", &all.restore(Version::V6, &Saved::default()).expect("something"));
}

#[test]
fn one_container_more_is_its_chain_and_the_lines_that_lead_to_it() {
    let before = wanted(&networks(), &ports());
    let more = [ports(), vec![port("tcp", None, 9000, 9009, "10.0.0.5", 80)]].concat();
    let after = wanted(&networks(), &more);
    golden("port-added.v4", &after.delta(Version::V4, &before).expect("something"));
    golden("port-removed.v4", &before.delta(Version::V4, &after).expect("something"));
    assert_eq!(after.delta(Version::V6, &before), None);
    assert_eq!(before.delta(Version::V4, &before), None);
}

#[test]
fn one_network_more_is_its_chains_and_the_lines_that_lead_to_it() {
    let before = wanted(&networks(), &ports());
    let more = [networks(), vec![network("br-five", access("10.5.0.0/24"), None)]].concat();
    let after = wanted(&more, &ports());
    golden("network-added.v4", &after.delta(Version::V4, &before).expect("something"));
    golden("network-removed.v4", &before.delta(Version::V4, &after).expect("something"));
}

#[test]
fn what_iptables_cannot_say_is_refused() {
    let new = |networks: &[NetworkRules], ports: &[PortRules]| Wanted::new(&names(), None, networks, ports);
    let bridge = network("br+", None, None);
    assert_eq!(new(&[bridge], &[]), Err(Unfit::Interface("br+".parse().expect("the kernel takes it"))));
    let two = port("tcp", Some("192.0.2.1"), 80, 80, "fd00::2", 80);
    assert_eq!(new(&[], std::slice::from_ref(&two)), Err(Unfit::Families(Box::new(two))));
    for bad in [
        port("icmp", None, 80, 80, "10.0.0.2", 80),
        port("tcp", None, 81, 80, "10.0.0.2", 80),
        port("tcp", None, 80, 90, "10.0.0.2", 65_530),
    ] {
        assert_eq!(new(&[], std::slice::from_ref(&bad)), Err(Unfit::Ports(Box::new(bad))));
    }
}

/// Tables of a host that is not there.
trait Tables {
    fn must(&mut self, text: &str);
    fn saved(&self) -> Saved;
}

impl Tables for Iptables {
    fn must(&mut self, text: &str) {
        self.feed(text).unwrap_or_else(|why| panic!("{why}\n{text}"));
    }

    fn saved(&self) -> Saved {
        Saved::parse(&self.shown())
    }
}

#[test]
fn jumps_come_first_again_and_users_rules_and_those_of_others_stay() {
    let all = wanted(&networks(), &ports());
    let mut host = Iptables::default();
    for chain in ["DOCKER-USER", "DOCKER-FORWARD", "NL_BLUE-FORWARD"] {
        host.rules("filter", chain);
    }
    host.rules("filter", "FORWARD").push("-j DOCKER-USER".into());
    host.rules("filter", "NETLOOM-USER").push("-s 203.0.113.0/24 -j DROP".into());
    let before = host.clone();
    host.must(&all.restore(Version::V4, &host.saved()).expect("something"));
    assert_eq!(host.rules("filter", "NETLOOM-USER").len(), 1, "it was emptied");
    assert_eq!(all.restore(Version::V4, &host.saved()), None, "applying twice changes something");
    // Somebody pushes in front, another engine is there, and one of our jumps is doubled.
    let engine = "-m comment --comment netloom -j NL_BLUE-FORWARD";
    let ours = host.rules("filter", "FORWARD")[0].clone();
    host.rules("filter", "FORWARD").splice(0..0, [engine.to_owned(), "-j DOCKER-FORWARD".into()]);
    host.rules("filter", "FORWARD").push(ours.clone());
    host.must(&all.restore(Version::V4, &host.saved()).expect("something"));
    let forward = [ours.as_str(), engine, "-j DOCKER-FORWARD", "-j DOCKER-USER"];
    assert_eq!(host.rules("filter", "FORWARD"), &forward);
    // Each of these alone, and rules of ours in another order.
    let right = host.clone();
    for spoil in [
        |host: &mut Iptables, _: &str| host.rules("filter", "FORWARD").insert(0, "-j DOCKER-FORWARD".into()),
        |host: &mut Iptables, ours: &str| host.rules("filter", "FORWARD").push(ours.into()),
        |host: &mut Iptables, _: &str| host.rules("nat", "NETLOOM-NAT").reverse(),
        |host: &mut Iptables, _: &str| host.rules("filter", "NETLOOM-I-br-two").swap(0, 5),
    ] {
        let mut spoiled = right.clone();
        spoil(&mut spoiled, &ours);
        assert_ne!(spoiled, right);
        spoiled.must(&all.restore(Version::V4, &spoiled.saved()).expect("something is wrong"));
        assert_eq!(spoiled.rules("filter", "FORWARD")[0], ours);
        assert_eq!(all.restore(Version::V4, &spoiled.saved()), None);
        assert_eq!(spoiled.rules("filter", "FORWARD").iter().filter(|rule| **rule == ours).count(), 1);
    }
    // Behind another engine's it is first enough: neither pushes the other.
    host.rules("filter", "FORWARD").swap(0, 1);
    assert_eq!(all.restore(Version::V4, &host.saved()), None);
    host.rules("filter", "FORWARD").retain(|rule| rule == &ours || rule == "-j DOCKER-USER");
    host.must(&removal(&names(), Version::V4, &host.saved()).expect("something"));
    assert_eq!(host, before);
    assert_eq!(removal(&names(), Version::V4, &host.saved()), None);
}

#[test]
fn another_engines_chains_are_not_touched() {
    let other = Wanted::new(&Names::of("blue"), None, &networks(), &ports()).expect("fits");
    let mut host = Iptables::default();
    host.must(&other.restore(Version::V4, &host.saved()).expect("something"));
    let before = host.clone();
    host.must(&wanted(&networks(), &ports()).restore(Version::V4, &host.saved()).expect("something"));
    assert_eq!(other.restore(Version::V4, &host.saved()), None);
    host.must(&removal(&names(), Version::V4, &host.saved()).expect("something"));
    assert_eq!(host, before);
}

fn some_networks() -> impl Strategy<Value = Vec<NetworkRules>> {
    proptest::sample::subsequence(networks(), 0..=networks().len()).prop_shuffle()
}

fn some_ports() -> impl Strategy<Value = Vec<PortRules>> {
    let one = (0..2_usize, 0..4_u16, 0..3_u16, 1..5_u8, 0..4_u16, any::<bool>()).prop_map(
        |(host, port_at, length, container, inside, routed)| {
            let host = [None, Some("192.0.2.1")][host];
            let first = 80 + port_at;
            let mut one =
                port("tcp", host, first, first + length, &format!("10.0.0.{container}"), 80 + inside);
            one.routed = routed;
            one
        },
    );
    proptest::collection::vec(one, 0..12)
}

/// The same cases in every run, unless `PROPTEST_RNG_SEED` or `PROPTEST_CASES` says otherwise.
fn config() -> ProptestConfig {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(0x006e_6574_6c6f_6f6d);
    }
    config
}

proptest! {
    #![proptest_config(config())]

    /// However one gets there, by one text from nothing, by steps, or by repair of what is there: the tables are the same.
    #[test]
    fn all_ways_lead_to_the_same_tables(
        steps in proptest::collection::vec((some_networks(), some_ports()), 1..6),
    ) {
        for version in BOTH {
            let (mut by_steps, mut by_repair) = (Iptables::default(), Iptables::default());
            let mut last = wanted(&[], &[]);
            by_steps.must(&last.restore(version, &Saved::default()).expect("something"));
            for (networks, ports) in &steps {
                let next = wanted(networks, ports);
                by_steps.must(&next.delta(version, &last).unwrap_or_default());
                by_repair.must(&next.restore(version, &by_repair.saved()).unwrap_or_default());
                last = next;
            }
            let mut at_once = Iptables::default();
            at_once.must(&last.restore(version, &Saved::default()).expect("something"));
            prop_assert_eq!(&by_steps, &at_once);
            prop_assert_eq!(&by_repair, &at_once);
            prop_assert_eq!(last.restore(version, &at_once.saved()), None);
        }
    }
}
