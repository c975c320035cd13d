//! Deletions of links: together, and never the wrong ones.

mod common;

use common::{
    Lab, bridge, create_netns, delete_link, foreign, ifname, inside, isolated, soon, tag, veth, wait,
};
use futures::future::join_all;
use netloom_kernel::{Kernel, KernelEvent, Netns, Op};

const HOST: Netns = Netns::Host;

fn make(lab: &Lab, names: &[String]) {
    let pair = |name: &String| veth(name, &format!("p{name}"), inside("c1"), Some("br0"));
    lab.must(names.iter().map(pair).collect());
}

fn names(prefix: &str, count: u32) -> Vec<String> {
    (0..count).map(|i| format!("{prefix}{i}")).collect()
}

/// Deletes links with one call each, all at the same time.
fn delete_at_once(lab: &Lab, names: &[String]) {
    let calls = names.iter().map(|name| lab.kernel.execute(vec![delete_link(name)], soon()));
    for result in wait(join_all(calls)).into_iter().flatten() {
        result.expect("deleted");
    }
}

#[test]
fn deletions_asked_for_at_the_same_time_wait_once() {
    isolated(|lab| {
        lab.must(vec![create_netns("c1"), bridge("br0")]);
        let names = names("v", 70);
        make(&lab, &names);
        let before = lab.kernel.stats();
        delete_at_once(&lab, &names);
        let after = lab.kernel.stats();
        assert_eq!(after.links_deleted - before.links_deleted, 70);
        // The first may go alone; the rest wait for it and go together.
        assert!(after.deletions - before.deletions <= 4, "{after:?}");
        assert_eq!(lab.links(HOST).iter().filter(|link| link.name.as_str().starts_with('v')).count(), 0);
        assert_eq!(lab.links(inside("c1")).len(), 1, "the peers are gone too");
    });
}

#[test]
fn a_link_with_another_mark_survives() {
    isolated(|lab| {
        lab.must(vec![create_netns("c1"), bridge("br0")]);
        make(&lab, &names("v", 3));
        foreign("ip link add bare type bridge");
        let wrong = |name: &str| Op::DeleteLink { name: ifname(name), tag: Some(tag("other")) };
        assert_eq!(lab.errno(wrong("v0")), libc::EPERM);
        // In one batch with others, too, and asked for twice.
        let results = lab.execute(vec![
            delete_link("v1"),
            wrong("v0"),
            delete_link("bare"),
            delete_link("v2"),
            delete_link("v2"),
        ]);
        let errnos: Vec<_> =
            results.iter().map(|result| result.as_ref().map_err(|error| error.errno)).collect();
        assert_eq!(errnos, [Ok(&()), Err(libc::EPERM), Err(libc::EPERM), Ok(&()), Err(libc::ENODEV)]);
        let message = &results[1].as_ref().expect_err("refused").message;
        assert!(message.contains("netloom/test/endpoint/v0"), "{message}");
        let left = lab.link(HOST, "v0").expect("survives");
        assert!(left.up && left.group == 0, "{left:?}");
        assert!(lab.link(HOST, "bare").is_some());
        lab.must(vec![Op::DeleteLink { name: ifname("bare"), tag: None }]);
        assert!(lab.link(HOST, "bare").is_none());
    });
}

#[test]
fn a_foreign_link_in_the_group_is_not_taken_along() {
    isolated(|lab| {
        lab.must(vec![create_netns("c1"), bridge("br0")]);
        let mut events = lab.kernel.watch();
        let first = names("v", 8);
        make(&lab, &first);
        lab.must(first.iter().map(|name| delete_link(name)).collect());
        // The group that the engine has drawn shows in what it did.
        let mut group = 0;
        while let Ok(event) = events.try_recv() {
            if let KernelEvent::LinkChanged(link) = event {
                group = group.max(link.group);
            }
        }
        assert!(group >= 1 << 30, "no group deletion was seen: {group}");
        foreign(&format!("ip link add other group {group} type bridge"));
        assert_eq!(lab.link(HOST, "other").expect("made").group, group);
        let second = names("w", 8);
        make(&lab, &second);
        let before = lab.kernel.stats();
        lab.must(second.iter().map(|name| delete_link(name)).collect());
        assert!(lab.link(HOST, "other").is_some(), "a link that is not ours was deleted");
        assert!(lab.links(HOST).iter().all(|link| !link.name.as_str().starts_with('w')));
        assert_eq!(lab.kernel.stats().deletions - before.deletions, 1, "another group was drawn");
    });
}

#[test]
fn a_link_that_dies_with_its_namespace_meanwhile_is_gone_or_not_found() {
    isolated(|lab| {
        lab.must(vec![create_netns("c1"), bridge("br0")]);
        let names = names("v", 16);
        make(&lab, &names);
        let mut ops = vec![Op::DeleteNetns { name: common::netns_name("c1") }];
        ops.extend(names.iter().map(|name| delete_link(name)));
        let results = lab.execute(ops);
        results[0].clone().expect("unmounted");
        for result in &results[1..] {
            assert!(result.as_ref().err().is_none_or(|error| error.errno == libc::ENODEV), "{result:?}");
        }
        assert!(lab.links(HOST).iter().all(|link| !link.name.as_str().starts_with('v')));
    });
}
