//! Service records against a naive account of who said what, and the rules by which names are found.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::{Random, endpoint, ip, named};
use netloom_dns::records::{
    Attachment, EndpointNames, Family, Found, Known, ServicePort, SrvFound, View, ZoneReader, ZoneWriter,
};
use netloom_model::EndpointId;

/// What an account without any cleverness says: who said what, first come first.
#[derive(Default)]
struct Naive(Vec<(EndpointId, EndpointNames)>);

impl Naive {
    fn addresses(&self, name: &str) -> BTreeSet<IpAddr> {
        let holders = self.0.iter().filter(|(_, said)| said.names.iter().any(|known| known == name));
        holders.flat_map(|(_, said)| said.addresses.iter().copied()).collect()
    }

    fn publish(&mut self, endpoint: EndpointId, said: EndpointNames) {
        match self.0.iter_mut().find(|(known, _)| *known == endpoint) {
            Some((_, before)) => *before = said,
            None => self.0.push((endpoint, said)),
        }
    }
}

fn addresses(zone: &ZoneReader, name: &str, now: Instant) -> BTreeSet<IpAddr> {
    let Known::Here(entry) = zone.load().find(name, now) else { return BTreeSet::new() };
    let v4 = entry.v4.iter().map(|address| IpAddr::V4(*address));
    v4.chain(entry.v6.iter().map(|address| IpAddr::V6(*address))).collect()
}

#[test]
fn records_agree_with_a_naive_account() {
    let names = ["a", "b", "c", "d.e"];
    let ips: Vec<IpAddr> = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2"].map(ip).to_vec();
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut writer = ZoneWriter::new("net");
        let reader = writer.reader();
        let mut naive = Naive::default();
        // When a name was last seen with an address.
        let mut last: BTreeMap<&str, Instant> = BTreeMap::new();
        let mut now = Instant::now();
        for step in 0..60 {
            now += Duration::from_secs(random.below(40));
            let who = endpoint(random.below(4));
            if random.below(3) == 0 {
                writer.withdraw(who, now);
                naive.0.retain(|(known, _)| *known != who);
            } else {
                let chosen = random.some(&names).into_iter().map(str::to_owned).collect();
                let said =
                    EndpointNames { names: chosen, addresses: random.some(&ips), services: Vec::new() };
                writer.publish(who, &said, now);
                naive.publish(who, said);
            }
            for name in names {
                let expected = naive.addresses(name);
                let context = format!("{name} at step {step} of seed {seed}");
                assert_eq!(addresses(&reader, name, now), expected, "{context}");
                let known = reader.load().find(name, now);
                if !expected.is_empty() {
                    last.insert(name, now);
                } else if last.get(name).is_some_and(|seen| now < *seen + Duration::from_secs(60)) {
                    // It went at the latest in this step, so it is remembered for at least as long.
                    assert_eq!(known, Known::Gone, "{context}");
                }
            }
            // Every record has exactly the owners that said it.
            for record in writer.list() {
                let said = naive.0.iter().filter(|(_, said)| {
                    said.names.iter().any(|name| **name == *record.name)
                        && said.addresses.contains(&record.address)
                });
                let said: BTreeSet<EndpointId> = said.map(|(owner, _)| *owner).collect();
                assert_eq!(record.owners.iter().copied().collect::<BTreeSet<_>>(), said, "seed {seed}");
            }
            for address in &ips {
                let mut holders = naive
                    .0
                    .iter()
                    .filter(|(_, said)| !said.names.is_empty() && said.addresses.contains(address));
                let called = reader.load().name_of(*address).map(ToString::to_string);
                let known: Vec<&String> = holders.by_ref().map(|(_, said)| &said.names[0]).collect();
                match &called {
                    Some(called) => assert!(known.contains(&called), "{address} at {step} of seed {seed}"),
                    None => assert!(known.is_empty(), "{address} at step {step} of seed {seed}"),
                }
            }
        }
        for number in 0..4 {
            writer.withdraw(endpoint(number), now);
        }
        assert!(reader.load().is_empty() && writer.list().is_empty(), "seed {seed}");
        assert!(ips.iter().all(|address| reader.load().name_of(*address).is_none()), "seed {seed}");
        writer.withdraw(endpoint(9), now + Duration::from_secs(61));
        assert!(names.iter().all(|name| reader.load().find(name, now) == Known::Not), "seed {seed}");
    }
}

#[test]
fn two_endpoints_of_one_name_both_answer_and_one_stays() {
    let now = Instant::now();
    let mut writer = ZoneWriter::new("net");
    let reader = writer.reader();
    writer.publish(endpoint(1), &named(&["web"], &["10.0.0.1"]), now);
    writer.publish(endpoint(2), &named(&["WEB."], &["10.0.0.2"]), now);
    assert_eq!(addresses(&reader, "web", now), [ip("10.0.0.1"), ip("10.0.0.2")].into());
    writer.withdraw(endpoint(1), now);
    assert_eq!(addresses(&reader, "web", now), [ip("10.0.0.2")].into());
}

#[test]
fn an_address_that_changes_hands_stays_until_its_last_owner_goes() {
    let now = Instant::now();
    let mut writer = ZoneWriter::new("net");
    let reader = writer.reader();
    writer.publish(endpoint(1), &named(&["web"], &["10.0.0.1"]), now);
    writer.publish(endpoint(2), &named(&["web"], &["10.0.0.1"]), now);
    writer.publish(endpoint(2), &named(&["web", "www"], &["10.0.0.1"]), now);
    assert_eq!(writer.list()[0].owners, [endpoint(1), endpoint(2)]);
    writer.withdraw(endpoint(1), now);
    assert_eq!(addresses(&reader, "web", now), [ip("10.0.0.1")].into());
    assert_eq!(reader.load().name_of(ip("10.0.0.1")).map(|name| &**name), Some("web"));
    writer.withdraw(endpoint(2), now);
    assert_eq!(reader.load().find("web", now), Known::Gone);
    assert_eq!(reader.load().name_of(ip("10.0.0.1")), None);
}

#[test]
fn the_first_who_came_names_an_address() {
    let now = Instant::now();
    let mut writer = ZoneWriter::new("net");
    let reader = writer.reader();
    let called = || reader.load().name_of(ip("10.0.0.1")).map(ToString::to_string);
    writer.publish(endpoint(1), &named(&["old", "alias"], &["10.0.0.1"]), now);
    writer.publish(endpoint(2), &named(&["new"], &["10.0.0.1"]), now);
    assert_eq!(called().as_deref(), Some("old"));
    writer.publish(endpoint(1), &named(&["renamed"], &["10.0.0.1"]), now);
    assert_eq!(called().as_deref(), Some("renamed"));
    writer.withdraw(endpoint(1), now);
    assert_eq!(called().as_deref(), Some("new"));
}

#[test]
fn anonymous_endpoints_have_their_aliases_or_nothing() {
    let now = Instant::now();
    let mut writer = ZoneWriter::new("net");
    let reader = writer.reader();
    writer.publish(endpoint(1), &named(&[], &["10.0.0.1"]), now);
    assert!(reader.load().is_empty());
    assert_eq!(reader.load().name_of(ip("10.0.0.1")), None);
    writer.publish(endpoint(2), &named(&["alias", "other"], &["fd00::2"]), now);
    assert_eq!(reader.load().name_of(ip("fd00::2")).map(|name| &**name), Some("alias"));
    assert_eq!(addresses(&reader, "other", now), [ip("fd00::2")].into(), "nothing but IPv6 is enough");
}

#[test]
fn names_that_went_are_remembered_for_a_minute_and_in_bounds() {
    let start = Instant::now();
    let mut writer = ZoneWriter::new("net");
    let reader = writer.reader();
    writer.publish(endpoint(0), &named(&["web"], &["10.0.0.1"]), start);
    writer.withdraw(endpoint(0), start);
    assert_eq!(reader.load().find("web", start + Duration::from_secs(59)), Known::Gone);
    assert_eq!(reader.load().find("web", start + Duration::from_secs(60)), Known::Not);
    for number in 0..5000 {
        writer.publish(endpoint(number), &named(&[&format!("web{number}")], &["10.0.0.1"]), start);
        writer.withdraw(endpoint(number), start);
    }
    assert_eq!(reader.load().find("web1", start), Known::Not, "the oldest make room");
    assert_eq!(reader.load().find("web4999", start), Known::Gone);
    // One that came back is not forgotten with its first life.
    writer.publish(endpoint(1), &named(&["web4999"], &["10.0.0.1"]), start);
    writer.withdraw(endpoint(2), start + Duration::from_secs(120));
    assert_eq!(addresses(&reader, "web4999", start), [ip("10.0.0.1")].into());
}

/// Two networks, both with `web`, and one sandbox with private aliases.
fn two_networks(now: Instant) -> (ZoneWriter, ZoneWriter, View) {
    let (mut front, mut back) = (ZoneWriter::new("Front"), ZoneWriter::new("back.end"));
    front.set_subnets(vec!["10.0.0.0/24".parse().expect("a range")]);
    back.set_subnets(vec!["10.0.1.0/24".parse().expect("a range"), "fd00::/64".parse().expect("a range")]);
    front.publish(endpoint(1), &named(&["web"], &["10.0.0.1"]), now);
    back.publish(endpoint(2), &named(&["web"], &["10.0.1.1", "fd00::1"]), now);
    back.publish(endpoint(3), &named(&["db"], &["10.0.1.3"]), now);
    back.publish(endpoint(4), &named(&["six"], &["fd00::4"]), now);
    back.publish(endpoint(5), &named(&["a.b"], &["10.0.1.5"]), now);
    let aliases = [("database", "db"), ("web", "six"), ("lost", "nobody")];
    let networks = vec![Attachment::new(front.reader(), []), Attachment::new(back.reader(), aliases)];
    let mut view = View::new(networks);
    view.add_name("Gateway.", &[ip("192.0.2.1")]);
    (front, back, view)
}

#[test]
fn names_are_found_in_libnetworks_order() {
    let now = Instant::now();
    let (mut front, mut back, view) = two_networks(now);
    let find = |name: &str, family| match view.find(name, family, now) {
        Found::Addresses(entry) => format!("{:?}{:?}", entry.v4, entry.v6),
        Found::NoData => "no data".to_owned(),
        Found::NoSuchName => "no such name".to_owned(),
        Found::Unknown => "unknown".to_owned(),
    };
    for (name, family, expected) in [
        // The alias `web` has no IPv4, and that is an answer before any record is looked at.
        ("web", Family::V4, "no data"),
        ("web", Family::V6, "[][fd00::4]"),
        ("web.front", Family::V4, "[10.0.0.1][]"),
        ("web.front", Family::V6, "no data"),
        ("web.back.end", Family::V6, "[][fd00::4]"),
        ("db", Family::V4, "[10.0.1.3][]"),
        ("db", Family::V6, "no data"),
        ("database", Family::V4, "[10.0.1.3][]"),
        ("database.back.end", Family::V4, "[10.0.1.3][]"),
        ("database.front", Family::V4, "unknown"),
        ("db.front", Family::V4, "unknown"),
        ("six", Family::V4, "no data"),
        ("six", Family::Any, "[][fd00::4]"),
        ("a.b", Family::V4, "[10.0.1.5][]"),
        ("a.b.back.end", Family::V4, "[10.0.1.5][]"),
        ("b", Family::V4, "unknown"),
        ("lost", Family::V4, "no such name"),
        ("gateway", Family::V4, "[192.0.2.1][]"),
        ("gateway", Family::V6, "no data"),
        ("example.com", Family::V4, "unknown"),
    ] {
        assert_eq!(find(name, family), expected, "{name} {family:?}");
    }
    front.withdraw(endpoint(1), now);
    back.withdraw(endpoint(3), now);
    assert_eq!(find("web.front", Family::V4), "no such name");
    assert_eq!(find("database", Family::V4), "no such name");
}

#[test]
fn without_aliases_the_first_network_answers_alone() {
    let now = Instant::now();
    let (front, back, _) = two_networks(now);
    let view =
        View::new(vec![Attachment::new(front.reader(), []), Attachment::new(back.reader(), [("web", "x")])]);
    assert_eq!(
        view.find("web", Family::V6, now),
        Found::NoData,
        "an alias hides a record of its network alone"
    );
    let view = View::new(vec![Attachment::new(front.reader(), []), Attachment::new(back.reader(), [])]);
    let Found::Addresses(entry) = view.find("web", Family::V4, now) else { panic!("not found") };
    assert_eq!(entry.v4, ["10.0.0.1".parse::<std::net::Ipv4Addr>().expect("an address")], "no union");
    let Found::Addresses(entry) = view.find("web", Family::V6, now) else { panic!("not found") };
    assert_eq!(entry.v6.len(), 1, "the first network with that family");
}

#[test]
fn addresses_have_names_and_own_subnets_have_no_others() {
    let (_front, _back, view) = two_networks(Instant::now());
    let name_of = |range: &str| view.name_of(range.parse().expect("a range"));
    assert_eq!(name_of("10.0.1.3/32"), Ok(Some("db.back.end".to_owned())));
    assert_eq!(name_of("10.0.0.1/32"), Ok(Some("web.front".to_owned())));
    assert_eq!(name_of("fd00::4/128"), Ok(Some("six.back.end".to_owned())));
    assert_eq!(name_of("10.0.1.77/32"), Ok(None));
    assert_eq!(name_of("10.0.1.0/24"), Ok(None));
    assert!(name_of("10.0.0.0/16").is_err());
    assert!(name_of("8.8.8.8/32").is_err());
}

#[test]
fn services_are_found_by_port_and_protocol() {
    let now = Instant::now();
    let mut writer = ZoneWriter::new("net");
    let service = |name: &str, port| ServicePort {
        service: "Shop".into(),
        port_name: name.into(),
        protocol: "_TCP".into(),
        port,
    };
    let mut said = named(&["web1"], &["10.0.0.1"]);
    said.services = vec![service("http", 80), service("_metrics", 9000)];
    writer.publish(endpoint(1), &said, now);
    let mut second = named(&["web2"], &["10.0.0.2"]);
    second.services = vec![service("http", 8080)];
    writer.publish(endpoint(2), &second, now);
    let view = View::new(vec![Attachment::new(writer.reader(), [])]);
    let targets = |name: &str| match view.service(name, now) {
        SrvFound::Targets(targets) => {
            targets.iter().map(|target| (target.name.to_string(), target.port)).collect()
        }
        SrvFound::NoSuchName => vec![("no such name".to_owned(), 0)],
        SrvFound::Unknown => Vec::new(),
    };
    assert_eq!(targets("_http._tcp.shop"), [("web1".to_owned(), 80), ("web2".to_owned(), 8080)]);
    assert_eq!(targets("http.tcp.shop"), targets("_http._tcp.shop"));
    assert_eq!(targets("_metrics._tcp.shop"), [("web1".to_owned(), 9000)]);
    assert_eq!(targets("_http._udp.shop"), [("no such name".to_owned(), 0)]);
    assert_eq!(targets("_http._tcp.web1"), [("no such name".to_owned(), 0)]);
    assert!(targets("_http._tcp.example.com").is_empty());
    writer.publish(endpoint(2), &named(&["web2"], &["10.0.0.2"]), now);
    assert_eq!(targets("_http._tcp.shop"), [("web1".to_owned(), 80)]);
    writer.withdraw(endpoint(1), now);
    assert!(targets("_http._tcp.shop").is_empty());
}

#[test]
fn readers_keep_what_they_took_and_see_what_is_new() {
    let now = Instant::now();
    let mut writer = ZoneWriter::new("net");
    let reader = writer.reader();
    let before = std::sync::Arc::clone(&reader.load());
    writer.publish(endpoint(1), &named(&["web"], &["10.0.0.1"]), now);
    assert_eq!(before.find("web", now), Known::Not);
    assert!(matches!(reader.load().find("web", now), Known::Here(_)));
    assert_eq!(reader.load().names().count(), 1);
}
