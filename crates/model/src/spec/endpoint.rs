//! An endpoint to be created.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::ports::{PortBinding, Ports, TransportPort};
use super::{MAX_ENTRIES, abridged, check_map, is_false};
use crate::error::{Error, ObjectKind, Result, check_name};
use crate::mac::MacAddr;
use crate::seldom::{Nothing, Seldom};

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
    /// Options for the driver (libnetwork's `EndpointOptionGeneric`).
    pub options: BTreeMap<String, String>,
    /// The ports that it serves, and those of the host that lead to them.
    pub ports: Seldom<Ports>,
    /// Under which names it is found, beside its own.
    pub names: Seldom<Names>,
}

/// Under which names an endpoint is found, and finds others.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Names {
    /// Further names of the endpoint, for everybody on its network (`CreateOptionMyAlias`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Names that only its own container uses, and which names of the network they stand for
    /// (`CreateOptionAlias`; docker's `--link name:alias`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<String, String>,
    /// Whether it is not found under its own name (`CreateOptionAnonymous`).
    #[serde(skip_serializing_if = "is_false")]
    pub anonymous: bool,
    /// Whether its sandbox gets no name server for its sake (`CreateOptionDisableResolution`).
    #[serde(skip_serializing_if = "is_false")]
    pub no_resolution: bool,
}

impl Nothing for Names {
    const NOTHING: &'static Self =
        &Self { aliases: Vec::new(), links: BTreeMap::new(), anonymous: false, no_resolution: false };
}

impl Names {
    fn validate(&self) -> Result<()> {
        for (field, count) in [("aliases", self.aliases.len()), ("links", self.links.len())] {
            if count > MAX_ENTRIES {
                return Err(Error::invalid(field, count, "at most 1024 entries"));
            }
        }
        let link = |alias, name| [("links", alias), ("links", name)];
        let all = self.aliases.iter().map(|alias| ("aliases", alias));
        for (field, name) in all.chain(self.links.iter().flat_map(|(alias, name)| link(alias, name))) {
            if check_name(ObjectKind::Endpoint, name).is_err() || name.contains(char::is_whitespace) {
                let why = "expected 1 to 255 bytes without blanks and control characters";
                return Err(Error::invalid(field, abridged(name), why));
            }
        }
        Ok(())
    }
}

/// Reads docker's `name:alias` (libnetwork's `netutils.ParseAlias`) into the alias and the name it stands for.
///
/// # Errors
/// `InvalidParameter` for anything else.
pub fn parse_link(text: &str) -> Result<(String, String)> {
    match text.split(':').collect::<Vec<_>>()[..] {
        [name, alias] if !name.is_empty() && !alias.is_empty() => Ok((alias.to_owned(), name.to_owned())),
        _ => Err(Error::invalid("links", abridged(text), "expected name:alias")),
    }
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

    /// Adds a port that it serves.
    #[must_use]
    pub fn expose(mut self, port: TransportPort) -> Self {
        self.ports.exposed.push(port);
        self
    }

    /// Has a port of the host lead to it.
    #[must_use]
    pub fn publish(mut self, binding: PortBinding) -> Self {
        self.ports.map.push(binding);
        self
    }

    /// Adds a name under which everybody on its network finds it.
    #[must_use]
    pub fn alias(mut self, alias: impl Into<String>) -> Self {
        self.names.aliases.push(alias.into());
        self
    }

    /// Adds a name under which its own container finds another endpoint.
    #[must_use]
    pub fn link(mut self, name: impl Into<String>, alias: impl Into<String>) -> Self {
        self.names.links.insert(alias.into(), name.into());
        self
    }

    /// Has it not be found under its own name.
    #[must_use]
    pub fn anonymous(mut self) -> Self {
        self.names.anonymous = true;
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
        self.ports.validate()?;
        self.names.validate()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_a_name_and_an_alias() {
        assert_eq!(parse_link("db:data").expect("a link"), ("data".to_owned(), "db".to_owned()));
        for text in ["", ":", "db", "db:", ":data", "a:b:c"] {
            let _ = parse_link(text).expect_err(text);
        }
    }

    #[test]
    fn names_without_sense_are_refused() {
        EndpointSpec::new("e").alias("web").link("db", "data").validate().expect("fine");
        let long = "x".repeat(256);
        for bad in ["", " ", "two words", "a\nb", &long] {
            for spec in [
                EndpointSpec::new("e").alias(bad),
                EndpointSpec::new("e").link(bad, "data"),
                EndpointSpec::new("e").link("db", bad),
            ] {
                let _ = spec.validate().expect_err(bad);
            }
        }
    }
}
