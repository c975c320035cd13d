//! Endpoints whose addresses contradict the rest.

use super::*;

/// An endpoint, its address, and the sandbox and link of one that is joined.
type Addressed<'a> = (u8, &'a str, Option<(u8, &'a str)>);

/// A network with a /24 whose gateway and printer have addresses, and endpoints with these.
fn addressed(ipam: &str, endpoints: &[Addressed<'_>]) -> Case {
    let mut case = Case::default().network(1).sandbox(1).netns(1);
    let network = case.records.networks.get_mut(&network_id(1)).expect("made");
    network.spec.ipam.driver = ipam.to_owned();
    let mut pool = PoolRecord::new("10.1.0.0/24".parse().expect("a subnet"));
    pool.gateway = Some([10, 1, 0, 1].into());
    pool.auxiliary.insert("printer".into(), [10, 1, 0, 9].into());
    network.v4.push(pool);
    for (n, address, attachment) in endpoints {
        case = case.endpoint(*n, 1, *attachment).link(&format!("veth{n}"), None);
        let endpoint = case.records.endpoints.get_mut(&endpoint_id(*n)).expect("made");
        endpoint.ipv4 = Some(format!("{address}/24").parse().expect("an address"));
    }
    case
}

#[test]
fn an_endpoint_whose_address_cannot_be_its_own_is_left_out() {
    let inside = Some((1, "veth5"));
    let all = [
        (1, "10.1.0.2", None),
        (2, "10.1.0.1", None),
        (3, "10.1.0.9", None),
        (4, "10.9.0.4", None),
        (5, "10.1.0.2", inside),
        (6, "10.1.0.255", None),
        (7, "10.1.0.7", None),
    ];
    let plan = addressed("default", &all).plan();
    let left: Vec<_> = plan.records.endpoints.keys().copied().collect();
    assert_eq!(left, [endpoint_id(5), endpoint_id(7)], "whoever is in a sandbox keeps what two have");
    let gone = [1, 2, 3, 4, 6].map(|n| (RecordKind::Endpoint, endpoint_id(n).text().to_string()));
    assert_eq!(deleted(&plan).into_iter().collect::<BTreeSet<_>>(), gone.into());
    let why: Vec<_> = plan.repairs.iter().map(ToString::to_string).collect();
    for text in [
        "10.1.0.2 is that of endpoint \"endpoint 5\"",
        "10.1.0.1 is that of the gateway",
        "10.1.0.9 is that of auxiliary address \"printer\"",
        "10.9.0.4 lies in no pool of network \"network 1\"",
        "10.1.0.255 is one of pool 10.1.0.0/24 that nobody can have",
    ] {
        assert!(why.iter().any(|why| why.contains(text)), "{text}: {why:?}");
    }
    assert_eq!(plan.repairs.len(), 5, "{why:?}");
    assert!(plan.records.networks.contains_key(&network_id(1)));
    // Another driver says itself what can be had of its pools.
    let plan = addressed("acme", &[(6, "10.1.0.255", None)]).plan();
    assert!(is_empty(&plan), "{plan:?}");
}

#[test]
fn addresses_that_network_drivers_chose_are_nobodys_business() {
    let both = [(1, "10.1.0.2", None), (2, "10.1.0.2", None)];
    for whole in [true, false] {
        let mut case = addressed("null", &both);
        let network = case.records.networks.get_mut(&network_id(1)).expect("made");
        network.v4.clear();
        if whole {
            network.v4.push(PoolRecord::new("0.0.0.0/0".parse().expect("a subnet")));
        }
        let plan = case.plan();
        assert!(is_empty(&plan), "{plan:?}");
    }
}
