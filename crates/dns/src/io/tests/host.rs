//! The host's resolv.conf, and what is told of it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::super::host::Told;
use super::super::*;
use crate::resolv::{Source, Why};

/// Far enough for anything that works.
const SOON: Duration = Duration::from_secs(20);

fn server(n: usize) -> String {
    format!("nameserver 192.0.2.{n}\n")
}

/// The name servers, as text.
fn servers(of: &HostResolv) -> String {
    of.conf.name_servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self) -> HostFile {
        HostFile::new(self.at("etc/resolv.conf"), self.at("run/systemd/resolve/resolv.conf"))
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).expect("written");
    }

    fn make(&self, name: &str) {
        fs::create_dir_all(self.at(name)).expect("made");
    }
}

#[test]
fn the_file_is_read_and_behind_the_stub_the_one_that_it_asks() {
    let host = Host::new();
    host.make("etc");
    let missing = host.file().read();
    assert_eq!((servers(&missing), missing.conf.left_out[0].why), (String::new(), Why::Unreadable));
    host.write("etc/resolv.conf", "nameserver 127.0.0.53\n");
    let stub = host.file().read();
    assert_eq!((servers(&stub), stub.source), ("127.0.0.53".into(), Source::new(host.at("etc/resolv.conf"))));
    host.make("run/systemd/resolve");
    host.write("run/systemd/resolve/resolv.conf", "# none\n");
    assert_eq!(servers(&host.file().read()), "127.0.0.53");
    host.write("run/systemd/resolve/resolv.conf", &server(1));
    let behind = host.file().read();
    let expected = Source {
        path: host.at("run/systemd/resolve/resolv.conf"),
        instead_of: Some(host.at("etc/resolv.conf")),
    };
    assert_eq!((servers(&behind), behind.source), ("192.0.2.1".into(), expected));
    assert_eq!(servers(&HostFile::plain(host.at("etc/resolv.conf")).read()), "127.0.0.53");
    host.write("etc/resolv.conf", "nameserver 127.0.0.53\nnameserver 192.0.2.9\n");
    assert_eq!(servers(&host.file().read()), "127.0.0.53 192.0.2.9");
    for unreadable in [host.dir.path(), Path::new("/dev/zero")] {
        let read = HostFile::plain(unreadable).read();
        assert_eq!(read.conf.left_out[0].why, Why::Unreadable);
    }
    fs::write(host.at("etc/resolv.conf"), "#\n".repeat(200_000)).expect("written");
    assert_eq!(host.file().read().conf.left_out[0].why, Why::LongFile);
}

#[test]
fn what_says_the_same_is_not_told_again() {
    let host = Host::new();
    host.make("etc");
    host.write("etc/resolv.conf", &server(1));
    let mut times = 0;
    let mut told = Told::new(host.file(), Arc::new(host.file().read()), |_| times += 1);
    told.look();
    host.write("etc/resolv.conf", &format!("# a comment\n{}", server(1)));
    told.look();
    host.write("etc/resolv.conf", &server(2));
    told.look();
    told.look();
    assert_eq!(times, 1);
}

/// A watch, and what it tells.
fn watch(host: &Host) -> (Watch, Receiver<Arc<HostResolv>>, Arc<HostResolv>) {
    let (tell, told) = channel();
    let (watch, now) = host
        .file()
        .watch(move |news| match news {
            News::Changed(now) => drop(tell.send(now)),
            News::Trouble(error) => panic!("{error}"),
        })
        .expect("it can be watched");
    (watch, told, now)
}

/// Waits until these are the name servers; what is told before is what was there for a moment.
#[track_caller]
fn until(told: &Receiver<Arc<HostResolv>>, expected: &str) {
    let mut seen = Vec::new();
    loop {
        match told.recv_timeout(SOON) {
            Ok(now) if servers(&now) == expected => return,
            Ok(now) => seen.push(servers(&now)),
            Err(error) => panic!("never {expected:?}: {error}; only {seen:?}"),
        }
    }
}

#[test]
fn changes_are_told_however_they_are_made() {
    let host = Host::new();
    host.make("etc");
    host.write("etc/resolv.conf", &server(1));
    let (watch, told, now) = watch(&host);
    assert_eq!(servers(&now), "192.0.2.1");
    // In place.
    host.write("etc/resolv.conf", &server(2));
    until(&told, "192.0.2.2");
    // By a new file.
    host.write("etc/new", &server(3));
    fs::rename(host.at("etc/new"), host.at("etc/resolv.conf")).expect("renamed");
    until(&told, "192.0.2.3");
    // Away, and again.
    fs::remove_file(host.at("etc/resolv.conf")).expect("removed");
    until(&told, "");
    host.write("etc/resolv.conf", &server(4));
    until(&told, "192.0.2.4");
    // By somebody who does not close it.
    let mut open = fs::OpenOptions::new().append(true).open(host.at("etc/resolv.conf")).expect("opened");
    open.write_all(server(5).as_bytes()).expect("written");
    until(&told, "192.0.2.4 192.0.2.5");
    // By another name of the file.
    fs::hard_link(host.at("etc/resolv.conf"), host.at("other")).expect("linked");
    host.write("other", &server(6));
    until(&told, "192.0.2.6");
    // Its directory goes, and comes back.
    fs::rename(host.at("etc"), host.at("old")).expect("renamed");
    until(&told, "");
    host.make("etc");
    host.write("etc/resolv.conf", &server(8));
    until(&told, "192.0.2.8");
    drop(watch);
    assert_eq!(told.recv_timeout(SOON).err(), Some(RecvTimeoutError::Disconnected), "its thread ends");
}

#[test]
fn changes_behind_links_and_behind_the_stub_are_told() {
    let host = Host::new();
    host.make("etc");
    symlink("../run/systemd/resolve/stub-resolv.conf", host.at("etc/resolv.conf")).expect("linked");
    let (_watch, told, now) = watch(&host);
    assert_eq!(servers(&now), "");
    // The directories come one by one.
    for name in ["run", "run/systemd", "run/systemd/resolve"] {
        host.make(name);
    }
    host.write("run/systemd/resolve/stub-resolv.conf", "nameserver 127.0.0.53\n");
    until(&told, "127.0.0.53");
    let behind = |n: usize| {
        host.write("run/systemd/resolve/resolv.conf.tmp", &server(n));
        let at = |name: &str| host.at("run/systemd/resolve").join(name);
        fs::rename(at("resolv.conf.tmp"), at("resolv.conf")).expect("renamed");
    };
    for n in 1..4 {
        behind(n);
        until(&told, &format!("192.0.2.{n}"));
    }
    // The link leads elsewhere: over another link, to another directory.
    host.make("elsewhere/deep");
    host.write("elsewhere/deep/resolv", &server(5));
    symlink(host.at("elsewhere"), host.at("way")).expect("linked");
    symlink(host.at("way/deep/resolv"), host.at("etc/new")).expect("linked");
    fs::rename(host.at("etc/new"), host.at("etc/resolv.conf")).expect("renamed");
    until(&told, "192.0.2.5");
    host.write("elsewhere/deep/resolv", &server(6));
    until(&told, "192.0.2.6");
    host.make("third/deep");
    host.write("third/deep/resolv", &server(7));
    symlink(host.at("third"), host.at("new-way")).expect("linked");
    fs::rename(host.at("new-way"), host.at("way")).expect("renamed");
    until(&told, "192.0.2.7");
    // In a circle.
    symlink("resolv.conf", host.at("etc/new")).expect("linked");
    fs::rename(host.at("etc/new"), host.at("etc/resolv.conf")).expect("renamed");
    until(&told, "");
    fs::remove_file(host.at("etc/resolv.conf")).expect("removed");
    host.write("etc/resolv.conf", &server(8));
    until(&told, "192.0.2.8");
}

#[test]
fn many_changes_are_told_as_few_and_the_last_is_among_them() {
    let host = Host::new();
    host.make("etc");
    host.write("etc/resolv.conf", &server(1));
    let (_watch, told, _) = watch(&host);
    for n in 2..250 {
        host.write("etc/resolv.conf", &server(n));
    }
    host.write("etc/resolv.conf", &server(250));
    let mut times = 0;
    loop {
        times += 1;
        if servers(&told.recv_timeout(SOON).expect("told")) == "192.0.2.250" {
            break;
        }
    }
    assert!(times < 250, "{times} times");
}
