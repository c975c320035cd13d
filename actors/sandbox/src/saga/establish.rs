//! Making a sandbox: its namespace, then its record.

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

/// Makes the namespace and commits the record.
pub(crate) async fn establish(world: World, op: OpCtx, record: SandboxRecord) -> Result<()> {
    let object = format!("sandbox {} of container {:?}", record.id.short(), record.spec.container_id);
    let name = record.netns;
    let made = world.saga(&op, "create_sandbox", object, async |saga| {
        let create = world.execute(&op, vec![Op::CreateNetns { name }]);
        saga.step("make the namespace", Undone::Netns(Netns::Named(name)), create).await?;
        saga.step("commit", Undone::Record(record.id), async {
            world.commit(&op, vec![record_of(&record)?]).await
        })
        .await
    });
    made.await
}
