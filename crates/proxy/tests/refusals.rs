//! What the proxy does not take, and what it says about it.

mod common;

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use common::{at, bound};
use netloom_model::{Error, ErrorKind, Protocol};
use netloom_proxy::{Bound, FrontRange, Options, Proxy, ProxyError, Switchboard, offers};
use socket2::{Domain, Socket, Type};
use tokio::runtime::Handle;

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

fn target() -> SocketAddr {
    "192.0.2.1:80".parse().expect("an address")
}

#[test]
fn sctp_is_not_offered_and_the_error_says_what_is() {
    assert_eq!(offers(Protocol::Tcp), Ok(()));
    assert_eq!(offers(Protocol::Udp), Ok(()));
    for protocol in [Protocol::Sctp, Protocol::Icmp] {
        let refused = offers(protocol).expect_err("not offered");
        assert_eq!(refused, ProxyError::NotOffered { protocol });
        assert!(refused.to_string().contains(&protocol.to_string()), "{refused}");
        assert!(refused.remedy().expect("a remedy").contains("firewall"));
        assert_eq!(Error::from(refused.clone()).kind(), ErrorKind::NotImplemented);
        let socket = Bound::from_socket(protocol, OwnedFd::from(listener()));
        assert_eq!(socket.expect_err("not offered"), refused);
    }
}

#[test]
fn sockets_of_the_wrong_kind_are_refused() {
    let stream = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let bound_only = stream();
    bound_only.bind(&at("127.0.0.1").into()).expect("a port");
    let connected = UdpSocket::bind("127.0.0.1:0").expect("a port");
    connected.connect("127.0.0.1:9").expect("an address");
    let unbound = Socket::new(Domain::IPV6, Type::DGRAM, None).expect("a socket");
    let local = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    for (protocol, socket, expected) in [
        (Protocol::Tcp, OwnedFd::from(bound_only), "does not listen"),
        (Protocol::Tcp, stream().into(), "not bound"),
        (Protocol::Tcp, local.into(), "another protocol"),
        (Protocol::Tcp, UdpSocket::bind("127.0.0.1:0").expect("a port").into(), "another protocol"),
        (Protocol::Udp, listener().into(), "another protocol"),
        (Protocol::Udp, unbound.into(), "not bound"),
        (Protocol::Udp, connected.into(), "connected"),
    ] {
        let refused = Bound::from_socket(protocol, socket).expect_err(expected);
        assert!(matches!(refused, ProxyError::Socket { .. }), "{refused:?}");
        assert!(refused.to_string().contains(expected), "{refused}");
        assert_eq!(Error::from(refused).kind(), ErrorKind::InvalidParameter);
    }
    let good = bound(Type::STREAM, at("::1"), false);
    let good = Bound::from_socket(Protocol::Tcp, good.into()).expect("usable");
    assert_eq!(good.protocol(), Protocol::Tcp);
    // The wrong type is found at the start too.
    let disguised = TcpListener::from(OwnedFd::from(UdpSocket::bind("127.0.0.1:0").expect("a port")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let refused = Proxy::start(disguised, target(), Options::default(), runtime.handle());
    assert!(matches!(refused, Err(ProxyError::Socket { .. })), "{refused:?}");
}

#[tokio::test]
async fn targets_that_lead_nowhere_are_refused() {
    let own = listener();
    let own_port = own.local_addr().expect("bound").port();
    for (to, expected) in [
        ("192.0.2.1:0".to_owned(), "has a port"),
        ("0.0.0.0:80".to_owned(), "has an address"),
        ("[::]:80".to_owned(), "has an address"),
        ("[::ffff:0.0.0.0]:80".to_owned(), "has an address"),
        ("224.0.0.1:80".to_owned(), "one host"),
        ("[ff02::1]:80".to_owned(), "one host"),
        ("255.255.255.255:80".to_owned(), "one host"),
        (format!("127.0.0.1:{own_port}"), "itself"),
        (format!("[::ffff:127.0.0.1]:{own_port}"), "itself"),
    ] {
        let listen = own.try_clone().expect("a descriptor");
        let to: SocketAddr = to.parse().expect("an address");
        let refused = Proxy::start(listen, to, Options::default(), &Handle::current()).expect_err(expected);
        assert!(matches!(refused, ProxyError::Target { .. }), "{refused:?}");
        let text = refused.to_string();
        assert!(text.contains(expected) && text.contains(&own_port.to_string()), "{text}");
        assert!(refused.remedy().is_some());
    }
    let any = TcpListener::bind("0.0.0.0:0").expect("a port");
    let to = SocketAddr::new(at("127.0.0.5").ip(), any.local_addr().expect("bound").port());
    let refused = Proxy::start(any, to, Options::default(), &Handle::current());
    assert!(matches!(refused, Err(ProxyError::Target { .. })), "{refused:?}");
}

#[tokio::test]
async fn options_out_of_range_are_refused() {
    let base = Options::default;
    for (options, expected) in [
        (Options { max_connections: 0, ..base() }, "max_connections"),
        (Options { max_associations: 0, ..base() }, "max_associations"),
        (Options { connect_timeout: Duration::ZERO, ..base() }, "connect_timeout"),
        (Options { udp_timeout: Duration::MAX, ..base() }, "udp_timeout"),
        (Options { keepalive: Some(Duration::from_millis(999)), ..base() }, "keepalive"),
    ] {
        let refused = Proxy::start(listener(), target(), options, &Handle::current()).expect_err(expected);
        assert!(matches!(refused, ProxyError::Option { option, .. } if option == expected), "{refused:?}");
        assert_eq!(Error::from(refused).kind(), ErrorKind::InvalidParameter);
    }
}

#[tokio::test]
async fn a_switchboard_refuses_what_leads_nowhere_and_what_is_led() {
    let start = |options| Switchboard::start(listener(), options, &Handle::current());
    let refused = start(Options { max_connections: 0, ..Options::default() }).expect_err("nobody gets in");
    assert!(matches!(refused, ProxyError::Option { .. }), "{refused:?}");
    let disguised = TcpListener::from(OwnedFd::from(UdpSocket::bind("127.0.0.1:0").expect("a port")));
    let refused = Switchboard::<u8>::start(disguised, Options::default(), &Handle::current());
    assert!(matches!(refused, Err(ProxyError::Socket { .. })), "{refused:?}");

    let mut switchboard = start(Options::default()).expect("starts");
    let own = switchboard.port();
    let row = |address: &str, first, last| FrontRange { address: at(address).ip(), first, last };
    for (front, to, expected) in [
        (row("::", 0, 4), target(), "connects to a port"),
        (row("::", 9, 8), target(), "before they begin"),
        (row("ff02::1", 8, 9), target(), "many hosts"),
        (row("::1", own, own), target(), "own"),
        (row("::1", 1, u16::MAX), target(), "own"),
        (row("::1", 1, 4), "192.0.2.1:65533".parse().expect("an address"), "fewer ports"),
    ] {
        let refused = switchboard.lead(1, front, to).expect_err(expected);
        assert!(matches!(refused, ProxyError::Front { .. }), "{refused:?}");
        let text = refused.to_string();
        assert!(text.contains(expected) && text.contains(&front.to_string()), "{text}");
        assert!(refused.remedy().is_some());
        assert_eq!(Error::from(refused).kind(), ErrorKind::InvalidParameter);
    }
    for to in ["192.0.2.1:0".to_owned(), "[::]:80".to_owned(), format!("127.0.0.1:{}", own - 9)] {
        let refused = switchboard.lead(1, row("::1", 1, 10), to.parse().expect("an address")).expect_err(&to);
        assert!(matches!(refused, ProxyError::Target { .. }), "{refused:?}");
    }

    switchboard.lead(1, row("::ffff:127.0.0.1", 8000, 8009), target()).expect("free");
    for (key, first, last) in
        [(1, 8000, 8000), (2, 7990, 8000), (2, 8009, 8010), (2, 8004, 8005), (2, 7000, 9000)]
    {
        let front = row("127.0.0.1", first, last);
        let refused = switchboard.lead(key, front, target()).expect_err("taken");
        let holder = row("127.0.0.1", 8000, 8009);
        assert_eq!(refused, ProxyError::Taken { front, to: target(), holder, holder_to: target() });
        let text = refused.to_string();
        assert!(text.contains(&front.to_string()) && text.contains(&holder.to_string()), "{text}");
        assert_eq!(refused.remedy(), Some("end what leads them first"));
        assert_eq!(Error::from(refused).kind(), ErrorKind::Conflict);
    }
    // Nothing has come of all that.
    assert!(switchboard.counts(1).is_some() && switchboard.counts(2).is_none());
    switchboard.lead(2, row("127.0.0.1", 7990, 7999), target()).expect("free");
    switchboard.lead(2, row("127.0.0.1", 8010, 8010), target()).expect("free");
    drop(switchboard.end(1));
    switchboard.lead(2, row("127.0.0.1", 8000, 8009), target()).expect("free again");
}

/// Without descriptors nothing is accepted, and nothing spins; when there are some again, the client that waited
/// is let in. It needs a process of its own, whose limit is low.
#[test]
fn without_descriptors_clients_wait() {
    const INSIDE: &str = "NETLOOM_PROXY_TEST_INSIDE";
    const NAME: &str = "without_descriptors_clients_wait";
    if std::env::var_os(INSIDE).is_none() {
        let inside = std::process::Command::new("prlimit")
            .arg("--nofile=64:64")
            .arg(std::env::current_exe().expect("known"))
            .args([NAME, "--exact", "--nocapture"])
            .env(INSIDE, "1")
            .status()
            .expect("prlimit (util-linux) must be installed");
        assert!(inside.success(), "failed with few descriptors: {inside}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let backend = TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = backend.local_addr().expect("bound");
        let proxy = Proxy::start(listener(), to, Options::default(), &Handle::current()).expect("starts");
        let mut hoard = Vec::new();
        let client = TcpStream::connect(proxy.listen()).expect("the kernel accepts");
        while let Ok(descriptor) = client.try_clone() {
            hoard.push(descriptor);
        }
        // Ten seconds in which nothing else happens: pauses of up to a second each.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let counts = proxy.counts();
        assert_eq!(counts.open, 0);
        assert!((10..20).contains(&counts.accept_errors), "{counts:?}");
        hoard.clear();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let counts = proxy.counts();
        assert_eq!((counts.open, counts.refused), (1, 0), "{counts:?}");
        backend.accept().expect("the proxy came");
    });
}
