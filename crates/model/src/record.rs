//! What the store keeps: one record per object. Everything else is derived from these.

mod published;
mod rows;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::considered::PassedOver;
use crate::host_port::Published;
use crate::id::{EndpointId, JoinId, NetworkId, SandboxId};
use crate::ifname::{IfName, NetnsName};
use crate::mac::MacAddr;
use crate::seldom::Seldom;
use crate::spec::{EndpointSpec, Names, NamespaceSpec, NetworkSpec, Ports, SandboxSpec, is_false};

/// One pool of a network as it was allocated (libnetwork's `IpamInfo`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolRecord {
    /// The subnet.
    pub pool: IpNet,
    /// The part of it from which addresses are chosen.
    pub range: Option<IpNet>,
    /// The gateway's address.
    pub gateway: Option<IpAddr>,
    /// Reserved addresses by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// What the IPAM driver calls it (`PoolID`). Blank for pools of the driver `default`, which needs no such name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// What the IPAM driver told with it (`Meta`), by its keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
}

impl PoolRecord {
    /// A pool of which no more than the subnet is known.
    #[must_use]
    pub fn new(pool: IpNet) -> Self {
        let (auxiliary, meta) = (BTreeMap::new(), BTreeMap::new());
        Self { pool, range: None, gateway: None, auxiliary, id: String::new(), meta }
    }

    /// Whether it stands for "no pool": an IPAM driver that chooses no addresses answers with the whole space, as
    /// libnetwork's `null` does with `0.0.0.0/0`.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.pool.prefix_len() == 0
    }

    /// The gateway with the prefix length of the pool.
    #[must_use]
    pub fn gateway_net(&self) -> Option<IpNet> {
        self.gateway.and_then(|gateway| IpNet::new(gateway, self.pool.prefix_len()).ok())
    }
}

/// A network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Its identifier.
    pub id: NetworkId,
    /// What the caller asked for.
    pub spec: NetworkSpec,
    /// Its IPv4 pools.
    pub v4: Vec<PoolRecord>,
    /// Its IPv6 pools.
    pub v6: Vec<PoolRecord>,
    /// Whether its pools are in the address space of the cluster, be it that the caller asked for that or that its driver
    /// reaches over hosts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_cluster: bool,
    /// What its driver found before it changed anything, in the driver's own words: its deletion puts that
    /// back, also after a crash.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub found: BTreeMap<String, String>,
    /// The addresses that are kept for endpoints of a name, by that name. Each is recorded apart, as a
    /// [`ReservationRecord`]; those of earlier engines are in the record itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reservations: BTreeMap<String, Reservation>,
    /// The default pools that were passed over for it because of the host.
    #[serde(default, skip_serializing_if = "PassedOver::is_empty")]
    pub passed_over: PassedOver,
    /// Where the choice of addresses goes on in its pools: an address of each at most. It is recorded apart, as an
    /// [`OrderRecord`], because it changes with the endpoints.
    #[serde(skip)]
    pub order: Vec<IpAddr>,
}

/// How far the choice of addresses may have come in the pools of a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OrderRecord {
    /// The network.
    pub network: NetworkId,
    /// Where choice goes on after a start: an address of each pool at most.
    pub next: Vec<IpAddr>,
}

/// What is kept for a name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReservationRecord {
    /// The network.
    pub network: NetworkId,
    /// The name.
    pub name: String,
    /// The addresses.
    pub kept: Reservation,
}

impl NetworkRecord {
    /// One that is asked for: its pools are chosen later.
    #[must_use]
    pub fn asked(id: NetworkId, spec: NetworkSpec) -> Self {
        let (v4, v6, order) = (Vec::new(), Vec::new(), Vec::new());
        let (found, reservations, passed_over) = (BTreeMap::new(), BTreeMap::new(), PassedOver::default());
        Self { id, spec, v4, v6, in_cluster: false, found, reservations, passed_over, order }
    }
}

/// Addresses of a network that are kept for endpoints of a name, whether there is one or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Reservation {
    /// The IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
}

impl Reservation {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }
}

/// An endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// Its identifier.
    pub id: EndpointId,
    /// The network it belongs to.
    pub network: NetworkId,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Its IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "quick::net")]
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Net>,
    /// Labels of the caller.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Its ports.
    #[serde(default, skip_serializing_if = "Seldom::is_nothing", with = "rows")]
    pub ports: Seldom<Ports>,
    /// Its names beside its own.
    #[serde(default, skip_serializing_if = "Seldom::is_nothing")]
    pub names: Seldom<Names>,
    /// The host's ports that lead to it, or led to it last: it gets the same ones again after a crash.
    #[serde(default, skip_serializing_if = "Seldom::is_nothing", with = "published")]
    pub published: Seldom<Published>,
    /// What its interface's name begins with inside a sandbox; `None` for an endpoint without interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The sandbox it is joined to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachment: Option<AttachmentRecord>,
}

impl EndpointRecord {
    /// One that is asked for: its addresses are chosen later.
    #[must_use]
    pub fn asked(id: EndpointId, network: NetworkId, spec: EndpointSpec) -> Self {
        let EndpointSpec { name, mac, labels, options, ports, names, ipv4: _, ipv6: _ } = spec;
        let (ipv4, ipv6, prefix, attachment, published) = (None, None, None, None, Seldom::default());
        Self {
            id,
            network,
            name,
            mac,
            ipv4,
            ipv6,
            labels,
            options,
            ports,
            names,
            published,
            prefix,
            attachment,
        }
    }

    /// Its place in a sandbox, unless that waits for its namespace still.
    #[must_use]
    pub fn plugged(&self) -> Option<&AttachmentRecord> {
        self.attachment.as_ref().filter(|attachment| !attachment.reserved)
    }
}

/// A route that a driver wants in a sandbox (libnetwork's `StaticRoute`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct StaticRoute {
    /// The destination.
    pub destination: IpNet,
    /// The next hop; `None` for a destination on the link itself (`CONNECTED`).
    pub via: Option<IpAddr>,
}

/// The label of an endpoint that is the way out of a sandbox whose others have none: that sandbox's identifier. Left
/// over, such an endpoint is told from those that somebody made.
pub const WAY_OUT_LABEL: &str = "netloom.way_out";

/// An endpoint's place in a sandbox.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AttachmentRecord {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The join that put it there.
    #[serde(default)]
    pub join: JoinId,
    /// The interface's name inside it.
    pub ifname: IfName,
    /// The priority in the gateway election.
    pub priority: i32,
    /// The host's end of the link, where the driver made one. A link with this endpoint's tag and another
    /// name is the remains of an earlier join.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<IfName>,
    /// The IPv4 gateway it offers the sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The IPv6 gateway it offers the sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<IpAddr>,
    /// Further routes that its driver wants there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<StaticRoute>,
    /// What it has to do with the sandbox's way out.
    #[serde(default, skip_serializing_if = "WayOut::is_usual")]
    pub way_out: WayOut,
    /// Whether the sandbox waits for its namespace, so that nothing is plugged in yet.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reserved: bool,
}

impl AttachmentRecord {
    /// The same place, kept while nothing is plugged in: what the link brought is gone.
    #[must_use]
    pub fn kept(self) -> Self {
        Self { link: None, gateway: None, gateway6: None, routes: Vec::new(), reserved: true, ..self }
    }
}

/// What an endpoint has to do with its sandbox's way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WayOut {
    /// The sandbox needs a way out for its sake, be it by its own gateway or by another's.
    #[default]
    Wanted,
    /// It asks for none: its network is internal or the host's, or its driver said so (`DisableGatewayService`).
    Unwanted,
    /// It is the way out of a sandbox whose other endpoints have none (libnetwork's `docker_gwbridge`).
    Provided,
}

impl WayOut {
    fn is_usual(&self) -> bool {
        matches!(self, Self::Wanted)
    }
}

/// A sandbox.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Its identifier.
    pub id: SandboxId,
    /// Its namespace.
    pub netns: NetnsName,
    /// The number of its next interface: none is used twice in its life.
    #[serde(default)]
    pub interfaces: u32,
    /// Whether the namespace of somebody else's that it waits for has been told.
    #[serde(default, skip_serializing_if = "is_false")]
    pub keyed: bool,
    /// What the caller asked for. Shared: a sandbox is given to each of its operations, which give it back changed.
    pub spec: Arc<SandboxSpec>,
}

impl SandboxRecord {
    /// A new one.
    #[must_use]
    pub fn new(id: SandboxId, netns: NetnsName, spec: SandboxSpec) -> Self {
        Self { id, netns, interfaces: 0, keyed: false, spec: spec.into() }
    }

    /// Whether it waits for the namespace that somebody else makes.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.spec.namespace == NamespaceSpec::External && !self.keyed
    }

    /// Whether a namespace is mounted for it.
    #[must_use]
    pub fn has_namespace(&self) -> bool {
        match self.spec.namespace {
            NamespaceSpec::Own => true,
            NamespaceSpec::Host => false,
            NamespaceSpec::External => self.keyed,
        }
    }
}

/// Text in every record of an endpoint, written without the general formatter, which takes six times as long.
mod quick {
    use ipnet::Ipv4Net;
    use serde::Serializer;

    #[expect(clippy::ref_option, reason = "what serde asks for")]
    pub(super) fn net<S: Serializer>(net: &Option<Ipv4Net>, serializer: S) -> Result<S::Ok, S::Error> {
        match net {
            Some(net) => serializer.serialize_str(&text(*net)),
            None => serializer.serialize_none(),
        }
    }

    fn text(net: Ipv4Net) -> String {
        let mut text = String::with_capacity("255.255.255.255/32".len());
        let mut put = |number: u8, behind: &str| {
            for unit in [100, 10, 1] {
                if number >= unit || unit == 1 {
                    text.push(char::from(b'0' + number / unit % 10));
                }
            }
            text.push_str(behind);
        };
        let [a, b, c, d] = net.addr().octets();
        put(a, ".");
        put(b, ".");
        put(c, ".");
        put(d, "/");
        put(net.prefix_len(), "");
        text
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn it_is_the_text_of_the_general_formatter() {
            for net in
                ["0.0.0.0/0", "10.0.9.10/8", "192.168.100.99/24", "255.255.255.255/32", "1.20.200.101/31"]
            {
                assert_eq!(text(net.parse().expect("a net")), net);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_left_out_and_was_written_before() {
        let (id, network) = ("e".repeat(64), "n".repeat(64));
        let spec = EndpointSpec::new("web");
        let asked = EndpointRecord::asked(id.parse().expect("an id"), network.parse().expect("an id"), spec);
        let record = EndpointRecord { ipv4: Some("10.0.0.2/24".parse().expect("a net")), ..asked };
        let json = serde_json::to_string(&record).expect("written");
        assert_eq!(
            json,
            format!(r#"{{"id":"{id}","network":"{network}","name":"web","ipv4":"10.0.0.2/24"}}"#)
        );
        assert_eq!(serde_json::from_str::<EndpointRecord>(&json).expect("read"), record);
        let before = json.replace('}', r#","mac":null,"ipv6":null,"prefix":null,"attachment":null}"#);
        assert_eq!(serde_json::from_str::<EndpointRecord>(&before).expect("read"), record);

        let mut record = NetworkRecord::asked(network.parse().expect("an id"), NetworkSpec::new("blue"));
        let before = serde_json::to_string(&record).expect("written");
        assert!(!before.contains("reservations"), "{before}");
        assert_eq!(serde_json::from_str::<NetworkRecord>(&before).expect("read"), record);
        let kept = Reservation { ipv4: Some([10, 0, 0, 9].into()), ipv6: None };
        record.reservations.insert("db".into(), kept);
        let json = serde_json::to_string(&record).expect("written");
        assert!(json.contains(r#""reservations":{"db":{"ipv4":"10.0.0.9"}}"#), "{json}");
        assert_eq!(serde_json::from_str::<NetworkRecord>(&json).expect("read"), record);

        let record = SandboxRecord::new(
            id.parse().expect("an id"),
            "c".parse().expect("a name"),
            SandboxSpec::new("c"),
        );
        let json = serde_json::to_string(&record).expect("written");
        assert_eq!(serde_json::from_str::<SandboxRecord>(&json).expect("read"), record);
        let before = json.replace(r#""container_id":"c""#, r#""container_id":"c","hostname":"","labels":{}"#);
        assert_ne!(before, json);
        assert_eq!(serde_json::from_str::<SandboxRecord>(&before).expect("read"), record);
    }
}
