//! What the host uses already: automatic pools keep off it, preferred subnets may not overlap it.

use std::borrow::Cow;

use ipnet::IpNet;
use netloom_model::{Error, IfName, Reason, Result};

use crate::span::{Family, Span};

/// A subnet that the host uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostNet {
    /// The subnet.
    pub net: IpNet,
    /// What for.
    pub used_as: HostUse,
    /// The interface by which it does, where that is known.
    pub link: Option<IfName>,
}

/// What the host uses a subnet for. In this order one is told before another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum HostUse {
    /// An address of one of its links.
    Address,
    /// A route of the main table.
    Route,
    /// A route of another table, by its number: rules lead there.
    RouteOf(u32),
    /// One of its name servers, wherever that is.
    NameServer,
}

/// The number of the main table (`RT_TABLE_MAIN`).
const MAIN: u32 = 254;

impl HostUse {
    /// A route, by the number of its table.
    #[must_use]
    pub fn route(table: u32) -> Self {
        if table == MAIN { Self::Route } else { Self::RouteOf(table) }
    }

    /// The same in words, for the error text.
    #[must_use]
    pub fn name(self) -> Cow<'static, str> {
        match self {
            Self::Address => "an address".into(),
            Self::Route => "a route".into(),
            Self::RouteOf(table) => format!("a route of table {table}").into(),
            Self::NameServer => "a name server".into(),
        }
    }
}

/// Whether the host uses a part of a pool: of one that was `chosen`, also for a name server. Pools of other IPAM drivers
/// are checked by this; the driver `default` does it as it chooses.
///
/// # Errors
/// `PoolOverlapsHost`.
pub fn check_host(pool: IpNet, chosen: bool, host: &[HostNet]) -> Result<()> {
    let family = Family::of(&pool);
    let mut nets = if chosen { HostNets::automatic(host, family) } else { HostNets::given(host, family) };
    nets.conflict(&Span::of(&pool)).map_or(Ok(()), |(_, other)| Err(overlaps_host(pool, other)))
}

/// The error for a pool that the host uses a part of.
pub(crate) fn overlaps_host(pool: IpNet, other: &HostNet) -> Error {
    let HostNet { net, used_as, link } = *other;
    Reason::PoolOverlapsHost { pool, other: net, what: used_as.name(), link }.into()
}

/// Who looks for a subnet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Choice {
    /// The allocator: it keeps off everything.
    Automatic,
    /// The caller, who may know better about a name server than a guess from its address does. Parity:
    /// libnetwork looks at name servers for automatic pools only (`requestPoolHelper`).
    Given,
}

/// The host's subnets of one family, searched by one request.
///
/// The first candidate is compared with each. Only when that finds a conflict is a sorted list worth its
/// price: a host with thousands of routes has none in the way most of the time.
#[derive(Debug)]
pub(crate) struct HostNets<'a> {
    all: &'a [HostNet],
    family: Family,
    choice: Choice,
    sorted: Option<Vec<(Span, usize)>>,
}

impl<'a> HostNets<'a> {
    /// For a subnet that the allocator chooses.
    pub(crate) fn automatic(all: &'a [HostNet], family: Family) -> Self {
        Self { all, family, choice: Choice::Automatic, sorted: None }
    }

    /// For a subnet that the caller gave.
    pub(crate) fn given(all: &'a [HostNet], family: Family) -> Self {
        Self { all, family, choice: Choice::Given, sorted: None }
    }

    /// The subnets that count. The default route and its halves, which VPNs set, cover everything and say
    /// nothing about who uses an address.
    fn relevant(&self) -> impl Iterator<Item = (Span, usize)> {
        let (family, choice) = (self.family, self.choice);
        let counts = move |HostNet { net, used_as, .. }: &HostNet| {
            let matters = choice == Choice::Automatic || *used_as != HostUse::NameServer;
            matters && Family::of(net) == family && net.prefix_len() > 1
        };
        let spans = self.all.iter().enumerate().filter(move |(_, host)| counts(host));
        spans.map(|(i, host)| (Span::of(&host.net), i))
    }

    /// A subnet of the host that overlaps this span.
    pub(crate) fn conflict(&mut self, span: &Span) -> Option<(Span, &'a HostNet)> {
        let (found, index) = match &self.sorted {
            None => {
                let found = self.relevant().find(|(host, _)| host.overlaps(span))?;
                self.sorted = Some(self.outermost());
                found
            }
            Some(sorted) => {
                let before = sorted.partition_point(|(host, _)| host.first <= span.last);
                *sorted[..before].last().filter(|(host, _)| host.overlaps(span))?
            }
        };
        Some((found, &self.all[index]))
    }

    /// The subnets that lie in no other one, sorted. Subnets are disjoint or nested, so these are disjoint.
    fn outermost(&self) -> Vec<(Span, usize)> {
        let mut spans: Vec<_> = self.relevant().collect();
        spans.sort_by_key(|(span, i)| (span.first, u128::MAX - span.last, *i));
        let mut end = None;
        spans.retain(|(span, _)| {
            let outer = end.is_none_or(|end| span.first > end);
            if outer {
                end = Some(span.last);
            }
            outer
        });
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_searches_agree_and_ignore_default_routes() {
        let nets =
            ["0.0.0.0/0", "128.0.0.0/1", "10.0.0.0/8", "10.1.0.0/16", "192.168.7.9/24", "fd00::/8", "::/1"];
        let route =
            |net: &&str| HostNet { net: net.parse().expect("a net"), used_as: HostUse::Route, link: None };
        let all: Vec<_> = nets.iter().map(route).collect();
        let mut warm = HostNets::given(&all, Family::V4);
        assert!(warm.conflict(&Span::of(&all[2].net)).is_some());
        assert!(warm.sorted.is_some());
        for text in
            ["10.1.2.0/24", "11.0.0.0/8", "192.168.7.0/25", "192.168.0.0/16", "192.168.8.0/24", "9.0.0.0/8"]
        {
            let span = Span::of(&text.parse().expect("a net"));
            let mut cold = HostNets::given(&all, Family::V4);
            let expected = text.starts_with("10.") || text.contains("168.7.") || text.contains("168.0.");
            assert_eq!(cold.conflict(&span).is_some(), expected, "{text}");
            assert_eq!(warm.conflict(&span).is_some(), expected, "{text}");
        }
        let six = Span::of(&"fd00:1::/64".parse().expect("a net"));
        assert!(HostNets::given(&all, Family::V6).conflict(&six).is_some());
    }

    #[test]
    fn a_name_server_is_in_the_way_of_automatic_choice_only() {
        let server =
            HostNet { net: "10.1.2.3/32".parse().expect("a net"), used_as: HostUse::NameServer, link: None };
        let route =
            HostNet { net: "10.2.0.0/16".parse().expect("a net"), used_as: HostUse::Route, link: None };
        let span = |text: &str| Span::of(&text.parse().expect("a net"));
        let all = [server, route];
        let automatic = HostNets::automatic(&all, Family::V4);
        for (mut nets, kept_off) in [(automatic, true), (HostNets::given(&all, Family::V4), false)] {
            let choice = nets.choice;
            for _ in ["cold", "warm"] {
                assert_eq!(nets.conflict(&span("10.1.0.0/16")).is_some(), kept_off, "{choice:?}");
                assert!(nets.conflict(&span("10.2.3.0/24")).is_some(), "{choice:?}");
            }
        }
    }
}
