//! Ports held by real sockets, in a namespace of the test's own.

mod common;

use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Lab, isolated, soon, up, wait};
use netloom_kernel::{HoldRefusal, LinuxPorts, Netns, Place, PortHolder, PortSocket, PortToHold};
use netloom_model::Protocol;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const TCP: Protocol = Protocol::Tcp;
const UDP: Protocol = Protocol::Udp;

fn one(address: &str, protocol: Protocol, port: u16) -> PortToHold {
    PortToHold { place: Place::One(address.parse().expect("an address")), protocol, port }
}

fn both(protocol: Protocol, port: u16) -> PortToHold {
    PortToHold { place: Place::Both, protocol, port }
}

fn holder(lab: &Lab) -> LinuxPorts {
    lab.must(vec![up(Netns::Host, common::ifname("lo").as_str())]);
    LinuxPorts::start().expect("starts")
}

fn hold(ports: &LinuxPorts, port: PortToHold) -> Result<PortSocket, HoldRefusal> {
    wait(ports.hold(vec![port], soon())).pop().expect("one answer")
}

fn refusal(ports: &LinuxPorts, port: PortToHold) -> HoldRefusal {
    hold(ports, port).expect_err("refused")
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address with a port")
}

#[test]
fn a_held_port_refuses_connections_and_nobody_else_can_serve_it() {
    isolated(|lab| {
        let ports = holder(&lab);
        for (held, families) in [
            (both(TCP, 8080), &["127.0.0.1:8080", "[::1]:8080"][..]),
            (one("0.0.0.0", TCP, 8081), &["127.0.0.1:8081"]),
            (one("::", TCP, 8082), &["[::1]:8082"]),
            (one("127.0.0.1", TCP, 8083), &["127.0.0.1:8083"]),
        ] {
            let socket = hold(&ports, held).expect("free");
            for to in families {
                let refused = TcpStream::connect(address(to)).expect_err("nobody serves it");
                assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
                // The standard library's listeners set SO_REUSEADDR, as nearly all do.
                let taken = TcpListener::bind(address(to)).expect_err("it is held");
                assert_eq!(taken.kind(), ErrorKind::AddrInUse, "{to}");
            }
            assert_eq!(refusal(&ports, held), HoldRefusal::InUse);
            let flags = fcntl(socket.socket().expect("a real one"), FcntlArg::F_GETFD).expect("open");
            assert_eq!(flags & FdFlag::FD_CLOEXEC.bits(), FdFlag::FD_CLOEXEC.bits());
            wait(ports.let_go(vec![socket]));
            for to in families {
                TcpListener::bind(address(to)).expect("free again");
            }
        }
        let v6_only = hold(&ports, one("::", TCP, 8084)).expect("free");
        TcpListener::bind(address("127.0.0.1:8084")).expect("IPv6 says nothing about IPv4");
        drop(v6_only);
    });
}

#[test]
fn datagrams_do_not_pile_up_at_a_held_port() {
    isolated(|lab| {
        let ports = holder(&lab);
        let held = hold(&ports, both(UDP, 5353)).expect("free");
        assert_eq!(refusal(&ports, one("127.0.0.1", UDP, 5353)), HoldRefusal::InUse);
        let client = UdpSocket::bind("127.0.0.1:0").expect("free");
        for _ in 0..1_000 {
            client.send_to(&[1; 1_000], "127.0.0.1:5353").expect("sent");
        }
        // What a socket keeps is told by the kernel: address, port, queues.
        let list = std::fs::read_to_string("/proc/thread-self/net/udp6").expect("listed");
        let line = list.lines().find(|line| line.contains(":14E9")).expect("held on both families");
        let queue =
            line.split_whitespace().nth(4).and_then(|queues| queues.split_once(':')).expect("queues").1;
        let kept = u64::from_str_radix(queue, 16).expect("a number");
        assert!(kept < 8_192, "{kept} bytes are kept");

        let socket = UdpSocket::from(held.into_socket().expect("ready"));
        let mut buffer = [0; 2_000];
        let nothing = socket.recv(&mut buffer).expect_err("what came before is dropped");
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        for n in 0..50 {
            client.send_to(&[n; 1_000], "127.0.0.1:5353").expect("sent");
        }
        let read = std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count();
        assert_eq!(read, 50, "it has the room of any other");
    });
}

#[test]
fn a_socket_that_is_handed_out_can_be_served_at_once() {
    isolated(|lab| {
        let ports = holder(&lab);
        let socket = hold(&ports, both(TCP, 8080)).expect("free").into_socket().expect("ready");
        let listener = rustify(socket);
        for to in ["127.0.0.1:8080", "[::1]:8080"] {
            let mut client = TcpStream::connect(address(to)).expect("served");
            let (server, _) = accept(&listener);
            client.write_all(b"x").expect("written");
            // The server ends first, so it is the server's port that waits.
            drop(server);
            drop(client);
        }
        drop(listener);
        // Ended connections wait for a minute; the port can be held and served all the same.
        let again = hold(&ports, both(TCP, 8080)).expect("only ended connections have it");
        TcpListener::bind("127.0.0.1:8080").expect_err("held all the same");
        let listener = rustify(again.into_socket().expect("ready"));
        TcpStream::connect("127.0.0.1:8080").expect("served");
        accept(&listener);
    });
}

/// A child of the process has copies of all descriptors until it executes its program. This one keeps one for longer.
#[test]
fn a_port_that_a_child_still_has_for_a_moment_is_held_again() {
    isolated(|lab| {
        let ports = holder(&lab);
        for (port, held_by_both) in
            [(both(TCP, 8080), true), (both(UDP, 8081), true), (one("127.0.0.1", TCP, 8082), false)]
        {
            let socket = hold(&ports, port).expect("free");
            let copy = socket.socket().expect("a real one").try_clone_to_owned().expect("a copy");
            fcntl(&copy, FcntlArg::F_SETFD(FdFlag::empty())).expect("a child gets it");
            let child = || {
                let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat");
                let stdin = child.stdin.take();
                (child, stdin)
            };
            let (mut child, stdin) = child();
            drop(copy);
            wait(ports.let_go(vec![socket]));
            let again = if held_by_both { port } else { both(TCP, port.port) };
            let holding = ports.hold(vec![again], soon());
            // It ends when there is nothing more to read.
            drop(stdin);
            let held = wait(holding).pop().expect("one answer");
            held.unwrap_or_else(|refusal| panic!("{port:?}: {refusal:?}"));
            child.wait().expect("it ends");
        }
    });
}

/// Makes a bound socket listen.
fn rustify(socket: std::os::fd::OwnedFd) -> TcpListener {
    nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(16).expect("small")).expect("listens");
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(false).expect("blocks");
    listener
}

fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener.accept().expect("somebody has connected")
}

#[test]
fn refusals_say_what_is_wrong() {
    isolated(|lab| {
        let ports = holder(&lab);
        assert_eq!(refusal(&ports, one("192.0.2.1", TCP, 80)), HoldRefusal::NoSuchAddress);
        assert_eq!(refusal(&ports, one("2001:db8::1", UDP, 80)), HoldRefusal::NoSuchAddress);
        assert_eq!(refusal(&ports, one("0.0.0.0", Protocol::Icmp, 80)), HoldRefusal::Unsupported);
        // With the module there is SCTP; without, that is said.
        match hold(&ports, one("0.0.0.0", Protocol::Sctp, 80)) {
            Ok(_) => assert_eq!(refusal(&ports, one("::", Protocol::Icmp, 80)), HoldRefusal::Unsupported),
            Err(refusal) => assert_eq!(refusal, HoldRefusal::Unsupported),
        }
        let late = wait(ports.hold(vec![both(TCP, 80); 2], Instant::now()));
        assert!(late.iter().all(|answer| matches!(answer, Err(HoldRefusal::NotStarted(_)))), "{late:?}");
        // Each is answered by itself.
        let taken = TcpListener::bind("127.0.0.1:81").expect("free");
        let answers = wait(ports.hold(vec![both(TCP, 80), both(TCP, 81), both(TCP, 82)], soon()));
        let held: Vec<bool> = answers.iter().map(Result::is_ok).collect();
        assert_eq!(held, [true, false, true]);
        drop(taken);
    });
}

/// Set for a run of a test that has no right to bind privileged ports.
const WITHOUT_RIGHT: &str = "NETLOOM_KERNEL_TEST_WITHOUT_RIGHT";

#[test]
fn a_privileged_port_needs_a_right() {
    if std::env::var_os(WITHOUT_RIGHT).is_some() {
        // Started from the namespace that the other half of this test has made.
        let ports = LinuxPorts::start().expect("starts");
        assert_eq!(refusal(&ports, both(TCP, 80)), HoldRefusal::Privileged);
        assert_eq!(refusal(&ports, one("127.0.0.1", UDP, 1_023)), HoldRefusal::Privileged);
        hold(&ports, both(TCP, 1_024)).expect("no right is needed");
        return;
    }
    isolated(|_| {
        let name = std::thread::current().name().expect("it has the test's").to_owned();
        hold(&LinuxPorts::start().expect("starts"), both(TCP, 80)).expect("root may");
        let status = Command::new("setpriv")
            .args(["--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"])
            .arg(std::env::current_exe().expect("known"))
            .args([&name, "--exact", "--nocapture"])
            .env(WITHOUT_RIGHT, "1")
            .status()
            .expect("setpriv must be installed");
        assert!(status.success(), "failed without the right: {status}");
    });
}

#[test]
fn the_process_that_has_a_port_is_named() {
    isolated(|lab| {
        let ports = holder(&lab);
        let mut server = Command::new("python3")
            .args(["-c", "import socket,sys\ns=socket.create_server(('127.0.0.1',8080))\nprint('up',flush=True)\nsys.stdin.read()"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("python3 must be installed");
        let mut line = [0; 3];
        std::io::Read::read_exact(server.stdout.as_mut().expect("piped"), &mut line).expect("it says so");
        assert_eq!(refusal(&ports, both(TCP, 8080)), HoldRefusal::InUse);
        for asked in [both(TCP, 8080), one("127.0.0.1", TCP, 8080), one("0.0.0.0", TCP, 8080)] {
            let user = wait(ports.user(asked, soon())).expect("found");
            assert_eq!(user.pid, server.id());
            assert!(user.command.starts_with("python3"), "{user}");
        }
        assert_eq!(wait(ports.user(both(UDP, 8080), soon())), None, "another protocol");
        assert_eq!(wait(ports.user(both(TCP, 8081), soon())), None, "another port");
        server.kill().expect("ours");
        server.wait().expect("ends");
    });
}

#[test]
fn a_thousand_ports_are_held_at_once_and_no_descriptor_is_left() {
    isolated(|lab| {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("known");
        setrlimit(Resource::RLIMIT_NOFILE, soft.max(4_096).min(hard), hard).expect("below the hard limit");
        let ports = holder(&lab);
        wait(ports.let_go(Vec::new()));
        let open = || std::fs::read_dir("/proc/self/fd").expect("listed").count();
        let before = open();
        let v4: IpAddr = [0; 4].into();
        for (what, places, protocol) in [
            ("TCP, one socket for both", &[Place::Both][..], TCP),
            ("TCP, IPv4 only", &[Place::One(v4)], TCP),
            ("TCP, one for each", &[Place::One(v4), Place::One(IpAddr::from([0_u16; 8]))], TCP),
            ("UDP, one socket for both", &[Place::Both], UDP),
        ] {
            let mut best = (Duration::MAX, Duration::MAX);
            for _ in 0..5 {
                let wanted: Vec<PortToHold> = (20_000..21_000)
                    .flat_map(|port| {
                        places.iter().map(move |place| PortToHold { place: *place, protocol, port })
                    })
                    .collect();
                let start = Instant::now();
                let answers = wait(ports.hold(wanted, soon()));
                let held = start.elapsed();
                let sockets: Vec<PortSocket> =
                    answers.into_iter().map(|answer| answer.expect("free")).collect();
                let start = Instant::now();
                wait(ports.let_go(sockets));
                best = (best.0.min(held), best.1.min(start.elapsed()));
            }
            let _ = writeln!(
                std::io::stderr(),
                "1,000 ports, {what}: held in {:?}, let go in {:?}",
                best.0,
                best.1
            );
        }
        // Other threads of the process may have closed one of theirs.
        let limit = getrlimit(Resource::RLIMIT_NOFILE).expect("known").0;
        let ahead = usize::try_from(limit / 16).expect("small").min(1_000);
        assert!(open() <= before + ahead, "every descriptor is closed but those made ahead");
    });
}

#[test]
fn without_room_for_descriptors_that_is_said() {
    isolated(|lab| {
        let ports = holder(&lab);
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("known");
        let next = std::fs::File::open("/dev/null").expect("there is room yet").as_raw_fd();
        setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(next).expect("positive") + 1, hard).expect("lower");
        let refused = wait(ports.hold((8_000..8_064).map(|port| both(TCP, port)).collect(), soon()));
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("as before");
        let last = refused.last().expect("64 answers");
        assert!(matches!(last, Err(HoldRefusal::NoDescriptors)), "{last:?}");
    });
}

#[test]
fn a_port_of_the_engines_own_is_the_first_that_nobody_has() {
    isolated(|lab| {
        let ports = holder(&lab);
        let of = || (40_000..=40_003).rev().collect();
        let last = || wait(ports.hold_one_of(of(), soon()));
        let others = TcpListener::bind("127.0.0.1:40003").expect("free");
        let kept = hold(&ports, both(Protocol::Tcp, 40_002)).expect("free");
        let (number, socket) = last().expect("free");
        assert_eq!(number, 40_001);
        let listener = rustify(socket.into_socket().expect("ready"));
        for address in ["127.0.0.1:40001", "[::1]:40001"] {
            let client = TcpStream::connect(address).expect("served");
            let (_, from) = accept(&listener);
            assert_eq!(from.port(), client.local_addr().expect("connected").port());
        }
        let (number, second) = last().expect("free");
        assert_eq!(number, 40_000);
        assert_eq!(last().expect_err("all are taken"), HoldRefusal::InUse);
        wait(ports.let_go(vec![kept, second]));
        drop((others, listener));
        assert_eq!(last().expect("free again").0, 40_003);
        let late = Instant::now();
        assert!(matches!(wait(ports.hold_one_of(of(), late)), Err(HoldRefusal::NotStarted(_))));
        assert_eq!(wait(ports.hold_one_of(Vec::new(), soon())).expect_err("none to try"), HoldRefusal::InUse);
    });
}

#[test]
fn sockets_are_made_ahead_for_as_many_ports_as_were_asked_for_and_are_given_up_for_others() {
    isolated(|lab| {
        let ports = holder(&lab);
        let open = || std::fs::read_dir("/proc/self/fd").expect("listed").count();
        let done = || wait(ports.let_go(Vec::new()));
        done();
        let before = open();
        let row = || (7_000..7_400).map(|port| both(Protocol::Tcp, port)).collect();
        let all = |answers: Vec<Result<PortSocket, HoldRefusal>>| -> Vec<PortSocket> {
            answers.into_iter().map(|answer| answer.expect("free")).collect()
        };
        let held = all(wait(ports.hold(row(), soon())));
        done();
        assert_eq!(open(), before + 800, "as many once more");
        wait(ports.let_go(held));
        assert_eq!(open(), before + 400);
        // They hold their ports as any other does, on both families and for nobody else.
        let held = all(wait(ports.hold(row(), soon())));
        for address in ["127.0.0.1:7000", "[::1]:7399", "0.0.0.0:7200"] {
            let taken = TcpListener::bind(address).expect_err("it is held");
            assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse, "{address}");
        }
        done();
        // Whoever else needs descriptors gets them.
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("known");
        let next = std::fs::File::open("/dev/null").expect("there is room yet").as_raw_fd();
        setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(next).expect("positive"), hard).expect("lower");
        let datagrams = wait(ports.hold((53..63).map(|port| both(Protocol::Udp, port)).collect(), soon()));
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("as before");
        let datagrams = all(datagrams);
        wait(ports.let_go(held.into_iter().chain(datagrams).collect()));
    });
}
