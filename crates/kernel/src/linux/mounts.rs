//! Where namespaces live: files in the [`Directory`] on which they are mounted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netloom_model::NetnsName;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::directory::{Directory, Entry, handle, look};
use super::failure::Failure;

/// The network namespace of the thread that opens it.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// The mounted namespaces.
#[derive(Clone, Debug)]
pub(super) struct Mounts {
    directory: Arc<Directory>,
}

impl Mounts {
    /// Those in `<run_dir>/netns`, which is made where it is missing and refused where it is not ours.
    pub(super) fn below(run_dir: &Path) -> io::Result<Self> {
        Ok(Self { directory: Arc::new(Directory::claim(run_dir)?) })
    }

    pub(super) fn path(&self, name: NetnsName) -> PathBuf {
        self.directory.path(name)
    }

    /// Opens a mounted namespace; `ENOENT` when there is none.
    pub(super) fn open(&self, name: NetnsName) -> Result<OwnedFd, Failure> {
        // Not blocking: a FIFO that somebody left here must not stop this thread.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(self.directory.at(name));
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
        let path = self.directory.at(name);
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
        let file = handle(&self.directory.at(name)).map_err(|error| failed(&error))?;
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
        let path = self.directory.at(name);
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
        let names = self.directory.having(Entry::Namespace);
        names.map_err(|error| Failure::io(&error, "cannot list the namespaces"))
    }
}

/// Opens the network namespace of this thread.
pub(super) fn open_own() -> io::Result<OwnedFd> {
    File::open(OWN_NETNS).map(OwnedFd::from)
}

/// Opens a namespace that somebody else made: `ENOENT` when nothing is there, `EINVAL` when it is no namespace.
/// It may be of another kind than a network's.
pub(super) fn open_foreign(source: &Path) -> Result<OwnedFd, Failure> {
    let failed = |error: &io::Error| match error.raw_os_error() {
        // The last one is a process that has just ended.
        Some(libc::ENOENT | libc::ENOTDIR | libc::ESRCH) => Failure::errno(Errno::ENOENT),
        // Such as a zero byte, which no path has.
        None => Failure::errno(Errno::EINVAL),
        Some(_) => Failure::io(error, "cannot open the namespace"),
    };
    // A mere handle at first: to open a device or a FIFO for good may do something, or wait.
    let mut options = OpenOptions::new();
    let there = options.read(true).custom_flags(libc::O_PATH).open(source).map_err(|error| failed(&error))?;
    if fstatfs(&there)?.filesystem_type() != NSFS_MAGIC {
        return Err(Failure::refused(libc::EINVAL, Some("it is no namespace".into())));
    }
    let opened = File::open(format!("/proc/thread-self/fd/{}", there.as_raw_fd()));
    opened.map(OwnedFd::from).map_err(|error| failed(&error))
}
