//! A sandbox's handle.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use netloom_actor_controller::DeleteSandbox;
use netloom_actor_sandbox::{
    InspectSandbox, RefreshSandbox, RenameSandbox, SandboxActor, SetSandboxKey, host_key,
};
use netloom_kernel::{LinkCounters, Netns};
use netloom_model::snapshot::{SandboxPhase, SandboxSnapshot};
use netloom_model::{Error, IfName, NetnsName, ObjectKind, Result, SandboxId, SandboxSpec};
use netloom_runtime::Addr;

use crate::core::Core;

/// A network namespace that somebody else has made.
#[derive(Clone, Debug)]
pub enum SandboxKey {
    /// A file that is one, such as those below `/run/netns`.
    Path(PathBuf),
    /// That of a process.
    Pid(u32),
    /// An open one.
    Fd(Arc<OwnedFd>),
}

impl SandboxKey {
    /// The file that leads to it, and what keeps that file.
    fn resolve(self) -> Result<(PathBuf, Option<Arc<OwnedFd>>)> {
        match self {
            Self::Path(path) if path.is_absolute() => Ok((path, None)),
            Self::Path(path) => Err(Error::invalid("key", path.display(), "an absolute path is needed")),
            Self::Pid(0) => Err(Error::invalid("key", 0, "no process has this number")),
            Self::Pid(pid) => Ok((format!("/proc/{pid}/ns/net").into(), None)),
            Self::Fd(fd) => {
                let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
                Ok((path.into(), Some(fd)))
            }
        }
    }
}

/// A sandbox, by name: still good after its actor was restarted.
#[derive(Clone, Debug)]
pub struct Sandbox {
    core: Arc<Core>,
    id: SandboxId,
    container_id: Arc<str>,
}

impl Sandbox {
    pub(crate) fn new(core: Arc<Core>, id: SandboxId, container_id: &str) -> Self {
        Self { core, id, container_id: container_id.into() }
    }

    pub(crate) fn addr(&self) -> Result<Addr<SandboxActor>> {
        let entry = self.core.directory.sandboxes.get(&self.id);
        Ok(entry.ok_or_else(|| Error::not_found(ObjectKind::Sandbox, self.id))?.addr.clone())
    }

    /// Its identifier.
    #[must_use]
    pub fn id(&self) -> SandboxId {
        self.id
    }

    /// The container it is for.
    #[must_use]
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// The name of its namespace, unless it is the host's.
    ///
    /// # Errors
    /// None in practice: the short identifier is always a valid name.
    pub fn netns(&self) -> Result<NetnsName> {
        self.id.short().parse()
    }

    /// Where its namespace is (libnetwork's `Key`): `nsenter --net=<path>` enters it.
    ///
    /// # Errors
    /// As [`Sandbox::netns`].
    pub fn key(&self) -> Result<PathBuf> {
        match self.place()? {
            Netns::Host => Ok(host_key()),
            Netns::Named(name) => Ok(self.core.kernel.netns_path(name)),
        }
    }

    fn place(&self) -> Result<Netns> {
        let host = self.core.directory.sandboxes.get(&self.id).is_some_and(|entry| entry.host);
        if host { Ok(Netns::Host) } else { Ok(Netns::Named(self.netns()?)) }
    }

    /// Gives each of its endpoints this name, all or none (libnetwork's `Rename`).
    ///
    /// # Errors
    /// `InvalidParameter` for a malformed name, `Conflict` when another endpoint of a network has it; all
    /// have their old names then, unless the error says otherwise.
    pub async fn rename(&self, name: impl Into<String>) -> Result<()> {
        self.core.ask(self.addr()?, RenameSandbox(name.into())).await
    }

    /// Begins anew under another spec: its endpoints leave and join again in the same order (libnetwork's
    /// `Refresh`), for a container that is started again. Container and kind of namespace stay as they are.
    ///
    /// # Errors
    /// `InvalidParameter` for a malformed spec, which changes nothing. Otherwise why an endpoint could not leave,
    /// or could not join again: that one is out, and all others are in.
    pub async fn refresh(&self, spec: SandboxSpec) -> Result<()> {
        let spec = Box::new(spec);
        self.core.ask_with_way_out(self, |way_out| RefreshSandbox { spec: spec.clone(), way_out }).await
    }

    /// Tells the namespace that somebody else has made, to a sandbox that was created for that: what has joined
    /// meanwhile is plugged in there (libnetwork's `SetKey`). Told once more, everything moves to another namespace.
    ///
    /// # Errors
    /// `InvalidParameter` for a malformed key, `Forbidden` for a sandbox that was not created for that,
    /// `Internal` when there is no such namespace. The sandbox waits then, with all that has joined, or is in the
    /// namespace that it had: when the other one is none, or when an endpoint cannot leave. An endpoint that could not
    /// be plugged in again, nor its place be kept, is out, and the error says why.
    pub async fn set_key(&self, key: SandboxKey) -> Result<()> {
        let (source, held) = key.resolve()?;
        let set = |way_out| SetSandboxKey { source: source.clone(), held: held.clone(), way_out };
        self.core.ask_with_way_out(self, set).await
    }

    /// The sandbox with its endpoints at this moment.
    ///
    /// # Errors
    /// `NotFound` after its deletion.
    pub async fn inspect(&self) -> Result<SandboxSnapshot> {
        self.core.query(self.addr()?, InspectSandbox).await
    }

    /// What has passed each of its interfaces (libnetwork's `Statistics`). One that the kernel no longer has is left
    /// out.
    ///
    /// # Errors
    /// `NotFound` after the sandbox's deletion, or what the kernel says.
    pub async fn statistics(&self) -> Result<BTreeMap<IfName, LinkCounters>> {
        let picture = self.inspect().await?;
        if picture.phase == SandboxPhase::Waiting {
            // Places are kept, and there is no interface yet.
            return Ok(BTreeMap::new());
        }
        let names: Vec<_> = picture.endpoints.iter().map(|endpoint| endpoint.ifname).collect();
        let counters = self.core.counters(self.id, names.clone()).await?;
        Ok(names.into_iter().zip(counters).filter_map(|(name, counters)| Some((name, counters?))).collect())
    }

    /// Runs a short job inside the namespace (libnetwork's `InvokeFunc`). Open sockets in it and use them
    /// outside: a socket stays in the namespace it was opened in. The job runs on a thread that serves all
    /// namespaces, so it must not wait for anything.
    ///
    /// # Errors
    /// `NotFound` after the sandbox's deletion, `Internal` when the job panicked or there is no real
    /// namespace.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        self.addr()?;
        let (sender, answer) = futures::channel::oneshot::channel();
        let job = Box::new(move || {
            // Caught here: a panic of the caller's is not the kernel's failure.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(job)));
        });
        self.core.kernel.run_in(self.place()?, job, self.core.kernel_deadline()).await?;
        let lost = || Error::internal("the thread of the namespaces failed");
        answer.await.map_err(|_| lost())?.map_err(|_| Error::internal("the job panicked"))
    }

    /// Deletes the sandbox with its namespace; its endpoints leave first and stay on their networks.
    ///
    /// # Errors
    /// `NotFound` after its deletion, or why an endpoint could not leave; the sandbox stays then.
    pub async fn delete(&self) -> Result<()> {
        let delete = DeleteSandbox { id: self.id, force: false };
        self.core.ask(self.core.controller()?, delete).await
    }

    /// Deletes the sandbox whatever is under way in it: that is ended, and an endpoint that cannot leave does
    /// not count. What is stuck becomes a leak.
    ///
    /// # Errors
    /// `NotFound` after its deletion; `Internal` when its record cannot be removed.
    pub async fn delete_with_force(&self) -> Result<()> {
        let delete = DeleteSandbox { id: self.id, force: true };
        self.core.ask_with_force(self.core.controller()?, delete).await
    }
}
