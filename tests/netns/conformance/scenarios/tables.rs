//! Tables of nftables in namespaces other than the host's.

use netloom::kernel::nft::{Chain, ChainKind, Change, Family, Hook, Point, Table};

use super::*;

fn change(netns: Netns, changes: Vec<Change>) -> Op {
    Op::ChangeTable { netns, table: Table { family: Family::Ip, name: "trial".into() }, changes }
}

fn chain(name: &str, hook: Option<Hook>) -> Change {
    Change::AddChain(Chain { name: name.into(), hook })
}

pub(super) fn steps() -> Vec<Step> {
    let (a, b) = (named("a"), named("b"));
    let hook = Hook { kind: ChainKind::Nat, point: Point::Output, priority: -100 };
    let made = || vec![Change::AddTable, chain("plain", None), chain("output", Some(hook))];
    let flushed = |name: &str| vec![Change::FlushChain(name.into())];
    vec![
        // Without the namespace, then without the table.
        step("ENOENT", change(b, made())),
        step("ENOENT", change(a, flushed("plain"))),
        all_do([change(a, made()), change(a, made()), change(a, flushed("output"))]),
        step("ENOENT", change(a, flushed("none"))),
        // A refused one takes back what came before it.
        step(
            "ENOENT",
            change(a, vec![Change::DeleteChain("plain".into()), Change::FlushChain("none".into())]),
        ),
        does(change(a, flushed("plain"))),
        // Each namespace has its own.
        does(create("b")),
        step("ENOENT", change(b, flushed("plain"))),
        step("ENOENT", change(HOST, flushed("plain"))),
        all_do([change(b, made()), change(b, vec![Change::DeleteTable])]),
        step("ENOENT", change(b, vec![Change::DeleteTable])),
        does(change(a, flushed("plain"))),
        // They go with the namespace.
        all_do([change(b, made()), drop_netns("b"), create("b")]),
        step("ENOENT", change(b, flushed("plain"))),
        does(change(a, vec![Change::DeleteTable])),
    ]
}
