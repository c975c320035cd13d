//! How questions come to a sandbox's name server: a table of nftables in the sandbox's namespace leads port 53 of one
//! address to where it listens.
//!
//! libnetwork has four rules of iptables for that (`resolver_unix.go`), two of which undo it on the way back; the kernel
//! does that by itself. Nothing else of the container's is led anywhere, so it may have a server of its own on port 53
//! of every other address, and of all addresses together.

use netloom_dns::resolv::EMBEDDED_SERVER;
use netloom_kernel::nft::{
    Base, Chain, ChainKind, Change, Expr, Family, Hook, MetaKey, NatKind, Point, Reg, Rule, Table,
};
use std::net::IpAddr;

/// The port that questions go to.
pub(super) const ASKED: u16 = 53;

const CHAIN: &str = "output";
/// Where destinations are translated, as `nft` calls it `dstnat`.
const DSTNAT: i32 = -100;
const UDP: u8 = 17;
const TCP: u8 = 6;

/// The table in a sandbox's namespace.
#[must_use]
pub fn table() -> Table {
    Table { family: Family::Ip, name: "netloom-names".into() }
}

/// Leads to these ports of UDP and TCP, and to no others any more.
pub(super) fn lead((udp, tcp): (u16, u16)) -> Vec<Change> {
    let hook = Hook { kind: ChainKind::Nat, point: Point::Output, priority: DSTNAT };
    let rule = |protocol, port, comment: &str| Change::AddRule {
        chain: CHAIN.into(),
        rule: Rule { exprs: to_port(protocol, port), comment: Some(comment.into()) },
    };
    vec![
        Change::AddTable,
        Change::AddChain(Chain { name: CHAIN.into(), hook: Some(hook) }),
        Change::FlushChain(CHAIN.into()),
        rule(UDP, udp, "questions to the name server"),
        rule(TCP, tcp, "questions to the name server"),
    ]
}

/// `ip daddr 127.0.0.11 meta l4proto … th dport 53 dnat to :port`.
fn to_port(protocol: u8, port: u16) -> Vec<Expr> {
    let IpAddr::V4(server) = EMBEDDED_SERVER else { return Vec::new() };
    let is = |data: &[u8]| Expr::Cmp { from: Reg(0), equal: true, data: data.to_vec() };
    vec![
        Expr::Payload { base: Base::Network, offset: 16, len: 4, to: Reg(0) },
        is(&server.octets()),
        Expr::Meta { key: MetaKey::L4proto, to: Reg(0) },
        is(&[protocol]),
        Expr::Payload { base: Base::Transport, offset: 2, len: 2, to: Reg(0) },
        is(&ASKED.to_be_bytes()),
        Expr::Immediate { data: port.to_be_bytes().to_vec(), to: Reg(0) },
        Expr::Nat { kind: NatKind::Destination, ipv6: false, address: None, port: Some(Reg(0)) },
    ]
}
