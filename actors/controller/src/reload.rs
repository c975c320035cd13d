//! The configuration while the engine runs: replaced as a whole, or not at all.
//!
//! A reload is decided and carried out in one handler, so nobody sees a part of it, and two at once come one after
//! the other. What it changes is read at each use, or told to whoever keeps it; nobody waits for them.

use netloom_actor_driver::Discovered;
use netloom_actor_services::ipam::{ClusterStoreConfigured, ReplaceDefaultPools};
use netloom_drivers::{DatastoreConfig, Discovery, DriverConfig, bridge};
use netloom_model::EngineConfig;
use netloom_runtime::{Addr, Handle};

use super::*;
use crate::message::{ListIpamDrivers, ReloadConfiguration};

impl Handle<ReloadConfiguration> for ControllerActor {
    fn handle(
        &mut self,
        op: OpCtx,
        ReloadConfiguration(next): ReloadConfiguration,
        reply: Reply<Result<()>>,
        _: &mut Cx<'_, Self>,
    ) {
        reply.send(self.admit().and_then(|()| self.reload(&op, next.normalized())));
    }
}

impl Handle<ListIpamDrivers> for ControllerActor {
    fn handle(&mut self, _: OpCtx, _: ListIpamDrivers, reply: Reply<Vec<String>>, _: &mut Cx<'_, Self>) {
        reply.send(self.estate.services.ipam.names());
    }
}

impl ControllerActor {
    fn reload(&mut self, op: &OpCtx, next: EngineConfig) -> Result<()> {
        next.validate()?;
        let present = self.estate.directory.config();
        let changed = present.accept(&next)?;
        self.try_in_drivers(&present, &next)?;
        same_mark(&present, &next)?;
        // From here on nothing fails.
        let services = self.estate.services.clone();
        services.operation_timeout.set(next.timeouts.operation);
        services.operations_per_object.set(next.limits.operations_per_object);
        services.name_server_files.set(next.name_server_files.clone().into());
        let pools = self.estate.default_pools(&next);
        if pools != self.estate.default_pools(&present) {
            services.ipam.default_driver().tell(op, ReplaceDefaultPools(pools));
        }
        let store = next.cluster_store().filter(|store| present.cluster_store().as_ref() != Some(store));
        if (&next.drivers, &next.scopes) != (&present.drivers, &present.scopes) {
            self.remark_on(&next);
        }
        self.estate.directory.publish_config(next);
        if let Some(store) = store {
            for ipam in services.ipam.all() {
                ipam.tell(op, ClusterStoreConfigured(store.clone()));
            }
            for driver in self.estate.drivers.values() {
                driver.port.tell(op, discovered(store.clone()));
            }
        }
        tracing::info!(?changed, "a new configuration is in force");
        let changed = changed.into_iter().map(str::to_owned).collect();
        self.estate.events.emit(op, EventKind::ConfigurationReloaded { changed });
        Ok(())
    }

    /// Whether each driver that would get another configuration can use it, asked of a value that is dropped: the
    /// one that runs keeps what it has, and must not be out of service when it is made again.
    fn try_in_drivers(&self, present: &EngineConfig, next: &EngineConfig) -> Result<()> {
        self.estate.drivers.iter().try_for_each(|(kind, driver)| {
            let wanted = DriverConfig::of(kind, next);
            if wanted == DriverConfig::of(kind, present) {
                return Ok(());
            }
            driver.registration.make(&wanted).map(drop)
        })
    }

    /// Says what of a configuration may not do what somebody expects.
    pub(super) fn remark_on(&self, config: &EngineConfig) {
        for kind in config.drivers.keys().filter(|kind| !self.estate.drivers.contains_key(*kind)) {
            tracing::warn!(kind, "there are options for a driver that is not registered");
        }
        if config.datastores().any(|store| store.scope == Scope::Local) {
            tracing::warn!(
                "the store of scope local is for drivers; the engine's own records are in data_dir"
            );
        }
    }

    /// What the present configuration has for a driver.
    pub(super) fn driver_config(&self, kind: &str) -> DriverConfig {
        DriverConfig::of(kind, &self.estate.directory.config())
    }

    /// Tells a driver that was made just now of the cluster: its store, and its nodes if it reaches them.
    pub(super) fn tell_driver_of_cluster(&self, op: &OpCtx, driver: &Addr<DriverActor>, scope: Scope) {
        if let Some(store) = self.estate.directory.config().cluster_store() {
            driver.tell(op, discovered(store));
        }
        if scope == Scope::Global {
            self.nodes().for_each(|node| driver.tell(op, nodes::to_driver(node)));
        }
    }

    /// Tells a new IPAM driver what the configuration has for it. It may have been made before a reload.
    pub(super) fn tell_ipam(&self, op: &OpCtx, ipam: &Addr<IpamActor>) {
        let config = self.estate.directory.config();
        ipam.tell(op, ReplaceDefaultPools(self.estate.default_pools(&config)));
        if let Some(store) = config.cluster_store() {
            ipam.tell(op, ClusterStoreConfigured(store));
        }
        self.nodes().for_each(|node| ipam.tell(op, nodes::to_ipam(node)));
    }
}

/// Refuses another mark: it is in the firewall's table, which was made at the start.
fn same_mark(present: &EngineConfig, next: &EngineConfig) -> Result<()> {
    let option = |config| DriverConfig::of(bridge::KIND, config);
    let (present, next) = (option(present), option(next));
    if bridge::accepted_mark(&present)? == bridge::accepted_mark(&next)? {
        return Ok(());
    }
    let shown = |config: &DriverConfig| {
        config.options.get(bridge::BRIDGE_ACCEPT_FWMARK).cloned().unwrap_or_else(|| "none".into())
    };
    let (present, wanted) = (shown(&present), shown(&next));
    Err(Reason::NeedsRestart { key: "drivers.bridge.bridge_accept_fwmark", present, wanted }.into())
}

fn discovered(store: DatastoreConfig) -> Discovered {
    Discovered(Discovery::DatastoreConfigured(store))
}
