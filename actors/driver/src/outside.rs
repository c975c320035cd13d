//! The host's firewall and its ports, as one call of a driver reaches them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use futures::FutureExt;
use netloom_actor_services::answered;
use netloom_actor_services::firewall::{FirewallActor, LeadsToEngine, SetNetworkRules, SetPortRules};
use netloom_actor_services::ports::{
    AdoptPorts, LeadPorts, LedPorts, PortsActor, QuarantinePorts, ReleasePorts, ReservePorts, ServePorts,
};
use netloom_drivers::{Addresses, Lead, Outside, Publication, Wanted, Work};
use netloom_firewall::{NetworkRules, PortRules};
use netloom_kernel::conntrack::Connections;
use netloom_kernel::{Kernel, Netns, Op, execute_all};
use netloom_model::{
    EndpointId, Error, ErrorKind, HostPort, HostPorts, NetworkId, Protocol, PublishedPorts, Result,
};
use netloom_runtime::{Actor, Addr, AskError, Handle, Message, OpCtx};

/// Whoever are the actors when the driver is called, and the operation that the call belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    pub(crate) firewall: Option<Addr<FirewallActor>>,
    pub(crate) ports: Option<Addr<PortsActor>>,
    pub(crate) kernel: Arc<dyn Kernel>,
    pub(crate) op: OpCtx,
}

impl Outside for Reach {
    fn set_network(&self, network: NetworkId, rules: Option<NetworkRules>) -> Work<bool> {
        let asked = ask(&self.op, "the firewall", self.firewall.as_ref(), SetNetworkRules { network, rules });
        async move { asked.await? }.boxed()
    }

    fn publish(&self, publication: Publication) -> Work<Vec<PublishedPorts>> {
        let reach = self.clone();
        async move { reach.publish_ports(publication).await }.boxed()
    }

    fn withdraw(&self, endpoint: EndpointId, addresses: Addresses) -> Work<()> {
        let reach = self.clone();
        async move { reach.withdraw_ports(endpoint, addresses).await }.boxed()
    }
}

/// Asks an actor, or says that it is gone.
fn ask<A: Actor + Handle<M>, M: Message>(
    op: &OpCtx,
    who: &'static str,
    actor: Option<&Addr<A>>,
    message: M,
) -> impl Future<Output = Result<M::Reply>> + Send + use<A, M> {
    let asked = actor.map(|actor| actor.outcome(op, message));
    let op = op.clone();
    async move {
        let outcome = match asked {
            Some(asked) => asked.await,
            None => Err(AskError::Gone),
        };
        answered(&op, who, outcome.map(Ok))
    }
}

impl Reach {
    fn ask_ports<M: Message>(&self, message: M) -> impl Future<Output = Result<M::Reply>> + Send + use<M>
    where
        PortsActor: Handle<M>,
    {
        ask(&self.op, "the ports service", self.ports.as_ref(), message)
    }

    /// In this order a port leads somewhere only once it is ours.
    async fn publish_ports(self, publication: Publication) -> Result<Vec<PublishedPorts>> {
        let hosts = match self.adopt(&publication).await? {
            Some(hosts) => hosts,
            None => {
                // What an earlier withdrawal could not bring to its end is ended first.
                let left = self.ask_ports(QuarantinePorts(publication.owner.id)).await?;
                if !left.is_empty() {
                    self.clone().withdraw_ports(publication.owner.id, publication.addresses).await?;
                }
                let requests = publication.wanted.iter().map(|wanted| wanted.request.clone()).collect();
                let owner = publication.owner.clone();
                let reserved = self.ask_ports(ReservePorts { owner, requests }).await;
                let hosts = reserved.map_err(Error::uncertain)??;
                // What was opened to one of them before is answered by the host until it is forgotten.
                self.forget_datagrams(&hosts).await.map_err(Error::uncertain)?;
                hosts
            }
        };
        // From here on there is something to take back.
        self.lead(&publication, &hosts).await.map_err(Error::uncertain)?;
        let published = hosts.into_iter().zip(&publication.wanted);
        Ok(published.map(|(host, wanted)| PublishedPorts { host, port: wanted.port }).collect())
    }

    /// Takes the ports again that the endpoint had; `None` where it had none, or somebody else has one now.
    async fn adopt(
        &self,
        Publication { owner, wanted, before, .. }: &Publication,
    ) -> Result<Option<Vec<HostPorts>>> {
        let fits = |(had, wanted): (&PublishedPorts, &Wanted)| {
            let request = &wanted.request;
            had.port == wanted.port
                && had.host.protocol == request.protocol
                && had.host.range.count() == usize::from(request.count)
        };
        if before.is_empty() || before.len() != wanted.len() || !before.iter().zip(wanted).all(fits) {
            return Ok(None);
        }
        // On the addresses that are meant today.
        let ports: Vec<HostPorts> = before
            .iter()
            .zip(wanted)
            .map(|(had, wanted)| HostPorts {
                addresses: wanted.request.addresses.clone(),
                ..had.host.clone()
            })
            .collect();
        let adopt = AdoptPorts { owner: owner.clone(), ports: ports.clone() };
        match self.ask_ports(adopt).await? {
            Ok(_) => Ok(Some(ports)),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                tracing::warn!(endpoint = %owner.id, %error, "a published port has another owner now");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Says where ports lead: to the firewall, and to the proxy what that cannot.
    async fn lead(&self, publication: &Publication, hosts: &[HostPorts]) -> Result<()> {
        let Publication { owner, addresses, wanted, routed, proxy, .. } = publication;
        let leads = || {
            let pairs = hosts.iter().zip(wanted);
            pairs.flat_map(|(host, wanted)| {
                wanted.leads(host, *addresses).map(move |lead| (host, wanted, lead))
            })
        };
        let for_engine = leads().filter(|(host, _, lead)| *proxy && is_for_proxy(host.protocol, *lead, true));
        let led: Vec<_> =
            for_engine.filter_map(|(host, wanted, lead)| led_ports(host, wanted, lead)).collect();
        // Who comes has to find it open.
        let own = self.lead_to_engine(publication, &led).await?;
        let to_engine = own.iter().flat_map(|own| led.iter().map(|ports| rule_to_engine(ports, *own)));
        let rules = leads().filter_map(|(host, wanted, lead)| rule(host, wanted, lead)).chain(to_engine);
        let say = SetPortRules { endpoint: owner.id, ports: routed.iter().cloned().chain(rules).collect() };
        let by_kernel = ask(&self.op, "the firewall", self.firewall.as_ref(), say).await??;
        if own.is_some() && !by_kernel {
            // It was not known before that there is no firewall.
            let nothing = LeadPorts { owner: owner.clone(), ports: Vec::new() };
            self.ask_ports(nothing).await??;
        }
        let is_led = own.is_some() && by_kernel;
        let for_proxy = leads().filter(|(host, _, lead)| {
            *proxy
                && is_for_proxy(host.protocol, *lead, by_kernel)
                && !(is_led && host.protocol == Protocol::Tcp)
        });
        let fronts: Vec<_> = for_proxy.flat_map(|(host, wanted, lead)| front(host, wanted, lead)).collect();
        if !fronts.is_empty() {
            let served = self.ask_ports(ServePorts { owner: owner.id, fronts }).await?;
            if let Err(error) = served {
                // The kernel leads to it all the same.
                tracing::warn!(endpoint = %owner.id, %error, "not everybody who comes to its ports is passed on");
            }
        }
        Ok(())
    }

    /// Has the engine pass on at its own port whoever comes to these, if rules can lead there: the port. Otherwise each of them
    /// has to be listened to.
    async fn lead_to_engine(
        &self,
        Publication { owner, .. }: &Publication,
        led: &[LedPorts],
    ) -> Result<Option<u16>> {
        if led.is_empty() || !ask(&self.op, "the firewall", self.firewall.as_ref(), LeadsToEngine).await? {
            return Ok(None);
        }
        let lead = LeadPorts { owner: owner.clone(), ports: led.to_vec() };
        Ok(self.ask_ports(lead).await?.unwrap_or_else(|error| {
            tracing::warn!(endpoint = %owner.id, %error, "each of its ports is listened to instead of one for all");
            None
        }))
    }

    /// In this order nobody else has a port while it still leads here.
    async fn withdraw_ports(self, endpoint: EndpointId, addresses: Addresses) -> Result<()> {
        // Half of it done is something else than before.
        self.withdraw_each(endpoint, addresses).await.map_err(Error::uncertain)
    }

    async fn withdraw_each(self, endpoint: EndpointId, addresses: Addresses) -> Result<()> {
        let had = self.ask_ports(QuarantinePorts(endpoint)).await?;
        let nothing = SetPortRules { endpoint, ports: Vec::new() };
        ask(&self.op, "the firewall", self.firewall.as_ref(), nothing).await??;
        let to = |container: IpAddr| {
            had.iter().map(move |host| {
                Connections::to(host.protocol, host.range.first, host.range.last).answered_by(container)
            })
        };
        let both = [addresses.of(true), addresses.of(false)];
        self.forget(both.into_iter().flatten().flat_map(to).collect()).await?;
        self.ask_ports(ReleasePorts(endpoint)).await
    }

    /// Datagrams have no beginning: a client that has sent some to the host goes on to be answered from there.
    async fn forget_datagrams(&self, hosts: &[HostPorts]) -> Result<()> {
        let udp: Vec<_> = hosts.iter().filter(|host| host.protocol == Protocol::Udp).collect();
        if udp.is_empty() {
            return Ok(());
        }
        let mut own = None;
        let mut filter = Vec::new();
        for host in udp {
            for address in &*host.addresses {
                let to = Connections::to(Protocol::Udp, host.range.first, host.range.last);
                if !address.is_unspecified() {
                    filter.push(to.at(*address));
                    continue;
                }
                if own.is_none() {
                    own = Some(self.kernel.addresses(Netns::Host, self.op.deadline_std()).await?);
                }
                let family = own.iter().flatten().map(|view| view.address.addr());
                filter.extend(family.filter(|own| own.is_ipv4() == address.is_ipv4()).map(|own| to.at(own)));
            }
        }
        self.forget(filter).await
    }

    async fn forget(&self, filter: Vec<Connections>) -> Result<()> {
        if filter.is_empty() {
            return Ok(());
        }
        let forget = vec![Op::ForgetConnections { filter }];
        match execute_all(&*self.kernel, forget, self.op.deadline_std()).await {
            // Without connection tracking there is nothing to forget.
            Err(error) if !error.unsupported() => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// What the firewall is told; nothing where only the proxy leads on.
fn rule(host: &HostPorts, wanted: &Wanted, Lead { from, to }: Lead) -> Option<PortRules> {
    let by_kernel = from.is_ipv4() == to.is_ipv4() && from != IpAddr::V6(Ipv6Addr::LOCALHOST);
    by_kernel.then(|| PortRules {
        protocol: host.protocol,
        host: (!from.is_unspecified()).then_some(from),
        first: host.range.first,
        last: host.range.last,
        container: to,
        container_port: wanted.port,
        routed: false,
        by_proxy: None,
    })
}

/// What the engine passes on of it at its own port; nothing of protocols that only the kernel, or a socket for each port,
/// can pass on. Of every address of IPv6 it is `::1` alone where the kernel leads from the others.
fn led_ports(host: &HostPorts, wanted: &Wanted, Lead { from, to }: Lead) -> Option<LedPorts> {
    let by_kernel = from.is_unspecified() && from.is_ipv4() == to.is_ipv4();
    let address = if by_kernel { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { from };
    let to = SocketAddr::new(to, wanted.port);
    (host.protocol == Protocol::Tcp).then_some(LedPorts { address, range: host.range, to })
}

/// What the firewall is told of it.
fn rule_to_engine(LedPorts { address, range, to }: &LedPorts, own: u16) -> PortRules {
    PortRules {
        protocol: Protocol::Tcp,
        host: Some(*address),
        first: range.first,
        last: range.last,
        container: to.ip(),
        container_port: to.port(),
        routed: false,
        by_proxy: Some(own),
    }
}

/// Whether something comes to this address that the kernel does not lead on: anything where there is no firewall; what is
/// for the other family, or comes from `::1`, always.
fn is_for_proxy(protocol: Protocol, Lead { from, to }: Lead, by_kernel: bool) -> bool {
    let from_itself = from == IpAddr::V6(Ipv6Addr::LOCALHOST) || from == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let not_led = !by_kernel || from.is_ipv4() != to.is_ipv4() || from_itself;
    matches!(protocol, Protocol::Tcp | Protocol::Udp) && not_led
}

fn front(
    host: &HostPorts,
    wanted: &Wanted,
    Lead { from, to }: Lead,
) -> impl Iterator<Item = (HostPort, SocketAddr)> + use<> {
    let (protocol, inside) = (host.protocol, wanted.port);
    host.range
        .ports()
        .zip(inside..)
        .map(move |(port, inside)| (HostPort { address: from, protocol, port }, SocketAddr::new(to, inside)))
}
