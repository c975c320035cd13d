//! What a running engine takes of a new configuration.

use super::{ClusterConfig, EngineConfig, FirewallConfig, Limits, Timeouts};
use crate::error::{Reason, Result};

/// How many keys a configuration has.
const KEYS: usize = 24;

impl EngineConfig {
    /// Every key, as errors name it, and whether two configurations differ in it.
    fn compared(&self, other: &Self) -> [(&'static str, bool); KEYS] {
        // Taken apart by name: a new key does not compile until it is in the list.
        let Self {
            data_dir,
            run_dir,
            instance,
            default_pools,
            host_ula,
            machine_id_file,
            gateway_network,
            name_server_files,
            resolv_conf,
            firewall: FirewallConfig { backend },
            limits: Limits { operations, operations_per_object, event_backlog },
            timeouts: Timeouts { operation, shutdown },
            debug,
            default_network,
            default_driver,
            labels,
            drivers,
            cluster: ClusterConfig { discovery, address, heartbeat },
            scopes,
        } = self;
        [
            ("data_dir", *data_dir != other.data_dir),
            ("run_dir", *run_dir != other.run_dir),
            ("instance", *instance != other.instance),
            ("default_pools", *default_pools != other.default_pools),
            ("host_ula", *host_ula != other.host_ula),
            ("machine_id_file", *machine_id_file != other.machine_id_file),
            ("gateway_network", *gateway_network != other.gateway_network),
            ("name_server_files", *name_server_files != other.name_server_files),
            ("resolv_conf", *resolv_conf != other.resolv_conf),
            ("firewall.backend", *backend != other.firewall.backend),
            ("limits.operations", *operations != other.limits.operations),
            ("limits.operations_per_object", *operations_per_object != other.limits.operations_per_object),
            ("limits.event_backlog", *event_backlog != other.limits.event_backlog),
            ("timeouts.operation", *operation != other.timeouts.operation),
            ("timeouts.shutdown", *shutdown != other.timeouts.shutdown),
            ("debug", *debug != other.debug),
            ("default_network", *default_network != other.default_network),
            ("default_driver", *default_driver != other.default_driver),
            ("labels", *labels != other.labels),
            ("drivers", *drivers != other.drivers),
            ("cluster.discovery", *discovery != other.cluster.discovery),
            ("cluster.address", *address != other.cluster.address),
            ("cluster.heartbeat", *heartbeat != other.cluster.heartbeat),
            ("scopes", *scopes != other.scopes),
        ]
    }

    /// The keys in which another configuration differs, as errors name them.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        self.compared(other).into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }

    /// Whether an engine that runs with this configuration can go over to another one, which is valid. What it
    /// answers is [`EngineConfig::differences`].
    ///
    /// # Errors
    /// `Forbidden`: a store may be added, and not be taken away or replaced; and what the engine was built on at
    /// its start stays.
    pub fn accept(&self, next: &Self) -> Result<Vec<&'static str>> {
        for (name, scope) in self.scopes.iter().filter(|(_, scope)| scope.is_valid()) {
            let (scope_name, present) = (name.clone(), scope.store());
            let Some(wanted) = next.scopes.get(name).filter(|scope| scope.is_valid()) else {
                return Err(Reason::StoreRemoved { scope: scope_name, present }.into());
            };
            let wanted = wanted.store();
            if wanted != present {
                return Err(Reason::StoreModified { scope: scope_name, present, wanted }.into());
            }
        }
        // The event channel is as long as it was made. A backend that was changed under running containers would leave
        // them without rules for a moment.
        for (key, present, wanted) in [
            ("data_dir", self.data_dir.display().to_string(), next.data_dir.display().to_string()),
            ("run_dir", self.run_dir.display().to_string(), next.run_dir.display().to_string()),
            ("instance", self.instance.clone(), next.instance.clone()),
            (
                "machine_id_file",
                self.machine_id_file.display().to_string(),
                next.machine_id_file.display().to_string(),
            ),
            ("resolv_conf", self.resolv_conf.display().to_string(), next.resolv_conf.display().to_string()),
            ("firewall.backend", self.firewall.backend.to_string(), next.firewall.backend.to_string()),
            (
                "limits.event_backlog",
                self.limits.event_backlog.to_string(),
                next.limits.event_backlog.to_string(),
            ),
        ] {
            if present != wanted {
                return Err(Reason::NeedsRestart { key, present, wanted }.into());
            }
        }
        Ok(self.differences(next))
    }

    /// Every key, as errors name it.
    #[cfg(test)]
    pub(super) fn keys() -> [&'static str; KEYS] {
        let any = Self::default();
        any.compared(&any).map(|(key, _)| key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{ClientConfig, ScopeConfig};
    use crate::error::{Certainty, ErrorKind};

    fn with(stores: &[(&str, &str, &str)]) -> EngineConfig {
        let scope = |provider: &str, address: &str| ScopeConfig {
            client: ClientConfig {
                provider: provider.into(),
                address: address.into(),
                ..ClientConfig::default()
            },
        };
        let scopes =
            stores.iter().map(|(name, provider, address)| ((*name).to_owned(), scope(provider, address)));
        EngineConfig { scopes: scopes.collect(), ..EngineConfig::default() }
    }

    /// libnetwork's own test of a reload: the same store is accepted, another one refused.
    #[test]
    fn stores_are_added_and_nothing_else() {
        let none = with(&[]);
        let local = with(&[("local", "boltdb", "/l")]);
        let both = with(&[("local", "boltdb", "/l"), ("global", "etcd", "a:1")]);
        for (from, to, changed) in
            [(&none, &local, true), (&local, &both, true), (&none, &both, true), (&both, &both, false)]
        {
            assert_eq!(from.accept(to).expect("accepted"), if changed { vec!["scopes"] } else { vec![] });
        }
        let texts = [
            "cannot accept new configuration because it removes an existing datastore client",
            "cannot accept new configuration because it modifies an existing datastore client",
        ];
        for (to, text, scope) in [
            (&local, texts[0], "global"),
            (&none, texts[0], "global"),
            (&with(&[("local", "boltdb", "/l"), ("global", "", "")]), texts[0], "global"),
            (&with(&[("global", "etcd", "a:1")]), texts[0], "local"),
            (&with(&[("local", "boltdb", "/l"), ("global", "etcd", "a:2")]), texts[1], "global"),
            (&with(&[("local", "boltdb", "/l"), ("global", "consul", "a:1")]), texts[1], "global"),
            (&with(&[("local", "boltdb", "/m"), ("global", "etcd", "a:1")]), texts[1], "local"),
        ] {
            let error = both.accept(to).expect_err(text);
            assert!(error.to_string().starts_with(text), "{error}");
            assert!(error.to_string().contains(scope), "{error}");
            assert_eq!((error.kind(), error.certainty()), (ErrorKind::Forbidden, Certainty::Aborted));
            assert!(error.remedy().is_some_and(|remedy| remedy.contains("scope")), "{error}");
        }
        // A scope that names nothing holds nothing.
        with(&[("global", "", "")]).accept(&none).expect("there was no store");
    }

    #[test]
    fn a_clients_options_may_change() {
        let present = with(&[("global", "etcd", "a:1")]);
        let mut next = present.clone();
        let client = next.scopes.get_mut("global").map(|scope| &mut scope.client).expect("there");
        client.config.insert("kv.certfile".into(), "/new".into());
        assert_eq!(present.accept(&next).expect("accepted"), ["scopes"]);
    }

    #[test]
    fn what_needs_a_restart_is_refused_by_name_and_the_rest_is_told() {
        let present = EngineConfig::default();
        let mut backlog = present.clone();
        backlog.limits.event_backlog += 1;
        for (key, next) in [
            ("data_dir", EngineConfig { data_dir: "/elsewhere".into(), ..present.clone() }),
            ("run_dir", EngineConfig { run_dir: "/elsewhere".into(), ..present.clone() }),
            ("instance", EngineConfig { instance: "other".into(), ..present.clone() }),
            ("machine_id_file", EngineConfig { machine_id_file: "/elsewhere".into(), ..present.clone() }),
            ("resolv_conf", EngineConfig { resolv_conf: "/elsewhere".into(), ..present.clone() }),
            ("limits.event_backlog", backlog),
        ] {
            let error = present.accept(&next).expect_err(key);
            assert_eq!(error.kind(), ErrorKind::Forbidden);
            assert!(error.to_string().contains(key), "{error}");
            assert!(error.remedy().is_some(), "{error}");
        }
        let mut next = EngineConfig { debug: true, default_driver: Some("x".into()), ..present.clone() };
        next.timeouts.shutdown = Duration::from_secs(1);
        assert_eq!(
            present.accept(&next).expect("accepted"),
            ["timeouts.shutdown", "debug", "default_driver"]
        );
    }
}
