//! An endpoint leaves: nothing leads to it any more, its link is cut off, and what went on by then is forgotten.
//!
//! A connection that was let through once passes whatever the rules say since, and would go on with whoever gets the
//! endpoint's address next. Those through ports of the host are forgotten with the ports; here it is the ones that were
//! opened to the endpoint's own address, where the network lets anybody do that. Looking for them costs a listing of
//! all tracked connections, so nobody else pays for it.

use std::net::IpAddr;

use futures::FutureExt;
use netloom_kernel::conntrack::Connections;
use netloom_kernel::{LinkTag, Op, execute_all};
use netloom_model::{EndpointId, NetworkId, Protocol, Result};

use super::config::BridgeConfig;
use super::family::GatewayMode;
use super::settings::Settings;
use super::{Bridge, device, link_name};
use crate::driver::{Begun, DriverCx, done};
use crate::request::{Leave, Left, Present};

impl Bridge {
    /// The join of an endpoint, and whether the kernel refused its link.
    fn present(&self, network: NetworkId, endpoint: EndpointId) -> Option<(Present, bool)> {
        let endpoint = self.networks.get(&network)?.endpoints.get(&endpoint)?;
        endpoint.present.map(|present| (present, endpoint.refused.get().is_some()))
    }

    /// Forgets an endpoint's join.
    pub(super) fn forget_join(&mut self, network: NetworkId, endpoint: EndpointId) {
        let Some(network) = self.networks.get_mut(&network) else { return };
        let left = network.endpoints.get_mut(&endpoint).and_then(|endpoint| endpoint.present.take());
        network.ports -= usize::from(left.is_some());
    }

    /// The addresses of an endpoint that others may have opened connections to.
    fn opened_to(&self, network: NetworkId, endpoint: EndpointId) -> Vec<IpAddr> {
        let Some(network) = self.networks.get(&network) else { return Vec::new() };
        let Some(endpoint) = network.endpoints.get(&endpoint) else { return Vec::new() };
        [true, false]
            .into_iter()
            .filter(|v4| is_reached_directly(&network.config, self.settings, *v4))
            .filter_map(|v4| endpoint.addresses.of(v4))
            .collect()
    }

    pub(super) fn begin_leave(&mut self, cx: &DriverCx, request: Leave) -> Begun<Left> {
        let Leave { network, endpoint, join } = request;
        let name = link_name(endpoint, join)?;
        let tag = LinkTag::new(&cx.instance, "endpoint", endpoint);
        let opened_to = self.opened_to(network, endpoint);
        match self.present(network, endpoint) {
            Some((Present { join: present, link }, refused)) if present == join => {
                let withdrawn = self.withdraw(cx, network, endpoint);
                self.forget_join(network, endpoint);
                if refused && withdrawn.is_none() {
                    return done(Left::default());
                }
                let cx = cx.clone();
                Ok(async move {
                    if let Some(withdrawn) = withdrawn {
                        withdrawn.await?;
                    }
                    if refused {
                        return Ok(Left::default());
                    }
                    let left = device::cut(&cx, link.unwrap_or(name), tag).await?;
                    forget(&cx, opened_to).await?;
                    Ok(left)
                }
                .boxed())
            }
            // A later join has got that name, so the earlier link is long gone.
            Some((Present { link, .. }, _)) if link == Some(name) => done(Left::default()),
            // Asked for again, or by a restart that this driver does not remember.
            other => {
                let nothing_since = other.is_none();
                let withdrawn = nothing_since.then(|| self.withdraw(cx, network, endpoint)).flatten();
                let cx = cx.clone();
                Ok(async move {
                    if let Some(withdrawn) = withdrawn {
                        withdrawn.await?;
                    }
                    let ours = device::carries(&cx, name, &tag).await?;
                    let left = if ours { device::cut(&cx, name, tag).await? } else { Left::default() };
                    if nothing_since {
                        forget(&cx, opened_to).await?;
                    }
                    Ok(left)
                }
                .boxed())
            }
        }
    }
}

/// Whether others may open connections to addresses of a network's containers.
fn is_reached_directly(config: &BridgeConfig, settings: Settings, v4: bool) -> bool {
    let by_mode = match config.family(v4).mode {
        GatewayMode::Nat | GatewayMode::Isolated => false,
        GatewayMode::NatUnprotected | GatewayMode::Routed => true,
    };
    !config.internal && (by_mode || settings.direct || settings.mark || !config.trusted.is_empty())
}

/// Has the kernel forget connections that were opened to these addresses.
async fn forget(cx: &DriverCx, addresses: Vec<IpAddr>) -> Result<()> {
    let filter = |address| {
        let all = |protocol| Connections::to(protocol, 0, u16::MAX).answered_by(address);
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp].map(all).into()
    };
    // One listing for each family: the kernel chooses within one only.
    let ops: Vec<_> =
        addresses.into_iter().map(|address| Op::ForgetConnections { filter: filter(address) }).collect();
    if ops.is_empty() {
        return Ok(());
    }
    match execute_all(&*cx.kernel, ops, cx.deadline).await {
        // Without connection tracking there is nothing to forget.
        Err(error) if !error.unsupported() => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}
