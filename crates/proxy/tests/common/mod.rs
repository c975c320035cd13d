//! Ends for a proxy: what stands behind it, and what comes to it. All on loopback addresses and ports that the
//! kernel chooses, in one runtime with the proxy, so that a test may stop the clock.

// Each test binary uses a part of this.
#![allow(dead_code)]

pub(crate) mod lab;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener, UdpSocket as StdUdp};
use std::time::Duration;

use netloom_proxy::{Counts, Options, Proxy};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

pub(crate) const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), 0)
}

/// A back end that listens.
pub(crate) async fn backend() -> TcpListener {
    TcpListener::bind((LOCAL, 0)).await.expect("a port")
}

pub(crate) fn start_tcp(to: SocketAddr, options: Options) -> Proxy {
    let listener = StdListener::bind((LOCAL, 0)).expect("a port");
    Proxy::start(listener, to, options, &Handle::current()).expect("starts")
}

/// A port of any address; both families where it is of IPv6 and `both`.
pub(crate) fn bound(kind: Type, at: SocketAddr, both: bool) -> Socket {
    let socket = Socket::new(Domain::for_address(at), kind, None).expect("a socket");
    if at.is_ipv6() {
        socket.set_only_v6(!both).expect("an option");
    }
    socket.bind(&at.into()).expect("a port");
    if kind == Type::STREAM {
        socket.listen(128).expect("listens");
    }
    socket
}

pub(crate) fn udp(at: SocketAddr, both: bool) -> StdUdp {
    bound(Type::DGRAM, at, both).into()
}

/// A client through the proxy, and the back end's side of its connection.
pub(crate) async fn connected(proxy: &Proxy, backend: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(proxy.listen()).await.expect("connects");
    let (server, _) = backend.accept().await.expect("the proxy comes");
    (client, server)
}

/// Ends a stream with a reset.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
    drop(stream);
}

/// Whether what is read next is a reset.
pub(crate) async fn sees_reset(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    matches!(stream.read_to_end(&mut rest).await, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
}

/// Lets the runtime's tasks work until this holds. No clock is needed: every turn of theirs is a turn here. What waits
/// for the kernel may take any number of turns, so it fails by the clock of the machine alone.
pub(crate) async fn eventually(proxy: &Proxy, what: &str, holds: impl Fn(Counts) -> bool) -> Counts {
    until(|| proxy.counts(), what, holds).await
}

/// The same of any counts.
pub(crate) async fn until(read: impl Fn() -> Counts, what: &str, holds: impl Fn(Counts) -> bool) -> Counts {
    let end = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let counts = read();
        if holds(counts) {
            return counts;
        }
        assert!(std::time::Instant::now() < end, "never {what}: {counts:?}");
        tokio::task::yield_now().await;
    }
}

/// The byte at a place of a stream that repeats itself at no distance that a buffer has.
pub(crate) fn byte(seed: u64, at: u64) -> u8 {
    let mixed = (at ^ seed.rotate_left(17)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    u8::try_from(mixed >> 56).expect("eight bits")
}

pub(crate) fn bytes(seed: u64, from: u64, length: usize) -> Vec<u8> {
    (from..from + length as u64).map(|at| byte(seed, at)).collect()
}

/// Writes so many bytes of a seed's stream and then ends the direction.
pub(crate) async fn send_all(mut to: impl AsyncWriteExt + Unpin, seed: u64, length: u64, chunk: usize) {
    let mut at = 0;
    while at < length {
        let next = chunk.min(usize::try_from(length - at).expect("fits"));
        to.write_all(&bytes(seed, at, next)).await.expect("goes out");
        at += next as u64;
    }
    to.shutdown().await.expect("ends");
}

/// Reads up to the end and compares each byte.
pub(crate) async fn expect_all(mut from: impl AsyncReadExt + Unpin, seed: u64, length: u64) {
    let mut buffer = vec![0; 128 * 1024];
    let mut at = 0;
    loop {
        let read = from.read(&mut buffer).await.expect("comes in");
        if read == 0 {
            break;
        }
        assert!(buffer[..read] == bytes(seed, at, read)[..], "differs between {at} and {}", at + read as u64);
        at += read as u64;
    }
    assert_eq!(at, length, "the stream's length");
}
