//! `netloom ports`: ports of the host and where they lead, as the records of a data directory have them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netloom::{EndpointId, NetworkId, ObjectKind, PortRange, Protocol};
use netloom_model::record::{EndpointRecord, NetworkRecord};
use netloom_store::{RecordKind, decode};
use serde::Serialize;

use crate::records::{self, Format, Source, lines};
use crate::report::{self, Output};

/// Ports of the host and where they lead.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists the ports of the host that lead to endpoints.
    Ls(List),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    source: Source,
    /// Lists those alone that this port of the host is among.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
}

/// Ports of one address of the host, and where they lead.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
struct Lead {
    /// The host's address; `0.0.0.0` and `::` stand for every one of their family.
    host: IpAddr,
    /// The host's ports.
    ports: PortRange,
    protocol: Protocol,
    /// The container's address: that of the host's family, or else its only one.
    container: Option<IpAddr>,
    /// The container's ports.
    inside: PortRange,
    endpoint: String,
    endpoint_id: EndpointId,
    network: String,
}

/// Runs the command; tells whether everything that is recorded could be shown.
pub(crate) fn run(options: &Options, out: &mut Output) -> anyhow::Result<bool> {
    let Command::Ls(List { source, port }) = &options.command;
    let (mut all, whole) = read(source)?;
    if let Some(port) = port {
        all.retain(|lead| (lead.ports.first..=lead.ports.last).contains(port));
    }
    match source.format {
        Format::Table => table(out, &all),
        Format::Json => lines(out, [serde_json::to_string(&all)?]),
    }
    Ok(whole)
}

/// By the host's ports.
fn read(source: &Source) -> anyhow::Result<(Vec<Lead>, bool)> {
    let (mut networks, mut endpoints, mut whole) = (BTreeMap::<NetworkId, String>::new(), Vec::new(), true);
    for (key, value) in records::read(&source.data_dir)? {
        let outcome = match key.kind {
            RecordKind::Network => decode(&value).map(|record: NetworkRecord| {
                networks.insert(record.id, record.spec.name);
            }),
            RecordKind::Endpoint => decode(&value).map(|record: EndpointRecord| endpoints.push(record)),
            RecordKind::Sandbox
            | RecordKind::Reservation
            | RecordKind::Driver
            | RecordKind::Engine
            | RecordKind::Order => Ok(()),
        };
        if let Err(error) = outcome {
            records::left_out(&format!("record {} of a {}", key.id, ObjectKind::from(key.kind)), &error);
            whole = false;
        }
    }
    // One that is in no sandbox has none; what its record says is what led to it last.
    let joined = endpoints.iter().filter(|record| record.plugged().is_some());
    let mut all: Vec<_> = joined
        .flat_map(|record| leads(record, networks.get(&record.network).cloned().unwrap_or_default()))
        .collect();
    all.sort_by(|one, other| {
        (one.ports, one.protocol, one.host).cmp(&(other.ports, other.protocol, other.host))
    });
    Ok((all, whole))
}

fn leads(record: &EndpointRecord, network: String) -> impl Iterator<Item = Lead> {
    let v4 = record.ipv4.map(|net| IpAddr::V4(net.addr()));
    let v6 = record.ipv6.map(|net| IpAddr::V6(net.addr()));
    record.published.0.iter().flat_map(move |published| {
        let network = network.clone();
        published.host.addresses.iter().map(move |host| Lead {
            host: *host,
            ports: published.host.range,
            protocol: published.host.protocol,
            container: if host.is_ipv4() { v4.or(v6) } else { v6.or(v4) },
            inside: published.inside(),
            endpoint: record.name.clone(),
            endpoint_id: record.id,
            network: network.clone(),
        })
    })
}

fn table(out: &mut Output, all: &[Lead]) {
    let header = ["HOST", "PORTS", "PROTOCOL", "CONTAINER", "PORTS THERE", "ENDPOINT", "NETWORK"];
    let row = |lead: &Lead| {
        vec![
            lead.host.to_string(),
            lead.ports.to_string(),
            lead.protocol.to_string(),
            lead.container.map(|container| container.to_string()).unwrap_or_default(),
            lead.inside.to_string(),
            lead.endpoint.clone(),
            lead.network.clone(),
        ]
    };
    report::rows(out, &header, all.iter().map(row).collect());
}
