//! Taking an endpoint out of its sandbox.
//!
//! The record is written first. A crash right after it leaves a link that belongs to no record, which the
//! next start removes; the other way round it would leave a record that names a dead link.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use netloom_actor_services::Dying;
use netloom_actor_services::SagaWorld;
use netloom_kernel::Op;
use netloom_model::record::{AttachmentRecord, EndpointRecord};
use netloom_model::{EndpointId, JoinId, Result};
use netloom_runtime::saga::Patience;
use netloom_runtime::{Cause, OpCtx};

use super::create_endpoint::put;
use super::ports::ended;
use super::{Facts, Undone, World};
use crate::event::NetworkEvent;

/// Commits the record without its attachment, or with the place that is kept, then cuts the link off. There is no way
/// back behind the commit: what fails is retried behind the caller's back, as a visible leak.
pub(crate) async fn detach(
    world: World,
    op: OpCtx,
    mut record: Arc<EndpointRecord>,
    keeps_place: bool,
) -> Result<Facts> {
    let endpoint = record.id;
    let entry = world.services.tools.ledger.enter(
        &op,
        "detach_endpoint",
        fmt::from_fn(move |f| write!(f, "endpoint {}", endpoint.short())),
    );
    entry.step("commit");
    let without = Arc::make_mut(&mut record);
    let attachment = without.attachment.take();
    without.attachment = attachment.clone().filter(|_| keeps_place).map(AttachmentRecord::kept);
    world.commit(&op, vec![put(&record)?]).await?;
    let Some(attachment) = attachment else { return Ok(Facts::new()) };
    let event =
        NetworkEvent::EndpointDetached { network: world.network, endpoint, sandbox: attachment.sandbox };
    let mut told = ended(&world, &op, &record);
    told.push(world.events.fact(&op, event));
    entry.step("cut the link off");
    world.finish(&op, Undone::Link(endpoint, attachment.join), Patience::of(&op)).await;
    Ok(told)
}

/// Takes back a link that was not committed. `recorded` is written without its attachment when there is one:
/// its commit may have gone through although the answer was lost. `joined` says that it has, and was told.
pub(crate) async fn abandon(
    world: World,
    op: OpCtx,
    (endpoint, join): (EndpointId, JoinId),
    recorded: Option<Arc<EndpointRecord>>,
    joined: bool,
) -> Result<Facts> {
    let object = fmt::from_fn(move |f| write!(f, "endpoint {}", endpoint.short()));
    let entry = world.services.tools.ledger.enter(&op, "abandon_attachment", object);
    let mut told = Facts::new();
    if let Some(mut record) = recorded {
        entry.step("commit");
        let attachment = Arc::make_mut(&mut record).attachment.take();
        world.commit(&op, vec![put(&record)?]).await?;
        told = ended(&world, &op, &record);
        let network = world.network;
        let detached = attachment.filter(|_| joined).map(|attachment| attachment.sandbox);
        told.extend(detached.map(|sandbox| {
            world.events.fact(&op, NetworkEvent::EndpointDetached { network, endpoint, sandbox })
        }));
    }
    entry.step("cut the link off");
    world.finish(&op, Undone::Link(endpoint, join), Patience::of(&op)).await;
    Ok(told)
}

/// Carries out what is left of a link that was cut off, behind everybody's back; its endpoint stays in
/// quarantine until the kernel has confirmed it.
pub(crate) fn reap(world: &World, endpoint: EndpointId, join: JoinId, remains: Vec<Op>) {
    let quarantine = world.services.quarantine.clone();
    if remains.is_empty() {
        return quarantine.gone(endpoint, join);
    }
    quarantine.dying((world.network, endpoint), join, Dying::Cut);
    let services = world.services.clone();
    world.services.reaping.spawn(async move {
        let op = services.operation(Cause::Tick("reap"));
        let Err(error) = services.remove(&op, remains.clone()).await else {
            return quarantine.gone(endpoint, join);
        };
        tracing::warn!(error, endpoint = %endpoint.short(), "cannot remove what is left of a link");
        let services_again = services.clone();
        services.tools.janitor.adopt(Undone::Link(endpoint, join).to_string(), move || {
            let (services, remains) = (services_again.clone(), remains.clone());
            async move {
                let op = services.operation(Cause::Tick("janitor"));
                services.remove(&op, remains).await?;
                services.quarantine.gone(endpoint, join);
                Ok(())
            }
            .boxed_local()
        });
    });
}
