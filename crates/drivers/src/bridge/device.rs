//! The bridge device in the kernel: made, adopted, dressed, removed.

use std::net::Ipv6Addr;
use std::sync::{Arc, OnceLock};

use ipnet::{IpNet, Ipv6Net};
use netloom_kernel::{KernelError, LinkKind, LinkTag, LinkView, Netns, Op, PortFlag, execute_all};
use netloom_model::{Error, Holder, IfName, ObjectKind, Reason, Result};

use super::claim::Claim;
use super::config::BridgeConfig;
use super::found::{Before, Found};
use crate::driver::DriverCx;
use crate::request::{Left, Restored};

/// Set when somebody else's bridge may have been changed: before that there is nothing to put back.
pub(super) type Touched = Arc<OnceLock<()>>;

/// Every bridge with IPv6 answers under this address too, as libnetwork's do (`setup_ipv6.go`).
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The addresses of a network's bridge. IPv4 comes first: see [`Claim`].
pub(super) fn addresses(config: &BridgeConfig) -> Vec<IpNet> {
    let link_local = IpNet::V6(Ipv6Net::new_assert(LINK_LOCAL, 64));
    let (v4, v6) = config.bridge_addresses();
    let v6 = v6.map(|address| [link_local, IpNet::V6(address)]);
    v4.map(IpNet::V4).into_iter().chain(v6.into_iter().flatten()).collect()
}

/// The setting that keeps IPv6 off the bridge.
fn ipv6_switch(config: &BridgeConfig) -> String {
    format!("ipv6/conf/{}/disable_ipv6", config.bridge)
}

/// What it has to say. A network that is isolated and has no IPv6 address there has no link-local one either, under which
/// containers would reach the host all the same; on somebody else's bridge that is its owner's business.
fn ipv6_switch_wanted(config: &BridgeConfig, found: &Found) -> Option<&'static str> {
    match (config.bridge_addresses().1, &found.bridge) {
        (Some(_), None) => Some("0"),
        (Some(_), Some(before)) => (before.disable_ipv6.as_deref() != Some("0")).then_some("0"),
        (None, None) => config.is_isolated().then_some("1"),
        (None, Some(_)) => None,
    }
}

/// The setting that lets packets from the host's loopback leave by the bridge.
fn loopback_switch(config: &BridgeConfig) -> String {
    format!("ipv4/conf/{}/route_localnet", config.bridge)
}

/// Whether ports of the host's loopback may lead to containers by way of the kernel.
fn wants_loopback(config: &BridgeConfig) -> bool {
    !config.internal && config.v4.mode.translates()
}

/// Looks at what has the name of the bridge before anything is changed.
pub(super) async fn survey(cx: &DriverCx, config: &BridgeConfig) -> Result<Found> {
    let Some(link) = find(cx, config.bridge).await? else { return Ok(Found::default()) };
    match identify(&link, config)? {
        Device::Ours => Ok(Found::default()),
        Device::Foreign => {
            let all = cx.kernel.addresses(Netns::Host, cx.deadline).await?;
            let own = all.into_iter().filter(|view| view.link == link.index).map(|view| view.address);
            let addresses = own.collect();
            let read = async |wanted: bool, key: String| match wanted {
                true => cx.kernel.read_setting(Netns::Host, &key, cx.deadline).await.map(Some),
                false => Ok(None),
            };
            let disable_ipv6 = read(config.bridge_addresses().1.is_some(), ipv6_switch(config)).await?;
            let route_localnet = read(wants_loopback(config), loopback_switch(config)).await?;
            Ok(Found { bridge: Some(Before { up: link.up, addresses, disable_ipv6, route_localnet }) })
        }
    }
}

/// Makes the device, or adopts one that is there, and gives it its addresses. Those of a new network are its own only
/// if nobody else came first. Tells whether the device was made.
pub(super) async fn set_up(
    cx: &DriverCx,
    config: &BridgeConfig,
    (found, touched): (&Found, &Touched),
    restored: Restored,
) -> Result<bool> {
    let made = make_or_adopt(cx, config, found, touched).await?;
    let (netns, name) = (Netns::Host, config.bridge);
    let wanted = addresses(config);
    let claim = match restored {
        Restored::Fresh => Some(Claim::new(cx, number(cx, name).await?, &wanted).await?),
        Restored::FromStore => None,
    };
    let mut ops = Vec::new();
    if let Some(value) = ipv6_switch_wanted(config, found) {
        ops.push(Op::Sysctl { netns, key: ipv6_switch(config), value: value.into() });
    }
    ops.extend(wanted.into_iter().map(|address| Op::AddAddress { netns, link: name, address }));
    let up = Op::SetLink { netns, name, up: true };
    let Some(claim) = claim else {
        ops.push(up);
        return give(cx, ops).await.map(|_| made);
    };
    // Before it is up no route leads there.
    let got = give(cx, ops).await?;
    claim.decide(cx, name, &got).await?;
    execute_all(&*cx.kernel, vec![up], cx.deadline).await?;
    Ok(made)
}

/// Carries out what gives a device its addresses. Answers those that it did not have before.
async fn give(cx: &DriverCx, ops: Vec<Op>) -> Result<Vec<IpNet>> {
    let results = cx.kernel.execute(ops.clone(), cx.deadline).await;
    let mut got = Vec::new();
    for (op, result) in ops.into_iter().zip(results) {
        match (op, result) {
            (Op::AddAddress { address, .. }, Ok(())) => got.push(address),
            (Op::AddAddress { .. }, Err(error)) if error.already_there() => {}
            (_, result) => result?,
        }
    }
    Ok(got)
}

/// The number of a link that was there a moment ago.
async fn number(cx: &DriverCx, name: IfName) -> Result<u32> {
    let link = find(cx, name).await?;
    Ok(link.ok_or_else(|| came_and_went(name).uncertain())?.index)
}

/// A bridge that whoever removed it may remove again.
fn came_and_went(bridge: IfName) -> Error {
    Error::internal(format!("bridge {bridge} came and went"))
}

/// Has the host's own loopback lead to published ports: packets from `127.0.0.1` may leave by this bridge, and are
/// translated on the way. Only where a firewall keeps those out that come in with such an address.
pub(super) async fn lead_from_loopback(cx: &DriverCx, config: &BridgeConfig, found: &Found) -> Result<()> {
    let before = found.bridge.as_ref().map(|before| before.route_localnet.as_deref());
    // What is not known of somebody else's bridge, as in records of earlier builds, could not be put back.
    if !wants_loopback(config) || matches!(before, Some(None | Some("1"))) {
        return Ok(());
    }
    let on = Op::Sysctl { netns: Netns::Host, key: loopback_switch(config), value: "1".into() };
    Ok(execute_all(&*cx.kernel, vec![on], cx.deadline).await?)
}

/// Has a container come back to itself through a port of the host, also where bridges hand packets to the firewall by
/// themselves (br_netfilter).
pub(super) async fn lead_back(cx: &DriverCx, name: IfName) -> Result<()> {
    let hairpin = Op::SetPortFlag { name, flag: PortFlag::Hairpin };
    Ok(execute_all(&*cx.kernel, vec![hairpin], cx.deadline).await?)
}

/// Whose a link of the bridge's name is.
enum Device {
    /// This network's, from before.
    Ours,
    /// Somebody else's bridge that the caller named.
    Foreign,
}

fn identify(link: &LinkView, config: &BridgeConfig) -> Result<Device> {
    match link.tag() {
        Some(tag) if tag == config.tag => Ok(Device::Ours),
        Some(tag) => {
            let holder = Holder::new(ObjectKind::Network, &tag.id, format!("of engine {}", tag.instance));
            Err(Reason::NameTaken { name: config.bridge.to_string(), holder }.into())
        }
        None if link.kind == LinkKind::Bridge => Ok(Device::Foreign),
        None => {
            let why = "a link of this name exists and is not a bridge";
            Err(Error::invalid(super::config::NAME, config.bridge, why))
        }
    }
}

/// Tells whether the device was made.
async fn make_or_adopt(
    cx: &DriverCx,
    config: &BridgeConfig,
    found: &Found,
    touched: &Touched,
) -> Result<bool> {
    let create = Op::CreateBridge {
        name: config.bridge,
        mac: Some(config.mac),
        mtu: config.mtu,
        tag: config.tag.clone(),
    };
    match execute_all(&*cx.kernel, vec![create], cx.deadline).await {
        Ok(()) => return Ok(true),
        Err(error) if error.already_there() => {}
        Err(error) => return Err(error.into()),
    }
    let Some(link) = find(cx, config.bridge).await? else {
        return Err(came_and_went(config.bridge));
    };
    match identify(&link, config)? {
        Device::Ours => {}
        Device::Foreign if found.bridge.is_none() && touched.get().is_none() => {
            let by = "somebody who made it a moment ago".into();
            return Err(Reason::InUse { what: format!("bridge {}", config.bridge), by }.into());
        }
        Device::Foreign => {
            let _ = touched.set(());
        }
    }
    Ok(false)
}

/// Removes whatever carries this mark: for a driver that was restarted and forgot the names.
pub(super) async fn remove_marked(cx: DriverCx, tag: LinkTag) -> Result<()> {
    let links = cx.kernel.links(Netns::Host, cx.deadline).await?;
    let marked = links.into_iter().filter(|link| link.tag().as_ref() == Some(&tag));
    let ops: Vec<_> = marked.map(|link| Op::DeleteLink { name: link.name, tag: Some(tag.clone()) }).collect();
    remove(&cx, ops).await
}

/// Carries out removals; what is gone already is fine.
async fn remove(cx: &DriverCx, ops: Vec<Op>) -> Result<()> {
    if ops.is_empty() {
        return Ok(());
    }
    let results = cx.kernel.execute(ops, cx.deadline).await;
    let failed = results.into_iter().find_map(|result| result.err().filter(|error| !error.already_gone()));
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Removes the device if it is ours; from somebody else's, takes back what we changed.
pub(super) async fn take_down(
    cx: &DriverCx,
    config: &BridgeConfig,
    found: &Found,
    touched: &Touched,
) -> Result<()> {
    let delete = Op::DeleteLink { name: config.bridge, tag: Some(config.tag.clone()) };
    match execute_all(&*cx.kernel, vec![delete], cx.deadline).await {
        Ok(()) => Ok(()),
        Err(error) if error.already_gone() => Ok(()),
        Err(error) if error.errno == EPERM && touched.get().is_some() => undress(cx, config, found).await,
        Err(error) if error.errno == EPERM => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn undress(cx: &DriverCx, config: &BridgeConfig, found: &Found) -> Result<()> {
    let (netns, link) = (Netns::Host, config.bridge);
    let kept = found.bridge.as_ref().map_or(&[][..], |before| &before.addresses);
    let added = addresses(config).into_iter().filter(|address| !kept.contains(address));
    let mut ops: Vec<_> = added.map(|address| Op::DeleteAddress { netns, link, address }).collect();
    if let Some(before) = &found.bridge {
        let changed = [
            (ipv6_switch(config), &before.disable_ipv6, "0"),
            (loopback_switch(config), &before.route_localnet, "1"),
        ];
        ops.extend(changed.into_iter().filter_map(|(key, was, set)| {
            let value = was.clone().filter(|was| was != set)?;
            Some(Op::Sysctl { netns, key, value })
        }));
    }
    if found.bridge.as_ref().is_some_and(|before| !before.up) {
        ops.push(Op::SetLink { netns, name: link, up: false });
    }
    remove(cx, ops).await
}

/// `EPERM`: what [`Op::DeleteLink`] answers for a link without the expected tag.
const EPERM: i32 = 1;

/// `EXFULL`: what a bridge answers that has no port number left.
const EXFULL: i32 = 54;

/// Turns what the kernel says about a new link into words.
pub(super) fn refusal(error: KernelError, ifname: IfName, config: &BridgeConfig) -> Error {
    if error.errno == EXFULL {
        return full(config);
    }
    if error.already_there() {
        return Reason::LinkTaken { ifname, why: error.to_string() }.into();
    }
    error.into()
}

/// A bridge has no port left.
pub(super) fn full(config: &BridgeConfig) -> Error {
    let object = format!("bridge {} of network {:?}", config.bridge, config.network_name);
    Reason::Full { object, limit: super::MAX_PORTS as u64, what: "joined endpoints" }.into()
}

/// Whether a link of the host's carries this mark.
pub(super) async fn carries(cx: &DriverCx, name: IfName, tag: &LinkTag) -> Result<bool> {
    Ok(find(cx, name).await?.is_some_and(|link| link.tag().as_ref() == Some(tag)))
}

async fn find(cx: &DriverCx, name: IfName) -> Result<Option<LinkView>> {
    let found = cx.kernel.find_links(Netns::Host, vec![name], cx.deadline).await?;
    Ok(found.into_iter().next().flatten())
}

/// Cuts a link off, at once; its deletion remains.
pub(super) async fn cut(cx: &DriverCx, name: IfName, tag: LinkTag) -> Result<Left> {
    let delete = Op::DeleteLink { name, tag: Some(tag) };
    match execute_all(&*cx.kernel, vec![Op::CutLink { name }], cx.deadline).await {
        Ok(()) => Ok(Left { remains: vec![delete] }),
        Err(error) if error.already_gone() => Ok(Left::default()),
        Err(error) => {
            // It may still pass traffic, so the caller has to wait for its deletion.
            tracing::warn!(%error, link = %name, "cannot cut a link off; deleting it at once");
            match execute_all(&*cx.kernel, vec![delete], cx.deadline).await {
                Err(error) if !error.already_gone() => Err(error.into()),
                Ok(()) | Err(_) => Ok(Left::default()),
            }
        }
    }
}

/// Makes a link a port of its bridge again if it is none: a bridge that was removed has lost its ports, and
/// its successor does not get them by itself. One that should be isolated and is not becomes it. Tells what had to be
/// done.
pub(super) async fn put_back(cx: &DriverCx, link: IfName, config: &BridgeConfig) -> Result<Option<String>> {
    let bridge = config.bridge;
    let found = cx.kernel.find_links(Netns::Host, vec![bridge, link], cx.deadline).await?;
    let [Some(device), Some(port)] = found.as_slice() else { return Ok(None) };
    let isolate = (!config.icc).then_some(Op::SetPortFlag { name: link, flag: PortFlag::Isolated });
    if port.master == Some(device.index) {
        let Some(isolate) = isolate.filter(|_| !port.isolated) else { return Ok(None) };
        execute_all(&*cx.kernel, vec![isolate], cx.deadline).await?;
        return Ok(Some(format!("isolation of port {link} of bridge {bridge}")));
    }
    let master = Op::SetMaster { name: link, master: Some(bridge) };
    let up = Op::SetLink { netns: Netns::Host, name: link, up: true };
    // Isolated before it is up: not a packet passes in between.
    let ops = std::iter::once(master).chain(isolate).chain([up]).collect();
    execute_all(&*cx.kernel, ops, cx.deadline).await?;
    Ok(Some(format!("port {link} of bridge {bridge}")))
}
