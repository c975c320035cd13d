//! Others at work on the same machine: objects that are not the engine's, and damage behind its back.

use netloom_kernel::{KernelError, LinkKind, LinkTag, Netns, Op};
use netloom_model::{IfName, NetnsName};

use super::SimKernel;
use super::links::check_name;
use super::world::{Alias, Bridge, ETHERNET_MTU, HOST, Kind, NewLink, World};
use crate::errno::{EEXIST, EOPNOTSUPP, Refusal};

impl SimKernel {
    /// Adds somebody else's namespace. It is not among [`netloom_kernel::Kernel::namespaces`].
    ///
    /// # Errors
    /// `EEXIST` when the name is in use.
    pub fn foreign_netns(&self, name: NetnsName) -> Result<(), KernelError> {
        let mut state = self.lock();
        if state.world.names.contains_key(&name) {
            let refusal = Refusal::new(EEXIST);
            return Err(refused(format!("add foreign namespace {name}"), refusal));
        }
        let ns = state.world.add_namespace();
        state.world.namespaces[ns].foreign = true;
        state.world.mount(ns, name);
        Ok(())
    }

    /// Adds somebody else's link, down. For a foreign veth pair see [`SimKernel::foreign_op`].
    ///
    /// # Errors
    /// `ENOENT` without the namespace, `EEXIST` when the name is in use, `EINVAL` when it is `all` or `default`,
    /// `EOPNOTSUPP` for half of a veth pair.
    pub fn foreign_link(
        &self,
        netns: Netns,
        name: IfName,
        kind: LinkKind,
        alias: Option<&str>,
    ) -> Result<(), KernelError> {
        let kind = match kind {
            LinkKind::Device => Some(Kind::Device),
            LinkKind::Bridge => Some(Kind::Bridge(Box::<Bridge>::default())),
            LinkKind::Other(kind) => Some(Kind::Other(kind.into())),
            LinkKind::Veth => None,
        };
        self.lock()
            .world
            .add_foreign_link(netns, name, kind, alias)
            .map_err(|refusal| refused(format!("add foreign link {name} to {netns}"), refusal))
    }

    /// Carries out an operation as somebody else would: at once, not counted, not logged, never failed on
    /// purpose. With it come foreign addresses, routes and pairs, and changes behind the engine's back.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn foreign_op(&self, op: &Op) -> Result<(), KernelError> {
        let world = &mut self.lock().world;
        world.apply(op).map_err(|refusal| refused(op, refusal))?;
        if let Op::ChangeTable { netns: Netns::Host, table, .. } = op {
            world.table_watchers.changed(table);
        }
        Ok(())
    }

    /// `nft flush ruleset`: every table is gone, whoever's it was, and those who watch are told.
    pub fn flush_ruleset(&self) {
        let world = &mut self.lock().world;
        for table in world.tables.clear() {
            world.table_watchers.changed(&table);
        }
    }

    /// From now on the kernel has no nftables, as one that was built without: what is asked of it is refused with
    /// `EOPNOTSUPP`, and nobody is told anything.
    pub fn without_nftables(&self) {
        self.lock().world.tables.absent = true;
    }

    /// Deletes any link, whoever's it is. Devices of the host can be unplugged so.
    ///
    /// # Errors
    /// `ENOENT` without the namespace, `ENODEV` without the link, `EOPNOTSUPP` for a loopback.
    pub fn vanish_link(&self, netns: Netns, name: IfName) -> Result<(), KernelError> {
        self.lock()
            .world
            .vanish_link(netns, name)
            .map_err(|refusal| refused(format!("delete link {name} of {netns}"), refusal))
    }

    /// Unmounts a namespace, whoever's it is; it is destroyed unless it is an external one as well.
    ///
    /// # Errors
    /// `ENOENT` when there is none.
    pub fn vanish_netns(&self, name: NetnsName) -> Result<(), KernelError> {
        self.foreign_op(&Op::DeleteNetns { name })
    }

    /// Starts the machine again: every namespace, link, address, route, neighbour and setting is gone, and
    /// the host has its loopback and its devices of [`super::SimKernelBuilder::host_link`] as at the start.
    ///
    /// Calls under way are forgotten and answered with "timed out" at their deadline. Counters, log, latency
    /// and planned faults stay.
    pub fn reboot(&self) {
        let mut state = self.lock();
        let mut fresh = World::new();
        for uplink in self.uplinks() {
            fresh.add_uplink(*uplink);
        }
        let old = std::mem::replace(&mut state.world, fresh);
        state.world.take_watchers(old);
        state.forget_calls();
    }
}

impl World {
    fn add_foreign_link(
        &mut self,
        netns: Netns,
        name: IfName,
        kind: Option<Kind>,
        alias: Option<&str>,
    ) -> Result<(), Refusal> {
        let ns = self.ns(netns)?;
        let kind = kind.ok_or(Refusal::new(EOPNOTSUPP))?;
        self.check_free(ns, name)?;
        check_name(name)?;
        let alias =
            alias.map(|text| LinkTag::parse(text).map_or_else(|| Alias::Text(text.to_owned()), Alias::Tag));
        let id = self.add_link(ns, NewLink { name, kind, mac: None, mtu: ETHERNET_MTU, alias });
        self.note_changed(id);
        Ok(())
    }

    fn vanish_link(&mut self, netns: Netns, name: IfName) -> Result<(), Refusal> {
        let id = self.find(netns, name)?;
        if self.links[id].is_loopback() {
            return Err(Refusal::new(EOPNOTSUPP));
        }
        self.remove_link(id);
        Ok(())
    }

    /// Tells those who watched the machine before it went down that changes were lost.
    fn take_watchers(&mut self, old: Self) {
        debug_assert!(self.namespaces.get(HOST).is_some());
        self.watchers = old.watchers;
        self.watchers.overrun();
        self.reach = old.reach;
        self.reach.overrun();
        self.table_watchers = old.table_watchers;
        self.table_watchers.overrun();
    }
}

pub(super) fn refused(operation: impl Into<netloom_kernel::Tried>, refusal: Refusal) -> KernelError {
    KernelError::refused(operation, refusal.errno, refusal.message())
}
