//! Taking an endpoint out of its sandbox.
//!
//! The record is written first. A crash right after it leaves a link that belongs to no record, which the
//! next start removes; the other way round it would leave a record that names a dead link.

use std::rc::Rc;

use futures::FutureExt;
use netloom_actor_driver::LeaveDriverEndpoint;
use netloom_actor_services::Services;
use netloom_drivers::{Leave, Left};
use netloom_kernel::Op;
use netloom_model::record::EndpointRecord;
use netloom_model::{EndpointId, Result};
use netloom_runtime::{Cause, OpCtx};

use super::create_endpoint::put;
use super::{Undone, World};

/// Commits the record without its attachment, then cuts the link off.
pub(crate) async fn detach(world: World, op: OpCtx, record: EndpointRecord) -> Result<()> {
    let entry =
        world.services.tools.ledger.enter(&op, "detach_endpoint", format!("endpoint {}", record.id.short()));
    entry.step("commit");
    world.commit(&op, vec![put(&record)?]).await?;
    entry.step("cut the link off");
    cut(&world, &op, record.id).await;
    Ok(())
}

/// Takes back a link that was not committed; `record` is written when an earlier commit may have gone
/// through after all.
pub(crate) async fn abandon(
    world: World,
    op: OpCtx,
    endpoint: EndpointId,
    record: Option<EndpointRecord>,
) -> Result<()> {
    let entry = world.services.tools.ledger.enter(
        &op,
        "abandon_attachment",
        format!("endpoint {}", endpoint.short()),
    );
    if let Some(record) = record {
        entry.step("commit");
        world.commit(&op, vec![put(&record)?]).await?;
    }
    entry.step("cut the link off");
    cut(&world, &op, endpoint).await;
    Ok(())
}

/// Cuts an endpoint off. There is no way back from here: what fails is retried behind the caller's back, as
/// a visible leak.
async fn cut(world: &World, op: &OpCtx, endpoint: EndpointId) {
    let op = op.for_undo(world.services.operation_timeout);
    let leave = Leave { network: world.network, endpoint };
    let outcome = world.driver.outcome(&op, LeaveDriverEndpoint(leave)).await;
    match world.driver_answered(&op, outcome) {
        Ok(Left { remains }) => reap(world, endpoint, remains),
        Err(error) => {
            tracing::warn!(%error, endpoint = endpoint.short(), "cannot cut an endpoint off");
            let dying = Rc::new(world.services.quarantine.begin(endpoint));
            world.services.tools.janitor.adopt_undo(&op, world, Undone::Link(endpoint), dying);
        }
    }
}

/// Carries out what is left of a link behind everybody's back, and keeps its endpoint in quarantine until
/// the kernel has confirmed it.
pub(crate) fn reap(world: &World, endpoint: EndpointId, remains: Vec<Op>) {
    if remains.is_empty() {
        return;
    }
    let services = world.services.clone();
    let dying = Rc::new(services.quarantine.begin(endpoint));
    world.services.reaping.spawn(async move {
        let op = services.operation(Cause::Tick("reap"));
        let Err(error) = carry_out(&services, &op, remains.clone()).await else {
            return;
        };
        tracing::warn!(error, endpoint = endpoint.short(), "cannot remove what is left of a link");
        let services_again = services.clone();
        services.tools.janitor.adopt(Undone::Link(endpoint).to_string(), move || {
            let (services, remains, dying) = (services_again.clone(), remains.clone(), dying.clone());
            async move {
                let _dying = dying;
                let op = services.operation(Cause::Tick("janitor"));
                carry_out(&services, &op, remains).await
            }
            .boxed_local()
        });
    });
}

async fn carry_out(services: &Services, op: &OpCtx, ops: Vec<Op>) -> Result<(), String> {
    for result in services.execute(op, ops).await {
        match result {
            Ok(()) => {}
            Err(error) if error.already_gone() => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}
