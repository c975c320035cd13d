//! The bridge driver: one Linux bridge a network, one veth pair a joined endpoint.
//!
//! Parity: moby `drivers/bridge/bridge.go`. Different on purpose: an endpoint costs the kernel nothing
//! before it joins; then its link is made in one message directly inside the sandbox, under its final name,
//! instead of being made outside, moved and renamed.

mod claim;
pub mod config;
mod desired;
mod device;
mod family;
mod found;
mod leaving;
mod offered;
mod ports;
mod recover;
mod rules;
mod settings;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use futures::channel::oneshot;
use netloom_kernel::{LinkTag, Op, PortFlag, execute_all};
use netloom_model::config::Scope;
use netloom_model::{
    Certainty, EndpointId, Error, Holder, IfName, JoinId, MacAddr, NetworkId, ObjectKind, Published, Reason,
    Result,
};
use rustc_hash::FxBuildHasher;

use self::config::{BridgeConfig, default_bridge};
use self::device::Touched;
use self::found::Found;
use self::settings::Settings;
pub use self::settings::{ALLOW_DIRECT_ROUTING, BRIDGE_ACCEPT_FWMARK, USERLAND_PROXY, accepted_mark};
use crate::config::DriverConfig;
use crate::desired::{DesiredObject, Place};
use crate::driver::{Begun, Driver, DriverCx, Work, done};
use crate::outside::Addresses;
use crate::request::{
    Capability, CreateEndpoint, CreateNetwork, EndpointCreated, ExternalConnectivity, Interface, Join,
    Joined, KernelSurvey, Leave, Left, NetworkCreated, OperInfo, Present, Programmed, Recovered, Restored,
};

/// The driver's type.
pub const KIND: &str = "bridge";
/// The most ports a Linux bridge takes (`BR_MAX_PORTS` less one).
pub const MAX_PORTS: usize = 1023;
/// What the names of interfaces begin with where the network does not say.
const INTERFACE: &str = "eth";
/// The key of the hardware address in [`OperInfo`] (`netlabel.MacAddress`).
const MAC_LABEL: &str = "com.docker.network.endpoint.macaddress";
/// The bridge driver.
#[derive(Debug, Default)]
pub struct Bridge {
    networks: HashMap<NetworkId, Network, FxBuildHasher>,
    settings: Settings,
    /// Deleted or forgotten networks whose devices are not gone for sure: a deletion that failed is asked for
    /// again.
    going: HashMap<NetworkId, Going, FxBuildHasher>,
}

#[derive(Debug)]
struct Network {
    config: Arc<BridgeConfig>,
    found: Found,
    touched: Touched,
    endpoints: HashMap<EndpointId, Endpoint, FxBuildHasher>,
    ports: usize,
    /// Set when the device was made, under a name of the engine's choice: nobody on it remembers anything.
    blank: Blank,
    /// Whether an endpoint has had a hardware address that does not follow from its IPv4 address, or was joined before
    /// the driver was made: who remembers what of them is not known.
    strangers: bool,
}

/// Set by a slow part that found out that there is nothing (any more).
type Gone = Arc<OnceLock<()>>;
/// Set by a slow part that found out that there was nothing before.
type Blank = Arc<OnceLock<()>>;

#[derive(Clone, Debug)]
struct Going {
    config: Arc<BridgeConfig>,
    found: Found,
    touched: Touched,
    gone: Gone,
}

#[derive(Debug)]
struct Endpoint {
    mac: MacAddr,
    addresses: Addresses,
    /// Whether that is the one that follows from its IPv4 address.
    derived: bool,
    /// Its join, while it is joined.
    present: Option<Present>,
    /// Set when the kernel refused the link of that join: what has its name is somebody else's.
    refused: Gone,
    /// Set when ports of the host lead to it, or may lead to it since before the driver was made.
    outward: Option<Box<Outward>>,
}

/// What is published of an endpoint.
#[derive(Debug, Default)]
struct Outward {
    addresses: Addresses,
    /// The end of the work that was decided on last.
    last: Option<oneshot::Receiver<()>>,
    /// Set when that has withdrawn everything.
    clear: Gone,
}

impl Outward {
    /// Publishing and withdrawing, in the order in which they were decided on.
    fn in_turn<W: Future>(&mut self, work: W) -> impl Future<Output = W::Output> + use<W> {
        let (end, last) = oneshot::channel();
        let before = self.last.replace(last);
        async move {
            // Ends with the work, also with work that is dropped.
            let _end: oneshot::Sender<()> = end;
            if let Some(before) = before {
                let _ = before.await;
            }
            work.await
        }
    }
}

/// The host's end of a link. The join makes the names of one endpoint's links differ: an earlier one may
/// still be dying.
fn link_name(endpoint: EndpointId, JoinId(join): JoinId) -> Result<IfName> {
    let number = [12, 8, 4, 0].map(|shift| char::from_digit(join >> shift & 15, 16).unwrap_or_default());
    ["veth", &endpoint.short()[..7], &String::from_iter(number)].concat().parse()
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
        if request.restored == Restored::Fresh {
            offered::check_endpoint(&request.options)?;
        }
        let network = self.network(request.network)?;
        if network.endpoints.contains_key(&request.endpoint) {
            let holder = Holder::new(ObjectKind::Endpoint, request.endpoint, &request.name);
            return Err(Reason::IdTaken { id: request.endpoint.to_string(), holder }.into());
        }
        let follows = request.ipv4.map(|ipv4| MacAddr::from_ipv4(ipv4.addr()));
        let Some(mac) = request.mac.or(follows) else {
            return Err(Error::invalid("ipv4", "", "a bridge endpoint needs an IPv4 address"));
        };
        let derived = follows == Some(mac);
        network.strangers |= !derived || request.joined.is_some();
        network.ports += usize::from(request.joined.is_some());
        let addresses =
            Addresses { v4: request.ipv4.map(|net| net.addr()), v6: request.ipv6.map(|net| net.addr()) };
        let outward = request.joined.map(|_| Box::new(Outward { addresses, ..Outward::default() }));
        let present = request.joined;
        let endpoint = Endpoint { mac, addresses, derived, present, refused: Gone::default(), outward };
        network.endpoints.insert(request.endpoint, endpoint);
        let prefix = network.config.interface_prefix.to_string();
        Ok(EndpointCreated { mac: Some(mac), interface_prefix: Some(prefix), ..Default::default() })
    }

    fn plan_join(&mut self, cx: &DriverCx, request: &Join) -> Result<(Op, Arc<BridgeConfig>, Gone, Joined)> {
        let network = self.network(request.network)?;
        let endpoint = network
            .endpoints
            .get_mut(&request.endpoint)
            .ok_or_else(|| Error::not_found(ObjectKind::Endpoint, request.endpoint))?;
        if let Some(Present { join, .. }) = endpoint.present {
            return Err(Error::internal(format!("join {join} of the endpoint is in effect")));
        }
        if network.ports >= MAX_PORTS {
            return Err(device::full(&network.config));
        }
        let link = link_name(request.endpoint, request.join)?;
        endpoint.present = Some(Present { join: request.join, link: Some(link) });
        endpoint.refused = Gone::default();
        let refused = endpoint.refused.clone();
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
            gateway: config.gateway.filter(|_| outward),
            gateway6: config.gateway6.filter(|_| outward),
            ipv4_settled: endpoint.derived && !network.strangers && network.blank.get().is_some(),
            ..Joined::default()
        };
        Ok((create, config.clone(), refused, joined))
    }

    /// Ends that ports of the host lead to an endpoint; `None` where none do.
    fn withdraw(&mut self, cx: &DriverCx, network: NetworkId, endpoint: EndpointId) -> Option<Work<()>> {
        let known = self.networks.get_mut(&network).and_then(|network| network.endpoints.get_mut(&endpoint));
        let Some(known) = known else {
            // A driver that was restarted may not know it.
            return Some(cx.outside.withdraw(endpoint, Addresses::default()));
        };
        let outward = known.outward.as_deref_mut().filter(|outward| outward.clear.get().is_none())?;
        let (withdrawn, clear) = (cx.outside.withdraw(endpoint, outward.addresses), outward.clear.clone());
        let withdrawn = async move {
            withdrawn.await?;
            let _ = clear.set(());
            Ok(())
        };
        Some(outward.in_turn(withdrawn).boxed())
    }
}

impl Driver for Bridge {
    fn kind(&self) -> &str {
        KIND
    }

    fn configure(&mut self, config: &DriverConfig) -> Result<()> {
        self.settings = Settings::read(config)?;
        Ok(())
    }

    fn capability(&self) -> Capability {
        Capability {
            scope: Scope::Local,
            needs_ipam: true,
            shares_pools: false,
            provides_gateway: true,
            adopts: &[config::NAME],
            permanent: false,
            hears_of_bare: false,
        }
    }

    fn survey_network(&mut self, cx: &DriverCx, request: &CreateNetwork) -> Begun<BTreeMap<String, String>> {
        let config = self.plan_network(cx, request)?;
        let cx = cx.clone();
        Ok(async move { Ok(device::survey(&cx, &config).await?.record()) }.boxed())
    }

    fn create_network(&mut self, cx: &DriverCx, request: CreateNetwork) -> Begun<NetworkCreated> {
        let config = Arc::new(self.plan_network(cx, &request)?);
        let (found, touched) = (Found::read(&request.found), Touched::default());
        let network = Network {
            config: config.clone(),
            found: found.clone(),
            touched: touched.clone(),
            endpoints: HashMap::default(),
            ports: 0,
            blank: Blank::default(),
            strangers: false,
        };
        // To a bridge that the user has named the user may plug in more than endpoints of this engine.
        let blank = (!request.options.contains_key(config::NAME)).then(|| network.blank.clone());
        self.networks.insert(request.network, network);
        let cx = cx.clone();
        Ok(async move {
            let restored = request.restored == Restored::FromStore;
            if restored {
                // In an earlier life.
                let _ = touched.set(());
            }
            let device = format!("bridge {}", config.bridge);
            // Before anything can be plugged in.
            let walled = cx.outside.set_network(request.network, Some(rules::of(&config))).await?;
            let made = device::set_up(&cx, &config, (&found, &touched), request.restored).await?;
            if walled {
                device::lead_from_loopback(&cx, &config, &found).await?;
            }
            if let Some(blank) = blank.filter(|_| made) {
                let _ = blank.set(());
            }
            let remade = (made && restored).then_some(device);
            Ok(NetworkCreated { tables: Vec::new(), remade: remade.into_iter().collect() })
        }
        .boxed())
    }

    fn delete_network(&mut self, cx: &DriverCx, network: NetworkId) -> Begun<()> {
        self.going.retain(|_, going| going.gone.get().is_none());
        self.forget_network(network);
        let Some(Going { config, found, touched, gone }) = self.going.get(&network).cloned() else {
            let (tag, cx) = (LinkTag::new(&cx.instance, "network", network), cx.clone());
            return Ok(async move {
                device::remove_marked(cx.clone(), tag).await?;
                cx.outside.set_network(network, None).await.map(drop)
            }
            .boxed());
        };
        let cx = cx.clone();
        Ok(async move {
            device::take_down(&cx, &config, &found, &touched).await?;
            cx.outside.set_network(network, None).await?;
            let _ = gone.set(());
            Ok(())
        }
        .boxed())
    }

    fn create_endpoint(&mut self, cx: &DriverCx, request: CreateEndpoint) -> Begun<EndpointCreated> {
        let created = self.plan_endpoint(&request)?;
        let Some(link) = request.joined.and_then(|present| present.link) else { return done(created) };
        let (cx, config) = (cx.clone(), self.network(request.network)?.config.clone());
        Ok(async move {
            let remade = device::put_back(&cx, link, &config).await?.into_iter().collect();
            Ok(EndpointCreated { remade, ..created })
        }
        .boxed())
    }

    fn delete_endpoint(&mut self, cx: &DriverCx, network: NetworkId, endpoint: EndpointId) -> Begun<()> {
        let withdrawn = self.withdraw(cx, network, endpoint);
        self.forget_endpoint(network, endpoint);
        withdrawn.map_or_else(|| done(()), Ok)
    }

    fn recover(&self, identity: &str, survey: &KernelSurvey) -> Vec<Recovered> {
        recover::recover(identity, survey)
    }

    fn desired(&self, cx: &DriverCx, network: NetworkId, joined: &[Place]) -> Vec<DesiredObject> {
        self.networks.get(&network).map(|network| desired::desired(cx, network, joined)).unwrap_or_default()
    }

    fn forget_network(&mut self, network: NetworkId) {
        // What the failed restore added to somebody else's bridge is taken back when the network is deleted.
        if let Some(Network { config, found, touched, .. }) = self.networks.remove(&network) {
            self.going.insert(network, Going { config, found, touched, gone: Gone::default() });
        }
    }

    fn forget_endpoint(&mut self, network: NetworkId, endpoint: EndpointId) {
        self.forget_join(network, endpoint);
        if let Some(network) = self.networks.get_mut(&network) {
            network.endpoints.remove(&endpoint);
        }
    }

    fn endpoint_info(&self, _cx: &DriverCx, network: NetworkId, endpoint: EndpointId) -> Begun<OperInfo> {
        let endpoint = self.networks.get(&network).and_then(|network| network.endpoints.get(&endpoint));
        done(endpoint.map(|e| (MAC_LABEL.to_owned(), e.mac.to_string())).into_iter().collect())
    }

    fn join(&mut self, cx: &DriverCx, request: Join) -> Begun<Joined> {
        let (create, config, refused, joined) = self.plan_join(cx, &request)?;
        let (kernel, deadline) = (cx.kernel.clone(), cx.deadline);
        let ifname = request.ifname;
        Ok(async move {
            execute_all(&*kernel, vec![create], deadline).await.map_err(|error| {
                if error.certainty == Certainty::Aborted {
                    let _ = refused.set(());
                }
                device::refusal(error, ifname, &config)
            })?;
            if !config.icc
                && let Interface::InPlace { link: Some(name) } = joined.interface
            {
                // Not in the same send: where the name was taken, that port is somebody else's.
                let isolated =
                    execute_all(&*kernel, vec![Op::SetPortFlag { name, flag: PortFlag::Isolated }], deadline)
                        .await;
                // The link is there, so it has to be taken back.
                isolated.map_err(|error| Error::from(error).uncertain())?;
            }
            Ok(joined)
        }
        .boxed())
    }

    fn leave(&mut self, cx: &DriverCx, request: Leave) -> Begun<Left> {
        self.begin_leave(cx, request)
    }

    fn program_external_connectivity(
        &mut self,
        cx: &DriverCx,
        request: ExternalConnectivity,
    ) -> Begun<Programmed> {
        let settings = self.settings;
        let network = self.network(request.network)?;
        let endpoint = network
            .endpoints
            .get_mut(&request.endpoint)
            .ok_or_else(|| Error::not_found(ObjectKind::Endpoint, request.endpoint))?;
        let Some(publication) = ports::plan(&network.config, settings, &request)? else {
            return done(Programmed::default());
        };
        let link = endpoint.present.and_then(|present| present.link);
        let outward = endpoint.outward.get_or_insert_default();
        (outward.addresses, outward.clear) = (request.addresses, Gone::default());
        let published = outward.in_turn(cx.outside.publish(publication));
        let cx = cx.clone();
        Ok(async move {
            if let Some(link) = link {
                device::lead_back(&cx, link).await?;
            }
            Ok(Programmed { published: Published(published.await?).into() })
        }
        .boxed())
    }

    fn revoke_external_connectivity(
        &mut self,
        cx: &DriverCx,
        network: NetworkId,
        endpoint: EndpointId,
    ) -> Begun<()> {
        self.withdraw(cx, network, endpoint).map_or_else(|| done(()), Ok)
    }
}
