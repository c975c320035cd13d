//! Making a sandbox: its namespace and its record, beside each other. A crash leaves either without the other, and
//! the next start removes it.

use std::fmt;

use futures::channel::oneshot;
use futures::join;
use netloom_actor_services::SagaWorld;
use netloom_dns::io::check_files;
use netloom_kernel::{Netns, Op};
use netloom_model::record::SandboxRecord;
use netloom_model::{Error, Result, SandboxSettings};
use netloom_runtime::OpCtx;
use netloom_store::{Change, Key, RecordKind, encode};

use super::{Undone, World, files};
use crate::inside::Inside;

/// The change that records a sandbox.
pub(super) fn record_of(record: &SandboxRecord) -> Result<Change> {
    let key = Key::new(RecordKind::Sandbox, record.id);
    let value = encode(record).map_err(|error| Error::internal(error.to_string()))?;
    Ok(Change::Put { key, value })
}

/// Commits what a sandbox is.
pub(super) async fn keep(world: &World, op: &OpCtx, record: &SandboxRecord) -> Result<()> {
    world.commit(op, vec![record_of(record)?]).await
}

/// Whether the files that a spec names can be used. They are looked at on a thread of the kernel's, in whose host they
/// are; a simulated kernel has no host with files.
pub(super) async fn files_are_fine(world: &World, op: &OpCtx, settings: &SandboxSettings) -> Result<()> {
    let SandboxSettings { hosts_path, origin_hosts_path, resolv_conf_path, origin_resolv_conf_path, .. } =
        settings;
    let named = [hosts_path, origin_hosts_path, resolv_conf_path, origin_resolv_conf_path];
    if named.into_iter().all(Option::is_none) {
        return Ok(());
    }
    let (settings, (sender, found)) = (settings.clone(), oneshot::channel());
    let job = Box::new(move || {
        // Nobody may wait for it any more.
        let _ = sender.send(check_files(&settings));
    });
    match world.services.kernel.run_in(Netns::Host, job, op.deadline_std()).await {
        Ok(()) => found.await.unwrap_or_else(|_| Err(Error::internal("the look at the files was lost"))),
        Err(error) if error.unsupported() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes the namespace, where it is its own, and commits the record. A disk takes about as long as the kernel.
pub(crate) async fn establish(world: World, op: OpCtx, record: SandboxRecord) -> Result<()> {
    let (id, spec) = (record.id, record.spec.clone());
    let object =
        fmt::from_fn(move |f| write!(f, "sandbox {} of container {:?}", id.short(), spec.container_id));
    let name = record.netns;
    let made = world.saga(&op, "create_sandbox", object, async |saga| {
        if let Some(settings) = &record.spec.settings {
            saga.step("look at its files", None, files_are_fine(&world, &op, settings)).await?;
        }
        let with_files = world.services.files.are_kept();
        if with_files {
            // They are written beside the record; what takes them away is said before that begins.
            let files = Undone::NoFiles(record.spec.clone());
            saga.step("begin its files", files, async { Ok(()) }).await?;
        }
        let inside = with_files.then(|| Inside::new(record.clone()));
        let commit = async {
            let Some(inside) = &inside else { return keep(&world, &op, &record).await };
            let (kept, made) = join!(keep(&world, &op, &record), files::make(&world, &op, inside));
            // The record may be there without them.
            kept.and(made.map_err(Error::uncertain))
        };
        let kept = Undone::Record(record.id);
        if !record.has_namespace() {
            return saga.step("commit", kept, commit).await;
        }
        let create = world.execute(&op, vec![Op::CreateNetns { name, ipv6: false }]);
        let netns = Undone::Netns(Netns::Named(name));
        saga.both("make the namespace and commit", (netns, create), (kept, commit)).await
    });
    made.await
}
