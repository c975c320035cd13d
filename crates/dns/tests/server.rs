//! The server on real sockets: questions that it answers by itself, in datagrams and in streams, one client and many.

mod common;
#[path = "common/site.rs"]
mod site;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{A, AAAA, PTR, Question, TXT, endpoint, named, read};
use netloom_dns::forward::{Forwarding, Here};
use netloom_dns::records::{Attachment, View, ViewCell, ZoneWriter};
use netloom_dns::server::{DnsError, Options};
use site::{Client, SOON, Site, framed, isolated, receive, sandbox, sockets};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn writer() -> ZoneWriter {
    let mut writer = ZoneWriter::new("net");
    let now = Instant::now();
    writer.set_subnets(vec!["10.0.0.0/16".parse().expect("a range")]);
    writer.publish(endpoint(1), &named(&["web"], &["10.0.0.1", "fd00::1"]), now);
    for number in 0..100_u64 {
        writer.publish(endpoint(100 + number), &named(&["many"], &[&format!("10.0.1.{number}")]), now);
    }
    writer
}

fn site(writer: &ZoneWriter, options: Options) -> Site {
    let view = View::new(vec![Attachment::new(writer.reader(), [])]);
    Site::start(view, options, &Forwarding::default())
}

/// What dig prints, and how it ended.
async fn dig(site: &Site, arguments: &str) -> String {
    let mut command = Command::new("dig");
    command.arg(format!("@{}", site.at.ip())).args(["-p", &site.at.port().to_string(), "+tries=1"]);
    command.args(arguments.split(' '));
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("runs");
    let output = output.expect("dig must be installed");
    assert!(output.status.success(), "{arguments}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn dig_gets_what_it_asks_for() {
    isolated(|| async {
        let writer = writer();
        let site = site(&writer, Options::default());
        for (arguments, expected) in [
            ("+short web", "10.0.0.1"),
            ("+short WeB.net AAAA", "fd00::1"),
            ("+short -x 10.0.0.1", "web.net."),
            ("+short +tcp web", "10.0.0.1"),
            ("+short +noedns web", "10.0.0.1"),
            ("+short +noedns web TXT", ""),
        ] {
            assert_eq!(dig(&site, arguments).await.trim(), expected, "{arguments}");
        }
        for (arguments, parts) in [
            ("web MX", &["status: NOERROR", "ANSWER: 0", "qr rd ra"][..]),
            ("-x 10.0.0.99", &["status: NXDOMAIN"]),
            ("+edns=1 +noednsnegotiation web", &["status: BADVERS", "EDNS: version: 0"]),
            ("web AXFR", &["Transfer failed"]),
            ("+bufsize=1400 +dnssec web", &["flags: do; udp: 4096", "ANSWER: 1"]),
            // A hundred addresses in 512 bytes: cut, and asked for again over TCP, by dig itself.
            ("+noedns many", &["Truncated, retrying in TCP mode", "ANSWER: 100", "(TCP)"]),
            ("+noedns +ignore many", &["qr tc rd ra", "ANSWER: 30", "MSG SIZE  rcvd: 502"]),
            ("+bufsize=4096 many", &["ANSWER: 100", "(UDP)"]),
            ("+opcode=notify web", &["status: NOTIMP"]),
            ("+header-only +noedns web", &["status: FORMERR"]),
            ("other", &["status: NXDOMAIN"]),
        ] {
            let told = dig(&site, arguments).await;
            for part in parts {
                assert!(told.contains(part), "{arguments}: no {part:?} in {told}");
            }
        }
    });
}

#[test]
fn a_change_is_seen_by_the_next_question() {
    isolated(|| async {
        let mut writer = writer();
        let site = site(&writer, Options::default());
        let client = Client::new(site.at).await;
        for number in 0..500_u64 {
            let (name, address) = (format!("c{number}"), format!("10.0.2.{}", number % 256));
            writer.publish(endpoint(1000 + number), &named(&[&name], &[&address]), Instant::now());
            client.send(&Question::new(&name, A).bytes()).await;
            assert_eq!(read(&client.receive().await).answers, [format!("A {address} 600")]);
            writer.withdraw(endpoint(1000 + number), Instant::now());
            client.send(&Question::new(&name, A).bytes()).await;
            assert_eq!(read(&client.receive().await).rcode, 3, "{name} has gone");
        }
        site.cell.put(View::default());
        client.send(&Question::new("web", A).bytes()).await;
        assert!(read(&client.receive().await).answers.is_empty(), "the sandbox has left");
    });
}

#[test]
fn streams_carry_many_questions_and_half_of_one() {
    isolated(|| async {
        let writer = writer();
        let site = site(&writer, Options::default());
        let mut stream = TcpStream::connect(site.at).await.expect("connects");
        let questions = [("web", A), ("web", AAAA), ("1.0.0.10.in-addr.arpa", PTR), ("many", A)];
        let all: Vec<u8> = (0..200_u16)
            .flat_map(|id| {
                let (name, rtype) = questions[usize::from(id) % 4];
                framed(&Question::new(name, rtype).id(id).bytes())
            })
            .collect();
        // In pieces that end anywhere.
        let send = async {
            let (mut from, mut random) = (0, common::Random(5));
            while from < all.len() {
                let to = all.len().min(from + 1 + usize::try_from(random.below(90)).expect("small"));
                stream.write_all(&all[from..to]).await.expect("sent");
                from = to;
            }
        };
        send.await;
        for id in 0..200 {
            let reply = read(&receive(&mut stream).await.expect("an answer"));
            let count = if id % 4 == 3 { 100 } else { 1 };
            assert_eq!((reply.id, reply.answers.len()), (id, count));
        }
        // The client says that it has no more, and the server ends too.
        stream.write_all(&framed(&Question::new("web", A).bytes())).await.expect("sent");
        stream.shutdown().await.expect("ended");
        assert_eq!(read(&receive(&mut stream).await.expect("an answer")).answers.len(), 1);
        assert!(receive(&mut stream).await.is_none());
    });
}

#[test]
fn idle_streams_and_too_many_of_them_are_closed() {
    isolated(|| async {
        let writer = writer();
        let options = Options { connections_each: 3, idle: Duration::from_millis(300), ..Options::default() };
        let site = site(&writer, options);
        let mut streams = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(site.at).await.expect("connects");
            stream.write_all(&framed(&Question::new("web", A).bytes())).await.expect("sent");
            assert!(receive(&mut stream).await.is_some());
            streams.push(stream);
        }
        let mut fourth = TcpStream::connect(site.at).await.expect("the kernel takes it");
        assert!(receive(&mut fourth).await.is_none(), "it is closed at once");
        // Half a question keeps nobody here.
        streams[0].write_all(&[0]).await.expect("sent");
        for stream in &mut streams {
            assert!(receive(stream).await.is_none(), "it is closed");
        }
        let counts = site.names.counts();
        assert_eq!((counts.connections, counts.connections_refused), (3, 1));
        assert_eq!(read(&site.tcp(&Question::new("web", A).bytes()).await).answers.len(), 1, "there is room");
    });
}

#[test]
fn nonsense_is_counted_and_harms_nobody() {
    isolated(|| async {
        let writer = writer();
        let site = site(&writer, Options::default());
        let client = Client::new(site.at).await;
        client.send(&[]).await;
        client.send(&[1, 2, 3]).await;
        let mut answer = Question::new("web", A).bytes();
        answer[2] |= 0x80;
        client.send(&answer).await;
        client.send(&vec![0; 60_000]).await;
        assert_eq!(read(&client.receive().await).rcode, 1, "too large a question");
        let mut stream = TcpStream::connect(site.at).await.expect("connects");
        stream.write_all(&framed(&answer)).await.expect("sent");
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "an answer ends a stream");
        let counts = site.eventually("all counted", |counts| counts.questions == 5).await;
        assert_eq!((counts.silence, counts.malformed), (4, 1));
    });
}

#[test]
fn a_sandbox_is_served_once_and_its_sockets_are_free_after_its_end() {
    isolated(|| async {
        let writer = writer();
        let site = site(&writer, Options::default());
        let cell = Arc::new(ViewCell::default());
        let serve = |number, sockets| {
            let here = Arc::new(Here);
            site.server.serve(sandbox(number), sockets, Arc::clone(&cell), &Forwarding::default(), here)
        };
        let error = serve(1, sockets("127.0.0.11").0).expect_err("served already");
        assert_eq!(error, DnsError::Served { sandbox: sandbox(1) });
        assert!(error.remedy().is_some() && error.to_string().contains("served names already"));

        // Another sandbox comes and goes, and nobody else hears of it.
        let client = Client::new(site.at).await;
        let mut idle = TcpStream::connect(site.at).await.expect("connects");
        for _ in 0..100 {
            let (sockets, at) = sockets("127.0.0.12");
            serve(2, sockets).expect("serves");
            client.send(&Question::new("web", A).bytes()).await;
            assert_eq!(read(&client.receive().await).answers.len(), 1);
            site.server.end(sandbox(2)).expect("served").ended().await;
            std::net::UdpSocket::bind(at).expect("free at once");
            std::net::TcpListener::bind(at).expect("free at once");
        }
        assert_eq!(site.server.sandboxes(), [sandbox(1)]);
        assert!(site.server.names(sandbox(2)).is_none() && site.server.end(sandbox(2)).is_none());
        // The end of a sandbox ends its streams.
        idle.write_all(&framed(&Question::new("web", A).bytes())).await.expect("sent");
        assert!(receive(&mut idle).await.is_some());
        site.server.end(sandbox(1)).expect("served").ended().await;
        assert!(receive(&mut idle).await.is_none());
        let refused = tokio::time::timeout(SOON, TcpStream::connect(site.at)).await.expect("at once");
        assert!(refused.is_err(), "nobody listens");
    });
}

#[test]
fn options_out_of_their_range_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let start = |options| netloom_dns::server::Server::start(runtime.handle(), options);
    let sound = Options::default();
    for (options, option) in [
        (Options { forwards: 0, ..sound }, "forwards"),
        (Options { forwards_each: 0, ..sound }, "forwards_each"),
        (Options { connections: 0, ..sound }, "connections"),
        (Options { connections_each: 0, ..sound }, "connections_each"),
        (Options { pipelined: 0, ..sound }, "pipelined"),
        (Options { idle: Duration::ZERO, ..sound }, "idle"),
        (Options { idle: Duration::MAX, ..sound }, "idle"),
        (Options { ttl: u32::MAX, ..sound }, "ttl"),
    ] {
        let error = start(options).expect_err(option);
        assert!(matches!(&error, DnsError::Option { option: named, .. } if *named == option), "{error}");
        assert!(error.remedy().is_some());
    }
    start(sound).expect("starts");
}

#[test]
fn the_time_to_live_can_be_chosen() {
    isolated(|| async {
        let writer = writer();
        let site = site(&writer, Options { ttl: 5, ..Options::default() });
        let reply = read(&site.udp(&Question::new("web", A).bytes()).await);
        assert_eq!(reply.answers, ["A 10.0.0.1 5"]);
        assert_eq!(read(&site.udp(&Question::new("web", TXT).bytes()).await).rcode, 0);
    });
}
