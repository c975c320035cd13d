//! A sandbox to be created.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ports::{PortBinding, Ports, TransportPort};
use super::{MAX_ENTRIES, abridged, check_map, is_false};
use crate::error::{Error, ObjectKind, Result, check_name};

/// The longest host name, and the longest part between its dots (RFC 1123), in bytes.
const MAX_HOSTNAME_LEN: usize = 253;
const MAX_LABEL_LEN: usize = 63;
/// The longest path that Linux takes, in bytes, with its end (`PATH_MAX`).
const MAX_PATH_LEN: usize = 4096;

/// Which network namespace a sandbox is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceSpec {
    /// One of its own, which the engine makes.
    #[default]
    Own,
    /// The host's (`OptionUseDefaultSandbox`). Only endpoints without an interface join it.
    Host,
    /// One that somebody else makes and tells later (`OptionUseExternalKey`). Until then endpoints join and are
    /// recorded; they are plugged in when it is there.
    External,
}

impl NamespaceSpec {
    fn is_own(&self) -> bool {
        matches!(self, Self::Own)
    }
}

/// A sandbox to be created.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxSpec {
    /// The container it is for, unique within the controller.
    pub container_id: String,
    /// The container's host name, with its domain if it has one; empty for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Labels that drivers see at join.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Which network namespace it is.
    #[serde(skip_serializing_if = "NamespaceSpec::is_own")]
    pub namespace: NamespaceSpec,
    /// What few sandboxes have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<Box<SandboxSettings>>,
}

/// What few sandboxes have: kept apart, because there are many sandboxes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxSettings {
    /// The domain that the host name is completed with; empty for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domainname: String,
    /// Where the container's hosts file is written; a place of the engine's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts_path: Option<PathBuf>,
    /// The hosts file that is taken as it is instead of being built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin_hosts_path: Option<PathBuf>,
    /// Further lines of the hosts file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<ExtraHost>,
    /// Other containers in whose hosts files this one is entered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parent_updates: Vec<ParentUpdate>,
    /// Where the container's resolv.conf is written; a place of the engine's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolv_conf_path: Option<PathBuf>,
    /// The resolv.conf it is built from; the host's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin_resolv_conf_path: Option<PathBuf>,
    /// Name servers instead of the host's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// Search domains instead of the host's; a single `.` for none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_search: Vec<String>,
    /// Options of resolv.conf instead of the host's, such as `ndots:1`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_options: Vec<String>,
    /// The ports of the container, as drivers see them at join.
    #[serde(skip_serializing_if = "Ports::is_empty")]
    pub ports: Ports,
    /// Options for the drivers of its endpoints, as they see them at join (`OptionGeneric`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Whether it is the one through which a cluster's published ports come in.
    #[serde(skip_serializing_if = "is_false")]
    pub ingress: bool,
}

/// A line of a hosts file (`OptionExtraHost`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

/// A line of another container's hosts file (`OptionParentUpdate`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParentUpdate {
    /// The other container. It need not have a sandbox.
    pub container_id: String,
    /// The name under which it finds this one.
    pub name: String,
    /// The address of that name.
    pub address: IpAddr,
}

impl SandboxSpec {
    /// A sandbox with a network namespace of its own.
    pub fn new(container_id: impl Into<String>) -> Self {
        Self { container_id: container_id.into(), ..Self::default() }
    }

    /// Sets the host name.
    #[must_use]
    pub fn hostname(mut self, hostname: impl Into<String>) -> Self {
        self.hostname = hostname.into();
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Makes it the host's own namespace.
    #[must_use]
    pub fn host_namespace(mut self) -> Self {
        self.namespace = NamespaceSpec::Host;
        self
    }

    /// Has it wait for a namespace that somebody else makes.
    #[must_use]
    pub fn external_key(mut self) -> Self {
        self.namespace = NamespaceSpec::External;
        self
    }

    /// Adds a name server instead of the host's.
    #[must_use]
    pub fn dns(mut self, server: IpAddr) -> Self {
        self.settings_mut().dns.push(server);
        self
    }

    /// Adds a search domain instead of the host's; a single `.` for none.
    #[must_use]
    pub fn dns_search(mut self, domain: impl Into<String>) -> Self {
        self.settings_mut().dns_search.push(domain.into());
        self
    }

    /// Adds an option of resolv.conf instead of the host's, such as `ndots:1`.
    #[must_use]
    pub fn dns_option(mut self, option: impl Into<String>) -> Self {
        self.settings_mut().dns_options.push(option.into());
        self
    }

    /// Adds a line to the hosts file.
    #[must_use]
    pub fn extra_host(mut self, name: impl Into<String>, address: IpAddr) -> Self {
        self.settings_mut().extra_hosts.push(ExtraHost { name: name.into(), address });
        self
    }

    /// Adds a port that the container serves.
    #[must_use]
    pub fn expose(mut self, port: TransportPort) -> Self {
        self.settings_mut().ports.exposed.push(port);
        self
    }

    /// Has a port of the host lead to the container.
    #[must_use]
    pub fn publish(mut self, binding: PortBinding) -> Self {
        self.settings_mut().ports.map.push(binding);
        self
    }

    /// Changes what few sandboxes have.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut SandboxSettings)) -> Self {
        change(self.settings_mut());
        self
    }

    fn settings_mut(&mut self) -> &mut SandboxSettings {
        self.settings.get_or_insert_default()
    }

    /// Checks everything that can be checked without looking at other objects.
    ///
    /// # Errors
    /// `InvalidParameter`, naming the field.
    pub fn validate(&self) -> Result<()> {
        check_name(ObjectKind::Sandbox, &self.container_id)?;
        check_hostname("hostname", &self.hostname)?;
        check_map("labels", &self.labels)?;
        self.settings.as_ref().map_or(Ok(()), |settings| settings.validate())
    }
}

impl SandboxSettings {
    fn validate(&self) -> Result<()> {
        check_hostname("domainname", &self.domainname)?;
        for (field, path) in [
            ("hosts_path", &self.hosts_path),
            ("origin_hosts_path", &self.origin_hosts_path),
            ("resolv_conf_path", &self.resolv_conf_path),
            ("origin_resolv_conf_path", &self.origin_resolv_conf_path),
        ] {
            path.as_deref().map_or(Ok(()), |path| check_path(field, path))?;
        }
        for (field, count) in [
            ("extra_hosts", self.extra_hosts.len()),
            ("parent_updates", self.parent_updates.len()),
            ("dns", self.dns.len()),
            ("dns_search", self.dns_search.len()),
            ("dns_options", self.dns_options.len()),
        ] {
            if count > MAX_ENTRIES {
                return Err(Error::invalid(field, count, "at most 1024 entries"));
            }
        }
        for ExtraHost { name, .. } in &self.extra_hosts {
            check_given("extra_hosts", name)?;
        }
        for ParentUpdate { container_id, name, .. } in &self.parent_updates {
            check_name(ObjectKind::Sandbox, container_id)?;
            check_given("parent_updates", name)?;
        }
        if let Some(server) = self.dns.iter().find(|ip| ip.is_unspecified() || ip.is_multicast()) {
            return Err(Error::invalid("dns", server, "a name server has an address of its own"));
        }
        for domain in self.dns_search.iter().filter(|domain| *domain != ".") {
            check_given("dns_search", domain)?;
        }
        let word = |text: &&String| {
            text.is_empty() || text.len() > 255 || !text.bytes().all(|b| b.is_ascii_graphic())
        };
        if let Some(option) = self.dns_options.iter().find(word) {
            let why = "an option is one word, such as ndots:1";
            return Err(Error::invalid("dns_options", abridged(option), why));
        }
        check_map("options", &self.options)?;
        self.ports.validate()
    }
}

/// A name that must not be empty.
fn check_given(field: &str, name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid(field, name, "a name must not be empty"));
    }
    check_hostname(field, name)
}

/// Checks a path, which may be written to: absolute, and nothing that leads elsewhere than it says.
fn check_path(field: &str, path: &Path) -> Result<()> {
    let straight = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let text = path.to_string_lossy();
    if path.is_absolute() && straight && text.len() < MAX_PATH_LEN && !text.contains(char::is_control) {
        return Ok(());
    }
    let why = "an absolute path without .. and control characters is needed, of 4095 bytes at most";
    Err(Error::invalid(field, abridged(&text), why))
}

/// Checks a host name, which goes into the container's files: labels as of RFC 1123, and the underscore, which
/// people use. A dot at the end and a hyphen anywhere do no harm. Empty stands for none.
fn check_hostname(field: &str, name: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_label = |label: &str| (1..=MAX_LABEL_LEN).contains(&label.len()) && label.bytes().all(allowed);
    let labels = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || (labels.len() <= MAX_HOSTNAME_LEN && labels.split('.').all(is_label)) {
        return Ok(());
    }
    let why = "a host name is parts of 1 to 63 characters of A-Z a-z 0-9 - _ with dots between them, \
               253 characters at most";
    Err(Error::invalid(field, name, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_spec_passes_and_survives_the_record() {
        let spec = SandboxSpec::new("c")
            .hostname("web.example")
            .label("a", "b")
            .external_key()
            .dns([192, 0, 2, 53].into())
            .dns_search(".")
            .dns_search("corp.example")
            .dns_option("ndots:1")
            .extra_host("db", [192, 0, 2, 7].into())
            .expose(TransportPort::tcp(80))
            .publish(PortBinding::new(8080, TransportPort::tcp(80)))
            .with(|settings| {
                settings.domainname = "example".into();
                settings.hosts_path = Some("/var/lib/c/hosts".into());
                let (container_id, name) = ("parent".into(), "child".into());
                let update = ParentUpdate { container_id, name, address: [192, 0, 2, 8].into() };
                settings.parent_updates.push(update);
            });
        spec.validate().expect("valid");
        let json = serde_json::to_string(&spec).expect("written");
        assert_eq!(serde_json::from_str::<SandboxSpec>(&json).expect("read"), spec);
        let plain = serde_json::to_string(&SandboxSpec::new("c")).expect("written");
        assert_eq!(plain, r#"{"container_id":"c"}"#, "nothing for what is not set");
    }

    #[test]
    fn each_setting_is_checked_by_its_name() {
        let long = "x".repeat(10_000);
        type Change<'a> = Box<dyn Fn(&mut SandboxSettings) + 'a>;
        let bad: Vec<(&str, Change<'_>)> = vec![
            ("domainname", Box::new(|s| s.domainname = long.clone())),
            ("hosts_path", Box::new(|s| s.hosts_path = Some("hosts".into()))),
            ("origin_hosts_path", Box::new(|s| s.origin_hosts_path = Some("/a/../etc/shadow".into()))),
            ("resolv_conf_path", Box::new(|s| s.resolv_conf_path = Some(PathBuf::new()))),
            ("resolv_conf_path", Box::new(|s| s.resolv_conf_path = Some(format!("/{long}").into()))),
            ("origin_resolv_conf_path", Box::new(|s| s.origin_resolv_conf_path = Some("/a\nb".into()))),
            (
                "extra_hosts",
                Box::new(|s| {
                    s.extra_hosts.push(ExtraHost { name: String::new(), address: [1, 1, 1, 1].into() });
                }),
            ),
            (
                "extra_hosts",
                Box::new(|s| {
                    s.extra_hosts.push(ExtraHost { name: "a b".into(), address: [1, 1, 1, 1].into() });
                }),
            ),
            ("dns", Box::new(|s| s.dns.push([0, 0, 0, 0].into()))),
            ("dns_search", Box::new(|s| s.dns_search.push(String::new()))),
            ("dns_options", Box::new(|s| s.dns_options.push("two words".into()))),
            ("dns_options", Box::new(|s| s.dns_options = vec!["ok".into(); MAX_ENTRIES + 1])),
            ("options", Box::new(|s| drop(s.options.insert("k".into(), "v".repeat(20_000))))),
            ("port_map", Box::new(|s| s.ports.map.push(PortBinding::any(TransportPort::tcp(0))))),
        ];
        for (field, change) in bad {
            let error = SandboxSpec::new("c").with(change).validate().expect_err(field).to_string();
            assert!(error.contains(field) && error.len() < 400, "{field}: {error}");
        }
    }
}
