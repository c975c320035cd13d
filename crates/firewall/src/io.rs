//! The programs of iptables, on a thread of their own: they wait for a lock that all of the host share, and an actor waits
//! for nothing.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use netloom_kernel::Worker;
use netloom_kernel::program::{self, ProgramError};
use netloom_model::{Error, Reason};

use crate::iptables::{Saved, Version};

/// How many calls may wait.
const QUEUE: usize = 1_024;
/// Where the programs are looked for.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// What a call comes to.
pub type XtablesFuture<T> = BoxFuture<'static, Result<T, XtablesError>>;

/// The tables of the namespace that the caller is in, as `iptables` sees them. Calls take effect in the order in which they
/// are made; dropping a future does not stop its call.
pub trait Xtables: fmt::Debug + Send + Sync + 'static {
    /// Changes tables: one `iptables-restore --noflush`. A table changes as a whole or not at all; tables behind a refused
    /// one are as they were, those before it have changed.
    fn restore(&self, version: Version, text: String, deadline: Instant) -> XtablesFuture<()>;

    /// What is in the tables: one `iptables-save`.
    fn save(&self, version: Version, deadline: Instant) -> XtablesFuture<Saved>;
}

/// Why the tables could not be changed or read.
#[derive(Debug)]
pub enum XtablesError {
    /// The program failed, or there is none.
    Program {
        /// What went wrong.
        error: ProgramError,
        /// The line that it complained of, if it named one.
        line: Option<String>,
    },
    /// The deadline passed while it waited for its turn; nothing was done.
    NotStarted(Version),
    /// Too many calls wait already; nothing was done.
    Busy(Version),
    /// The thread failed while it carried it out.
    Lost(Version),
}

impl fmt::Display for XtablesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program { error: error @ ProgramError::Io { error: io, .. }, .. }
                if io.kind() == io::ErrorKind::NotFound =>
            {
                write!(f, "{error}; install iptables, or choose the backend nftables")
            }
            Self::Program { error: error @ ProgramError::TimedOut { .. }, .. } => {
                write!(f, "{error}; see who holds the lock: fuser -v /run/xtables.lock")
            }
            Self::Program { error, line: None } => write!(f, "{error}"),
            Self::Program { error, line: Some(line) } => write!(f, "{error}; the line is {line:?}"),
            Self::NotStarted(version) => write!(f, "{version} was not started before the deadline"),
            Self::Busy(version) => write!(f, "{QUEUE} calls of {version} wait already"),
            Self::Lost(version) => write!(f, "the thread that runs {version} failed"),
        }
    }
}

impl std::error::Error for XtablesError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Program { error, .. } => Some(error),
            Self::NotStarted(_) | Self::Busy(_) | Self::Lost(_) => None,
        }
    }
}

impl From<XtablesError> for Error {
    fn from(error: XtablesError) -> Self {
        let message = error.to_string();
        let kernel = |errno| Reason::Kernel { operation: "change or read iptables".into(), errno, message };
        match error {
            XtablesError::Program { error: ProgramError::TimedOut { allowed: waited, program }, .. } => {
                // Killed on the way: some tables may have changed.
                let what = format!("run {}", program.display());
                Self::from(Reason::DeadlineExceeded { what, waited }).uncertain()
            }
            XtablesError::Program { error: ProgramError::Io { error, .. }, .. } => {
                Self::from(kernel(error.raw_os_error().unwrap_or(0)))
            }
            XtablesError::Program { .. } => Self::from(kernel(0)),
            XtablesError::NotStarted(version) => {
                let what = format!("run {version}");
                Self::from(Reason::DeadlineExceeded { what, waited: Duration::ZERO })
            }
            XtablesError::Busy(version) => {
                Self::from(Reason::Busy { what: format!("the thread of {version}"), limit: QUEUE })
            }
            XtablesError::Lost(_) => Self::from(kernel(0)).uncertain(),
        }
    }
}

/// Where the programs are. Both versions have the same ones, called `ip6tables-…` for IPv6.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Programs {
    restore: [PathBuf; 2],
    save: [PathBuf; 2],
}

impl Programs {
    /// Those that the host uses; `None` where one of them is missing.
    #[must_use]
    pub fn find() -> Option<Self> {
        DIRECTORIES.iter().find_map(|directory| Self::below(Path::new(directory), ""))
    }

    /// Those of a directory, of the given variant (`legacy`, `nft`) or, when that is empty, of the one that the host has
    /// chosen; `None` where one of them is missing.
    #[must_use]
    pub fn below(directory: &Path, variant: &str) -> Option<Self> {
        let dash = if variant.is_empty() { "" } else { "-" };
        let program = |version: Version, verb: &str| {
            let path = directory.join(format!("{version}{dash}{variant}-{verb}"));
            path.is_file().then_some(path)
        };
        let both = |verb| Some([program(Version::V4, verb)?, program(Version::V6, verb)?]);
        Some(Self { restore: both("restore")?, save: both("save")? })
    }
}

/// A call.
#[derive(Debug)]
enum Task {
    Restore {
        version: Version,
        text: String,
        deadline: Instant,
        reply: oneshot::Sender<Result<(), XtablesError>>,
    },
    Save {
        version: Version,
        deadline: Instant,
        reply: oneshot::Sender<Result<Saved, XtablesError>>,
    },
}

/// The programs, run one after another on a thread of their own.
#[derive(Clone, Debug)]
pub struct RunXtables {
    worker: Worker<Task>,
}

impl RunXtables {
    /// Starts the thread in the caller's namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(programs: Programs) -> io::Result<Self> {
        let worker = Worker::spawn("xtables", QUEUE, move |tasks: Vec<Task>| {
            for task in tasks {
                match task {
                    // The caller may have stopped waiting.
                    Task::Restore { version, text, deadline, reply } => {
                        let _ = reply.send(restore(&programs, version, &text, deadline));
                    }
                    Task::Save { version, deadline, reply } => {
                        let _ = reply.send(save(&programs, version, deadline));
                    }
                }
            }
        })?;
        Ok(Self { worker })
    }

    fn submit<T: Send + 'static>(
        &self,
        version: Version,
        task: Task,
        answer: oneshot::Receiver<Result<T, XtablesError>>,
    ) -> XtablesFuture<T> {
        let queued = self.worker.submit(task).is_ok();
        async move {
            match answer.await {
                Ok(answer) => answer,
                Err(oneshot::Canceled) if queued => Err(XtablesError::Lost(version)),
                Err(oneshot::Canceled) => Err(XtablesError::Busy(version)),
            }
        }
        .boxed()
    }
}

impl Xtables for RunXtables {
    fn restore(&self, version: Version, text: String, deadline: Instant) -> XtablesFuture<()> {
        let (reply, answer) = oneshot::channel();
        self.submit(version, Task::Restore { version, text, deadline, reply }, answer)
    }

    fn save(&self, version: Version, deadline: Instant) -> XtablesFuture<Saved> {
        let (reply, answer) = oneshot::channel();
        self.submit(version, Task::Save { version, deadline, reply }, answer)
    }
}

fn restore(programs: &Programs, version: Version, text: &str, deadline: Instant) -> Result<(), XtablesError> {
    let left = left(version, deadline)?;
    // It gives up on the lock before it is killed, and then says so.
    let wait = format!("--wait={}", left.mul_f32(0.8).as_secs().max(1));
    let args = ["--noflush", &wait];
    match program::run(&programs.restore[place(version)], &args, text, deadline) {
        Ok(_) => Ok(()),
        Err(error) => {
            let line = complained_of(&error).and_then(|number| text.lines().nth(number.checked_sub(1)?));
            // Of a whole table it says no more than that.
            let line = line.filter(|line| *line != "COMMIT");
            Err(XtablesError::Program { line: line.map(str::to_owned), error })
        }
    }
}

fn save(programs: &Programs, version: Version, deadline: Instant) -> Result<Saved, XtablesError> {
    left(version, deadline)?;
    let shown = program::run(&programs.save[place(version)], &[], "", deadline);
    shown.map(|text| Saved::parse(&text)).map_err(|error| XtablesError::Program { error, line: None })
}

/// The time that a call still has.
fn left(version: Version, deadline: Instant) -> Result<Duration, XtablesError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(XtablesError::NotStarted(version)) } else { Ok(left) }
}

fn place(version: Version) -> usize {
    match version {
        Version::V4 => 0,
        Version::V6 => 1,
    }
}

/// The number of the line that it did not like: `line 5 failed`, or `Error occurred at line: 5`.
fn complained_of(error: &ProgramError) -> Option<usize> {
    let ProgramError::Failed { said, .. } = error else { return None };
    let (_, rest) = said.split_once("line")?;
    let digits = rest.trim_start_matches([':', ' ']);
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
