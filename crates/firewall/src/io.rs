//! The programs of iptables, on a thread of their own: they wait for a lock that all of the host share, and an actor waits
//! for nothing.

mod run;

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use netloom_kernel::program::ProgramError;
use netloom_model::{Error, Reason};

use crate::iptables::{Calls, Job, Names, Saved, Settled, Unfit, Version, removal};

pub use run::{InPlace, Installed, Programs, RunXtables};

/// How many calls may wait.
const QUEUE: usize = 1_024;
/// What a trial feeds: nothing to each table that the engine has chains in.
const TRIAL: &str = "*raw\nCOMMIT\n*filter\nCOMMIT\n*nat\nCOMMIT\n";

/// Which of the two programs of the same name: they have tables of their own, and packets pass both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Variant {
    /// The one whose tables are tables of nftables, which tells those who listen what others change.
    Nft,
    /// The one with tables of its own, about which the kernel tells nobody.
    Legacy,
}

impl Variant {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nft, Self::Legacy];
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}

/// What a call comes to.
pub type XtablesFuture<T> = BoxFuture<'static, Result<T, XtablesError>>;

/// The programs of a host.
pub trait Host: fmt::Debug + Send + 'static {
    /// Those of a variant; `None` without them.
    fn variant(&mut self, variant: Variant) -> Option<&mut dyn Calls>;
}

/// Something to be done with the programs of a host, by whoever may wait for them.
pub type Work = Box<dyn FnOnce(&mut dyn Host) + Send>;

/// The tables of the namespace that the caller is in, as `iptables` sees them. Work is done in the order in which it is
/// given; dropping a future does not stop it.
pub trait Xtables: fmt::Debug + Send + Sync + 'static {
    /// Does this when its turn comes; `false` when too much waits already.
    fn run(&self, work: Work) -> bool;

    /// The variant that `iptables` is.
    fn chosen(&self) -> Variant;

    /// What people call a program of this variant; `None` without it.
    fn called(&self, variant: Variant, version: Version) -> Option<String>;
}

impl dyn Xtables {
    /// Whether the tables can be changed at all. Changes nothing.
    pub fn test(&self, version: Version, deadline: Instant) -> XtablesFuture<()> {
        self.call(self.chosen(), move |calls| calls.test(version, TRIAL, deadline))
    }

    /// Makes the host as it should be; see [`Job::carry_out`].
    pub fn settle(&self, job: Job, deadline: Instant) -> XtablesFuture<Settled> {
        self.call(self.chosen(), move |calls| job.carry_out(calls, deadline))
    }

    /// What is in the tables of a variant.
    pub fn save(&self, variant: Variant, version: Version, deadline: Instant) -> XtablesFuture<Saved> {
        self.call(variant, move |calls| calls.save(version, deadline))
    }

    /// Removes what an engine has in the tables of a variant: the number of lines that took.
    pub fn clean(
        &self,
        variant: Variant,
        names: Names,
        versions: Vec<Version>,
        deadline: Instant,
    ) -> XtablesFuture<usize> {
        self.call(variant, move |calls| {
            let mut changes = 0;
            for version in versions {
                let saved = calls.save(version, deadline)?;
                if let Some(text) = removal(&names, version, &saved) {
                    calls.restore(version, &text, deadline)?;
                    changes += text.lines().count();
                }
            }
            Ok(changes)
        })
    }

    fn call<T: Send + 'static>(
        &self,
        variant: Variant,
        work: impl FnOnce(&mut dyn Calls) -> Result<T, XtablesError> + Send + 'static,
    ) -> XtablesFuture<T> {
        let (reply, answer) = oneshot::channel();
        let queued = self.run(Box::new(move |host| {
            let done = match host.variant(variant) {
                Some(calls) => work(calls),
                None => Err(XtablesError::Absent(variant)),
            };
            // The caller may have stopped waiting.
            let _ = reply.send(done);
        }));
        async move {
            match answer.await {
                Ok(answer) => answer,
                Err(oneshot::Canceled) if queued => Err(XtablesError::Lost),
                Err(oneshot::Canceled) => Err(XtablesError::Busy),
            }
        }
        .boxed()
    }
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
    Busy,
    /// The thread failed while it carried it out.
    Lost,
    /// There are no programs of this variant.
    Absent(Variant),
    /// What was wanted cannot be said in iptables. Whoever asks makes sure of that before.
    Unfit(Box<Unfit>),
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
            Self::Busy => write!(f, "{QUEUE} calls of iptables wait already"),
            Self::Lost => f.write_str("the thread that runs iptables failed"),
            Self::Absent(variant) => write!(f, "there is no iptables-{variant}-restore; install iptables"),
            Self::Unfit(unfit) => write!(f, "{unfit}"),
        }
    }
}

impl std::error::Error for XtablesError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Program { error, .. } => Some(error),
            Self::Unfit(unfit) => Some(&**unfit),
            Self::NotStarted(_) | Self::Busy | Self::Lost | Self::Absent(_) => None,
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
            XtablesError::Program { .. } | XtablesError::Absent(_) => Self::from(kernel(0)),
            XtablesError::Unfit(unfit) => Self::from(*unfit),
            XtablesError::NotStarted(version) => {
                let what = format!("run {version}");
                Self::from(Reason::DeadlineExceeded { what, waited: Duration::ZERO })
            }
            XtablesError::Busy => {
                Self::from(Reason::Busy { what: "the thread of iptables".into(), limit: QUEUE })
            }
            XtablesError::Lost => Self::from(kernel(0)).uncertain(),
        }
    }
}

impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Self {
        Self::invalid(
            "firewall",
            &unfit,
            "the backend is iptables; use another name or port, or the backend nftables",
        )
    }
}
