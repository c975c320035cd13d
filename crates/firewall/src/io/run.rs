//! The programs themselves, and whoever waits for them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use netloom_kernel::Worker;
use netloom_kernel::program::{self, ProgramError};

use super::{Host, QUEUE, Variant, Work, Xtables, XtablesError};
use crate::iptables::{Calls, Saved, Version};

/// Where the programs are looked for, as a shell would.
const DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Where the programs of a variant are. Both versions have the same ones, called `ip6tables-…` for IPv6.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Programs {
    variant: Variant,
    restore: [PathBuf; 2],
    save: [PathBuf; 2],
    /// What people type.
    called: [String; 2],
}

impl Programs {
    /// Those of a directory, of the given variant or, where none is given, of the one that the host has chosen; `None`
    /// where one of them is missing.
    #[must_use]
    pub fn below(directory: &Path, variant: Option<Variant>) -> Option<Self> {
        let called = |version: Version| match variant {
            Some(variant) => format!("{version}-{variant}"),
            None => version.to_string(),
        };
        let program = |version, verb: &str| {
            let path = directory.join(format!("{}-{verb}", called(version)));
            path.is_file().then_some(path)
        };
        let both = |verb| Some([program(Version::V4, verb)?, program(Version::V6, verb)?]);
        let (restore, save) = (both("restore")?, both("save")?);
        // What the name stands for: `xtables-nft-multi`, `xtables-legacy-multi`, of old `xtables-multi`.
        let is_nft = || {
            let real = restore[0].canonicalize().ok()?;
            Some(real.file_name()?.to_str()?.contains("nft"))
        };
        let found = if is_nft() == Some(true) { Variant::Nft } else { Variant::Legacy };
        let variant = variant.unwrap_or(found);
        // The name that says which, where there is one.
        let called = [Version::V4, Version::V6].map(|version| {
            let exact = format!("{version}-{variant}");
            let exists = DIRECTORIES.iter().any(|directory| Path::new(directory).join(&exact).exists());
            if exists { exact } else { called(version) }
        });
        Some(Self { variant, restore, save, called })
    }
}

/// What is installed on a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Installed {
    chosen: Programs,
    other: Option<Programs>,
}

impl Installed {
    /// What this host has; `None` where one of the programs is missing.
    #[must_use]
    pub fn find() -> Option<Self> {
        let find =
            |variant| DIRECTORIES.iter().find_map(|directory| Programs::below(Path::new(directory), variant));
        let named = || Variant::ALL.into_iter().find_map(|variant| find(Some(variant)));
        let chosen = find(None).or_else(named)?;
        let other = Variant::ALL.into_iter().find(|variant| *variant != chosen.variant)?;
        Some(Self { other: find(Some(other)), chosen })
    }

    /// These programs and no others.
    #[must_use]
    pub fn only(programs: Programs) -> Self {
        Self { chosen: programs, other: None }
    }

    fn of(&self, variant: Variant) -> Option<&Programs> {
        [Some(&self.chosen), self.other.as_ref()].into_iter().flatten().find(|one| one.variant == variant)
    }
}

/// The programs that are installed, called as processes.
#[derive(Debug)]
struct Processes {
    installed: Installed,
    /// Whose turn it is.
    current: Option<Programs>,
}

impl Host for Processes {
    fn variant(&mut self, variant: Variant) -> Option<&mut dyn Calls> {
        self.current = self.installed.of(variant).cloned();
        self.current.as_mut().map(|programs| programs as &mut dyn Calls)
    }
}

impl Calls for Programs {
    fn save(&mut self, version: Version, deadline: Instant) -> Result<Saved, XtablesError> {
        left(version, deadline)?;
        if self.variant == Variant::Legacy && !has_legacy_tables(version) {
            return Ok(Saved::default());
        }
        let shown = program::run(&self.save[place(version)], &[], "", deadline);
        shown.map(|text| Saved::parse(&text)).map_err(|error| XtablesError::Program { error, line: None })
    }

    fn restore(&mut self, version: Version, text: &str, deadline: Instant) -> Result<(), XtablesError> {
        feed(self, version, &["--noflush"], text, deadline)
    }

    fn test(&mut self, version: Version, text: &str, deadline: Instant) -> Result<(), XtablesError> {
        feed(self, version, &["--noflush", "--test"], text, deadline)
    }
}

/// Whether the kernel has tables of the old kind in this namespace; `true` where that is not known.
fn has_legacy_tables(version: Version) -> bool {
    let file = match version {
        Version::V4 => "/proc/thread-self/net/ip_tables_names",
        Version::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    match std::fs::read_to_string(file) {
        Ok(names) => !names.trim().is_empty(),
        // It comes with the first of them.
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// The thread that the programs are run on, one after another.
#[derive(Clone, Debug)]
pub struct RunXtables {
    worker: Worker<Task>,
    installed: Installed,
}

/// What the thread is given.
struct Task(Work);

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Task")
    }
}

impl RunXtables {
    /// Starts the thread in the caller's namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(installed: Installed) -> io::Result<Self> {
        let mut host = Processes { installed: installed.clone(), current: None };
        let worker = Worker::spawn("xtables", QUEUE, move |tasks: Vec<Task>| {
            for Task(work) in tasks {
                work(&mut host);
            }
        })?;
        Ok(Self { worker, installed })
    }
}

impl Xtables for RunXtables {
    fn run(&self, work: Work) -> bool {
        self.worker.submit(Task(work)).is_ok()
    }

    fn chosen(&self) -> Variant {
        self.installed.chosen.variant
    }

    fn called(&self, variant: Variant, version: Version) -> Option<String> {
        self.installed.of(variant).map(|programs| programs.called[place(version)].clone())
    }
}

/// Programs that never make anybody wait, for harnesses: work is done where it is given.
#[derive(Debug)]
pub struct InPlace<H> {
    host: Mutex<H>,
    chosen: Variant,
}

impl<H: Host> InPlace<H> {
    /// These.
    pub fn new(host: H, chosen: Variant) -> Self {
        Self { host: Mutex::new(host), chosen }
    }
}

impl<H: Host> Xtables for InPlace<H> {
    fn run(&self, work: Work) -> bool {
        work(&mut *self.host.lock().unwrap_or_else(PoisonError::into_inner));
        true
    }

    fn chosen(&self) -> Variant {
        self.chosen
    }

    fn called(&self, variant: Variant, version: Version) -> Option<String> {
        Some(format!("{version}-{variant}"))
    }
}

fn feed(
    programs: &Programs,
    version: Version,
    args: &[&str],
    text: &str,
    deadline: Instant,
) -> Result<(), XtablesError> {
    let left = left(version, deadline)?;
    // It gives up on the lock before it is killed, and then says so.
    let wait = format!("--wait={}", left.mul_f32(0.8).as_secs().max(1));
    let args: Vec<_> = args.iter().copied().chain([wait.as_str()]).collect();
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
