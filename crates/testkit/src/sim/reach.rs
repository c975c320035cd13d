//! Who can talk to whom: a walk through the model in place of a ping.

use std::net::IpAddr;

use netloom_kernel::Netns;

use super::sysctl::is_on;
use super::world::{Kind, LinkId, NsId, Port, World};

/// More routers than this in a row are a loop.
const MAX_HOPS: usize = 16;

/// Where a packet ends, and from which address it came.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    ns: NsId,
    source: IpAddr,
}

impl World {
    /// Whether an echo request from a namespace reaches an address, and the answer comes back.
    pub(super) fn can_reach(&self, from: Netns, to: IpAddr) -> Result<(), String> {
        let ns = self.ns(from).map_err(|_| format!("there is no {from}"))?;
        let there = self.walk(ns, to)?;
        if there.ns == ns {
            return Ok(());
        }
        let back = self.walk(there.ns, there.source).map_err(|why| format!("the answer is lost: {why}"))?;
        if back.ns == ns {
            Ok(())
        } else {
            Err(format!("the answer goes to {}, which has {} too", self.ns_name(back.ns), there.source))
        }
    }

    fn walk(&self, from: NsId, to: IpAddr) -> Result<Arrival, String> {
        if self.owns(from, to)? {
            return Ok(Arrival { ns: from, source: to });
        }
        let mut here = from;
        let mut source = None;
        for _ in 0..MAX_HOPS {
            let route = self
                .route_to(here, to)
                .ok_or_else(|| format!("{} has no route to {to}", self.ns_name(here)))?;
            let next = route.via.unwrap_or(to);
            let source = match source {
                Some(source) => source,
                None => *source.insert(self.source_address(route.link, next)?),
            };
            here = self.deliver(route.link, next)?;
            if self.owns(here, to)? {
                return Ok(Arrival { ns: here, source });
            }
            self.check_forwards(here, to)?;
        }
        Err(format!("routes to {to} lead in a circle"))
    }

    /// Whether a namespace has an address on a link that is up. An error if it has it on a link that is down.
    fn owns(&self, ns: NsId, address: IpAddr) -> Result<bool, String> {
        let mut down = None;
        for id in self.namespaces[ns].links.values() {
            let link = &self.links[*id];
            if link.addresses.iter().any(|have| have.addr() == address) {
                if link.up {
                    return Ok(true);
                }
                down = Some(*id);
            }
        }
        down.map_or(Ok(false), |id| {
            self.check_up(id).map(|()| false).map_err(|why| format!("{why}, which has {address}"))
        })
    }

    /// The address a packet leaves with: of the link's, one that shares a subnet with the next hop, else its
    /// first, else any of the namespace.
    fn source_address(&self, id: LinkId, next: IpAddr) -> Result<IpAddr, String> {
        let link = &self.links[id];
        let fits = |address: &&ipnet::IpNet| {
            address.addr().is_ipv4() == next.is_ipv4() && !address.addr().is_loopback()
        };
        let own = || link.addresses.iter().filter(fits);
        let elsewhere = || {
            let others = self.namespaces[link.ns].links.values().map(|id| &self.links[*id]);
            // The oldest link, so that the answer does not depend on the order of a map.
            others
                .filter(|other| other.up && other.addresses.iter().any(|address| fits(&address)))
                .min_by_key(|other| other.index)
                .and_then(|other| other.addresses.iter().find(fits))
        };
        own()
            .find(|address| address.contains(&next))
            .or_else(|| own().next())
            .or_else(elsewhere)
            .map(ipnet::IpNet::addr)
            .ok_or_else(|| format!("{} has no address to send from", self.ns_name(link.ns)))
    }

    /// The namespace in which a frame for a next hop ends.
    fn deliver(&self, id: LinkId, next: IpAddr) -> Result<NsId, String> {
        let link = &self.links[id];
        self.check_up(id)?;
        match link.kind {
            Kind::Loopback => {
                Err(format!("{next} is sent to {} and nobody there has it", self.full_name(id)))
            }
            Kind::Device | Kind::Other(_) => {
                Err(format!("link {} leads out of the simulated host", self.full_name(id)))
            }
            Kind::Bridge(_) => self.on_bridge(id, None, next),
            Kind::Veth { peer } => {
                self.check_up(peer)?;
                match self.links[peer].port {
                    Some(Port { bridge, .. }) => self.on_bridge(bridge, Some(peer), next),
                    None if self.owns(self.links[peer].ns, next)? => Ok(self.links[peer].ns),
                    None => Err(format!("nobody behind link {} has {next}", self.full_name(id))),
                }
            }
        }
    }

    /// Who has an address on a bridge, seen from one of its ports or from the bridge itself.
    fn on_bridge(&self, id: LinkId, from: Option<LinkId>, next: IpAddr) -> Result<NsId, String> {
        let link = &self.links[id];
        self.check_up(id)?;
        if let Some(from) = from {
            self.check_port(from)?;
            if self.owns(link.ns, next)? {
                return Ok(link.ns);
            }
        }
        let mut why = format!("nobody on bridge {} has {next}", self.full_name(id));
        for port in link.bridge().into_iter().flat_map(|bridge| &bridge.ports) {
            if from == Some(*port) {
                continue;
            }
            let Some(peer) = self.links[*port].peer() else { continue };
            let there = self.links[peer].ns;
            match self.owns(there, next) {
                Ok(false) => {}
                Ok(true) if from.is_some_and(|from| self.is_isolated(from) && self.is_isolated(*port)) => {
                    why = format!("port {} is isolated", self.full_name(*port));
                }
                Ok(true) => match self.check_port(*port) {
                    Ok(()) => return Ok(there),
                    Err(closed) => why = closed,
                },
                Err(down) => why = down,
            }
        }
        Err(why)
    }

    fn is_isolated(&self, id: LinkId) -> bool {
        self.links[id].port.is_some_and(|port| port.isolated)
    }

    /// Whether a port of a bridge forwards.
    fn check_port(&self, id: LinkId) -> Result<(), String> {
        self.check_up(id)?;
        self.links[id].peer().map_or(Ok(()), |peer| self.check_up(peer))
    }

    fn check_up(&self, id: LinkId) -> Result<(), String> {
        let link = &self.links[id];
        if link.up {
            return Ok(());
        }
        let how = if link.cut { "cut off" } else { "down" };
        Err(format!("link {} is {how}", self.full_name(id)))
    }

    fn check_forwards(&self, ns: NsId, to: IpAddr) -> Result<(), String> {
        let key = if to.is_ipv4() { "ipv4/ip_forward" } else { "ipv6/conf/all/forwarding" };
        if self.namespaces[ns].setting(key).is_some_and(is_on) {
            Ok(())
        } else {
            Err(format!("{} does not forward to {to}: net/{key} is off", self.ns_name(ns)))
        }
    }

    fn ns_name(&self, ns: NsId) -> String {
        self.namespaces[ns].title()
    }
}
