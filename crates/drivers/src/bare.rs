//! The drivers `host` and `null`: networks whose endpoints bring nothing into a sandbox, no interface and no
//! address.
//!
//! Parity: moby `drivers/host/host.go` and `drivers/null/null.go`. An endpoint of `null` says that its sandbox has
//! its loopback and no more, one of `host` that it uses the network of the host. There is one network of each,
//! and it stays. Neither driver has anything to remember: the controller counts the networks
//! ([`Capability::permanent`]), so a driver that was restarted cannot miscount.

use std::collections::BTreeMap;

use netloom_model::config::Scope;
use netloom_model::{EndpointId, Error, NetworkId, Result};

use crate::driver::{Begun, Driver, DriverCx, done};
use crate::options::OURS;
use crate::request::{
    Capability, CreateEndpoint, CreateNetwork, EndpointCreated, Join, Joined, Leave, Left, NetworkCreated,
    Restored,
};

/// The type of the driver whose sandboxes use the host's network.
pub const HOST: &str = "host";
/// The type of the driver whose sandboxes have no network.
pub const NULL: &str = "null";

/// A driver that makes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Bare {
    kind: &'static str,
}

impl Bare {
    /// The `host` driver.
    #[must_use]
    pub fn host() -> Self {
        Self { kind: HOST }
    }

    /// The `null` driver.
    #[must_use]
    pub fn null() -> Self {
        Self { kind: NULL }
    }

    /// Refuses what would have no effect.
    fn check(self, options: &BTreeMap<String, String>, fields: &[(&str, bool)]) -> Result<()> {
        let why = || {
            format!("the {} driver makes no interface, so it would have no effect; leave it out", self.kind)
        };
        if let Some((field, _)) = fields.iter().find(|(_, given)| *given) {
            return Err(Error::invalid(*field, true, why()));
        }
        match options.iter().find(|(key, _)| key.starts_with(OURS)) {
            Some((key, value)) => Err(Error::invalid(key, value, why())),
            None => Ok(()),
        }
    }
}

impl Driver for Bare {
    fn kind(&self) -> &str {
        self.kind
    }

    fn capability(&self) -> Capability {
        Capability {
            scope: Scope::Local,
            needs_ipam: false,
            shares_pools: false,
            provides_gateway: false,
            adopts: &[],
            permanent: true,
            hears_of_bare: false,
        }
    }

    fn create_network(&mut self, _: &DriverCx, request: CreateNetwork) -> Begun<NetworkCreated> {
        if request.restored == Restored::Fresh {
            self.check(&request.options, &[("ipv6", request.ipv6), ("internal", request.internal)])?;
        }
        done(NetworkCreated::default())
    }

    fn delete_network(&mut self, _: &DriverCx, _: NetworkId) -> Begun<()> {
        done(())
    }

    fn create_endpoint(&mut self, _: &DriverCx, request: CreateEndpoint) -> Begun<EndpointCreated> {
        if request.restored == Restored::Fresh {
            self.check(&request.options, &[("mac", request.mac.is_some())])?;
        }
        done(EndpointCreated::default())
    }

    fn delete_endpoint(&mut self, _: &DriverCx, _: NetworkId, _: EndpointId) -> Begun<()> {
        done(())
    }

    fn join(&mut self, _: &DriverCx, _: Join) -> Begun<Joined> {
        // Whoever has no network, or the host's, needs no way out either.
        done(Joined { disable_gateway_service: true, ..Joined::default() })
    }

    fn leave(&mut self, _: &DriverCx, _: Leave) -> Begun<Left> {
        done(Left::default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use futures::FutureExt;
    use netloom_kernel::Netns;
    use netloom_model::{JoinId, MacAddr, Seldom};
    use netloom_testkit::SimKernel;

    use super::*;
    use crate::request::Interface;

    fn at_once<T>(begun: Begun<T>) -> Result<T> {
        begun?.now_or_never().expect("there is nothing to wait for")
    }

    fn network(restored: Restored) -> CreateNetwork {
        CreateNetwork {
            network: "bare".parse().expect("an id"),
            name: "bare".into(),
            restored,
            options: BTreeMap::new(),
            internal: false,
            ipv6: false,
            v4: Vec::new(),
            v6: Vec::new(),
            found: BTreeMap::new(),
        }
    }

    fn endpoint(restored: Restored) -> CreateEndpoint {
        CreateEndpoint {
            network: "bare".parse().expect("an id"),
            endpoint: format!("{:064x}", 2).parse().expect("an id"),
            name: "web".into(),
            restored,
            ipv4: None,
            ipv6: None,
            mac: None,
            options: BTreeMap::new(),
            ports: Seldom::default(),
            joined: None,
        }
    }

    #[test]
    fn null_and_host_endpoints_join_without_interfaces() {
        let kernel = SimKernel::new();
        let before = kernel.snapshot();
        let deadline = Instant::now() + Duration::from_secs(30);
        let cx = DriverCx {
            kernel: Arc::new(kernel.clone()),
            instance: "test".into(),
            outside: Arc::new(crate::NoOutside),
            deadline,
        };
        for (mut driver, kind) in [(Bare::null(), "null"), (Bare::host(), "host")] {
            assert_eq!(driver.kind(), kind);
            let Capability { scope, needs_ipam, provides_gateway, permanent, .. } = driver.capability();
            assert_eq!((scope, needs_ipam, provides_gateway, permanent), (Scope::Local, false, false, true));
            at_once(driver.create_network(&cx, network(Restored::Fresh))).expect("made");
            let made = at_once(driver.create_endpoint(&cx, endpoint(Restored::Fresh))).expect("made");
            assert_eq!(made, EndpointCreated::default(), "no address, no interface");
            let CreateEndpoint { network, endpoint, .. } = endpoint(Restored::Fresh);
            let (netns, ifname) = (Netns::Host, "eth0".parse().expect("a name"));
            let join = Join { network, endpoint, join: JoinId(1), netns, ifname, sandbox: Arc::default() };
            let joined = at_once(driver.join(&cx, join)).expect("joined");
            assert_eq!(joined.interface, Interface::None);
            assert!(joined.gateway.is_none() && joined.gateway6.is_none() && joined.routes.is_empty());
            let left =
                at_once(driver.leave(&cx, Leave { network, endpoint, join: JoinId(1) })).expect("left");
            assert!(left.remains.is_empty());
            at_once(driver.delete_endpoint(&cx, network, endpoint)).expect("deleted");
            at_once(driver.delete_network(&cx, network)).expect("it takes back what could not be completed");
        }
        assert_eq!(kernel.ops_count(), 0);
        kernel.assert_pristine(&before);
    }

    #[test]
    fn what_would_have_no_effect_is_refused_unless_it_is_recorded() {
        let cx = DriverCx {
            kernel: Arc::new(SimKernel::new()),
            outside: Arc::new(crate::NoOutside),
            instance: "test".into(),
            deadline: Instant::now(),
        };
        let mut driver = Bare::null();
        let option = |key: &str| BTreeMap::from([(key.to_owned(), "1500".to_owned())]);
        for restored in [Restored::Fresh, Restored::FromStore] {
            let with_ipv6 = CreateNetwork { ipv6: true, ..network(restored) };
            let internal = CreateNetwork { internal: true, ..network(restored) };
            let with_mtu =
                CreateNetwork { options: option("com.docker.network.driver.mtu"), ..network(restored) };
            for request in [with_ipv6, internal, with_mtu] {
                assert_eq!(
                    at_once(driver.create_network(&cx, request)).is_err(),
                    restored == Restored::Fresh
                );
            }
            let with_mac = CreateEndpoint { mac: Some(MacAddr([2; 6])), ..endpoint(restored) };
            assert_eq!(at_once(driver.create_endpoint(&cx, with_mac)).is_err(), restored == Restored::Fresh);
        }
        let others = CreateNetwork { options: option("com.example.color"), ..network(Restored::Fresh) };
        at_once(driver.create_network(&cx, others)).expect("not ours");
    }
}
