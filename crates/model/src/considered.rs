//! What was considered when no default pool was left.

use std::fmt;

use ipnet::IpNet;

use crate::error::Holder;

/// The default pools of one family, and why none of them was to be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolsConsidered {
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// How many pools there are of each prefix length, the largest pools first.
    pub sizes: Vec<(u8, u64)>,
    /// How many of them networks hold, in whole or in part.
    pub held: u64,
    /// How many networks those are.
    pub networks: usize,
    /// Some of these networks: those that hold most.
    pub holders: Vec<Holder>,
    /// How many of the others overlap what the host uses.
    pub of_host: u64,
    /// One of these, and what it overlaps.
    pub example: Option<HostOverlap>,
}

/// A pool that overlaps what the host uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostOverlap {
    /// The pool.
    pub pool: IpNet,
    /// The host's subnet.
    pub other: IpNet,
    /// What that is: "an address", "a route", "a name server".
    pub what: &'static str,
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
        let Self { family, sizes, held, networks, holders, of_host, example } = self;
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
        write!(f, " and {of_host} overlap what the host uses")?;
        let Some(HostOverlap { pool, other, what }) = example else { return Ok(()) };
        write!(f, " (such as {pool}: {other} is {what})")
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
            sizes: vec![(16, 15), (20, 16)],
            held: 30,
            networks: 28,
            holders: vec![holder("big"), holder("blue")],
            of_host: 1,
            example: Some(HostOverlap {
                pool: "172.17.0.0/16".parse().expect("a net"),
                other: "172.17.0.53/32".parse().expect("a net"),
                what: "a name server",
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
             uses (such as 172.17.0.0/16: 172.17.0.53/32 is a name server)"
        );
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        let remedy = error.remedy().expect("there is one");
        assert!(remedy.contains("subnet") && remedy.contains("default_pools"), "{remedy}");
    }

    #[test]
    fn what_does_not_apply_is_left_out() {
        let held = PoolsConsidered { networks: 2, of_host: 0, example: None, ..considered() };
        let text = held.to_string();
        assert!(text.ends_with("network \"blue\" (blue)) and 0 overlap what the host uses"), "{text}");
        let host = PoolsConsidered { held: 0, networks: 0, holders: Vec::new(), ..considered() };
        let text = host.to_string();
        assert!(text.contains("0 are held by networks and 1 overlap"), "{text}");
        let none = PoolsConsidered { family: "IPv6", sizes: Vec::new(), ..held };
        assert_eq!(none.to_string(), "there are no default pools for IPv6");
    }
}
