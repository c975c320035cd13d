//! `netloom ipam`: pools and addresses, as the records of a data directory have them. Nothing there is changed, and an
//! engine may be at work with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use netloom::snapshot::{AddressHolder, Holders, PoolSnapshot};
use netloom::{Error, NetworkId, ObjectKind};
use netloom_ipam::{DefaultIpam, Lease, RestoredPools, picture};
use netloom_model::record::{EndpointRecord, NetworkRecord};
use netloom_store::{Held, Key, Peeked, RecordKind, decode, peek};
use serde::Serialize;

use crate::report::{self, Output};

/// Address pools and who holds addresses.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists the pools in use.
    Ls(List),
    /// Shows the pools of a network, or one pool, and who holds addresses there.
    Show(Show),
}

#[derive(Debug, clap::Args)]
struct Source {
    /// The engine's data directory. It is only read, also while an engine has it.
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/netloom")]
    data_dir: PathBuf,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    source: Source,
    /// Prints subnets and nothing else.
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// A network, by its name or its identifier; pools, by their identifier (`LocalDefault/10.0.0.0/24`) or a subnet
    /// that they overlap; or an address.
    #[arg(value_name = "NETWORK|POOL|ADDRESS")]
    what: String,
    #[command(flatten)]
    source: Source,
    /// How many holders are shown.
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Runs the command; tells whether everything that is recorded could be shown.
pub(crate) fn run(options: &Options, out: &mut Output) -> anyhow::Result<bool> {
    match &options.command {
        Command::Ls(List { source, quiet }) => {
            let pools = Pools::read(&source.data_dir)?;
            let seen = pools.all();
            let all: Vec<_> = seen.iter().map(Pool::of).collect();
            match source.format {
                _ if *quiet => lines(out, all.iter().map(|pool| pool.seen.pool)),
                Format::Table => table(out, &all),
                Format::Json => lines(out, [serde_json::to_string(&all)?]),
            }
            Ok(pools.whole)
        }
        Command::Show(Show { what, source, limit }) => {
            let pools = Pools::read(&source.data_dir)?;
            let (shown, holders) = pools.find(what, *limit)?;
            let all: Vec<_> = shown.iter().map(Pool::of).collect();
            match source.format {
                Format::Table => {
                    table(out, &all);
                    holders_table(out, &holders);
                }
                Format::Json => {
                    lines(out, [serde_json::to_string(&Shown { pools: all, held: &holders })?]);
                }
            }
            Ok(pools.whole)
        }
    }
}

/// What one command shows of a network.
#[derive(Serialize)]
struct Shown<'a> {
    pools: Vec<Pool<'a>>,
    #[serde(flatten)]
    held: &'a Holders,
}

/// A pool, with what is left of it.
#[derive(Serialize)]
struct Pool<'a> {
    #[serde(flatten)]
    seen: &'a PoolSnapshot,
    free: u128,
}

impl<'a> Pool<'a> {
    fn of(seen: &'a PoolSnapshot) -> Self {
        Self { seen, free: seen.free() }
    }
}

/// Lines, for as long as somebody reads them.
fn lines(out: &mut Output, lines: impl IntoIterator<Item = impl Display>) {
    for line in lines {
        if !out.line(line) {
            return;
        }
    }
}

fn table(out: &mut Output, pools: &[Pool<'_>]) {
    let header = ["NETWORK", "POOL", "RANGE", "SIZE", "USED", "RESERVED", "QUARANTINED", "FREE", "GATEWAY"];
    let row = |Pool { seen, free }: &Pool<'_>| {
        let PoolSnapshot { name, pool, range, gateway, size, used, reserved, quarantined, .. } = seen;
        vec![
            name.clone(),
            pool.to_string(),
            range.map(|range| range.to_string()).unwrap_or_default(),
            size.to_string(),
            used.to_string(),
            reserved.to_string(),
            quarantined.to_string(),
            free.to_string(),
            gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
        ]
    };
    report::rows(out, &header, pools.iter().map(row).collect());
}

fn holders_table(out: &mut Output, Holders { holders, more }: &Holders) {
    let rows = holders.iter().map(|held| vec![held.address.to_string(), held.holder.clone()]);
    report::rows(out, &["ADDRESS", "HOLDER"], rows.collect());
    if *more > 0 {
        out.line(format_args!("and {more} more; --limit shows them"));
    }
}

/// An allocator that was filled from records, as a start of the engine fills it.
struct Pools {
    ipam: DefaultIpam,
    networks: BTreeMap<NetworkId, NetworkRecord>,
    endpoints: Vec<EndpointRecord>,
    /// Whether every record could be read and put in its place.
    whole: bool,
}

impl Pools {
    fn read(dir: &Path) -> anyhow::Result<Self> {
        let Peeked { records, held } = peek(dir).map_err(Error::from).with_context(|| {
            format!("cannot read the store of {}; --data-dir names an engine's data directory", dir.display())
        })?;
        if let Some(Held { process }) = held {
            let process = process.map(|process| format!(" (process {process})")).unwrap_or_default();
            report::aside(format_args!(
                "note: an engine{process} has {}; what it has not recorded is not shown: addresses in quarantine, and \
                 what is under way",
                dir.display()
            ));
        }
        Ok(Self::fill(records))
    }

    fn fill(records: Vec<(Key, Vec<u8>)>) -> Self {
        let mut ipam = DefaultIpam::new(&[]);
        ipam.open_global(&[]);
        let mut pools = Self { ipam, networks: BTreeMap::new(), endpoints: Vec::new(), whole: true };
        for (Key { kind, id }, value) in records {
            let read = match kind {
                RecordKind::Network => decode(&value).map(|record: NetworkRecord| {
                    pools.networks.insert(record.id, record);
                }),
                RecordKind::Endpoint => decode(&value).map(|record| pools.endpoints.push(record)),
                RecordKind::Sandbox | RecordKind::Driver | RecordKind::Engine | RecordKind::Order => Ok(()),
            };
            if let Err(error) = read {
                pools.leave_out(&format!("record {id} of a {}", ObjectKind::from(kind)), &error);
            }
        }
        let networks: Vec<_> = pools.networks.values().cloned().collect();
        let mut foreign = BTreeSet::new();
        for record in networks {
            if record.spec.ipam.driver != "default" {
                let (name, driver) = (&record.spec.name, &record.spec.ipam.driver);
                report::aside(format_args!(
                    "note: addresses of network {name:?} are known to IPAM driver {driver:?}"
                ));
                foreign.insert(record.id);
                continue;
            }
            let restored = RestoredPools {
                network: record.id,
                name: &record.spec.name,
                address_space: &record.spec.ipam.address_space,
                // Only an engine's drivers know. Where records have one subnet twice, they do share it.
                shares: true,
                v4: &record.v4,
                v6: &record.v6,
            };
            if let Err(error) = pools.ipam.restore_pools(&restored) {
                pools.leave_out(&format!("network {:?}", record.spec.name), &error);
                continue;
            }
            for (name, kept) in &record.reservations {
                let addresses: Vec<_> = kept.addresses().collect();
                if let Err(error) = pools.ipam.reserve(record.id, name, &addresses) {
                    pools.leave_out(&format!("reservation {name:?}"), &error);
                }
            }
        }
        for record in pools.endpoints.clone() {
            let lease = Lease { ipv4: record.ipv4, ipv6: record.ipv6 };
            if lease != Lease::default()
                && !foreign.contains(&record.network)
                && let Err(error) = pools.ipam.restore_lease(record.network, record.id, &record.name, &lease)
            {
                pools.leave_out(&format!("endpoint {:?}", record.name), &error);
            }
        }
        pools
    }

    fn leave_out(&mut self, what: &str, why: &dyn Display) {
        report::aside(format_args!("warning: {what} is left out: {why}"));
        self.whole = false;
    }

    fn all(&self) -> Vec<PoolSnapshot> {
        picture::pools(&self.ipam)
    }

    /// The pools that somebody means, and who holds addresses in them.
    fn find(&self, what: &str, limit: usize) -> anyhow::Result<(Vec<PoolSnapshot>, Holders)> {
        let named = |pool: &PoolSnapshot| pool.name == what || pool.network.to_string() == what;
        let all = self.all();
        let mut shown: Vec<_> = all.iter().filter(|pool| named(pool)).cloned().collect();
        // Of a place in a pool, only what is there.
        let mut part = None;
        if shown.is_empty() {
            let id = |pool: &PoolSnapshot| format!("{}/{}", pool.space, pool.pool) == what;
            part = picture::place(what);
            let meant =
                |pool: &PoolSnapshot| id(pool) || part.is_some_and(|net| picture::overlap(pool.pool, net));
            shown = all.into_iter().filter(meant).collect();
        }
        if shown.is_empty() {
            return Err(self.unfound(what));
        }
        let held = |network: NetworkId| {
            let within = |held: &AddressHolder| {
                let pools = shown.iter().filter(|pool| pool.network == network);
                part.is_none_or(|net| net.contains(&held.address))
                    && pools.map(|pool| pool.pool).any(|pool| pool.contains(&held.address))
            };
            let held = self.ipam.holders(network, usize::MAX).unwrap_or_default();
            held.holders.into_iter().filter(within).collect::<Vec<_>>()
        };
        let networks: BTreeSet<_> = shown.iter().map(|pool| pool.network).collect();
        let mut holders: Vec<_> = networks.into_iter().flat_map(held).collect();
        holders.sort_by_key(|held| held.address);
        let more = holders.len().saturating_sub(limit) as u64;
        holders.truncate(limit);
        Ok((shown, Holders { holders, more }))
    }

    /// Why nothing is shown.
    fn unfound(&self, what: &str) -> anyhow::Error {
        let has = |record: &&NetworkRecord| record.v4.iter().chain(&record.v6).any(|pool| pool.id == what);
        if let Some(record) = self.networks.values().find(has) {
            let (name, driver) = (&record.spec.name, &record.spec.ipam.driver);
            return anyhow::anyhow!(
                "pool {what:?} of network {name:?} is known to IPAM driver {driver:?} alone"
            );
        }
        if self.networks.values().any(|record| record.spec.name == what || record.id.to_string() == what) {
            return anyhow::anyhow!("network {what:?} has no pools here");
        }
        let error = Error::not_found(ObjectKind::Network, what);
        let context = match picture::place(what) {
            Some(place) => format!("no pool has anything of {place}"),
            None => "no network or pool is called so".to_owned(),
        };
        anyhow::Error::from(error).context(context)
    }
}
