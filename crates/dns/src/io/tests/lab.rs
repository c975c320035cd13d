//! What programs of a container see: their hosts file is mounted, and so it must stay the same file.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::super::*;
use crate::hosts::{Change, Entry, build};

/// A program in a mount namespace of its own, in which a hosts file is mounted; it asks glibc for names.
struct Container {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Container {
    fn start(hosts: &std::path::Path) -> Self {
        let script = "mount --bind \"$1\" /etc/hosts || exit 1\n\
                      while read -r name; do getent -s files ahosts \"$name\"; echo end; done";
        let mut child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--net", "sh", "-c", script, "sh"])
            .arg(hosts)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare must be installed");
        let ask = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, ask, answers }
    }

    /// The addresses of a name, as `getaddrinfo` has them, in order.
    fn addresses(&mut self, name: &str) -> Vec<String> {
        writeln!(self.ask, "{name}").expect("it listens");
        let mut found = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).expect("it answers") > 0, "it has ended");
            match line.split_whitespace().next() {
                Some("end") => break,
                Some(address) => found.push(address.to_owned()),
                None => {}
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn programs_of_a_container_see_what_is_written_while_the_file_is_mounted() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut files = Files::new(dir.path()).of("1".repeat(64).parse().expect("an id"), None).expect("paths");
    files.make_directory().expect("made");
    files.hosts.create(build(true, &[]).expect("built")).expect("written");
    let mut container = Container::start(&files.hosts.path());
    assert_eq!(container.addresses("localhost"), ["127.0.0.1", "::1"]);
    assert!(container.addresses("web").is_empty());
    let addresses = ["10.0.0.2".parse().expect("an address"), "fd00::2".parse().expect("an address")];
    let lines = Entry::of_endpoint("web", "example.net", addresses).expect("lines");
    let more = Entry::new([10, 0, 0, 3].into(), &["web1"]).expect("a line");
    let changes: Vec<Change> = lines.iter().cloned().map(Change::Add).chain([Change::Add(more)]).collect();
    files.hosts.change(&changes).expect("changed");
    for name in ["web", "web.example.net", "WEB"] {
        assert_eq!(container.addresses(name), ["10.0.0.2", "fd00::2"], "{name}");
    }
    assert_eq!(container.addresses("web1"), ["10.0.0.3"]);
    files
        .hosts
        .change(&[Change::Update { name: "web".into(), address: [10, 0, 0, 9].into() }])
        .expect("changed");
    assert_eq!(container.addresses("web"), ["10.0.0.9", "fd00::2"]);
    files
        .hosts
        .change(&[Change::RemoveName("web".into()), Change::RemoveName("web.example.net".into())])
        .expect("changed");
    assert!(container.addresses("web").is_empty() && container.addresses("web.example.net").is_empty());
    assert_eq!(container.addresses("web1"), ["10.0.0.3"]);
    // A new file in its place would never be seen: this is why it is written in place.
    fs::write(dir.path().join("new"), "10.0.0.7\tweb7\n").expect("written");
    fs::rename(dir.path().join("new"), files.hosts.path()).expect("renamed");
    assert!(container.addresses("web7").is_empty());
    assert_eq!(container.addresses("web1"), ["10.0.0.3"]);
}
