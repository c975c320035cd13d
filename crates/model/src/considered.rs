//! What was considered when no default pool was left.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::{Holder, on_host};
use crate::ifname::IfName;

/// The default pools of one family, and why none of them was to be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolsConsidered {
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// The prefix length of the pool that was asked for, if one was: any part of the default pools would do.
    pub asked: Option<u8>,
    /// The prefix length of the largest block that pools are cut from, where what was asked for is larger.
    pub largest: Option<u8>,
    /// How many pools there are of each prefix length, the largest pools first.
    pub sizes: Vec<(u8, u64)>,
    /// How many of them networks hold, in whole or in part.
    pub held: u64,
    /// How many networks those are.
    pub networks: usize,
    /// Some of these networks: those that hold most.
    pub holders: Vec<Holder>,
    /// How many of the others overlap what the host uses; not counted where a size was asked for.
    pub of_host: Option<u64>,
    /// One of these, and what it overlaps.
    pub example: Option<HostOverlap>,
}

/// A pool that overlaps what the host uses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HostOverlap {
    /// The pool.
    pub pool: IpNet,
    /// The host's subnet.
    pub other: IpNet,
    /// What that is: "an address", "a route", "a name server".
    pub what: std::borrow::Cow<'static, str>,
    /// The interface that has it, where that is known.
    pub link: Option<IfName>,
}

/// Default pools that were passed over when the pools of a network were chosen, because the host used them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PassedOver {
    /// The first of them, at most [`PassedOver::LISTED`].
    pub pools: Vec<HostOverlap>,
    /// How many there were besides.
    pub more: u64,
}

impl PassedOver {
    /// How many are told one by one.
    pub const LISTED: usize = 16;

    /// Tells of one more.
    pub fn push(&mut self, pool: HostOverlap) {
        if self.pools.len() < Self::LISTED { self.pools.push(pool) } else { self.more += 1 }
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }
}

impl PoolsConsidered {
    /// How many default pools there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.sizes.iter().fold(0, |sum, (_, pools)| sum.saturating_add(*pools))
    }
}

impl fmt::Display for PoolsConsidered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, asked, largest, sizes, held, networks, holders, of_host, example } = self;
        if let Some(asked) = asked {
            write!(f, "a /{asked} was asked for")?;
            if let Some(largest) = largest {
                write!(f, ", and no block of default pools is larger than a /{largest}")?;
            }
            write!(f, "; ")?;
        }
        if sizes.is_empty() {
            return write!(f, "there are no default pools for {family}");
        }
        write!(f, "of {} default pools for {family} (", self.total())?;
        for (i, (size, pools)) in sizes.iter().enumerate() {
            write!(f, "{}{pools} of /{size}", if i == 0 { "" } else { ", " })?;
        }
        write!(f, "), {held} are held by networks")?;
        for (i, holder) in holders.iter().enumerate() {
            write!(f, "{}{holder}", if i == 0 { " (" } else { ", " })?;
        }
        match networks.saturating_sub(holders.len()) {
            0 => {}
            more => write!(f, " and {more} more")?,
        }
        if !holders.is_empty() {
            write!(f, ")")?;
        }
        if let Some(of_host) = of_host {
            write!(f, " and {of_host} overlap what the host uses")?;
        }
        let Some(HostOverlap { pool, other, what, link }) = example else { return Ok(()) };
        write!(f, " (such as {pool}: {other} is {what} of {})", on_host(link.as_ref()))
    }
}

/// The pools of one family of a network, and why none of them has a free address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressesConsidered {
    /// The network.
    pub network: Holder,
    /// Its pools of the family.
    pub pools: Vec<PoolFill>,
    /// How many endpoints lease its addresses.
    pub endpoints: u64,
    /// Some of these endpoints.
    pub holders: Vec<Holder>,
}

/// How the addresses of a pool are used of which none is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolFill {
    /// The subnet.
    pub pool: IpNet,
    /// The part of it from which addresses are chosen. The numbers are of this part then.
    pub range: Option<IpNet>,
    /// How many addresses there are.
    pub size: u128,
    /// Never chosen: network and broadcast address, gateway, auxiliary addresses.
    pub reserved: u64,
    /// Held back until the kernel has let go of a deleted endpoint.
    pub quarantined: u64,
}

/// How many pools a text lists.
const SHOWN_POOLS: usize = 4;

impl fmt::Display for AddressesConsidered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, pools, endpoints, holders } = self;
        write!(f, "{network}")?;
        for (i, fill) in pools.iter().take(SHOWN_POOLS).enumerate() {
            write!(f, "{}{fill}", if i == 0 { ": " } else { "; " })?;
        }
        match pools.len().saturating_sub(SHOWN_POOLS) {
            0 => {}
            more => write!(f, "; and {more} more pools")?,
        }
        for (i, holder) in holders.iter().enumerate() {
            write!(f, "{}{holder}", if i == 0 { " (in use by " } else { ", " })?;
        }
        match usize::try_from(*endpoints).unwrap_or(usize::MAX).saturating_sub(holders.len()) {
            0 => {}
            more => write!(f, " and {more} more")?,
        }
        if holders.is_empty() { Ok(()) } else { write!(f, ")") }
    }
}

impl fmt::Display for PoolFill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, range, size, reserved, quarantined } = self;
        match range {
            Some(range) => write!(f, "range {range} of pool {pool}")?,
            None => write!(f, "pool {pool}")?,
        }
        let used = size.saturating_sub(u128::from(reserved.saturating_add(*quarantined)));
        let addresses = if *size == 1 { "address" } else { "addresses" };
        write!(f, " has {size} {addresses}, {used} in use, {reserved} reserved")?;
        if *quarantined > 0 { write!(f, ", {quarantined} in quarantine") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind, ObjectKind, Reason};

    fn considered() -> PoolsConsidered {
        let holder = |name: &str| Holder::new(ObjectKind::Network, name, name);
        PoolsConsidered {
            family: "IPv4",
            asked: None,
            largest: None,
            sizes: vec![(16, 15), (20, 16)],
            held: 30,
            networks: 28,
            holders: vec![holder("big"), holder("blue")],
            of_host: Some(1),
            example: Some(HostOverlap {
                pool: "172.17.0.0/16".parse().expect("a net"),
                other: "172.17.0.53/32".parse().expect("a net"),
                what: "a name server".into(),
                link: None,
            }),
        }
    }

    #[test]
    fn the_text_says_what_there_is_who_holds_it_and_what_can_be_done() {
        let error = Error::from(Reason::PoolsExhausted(considered().into()));
        assert_eq!(
            error.to_string(),
            "no free address pool left: of 31 default pools for IPv4 (15 of /16, 16 of /20), 30 are held by \
             networks (network \"big\" (big), network \"blue\" (blue) and 26 more) and 1 overlap what the host \
             uses (such as 172.17.0.0/16: 172.17.0.53/32 is a name server of the host)"
        );
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        let remedy = error.remedy().expect("there is one");
        assert!(remedy.contains("subnet") && remedy.contains("default_pools"), "{remedy}");
    }

    #[test]
    fn a_network_without_free_addresses_says_how_they_are_used_and_by_whom() {
        let fill = |pool: &str, range: Option<&str>| PoolFill {
            pool: pool.parse().expect("a net"),
            range: range.map(|range| range.parse().expect("a net")),
            size: 8,
            reserved: 3,
            quarantined: u64::from(range.is_some()),
        };
        let mut considered = AddressesConsidered {
            network: Holder::new(ObjectKind::Network, "n1", "blue"),
            pools: vec![fill("10.0.0.0/29", None), fill("10.1.0.0/16", Some("10.1.2.0/29"))],
            endpoints: 9,
            holders: vec![Holder::new(ObjectKind::Endpoint, "e1", "web")],
        };
        let error = Error::from(Reason::AddressesExhausted(considered.clone().into()));
        assert_eq!(
            error.to_string(),
            "no free address left in network \"blue\" (n1): pool 10.0.0.0/29 has 8 addresses, 5 in use, \
             3 reserved; range 10.1.2.0/29 of pool 10.1.0.0/16 has 8 addresses, 4 in use, 3 reserved, \
             1 in quarantine (in use by endpoint \"web\" (e1) and 8 more)"
        );
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("larger subnet")));
        let one = PoolFill { size: 1, reserved: 1, ..considered.pools[0] };
        assert_eq!(one.to_string(), "pool 10.0.0.0/29 has 1 address, 0 in use, 1 reserved");
        considered.pools = vec![considered.pools[0]; 6];
        (considered.endpoints, considered.holders) = (0, Vec::new());
        let text = considered.to_string();
        assert!(text.ends_with("3 reserved; and 2 more pools"), "{text}");
    }

    #[test]
    fn what_does_not_apply_is_left_out() {
        let held = PoolsConsidered { networks: 2, of_host: Some(0), example: None, ..considered() };
        let text = held.to_string();
        assert!(text.ends_with("network \"blue\" (blue)) and 0 overlap what the host uses"), "{text}");
        let host = PoolsConsidered { held: 0, networks: 0, holders: Vec::new(), ..considered() };
        let text = host.to_string();
        assert!(text.contains("0 are held by networks and 1 overlap"), "{text}");
        let sized = PoolsConsidered { asked: Some(12), of_host: None, ..held.clone() };
        let text = sized.to_string();
        assert!(text.starts_with("a /12 was asked for; of 31 default pools"), "{text}");
        assert!(text.ends_with("network \"blue\" (blue))"), "{text}");
        let large = PoolsConsidered { largest: Some(13), ..sized }.to_string();
        let said = "a /12 was asked for, and no block of default pools is larger than a /13; of 31 default";
        assert!(large.starts_with(said), "{large}");
        let none = PoolsConsidered { family: "IPv6", sizes: Vec::new(), ..held };
        assert_eq!(none.to_string(), "there are no default pools for IPv6");
    }
}
