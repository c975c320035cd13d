//! Networks of other IPAM drivers, as their records have them: which addresses such a driver would give next, it alone knows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netloom::NetworkId;
use netloom::snapshot::{AddressHolder, PoolSnapshot};
use netloom_model::record::{EndpointRecord, NetworkRecord, PoolRecord};

use super::Pool;

/// The pools of a network, and who has addresses in them.
pub(super) fn read(
    record: &NetworkRecord,
    endpoints: &[EndpointRecord],
) -> (Vec<Pool>, Vec<(NetworkId, AddressHolder)>) {
    // What comes later knows better: an endpoint has the address that is kept for its name.
    let mut held = BTreeMap::new();
    let kept = record.reservations.iter();
    held.extend(kept.flat_map(|(name, kept)| {
        kept.addresses().map(move |address| (address, (false, format!("reservation {name:?}"))))
    }));
    for pool in record.v4.iter().chain(&record.v6) {
        let named = pool.auxiliary.iter();
        held.extend(named.map(|(name, address)| (*address, (false, format!("auxiliary {name}")))));
        held.extend(pool.gateway.map(|gateway| (gateway, (false, "gateway".to_owned()))));
    }
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.network == record.id) {
        let EndpointRecord { ipv4, ipv6, id, name, .. } = endpoint;
        let v4 = ipv4.map(|net| IpAddr::V4(net.addr()));
        let addresses = v4.into_iter().chain(ipv6.map(|net| IpAddr::V6(net.addr())));
        let holder = format!("endpoint {name:?} ({})", id.short());
        held.extend(addresses.map(|address| (address, (true, holder.clone()))));
    }
    let pools = record.v4.iter().chain(&record.v6).filter(|pool| !pool.is_none());
    let pools = pools.map(|pool| shown(record, pool, &held)).collect();
    let holders =
        held.into_iter().map(|(address, (_, holder))| (record.id, AddressHolder { address, holder }));
    (pools, holders.collect())
}

fn shown(record: &NetworkRecord, pool: &PoolRecord, held: &BTreeMap<IpAddr, (bool, String)>) -> Pool {
    let within = held.iter().filter(|(address, _)| pool.pool.contains(*address));
    let (mut used, mut reserved) = (0, 0);
    within.for_each(|(_, (leased, _))| *if *leased { &mut used } else { &mut reserved } += 1);
    let bits = pool.pool.max_prefix_len() - pool.pool.prefix_len();
    let seen = PoolSnapshot {
        space: record.spec.ipam.address_space.clone(),
        pool: pool.pool,
        range: pool.range,
        network: record.id,
        name: record.spec.name.clone(),
        gateway: pool.gateway,
        size: 1u128.checked_shl(bits.into()).unwrap_or(u128::MAX),
        used,
        reserved,
        quarantined: 0,
    };
    Pool { driver: record.spec.ipam.driver.clone(), id: pool.id.clone(), seen, free: None }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use netloom::{EndpointSpec, NetworkSpec};
    use netloom_model::record::Reservation;

    use super::*;

    #[test]
    fn pools_and_addresses_of_another_driver_are_those_of_the_records() {
        let mut spec = NetworkSpec::new("red");
        (spec.ipam.driver, spec.ipam.address_space) = ("acme".into(), "here".into());
        let mut red = NetworkRecord::asked("r".parse().expect("an id"), spec);
        let gateway = Some("10.5.0.1".parse().expect("an address"));
        let auxiliary = BTreeMap::from([("router".to_owned(), "10.5.0.9".parse().expect("an address"))]);
        let of = |pool: &str| PoolRecord::new(pool.parse().expect("a subnet"));
        red.v4 = vec![
            PoolRecord { gateway, auxiliary, id: "page 1".into(), ..of("10.5.0.0/24") },
            of("10.6.0.0/24"),
            of("0.0.0.0/0"),
        ];
        for (name, address) in [("web", [10, 5, 0, 2]), ("mail", [10, 5, 0, 3])] {
            let kept = Reservation { ipv4: Some(address.into()), ipv6: None };
            red.reservations.insert(name.into(), kept);
        }
        let endpoint = |network| {
            let id = "e".repeat(64).parse().expect("an id");
            let ipv4 = Some("10.5.0.2/24".parse().expect("an address"));
            EndpointRecord { ipv4, ..EndpointRecord::asked(id, network, EndpointSpec::new("web")) }
        };
        let stranger = EndpointRecord {
            ipv4: Some("10.5.0.77/24".parse().expect("an address")),
            ..endpoint("other".parse().expect("an id"))
        };
        let (pools, holders) = read(&red, &[endpoint(red.id), stranger]);
        let shown: Vec<_> = pools
            .iter()
            .map(|Pool { driver, id, seen, free }| {
                let PoolSnapshot { space, pool, size, used, reserved, .. } = seen;
                format!("{driver} {id:?} {space} {pool} {size} {used} {reserved} {free:?}")
            })
            .collect();
        let expected =
            [r#"acme "page 1" here 10.5.0.0/24 256 1 3 None"#, r#"acme "" here 10.6.0.0/24 256 0 0 None"#];
        assert_eq!(shown, expected);
        let held: Vec<_> =
            holders.iter().map(|(_, held)| format!("{} {}", held.address, held.holder)).collect();
        let web = format!("10.5.0.2 endpoint \"web\" ({})", endpoint(red.id).id.short());
        let expected =
            ["10.5.0.1 gateway", &web, "10.5.0.3 reservation \"mail\"", "10.5.0.9 auxiliary router"];
        assert_eq!(held, expected);
        let json = serde_json::to_value(&pools[0]).expect("JSON");
        assert_eq!(
            (&json["quarantined"], &json["free"]),
            (&serde_json::Value::Null, &serde_json::Value::Null)
        );
    }
}
