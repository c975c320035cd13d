//! A driver that makes its links outside of the sandboxes and leaves it to them to move them in, as many
//! drivers written for libnetwork do. Shared by the tests on both kernels.

use std::collections::HashMap;

use netloom::drivers::{
    Begun, Capability, CreateEndpoint, CreateNetwork, Driver, DriverCx, EndpointCreated, Interface, Join,
    Joined, Leave, Left, NetworkCreated, Registration, Scope, done,
};
use netloom::kernel::{LinkTag, Netns, Op, execute_all};
use netloom::{EndpointId, IfName, JoinId, MacAddr, NetworkId, Result};

/// The driver's type.
pub(crate) const KIND: &str = "outside";

/// See the module.
#[derive(Default)]
struct Outside {
    /// That of each endpoint, made from its address as the bridge driver does.
    macs: HashMap<EndpointId, MacAddr>,
}

/// The driver as it is registered.
pub(crate) fn registration() -> Registration {
    Registration::new(KIND, Outside::default)
}

/// The host's end of a pair, and the end that moves.
fn names(endpoint: EndpointId, JoinId(join): JoinId) -> Result<(IfName, IfName)> {
    let name = |end: char| format!("out{end}{}{:04x}", &endpoint.short()[..7], join & 0xffff).parse();
    Ok((name('a')?, name('b')?))
}

impl Driver for Outside {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn capability(&self) -> Capability {
        Capability {
            scope: Scope::Local,
            needs_ipam: true,
            shares_pools: false,
            provides_gateway: false,
            adopts: &[],
            permanent: false,
            hears_of_bare: true,
        }
    }

    fn create_network(&mut self, _: &DriverCx, _: CreateNetwork) -> Begun<NetworkCreated> {
        done(NetworkCreated::default())
    }

    fn delete_network(&mut self, _: &DriverCx, _: NetworkId) -> Begun<()> {
        done(())
    }

    fn create_endpoint(&mut self, _: &DriverCx, request: CreateEndpoint) -> Begun<EndpointCreated> {
        let chosen = request.mac.or(request.ipv4.map(|net| MacAddr::from_ipv4(net.addr())));
        self.macs.extend(chosen.map(|mac| (request.endpoint, mac)));
        let (mac, interface_prefix) = (chosen, Some("eth".into()));
        done(EndpointCreated { mac, interface_prefix, ..EndpointCreated::default() })
    }

    fn delete_endpoint(&mut self, _: &DriverCx, _: NetworkId, endpoint: EndpointId) -> Begun<()> {
        self.macs.remove(&endpoint);
        done(())
    }

    fn join(&mut self, cx: &DriverCx, request: Join) -> Begun<Joined> {
        let (host, peer) = names(request.endpoint, request.join)?;
        let tag = LinkTag::new(&cx.instance, "endpoint", request.endpoint);
        let (netns, mac, mtu) = (Netns::Host, self.macs.get(&request.endpoint).copied(), None);
        let create = Op::CreateVeth { host, peer, netns, master: None, mac, mtu, tag };
        let (kernel, deadline) = (cx.kernel.clone(), cx.deadline);
        Ok(Box::pin(async move {
            execute_all(&*kernel, vec![create], deadline).await?;
            Ok(Joined { interface: Interface::Move { from: peer }, ..Joined::default() })
        }))
    }

    fn leave(&mut self, cx: &DriverCx, request: Leave) -> Begun<Left> {
        let (name, _) = names(request.endpoint, request.join)?;
        let tag = LinkTag::new(&cx.instance, "endpoint", request.endpoint);
        let (kernel, deadline) = (cx.kernel.clone(), cx.deadline);
        Ok(Box::pin(async move {
            let delete = Op::DeleteLink { name, tag: Some(tag) };
            match execute_all(&*kernel, vec![delete], deadline).await {
                Err(error) if !error.already_gone() => Err(error.into()),
                Ok(()) | Err(_) => Ok(Left::default()),
            }
        }))
    }
}
