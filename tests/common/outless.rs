//! A driver that makes real links on a bridge and leaves it to a test whether they lead out: what a driver of its own,
//! such as one of overlays, is to a sandbox's way out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use netloom::drivers::bridge::Bridge;
use netloom::drivers::{
    Begun, Capability, CreateEndpoint, CreateNetwork, DesiredObject, Driver, DriverCx, EndpointCreated,
    ExternalConnectivity, Join, Joined, Leave, Left, NetworkCreated, OperInfo, Place, Programmed,
    Registration, done,
};
use netloom::{EndpointId, NetworkId, NetworkSpec, StaticRoute};

/// What its endpoints bring besides their links.
#[derive(Clone, Debug, Default)]
pub(crate) struct Brings {
    /// Whether the bridge's address is their gateway.
    pub(crate) gateway: bool,
    /// Whether a sandbox needs no way out for their sake.
    pub(crate) content: bool,
    /// Further routes.
    pub(crate) routes: Vec<StaticRoute>,
}

/// The endpoint that is reached from outside after each request, and whether it is.
type Outward = Arc<Mutex<BTreeMap<EndpointId, bool>>>;

/// A kind of networks. Its clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Outless {
    kind: &'static str,
    brings: Brings,
    outward: Outward,
}

impl Outless {
    /// One whose endpoints lead nowhere.
    pub(crate) fn new(kind: &'static str) -> Self {
        Self { kind, brings: Brings::default(), outward: Outward::default() }
    }

    /// The same with what its endpoints bring.
    pub(crate) fn bringing(kind: &'static str, brings: Brings) -> Self {
        Self { brings, ..Self::new(kind) }
    }

    pub(crate) fn registration(&self) -> Registration {
        let made = self.clone();
        Registration::new(self.kind, move || Driven { bridge: Bridge::default(), told: made.clone() })
    }

    /// A network of this kind.
    pub(crate) fn network(&self, name: &str) -> NetworkSpec {
        NetworkSpec::new(name).driver(self.kind)
    }

    /// The endpoints of this kind that are reached from outside, as far as the driver was told.
    pub(crate) fn outward(&self) -> Vec<EndpointId> {
        let outward = self.outward.lock().expect("nobody panics with it");
        outward.iter().filter(|(_, reached)| **reached).map(|(endpoint, _)| *endpoint).collect()
    }

    /// How many endpoints the driver was ever told to let be reached from outside.
    pub(crate) fn programmed(&self) -> usize {
        self.outward.lock().expect("nobody panics with it").len()
    }

    fn told(&self, endpoint: EndpointId, reached: bool) {
        self.outward.lock().expect("nobody panics with it").insert(endpoint, reached);
    }
}

/// The key of what the driver says of an endpoint.
pub(crate) const INFO: &str = "told by";

/// The driver.
struct Driven {
    bridge: Bridge,
    told: Outless,
}

impl Driver for Driven {
    fn kind(&self) -> &str {
        self.told.kind
    }

    fn capability(&self) -> Capability {
        // Its calls are counted.
        Capability { hears_of_bare: true, ..self.bridge.capability() }
    }

    fn survey_network(&mut self, cx: &DriverCx, request: &CreateNetwork) -> Begun<BTreeMap<String, String>> {
        self.bridge.survey_network(cx, request)
    }

    fn create_network(&mut self, cx: &DriverCx, request: CreateNetwork) -> Begun<NetworkCreated> {
        self.bridge.create_network(cx, request)
    }

    fn delete_network(&mut self, cx: &DriverCx, network: NetworkId) -> Begun<()> {
        self.bridge.delete_network(cx, network)
    }

    fn create_endpoint(&mut self, cx: &DriverCx, request: CreateEndpoint) -> Begun<EndpointCreated> {
        self.bridge.create_endpoint(cx, request)
    }

    fn delete_endpoint(&mut self, cx: &DriverCx, network: NetworkId, endpoint: EndpointId) -> Begun<()> {
        self.bridge.delete_endpoint(cx, network, endpoint)
    }

    fn desired(&self, cx: &DriverCx, network: NetworkId, joined: &[Place]) -> Vec<DesiredObject> {
        self.bridge.desired(cx, network, joined)
    }

    fn forget_network(&mut self, network: NetworkId) {
        self.bridge.forget_network(network);
    }

    fn forget_endpoint(&mut self, network: NetworkId, endpoint: EndpointId) {
        self.bridge.forget_endpoint(network, endpoint);
    }

    fn endpoint_info(&self, _: &DriverCx, _: NetworkId, endpoint: EndpointId) -> Begun<OperInfo> {
        done(BTreeMap::from([(INFO.to_owned(), format!("{} of {endpoint}", self.told.kind))]))
    }

    fn join(&mut self, cx: &DriverCx, request: Join) -> Begun<Joined> {
        let made = self.bridge.join(cx, request)?;
        let Brings { gateway, content, routes } = self.told.brings.clone();
        let brought = made.map(move |joined| {
            let joined = joined?;
            let gateways = if gateway { (joined.gateway, joined.gateway6) } else { (None, None) };
            Ok(Joined {
                gateway: gateways.0,
                gateway6: gateways.1,
                routes,
                disable_gateway_service: content,
                ..joined
            })
        });
        Ok(brought.boxed())
    }

    fn leave(&mut self, cx: &DriverCx, request: Leave) -> Begun<Left> {
        self.told.told(request.endpoint, false);
        self.bridge.leave(cx, request)
    }

    fn program_external_connectivity(
        &mut self,
        _: &DriverCx,
        request: ExternalConnectivity,
    ) -> Begun<Programmed> {
        self.told.told(request.endpoint, true);
        done(Programmed::default())
    }

    fn revoke_external_connectivity(
        &mut self,
        _: &DriverCx,
        _: NetworkId,
        endpoint: EndpointId,
    ) -> Begun<()> {
        self.told.told(endpoint, false);
        done(())
    }
}
