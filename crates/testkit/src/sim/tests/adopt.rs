//! Namespaces that others have made.

use super::*;
use crate::errno::{EBUSY, EEXIST, EINVAL, ENODEV, ENOENT};

const PROCESS: &str = "/proc/4711/ns/net";
const OTHER: &str = "/proc/4711/ns/mnt";

/// A host with a process in a namespace of its own.
fn with_a_process() -> SimKernel {
    let kernel = SimKernel::new();
    kernel.external_netns(PROCESS).expect("added");
    kernel.external_file(OTHER).expect("added");
    kernel
}

#[test]
fn an_adopted_namespace_is_one_of_the_engines_until_it_is_deleted() {
    let kernel = with_a_process();
    assert!(now(kernel.namespaces(later())).is_empty());
    does(&kernel, [adopt("a", PROCESS), veth("va", "eth0", named("a"), None)]);
    assert_eq!(now(kernel.namespaces(later())), [nsname("a")]);
    assert!(view(&kernel, named("a"), "lo").expect("there").up);
    does(&kernel, [drop_netns("a")]);
    assert!(now(kernel.namespaces(later())).is_empty());
    // It lives on, and so does what was put into it.
    does(&kernel, [adopt("b", PROCESS)]);
    assert!(view(&kernel, named("b"), "eth0").is_some());
    // Until nobody uses it.
    kernel.drop_external(PROCESS).expect("there");
    assert!(view(&kernel, named("b"), "eth0").is_some());
    does(&kernel, [drop_netns("b")]);
    assert!(view(&kernel, HOST_NS, "va").is_none());
}

#[test]
fn a_process_that_ends_takes_its_namespace_along() {
    let kernel = with_a_process();
    does(&kernel, [adopt("a", PROCESS), veth("va", "eth0", named("a"), None), drop_netns("a")]);
    assert!(view(&kernel, HOST_NS, "va").is_some());
    kernel.drop_external(PROCESS).expect("there");
    assert!(view(&kernel, HOST_NS, "va").is_none());
    assert_eq!(refuses(&kernel, adopt("a", PROCESS)), ENOENT);
    assert_eq!(kernel.drop_external(PROCESS).expect_err("gone").errno, ENOENT);
}

#[test]
fn what_cannot_be_adopted_is_refused() {
    let kernel = with_a_process();
    does(&kernel, [netns("a")]);
    let before = kernel.snapshot();
    assert_eq!(refuses(&kernel, adopt("b", "/proc/4712/ns/net")), ENOENT);
    assert_eq!(refuses(&kernel, adopt("b", OTHER)), EINVAL);
    assert_eq!(refuses(&kernel, adopt("b", "/proc/self/ns/net")), EBUSY);
    // A name in use counts before anything that is wrong with the source.
    for source in [PROCESS, OTHER, "/nowhere", "/proc/self/ns/net"] {
        assert_eq!(refuses(&kernel, adopt("a", source)), EEXIST);
    }
    kernel.assert_pristine(&before);
    for taken in [PROCESS, OTHER, "/proc/self/ns/net"] {
        assert_eq!(kernel.external_netns(taken).expect_err("taken").errno, EEXIST);
        assert_eq!(kernel.external_file(taken).expect_err("taken").errno, EEXIST);
    }
}

#[test]
fn one_namespace_has_many_names() {
    let kernel = with_a_process();
    does(&kernel, [adopt("a", PROCESS), adopt("b", PROCESS), veth("va", "eth0", named("a"), None)]);
    assert_eq!(refuses(&kernel, veth("vb", "eth0", named("b"), None)), EEXIST);
    does(&kernel, [drop_netns("a"), set(named("b"), "eth0", true)]);
    // One that the engine made has a path of its own.
    does(&kernel, [netns("c"), adopt("d", &kernel.netns_path(nsname("c")).display().to_string())]);
    does(&kernel, [drop_netns("c"), set(named("d"), "lo", false), drop_netns("d")]);
    assert_eq!(refuses(&kernel, set(named("d"), "lo", false)), ENOENT);
}

#[test]
fn what_is_left_in_a_namespace_of_others_shows() {
    let kernel = with_a_process();
    let before = kernel.snapshot();
    does(&kernel, [adopt("a", PROCESS), veth("va", "eth0", named("a"), None)]);
    let left = |kernel: &SimKernel| -> Vec<String> {
        kernel.leftovers(&before).iter().map(|line| line.split(" (").next().expect("some").into()).collect()
    };
    let (outside, inside) =
        ("left over: link eth0 of namespace at /proc/4711/ns/net", "left over: namespace a");
    assert_eq!(left(&kernel), [outside, "left over: link va of the host", inside]);
    does(&kernel, [drop_netns("a")]);
    assert_eq!(left(&kernel), [outside, "left over: link va of the host"]);
    does(&kernel, [delete("va")]);
    // Its loopback stays up, as on Linux; that is no leftover.
    kernel.assert_pristine(&before);
    kernel.drop_external(PROCESS).expect("there");
    assert_eq!(left(&kernel), ["missing: namespace at /proc/4711/ns/net"]);
}

#[test]
fn a_reboot_ends_every_process() {
    let kernel = with_a_process();
    does(&kernel, [adopt("a", PROCESS)]);
    kernel.reboot();
    assert_eq!(refuses(&kernel, adopt("a", PROCESS)), ENOENT);
    assert_eq!(refuses(&kernel, set(named("a"), "lo", true)), ENOENT);
    kernel.external_netns(PROCESS).expect("another process");
    does(&kernel, [adopt("a", PROCESS)]);
    assert_eq!(refuses(&kernel, set(named("a"), "eth0", true)), ENODEV);
}
