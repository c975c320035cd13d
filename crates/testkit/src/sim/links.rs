//! Links: making, deleting, moving, up and down, MTU, ports of bridges.

use netloom_kernel::{LinkTag, Netns};
use netloom_model::{IfName, MacAddr};

use super::world::{
    Alias, Bridge, ETHERNET_MTU, HOST, IPV6_MIN_MTU, Kind, Link, LinkId, MAX_PORTS, NewLink, NsId, Port,
    World,
};
use crate::errno::{EADDRNOTAVAIL, EEXIST, EINVAL, ELOOP, EOPNOTSUPP, EPERM, ERANGE, EXFULL, Refusal};

/// The sizes an Ethernet link takes.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65_535;
/// The longest mark in bytes.
const MAX_TAG: usize = 254;

/// The folders of settings that are those of no one link, so that no new link gets such a name.
const RESERVED_NAMES: [&str; 2] = ["all", "default"];

/// A veth pair to make.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewVeth<'a> {
    pub(super) host: IfName,
    pub(super) peer: IfName,
    pub(super) netns: Netns,
    pub(super) master: Option<IfName>,
    pub(super) mac: Option<MacAddr>,
    pub(super) mtu: Option<u32>,
    pub(super) tag: &'a LinkTag,
}

impl World {
    pub(super) fn create_bridge(
        &mut self,
        name: IfName,
        mac: Option<MacAddr>,
        mtu: Option<u32>,
        tag: &LinkTag,
    ) -> Result<(), Refusal> {
        self.check_free(HOST, name)?;
        check_tag(tag)?;
        check_mac(mac)?;
        let mtu = check_mtu(mtu)?;
        check_name(name)?;
        // Given by hand, so it does not follow the ports: Linux needs a second message for that, which the
        // real kernel layer sends, and which counts only if it changes something.
        let bridge = Bridge { mtu_fixed: mtu != ETHERNET_MTU, ..Bridge::default() };
        let kind = Kind::Bridge(Box::new(bridge));
        let id = self.add_link(HOST, NewLink { name, kind, mac, mtu, alias: Some(Alias::Tag(tag.clone())) });
        self.note_changed(id);
        Ok(())
    }

    pub(super) fn create_veth(&mut self, new: NewVeth<'_>) -> Result<(), Refusal> {
        let ns = self.ns(new.netns)?;
        let master = new.master.map(|name| self.find(Netns::Host, name)).transpose()?;
        // The real kernel layer looks at the host's name before it asks; the rest is in the order of Linux.
        self.check_free(HOST, new.host)?;
        check_tag(new.tag)?;
        let mtu = check_mtu(new.mtu)?;
        check_mac(new.mac)?;
        self.check_free(ns, new.peer)?;
        check_name(new.peer)?;
        if ns == HOST && new.peer == new.host {
            return Err(Refusal::new(EEXIST));
        }
        check_name(new.host)?;
        if let Some(master) = master {
            check_room(self.ports_of(master)?)?;
        }
        let unpaired = || Kind::Other("".into());
        let peer =
            self.add_link(ns, NewLink { name: new.peer, kind: unpaired(), mac: new.mac, mtu, alias: None });
        let alias = Some(Alias::Tag(new.tag.clone()));
        let host = self.add_link(HOST, NewLink { name: new.host, kind: unpaired(), mac: None, mtu, alias });
        self.links[peer].kind = Kind::Veth { peer: host };
        self.links[host].kind = Kind::Veth { peer };
        if let Some(master) = master {
            self.attach(host, master);
        }
        // No address, so no route: the flag is all there is to it.
        self.links[host].up = true;
        self.note_changed(peer);
        self.note_changed(host);
        Ok(())
    }

    /// Cuts a link off as the real kernel layer does: the link goes down. Setting the port state would be the
    /// other way, but a bridge sets it back at the next change of the link.
    pub(super) fn cut_link(&mut self, name: IfName) -> Result<(), Refusal> {
        let id = self.find(Netns::Host, name)?;
        self.set_up(id, false);
        self.links[id].cut = true;
        Ok(())
    }

    pub(super) fn set_master(&mut self, name: IfName, master: Option<IfName>) -> Result<(), Refusal> {
        let id = self.find(Netns::Host, name)?;
        let master = master.map(|name| self.find(Netns::Host, name)).transpose()?;
        if self.links[id].port.map(|port| port.bridge) == master {
            return Ok(());
        }
        if let Some(master) = master {
            let ports = self.ports_of(master)?;
            match self.links[id].kind {
                Kind::Loopback => return Err(Refusal::new(EINVAL)),
                Kind::Bridge(_) => {
                    return Err(Refusal::saying(ELOOP, "Can not enslave a bridge to a bridge"));
                }
                Kind::Device | Kind::Veth { .. } | Kind::Other(_) => check_room(ports)?,
            }
        }
        self.detach(id);
        if let Some(master) = master {
            self.attach(id, master);
        }
        self.note_changed(id);
        Ok(())
    }

    /// The ports of a bridge; `EOPNOTSUPP` for what has none.
    fn ports_of(&self, master: LinkId) -> Result<&[LinkId], Refusal> {
        Ok(&self.links[master].bridge().ok_or(Refusal::new(EOPNOTSUPP))?.ports)
    }

    pub(super) fn delete_link(&mut self, name: IfName, tag: Option<&LinkTag>) -> Result<(), Refusal> {
        let id = self.find(Netns::Host, name)?;
        let link = &self.links[id];
        if let Some(tag) = tag
            && !matches!(&link.alias, Some(Alias::Tag(found)) if found == tag)
        {
            return Err(Refusal::saying(EPERM, "The link does not carry the expected mark"));
        }
        if matches!(link.kind, Kind::Loopback | Kind::Device) {
            return Err(Refusal::new(EOPNOTSUPP));
        }
        self.remove_link(id);
        Ok(())
    }

    pub(super) fn move_link(
        &mut self,
        from: Netns,
        name: IfName,
        to: Netns,
        rename: IfName,
    ) -> Result<(), Refusal> {
        self.ns(from)?;
        let target = self.ns(to)?;
        let id = self.find(from, name)?;
        let source = self.links[id].ns;
        if source != target && matches!(self.links[id].kind, Kind::Loopback | Kind::Bridge(_)) {
            return Err(Refusal::saying(EINVAL, "The interface netns is immutable"));
        }
        if (source, name) == (target, rename) {
            return Ok(());
        }
        let free = self.check_free(target, rename);
        if source != target {
            // Linux moves first and renames then. It looks at the new name beforehand only if the old one
            // is taken over there: otherwise a link whose new name is taken has moved when it is refused.
            if self.check_free(target, name).is_err() {
                free?;
                self.change_namespace(id, target, rename);
                return Ok(());
            }
            self.change_namespace(id, target, name);
        }
        free?;
        // Only IPv6 minds a rename, and only where a link has it.
        if self.links[id].mtu >= IPV6_MIN_MTU {
            check_name(rename)?;
        }
        let namespace = &mut self.namespaces[target];
        namespace.links.remove(&name);
        namespace.links.insert(rename, id);
        self.links[id].name = rename;
        self.note_changed(id);
        Ok(())
    }

    /// Takes a link to another namespace, where it is new: down, without addresses, no port of any bridge.
    fn change_namespace(&mut self, id: LinkId, target: NsId, name: IfName) {
        self.detach(id);
        self.set_up(id, false);
        self.note_addresses_went(id);
        self.note_gone(id);
        let source = self.links[id].ns;
        self.namespaces[source].links.remove(&self.links[id].name);
        self.namespaces[target].links.insert(name, id);
        let (index, ipv6_off) = self.namespaces[target].welcome();
        let link = &mut self.links[id];
        link.ns = target;
        link.name = name;
        link.index = index;
        link.addresses.clear();
        link.neighbours.clear();
        link.settings.clear();
        link.ipv6_off = ipv6_off;
        self.note_changed(id);
    }

    pub(super) fn set_mtu(&mut self, id: LinkId, mtu: u32) -> Result<(), Refusal> {
        // The loopback takes any size.
        if !self.links[id].is_loopback() {
            if mtu < *MTU_RANGE.start() {
                return Err(Refusal::saying(EINVAL, "mtu less than device minimum"));
            }
            if mtu > *MTU_RANGE.end() {
                return Err(Refusal::saying(EINVAL, "mtu greater than device maximum"));
            }
        }
        if mtu != self.links[id].mtu
            && let Some(bridge) = self.links[id].bridge_mut()
        {
            bridge.mtu_fixed = true;
        }
        self.change_mtu(id, mtu);
        Ok(())
    }

    fn change_mtu(&mut self, id: LinkId, mtu: u32) {
        let link = &mut self.links[id];
        let before = std::mem::replace(&mut link.mtu, mtu);
        if before == mtu {
            return;
        }
        if let Some(Port { bridge: master, .. }) = link.port
            && let Some(bridge) = self.links[master].bridge_mut()
        {
            bridge.forget_mtu(before);
            bridge.count_mtu(mtu);
            self.follow_ports(master);
        }
        if mtu < IPV6_MIN_MTU {
            self.stop_ipv6(id);
        } else if before < IPV6_MIN_MTU {
            self.begin_ipv6(id);
        }
        self.note_changed(id);
    }

    /// IPv6 comes to a link that has become large enough for it. Only the loopback had kept its settings;
    /// others get those of a new link.
    fn begin_ipv6(&mut self, id: LinkId) {
        if self.links[id].is_loopback() {
            self.add_loopback_addresses(id);
            return;
        }
        let off = self.namespaces[self.links[id].ns].starts_without_ipv6();
        let link = &mut self.links[id];
        link.ipv6_off = off;
        link.settings.retain(|(setting, _)| !setting.dir.starts_with("ipv6"));
    }

    /// Sets a link up or down, with what Linux does about addresses, routes and port states.
    pub(super) fn set_up(&mut self, id: LinkId, up: bool) {
        if self.links[id].up == up {
            return;
        }
        let link = &mut self.links[id];
        link.up = up;
        link.cut = false;
        if up {
            self.add_loopback_addresses(id);
            self.add_connected_routes(id);
        } else {
            self.drop_routes(id, |_| true);
            let link = &mut self.links[id];
            // Linux keeps IPv4 addresses of a link that goes down, and drops the IPv6 ones.
            link.addresses.retain(|address| matches!(address, ipnet::IpNet::V4(_)));
            link.neighbours.retain(|key, _| !matches!(key, super::world::NeighbourKey::Address(_)));
        }
        self.note_changed(id);
    }

    /// Makes a link a port of a bridge that has room.
    pub(super) fn attach(&mut self, id: LinkId, master: LinkId) {
        let mtu = self.links[id].mtu;
        let Some(bridge) = self.links[master].bridge_mut() else { return };
        let slot = bridge.ports.len();
        bridge.ports.push(id);
        bridge.count_mtu(mtu);
        self.links[id].port = Some(Port { bridge: master, slot, isolated: false, hairpin: false });
        self.follow_ports(master);
    }

    /// Takes a link out of its bridge, if it is a port.
    pub(super) fn detach(&mut self, id: LinkId) {
        let mtu = self.links[id].mtu;
        let Some(Port { bridge: master, slot, .. }) = self.links[id].port.take() else { return };
        let Some(bridge) = self.links[master].bridge_mut() else { return };
        bridge.ports.swap_remove(slot);
        bridge.forget_mtu(mtu);
        if let Some(moved) = bridge.ports.get(slot).copied()
            && let Some(port) = &mut self.links[moved].port
        {
            port.slot = slot;
        }
        self.follow_ports(master);
    }

    /// A bridge has the smallest MTU of its ports, unless it was set by hand.
    fn follow_ports(&mut self, master: LinkId) {
        let Some(bridge) = self.links[master].bridge() else { return };
        if !bridge.mtu_fixed {
            let mtu = bridge.port_mtus.keys().next().copied().unwrap_or(ETHERNET_MTU);
            self.change_mtu(master, mtu);
        }
    }

    /// Removes a link, its other end, and all that refers to them.
    pub(super) fn remove_link(&mut self, id: LinkId) {
        let peer = self.links[id].peer();
        self.remove_end(id);
        if let Some(peer) = peer {
            self.remove_end(peer);
        }
    }

    fn remove_end(&mut self, id: LinkId) {
        self.detach(id);
        if let Some(bridge) = self.links[id].bridge_mut() {
            for port in std::mem::take(&mut bridge.ports) {
                self.links[port].port = None;
                self.note_changed(port);
            }
        }
        self.note_addresses_went(id);
        self.drop_routes(id, |_| true);
        self.note_gone(id);
        if let Some(link) = self.links.remove(id) {
            self.namespaces[link.ns].links.remove(&link.name);
        }
    }

    /// `EEXIST` when the namespace has a link of this name.
    pub(super) fn check_free(&self, ns: NsId, name: IfName) -> Result<(), Refusal> {
        if self.namespaces[ns].links.contains_key(&name) { Err(Refusal::new(EEXIST)) } else { Ok(()) }
    }

    pub(super) fn note_changed(&mut self, id: LinkId) {
        if !self.watchers.is_empty() && self.links[id].ns == HOST {
            let view = self.link_view(&self.links[id]);
            self.watchers.link_changed(&view);
        }
    }

    fn note_addresses_went(&mut self, id: LinkId) {
        if self.is_heard(id) {
            for address in self.links[id].addresses.clone() {
                self.note_address(id, address, false);
            }
        }
    }

    fn note_gone(&mut self, id: LinkId) {
        if !self.watchers.is_empty() && self.links[id].ns == HOST {
            let Link { index, name, .. } = self.links[id];
            self.watchers.link_gone(index, name);
        }
    }
}

impl Bridge {
    fn count_mtu(&mut self, mtu: u32) {
        *self.port_mtus.entry(mtu).or_default() += 1;
    }

    fn forget_mtu(&mut self, mtu: u32) {
        if let Some(count) = self.port_mtus.get_mut(&mtu) {
            *count -= 1;
            if *count == 0 {
                self.port_mtus.remove(&mtu);
            }
        }
    }
}

/// `EXFULL` when a bridge has as many ports as it takes.
fn check_room(ports: &[LinkId]) -> Result<(), Refusal> {
    if ports.len() < MAX_PORTS { Ok(()) } else { Err(Refusal::new(EXFULL)) }
}

/// `EINVAL` for the names that Linux keeps for itself below `/proc/sys/net/*/conf`.
pub(super) fn check_name(name: IfName) -> Result<(), Refusal> {
    if RESERVED_NAMES.contains(&name.as_str()) { Err(Refusal::new(EINVAL)) } else { Ok(()) }
}

/// Zero and group addresses cannot belong to a link.
fn check_mac(mac: Option<MacAddr>) -> Result<(), Refusal> {
    match mac {
        Some(mac) if mac.is_multicast() || mac.0 == [0; 6] => Err(Refusal::new(EADDRNOTAVAIL)),
        _ => Ok(()),
    }
}

fn check_mtu(mtu: Option<u32>) -> Result<u32, Refusal> {
    let mtu = mtu.unwrap_or(ETHERNET_MTU);
    if MTU_RANGE.contains(&mtu) { Ok(mtu) } else { Err(Refusal::new(EINVAL)) }
}

fn check_tag(tag: &LinkTag) -> Result<(), Refusal> {
    // Counted rather than written out: every new link comes by here.
    let length = "netloom///".len() + tag.instance.len() + tag.kind.len() + tag.id.len();
    if length <= MAX_TAG { Ok(()) } else { Err(Refusal::saying(ERANGE, "The mark is too long")) }
}
