//! What the files service works with, kept outside of its actor: an incarnation that dies loses no file, and nothing that
//! the host's resolv.conf says meanwhile.

use std::cell::RefCell;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use netloom_dns::io::{Asked, Files, HostFile, HostResolv, HostSays, Keeper, News, Wanted, Watch};
use netloom_kernel::worker::Worker;
use netloom_model::{Error, Reason, Result, SandboxId, SandboxSettings, SandboxSpec};
use netloom_runtime::{Port, Reply};
use tokio::sync::watch;

use super::actor::FilesActor;

/// Jobs that may wait for the thread.
const QUEUE: usize = 65_536;

/// Where the files of sandboxes are, and who keeps them.
#[derive(Clone, Debug)]
pub struct NameFiles {
    /// The service. Nobody where no files are kept.
    pub keeper: Port<FilesActor>,
    files: Option<Files>,
}

impl NameFiles {
    /// Files below this run directory; `None` to have none at all.
    #[must_use]
    pub fn below(run_dir: Option<PathBuf>) -> Self {
        Self { keeper: Port::vacant(), files: run_dir.map(Files::new) }
    }

    /// Whether there are any.
    #[must_use]
    pub fn are_kept(&self) -> bool {
        self.files.is_some()
    }

    /// The paths of a sandbox's hosts file and resolv.conf.
    #[must_use]
    pub fn of(&self, sandbox: SandboxId, settings: Option<&SandboxSettings>) -> Option<(PathBuf, PathBuf)> {
        self.files.as_ref()?.of(sandbox, settings).ok().map(|files| files.paths())
    }
}

/// Whether files are made anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fresh {
    /// Whatever is there: the sandbox is new, or begins anew.
    Anew,
    /// They go on from what they are, with what users have written into them.
    GoesOn,
}

/// What files are made from.
#[derive(Clone, Debug)]
pub struct FilesSource {
    /// The engine's run directory.
    pub run_dir: PathBuf,
    /// The host's resolv.conf.
    pub resolv_conf: PathBuf,
    /// Whether to leave the disk to a thread. Without one the engine's own waits for it: for simulations, in which
    /// everything is to happen in the same order each time.
    pub on_a_thread: bool,
}

/// The files of an engine, on whatever thread they are written. Cloned for each incarnation of the actor.
#[derive(Clone)]
pub struct FilesState {
    disk: Disk,
    news: Option<(watch::Receiver<Arc<HostResolv>>, Rc<Watch>)>,
    /// What was told last of the host's resolv.conf.
    told: Rc<RefCell<Option<Arc<HostResolv>>>>,
}

#[derive(Clone)]
enum Disk {
    Threaded(Worker<Job>),
    InPlace(Rc<RefCell<Keeper>>),
}

impl fmt::Debug for FilesState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.disk {
            Disk::Threaded(_) => "FilesState(on a thread)",
            Disk::InPlace(_) => "FilesState(in place)",
        })
    }
}

impl FilesState {
    /// Begins to listen to the host's resolv.conf. Where the host's limits forbid that, it is read for each sandbox
    /// instead, and what runs does not hear of changes.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(FilesSource { run_dir, resolv_conf, on_a_thread }: FilesSource) -> Result<Self> {
        let host = HostFile::at(resolv_conf);
        let (says, news) = match listen(host.clone()) {
            Ok((news, watch)) => {
                let now = news.borrow().clone();
                (HostSays::Told(now), Some((news, Rc::new(watch))))
            }
            Err(error) => {
                tracing::warn!(%error, "changes of the host's resolv.conf will not be noticed");
                (HostSays::Look, None)
            }
        };
        let mut keeper = Keeper::new(Files::new(run_dir), host, says);
        let disk = if on_a_thread {
            let worker = Worker::spawn("nl-files", QUEUE, move |jobs: Vec<Job>| {
                jobs.into_iter().for_each(|job| job.run(&mut keeper));
            });
            Disk::Threaded(worker.map_err(|error| {
                Error::internal(format!("cannot start the thread that writes files: {error}"))
            })?)
        } else {
            Disk::InPlace(Rc::new(RefCell::new(keeper)))
        };
        Ok(Self { disk, news, told: Rc::default() })
    }

    /// What the host's resolv.conf says, and when it says something else.
    pub(super) fn news(&self) -> Option<watch::Receiver<Arc<HostResolv>>> {
        self.news.as_ref().map(|(news, _)| news.clone())
    }

    /// Whether this was not told yet, by any incarnation. It counts as told from now on.
    pub(super) fn is_new(&self, says: &Arc<HostResolv>) -> bool {
        let before = self.told.replace(Some(says.clone()));
        before.is_none_or(|before| !Arc::ptr_eq(&before, says))
    }

    pub(super) fn give(&self, job: Job) {
        match &self.disk {
            Disk::InPlace(keeper) => job.run(&mut keeper.borrow_mut()),
            Disk::Threaded(worker) => {
                if let Err(job) = worker.submit(job) {
                    job.refuse(
                        Reason::Busy { what: "the disk with files of names".into(), limit: QUEUE }.into(),
                    );
                }
            }
        }
    }
}

fn listen(host: HostFile) -> Result<(watch::Receiver<Arc<HostResolv>>, Watch)> {
    // Only the last word counts.
    let (tell, news) = watch::channel(Arc::new(host.read()));
    let told = tell.clone();
    let (watch, now) = host.watch(move |news| match news {
        News::Changed(says) => {
            told.send_replace(says);
        }
        News::Trouble(error) => tracing::warn!(%error, "changes of the host's resolv.conf may be missed"),
    })?;
    // What it said when the watch began, unless something was told already.
    tell.send_if_modified(|says| {
        if !news.has_changed().unwrap_or(true) {
            *says = now;
        }
        false
    });
    Ok((news, watch))
}

/// Work for the disk, with the place where its answer goes.
pub(super) enum Job {
    Settle(SandboxId, Box<Wanted>, Fresh, Reply<Result<Option<Asked>>>),
    Remove(SandboxId, Arc<SandboxSpec>, Reply<Result<()>>),
    Sweep(Vec<SandboxId>, Reply<Result<Vec<SandboxId>>>),
    /// The host's resolv.conf says this now. Answers with whether somebody has to follow.
    Host(Arc<HostResolv>, Reply<bool>),
    /// Some follow. Answers with whether there are more.
    CatchUp(Reply<bool>),
}

impl Job {
    fn run(self, keeper: &mut Keeper) {
        match self {
            Self::Settle(sandbox, wanted, Fresh::Anew, reply) => reply.send(keeper.make(sandbox, *wanted)),
            Self::Settle(sandbox, wanted, Fresh::GoesOn, reply) => {
                reply.send(keeper.settle(sandbox, *wanted));
            }
            Self::Remove(sandbox, spec, reply) => reply.send(keeper.remove(sandbox, &spec)),
            Self::Sweep(known, reply) => reply.send(keeper.sweep(&known)),
            Self::Host(says, reply) => reply.send(keeper.host_changed(says)),
            Self::CatchUp(reply) => {
                let (more, failed) = keeper.catch_up();
                for (sandbox, error) in failed {
                    tracing::warn!(%error, sandbox = %sandbox.short(), "its resolv.conf is out of date");
                }
                reply.send(more);
            }
        }
    }

    fn refuse(self, error: Error) {
        match self {
            Self::Settle(.., reply) => reply.send(Err(error)),
            Self::Remove(.., reply) => reply.send(Err(error)),
            Self::Sweep(_, reply) => reply.send(Err(error)),
            // A dropped reply says that nobody answers.
            Self::Host(..) | Self::CatchUp(_) => {}
        }
    }
}
