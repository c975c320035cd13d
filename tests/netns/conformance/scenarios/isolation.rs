//! Ports of a bridge that do not reach each other, and those that hear themselves.

use netloom::kernel::PortFlag;

use super::*;

pub(super) fn steps() -> Vec<Step> {
    let isolate = |name: &str| Op::SetPortFlag { name: parsed(name), flag: PortFlag::Isolated };
    let hairpin = |name: &str| Op::SetPortFlag { name: parsed(name), flag: PortFlag::Hairpin };
    let b = named("b");
    vec![
        step("ENODEV", isolate("gone")),
        step("EOPNOTSUPP", isolate("br0")),
        step("EOPNOTSUPP", isolate("lo")),
        all_do([create("b"), veth("vb", "eth0", b, None)]),
        step("EOPNOTSUPP", isolate("vb")),
        all_do([isolate("va"), port("vb", Some("br0")), isolate("vb"), isolate("vb")]),
        step("ENODEV", hairpin("gone")),
        step("EOPNOTSUPP", hairpin("lo")),
        all_do([hairpin("va"), hairpin("vb")]),
        // It goes with the port's place.
        all_do([port("vb", None), port("vb", Some("br0"))]),
    ]
}
