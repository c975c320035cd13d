//! The engine's configuration.

mod cluster;
mod file;
mod firewall;
mod reload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ObjectKind, Result, check_name};

pub use cluster::{ClientConfig, ClusterConfig, DatastoreConfig, Scope, ScopeConfig};
pub use file::{Ignored, parse};
pub use firewall::{FirewallBackend, FirewallConfig};

/// What labels begin with that are for the engine (libnetwork's `netlabel.Prefix`).
pub const LABEL_PREFIX: &str = "com.docker.network";

/// The largest bound on a queue: each holds what it may need, so a larger one is a slip, not a wish.
const MAX_LIMIT: usize = 1_048_576;

/// The longest bound on time: far above any use, and far below where adding it to a clock overflows.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Everything an engine needs to know before it starts.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Where the store lives. It is created when absent, with mode 0700.
    pub data_dir: PathBuf,
    /// Where network namespaces are mounted (`<run_dir>/netns/<short sandbox id>`), and where the hosts files and
    /// resolv.conf of sandboxes are (`<run_dir>/files/<sandbox id>`).
    pub run_dir: PathBuf,
    /// Marks every kernel object this engine makes, so that two engines on one host leave each other's
    /// objects alone. 1 to 16 characters of `[a-z0-9-]`.
    pub instance: String,
    /// Pools for networks that name no subnet, tried in this order. Blocks may overlap: what one has given out
    /// is not given again by another.
    /// For IPv6 see `host_ula`.
    pub default_pools: Vec<DefaultPool>,
    /// Whether IPv6 networks that name no subnet get pools from a prefix of this host (RFC 4193), where `default_pools`
    /// has blocks and none of them is IPv6. The host's is the same after restarts and the loss of all directories.
    pub host_ula: bool,
    /// The file that tells this host from others, in the form of `/etc/machine-id`: its prefix is drawn from that.
    /// Without it, from the identity that the engine drew at its first start.
    pub machine_id_file: PathBuf,
    /// The network that is the way out of sandboxes whose endpoints have none, and of its bridge. Made when the first
    /// of them needs it.
    pub gateway_network: String,
    /// Files in the form of resolv.conf that name the host's name servers: default pools keep away from those.
    /// Of a systemd-resolved, `/etc/resolv.conf` may name only its stub. A file that is not there names none.
    pub name_server_files: Vec<PathBuf>,
    /// The host's resolv.conf, from which those of sandboxes are made. While it names nothing but systemd-resolved's stub,
    /// what that asks is read instead. Sandboxes follow its changes.
    pub resolv_conf: PathBuf,
    /// The engine's part of the host's firewall.
    pub firewall: FirewallConfig,
    /// Bounds on queues.
    pub limits: Limits,
    /// Bounds on time.
    pub timeouts: Timeouts,
    /// Whether the program around the engine shall say more. The library sets no subscriber of its own.
    pub debug: bool,
    /// The name of the network that is used where none is named.
    pub default_network: Option<String>,
    /// The driver of a network whose spec names a blank one.
    pub default_driver: Option<String>,
    /// Labels for drivers; those that do not begin with [`LABEL_PREFIX`] are somebody else's and not kept. A driver
    /// gets those that begin with `com.docker.network.driver.<type>`.
    pub labels: BTreeMap<String, String>,
    /// Options of each driver type, handed to it when it is made (libnetwork's `DriverCfg`).
    pub drivers: BTreeMap<String, BTreeMap<String, String>>,
    /// How nodes find each other.
    pub cluster: ClusterConfig,
    /// The stores of the scopes `local` and `global`. They are what drivers are told of; the engine's own records
    /// are in `data_dir`.
    pub scopes: BTreeMap<String, ScopeConfig>,
}

/// A block cut into equal pools (docker's `default-address-pools`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DefaultPool {
    /// The block.
    pub base: IpNet,
    /// The prefix length of each pool cut from it.
    pub size: u8,
}

/// Bounds on queues, each 1 to 1,048,576. Excess is answered `Busy` at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Operations the engine admits at a time, over all objects: no more than it can carry out in the time that
    /// each may take. The kernel makes a few hundred links a second, and fewer the more there are.
    pub operations: usize,
    /// Operations that may be under way or wait on one object, so that one that is stuck leaves room for others.
    pub operations_per_object: usize,
    /// Events kept for a reader that does not keep up.
    pub event_backlog: usize,
}

/// Bounds on time, each at most one day.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// A whole operation, from the request to its answer.
    pub operation: Duration,
    /// A graceful shutdown.
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { operations: 2_048, operations_per_object: 1_024, event_backlog: 1_024 }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { operation: Duration::from_secs(30), shutdown: Duration::from_secs(30) }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/netloom".into(),
            run_dir: "/run/netloom".into(),
            instance: "netloom".into(),
            default_pools: default_pools(),
            host_ula: true,
            machine_id_file: "/etc/machine-id".into(),
            gateway_network: "docker_gwbridge".into(),
            name_server_files: vec!["/etc/resolv.conf".into(), "/run/systemd/resolve/resolv.conf".into()],
            resolv_conf: "/etc/resolv.conf".into(),
            firewall: FirewallConfig::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            debug: false,
            default_network: None,
            default_driver: None,
            labels: BTreeMap::new(),
            drivers: BTreeMap::new(),
            cluster: ClusterConfig::default(),
            scopes: BTreeMap::new(),
        }
    }
}

/// Trims a text; a blank one is none.
fn trim(text: &mut Option<String>) {
    *text = text.take().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
}

/// libnetwork's predefined local pools (`ipamutils`: 172.17/16 to 172.31/16 and sixteen /20 of
/// 192.168/16), then a /12 of /24 so that a thousand networks fit. Those for IPv6 are the host's.
fn default_pools() -> Vec<DefaultPool> {
    let block = |base: &str, size| base.parse().ok().map(|base| DefaultPool { base, size });
    let mut pools: Vec<_> = (17..32).filter_map(|i| block(&format!("172.{i}.0.0/16"), 16)).collect();
    pools.extend(block("192.168.0.0/16", 20));
    pools.extend(block("10.192.0.0/12", 24));
    pools
}

impl EngineConfig {
    /// Sets labels from texts `key=value`, split at the first `=`; those of others are left out (libnetwork's
    /// `OptionLabels`).
    #[must_use]
    pub fn with_labels<T: AsRef<str>>(mut self, texts: impl IntoIterator<Item = T>) -> Self {
        for text in texts {
            let (key, value) = text.as_ref().split_once('=').unwrap_or((text.as_ref(), ""));
            self.labels.insert(key.to_owned(), value.to_owned());
        }
        self.normalized()
    }

    /// The same configuration as the engine uses it: names are trimmed and blank ones are none, and labels of others
    /// are left out.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        trim(&mut self.default_network);
        trim(&mut self.default_driver);
        self.labels.retain(|key, _| key.starts_with(LABEL_PREFIX));
        self.cluster.trim();
        self.scopes.values_mut().for_each(ScopeConfig::trim);
        self
    }

    /// The default pools in force on a host whose own IPv6 pools are these.
    ///
    /// An empty list stands for none at all, and with `host_ula` off a list without IPv6 means what it says.
    #[must_use]
    pub fn default_pools_on(&self, host: DefaultPool) -> Vec<DefaultPool> {
        let mut pools = self.default_pools.clone();
        let names_ipv6 = pools.iter().any(|pool| matches!(pool.base, IpNet::V6(_)));
        if self.host_ula && !pools.is_empty() && !names_ipv6 {
            pools.push(host);
        }
        pools
    }

    /// The stores that the scopes name.
    pub fn datastores(&self) -> impl Iterator<Item = DatastoreConfig> {
        self.scopes.iter().filter_map(|(name, scope)| DatastoreConfig::of(name, scope))
    }

    /// The store of the cluster: that of the first scope beyond this host which names one.
    #[must_use]
    pub fn cluster_store(&self) -> Option<DatastoreConfig> {
        self.datastores().find(|store| store.scope != Scope::Local)
    }

    /// Checks the configuration before anything is touched.
    ///
    /// # Errors
    /// `InvalidParameter`, naming the key.
    pub fn validate(&self) -> Result<()> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.instance.is_empty() || self.instance.len() > 16 || !self.instance.bytes().all(allowed) {
            let why = "an instance name is 1 to 16 characters of a-z 0-9 -";
            return Err(Error::invalid("instance", &self.instance, why));
        }
        if self.gateway_network.parse::<crate::IfName>().is_err() {
            let why =
                "it names a bridge too, so it has 1 to 15 printable characters without '/', ':' and '%'";
            return Err(Error::invalid("gateway_network", &self.gateway_network, why));
        }
        let files = self.name_server_files.iter().map(|file| ("name_server_files", file));
        let own = [
            ("data_dir", &self.data_dir),
            ("run_dir", &self.run_dir),
            ("machine_id_file", &self.machine_id_file),
            ("resolv_conf", &self.resolv_conf),
        ];
        for (key, path) in own.into_iter().chain(files) {
            if !path.is_absolute() {
                return Err(Error::invalid(key, path.display(), "an absolute path is needed"));
            }
        }
        check_default_pools("default_pools", &self.default_pools)?;
        let Limits { operations, operations_per_object, event_backlog } = self.limits;
        for (key, value) in [
            ("limits.operations", operations),
            ("limits.operations_per_object", operations_per_object),
            ("limits.event_backlog", event_backlog),
        ] {
            if value == 0 {
                return Err(Error::invalid(key, value, "must be at least 1"));
            }
            if value > MAX_LIMIT {
                return Err(Error::invalid(key, value, format!("must be at most {MAX_LIMIT}")));
            }
        }
        let Timeouts { operation, shutdown } = self.timeouts;
        for (key, value) in [("timeouts.operation", operation), ("timeouts.shutdown", shutdown)] {
            if value.is_zero() {
                return Err(Error::invalid(key, format!("{value:?}"), "must be longer than zero"));
            }
            if value > MAX_TIMEOUT {
                return Err(Error::invalid(key, format!("{value:?}"), "must be at most one day"));
            }
        }
        let names = [
            ("default_network", ObjectKind::Network, &self.default_network),
            ("default_driver", ObjectKind::Driver, &self.default_driver),
        ];
        for (key, object, name) in names {
            if let Some(name) = name
                && let Err(error) = check_name(object, name)
            {
                return Err(Error::invalid(key, name, error.to_string()));
            }
        }
        for kind in self.drivers.keys() {
            if let Err(error) = check_name(ObjectKind::Driver, kind) {
                return Err(Error::invalid("drivers", kind, error.to_string()));
            }
        }
        self.cluster.validate()?;
        self.scopes.iter().try_for_each(|(name, scope)| scope.validate(name))
    }
}

/// Whether default pools make sense, of either family. `key` is what they are called.
///
/// # Errors
/// `InvalidParameter`, naming the first that does not.
pub fn check_default_pools(key: &str, pools: &[DefaultPool]) -> Result<()> {
    for (at, &DefaultPool { base, size }) in pools.iter().enumerate() {
        if base.addr() != base.network() || size < base.prefix_len() || size > base.max_prefix_len() - 2 {
            let why = "base must be a subnet and size a longer prefix that leaves room for hosts";
            return Err(Error::invalid(key, format!("{base} size {size}"), why));
        }
        // As for a subnet that is given: the pools cut from it would be refused one by one, at each use.
        if let Some(why) = crate::reserved::within(base) {
            return Err(Error::invalid(key, format!("{base} size {size}"), why));
        }
        // What both have would be counted twice.
        let overlaps = |other: &&DefaultPool| other.base.contains(&base) || base.contains(&other.base);
        if let Some(other) = pools[..at].iter().find(overlaps) {
            let why = format!("it overlaps {} size {}, which is listed before it", other.base, other.size);
            return Err(Error::invalid(key, format!("{base} size {size}"), why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_hold_a_thousand_networks() {
        let config = EngineConfig::default();
        config.validate().expect("valid");
        let v4 = config.default_pools.iter().filter(|pool| matches!(pool.base, IpNet::V4(_)));
        let pools: u64 = v4.map(|pool| 1u64 << (pool.size - pool.base.prefix_len())).sum();
        assert!(pools >= 1000, "{pools}");
    }

    #[test]
    fn default_pools_that_overlap_are_refused_and_both_are_named() {
        let pool = |base: &str, size| DefaultPool { base: base.parse().expect("a subnet"), size };
        let first = pool("10.0.0.0/8", 24);
        for second in [first, pool("10.0.0.0/8", 16), pool("10.9.0.0/16", 24), pool("8.0.0.0/5", 24)] {
            let pools = [pool("192.168.0.0/16", 24), first, pool("fd00::/40", 64), second];
            let error = check_default_pools("default_pools", &pools).expect_err("overlaps").to_string();
            assert!(error.contains("10.0.0.0/8 size 24"), "{error}");
            assert!(error.contains(&format!("{} size {}", second.base, second.size)), "{error}");
        }
        let apart = [pool("10.0.0.0/9", 24), pool("10.128.0.0/9", 24), pool("fd00::/40", 64)];
        check_default_pools("default_pools", &apart).expect("apart");
    }

    #[test]
    fn broken_configurations_are_refused() {
        let bad = [
            EngineConfig { instance: "UPPER".into(), ..Default::default() },
            EngineConfig { data_dir: "relative".into(), ..Default::default() },
            EngineConfig { name_server_files: vec!["resolv.conf".into()], ..Default::default() },
            EngineConfig { machine_id_file: "machine-id".into(), ..Default::default() },
            EngineConfig { resolv_conf: "resolv.conf".into(), ..Default::default() },
            EngineConfig { limits: Limits { operations: 0, ..Default::default() }, ..Default::default() },
            EngineConfig {
                default_pools: vec![DefaultPool { base: "10.0.0.0/8".parse().expect("a net"), size: 7 }],
                ..Default::default()
            },
        ];
        for config in bad {
            assert!(config.validate().is_err(), "{config:?}");
        }
    }

    #[test]
    fn names_are_trimmed_and_only_the_engines_labels_are_kept() {
        let config = EngineConfig {
            default_network: Some(" blue\t".into()),
            default_driver: Some(" ".into()),
            ..EngineConfig::default()
        };
        let config = config.with_labels([
            "com.docker.network.driver.bridge.a=b=c",
            "com.docker.network.bare",
            "org.example.label=1",
            "",
        ]);
        assert_eq!(config.default_network.as_deref(), Some("blue"));
        assert_eq!(config.default_driver, None);
        let labels: Vec<_> = config.labels.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(labels, [("com.docker.network.bare", ""), ("com.docker.network.driver.bridge.a", "b=c")]);
    }

    #[test]
    fn the_hosts_prefix_is_used_where_ipv4_pools_alone_are_named() {
        let pool = |base: &str, size: u8| DefaultPool { base: base.parse().expect("a net"), size };
        let (four, six) = (pool("10.0.0.0/8", 24), pool("fd00:1::/48", 64));
        let host = pool("fd12:3456:789a::/48", 64);
        for (pools, host_ula, expected) in [
            (vec![four], true, vec![four, host]),
            (vec![four], false, vec![four]),
            (vec![four, six], true, vec![four, six]),
            (vec![six], true, vec![six]),
            (vec![], true, vec![]),
        ] {
            let config = EngineConfig { default_pools: pools, host_ula, ..EngineConfig::default() };
            assert_eq!(config.default_pools_on(host), expected);
        }
        assert_eq!(EngineConfig::default().default_pools_on(host).last(), Some(&host));
    }

    #[test]
    fn default_pools_are_judged_like_given_subnets() {
        let pools = |pools: &[(&str, u8)]| EngineConfig {
            default_pools: pools
                .iter()
                .map(|(base, size)| DefaultPool { base: base.parse().expect("a net"), size: *size })
                .collect(),
            ..EngineConfig::default()
        };
        for (base, size) in [
            ("0.0.0.0/0", 30),
            ("0.0.0.0/8", 16),
            ("127.0.0.0/8", 24),
            ("128.0.0.0/1", 16),
            ("224.0.0.0/4", 24),
            ("240.0.0.0/4", 24),
            ("::/0", 64),
            ("::ffff:0:0/96", 112),
            ("fe80::/64", 80),
            ("ff00::/8", 64),
        ] {
            let error = pools(&[("10.0.0.0/8", 24), (base, size)]).validate().expect_err(base).to_string();
            assert!(error.contains("default_pools") && error.contains(base), "{error}");
        }
        // Its own, as docker's daemon.json would have them.
        let docker = [
            ("172.17.0.0/16", 16),
            ("172.20.0.0/14", 16),
            ("192.168.0.0/16", 20),
            ("10.0.0.0/8", 24),
            ("fd00:1234:5678::/48", 64),
        ];
        pools(&docker).validate().expect("what libnetwork has by default");
    }

    #[test]
    fn bounds_that_would_overflow_later_are_refused_by_name() {
        let limits = |limits| EngineConfig { limits, ..Default::default() };
        let timeouts = |timeouts| EngineConfig { timeouts, ..Default::default() };
        let (l, t) = (Limits::default(), Timeouts::default());
        limits(Limits { event_backlog: MAX_LIMIT, ..l }).validate().expect("the largest");
        timeouts(Timeouts { operation: MAX_TIMEOUT, ..t }).validate().expect("the longest");
        let bad = [
            ("limits.operations", limits(Limits { operations: usize::MAX, ..l })),
            ("limits.operations_per_object", limits(Limits { operations_per_object: MAX_LIMIT + 1, ..l })),
            ("limits.event_backlog", limits(Limits { event_backlog: usize::MAX, ..l })),
            ("timeouts.operation", timeouts(Timeouts { operation: Duration::MAX, ..t })),
            (
                "timeouts.shutdown",
                timeouts(Timeouts { shutdown: MAX_TIMEOUT + Duration::from_nanos(1), ..t }),
            ),
        ];
        for (key, config) in bad {
            let error = config.validate().expect_err(key);
            assert!(error.to_string().contains(key), "{error}");
        }
    }
}
