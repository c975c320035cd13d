//! The port of a bridge that a join has made: whether it forwards yet.
//!
//! The kernel opens a port when it gets round to the carrier that both ends have given it, and drops what
//! arrives before that. Asked about the link it does so at once (since 6.8), so one look is all that a join
//! costs there; an older kernel is waited for, by its notifications and for a while. A port that stays shut is
//! a warning: it may be the bridge that somebody has set down.

use std::time::Duration;

use futures::StreamExt;
use netloom_drivers::Interface;
use netloom_kernel::{Kernel, KernelError, KernelEvent, LinkView, Netns, PortState};
use netloom_model::IfName;
use netloom_runtime::OpCtx;

use super::World;

/// How long a join waits for its port.
const PATIENCE: Duration = Duration::from_secs(1);

/// Returns when the port of a new interface forwards, or when it has been waited for long enough.
pub(super) async fn opened(world: &World, op: &OpCtx, interface: &Interface) {
    let Interface::InPlace { link: Some(port) } = *interface else { return };
    let until = op.deadline.min(tokio::time::Instant::now() + PATIENCE);
    let outcome = tokio::time::timeout_at(until, wait(&*world.services.kernel, port, until.into_std()));
    match outcome.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%port, %error, "cannot see whether the port forwards"),
        Err(_) => tracing::warn!(
            %port,
            waited = ?PATIENCE,
            "the port does not forward yet, so packets are lost; is its bridge up?"
        ),
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
