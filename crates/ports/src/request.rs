//! What is asked for, and what of it makes no sense.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use netloom_model::{EndpointId, Error, HostPorts, PortRange, Protocol, Result};

/// The most requests at once.
pub const MAX_REQUESTS: usize = 16_384;
/// The most addresses of one request.
pub const MAX_ADDRESSES: usize = 16;
/// The most ports that the requests of one call may be for, each counted on each of its addresses.
pub const MAX_PORTS: usize = 131_072;

/// The field that refusals name.
const FIELD: &str = "port_map";

/// Who wants ports, or has them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortOwner {
    /// The endpoint.
    pub id: EndpointId,
    /// Its name, for whoever wants the same port.
    pub name: Arc<str>,
}

/// A wish for one port of the host, or for several in a row, on one address or on several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortRequest {
    /// The protocol.
    pub protocol: Protocol,
    /// Addresses of the host that get the same ports; `0.0.0.0` and `::` for every one of their family.
    pub addresses: Arc<[IpAddr]>,
    /// Where to look: the host's dynamic range when absent. A range of as many ports as are wanted is taken as a
    /// whole; from a longer one, one port is chosen.
    pub range: Option<PortRange>,
    /// How many ports in a row.
    pub count: u16,
}

impl PortRequest {
    /// Any port of the dynamic range.
    #[must_use]
    pub fn any(protocol: Protocol, addresses: Arc<[IpAddr]>) -> Self {
        Self { protocol, addresses, range: None, count: 1 }
    }

    /// This port.
    #[must_use]
    pub fn exactly(protocol: Protocol, addresses: Arc<[IpAddr]>, port: u16) -> Self {
        Self { protocol, addresses, range: Some(PortRange::one(port)), count: 1 }
    }

    /// One port of a range.
    #[must_use]
    pub fn one_of(protocol: Protocol, addresses: Arc<[IpAddr]>, range: PortRange) -> Self {
        Self { protocol, addresses, range: Some(range), count: 1 }
    }

    /// Every port of a range.
    ///
    /// # Errors
    /// `InvalidParameter` for a range that is none, or has all 65,535 ports and one more.
    pub fn all_of(protocol: Protocol, addresses: Arc<[IpAddr]>, range: PortRange) -> Result<Self> {
        range.validate(FIELD)?;
        let whole = || Error::invalid(FIELD, range, "no range has more than 65535 ports");
        let count = u16::try_from(range.count()).map_err(|_| whole())?;
        Ok(Self { protocol, addresses, range: Some(range), count })
    }

    /// Whether it leaves a choice: another port may do where one cannot be had.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.range.is_none_or(|range| range.count() > usize::from(self.count))
    }

    /// In which order requests are served: those without a choice first, those with the widest last.
    pub(crate) fn freedom(&self) -> u8 {
        match self.range {
            None => 2,
            Some(_) if self.is_open() => 1,
            Some(_) => 0,
        }
    }

    /// The ports that it may be given.
    pub(crate) fn wanted(&self, dynamic: PortRange) -> HostPorts {
        HostPorts {
            protocol: self.protocol,
            addresses: self.addresses.clone(),
            range: self.range.unwrap_or(dynamic),
        }
    }

    fn invalid(&self, why: &str) -> Error {
        let range = self.range.map_or_else(|| "any port".to_owned(), |range| range.to_string());
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        Error::invalid(FIELD, format!("{range}/{} on {}", self.protocol, addresses.join(", ")), why)
    }

    fn validate(&self) -> Result<()> {
        if self.protocol == Protocol::Icmp {
            return Err(self.invalid("icmp has no ports"));
        }
        if self.count == 0 {
            return Err(self.invalid("at least one port has to be wanted"));
        }
        if let Some(range) = self.range {
            range.validate(FIELD)?;
            let (there, wanted) = (range.count(), usize::from(self.count));
            if there < wanted || (wanted > 1 && there > wanted) {
                let why = format!("the range has {there} ports for {wanted} of the container");
                return Err(self.invalid(&why));
            }
        }
        self.validate_addresses()
    }

    fn validate_addresses(&self) -> Result<()> {
        let addresses = &self.addresses;
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(self.invalid(&format!("it has to name 1 to {MAX_ADDRESSES} addresses")));
        }
        for (n, address) in addresses.iter().enumerate() {
            if address.is_multicast() || *address == IpAddr::from([255; 4]) {
                return Err(self.invalid("the host's address must be one of its own"));
            }
            if address.to_canonical() != *address {
                return Err(self.invalid("an IPv4 address has to be written as one"));
            }
            if matches!(address, IpAddr::V6(v6) if Ipv6Addr::is_unicast_link_local(v6)) {
                return Err(self.invalid("a link-local address is one only together with its link"));
            }
            let in_the_way = |other: &&IpAddr| {
                *other == address
                    || (other.is_ipv4() == address.is_ipv4()
                        && (other.is_unspecified() || address.is_unspecified()))
            };
            if addresses[..n].iter().any(|other| in_the_way(&other)) {
                return Err(self.invalid("two of its addresses overlap"));
            }
        }
        Ok(())
    }
}

/// Checks each, and that they are not too many.
pub(crate) fn validate(requests: &[PortRequest]) -> Result<()> {
    if requests.len() > MAX_REQUESTS {
        return Err(Error::invalid(FIELD, requests.len(), format!("at most {MAX_REQUESTS} entries")));
    }
    requests.iter().try_for_each(PortRequest::validate)?;
    let ports: usize =
        requests.iter().map(|request| usize::from(request.count) * request.addresses.len()).sum();
    if ports > MAX_PORTS {
        let why = format!("at most {MAX_PORTS} ports, counted on each address");
        return Err(Error::invalid(FIELD, ports, why));
    }
    Ok(())
}

/// Two requests of one call for the same port.
pub(crate) fn overlap(request: &PortRequest, other: &HostPorts) -> Error {
    request.invalid(&format!("it overlaps {other}, which is asked for as well"))
}
