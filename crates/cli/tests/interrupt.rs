//! A demonstration interrupted at many moments leaves nothing behind. It plays in namespaces of the test's own.

mod common;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use common::{commands, in_namespaces, netloom, paste, picture, send};

/// All rounds together.
const BUDGET: Duration = Duration::from_secs(10);
/// Rounds, each interrupted a little later than the one before; up to here nothing but creations happens.
const ROUNDS: usize = 40;
const STEP: Duration = Duration::from_millis(3);

/// What asks a demonstration to end. Tests that were started with `nohup` hand that on: a terminal that closes
/// does not end a demonstration then.
fn signals() -> Vec<&'static str> {
    let is_ours = mask("self", "SigIgn:") & 1 == 0;
    ["INT", "TERM", "QUIT"].into_iter().chain(is_ours.then_some("HUP")).collect()
}

/// A mask of signals from a process's status; the lowest bit is that of `SIGHUP`.
fn mask(process: &str, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let mask = status.lines().find_map(|line| line.strip_prefix(name)).expect("a mask");
    u64::from_str_radix(mask.trim(), 16).expect("a mask")
}

/// Starts a demonstration and interrupts it after `patience`; returns what it says.
fn interrupted_after(patience: Duration, signal: &str, dir: &Path) -> String {
    // Who quits before it listens would leave a core.
    let mut command = netloom(&["prlimit", "--core=0"], dir, &["demo", "--json"]);
    let program = command.stdout(Stdio::piped()).spawn().expect("starts");
    std::thread::sleep(patience);
    send(signal, program.id());
    let output = program.wait_with_output().expect("ends");
    String::from_utf8(output.stdout).expect("text")
}

/// Two that talk to each other, and one that comes to the published port.
const CONTAINERS: usize = 3;

#[test]
fn an_interrupted_demonstration_leaves_nothing() {
    in_namespaces(|dir| {
        let before = picture(dir);
        let end = Instant::now() + BUDGET;
        let mut told = 0;
        for (round, signal) in (0..ROUNDS).zip(signals().into_iter().cycle()) {
            if Instant::now() >= end {
                break;
            }
            let patience = STEP * u32::try_from(round).expect("a few");
            let said = interrupted_after(patience, signal, dir);
            // Whoever is interrupted before it listens dies at once, and has done nothing.
            if !said.is_empty() {
                assert!(said.contains(r#""error":"interrupted""#), "{signal} after {patience:?}: {said}");
                assert!(said.contains(r#""leftovers":[]"#), "{signal} after {patience:?}: {said}");
                told += 1;
            }
            assert_eq!(picture(dir), before, "{signal} after {patience:?}: {said}");
        }
        assert!(told > 0, "no demonstration got as far as to listen");
    });
}

/// Starts a demonstration that stays, in namespaces of its own; returns it when it stands, with what it said.
fn standing(prefix: &[&str], dir: &Path) -> (Child, BufReader<ChildStdout>, String) {
    // The last program of the prefix becomes the demonstration: the signal reaches it.
    let mut command = netloom(prefix, dir, &["demo", "--keep"]);
    let mut program = command.stdout(Stdio::piped()).spawn().expect("starts");
    let mut output = BufReader::new(program.stdout.take().expect("a pipe"));
    let mut said = String::new();
    let is_last = |said: &str| said.lines().any(|line| line == format!("  kill {}", program.id()));
    while !is_last(&said) {
        let length = output.read_line(&mut said).expect("text");
        assert!(length > 0, "ends by itself, with standard input at its end: {said}");
    }
    (program, output, said)
}

#[test]
fn every_signal_that_asks_for_the_end_ends_what_is_kept() {
    in_namespaces(|dir| {
        let before = picture(dir);
        for signal in signals() {
            let (mut program, _output, said) = standing(&["unshare", "--user", "--map-root-user"], dir);
            let look = commands(&said).filter(|line| line.starts_with("nsenter"));
            // They are for the user namespace that `unshare` made; we are outside of it.
            let enter = format!("nsenter -t {} -U --preserve-credentials ", program.id());
            let look: Vec<_> = look.map(|line| format!("{enter}{line}")).collect();
            let seen = paste(look.iter().map(String::as_str));
            assert_eq!(seen.matches("scope global eth0").count(), CONTAINERS, "{said}{seen}");
            send(signal, program.id());
            assert!(program.wait().expect("ends").success(), "{signal}");
            assert_eq!(picture(dir), before, "{signal}");
        }
    });
}

#[test]
fn what_is_kept_in_a_user_namespace_can_be_looked_at_and_ended() {
    in_namespaces(|dir| {
        let before = picture(dir);
        let (mut program, _output, said) =
            standing(&["setpriv", "--inh-caps=-all", "--bounding-set=-all"], dir);
        let seen = paste(commands(&said));
        assert_eq!(seen.matches("scope global eth0").count(), CONTAINERS, "{said}{seen}");
        assert!(program.wait().expect("ends").success());
        assert_eq!(picture(dir), before);
    });
}

#[test]
fn a_closed_terminal_does_not_end_what_nohup_started() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut program, ..) = standing(&["nohup", "unshare", "--user", "--map-root-user"], dir.path());
    let ignored = mask(&program.id().to_string(), "SigIgn:");
    send("HUP", program.id());
    send("TERM", program.id());
    assert!(program.wait().expect("ends").success());
    assert_eq!(ignored & 1, 1, "{ignored:x}");
}
