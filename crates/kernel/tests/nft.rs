//! Tables of nftables: what is written is read back, shown by `nft`, and carried out as a whole or not at all.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use common::{Lab, foreign, ifname, isolated, soon, wait};
use futures::StreamExt;
use netloom_kernel::nft::{
    Base, BaseChain, Chain, ChainKind, Change, Contents, CtKey, Datum, Element, Expr, Family, FibResult,
    Hook, MetaKey, NatKind, Point, Reg, Rule, Set, Table, Type, Verdict,
};
use netloom_kernel::{Kernel, KernelError, Netns, Op, TableEvent};

const TCP: u8 = 6;

fn table() -> Table {
    Table::inet("trial")
}

impl Lab {
    fn change(&self, changes: Vec<Change>) -> Result<(), KernelError> {
        let ops = vec![Op::ChangeTable { netns: Netns::Host, table: table(), changes }];
        wait(self.kernel.execute(ops, soon())).into_iter().next().expect("one answer")
    }

    fn contents(&self) -> Option<Contents> {
        wait(self.kernel.table(table(), soon())).expect("listed")
    }
}

fn chain(name: &str, kind: ChainKind, point: Point, priority: i32) -> Chain {
    Chain { name: name.into(), hook: Some(Hook { kind, point, priority }) }
}

fn set(name: &str, key: &[Type], value: &[Type]) -> Set {
    Set { name: name.into(), key: key.into(), value: value.into(), interval: false }
}

fn address(text: &str) -> Datum {
    Datum::Address(text.parse().expect("an address"))
}

fn rule(exprs: Vec<Expr>) -> Rule {
    Rule { exprs, comment: None }
}

fn load(base: Base, offset: u32, len: u32, to: u8) -> Expr {
    Expr::Payload { base, offset, len, to: Reg(to) }
}

fn meta(key: MetaKey, to: u8) -> Expr {
    Expr::Meta { key, to: Reg(to) }
}

fn lookup(set: &str, from: u8, to: Option<u8>, verdicts: bool) -> Expr {
    Expr::Lookup { set: set.into(), from: Reg(from), to: to.map(Reg), verdicts, missing: false }
}

/// Something of everything.
fn everything() -> Contents {
    let ports = set("ports", &[Type::Ipv4, Type::Protocol, Type::Port], &[Type::Ipv4, Type::Port]);
    let ports6 = set("ports6", &[Type::Ipv6, Type::Protocol, Type::Port], &[Type::Ipv6, Type::Port]);
    let ranges =
        Set { interval: true, ..set("ranges", &[Type::Ipv4, Type::Protocol, Type::Port], &[Type::Ipv4]) };
    let bridges = set("bridges", &[Type::Interface], &[Type::Verdict]);
    let board = set("board", &[Type::Protocol], &[Type::Port]);
    let pairs = set("pairs", &[Type::Interface, Type::Interface], &[]);
    let key = |text, port| [address(text), Datum::Protocol(TCP), Datum::Port(port)];
    let to = |text, port| [address(text), Datum::Port(port)];
    let br0 = || Datum::from(ifname("br0"));
    let dnat = |ipv6, address, port| Expr::Nat { kind: NatKind::Destination, ipv6, address, port };
    let nat = |ipv6, port| dnat(ipv6, Some(Reg(0)), Some(Reg(port)));
    let local = |port: u8| {
        vec![
            Expr::Fib { result: FibResult::DestinationType, to: Reg(0) },
            Expr::Cmp { from: Reg(0), equal: true, data: 2u32.to_ne_bytes().to_vec() },
            meta(MetaKey::L4proto, port - 1),
        ]
    };
    let nfproto = |family: u8| {
        vec![meta(MetaKey::Nfproto, 0), Expr::Cmp { from: Reg(0), equal: true, data: vec![family] }]
    };
    let v4 = [
        nfproto(2),
        local(2),
        vec![
            load(Base::Network, 16, 4, 0),
            load(Base::Transport, 2, 2, 2),
            lookup("ports", 0, Some(0), false),
            nat(false, 1),
        ],
    ]
    .concat();
    let v6 = [
        nfproto(10),
        local(5),
        vec![
            load(Base::Network, 24, 16, 0),
            load(Base::Transport, 2, 2, 5),
            lookup("ports6", 0, Some(0), false),
            nat(true, 4),
        ],
    ]
    .concat();
    // To another port of the same address.
    let elsewhere = |ipv6, family| {
        let port = vec![meta(MetaKey::L4proto, 0), lookup("board", 0, Some(0), false)];
        rule([nfproto(family), port, vec![dnat(ipv6, None, Some(Reg(0)))]].concat())
    };
    let port = Expr::Immediate { data: 5353u16.to_be_bytes().to_vec(), to: Reg(0) };
    let fixed = rule([nfproto(2), vec![port, dnat(false, None, Some(Reg(0)))]].concat());
    let established = vec![
        Expr::Ct { key: CtKey::State, to: Reg(0) },
        Expr::Bitwise { from: Reg(0), to: Reg(0), mask: 6u32.to_ne_bytes().to_vec(), xor: vec![0; 4] },
        Expr::Cmp { from: Reg(0), equal: false, data: vec![0; 4] },
        Expr::Verdict(Verdict::Accept),
    ];
    let same = vec![
        meta(MetaKey::Iifname, 0),
        meta(MetaKey::Oifname, 4),
        Expr::Lookup { set: "pairs".into(), from: Reg(0), to: None, verdicts: false, missing: true },
        Expr::Masquerade,
    ];
    Contents {
        chains: vec![
            (
                Chain { name: "ours".into(), hook: None },
                vec![
                    Rule { exprs: established, comment: Some("answers".into()) },
                    rule(vec![
                        meta(MetaKey::L4proto, 0),
                        Expr::Cmp { from: Reg(0), equal: true, data: vec![6] },
                        Expr::ResetTcp,
                    ]),
                    rule(vec![Expr::Verdict(Verdict::Drop)]),
                ],
            ),
            (
                chain("forward", ChainKind::Filter, Point::Forward, 0),
                vec![rule(vec![meta(MetaKey::Iifname, 0), lookup("bridges", 0, None, true)])],
            ),
            (
                chain("prerouting", ChainKind::Nat, Point::Prerouting, -100),
                vec![rule(v4), rule(v6), elsewhere(false, 2), elsewhere(true, 10), fixed],
            ),
            (chain("postrouting", ChainKind::Nat, Point::Postrouting, 100), vec![rule(same)]),
        ],
        sets: vec![
            (ports, vec![Element::entry(key("192.0.2.1", 80), to("10.0.0.2", 8080))]),
            (ports6, vec![Element::entry(key("2001:db8::1", 80), to("fd00::2", 8080))]),
            (
                ranges,
                vec![
                    Element::entry(key("192.0.2.1", 1000), [address("10.0.0.3")]).to(key("192.0.2.1", 1999)),
                ],
            ),
            (bridges, vec![Element::entry([br0()], [Datum::Verdict(Verdict::Goto("ours".into()))])]),
            (pairs, vec![Element::member([br0(), br0()])]),
            (board, vec![Element::entry([Datum::Protocol(TCP)], [Datum::Port(40_000)])]),
        ],
    }
}

/// What makes a table as it should be.
fn make(contents: &Contents) -> Vec<Change> {
    let mut changes = vec![Change::AddTable];
    changes.extend(contents.chains.iter().map(|(chain, _)| Change::AddChain(chain.clone())));
    for (set, elements) in &contents.sets {
        changes.push(Change::AddSet(set.clone()));
        changes.push(Change::AddElements { set: set.name.clone(), elements: elements.clone() });
    }
    for (chain, rules) in &contents.chains {
        let add = |rule: &Rule| Change::AddRule { chain: chain.name.clone(), rule: rule.clone() };
        changes.extend(rules.iter().map(add));
    }
    changes
}

fn shown() -> String {
    let output = Command::new("nft").args(["list", "table", "inet", "trial"]).output().expect("nft runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_table_is_read_as_it_was_written_and_nft_can_show_it() {
    isolated(|lab| {
        assert_eq!(lab.contents(), None);
        let everything = everything();
        lab.change(make(&everything)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(lab.contents().as_ref(), Some(&everything));
        let shown = shown();
        for line in [
            "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
            "192.0.2.1 . tcp . 80 : 10.0.0.2 . 8080",
            "2001:db8::1 . tcp . 80 : fd00::2 . 8080",
            "192.0.2.1 . tcp . 1000-1999 : 10.0.0.3",
            "\"br0\" : goto ours",
            "iifname . oifname != @pairs masquerade",
            "fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @ports",
            "meta nfproto ipv4 dnat ip to :meta l4proto map @board",
            "meta nfproto ipv6 dnat ip6 to :meta l4proto map @board",
            "tcp : 40000",
            "ct state established,related accept comment \"answers\"",
            "type filter hook forward priority filter; policy accept;",
        ] {
            assert!(shown.contains(line), "{line} in\n{shown}");
        }
        lab.change(vec![Change::DeleteTable]).expect("deleted");
        assert_eq!(lab.contents(), None);
    });
}

#[test]
fn a_refused_change_undoes_the_others_and_is_named() {
    isolated(|lab| {
        let pairs = || Change::AddSet(set("pairs", &[Type::Interface], &[]));
        let member = |name: &str| vec![Element::member([Datum::from(ifname(name))])];
        lab.change(vec![Change::AddTable, Change::AddChain(Chain { name: "x".into(), hook: None }), pairs()])
            .expect("made");
        let before = lab.contents();
        let error = lab
            .change(vec![
                Change::AddElements { set: "pairs".into(), elements: member("br0") },
                Change::DeleteElements { set: "pairs".into(), elements: member("br9") },
                Change::AddElements { set: "pairs".into(), elements: member("br1") },
            ])
            .expect_err("refused");
        assert_eq!(error.errno, nix::libc::ENOENT);
        assert!(error.to_string().contains("delete 1 elements of set pairs"), "{error}");
        assert_eq!(lab.contents(), before);
        // What is there is left alone when it is added again.
        let add = || Change::AddElements { set: "pairs".into(), elements: member("br0") };
        lab.change(vec![add()]).expect("added");
        lab.change(vec![Change::AddTable, pairs(), add()]).expect("there already");
        assert_eq!(lab.contents().expect("there").sets[0].1, member("br0"));
    });
}

#[test]
fn a_map_of_ten_thousand_entries_goes_in_and_out_in_one_transaction_each() {
    isolated(|lab| {
        let ports = set("ports", &[Type::Ipv4, Type::Protocol, Type::Port], &[Type::Ipv4, Type::Port]);
        let chain = Chain { name: "x".into(), hook: None };
        let entry = |n: u32| {
            let host = Datum::Address(IpAddr::from(Ipv4Addr::from(0xc000_0200 + n / 5_000)));
            let port = Datum::Port(u16::try_from(1 + n % 5_000).expect("small"));
            Element::entry([host, Datum::Protocol(TCP), port.clone()], [address("10.0.0.2"), port])
        };
        let mut all: Vec<_> = (0..10_000).map(entry).collect();
        let changes = vec![Change::AddTable, Change::AddChain(chain), Change::AddSet(ports)];
        lab.change(changes).expect("made");
        lab.change(vec![Change::AddElements { set: "ports".into(), elements: all.clone() }]).expect("added");
        // At once, while the kernel still moves them to a bigger hash table.
        let found = lab.contents().expect("there").sets.remove(0).1;
        all.sort();
        assert!(found == all, "{} of {}", found.len(), all.len());
        lab.change(vec![Change::DeleteElements { set: "ports".into(), elements: all }]).expect("removed");
        assert_eq!(lab.contents().expect("there").sets[0].1, []);
    });
}

#[test]
fn rules_of_others_in_our_table_are_seen_and_other_tables_are_not() {
    isolated(|lab| {
        foreign("nft add table inet other");
        foreign("nft add chain inet other ours");
        foreign("nft add rule inet other ours accept");
        let chain = Chain { name: "ours".into(), hook: None };
        lab.change(vec![Change::AddTable, Change::AddChain(chain.clone())]).expect("made");
        foreign("nft add rule inet trial ours limit rate 5/second accept");
        let contents = lab.contents().expect("there");
        let accept = Expr::Verdict(Verdict::Accept);
        assert_eq!(contents.chains, [(chain, vec![rule(vec![Expr::Other("limit".into()), accept])])]);
    });
}

#[test]
fn what_others_change_is_heard_and_our_own_changes_are_not() {
    isolated(|lab| {
        let mut news = lab.kernel.watch_tables();
        let chain = Chain { name: "ours".into(), hook: None };
        lab.change(vec![Change::AddTable, Change::AddChain(chain)]).expect("made");
        foreign("nft add table ip6 other");
        let other = Table { family: Family::Ip6, name: "other".into() };
        assert_eq!(wait(news.next()), Some(TableEvent::Changed(other)), "ours was heard, or theirs was not");
        foreign("nft flush ruleset");
        let gone = TableEvent::Changed(table());
        while wait(news.next()).expect("still listening") != gone {}
        assert_eq!(lab.contents(), None);
    });
}

#[test]
fn base_chains_of_others_are_told_with_their_policies_and_rules() {
    isolated(|lab| {
        let told = |point| {
            let mut told = wait(lab.kernel.base_chains(point, "passed", soon())).expect("listed");
            told.sort_by_key(|one| one.table.to_string());
            told
        };
        assert_eq!(told(Point::Forward), []);
        foreign("nft add table inet others");
        foreign("nft add chain inet others more");
        foreign("nft add chain inet others way { type filter hook forward priority 10 ; policy drop ; }");
        foreign("nft add chain inet others in { type filter hook input priority 10 ; policy drop ; }");
        foreign("nft add table ip open");
        foreign("nft add table inet passed-over");
        foreign("nft add chain inet passed-over way { type filter hook forward priority 5 ; policy drop ; }");
        foreign("nft add chain ip open way { type filter hook forward priority 0 ; policy accept ; }");
        // One of a family that sees other packets.
        foreign("nft add table bridge others");
        foreign("nft add chain bridge others way { type filter hook forward priority 0 ; policy drop ; }");
        foreign("nft add rule inet others way jump more");
        foreign("nft add rule inet others more iifname br0 counter accept");
        foreign("iptables-nft -A FORWARD -j REJECT");
        let found = told(Point::Forward);
        let chain = |one: &BaseChain| (one.table.to_string(), one.chain.clone(), one.drops);
        let expected =
            [("inet others", "way", true), ("ip filter", "FORWARD", false), ("ip open", "way", false)];
        assert_eq!(
            found.iter().map(chain).collect::<Vec<_>>(),
            expected.map(|(table, chain, drops)| (table.to_owned(), chain.to_owned(), drops))
        );
        let rejects = &found[1].rules;
        let rejects: Vec<_> = rejects.iter().map(|(_, rule)| rule.exprs.last().cloned()).collect();
        assert_eq!(rejects, [Some(Expr::Other("target REJECT".into()))]);
        let found = &found[0];
        let mut name = b"br0".to_vec();
        name.resize(16, 0);
        let accepts = vec![
            meta(MetaKey::Iifname, 0),
            Expr::Cmp { from: Reg(0), equal: true, data: name },
            Expr::Other("counter".into()),
            Expr::Verdict(Verdict::Accept),
        ];
        let jump = rule(vec![Expr::Verdict(Verdict::Jump("more".into()))]);
        let mut rules = found.rules.to_vec();
        rules.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(rules, [("more".to_owned(), rule(accepts)), ("way".to_owned(), jump)]);
        assert_eq!(told(Point::Input).len(), 1);
    });
}
