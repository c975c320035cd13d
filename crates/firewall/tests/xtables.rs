//! The programs of iptables, both variants, on the real kernel: what they take and show, what they leave alone, and what
//! they refuse.

#[path = "common/mod.rs"]
mod common;
#[path = "../../kernel/tests/common/mod.rs"]
mod lab;

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{access, names, network, networks, ports};
use futures::FutureExt;
use futures::channel::oneshot;
use lab::{foreign, isolated, soon, wait};
use netloom_firewall::io::{
    Host, Installed, Programs, RunXtables, Variant, Xtables, XtablesError, XtablesFuture,
};
use netloom_firewall::iptables::{Job, Names, Saved, Version, Wanted, removal};
use netloom_firewall::{Mark, NetworkRules};
use netloom_kernel::program;
use netloom_model::{Certainty, Error, ErrorKind};
use nix::mount::{MsFlags, mount};

const BOTH: [Version; 2] = [Version::V4, Version::V6];

fn start(variant: Variant) -> Running {
    let programs = Programs::below(Path::new("/usr/sbin"), Some(variant)).expect("iptables is installed");
    running(programs)
}

fn running(programs: Programs) -> Running {
    Running(RunXtables::start(Installed::only(programs)).expect("a thread"))
}

/// The thread with the programs, asked one call at a time.
struct Running(RunXtables);

impl Running {
    fn xtables(&self) -> &dyn Xtables {
        &self.0
    }

    fn save(&self, version: Version) -> Result<Saved, XtablesError> {
        wait(self.xtables().save(self.0.chosen(), version, soon()))
    }

    fn restore(&self, version: Version, text: String, deadline: Instant) -> XtablesFuture<()> {
        let (reply, answer) = oneshot::channel();
        let variant = self.0.chosen();
        let work = move |host: &mut dyn Host| {
            let calls = host.variant(variant).expect("it is installed");
            let _ = reply.send(calls.restore(version, &text, deadline));
        };
        assert!(self.0.run(Box::new(work)));
        async move { answer.await.expect("answered") }.boxed()
    }
}

fn wanted() -> Wanted {
    let mark = Some(Mark { mask: 3, value: 1 });
    Wanted::new(&names(), mark, &networks(), &ports()).expect("fits")
}

/// What `iptables-save` shows, without what counts and the hour.
fn shown(version: Version, variant: Variant) -> Vec<String> {
    let output = Command::new(format!("{version}-{variant}-save")).output().expect("runs");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().expect("a part").to_owned()).collect()
}

/// Runs a test in a fresh network, with a lock that no other test waits for.
#[expect(clippy::print_stdout, reason = "shown when the test fails")]
fn each_variant(test: fn(Variant)) {
    for variant in Variant::ALL {
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
            let saved = || programs.save(version).expect("shown");
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
            let (ours, others): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|line| line.contains("NETLOOM"));
            assert_eq!((ours, others), (Vec::new(), before));
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

/// IPv4 is changed first, and its tables one after another.
#[test]
fn a_job_that_is_refused_at_its_end_leaves_everything_as_it_was() {
    each_variant(|variant| {
        let programs = start(variant);
        foreign(&format!("iptables-{variant} -A FORWARD -i eth7 -j DROP"));
        let job = |networks: Vec<NetworkRules>, before: Option<&Arc<Wanted>>| Job {
            names: names(),
            mark: None,
            networks: networks.into_iter().map(Arc::new).collect(),
            ports: vec![ports().into()],
            before: before.cloned(),
            versions: BOTH.into(),
        };
        let settle = |job| wait(programs.xtables().settle(job, soon()));
        let mut bad = network("br-bad", access("10.9.0.0/24"), access("fd09::/64"));
        bad.v6.as_mut().expect("there").host_address = Some("192.0.2.1".parse().expect("an address"));
        let bad = || [networks(), vec![bad.clone()]].concat();
        let all = || BOTH.map(|version| rules_of(&shown(version, variant)));
        let nothing = all();
        settle(job(bad(), None)).expect_err("IPv6 does not leave under an IPv4 address");
        assert_eq!(
            all().concat().iter().find(|line| line.contains("NETLOOM") && !line.contains("USER")),
            None
        );
        let settled = settle(job(networks(), None)).expect("taken");
        let before = all();
        assert!(settled.changes > 100 && before != nothing, "{}", settled.changes);
        settle(job(bad(), settled.wanted.as_ref())).expect_err("the same by steps");
        assert_eq!(all(), before);
        settle(job(bad(), None)).expect_err("the same after a look");
        assert_eq!(all(), before);
        assert_eq!(settle(job(networks(), None)).expect("taken").changes, 0);
        // Nobody needs anything any more.
        settle(Job { ports: Vec::new(), ..job(Vec::new(), None) }).expect("removed");
        assert_eq!(all(), nothing);
    });
}

/// Without the tables' headers: an empty table is made when it is first looked at.
fn rules_of(shown: &[String]) -> Vec<String> {
    let rules = shown.iter().filter(|line| line.starts_with("-A") || line.contains("NETLOOM"));
    rules.cloned().collect()
}

#[test]
fn who_waits_for_the_lock_in_vain_is_told_so() {
    isolated(|_| {
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .expect("a /run of its own");
        let programs = start(Variant::Legacy);
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
    assert_eq!(Programs::below(nowhere.path(), None), None);
    for version in BOTH {
        for verb in ["restore", "save"] {
            File::create(nowhere.path().join(format!("{version}-{verb}"))).expect("a file");
        }
    }
    let programs = Programs::below(nowhere.path(), None).expect("all are there");
    nowhere.close().expect("removed");
    let programs = running(programs);
    let error = wait(programs.restore(Version::V6, "*filter\nCOMMIT\n".into(), soon()));
    let text = error.expect_err("gone").to_string();
    assert!(text.contains("ip6tables-restore") && text.contains("install iptables"), "{text}");
}

#[test]
fn thirty_two_engines_at_once_do_not_meet() {
    each_variant(|variant| {
        let engines: Vec<_> = (0..32).map(|number| Names::of(&format!("e{number}"))).collect();
        let all = |names: &Names| Wanted::new(names, None, &networks(), &ports()).expect("fits");
        let work = |names: Names| {
            let (programs, wanted) = (start(variant), all(&names));
            for version in BOTH {
                let saved = programs.save(version).unwrap_or_else(|error| panic!("{error}"));
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
            let saved = programs.save(version).expect("shown");
            for names in &engines {
                assert_eq!(all(names).restore(version, &saved), None, "{names:?}");
            }
        }
    });
}
