//! The files of a sandbox on the disk. This blocks, so the caller sees to it that it runs on a thread that may.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use netloom_model::{Error, Result, SandboxSettings};

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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use super::*;

    fn written(path: PathBuf) -> Result<()> {
        check_files(&SandboxSettings { hosts_path: Some(path), ..SandboxSettings::default() })
    }

    fn read(path: PathBuf) -> Result<()> {
        check_files(&SandboxSettings { origin_resolv_conf_path: Some(path), ..SandboxSettings::default() })
    }

    #[test]
    fn regular_files_and_those_to_be_made_are_fine() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("hosts");
        written(file.clone()).expect("it will be made");
        assert!(!file.exists(), "looking makes nothing");
        fs::write(&file, "127.0.0.1 localhost\n").expect("written");
        written(file.clone()).expect("it is there");
        read(file.clone()).expect("it is there");
        assert_eq!(
            fs::read_to_string(file).expect("read"),
            "127.0.0.1 localhost\n",
            "nor does it change anything"
        );
    }

    #[test]
    fn whatever_is_none_is_refused_by_its_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").expect("written");
        symlink(at("file"), at("link")).expect("linked");
        symlink(at("nowhere"), at("dangling")).expect("linked");
        fs::create_dir(at("directory")).expect("made");
        let _socket = UnixListener::bind(at("socket")).expect("bound");
        for (name, why) in [("link", "symbolic link"), ("dangling", "symbolic link")] {
            let error = written(at(name)).expect_err(name).to_string();
            assert!(error.contains("hosts_path") && error.contains(why), "{error}");
        }
        read(at("link")).expect("followed, because nothing is written");
        assert!(read(at("dangling")).expect_err("dangling").to_string().contains("no such file"));
        for (name, why) in
            [("directory", "no regular file"), ("socket", "no regular file"), ("file/below", "directory")]
        {
            for (outcome, field) in
                [(written(at(name)), "hosts_path"), (read(at(name)), "origin_resolv_conf_path")]
            {
                let error = outcome.expect_err(name).to_string();
                let path = at(name).display().to_string();
                assert!(error.contains(field) && error.contains(&path), "{error}");
                assert!(error.to_lowercase().contains(why), "{name}: {error}");
            }
        }
        for missing in ["missing/hosts", "file/hosts"] {
            written(at(missing)).expect_err(missing);
        }
        assert!(read(at("missing")).expect_err("missing").to_string().contains("no such file"));
    }

    #[test]
    fn what_may_not_be_written_to_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let sealed = dir.path().join("sealed");
        fs::create_dir(&sealed).expect("made");
        fs::set_permissions(&sealed, fs::Permissions::from_mode(0o555)).expect("sealed");
        let error = written(sealed.join("hosts")).expect_err("nothing can be made there").to_string();
        assert!(error.contains("sealed cannot be written to"), "{error}");
        // What the kernel keeps read-only is so for everybody.
        let error = written("/proc/sys/kernel/osrelease".into()).expect_err("read-only").to_string();
        assert!(error.contains("/proc/sys/kernel/osrelease"), "{error}");
        fs::set_permissions(&sealed, fs::Permissions::from_mode(0o755)).expect("opened");
    }
}
