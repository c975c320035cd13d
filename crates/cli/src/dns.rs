//! `netloom dns`: names and what they stand for, as the records of a data directory have them, and what the name server of
//! a sandbox makes of a question.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::Context;
use ipnet::IpNet;
use netloom::{EndpointId, NetworkId, ObjectKind, SandboxId, WayOut};
use netloom_dns::name::stored;
use netloom_dns::records::{Attachment, EndpointNames, Entry, Family, Found, View, ZoneWriter};
use netloom_model::record::{EndpointRecord, NetworkRecord, SandboxRecord};
use netloom_store::{RecordKind, decode};
use serde::Serialize;

use crate::records::{self, Format, Source, lines};
use crate::report::{self, Output};

/// Names and what they stand for.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists the names of all networks, with the endpoints that they stand for.
    Ls(List),
    /// Tells what a name stands for, or what an address is called: in each network, or as a sandbox sees it.
    Query(Query),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    source: Source,
    /// Lists the names of this network alone.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Query {
    /// A name, as a program in a container asks for it; or an address.
    #[arg(value_name = "NAME")]
    name: String,
    /// Asks as this container does: its networks in their order, with names of its own.
    #[arg(long, value_name = "CONTAINER")]
    sandbox: Option<String>,
    #[command(flatten)]
    source: Source,
}

/// A name, and one of the addresses that it stands for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
struct Line {
    name: String,
    address: IpAddr,
    network: String,
    endpoint: String,
    endpoint_id: EndpointId,
}

/// An answer; of a sandbox's question it does not tell the network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Answer {
    name: String,
    address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<String>,
}

/// Networks with their records, as an engine has them.
struct Names {
    zones: BTreeMap<NetworkId, (String, ZoneWriter)>,
    endpoints: BTreeMap<EndpointId, EndpointRecord>,
    sandboxes: BTreeMap<SandboxId, SandboxRecord>,
    /// Whether everything that is recorded could be read.
    whole: bool,
}

/// Runs the command; tells whether everything could be shown, and of a question whether something is known.
pub(crate) fn run(options: &Options, out: &mut Output) -> anyhow::Result<bool> {
    match &options.command {
        Command::Ls(List { source, network }) => {
            let names = Names::read(source)?;
            let mut all = names.lines();
            all.retain(|line| network.as_ref().is_none_or(|network| *network == line.network));
            match source.format {
                Format::Table => table(out, &all),
                Format::Json => lines(out, [serde_json::to_string(&all)?]),
            }
            Ok(names.whole)
        }
        Command::Query(Query { name, sandbox, source }) => {
            let names = Names::read(source)?;
            let answers = match sandbox {
                Some(container) => names.of_sandbox(name, container)?,
                None => names.of_all(name),
            };
            match source.format {
                Format::Table => answered(out, &answers),
                Format::Json => lines(out, [serde_json::to_string(&answers)?]),
            }
            Ok(names.whole && !answers.is_empty())
        }
    }
}

impl Names {
    fn read(source: &Source) -> anyhow::Result<Self> {
        let (mut networks, mut endpoints, mut sandboxes) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let mut whole = true;
        for (key, value) in records::read(&source.data_dir)? {
            let outcome = match key.kind {
                RecordKind::Network => decode(&value).map(|record: NetworkRecord| networks.push(record)),
                RecordKind::Endpoint => decode(&value).map(|record: EndpointRecord| {
                    endpoints.insert(record.id, record);
                }),
                RecordKind::Sandbox => decode(&value).map(|record: SandboxRecord| {
                    sandboxes.insert(record.id, record);
                }),
                RecordKind::Reservation | RecordKind::Driver | RecordKind::Engine | RecordKind::Order => {
                    Ok(())
                }
            };
            if let Err(error) = outcome {
                records::left_out(&format!("record {} of a {}", key.id, ObjectKind::from(key.kind)), &error);
                whole = false;
            }
        }
        let zones = networks.into_iter().map(|record| {
            let mut writer = ZoneWriter::new(&record.spec.name);
            let of_network = endpoints.values().filter(|endpoint| endpoint.network == record.id);
            of_network.for_each(|endpoint| {
                writer.publish(endpoint.id, &EndpointNames::of(endpoint), Instant::now());
            });
            (record.id, (record.spec.name, writer))
        });
        Ok(Self { zones: zones.collect(), endpoints, sandboxes, whole })
    }

    /// By name and address.
    fn lines(&self) -> Vec<Line> {
        let mut all: Vec<_> = self
            .zones
            .values()
            .flat_map(|(network, writer)| {
                writer.list().into_iter().flat_map(move |record| {
                    let (name, address) = (record.name.to_string(), record.address);
                    record.owners.into_iter().map(move |id| (name.clone(), address, network.clone(), id))
                })
            })
            .map(|(name, address, network, endpoint_id)| {
                let endpoint = self.endpoints.get(&endpoint_id).map(|record| record.name.clone());
                Line { name, address, network, endpoint: endpoint.unwrap_or_default(), endpoint_id }
            })
            .collect();
        all.sort();
        all
    }

    /// What each network knows.
    fn of_all(&self, name: &str) -> Vec<Answer> {
        let mut networks: Vec<_> = self.zones.values().collect();
        networks.sort_by(|(one, _), (other, _)| one.cmp(other));
        let of = |(network, writer): &(String, ZoneWriter)| {
            let view = View::new(vec![Attachment::new(writer.reader(), [])]);
            let (answers, _) = asked(&view, name);
            let network = Some(network.clone());
            answers
                .into_iter()
                .map(|answer| Answer { network: network.clone(), ..answer })
                .collect::<Vec<_>>()
        };
        let answers: Vec<_> = networks.into_iter().flat_map(of).collect();
        if answers.is_empty() {
            report::aside(format_args!("no network knows {name}"));
        }
        answers
    }

    /// What a sandbox's name server says.
    fn of_sandbox(&self, name: &str, container: &str) -> anyhow::Result<Vec<Answer>> {
        let mut sandboxes = self.sandboxes.values();
        let sandbox = sandboxes
            .find(|sandbox| sandbox.spec.container_id == container || sandbox.id.to_string() == container)
            .with_context(|| format!("no sandbox of a container {container:?} is recorded"))?;
        let (answers, found) = asked(&self.view(sandbox), name);
        match found {
            Known::Here => {}
            Known::NoData => report::aside(format_args!("{name} has no address here")),
            Known::NoSuchName => report::aside(format_args!("{name} does not exist, and nobody is asked")),
            Known::Elsewhere => report::aside(format_args!("{name} is asked of other name servers")),
        }
        Ok(answers)
    }

    /// Its networks, first asked first.
    fn view(&self, sandbox: &SandboxRecord) -> View {
        let mut inside: Vec<_> = self
            .endpoints
            .values()
            .filter_map(|endpoint| {
                let attachment = endpoint.plugged().filter(|at| at.sandbox == sandbox.id)?;
                let (network, writer) = self.zones.get(&endpoint.network)?;
                let (_, digits) = attachment.ifname.numbered();
                let number: u32 = digits.parse().unwrap_or(u32::MAX);
                let rank = (Reverse(attachment.priority), network, number);
                (attachment.way_out != WayOut::Provided).then_some((rank, endpoint, writer))
            })
            .collect();
        inside.sort_by_key(|(rank, ..)| *rank);
        let attachments = inside.into_iter().map(|(_, endpoint, writer)| {
            let links = endpoint.names.links.iter().map(|(alias, name)| (alias.as_str(), name.as_str()));
            Attachment::new(writer.reader(), links)
        });
        View::new(attachments.collect())
    }
}

/// What is known of a question.
enum Known {
    Here,
    NoData,
    NoSuchName,
    Elsewhere,
}

fn asked(view: &View, name: &str) -> (Vec<Answer>, Known) {
    let answer = |name: &str, address| Answer { name: name.to_owned(), address, network: None };
    if let Ok(address) = name.parse::<IpAddr>() {
        return match view.name_of(IpNet::from(address)) {
            Ok(Some(name)) => (vec![answer(&name, address)], Known::Here),
            Ok(None) => (Vec::new(), Known::NoSuchName),
            Err(netloom_dns::records::NotOurs) => (Vec::new(), Known::Elsewhere),
        };
    }
    let Some(key) = stored(name) else { return (Vec::new(), Known::Elsewhere) };
    match view.find(&key, Family::Any, Instant::now()) {
        Found::Addresses(entry) => {
            let Entry { v4, v6, .. } = &*entry;
            let v4 = v4.iter().map(|address| IpAddr::V4(*address));
            let all = v4.chain(v6.iter().map(|address| IpAddr::V6(*address)));
            (all.map(|address| answer(&key, address)).collect(), Known::Here)
        }
        Found::NoData => (Vec::new(), Known::NoData),
        Found::NoSuchName => (Vec::new(), Known::NoSuchName),
        Found::Unknown => (Vec::new(), Known::Elsewhere),
    }
}

fn table(out: &mut Output, all: &[Line]) {
    let row = |line: &Line| {
        vec![line.name.clone(), line.address.to_string(), line.endpoint.clone(), line.network.clone()]
    };
    report::rows(out, &["NAME", "ADDRESS", "ENDPOINT", "NETWORK"], all.iter().map(row).collect());
}

fn answered(out: &mut Output, all: &[Answer]) {
    if all.iter().any(|answer| answer.network.is_some()) {
        let row = |answer: &Answer| {
            vec![answer.name.clone(), answer.address.to_string(), answer.network.clone().unwrap_or_default()]
        };
        return report::rows(out, &["NAME", "ADDRESS", "NETWORK"], all.iter().map(row).collect());
    }
    let row = |answer: &Answer| vec![answer.name.clone(), answer.address.to_string()];
    report::rows(out, &["NAME", "ADDRESS"], all.iter().map(row).collect());
}
