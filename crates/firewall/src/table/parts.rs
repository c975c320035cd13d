//! Parts of rules, with the registers that they use.

use netloom_kernel::nft::{Base, CtKey, Expr, FibResult, MetaKey, Reg, Rule, Verdict};

use super::{IPV4, IPV6};

/// `RTN_LOCAL`.
const LOCAL: u32 = 2;

pub(super) fn rule<const N: usize>(comment: &str, parts: [Vec<Expr>; N]) -> Rule {
    let comment = (!comment.is_empty()).then(|| comment.to_owned());
    Rule { exprs: parts.into_iter().flatten().collect(), comment }
}

pub(super) fn verdict(verdict: Verdict) -> Vec<Expr> {
    vec![Expr::Verdict(verdict)]
}

/// Holds when the key at register 0 is in a set.
pub(super) fn lookup(set: &str) -> Expr {
    Expr::Lookup { set: set.into(), from: Reg(0), to: None, verdicts: false, missing: false }
}

pub(super) fn iifname(to: u8) -> Vec<Expr> {
    vec![Expr::Meta { key: MetaKey::Iifname, to: Reg(to) }]
}

pub(super) fn oifname(to: u8) -> Vec<Expr> {
    vec![Expr::Meta { key: MetaKey::Oifname, to: Reg(to) }]
}

pub(super) fn family_is(family: u8) -> Vec<Expr> {
    vec![
        Expr::Meta { key: MetaKey::Nfproto, to: Reg(0) },
        Expr::Cmp { from: Reg(0), equal: true, data: vec![family] },
    ]
}

pub(super) fn ipv4() -> Vec<Expr> {
    family_is(IPV4)
}

pub(super) fn ipv6() -> Vec<Expr> {
    family_is(IPV6)
}

/// Holds when any of these bits is set.
pub(super) fn ct(key: CtKey, bits: u32) -> Vec<Expr> {
    ct_bits(key, bits, false)
}

/// Holds when none of these bits is set, and the connection is a tracked one.
pub(super) fn not_ct(key: CtKey, bits: u32) -> Vec<Expr> {
    ct_bits(key, bits, true)
}

pub(super) fn ct_bits(key: CtKey, bits: u32, none: bool) -> Vec<Expr> {
    vec![
        Expr::Ct { key, to: Reg(0) },
        Expr::Bitwise { from: Reg(0), to: Reg(0), mask: bits.to_ne_bytes().into(), xor: vec![0; 4] },
        Expr::Cmp { from: Reg(0), equal: none, data: vec![0; 4] },
    ]
}

/// Holds when the destination is an address of this host.
pub(super) fn local() -> Vec<Expr> {
    vec![
        Expr::Fib { result: FibResult::DestinationType, to: Reg(0) },
        Expr::Cmp { from: Reg(0), equal: true, data: LOCAL.to_ne_bytes().into() },
    ]
}

/// Holds when the IPv4 address at this place of the header is of `127.0.0.0/8`.
pub(super) fn to_loopback(offset: u32) -> Vec<Expr> {
    vec![
        Expr::Payload { base: Base::Network, offset, len: 4, to: Reg(0) },
        Expr::Bitwise { from: Reg(0), to: Reg(0), mask: vec![255, 0, 0, 0], xor: vec![0; 4] },
        Expr::Cmp { from: Reg(0), equal: true, data: vec![127, 0, 0, 0] },
    ]
}

/// Holds when the IPv6 destination is not `::1`.
pub(super) fn not_to_itself() -> Vec<Expr> {
    vec![
        Expr::Payload { base: Base::Network, offset: 24, len: 16, to: Reg(0) },
        Expr::Cmp { from: Reg(0), equal: false, data: std::net::Ipv6Addr::LOCALHOST.octets().into() },
    ]
}

/// Loads protocol and destination port.
pub(super) fn transport(to: u8) -> Vec<Expr> {
    vec![
        Expr::Meta { key: MetaKey::L4proto, to: Reg(to) },
        Expr::Payload { base: Base::Transport, offset: 2, len: 2, to: Reg(to + 1) },
    ]
}

/// Holds for one family, and loads destination address, protocol and destination port.
pub(super) fn destination(family: fn() -> Vec<Expr>) -> Vec<Expr> {
    let (offset, len, words) = if family() == ipv4() { (16, 4, 1) } else { (24, 16, 4) };
    let address = vec![Expr::Payload { base: Base::Network, offset, len, to: Reg(0) }];
    [family(), address, transport(words)].concat()
}
