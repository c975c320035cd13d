//! The table: chains and rules, which never change, and the sets and maps that they look into.
//!
//! A packet's way through it:
//!
//! | chain | what it does |
//! |---|---|
//! | `raw-prerouting` | containers do not reach what listens on the host's loopback |
//! | `prerouting`, `output` | connections to an address of the host go through `publish` |
//! | `publish` | a published port leads to its container; a named address comes before every address |
//! | `led` | what the kernel cannot lead to a container goes to the engine's own port, and keeps its address |
//! | `input` | nobody reaches that port but by a published one |
//! | `forward` | what comes from or goes to a bridge of ours goes to `ours`, all else is none of our business |
//! | `ours` | first the users' own chain; then what may reach a container, all else is dropped |
//! | `trusted` | interfaces that a network trusts reach what it publishes under its containers' own addresses |
//! | `postrouting` | containers leave under the host's address; a container that reaches itself through a port of the host, too |
//!
//! An accepted packet may still be refused by a table of somebody else, and a refused one is gone.

mod parts;

use netloom_kernel::nft::{
    Base, Chain, ChainKind, CtKey, Expr, Hook, MetaKey, NatKind, Point, Reg, Rule, Set, Table, Type, Verdict,
};
use serde::{Deserialize, Serialize};

use self::parts::{
    ct, destination, iifname, ipv4, ipv6, local, lookup, not_ct, not_to_itself, oifname, rule, to_loopback,
    transport, verdict,
};
use crate::iptables::Names;

/// The chain that comes before every verdict of the engine. It is made when it is not there, and what is in it is the
/// users': the engine never writes a rule there.
pub const USER_CHAIN: &str = "user";

/// `NFPROTO_IPV4`.
pub(crate) const IPV4: u8 = 2;
/// `NFPROTO_IPV6`.
pub(crate) const IPV6: u8 = 10;
/// `IPPROTO_ICMP` and `IPPROTO_ICMPV6`.
const ICMP: [u8; 2] = [1, 58];
/// Bits of `NF_CT_STATE_BIT`: established, related.
const GOES_ON: u32 = 2 | 4;
/// `IPS_DST_NAT`.
const TRANSLATED: u32 = 1 << 5;

/// What differs between engines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableConfig {
    /// The table's name, so that several engines do not meet.
    pub name: String,
    /// Packets of this mark reach every port of every container (`bridge-accept-fwmark`).
    pub mark: Option<Mark>,
}

/// What the names of all engines' tables begin with.
pub const TABLES: &str = INSTANCE;
/// The instance that every engine is which was not called otherwise.
const INSTANCE: &str = "netloom";

impl TableConfig {
    /// That of an engine's instance.
    #[must_use]
    pub fn of(instance: &str) -> Self {
        let name = if instance == INSTANCE { INSTANCE.to_owned() } else { format!("{INSTANCE}-{instance}") };
        Self { name, mark: None }
    }

    /// How the chains begin that this engine has where it says its rules to iptables.
    #[must_use]
    pub fn names(&self) -> Names {
        Names::of(self.name.strip_prefix("netloom-").unwrap_or(&self.name))
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> Table {
        Table::inet(&self.name)
    }
}

/// A mark of packets, or some bits of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// The bits that are looked at.
    pub mask: u32,
    /// What they must be.
    pub value: u32,
}

/// The names of sets and maps.
pub(crate) struct Sets;

impl Sets {
    pub(crate) const BRIDGES: &'static str = "bridges";
    pub(crate) const WITHIN: &'static str = "within";
    pub(crate) const SAME: &'static str = "same";
    pub(crate) const INTERNAL: &'static str = "internal";
    pub(crate) const TRUSTED: &'static str = "trusted";
    pub(crate) const OPEN: &'static str = "open";
    pub(crate) const ROUTED: &'static str = "routed";
    pub(crate) const MASQUERADED: &'static str = "masqueraded";
    pub(crate) const HAIRPIN4: &'static str = "hairpin4";
    pub(crate) const HAIRPIN6: &'static str = "hairpin6";
    pub(crate) const SOURCES4: &'static str = "sources4";
    pub(crate) const SOURCES6: &'static str = "sources6";
    pub(crate) const PORTS4: &'static str = "ports4";
    pub(crate) const PORTS6: &'static str = "ports6";
    pub(crate) const ANY4: &'static str = "any4";
    pub(crate) const ANY6: &'static str = "any6";
    pub(crate) const RANGES4: &'static str = "ranges4";
    pub(crate) const RANGES6: &'static str = "ranges6";
    pub(crate) const ANY_RANGES4: &'static str = "any-ranges4";
    pub(crate) const ANY_RANGES6: &'static str = "any-ranges6";
    pub(crate) const SERVED4: &'static str = "served4";
    pub(crate) const SERVED6: &'static str = "served6";
    pub(crate) const SERVED_RANGES4: &'static str = "served-ranges4";
    pub(crate) const SERVED_RANGES6: &'static str = "served-ranges6";
    pub(crate) const LOOPBACK4: &'static str = "loopback4";
    pub(crate) const LOOPBACK_RANGES4: &'static str = "loopback-ranges4";
    pub(crate) const ROUTED4: &'static str = "routed4";
    pub(crate) const ROUTED6: &'static str = "routed6";
    pub(crate) const ROUTED_RANGES4: &'static str = "routed-ranges4";
    pub(crate) const ROUTED_RANGES6: &'static str = "routed-ranges6";
    pub(crate) const LED4: &'static str = "led4";
    pub(crate) const LED6: &'static str = "led6";
    pub(crate) const LED_RANGES4: &'static str = "led-ranges4";
    pub(crate) const LED_RANGES6: &'static str = "led-ranges6";
    pub(crate) const LED_ANY4: &'static str = "led-any4";
    pub(crate) const LED_ANY6: &'static str = "led-any6";
    pub(crate) const LED_ANY_RANGES4: &'static str = "led-any-ranges4";
    pub(crate) const LED_ANY_RANGES6: &'static str = "led-any-ranges6";
    pub(crate) const SWITCHBOARD: &'static str = "switchboard";
    pub(crate) const OWN: &'static str = "own";

    /// Whether an element has one owner at most, although others would say the very same.
    pub(crate) fn is_of_one_owner(set: &str) -> bool {
        set.starts_with("led")
    }
}

/// Every set and map, empty.
pub(crate) fn sets() -> Vec<Set> {
    use Type::{Family, Interface, Ipv4, Ipv6, Port, Protocol, Verdict};
    let set = |name: &str, key: &[Type], value: &[Type], interval| Set {
        name: name.into(),
        key: key.into(),
        value: value.into(),
        interval,
    };
    let mut all = vec![
        set(Sets::BRIDGES, &[Interface], &[], false),
        set(Sets::WITHIN, &[Interface, Interface], &[Verdict], false),
        set(Sets::SAME, &[Interface, Interface], &[], false),
        set(Sets::INTERNAL, &[Interface], &[], false),
        set(Sets::TRUSTED, &[Interface, Interface], &[], false),
        set(Sets::OPEN, &[Family, Interface], &[], false),
        set(Sets::ROUTED, &[Family, Interface], &[], false),
        set(Sets::MASQUERADED, &[Family, Interface], &[], false),
        set(Sets::HAIRPIN4, &[Ipv4, Interface], &[], true),
        set(Sets::HAIRPIN6, &[Ipv6, Interface], &[], true),
        set(Sets::SOURCES4, &[Interface], &[Ipv4], false),
        set(Sets::SOURCES6, &[Interface], &[Ipv6], false),
    ];
    for (address, ports, any, ranges, any_ranges) in [
        (Ipv4, Sets::PORTS4, Sets::ANY4, Sets::RANGES4, Sets::ANY_RANGES4),
        (Ipv6, Sets::PORTS6, Sets::ANY6, Sets::RANGES6, Sets::ANY_RANGES6),
    ] {
        all.push(set(ports, &[address, Protocol, Port], &[address, Port], false));
        all.push(set(any, &[Protocol, Port], &[address, Port], false));
        all.push(set(ranges, &[address, Protocol, Port], &[address], true));
        all.push(set(any_ranges, &[Protocol, Port], &[address], true));
    }
    for (address, exact, ranges) in [
        (Ipv4, Sets::SERVED4, Sets::SERVED_RANGES4),
        (Ipv6, Sets::SERVED6, Sets::SERVED_RANGES6),
        (Ipv4, Sets::LOOPBACK4, Sets::LOOPBACK_RANGES4),
        (Ipv4, Sets::ROUTED4, Sets::ROUTED_RANGES4),
        (Ipv6, Sets::ROUTED6, Sets::ROUTED_RANGES6),
    ] {
        all.push(set(exact, &[address, Protocol, Port], &[], false));
        all.push(set(ranges, &[address, Protocol, Port], &[], true));
    }
    for (address, exact, ranges, any, any_ranges) in [
        (Ipv4, Sets::LED4, Sets::LED_RANGES4, Sets::LED_ANY4, Sets::LED_ANY_RANGES4),
        (Ipv6, Sets::LED6, Sets::LED_RANGES6, Sets::LED_ANY6, Sets::LED_ANY_RANGES6),
    ] {
        all.push(set(exact, &[address, Protocol, Port], &[], false));
        all.push(set(ranges, &[address, Protocol, Port], &[], true));
        all.push(set(any, &[Protocol, Port], &[], false));
        all.push(set(any_ranges, &[Protocol, Port], &[], true));
    }
    all.push(set(Sets::SWITCHBOARD, &[Protocol], &[Port], false));
    all.push(set(Sets::OWN, &[Protocol, Port], &[], false));
    all
}

/// Every chain with its rules.
pub(crate) fn chains(config: &TableConfig) -> Vec<(Chain, Vec<Rule>)> {
    let plain = |name: &str| Chain { name: name.into(), hook: None };
    let base = |name: &str, kind, point, priority| Chain {
        name: name.into(),
        hook: Some(Hook { kind, point, priority }),
    };
    let publish =
        || rule("a port of the host", [local(), vec![Expr::Verdict(Verdict::Jump("publish".into()))]]);
    vec![
        (plain(USER_CHAIN), Vec::new()),
        (plain("ours"), ours(config)),
        (plain("publish"), published()),
        (plain("led"), led()),
        (plain("trusted"), trusted()),
        (
            base("raw-prerouting", ChainKind::Filter, Point::Prerouting, -300),
            vec![rule(
                "containers do not reach the host's loopback",
                [iifname(0), vec![lookup(Sets::BRIDGES)], ipv4(), to_loopback(16), verdict(Verdict::Drop)],
            )],
        ),
        (
            base("prerouting", ChainKind::Nat, Point::Prerouting, -100),
            vec![
                rule(
                    "others do not reach what is published on the loopback",
                    [ipv4(), to_loopback(16), verdict(Verdict::Return)],
                ),
                publish(),
            ],
        ),
        (base("output", ChainKind::Nat, Point::Output, -100), vec![publish()]),
        (
            base("input", ChainKind::Filter, Point::Input, 0),
            vec![rule(
                "the engine's own port is reached by way of published ones",
                [
                    transport(0),
                    vec![lookup(Sets::OWN)],
                    not_ct(CtKey::Status, TRANSLATED),
                    vec![Expr::ResetTcp],
                ],
            )],
        ),
        (
            base("forward", ChainKind::Filter, Point::Forward, 0),
            vec![
                rule("", [iifname(0), vec![lookup(Sets::BRIDGES)], verdict(Verdict::Goto("ours".into()))]),
                rule("", [oifname(0), vec![lookup(Sets::BRIDGES)], verdict(Verdict::Goto("ours".into()))]),
            ],
        ),
        (base("postrouting", ChainKind::Nat, Point::Postrouting, 100), leaving()),
    ]
}

/// Verdicts about packets from or to a bridge of ours.
fn ours(config: &TableConfig) -> Vec<Rule> {
    let accept = || verdict(Verdict::Accept);
    let mut rules = vec![
        rule("users' rules come first", [verdict(Verdict::Jump(USER_CHAIN.into()))]),
        rule("", [ct(CtKey::State, GOES_ON), accept()]),
    ];
    for (family, exact, ranges) in [
        (ipv4 as fn() -> _, Sets::SERVED4, Sets::SERVED_RANGES4),
        (ipv6, Sets::SERVED6, Sets::SERVED_RANGES6),
        (ipv4, Sets::LOOPBACK4, Sets::LOOPBACK_RANGES4),
    ] {
        for set in [exact, ranges] {
            let key = destination(family);
            rules.push(rule("published", [ct(CtKey::Status, TRANSLATED), key, vec![lookup(set)], accept()]));
        }
    }
    for (family, exact, ranges) in [
        (ipv4 as fn() -> _, Sets::ROUTED4, Sets::ROUTED_RANGES4),
        (ipv6, Sets::ROUTED6, Sets::ROUTED_RANGES6),
    ] {
        for set in [exact, ranges] {
            rules.push(rule(
                "published without translation",
                [destination(family), vec![lookup(set)], accept()],
            ));
        }
    }
    let map =
        |set: &str| Expr::Lookup { set: set.into(), from: Reg(0), to: None, verdicts: true, missing: false };
    rules.push(rule("within a network", [iifname(0), oifname(4), vec![map(Sets::WITHIN)]]));
    for name in [iifname as fn(u8) -> _, oifname] {
        rules
            .push(rule("internal networks", [name(0), vec![lookup(Sets::INTERNAL)], verdict(Verdict::Drop)]));
    }
    let trusted = verdict(Verdict::Jump("trusted".into()));
    rules.push(rule("trusted interfaces", [iifname(0), oifname(4), vec![lookup(Sets::TRUSTED)], trusted]));
    if let Some(Mark { mask, value }) = config.mark {
        let bits = vec![
            Expr::Meta { key: MetaKey::Mark, to: Reg(0) },
            Expr::Bitwise { from: Reg(0), to: Reg(0), mask: mask.to_ne_bytes().into(), xor: vec![0; 4] },
            Expr::Cmp { from: Reg(0), equal: true, data: value.to_ne_bytes().into() },
        ];
        rules
            .push(rule("the mark that is let in", [bits, oifname(0), vec![lookup(Sets::BRIDGES)], accept()]));
    }
    let family = || vec![Expr::Meta { key: MetaKey::Nfproto, to: Reg(0) }];
    rules.push(rule("unprotected", [family(), oifname(1), vec![lookup(Sets::OPEN)], accept()]));
    for protocol in ICMP {
        let icmp = vec![
            Expr::Meta { key: MetaKey::L4proto, to: Reg(0) },
            Expr::Cmp { from: Reg(0), equal: true, data: vec![protocol] },
        ];
        rules.push(rule("", [icmp, family(), oifname(1), vec![lookup(Sets::ROUTED)], accept()]));
    }
    rules.push(rule("not published", [oifname(0), vec![lookup(Sets::BRIDGES)], verdict(Verdict::Drop)]));
    rules
}

/// Ports of the host that lead to containers.
fn published() -> Vec<Rule> {
    let map = |set: &str| Expr::Lookup {
        set: set.into(),
        from: Reg(0),
        to: Some(Reg(0)),
        verdicts: false,
        missing: false,
    };
    let led = || verdict(Verdict::Goto("led".into()));
    let mut rules = Vec::new();
    for (family, exact, ranges) in
        [(ipv4 as fn() -> _, Sets::LED4, Sets::LED_RANGES4), (ipv6, Sets::LED6, Sets::LED_RANGES6)]
    {
        rules.push(rule("", [destination(family), vec![lookup(exact)], led()]));
        rules.push(rule("", [destination(family), vec![lookup(ranges)], led()]));
    }
    for (is6, words, named, named_ranges, any, any_ranges) in [
        (false, 1, Sets::PORTS4, Sets::RANGES4, Sets::ANY4, Sets::ANY_RANGES4),
        (true, 4, Sets::PORTS6, Sets::RANGES6, Sets::ANY6, Sets::ANY_RANGES6),
    ] {
        let family = if is6 { ipv6 } else { ipv4 };
        let nat = |port: bool| Expr::Nat {
            kind: NatKind::Destination,
            ipv6: is6,
            address: Some(Reg(0)),
            port: port.then_some(Reg(words)),
        };
        rules.push(rule("", [destination(family), vec![map(named), nat(true)]]));
        rules.push(rule("", [destination(family), vec![map(named_ranges), nat(false)]]));
        // What comes from `::1` goes nowhere else.
        let elsewhere = || if is6 { not_to_itself() } else { Vec::new() };
        rules.push(rule("", [family(), elsewhere(), transport(0), vec![map(any), nat(true)]]));
        rules.push(rule("", [family(), elsewhere(), transport(0), vec![map(any_ranges), nat(false)]]));
    }
    for (family, any, any_ranges) in [
        (ipv4 as fn() -> _, Sets::LED_ANY4, Sets::LED_ANY_RANGES4),
        (ipv6, Sets::LED_ANY6, Sets::LED_ANY_RANGES6),
    ] {
        rules.push(rule("", [family(), transport(0), vec![lookup(any)], led()]));
        rules.push(rule("", [family(), transport(0), vec![lookup(any_ranges)], led()]));
    }
    rules
}

/// Ports of the host that the engine itself passes on: to its own port, at the address that was meant. That needs no rule
/// where packets come in for the host, so what reaches containers through the host alone is said here.
fn led() -> Vec<Rule> {
    let port = || {
        let from = Reg(0);
        let set = Sets::SWITCHBOARD.into();
        vec![
            Expr::Meta { key: MetaKey::L4proto, to: from },
            Expr::Lookup { set, from, to: Some(from), verdicts: false, missing: false },
        ]
    };
    let to = |ipv6| vec![Expr::Nat { kind: NatKind::Destination, ipv6, address: None, port: Some(Reg(0)) }];
    vec![
        rule(
            "internal networks reach nothing but themselves",
            [iifname(0), vec![lookup(Sets::INTERNAL)], verdict(Verdict::Return)],
        ),
        rule("", [ipv4(), port(), to(false)]),
        rule("", [ipv6(), port(), to(true)]),
    ]
}

/// What trusted interfaces reach under containers' own addresses: what is published, but for the host alone.
fn trusted() -> Vec<Rule> {
    let mut rules = Vec::new();
    for (family, exact, ranges) in [
        (ipv4 as fn() -> _, Sets::SERVED4, Sets::SERVED_RANGES4),
        (ipv6, Sets::SERVED6, Sets::SERVED_RANGES6),
    ] {
        for set in [exact, ranges] {
            rules.push(rule("", [destination(family), vec![lookup(set)], verdict(Verdict::Accept)]));
        }
    }
    rules
}

/// What leaves, under which address.
fn leaving() -> Vec<Rule> {
    let masquerade = || vec![Expr::Masquerade];
    let mut rules = vec![rule(
        "the host reaches a container through its loopback",
        [ipv4(), to_loopback(12), oifname(0), vec![lookup(Sets::BRIDGES)], masquerade()],
    )];
    let family = || vec![Expr::Meta { key: MetaKey::Nfproto, to: Reg(0) }];
    // By the source, not by the link that they came in by: that is not known where bridges hand packets to the firewall
    // by themselves (br_netfilter).
    let again = "a container reaches its network through a port of the host";
    for (family, offset, len, words, set) in
        [(ipv4 as fn() -> _, 12, 4, 1, Sets::HAIRPIN4), (ipv6, 8, 16, 4, Sets::HAIRPIN6)]
    {
        let source = vec![Expr::Payload { base: Base::Network, offset, len, to: Reg(0) }];
        let translated = ct(CtKey::Status, TRANSLATED);
        rules.push(rule(
            again,
            [translated, family(), source, oifname(words), vec![lookup(set)], masquerade()],
        ));
    }
    rules.push(rule("", [iifname(0), oifname(4), vec![lookup(Sets::SAME)], verdict(Verdict::Return)]));
    for (is6, set) in [(false, Sets::SOURCES4), (true, Sets::SOURCES6)] {
        let from =
            Expr::Lookup { set: set.into(), from: Reg(0), to: Some(Reg(0)), verdicts: false, missing: false };
        let nat = Expr::Nat { kind: NatKind::Source, ipv6: is6, address: Some(Reg(0)), port: None };
        let family = if is6 { ipv6() } else { ipv4() };
        rules.push(rule("", [family, iifname(0), vec![from, nat]]));
    }
    rules.push(rule("", [family(), iifname(1), vec![lookup(Sets::MASQUERADED)], masquerade()]));
    rules
}
