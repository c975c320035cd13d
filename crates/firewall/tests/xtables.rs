//! The programs of iptables, both variants, on the real kernel: what they take and show, what they leave alone, and what
//! they refuse.

#[path = "common/mod.rs"]
mod common;
#[path = "../../kernel/tests/common/mod.rs"]
mod lab;

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{names, networks, ports};
use lab::{foreign, isolated, soon, wait};
use netloom_firewall::Mark;
use netloom_firewall::io::{Programs, RunXtables, Xtables, XtablesError};
use netloom_firewall::iptables::{Names, Saved, Version, Wanted, removal};
use netloom_kernel::program;
use netloom_model::{Certainty, Error, ErrorKind};
use nix::mount::{MsFlags, mount};

const VARIANTS: [&str; 2] = ["nft", "legacy"];
const BOTH: [Version; 2] = [Version::V4, Version::V6];

fn start(variant: &str) -> RunXtables {
    let programs = Programs::below(Path::new("/usr/sbin"), variant).expect("iptables is installed");
    RunXtables::start(programs).expect("a thread")
}

fn wanted() -> Wanted {
    let mark = Some(Mark { mask: 3, value: 1 });
    Wanted::new(&names(), mark, &networks(), &ports()).expect("fits")
}

/// What `iptables-save` shows, without what counts and the hour.
fn shown(version: Version, variant: &str) -> Vec<String> {
    let output = Command::new(format!("{version}-{variant}-save")).output().expect("runs");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().expect("a part").to_owned()).collect()
}

/// Runs a test in a fresh network, with a lock that no other test waits for.
#[expect(clippy::print_stdout, reason = "shown when the test fails")]
fn each_variant(test: fn(&'static str)) {
    for variant in VARIANTS {
        isolated(move |_| {
            println!("with {variant}");
            let flags = MsFlags::empty();
            mount(Some("tmpfs"), "/run", Some("tmpfs"), flags, None::<&str>).expect("a /run of its own");
            test(variant);
        });
    }
}

#[test]
fn all_of_it_is_taken_and_shown_and_rules_of_others_stay_as_they_are() {
    each_variant(|variant| {
        let programs = start(variant);
        for version in BOTH {
            let iptables = format!("{version}-{variant}");
            for rule in [
                "-N OTHERS",
                "-A OTHERS -p tcp -m tcp --dport 22 -m comment --comment ssh -j ACCEPT",
                "-A FORWARD -i eth7 -j OTHERS",
                "-P FORWARD DROP",
                "-t nat -A PREROUTING -p udp -m udp --dport 53 -j REDIRECT --to-ports 5353",
                "-t nat -A POSTROUTING -o eth7 -j MASQUERADE",
                "-t raw -A PREROUTING -i eth7 -j NOTRACK",
            ] {
                foreign(&format!("{iptables} {rule}"));
            }
            let before = shown(version, variant);
            let saved = || wait(programs.save(version, soon())).expect("shown");
            let text = wanted().restore(version, &saved()).expect("something");
            let restore = format!("/usr/sbin/{iptables}-restore");
            program::run(Path::new(&restore), &["--noflush", "--test"], &text, soon()).expect("is taken");
            assert_eq!(shown(version, variant), before, "the trial changed something");
            wait(programs.restore(version, text, soon())).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(wanted().restore(version, &saved()), None, "it is shown otherwise");
            let (ours, others): (Vec<_>, Vec<_>) =
                shown(version, variant).into_iter().partition(|line| line.contains("NETLOOM"));
            assert_eq!(others, before);
            assert!(ours.len() > 50, "{ours:#?}");
            // What somebody flushes comes back, and nothing else changes.
            foreign(&format!("{iptables} -F NETLOOM-FORWARD"));
            foreign(&format!("{iptables} -t nat -F PREROUTING"));
            let text = wanted().restore(version, &saved()).expect("something is missing");
            wait(programs.restore(version, text, soon())).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(wanted().restore(version, &saved()), None);
            foreign(&format!(
                "{iptables} -t nat -A PREROUTING -p udp -m udp --dport 53 -j REDIRECT --to-ports 5353"
            ));
            let text = removal(&names(), version, &saved()).expect("something");
            wait(programs.restore(version, text, soon())).unwrap_or_else(|error| panic!("{error}"));
            let left: Vec<_> = shown(version, variant);
            let users = [":NETLOOM-USER -".to_owned()];
            let (ours, others): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|line| line.contains("NETLOOM"));
            assert_eq!((ours.as_slice(), others), (users.as_slice(), before));
        }
    });
}

#[test]
fn a_refused_text_changes_nothing_and_its_line_is_named() {
    each_variant(|variant| {
        let programs = start(variant);
        let before = shown(Version::V4, variant);
        let bad =
            "*filter\n:NETLOOM-FORWARD - [0:0]\n-A NETLOOM-FORWARD -p tcp --dport 80:no -j DROP\nCOMMIT\n";
        let error = wait(programs.restore(Version::V4, bad.into(), soon())).expect_err("refused");
        assert!(matches!(error, XtablesError::Program { .. }), "{error:?}");
        let text = error.to_string();
        let named = [
            &format!("iptables-{variant}-restore failed"),
            "-A NETLOOM-FORWARD -p tcp --dport 80:no -j DROP",
        ];
        assert!(named.iter().all(|part| text.contains(part)), "{text}");
        let error = Error::from(error);
        assert_eq!((error.kind(), error.certainty()), (ErrorKind::Internal, Certainty::Aborted), "{error}");
        // One that ends in the middle, as when the engine is killed while it writes.
        let half = "*filter\n:NETLOOM-FORWARD - [0:0]\n";
        wait(programs.restore(Version::V4, half.into(), soon())).expect_err("not committed");
        let ours = |line: &String| line.contains("NETLOOM");
        assert_eq!(shown(Version::V4, variant).iter().find(|line| ours(line)), None, "{before:?}");
    });
}

#[test]
fn who_waits_for_the_lock_in_vain_is_told_so() {
    isolated(|_| {
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .expect("a /run of its own");
        let programs = start("legacy");
        let text = wanted().restore(Version::V4, &Saved::default()).expect("something");
        let lock = File::create("/run/xtables.lock").expect("a file");
        lock.lock().expect("nobody else has it");
        let begin = Instant::now();
        let deadline = begin + Duration::from_millis(2_600);
        let first = programs.restore(Version::V4, text.clone(), deadline);
        let second = programs.restore(Version::V4, text.clone(), begin + Duration::from_millis(500));
        let error = wait(first).expect_err("somebody else has the lock");
        assert!(error.to_string().contains("lock"), "{error}");
        assert!(Instant::now() < deadline, "it was killed instead");
        let late = wait(second).expect_err("its time passed in the queue");
        assert!(matches!(late, XtablesError::NotStarted(Version::V4)), "{late:?}");
        assert_eq!(Error::from(late).kind(), ErrorKind::Timeout);
        drop(lock);
        wait(programs.restore(Version::V4, text, soon())).unwrap_or_else(|error| panic!("{error}"));
    });
}

#[test]
fn programs_that_are_not_there_are_told_with_what_to_do() {
    let nowhere = tempfile::tempdir().expect("a directory");
    assert_eq!(Programs::below(nowhere.path(), ""), None);
    for version in BOTH {
        for verb in ["restore", "save"] {
            File::create(nowhere.path().join(format!("{version}-{verb}"))).expect("a file");
        }
    }
    let programs = Programs::below(nowhere.path(), "").expect("all are there");
    nowhere.close().expect("removed");
    let error = wait(RunXtables::start(programs).expect("a thread").save(Version::V6, soon()));
    let text = error.expect_err("gone").to_string();
    assert!(text.contains("ip6tables-save") && text.contains("install iptables"), "{text}");
}

#[test]
fn thirty_two_engines_at_once_do_not_meet() {
    each_variant(|variant| {
        let engines: Vec<_> = (0..32).map(|number| Names::of(&format!("e{number}"))).collect();
        let all = |names: &Names| Wanted::new(names, None, &networks(), &ports()).expect("fits");
        let work = |names: Names| {
            let (programs, wanted) = (start(variant), all(&names));
            for version in BOTH {
                let saved = wait(programs.save(version, soon())).unwrap_or_else(|error| panic!("{error}"));
                let text = wanted.restore(version, &saved).expect("something");
                wait(programs.restore(version, text, soon())).unwrap_or_else(|error| panic!("{error}"));
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = engines.iter().map(|names| scope.spawn(|| work(names.clone()))).collect();
            threads.into_iter().for_each(|thread| thread.join().expect("no error"));
        });
        let programs = start(variant);
        for version in BOTH {
            let saved = wait(programs.save(version, soon())).expect("shown");
            for names in &engines {
                assert_eq!(all(names).restore(version, &saved), None, "{names:?}");
            }
        }
    });
}
