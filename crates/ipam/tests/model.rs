//! Random calls against a reference that keeps plain sets and searches them in full.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use netloom_ipam::{DefaultIpam, LeaseRequest, PoolsRequest};
use netloom_model::{EndpointId, IpamPoolSpec, IpamSpec, NetworkId, Reason};
use proptest::prelude::*;
use uuid::Uuid;

#[derive(Clone, Debug)]
enum Call {
    Lease { owner: u8, address: Option<u8> },
    Release(u8),
    Quarantine(u8),
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => (0u8..24, prop::option::weighted(0.3, 0u8..40)).prop_map(|(owner, address)| Call::Lease { owner, address }),
        2 => (0u8..24).prop_map(Call::Release),
        1 => (0u8..24).prop_map(Call::Quarantine),
    ]
}

/// 10.0.0.0/27 without its ends and its gateway, leased in order.
#[derive(Default)]
struct Reference {
    leases: BTreeMap<u8, u8>,
    quarantined: BTreeSet<u8>,
    last: Option<u8>,
}

impl Reference {
    fn lease(&mut self, owner: u8, address: Option<u8>, range: std::ops::RangeInclusive<u8>) -> Option<u8> {
        if self.quarantined.contains(&owner) {
            return None;
        }
        if let Some(has) = self.leases.get(&owner) {
            return (address.is_none() || address == Some(*has)).then_some(*has);
        }
        let taken: BTreeSet<u8> = self.leases.values().copied().chain([0, 9, 31]).collect();
        let chosen = match address {
            Some(address) => (address < 32 && !taken.contains(&address)).then_some(address)?,
            None => {
                let from = self.last.map_or(*range.start(), |last| last + 1);
                let order = range.clone().filter(|x| *x >= from).chain(range.filter(|x| *x < from));
                let chosen = order.into_iter().find(|x| !taken.contains(x))?;
                self.last = Some(chosen);
                chosen
            }
        };
        self.leases.insert(owner, chosen);
        Some(chosen)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn agrees_with_the_reference(calls in prop::collection::vec(call(), 1..120), ranged in any::<bool>()) {
        let network: NetworkId = "n".parse().expect("an id");
        let endpoint = |n: u8| EndpointId::from_uuids(Uuid::from_u128(u128::from(n)), Uuid::nil());
        let range = if ranged { 8..=15 } else { 0..=31 };
        let spec = IpamSpec {
            v4: vec![IpamPoolSpec {
                subnet: Some("10.0.0.0/27".parse().expect("a net")),
                range: ranged.then(|| "10.0.0.8/29".parse().expect("a net")),
                gateway: Some("10.0.0.9".parse().expect("an address")),
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut ipam = DefaultIpam::new(&[]);
        ipam.request_pools(&PoolsRequest { network, name: "n".into(), spec: &spec, ipv6: false, host: &[] })
            .expect("free");
        let mut reference = Reference::default();
        for call in calls {
            match call {
                Call::Lease { owner, address } => {
                    let want = LeaseRequest {
                        owner: endpoint(owner),
                        name: owner.to_string(),
                        ipv4: address.map(|x| Ipv4Addr::new(10, 0, 0, x)),
                        ipv6: None,
                    };
                    let before = ipam.clone();
                    let got = ipam.lease(network, &want);
                    let expected = reference.lease(owner, address, range.clone());
                    match got {
                        Ok(lease) => {
                            let last = lease.ipv4.map(|net| net.addr().octets()[3]);
                            prop_assert_eq!(last, expected);
                        }
                        Err(error) => {
                            prop_assert_eq!(expected, None, "{}", error);
                            let internal = matches!(error.reason(), Reason::Internal { .. });
 prop_assert!(!internal);
                            prop_assert_eq!(&ipam, &before, "a refusal changed something");
                        }
                    }
                }
                Call::Release(owner) => {
                    ipam.release(network, endpoint(owner));
                    reference.leases.remove(&owner);
                    reference.quarantined.remove(&owner);
                }
                Call::Quarantine(owner) => {
                    ipam.quarantine(network, endpoint(owner));
                    if reference.leases.contains_key(&owner) {
                        reference.quarantined.insert(owner);
                    }
                }
            }
            let usage = &ipam.usage(network).expect("known")[0];
            prop_assert_eq!(usage.used + usage.quarantined, reference.leases.len() as u64);
            prop_assert_eq!(usage.quarantined, reference.quarantined.len() as u64);
            prop_assert_eq!(usage.reserved, 3);
        }
        for (owner, address) in &reference.leases {
            let holder = ipam.holder(network, Ipv4Addr::new(10, 0, 0, *address).into()).expect("held");
            prop_assert!(holder.contains(&*endpoint(*owner).short()));
        }
        ipam.release_pools(network);
        prop_assert_eq!(ipam, DefaultIpam::new(&[]));
    }
}
