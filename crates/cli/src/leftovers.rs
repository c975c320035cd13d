//! Looks at the machine with its own eyes: what is there that was not there before?

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use netloom::kernel::{Kernel, LinkKind, LinuxConfig, LinuxKernel, Netns};
use netloom_store::{RedbStore, Store};

/// How the line of a bridge begins.
const BRIDGE: &str = "bridge ";

/// Everything the demonstration could leave behind, as one line of text each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture(BTreeSet<String>);

impl Picture {
    /// Takes a picture of the host's namespace and of the mounts.
    pub(crate) async fn take(run_dir: &Path) -> anyhow::Result<Self> {
        // A kernel of its own, so that the engine does not vouch for itself.
        let kernel = LinuxKernel::start(LinuxConfig { run_dir: run_dir.to_owned() })
            .with_context(|| format!("cannot open netlink and {}", run_dir.display()))?;
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut lines = BTreeSet::new();
        let links = kernel.links(Netns::Host, deadline).await?;
        let name = |index: u32| {
            let link = links.iter().find(|link| link.index == index);
            link.map_or_else(|| format!("link {index}"), |link| link.name.to_string())
        };
        lines.extend(links.iter().map(|link| match link.kind {
            LinkKind::Bridge => format!("{BRIDGE}{}", link.name),
            LinkKind::Device | LinkKind::Veth | LinkKind::Other(_) => format!("link {}", link.name),
        }));
        for view in kernel.addresses(Netns::Host, deadline).await? {
            // The kernel gives every link that is up an address of this kind.
            let automatic =
                matches!(view.address.addr(), std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
            if !automatic {
                lines.insert(format!("address {} on {}", view.address, name(view.link)));
            }
        }
        for view in kernel.routes(Netns::Host, deadline).await? {
            let via = view.via.map(|via| format!(" via {via}")).unwrap_or_default();
            let device = view.link.map(|link| format!(" dev {}", name(link))).unwrap_or_default();
            lines.insert(format!("route {}{via}{device}", view.destination));
        }
        let namespaces = kernel.namespaces(deadline).await?;
        lines.extend(namespaces.into_iter().map(|netns| format!("namespace {netns}")));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        lines.extend(points.map(|point| format!("mount {point}")));
        Ok(Self(lines))
    }

    /// What is here and was not there.
    pub(crate) fn beyond(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }

    /// The bridges that are here and were not there.
    pub(crate) fn bridges_beyond(&self, before: &Self) -> Vec<String> {
        let new = self.0.difference(&before.0);
        new.filter_map(|line| line.strip_prefix(BRIDGE)).map(str::to_owned).collect()
    }
}

/// Every record and open intent of a store that nobody uses any more.
pub(crate) fn records(data_dir: &Path) -> anyhow::Result<Vec<String>> {
    let (mut store, findings) = RedbStore::open(data_dir)?;
    let mut left: Vec<_> = findings.iter().map(|f| format!("broken store {}", f.path.display())).collect();
    left.extend(store.load()?.into_iter().map(|(key, _)| format!("record {:?} {}", key.kind, key.id)));
    left.extend(
        store.open_intents()?.into_iter().map(|intent| format!("intent {} {}", intent.verb, intent.id)),
    );
    Ok(left)
}
