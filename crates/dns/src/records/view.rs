//! What one sandbox sees: its networks in their order, and names of its own.
//!
//! The order is libnetwork's (`Sandbox.ResolveName`): the whole name in every network, then for each dot from the right
//! the part before it in the network that is called as the part behind it. Within each, aliases that are private to
//! the sandbox come first; a private alias hides a record of the same name in its network. The first network that has
//! an address of the family answers, and networks are not united. A name that is known without that family is known.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use super::zone::{Entry, Family, Known, Service, Target, ZoneReader};
use crate::name::{single, stored};

/// A network as a sandbox is attached to it.
#[derive(Clone, Debug)]
pub struct Attachment {
    zone: ZoneReader,
    aliases: HashMap<Arc<str>, Arc<str>>,
}

impl Attachment {
    /// A network, with aliases that this sandbox alone has: pairs of an alias and of the name in the network that it
    /// stands for (libnetwork's `CreateOptionAlias`).
    pub fn new<'a>(zone: ZoneReader, aliases: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let aliases = aliases.into_iter();
        let aliases = aliases.filter_map(|(alias, name)| Some((stored(alias)?, stored(name)?)));
        Self { zone, aliases: aliases.collect() }
    }
}

/// What a sandbox's networks say of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// It has addresses of the family.
    Addresses(Arc<Entry>),
    /// It is known, without that family.
    NoData,
    /// It belongs here, and there is nobody of that name now.
    NoSuchName,
    /// It is nothing of ours.
    Unknown,
}

/// What a sandbox's networks say of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SrvFound {
    /// These offer it.
    Targets(Vec<Target>),
    /// The name is that of a service or below a name of ours, and nobody offers it.
    NoSuchName,
    /// It is nothing of ours.
    Unknown,
}

/// What one sandbox sees. A new one is made for each change of its attachments; records of its networks change by
/// themselves.
#[derive(Clone, Debug, Default)]
pub struct View {
    networks: Vec<Attachment>,
    extra: HashMap<Arc<str>, Arc<Entry>>,
    /// Whether names without a dot that nobody here has are answered as empty instead of being asked for outside. It is
    /// so where the user has set `ndots` above 0: the resolver in the container appends its search domains then
    /// (moby's `Resolver.forwardExtDNS` and `NdotsSet`).
    pub keeps_single_labels: bool,
}

impl View {
    /// A sandbox with these networks, first asked first.
    #[must_use]
    pub fn new(networks: Vec<Attachment>) -> Self {
        Self { networks, ..Self::default() }
    }

    /// Adds a name that this sandbox alone knows, before those of its networks.
    pub fn add_name(&mut self, name: &str, addresses: &[IpAddr]) {
        let Some(name) = stored(name) else { return };
        let entry = Arc::make_mut(self.extra.entry(name).or_default());
        addresses.iter().for_each(|address| entry.add(*address));
    }

    /// Looks a name up; it has to be lower-cased and without the last dot.
    #[must_use]
    pub fn find(&self, name: &str, family: Family, now: Instant) -> Found {
        if let Some(entry) = self.extra.get(name) {
            return if entry.has(family) { Found::Addresses(Arc::clone(entry)) } else { Found::NoData };
        }
        let mut was_here = false;
        let dots = name.rmatch_indices('.').map(|(at, _)| (&name[..at], Some(&name[at + 1..])));
        for (host, network) in std::iter::once((name, None)).chain(dots) {
            for of_aliases in [true, false] {
                match self.find_in(host, network, of_aliases, family, now) {
                    Found::NoSuchName => was_here = true,
                    Found::Unknown => {}
                    found => return found,
                }
            }
        }
        if was_here { Found::NoSuchName } else { Found::Unknown }
    }

    /// One pass over the networks, or over the one that is called `network`.
    fn find_in(
        &self,
        name: &str,
        network: Option<&str>,
        of_aliases: bool,
        family: Family,
        now: Instant,
    ) -> Found {
        let (mut known, mut was_here) = (false, false);
        for attachment in &self.networks {
            let alias = attachment.aliases.get(name);
            if alias.is_some() != of_aliases {
                continue;
            }
            let zone = attachment.zone.load();
            if network.is_some_and(|network| network != zone.network()) {
                continue;
            }
            match zone.find(alias.map_or(name, |alias| alias), now) {
                Known::Here(entry) if entry.has(family) => return Found::Addresses(entry),
                Known::Here(_) => known = true,
                Known::Gone => was_here = true,
                // The alias is ours, whether or not somebody stands behind it.
                Known::Not => was_here |= of_aliases,
            }
        }
        match (known, was_here) {
            (true, _) => Found::NoData,
            (false, true) => Found::NoSuchName,
            (false, false) => Found::Unknown,
        }
    }

    /// What an address is called, as `name.network`, in the first network that knows it; with `Ok(None)` for a range
    /// within our subnets that is no address with a name, and `Err` for what is nothing of ours.
    ///
    /// # Errors
    /// [`NotOurs`]: somebody else may know.
    pub fn name_of(&self, range: IpNet) -> Result<Option<String>, NotOurs> {
        let mut ours = false;
        for attachment in &self.networks {
            let zone = attachment.zone.load();
            ours |= zone.owns(range);
            if let Some(name) = single(range).and_then(|address| zone.name_of(address)) {
                return Ok(Some(format!("{name}.{}", zone.network())));
            }
        }
        if ours { Ok(None) } else { Err(NotOurs) }
    }

    /// Looks a service up: `_port._protocol.service`, lower-cased.
    #[must_use]
    pub fn service(&self, name: &str, now: Instant) -> SrvFound {
        let mut parts = name.splitn(3, '.');
        let (Some(port_name), Some(protocol), Some(service)) = (parts.next(), parts.next(), parts.next())
        else {
            return SrvFound::Unknown;
        };
        let bare = |text: &str, stored: &str| text.strip_prefix('_').unwrap_or(text) == stored;
        let mut ours = false;
        for attachment in &self.networks {
            let zone = attachment.zone.load();
            let services = zone.services(service);
            ours |= !services.is_empty();
            let fits =
                |known: &&Service| bare(port_name, &known.port_name) && bare(protocol, &known.protocol);
            let targets: Vec<Target> =
                services.iter().filter(fits).map(|known| known.target.clone()).collect();
            if !targets.is_empty() {
                return SrvFound::Targets(targets);
            }
        }
        let below_ours = port_name.starts_with('_')
            && protocol.starts_with('_')
            && self.find(service, Family::Any, now) != Found::Unknown;
        if ours || below_ours { SrvFound::NoSuchName } else { SrvFound::Unknown }
    }
}

/// What one sandbox sees now: whoever changes it puts a new one, and questions take what is there.
#[derive(Debug, Default)]
pub struct ViewCell(ArcSwap<View>);

impl ViewCell {
    /// A cell with this in it.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self(ArcSwap::from_pointee(view))
    }

    /// Everybody sees this from now on.
    pub fn put(&self, view: View) {
        self.0.store(Arc::new(view));
    }

    /// What there is.
    #[must_use]
    pub fn load(&self) -> impl std::ops::Deref<Target = Arc<View>> {
        self.0.load()
    }
}

/// Nothing of a sandbox's networks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotOurs;
