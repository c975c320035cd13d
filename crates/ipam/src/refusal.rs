//! Checks of what callers ask for, and errors that need a look around.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netloom_model::{Error, HostOverlap, IpamSpec, ObjectKind, PoolsConsidered, Reason, Result};

use crate::request::{AddressSpace, SkippedPool};
use crate::space::Space;
use crate::span::Family;

/// How many networks an error text names that hold default pools.
const SHOWN_HOLDERS: usize = 3;

/// What the request's own check does not cover, and what must hold for the arithmetic to be right. Answers with
/// the address space that is meant.
pub(crate) fn check_request(spec: &IpamSpec, ipv6: bool) -> Result<AddressSpace> {
    let space = AddressSpace::named(&spec.address_space)?;
    check_options(&spec.options)?;
    if !ipv6 && !spec.v6.is_empty() {
        return Err(Error::invalid("ipv6", ipv6, "an IPv6 pool is given but IPv6 is off"));
    }
    Ok(space)
}

/// The option of libnetwork's driver `default` (`ipamapi.AllocSerialPrefix`).
const SERIAL: &str = "com.docker.network.ipam.serial";

/// Whether this driver does what the options ask for: to choose in order is the one thing that can be asked for, and is
/// what it does anyhow.
fn check_options(options: &BTreeMap<String, String>) -> Result<()> {
    for (key, value) in options {
        if key != SERIAL {
            let why = format!("the ipam driver \"default\" knows no option but {SERIAL}");
            return Err(Error::invalid(format!("ipam.options.{}", key.escape_debug()), value, why));
        }
        if value != "true" {
            let why = "addresses are always chosen in order: it is \"true\", or left out";
            return Err(Error::invalid(format!("ipam.options.{}", key.escape_debug()), value, why));
        }
    }
    Ok(())
}

/// Whether a subnet is one of this family that can be a pool.
pub(crate) fn check_family(subnet: &IpNet, family: Family) -> Result<()> {
    if Family::of(subnet) != family {
        let why = format!("an {} subnet is expected here", family.name());
        return Err(Error::invalid("subnet", subnet, why));
    }
    if subnet.addr() != subnet.network() || subnet.prefix_len() == 0 {
        let why = "a pool is a subnet without host bits, and not the whole address space";
        return Err(Error::invalid("subnet", subnet, why));
    }
    Ok(())
}

/// The error for a pool that would be nobody else's and of which no address can be its gateway's: it is the request that
/// leaves none, not other endpoints.
pub(crate) fn no_room(pool: &IpNet, range: Option<IpNet>) -> Error {
    let field = if range.is_some() { "range" } else { "subnet" };
    let why = format!(
        "no address of it is left for the gateway: the ends of {pool} and auxiliary addresses cannot be it; choose a \
         larger {field}, or give the gateway"
    );
    Error::invalid(field, range.unwrap_or(*pool), why)
}

/// Why there is no default pool to be had.
pub(crate) fn pools_exhausted(
    space: &Space,
    family: Family,
    asked: Option<u8>,
    skipped: Option<&SkippedPool>,
) -> Error {
    let sizes: Vec<_> = space.default_pools(family).into_iter().collect();
    let total = sizes.iter().fold(0u64, |sum, (_, pools)| sum.saturating_add(*pools));
    let held = space.occupied(family);
    let occupants = space.occupants(family);
    let networks = occupants.len();
    let considered = PoolsConsidered {
        family: family.name(),
        asked,
        largest: space.largest_block(family).filter(|largest| asked.is_some_and(|asked| asked < *largest)),
        sizes,
        held,
        networks,
        holders: occupants.into_iter().take(SHOWN_HOLDERS).map(|(holder, _)| holder).collect(),
        // There is no third reason, unless a size was asked for that does not fit.
        of_host: if asked.is_some() { None } else { Some(total.saturating_sub(held)) },
        example: skipped.map(HostOverlap::from),
    };
    Reason::PoolsExhausted(Box::new(considered)).into()
}

/// The error for the address space that hosts share, where the engine is in no cluster. Parity: libnetwork says that most
/// likely the backing datastore is not configured; here no key of the configuration opens the space.
#[must_use]
pub fn no_store(space: AddressSpace) -> Error {
    let why = "the engine is in no cluster: the program that embeds it says so, [scopes.global] does not";
    let name = format!("{} ({why})", space.name());
    Error::not_found(ObjectKind::AddressSpace, name)
}
