//! The port of a bridge that a join has made: whether it forwards yet, and who has to hear of it.
//!
//! The kernel opens a port when it gets round to the carrier that both ends have given it, and drops what
//! arrives before that. Asked about the link it does so at once (since 6.8), so one look is all that a join
//! costs there; an older kernel is waited for, by its notifications and for a while. A port that stays shut is
//! a warning: it may be the bridge that somebody has set down.
//!
//! Then the neighbours are told. One that has talked to an earlier owner of the address would go on sending to that
//! one's hardware address for half a minute. What the kernel itself sends at link-up is too early: there are no
//! addresses yet, and the port is shut. All of a bridge hear of it, so where the driver says that nobody can remember
//! anything else nothing is sent.

use std::time::Duration;

use futures::StreamExt;
use netloom_drivers::Interface;
use netloom_kernel::{Kernel, KernelError, KernelEvent, LinkView, Netns, Op, PortState};
use netloom_model::IfName;
use netloom_runtime::OpCtx;
use tokio::time::{Instant, timeout_at};

use super::World;

/// How long a join waits for its port, and until its neighbours are told.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the neighbours of a link have to be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Untold {
    pub(super) link: IfName,
    /// Who has its IPv4 address.
    pub(super) ipv4: bool,
    /// Who has its IPv6 address.
    pub(super) ipv6: bool,
}

/// Returns when the port of a new interface forwards and its neighbours have been told, or when that has been waited
/// for long enough. Nothing here is a reason to refuse a join.
pub(super) async fn opened(world: &World, op: &OpCtx, untold: Untold, interface: &Interface) {
    if *interface == Interface::None || world.netns == Netns::Host {
        return;
    }
    let until = op.deadline.min(Instant::now() + PATIENCE);
    // Through a port that is shut they would hear nothing.
    if forwards(world, until, interface).await {
        announce(world, until, untold).await;
    }
}

async fn forwards(world: &World, until: Instant, interface: &Interface) -> bool {
    let Interface::InPlace { link: Some(port) } = *interface else { return true };
    let outcome = timeout_at(until, wait(&*world.services.kernel, port, until.into_std()));
    match outcome.await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(%port, %error, "cannot see whether the port forwards");
            true
        }
        Err(_) => {
            tracing::warn!(
                %port,
                waited = ?PATIENCE,
                "the port does not forward yet, so packets are lost; is its bridge up?"
            );
            false
        }
    }
}

/// Has the kernel tell the neighbours. The settings by which it does are the link's own and go with it: a namespace that
/// somebody else made is left as it was.
async fn announce(world: &World, until: Instant, Untold { link, ipv4, ipv6 }: Untold) {
    let netns = world.netns;
    let on = |key: String| Op::Sysctl { netns, key, value: "1".into() };
    let ipv4 = ipv4.then(|| on(format!("ipv4/conf/{link}/arp_notify")));
    let ipv6 = ipv6.then(|| on(format!("ipv6/conf/{link}/ndisc_notify")));
    let settings: Vec<_> = ipv4.into_iter().chain(ipv6).collect();
    if settings.is_empty() {
        return;
    }
    let ops = settings.into_iter().chain([Op::Announce { netns, link }]).collect();
    let told = timeout_at(until, world.services.kernel.execute(ops, until.into_std()));
    let failed = match told.await {
        Ok(results) => results.into_iter().find_map(Result::err),
        Err(_) => Some(KernelError::timed_out(format!("tell the neighbours of link {link}"), PATIENCE)),
    };
    match failed {
        None => {}
        Some(error) if error.unsupported() => {
            tracing::debug!(%error, "this kind of link tells its neighbours nothing");
        }
        Some(error) => {
            tracing::warn!(%error, "neighbours may go on sending to an earlier owner of its address");
        }
    }
}

async fn wait(kernel: &dyn Kernel, port: IfName, deadline: std::time::Instant) -> Result<(), KernelError> {
    if look(kernel, port, deadline).await?.is_none() {
        return Ok(());
    }
    // Watched before it is looked at again, so that no change is missed in between.
    let mut changes = kernel.watch();
    while let Some(shut) = look(kernel, port, deadline).await? {
        let concerns = |event: &KernelEvent| match event {
            KernelEvent::LinkChanged(link) => link.index == shut.index || Some(link.index) == shut.master,
            KernelEvent::LinkGone { index, .. } => *index == shut.index,
            KernelEvent::Overrun => true,
        };
        loop {
            match changes.next().await {
                Some(event) if concerns(&event) => break,
                Some(_) => {}
                // Nobody listens to the kernel any more.
                None => return Ok(()),
            }
        }
    }
    Ok(())
}

/// The link, if it is a port that drops what arrives. One that spanning tree keeps shut does as it is told.
async fn look(
    kernel: &dyn Kernel,
    port: IfName,
    deadline: std::time::Instant,
) -> Result<Option<LinkView>, KernelError> {
    let found = kernel.find_links(Netns::Host, vec![port], deadline).await?;
    Ok(found.into_iter().flatten().find(|link| link.port == Some(PortState::Disabled)))
}
