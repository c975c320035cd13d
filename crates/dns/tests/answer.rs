//! Questions that the records answer, as bytes in and bytes out.

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::{A, AAAA, ANY, MX, PTR, Question, Reply, SRV, TXT, endpoint, named, read};
use netloom_dns::answer::{Asked, Outcome, TTL, Verdict, answer};
use netloom_dns::query::Transport;
use netloom_dns::records::{Attachment, ServicePort, View, ZoneWriter};

struct Names {
    writer: ZoneWriter,
    view: View,
    now: Instant,
}

fn names() -> Names {
    let now = Instant::now();
    let mut writer = ZoneWriter::new("net");
    writer.set_subnets(vec!["10.0.0.0/16".parse().expect("a range"), "fd00::/64".parse().expect("a range")]);
    writer.publish(endpoint(1), &named(&["web"], &["10.0.0.1"]), now);
    writer.publish(endpoint(2), &named(&["both"], &["10.0.0.2", "fd00::2"]), now);
    let mut shop = named(&["shop1"], &["10.0.0.3"]);
    shop.services = vec![ServicePort {
        service: "shop".into(),
        port_name: "http".into(),
        protocol: "tcp".into(),
        port: 8080,
    }];
    writer.publish(endpoint(3), &shop, now);
    writer.publish(endpoint(4), &named(&["gone"], &["10.0.0.4"]), now);
    writer.withdraw(endpoint(4), now);
    for number in 0..300_u64 {
        let address = format!("10.0.{}.{}", 1 + number / 200, number % 200);
        writer.publish(endpoint(100 + number), &named(&["many"], &[&address]), now);
    }
    let view = View::new(vec![Attachment::new(writer.reader(), [("shop-alias", "shop1")])]);
    Names { writer, view, now }
}

impl Names {
    fn ask_with(&self, query: &[u8], transport: Transport, seed: u64) -> (Verdict, Vec<u8>) {
        let mut out = Vec::new();
        let asked = Asked { transport, now: self.now, seed, ttl: TTL };
        let verdict = answer(query, &self.view, &asked, &mut out);
        (verdict, out)
    }

    fn ask(&self, name: &str, rtype: u16) -> (Verdict, Option<Reply>) {
        let (verdict, out) = self.ask_with(&Question::new(name, rtype).bytes(), Transport::Udp, 1);
        (verdict, matches!(verdict, Verdict::Answered(_)).then(|| read(&out)))
    }
}

#[test]
fn what_is_known_is_answered_and_nothing_else() {
    let names = names();
    let six = |last: u128| {
        let address = 0xfd00_u128 << 112 | last;
        let digits = (0..32).map(|at| format!("{:x}.", address >> (4 * at) & 15));
        digits.collect::<String>() + "ip6.arpa"
    };
    for (name, rtype, expected) in [
        ("web", A, "A 10.0.0.1 600"),
        ("WEB.Net", A, "A 10.0.0.1 600"),
        ("web", AAAA, ""),
        ("web", MX, ""),
        ("web", TXT, ""),
        ("web", SRV, ""),
        ("web", 65, ""),
        ("both", AAAA, "AAAA fd00::2 600"),
        ("both", ANY, "A 10.0.0.2 600, AAAA fd00::2 600"),
        ("shop-alias", A, "A 10.0.0.3 600"),
        ("_http._tcp.shop", SRV, "SRV 0 0 8080 shop1 600 + A 10.0.0.3 600"),
        ("_http._tcp.shop", A, ""),
        ("_http._udp.shop", SRV, "no such name"),
        ("_http._tcp.web", SRV, "no such name"),
        ("1.0.0.10.in-addr.arpa", PTR, "PTR web.net. 600"),
        ("1.0.0.10.IN-ADDR.ARPA", PTR, "PTR web.net. 600"),
        ("1.0.0.10.in-addr.arpa", TXT, ""),
        (&six(2), PTR, "PTR both.net. 600"),
        (&six(9), PTR, "no such name"),
        ("250.0.0.10.in-addr.arpa", PTR, "no such name"),
        ("0.0.10.in-addr.arpa", 6, ""),
        ("8.8.8.8.in-addr.arpa", PTR, "forward"),
        ("10.in-addr.arpa", PTR, "forward"),
        ("gone", A, "no such name"),
        ("gone", AAAA, "no such name"),
        ("other", A, "forward"),
        ("example.com", A, "forward"),
        ("example.com", TXT, "forward"),
        ("_http._tcp.example.com", SRV, "forward"),
        ("", 2, "forward"),
    ] {
        let (verdict, reply) = names.ask(name, rtype);
        let shown = match (verdict, reply) {
            (Verdict::Forward { .. }, None) => "forward".to_owned(),
            (Verdict::Answered(Outcome::NoSuchName), Some(reply)) => {
                assert_eq!((reply.rcode, reply.answers.len()), (3, 0));
                "no such name".to_owned()
            }
            (Verdict::Answered(outcome), Some(reply)) => {
                assert_eq!(reply.rcode, 0, "{name}");
                assert_eq!(outcome == Outcome::NoData, reply.answers.is_empty(), "{name}");
                let extra = reply.extra.iter().map(|record| format!(" + {record}"));
                reply.answers.join(", ") + &extra.collect::<String>()
            }
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(shown, expected, "{name} {rtype}");
    }
}

#[test]
fn names_that_went_are_asked_for_outside_a_minute_later() {
    let mut names = names();
    names.now += Duration::from_secs(60);
    assert_eq!(names.ask("gone", A).0, Verdict::Forward { limit: 512 });
    names.writer.publish(endpoint(4), &named(&["gone"], &["10.0.0.9"]), names.now);
    assert_eq!(names.ask("gone", A).1.expect("an answer").answers, ["A 10.0.0.9 600"]);
}

#[test]
fn single_labels_stay_here_where_the_user_has_chosen_ndots() {
    let mut names = names();
    names.view.keeps_single_labels = true;
    for (name, rtype, outcome) in [
        ("other", A, Some(Outcome::NoData)),
        ("other", AAAA, Some(Outcome::NoData)),
        ("other", MX, None),
        ("other.example", A, None),
    ] {
        let expected = outcome.map_or(Verdict::Forward { limit: 512 }, Verdict::Answered);
        assert_eq!(names.ask(name, rtype).0, expected, "{name} {rtype}");
    }
}

#[test]
fn what_is_no_question_is_refused_or_passed_over() {
    let names = names();
    let web = Question::new("web", A);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = web.bytes();
        change(&mut bytes);
        bytes
    };
    let two_opts = with(&|bytes| {
        bytes[11] = 2;
        bytes.extend([0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 0].repeat(2));
    });
    let opt_of_a_name = with(&|bytes| {
        bytes[11] = 1;
        bytes.extend([1, b'a', 0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 0]);
    });
    for (what, bytes, expected) in [
        ("nothing", Vec::new(), None),
        ("less than a header", web.bytes()[..11].to_vec(), None),
        ("an answer", with(&|bytes| bytes[2] |= 0x80), None),
        ("a header alone", web.bytes()[..12].to_vec(), Some(1)),
        ("half a question", web.bytes()[..15].to_vec(), Some(1)),
        ("no question", with(&|bytes| bytes[5] = 0), Some(1)),
        (
            "two questions",
            with(&|bytes| {
                bytes[5] = 2;
                bytes.extend(web.section());
            }),
            Some(1),
        ),
        ("a record that is not there", with(&|bytes| bytes[11] = 1), Some(1)),
        ("a name that leads to itself", [&web.bytes()[..12], &[0xc0, 12, 0, 1, 0, 1]].concat(), Some(1)),
        ("two OPT records", two_opts, Some(1)),
        ("an OPT record of a name", opt_of_a_name, Some(1)),
        ("an inverse question", with(&|bytes| bytes[2] |= 1 << 3), Some(4)),
        ("a notice", with(&|bytes| bytes[2] |= 4 << 3), Some(4)),
        ("an update", with(&|bytes| bytes[2] |= 5 << 3), Some(4)),
        ("a later EDNS", Question { edns: Some((1232, 1)), ..web.clone() }.bytes(), Some(16)),
        ("a whole zone", Question::new("web", 252).bytes(), Some(5)),
        ("what changed in a zone", Question::new("example.com", 251).bytes(), Some(5)),
        ("another class", Question { class: 3, ..Question::new("version.bind", TXT) }.bytes(), Some(5)),
    ] {
        let (verdict, out) = names.ask_with(&bytes, Transport::Udp, 1);
        match (verdict, expected) {
            (Verdict::Silence, None) => {}
            (Verdict::Answered(_), Some(code)) => {
                let reply = read(&out);
                assert_eq!((reply.id, reply.rcode, reply.answers.len()), (0x1234, code, 0), "{what}");
                assert_eq!(out[2] & 0x78, bytes[2] & 0x78, "{what}: the opcode");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn flags_and_the_case_of_the_question_are_the_clients() {
    let names = names();
    for flags in [0x0000, 0x0100, 0x0110, 0x0120] {
        let query = Question { flags, ..Question::new("wEb.NET", A).edns(1232) };
        let (_, out) = names.ask_with(&query.bytes(), Transport::Udp, 1);
        let told = u16::from_be_bytes([out[2], out[3]]);
        // An answer, recursion is available; RD and CD are the client's, AD is not.
        assert_eq!(told, 0x8080 | (flags & 0x0110), "{flags:04x}");
        let reply = read(&out);
        assert_eq!(reply.question.as_deref(), Some("wEb.NET"));
        assert_eq!(reply.edns, Some(4096));
    }
    let (_, reply) = names.ask("web", A);
    assert_eq!(reply.expect("an answer").edns, None, "no OPT without one");
}

#[test]
fn answers_fit_their_client_and_say_when_they_are_cut() {
    let names = names();
    for size in [None, Some(0), Some(511), Some(512), Some(1232), Some(4096), Some(5000), Some(65_535)] {
        for transport in [Transport::Udp, Transport::Tcp] {
            for (name, count) in [("web", 1), ("many", 300)] {
                let query = Question { edns: size.map(|size| (size, 0)), ..Question::new(name, A) };
                let (_, out) = names.ask_with(&query.bytes(), transport, 1);
                let reply = read(&out);
                let limit = match transport {
                    Transport::Udp => usize::from(size.unwrap_or(512).max(512)),
                    Transport::Tcp => 65_535,
                };
                let context = format!("{size:?} {transport:?} {name}");
                assert!(out.len() <= limit, "{context}: {} bytes", out.len());
                // Header, question, an OPT record, and 16 bytes a record: the name is compressed.
                let fixed = 12 + name.len() + 6 + if size.is_some() { 11 } else { 0 };
                let room = (limit - fixed) / 16;
                assert_eq!(reply.answers.len(), count.min(room), "{context}");
                assert_eq!(reply.cut, room < count, "{context}");
                assert_eq!(reply.edns.is_some(), size.is_some(), "{context}");
                let distinct: BTreeSet<&String> = reply.answers.iter().collect();
                assert_eq!(distinct.len(), reply.answers.len(), "{context}");
            }
        }
    }
}

#[test]
fn the_order_of_addresses_is_the_seeds() {
    let mut names = names();
    for number in 0..3 {
        let address = format!("10.0.9.{number}");
        names.writer.publish(endpoint(50 + number), &named(&["three"], &[&address]), names.now);
    }
    let query = Question::new("three", A).bytes();
    let order = |seed| read(&names.ask_with(&query, Transport::Udp, seed).1).answers;
    let mut random = common::Random(42);
    let mut orders = std::collections::BTreeMap::new();
    for _ in 0..1200 {
        let seed = random.next();
        assert_eq!(order(seed), order(seed));
        *orders.entry(order(seed)).or_insert(0) += 1;
    }
    assert_eq!(orders.len(), 6, "every order: {orders:?}");
    assert!(orders.values().all(|count| (120..280).contains(count)), "evenly: {orders:?}");
}

#[test]
fn addresses_with_names_that_do_not_fit_dns_have_none() {
    let mut names = names();
    let long = "a".repeat(64);
    names.writer.publish(endpoint(60), &named(&[&long], &["10.0.8.1"]), names.now);
    assert_eq!(names.ask("1.8.0.10.in-addr.arpa", PTR).0, Verdict::Answered(Outcome::NoData));
}
