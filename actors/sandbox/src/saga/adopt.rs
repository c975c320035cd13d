//! Giving a dead sandbox that could not be released to a new container.

use netloom_kernel::{Netns, Op};
use netloom_model::Result;
use netloom_model::record::SandboxRecord;
use netloom_runtime::OpCtx;

use super::establish::keep;
use super::{World, files, names};
use crate::inside::Inside;

/// Makes the namespace anew, without anything of the dead container's in it, and commits the record. Nothing is undone:
/// what fails half-way is as dead as before, and this begins from its beginning when it is asked for again.
pub(crate) async fn adopt(world: World, op: OpCtx, record: SandboxRecord) -> Result<SandboxRecord> {
    let object = format!("sandbox {} by container {:?}", record.id.short(), record.spec.container_id);
    let entry = world.services.tools.ledger.enter(&op, "adopt_sandbox", object);
    if let Netns::Named(name) = world.netns {
        entry.step("empty the namespace");
        names::end(&world, &op, false).await?;
        world.remove(&op, vec![Op::DeleteNetns { name }]).await?;
        if record.has_namespace() {
            world.execute(&op, vec![Op::CreateNetns { name, ipv6: false }]).await?;
        }
    }
    entry.step("make its files");
    files::make(&world, &op, &Inside::new(record.clone())).await?;
    entry.step("commit");
    keep(&world, &op, &record).await?;
    Ok(record)
}
