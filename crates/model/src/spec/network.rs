//! A network to be created, with its address pools.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{MAX_ENTRIES, check_map, is_false};
use crate::error::{Error, ObjectKind, Reason, Result, check_name};
use crate::id::NetworkId;
use crate::name::check_auxiliary;

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
    /// Whether it outlives the engine (`NetworkOptionPersist`). One that does not is taken down at the next start,
    /// with its endpoints.
    #[serde(skip_serializing_if = "is_true")]
    pub persist: bool,
    /// Whether an endpoint gets its IPv6 address after its driver has made it, which has then no say in it
    /// (`NetworkOptionDeferIPv6Alloc`).
    #[serde(skip_serializing_if = "is_false")]
    pub defer_ipv6: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_true(flag: &bool) -> bool {
    *flag
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
            persist: true,
            defer_ipv6: false,
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

    /// Has it outlive the engine, or not.
    #[must_use]
    pub fn persist(mut self, persist: bool) -> Self {
        self.persist = persist;
        self
    }

    /// Has its endpoints get their IPv6 addresses after their driver has made them.
    #[must_use]
    pub fn defer_ipv6(mut self, defer: bool) -> Self {
        self.defer_ipv6 = defer;
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
        if self.defer_ipv6 && !self.ipv6 {
            let why = "IPv6 is off, so there is nothing to put off; set ipv6 too";
            return Err(Error::invalid("defer_ipv6", true, why));
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
    /// The subnet; chosen from the default pools when absent. One without an address, such as `0.0.0.0/26` or `::/72`,
    /// asks for any free subnet of that size among the default pools.
    pub subnet: Option<IpNet>,
    /// The part of the subnet from which addresses are chosen.
    pub range: Option<IpNet>,
    /// The gateway's address; the first free one when absent.
    pub gateway: Option<IpAddr>,
    /// Reserved addresses, by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
}

impl IpamPoolSpec {
    /// Whether it names the subnet to use. Otherwise one is chosen.
    #[must_use]
    pub fn names_subnet(&self) -> bool {
        self.subnet.is_some_and(|subnet| !subnet.addr().is_unspecified())
    }

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
            if let Some(why) = crate::reserved::within(*subnet).filter(|_| self.names_subnet()) {
                return Err(Error::invalid("subnet", subnet, why));
            }
        }
        if !self.names_subnet()
            && (self.range.is_some() || self.gateway.is_some() || !self.auxiliary.is_empty())
        {
            return Err(Error::invalid("subnet", "", "a range, gateway or auxiliary address needs a subnet"));
        }
        self.auxiliary.iter().try_for_each(|(name, address)| check_auxiliary(name, *address))?;
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
    for subnet in pools.filter(|pool| pool.names_subnet()).filter_map(|pool| pool.subnet) {
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
