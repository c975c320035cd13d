//! What the store keeps: one record per object. Everything else is derived from these.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::id::{EndpointId, JoinId, NetworkId, SandboxId};
use crate::ifname::{IfName, NetnsName};
use crate::mac::MacAddr;
use crate::spec::NetworkSpec;

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
}

impl PoolRecord {
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
    /// What its driver found before it changed anything, in the driver's own words: its deletion puts that
    /// back, also after a crash.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub found: BTreeMap<String, String>,
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
    pub mac: Option<MacAddr>,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Net>,
    /// Labels of the caller.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// What its interface's name begins with inside a sandbox; `None` for an endpoint without interface.
    #[serde(default)]
    pub prefix: Option<String>,
    /// The sandbox it is joined to.
    pub attachment: Option<AttachmentRecord>,
}

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
    pub link: Option<IfName>,
    /// The IPv4 gateway it offers the sandbox.
    pub gateway: Option<IpAddr>,
    /// The IPv6 gateway it offers the sandbox.
    pub gateway6: Option<IpAddr>,
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
    /// What the caller asked for.
    pub spec: crate::spec::SandboxSpec,
}
