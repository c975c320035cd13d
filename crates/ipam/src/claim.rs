//! Whose a host's name in a cluster is, and what becomes of a host that is gone for good.

use std::sync::Arc;

use ipnet::IpNet;
use netloom_model::purge::{PurgedEndpoint, PurgedHost, PurgedNetwork};
use netloom_model::{Error, ObjectKind, Reason, Result};
use netloom_store::cluster::{ClusterStore, Revision, Swapped};
use netloom_store::{StoreError, decode, encode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::change::Change;
use crate::cluster::ClusterIpam;
use crate::default::DefaultIpam;
use crate::head::unread;
use crate::history::{AT_ONCE, ATTEMPTS};
use crate::owner::OwnerId;
use crate::request::AddressSpace;

/// Who an engine is in a cluster.
#[derive(Clone, Debug)]
pub struct Place {
    /// What its host is called: unlike any other, and the same after each start.
    pub host: Arc<str>,
    /// What tells it from other engines, the same after each start. Two of one name are not let in.
    pub engine: Arc<str>,
    /// This start, unlike all others. A history that may have to begin is named after it, and the time in it, where it has
    /// one, is when the engine took its name.
    pub start: Uuid,
}

/// What the store has of a host.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    /// The engine that has the name; none once the host was purged.
    engine: Option<String>,
    /// Since when, in seconds since 1970, where it is known.
    since: Option<u64>,
}

impl Registration {
    /// Who has the name, in words.
    fn holder(&self) -> Option<String> {
        let engine = self.engine.as_ref()?;
        Some(match self.since {
            Some(since) => format!("engine {engine} since {}", utc(since)),
            None => format!("engine {engine}"),
        })
    }
}

fn host_key(host: &str) -> String {
    format!("netloom/v1/hosts/{host}")
}

/// What to do about a name of which nobody can tell whose it is.
const UNREADABLE: &str =
    "remove the key from the cluster's store: the engine of that host takes the name at its next start";

async fn registered(
    store: &dyn ClusterStore,
    host: &str,
) -> Result<(Option<Registration>, Option<Revision>)> {
    let Some(found) = store.get(&host_key(host)).await? else { return Ok((None, None)) };
    let known = decode(&found.value).map_err(|error| unread(host_key(host), &error, UNREADABLE))?;
    Ok((Some(known), Some(found.revision)))
}

impl Place {
    /// Takes the host's name for this engine, which has it from then on; nothing changes if it has it already.
    ///
    /// # Errors
    /// `InUse` when another engine has it, naming that one, since when, and what to do; `Store` when the store does not
    /// answer.
    pub async fn claim(&self, store: &dyn ClusterStore) -> Result<()> {
        let (seconds, _) = self.start.get_timestamp().map(|time| time.to_unix()).unzip();
        let mine = Registration { engine: Some(self.engine.to_string()), since: seconds };
        for _ in 0..ATTEMPTS {
            let (known, revision) = registered(store, &self.host).await?;
            match known.as_ref().and_then(|known| known.engine.as_deref()) {
                Some(engine) if engine == &*self.engine => return Ok(()),
                Some(_) => return Err(taken(&self.host, known.as_ref())),
                None => {}
            }
            match store.swap(&host_key(&self.host), encode(&mine)?, revision).await {
                Ok(Swapped::Done(_)) => return Ok(()),
                // The next look tells.
                Ok(Swapped::Changed) | Err(StoreError::CommitUncertain { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(restless(&self.host))
    }
}

fn restless(host: &str) -> Error {
    let why = "others change it all the time".to_owned();
    Reason::ClusterStore { key: host_key(host), why, remedy: "retry after a pause".into() }.into()
}

fn taken(host: &str, known: Option<&Registration>) -> Error {
    let by = known.and_then(Registration::holder).unwrap_or_else(|| "another engine".to_owned());
    let by =
        format!("{by} (if that one is gone for good, have an engine of another host purge host {host:?})");
    Reason::InUse { what: format!("the host name {host:?} in the cluster"), by }.into()
}

impl ClusterIpam {
    /// Gives back all that a host has in the space, and its name. For one that is gone for good: whether it is, nobody can
    /// tell from here. What a host that still runs has would be given to others.
    ///
    /// # Errors
    /// `InvalidParameter` for the host itself; `NotFound` for one of which the cluster knows nothing; `InUse` when an engine
    /// has taken the name meanwhile; `Store` when the store does not answer: a part may be removed then, and whoever
    /// asks again is told of the rest.
    pub async fn purge(&self, host: &str) -> Result<PurgedHost> {
        if host == &*self.place.host {
            let why = "it is this engine's own host, which is not gone; delete its networks instead";
            return Err(Error::invalid("host", host, why));
        }
        let store = &*self.store;
        let (known, _) = registered(store, host).await?;
        let before = known.and_then(|known| known.holder());
        let mut purged = PurgedHost { host: host.to_owned(), engine: before, ..PurgedHost::default() };
        loop {
            let (networks, endpoints) = self
                .change(|ipam| {
                    // A name is free only when nothing of it is left.
                    ipam.check_whole()?;
                    let (networks, endpoints) = ipam.held_by(host, AT_ONCE);
                    let pools = networks.iter().map(|gone| Change::PoolsReleased { network: gone.network });
                    let in_others = |gone: &&PurgedEndpoint| {
                        !networks.iter().any(|network| network.network == gone.network)
                    };
                    let leases = endpoints
                        .iter()
                        .filter(in_others)
                        .map(|gone| Change::Released { network: gone.network, endpoint: gone.endpoint });
                    Ok((pools.chain(leases).collect(), (networks, endpoints)))
                })
                .await?;
            if networks.is_empty() && endpoints.is_empty() {
                break;
            }
            purged.networks.extend(networks);
            purged.endpoints.extend(endpoints);
        }
        // Last: until it is free, no engine of that name gets anything that would be removed here.
        for _ in 0..ATTEMPTS {
            let (known, revision) = registered(store, host).await?;
            let Some(holder) = known.as_ref().and_then(Registration::holder) else {
                if purged == PurgedHost::of(host) {
                    let query = format!("host {host:?} of the cluster");
                    return Err(Error::not_found(ObjectKind::Controller, query));
                }
                return Ok(purged);
            };
            if purged.engine.as_ref() != Some(&holder) {
                return Err(taken(host, known.as_ref()));
            }
            let vacant = encode(&Registration { engine: None, since: None })?;
            match store.swap(&host_key(host), vacant, revision).await {
                Ok(_) | Err(StoreError::CommitUncertain { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(restless(host))
    }
}

impl DefaultIpam {
    /// What a host has in the cluster's space, in order: so many networks, with all that is in them, and endpoints in
    /// networks of others.
    fn held_by(&self, host: &str, at_once: usize) -> (Vec<PurgedNetwork>, Vec<PurgedEndpoint>) {
        let mut all: Vec<_> = self.networks_in(AddressSpace::Global).collect();
        all.sort_unstable_by_key(|network| (network.name(), network.id()));
        let (mut networks, mut endpoints) = (Vec::new(), Vec::new());
        let mut changes = 0;
        for network in all {
            if changes >= at_once {
                break;
            }
            let whole = network.host.as_deref() == Some(host);
            let owners = network.owners.iter();
            let mut gone: Vec<_> = owners
                .filter(|owner| whole || owner.host.as_deref() == Some(host))
                .filter_map(|owner| {
                    let OwnerId::Endpoint(endpoint) = owner.id else { return None };
                    let (network, name) = (network.id(), owner.name.to_string());
                    Some(PurgedEndpoint { network, endpoint, name, addresses: owner.addresses().collect() })
                })
                .collect();
            gone.sort_unstable_by_key(|gone| gone.endpoint);
            if whole {
                let records = [crate::span::Family::V4, crate::span::Family::V6];
                let records = records.into_iter().flat_map(|family| network.records(family));
                let pools: Vec<IpNet> = records.map(|record| record.pool).collect();
                networks.push(PurgedNetwork {
                    network: network.id(),
                    name: network.name().to_owned(),
                    pools,
                });
                changes += 1;
            } else {
                gone.truncate(at_once - changes);
                changes += gone.len();
            }
            endpoints.extend(gone);
        }
        (networks, endpoints)
    }
}

/// Seconds since 1970 as a date and a time (ISO 8601). The calendar's arithmetic is that of a year that begins in March, so
/// that the odd day comes last.
fn utc(seconds: u64) -> String {
    let time = seconds % 86_400;
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = era * 400 + year + u64::from(month < 3);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time / 3_600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_others_tell_them() {
        // Computed with another implementation (`date -u`).
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_078_099_200, "2004-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
