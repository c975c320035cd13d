//! When a released address comes back, told without knowing how it is chosen.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use netloom_ipam::DefaultIpam;
use netloom_model::Reason;
use proptest::prelude::*;

use crate::{create, endpoint, lease4, network};

/// How many releases an address waits for, where others are free.
const WAITS: u64 = 64;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Endpoints come and go. An address that was released comes back after all that were never given; then after 64 releases
    /// of others, or when nothing else is free but what was released after it. In a pool of at most so many addresses it is
    /// the last of all, always.
    #[test]
    fn what_was_released_comes_back_after_what_was_never_given_and_64_others(
        pool in prop::sample::select(vec![("10.1.0.0/28", 13), ("10.1.0.0/26", 61), ("10.1.0.0/25", 125), ("10.1.0.0/24", 253)]),
        phases in prop::collection::vec((1u8..100, prop::collection::vec((any::<u8>(), any::<u16>()), 1..300)), 1..8),
    ) {
        let (subnet, size) = pool;
        let mut ipam = DefaultIpam::new(&[]);
        create(&mut ipam, 1, &[subnet]).expect("free");
        let mut held: Vec<(u128, Ipv4Addr)> = Vec::new();
        // Each free address that was given before, with the number of its release.
        let mut released: BTreeMap<Ipv4Addr, u64> = BTreeMap::new();
        let (mut releases, mut given, mut owner) = (0, 0, 0);
        for (leases, steps) in phases {
            for (kind, which) in steps {
                if kind % 100 >= leases {
                    if !held.is_empty() {
                        let (owner, address) = held.swap_remove(usize::from(which) % held.len());
                        ipam.release(network(1), endpoint(owner));
                        releases += 1;
                        released.insert(address, releases);
                    }
                    continue;
                }
                owner += 1;
                let address = match lease4(&mut ipam, 1, owner) {
                    Ok(address) => address,
                    Err(error) => {
                        prop_assert!(matches!(error.reason(), Reason::AddressesExhausted(_)) && held.len() == size, "{error}");
                        continue;
                    }
                };
                prop_assert!(held.iter().all(|(_, held)| *held != address));
                held.push((owner, address));
                let Some(at) = released.remove(&address) else {
                    given += 1;
                    continue;
                };
                prop_assert_eq!(given, size, "{} came back before all were given", address);
                let waited = releases - at;
                let first = released.values().all(|other| at < *other);
                prop_assert!(
                    waited >= WAITS || first,
                    "{} came back after {} releases, before others that were released sooner", address, waited
                );
                prop_assert!(first || size > 64, "{} was not the last in a small pool", address);
            }
        }
    }
}
