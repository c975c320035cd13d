//! Which entries of an image a change makes different.

use std::net::IpAddr;

use netloom_model::NetworkId;

use crate::change::Change;
use crate::default::DefaultIpam;
use crate::entry::{Of, all_of};
use crate::network::Network;
use crate::owner::{Owner, OwnerId};
use crate::request::AddressSpace;
use crate::tree::Edits;

/// Something that an image says otherwise than it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Touched {
    /// An entry.
    Entry(Of),
    /// A network that was there with all that it had: what is there now was touched since.
    Network(NetworkId),
}

impl DefaultIpam {
    /// What a change, which is about to be made, makes different.
    pub(crate) fn touched(&self, change: &Change) -> Vec<Touched> {
        let known = |network: &NetworkId| self.network(*network).map(|(_, network)| network);
        let mut all = Vec::new();
        match change {
            Change::PoolsTaken { network, v4, v6, .. } => {
                all.push(Of::Pools(*network));
                // A gateway may have cooled down.
                all.extend(v4.iter().chain(v6).map(|record| Of::Cooling(record.pool)));
            }
            Change::PoolsReleased { network } => {
                let pools = known(network).into_iter().flat_map(Network::all_pools);
                all.extend(pools.map(|pool| Of::Cooling(pool.record().pool)));
                let mut all: Vec<_> = all.into_iter().map(Touched::Entry).collect();
                all.push(Touched::Network(*network));
                return all;
            }
            Change::PoolsRetired { network } => all.push(Of::Pools(*network)),
            Change::Leased { network, endpoint, ipv4, ipv6, .. } => {
                let addresses = ipv4.map(|net| IpAddr::V4(net.addr()));
                let addresses = addresses.into_iter().chain(ipv6.map(|net| IpAddr::V6(net.addr())));
                // The next one is chosen behind it.
                all.push(Of::Pools(*network));
                let owner = Owner::new(OwnerId::Endpoint(*endpoint), "", addresses);
                owned(*network, known(network), &owner, &mut all);
            }
            Change::Released { network, endpoint } => {
                let owner = known(network).and_then(|network| network.owners.endpoint(endpoint));
                owner.into_iter().for_each(|owner| owned(*network, known(network), owner, &mut all));
            }
            Change::Reserved { network, name, addresses } => {
                let owner = Owner::new(OwnerId::Reservation, name, addresses.iter().copied());
                owned(*network, known(network), &owner, &mut all);
            }
            Change::Unreserved { network, name } => {
                let owner = known(network).and_then(|network| network.owners.reservation(name));
                owner.into_iter().for_each(|owner| owned(*network, known(network), owner, &mut all));
            }
        }
        all.into_iter().map(Touched::Entry).collect()
    }

    /// All that there is, for an image that takes nothing from the one before it.
    pub(crate) fn all_anew(&self, space: AddressSpace) -> Edits {
        let all = self.entries(space, false).into_iter().map(|(key, value)| (key, Some(value)));
        Edits { keys: all.collect(), gone: Vec::new() }
    }

    /// What an image has to say now of what was touched.
    pub(crate) fn edits<'a>(&self, space: AddressSpace, touched: impl Iterator<Item = &'a Touched>) -> Edits {
        let mut edits = Edits::default();
        for touched in touched {
            match touched {
                Touched::Entry(of) => {
                    let entry = || self.entry(space, of);
                    edits.keys.entry(of.key()).or_insert_with(entry);
                }
                Touched::Network(network) => edits.gone.push(all_of(*network)),
            }
        }
        edits
    }
}

/// The entry of an owner, and what cools down beside its addresses.
fn owned(id: NetworkId, network: Option<&Network>, owner: &Owner, all: &mut Vec<Of>) {
    all.push(Of::owner(id, owner));
    let pools = owner.addresses().filter_map(|address| network?.pool_of(address));
    all.extend(pools.map(|pool| Of::Cooling(pool.record().pool)));
}
