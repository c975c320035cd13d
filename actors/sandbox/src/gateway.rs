//! Which endpoint provides a sandbox's way out: a pure function of the endpoints in it.

use std::net::IpAddr;

use netloom_kernel::{Netns, Op, Route};
use netloom_model::record::WayOut;
use netloom_model::{EndpointId, IfName};

use crate::member::{Member, default_route};

/// The elected gateway of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gateway {
    /// The endpoint that provides it.
    pub endpoint: EndpointId,
    /// The interface it lies behind.
    pub ifname: IfName,
    /// Its address.
    pub address: IpAddr,
    /// Whether there is an interface: without one it is the way out in name, and no route leads over it.
    pub linked: bool,
}

/// The elected gateways of a sandbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gateways {
    /// For IPv4.
    pub v4: Option<Gateway>,
    /// For IPv6.
    pub v6: Option<Gateway>,
}

/// Whether a sandbox needs a way out that none of its endpoints is: one of them asks for it, and none has an IPv4
/// gateway or default route. As in libnetwork (`needDefaultGW`), IPv6 is not considered. Those for which only a
/// place is kept do not count: what they bring is not known before they are plugged in.
#[must_use]
pub fn lacks_way_out(members: &[Member]) -> bool {
    let plugged = members.iter().filter(|member| !member.reserved);
    let mut asking = plugged.filter(|member| member.way_out == WayOut::Wanted).peekable();
    asking.peek().is_some() && !asking.any(Member::leads_out)
}

/// Elects: the way out of a sandbox whose others have none stands only while it is needed, because another one may lead
/// out by a route of its driver's; then the higher priority wins, then the
/// network's name that comes first, then who joined first. Parity: moby `sandbox.go` `epHeap.Less` and
/// `getGatewayEndpoint`; there the walk over a binary
/// heap's array may miss the best one behind an endpoint without gateway, here it cannot.
#[must_use]
pub fn elect(members: &[Member]) -> Gateways {
    let needed = lacks_way_out(members);
    let best = |gateway: fn(&Member) -> Option<IpAddr>| {
        members
            .iter()
            .filter(|member| needed || member.way_out != WayOut::Provided)
            .filter_map(|member| gateway(member).map(|address| (member, address)))
            .min_by(|(a, _), (b, _)| a.rank().cmp(&b.rank()))
            .map(|(member, address)| {
                let Member { endpoint, ifname, linked, .. } = *member;
                Gateway { endpoint, ifname, address, linked }
            })
    };
    Gateways { v4: best(|member| member.gateway), v6: best(|member| member.gateway6) }
}

impl Gateways {
    /// The endpoint through which the sandbox is reached from outside.
    #[must_use]
    pub fn provider(&self) -> Option<EndpointId> {
        self.v4.or(self.v6).map(|gateway| gateway.endpoint)
    }

    /// The default routes of both families.
    pub(crate) fn routes(self) -> impl Iterator<Item = Option<Route>> {
        let linked = [self.v4, self.v6].map(|gateway| gateway.filter(|gateway| gateway.linked));
        linked.into_iter().map(|gateway| gateway.map(|g| default_route(g.ifname, g.address)))
    }

    /// The operations that change a sandbox's default routes from these to those of `next`.
    pub(crate) fn change(self, next: Self, netns: Netns) -> Vec<Op> {
        let mut ops = Vec::new();
        for (old, new) in self.routes().zip(next.routes()) {
            if old == new {
                continue;
            }
            ops.extend(old.map(|route| Op::DeleteRoute { netns, route }));
            ops.extend(new.map(|route| Op::AddRoute { netns, route }));
        }
        ops
    }
}

#[cfg(test)]
mod tests {
    use netloom_model::Seldom;
    use netloom_model::record::StaticRoute;

    use super::*;

    fn member(n: u8, network: &str, priority: i32, gateway: bool) -> Member {
        Member {
            endpoint: format!("{n:064x}").parse().expect("an id"),
            network: network.parse().expect("an id"),
            network_name: network.into(),
            ifname: format!("eth{n}").parse().expect("a name"),
            priority,
            ipv4: None,
            ipv6: None,
            gateway: gateway.then(|| IpAddr::from([10, n, 0, 1])),
            gateway6: None,
            routes: Vec::new(),
            way_out: WayOut::Wanted,
            reserved: false,
            linked: true,
            names: Seldom::default(),
        }
    }

    fn winner(members: &[Member]) -> Option<String> {
        elect(members).v4.map(|gateway| gateway.ifname.to_string())
    }

    #[test]
    fn priority_then_name_decides_in_any_order() {
        let mut members =
            vec![member(1, "zebra", 0, true), member(2, "apple", 0, true), member(3, "mango", 5, true)];
        for _ in 0..3 {
            members.rotate_left(1);
            assert_eq!(winner(&members).as_deref(), Some("eth3"), "the highest priority");
        }
        members.retain(|member| member.priority == 0);
        assert_eq!(winner(&members).as_deref(), Some("eth2"), "the first name");
    }

    #[test]
    fn a_way_out_is_lacking_where_one_asks_and_none_has_any() {
        let (plain, with) = (member(1, "a", 0, false), member(2, "b", 0, true));
        let internal = Member { way_out: WayOut::Unwanted, ..plain.clone() };
        let provided = Member { way_out: WayOut::Provided, ..member(3, "c", 0, true) };
        let routes = vec![StaticRoute { destination: "0.0.0.0/0".parse().expect("a net"), via: None }];
        let routed = Member { routes, ..plain.clone() };
        assert!(!lacks_way_out(&[]));
        assert!(lacks_way_out(std::slice::from_ref(&plain)));
        assert!(!lacks_way_out(std::slice::from_ref(&internal)), "who asks for none needs none");
        assert!(lacks_way_out(&[plain.clone(), internal]));
        assert!(!lacks_way_out(&[plain.clone(), with.clone()]));
        assert!(!lacks_way_out(&[plain.clone(), routed.clone()]), "a default route is a way out");
        assert_eq!(elect(&[plain.clone(), routed, provided.clone()]).v4, None, "and excludes another one");
        assert!(elect(&[plain.clone(), provided.clone()]).v4.is_some());
        assert!(lacks_way_out(&[plain, provided.clone()]), "it is needed as long as it is the only one");
        let elected = elect(&[Member { priority: 9, ..provided }, with]).v4.map(|gateway| gateway.ifname);
        assert_eq!(elected.map(|name| name.to_string()).as_deref(), Some("eth2"), "it comes last");
    }

    #[test]
    fn of_one_network_who_joined_first_wins() {
        let mut members = vec![member(10, "blue", 0, true), member(9, "blue", 0, true)];
        // The identifiers are the other way round.
        (members[0].endpoint, members[1].endpoint) = (members[1].endpoint, members[0].endpoint);
        for _ in 0..2 {
            members.rotate_left(1);
            assert_eq!(winner(&members).as_deref(), Some("eth9"));
        }
    }

    #[test]
    fn who_offers_no_gateway_cannot_win() {
        assert_eq!(winner(&[member(1, "apple", 9, false)]), None);
        let members = [member(1, "apple", 9, false), member(2, "zebra", 0, true)];
        assert_eq!(winner(&members).as_deref(), Some("eth2"));
        assert_eq!(elect(&members).provider(), Some(members[1].endpoint));
    }

    #[test]
    fn a_change_of_gateway_replaces_the_route_and_no_change_does_nothing() {
        let one = elect(&[member(1, "a", 0, true)]);
        let two = elect(&[member(2, "b", 0, true)]);
        assert!(one.change(one, Netns::Host).is_empty());
        let verbs = |ops: Vec<Op>| ops.iter().map(Op::verb).collect::<Vec<_>>();
        assert_eq!(verbs(one.change(two, Netns::Host)), ["delete_route", "add_route"]);
        assert_eq!(verbs(Gateways::default().change(one, Netns::Host)), ["add_route"]);
        assert_eq!(verbs(one.change(Gateways::default(), Netns::Host)), ["delete_route"]);
    }
}
