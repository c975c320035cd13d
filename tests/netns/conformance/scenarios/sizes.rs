//! Hardware addresses and sizes of links.

use super::*;

pub(super) fn steps() -> Vec<Step> {
    let a = named("a");
    let pair = || veth("vb", "eth1", a, Some("br0"));
    let mut steps = Vec::new();
    for group_or_zero in [[1, 0, 0, 0, 0, 1], [0; 6]] {
        steps.push(step("EADDRNOTAVAIL", with_mac(pair(), group_or_zero)));
        steps.push(step("EADDRNOTAVAIL", with_mac(bridge("br1"), group_or_zero)));
    }
    for size in [0, 67, 65_536] {
        steps.push(step("EINVAL", with_mtu(pair(), size)));
        steps.push(step("EINVAL", with_mtu(bridge("br1"), size)));
        steps.push(step("EINVAL", mtu(a, "eth0", size)));
    }
    // One that is too small for IPv6 has no setting for it; to switch it off there is done.
    steps.extend([
        does(with_mtu(pair(), 1000)),
        does(sysctl(a, "ipv6/conf/eth1/disable_ipv6", "1")),
        step("ENOENT", sysctl(a, "ipv6/conf/eth1/disable_ipv6", "0")),
        does(delete("vb", tag("vb"))),
    ]);
    // The bridge follows the smallest of its ports until its own size is set by hand.
    steps.extend([
        does(with_mtu(with_mac(pair(), [0x02, 0x42, 10, 0, 0, 9]), 1400)),
        does(mtu(HOST, "va", 1300)),
        does(mtu(HOST, "va", 65_535)),
        does(mtu(HOST, "br0", 1350)),
        does(mtu(HOST, "va", 1290)),
        does(delete("vb", tag("vb"))),
        // Below the smallest size for IPv6 its addresses and routes are gone, and do not come back.
        does(mtu(a, "eth0", 1000)),
        does(mtu(a, "eth0", 1500)),
    ]);
    steps
}
