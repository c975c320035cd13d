//! A demonstration interrupted at many moments leaves nothing behind. It plays in namespaces of the test's own.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Set for the second run of the test: a directory for everything temporary.
const INSIDE: &str = "NETLOOM_TEST_INSIDE";
/// All rounds together.
const BUDGET: Duration = Duration::from_secs(10);
/// Rounds, each interrupted a little later than the one before; up to here nothing but creations happens.
const ROUNDS: u32 = 40;
const STEP: Duration = Duration::from_millis(3);

/// Links and mounts, and what the demonstration's directories hold.
fn picture(dir: &Path) -> String {
    let links = Command::new("ip").args(["-o", "address"]).output().expect("ip must be installed (iproute2)");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let entries = std::fs::read_dir(dir).expect("a directory");
    let entries: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
    format!("{}{mounts}{entries:?}", String::from_utf8_lossy(&links.stdout))
}

/// Starts a demonstration and interrupts it after `patience`; returns what it says.
fn interrupted_after(patience: Duration, dir: &Path) -> String {
    let program = Command::new(env!("CARGO_BIN_EXE_netloom"))
        .args(["demo", "--json"])
        .env("TMPDIR", dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let id = program.id().to_string();
    std::thread::sleep(patience);
    let killed = Command::new("sh").args(["-c", "kill -INT \"$0\"", &id]).status().expect("a shell");
    assert!(killed.success(), "a demonstration takes longer than {patience:?}");
    let output = program.wait_with_output().expect("ends");
    String::from_utf8(output.stdout).expect("text")
}

fn interrupt_at_many_moments(dir: &Path) {
    let before = picture(dir);
    let end = Instant::now() + BUDGET;
    let mut told = 0;
    for round in 0..ROUNDS {
        if Instant::now() >= end {
            break;
        }
        let patience = STEP * round;
        let said = interrupted_after(patience, dir);
        // Whoever is interrupted before it listens dies at once, and has done nothing.
        if !said.is_empty() {
            assert!(said.contains(r#""error":"interrupted""#), "after {patience:?}: {said}");
            assert!(said.contains(r#""leftovers":[]"#), "after {patience:?}: {said}");
            told += 1;
        }
        assert_eq!(picture(dir), before, "after {patience:?}: {said}");
    }
    assert!(told > 0, "no demonstration got as far as to listen");
}

#[test]
fn an_interrupted_demonstration_leaves_nothing() {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return interrupt_at_many_moments(Path::new(&dir));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--"])
        .arg(std::env::current_exe().expect("a test binary"))
        .args(["--exact", "an_interrupted_demonstration_leaves_nothing", "--nocapture"])
        .env(INSIDE, dir.path())
        .status()
        .expect("unshare must be installed (package util-linux)");
    assert!(status.success());
}
