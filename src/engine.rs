//! The engine: started, watched, stopped.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use netloom_actor_controller::{
    BootInput, Booted, Diff, Difference, Drain, EventHub, EventStream, InspectEngine, Membership, Neighbours,
    Reconcile, Shutdown, ShutdownMode, StoreCounters, StoreStats, boot, operations,
};
use netloom_drivers::Registration;
use netloom_drivers::bare::{self, Bare};
use netloom_drivers::bridge::{self, Bridge};
use netloom_firewall::io::Xtables;
use netloom_firewalld::Firewalld;
use netloom_ipam::driver::IpamRegistration;
use netloom_ipam::io::read_machine_id;
use netloom_kernel::{DirectoryError, Kernel, KernelStats, LinuxConfig, LinuxKernel};
use netloom_model::snapshot::{EngineSnapshot, OperationSnapshot};
use netloom_model::{
    ControllerId, EngineConfig, Error, LiveList, LiveSandbox, LiveSet, Mark, Reason, ReconcileReport, Repair,
    Result,
};
use netloom_runtime::{EngineThread, Permits};
use netloom_store::{Finding, RedbStore, Store};
use tokio::sync::oneshot;

use crate::config_file::config_from_file;
use crate::controller::Controller;
use crate::core::{Core, fresh};
use crate::name_files::FilesPlace;
use crate::{external_key, neighbours, place};

/// How long closing the store may take, at the end of a shutdown.
const CLOSING: Duration = Duration::from_secs(10);

/// A running engine. Cheap to clone; it stops when the last handle on it is dropped, or by
/// [`Engine::shutdown`]. Either way networks and sandboxes stay in the kernel and in the store, and the next
/// engine with the same directories takes them over.
#[derive(Clone, Debug)]
pub struct Engine {
    core: Arc<Core>,
}

/// Where an engine's kernel comes from.
enum KernelSource {
    Linux,
    Given(Arc<dyn Kernel>),
}

/// Where its store comes from.
enum StoreSource {
    OnDisk,
    InPlace(Box<dyn Store>),
    Blocking(Box<dyn Store>),
}

/// Prepares an engine.
pub struct EngineBuilder {
    config: EngineConfig,
    drivers: Vec<Registration>,
    ipam_drivers: Vec<IpamRegistration>,
    cluster: Option<Membership>,
    kernel: KernelSource,
    neighbours: Neighbours,
    store: StoreSource,
    pub(crate) files: FilesPlace,
    live: Option<LiveList>,
}

impl std::fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl EngineBuilder {
    fn new() -> Self {
        let drivers = vec![
            Registration::new(bridge::KIND, Bridge::default),
            Registration::new(bare::HOST, Bare::host),
            Registration::new(bare::NULL, Bare::null),
        ];
        Self {
            config: EngineConfig::default(),
            drivers,
            ipam_drivers: Vec::new(),
            cluster: None,
            kernel: KernelSource::Linux,
            neighbours: Neighbours::default(),
            store: StoreSource::OnDisk,
            files: FilesPlace::OfKernel,
            live: None,
        }
    }

    /// Replaces the whole configuration.
    #[must_use]
    pub fn config(mut self, config: EngineConfig) -> Self {
        self.config = config;
        self
    }

    /// Replaces the whole configuration by that of a file; see [`config_from_file`].
    ///
    /// # Errors
    /// As [`config_from_file`].
    pub fn config_file(self, path: impl AsRef<Path>) -> Result<Self> {
        let (config, _) = config_from_file(path)?;
        Ok(self.config(config))
    }

    /// Where the store lives.
    #[must_use]
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config.data_dir = dir.into();
        self
    }

    /// Where network namespaces are mounted.
    #[must_use]
    pub fn run_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config.run_dir = dir.into();
        self
    }

    /// Marks this engine's kernel objects; see [`EngineConfig::instance`].
    #[must_use]
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.config.instance = name.into();
        self
    }

    /// Adds a network driver of the embedder's own beside the built-in ones.
    #[must_use]
    pub fn driver(mut self, driver: Registration) -> Self {
        self.drivers.push(driver);
        self
    }

    /// Adds an IPAM driver of the embedder's own beside the built-in ones. A network asks for it by its name
    /// ([`netloom_model::IpamSpec::driver`]). The names `default`, `null`, `dhcp` and `remote` are the engine's.
    #[must_use]
    pub fn ipam_driver(mut self, driver: IpamRegistration) -> Self {
        self.ipam_drivers.push(driver);
        self
    }

    /// Makes the engine part of a cluster: networks that ask for the address space `GlobalDefault`, and those of drivers
    /// that reach over hosts, have their pools and addresses there, from the store that all hosts use.
    #[must_use]
    pub fn cluster(mut self, membership: Membership) -> Self {
        self.cluster = Some(membership);
        self
    }

    /// Replaces the kernel, for harnesses.
    #[must_use]
    pub fn kernel(mut self, kernel: Arc<dyn Kernel>) -> Self {
        self.kernel = KernelSource::Given(kernel);
        self
    }

    /// Brings programs of iptables to a kernel of the embedder's, for harnesses. Those of this machine are for its own kernel
    /// only.
    #[must_use]
    pub fn xtables(mut self, xtables: Arc<dyn Xtables>) -> Self {
        self.neighbours.xtables = Some(xtables);
        self
    }

    /// Brings a client of firewalld, in whose zone `netloom` the bridges are then kept. With the feature `firewalld` an engine
    /// on the machine's own kernel has one by itself.
    #[must_use]
    pub fn firewalld(mut self, firewalld: Arc<dyn Firewalld>) -> Self {
        self.neighbours.firewalld = Some(firewalld);
        self
    }

    /// Replaces the store by one that never blocks, for harnesses.
    #[must_use]
    pub fn store(mut self, store: Box<dyn Store>) -> Self {
        self.store = StoreSource::InPlace(store);
        self
    }

    /// Replaces the store by one that may block. It is given a thread of its own, as the one on disk is: commits
    /// gather while it is busy, and it is asked once for all of them.
    #[must_use]
    pub fn store_on_a_thread(mut self, store: Box<dyn Store>) -> Self {
        self.store = StoreSource::Blocking(store);
        self
    }

    /// Says which sandboxes are in use, by container or by identifier (libnetwork's `ActiveSandboxes`). The start
    /// releases all others, with their endpoints, and leaves those alone: not a packet of theirs is lost. Without this
    /// everything that stands is taken over.
    ///
    /// What had to be released, what could not be, and what lives and is not recorded is among [`Engine::repairs`]. A
    /// sandbox that could not be released is out of service; [`Controller::create_sandbox`] for the same container
    /// releases it then, or else takes it over.
    #[must_use]
    pub fn live_sandboxes(mut self, live: impl IntoIterator<Item = impl Into<LiveSandbox>>) -> Self {
        self.live = Some(live.into_iter().collect());
        self
    }

    /// Starts the engine: inside any tokio runtime, or none. It runs on a thread of its own.
    ///
    /// What an earlier engine left is taken over; see [`Engine::repairs`].
    ///
    /// # Errors
    /// `InvalidParameter` for a bad configuration; `Internal` when a directory, the store or the kernel
    /// cannot be used, with the remedy, or when a driver cannot be made. Nothing was changed then, except
    /// that a directory may have been made.
    pub async fn start(self) -> Result<Engine> {
        let Self { config, drivers, ipam_drivers, cluster, kernel, neighbours, store, files, live } = self;
        let config = config.normalized();
        config.validate()?;
        let thread = EngineThread::start("nl-engine")
            .map_err(|error| Error::internal(format!("cannot start the engine's thread: {error}")))?;
        let events = EventHub::new(config.limits.event_backlog);
        let (hub, own) = (events.clone(), config);
        let (tell, told) = oneshot::channel();
        let started = thread.call(move || async move {
            let had_records = RedbStore::is_there(&own.data_dir);
            let may_miss = matches!(store, StoreSource::OnDisk);
            let store_blocks = !matches!(store, StoreSource::InPlace(_));
            let (store, findings) = match store {
                StoreSource::InPlace(store) | StoreSource::Blocking(store) => (store, Vec::new()),
                StoreSource::OnDisk => open_store(&own)?,
            };
            let files = files.source(matches!(kernel, KernelSource::Linux), &own);
            let neighbours = match kernel {
                KernelSource::Given(_) => neighbours,
                KernelSource::Linux => neighbours::of_this_machine(neighbours)?,
            };
            let Opened { kernel, id, lasts, identity, host, ran_before } = match kernel {
                KernelSource::Given(kernel) => Opened::given(kernel, &own),
                KernelSource::Linux => Opened::linux(&own, told)?,
            };
            let missing = may_miss && ran_before && !had_records;
            let marked = (id, identity.clone());
            let input = BootInput {
                config: own,
                identity,
                engine: lasts.then_some(id),
                host_pools: netloom_ipam::host_pools(&host),
                kernel: kernel.clone(),
                files,
                neighbours,
                store,
                store_blocks,
                findings,
                missing,
                drivers,
                ipam_drivers,
                cluster,
                live,
                events: hub,
            };
            boot(input).await.map(|booted| (kernel, marked, booted))
        });
        let gone = |_| Error::from(Reason::Gone { who: "the engine's thread".into() });
        let (kernel, (id, identity), Booted { directory, engine, ledger, repairs }) =
            started.await.map_err(gone)??;
        let inside = Permits::default();
        let core = Core { thread, directory, engine, ledger, events, kernel, id, identity, repairs, inside };
        let core = Arc::new(core);
        // Nobody listens for keys where the kernel is the embedder's.
        let _ = tell.send(Arc::downgrade(&core));
        Ok(Engine { core })
    }
}

fn open_store(config: &EngineConfig) -> Result<(Box<dyn Store>, Vec<Finding>)> {
    let (store, findings) = RedbStore::open(&config.data_dir)?;
    Ok((Box::new(store), findings))
}

/// A kernel, and the engine's place in it.
struct Opened {
    kernel: Arc<dyn Kernel>,
    id: ControllerId,
    /// Whether it is the same at the next start.
    lasts: bool,
    /// The mark of this engine's objects.
    identity: String,
    /// What tells this host from others.
    host: String,
    /// Whether the engine is known there.
    ran_before: bool,
}

impl Opened {
    /// A kernel of the embedder's, in which nothing but the instance's name tells engines apart. What is on this
    /// machine says nothing about it.
    fn given(kernel: Arc<dyn Kernel>, config: &EngineConfig) -> Self {
        let (a, b) = fresh();
        let id = ControllerId::from_uuids(a, b);
        let name = || config.instance.clone();
        Self { kernel, id, lasts: false, identity: name(), host: name(), ran_before: false }
    }

    /// The kernel of this machine. Hooks can connect from now on, and are attended to when the engine is there.
    fn linux(config: &EngineConfig, engine: oneshot::Receiver<Weak<Core>>) -> Result<Self> {
        // The first to touch the run directory: it knows which ones belong to others.
        let kernel = LinuxKernel::start(LinuxConfig { run_dir: config.run_dir.clone() });
        let kernel = kernel.map_err(|error| not_opened(config, &error))?;
        let held = place::hold(config)?;
        let (id, ran_before) = place::identity(config)?;
        let (listener, socket) = external_key::bind(config, id)?;
        // Dropped in this order: the next engine's socket must not be taken for this one's.
        place::keep((socket, held));
        tokio::task::spawn_local(async move {
            if let Ok(engine) = engine.await {
                external_key::serve(listener, external_key::to_sandboxes(engine)).await;
            }
        });
        let identity = format!("{}.{}", config.instance, id.short());
        let host = read_machine_id(&config.machine_id_file).unwrap_or_else(|| id.to_string());
        Ok(Self { kernel: Arc::new(kernel), id, lasts: true, identity, host, ran_before })
    }
}

fn not_opened(config: &EngineConfig, error: &std::io::Error) -> Error {
    let run_dir = config.run_dir.display();
    if let Some(why) = error.get_ref().and_then(|inner| inner.downcast_ref::<DirectoryError>()) {
        return Error::invalid("run_dir", run_dir, why.to_string());
    }
    let errno = error.raw_os_error().unwrap_or_default();
    Reason::Kernel { operation: format!("open netlink and {run_dir}"), errno, message: error.to_string() }
        .into()
}

impl Engine {
    /// Prepares an engine over the real kernel.
    #[must_use]
    pub fn builder() -> EngineBuilder {
        EngineBuilder::new()
    }

    /// Networks and sandboxes.
    #[must_use]
    pub fn controller(&self) -> Controller {
        Controller::new(self.core.clone())
    }

    /// Events from now on: bounded, and a slow reader is told how many it missed.
    #[must_use]
    pub fn events(&self) -> EventStream {
        self.core.events.subscribe()
    }

    /// The configuration in force: that of its start, or of the last reload.
    #[must_use]
    pub fn config(&self) -> Arc<EngineConfig> {
        self.core.config()
    }

    /// What its links are marked with: their alias is `netloom/<identity>/<kind>/<id>`. It belongs to the data
    /// directory and, in case that is lost, to the run directory.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.core.identity
    }

    /// What its start found wrong, and put right.
    #[must_use]
    pub fn repairs(&self) -> &[Repair] {
        &self.core.repairs
    }

    /// This moment, for [`Engine::reconcile`]. Take it before you look at what lives.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { engine: self.core.engine, born: self.core.directory.births.count() }
    }

    /// Releases every sandbox that is not among those that live, with its endpoints, and removes what is the engine's
    /// own and no record knows: links that carry its mark, and namespaces in its directory. Never touches what is
    /// anybody else's, and goes on beside all other operations.
    ///
    /// The order matters: take the [`mark`](Engine::mark) first, then list what lives, then reconcile. A sandbox whose
    /// creation was answered before the mark was taken, and that is not in the set, is dead; one that came into service
    /// later is not judged. So whoever makes a container has to list it as living before its sandbox is created.
    ///
    /// ```
    /// # use netloom::{Engine, LiveSet, SandboxSpec};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> netloom::Result<()> {
    /// # let simulation = Engine::simulated().await?;
    /// # let engine = simulation.engine();
    /// # engine.controller().create_sandbox(SandboxSpec::new("crashed")).await?;
    /// let mark = engine.mark();
    /// let running = vec!["web".to_owned()]; // asked of whoever runs containers
    /// let report = engine.reconcile(LiveSet::since(mark).with_all(running)).await?;
    /// println!("{report}");
    /// # assert_eq!(report.released[0].container_id, "crashed");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `InvalidParameter` for a mark of another engine or of an earlier start, `Busy`, `Unavailable` when the engine is
    /// gone. What could not be removed is no error: the report says what and why, and the next reconciliation tries
    /// again.
    pub async fn reconcile(&self, live: LiveSet) -> Result<ReconcileReport> {
        self.core.ask(self.core.controller()?, Reconcile(live)).await
    }

    /// How what the kernel has differs from what it should have, by what the owners of networks and sandboxes want:
    /// namespaces, links, addresses, routes and neighbours; and how the engine's rules in the host's firewall, and the
    /// sockets that hold its ports, differ from what is published and said about networks. Changes nothing. In the order
    /// of the objects, and empty on a healthy engine. What others do to the rules is repaired as soon as it is noticed, so
    /// of rules it shows what could not be, or has not been noticed yet.
    ///
    /// What is out of service, or has an operation under way, is left out. So is what the kernel lost together with
    /// something that is named: the addresses of a link that is missing, say. Inside a sandbox only what the engine
    /// made is looked at.
    ///
    /// # Errors
    /// `Timeout` or `Internal` when the kernel does not answer, `Unavailable` when the engine is gone.
    pub async fn diff(&self) -> Result<Vec<Difference>> {
        self.core.query(self.core.controller()?, Diff).await?
    }

    /// Everything at one moment.
    ///
    /// # Errors
    /// `Unavailable` when the engine is gone.
    pub async fn inspect(&self) -> Result<EngineSnapshot> {
        self.core.query(self.core.controller()?, InspectEngine).await
    }

    /// Operations in flight, oldest first. Read without asking anybody.
    #[must_use]
    pub fn operations(&self) -> Vec<OperationSnapshot> {
        operations(&self.core.ledger)
    }

    /// The kernel's counters since the start.
    #[must_use]
    pub fn kernel_stats(&self) -> KernelStats {
        self.core.kernel.stats()
    }

    /// The store's counters since the start.
    ///
    /// # Errors
    /// `Unavailable` when the engine is gone.
    pub async fn store_stats(&self) -> Result<StoreStats> {
        self.core.query(self.core.controller()?, StoreCounters).await?
    }

    /// Waits until the kernel has let go of everything that was deleted so far, and what could not be undone at
    /// first has been.
    ///
    /// # Errors
    /// `Timeout` after the configured time of an operation, naming what is left; `Unavailable` when the engine is gone.
    pub async fn drain(&self) -> Result<()> {
        self.core.query(self.core.controller()?, Drain).await?
    }

    /// Stops the engine. New requests are refused from now on; networks and sandboxes stay as they are.
    ///
    /// Graceful: operations in flight are carried out. Immediate: they stop at their next step and are
    /// undone. Both end after the configured time at the latest; what is unfinished then is put right at the
    /// next start. When this answers, another engine may be started on the same directories; handles of this
    /// one say `Unavailable`.
    ///
    /// # Errors
    /// `Unavailable` when the engine is gone already, `Timeout` when the store could not be closed in time.
    pub async fn shutdown(&self, mode: ShutdownMode) -> Result<()> {
        let core = &self.core;
        core.inside.close();
        // The controller gives up on the rest when its patience ends, and then still has to close the store.
        let patience = core.config().timeouts.shutdown;
        let allowed = patience + CLOSING;
        let stopped = match core.controller() {
            Ok(controller) => {
                let shutdown = Shutdown { mode, patience, inside: core.inside.clone() };
                core.query_within(controller, shutdown, allowed).await
            }
            Err(gone) => Err(gone),
        };
        core.thread.kill().await;
        core.events.close();
        stopped
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}
