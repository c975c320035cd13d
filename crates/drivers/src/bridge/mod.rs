//! The bridge driver: one Linux bridge a network, one veth pair a joined endpoint.
//!
//! Parity: moby `drivers/bridge/bridge.go`. Different on purpose: an endpoint costs the kernel nothing
//! before it joins; then its link is made in one message directly inside the sandbox, under its final name,
//! instead of being made outside, moved and renamed.

pub mod config;
mod device;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use netloom_kernel::{LinkTag, Op, execute_all};
use netloom_model::{EndpointId, Error, Holder, IfName, MacAddr, NetworkId, ObjectKind, Reason, Result};
use rustc_hash::FxBuildHasher;

use self::config::BridgeConfig;
use self::device::Added;
use crate::driver::{Begun, Driver, DriverCx, done};
use crate::request::{
    Capability, CreateEndpoint, CreateNetwork, EndpointCreated, Interface, Join, Joined, Leave, Left,
    NetworkCreated, OperInfo, Restored, Scope,
};

/// The driver's type.
pub const KIND: &str = "bridge";
/// The most ports a Linux bridge takes (`BR_MAX_PORTS` less one).
pub const MAX_PORTS: usize = 1023;
/// The key of the hardware address in [`OperInfo`] (`netlabel.MacAddress`).
const MAC_LABEL: &str = "com.docker.network.endpoint.macaddress";

/// The bridge driver.
#[derive(Debug, Default)]
pub struct Bridge {
    networks: HashMap<NetworkId, Network, FxBuildHasher>,
    /// Deleted or forgotten networks whose devices are not gone for sure: a deletion that failed is asked for
    /// again.
    going: HashMap<NetworkId, Going, FxBuildHasher>,
    /// The same for the links of endpoints that left.
    leaving: HashMap<EndpointId, Leaving, FxBuildHasher>,
    /// Makes the names of links differ between joins of one endpoint: an earlier link may still be dying.
    joins: u16,
}

#[derive(Debug)]
struct Network {
    config: BridgeConfig,
    added: Added,
    endpoints: HashMap<EndpointId, Endpoint, FxBuildHasher>,
    ports: usize,
}

/// Set by the slow part of a removal when it has succeeded.
type Gone = Arc<OnceLock<()>>;

#[derive(Clone, Debug)]
struct Going {
    config: BridgeConfig,
    added: Added,
    gone: Gone,
}

#[derive(Clone, Debug)]
struct Leaving {
    /// Unknown to a driver that was restarted.
    link: Option<IfName>,
    gone: Gone,
}

#[derive(Debug)]
struct Endpoint {
    mac: MacAddr,
    /// The host's end of its link while it is joined.
    link: Option<IfName>,
}

impl Bridge {
    fn network(&mut self, id: NetworkId) -> Result<&mut Network> {
        self.networks.get_mut(&id).ok_or_else(|| Error::not_found(ObjectKind::Network, id))
    }

    fn plan_network(&self, cx: &DriverCx, request: &CreateNetwork) -> Result<BridgeConfig> {
        let config = BridgeConfig::read(&cx.instance, request)?;
        for (id, other) in &self.networks {
            if *id == request.network {
                let holder = Holder::new(ObjectKind::Network, id, &other.config.network_name);
                return Err(Reason::IdTaken { id: id.to_string(), holder }.into());
            }
            if let Some(why) = config.conflict(&other.config) {
                let other = Holder::new(ObjectKind::Network, id, &other.config.network_name);
                let message = format!("conflicts with {other}: {why}");
                return Err(Reason::Driver {
                    driver: KIND.into(),
                    kind: netloom_model::ErrorKind::Forbidden,
                    message,
                }
                .into());
            }
        }
        Ok(config)
    }

    fn plan_endpoint(&mut self, request: &CreateEndpoint) -> Result<EndpointCreated> {
        let network = self.network(request.network)?;
        if network.endpoints.contains_key(&request.endpoint) {
            let holder = Holder::new(ObjectKind::Endpoint, request.endpoint, &request.name);
            return Err(Reason::IdTaken { id: request.endpoint.to_string(), holder }.into());
        }
        let mac = match (request.mac, request.ipv4) {
            (Some(mac), _) => mac,
            (None, Some(ipv4)) => MacAddr::from_ipv4(ipv4.addr()),
            (None, None) => {
                return Err(Error::invalid("ipv4", "", "a bridge endpoint needs an IPv4 address"));
            }
        };
        network.ports += usize::from(request.link.is_some());
        network.endpoints.insert(request.endpoint, Endpoint { mac, link: request.link });
        Ok(EndpointCreated { mac: Some(mac), interface_prefix: Some("eth".into()), ..Default::default() })
    }

    fn plan_join(&mut self, cx: &DriverCx, request: &Join) -> Result<(Op, BridgeConfig, Joined)> {
        self.joins = self.joins.wrapping_add(1);
        let serial = self.joins;
        if self.leaving.get(&request.endpoint).is_some_and(|leaving| leaving.gone.get().is_none()) {
            // Asking for the old link's removal again must not hit a new link.
            let object = Holder::new(ObjectKind::Endpoint, request.endpoint, "");
            return Err(Reason::WrongPhase { object, phase: "leaving its sandbox" }.into());
        }
        let network = self.network(request.network)?;
        let endpoint = network
            .endpoints
            .get_mut(&request.endpoint)
            .ok_or_else(|| Error::not_found(ObjectKind::Endpoint, request.endpoint))?;
        if let Some(link) = endpoint.link {
            return Err(Error::internal(format!("the endpoint has link {link} already")));
        }
        if network.ports >= MAX_PORTS {
            return Err(device::full(&network.config));
        }
        let link: IfName = format!("veth{}{serial:04x}", &request.endpoint.as_str()[..7]).parse()?;
        endpoint.link = Some(link);
        network.ports += 1;
        let config = &network.config;
        let create = Op::CreateVeth {
            host: link,
            peer: request.ifname,
            netns: request.netns,
            master: Some(config.bridge),
            mac: Some(endpoint.mac),
            mtu: config.mtu,
            tag: LinkTag::new(&cx.instance, "endpoint", request.endpoint),
        };
        let outward = !config.internal;
        let joined = Joined {
            interface: Interface::InPlace { link: Some(link) },
            gateway: outward.then_some(config.gateway),
            gateway6: config.gateway6.filter(|_| outward),
            ..Joined::default()
        };
        Ok((create, config.clone(), joined))
    }

    /// Forgets an endpoint's link and returns it.
    fn take_link(&mut self, network: NetworkId, endpoint: EndpointId) -> Option<IfName> {
        let network = self.networks.get_mut(&network)?;
        let link = network.endpoints.get_mut(&endpoint)?.link.take()?;
        network.ports -= 1;
        Some(link)
    }
}

impl Driver for Bridge {
    fn kind(&self) -> &str {
        KIND
    }

    fn capability(&self) -> Capability {
        Capability { scope: Scope::Local, needs_ipam: true, provides_gateway: true }
    }

    fn create_network(&mut self, cx: &DriverCx, request: CreateNetwork) -> Begun<NetworkCreated> {
        let config = self.plan_network(cx, &request)?;
        let added = Added::default();
        let network =
            Network { config: config.clone(), added: added.clone(), endpoints: HashMap::default(), ports: 0 };
        self.networks.insert(request.network, network);
        let cx = cx.clone();
        Ok(async move {
            let device = format!("bridge {}", config.bridge);
            let made = device::set_up(cx, config, added).await?;
            let remade = (made && request.restored == Restored::FromStore).then_some(device);
            Ok(NetworkCreated { tables: Vec::new(), remade: remade.into_iter().collect() })
        }
        .boxed())
    }

    fn delete_network(&mut self, cx: &DriverCx, network: NetworkId) -> Begun<()> {
        self.going.retain(|_, going| going.gone.get().is_none());
        self.forget_network(network);
        let Some(Going { config, added, gone }) = self.going.get(&network).cloned() else {
            let tag = LinkTag::new(&cx.instance, "network", network);
            return Ok(device::remove_marked(cx.clone(), tag).boxed());
        };
        let cx = cx.clone();
        Ok(async move {
            device::take_down(cx, config, added).await?;
            let _ = gone.set(());
            Ok(())
        }
        .boxed())
    }

    fn create_endpoint(&mut self, _cx: &DriverCx, request: CreateEndpoint) -> Begun<EndpointCreated> {
        done(self.plan_endpoint(&request)?)
    }

    fn delete_endpoint(&mut self, _cx: &DriverCx, network: NetworkId, endpoint: EndpointId) -> Begun<()> {
        self.forget_endpoint(network, endpoint);
        done(())
    }

    fn forget_network(&mut self, network: NetworkId) {
        // What the failed restore added to somebody else's bridge is taken back when the network is deleted.
        if let Some(Network { config, added, .. }) = self.networks.remove(&network) {
            self.going.insert(network, Going { config, added, gone: Gone::default() });
        }
    }

    fn forget_endpoint(&mut self, network: NetworkId, endpoint: EndpointId) {
        self.take_link(network, endpoint);
        if let Some(network) = self.networks.get_mut(&network) {
            network.endpoints.remove(&endpoint);
        }
    }

    fn endpoint_info(&self, _cx: &DriverCx, network: NetworkId, endpoint: EndpointId) -> Begun<OperInfo> {
        let endpoint = self.networks.get(&network).and_then(|network| network.endpoints.get(&endpoint));
        done(endpoint.map(|e| (MAC_LABEL.to_owned(), e.mac.to_string())).into_iter().collect())
    }

    fn join(&mut self, cx: &DriverCx, request: Join) -> Begun<Joined> {
        let (create, config, joined) = self.plan_join(cx, &request)?;
        let (kernel, deadline) = (cx.kernel.clone(), cx.deadline);
        Ok(async move {
            let made = execute_all(&*kernel, vec![create], deadline).await;
            made.map(|()| joined).map_err(|error| device::full_or(error, &config))
        }
        .boxed())
    }

    fn leave(&mut self, cx: &DriverCx, request: Leave) -> Begun<Left> {
        let Leave { network, endpoint } = request;
        self.leaving.retain(|_, leaving| leaving.gone.get().is_none());
        let link = self.take_link(network, endpoint);
        if link.is_some() {
            self.leaving.insert(endpoint, Leaving { link, gone: Gone::default() });
        }
        let unknown = || Leaving { link: None, gone: Gone::default() };
        let Leaving { link, gone } = self.leaving.entry(endpoint).or_insert_with(unknown).clone();
        let cx = cx.clone();
        Ok(async move {
            let tag = LinkTag::new(&cx.instance, "endpoint", endpoint);
            let links = match link {
                Some(link) => vec![link],
                None => device::marked(&cx, &tag).await?,
            };
            let mut left = Left::default();
            for name in links {
                let delete = Op::DeleteLink { name, tag: Some(tag.clone()) };
                match execute_all(&*cx.kernel, vec![Op::CutLink { name }], cx.deadline).await {
                    Ok(()) => left.remains.push(delete),
                    Err(error) if error.already_gone() => {}
                    Err(error) => {
                        // It may still pass traffic, so the caller has to wait for its deletion.
                        tracing::warn!(%error, link = %name, "cannot cut a link off; deleting it at once");
                        let deleted = execute_all(&*cx.kernel, vec![delete.clone()], cx.deadline).await;
                        if deleted.is_err_and(|error| !error.already_gone()) {
                            left.remains.push(delete);
                        }
                    }
                }
            }
            // What remains is the caller's from here on.
            let _ = gone.set(());
            Ok(left)
        }
        .boxed())
    }
}
