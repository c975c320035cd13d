//! The bridge device in the kernel: made, adopted, dressed, removed.

use std::net::Ipv6Addr;
use std::sync::{Arc, OnceLock};

use ipnet::{IpNet, Ipv6Net};
use netloom_kernel::{KernelError, LinkKind, LinkTag, Netns, Op, execute_all};
use netloom_model::{Error, Holder, IfName, ObjectKind, Reason, Result};

use super::config::BridgeConfig;
use crate::driver::DriverCx;

/// What was changed on a device that somebody else made, so that exactly this is taken back.
#[derive(Debug, Default)]
pub(super) struct Changes {
    addresses: Vec<IpNet>,
    set_up: bool,
}

/// Known once the device is dressed.
pub(super) type Added = Arc<OnceLock<Changes>>;

/// Every bridge with IPv6 answers under this address too, as libnetwork's do (`setup_ipv6.go`).
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

enum Device {
    /// Made just now.
    Made,
    /// Ours from before.
    Ours,
    /// Somebody else's bridge that the caller named, and whether it was down.
    Adopted { down: bool },
}

/// Makes the device, or adopts one that is there, and gives it its addresses. Tells whether it was made.
pub(super) async fn set_up(cx: DriverCx, config: BridgeConfig, added: Added) -> Result<bool> {
    let device = make_or_adopt(&cx, &config).await?;
    let name = config.bridge;
    let mut ops = Vec::new();
    if let Some(address6) = config.address6 {
        let key = format!("ipv6/conf/{name}/disable_ipv6");
        ops.push(Op::Sysctl { netns: Netns::Host, key, value: "0".into() });
        let link_local = Ipv6Net::new_assert(LINK_LOCAL, 64);
        ops.push(add(name, IpNet::V6(link_local)));
        ops.push(add(name, IpNet::V6(address6)));
    }
    ops.push(add(name, IpNet::V4(config.address)));
    ops.push(Op::SetLink { netns: Netns::Host, name, up: true });
    let results = cx.kernel.execute(ops.clone(), cx.deadline).await;
    let mut changes = Changes::default();
    let mut outcome = Ok(());
    for (op, result) in ops.iter().zip(results) {
        match (op, result) {
            (Op::AddAddress { address, .. }, Ok(())) => changes.addresses.push(*address),
            (Op::AddAddress { .. }, Err(error)) if error.already_there() => {}
            (Op::SetLink { .. }, Ok(())) => changes.set_up = matches!(device, Device::Adopted { down: true }),
            (_, Ok(())) => {}
            (_, Err(error)) => outcome = outcome.and(Err(error)),
        }
    }
    if matches!(device, Device::Adopted { .. }) {
        let _ = added.set(changes);
    }
    outcome?;
    Ok(matches!(device, Device::Made))
}

fn add(link: netloom_model::IfName, address: IpNet) -> Op {
    Op::AddAddress { netns: Netns::Host, link, address }
}

async fn make_or_adopt(cx: &DriverCx, config: &BridgeConfig) -> Result<Device> {
    let create = Op::CreateBridge {
        name: config.bridge,
        mac: Some(config.mac),
        mtu: config.mtu,
        tag: config.tag.clone(),
    };
    match execute_all(&*cx.kernel, vec![create], cx.deadline).await {
        Ok(()) => return Ok(Device::Made),
        Err(error) if error.already_there() => {}
        Err(error) => return Err(error.into()),
    }
    let links = cx.kernel.links(Netns::Host, cx.deadline).await?;
    let Some(link) = links.into_iter().find(|link| link.name == config.bridge) else {
        // It vanished between the two calls; whoever removed it may do so again.
        return Err(Error::internal(format!("bridge {} came and went", config.bridge)));
    };
    match link.tag() {
        Some(tag) if tag == config.tag => Ok(Device::Ours),
        Some(tag) => {
            let holder = Holder::new(ObjectKind::Network, &tag.id, format!("of engine {}", tag.instance));
            Err(Reason::NameTaken { name: config.bridge.to_string(), holder }.into())
        }
        None if link.kind == LinkKind::Bridge => Ok(Device::Adopted { down: !link.up }),
        None => {
            let why = "a link of this name exists and is not a bridge";
            Err(Error::invalid(super::config::NAME, config.bridge, why))
        }
    }
}

/// The host's links that carry this mark: for a driver that was restarted and forgot their names.
pub(super) async fn marked(cx: &DriverCx, tag: &LinkTag) -> Result<Vec<IfName>> {
    let links = cx.kernel.links(Netns::Host, cx.deadline).await?;
    Ok(links.into_iter().filter(|link| link.tag().as_ref() == Some(tag)).map(|link| link.name).collect())
}

/// Removes whatever carries this mark.
pub(super) async fn remove_marked(cx: DriverCx, tag: LinkTag) -> Result<()> {
    let delete = |name| Op::DeleteLink { name, tag: Some(tag.clone()) };
    let ops: Vec<_> = marked(&cx, &tag).await?.into_iter().map(delete).collect();
    if ops.is_empty() {
        return Ok(());
    }
    let results = cx.kernel.execute(ops, cx.deadline).await;
    let failed = results.into_iter().find_map(|result| result.err().filter(|error| !error.already_gone()));
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Removes the device if it is ours; from somebody else's, removes what we added.
pub(super) async fn take_down(cx: DriverCx, config: BridgeConfig, added: Added) -> Result<()> {
    let delete = Op::DeleteLink { name: config.bridge, tag: Some(config.tag) };
    match execute_all(&*cx.kernel, vec![delete], cx.deadline).await {
        Ok(()) => Ok(()),
        Err(error) if error.already_gone() => Ok(()),
        Err(error) if error.errno == EPERM => undress(&cx, config.bridge, &added).await,
        Err(error) => Err(error.into()),
    }
}

async fn undress(cx: &DriverCx, link: netloom_model::IfName, added: &Added) -> Result<()> {
    let Some(changes) = added.get() else { return Ok(()) };
    let netns = Netns::Host;
    let mut ops: Vec<_> = changes
        .addresses
        .iter()
        .map(|address| Op::DeleteAddress { netns, link, address: *address })
        .collect();
    ops.extend(changes.set_up.then_some(Op::SetLink { netns, name: link, up: false }));
    let results = cx.kernel.execute(ops, cx.deadline).await;
    let failed = results.into_iter().find_map(|result| result.err().filter(|error| !error.already_gone()));
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// `EPERM`: what [`Op::DeleteLink`] answers for a link without the expected tag.
const EPERM: i32 = 1;

/// `EXFULL`: what a bridge answers that has no port number left.
const EXFULL: i32 = 54;

/// Turns the kernel's "exchange full" into words.
pub(super) fn full_or(error: KernelError, config: &BridgeConfig) -> Error {
    if error.errno == EXFULL { full(config) } else { error.into() }
}

/// A bridge has no port left.
pub(super) fn full(config: &BridgeConfig) -> Error {
    let object = format!("bridge {} of network {:?}", config.bridge, config.network_name);
    Reason::Full { object, limit: super::MAX_PORTS as u64, what: "joined endpoints" }.into()
}
