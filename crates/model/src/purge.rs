//! What was removed of a host that is gone for good.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::id::{EndpointId, NetworkId};

/// All that a host had in a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PurgedHost {
    /// The host.
    pub host: String,
    /// The engine that had its name and since when, in words, if one had.
    pub engine: Option<String>,
    /// Its networks, with everything in them.
    pub networks: Vec<PurgedNetwork>,
    /// The endpoints in those networks, and its endpoints in networks of other hosts.
    pub endpoints: Vec<PurgedEndpoint>,
}

/// A network whose pools are free.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PurgedNetwork {
    /// The network.
    pub network: NetworkId,
    /// Its name.
    pub name: String,
    /// Its pools.
    pub pools: Vec<IpNet>,
}

/// An endpoint whose addresses are free.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PurgedEndpoint {
    /// Its network.
    pub network: NetworkId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl PurgedHost {
    /// A host that had nothing.
    #[must_use]
    pub fn of(host: &str) -> Self {
        Self { host: host.to_owned(), ..Self::default() }
    }
}

impl fmt::Display for PurgedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, engine, networks, endpoints } = self;
        let (networks, endpoints) = (networks.len(), endpoints.len());
        write!(f, "host {host:?}: {networks} networks and {endpoints} endpoints removed")?;
        engine.iter().try_for_each(|engine| write!(f, "; its name was taken by {engine}"))
    }
}
