//! Making a sandbox: its namespace and its record, beside each other. A crash leaves either without the other, and
//! the next start removes it.

use netloom_actor_services::SagaWorld;
use netloom_kernel::{Netns, Op};
use netloom_model::record::SandboxRecord;
use netloom_model::{Error, Result};
use netloom_runtime::OpCtx;
use netloom_store::{Change, Key, RecordKind, encode};

use super::{Undone, World};

/// The change that records a sandbox.
pub(super) fn record_of(record: &SandboxRecord) -> Result<Change> {
    let key = Key::new(RecordKind::Sandbox, record.id);
    let value = encode(record).map_err(|error| Error::internal(error.to_string()))?;
    Ok(Change::Put { key, value })
}

/// Makes the namespace, where it is its own, and commits the record. A disk takes about as long as the kernel.
pub(crate) async fn establish(world: World, op: OpCtx, record: SandboxRecord) -> Result<()> {
    let object = format!("sandbox {} of container {:?}", record.id.short(), record.spec.container_id);
    let name = record.netns;
    let made = world.saga(&op, "create_sandbox", object, async |saga| {
        let commit = async { world.commit(&op, vec![record_of(&record)?]).await };
        let kept = Undone::Record(record.id);
        if !record.has_namespace() {
            return saga.step("commit", kept, commit).await;
        }
        let create = world.execute(&op, vec![Op::CreateNetns { name }]);
        let netns = Undone::Netns(Netns::Named(name));
        saga.both("make the namespace and commit", (netns, create), (kept, commit)).await
    });
    made.await
}
