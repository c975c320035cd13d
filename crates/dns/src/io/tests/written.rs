//! Files of sandboxes: made, changed in place, kept when a user changed them, whole after a crash.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use netloom_model::{Certainty, Error, Result, SandboxId, SandboxSettings};
use nix::sys::stat::{Mode, umask};

use super::super::place::Step;
use super::super::*;
use crate::hosts::{Change, Entry, build};

const OLD: &str = "nameserver 192.0.2.1\n\n# Some comment that makes it the longer one\n";
const NEW: &str = "nameserver 192.0.2.2\n";
const USERS: &str = "nameserver 192.0.2.99\n# mine\n";

fn sandbox() -> SandboxId {
    "7".repeat(64).parse().expect("an id")
}

fn add(n: u8) -> Change {
    Change::Add(Entry::new([10, 0, 0, n].into(), &["web.example", "web"]).expect("a line"))
}

fn files(dir: &Path) -> SandboxFiles {
    let files = Files::new(dir).of(sandbox(), None).expect("no path of a caller's");
    files.make_directory().expect("made");
    files
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("it is there")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

fn hash(files: &SandboxFiles) -> PathBuf {
    let mut path = files.resolv.path().into_os_string();
    path.push(".hash");
    path.into()
}

/// Nothing lies about that a reader of the directory would wonder at.
fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).expect("it is there");
    let mut names: Vec<_> =
        names.map(|entry| entry.expect("read").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

#[test]
fn they_are_where_they_belong_and_anybody_can_read_them() {
    let dir = tempfile::tempdir().expect("a directory");
    umask(Mode::from_bits_truncate(0o077));
    let run = dir.path().join("run/engine");
    let mut made = files(&run);
    made.hosts.create(build(false, &[]).expect("built")).expect("written");
    made.resolv.create(NEW).expect("written");
    made.resolv.update(OLD).expect("written");
    let id = sandbox().to_string();
    let own = run.join("files").join(&id);
    assert_eq!(made.paths(), (own.join("hosts"), own.join("resolv.conf")));
    assert_eq!(names(&own), ["hosts", "resolv.conf", "resolv.conf.hash"]);
    for (path, expected) in [
        (own.join("hosts"), 0o644),
        (own.join("resolv.conf"), 0o644),
        (own.join("resolv.conf.hash"), 0o644),
        (own.clone(), 0o755),
        (run.join("files"), 0o755),
    ] {
        assert_eq!(mode(&path), expected, "{}", path.display());
    }
    // The standard's hash of that text, by another program.
    let said = Command::new("sha256sum").arg(own.join("resolv.conf")).output().expect("coreutils are there");
    let said = String::from_utf8(said.stdout).expect("text");
    assert_eq!(text(&hash(&made)), format!("sha256:{}", said.split(' ').next().expect("a word")));
    assert_eq!(Files::new(&run).list().expect("listed"), [&id[..]]);
    made.remove().expect("removed");
    made.remove().expect("there is nothing");
    assert!(Files::new(&run).list().expect("listed").is_empty());
    assert!(Files::new(dir.path().join("nowhere")).list().expect("listed").is_empty());
    for name in ["", ".", "..", "../x", "a/b"] {
        Files::new(&run).remove(name).expect_err(name);
    }
}

#[test]
fn named_files_are_used_where_they_are_and_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let settings = SandboxSettings {
        hosts_path: Some(at("h")),
        resolv_conf_path: Some(at("r")),
        ..SandboxSettings::default()
    };
    let mut made = Files::new(at("run")).of(sandbox(), Some(&settings)).expect("paths of files");
    made.make_directory().expect("none is needed");
    assert!(!at("run").exists());
    fs::write(at("origin"), b"127.0.0.1 localhost\n\xff\n").expect("written");
    symlink(at("origin"), at("link")).expect("linked");
    made.hosts.copy(&at("link")).expect("copied");
    assert_eq!(fs::read(at("h")).expect("read"), b"127.0.0.1 localhost\n\xff\n");
    fs::write(at("r"), USERS).expect("written");
    made.resolv.create(NEW).expect("a new sandbox has a new one");
    assert_eq!((text(&at("r")), text(&hash(&made)).starts_with("sha256:")), (NEW.into(), true));
    assert_eq!(names(dir.path()), ["h", "link", "origin", "r", "r.hash"]);
    made.remove().expect("removed");
    assert_eq!(names(dir.path()), ["h", "link", "origin", "r"]);
    // One of each: the directory is for the other.
    let settings = SandboxSettings { hosts_path: Some(at("h")), ..SandboxSettings::default() };
    let mut made = Files::new(at("run")).of(sandbox(), Some(&settings)).expect("a path of a file");
    made.make_directory().expect("made");
    made.resolv.copy(&at("origin")).expect("copied");
    made.remove().expect("removed");
    assert!(at("h").exists() && Files::new(at("run")).list().expect("listed").is_empty());
    for origin in [at("gone"), dir.path().to_owned(), "/dev/zero".into()] {
        let error = made.hosts.copy(&origin).expect_err("no file").to_string();
        assert!(error.contains(&origin.display().to_string()), "{error}");
    }
}

#[test]
fn a_file_stays_the_same_file_and_is_written_only_when_it_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut made = files(dir.path());
    made.hosts.create("# mine\n127.0.0.1\tlocalhost\n").expect("written");
    let path = made.hosts.path();
    let mut open = File::open(&path).expect("open");
    let mut seen = || {
        let mut text = String::new();
        open.rewind().expect("rewound");
        open.read_to_string(&mut text).expect("read");
        text
    };
    assert!(made.hosts.change(&[add(2)]).expect("changed"));
    assert_eq!(seen(), "# mine\n127.0.0.1\tlocalhost\n10.0.0.2\tweb.example web\n");
    let mut steps = Vec::new();
    let mut count = |step| {
        steps.push(step);
        Ok(())
    };
    let gone = Change::RemoveAddress([10, 0, 0, 2].into());
    assert!(made.hosts.change_in_steps(std::slice::from_ref(&gone), &mut count).expect("changed"));
    assert!(
        !made
            .hosts
            .change_in_steps(
                &[gone, add(3), Change::RemoveName("web".into()), Change::RemoveName("web.example".into())],
                &mut count
            )
            .expect("nothing")
    );
    assert!(!made.hosts.change_in_steps(&[], &mut count).expect("nothing"));
    assert_eq!(steps, [Step::Written, Step::Cut]);
    assert_eq!(seen(), "# mine\n127.0.0.1\tlocalhost\n");
    // A user's own line, by the same file.
    fs::write(&path, "10.0.0.9 mine").expect("written");
    made.hosts.change(&[add(4)]).expect("changed");
    assert_eq!(seen(), "10.0.0.9 mine\n10.0.0.4\tweb.example web\n");
    let before = fs::metadata(&path).expect("there");
    made.hosts.create("10.0.0.9 mine\n10.0.0.4\tweb.example web\n").expect("it is so");
    let after = fs::metadata(&path).expect("there");
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
    // Refused before anything is done, and by name.
    let error = made.hosts.change(&[add(5), Change::RemoveName("a b".into())]).expect_err("two words");
    assert!(error.to_string().contains("a b"), "{error}");
    assert_eq!(seen(), "10.0.0.9 mine\n10.0.0.4\tweb.example web\n");
    fs::remove_file(&path).expect("removed");
    let error = made.hosts.change(&[add(5)]).expect_err("it is gone").to_string();
    assert!(error.contains("hosts"), "{error}");
}

#[test]
fn a_user_who_changes_resolv_conf_has_it_for_ever() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut made = files(dir.path());
    made.resolv.create(OLD).expect("written");
    assert_eq!(made.resolv.update(OLD).expect("updated"), Wrote::Nothing);
    assert_eq!(made.resolv.update(NEW).expect("updated"), Wrote::New);
    assert!(!made.resolv.is_users().expect("known"));
    let path = made.resolv.path();
    fs::write(&path, USERS).expect("written");
    assert!(made.resolv.is_users().expect("known"));
    for new in [OLD, NEW] {
        assert_eq!(made.resolv.update(new).expect("updated"), Wrote::Kept);
        assert_eq!(text(&path), USERS);
    }
    // Emptied is changed too.
    fs::write(&path, "").expect("written");
    assert_eq!(made.resolv.update(NEW).expect("updated"), Wrote::Kept);
    // A hash that cannot be read says nothing; none says that nobody cares.
    fs::write(hash(&made), "\0\0\0").expect("written");
    assert_eq!(made.resolv.update(NEW).expect("updated"), Wrote::Kept);
    fs::remove_file(hash(&made)).expect("removed");
    assert!(!made.resolv.is_users().expect("known"));
    assert_eq!(made.resolv.update(NEW).expect("updated"), Wrote::New);
    fs::remove_file(&path).expect("removed");
    assert!(made.resolv.is_users().is_err());
    assert_eq!(made.resolv.update(NEW).expect("updated"), Wrote::New);
    assert_eq!(text(&path), NEW);
}

/// Ends after that many steps, as a crash would.
fn crash_after(steps: usize) -> impl FnMut(Step) -> Result<()> {
    let mut left = steps;
    move |_| match left.checked_sub(1) {
        Some(less) => {
            left = less;
            Ok(())
        }
        None => Err(Error::internal("crash")),
    }
}

#[test]
fn whenever_a_crash_comes_resolv_conf_is_the_engines_and_becomes_what_it_should() {
    let shorter: &[u8] = b"#\n";
    for (before, anyway) in [
        (None, true),
        (Some(OLD), false),
        (Some(NEW), false),
        (Some(""), false),
        (Some(OLD), true),
        (None, false),
    ] {
        for new in [OLD.as_bytes(), NEW.as_bytes(), shorter, b""] {
            for users_edit in [false, true] {
                let mut at = 0;
                loop {
                    let dir = tempfile::tempdir().expect("a directory");
                    let mut made = files(dir.path());
                    before.map_or(Ok(()), |before| made.resolv.create(before)).expect("written");
                    let done = made.resolv.put(new, anyway, &mut crash_after(at));
                    let what = || format!("{before:?} {new:?} after {at} steps");
                    let path = made.resolv.path();
                    let found = fs::read(&path).ok();
                    // A reader sees the old or the new, with nothing but empty lines behind it.
                    let trimmed = found.as_deref().map(<[u8]>::trim_ascii_end);
                    let is_one = trimmed.is_none() && before.is_none()
                        || trimmed == Some(new.trim_ascii_end())
                        || trimmed == before.map(|old| old.as_bytes().trim_ascii_end());
                    assert!(is_one, "{}: {found:?}", what());
                    let mut again = files(dir.path());
                    if users_edit {
                        fs::write(&path, USERS).expect("written");
                        let hashed = hash(&again).exists();
                        let expected = if hashed { Wrote::Kept } else { Wrote::New };
                        let wrote = again.resolv.put(new, false, &mut |_| Ok(())).expect("works");
                        assert_eq!(wrote, expected, "{}", what());
                    } else {
                        let wrote = again.resolv.put(new, false, &mut |_| Ok(())).expect("works");
                        assert_ne!(wrote, Wrote::Kept, "{}", what());
                        assert_eq!(fs::read(&path).expect("read"), new, "{}", what());
                        assert_eq!(text(&hash(&again)).lines().count(), 1, "{}", what());
                        assert!(!again.resolv.is_users().expect("known"), "{}", what());
                        let own = path.parent().expect("a directory");
                        assert_eq!(names(own), ["resolv.conf", "resolv.conf.hash"], "{}", what());
                    }
                    if done.is_ok() {
                        break;
                    }
                    at += 1;
                }
                assert!(at > 0 || before.map(str::as_bytes) == Some(new), "no step was told");
            }
        }
    }
}

#[test]
fn whenever_a_crash_comes_hosts_has_the_old_lines_or_the_new() {
    for change in [add(2), Change::RemoveName("db".into())] {
        for at in 0..2 {
            let dir = tempfile::tempdir().expect("a directory");
            let mut made = files(dir.path());
            made.hosts.create("# mine\n10.0.0.9\tdb\n").expect("written");
            let crashed = made.hosts.change_in_steps(std::slice::from_ref(&change), &mut crash_after(at));
            let found = text(&made.hosts.path());
            assert!(crashed.is_ok() || found.starts_with("# mine\n"), "{found}");
            assert!(
                found
                    .lines()
                    .all(|line| matches!(line, "# mine" | "10.0.0.9\tdb" | "" | "10.0.0.2\tweb.example web"))
            );
        }
    }
}

#[test]
fn links_and_whatever_is_no_file_are_refused_by_their_path() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    fs::write(at("victim"), "untouched").expect("written");
    fs::create_dir(at("elsewhere")).expect("made");
    // A directory of the engine's that is a link.
    fs::create_dir(at("run")).expect("made");
    symlink(at("elsewhere"), at("run/files")).expect("linked");
    let error =
        Files::new(at("run")).of(sandbox(), None).expect("paths").make_directory().expect_err("a link");
    assert!(error.to_string().contains("run/files"), "{error}");
    fs::remove_file(at("run/files")).expect("removed");
    fs::create_dir(at("run/files")).expect("made");
    symlink(at("elsewhere"), at("run/files").join(sandbox().to_string())).expect("linked");
    let linked = Files::new(at("run")).of(sandbox(), None).expect("paths");
    linked.make_directory().expect_err("a link");
    linked.remove().expect("the link goes");
    assert!(at("elsewhere").is_dir());
    let mut made = files(&at("run"));
    let own = made.hosts.path().parent().expect("a directory").to_owned();
    let pipe = |path: &Path| nix::unistd::mkfifo(path, Mode::S_IRWXU).expect("a pipe");
    for name in ["hosts", "resolv.conf", "resolv.conf.hash"] {
        for kind in ["link", "dangling", "directory", "pipe"] {
            let path = own.join(name);
            match kind {
                "link" => symlink(at("victim"), &path).expect("linked"),
                "dangling" => symlink(at("made-by-it"), &path).expect("linked"),
                "directory" => fs::create_dir(&path).expect("made"),
                _ => pipe(&path),
            }
            let outcome = match name {
                "hosts" => made.hosts.create("x\n"),
                _ => made.resolv.create("x\n"),
            };
            let error = outcome.expect_err(kind).to_string();
            assert!(error.contains(&path.display().to_string()), "{kind}: {error}");
            if kind == "directory" {
                fs::remove_dir(&path).expect("removed");
            } else {
                fs::remove_file(&path).expect("removed");
            }
        }
    }
    // What is in the way of a file that will replace another goes.
    symlink(at("victim"), own.join("resolv.conf.hash.new")).expect("linked");
    made.resolv.create(NEW).expect("written");
    assert_eq!(names(&own), ["resolv.conf", "resolv.conf.hash"]);
    assert_eq!(text(&at("victim")), "untouched");
    assert!(!at("made-by-it").exists());
    let long = File::create(own.join("hosts")).expect("made");
    long.set_len(LONGEST_HOSTS as u64 + 1).expect("long");
    let error = made.hosts.change(&[add(2)]).expect_err("too long").to_string();
    assert!(error.contains("longer than"), "{error}");
}

/// Set for the second run of a test.
const INSIDE: &str = "NETLOOM_DNS_TEST_INSIDE";

#[test]
fn a_write_that_fails_is_taken_back() {
    if std::env::var_os(INSIDE).is_none() {
        // A file of this process has at most 4096 bytes; who writes more is told.
        let status = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"])
            .arg(std::env::current_exe().expect("known"))
            .args(["io::tests::written::a_write_that_fails_is_taken_back", "--exact", "--nocapture"])
            .env(INSIDE, "1")
            .status()
            .expect("a shell");
        assert!(status.success(), "{status}");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut made = files(dir.path());
    let long = "#".repeat(10_000);
    made.resolv.create(&long).expect_err("too long");
    made.hosts.create(&long).expect_err("too long");
    let own = made.hosts.path().parent().expect("a directory").to_owned();
    assert_eq!(names(&own), ["resolv.conf.hash"]);
    made.hosts.create("# mine\n").expect("written");
    made.resolv.create(OLD).expect("written");
    let error = made.hosts.change(&vec![add(2); 500]).expect_err("too long");
    assert_eq!(error.certainty(), Certainty::Aborted, "{error}");
    assert!(error.to_string().contains("hosts"), "{error}");
    assert_eq!(text(&made.hosts.path()), "# mine\n");
    made.resolv.update(&long).expect_err("too long");
    assert_eq!(text(&made.resolv.path()), OLD);
    assert!(!made.resolv.is_users().expect("known"));
    assert_eq!(made.resolv.update(NEW).expect("updated"), Wrote::New);
    assert_eq!(names(&own), ["hosts", "resolv.conf", "resolv.conf.hash"]);
}

/// The bound holds in a release build; a debug build is some 15 times slower, and asks for less.
#[test]
fn ten_thousand_lines_on_the_disk_are_changed_quickly() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut made = files(dir.path());
    let mut lines = build(true, &[]).expect("built");
    for n in 0..10_000_u32 {
        let [_, a, b, c] = n.to_be_bytes();
        lines.push_str(&format!("10.{a}.{b}.{c}\thost-{n}.example.net host-{n}\n"));
    }
    made.hosts.create(&lines).expect("written");
    let mut fastest = std::time::Duration::MAX;
    for n in 0..20 {
        let change = Change::Update { name: "host-5000".into(), address: [192, 0, 2, n].into() };
        let begun = Instant::now();
        assert!(made.hosts.change(&[change]).expect("changed"));
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest.as_micros() < if cfg!(debug_assertions) { 60_000 } else { 1_000 }, "{fastest:?}");
}
