//! A directory, and files in it that are written in place: names are looked up in the open directory, and no symbolic
//! link is followed.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use netloom_model::{Error, Reason, Result};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// What directories and files are made with, whatever the umask is.
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);
const FILE_MODE: Mode = Mode::from_bits_truncate(0o644);

/// A change of a file that is done, for tests that end there as a crash would.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// The new content was written over the old.
    Written,
    /// What was left of the old was cut off.
    Cut,
    /// The new file was written beside the old.
    Beside,
    /// And has its name.
    Renamed,
}

/// Told of each step; an error is a crash: nothing is done after it.
pub(crate) type Steps<'a> = &'a mut dyn FnMut(Step) -> Result<()>;

/// Nothing happens between the steps.
pub(crate) fn steadily(_: Step) -> Result<()> {
    Ok(())
}

/// An error of the operating system.
pub(crate) fn refused(action: &str, path: &Path, error: impl Into<io::Error>) -> Error {
    let error: io::Error = error.into();
    let errno = error.raw_os_error().unwrap_or(0);
    let mut message = error.to_string();
    if errno == Errno::EMFILE as i32
        && let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE)
    {
        message.push_str(&format!(": the engine's process may have no more than {limit} files open"));
    }
    Reason::Kernel { operation: format!("{action} {}", path.display()), errno, message }.into()
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens a directory of somebody else's, by whatever way its path leads to it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let fd = openat(AT_FDCWD, path, flags, Mode::empty());
        fd.map(|fd| Self { fd, path: path.to_owned() }).map_err(|error| refused("open", path, error))
    }

    /// The directory of this name in it, which is made where it is not there.
    pub(crate) fn make(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        let made = match mkdirat(&self.fd, name, DIRECTORY_MODE) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(error) => return Err(refused("make directory", &path, error)),
        };
        let directory = self.inside(name)?;
        if made {
            fchmod(&directory.fd, DIRECTORY_MODE)
                .map_err(|error| refused("set the mode of", &path, error))?;
        }
        Ok(directory)
    }

    /// The directory of this name in it.
    pub(crate) fn inside(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path }),
            Err(Errno::ELOOP | Errno::ENOTDIR) => Err(in_the_way(&path, "it is no directory")),
            Err(error) => Err(refused("open", &path, error)),
        }
    }

    /// The content of a file; `None` where there is none.
    pub(crate) fn read(&self, name: &str, longest: usize) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.file(name, OFlag::O_RDONLY)? else { return Ok(None) };
        let path = self.path.join(name);
        let mut bytes = Vec::new();
        file.take(longest as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| refused("read", &path, error))?;
        if bytes.len() > longest {
            return Err(in_the_way(&path, &format!("it is longer than {longest} bytes")));
        }
        Ok(Some(bytes))
    }

    /// Makes this the content of a file, and makes the file where there was none.
    ///
    /// # Errors
    /// Those of the operating system; they are uncertain where the file may be half of the old and half of the new.
    pub(crate) fn write(&self, name: &str, old: Option<&[u8]>, new: &[u8], steps: Steps<'_>) -> Result<()> {
        match old {
            Some(old) => self.overwrite(name, old, new, steps),
            None => self.replace(name, new, steps),
        }
    }

    /// The file stays the same file: a container sees it through a mount of its own.
    ///
    /// All of it is written in one call; where the file was longer, the rest of it is empty lines until it is cut
    /// off, so that no reader sees the half of an old line. A write that fails is taken back. A kill in the middle of
    /// that call may leave pages of the new before pages of the old; a file of one page is either.
    fn overwrite(&self, name: &str, old: &[u8], new: &[u8], steps: Steps<'_>) -> Result<()> {
        let path = self.path.join(name);
        let file = self.file(name, OFlag::O_WRONLY)?.ok_or_else(|| refused("write", &path, Errno::ENOENT))?;
        let mut padded = new.to_vec();
        padded.resize(new.len().max(old.len()), b'\n');
        if let Err(error) = file.write_all_at(&padded, 0) {
            let failed = refused("write", &path, error);
            let taken_back = file.write_all_at(old, 0).and_then(|()| file.set_len(old.len() as u64));
            return Err(if taken_back.is_ok() { failed } else { failed.uncertain() });
        }
        steps(Step::Written)?;
        if padded.len() > new.len() {
            file.set_len(new.len() as u64).map_err(|error| refused("cut", &path, error).uncertain())?;
            steps(Step::Cut)?;
        }
        Ok(())
    }

    /// Puts a new file in the place of an old one, or of none, whole or not at all. Nothing waits for the disk: a power
    /// cut ends the sandboxes too, whose files these are.
    pub(crate) fn replace(&self, name: &str, content: &[u8], steps: Steps<'_>) -> Result<()> {
        let beside = format!("{name}{BESIDE}");
        let path = self.path.join(&beside);
        // What a crash has left, or somebody put there.
        self.remove(&beside)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = openat(&self.fd, &beside[..], flags, FILE_MODE);
        let file = File::from(made.map_err(|error| refused("make", &path, error))?);
        let written =
            fchmod(&file, FILE_MODE).map_err(io::Error::from).and_then(|()| file.write_all_at(content, 0));
        if let Err(error) = written {
            let _ = self.remove(&beside);
            return Err(refused("write", &path, error));
        }
        steps(Step::Beside)?;
        let renamed = renameat(&self.fd, &beside[..], &self.fd, name);
        renamed.map_err(|error| refused("replace", &self.path.join(name), error))?;
        steps(Step::Renamed)
    }

    /// Removes a file, or whatever has its name and is no directory. Nothing where there is none.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(refused("remove", &self.path.join(name), error)),
        }
    }

    /// Opens a regular file; `None` where there is none.
    fn file(&self, name: &str, flags: OFlag) -> Result<Option<File>> {
        let path = self.path.join(name);
        let irregular = |mode: nix::libc::mode_t| match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => None,
            SFlag::S_IFLNK => Some("it is a symbolic link, which is not followed"),
            _ => Some("it is no regular file"),
        };
        // Looked at by its name first, because a device may do something when it is opened.
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => irregular(found.st_mode).map_or(Ok(()), |why| Err(in_the_way(&path, why)))?,
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(refused("look at", &path, error)),
        }
        // And a pipe that came since then would wait for its other end.
        let careful = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let fd = match openat(&self.fd, name, flags | careful, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP) => {
                return Err(in_the_way(&path, "it is a symbolic link, which is not followed"));
            }
            Err(error) => return Err(refused("open", &path, error)),
        };
        let found = fstat(fd.as_fd()).map_err(|error| refused("look at", &path, error))?;
        irregular(found.st_mode).map_or(Ok(Some(File::from(fd))), |why| Err(in_the_way(&path, why)))
    }
}

/// What a file that is to replace another is called until then: the name with this behind it.
pub(crate) const BESIDE: &str = ".new";

fn in_the_way(path: &Path, why: &str) -> Error {
    Error::invalid("file", path.display(), format!("{why}; take it out of the way"))
}

/// One file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    pub(crate) name: String,
}

impl Place {
    /// The file of this path, which a caller named.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str());
        match (path.parent(), name) {
            (Some(directory), Some(name)) => {
                Ok(Self { directory: directory.to_owned(), name: name.to_owned() })
            }
            _ => Err(Error::invalid(
                "file",
                path.display(),
                "a path with the name of a file at its end is needed",
            )),
        }
    }

    pub(crate) fn open(&self) -> Result<Directory> {
        Directory::open(&self.directory)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }
}
