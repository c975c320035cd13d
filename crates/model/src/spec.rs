//! What a caller asks for. Each spec is a plain struct with builder methods; nothing is checked before
//! [`NetworkSpec::validate`] and its siblings, which the controller calls before any effect.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ObjectKind, Reason, Result, check_name};
use crate::id::NetworkId;
use crate::mac::MacAddr;

/// The longest key of an option or label, or name of an auxiliary address, in bytes.
const MAX_KEY_LEN: usize = 255;
/// The longest option or label value, in bytes.
const MAX_VALUE_LEN: usize = 16 * 1024;
/// The most bytes of all options, or of all labels, together: every inspection copies them.
const MAX_MAP_LEN: usize = 256 * 1024;
/// The most options, labels, pools or auxiliary addresses one spec may carry.
const MAX_ENTRIES: usize = 1024;

/// The longest host name, and the longest part between its dots (RFC 1123), in bytes.
const MAX_HOSTNAME_LEN: usize = 253;
const MAX_LABEL_LEN: usize = 63;

/// A network to be created.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its name, unique within the controller.
    pub name: String,
    /// Its identifier, when the caller chooses it.
    pub id: Option<NetworkId>,
    /// The type of its driver, such as `bridge`; blank for the one that the configuration has as default.
    pub driver: String,
    /// Whether its endpoints get an IPv6 address too.
    pub ipv6: bool,
    /// Whether it is cut off from the outside: no gateway is given to its endpoints.
    pub internal: bool,
    /// Free labels of the caller.
    pub labels: BTreeMap<String, String>,
    /// Driver options, such as `com.docker.network.bridge.name`.
    pub options: BTreeMap<String, String>,
    /// Its address pools.
    pub ipam: IpamSpec,
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            id: None,
            driver: "bridge".into(),
            ipv6: false,
            internal: false,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            ipam: IpamSpec::default(),
        }
    }
}

impl NetworkSpec {
    /// A network with the bridge driver and an automatic IPv4 pool.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Chooses the driver.
    #[must_use]
    pub fn driver(mut self, driver: impl Into<String>) -> Self {
        self.driver = driver.into();
        self
    }

    /// Chooses the identifier.
    #[must_use]
    pub fn id(mut self, id: NetworkId) -> Self {
        self.id = Some(id);
        self
    }

    /// Adds a pool with this subnet; IPv6 subnets enable IPv6.
    #[must_use]
    pub fn subnet(self, subnet: IpNet) -> Self {
        self.pool(IpamPoolSpec { subnet: Some(subnet), ..IpamPoolSpec::default() })
    }

    /// Adds a pool.
    #[must_use]
    pub fn pool(mut self, pool: IpamPoolSpec) -> Self {
        if matches!(pool.subnet, Some(IpNet::V6(_))) {
            self.ipv6 = true;
            self.ipam.v6.push(pool);
        } else {
            self.ipam.v4.push(pool);
        }
        self
    }

    /// Gives the endpoints an IPv6 address too.
    #[must_use]
    pub fn ipv6(mut self, enabled: bool) -> Self {
        self.ipv6 = enabled;
        self
    }

    /// Cuts the network off from the outside.
    #[must_use]
    pub fn internal(mut self, internal: bool) -> Self {
        self.internal = internal;
        self
    }

    /// Sets a driver option.
    #[must_use]
    pub fn option(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.insert(key.into(), value.into());
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Checks everything that can be checked without looking at other objects.
    ///
    /// # Errors
    /// `InvalidParameter`, naming the field.
    pub fn validate(&self) -> Result<()> {
        check_name(ObjectKind::Network, &self.name)?;
        check_name(ObjectKind::Driver, &self.driver)?;
        check_map("labels", &self.labels)?;
        check_map("options", &self.options)?;
        check_map("ipam.options", &self.ipam.options)?;
        if self.ipam.v4.len() + self.ipam.v6.len() > MAX_ENTRIES {
            return Err(Error::invalid(
                "pools",
                self.ipam.v4.len() + self.ipam.v6.len(),
                "at most 1024 pools",
            ));
        }
        let auxiliary: usize =
            self.ipam.v4.iter().chain(&self.ipam.v6).map(|pool| pool.auxiliary.len()).sum();
        if auxiliary > MAX_ENTRIES {
            return Err(Error::invalid("auxiliary", auxiliary, "at most 1024 auxiliary addresses"));
        }
        if !self.ipv6 && !self.ipam.v6.is_empty() {
            return Err(Error::invalid("ipv6", false, "an IPv6 pool is given but IPv6 is off"));
        }
        for pool in &self.ipam.v4 {
            pool.validate(false)?;
        }
        for pool in &self.ipam.v6 {
            pool.validate(true)?;
        }
        check_distinct(self.ipam.v4.iter().chain(&self.ipam.v6))
    }
}

/// How a network gets its addresses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IpamSpec {
    /// The IPAM driver; `default` is built in.
    pub driver: String,
    /// The address space; empty for the driver's default.
    pub address_space: String,
    /// IPv4 pools; empty for one automatic pool.
    pub v4: Vec<IpamPoolSpec>,
    /// IPv6 pools; empty for one automatic pool where IPv6 is enabled.
    pub v6: Vec<IpamPoolSpec>,
    /// Options for the IPAM driver.
    pub options: BTreeMap<String, String>,
}

impl Default for IpamSpec {
    fn default() -> Self {
        Self {
            driver: "default".into(),
            address_space: String::new(),
            v4: Vec::new(),
            v6: Vec::new(),
            options: BTreeMap::new(),
        }
    }
}

/// One address pool of a network, libnetwork's `IpamConf`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IpamPoolSpec {
    /// The subnet; chosen from the default pools when absent.
    pub subnet: Option<IpNet>,
    /// The part of the subnet from which addresses are chosen.
    pub range: Option<IpNet>,
    /// The gateway's address; the first free one when absent.
    pub gateway: Option<IpAddr>,
    /// Reserved addresses, by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
}

impl IpamPoolSpec {
    fn validate(&self, v6: bool) -> Result<()> {
        let family = if v6 { "IPv6" } else { "IPv4" };
        if let Some(subnet) = &self.subnet {
            if matches!(subnet, IpNet::V6(_)) != v6 {
                return Err(Error::invalid("subnet", subnet, format!("an {family} subnet is expected here")));
            }
            if subnet.prefix_len() == 0 {
                return Err(Error::invalid("subnet", subnet, "a pool cannot be the whole address space"));
            }
            if subnet.addr() != subnet.network() {
                let why = format!("host bits are set; did you mean {}?", subnet.trunc());
                return Err(Error::invalid("subnet", subnet, why));
            }
            if let Some(why) = crate::reserved::within(*subnet) {
                return Err(Error::invalid("subnet", subnet, why));
            }
        } else if self.range.is_some() || self.gateway.is_some() || !self.auxiliary.is_empty() {
            return Err(Error::invalid("subnet", "", "a range, gateway or auxiliary address needs a subnet"));
        }
        if let Some((name, address)) = self.auxiliary.iter().find(|(name, _)| name.trim().is_empty()) {
            let why = format!("the name of auxiliary address {address} must not be blank");
            return Err(Error::invalid("auxiliary", name, why));
        }
        if let Some(long) = self.auxiliary.keys().find(|name| name.len() > MAX_KEY_LEN) {
            let why = "the name of an auxiliary address has at most 255 bytes";
            return Err(Error::invalid("auxiliary", abridged(long), why));
        }
        let Some(subnet) = &self.subnet else { return Ok(()) };
        if let Some(range) = &self.range
            && (range.addr() != range.network() || !subnet.contains(range))
        {
            return Err(Error::invalid("range", range, format!("a range must be a subnet of {subnet}")));
        }
        let named = self.auxiliary.iter().map(|(name, address)| (format!("auxiliary {name}"), address));
        for (field, address) in self.gateway.iter().map(|gw| ("gateway".to_owned(), gw)).chain(named) {
            if !subnet.contains(address) {
                return Err(Error::invalid(field, address, format!("the address must belong to {subnet}")));
            }
        }
        Ok(())
    }
}

fn check_distinct<'a>(pools: impl Iterator<Item = &'a IpamPoolSpec>) -> Result<()> {
    let mut seen: Vec<IpNet> = Vec::new();
    for subnet in pools.filter_map(|pool| pool.subnet) {
        if let Some(other) = seen.iter().find(|other| other.contains(&subnet) || subnet.contains(*other)) {
            return Err(Reason::PoolOverlap {
                pool: subnet,
                other: *other,
                holder: "the same request".into(),
            }
            .into());
        }
        seen.push(subnet);
    }
    Ok(())
}

fn check_map(field: &str, map: &BTreeMap<String, String>) -> Result<()> {
    if map.len() > MAX_ENTRIES {
        return Err(Error::invalid(field, map.len(), "at most 1024 entries"));
    }
    for (key, value) in map {
        if key.trim().is_empty() {
            return Err(Error::invalid(field, key, "a key must not be blank"));
        }
        if key.len() > MAX_KEY_LEN || value.len() > MAX_VALUE_LEN {
            let why = "a key has at most 255 bytes, a value at most 16384";
            return Err(Error::invalid(format!("{field}.{}", abridged(key)), abridged(value), why));
        }
    }
    let length: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if length > MAX_MAP_LEN {
        let why = "keys and values have at most 262144 bytes together";
        return Err(Error::invalid(field, format!("{length} bytes"), why));
    }
    Ok(())
}

/// Checks a host name, which goes into the container's files: labels as of RFC 1123, and the underscore, which
/// people use. A dot at the end and a hyphen anywhere do no harm. Empty stands for none.
fn check_hostname(name: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_label = |label: &str| (1..=MAX_LABEL_LEN).contains(&label.len()) && label.bytes().all(allowed);
    let labels = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || (labels.len() <= MAX_HOSTNAME_LEN && labels.split('.').all(is_label)) {
        return Ok(());
    }
    let why = "a host name is parts of 1 to 63 characters of A-Z a-z 0-9 - _ with dots between them, \
               253 characters at most";
    Err(Error::invalid("hostname", name, why))
}

/// The beginning of a text that is too long to be shown.
fn abridged(text: &str) -> String {
    text.chars().take(40).collect()
}

/// An endpoint to be created on a network.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointSpec {
    /// Its name, unique within the network.
    pub name: String,
    /// A fixed IPv4 address; one is chosen when absent.
    pub ipv4: Option<Ipv4Addr>,
    /// A fixed IPv6 address; one is chosen when absent and the network has IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// A fixed hardware address; derived from the IPv4 address when absent.
    pub mac: Option<MacAddr>,
    /// Free labels of the caller.
    pub labels: BTreeMap<String, String>,
    /// Options for the driver.
    pub options: BTreeMap<String, String>,
}

impl EndpointSpec {
    /// An endpoint whose addresses are chosen by the engine.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Fixes the IPv4 or the IPv6 address.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.ipv4 = Some(v4),
            IpAddr::V6(v6) => self.ipv6 = Some(v6),
        }
        self
    }

    /// Fixes the hardware address.
    #[must_use]
    pub fn mac(mut self, mac: MacAddr) -> Self {
        self.mac = Some(mac);
        self
    }

    /// Sets a driver option.
    #[must_use]
    pub fn option(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.insert(key.into(), value.into());
        self
    }

    /// Checks everything that can be checked without looking at other objects.
    ///
    /// # Errors
    /// `InvalidParameter`, naming the field.
    pub fn validate(&self) -> Result<()> {
        check_name(ObjectKind::Endpoint, &self.name)?;
        check_map("labels", &self.labels)?;
        check_map("options", &self.options)?;
        let fixed = self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6));
        for address in fixed {
            if let Some(why) = crate::reserved::within(IpNet::from(address)) {
                let field = if address.is_ipv4() { "ipv4" } else { "ipv6" };
                return Err(Error::invalid(field, address, why));
            }
        }
        match self.mac {
            Some(mac) if mac.is_multicast() || mac.0 == [0; 6] => {
                Err(Error::invalid("mac", mac, "an interface needs a unicast hardware address"))
            }
            _ => Ok(()),
        }
    }
}

/// A sandbox to be created.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxSpec {
    /// The container it is for, unique within the controller.
    pub container_id: String,
    /// The container's host name, with its domain if it has one; empty for none.
    pub hostname: String,
    /// Labels that drivers see at join.
    pub labels: BTreeMap<String, String>,
}

impl SandboxSpec {
    /// A sandbox with a network namespace of its own.
    pub fn new(container_id: impl Into<String>) -> Self {
        Self { container_id: container_id.into(), ..Self::default() }
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Checks everything that can be checked without looking at other objects.
    ///
    /// # Errors
    /// `InvalidParameter`, naming the field.
    pub fn validate(&self) -> Result<()> {
        check_name(ObjectKind::Sandbox, &self.container_id)?;
        check_hostname(&self.hostname)?;
        check_map("labels", &self.labels)
    }
}

/// How an endpoint joins a sandbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JoinSpec {
    /// Higher wins the election of the endpoint that provides the default route; ties go to the network's
    /// name (libnetwork's `JoinOptionPriority`).
    pub priority: i32,
}

impl JoinSpec {
    /// A join with a priority.
    #[must_use]
    pub fn priority(priority: i32) -> Self {
        Self { priority }
    }
}

#[cfg(test)]
mod tests;
