//! The files of a sandbox on the disk, and the host's resolv.conf. This blocks, so the caller sees to it that it runs on
//! a thread that may.

mod host;
mod hosts_file;
mod keeper;
mod place;
mod resolv_file;
mod sandbox;
#[cfg(test)]
mod tests;
mod watch;

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use netloom_model::{Error, Result, SandboxSettings};

pub use host::{HostFile, HostResolv, News, Watch};
pub use hosts_file::{HostsFile, LONGEST_HOSTS};
pub use keeper::{Asked, HostSays, Keeper, Wanted};
pub use resolv_file::{LONGEST_RESOLV, ResolvFile, Wrote};
pub use sandbox::{Files, SandboxFiles, read_origin};

/// Whether the files that a caller named for a sandbox can be used: those to be written are regular files that can be,
/// or will be made in a directory that is there; those to be read are there and can be.
///
/// None that is written is a symbolic link: whoever may put a link there could have the engine write to any file of the
/// host's. The directories above are the caller's business, and so is where a file to be read really lies: the host's
/// resolv.conf often is a link.
///
/// # Errors
/// `InvalidParameter`, naming the setting and the path.
pub fn check_files(settings: &SandboxSettings) -> Result<()> {
    for (field, path) in
        [("hosts_path", &settings.hosts_path), ("resolv_conf_path", &settings.resolv_conf_path)]
    {
        path.as_deref().map_or(Ok(()), |path| check_written(field, path))?;
    }
    for (field, path) in [
        ("origin_hosts_path", &settings.origin_hosts_path),
        ("origin_resolv_conf_path", &settings.origin_resolv_conf_path),
    ] {
        path.as_deref().map_or(Ok(()), |path| check_read(field, path))?;
    }
    Ok(())
}

fn check_written(field: &str, path: &Path) -> Result<()> {
    let wrong = |why: String| Err(Error::invalid(field, path.display(), why));
    match open(path, OpenOptions::new().write(true)) {
        Ok(()) => Ok(()),
        Err(Unusable::Missing) => {
            let directory = path.parent().unwrap_or(path);
            match fs::metadata(directory) {
                Ok(found) if !found.is_dir() => wrong(format!("{} is no directory", directory.display())),
                Ok(found) if found.permissions().readonly() => {
                    wrong(format!("{} cannot be written to", directory.display()))
                }
                Ok(_) => Ok(()),
                Err(error) => wrong(format!("{}: {error}; make that directory first", directory.display())),
            }
        }
        Err(Unusable::For(why)) => wrong(why),
    }
}

fn check_read(field: &str, path: &Path) -> Result<()> {
    let found = fs::canonicalize(path);
    let opened = match &found {
        Ok(file) => open(file, OpenOptions::new().read(true)),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Unusable::Missing),
        Err(error) => Err(Unusable::For(error.to_string())),
    };
    match opened {
        Ok(()) => Ok(()),
        Err(Unusable::Missing) => Err(Error::invalid(field, path.display(), "there is no such file")),
        Err(Unusable::For(why)) => Err(Error::invalid(field, path.display(), why)),
    }
}

enum Unusable {
    Missing,
    For(String),
}

/// Opens a file that must be a regular one, and changes nothing.
fn open(path: &Path, options: &mut OpenOptions) -> Result<(), Unusable> {
    // A pipe would wait for its other end.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let what = |found: &fs::Metadata| {
        let kind = found.file_type();
        if kind.is_symlink() {
            Some("it is a symbolic link, which is not followed; name the file itself")
        } else if kind.is_file() {
            None
        } else {
            Some("it is no regular file")
        }
    };
    // Looked at by its name too, because a device may do something when it is opened.
    let refused = match fs::symlink_metadata(path) {
        Ok(found) => what(&found),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Unusable::Missing),
        Err(error) => return Err(Unusable::For(error.to_string())),
    };
    if let Some(why) = refused {
        return Err(Unusable::For(why.into()));
    }
    let opened = options.custom_flags(flags).open(path).and_then(|file: File| file.metadata());
    match opened {
        Ok(found) => what(&found).map_or(Ok(()), |why| Err(Unusable::For(why.into()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Unusable::Missing),
        Err(error) => Err(Unusable::For(error.to_string())),
    }
}
