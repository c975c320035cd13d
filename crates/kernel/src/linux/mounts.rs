//! Where namespaces live: files below the run directory on which they are mounted.
//!
//! The start of an engine removes what no record knows, so the directory must be ours alone: it carries a
//! marker, and one that others have filled is refused. Nothing in it is reached through a symbolic link,
//! which could lead to somebody else's namespace.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netloom_model::NetnsName;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::failure::Failure;

/// The network namespace of the thread that opens it.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// The file that says that a directory is ours.
const MARKER: &str = ".netloom";

/// The directory of the mounted namespaces.
#[derive(Clone, Debug)]
pub(super) struct Mounts {
    dir: PathBuf,
    /// The marker, locked as long as anybody may reserve a name here.
    _marker: Arc<File>,
}

/// What lies under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    /// A mounted namespace.
    Namespace,
    /// An empty file with nothing mounted: left by a reboot, or by a kill before the mount.
    Leftover,
    /// Anything else; not ours to touch.
    Foreign,
}

impl Mounts {
    /// Makes `<run_dir>/netns` where it is missing; refuses one that is in use and not ours.
    pub(super) fn below(run_dir: &Path) -> io::Result<Self> {
        let dir = run_dir.join("netns");
        let told = |doing: &'static str| {
            let dir = dir.display().to_string();
            move |error: io::Error| io::Error::new(error.kind(), format!("cannot {doing} {dir}: {error}"))
        };
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&dir);
        made.map_err(told("make"))?;
        let marker = claim(&dir).map_err(told("use"))?;
        // Whoever is alone here sweeps. With company, an empty file may be a name that was just reserved.
        if marker.try_lock().is_ok() {
            sweep(&dir).map_err(told("sweep"))?;
        }
        // Waits for another's sweep at most.
        marker.lock_shared().map_err(told("lock"))?;
        Ok(Self { dir, _marker: Arc::new(marker) })
    }

    pub(super) fn path(&self, name: NetnsName) -> PathBuf {
        self.dir.join(name.as_str())
    }

    /// Opens a mounted namespace; `ENOENT` when there is none.
    pub(super) fn open(&self, name: NetnsName) -> Result<OwnedFd, Failure> {
        // Not blocking: a FIFO that somebody left here must not stop this thread.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(self.path(name));
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ELOOP) => Failure::errno(Errno::ENOENT),
            _ => Failure::io(&error, "cannot open the namespace"),
        })?;
        // A file left from before a reboot is no namespace.
        if fstatfs(&file)?.filesystem_type() != NSFS_MAGIC {
            return Err(Failure::errno(Errno::ENOENT));
        }
        Ok(file.into())
    }

    /// Takes a name: makes the file that a namespace will be mounted on. `EEXIST` when it is taken.
    pub(super) fn reserve(&self, name: NetnsName) -> Result<(), Failure> {
        let path = self.path(name);
        let create = || OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path);
        let made = create().or_else(|error| {
            if error.kind() != ErrorKind::AlreadyExists || look(&path)? != Entry::Leftover {
                return Err(error);
            }
            fs::remove_file(&path)?;
            create()
        });
        made.map(drop).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => Failure::errno(Errno::EEXIST),
            _ => Failure::io(&error, "cannot make the file of the namespace"),
        })
    }

    /// Mounts this thread's network namespace on a reserved name.
    pub(super) fn mount_own(&self, name: NetnsName) -> Result<(), Failure> {
        let failed = |error: &io::Error| Failure::io(error, "cannot mount the namespace");
        let file = handle(&self.path(name)).map_err(|error| failed(&error))?;
        if !file.metadata().map_err(|error| failed(&error))?.is_file() {
            return Err(Failure::errno(Errno::EEXIST));
        }
        // mount(2) has no flag against symbolic links; the descriptor names the file itself.
        let target = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
        mount(Some(OWN_NETNS), target.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|errno| failed(&errno.into()))
    }

    /// Unmounts a namespace and frees its name; `ENOENT` when nothing of ours has it.
    pub(super) fn remove(&self, name: NetnsName) -> Result<(), Failure> {
        let path = self.path(name);
        match look(&path) {
            // Detached: a process that still uses it does not stop the unmounting.
            Ok(Entry::Namespace) => umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .map_err(|errno| Failure::io(&errno.into(), "cannot unmount the namespace"))?,
            Ok(Entry::Leftover) => {}
            Ok(Entry::Foreign) => return Err(Failure::errno(Errno::ENOENT)),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(Failure::errno(Errno::ENOENT)),
            Err(error) => return Err(Failure::io(&error, "cannot look at the namespace")),
        }
        fs::remove_file(&path).map_err(|error| Failure::io(&error, "cannot remove the file of the namespace"))
    }

    /// The names on which namespaces are mounted.
    pub(super) fn list(&self) -> Result<Vec<NetnsName>, Failure> {
        let mut names = having(&self.dir, Entry::Namespace)
            .map_err(|error| Failure::io(&error, "cannot list the namespaces"))?;
        names.sort_unstable();
        Ok(names)
    }
}

/// Opens the network namespace of this thread.
pub(super) fn open_own() -> io::Result<OwnedFd> {
    File::open(OWN_NETNS).map(OwnedFd::from)
}

/// Opens the marker of a directory, and makes it where nobody else uses the directory.
fn claim(dir: &Path) -> io::Result<File> {
    let path = dir.join(MARKER);
    let open = || {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        OpenOptions::new().read(true).custom_flags(flags).open(&path)
    };
    match open() {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        opened => return opened,
    }
    let mut entries = fs::read_dir(dir)?;
    // Another start may have made the marker since.
    let foreign = entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != MARKER));
    if foreign {
        let why = format!(
            "it holds files of others (`ip netns` uses /run/netns), which would be removed; \
             choose another run_dir, or make an empty file {MARKER} in it if all of them are netloom's"
        );
        return Err(io::Error::new(ErrorKind::AlreadyExists, why));
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => open(),
        made => made,
    }
}

/// Removes the names that were reserved and never mounted.
fn sweep(dir: &Path) -> io::Result<()> {
    for name in having(dir, Entry::Leftover)? {
        match fs::remove_file(dir.join(name.as_str())) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => tracing::info!(%name, "removed a namespace's file on which nothing was mounted"),
        }
    }
    Ok(())
}

/// The valid names in a directory under which something of a kind lies.
fn having(dir: &Path, kind: Entry) -> io::Result<Vec<NetnsName>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(name) = name
            && look(&entry.path()).is_ok_and(|found| found == kind)
        {
            names.push(name);
        }
    }
    Ok(names)
}

fn look(path: &Path) -> io::Result<Entry> {
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
fn handle(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}
