//! Namespaces that others have made.

use super::super::generator::{HOST_NETNS, NOWHERE, adopt};
use super::super::pair::OUTSIDE;
use super::*;

pub(super) fn steps() -> Vec<Step> {
    let [first, second, file] = OUTSIDE;
    let (b, c) = (named("b"), named("c"));
    vec![
        step("ENOENT", adopt("b", NOWHERE)),
        step("EINVAL", adopt("b", file)),
        step("EBUSY", adopt("b", HOST_NETNS)),
        // A name in use counts before anything that is wrong with the source.
        step("EEXIST", adopt("a", NOWHERE)),
        step("EEXIST", adopt("a", file)),
        step("EEXIST", adopt("a", HOST_NETNS)),
        step("EEXIST", adopt("a", first)),
        // Nothing of the refused ones is in the way.
        does(adopt("b", first)),
        all_do([veth("vb", "eth0", b, Some("br0")), up(b, "eth0"), address(b, "eth0", "10.0.0.9/24")]),
        step("EEXIST", create("b")),
        // It lives on without a name, with what was put into it.
        does(drop_netns("b")),
        step("ENOENT", up(b, "eth0")),
        all_do([adopt("c", first), route(c, "10.9.0.0/16", Some("10.0.0.2"), "eth0"), create("b")]),
        step("EEXIST", veth("vc", "eth0", c, None)),
        // One namespace with two names.
        all_do([adopt("d", first), down(named("d"), "eth0"), drop_netns("c"), up(named("d"), "eth0")]),
        does(move_link(named("d"), "eth0", b, "eth1")),
        all_do([adopt("c", second), move_link(b, "eth1", c, "eth0"), drop_netns("b"), drop_netns("c")]),
        does(delete("vb", tag("vb"))),
        // Its loopback is as it was left, or comes up again.
        all_do([adopt("c", second), down(c, "lo"), adopt("e", second), drop_netns("c"), drop_netns("e")]),
    ]
}
