//! Where namespaces live: files below the run directory on which they are mounted.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use netloom_model::NetnsName;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs, statfs};

use super::failure::Failure;

/// The network namespace of the thread that opens it.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// The directory of the mounted namespaces.
#[derive(Clone, Debug)]
pub(super) struct Mounts {
    dir: PathBuf,
}

impl Mounts {
    /// Makes `<run_dir>/netns` where it is missing.
    pub(super) fn below(run_dir: &Path) -> io::Result<Self> {
        let dir = run_dir.join("netns");
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&dir);
        made.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot make {}: {error}", dir.display()))
        })?;
        Ok(Self { dir })
    }

    pub(super) fn path(&self, name: NetnsName) -> PathBuf {
        self.dir.join(name.as_str())
    }

    /// Opens a mounted namespace; `ENOENT` when there is none.
    pub(super) fn open(&self, name: NetnsName) -> Result<OwnedFd, Failure> {
        let path = self.path(name);
        let file = File::open(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Failure::errno(Errno::ENOENT),
            _ => Failure::io(&error, "cannot open the namespace"),
        })?;
        // A file left from before a reboot is no namespace.
        if fstatfs(&file)?.filesystem_type() != NSFS_MAGIC {
            return Err(Failure::errno(Errno::ENOENT));
        }
        Ok(file.into())
    }

    /// Takes a name: makes the file that a namespace will be mounted on. `EEXIST` when one is.
    pub(super) fn reserve(&self, name: NetnsName) -> Result<(), Failure> {
        let path = self.path(name);
        let create = || OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path);
        let made = create().or_else(|error| {
            if error.kind() != ErrorKind::AlreadyExists || is_namespace(&path)? {
                return Err(error);
            }
            // Left from before a reboot.
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
        mount(Some(OWN_NETNS), &self.path(name), None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|errno| Failure::io(&errno.into(), "cannot mount the namespace"))
    }

    /// Unmounts a namespace and frees its name; `ENOENT` when the name is free.
    pub(super) fn remove(&self, name: NetnsName) -> Result<(), Failure> {
        let path = self.path(name);
        match is_namespace(&path) {
            // Detached: a process that still uses it does not stop the unmounting.
            Ok(true) => umount2(&path, MntFlags::MNT_DETACH)
                .map_err(|errno| Failure::io(&errno.into(), "cannot unmount the namespace"))?,
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(Failure::errno(Errno::ENOENT)),
            Err(error) => return Err(Failure::io(&error, "cannot look at the namespace")),
        }
        fs::remove_file(&path).map_err(|error| Failure::io(&error, "cannot remove the file of the namespace"))
    }

    /// The names on which namespaces are mounted.
    pub(super) fn list(&self) -> Result<Vec<NetnsName>, Failure> {
        let failed = |error: &io::Error| Failure::io(error, "cannot list the namespaces");
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|error| failed(&error))? {
            let entry = entry.map_err(|error| failed(&error))?;
            let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(name) = name
                && is_namespace(&entry.path()).unwrap_or(false)
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Opens the network namespace of this thread.
pub(super) fn open_own() -> io::Result<OwnedFd> {
    File::open(OWN_NETNS).map(OwnedFd::from)
}

fn is_namespace(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == NSFS_MAGIC)
}
