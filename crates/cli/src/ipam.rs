//! `netloom ipam`: pools and addresses, as the records of a data directory have them. Nothing there is changed, and an
//! engine may be at work with it.
//!
//! In JSON, numbers of addresses and pools above 2^53 are texts of digits; what records do not tell is null.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::builder::NonEmptyStringValueParser;
use netloom::snapshot::{AddressHolder, DefaultPoolSnapshot, Holders, PoolSnapshot};
use netloom::{DefaultPool, EngineConfig, Error, HostOverlap, NetworkId, ObjectKind, PassedOver};
use netloom_ipam::io::read_machine_id;
use netloom_ipam::{AddressSpace, DefaultIpam, Lease, RestoredPools, picture};
use netloom_model::record::{EndpointRecord, NetworkRecord, ReservationRecord};
use netloom_store::{Key, RecordKind, decode};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::records::{self, Format, Source, lines};
use crate::report::{self, Output};

mod foreign;

/// Address pools and who holds addresses.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists the pools in use, and the default pools.
    Ls(List),
    /// Shows the pools of a network, or one pool, and who holds addresses there.
    Show(Show),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    source: Source,
    /// The engine's configuration file, for its default pools; without it they are those of an engine that has none.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints subnets and nothing else.
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// A network, by its name or its identifier; pools, by their identifier (`LocalDefault/10.0.0.0/24`) or a subnet
    /// that they overlap; or an address.
    #[arg(value_name = "NETWORK|POOL|ADDRESS", value_parser = NonEmptyStringValueParser::new())]
    what: String,
    #[command(flatten)]
    source: Source,
    /// How many holders are shown.
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
}

/// Runs the command; tells whether everything that is recorded could be shown.
pub(crate) fn run(options: &Options, out: &mut Output) -> anyhow::Result<bool> {
    match &options.command {
        Command::Ls(List { source, config, quiet }) => {
            let blocks = default_blocks(config.as_deref())?;
            let pools = Pools::read(&source.data_dir)?;
            let (all, default_pools) = (pools.all(), pools.of_blocks(&blocks));
            match source.format {
                _ if *quiet => lines(out, all.iter().map(|pool| pool.seen.pool)),
                Format::Table => {
                    table(out, &all);
                    blocks_table(out, &default_pools);
                }
                Format::Json => lines(out, [serde_json::to_string(&Listed { pools: all, default_pools })?]),
            }
            Ok(pools.whole)
        }
        Command::Show(Show { what, source, limit }) => {
            let pools = Pools::read(&source.data_dir)?;
            let (all, holders) = pools.find(what, *limit)?;
            let passed_over = pools.passed_over(&all);
            match source.format {
                Format::Table => {
                    table(out, &all);
                    holders_table(out, &holders);
                    passed_over_table(out, &passed_over);
                }
                Format::Json => {
                    lines(out, [serde_json::to_string(&Shown { pools: all, held: &holders, passed_over })?]);
                }
            }
            Ok(pools.whole)
        }
    }
}

/// What one command lists.
#[derive(Serialize)]
struct Listed {
    pools: Vec<Pool>,
    default_pools: Vec<DefaultPoolSnapshot>,
}

/// What one command shows of a network.
#[derive(Serialize)]
struct Shown<'a> {
    pools: Vec<Pool>,
    #[serde(flatten)]
    held: &'a Holders,
    /// By the names of networks, which default pools each was not given because of the host; without those that were
    /// given the first one.
    passed_over: BTreeMap<&'a str, &'a PassedOver>,
}

/// A pool, with what is left of it.
#[derive(Clone, Debug)]
struct Pool {
    /// The IPAM driver that has it.
    driver: String,
    /// What that driver calls it.
    id: String,
    /// All but addresses in quarantine: only a running engine knows those.
    seen: PoolSnapshot,
    /// Other drivers than `default` do not tell what they would give.
    free: Option<u128>,
}

impl From<PoolSnapshot> for Pool {
    fn from(seen: PoolSnapshot) -> Self {
        let (id, free) = (format!("{}/{}", seen.space, seen.pool), Some(seen.free()));
        Self { driver: "default".to_owned(), id, seen, free }
    }
}

impl Serialize for Pool {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Wide(#[serde(with = "netloom_model::wide")] u128);

        let Self { driver, id: _, seen, free } = self;
        let PoolSnapshot { space, pool, range, network, name, gateway, size, used, reserved, quarantined: _ } =
            seen;
        let mut shown = serializer.serialize_struct("Pool", 12)?;
        shown.serialize_field("driver", driver)?;
        shown.serialize_field("space", space)?;
        shown.serialize_field("pool", pool)?;
        shown.serialize_field("range", range)?;
        shown.serialize_field("network", network)?;
        shown.serialize_field("name", name)?;
        shown.serialize_field("gateway", gateway)?;
        shown.serialize_field("size", &Wide(*size))?;
        shown.serialize_field("used", used)?;
        shown.serialize_field("reserved", reserved)?;
        shown.serialize_field("quarantined", &None::<u64>)?;
        shown.serialize_field("free", &free.map(Wide))?;
        shown.end()
    }
}

/// What stands where records do not tell.
const UNKNOWN: &str = "-";

fn table(out: &mut Output, pools: &[Pool]) {
    let header =
        ["NETWORK", "DRIVER", "POOL", "RANGE", "SIZE", "USED", "RESERVED", "QUARANTINED", "FREE", "GATEWAY"];
    let row = |Pool { driver, seen, free, .. }: &Pool| {
        let PoolSnapshot { name, pool, range, gateway, size, used, reserved, .. } = seen;
        vec![
            name.clone(),
            driver.clone(),
            pool.to_string(),
            range.map(|range| range.to_string()).unwrap_or_default(),
            size.to_string(),
            used.to_string(),
            reserved.to_string(),
            UNKNOWN.to_owned(),
            free.map_or_else(|| UNKNOWN.to_owned(), |free| free.to_string()),
            gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
        ]
    };
    report::rows(out, &header, pools.iter().map(row).collect());
    report::aside("note: only a running engine knows which addresses are in quarantine; FREE counts them");
}

fn holders_table(out: &mut Output, Holders { holders, more }: &Holders) {
    let rows = holders.iter().map(|held| vec![held.address.to_string(), held.holder.clone()]);
    report::rows(out, &["ADDRESS", "HOLDER"], rows.collect());
    if *more > 0 {
        out.line(format_args!("and {more} more; --limit shows them"));
    }
}

fn blocks_table(out: &mut Output, blocks: &[DefaultPoolSnapshot]) {
    let row = |DefaultPoolSnapshot { base, size, total, used, .. }: &DefaultPoolSnapshot| {
        vec![base.to_string(), format!("/{size}"), total.to_string(), used.to_string()]
    };
    report::rows(out, &["DEFAULT POOLS", "SIZE", "TOTAL", "USED"], blocks.iter().map(row).collect());
}

fn passed_over_table(out: &mut Output, passed_over: &BTreeMap<&str, &PassedOver>) {
    if passed_over.is_empty() {
        return;
    }
    let row = |name: &str, HostOverlap { pool, other, what, link }: &HostOverlap| {
        let link = link.map(|link| link.to_string()).unwrap_or_default();
        vec![name.to_owned(), pool.to_string(), other.to_string(), what.to_string(), link]
    };
    let of = |(name, passed): (&&str, &&PassedOver)| {
        passed.pools.iter().map(|pool| row(name, pool)).collect::<Vec<_>>()
    };
    let header = ["NETWORK", "PASSED OVER", "FOR", "WHICH IS", "INTERFACE"];
    report::rows(out, &header, passed_over.iter().flat_map(of).collect());
    for (name, PassedOver { more, .. }) in passed_over.iter().filter(|(_, passed)| passed.more > 0) {
        out.line(format_args!("and {more} more for network {name:?}"));
    }
}

/// The default pools of an engine with this configuration, on this host.
fn default_blocks(file: Option<&Path>) -> anyhow::Result<Vec<DefaultPool>> {
    let config = match file {
        Some(file) => netloom::config_from_file(file).context("cannot read the engine's configuration")?.0,
        None => EngineConfig::default(),
    };
    // Of a host without an identifier, the engine's own names the prefix, and that is not in the records.
    let machine = read_machine_id(&config.machine_id_file);
    Ok(match machine {
        Some(machine) => config.default_pools_on(netloom_ipam::host_pools(&machine)),
        None => config.default_pools,
    })
}

/// An allocator that was filled from records, as a start of the engine fills it.
struct Pools {
    ipam: DefaultIpam,
    networks: BTreeMap<NetworkId, NetworkRecord>,
    endpoints: Vec<EndpointRecord>,
    /// The pools of networks of other IPAM drivers, and who has addresses there.
    foreign: (Vec<Pool>, Vec<(NetworkId, AddressHolder)>),
    /// Whether every record could be read and put in its place.
    whole: bool,
}

impl Pools {
    fn read(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self::fill(records::read(dir)?))
    }

    fn fill(records: Vec<(Key, Vec<u8>)>) -> Self {
        let mut ipam = DefaultIpam::new(&[]);
        ipam.open_global(&[]);
        let (networks, endpoints, foreign) = (BTreeMap::new(), Vec::new(), (Vec::new(), Vec::new()));
        let mut pools = Self { ipam, networks, endpoints, foreign, whole: true };
        let mut kept: Vec<ReservationRecord> = Vec::new();
        for (Key { kind, id }, value) in records {
            let read = match kind {
                RecordKind::Network => decode(&value).map(|record: NetworkRecord| {
                    pools.networks.insert(record.id, record);
                }),
                RecordKind::Endpoint => decode(&value).map(|record| pools.endpoints.push(record)),
                RecordKind::Reservation => decode(&value).map(|record| kept.push(record)),
                RecordKind::Sandbox | RecordKind::Driver | RecordKind::Engine | RecordKind::Order => Ok(()),
            };
            if let Err(error) = read {
                pools.leave_out(&format!("record {id} of a {}", ObjectKind::from(kind)), &error);
            }
        }
        for ReservationRecord { network, name, kept } in kept {
            if let Some(network) = pools.networks.get_mut(&network) {
                network.reservations.insert(name, kept);
            }
        }
        let networks: Vec<_> = pools.networks.values().cloned().collect();
        let (mut foreign, global) = (BTreeSet::new(), AddressSpace::Global.name());
        for record in networks {
            if record.spec.ipam.driver != "default" {
                let (theirs, holders) = foreign::read(&record, &pools.endpoints);
                pools.foreign.0.extend(theirs);
                pools.foreign.1.extend(holders);
                foreign.insert(record.id);
                continue;
            }
            let restored = RestoredPools {
                network: record.id,
                name: &record.spec.name,
                address_space: if record.in_cluster { global } else { &record.spec.ipam.address_space },
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
        records::left_out(what, why);
        self.whole = false;
    }

    /// By the names of the networks, and of each in its order.
    fn all(&self) -> Vec<Pool> {
        let own = picture::pools(&self.ipam).into_iter().map(Pool::from);
        let mut all: Vec<_> = own.chain(self.foreign.0.iter().cloned()).collect();
        all.sort_by(|one, other| {
            (&one.seen.name, one.seen.network).cmp(&(&other.seen.name, other.seen.network))
        });
        all
    }

    /// How much of these blocks is left.
    fn of_blocks(&self, blocks: &[DefaultPool]) -> Vec<DefaultPoolSnapshot> {
        let pools = picture::pools(&self.ipam).into_iter();
        let local = pools.filter(|pool| pool.space == AddressSpace::Local.name()).map(|pool| pool.pool);
        picture::default_pools(blocks, local, None)
    }

    /// What was passed over for the networks of these pools.
    fn passed_over(&self, pools: &[Pool]) -> BTreeMap<&str, &PassedOver> {
        let records = pools.iter().filter_map(|pool| self.networks.get(&pool.seen.network));
        let passed = records.filter(|record| !record.passed_over.is_empty());
        passed.map(|record| (record.spec.name.as_str(), &record.passed_over)).collect()
    }

    /// The pools that somebody means, and who holds addresses in them.
    fn find(&self, what: &str, limit: usize) -> anyhow::Result<(Vec<Pool>, Holders)> {
        let named = |pool: &Pool| pool.seen.name == what || pool.seen.network.to_string() == what;
        let all = self.all();
        let mut shown: Vec<_> = all.iter().filter(|pool| named(pool)).cloned().collect();
        // Of a place in a pool, only what is there.
        let mut part = None;
        if shown.is_empty() {
            part = picture::place(what);
            let meant = |pool: &Pool| {
                pool.id == what || part.is_some_and(|net| picture::overlap(pool.seen.pool, net))
            };
            shown = all.into_iter().filter(meant).collect();
        }
        if shown.is_empty() {
            return Err(self.unfound(what));
        }
        let mut networks: BTreeMap<NetworkId, Vec<&PoolSnapshot>> = BTreeMap::new();
        for pool in &shown {
            networks.entry(pool.seen.network).or_default().push(&pool.seen);
        }
        let held = |(network, pools): (&NetworkId, &Vec<&PoolSnapshot>)| {
            let network = *network;
            // What another one has in a subnet that they share is shown with that one, if it is shown.
            let own = |address| {
                let of = self.ipam.network_of(network, address);
                of.is_none_or(|of| of == network || !networks.contains_key(&of))
            };
            let within = |held: &AddressHolder| {
                part.is_none_or(|net| net.contains(&held.address))
                    && pools.iter().any(|seen| seen.pool.contains(&held.address))
                    && own(held.address)
            };
            let own = self.ipam.holders(network, usize::MAX).unwrap_or_default().holders;
            let theirs = self.foreign.1.iter().filter(|(of, _)| *of == network).map(|(_, held)| held.clone());
            own.into_iter().chain(theirs).filter(within).collect::<Vec<_>>()
        };
        let mut holders: Vec<_> = networks.iter().flat_map(held).collect();
        holders.sort_by_key(|held| held.address);
        let more = holders.len().saturating_sub(limit) as u64;
        holders.truncate(limit);
        Ok((shown, Holders { holders, more }))
    }

    /// Why nothing is shown.
    fn unfound(&self, what: &str) -> anyhow::Error {
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

#[cfg(test)]
mod tests {
    use netloom::{EndpointId, EndpointSpec, NetworkSpec};
    use netloom_model::record::PoolRecord;
    use netloom_store::encode;

    use super::*;

    /// A driver that reaches over hosts has its networks in the cluster's space, also where the caller did not ask for it: its
    /// pools are not of the local default blocks, and one of a local network may be the same.
    #[test]
    fn a_network_of_the_cluster_is_shown_there_though_it_was_not_asked_for() {
        let record = |name: &str, in_cluster| {
            let pool = PoolRecord::new("172.17.0.0/16".parse().expect("a subnet"));
            let asked = NetworkRecord::asked(name.parse().expect("an id"), NetworkSpec::new(name));
            let record = NetworkRecord { v4: vec![pool], in_cluster, ..asked };
            (Key::new(RecordKind::Network, record.id), encode(&record).expect("JSON"))
        };
        let pools = Pools::fill(vec![record("far", true), record("here", false)]);
        assert!(pools.whole);
        let shown: Vec<_> = pools.all().into_iter().map(|pool| (pool.seen.name, pool.id)).collect();
        let expected = [("far", "GlobalDefault/172.17.0.0/16"), ("here", "LocalDefault/172.17.0.0/16")];
        assert_eq!(shown, expected.map(|(name, id)| (name.to_owned(), id.to_owned())));
        let (of_local, _) = pools.find("LocalDefault/172.17.0.0/16", 9).expect("there");
        assert_eq!(of_local.iter().map(|pool| &*pool.seen.name).collect::<Vec<_>>(), ["here"]);
        let pools = Pools::fill(vec![record("far", true)]);
        let block = DefaultPool { base: "172.17.0.0/16".parse().expect("a subnet"), size: 16 };
        assert_eq!(pools.of_blocks(&[block])[0].used, 0);
    }

    /// Of a subnet that networks share each address is shown once, by its own network's word for who has it; of one network,
    /// all that it cannot give.
    #[test]
    fn an_address_of_a_shared_subnet_is_shown_once() {
        let mut records = Vec::new();
        for (n, name) in [(1_u8, "one"), (2, "two")] {
            let mut pool = PoolRecord::new("172.17.0.0/24".parse().expect("a subnet"));
            pool.gateway = Some([172, 17, 0, n].into());
            let asked = NetworkRecord::asked(name.parse().expect("an id"), NetworkSpec::new(name));
            let record = NetworkRecord { v4: vec![pool], ..asked };
            let id = EndpointId::from_bytes([n; 32]);
            let mut endpoint = EndpointRecord::asked(id, record.id, EndpointSpec::new(format!("web-{name}")));
            endpoint.ipv4 = format!("172.17.0.{}/24", 10 + n).parse().ok();
            records.push((Key::new(RecordKind::Network, record.id), encode(&record).expect("JSON")));
            records.push((Key::new(RecordKind::Endpoint, endpoint.id), encode(&endpoint).expect("JSON")));
        }
        let pools = Pools::fill(records);
        assert!(pools.whole);
        let shown = |what: &str| {
            let (_, held) = pools.find(what, 99).expect("there");
            let word = |held: AddressHolder| format!("{} {}", held.address, held.holder);
            held.holders.into_iter().map(word).collect::<Vec<_>>()
        };
        let all = shown("172.17.0.0/24");
        let expected = [
            "172.17.0.1 gateway",
            "172.17.0.2 gateway",
            "172.17.0.11 endpoint \"web-one\"",
            "172.17.0.12 endpoint \"web-two\"",
        ];
        assert_eq!(all.len(), expected.len(), "{all:?}");
        assert!(all.iter().zip(expected).all(|(shown, expected)| shown.starts_with(expected)), "{all:?}");
        assert_eq!(shown("172.17.0.12"), all[3..]);
        let one = shown("one");
        assert_eq!(one.len(), 4);
        assert!(one[1].contains("the gateway of network \"two\""), "{one:?}");
    }
}
