//! Which operations are about the same object, and so cannot overtake each other.

use ipnet::IpNet;
use netloom_kernel::{Netns, Op};
use netloom_model::IfName;

/// Whether two operations are about the same link or the same route, or one is about the namespace the other
/// works in.
pub(super) fn collide(one: &Op, other: &Op) -> bool {
    if let (Some(one), Some(other)) = (destination(one), destination(other))
        && one == other
    {
        // Through whichever link: there is one route to a destination.
        return true;
    }
    if let (
        Op::ChangeTable { netns: here, table: one, .. },
        Op::ChangeTable { netns: there, table: other, .. },
    ) = (one, other)
    {
        return here == there && one == other;
    }
    if let (
        Op::ForgetConnections { .. },
        Op::ChangeTable { netns: Netns::Host, .. } | Op::ForgetConnections { .. },
    )
    | (Op::ChangeTable { netns: Netns::Host, .. }, Op::ForgetConnections { .. }) = (one, other)
    {
        // One thread takes them in their order: what is forgotten is what was there after the change.
        return true;
    }
    let others = touched(other);
    touched(one).into_iter().flatten().any(|a| others.into_iter().flatten().any(|b| a.meets(b)))
}

/// A link of a namespace, or the whole namespace.
#[derive(Clone, Copy, Debug)]
struct Object {
    netns: Netns,
    link: Option<IfName>,
}

impl Object {
    fn meets(self, other: Self) -> bool {
        let whole = self.link.is_none() || other.link.is_none();
        self.netns == other.netns && (whole || self.link == other.link)
    }
}

fn destination(op: &Op) -> Option<(Netns, IpNet)> {
    match op {
        Op::AddRoute { netns, route } | Op::DeleteRoute { netns, route } => Some((*netns, route.destination)),
        _ => None,
    }
}

fn touched(op: &Op) -> [Option<Object>; 2] {
    let link = |netns, link| Some(Object { netns, link: Some(link) });
    match op {
        Op::CreateNetns { name, .. } | Op::AdoptNetns { name, .. } | Op::DeleteNetns { name } => {
            [Some(Object { netns: Netns::Named(*name), link: None }), None]
        }
        Op::CreateBridge { name, .. }
        | Op::CutLink { name }
        | Op::SetPortFlag { name, .. }
        | Op::DeleteLink { name, .. } => [link(Netns::Host, *name), None],
        Op::CreateVeth { host, peer, netns, .. } => [link(Netns::Host, *host), link(*netns, *peer)],
        Op::MoveLink { from, name, to, rename } => [link(*from, *name), link(*to, *rename)],
        Op::SetMaster { name, master } => {
            [link(Netns::Host, *name), master.and_then(|master| link(Netns::Host, master))]
        }
        Op::SetLink { netns, name, .. } | Op::SetMtu { netns, name, .. } => [link(*netns, *name), None],
        Op::AddAddress { netns, link: name, .. }
        | Op::DeleteAddress { netns, link: name, .. }
        | Op::AddNeighbour { netns, link: name, .. }
        | Op::DeleteNeighbour { netns, link: name, .. }
        | Op::Announce { netns, link: name } => [link(*netns, *name), None],
        Op::AddRoute { netns, route } | Op::DeleteRoute { netns, route } => [link(*netns, route.link), None],
        // A setting of a link that is gone is refused, whatever came in between.
        Op::Sysctl { .. } | Op::ChangeTable { .. } | Op::ForgetConnections { .. } => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use netloom_kernel::nft::Table;

    use super::*;

    #[test]
    fn the_same_link_and_a_namespace_with_what_is_in_it_collide() {
        let netns = |name: &str| Netns::Named(name.parse().expect("valid"));
        let set = |netns, name: &str| Op::SetLink { netns, name: name.parse().expect("valid"), up: true };
        let delete = Op::DeleteNetns { name: "a".parse().expect("valid") };
        assert!(collide(&set(netns("a"), "eth0"), &set(netns("a"), "eth0")));
        assert!(!collide(&set(netns("a"), "eth0"), &set(netns("a"), "eth1")));
        assert!(!collide(&set(netns("a"), "eth0"), &set(netns("b"), "eth0")));
        assert!(!collide(&set(netns("a"), "eth0"), &set(Netns::Host, "eth0")));
        assert!(collide(&set(netns("a"), "eth0"), &delete) && collide(&delete, &set(netns("a"), "eth0")));
        assert!(!collide(&set(netns("b"), "eth0"), &delete));
        let route = |link: &str, to: &str| Op::AddRoute {
            netns: netns("a"),
            route: netloom_kernel::Route {
                destination: to.parse().expect("valid"),
                via: None,
                link: link.parse().expect("valid"),
            },
        };
        assert!(collide(&route("eth0", "0.0.0.0/0"), &route("eth1", "0.0.0.0/0")));
        assert!(!collide(&route("eth0", "0.0.0.0/0"), &route("eth1", "10.0.0.0/8")));
        let port = |name: &str, master: &str| Op::SetMaster {
            name: name.parse().expect("valid"),
            master: Some(master.parse().expect("valid")),
        };
        assert!(collide(&port("v1", "br0"), &set(Netns::Host, "v1")));
        assert!(collide(&port("v1", "br0"), &set(Netns::Host, "br0")));
        assert!(!collide(&port("v1", "br0"), &port("v2", "br1")));
        let table = |name: &str| Op::ChangeTable {
            netns: Netns::Host,
            table: Table::inet(name),
            changes: Vec::new(),
        };
        let forget = Op::ForgetConnections { filter: Vec::new() };
        assert!(collide(&table("a"), &table("a")) && !collide(&table("a"), &table("b")));
        assert!(collide(&table("a"), &forget) && collide(&forget, &table("b")) && collide(&forget, &forget));
        assert!(!collide(&forget, &set(Netns::Host, "v1")));
    }
}
