//! Places where a test may start demonstrations, and what it looks at.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program.
pub(crate) const NETLOOM: &str = env!("CARGO_BIN_EXE_netloom");
/// Set for the second run of a test: a directory for everything temporary.
const INSIDE: &str = "NETLOOM_TEST_INSIDE";

/// Runs the test that calls this again, as root of fresh user, network and mount namespaces.
pub(crate) fn in_namespaces(test: impl FnOnce(&Path)) {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return test(Path::new(&dir));
    }
    let name = std::thread::current().name().expect("libtest names its threads").to_owned();
    let dir = tempfile::tempdir().expect("a directory");
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--"])
        .arg(std::env::current_exe().expect("a test binary"))
        .args(["--exact", &name, "--nocapture"])
        .env(INSIDE, dir.path())
        .status()
        .expect("unshare must be installed (package util-linux)");
    assert!(status.success());
}

/// The program, started by another one (`unshare …`, `nohup`), with a directory for everything temporary.
pub(crate) fn netloom(prefix: &[&str], dir: &Path, args: &[&str]) -> Command {
    let mut words = prefix.iter().chain([&NETLOOM]).chain(args);
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).env("TMPDIR", dir).stdin(Stdio::null());
    command
}

/// The write end of a pipe that nobody reads.
pub(crate) fn unread() -> Stdio {
    let (_, writer) = std::io::pipe().expect("a pipe");
    writer.into()
}

/// The disk that is always full.
pub(crate) fn full() -> Stdio {
    std::fs::File::options().write(true).open("/dev/full").expect("a device").into()
}

pub(crate) fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Text that a program wrote.
pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// Runs commands that the program told to somebody, and returns what they say.
pub(crate) fn paste<'a>(commands: impl IntoIterator<Item = &'a str>) -> String {
    let commands = commands.into_iter().collect::<Vec<_>>().join("\n");
    let output = run(Command::new("sh").args(["-ec", &commands]));
    assert!(output.status.success(), "{commands}: {output:?}");
    text(&output.stdout).to_owned()
}

/// The commands among what the program told.
pub(crate) fn commands(told: &str) -> impl Iterator<Item = &str> {
    told.lines().filter_map(|line| line.strip_prefix("  "))
}

pub(crate) fn send(signal: &str, process: u32) {
    let sent = Command::new("sh").args(["-c", "kill -\"$0\" \"$1\"", signal, &process.to_string()]).status();
    assert!(sent.expect("a shell").success(), "process {process} lives until it is told to end");
}

/// Links and mounts, and what the demonstration's directories hold.
pub(crate) fn picture(dir: &Path) -> String {
    let links = Command::new("ip").args(["-o", "address"]).output().expect("ip must be installed (iproute2)");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let entries = std::fs::read_dir(dir).expect("a directory");
    let entries: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
    format!("{}{mounts}{entries:?}", text(&links.stdout))
}

/// Waits for the picture to be what it was: the kernel destroys a namespace, and the links that end in it, after
/// it answered.
pub(crate) fn assert_becomes(before: &str, dir: &Path) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut now = picture(dir);
    while now != before && Instant::now() < deadline {
        now = picture(dir);
    }
    assert_eq!(now, before);
}

/// The cells of each row of a table, headers first.
pub(crate) fn cells(output: &Output) -> Vec<Vec<String>> {
    assert!(output.status.success(), "{output:?}");
    let rows = text(&output.stdout).lines().filter(|line| line.starts_with('│'));
    let row = |line: &str| {
        line.trim_matches('│')
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .map(str::to_owned)
            .collect()
    };
    rows.map(row).collect()
}

/// What a command has printed.
pub(crate) fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}
