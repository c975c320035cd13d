//! The directory of the mounted namespaces: whose it is, and what lies in it.
//!
//! The start of an engine removes what no record knows, so the directory must be ours alone: it carries a
//! marker, and one that others have filled is refused. It is opened once and everything in it is reached
//! through that descriptor, never through a symbolic link, which could lead to somebody else's namespace.
//!
//! From another mount namespace than the one where it is mounted, a namespace looks like an empty file, and
//! the kernel lets that file be removed, which destroys the namespace. So the marker says from where the
//! directory was used last. Empty files are taken for remains only from there, or after a reboot; a start
//! from elsewhere is refused while there are any.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use netloom_model::NetnsName;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// The file that says that a directory is ours, and from where it is used.
const MARKER: &str = ".netloom";
const MARKER_MODE: u32 = 0o600;

/// What `ip netns` has its `netns` in.
const IP_NETNS: [&str; 2] = ["/run", "/var/run"];

/// The mount namespace of the thread that reads it.
const OWN_MOUNTS: &str = "/proc/thread-self/ns/mnt";

/// A number that every boot draws anew.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Why a directory cannot hold the namespaces of an engine: the inner error of the [`io::Error`] that
/// [`LinuxKernel::start`](super::LinuxKernel::start) gives then.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// It belongs to `ip netns`.
    #[error(
        "cannot use {dir}: it is the directory of `ip netns`; choose another run_dir, such as /run/netloom"
    )]
    IpNetns {
        /// The directory.
        dir: PathBuf,
    },
    /// It is a symbolic link, which could lead to a directory of others.
    #[error("cannot use {dir}: it is a symbolic link; remove it, or choose another run_dir")]
    SymbolicLink {
        /// The link.
        dir: PathBuf,
    },
    /// It holds files and no marker.
    #[error(
        "cannot use {dir}: it holds files of others, which would be removed; choose another run_dir, or make \
         an empty file .netloom in it if all of them are netloom's"
    )]
    NotOurs {
        /// The directory.
        dir: PathBuf,
    },
    /// Somebody in another mount namespace uses it at this moment.
    #[error(
        "cannot use {dir}: it is in use from {place}, and what is mounted there is not seen here; start from \
         there (`nsenter --mount`), or choose another run_dir"
    )]
    InUseElsewhere {
        /// The directory.
        dir: PathBuf,
        /// The other mount namespace, in words.
        place: String,
    },
    /// It was last used from another mount namespace, where namespaces may be mounted in it.
    #[error(
        "cannot use {dir}: it was last used from {place}; on {count} of its files, such as {example}, \
         namespaces may be mounted there, which are not seen here; start from there (`lsns --type mnt`, \
         `nsenter --mount`), or remove these files, which destroys what is mounted on them"
    )]
    MountedElsewhere {
        /// The directory.
        dir: PathBuf,
        /// The other mount namespace, in words.
        place: String,
        /// How many files look empty.
        count: usize,
        /// One of them.
        example: NetnsName,
    },
}

impl From<DirectoryError> for io::Error {
    fn from(error: DirectoryError) -> Self {
        let kind = match error {
            DirectoryError::IpNetns { .. } => ErrorKind::InvalidInput,
            DirectoryError::SymbolicLink { .. } => ErrorKind::NotADirectory,
            DirectoryError::NotOurs { .. } => ErrorKind::AlreadyExists,
            DirectoryError::InUseElsewhere { .. } | DirectoryError::MountedElsewhere { .. } => {
                ErrorKind::ResourceBusy
            }
        };
        Self::new(kind, error)
    }
}

/// What lies under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// A mounted namespace.
    Namespace,
    /// An empty file with nothing mounted: left by a reboot, or by a kill before the mount.
    Leftover,
    /// Anything else; not ours to touch.
    Foreign,
}

/// From where a directory is used: what is mounted there is seen there only, and until the next boot.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Place {
    boot: String,
    /// The mount namespace, as the kernel writes it.
    mounts: String,
}

impl Place {
    fn here() -> io::Result<Self> {
        let told = |file| move |error: io::Error| io::Error::new(error.kind(), format!("{file}: {error}"));
        let boot = fs::read_to_string(BOOT).map_err(told(BOOT))?;
        let mounts = fs::read_link(OWN_MOUNTS).map_err(told(OWN_MOUNTS))?;
        Ok(Self { boot: boot.trim().to_owned(), mounts: mounts.display().to_string() })
    }

    /// Reads a marker; `None` for one that was made by hand.
    fn parse(text: &str) -> Option<Self> {
        let (boot, mounts) = text.lines().next()?.split_once(' ')?;
        Some(Self { boot: boot.into(), mounts: mounts.into() })
    }

    fn in_words(place: Option<Self>) -> String {
        let words = |place: Self| format!("another mount namespace, {}", place.mounts);
        place.map_or_else(|| "a mount namespace that is not recorded".into(), words)
    }
}

/// The directory, ours as long as this lives.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    dir: File,
    /// Locked as long as anybody may reserve a name here.
    marker: File,
}

impl Directory {
    /// Makes `<run_dir>/netns` where it is missing; refuses one that is not ours, or not to be used from here.
    pub(super) fn claim(run_dir: &Path) -> io::Result<Self> {
        let (path, dir) = open(run_dir)?;
        let here = Place::here().map_err(told("use", &path))?;
        let Some(marker) = mark(&dir).map_err(told("use", &path))? else {
            return Err(DirectoryError::NotOurs { dir: path }.into());
        };
        let claimed = Self { path, dir, marker };
        // Whoever is alone here sweeps. With company, an empty file may be a name that was just reserved.
        if claimed.marker.try_lock().is_ok() {
            claimed.take_over(&here)?;
        }
        // Waits for another's sweep at most.
        claimed.marker.lock_shared().map_err(told("lock", &claimed.path))?;
        // Another may have come from elsewhere in between; from now on nobody can.
        let place = claimed.last_used().map_err(told("use", &claimed.path))?;
        if place.as_ref() != Some(&here) {
            let (dir, place) = (claimed.path, Place::in_words(place));
            return Err(DirectoryError::InUseElsewhere { dir, place }.into());
        }
        Ok(claimed)
    }

    /// The public path of a name.
    pub(super) fn path(&self, name: NetnsName) -> PathBuf {
        self.path.join(name.as_str())
    }

    /// A path of a name that leads into this directory whatever becomes of the public one.
    pub(super) fn at(&self, name: NetnsName) -> PathBuf {
        itself(&self.dir).join(name.as_str())
    }

    /// The valid names under which something of a kind lies, in order.
    pub(super) fn having(&self, kind: Entry) -> io::Result<Vec<NetnsName>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(itself(&self.dir))? {
            let entry = entry?;
            let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(name) = name else { continue };
            match look(&entry.path()) {
                Ok(found) if found == kind => names.push(name),
                Ok(_) => {}
                // It went meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // What cannot be looked at, because too many files are open, say, is not missing for that.
                Err(error) => return Err(error),
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Removes the names that were reserved and never mounted, and notes that the directory is used from here.
    /// Refused where namespaces may be mounted on these names elsewhere. Nobody else may use the directory.
    fn take_over(&self, here: &Place) -> io::Result<()> {
        let last = self.last_used().map_err(told("use", &self.path))?;
        let leftovers = self.having(Entry::Leftover).map_err(told("sweep", &self.path))?;
        let unmounted = last.as_ref().is_some_and(|last| last == here || last.boot != here.boot);
        if let Some(example) = leftovers.first().copied()
            && !unmounted
        {
            let (dir, place, count) = (self.path.clone(), Place::in_words(last), leftovers.len());
            return Err(DirectoryError::MountedElsewhere { dir, place, count, example }.into());
        }
        for name in leftovers {
            match fs::remove_file(self.at(name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(told("sweep", &self.path)(error));
                }
                _ => tracing::info!(%name, "removed a namespace's file on which nothing was mounted"),
            }
        }
        if last.as_ref() == Some(here) { Ok(()) } else { self.note(here).map_err(told("mark", &self.path)) }
    }

    /// From where the directory was used last; `None` when nobody wrote it down.
    fn last_used(&self) -> io::Result<Option<Place>> {
        let mut text = [0; 256];
        let length = self.marker.read_at(&mut text, 0)?;
        Ok(Place::parse(&String::from_utf8_lossy(&text[..length])))
    }

    fn note(&self, here: &Place) -> io::Result<()> {
        // Who can open it can lock it, and keep every start waiting.
        self.marker.set_permissions(Permissions::from_mode(MARKER_MODE))?;
        let line = format!("{} {}\n", here.boot, here.mounts);
        // In this order the first line is whole whenever this ends.
        self.marker.write_all_at(line.as_bytes(), 0)?;
        self.marker.set_len(line.len() as u64)
    }
}

/// Opens `<run_dir>/netns`, and makes it where it is missing.
fn open(run_dir: &Path) -> io::Result<(PathBuf, File)> {
    let path = run_dir.join("netns");
    // Looked at by name too: what is not there yet has nothing else.
    if IP_NETNS.iter().any(|theirs| run_dir == Path::new(theirs) || is_same(run_dir, theirs)) {
        return Err(DirectoryError::IpNetns { dir: path }.into());
    }
    let make = |recursive, path: &Path| DirBuilder::new().recursive(recursive).mode(0o755).create(path);
    make(true, run_dir).map_err(told("make", &path))?;
    match make(false, &path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(told("make", &path)(error)),
        _ if path.is_symlink() => return Err(DirectoryError::SymbolicLink { dir: path }.into()),
        _ => {}
    }
    if IP_NETNS.iter().any(|theirs| is_same(&path, &format!("{theirs}/netns"))) {
        return Err(DirectoryError::IpNetns { dir: path }.into());
    }
    // Not even a symbolic link that has come since is followed.
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let dir = OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(told("open", &path))?;
    Ok((path, dir))
}

/// Opens the marker of a directory, and makes it where the directory is empty; `None` where it is not.
fn mark(dir: &File) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(MARKER_MODE).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let path = itself(dir).join(MARKER);
    match options.open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        opened => return opened.map(Some),
    }
    let mut entries = fs::read_dir(itself(dir))?;
    // Another start may have made the marker since.
    if entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != MARKER)) {
        return Ok(None);
    }
    options.create(true).open(&path).map(Some)
}

/// What lies at a path.
pub(super) fn look(path: &Path) -> io::Result<Entry> {
    let file = handle(path)?;
    let metadata = file.metadata()?;
    Ok(if !metadata.is_file() || path.file_name().is_some_and(|name| name == MARKER) {
        Entry::Foreign
    } else if fstatfs(&file)?.filesystem_type() == NSFS_MAGIC {
        Entry::Namespace
    } else if metadata.len() == 0 {
        Entry::Leftover
    } else {
        Entry::Foreign
    })
}

/// A descriptor for what lies at a path, be it a symbolic link; it can be asked about and no more.
pub(super) fn handle(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

/// A path that leads to an open directory wherever it is by now.
fn itself(dir: &File) -> PathBuf {
    format!("/proc/thread-self/fd/{}", dir.as_raw_fd()).into()
}

/// Whether two paths lead to the same directory.
fn is_same(one: &Path, other: &str) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let (one, other) = (identity(one), identity(Path::new(other)));
    one.is_some() && one == other
}

/// An error with what was being done to the directory.
fn told(doing: &str, dir: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("cannot {doing} {}: {error}", dir.display()))
}
