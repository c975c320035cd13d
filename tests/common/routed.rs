//! A driver whose networks give no way out, as an overlay's do: its links are those of the bridge driver, and instead of
//! a gateway it brings the static routes that the network's options name. Shared by the scenarios on both kernels.

use std::collections::{BTreeMap, HashMap};

use futures::TryFutureExt;
use netloom::drivers::bridge::Bridge;
use netloom::drivers::{
    Begun, Capability, CreateEndpoint, CreateNetwork, DesiredObject, Driver, DriverCx, EndpointCreated, Join,
    Joined, Leave, Left, NetworkCreated, OperInfo, Place, Registration,
};
use netloom::{EndpointId, Error, NetworkId, Result, StaticRoute};

/// The driver's type.
pub(crate) const KIND: &str = "routed";
/// The network's option with its routes: a subnet for one on the link, or a subnet and the next hop, with commas
/// between them.
const ROUTES: &str = "com.example.routes";
/// The network's option with which it asks for no way out either (libnetwork's `DisableGatewayService`).
const NO_WAY_OUT: &str = "com.example.no_way_out";

/// See the module.
#[derive(Default)]
struct Routed {
    bridge: Bridge,
    networks: HashMap<NetworkId, Brings>,
}

/// What the endpoints of a network bring along.
#[derive(Clone, Default)]
struct Brings {
    routes: Vec<StaticRoute>,
    no_way_out: bool,
}

impl Brings {
    fn read(options: &BTreeMap<String, String>) -> Result<Self> {
        let texts = options.get(ROUTES).map(String::as_str).unwrap_or_default();
        let routes = texts.split(',').map(str::trim).filter(|text| !text.is_empty()).map(|text| {
            let (destination, via) = text.split_once(' ').map_or((text, None), |(net, via)| (net, Some(via)));
            let wrong = |_| Error::invalid(ROUTES, text, "a subnet and perhaps a next hop are expected");
            let via = via.map(str::parse).transpose().map_err(wrong)?;
            let wrong = |_| Error::invalid(ROUTES, text, "a subnet is expected");
            Ok(StaticRoute { destination: destination.parse().map_err(wrong)?, via })
        });
        Ok(Self { routes: routes.collect::<Result<_>>()?, no_way_out: options.contains_key(NO_WAY_OUT) })
    }
}

/// The driver as it is registered.
pub(crate) fn registration() -> Registration {
    Registration::new(KIND, Routed::default)
}

impl Driver for Routed {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn capability(&self) -> Capability {
        // Its calls are counted.
        Capability { hears_of_bare: true, ..self.bridge.capability() }
    }

    fn survey_network(&mut self, cx: &DriverCx, request: &CreateNetwork) -> Begun<BTreeMap<String, String>> {
        self.bridge.survey_network(cx, request)
    }

    fn create_network(&mut self, cx: &DriverCx, request: CreateNetwork) -> Begun<NetworkCreated> {
        let (network, brings) = (request.network, Brings::read(&request.options)?);
        let begun = self.bridge.create_network(cx, request)?;
        self.networks.insert(network, brings);
        Ok(begun)
    }

    fn delete_network(&mut self, cx: &DriverCx, network: NetworkId) -> Begun<()> {
        self.networks.remove(&network);
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
        self.networks.remove(&network);
        self.bridge.forget_network(network);
    }

    fn forget_endpoint(&mut self, network: NetworkId, endpoint: EndpointId) {
        self.bridge.forget_endpoint(network, endpoint);
    }

    fn endpoint_info(&self, cx: &DriverCx, network: NetworkId, endpoint: EndpointId) -> Begun<OperInfo> {
        self.bridge.endpoint_info(cx, network, endpoint)
    }

    fn join(&mut self, cx: &DriverCx, request: Join) -> Begun<Joined> {
        let Brings { routes, no_way_out } = self.networks.get(&request.network).cloned().unwrap_or_default();
        let brings = move |joined| Joined {
            gateway: None,
            gateway6: None,
            routes,
            disable_gateway_service: no_way_out,
            ..joined
        };
        Ok(Box::pin(self.bridge.join(cx, request)?.map_ok(brings)))
    }

    fn leave(&mut self, cx: &DriverCx, request: Leave) -> Begun<Left> {
        self.bridge.leave(cx, request)
    }
}
