//! A host's own IPv6 prefix: RFC 4193's locally assigned addresses, `fd` and 40 bits that no two hosts share.
//!
//! Parity: newer versions of libnetwork derive such a prefix from the host's identity as well, so that IPv6 works without
//! configuration and two hosts can be connected later without being numbered anew.

use ipnet::{IpNet, Ipv6Net};
use netloom_model::config::DefaultPool;
use uuid::Uuid;

/// What the bits of this program's prefixes are drawn under. A machine's identifier is not to be shown to others
/// (`machine-id(5)`): hashed under a name of our own it can neither be read back nor be compared with others' hashes.
const NAMESPACE: Uuid = Uuid::from_u128(0x6b1f_0c52_9a3e_4d0b_8e57_2f4c_61d7_a9b8);

/// The prefix length of the networks in it: the one that autoconfiguration of addresses works with (RFC 4291, 2.5.1).
const POOL: u8 = 64;

/// The default pools of the host of this identity: a /48 of which each network gets a /64. The same identity always has
/// the same.
///
/// RFC 4193, 3.2.2: 40 bits of the SHA-1 over what makes a host unlike others. Of a name-based identifier (version 5)
/// the last 40 bits are the digest's own.
#[must_use]
pub fn host_pools(identity: &str) -> DefaultPool {
    let [.., a, b, c, d, e] = Uuid::new_v5(&NAMESPACE, identity.as_bytes()).into_bytes();
    let join = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    let prefix = [join(0xfd, a), join(b, c), join(d, e), 0, 0, 0, 0, 0];
    DefaultPool { base: IpNet::V6(Ipv6Net::new_assert(prefix.into(), 48)), size: POOL }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_host_has_the_prefix_that_others_compute_for_it_too() {
        // Computed with another implementation (Python's `uuid.uuid5`).
        for (identity, prefix) in [
            ("0123456789abcdef0123456789abcdef", "fdb7:61c0:e83b::/48"),
            ("0123456789abcdef0123456789abcdee", "fdbc:277c:2d10::/48"),
            ("netloom", "fda3:2d68:6785::/48"),
        ] {
            let pools = host_pools(identity);
            assert_eq!((pools.base.to_string().as_str(), pools.size), (prefix, 64), "{identity}");
        }
    }

    #[test]
    fn hosts_differ_and_all_are_local_addresses() {
        let all: BTreeSet<_> = (0..10_000).map(|n| host_pools(&n.to_string()).base).collect();
        // Of 2^40 prefixes, two of ten thousand hosts share one in one case of 20,000.
        assert_eq!(all.len(), 10_000);
        for base in &all {
            let IpNet::V6(net) = base else { panic!("{base} is not IPv6") };
            assert!(net.addr().is_unique_local() && net.addr().octets()[0] == 0xfd, "{net}");
            assert_eq!(net.trunc(), *net, "no host bits");
        }
        // Each of the 40 bits takes both values.
        let bits = |net: &IpNet| if let IpNet::V6(net) = net { net.addr().to_bits() >> 80 } else { 0 };
        let (or, and) = all.iter().fold((0, u128::MAX), |(or, and), net| (or | bits(net), and & bits(net)));
        assert_eq!((or, and), (0xfd_ff_ff_ff_ff_ff, 0xfd_00_00_00_00_00));
    }
}
