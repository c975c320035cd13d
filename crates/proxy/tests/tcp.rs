//! TCP through the proxy: ends, resets, long streams, refusals, bounds.

mod common;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use common::{
    LOCAL, at, backend, bound, connected, eventually, expect_all, reset, sees_reset, send_all, start_tcp,
};
use netloom_proxy::{Options, Proxy, Stopped};
use socket2::{SockRef, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

/// Both ways in which streams are carried.
fn both_ways() -> [Options; 2] {
    [true, false].map(|splice| Options { splice, ..Options::default() })
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let backend = backend().await;
    let proxy = start_tcp(backend.local_addr().expect("bound"), Options::default());

    // The client ends first, as one that has asked does.
    let (mut client, mut server) = connected(&proxy, &backend).await;
    client.write_all(b"question").await.expect("sent");
    client.shutdown().await.expect("ended");
    let mut question = String::new();
    server.read_to_string(&mut question).await.expect("an end");
    assert_eq!(question, "question");
    // Its own direction goes on for as long as the back end likes.
    for part in ["an ", "answer"] {
        server.write_all(part.as_bytes()).await.expect("sent");
        let mut read = vec![0; part.len()];
        client.read_exact(&mut read).await.expect("read");
        assert_eq!(read, part.as_bytes());
    }
    assert_eq!(proxy.counts().open, 1);
    server.shutdown().await.expect("ended");
    assert_eq!(client.read(&mut [0]).await.expect("an end"), 0);
    eventually(&proxy, "closed", |counts| counts.open == 0).await;

    // And the other way round.
    let (mut client, mut server) = connected(&proxy, &backend).await;
    server.write_all(b"banner").await.expect("sent");
    server.shutdown().await.expect("ended");
    let mut banner = String::new();
    client.read_to_string(&mut banner).await.expect("an end");
    assert_eq!(banner, "banner");
    client.write_all(b"still here").await.expect("sent");
    client.shutdown().await.expect("ended");
    let mut said = String::new();
    server.read_to_string(&mut said).await.expect("an end");
    assert_eq!(said, "still here");
    let counts = eventually(&proxy, "closed", |counts| counts.open == 0).await;
    assert_eq!((counts.total, counts.refused), (2, 0));
    assert_eq!((counts.to_backend, counts.to_clients), (8 + 10, 9 + 6));
}

#[tokio::test]
async fn a_reset_of_one_side_resets_the_other() {
    let backend = backend().await;
    let proxy = start_tcp(backend.local_addr().expect("bound"), Options::default());

    let (client, mut server) = connected(&proxy, &backend).await;
    reset(client);
    assert!(sees_reset(&mut server).await, "the client's reset");

    let (mut client, server) = connected(&proxy, &backend).await;
    reset(server);
    assert!(sees_reset(&mut client).await, "the back end's reset");
    eventually(&proxy, "closed", |counts| counts.open == 0).await;
}

#[tokio::test]
async fn a_reset_after_the_end_of_a_direction_is_seen() {
    let backend = backend().await;
    let proxy = start_tcp(backend.local_addr().expect("bound"), Options::default());

    let (mut client, mut server) = connected(&proxy, &backend).await;
    client.shutdown().await.expect("ended");
    assert_eq!(server.read(&mut [0]).await.expect("an end"), 0);
    // Nothing reads from the client any more, and the back end says nothing.
    reset(client);
    server.ready(Interest::ERROR).await.expect("a runtime");
    assert!(SockRef::from(&server).take_error().expect("an answer").is_some());

    let (mut client, mut server) = connected(&proxy, &backend).await;
    server.shutdown().await.expect("ended");
    assert_eq!(client.read(&mut [0]).await.expect("an end"), 0);
    reset(server);
    client.ready(Interest::ERROR).await.expect("a runtime");
    assert!(SockRef::from(&client).take_error().expect("an answer").is_some());
    eventually(&proxy, "closed", |counts| counts.open == 0).await;
}

#[tokio::test]
async fn a_reset_is_seen_while_the_other_side_takes_nothing() {
    for options in both_ways() {
        let backend = backend().await;
        let proxy = start_tcp(backend.local_addr().expect("bound"), options);
        let (client, server) = connected(&proxy, &backend).await;
        fill(&client).await;
        let held = proxy.counts();
        assert_eq!(held.open, 1);
        reset(client);
        server.ready(Interest::ERROR).await.expect("a runtime");
        eventually(&proxy, "closed", |counts| counts.open == 0).await;
    }
}

/// Writes until nothing is taken for good: each write that is refused is followed by turns for everybody else.
async fn fill(stream: &TcpStream) -> usize {
    let chunk = vec![1; 64 * 1024];
    let (mut sent, mut refused) = (0, 0);
    while refused < 200 {
        match stream.try_write(&chunk) {
            Ok(more) => {
                sent += more;
                refused = 0;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                refused += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    sent
}

#[tokio::test]
async fn who_is_not_read_from_is_held_back() {
    for options in both_ways() {
        let backend = backend().await;
        let proxy = start_tcp(backend.local_addr().expect("bound"), options);
        let (client, mut server) = connected(&proxy, &backend).await;
        let sent = fill(&client).await;
        // Four sockets' buffers, of 6 MiB at most each (the kernel's own bounds), and what is in the proxy.
        assert!(sent < 40 << 20, "{sent} bytes went nowhere");
        assert!(proxy.counts().to_backend < sent as u64, "all of it was taken");
        // Nothing is lost of it.
        let read = tokio::spawn(async move {
            let mut rest = Vec::new();
            server.read_to_end(&mut rest).await.map(|_| rest.len())
        });
        SockRef::from(&client).shutdown(std::net::Shutdown::Write).expect("ends");
        assert_eq!(read.await.expect("no panic").expect("no reset"), sent);
    }
}

#[tokio::test]
async fn long_streams_arrive_whole_in_both_directions_at_once() {
    const LENGTH: u64 = 24 << 20;
    for options in both_ways() {
        let backend = backend().await;
        let proxy = start_tcp(backend.local_addr().expect("bound"), options);
        let (client, server) = connected(&proxy, &backend).await;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::join!(
            send_all(to_client, 1, LENGTH, 300_000),
            expect_all(from_server, 1, LENGTH),
            send_all(to_server, 2, LENGTH, 7_001),
            expect_all(from_client, 2, LENGTH),
        );
        let counts = eventually(&proxy, "closed", |counts| counts.open == 0).await;
        assert_eq!((counts.to_backend, counts.to_clients), (LENGTH, LENGTH));
    }
}

#[tokio::test]
async fn a_back_end_that_refuses_resets_the_client() {
    let gone = StdListener::bind((LOCAL, 0)).expect("a port").local_addr().expect("bound");
    let proxy = start_tcp(gone, Options::default());
    for refused in 1..4 {
        let mut client = TcpStream::connect(proxy.listen()).await.expect("the port is open");
        assert!(sees_reset(&mut client).await);
        assert_eq!(proxy.counts().refused, refused);
    }
    eventually(&proxy, "closed", |counts| counts.open == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_back_end_that_does_not_answer_resets_the_client_in_time() {
    // A queue that is full: the kernel leaves further requests without an answer.
    let silent = bound(Type::STREAM, at("127.0.0.1"), false);
    silent.listen(0).expect("listens");
    let to = silent.local_addr().expect("bound").as_socket().expect("an address");
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(to)).await {
        waiting.push(stream);
        assert!(waiting.len() < 10, "the queue has no end");
    }
    let proxy = start_tcp(to, Options { connect_timeout: Duration::from_secs(7), ..Options::default() });
    let before = tokio::time::Instant::now();
    let mut client = TcpStream::connect(proxy.listen()).await.expect("the port is open");
    assert!(sees_reset(&mut client).await);
    assert_eq!(before.elapsed().as_secs(), 7);
    assert_eq!(proxy.counts().refused, 1);
}

#[tokio::test]
async fn a_full_port_resets_who_comes_and_lets_in_who_comes_later() {
    let backend = backend().await;
    let options = Options { max_connections: 2, ..Options::default() };
    let proxy = start_tcp(backend.local_addr().expect("bound"), options);
    let (first, _first) = connected(&proxy, &backend).await;
    let (mut second, mut second_server) = connected(&proxy, &backend).await;
    let mut third = TcpStream::connect(proxy.listen()).await.expect("the kernel accepts");
    assert!(sees_reset(&mut third).await);
    let counts = proxy.counts();
    assert_eq!((counts.open, counts.total, counts.refused), (2, 2, 1));
    drop(first);
    reset(_first);
    eventually(&proxy, "room", |counts| counts.open == 1).await;
    let (_fourth, _server) = connected(&proxy, &backend).await;
    // The others notice nothing.
    second.write_all(b"x").await.expect("sent");
    second_server.read_exact(&mut [0]).await.expect("read");
}

#[tokio::test]
async fn families_may_differ() {
    for (front, both, dial, back) in [
        ("::1", false, "::1", "127.0.0.1"),
        ("127.0.0.1", false, "127.0.0.1", "::1"),
        ("::", true, "127.0.0.2", "::1"),
        ("::", true, "::1", "127.0.0.1"),
        ("0.0.0.0", false, "127.0.0.3", "127.0.0.1"),
    ] {
        let backend = TcpListener::bind(at(back)).await.expect("a port");
        let mut to = backend.local_addr().expect("bound");
        if let SocketAddr::V4(v4) = to {
            // As those write it who know IPv6 only.
            to = SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port());
        }
        let listener: StdListener = bound(Type::STREAM, at(front), both).into();
        let proxy = Proxy::start(listener, to, Options::default(), &Handle::current()).expect("starts");
        assert_eq!(proxy.to(), backend.local_addr().expect("bound"));
        let dial = SocketAddr::new(at(dial).ip(), proxy.listen().port());
        let mut client = TcpStream::connect(dial).await.expect("connects");
        let (mut server, _) = backend.accept().await.expect("the proxy comes");
        client.write_all(b"ping").await.expect("sent");
        let mut read = [0; 4];
        server.read_exact(&mut read).await.expect("read");
        server.write_all(&read).await.expect("sent");
        client.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"ping", "{front} {dial} {back}");
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_closes_the_port_at_once_and_connections_in_time() {
    let backend = backend().await;
    let proxy = start_tcp(backend.local_addr().expect("bound"), Options::default());
    let port = proxy.listen();
    let (mut quick, mut quick_server) = connected(&proxy, &backend).await;
    let (mut stuck, mut stuck_server) = connected(&proxy, &backend).await;
    let before = tokio::time::Instant::now();
    let mut stopping = proxy.stop(Duration::from_secs(3));
    stopping.listening_ended().await;
    stopping.listening_ended().await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    let again = TcpStream::connect(port).await.expect_err("nobody listens");
    assert_eq!(again.kind(), ErrorKind::ConnectionRefused);

    // Connections go on.
    quick.write_all(b"last words").await.expect("sent");
    quick.shutdown().await.expect("ended");
    let mut words = String::new();
    quick_server.read_to_string(&mut words).await.expect("an end");
    assert_eq!(words, "last words");
    drop(quick_server);
    assert_eq!(quick.read(&mut [0]).await.expect("an end"), 0);

    assert_eq!(stopping.ended().await, Stopped { ended: 1, cut_off: 1 });
    assert_eq!(before.elapsed().as_secs(), 3);
    assert!(sees_reset(&mut stuck).await);
    assert!(sees_reset(&mut stuck_server).await);
}

#[tokio::test]
async fn dropping_it_ends_everything() {
    let backend = backend().await;
    let proxy = start_tcp(backend.local_addr().expect("bound"), Options::default());
    let port = proxy.listen();
    let (mut client, mut server) = connected(&proxy, &backend).await;
    drop(proxy);
    assert!(sees_reset(&mut client).await);
    assert!(sees_reset(&mut server).await);
    assert!(TcpStream::connect(port).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_under_load_leaves_nothing() {
    let backend = backend().await;
    let to = backend.local_addr().expect("bound");
    let sink = tokio::spawn(async move {
        loop {
            let (mut server, _) = backend.accept().await.expect("accepts");
            tokio::spawn(async move { tokio::io::copy(&mut server, &mut tokio::io::sink()).await });
        }
    });
    let proxy = start_tcp(to, Options::default());
    let port = proxy.listen();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..32 {
        clients.spawn(async move {
            let mut client = TcpStream::connect(port).await.expect("connects");
            let chunk = vec![0; 100_000];
            loop {
                if let Err(error) = client.write_all(&chunk).await {
                    return error.kind();
                }
            }
        });
    }
    let counts = eventually(&proxy, "busy", |counts| counts.open == 32 && counts.to_backend > 64 << 20).await;
    assert_eq!(counts.total, 32);
    let mut stopping = proxy.stop(Duration::ZERO);
    stopping.listening_ended().await;
    drop(StdListener::bind(port).expect("the port is free"));
    while let Some(end) = clients.join_next().await {
        let end = end.expect("no panic");
        assert!(matches!(end, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{end:?}");
    }
    assert_eq!(stopping.ended().await, Stopped { ended: 0, cut_off: 32 });
    sink.abort();
}
