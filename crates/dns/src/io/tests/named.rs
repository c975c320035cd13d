//! The files that a caller names are looked at.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::super::*;

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
