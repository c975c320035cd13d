//! Connections to containers' own addresses end with the container: whoever gets its address next hears nothing of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use netloom::{EndpointSpec, JoinSpec, PortBinding, Sandbox, SandboxSpec, TransportPort};

use crate::lab::{Lab, delete_everything, in_lab};
use crate::modes::{MODE4, MODE6, create, dual, dual_lan, own};
use crate::published::{Who, published, serve, tcp};
use crate::rules::{ALL, Rules, run};

const PATIENCE: Duration = Duration::from_secs(10);
/// How long something that is dropped on the way is waited for.
const SILENCE: Duration = Duration::from_millis(400);
/// The container's UDP port.
const DATAGRAMS: u16 = 5353;

#[test]
fn what_was_opened_to_a_container_does_not_go_on_with_the_next_one() {
    for rules in ALL {
        in_lab(move |lab| does_not_go_on(lab, rules));
    }
}

/// What the kernel remembers of connections that an address answers.
fn tracked(address: IpAddr) -> String {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    // It fails where there is nothing.
    run(&format!("conntrack -L -f {family} --reply-src {address} 2>/dev/null || true"))
}

/// A UDP socket of a container, of both families.
async fn datagrams(sandbox: &Sandbox) -> UdpSocket {
    let bound = sandbox.run(|| UdpSocket::bind(("::", DATAGRAMS))).await.expect("it runs");
    let socket = bound.expect("free");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket
}

fn heard(socket: &UdpSocket) -> Vec<u8> {
    let mut said = [0; 16];
    let count = socket.recv(&mut said).expect("a datagram");
    said[..count].to_vec()
}

async fn does_not_go_on(mut lab: Lab, rules: Rules) {
    rules.choose(&mut lab);
    let lan = dual_lan(&lab).await;
    let neighbour = Who::Neighbour(&lan);
    let engine = lab.engine().await;
    let trust = ("com.docker.network.bridge.trusted_host_interfaces", "uplink");
    for (number, options, everything_is_open) in [
        (31, &[(MODE4, "routed"), (MODE6, "routed")] as &[_], false),
        (32, &[(MODE4, "nat-unprotected"), (MODE6, "nat-unprotected")], true),
        (33, &[trust], false),
    ] {
        let network = create(&engine, dual(&format!("n{number}"), number, options)).await;
        let udp = PortBinding::new(DATAGRAMS, TransportPort::udp(DATAGRAMS));
        let (web, one) = published(&engine, &network, &format!("web{number}"), &[tcp(8080, 80), udp]).await;
        serve(&one, &[80]).await;
        let listener = datagrams(&one).await;
        let addresses = own(&web).await;
        let mut flows = Vec::new();
        for address in addresses {
            let to = move |port| SocketAddr::new(address, port);
            let stream = neighbour.run(move || TcpStream::connect_timeout(&to(80), PATIENCE)).await;
            let mut stream =
                stream.unwrap_or_else(|error| panic!("{rules:?} {options:?} {address}: {error}"));
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            let mut first = [0; 1];
            stream.read_exact(&mut first).expect("it is served");
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = neighbour.run(move || UdpSocket::bind(any)).await.expect("a socket");
            socket.connect(to(DATAGRAMS)).expect("a route");
            socket.send(b"before").expect("sent");
            assert_eq!(heard(&listener), b"before");
            assert_eq!(tracked(address).lines().count(), 2, "{}", tracked(address));
            flows.push((stream, socket));
        }
        web.leave(&one).await.expect("left");
        for address in addresses {
            assert_eq!(tracked(address), "", "{rules:?} {options:?}");
        }
        drop(listener);
        web.delete().await.expect("deleted");

        // Another container gets the addresses, and publishes nothing.
        let spec = addresses.iter().fold(EndpointSpec::new("next"), |spec, address| spec.address(*address));
        let next = network.create_endpoint(spec).await.expect("the addresses are free");
        let name = format!("next{number}");
        let two = engine.controller().create_sandbox(SandboxSpec::new(name)).await.expect("a sandbox");
        next.join(&two, JoinSpec::default()).await.expect("joined");
        assert_eq!(own(&next).await, addresses);
        let listener = datagrams(&two).await;
        for (address, (stream, socket)) in addresses.into_iter().zip(&mut flows) {
            // A client that is told that nobody is there goes on all the same.
            let _ = socket.send(b"after");
            if everything_is_open {
                assert_eq!(heard(&listener), b"after", "a connection of its own");
            } else {
                listener.set_read_timeout(Some(SILENCE)).expect("set");
                let nothing = listener.recv(&mut [0; 16]).expect_err("nothing is published");
                assert_eq!(nothing.kind(), ErrorKind::WouldBlock, "{rules:?} {options:?} {address}");
                listener.set_read_timeout(Some(PATIENCE)).expect("set");
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let host = UdpSocket::bind(any).expect("a socket");
                host.send_to(b"host", (address, DATAGRAMS)).expect("sent");
                assert_eq!(heard(&listener), b"host", "it is there");
            }
            let _ = stream.write_all(b"hello\n");
            stream.set_read_timeout(Some(SILENCE)).expect("set");
            let mut rest = Vec::new();
            // What was under way already is read first.
            let end = stream.read_to_end(&mut rest).expect_err("no answer, and no end that is one");
            let expected =
                if everything_is_open { ErrorKind::ConnectionReset } else { ErrorKind::WouldBlock };
            assert_eq!(end.kind(), expected, "{rules:?} {options:?} {address}");
            assert!(!String::from_utf8_lossy(&rest).contains("hello"), "somebody answered");
        }
        delete_everything(&engine).await;
    }
}
