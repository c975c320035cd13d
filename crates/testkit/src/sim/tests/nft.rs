//! Transactions on tables, as the real kernel does them (`crates/kernel/tests/nft.rs`).

use netloom_kernel::nft::{Chain, Change, Datum, Element, Expr, Rule, Set, Table, Type, Verdict};
use netloom_kernel::{Netns, Op, TableEvent};

use super::super::SimKernel;
use crate::errno::{EBUSY, EEXIST, EINVAL, ENOENT, EOPNOTSUPP};

fn change(sim: &SimKernel, changes: Vec<Change>) -> Result<(), i32> {
    let op = Op::ChangeTable { netns: Netns::Host, table: Table::inet("trial"), changes };
    sim.foreign_op(&op).map_err(|error| error.errno)
}

fn set(name: &str, interval: bool) -> Change {
    Change::AddSet(Set { name: name.into(), key: vec![Type::Port], value: vec![Type::Protocol], interval })
}

fn entry(port: u16, value: u8) -> Element {
    Element::entry([Datum::Port(port)], [Datum::Protocol(value)])
}

fn range(first: u16, last: u16) -> Element {
    entry(first, 6).to([Datum::Port(last)])
}

fn add(set: &str, element: Element) -> Change {
    Change::AddElements { set: set.into(), elements: vec![element] }
}

fn remove(set: &str, element: Element) -> Change {
    Change::DeleteElements { set: set.into(), elements: vec![element] }
}

fn chain(name: &str) -> Change {
    Change::AddChain(Chain { name: name.into(), hook: None })
}

fn rule(chain: &str, expr: Expr) -> Change {
    Change::AddRule { chain: chain.into(), rule: Rule { exprs: vec![expr], comment: None } }
}

#[test]
fn each_refusal_takes_everything_back() {
    let sim = SimKernel::new();
    let contents = || sim.lock().world.tables.contents(&Table::inet("trial"));
    assert_eq!(change(&sim, vec![chain("a")]), Err(ENOENT), "no table");
    change(&sim, vec![Change::AddTable, chain("a"), chain("b"), set("ports", false), set("ranges", true)])
        .expect("made");
    let lookup = Expr::Lookup {
        set: "ports".into(),
        from: netloom_kernel::nft::Reg(0),
        to: None,
        verdicts: false,
        missing: false,
    };
    change(&sim, vec![rule("a", Expr::Verdict(Verdict::Jump("b".into()))), rule("b", lookup)])
        .expect("ruled");
    change(&sim, vec![add("ports", entry(80, 6)), add("ranges", range(10, 20))]).expect("filled");
    let before = contents();
    for (refused, errno) in [
        (remove("ports", entry(81, 6)), ENOENT),
        (add("ports", entry(80, 17)), EEXIST),
        (add("ranges", range(20, 30)), EEXIST),
        (add("ranges", entry(5, 6)), EINVAL),
        (add("none", entry(5, 6)), ENOENT),
        (set("ports", true), EEXIST),
        (Change::DeleteSet("ports".into()), EBUSY),
        (Change::DeleteChain("b".into()), EBUSY),
        (rule("a", Expr::Verdict(Verdict::Goto("c".into()))), ENOENT),
    ] {
        let words = refused.to_string();
        let all = vec![
            add("ports", entry(443, 6)),
            remove("ports", entry(80, 6)),
            Change::FlushSet("ranges".into()),
            add("ranges", range(10, 20)),
            chain("d"),
            Change::FlushChain("a".into()),
            rule("a", Expr::Verdict(Verdict::Jump("b".into()))),
            add("ports", entry(80, 6)),
            refused,
        ];
        assert_eq!(change(&sim, all), Err(errno), "{words}");
        assert_eq!(contents(), before, "{words}");
    }
    // What is there already is no change.
    change(&sim, vec![Change::AddTable, chain("a"), set("ports", false), add("ports", entry(80, 6))])
        .expect("same");
    assert_eq!(contents(), before);
}

#[test]
fn a_flush_by_somebody_else_leaves_nothing_and_is_told() {
    let sim = SimKernel::new();
    change(&sim, vec![Change::AddTable, chain("a")]).expect("made");
    let mut news = netloom_kernel::Kernel::watch_tables(&sim);
    sim.flush_ruleset();
    assert_eq!(news.try_recv().ok(), Some(TableEvent::Changed(Table::inet("trial"))));
    assert_eq!(sim.lock().world.tables.contents(&Table::inet("trial")), None);
}

#[test]
fn each_namespace_has_tables_of_its_own_which_go_with_it() {
    let sim = SimKernel::new();
    let (name, table) = ("inside".parse().expect("valid"), Table::inet("trial"));
    let inside = |changes| {
        let op = Op::ChangeTable { netns: Netns::Named(name), table: table.clone(), changes };
        sim.foreign_op(&op).map_err(|error| error.errno)
    };
    assert_eq!(inside(vec![Change::AddTable]), Err(ENOENT), "no namespace");
    sim.foreign_op(&Op::CreateNetns { name, ipv6: false }).expect("made");
    let empty = sim.snapshot();
    let mut news = netloom_kernel::Kernel::watch_tables(&sim);
    inside(vec![Change::AddTable, chain("a")]).expect("made");
    // Nobody listens there, and the host has nothing of it.
    assert!(news.try_recv().is_err());
    assert_eq!(change(&sim, vec![Change::FlushChain("a".into())]), Err(ENOENT));
    assert_eq!(sim.snapshot().differences(&empty), ["left over: table inet trial of namespace inside"]);
    assert_eq!(inside(vec![Change::DeleteTable, Change::DeleteTable]), Err(ENOENT));
    inside(vec![Change::FlushChain("a".into())]).expect("it is still there");
    sim.foreign_op(&Op::DeleteNetns { name }).expect("deleted");
    sim.foreign_op(&Op::CreateNetns { name, ipv6: false }).expect("made");
    assert_eq!(inside(vec![Change::FlushChain("a".into())]), Err(ENOENT));
    sim.without_nftables();
    assert_eq!(inside(vec![Change::AddTable]), Err(EOPNOTSUPP));
}
