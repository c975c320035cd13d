//! Whether what is said about names is true.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netloom::snapshot::{EndpointSnapshot, EngineSnapshot, NetworkSnapshot, SandboxPhase, SandboxSnapshot};
use netloom::{EndpointId, Engine, NamespaceSpec, WayOut};

/// A network's identifier, a name, an address, and whose it is.
type Record = (String, String, IpAddr, String);

/// Checks that the records are those of the endpoints that there are, and that every sandbox has a name server that is to
/// have one, of its networks, and no other sandbox does. Meant for a moment at which nothing runs.
pub(crate) async fn check(engine: &Engine) -> Result<(), String> {
    let picture = engine.inspect().await.map_err(|error| error.to_string())?;
    let listed = engine.controller().names().await.map_err(|error| error.to_string())?;
    let entered: BTreeSet<Record> = listed
        .iter()
        .flat_map(|zone| {
            zone.records.iter().flat_map(|record| {
                let of = |id: &netloom::EndpointId| {
                    (zone.network.id.clone(), record.name.clone(), record.address, id.to_string())
                };
                record.endpoints.iter().map(of).collect::<Vec<_>>()
            })
        })
        .collect();
    let due: BTreeSet<Record> =
        picture.networks.iter().flat_map(|network| network.endpoints.iter().flat_map(records)).collect();
    if entered != due {
        return Err(format!("the records are {entered:?}; by the endpoints they are {due:?}"));
    }
    let zones: BTreeSet<_> = listed.iter().map(|zone| &zone.network.id).collect();
    let networks: Vec<_> = picture.networks.iter().map(|network| network.id.to_string()).collect();
    if zones != networks.iter().collect() {
        return Err(format!("there are records of networks {zones:?}, and there are {networks:?}"));
    }
    servers(&picture)
}

fn records(endpoint: &EndpointSnapshot) -> Vec<Record> {
    let own = (!endpoint.names.anonymous).then_some(&endpoint.name);
    let addresses: Vec<IpAddr> = endpoint
        .ipv4
        .map(|net| net.addr().into())
        .into_iter()
        .chain(endpoint.ipv6.map(|net| net.addr().into()))
        .collect();
    let names: Vec<_> =
        own.into_iter().chain(&endpoint.names.aliases).map(|name| name.to_ascii_lowercase()).collect();
    let of = |name: &String| {
        let (network, name, id) = (endpoint.network.to_string(), name.clone(), endpoint.id.to_string());
        addresses.iter().map(move |address| (network.clone(), name.clone(), *address, id.clone()))
    };
    names.iter().flat_map(of).collect()
}

fn servers(picture: &EngineSnapshot) -> Result<(), String> {
    let servers: BTreeMap<_, _> =
        picture.name_servers.iter().map(|server| (server.sandbox.id.clone(), server)).collect();
    for id in servers.keys() {
        if !picture.sandboxes.iter().any(|sandbox| sandbox.id.to_string() == *id) {
            return Err(format!("sandbox {id} is gone and has a name server"));
        }
    }
    let each =
        picture.networks.iter().flat_map(|network| network.endpoints.iter().map(move |e| (network, e)));
    let endpoints: Endpoints<'_> =
        each.map(|(network, endpoint)| (endpoint.id, (network, endpoint))).collect();
    for sandbox in &picture.sandboxes {
        let found = servers.get(&sandbox.id.to_string());
        let networks = networks_of(&endpoints, sandbox);
        let calls = networks.iter().any(|(_, calls)| *calls);
        let Some(server) = found else {
            if calls {
                return Err(format!("{} has no name server: {networks:?}", sandbox.container_id));
            }
            continue;
        };
        // Once there it stays, whoever leaves.
        let due: BTreeSet<_> = networks.into_iter().map(|(name, _)| name).collect();
        let seen: BTreeSet<_> = server.networks.iter().cloned().collect();
        let leads_out = sandbox.gateway.is_some() || sandbox.gateway6.is_some();
        if server.ports.is_none() || server.trouble.is_some() || seen != due || server.external != leads_out {
            return Err(format!("{} is in {due:?}, and has {server:?}", sandbox.container_id));
        }
    }
    Ok(())
}

/// The endpoints of all networks.
type Endpoints<'a> = BTreeMap<EndpointId, (&'a NetworkSnapshot, &'a EndpointSnapshot)>;

/// The networks whose records a sandbox sees, and whether it has a name server for their sake.
fn networks_of(endpoints: &Endpoints<'_>, sandbox: &SandboxSnapshot) -> Vec<(String, bool)> {
    if sandbox.namespace == NamespaceSpec::Host || sandbox.phase == SandboxPhase::Waiting {
        return Vec::new();
    }
    let plugged = sandbox.endpoints.iter().filter(|inside| inside.way_out != WayOut::Provided);
    let of = |inside: &netloom::snapshot::SandboxEndpoint| {
        let (network, endpoint) = endpoints.get(&inside.endpoint)?;
        let special = matches!(&*network.driver, "host" | "null");
        Some((network.name.clone(), !special && !endpoint.names.no_resolution))
    };
    plugged.filter_map(of).collect()
}
