//! What both references have in common: what endpoints are called, what they ask for, and whether holders agree.

use std::net::IpAddr;

use netloom_ipam::{Change, Lease, LeaseRequest};
use netloom_model::snapshot::Holders;
use netloom_model::{EndpointId, NetworkId};

/// Several endpoints have one name, one after the other or at once.
pub(crate) fn name(owner: u64) -> String {
    format!("e{}", owner % 10)
}

/// A request for these addresses, of each family at most one.
pub(crate) fn asks(owner: EndpointId, name: String, wanted: [Option<IpAddr>; 2]) -> LeaseRequest {
    let mut request = LeaseRequest { owner, name, ipv4: None, ipv6: None };
    for address in wanted.into_iter().flatten() {
        match address {
            IpAddr::V4(ip) => request.ipv4 = Some(ip),
            IpAddr::V6(ip) => request.ipv6 = Some(ip),
        }
    }
    request
}

/// What a log says of a lease.
pub(crate) fn leased(network: NetworkId, request: LeaseRequest, lease: &Lease) -> Change {
    let LeaseRequest { owner: endpoint, name, .. } = request;
    Change::Leased { network, endpoint, name, host: None, ipv4: lease.ipv4, ipv6: lease.ipv6 }
}

/// Every address has one holder, and the same one in both; of a holder the reference knows a part of the text.
#[track_caller]
pub(crate) fn same_holders(network: usize, held: Holders, expected: &[(IpAddr, String)]) {
    assert_eq!(held.more, 0);
    let held: Vec<_> = held.holders.into_iter().map(|held| (held.address, held.holder)).collect();
    let part = |(held, expected): (&(IpAddr, String), &(IpAddr, String))| {
        held.0 == expected.0 && held.1.contains(expected.1.as_str())
    };
    let same = held.len() == expected.len() && held.iter().zip(expected).all(part);
    assert!(same, "n{network}: held: {held:#?}\nexpected: {expected:#?}");
}
