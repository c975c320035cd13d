//! The resolv.conf of a sandbox, and whose it is: as long as nobody else has changed it, the engine's.
//!
//! The file beside it holds the hash of what the engine wrote: `sha256:` and 64 digits. While a new content is written
//! it has two lines, the new content's and the old one's. So whenever a crash comes, the content is one that a line
//! stands for, and not taken for a user's. (libnetwork writes the hash afterwards: a crash in between, and the file is
//! never changed again.)

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use netloom_model::Result;

use super::place::{BESIDE, Directory, Place, Steps, refused, steadily};
use super::sandbox::read_origin;
use crate::sha256;

/// No resolv.conf is longer than this, in bytes; of the host's, [`crate::resolv::LONGEST_FILE`] are read.
pub const LONGEST_RESOLV: usize = 1024 * 1024;
/// The hash file: two lines of 72 bytes, and what somebody may have added.
const LONGEST_HASH: usize = 4096;
/// What the hash file is called: the file's name with this behind it.
const HASH: &str = ".hash";
const PREFIX: &str = "sha256:";

/// What became of a new content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrote {
    /// It is in the file.
    New,
    /// It was there.
    Nothing,
    /// The file is a user's, who changed it; it stays as it is.
    Kept,
}

/// A resolv.conf and its one writer.
#[derive(Debug, PartialEq, Eq)]
pub struct ResolvFile {
    place: Place,
}

impl ResolvFile {
    pub(crate) fn at(place: Place) -> Self {
        Self { place }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.place.path()
    }

    fn hash_name(&self) -> String {
        format!("{}{HASH}", self.place.name)
    }

    /// Writes it for a new sandbox, whatever is there.
    ///
    /// # Errors
    /// Those of the operating system, with the path; `InvalidParameter` for a link, or whatever else is no regular
    /// file, in its place or that of the hash.
    pub fn create(&mut self, content: impl AsRef<[u8]>) -> Result<()> {
        self.put(content.as_ref(), true, &mut steadily).map(drop)
    }

    /// Makes it a copy of another file, byte for byte, for a sandbox that is the host's own namespace.
    ///
    /// # Errors
    /// As [`ResolvFile::create`] and [`read_origin`].
    pub fn copy(&mut self, origin: &Path) -> Result<()> {
        let bytes = read_origin(origin, LONGEST_RESOLV)?;
        self.put(&bytes, true, &mut steadily).map(drop)
    }

    /// Writes a new content, unless a user has changed the file: then that holds for ever. One that is not there is
    /// made; one without a hash file is taken for the engine's (libnetwork).
    ///
    /// # Errors
    /// As [`ResolvFile::create`].
    pub fn update(&mut self, content: impl AsRef<[u8]>) -> Result<Wrote> {
        self.put(content.as_ref(), false, &mut steadily)
    }

    /// Whether a user has changed it.
    ///
    /// # Errors
    /// As [`ResolvFile::create`]; one that is not there is such an error.
    pub fn is_users(&self) -> Result<bool> {
        let directory = self.place.open()?;
        let content = directory.read(&self.place.name, LONGEST_RESOLV)?;
        let content = content.ok_or_else(|| refused("read", &self.place.path(), ErrorKind::NotFound))?;
        Ok(self.hashes(&directory)?.is_some_and(|hashes| !is_of(&content, &hashes)))
    }

    pub(crate) fn put(&mut self, new: &[u8], anyway: bool, steps: Steps<'_>) -> Result<Wrote> {
        let directory = self.place.open()?;
        let old = directory.read(&self.place.name, LONGEST_RESOLV)?;
        let hashes = self.hashes(&directory)?;
        let mine = match (&old, &hashes) {
            (Some(old), Some(hashes)) => is_of(old, hashes),
            (None, _) | (_, None) => true,
        };
        if !(mine || anyway) {
            return Ok(Wrote::Kept);
        }
        let (name, hash_name) = (&self.place.name, self.hash_name());
        let settled = line_of(new);
        let is_settled = hashes.as_deref() == Some(std::slice::from_ref(&settled));
        if old.as_deref() == Some(new) {
            if !is_settled {
                directory.replace(&hash_name, settled.as_bytes(), steps)?;
            }
            return Ok(Wrote::Nothing);
        }
        // A new file comes whole, so that its hash may be there first.
        let before = old.as_deref().map(|old| format!("{settled}\n{}", line_of(old)));
        directory.replace(&hash_name, before.as_ref().unwrap_or(&settled).as_bytes(), steps)?;
        directory.write(name, old.as_deref(), new, steps)?;
        if before.is_some() {
            directory.replace(&hash_name, settled.as_bytes(), steps)?;
        }
        Ok(Wrote::New)
    }

    /// The lines of the hash file; `None` without one.
    fn hashes(&self, directory: &Directory) -> Result<Option<Vec<String>>> {
        let bytes = directory.read(&self.hash_name(), LONGEST_HASH)?;
        let lines = bytes.map(|bytes| String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect());
        Ok(lines)
    }

    /// Removes the hash file. Nothing where there is none, or no directory.
    pub(crate) fn forget(&self) -> Result<()> {
        if !self.place.directory.exists() {
            return Ok(());
        }
        let directory = self.place.open()?;
        directory.remove(&self.hash_name())?;
        directory.remove(&format!("{}{BESIDE}", self.hash_name()))
    }
}

fn line_of(content: &[u8]) -> String {
    format!("{PREFIX}{}", sha256::hex(content))
}

/// Whether this is a content that the hashes stand for: as it is, or with empty lines behind it, which a write has not
/// cut off yet.
fn is_of(content: &[u8], hashes: &[String]) -> bool {
    let known = |content: &[u8]| hashes.contains(&line_of(content));
    if known(content) {
        return true;
    }
    let end = content.iter().rposition(|byte| *byte != b'\n').map_or(0, |last| last + 2);
    end < content.len() && known(&content[..end])
}
