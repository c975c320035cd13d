//! What a bridge network should have in the kernel.

use netloom_kernel::{LinkTag, Netns};

use super::{Network, device};
use crate::desired::{DesiredObject, KernelObject, LinkState, Place};
use crate::driver::DriverCx;

/// The bridge with its addresses, and both ends of every link that is in effect. Somebody else's bridge is only asked
/// for what the network added to it.
pub(super) fn desired(cx: &DriverCx, network: &Network, joined: &[Place]) -> Vec<DesiredObject> {
    let config = &network.config;
    let (netns, bridge) = (Netns::Host, config.bridge);
    let ours = network.found.bridge.is_none();
    let device = LinkState {
        up: Some(true),
        mtu: config.mtu.filter(|_| ours),
        mac: ours.then_some(config.mac),
        tag: ours.then(|| config.tag.clone()),
        exclusive: ours,
        ..LinkState::default()
    };
    let link = DesiredObject::of_network(KernelObject::Link { netns, name: bridge }).like(device);
    let addresses = device::addresses(config)
        .into_iter()
        .map(|address| DesiredObject::of_network(KernelObject::Address { netns, link: bridge, address }));
    let ports = joined.iter().flat_map(|place| ends(cx, network, *place));
    std::iter::once(link).chain(addresses).chain(ports).collect()
}

/// Both ends of an endpoint's link.
fn ends(cx: &DriverCx, network: &Network, place: Place) -> Vec<DesiredObject> {
    let Some(endpoint) = network.endpoints.get(&place.endpoint) else { return Vec::new() };
    let Some(link) = endpoint.present.and_then(|present| present.link) else { return Vec::new() };
    let (id, mtu) = (place.endpoint, network.config.mtu);
    let outside = LinkState {
        up: Some(true),
        mtu,
        master: Some(network.config.bridge),
        isolated: Some(!network.config.icc),
        tag: Some(LinkTag::new(&cx.instance, "endpoint", id)),
        ..LinkState::default()
    };
    let inside = LinkState { mtu, mac: Some(endpoint.mac), ..LinkState::default() };
    vec![
        DesiredObject::of_endpoint(id, KernelObject::Link { netns: Netns::Host, name: link }).like(outside),
        DesiredObject::of_endpoint(id, KernelObject::Link { netns: place.netns, name: place.ifname })
            .like(inside),
    ]
}
