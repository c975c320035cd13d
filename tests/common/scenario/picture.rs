//! Everything that a run shows after a step, in words that do not depend on chance: what runs over two kernels are
//! compared by.

use netloom::Engine;
use netloom::kernel::{Kernel, LinkKind, Netns};
use netloom::snapshot::EngineSnapshot;

use super::looks::Namespace;
use super::names::Names;

/// How much of it can be compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Detail {
    /// Nothing: what was done is chance.
    Nothing,
    /// Only how many: who came first is chance.
    Counts,
    /// All.
    Full,
}

/// What engine and kernel have, a line each.
pub(crate) async fn picture(
    engine: Option<&Engine>,
    kernel: &dyn Kernel,
    names: &std::cell::RefCell<Names>,
    detail: Detail,
) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    let host = Namespace::of(kernel, Netns::Host).await?;
    for link in &host.links {
        let bridge = link.kind == LinkKind::Bridge;
        let name = if bridge { link.name.as_str() } else { "a port" };
        let addresses = host.addresses_of(link);
        lines.push(format!("host: {name} {:?} up={} mtu={} {addresses:?}", link.kind, link.up, link.mtu));
    }
    let Some(engine) = engine else { return Ok(finished(lines, &names.borrow(), detail)) };
    let seen = engine.inspect().await.map_err(|error| error.to_string())?;
    learn(&seen, &mut names.borrow_mut());
    for network in &seen.networks {
        let pools: Vec<_> = network.v4.iter().chain(&network.v6).collect();
        lines.push(format!("network {} {:?} {pools:?}", network.name, network.phase));
        for endpoint in &network.endpoints {
            let (v4, v6) = (endpoint.ipv4, endpoint.ipv6);
            let place = (endpoint.phase, endpoint.sandbox, endpoint.ifname);
            let id = endpoint.id;
            lines.push(format!("endpoint {} {id} {v4:?} {v6:?} {:?} {place:?}", endpoint.name, endpoint.mac));
        }
    }
    for sandbox in &seen.sandboxes {
        let of = &sandbox.container_id;
        let ways = (sandbox.gateway, sandbox.gateway6);
        lines.push(format!(
            "sandbox {of} {} {:?} {:?} {ways:?}",
            sandbox.id, sandbox.phase, sandbox.endpoints
        ));
        let netns = sandbox.id.short().parse().map_err(|error: netloom::Error| error.to_string())?;
        // A reboot may have taken it.
        let Ok(inside) = Namespace::of(kernel, Netns::Named(netns)).await else {
            lines.push(format!("inside {of}: nothing"));
            continue;
        };
        for link in &inside.links {
            let (name, mac, addresses) = (link.name, link.mac, inside.addresses_of(link));
            lines.push(format!("inside {of}: {name} {mac:?} up={} mtu={} {addresses:?}", link.up, link.mtu));
        }
        lines.extend(inside.routes().into_iter().map(|route| format!("inside {of}: {route}")));
    }
    Ok(finished(lines, &names.borrow(), detail))
}

/// Gives names to what the engine made by itself.
fn learn(seen: &EngineSnapshot, names: &mut Names) {
    for network in &seen.networks {
        names.learn(&network.name, &network.id.to_string());
        for endpoint in &network.endpoints {
            // Its name may have a sandbox's identifier in it.
            let path = names.without_ids(&format!("{}/{}", network.name, endpoint.name));
            names.learn(&path, &endpoint.id.to_string());
        }
    }
}

fn finished(mut lines: Vec<String>, names: &Names, detail: Detail) -> Vec<String> {
    match detail {
        Detail::Nothing => Vec::new(),
        Detail::Full => {
            for line in &mut lines {
                *line = names.without_ids(line);
            }
            lines.sort();
            lines
        }
        Detail::Counts => {
            let mut counts = std::collections::BTreeMap::<String, usize>::new();
            for line in lines {
                let word = line.split(' ').next().unwrap_or_default();
                *counts.entry(word.to_owned()).or_default() += 1;
            }
            counts.into_iter().map(|(word, count)| format!("{count} x {word}")).collect()
        }
    }
}
