//! Neighbour entries, and forwarding entries of bridges and tunnels.

use netloom_kernel::Neighbour;
use netloom_model::MacAddr;

use super::world::{IPV6_MIN_MTU, LinkId, NeighbourKey, World};
use crate::errno::{EINVAL, ENOENT, Refusal};

impl World {
    pub(super) fn add_neighbour(&mut self, id: LinkId, neighbour: Neighbour) -> Result<(), Refusal> {
        let link = &mut self.links[id];
        let ipv6 = matches!(neighbour, Neighbour::Address { address, .. } if address.is_ipv6());
        if ipv6 && (link.ipv6_off || link.mtu < IPV6_MIN_MTU) {
            return Err(Refusal::saying(EINVAL, "IPv6 is disabled on this device"));
        }
        link.neighbours.insert(key(neighbour), neighbour);
        Ok(())
    }

    pub(super) fn delete_neighbour(&mut self, id: LinkId, neighbour: Neighbour) -> Result<(), Refusal> {
        let neighbours = &mut self.links[id].neighbours;
        let key = key(neighbour);
        let fits = match (neighbours.get(&key), neighbour) {
            (
                Some(Neighbour::Forwarding { destination: have, .. }),
                Neighbour::Forwarding { destination, .. },
            ) => destination.is_none() || *have == destination,
            (have, _) => have.is_some(),
        };
        if !fits {
            return Err(Refusal::new(ENOENT));
        }
        neighbours.remove(&key);
        Ok(())
    }

    /// No packet passes here, so nobody is told. The link's own neighbours are forgotten, as Linux does.
    pub(super) fn announce(&mut self, id: LinkId) {
        self.links[id].neighbours.retain(|key, _| !matches!(key, NeighbourKey::Address(_)));
        self.note_changed(id);
    }
}

fn key(neighbour: Neighbour) -> NeighbourKey {
    match neighbour {
        Neighbour::Address { address, .. } => NeighbourKey::Address(address),
        Neighbour::Forwarding { mac, destination } if mac.is_multicast() || mac == MacAddr([0; 6]) => {
            NeighbourKey::Flood(mac, destination)
        }
        Neighbour::Forwarding { mac, .. } => NeighbourKey::Unicast(mac),
    }
}
