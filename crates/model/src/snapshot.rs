//! What callers see: immutable pictures of objects, taken by their owners.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::id::{EndpointId, NetworkId, OpId, SandboxId};
use crate::ifname::IfName;
use crate::mac::MacAddr;
use crate::record::PoolRecord;

/// What a network is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkPhase {
    /// Being created; not usable yet.
    Creating,
    /// In service.
    Active,
    /// Being deleted.
    Deleting,
    /// Out of service after repeated failures.
    Failed,
}

/// What an endpoint is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointPhase {
    /// Being created.
    Creating,
    /// Exists and is in no sandbox.
    Idle,
    /// Joining a sandbox.
    Joining,
    /// In a sandbox.
    Joined,
    /// Leaving its sandbox.
    Leaving,
    /// Being deleted.
    Deleting,
}

/// What a sandbox is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxPhase {
    /// Being created.
    Creating,
    /// In service.
    Ready,
    /// Being deleted.
    Deleting,
    /// Out of service after repeated failures.
    Failed,
}

/// A network at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NetworkSnapshot {
    /// Its identifier.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// What it is doing.
    pub phase: NetworkPhase,
    /// Why it is out of service, where it is.
    pub failure: Option<String>,
    /// Whether endpoints get an IPv6 address.
    pub ipv6: bool,
    /// Whether it is cut off from the outside.
    pub internal: bool,
    /// Labels of the caller.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// IPv4 pools.
    pub v4: Vec<PoolRecord>,
    /// IPv6 pools.
    pub v6: Vec<PoolRecord>,
    /// Its endpoints, by name.
    pub endpoints: Vec<EndpointSnapshot>,
}

/// An endpoint at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EndpointSnapshot {
    /// Its identifier.
    pub id: EndpointId,
    /// Its name.
    pub name: String,
    /// The network it belongs to.
    pub network: NetworkId,
    /// What it is doing.
    pub phase: EndpointPhase,
    /// Its hardware address.
    pub mac: Option<MacAddr>,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Net>,
    /// The sandbox it is in.
    pub sandbox: Option<SandboxId>,
    /// The interface's name in that sandbox.
    pub ifname: Option<IfName>,
    /// Labels of the caller.
    pub labels: BTreeMap<String, String>,
}

/// A sandbox at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SandboxSnapshot {
    /// Its identifier.
    pub id: SandboxId,
    /// The container it is for.
    pub container_id: String,
    /// What it is doing.
    pub phase: SandboxPhase,
    /// Why it is out of service, where it is.
    pub failure: Option<String>,
    /// Where its namespace is mounted (libnetwork's `Key`).
    pub key: PathBuf,
    /// The endpoints in it, best gateway first.
    pub endpoints: Vec<SandboxEndpoint>,
    /// The IPv4 default gateway it uses.
    pub gateway: Option<IpAddr>,
    /// The IPv6 default gateway it uses.
    pub gateway6: Option<IpAddr>,
    /// Labels of the caller.
    pub labels: BTreeMap<String, String>,
}

/// One endpoint in a sandbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SandboxEndpoint {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its network.
    pub network: NetworkId,
    /// The interface's name.
    pub ifname: IfName,
    /// The priority in the gateway election.
    pub priority: i32,
}

/// An operation that has not ended yet.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OperationSnapshot {
    /// Its identifier.
    pub id: OpId,
    /// What it does, such as `join_sandbox`.
    pub verb: String,
    /// The object it does it to.
    pub object: String,
    /// The step it is at.
    pub step: String,
    /// How long it has been running.
    pub running_for: Duration,
}

/// The whole engine at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EngineSnapshot {
    /// Every network with its endpoints.
    pub networks: Vec<NetworkSnapshot>,
    /// Every sandbox.
    pub sandboxes: Vec<SandboxSnapshot>,
    /// Operations in flight.
    pub operations: Vec<OperationSnapshot>,
    /// What could not be undone and is being retried.
    pub leaks: Vec<String>,
    /// Kernel clean-up running behind the callers' backs.
    pub reaping: usize,
}
