//! Published ports in records: those on the same addresses are one entry with three numbers for each, because every join
//! writes all of them.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::host_port::{HostPorts, PortRange, Published, PublishedPorts};
use crate::seldom::Seldom;
use crate::spec::Protocol;

/// Ports of one protocol on the same addresses: the host's first and last one, and where the first leads to.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    protocol: Protocol,
    addresses: Arc<[IpAddr]>,
    ports: Vec<[u16; 3]>,
}

/// An entry; earlier engines wrote each with its addresses.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Group(Group),
    One(PublishedPorts),
}

impl Group {
    fn takes(&mut self, PublishedPorts { host, port }: &PublishedPorts) -> bool {
        let fits = self.protocol == host.protocol && self.addresses == host.addresses;
        if fits {
            self.ports.push([host.range.first, host.range.last, *port]);
        }
        fits
    }

    fn into_ports(self) -> impl Iterator<Item = PublishedPorts> {
        let Self { protocol, addresses, ports } = self;
        ports.into_iter().map(move |[first, last, port]| PublishedPorts {
            host: HostPorts { protocol, addresses: addresses.clone(), range: PortRange { first, last } },
            port,
        })
    }
}

pub(super) fn serialize<S: Serializer>(
    published: &Seldom<Published>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut groups: Vec<Group> = Vec::new();
    for one in &published.0 {
        if !groups.last_mut().is_some_and(|group| group.takes(one)) {
            let HostPorts { protocol, addresses, .. } = &one.host;
            let mut group = Group { protocol: *protocol, addresses: addresses.clone(), ports: Vec::new() };
            group.takes(one);
            groups.push(group);
        }
    }
    groups.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Seldom<Published>, D::Error> {
    let mut all = Vec::new();
    for entry in Vec::<Entry>::deserialize(deserializer)? {
        match entry {
            Entry::Group(group) => all.extend(group.into_ports()),
            Entry::One(one) => all.push(one),
        }
    }
    Ok(Published(all).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::EndpointRecord;
    use crate::spec::EndpointSpec;

    fn published(addresses: &[&str], protocol: Protocol, first: u16, last: u16, port: u16) -> PublishedPorts {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        PublishedPorts { host: HostPorts { protocol, addresses, range: PortRange { first, last } }, port }
    }

    fn record(all: Vec<PublishedPorts>) -> EndpointRecord {
        let (id, network) = ("e".repeat(64), "n".repeat(64));
        let (id, network) = (id.parse().expect("an id"), network.parse().expect("an id"));
        let spec = EndpointSpec::new("web");
        EndpointRecord { published: Published(all).into(), ..EndpointRecord::asked(id, network, spec) }
    }

    #[test]
    fn ports_on_the_same_addresses_are_one_entry_and_come_back_in_their_order() {
        let every = ["0.0.0.0", "::"];
        let all = record(vec![
            published(&every, Protocol::Tcp, 8_080, 8_080, 80),
            published(&every, Protocol::Tcp, 443, 443, 8_443),
            published(&every, Protocol::Udp, 53, 53, 53),
            published(&["192.0.2.1"], Protocol::Udp, 54, 54, 54),
            published(&every, Protocol::Tcp, 7_000, 7_999, 7_000),
        ]);
        let json = serde_json::to_string(&all).expect("written");
        let first =
            r#"{"protocol":"tcp","addresses":["0.0.0.0","::"],"ports":[[8080,8080,80],[443,443,8443]]}"#;
        assert!(json.contains(first), "{json}");
        assert_eq!(json.matches("addresses").count(), 4, "{json}");
        assert_eq!(serde_json::from_str::<EndpointRecord>(&json).expect("read"), all);
    }

    #[test]
    fn what_was_written_before_is_read() {
        let one = published(&["0.0.0.0", "::"], Protocol::Tcp, 8_080, 8_081, 80);
        let before = serde_json::to_string(&vec![&one]).expect("written");
        let json = serde_json::to_string(&record(vec![one.clone()])).expect("written");
        let start = json.find(r#"[{"protocol":"tcp","addresses""#).expect("it is there");
        let end = start + json[start..].find("]]}]").expect("it ends") + 4;
        let json = format!("{}{before}{}", &json[..start], &json[end..]);
        assert_eq!(serde_json::from_str::<EndpointRecord>(&json).expect("read"), record(vec![one]));
    }
}
