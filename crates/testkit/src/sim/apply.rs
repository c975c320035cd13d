//! One operation on the model: what takes effect, or why not.

use netloom_kernel::{Netns, Op, PortFlag};

use super::links::NewVeth;
use super::world::World;
use crate::errno::{EEXIST, EOPNOTSUPP, Refusal};

impl World {
    /// Carries out an operation. A refused one changes nothing.
    pub(super) fn apply(&mut self, op: &Op) -> Result<(), Refusal> {
        match op {
            Op::CreateNetns { name, ipv6 } => {
                if self.names.contains_key(name) {
                    return Err(Refusal::new(EEXIST));
                }
                let ns = self.add_namespace();
                if !ipv6 {
                    self.keep(ns, "ipv6/conf/default/disable_ipv6", "1");
                }
                self.mount(ns, *name);
                Ok(())
            }
            Op::AdoptNetns { name, source } => self.adopt(*name, source),
            Op::DeleteNetns { name } => self.unmount(*name),
            Op::CreateBridge { name, mac, mtu, tag } => self.create_bridge(*name, *mac, *mtu, tag),
            Op::CreateVeth { host, peer, netns, master, mac, mtu, tag } => self.create_veth(NewVeth {
                host: *host,
                peer: *peer,
                netns: *netns,
                master: *master,
                mac: *mac,
                mtu: *mtu,
                tag,
            }),
            Op::CutLink { name } => self.cut_link(*name),
            Op::DeleteLink { name, tag } => self.delete_link(*name, tag.as_ref()),
            Op::MoveLink { from, name, to, rename } => self.move_link(*from, *name, *to, *rename),
            Op::SetLink { netns, name, up } => {
                let id = self.find(*netns, *name)?;
                self.set_up(id, *up);
                Ok(())
            }
            Op::SetMaster { name, master } => self.set_master(*name, *master),
            Op::SetPortFlag { name, flag } => {
                let id = self.find(Netns::Host, *name)?;
                let port = self.links[id].port.as_mut().ok_or(Refusal::new(EOPNOTSUPP))?;
                match flag {
                    PortFlag::Isolated => port.isolated = true,
                    PortFlag::Hairpin => port.hairpin = true,
                }
                self.note_changed(id);
                Ok(())
            }
            Op::SetMtu { netns, name, mtu } => {
                let id = self.find(*netns, *name)?;
                self.set_mtu(id, *mtu)
            }
            Op::AddAddress { netns, link, address } => {
                let id = self.find(*netns, *link)?;
                self.add_address(id, *address)
            }
            Op::DeleteAddress { netns, link, address } => {
                let id = self.find(*netns, *link)?;
                self.delete_address(id, *address)
            }
            Op::AddRoute { netns, route } => self.add_route(*netns, *route),
            Op::DeleteRoute { netns, route } => self.delete_route(*netns, *route),
            Op::AddNeighbour { netns, link, neighbour } => {
                let id = self.find(*netns, *link)?;
                self.add_neighbour(id, *neighbour)
            }
            Op::DeleteNeighbour { netns, link, neighbour } => {
                let id = self.find(*netns, *link)?;
                self.delete_neighbour(id, *neighbour)
            }
            Op::Announce { netns, link } => {
                let id = self.find(*netns, *link)?;
                self.announce(id);
                Ok(())
            }
            Op::Sysctl { netns, key, value } => self.write_setting(*netns, key, value),
            Op::ChangeTable { netns: Netns::Host, table, changes } => self.tables.change(table, changes),
            Op::ChangeTable { netns, table, changes } => {
                let ns = self.ns(*netns)?;
                match self.tables.absent {
                    true => Err(Refusal::new(EOPNOTSUPP)),
                    false => self.namespaces[ns].tables.change(table, changes),
                }
            }
            Op::ForgetConnections { filter } => self.forget(filter),
        }
    }
}
