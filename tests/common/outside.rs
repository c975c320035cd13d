//! A driver that makes its links outside of the sandboxes and leaves it to them to move them in, as many
//! drivers written for libnetwork do. Shared by the tests on both kernels.

use netloom::drivers::{
    Begun, Capability, CreateEndpoint, CreateNetwork, Driver, DriverCx, EndpointCreated, Interface, Join,
    Joined, Leave, Left, NetworkCreated, Registration, Scope, done,
};
use netloom::kernel::{LinkTag, Netns, Op, execute_all};
use netloom::{EndpointId, IfName, JoinId, NetworkId, Result};

/// The driver's type.
pub(crate) const KIND: &str = "outside";

/// See the module.
struct Outside;

/// The driver as it is registered.
pub(crate) fn registration() -> Registration {
    Registration::new(KIND, || Outside)
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
            provides_gateway: false,
            adopts: &[],
            permanent: false,
        }
    }

    fn create_network(&mut self, _: &DriverCx, _: CreateNetwork) -> Begun<NetworkCreated> {
        done(NetworkCreated::default())
    }

    fn delete_network(&mut self, _: &DriverCx, _: NetworkId) -> Begun<()> {
        done(())
    }

    fn create_endpoint(&mut self, _: &DriverCx, _: CreateEndpoint) -> Begun<EndpointCreated> {
        done(EndpointCreated { interface_prefix: Some("eth".into()), ..EndpointCreated::default() })
    }

    fn delete_endpoint(&mut self, _: &DriverCx, _: NetworkId, _: EndpointId) -> Begun<()> {
        done(())
    }

    fn join(&mut self, cx: &DriverCx, request: Join) -> Begun<Joined> {
        let (host, peer) = names(request.endpoint, request.join)?;
        let tag = LinkTag::new(&cx.instance, "endpoint", request.endpoint);
        let (netns, mac, mtu) = (Netns::Host, None, None);
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
