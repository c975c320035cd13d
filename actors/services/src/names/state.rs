//! What the name service knows, kept outside of its actor: an incarnation that dies ends no name server.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use netloom_dns::forward::Forwarding;
use netloom_dns::io::HostFile;
use netloom_dns::records::ViewCell;
use netloom_dns::server::{Ending, Names, Options, Server, Sockets};
use netloom_kernel::Kernel;
use netloom_model::{Error, Reason, Result, SandboxId};
use rustc_hash::FxHashMap;
use tokio::runtime::{Builder, Runtime};

use super::dial::Dialer;
use super::host::{HostServers, Servers, servers};
use super::wanted::NamesWanted;
use super::zones::Zones;

/// How many threads answer the questions of all sandboxes.
const THREADS: usize = 2;

/// Which sandboxes have a name server, and what serves them.
#[derive(Clone)]
pub struct NamesState(Rc<RefCell<Known>>);

pub(super) struct Known {
    /// The file that says which ones the host has.
    pub(super) host_file: HostFile,
    /// The host's name servers; `None` before anybody has looked, and nobody where there is no host.
    pub(super) host: Option<Option<Arc<HostServers>>>,
    pub(super) sandboxes: FxHashMap<SandboxId, Entry>,
    pub(super) carriers: Carriers,
    attempts: u64,
}

/// A sandbox that has, or is to have, a name server.
pub(super) struct Entry {
    pub(super) wanted: Arc<NamesWanted>,
    pub(super) stage: Stage,
    /// The last attempt to start or to end it: what comes of an earlier one changes nothing.
    pub(super) attempt: u64,
    /// How often it could not be started in a row.
    pub(super) failures: u32,
    pub(super) trouble: Option<String>,
    /// What the file says that a caller named for it.
    pub(super) origin: Option<Arc<HostServers>>,
    cell: Arc<ViewCell>,
}

/// What goes on for a sandbox.
#[derive(Debug)]
pub(super) enum Stage {
    /// Nothing, until it is tried again.
    Resting,
    /// Its sockets are being opened.
    Opening,
    /// It is served: `None` in a simulation.
    Serving(Option<Names>, (u16, u16)),
    /// It is being ended.
    Ending {
        /// Whether its rules have to go.
        stays: bool,
        /// Whether one is wanted again after that.
        again: bool,
        /// Whether its sockets are being opened still.
        opening: bool,
    },
    /// It has ended, and its rules could not be removed: whoever wants that asks again.
    Left,
}

impl fmt::Debug for NamesState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NamesState")
    }
}

impl NamesState {
    /// No sandbox has one yet. `host_file` says which name servers the host has.
    #[must_use]
    pub fn new(host_file: HostFile) -> Self {
        let (sandboxes, carriers) = Default::default();
        Self(Rc::new(RefCell::new(Known { host_file, host: None, sandboxes, carriers, attempts: 0 })))
    }

    pub(super) fn get(&self) -> RefMut<'_, Known> {
        self.0.borrow_mut()
    }
}

impl Known {
    pub(super) fn number(&mut self) -> u64 {
        self.attempts += 1;
        self.attempts
    }
}

impl Entry {
    pub(super) fn new(wanted: Arc<NamesWanted>) -> Self {
        let (stage, cell) = (Stage::Resting, Arc::default());
        Self { wanted, stage, attempt: 0, failures: 0, trouble: None, origin: None, cell }
    }

    fn servers(&self, host: Option<&HostServers>) -> Servers {
        servers(self.origin.as_deref().or(host), self.wanted.settings())
    }

    /// Whom it asks now, by what is wanted and what the host has; shows its questions what they see now.
    pub(super) fn refresh(&self, zones: &Zones, host: Option<&HostServers>) -> Forwarding {
        let Servers { upstreams, keeps_single_labels } = self.servers(host);
        self.cell.put(self.wanted.view(zones, keeps_single_labels));
        let forwarding = Forwarding { upstreams, external: self.wanted.external };
        if let Stage::Serving(Some(names), _) = &self.stage {
            names.set_forwarding(&forwarding);
        }
        forwarding
    }

    pub(super) fn cell(&self) -> Arc<ViewCell> {
        Arc::clone(&self.cell)
    }
}

/// Threads that answer questions, from the first sandbox on. Apart from the engine's, which answers messages.
#[derive(Debug, Default)]
pub(super) struct Carriers {
    // Ended first.
    server: Option<Server>,
    runtime: Option<Runtime>,
}

impl Carriers {
    fn server(&mut self) -> Result<&Server> {
        if self.server.is_none() {
            let mut threads = Builder::new_multi_thread();
            let threads = threads.worker_threads(THREADS).thread_name("nl-names").enable_all();
            let runtime = threads.build().map_err(|error| {
                let (operation, errno) =
                    ("start threads for names".into(), error.raw_os_error().unwrap_or(0));
                Error::from(Reason::Kernel { operation, errno, message: error.to_string() })
            })?;
            let server = Server::start(runtime.handle(), Options::default());
            self.server = Some(server.map_err(|error| Error::internal(error.to_string()))?);
            self.runtime = Some(runtime);
        }
        self.server.as_ref().ok_or_else(|| Error::internal("no name server"))
    }

    pub(super) fn serve(
        &mut self,
        entry: &Entry,
        sockets: Sockets,
        forwarding: &Forwarding,
        kernel: &Arc<dyn Kernel>,
    ) -> Result<Names> {
        let NamesWanted { sandbox, netns, .. } = *entry.wanted;
        let dialer = Arc::new(Dialer { kernel: Arc::clone(kernel), netns });
        let served = self.server()?.serve(sandbox, sockets, entry.cell(), forwarding, dialer);
        served.map_err(|error| Error::internal(error.to_string()))
    }

    pub(super) fn end(&self, sandbox: SandboxId) -> Option<Ending> {
        self.server.as_ref().and_then(|server| server.end(sandbox))
    }
}

impl Drop for Carriers {
    fn drop(&mut self) {
        drop(self.server.take());
        if let Some(runtime) = self.runtime.take() {
            // Where the state is dropped nobody may wait.
            runtime.shutdown_background();
        }
    }
}
