//! One socket for many ports, behind redirects of nftables in a namespace of each test's own.

mod common;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use common::lab::{alone, alone_on, nft};
use common::{LOCAL, at, bound, sees_reset, until};
use netloom_proxy::{Counts, FrontRange, Options, Stopped, Switchboard};
use socket2::Type;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;

const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// A row of a thousand ports.
const ROW: FrontRange = FrontRange { address: V6, first: 9000, last: 9999 };

fn local(port: u16) -> SocketAddr {
    (LOCAL, port).into()
}

/// A switchboard of both families, to which `::1` and `127.0.0.1` are redirected on port 8080, on the row and on two
/// ports behind it.
fn switchboard(options: Options) -> Switchboard<u64> {
    let switchboard = without_rules(options);
    let rules: String = [("ip6", "::1"), ("ip", "127.0.0.1")]
        .map(|(family, address)| {
            let port = switchboard.port();
            format!(
                "table {family} lab {{ chain out {{ type nat hook output priority -100;
                    {family} daddr {address} tcp dport {{ 8080, 9000-10001 }} redirect to :{port}; }}; }};\n"
            )
        })
        .concat();
    nft(&rules);
    switchboard
}

fn without_rules(options: Options) -> Switchboard<u64> {
    let listener: StdListener = bound(Type::STREAM, at("::"), true).into();
    Switchboard::start(listener, options, &Handle::current()).expect("starts")
}

async fn listen(port: u16) -> TcpListener {
    TcpListener::bind(local(port)).await.expect("the namespace is empty")
}

/// A client of a port and the back end's side of its connection.
async fn through(address: IpAddr, port: u16, backend: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect((address, port)).await.expect("a redirect");
    let (server, _) = backend.accept().await.expect("the switchboard comes");
    (client, server)
}

/// Whether what one side says is what the other one hears.
async fn talk(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    from.write_all(b"ping").await.expect("sent");
    let mut heard = [0; 4];
    to.read_exact(&mut heard).await.expect("read");
    heard == *b"ping"
}

/// Whether a client is let in by the kernel and reset then, which it may learn at once.
async fn is_reset(address: IpAddr, port: u16) -> bool {
    match TcpStream::connect((address, port)).await {
        Ok(mut client) => sees_reset(&mut client).await,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// A client whom the kernel lets in, and nobody yet who shares this thread.
fn waiting(address: IpAddr, port: u16) -> TcpStream {
    let client = std::net::TcpStream::connect((address, port)).expect("a redirect");
    client.set_nonblocking(true).expect("an option");
    TcpStream::from_std(client).expect("a runtime")
}

async fn key_until(of: &Switchboard<u64>, key: u64, what: &str, holds: impl Fn(Counts) -> bool) -> Counts {
    until(|| of.counts(key).expect("led"), what, holds).await
}

#[test]
fn a_client_gets_where_it_meant_to_go() {
    alone(|| async {
        let mut switchboard = switchboard(Options::default());
        let (web, first, last) = (listen(80).await, listen(19_000).await, listen(19_999).await);
        switchboard.lead(1, FrontRange::one(V6, 8080), local(80)).expect("free");
        switchboard.lead(2, ROW, local(19_000)).expect("free");
        for (port, backend) in [(8080, &web), (9000, &first), (9999, &last)] {
            let (mut client, mut server) = through(V6, port, backend).await;
            // Each direction ends by itself.
            client.write_all(b"question").await.expect("sent");
            client.shutdown().await.expect("ended");
            let mut question = String::new();
            server.read_to_string(&mut question).await.expect("an end");
            assert_eq!(question, "question");
            assert!(talk(&mut server, &mut client).await);
            server.shutdown().await.expect("ended");
            assert_eq!(client.read(&mut [0]).await.expect("an end"), 0);
        }
        let web = key_until(&switchboard, 1, "closed", |counts| counts.open == 0).await;
        assert_eq!(web, Counts { total: 1, to_backend: 8, to_clients: 4, ..Counts::default() });
        let row = key_until(&switchboard, 2, "closed", |counts| counts.open == 0).await;
        assert_eq!(row, Counts { total: 2, to_backend: 16, to_clients: 8, ..Counts::default() });
        assert_eq!(switchboard.counts(3), None);
        assert_eq!(switchboard.astray(), Counts::default());
    });
}

#[test]
fn a_client_of_ipv4_is_known_on_a_socket_of_both_families() {
    alone(|| async {
        let mut switchboard = switchboard(Options::default());
        let (four, six) = (listen(4).await, listen(6).await);
        switchboard.lead(4, FrontRange::one(LOCAL, 8080), local(4)).expect("free");
        // The other family's unspecified address is not for it.
        switchboard.lead(6, FrontRange::one(ANY_V6, 8080), local(6)).expect("free");
        let (mut client, mut server) = through(LOCAL, 8080, &four).await;
        assert!(talk(&mut client, &mut server).await);
        let (mut client, mut server) = through(V6, 8080, &six).await;
        assert!(talk(&mut client, &mut server).await);
        switchboard.end(4).ended().await;
        assert!(is_reset(LOCAL, 8080).await);
        assert_eq!(switchboard.astray().refused, 1);
    });
}

#[test]
fn an_address_that_is_named_comes_first() {
    alone(|| async {
        let mut switchboard = switchboard(Options::default());
        let (named, any) = (listen(1).await, listen(2).await);
        switchboard.lead(2, FrontRange { address: ANY_V6, ..ROW }, local(2)).expect("free");
        // In IPv6's clothes, as addresses of back ends may be.
        let to = SocketAddr::new("::ffff:127.0.0.1".parse().expect("an address"), 1);
        switchboard.lead(1, FrontRange::one(V6, 9000), to).expect("one of any address is beside it");
        let _one = through(V6, 9000, &named).await;
        switchboard.end(1).ended().await;
        let _other = through(V6, 9000, &any).await;
        key_until(&switchboard, 2, "open", |counts| counts.open == 1).await;
    });
}

#[test]
fn ending_a_key_resets_its_connections_and_no_others() {
    alone(|| async {
        let mut switchboard = switchboard(Options::default());
        let (web, row) = (listen(80).await, listen(19_000).await);
        // A key has any number of ranges.
        switchboard.lead(1, FrontRange::one(V6, 8080), local(80)).expect("free");
        switchboard.lead(1, FrontRange::one(V6, 10_000), local(80)).expect("free");
        switchboard.lead(2, ROW, local(19_000)).expect("free");
        let mut gone = [through(V6, 8080, &web).await, through(V6, 10_000, &web).await];
        let (mut client, mut server) = through(V6, 9000, &row).await;
        let ending = switchboard.end(1);
        assert_eq!(switchboard.counts(1), None);
        // Nobody has had a turn: who comes now is not let in.
        let late = [waiting(V6, 8080), waiting(V6, 10_000)];
        let counts = ending.counts();
        assert_eq!(ending.ended().await, Stopped { ended: 0, cut_off: 2 });
        assert_eq!(counts.total, 2);
        for (client, server) in &mut gone {
            assert!(sees_reset(client).await && sees_reset(server).await);
        }
        for mut client in late {
            assert!(sees_reset(&mut client).await);
        }
        assert_eq!(switchboard.astray().refused, 2);
        assert!(talk(&mut client, &mut server).await && talk(&mut server, &mut client).await);
        // Once more is no harm, and the ports can be led again, with counters of their own.
        assert_eq!(switchboard.end(1).ended().await, Stopped::default());
        switchboard
            .lead(3, FrontRange { address: V6, first: 10_000, last: 10_001 }, local(80))
            .expect("free");
        let (mut client, mut server) = through(V6, 10_000, &web).await;
        assert!(talk(&mut client, &mut server).await);
        assert_eq!(switchboard.counts(3).expect("led").total, 1);
    });
}

/// With clients that come all the time, and threads that let them in meanwhile.
#[test]
fn nobody_is_let_in_once_ending_has_returned() {
    const ROUNDS: u64 = 200;
    let two_threads = || {
        let mut threads = Builder::new_multi_thread();
        threads.worker_threads(2);
        threads
    };
    alone_on(two_threads, || async {
        let mut switchboard = switchboard(Options::default());
        let web = listen(80).await;
        let mut others = JoinSet::new();
        others.spawn(async move {
            let mut held = Vec::new();
            loop {
                let (server, _) = web.accept().await.expect("the switchboard comes");
                held.push(server);
                // Those after them end at once.
                held.truncate(64);
            }
        });
        for _ in 0..4 {
            others.spawn(async {
                loop {
                    // Connected or reset, another one comes after it.
                    if let Ok(mut client) = TcpStream::connect((V6, 8080)).await {
                        let _ = client.read(&mut [0]).await;
                    }
                }
            });
        }
        let mut in_all = 0;
        for round in 0..ROUNDS {
            switchboard.lead(round, FrontRange::one(V6, 8080), local(80)).expect("free");
            key_until(&switchboard, round, "found", |counts| counts.total > 0).await;
            let ending = switchboard.end(round);
            let let_in = ending.counts().total;
            let gone = until(|| ending.counts(), "gone", |counts| counts.open == 0).await;
            assert_eq!(gone.total, let_in, "of round {round}");
            assert!(ending.ended().await.cut_off as u64 <= let_in);
            in_all += let_in;
        }
        assert!(in_all >= ROUNDS);
        others.shutdown().await;
    });
}

#[test]
fn who_is_expected_nowhere_is_reset() {
    alone(|| async {
        // Where nothing is tracked the kernel does not know either.
        let unknown = without_rules(Options::default());
        assert!(is_reset(V6, unknown.port()).await);
        assert!(is_reset(LOCAL, unknown.port()).await);
        assert_eq!(unknown.astray().refused, 2);

        let mut switchboard = switchboard(Options::default());
        let backend = listen(19_000).await;
        let own = switchboard.port();
        assert!(!ROW.contains(own), "the kernel's own range begins far above");
        switchboard.lead(1, ROW, local(19_000)).expect("free");
        // Redirected, and not led.
        assert!(is_reset(V6, 8080).await);
        assert!(is_reset(V6, ROW.last + 1).await);
        assert!(is_reset(LOCAL, ROW.first).await, "of the other family");
        // Not redirected.
        assert!(is_reset(V6, own).await);
        assert!(is_reset(LOCAL, own).await);
        let counts = switchboard.astray();
        assert_eq!(counts, Counts { refused: 5, ..Counts::default() });
        // Others notice nothing.
        let (mut client, mut server) = through(V6, ROW.first, &backend).await;
        assert!(talk(&mut client, &mut server).await);
        assert_eq!(switchboard.counts(1).expect("led").total, 1);
    });
}

#[test]
fn two_hundred_clients_at_once_are_led_each_to_its_own_port() {
    const CLIENTS: u16 = 200;
    alone(|| async {
        let mut switchboard = switchboard(Options::default());
        switchboard.lead(1, ROW, local(19_000)).expect("free");
        let mut servers = JoinSet::new();
        for at in 0..CLIENTS {
            let backend = listen(19_000 + at).await;
            servers.spawn(async move {
                let (mut server, _) = backend.accept().await.expect("the switchboard comes");
                server.write_all(&at.to_be_bytes()).await.expect("sent");
                server
            });
        }
        // All are connected before any of them is let in: this is the only thread.
        let clients: Vec<_> = (0..CLIENTS).map(|at| waiting(V6, 9000 + at)).collect();
        assert_eq!(switchboard.counts(1).expect("led").total, 0);
        for (at, mut client) in (0..CLIENTS).zip(clients) {
            assert_eq!(client.read_u16().await.expect("read"), at);
        }
        assert_eq!(servers.join_all().await.len(), usize::from(CLIENTS));
        let counts = key_until(&switchboard, 1, "closed", |counts| counts.open == 0).await;
        assert_eq!((counts.total, counts.refused), (u64::from(CLIENTS), 0));
    });
}

#[test]
fn a_key_that_is_full_leaves_the_others_their_room() {
    alone(|| async {
        let mut switchboard = switchboard(Options { max_connections: 2, ..Options::default() });
        let (web, row) = (listen(80).await, listen(19_000).await);
        switchboard.lead(1, FrontRange::one(V6, 8080), local(80)).expect("free");
        switchboard.lead(2, ROW, local(19_000)).expect("free");
        let (first, _first) = through(V6, 8080, &web).await;
        let _second = through(V6, 8080, &web).await;
        assert!(is_reset(V6, 8080).await);
        let counts = switchboard.counts(1).expect("led");
        assert_eq!((counts.open, counts.total, counts.refused), (2, 2, 1));
        let _other = through(V6, 9000, &row).await;
        // One that left makes room.
        drop((first, _first));
        key_until(&switchboard, 1, "room", |counts| counts.open == 1).await;
        let _third = through(V6, 8080, &web).await;
        assert_eq!(switchboard.astray().refused, 0);
        // A back end that refuses is its key's trouble.
        drop(row);
        assert!(is_reset(V6, 9000).await);
        assert_eq!(switchboard.counts(2).expect("led").refused, 1);
    });
}

#[test]
fn stopping_or_dropping_it_ends_everything() {
    alone(|| async {
        let web = listen(80).await;
        let led = || {
            nft("flush ruleset\n");
            let mut switchboard = switchboard(Options::default());
            switchboard.lead(1, FrontRange::one(V6, 8080), local(80)).expect("free");
            switchboard
        };
        let patient = led();
        let (mut client, mut server) = through(V6, 8080, &web).await;
        let mut stopping = patient.stop(Duration::from_secs(3600));
        stopping.listening_ended().await;
        assert!(TcpStream::connect((V6, 8080)).await.is_err(), "nobody listens");
        // Connections go on for as long as they were given.
        assert!(talk(&mut client, &mut server).await && talk(&mut server, &mut client).await);
        drop((client, server));
        assert_eq!(stopping.ended().await, Stopped { ended: 1, cut_off: 0 });

        let impatient = led();
        let (mut client, mut server) = through(V6, 8080, &web).await;
        assert_eq!(impatient.stop(Duration::ZERO).ended().await, Stopped { ended: 0, cut_off: 1 });
        assert!(sees_reset(&mut client).await && sees_reset(&mut server).await);

        let dropped = led();
        let (mut client, mut server) = through(V6, 8080, &web).await;
        drop(dropped);
        assert!(sees_reset(&mut client).await && sees_reset(&mut server).await);
        assert!(TcpStream::connect((V6, 8080)).await.is_err(), "nobody listens");
    });
}
