//! Questions for others, on real sockets: upstreams that are dead, lie, fail, or come and go.

mod common;
#[path = "common/fake.rs"]
mod fake;
#[path = "common/site.rs"]
mod site;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{A, AAAA, ANY, MX, PTR, Question, SRV, TXT, endpoint, named, read};
use fake::{Fake, Manner};
use netloom_dns::forward::{Budget, Forwarding, Place, Upstream};
use netloom_dns::records::{Attachment, View, ZoneWriter};
use netloom_dns::server::Options;
use site::{Client, Site, framed, isolated, receive, upstreams};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn site(at: &[SocketAddr]) -> Site {
    Site::start(View::default(), Options::default(), &upstreams(at))
}

fn with_budget(at: &[SocketAddr], all: u64, each: u64) -> Site {
    let budget = Budget { all: Duration::from_millis(all), each: Duration::from_millis(each) };
    Site::start(View::default(), Options { budget, ..Options::default() }, &upstreams(at))
}

/// An address where nobody is.
async fn nobody() -> SocketAddr {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    socket.local_addr().expect("bound")
}

#[test]
fn whatever_an_upstream_says_passes_unchanged() {
    isolated(|| async {
        let upstream = Fake::start(Manner::Honest).await;
        let site = site(&[upstream.at]);
        for rtype in [A, AAAA, TXT, MX, SRV, 35, 43, 46, 48, 64, 65, 257, 65_280] {
            let mut query = Question::new("300.ExAmPlE.com", rtype).edns(1232).bytes();
            // An option, and the wish for signatures.
            query.truncate(query.len() - 2);
            query.extend([0, 8, 0xfd, 0xe9, 0, 4, 1, 2, 3, 4]);
            let at = query.len() - 12;
            query[at] = 0x80;
            assert_eq!(site.udp(&query).await, fake::answer(&query, 1), "{rtype}");
            assert_eq!(site.tcp(&query).await, fake::answer(&query, 1), "{rtype}");
        }
        let mut codes = Vec::new();
        for code in [1, 3, 4, 6, 9] {
            upstream.set(Manner::Code(code));
            codes.push(read(&site.udp(&Question::new(&format!("a{code}.example"), A).bytes()).await).rcode);
        }
        assert_eq!(codes, [1, 3, 4, 6, 9]);
        upstream.set(Manner::Short(1));
        assert_eq!(read(&site.udp(&Question::new("short.example", A).bytes()).await).rcode, 1);
    });
}

#[test]
fn lies_are_passed_over_and_counted() {
    isolated(|| async {
        for (manner, lies) in [
            (Manner::WrongId, 20),
            (Manner::WrongQuestion, 2),
            (Manner::Garbage, 4),
            // The kernel keeps what others send from us.
            (Manner::WrongSource, 0),
        ] {
            let upstream = Fake::start(manner).await;
            let site = site(&[upstream.at]);
            let reply = read(&site.udp(&Question::new("lies.example", A).bytes()).await);
            assert_eq!(reply.answers, ["A 192.0.2.1 30"], "{manner:?}");
            assert_eq!(site.names.upstreams()[0].mismatched, lies, "{manner:?}");
            assert_eq!(upstream.seen(), 1, "{manner:?}: asked once");
        }
        // An empty answer without the question is no answer.
        let upstream = Fake::start(Manner::Short(0)).await;
        let site = with_budget(&[upstream.at], 400, 150);
        let reply = read(&site.udp(&Question::new("short.example", A).bytes()).await);
        assert_eq!(reply.question.as_deref(), Some("short.example"), "it came over TCP, with its question");
        assert!(site.names.upstreams()[0].mismatched >= 1);
    });
}

#[test]
fn the_next_one_is_asked_when_one_fails() {
    isolated(|| async {
        let second = Fake::numbered(Manner::Honest, 2).await;
        for manner in [Manner::Code(2), Manner::Code(5), Manner::Short(2)] {
            let first = Fake::start(manner).await;
            let site = site(&[first.at, second.at]);
            let reply = read(&site.udp(&Question::new("a.example", A).bytes()).await);
            assert_eq!(reply.answers, ["A 192.0.2.2 30"], "{manner:?}");
            let states = site.names.upstreams();
            assert_eq!((states[0].failed, states[1].answered), (1, 1), "{manner:?}");
            assert!(!states[0].suspect, "it is there");
        }
        let first = Fake::start(Manner::Code(3)).await;
        let site = site(&[first.at, second.at]);
        let reply = read(&site.udp(&Question::new("a.example", A).bytes()).await);
        assert_eq!((reply.rcode, reply.answers.len()), (3, 0), "no such name is an answer");
    });
}

#[test]
fn a_dead_one_is_remembered_and_an_absent_one_costs_nothing() {
    isolated(|| async {
        let (dead, good) = (Fake::start(Manner::Dead).await, Fake::numbered(Manner::Honest, 2).await);
        let absent = nobody().await;
        let site = site(&[dead.at, absent, good.at]);
        let start = Instant::now();
        let reply = read(&site.udp(&Question::new("a.example", A).bytes()).await);
        assert_eq!(reply.answers, ["A 192.0.2.2 30"]);
        let (first, start) = (start.elapsed(), Instant::now());
        assert!(first >= Duration::from_secs(1) && first < Duration::from_secs(4), "{first:?}");
        for number in 0..20 {
            let query = Question::new(&format!("b{number}.example"), A).bytes();
            assert_eq!(read(&site.udp(&query).await).answers, ["A 192.0.2.2 30"]);
        }
        let others = start.elapsed();
        assert!(others < first, "twenty are faster than the first one: {others:?} and {first:?}");
        let states = site.names.upstreams();
        let suspects: Vec<bool> = states.iter().map(|state| state.suspect).collect();
        assert_eq!(suspects, [true, true, false]);
        assert_eq!(states[2].answered, 21);
    });
}

#[test]
fn the_client_hears_when_nobody_answers() {
    isolated(|| async {
        let dead = Fake::start(Manner::Dead).await;
        let site = with_budget(&[dead.at, nobody().await], 300, 100);
        for transport in ["udp", "tcp"] {
            let query = Question::new("a.example", A).edns(1232).bytes();
            let reply = if transport == "udp" { site.udp(&query).await } else { site.tcp(&query).await };
            let reply = read(&reply);
            assert_eq!((reply.id, reply.rcode, reply.edns), (0x1234, 2, Some(4096)), "{transport}");
        }
        assert_eq!(site.names.counts().failed, 2);
        site.names.set_forwarding(&upstreams(&[]));
        let reply = read(&site.udp(&Question::new("a.example", A).bytes()).await);
        assert_eq!((reply.rcode, site.names.counts().nobody_to_ask), (2, 1));
    });
}

#[test]
fn upstreams_change_while_questions_are_under_way() {
    isolated(|| async {
        let old = Fake::numbered(Manner::Held, 1).await;
        let new = Fake::numbered(Manner::Honest, 2).await;
        let site = site(&[old.at]);
        let (early, late) = (Client::new(site.at).await, Client::new(site.at).await);
        early.send(&Question::new("a.example", A).bytes()).await;
        old.sees(1).await;
        site.names.set_forwarding(&upstreams(&[new.at]));
        late.send(&Question::new("b.example", A).bytes()).await;
        assert_eq!(read(&late.receive().await).answers, ["A 192.0.2.2 30"]);
        old.release(1);
        assert_eq!(read(&early.receive().await).answers, ["A 192.0.2.1 30"]);
        let before = site.names.upstreams();
        site.names.set_forwarding(&upstreams(&[old.at, new.at, new.at, nobody().await, nobody().await]));
        let after = site.names.upstreams();
        assert_eq!(after.len(), 3, "each once, three at most");
        assert_eq!(after[1], before[0], "what is known of one that stays is kept");
    });
}

#[test]
fn identical_questions_are_asked_once() {
    isolated(|| async {
        let upstream = Fake::start(Manner::Held).await;
        let site = site(&[upstream.at]);
        let client = Client::new(site.at).await;
        for id in 0..50 {
            client.send(&Question::new("a.example", A).id(id).bytes()).await;
        }
        // Another one, by its case alone, is asked for itself.
        client.send(&Question::new("A.example", A).id(50).bytes()).await;
        upstream.sees(2).await;
        upstream.release(usize::from(u16::MAX));
        let mut ids = BTreeSet::new();
        for _ in 0..51 {
            let reply = read(&client.receive().await);
            assert_eq!(reply.answers, ["A 192.0.2.1 30"]);
            assert_eq!(
                reply.question.as_deref(),
                Some(if reply.id == 50 { "A.example" } else { "a.example" })
            );
            ids.insert(reply.id);
        }
        assert_eq!(ids, (0..=50).collect());
        assert_eq!(upstream.seen(), 2);
        assert_eq!(site.names.counts().merged, 49);
    });
}

#[test]
fn when_the_one_who_asked_has_gone_another_asks() {
    isolated(|| async {
        let upstream = Fake::start(Manner::Held).await;
        let site = site(&[upstream.at]);
        let query = framed(&Question::new("a.example", A).bytes());
        let mut first = TcpStream::connect(site.at).await.expect("connects");
        first.write_all(&query).await.expect("sent");
        upstream.sees(1).await;
        let mut second = TcpStream::connect(site.at).await.expect("connects");
        second.write_all(&query).await.expect("sent");
        // What is no question ends a stream, and with it whatever it waits for.
        first.write_all(&framed(&[])).await.expect("sent");
        upstream.sees(2).await;
        upstream.release(1000);
        assert_eq!(read(&receive(&mut second).await.expect("an answer")).answers.len(), 1);
    });
}

#[test]
fn a_streams_answers_come_as_they_are_ready_and_its_questions_in_bounds() {
    isolated(|| async {
        let upstream = Fake::start(Manner::Held).await;
        let mut writer = ZoneWriter::new("net");
        writer.publish(endpoint(1), &named(&["web"], &["10.0.0.1"]), Instant::now());
        let view = View::new(vec![Attachment::new(writer.reader(), [])]);
        let budget = Budget { all: Duration::from_secs(15), each: Duration::from_secs(15) };
        let options = Options { pipelined: 4, budget, idle: Duration::from_millis(50), ..Options::default() };
        let site = Site::start(view, options, &upstreams(&[upstream.at]));
        let mut stream = TcpStream::connect(site.at).await.expect("connects");
        let question = |id: u16| framed(&Question::new(&format!("n{id}.example"), A).id(id).bytes());
        let first: Vec<u8> = (0..3).flat_map(question).collect();
        stream.write_all(&first).await.expect("sent");
        upstream.sees(3).await;
        // What is known here overtakes those that wait, which are no reason to end an idle stream.
        stream.write_all(&framed(&Question::new("web", A).id(99).bytes())).await.expect("sent");
        assert_eq!(read(&receive(&mut stream).await.expect("an answer")).id, 99);
        let more: Vec<u8> = (3..10).flat_map(question).collect();
        stream.write_all(&more).await.expect("sent");
        upstream.sees(4).await;
        stream.write_all(&framed(&Question::new("web", A).id(98).bytes())).await.expect("sent");
        let mut ids = BTreeSet::new();
        for number in 0..11 {
            // Each answer makes room for one more question, so never more than four wait.
            assert!(upstream.seen() <= 4 + number, "{} questions after {number} answers", upstream.seen());
            if number < 10 {
                upstream.release(1);
            }
            ids.insert(read(&receive(&mut stream).await.expect("an answer")).id);
        }
        assert_eq!(ids, (0..10).chain([98]).collect());
        assert!(receive(&mut stream).await.is_none(), "idle now");
    });
}

#[test]
fn outstanding_questions_are_bounded_and_hold_up_nobody() {
    isolated(|| async {
        let dead = Fake::start(Manner::Dead).await;
        let mut writer = ZoneWriter::new("net");
        writer.publish(endpoint(1), &named(&["web"], &["10.0.0.1"]), Instant::now());
        let view = View::new(vec![Attachment::new(writer.reader(), [])]);
        let budget = Budget { all: Duration::from_secs(15), each: Duration::from_secs(15) };
        let options = Options { forwards_each: 1000, budget, ..Options::default() };
        let site = Site::start(view, options, &upstreams(&[dead.at]));
        let client = Client::new(site.at).await;
        for number in 0..10 {
            for at in 0..100 {
                client.send(&Question::new(&format!("h{number}-{at}.example"), A).bytes()).await;
            }
            dead.sees(100 * (number + 1)).await;
        }
        // The bound is reached: the answer comes at once.
        client.send(&Question::new("late.example", A).id(7).bytes()).await;
        let reply = read(&client.receive().await);
        assert_eq!((reply.id, reply.rcode), (7, 2));
        // A thousand questions wait, and none has ended when a thousand others have been answered.
        let local = Client::new(site.at).await;
        for id in 0..1000 {
            local.send(&Question::new("web", A).id(id).bytes()).await;
            assert_eq!(read(&local.receive().await).id, id);
        }
        let counts = site.names.counts();
        assert_eq!((counts.records, counts.too_many, counts.failed), (1000, 1, 0), "{counts:?}");
        // Its end waits for none of them.
        let start = Instant::now();
        site.server.end(site::sandbox(1)).expect("served").ended().await;
        assert!(start.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn ports_and_numbers_cannot_be_guessed() {
    isolated(|| async {
        let upstream = Fake::start(Manner::Honest).await;
        let site = site(&[upstream.at]);
        for number in 0..300 {
            site.udp(&Question::new(&format!("n{number}.example"), A).bytes()).await;
        }
        let clients = upstream.clients();
        let distinct =
            |of: &dyn Fn(&(u16, u16)) -> u16| clients.iter().map(of).collect::<BTreeSet<_>>().len();
        let (ports, ids) = (distinct(&|client| client.0), distinct(&|client| client.1));
        // 28,000 ports and 65,536 numbers: a few meet by chance.
        assert!(ports > 280 && ids > 280, "{ports} ports and {ids} numbers of 300 questions");
        let ordered = clients.windows(2).filter(|pair| pair[0].1 < pair[1].1).count();
        assert!((90..210).contains(&ordered), "numbers rise {ordered} times of 299");
    });
}

#[test]
fn internal_networks_ask_their_own_servers_and_nobody_outside() {
    isolated(|| async {
        let outside = Fake::numbered(Manner::Honest, 1).await;
        let inside = Fake::numbered(Manner::Honest, 2).await;
        let upstream = |fake: &Fake, place| Upstream { address: fake.at, place };
        let forwarding = Forwarding {
            upstreams: vec![upstream(&outside, Place::Host), upstream(&inside, Place::Sandbox)],
            external: false,
        };
        let site = site(&[]);
        site.names.set_forwarding(&forwarding);
        let ask = || async { read(&site.udp(&Question::new("a.example", A).bytes()).await) };
        assert_eq!(ask().await.answers, ["A 192.0.2.2 30"]);
        assert_eq!((outside.seen(), inside.seen()), (0, 1));
        site.names.set_forwarding(&Forwarding { external: true, ..forwarding.clone() });
        assert_eq!(ask().await.answers, ["A 192.0.2.1 30"]);
        // With nobody inside to ask, no name but ours exists, and the client need not wait to learn that.
        let alone = Forwarding { upstreams: forwarding.upstreams[..1].to_vec(), external: false };
        site.names.set_forwarding(&alone);
        assert_eq!(ask().await.rcode, 3);
        assert_eq!(outside.seen(), 1);
    });
}

#[test]
fn names_of_the_networks_never_leave() {
    isolated(|| async {
        let upstream = Fake::start(Manner::Honest).await;
        let now = Instant::now();
        let mut writer = ZoneWriter::new("net");
        writer.set_subnets(vec!["10.0.0.0/16".parse().expect("a range")]);
        writer.publish(endpoint(1), &named(&["web"], &["10.0.0.1"]), now);
        writer.publish(endpoint(2), &named(&["gone"], &["10.0.0.2"]), now);
        writer.withdraw(endpoint(2), now);
        let view = View::new(vec![Attachment::new(writer.reader(), [("alias", "web"), ("lost", "nobody")])]);
        let site = Site::start(view, Options::default(), &upstreams(&[upstream.at]));
        for rtype in [A, AAAA, PTR, MX, TXT, SRV, ANY, 2, 6, 43, 65] {
            for name in ["web", "WEB.NET", "gone", "gone.net", "alias", "lost", "1.0.0.10.in-addr.arpa"] {
                site.udp(&Question::new(name, rtype).bytes()).await;
            }
            site.udp(&Question::new("9.9.0.10.in-addr.arpa", rtype).bytes()).await;
            site.udp(&Question::new("_http._tcp.web", rtype).bytes()).await;
        }
        assert_eq!(upstream.seen(), 0);
        site.udp(&Question::new("example", A).bytes()).await;
        assert_eq!(upstream.seen(), 1, "the upstream does see questions");
    });
}
