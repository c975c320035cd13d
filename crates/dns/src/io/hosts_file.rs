//! The hosts file of a sandbox.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use netloom_model::Result;

use super::place::{Place, Steps, refused, steadily};
use super::sandbox::read_origin;
use crate::hosts::{Change, edit};

/// No hosts file is longer than this, in bytes: some hundred thousand lines.
pub const LONGEST_HOSTS: usize = 16 * 1024 * 1024;

/// A hosts file and its one writer: whoever else has changes of it tells them to this one.
#[derive(Debug, PartialEq, Eq)]
pub struct HostsFile {
    place: Place,
}

impl HostsFile {
    pub(crate) fn at(place: Place) -> Self {
        Self { place }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.place.path()
    }

    /// Writes it anew, from [`crate::hosts::build`]. What is there already is overwritten in place.
    ///
    /// # Errors
    /// Those of the operating system, with the path; `InvalidParameter` for a link, or whatever else is no regular
    /// file, in its place.
    pub fn create(&mut self, content: impl AsRef<[u8]>) -> Result<()> {
        self.put(content.as_ref(), &mut steadily)
    }

    /// Makes it a copy of another file, byte for byte (`OptionOriginHostsPath`).
    ///
    /// # Errors
    /// As [`HostsFile::create`] and [`read_origin`].
    pub fn copy(&mut self, origin: &Path) -> Result<()> {
        let bytes = read_origin(origin, LONGEST_HOSTS)?;
        self.put(&bytes, &mut steadily)
    }

    fn put(&mut self, new: &[u8], steps: Steps<'_>) -> Result<()> {
        let directory = self.place.open()?;
        let old = directory.read(&self.place.name, LONGEST_HOSTS)?;
        if old.as_deref() == Some(new) {
            return Ok(());
        }
        directory.write(&self.place.name, old.as_deref(), new, steps)
    }

    /// Changes it, all changes in one write; whether there was anything to be written.
    ///
    /// It is read each time, so that what a user has written into it is seen and stays. Who writes between that
    /// reading and this writing, some microseconds, loses: there is no lock that a container could not hold for ever.
    ///
    /// # Errors
    /// `InvalidParameter` for a name that cannot be in such a file, before anything is done. Those of the operating
    /// system, with the path; one that is not there is such an error.
    pub fn change(&mut self, changes: &[Change]) -> Result<bool> {
        self.change_in_steps(changes, &mut steadily)
    }

    /// The same, and a file that is not there is made, with this content and these changes in it.
    ///
    /// # Errors
    /// As [`HostsFile::change`], and those of `otherwise`.
    pub fn settle(
        &mut self,
        changes: &[Change],
        otherwise: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<bool> {
        changes.iter().try_for_each(Change::check)?;
        let directory = self.place.open()?;
        let old = directory.read(&self.place.name, LONGEST_HOSTS)?;
        let new = match &old {
            Some(old) => edit(old, changes),
            None => {
                let made = otherwise()?;
                Some(edit(&made, changes).unwrap_or(made))
            }
        };
        let Some(new) = new else { return Ok(false) };
        directory.write(&self.place.name, old.as_deref(), &new, &mut steadily)?;
        Ok(true)
    }

    pub(crate) fn change_in_steps(&mut self, changes: &[Change], steps: Steps<'_>) -> Result<bool> {
        changes.iter().try_for_each(Change::check)?;
        if changes.is_empty() {
            return Ok(false);
        }
        let directory = self.place.open()?;
        let old = directory.read(&self.place.name, LONGEST_HOSTS)?;
        let old = old.ok_or_else(|| refused("change", &self.place.path(), ErrorKind::NotFound))?;
        let Some(new) = edit(&old, changes) else { return Ok(false) };
        directory.write(&self.place.name, Some(&old), &new, steps)?;
        Ok(true)
    }
}
