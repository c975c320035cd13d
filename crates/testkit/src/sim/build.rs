//! Building a simulated kernel.

use std::net::IpAddr;

use ipnet::IpNet;
use netloom_kernel::{Netns, Route};
use netloom_model::{Error, IfName, Reason};

use super::faults::FaultPlan;
use super::latency::Latency;
use super::world::{ETHERNET_MTU, HOST, Kind, NewLink, World};
use super::{SimKernel, State};

/// What a simulated kernel starts with.
#[derive(Clone, Debug, Default)]
pub struct SimKernelBuilder {
    uplinks: Vec<Uplink>,
    latency: Latency,
    faults: FaultPlan,
    log: usize,
}

/// A device of the host that leads outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Uplink {
    name: IfName,
    address: IpNet,
}

impl SimKernelBuilder {
    /// Gives the host a device that leads outside, up, with this address. The first of each address family
    /// also gets a default route, by the first address of its subnet that is not its own.
    ///
    /// Such devices survive [`SimKernel::reboot`].
    ///
    /// # Errors
    /// `InvalidParameter` when the name is not that of an interface or already given, or the text is not an
    /// address with a prefix length, such as `192.0.2.10/24`.
    pub fn host_link(mut self, name: &str, address: &str) -> Result<Self, Error> {
        let invalid = |option: &str, value: &str, why: &str| {
            Error::from(Reason::InvalidOption { option: option.into(), value: value.into(), why: why.into() })
        };
        let parsed: IfName = name.parse()?;
        if parsed == super::world::loopback_name() || self.uplinks.iter().any(|have| have.name == parsed) {
            return Err(invalid("interface name", name, "the host has a link of this name"));
        }
        if super::links::check_name(parsed).is_err() {
            return Err(invalid("interface name", name, "Linux refuses a link of this name"));
        }
        let address = address.parse().map_err(|_| {
            invalid("address", address, "an address looks like 192.0.2.10/24 or 2001:db8::10/64")
        })?;
        self.uplinks.push(Uplink { name: parsed, address });
        Ok(self)
    }

    /// How long operations take. By default they are answered at once.
    #[must_use]
    pub fn latency(self, latency: Latency) -> Self {
        Self { latency, ..self }
    }

    /// Faults from the start on.
    #[must_use]
    pub fn faults(self, faults: FaultPlan) -> Self {
        Self { faults, ..self }
    }

    /// Keeps the newest so many operations with their answers. By default none is kept: it costs memory.
    #[must_use]
    pub fn log(self, limit: usize) -> Self {
        Self { log: limit, ..self }
    }

    /// The kernel.
    #[must_use]
    pub fn build(self) -> SimKernel {
        let mut state = State::new();
        for uplink in &self.uplinks {
            state.world.add_uplink(*uplink);
        }
        state.latency = self.latency;
        state.faults.plan_all(self.faults);
        state.log.limit = self.log;
        SimKernel::with(state, self.uplinks)
    }
}

impl World {
    /// Adds a device that leads outside, with its address and, if there is none yet, a default route.
    pub(super) fn add_uplink(&mut self, uplink: Uplink) {
        let Uplink { name, address } = uplink;
        let kind = Kind::Device;
        let id = self.add_link(HOST, NewLink { name, kind, mac: None, mtu: ETHERNET_MTU, alias: None });
        self.set_up(id, true);
        let default: IpNet = match address {
            IpNet::V4(_) => ipnet::Ipv4Net::default().into(),
            IpNet::V6(_) => ipnet::Ipv6Net::default().into(),
        };
        // What Linux would refuse here, such as a subnet without a gateway, is left out.
        if self.add_address(id, address).is_ok()
            && let Some(gateway) = gateway_of(address)
        {
            let route = Route { destination: default, via: Some(gateway), link: name };
            let _ = self.add_route(Netns::Host, route);
        }
    }
}

/// The first address of a subnet that is not this one.
fn gateway_of(address: IpNet) -> Option<IpAddr> {
    address.hosts().take(3).find(|host| *host != address.addr() && *host != address.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_the_first_other_address() {
        for (address, gateway) in [
            ("192.0.2.10/24", Some("192.0.2.1")),
            ("192.0.2.1/24", Some("192.0.2.2")),
            ("2001:db8::10/64", Some("2001:db8::1")),
            ("192.0.2.1/32", None),
        ] {
            let found = gateway_of(address.parse().expect("valid"));
            assert_eq!(found, gateway.map(|text| text.parse().expect("valid")), "{address}");
        }
    }

    #[test]
    fn bad_uplinks_are_refused() {
        let builder = SimKernelBuilder::default;
        assert!(builder().host_link("eth0", "192.0.2.10").is_err());
        assert!(builder().host_link("a name", "192.0.2.10/24").is_err());
        assert!(builder().host_link("lo", "192.0.2.10/24").is_err());
        assert!(builder().host_link("default", "192.0.2.10/24").is_err());
        let twice = builder().host_link("eth0", "192.0.2.10/24").expect("valid");
        assert!(twice.host_link("eth0", "192.0.2.11/24").is_err());
    }
}
