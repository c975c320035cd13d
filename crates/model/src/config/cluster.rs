//! Clusters: how nodes find each other, and where the stores of each scope are.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::MAX_TIMEOUT;
use crate::error::{Error, Result};

/// The stores that libnetwork knows (its libkv backends).
const PROVIDERS: [&str; 4] = ["boltdb", "consul", "etcd", "zk"];

/// How far networks and their records reach.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One host.
    Local,
    /// The whole cluster: node discovery and table events arrive, state lives in the cluster store.
    Global,
}

impl Scope {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Global => "global",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Local, Self::Global]
            .into_iter()
            .find(|scope| scope.as_str() == name)
            .ok_or_else(|| Error::invalid("scopes", name, "there are the scopes local and global"))
    }
}

/// How the nodes of a cluster find each other. Recorded and checked; discovery does not act on it yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Where nodes are listed, such as `etcd://10.0.0.1:2379/nodes`. Without a scheme it is the list itself.
    pub discovery: Option<String>,
    /// Under which address the others reach this node: a host, or `host:port`.
    pub address: Option<String>,
    /// How often this node says that it is there, at most one day.
    pub heartbeat: Duration,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self { discovery: None, address: None, heartbeat: Duration::from_secs(10) }
    }
}

/// A scope of networks.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScopeConfig {
    /// How its store is reached.
    pub client: ClientConfig,
}

/// How a store is reached.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// The kind of store: `boltdb`, `consul`, `etcd` or `zk`.
    pub provider: String,
    /// Its address, `host1:port,host2:port/path`, or the file of a boltdb.
    pub address: String,
    /// Options for the client, handed on as they are. Files of TLS are `kv.cacertfile`, `kv.certfile` and
    /// `kv.keyfile`.
    pub config: BTreeMap<String, String>,
}

impl ScopeConfig {
    /// Whether it names a store: both provider and address are there.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let ClientConfig { provider, address, .. } = &self.client;
        !provider.trim().is_empty() && !address.trim().is_empty()
    }

    /// A scope that names nothing, which is as good as none.
    fn is_blank(&self) -> bool {
        let ClientConfig { provider, address, config } = &self.client;
        provider.trim().is_empty() && address.trim().is_empty() && config.is_empty()
    }

    /// Which store it names, in words.
    pub(super) fn store(&self) -> String {
        format!("{} at {}", self.client.provider.trim(), self.client.address.trim())
    }

    pub(super) fn trim(&mut self) {
        for text in [&mut self.client.provider, &mut self.client.address] {
            *text = text.trim().to_owned();
        }
    }

    pub(super) fn validate(&self, name: &str) -> Result<()> {
        let _: Scope = name.parse()?;
        if self.is_blank() {
            return Ok(());
        }
        let ClientConfig { provider, address, .. } = &self.client;
        for (key, text) in [("provider", provider), ("address", address)] {
            if text.trim().is_empty() {
                let why = "a store needs both a provider and an address";
                return Err(Error::invalid(format!("scopes.{name}.client.{key}"), text, why));
            }
        }
        if !PROVIDERS.contains(&provider.trim()) {
            let why = format!("expected one of {}", PROVIDERS.join(", "));
            return Err(Error::invalid(format!("scopes.{name}.client.provider"), provider, why));
        }
        Ok(())
    }
}

/// The store of a scope, as drivers are told of it (libnetwork's `DatastoreConfigData`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatastoreConfig {
    /// The scope it serves.
    pub scope: Scope,
    /// The kind of store, such as `etcd`.
    pub provider: String,
    /// Its address.
    pub address: String,
    /// Options for the client.
    pub config: BTreeMap<String, String>,
}

impl DatastoreConfig {
    /// The store that a scope names, if it names one.
    pub(super) fn of(name: &str, config: &ScopeConfig) -> Option<Self> {
        let scope = name.parse().ok()?;
        let ClientConfig { provider, address, config: options } = &config.client;
        config.is_valid().then(|| Self {
            scope,
            provider: provider.trim().to_owned(),
            address: address.trim().to_owned(),
            config: options.clone(),
        })
    }
}

impl ClusterConfig {
    pub(super) fn trim(&mut self) {
        super::trim(&mut self.discovery);
        super::trim(&mut self.address);
    }

    pub(super) fn validate(&self) -> Result<()> {
        if let Some(discovery) = &self.discovery {
            let (scheme, rest) = discovery.split_once("://").unwrap_or(("nodes", discovery));
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
            let named = scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(allowed);
            if !named || rest.is_empty() || discovery.contains(char::is_whitespace) {
                let why = "expected scheme://where, such as etcd://10.0.0.1:2379/nodes, or a list of nodes";
                return Err(Error::invalid("cluster.discovery", discovery, why));
            }
        }
        if let Some(address) = &self.address
            && !is_address(address)
        {
            return Err(Error::invalid("cluster.address", address, "expected a host, or host:port"));
        }
        let heartbeat = self.heartbeat;
        if heartbeat.is_zero() || heartbeat > MAX_TIMEOUT {
            let why = "must be longer than zero and at most one day";
            return Err(Error::invalid("cluster.heartbeat", format!("{heartbeat:?}"), why));
        }
        Ok(())
    }
}

/// Whether a text is a host's name or address, with or without a port.
fn is_address(text: &str) -> bool {
    let is_host = |host: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        !host.is_empty() && host.chars().all(allowed)
    };
    if text.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    if text.starts_with('[') {
        return text.parse::<std::net::SocketAddrV6>().is_ok_and(|address| address.port() > 0);
    }
    match text.split_once(':') {
        None => is_host(text),
        Some((host, port)) => is_host(host) && port.parse().is_ok_and(|port: u16| port > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(provider: &str, address: &str) -> ScopeConfig {
        let client =
            ClientConfig { provider: provider.into(), address: address.into(), config: BTreeMap::new() };
        ScopeConfig { client }
    }

    #[test]
    fn a_scope_is_valid_with_provider_and_address() {
        for (provider, address, valid) in
            [("etcd", "a:1", true), (" etcd ", " a:1", true), ("", "a:1", false), ("etcd", " \t", false)]
        {
            assert_eq!(scope(provider, address).is_valid(), valid, "{provider:?} {address:?}");
        }
        let store = DatastoreConfig::of("global", &scope(" etcd ", " a:1")).expect("valid");
        assert_eq!((&*store.provider, &*store.address, store.scope), ("etcd", "a:1", Scope::Global));
        assert_eq!(DatastoreConfig::of("global", &scope("etcd", "")), None);
    }

    #[test]
    fn what_would_be_ignored_of_a_scope_is_refused_by_name() {
        scope("", " ").validate("local").expect("as good as none");
        let mut options_only = scope("", "");
        options_only.client.config.insert("kv.certfile".into(), "/c".into());
        for (name, config, named) in [
            ("swarm", scope("etcd", "a:1"), "swarm"),
            ("Global", scope("etcd", "a:1"), "Global"),
            ("global", scope("etcd", ""), "scopes.global.client.address"),
            ("global", scope("", "a:1"), "scopes.global.client.provider"),
            ("global", scope("ectd", "a:1"), "boltdb, consul, etcd, zk"),
            ("local", options_only, "scopes.local.client.provider"),
        ] {
            let error = config.validate(name).expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_cluster_is_checked() {
        let cluster = |discovery: &str, address: &str| ClusterConfig {
            discovery: (!discovery.is_empty()).then(|| discovery.into()),
            address: (!address.is_empty()).then(|| address.into()),
            ..ClusterConfig::default()
        };
        for (discovery, address) in [
            ("", ""),
            ("consul://localhost:8500/path", "10.0.0.7"),
            ("token://abc", "node-1.example:7946"),
            ("10.0.0.1,10.0.0.2", "fd00::7"),
            ("", "[fd00::7]:7946"),
            ("", "eth0:2376"),
        ] {
            cluster(discovery, address).validate().expect(address);
        }
        for (discovery, address, key) in [
            ("://x", "", "cluster.discovery"),
            ("etcd://", "", "cluster.discovery"),
            ("etcd://a b", "", "cluster.discovery"),
            ("", "Cluster-wide reachable Host IP", "cluster.address"),
            ("", "host:", "cluster.address"),
            ("", "host:0", "cluster.address"),
            ("", "host:70000", "cluster.address"),
            ("", ":7946", "cluster.address"),
        ] {
            let error = cluster(discovery, address).validate().expect_err(key).to_string();
            assert!(error.contains(key), "{error}");
        }
        let mut slow = cluster("", "");
        slow.heartbeat = Duration::ZERO;
        assert!(slow.validate().expect_err("zero").to_string().contains("cluster.heartbeat"));
    }
}
