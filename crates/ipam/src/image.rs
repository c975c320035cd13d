//! An address space as bytes: everything that cannot be found out from elsewhere.
//!
//! An image says which networks have which pools, who has which addresses, which come next and which cool down.
//! With the [`Change`]s that were made after it, it gives the same allocator again. It may be in parts, each of which is one
//! with the entries of a range of keys. It is checked when it is read: what contradicts the rest is left out and told, and
//! damage is noticed by a checksum.

use std::sync::Arc;

use netloom_model::NetworkId;

use crate::change::Change;
use crate::default::{DefaultIpam, RestoredPools};
use crate::entry::{self, Of};
use crate::owner::Owner;
use crate::part::{self, Part};
use crate::request::{AddressSpace, Lease};
use crate::span::Family;

/// Why bytes are no image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// They are torn, altered, or something else altogether.
    #[error("the image of an address space is damaged: {0}")]
    Damaged(&'static str),
    /// A later version of the engine wrote them.
    #[error("the image of an address space has format {found}; this engine knows formats up to {known}")]
    Newer {
        /// Its format.
        found: u8,
        /// The latest format known here.
        known: u8,
    },
}

/// Something that an image or a log says and that cannot be: it was left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contradiction {
    /// What was left out, and of whom it is.
    pub what: String,
    /// What it contradicts.
    pub why: String,
}

impl DefaultIpam {
    /// The image of an address space, in one part; an empty one if it is not open.
    #[must_use]
    pub fn image(&self, space: AddressSpace) -> Vec<u8> {
        let entries = self.entries(space, true);
        part::write(space.name(), 0, entries.iter().map(|(key, value)| (&key[..], &value[..])))
    }

    /// Reads an image into an address space in which nothing is in use, and tells what was left out.
    ///
    /// # Errors
    /// Bytes that are no image of this space; nothing was changed then.
    pub fn load_image(
        &mut self,
        space: AddressSpace,
        image: &[u8],
    ) -> Result<Vec<Contradiction>, ImageError> {
        self.load_parts(space, std::iter::once(image), true)
    }

    /// The same with an image in parts, in order. Where it is not whole, owners whose network is in a part that is lost are
    /// left out, and so is what cools down there.
    ///
    /// # Errors
    /// As there, also for parts whose keys are not in order.
    pub(crate) fn load_parts<'a>(
        &mut self,
        space: AddressSpace,
        parts: impl Iterator<Item = &'a [u8]>,
        whole: bool,
    ) -> Result<Vec<Contradiction>, ImageError> {
        let mut loading = Loading::new(self.without_networks(), space, whole);
        let mut last = part::Key::new();
        for bytes in parts {
            let part = Part::new(space.name(), bytes)?;
            if part.level > 0 {
                return Err(ImageError::Damaged("it names parts, and should be one"));
            }
            loading.owners.reserve(part.owners());
            let mut first = true;
            let end = part.read(|key, value| {
                if std::mem::take(&mut first) && !last.is_empty() && *key <= last[..] {
                    return Err(ImageError::Damaged("its parts are not in order"));
                }
                loading.add_key(key, value)
            })?;
            if !first {
                last = end;
            }
        }
        loading.end_network();
        *self = loading.ipam;
        Ok(loading.found)
    }
}

/// An image that is being read.
struct Loading<'a> {
    ipam: DefaultIpam,
    space: AddressSpace,
    /// Whether no part is lost.
    whole: bool,
    found: Vec<Contradiction>,
    /// The network whose owners are being read, where its pools begin to choose, and the owners.
    network: Option<(NetworkId, &'a str, [Vec<u64>; 2])>,
    owners: Vec<Option<Owner>>,
    /// What the keys of its owners begin with; nothing where that is not known.
    prefix: part::Key,
    /// The host that was read last.
    host: Option<Arc<str>>,
}

impl<'a> Loading<'a> {
    fn new(ipam: DefaultIpam, space: AddressSpace, whole: bool) -> Self {
        let (found, owners, prefix) = (Vec::new(), Vec::new(), part::Key::new());
        Self { ipam, space, whole, found, network: None, owners, prefix, host: None }
    }

    /// Adds an entry. Nearly all are of owners with addresses in the network that was read last: those are known by how
    /// their keys begin.
    fn add_key(&mut self, key: &[u8], value: &'a [u8]) -> Result<(), ImageError> {
        let known = !self.prefix.is_empty();
        if known && key.strip_prefix(&self.prefix[..]).is_some_and(entry::is_address) {
            return entry::read_owners(value, &mut self.host, &mut self.owners);
        }
        let of = Of::read(key)?;
        let pools = matches!(of, Of::Pools(_));
        self.add(of, value)?;
        self.prefix.clear();
        if let (true, Some((network, ..))) = (pools, &self.network) {
            self.prefix.extend(entry::all_of(*network).0);
        }
        Ok(())
    }

    fn add(&mut self, of: Of, value: &'a [u8]) -> Result<(), ImageError> {
        match of {
            Of::Pools(network) => {
                self.end_network();
                let read = entry::read_network(value)?;
                let [v4, v6] = &read.pools;
                let (name, shares) = (read.name, read.shares);
                let restored =
                    RestoredPools { network, name, address_space: self.space.name(), shares, v4, v6 };
                if let Err(error) = self.ipam.restore_pools(&restored) {
                    let what = format!("network {name:?} ({})", network.short());
                    self.found.push(Contradiction { what, why: error.to_string() });
                }
                self.ipam.set_host(network, (!read.host.is_empty()).then(|| read.host.into()));
                if read.retired {
                    self.ipam.retire(network);
                }
                self.network = Some((network, name, read.cursors));
            }
            Of::At(network, _) | Of::Nowhere(network, _) | Of::Nothing(network, _) => {
                if self.network.as_ref().is_none_or(|(known, ..)| *known != network) {
                    if !self.whole {
                        return Ok(());
                    }
                    return Err(ImageError::Damaged("an owner is of no network"));
                }
                entry::read_owners(value, &mut self.host, &mut self.owners)?;
            }
            Of::Cooling(net) => {
                self.end_network();
                for offset in entry::read_cooling(value)? {
                    let subnet = self.ipam.subnet_mut(self.space, &net);
                    if subnet.is_none() && !self.whole {
                        continue;
                    }
                    if !subnet.is_some_and(|subnet| subnet.cool(offset)) {
                        let why = "it is in use, or the subnet is not".to_owned();
                        let what = format!("an address of {net} that cools down");
                        self.found.push(Contradiction { what, why });
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds the owners of a network, now that all of them are known. What contradicts the rest is left out.
    fn end_network(&mut self) {
        let Some((network, name, cursors)) = self.network.take() else { return };
        let mut owners = std::mem::take(&mut self.owners);
        // Who has an address from a reservation is known by that, so it has to be there before.
        owners.sort_by_key(|owner| {
            owner.as_ref().is_none_or(|owner| owner.id != crate::owner::OwnerId::Reservation)
        });
        let found = &mut self.found;
        self.ipam.load_owners(network, owners, |owner, error| {
            let what = format!("addresses of {:?}", owner.name);
            found.push(Contradiction { what, why: error.to_string() });
        });
        for (family, cursors) in [Family::V4, Family::V6].into_iter().zip(cursors) {
            if !self.ipam.set_cursors(network, family, &cursors) {
                let what = format!("the next address of network {name:?} ({})", network.short());
                found.push(Contradiction { what, why: "it lies outside of its pool".into() });
            }
        }
    }
}

impl DefaultIpam {
    /// Makes a change that was made elsewhere, or before: all or nothing. Whoever makes the same changes in the
    /// same order to equal allocators has equal ones again.
    ///
    /// # Errors
    /// As those of the call that the change is of.
    pub fn apply(&mut self, change: &Change) -> netloom_model::Result<()> {
        match change {
            Change::PoolsTaken { network, name, address_space, host, shares, v4, v6 } => {
                let known = self.knows(*network);
                let taken = self.restore_pools(&RestoredPools {
                    network: *network,
                    name,
                    address_space,
                    shares: *shares,
                    v4,
                    v6,
                });
                if !known && taken.is_ok() {
                    self.set_host(*network, host.as_deref().map(Into::into));
                }
                taken
            }
            Change::PoolsReleased { network } => {
                self.release_pools(*network);
                Ok(())
            }
            Change::PoolsRetired { network } => {
                self.retire(*network);
                Ok(())
            }
            Change::Leased { network, endpoint, name, host, ipv4, ipv6 } => {
                let lease = Lease { ipv4: *ipv4, ipv6: *ipv6 };
                let host = host.as_deref().map(Into::into);
                self.follow_lease(*network, (*endpoint, name, host), &lease)
            }
            Change::Released { network, endpoint } => {
                self.release(*network, *endpoint);
                Ok(())
            }
            Change::Reserved { network, name, addresses } => {
                self.follow_reservation(*network, name, addresses)
            }
            Change::Unreserved { network, name } => {
                self.unreserve(*network, name);
                Ok(())
            }
        }
    }
}
