//! The store's directory: made, locked, and never emptied.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::store::Finding;

/// The file whose lock says that somebody has the directory.
pub(super) const LOCK: &str = "lock";

/// A directory that this process has to itself.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// The lock lasts as long as this file is open, and ends with the process however that ends.
    _lock: File,
}

impl Directory {
    /// Makes the directory if needed and locks it.
    ///
    /// # Errors
    /// `Locked` if another process has it; `Io`.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| StoreError::io("create the directory", path, &error))?;
        let lock_path = path.join(LOCK);
        let lock = private_file(&lock_path).map_err(|error| StoreError::io("open", &lock_path, &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { dir: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &lock_path, &error)),
        }
    }

    /// A file in the directory.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Renames a file that cannot be used to `<name>.broken-<n>`, the first such name that is free.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn set_aside(&self, name: &str, why: String) -> Result<Finding, StoreError> {
        let from = self.join(name);
        let mut n = 1u32;
        let to = loop {
            let to = self.join(&format!("{name}.broken-{n}"));
            match to.symlink_metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break to,
                Err(error) => return Err(StoreError::io("look at", &to, &error)),
                Ok(_) => n += 1,
            }
        };
        std::fs::rename(&from, &to).map_err(|error| StoreError::io("set aside", &from, &error))?;
        self.sync()?;
        tracing::warn!(path = %to.display(), why, "a damaged file was set aside");
        Ok(Finding { path: to, why })
    }

    /// Makes the names in the directory survive a power cut.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let synced = File::open(&self.path).and_then(|dir| dir.sync_all());
        synced.map_err(|error| StoreError::io("sync", &self.path, &error))
    }
}

/// Opens a file for reading and writing, made if needed for the owner's eyes only.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}
