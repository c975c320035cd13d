//! Tables of namespaces other than the host's.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use common::{Lab, create_netns, inside, isolated, netns_name};
use netloom_kernel::nft::{
    Base, Chain, ChainKind, Change, Expr, Family, Hook, NatKind, Point, Reg, Rule, Table,
};
use netloom_kernel::{Netns, Op};

fn table() -> Table {
    Table { family: Family::Ip, name: "trial".into() }
}

fn change(netns: Netns, changes: Vec<Change>) -> Op {
    Op::ChangeTable { netns, table: table(), changes }
}

/// Leads port 53 of the loopback's to another one.
fn lead(to: u16) -> Vec<Change> {
    let hook = Hook { kind: ChainKind::Nat, point: Point::Output, priority: -100 };
    let exprs = vec![
        Expr::Payload { base: Base::Transport, offset: 2, len: 2, to: Reg(0) },
        Expr::Cmp { from: Reg(0), equal: true, data: 53u16.to_be_bytes().to_vec() },
        Expr::Immediate { data: to.to_be_bytes().to_vec(), to: Reg(0) },
        Expr::Nat { kind: NatKind::Destination, ipv6: false, address: None, port: Some(Reg(0)) },
    ];
    vec![
        Change::AddTable,
        Change::AddChain(Chain { name: "output".into(), hook: Some(hook) }),
        Change::FlushChain("output".into()),
        Change::AddRule { chain: "output".into(), rule: Rule { exprs, comment: None } },
    ]
}

/// A server, and a client that asks port 53 of the same address.
fn pair(lab: &Lab, netns: Netns) -> (UdpSocket, UdpSocket) {
    lab.run(netns, || {
        let socket = || UdpSocket::bind("127.0.0.1:0").expect("a port");
        let (server, client) = (socket(), socket());
        client.connect("127.0.0.1:53").expect("connected");
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        }
        (server, client)
    })
}

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().expect("bound").port()
}

/// The answer seems to come from where it was asked for: the client takes no other.
fn answered(server: &UdpSocket, client: &UdpSocket) {
    let mut bytes = [0; 16];
    client.send(b"question").expect("sent");
    let (length, from): (usize, SocketAddr) = server.recv_from(&mut bytes).expect("received");
    assert_eq!((&bytes[..length], from.port()), (&b"question"[..], port(client)));
    server.send_to(b"answer", from).expect("sent");
    let length = client.recv(&mut bytes).expect("answered");
    assert_eq!(&bytes[..length], b"answer");
}

#[test]
fn a_rule_leads_inside_of_its_namespace_alone() {
    isolated(|lab| {
        lab.must(vec![create_netns("one"), create_netns("two")]);
        let (server, client) = pair(&lab, inside("one"));
        lab.must(vec![change(inside("one"), lead(port(&server)))]);
        answered(&server, &client);
        // Not in the other one, nor on the host.
        let (_other, stranger) = pair(&lab, inside("two"));
        stranger.send(b"question").expect("sent");
        assert!(stranger.recv(&mut [0; 16]).is_err(), "somebody answered in the other namespace");
        assert_eq!(lab.errno(change(Netns::Host, vec![Change::DeleteTable])), libc::ENOENT);
        // What is said again leads to another port, and to no other any more.
        let (server, client) = pair(&lab, inside("one"));
        lab.must(vec![change(inside("one"), lead(port(&server)))]);
        answered(&server, &client);
        lab.must(vec![change(inside("one"), vec![Change::DeleteTable])]);
        assert_eq!(lab.errno(change(inside("one"), vec![Change::DeleteTable])), libc::ENOENT);
        assert_eq!(lab.errno(change(inside("none"), lead(1))), libc::ENOENT);
    });
}

#[test]
fn calls_go_from_the_host_into_namespaces_and_back_and_hold_none() {
    isolated(|lab| {
        lab.must(vec![create_netns("one"), create_netns("two")]);
        let plain = || vec![Change::AddTable, Change::AddChain(Chain { name: "a".into(), hook: None })];
        let again = || vec![Change::FlushChain("a".into())];
        let refused = vec![Change::FlushChain("b".into())];
        let results = lab.execute(vec![
            change(inside("one"), plain()),
            change(inside("two"), plain()),
            change(Netns::Host, plain()),
            change(inside("one"), refused),
            change(inside("one"), again()),
            change(inside("none"), again()),
            change(Netns::Host, again()),
        ]);
        let errnos: Vec<_> = results.iter().map(|result| result.as_ref().err().map(|e| e.errno)).collect();
        let gone = Some(libc::ENOENT);
        assert_eq!(errnos, [None, None, None, gone, None, gone, None]);
        lab.must(vec![Op::DeleteNetns { name: netns_name("one") }]);
        assert_eq!(lab.errno(change(inside("one"), again())), libc::ENOENT);
    });
}
