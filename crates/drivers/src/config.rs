//! What the engine's configuration has for a driver.

use std::collections::BTreeMap;

use netloom_model::config::{DatastoreConfig, LABEL_PREFIX};
use netloom_model::{EngineConfig, Error};

/// What a driver is configured with when it is made (libnetwork's `makeDriverConfig`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DriverConfig {
    /// The engine's labels for this type, `com.docker.network.driver.<type>…` with their whole keys, and the type's
    /// own options (`DriverCfg`), which win.
    pub options: BTreeMap<String, String>,
    /// The store of each scope that names one.
    pub datastores: Vec<DatastoreConfig>,
}

impl DriverConfig {
    /// What an engine's configuration has for drivers of this type.
    #[must_use]
    pub fn of(kind: &str, config: &EngineConfig) -> Self {
        let own = format!("{LABEL_PREFIX}.driver.{kind}");
        // libnetwork looks at the beginning alone, and so gives `ipvlan` what is for `ipvlan2`.
        let is_own = |key: &str| {
            key.strip_prefix(&own).is_some_and(|behind| behind.is_empty() || behind.starts_with('.'))
        };
        let labels = config.labels.iter().filter(|(key, _)| is_own(key));
        let options = labels.chain(config.drivers.get(kind).into_iter().flatten());
        Self {
            options: options.map(|(key, value)| (key.clone(), value.clone())).collect(),
            datastores: config.datastores().collect(),
        }
    }

    /// Refuses options, for a driver that knows only these.
    ///
    /// # Errors
    /// `InvalidParameter`, naming the first option that is not among them.
    pub fn only(&self, kind: &str, known: &[&str]) -> Result<(), Error> {
        match self.options.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, value)) => {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let why = format!("driver {kind:?} has no such option; it knows {known}");
                Err(Error::invalid(key, value, why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netloom_model::config::{ClientConfig, Scope, ScopeConfig};

    use super::*;

    #[test]
    fn a_driver_gets_its_labels_its_options_and_the_stores() {
        let config = EngineConfig::default().with_labels([
            "com.docker.network.driver.mine=whole",
            "com.docker.network.driver.mine.a=label",
            "com.docker.network.driver.mine.b=label",
            "com.docker.network.driver.mine2.a=other",
            "com.docker.network.driver.other.a=other",
            "com.docker.network.mine=other",
        ]);
        let options = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let client = |provider: &str, address: &str| ScopeConfig {
            client: ClientConfig {
                provider: provider.into(),
                address: address.into(),
                config: options(&[("kv.certfile", "/c")]),
            },
        };
        let config = EngineConfig {
            drivers: [
                ("mine".into(), options(&[("com.docker.network.driver.mine.b", "option"), ("speed", "7")])),
                ("other".into(), options(&[("speed", "8")])),
            ]
            .into(),
            scopes: [("global".into(), client("etcd", "a:1")), ("local".into(), client("boltdb", ""))].into(),
            ..config
        };
        let mine = DriverConfig::of("mine", &config);
        let expected = options(&[
            ("com.docker.network.driver.mine", "whole"),
            ("com.docker.network.driver.mine.a", "label"),
            ("com.docker.network.driver.mine.b", "option"),
            ("speed", "7"),
        ]);
        assert_eq!(mine.options, expected);
        // The local scope has no address, so it names no store.
        let store = DatastoreConfig {
            scope: Scope::Global,
            provider: "etcd".into(),
            address: "a:1".into(),
            config: options(&[("kv.certfile", "/c")]),
        };
        assert_eq!(mine.datastores, [store]);
        assert_eq!(DriverConfig::of("third", &EngineConfig::default()), DriverConfig::default());
        mine.only("mine", &["com.docker.network.driver.mine", "speed"]).expect_err("two are not known");
        let known = expected.keys().map(String::as_str).collect::<Vec<_>>();
        mine.only("mine", &known).expect("all are known");
        let error = mine.only("mine", &[]).expect_err("none is known").to_string();
        assert!(error.contains("com.docker.network.driver.mine") && error.contains("none"), "{error}");
    }
}
