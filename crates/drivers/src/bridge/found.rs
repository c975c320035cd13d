//! What had the name of a network's bridge before the network: kept with the network's record, so that its
//! deletion leaves somebody else's bridge as it was, also after a restart.

use std::collections::BTreeMap;

use ipnet::IpNet;

/// Whether an adopted bridge was up.
const STATE: &str = "bridge.state";
/// What an adopted bridge's `disable_ipv6` said, where the network needs IPv6.
const DISABLE_IPV6: &str = "bridge.disable_ipv6";
/// What its `route_localnet` said, where ports of the host's loopback are to lead to the network.
const ROUTE_LOCALNET: &str = "bridge.route_localnet";
/// The addresses of an adopted bridge.
const ADDRESSES: &str = "bridge.addresses";

/// What was there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Found {
    /// Somebody else's bridge; `None` when there was none.
    pub(super) bridge: Option<Before>,
}

/// How that bridge was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Before {
    pub(super) up: bool,
    pub(super) addresses: Vec<IpNet>,
    /// What `disable_ipv6` said.
    pub(super) disable_ipv6: Option<String>,
    /// What `route_localnet` said.
    pub(super) route_localnet: Option<String>,
}

impl Found {
    /// As it is recorded.
    pub(super) fn record(&self) -> BTreeMap<String, String> {
        let Some(Before { up, addresses, disable_ipv6, route_localnet }) = &self.bridge else {
            return BTreeMap::new();
        };
        let addresses: Vec<_> = addresses.iter().map(IpNet::to_string).collect();
        let state = if *up { "up" } else { "down" };
        let fixed = [(STATE.into(), state.into()), (ADDRESSES.into(), addresses.join(","))];
        let settings = [(DISABLE_IPV6, disable_ipv6), (ROUTE_LOCALNET, route_localnet)];
        let settings = settings.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        fixed.into_iter().chain(settings).collect()
    }

    /// Reads a record; one of an earlier build says nothing.
    pub(super) fn read(record: &BTreeMap<String, String>) -> Self {
        let bridge = record.get(STATE).map(|state| Before {
            up: state == "up",
            addresses: record
                .get(ADDRESSES)
                .map(|text| text.split(',').filter_map(|address| address.parse().ok()).collect())
                .unwrap_or_default(),
            disable_ipv6: record.get(DISABLE_IPV6).cloned(),
            route_localnet: record.get(ROUTE_LOCALNET).cloned(),
        });
        Self { bridge }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_survives_its_record() {
        let addresses: Vec<IpNet> =
            vec!["192.0.2.1/24".parse().expect("a net"), "fe80::1/64".parse().expect("a net")];
        for addresses in [addresses, Vec::new()] {
            for up in [true, false] {
                let disable_ipv6 = up.then(|| "1".to_owned());
                let route_localnet = (!up).then(|| "0".to_owned());
                let addresses = addresses.clone();
                let before = Before { up, addresses, disable_ipv6, route_localnet };
                let found = Found { bridge: Some(before) };
                assert_eq!(Found::read(&found.record()), found);
            }
        }
        assert_eq!(Found::read(&Found::default().record()), Found::default());
    }
}
