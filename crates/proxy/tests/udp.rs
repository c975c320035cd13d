//! UDP through the proxy: associations, their end, and what does not end them.

mod common;

use std::net::{SocketAddr, UdpSocket as StdUdp};
use std::time::Duration;

use common::{LOCAL, at, bytes, eventually, udp};
use netloom_proxy::{Options, Proxy, Stopped};
use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::time::{advance, timeout};

async fn socket() -> UdpSocket {
    UdpSocket::bind((LOCAL, 0)).await.expect("a port")
}

fn start(front: StdUdp, to: SocketAddr, options: Options) -> Proxy {
    Proxy::start(front, to, options, &Handle::current()).expect("starts")
}

fn start_local(backend: &UdpSocket, options: Options) -> Proxy {
    start(udp(at("127.0.0.1"), false), backend.local_addr().expect("bound"), options)
}

async fn client(proxy: &Proxy) -> UdpSocket {
    let client = socket().await;
    client.connect(proxy.listen()).await.expect("an address");
    client
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 70_000];
    let (length, from) = socket.recv_from(&mut buffer).await.expect("a datagram");
    buffer.truncate(length);
    (buffer, from)
}

/// Passes a datagram to the back end, and tells where it came from.
async fn through(client: &UdpSocket, backend: &UdpSocket, text: &str) -> SocketAddr {
    client.send(text.as_bytes()).await.expect("sent");
    let (read, from) = receive(backend).await;
    assert_eq!(read, text.as_bytes());
    from
}

#[tokio::test]
async fn every_client_gets_its_own_replies() {
    let backend = socket().await;
    let proxy = start_local(&backend, Options::default());
    let mut clients = Vec::new();
    for number in 0..50 {
        let client = client(&proxy).await;
        let from = through(&client, &backend, &format!("from {number}")).await;
        clients.push((client, from));
    }
    // In another order, and more than once.
    for round in 0..3 {
        for (number, (_, from)) in clients.iter().enumerate().rev() {
            let reply = format!("reply {round} to {number}");
            backend.send_to(reply.as_bytes(), from).await.expect("sent");
        }
    }
    for (number, (client, from)) in clients.iter().enumerate() {
        for round in 0..3 {
            let (reply, _) = receive(client).await;
            assert_eq!(reply, format!("reply {round} to {number}").as_bytes());
        }
        assert_eq!(through(client, &backend, "again").await, *from, "the same association");
    }
    let counts = proxy.counts();
    assert_eq!((counts.open, counts.total, counts.dropped, counts.displaced), (50, 50, 0, 0));
}

#[tokio::test]
async fn the_largest_and_the_smallest_datagram_pass() {
    let backend = socket().await;
    let proxy = start_local(&backend, Options::default());
    let client = client(&proxy).await;
    for length in [65_507, 0, 1, 65_507] {
        let datagram = bytes(3, 0, length);
        client.send(&datagram).await.expect("sent");
        let (read, from) = receive(&backend).await;
        assert!(read == datagram, "{length} bytes to the back end");
        backend.send_to(&datagram, from).await.expect("sent");
        assert!(receive(&client).await.0 == datagram, "{length} bytes to the client");
    }
    let counts = proxy.counts();
    assert_eq!((counts.to_backend, counts.to_clients), (2 * 65_507 + 1, 2 * 65_507 + 1));
}

#[tokio::test]
async fn replies_leave_from_the_address_that_was_asked() {
    let backend = socket().await;
    let to = backend.local_addr().expect("bound");
    for (front, both, asked) in [
        ("0.0.0.0", false, &["127.0.0.1", "127.0.0.2", "127.9.8.7"][..]),
        ("::", true, &["127.0.0.1", "127.0.0.2", "::1"]),
        ("::", false, &["::1"]),
        ("127.0.0.4", false, &["127.0.0.4"]),
    ] {
        let proxy = start(udp(at(front), both), to, Options::default());
        for asked in asked {
            let asked = SocketAddr::new(at(asked).ip(), proxy.listen().port());
            // Bound to no address: the kernel's choice of one for the reply would be seen.
            let any = if asked.is_ipv4() { at("0.0.0.0") } else { at("::") };
            let client = UdpSocket::bind(any).await.expect("a port");
            client.send_to(b"who?", asked).await.expect("sent");
            let (_, from) = receive(&backend).await;
            backend.send_to(b"me", from).await.expect("sent");
            assert_eq!(receive(&client).await, (b"me".to_vec(), asked), "{front}");
        }
        // One client that asks two addresses has two associations.
        assert_eq!(proxy.counts().total, asked.len() as u64);
    }
}

#[tokio::test]
async fn one_client_may_ask_several_addresses() {
    let backend = socket().await;
    let proxy = start(udp(at("0.0.0.0"), false), backend.local_addr().expect("bound"), Options::default());
    let client = socket().await;
    let mut ways = Vec::new();
    for asked in ["127.0.0.1", "127.0.0.2"] {
        let asked = SocketAddr::new(at(asked).ip(), proxy.listen().port());
        client.send_to(b"who?", asked).await.expect("sent");
        ways.push((asked, receive(&backend).await.1));
    }
    for (asked, from) in ways.into_iter().rev() {
        backend.send_to(b"me", from).await.expect("sent");
        assert_eq!(receive(&client).await.1, asked);
    }
    assert_eq!(proxy.counts().total, 2);
}

#[tokio::test]
async fn families_may_differ() {
    for (front, back) in [("::1", "127.0.0.1"), ("127.0.0.1", "::1")] {
        let backend = UdpSocket::bind(at(back)).await.expect("a port");
        let proxy = start(udp(at(front), false), backend.local_addr().expect("bound"), Options::default());
        let client = UdpSocket::bind(at(front)).await.expect("a port");
        client.send_to(b"ping", proxy.listen()).await.expect("sent");
        let (_, from) = receive(&backend).await;
        backend.send_to(b"pong", from).await.expect("sent");
        assert_eq!(receive(&client).await, (b"pong".to_vec(), proxy.listen()));
    }
}

#[tokio::test(start_paused = true)]
async fn associations_end_ninety_seconds_after_the_last_datagram() {
    let backend = socket().await;
    let proxy = start_local(&backend, Options::default());
    let client = client(&proxy).await;
    let first = through(&client, &backend, "one").await;

    // Either side keeps it.
    advance(Duration::from_secs(89)).await;
    assert_eq!(through(&client, &backend, "two").await, first);
    advance(Duration::from_secs(89)).await;
    backend.send_to(b"three", first).await.expect("sent");
    assert_eq!(receive(&client).await.0, b"three");
    advance(Duration::from_secs(89)).await;
    tokio::task::yield_now().await;
    assert_eq!(proxy.counts().open, 1);

    // The clock goes on by itself when nothing else can happen.
    let silence = timeout(Duration::from_secs(2), receive(&client)).await;
    assert!(silence.is_err());
    assert_eq!(proxy.counts().open, 0);

    // What comes after that is heard all the same, on a way of its own.
    let late = backend.send_to(b"late", first).await;
    assert!(late.is_ok(), "its socket is closed, which UDP tells later");
    client.send(b"four").await.expect("sent");
    let (_, second) = loop {
        let mut buffer = [0; 16];
        // The refusal of what came late is told first.
        if let Ok((length, from)) = backend.recv_from(&mut buffer).await {
            break (length, from);
        }
    };
    backend.send_to(b"five", second).await.expect("sent");
    assert_eq!(receive(&client).await.0, b"five");
    let counts = proxy.counts();
    assert_eq!((counts.open, counts.total, counts.displaced), (1, 2, 0));
}

#[tokio::test]
async fn a_back_end_that_refuses_ends_nothing() {
    let backend = StdUdp::bind((LOCAL, 0)).expect("a port");
    let to = backend.local_addr().expect("bound");
    drop(backend);
    let proxy = start(udp(at("127.0.0.1"), false), to, Options::default());
    let client = client(&proxy).await;
    for sent in 1..20 {
        client.send(b"anybody?").await.expect("sent");
        eventually(&proxy, "passed on", |counts| counts.to_backend + 8 * counts.dropped == 8 * sent).await;
    }
    let counts = proxy.counts();
    assert_eq!((counts.open, counts.total), (1, 1));
    // It comes up, and is reached.
    let backend = UdpSocket::bind(to).await.expect("the port");
    let from = through(&client, &backend, "now?").await;
    backend.send_to(b"yes", from).await.expect("sent");
    assert_eq!(receive(&client).await.0, b"yes");
    assert_eq!(proxy.counts().total, 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_client_takes_the_place_of_the_one_silent_for_longest() {
    let backend = socket().await;
    let proxy = start_local(&backend, Options { max_associations: 3, ..Options::default() });
    let mut clients = Vec::new();
    for name in ["a", "b", "c"] {
        let client = client(&proxy).await;
        let from = through(&client, &backend, name).await;
        clients.push((client, from));
        advance(Duration::from_secs(1)).await;
    }
    // The first one says something, and the second is told something: the third is the oldest.
    assert_eq!(through(&clients[0].0, &backend, "a again").await, clients[0].1);
    backend.send_to(b"to b", clients[1].1).await.expect("sent");
    assert_eq!(receive(&clients[1].0).await.0, b"to b");
    advance(Duration::from_secs(1)).await;

    let fourth = client(&proxy).await;
    through(&fourth, &backend, "d").await;
    let counts = eventually(&proxy, "three", |counts| counts.open == 3).await;
    assert_eq!((counts.total, counts.displaced), (4, 1));
    for (kept, text) in [(0, "a stays"), (1, "b stays")] {
        assert_eq!(through(&clients[kept].0, &backend, text).await, clients[kept].1);
        advance(Duration::from_secs(1)).await;
    }
    // The displaced one is let in again, in place of the fourth.
    assert_ne!(through(&clients[2].0, &backend, "c again").await, clients[2].1);
    assert_eq!(eventually(&proxy, "three", |counts| counts.open == 3).await.displaced, 2);
}

#[tokio::test]
async fn a_flood_of_clients_stays_within_the_bound() {
    let backend = socket().await;
    let proxy = start_local(&backend, Options { max_associations: 8, ..Options::default() });
    let mut clients = Vec::new();
    for number in 0..100 {
        let client = client(&proxy).await;
        through(&client, &backend, &number.to_string()).await;
        // Kept, so that no later one has its port and is taken for it.
        clients.push(client);
    }
    let counts = eventually(&proxy, "eight", |counts| counts.open <= 8).await;
    assert_eq!((counts.open, counts.total, counts.displaced), (8, 100, 92));
}

#[tokio::test]
async fn stopping_frees_the_port() {
    let backend = socket().await;
    let proxy = start_local(&backend, Options::default());
    let port = proxy.listen();
    let client = client(&proxy).await;
    through(&client, &backend, "hello").await;
    let mut stopping = proxy.stop(Duration::from_secs(60));
    stopping.listening_ended().await;
    let next = UdpSocket::bind(port).await.expect("the port is free");
    assert_eq!(stopping.counts().open, 0);
    assert_eq!(stopping.ended().await, Stopped { ended: 0, cut_off: 1 });
    client.send(b"to whoever is there").await.expect("sent");
    assert_eq!(receive(&next).await.1, client.local_addr().expect("bound"));
}
