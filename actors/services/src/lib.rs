//! Rank 1: the service actors. One folder each; none knows another.
//!
//! Present: the store, the IPAM drivers, the ports of the host, the firewall, and the files of names and the name servers of
//! the sandboxes. Gossip, discovery and the link monitor arrive with their issues.

mod ask;
pub mod files;
pub mod firewall;
pub mod ipam;
mod joins;
pub mod names;
pub mod ports;
mod quarantine;
mod removals;
mod setting;
pub mod store;
mod told;
mod work;

use std::ops::Deref;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use netloom_kernel::{Kernel, KernelError, Netns, Op};
use netloom_runtime::{OpCtx, Port, SagaTools, TaskGroup};

pub use ask::{Outcome, Trouble, answered, interrupted, panicked};
pub use joins::JoinIds;
pub use quarantine::{Dying, Quarantine, RetiredNetwork};
pub use removals::Removals;
pub use setting::Setting;
pub use told::ToldPorts;
pub use work::SagaWorld;

use crate::files::NameFiles;
use crate::firewall::FirewallActor;
use crate::ipam::IpamRegistry;
use crate::names::{NamesActor, Zones};
use crate::ports::PortsActor;
use crate::store::StoreActor;

/// What every actor above works with. Cloning shares it: every saga has one.
#[derive(Clone, Debug)]
pub struct Services(Rc<Kit>);

impl Deref for Services {
    type Target = Kit;

    fn deref(&self) -> &Kit {
        &self.0
    }
}

impl From<Kit> for Services {
    fn from(kit: Kit) -> Self {
        Self(Rc::new(kit))
    }
}

/// The services, the kernel, and the engine's shared tools. Lives on one engine thread.
#[derive(Debug)]
pub struct Kit {
    /// Keeps records.
    pub store: Port<StoreActor>,
    /// Keep addresses.
    pub ipam: IpamRegistry,
    /// Keeps the kernel's firewall as it should be.
    pub firewall: Port<FirewallActor>,
    /// Keeps the host's ports.
    pub ports: Port<PortsActor>,
    /// The files of names of each sandbox.
    pub files: NameFiles,
    /// Keeps the name servers of sandboxes.
    pub names: Port<NamesActor>,
    /// The service records of all networks, which their actors write.
    pub zones: Zones,
    /// The kernel.
    pub kernel: Arc<dyn Kernel>,
    /// Shows sagas and takes their leaks.
    pub tools: SagaTools,
    /// Endpoints whose links are still dying.
    pub quarantine: Quarantine,
    /// Networks that are being taken down.
    pub removals: Removals,
    /// Numbers of joins.
    pub joins: JoinIds,
    /// What was told of published ports.
    pub told: ToldPorts,
    /// Kernel clean-up behind the callers' backs.
    pub reaping: TaskGroup,
    /// The engine's instance name, for the tags of kernel objects.
    pub instance: Arc<str>,
    /// Files that name the host's name servers.
    pub name_server_files: Setting<Arc<[PathBuf]>>,
    /// How many operations may be under way or wait on one object.
    pub operations_per_object: Setting<usize>,
    /// How long an operation of the engine's own may take.
    pub operation_timeout: Setting<Duration>,
}

/// How much later than asked the kernel may answer before the wait for it ends: its own answer says more
/// than ours.
pub(crate) const LATE: Duration = Duration::from_secs(1);

impl Kit {
    /// Has the kernel carry operations out, as [`Kernel::execute`] does, and waits no longer than the
    /// operation allows even if a kernel thread is stuck in a system call.
    pub async fn execute(&self, op: &OpCtx, ops: Vec<Op>) -> Vec<Result<(), KernelError>> {
        let count = ops.len();
        let answer = self.kernel.execute(ops, op.deadline_std());
        match tokio::time::timeout_at(op.deadline + LATE, answer).await {
            Ok(results) => results,
            Err(_) => vec![Err(KernelError::timed_out("change the kernel's state", op.allowed)); count],
        }
    }

    /// Has the kernel carry out removals: what is gone already is fine.
    ///
    /// # Errors
    /// The first one that could not be removed, in words.
    pub async fn remove(&self, op: &OpCtx, removals: Vec<Op>) -> Result<(), String> {
        let results = self.execute(op, removals).await;
        let failed =
            results.into_iter().find_map(|result| result.err().filter(|error| !error.already_gone()));
        failed.map_or(Ok(()), |error| Err(error.to_string()))
    }

    /// Carries out the removal of what belongs to nobody. `lent`: a namespace that lives on, and loses the rules in it first.
    ///
    /// # Errors
    /// Why it could not be removed, in words.
    pub async fn remove_stray(&self, op: &OpCtx, removal: Op, lent: bool) -> Result<(), String> {
        if let (Op::DeleteNetns { name }, true) = (&removal, lent) {
            let forgotten = names::forget(&*self.kernel, Netns::Named(*name), op.deadline_std()).await;
            forgotten.map_err(|error| error.to_string())?;
        }
        self.remove(op, vec![removal]).await
    }

    /// A new operation of the engine's own.
    #[must_use]
    pub fn operation(&self, cause: netloom_runtime::Cause) -> OpCtx {
        OpCtx::new(cause, self.operation_timeout.get())
    }
}
