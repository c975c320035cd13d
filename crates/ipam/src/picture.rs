//! What the allocator holds, for people: pools, who holds which address, and how much of the default pools is left.
//!
//! All of it is asked of the allocator in the ordinary way, so what is shown is what the next request meets.

use std::net::IpAddr;

use ipnet::IpNet;
use netloom_model::NetworkId;
use netloom_model::config::DefaultPool;
use netloom_model::snapshot::{DefaultPoolSnapshot, PoolSnapshot};

use crate::default::DefaultIpam;
use crate::pool::PoolUsage;
use crate::request::AddressSpace;
use crate::span::{Family, Span};

/// Every pool in use: by the names of the networks, and of each in its order, IPv4 first.
#[must_use]
pub fn pools(ipam: &DefaultIpam) -> Vec<PoolSnapshot> {
    let mut networks: Vec<_> = ipam.networks().collect();
    networks.sort_unstable_by_key(|(network, name, _)| (*name, *network));
    let of = |(network, name, space): (NetworkId, &str, AddressSpace)| {
        pools_of(network, name, space.name(), ipam.usage(network).unwrap_or_default())
    };
    networks.into_iter().flat_map(of).collect()
}

/// The pools of one network.
#[must_use]
pub fn pools_of(network: NetworkId, name: &str, space: &str, usage: Vec<PoolUsage>) -> Vec<PoolSnapshot> {
    let snapshot = |usage: PoolUsage| PoolSnapshot {
        space: space.to_owned(),
        pool: usage.pool,
        range: usage.range,
        network,
        name: name.to_owned(),
        gateway: usage.gateway,
        size: usage.size,
        used: usage.used,
        reserved: usage.reserved,
        quarantined: usage.quarantined,
    };
    usage.into_iter().map(snapshot).collect()
}

/// The place that somebody names: a subnet, with or without host bits, or one address.
#[must_use]
pub fn place(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok();
    net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|net| net.trunc())
}

/// Whether one of two subnets is within the other.
#[must_use]
pub fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// How much of each block of default pools is left, when networks have these subnets. A pool counts as used when any part
/// of it is; one that no network uses, and the host does, as the host's.
#[must_use]
pub fn default_pools(
    blocks: &[DefaultPool],
    in_use: impl IntoIterator<Item = IpNet>,
    host: Option<&[IpNet]>,
) -> Vec<DefaultPoolSnapshot> {
    let in_use: Vec<_> = in_use.into_iter().collect();
    let of = |block: &DefaultPool| {
        let pools = in_use.iter().filter_map(|net| pools_in(block, net));
        let used: Vec<_> = pools.collect();
        let taken = count(used.clone());
        let of_host = host.map(|host| {
            // The default route and its halves say nothing about who uses an address.
            let host = host.iter().filter(|net| net.prefix_len() > 1);
            let both = host.filter_map(|net| pools_in(block, net)).chain(used);
            count(both.collect()) - taken
        });
        let bits = u32::from(block.size.saturating_sub(block.base.prefix_len()));
        let total = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        let total = u64::try_from(total).unwrap_or(u64::MAX);
        DefaultPoolSnapshot { base: block.base, size: block.size, total, used: taken, of_host }
    };
    blocks.iter().map(of).collect()
}

/// The numbers of a block's pools that share an address with a subnet.
fn pools_in(block: &DefaultPool, net: &IpNet) -> Option<(u64, u64)> {
    let (base, span) = (Span::of(&block.base), Span::of(net));
    if Family::of(&block.base) != Family::of(net) || !base.overlaps(&span) {
        return None;
    }
    let bits = u32::from(block.base.max_prefix_len() - block.size);
    let number = |address: u128| {
        let number = (address - base.first).checked_shr(bits).unwrap_or(0);
        u64::try_from(number).unwrap_or(u64::MAX)
    };
    Some((number(span.first.max(base.first)), number(span.last.min(base.last))))
}

/// How many numbers lie in these runs, which may overlap.
fn count(mut runs: Vec<(u64, u64)>) -> u64 {
    runs.sort_unstable();
    let (mut all, mut next) = (0_u64, Some(0_u64));
    for (first, last) in runs {
        let Some(free) = next else { break };
        if last >= free {
            all = all.saturating_add((last - first.max(free)).saturating_add(1));
            next = last.checked_add(1);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use netloom_model::record::PoolRecord;
    use netloom_model::{EndpointId, IpamSpec};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    use ipnet::Ipv4Net;

    use crate::default::RestoredPools;
    use crate::request::{LeaseRequest, PoolsRequest};

    fn net(text: &str) -> IpNet {
        text.parse().expect("a subnet")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn record(pool: &str, gateway: &str) -> PoolRecord {
        let auxiliary = BTreeMap::from([("router".to_owned(), net(pool).hosts().nth(9).expect("large"))]);
        PoolRecord { gateway: Some(ip(gateway)), auxiliary, ..PoolRecord::new(net(pool)) }
    }

    fn restore(
        ipam: &mut DefaultIpam,
        network: NetworkId,
        name: &str,
        v4: &[PoolRecord],
        v6: &[PoolRecord],
    ) -> netloom_model::Result<()> {
        ipam.restore_pools(&RestoredPools { network, name, address_space: "", shares: false, v4, v6 })
    }

    fn endpoint(n: u128) -> EndpointId {
        EndpointId::from_uuids(Uuid::from_u128(n), Uuid::nil())
    }

    #[test]
    fn pools_and_holders_are_what_the_allocator_has() {
        let mut ipam = DefaultIpam::new(&[]);
        let (red, blue) = ("r".parse().expect("an id"), "b".parse().expect("an id"));
        restore(&mut ipam, red, "red", &[record("10.2.0.0/24", "10.2.0.1")], &[]).expect("free");
        let six = record("fd00::/64", "fd00::1");
        restore(&mut ipam, blue, "blue", &[record("10.1.0.0/24", "10.1.0.1")], &[six]).expect("free");
        let want = |n| LeaseRequest { owner: endpoint(n), name: format!("ep-{n}"), ipv4: None, ipv6: None };
        for n in 1..=3 {
            ipam.lease(blue, &want(n)).expect("free");
        }
        ipam.quarantine(blue, endpoint(2));
        let all = pools(&ipam);
        let shown: Vec<_> = all
            .iter()
            .map(|pool| {
                let gateway = pool.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
                format!(
                    "{} {} {} {} {} {} {gateway}",
                    pool.name, pool.pool, pool.size, pool.used, pool.reserved, pool.quarantined
                )
            })
            .collect();
        let expected = [
            "blue 10.1.0.0/24 256 2 4 1 10.1.0.1",
            "blue fd00::/64 18446744073709551616 2 3 1 fd00::1",
            "red 10.2.0.0/24 256 0 4 0 10.2.0.1",
        ];
        assert_eq!(shown, expected);
        assert_eq!(all[0].free(), 256 - 2 - 4 - 1);
        let found = ipam.holders(blue, 3).expect("it has pools");
        let shown: Vec<_> = found.holders.iter().map(|h| format!("{} {}", h.address, h.holder)).collect();
        let (two, one) = (endpoint(2), endpoint(1));
        let one = format!("10.1.0.2 endpoint \"ep-1\" ({})", one.short());
        let two = format!("10.1.0.3 quarantine of endpoint {}", two.short());
        assert_eq!(shown, ["10.1.0.1 gateway".to_owned(), one, two]);
        assert_eq!(found.more, 2 + 5, "an endpoint and the auxiliary address, and all of IPv6");
        assert_eq!(ipam.holders("none".parse().expect("an id"), 3), None);
    }

    #[test]
    fn blocks_count_what_networks_and_the_host_have() {
        let block = |base: &str, size| DefaultPool { base: net(base), size };
        let blocks = [
            block("10.0.0.0/16", 24),
            block("10.0.0.0/20", 22),
            block("fd00::/8", 128),
            block("fd00::/48", 64),
        ];
        let in_use = ["10.0.0.0/24", "10.0.1.0/28", "10.0.1.16/28", "fd00::/64", "192.168.0.0/24"].map(net);
        let host = ["0.0.0.0/0", "10.0.0.0/23", "10.0.2.0/24", "10.0.255.255/32", "::/1"].map(net);
        let shown: Vec<_> = default_pools(&blocks, in_use, Some(&host))
            .iter()
            .map(|block| (block.total, block.used, block.of_host.unwrap_or(99)))
            .collect();
        assert_eq!(shown, [(256, 2, 2), (4, 1, 0), (u64::MAX, u64::MAX, 0), (65_536, 1, 0)]);
        assert!(default_pools(&blocks, in_use, None).iter().all(|block| block.of_host.is_none()));
    }

    proptest! {
        /// Against a set of numbers; and what automatic choice has left agrees with what is counted.
        #[test]
        fn counts_agree_with_plain_sets(
            subnets in prop::collection::vec((0u32..4096, 20u8..=30), 0..20),
            host in prop::collection::vec((0u32..4096, 20u8..=32), 0..10),
        ) {
            let subnet = |(offset, prefix): (u32, u8)| {
                let address = Ipv4Addr::from_bits(0x0a00_0000 | offset);
                IpNet::V4(Ipv4Net::new_assert(address, prefix).trunc())
            };
            let block = DefaultPool { base: net("10.0.0.0/20"), size: 26 };
            let mut ipam = DefaultIpam::new(&[block]);
            let mut taken = Vec::new();
            for (n, pool) in subnets.into_iter().map(subnet).enumerate() {
                let record = PoolRecord::new(pool);
                let id = format!("n{n}").parse().expect("an id");
                if restore(&mut ipam, id, "n", &[record], &[]).is_ok() {
                    taken.push(pool);
                }
            }
            let host: Vec<_> = host.into_iter().map(subnet).collect();
            let pools: Vec<_> = block.base.subnets(26).expect("valid").collect();
            let overlaps = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
            let touched = |by: &[IpNet]| -> BTreeSet<IpNet> {
                pools.iter().filter(|pool| by.iter().any(|net| overlaps(pool, net))).copied().collect()
            };
            let used = touched(&taken);
            let of_host = touched(&host).difference(&used).count() as u64;
            let counted = default_pools(&[block], taken.iter().copied(), Some(&host));
            prop_assert_eq!((counted[0].total, counted[0].used, counted[0].of_host), (64, used.len() as u64, Some(of_host)));
            let host: Vec<_> = host.into_iter().map(|net| crate::HostNet { net, used_as: crate::HostUse::Route, link: None }).collect();
            let spec = IpamSpec::default();
            let mut free = 0;
            loop {
                let network = format!("free{free}").parse().expect("an id");
                let request =
                    PoolsRequest { network, name: "f".into(), spec: &spec, ipv6: false, shares: false, host: &host };
                if ipam.request_pools(&request).is_err() {
                    break;
                }
                free += 1;
            }
            prop_assert_eq!(free, 64 - used.len() as u64 - of_host);
        }
    }
}
