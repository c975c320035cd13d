//! Configuration files: libnetwork's TOML tables, and the engine's own keys beside them.
//!
//! Keys are matched as Go's decoder does, whatever their case. Unlike there, a key that nobody knows is refused:
//! it is a slip more often than not. What names something of the user's (a scope, a driver type, an option) is
//! taken as it is written.

mod value;

use std::fmt;
use std::path::Path;

use toml::de::DeTable;

use self::value::{Entry, Source};
use super::{DefaultPool, EngineConfig};
use crate::error::{Error, Reason, Result};

/// Keys that old files have and that mean nothing any more.
const FORMER: &[&str] = &["title", "datastore"];

const ROOT: &[&str] = &[
    "run_dir",
    "instance",
    "default_pools",
    "host_ula",
    "machine_id_file",
    "gateway_network",
    "name_server_files",
    "resolv_conf",
    "firewall",
    "limits",
    "timeouts",
    "daemon",
    "cluster",
    "scopes",
];
const FIREWALL: &[&str] = &["backend"];
const LIMITS: &[&str] = &["operations", "operations_per_object", "event_backlog"];
const TIMEOUTS: &[&str] = &["operation", "shutdown"];
const POOL: &[&str] = &["base", "size"];
const DAEMON: &[&str] = &["debug", "DataDir", "DefaultNetwork", "DefaultDriver", "Labels", "DriverCfg"];
const CLUSTER: &[&str] = &["discovery", "Address", "Heartbeat"];
const SCOPE: &[&str] = &["client"];
const CLIENT: &[&str] = &["provider", "address", "Config"];

/// What a key of the configuration is called in a file, where that differs.
const RENAMED: &[(&str, &str)] = &[
    ("data_dir", "daemon.DataDir"),
    ("debug", "daemon.debug"),
    ("default_network", "daemon.DefaultNetwork"),
    ("default_driver", "daemon.DefaultDriver"),
    ("labels", "daemon.Labels"),
    ("drivers", "daemon.DriverCfg"),
];

/// A key of a file that has no effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ignored {
    /// The key, as it is written.
    pub key: String,
    /// Its line, from 1.
    pub line: usize,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {} has no effect", self.line, self.key)?;
        if self.key.eq_ignore_ascii_case("datastore") {
            f.write_str("; a store is named by [scopes.<scope>.client]")?;
        }
        Ok(())
    }
}

impl EngineConfig {
    /// Reads a configuration from a TOML text; what it does not name is as by default. Beside it comes what of the
    /// text has no effect: tables that old files have.
    ///
    /// # Errors
    /// `InvalidParameter` ([`Reason::ConfigFile`]), naming key and line: the text is no TOML, a key is unknown, or a
    /// value cannot be used.
    pub fn from_toml(text: &str) -> Result<(Self, Vec<Ignored>)> {
        parse(text, None)
    }
}

/// The same for the text of a file, whose errors name the file.
///
/// # Errors
/// As [`EngineConfig::from_toml`].
pub fn parse(text: &str, file: Option<&Path>) -> Result<(EngineConfig, Vec<Ignored>)> {
    let source = Source { text, file };
    let root = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        source.error(at, "", error.message())
    })?;
    let (mut config, mut ignored) = (EngineConfig::default(), Vec::new());
    for entry in source.fields("", root.get_ref())? {
        match entry.named(ROOT) {
            Some("run_dir") => config.run_dir = entry.text()?.into(),
            Some("instance") => config.instance = entry.text()?.to_owned(),
            Some("default_pools") => config.default_pools = entry.each(pool)?,
            Some("host_ula") => config.host_ula = entry.switch()?,
            Some("machine_id_file") => config.machine_id_file = entry.text()?.into(),
            Some("gateway_network") => config.gateway_network = entry.text()?.to_owned(),
            Some("name_server_files") => {
                config.name_server_files = entry.each(|file| Ok(file.text()?.into()))?;
            }
            Some("resolv_conf") => config.resolv_conf = entry.text()?.into(),
            Some("firewall") => firewall(&mut config, &entry)?,
            Some("limits") => limits(&mut config, &entry)?,
            Some("timeouts") => timeouts(&mut config, &entry)?,
            Some("daemon") => daemon(&mut config, &entry)?,
            Some("cluster") => cluster(&mut config, &entry)?,
            Some("scopes") => scopes(&mut config, &entry)?,
            _ if entry.named(FORMER).is_some() => {
                ignored.push(Ignored { key: entry.key.clone(), line: source.line(entry.at) });
            }
            _ => return Err(entry.unknown(ROOT)),
        }
    }
    let config = config.normalized();
    config.validate().map_err(|error| located(&source, root.get_ref(), error))?;
    Ok((config, ignored))
}

fn firewall(config: &mut EngineConfig, table: &Entry<'_>) -> Result<()> {
    for entry in table.fields()? {
        match entry.named(FIREWALL) {
            Some("backend") => {
                config.firewall.backend = entry.text()?.parse().map_err(|why| entry.error(why))?;
            }
            _ => return Err(entry.unknown(FIREWALL)),
        }
    }
    Ok(())
}

fn limits(config: &mut EngineConfig, table: &Entry<'_>) -> Result<()> {
    for entry in table.fields()? {
        match entry.named(LIMITS) {
            Some("operations") => config.limits.operations = entry.number()?,
            Some("operations_per_object") => config.limits.operations_per_object = entry.number()?,
            Some("event_backlog") => config.limits.event_backlog = entry.number()?,
            _ => return Err(entry.unknown(LIMITS)),
        }
    }
    Ok(())
}

fn timeouts(config: &mut EngineConfig, table: &Entry<'_>) -> Result<()> {
    for entry in table.fields()? {
        match entry.named(TIMEOUTS) {
            Some("operation") => config.timeouts.operation = entry.duration()?,
            Some("shutdown") => config.timeouts.shutdown = entry.duration()?,
            _ => return Err(entry.unknown(TIMEOUTS)),
        }
    }
    Ok(())
}

fn pool(table: &Entry<'_>) -> Result<DefaultPool> {
    let (mut base, mut size) = (None, None);
    for entry in table.fields()? {
        match entry.named(POOL) {
            Some("base") => {
                let net = entry.text()?.parse();
                base = Some(net.map_err(|_| entry.error("expected a subnet, such as \"10.192.0.0/12\""))?);
            }
            Some("size") => size = Some(entry.number()?),
            _ => return Err(entry.unknown(POOL)),
        }
    }
    match (base, size) {
        (Some(base), Some(size)) => Ok(DefaultPool { base, size }),
        (None, _) => Err(table.error("base is missing")),
        (_, None) => Err(table.error("size is missing")),
    }
}

fn daemon(config: &mut EngineConfig, table: &Entry<'_>) -> Result<()> {
    for entry in table.fields()? {
        match entry.named(DAEMON) {
            Some("debug") => config.debug = entry.switch()?,
            Some("DataDir") => config.data_dir = entry.text()?.into(),
            Some("DefaultNetwork") => config.default_network = Some(entry.text()?.to_owned()),
            Some("DefaultDriver") => config.default_driver = Some(entry.text()?.to_owned()),
            Some("Labels") => {
                let labels = entry.each(|label| Ok(label.text()?.to_owned()))?;
                *config = std::mem::take(config).with_labels(labels);
            }
            Some("DriverCfg") => {
                let drivers = entry.entries()?;
                let drivers =
                    drivers.into_iter().map(|driver| Ok((driver.name.to_owned(), driver.options()?)));
                config.drivers = drivers.collect::<Result<_>>()?;
            }
            _ => return Err(entry.unknown(DAEMON)),
        }
    }
    Ok(())
}

fn cluster(config: &mut EngineConfig, table: &Entry<'_>) -> Result<()> {
    for entry in table.fields()? {
        match entry.named(CLUSTER) {
            Some("discovery") => config.cluster.discovery = Some(entry.text()?.to_owned()),
            Some("Address") => config.cluster.address = Some(entry.text()?.to_owned()),
            Some("Heartbeat") => config.cluster.heartbeat = entry.duration()?,
            _ => return Err(entry.unknown(CLUSTER)),
        }
    }
    Ok(())
}

fn scopes(config: &mut EngineConfig, table: &Entry<'_>) -> Result<()> {
    for scope in table.entries()? {
        let settings = config.scopes.entry(scope.name.to_owned()).or_default();
        for part in scope.fields()? {
            if part.named(SCOPE).is_none() {
                return Err(part.unknown(SCOPE));
            }
            for entry in part.fields()? {
                match entry.named(CLIENT) {
                    Some("provider") => settings.client.provider = entry.text()?.to_owned(),
                    Some("address") => settings.client.address = entry.text()?.to_owned(),
                    Some("Config") => settings.client.config = entry.options()?,
                    _ => return Err(entry.unknown(CLIENT)),
                }
            }
        }
    }
    Ok(())
}

/// What the check of the whole found, with the place in the file where that stands.
fn located(source: &Source<'_>, root: &DeTable<'_>, error: Error) -> Error {
    let Reason::InvalidOption { option, value, why } = error.reason() else { return error };
    let (at, key) = find(root, option).unwrap_or_default();
    source.error(at, &key, &format!("{value:?}: {why}"))
}

/// Where a key of the configuration stands, or else the table that should have it, and how the file spells that.
fn find(root: &DeTable<'_>, option: &str) -> Option<(usize, String)> {
    let renamed = RENAMED.iter().find(|(key, _)| *key == option).map(|(_, file)| *file);
    let (mut table, mut found) = (Some(root), None);
    let mut path = String::new();
    for part in renamed.unwrap_or(option).split('.') {
        let entry =
            table.and_then(|table| table.iter().find(|(key, _)| key.get_ref().eq_ignore_ascii_case(part)));
        let Some((key, value)) = entry else { break };
        path = value::join(&path, key.get_ref());
        table = value.get_ref().as_table();
        found = Some((key.span().start, path.clone()));
    }
    found
}

#[cfg(test)]
mod tests;
