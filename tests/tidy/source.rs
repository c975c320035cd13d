//! Rules about source files: what they begin with, how long they are, what they do not contain.

use std::fmt::Write as _;

use crate::assert_none;
use crate::code::{code_only, lines_with};
use crate::tree::{TextFile, read, rust_files};

/// No file may be longer.
const LONGEST: usize = 800;

/// Above this a file must be named in [`LONG_FILES`].
const LONG: usize = 500;

/// The files that are longer than [`LONG`] lines, each for a reason. The list may only shrink.
const LONG_FILES: &[&str] = &[
    // Every error of the engine with its text and remedy: one table, read as one.
    "crates/model/src/error.rs",
];

/// Something that code must not contain.
struct Ban {
    /// The words.
    needle: &'static str,
    /// Folders in which they are banned.
    folders: &'static [&'static str],
    /// Files and folders below those in which they are not.
    except: &'static [&'static str],
    /// What to do instead.
    reason: &'static str,
}

/// Where code runs on an engine's threads, or beside them.
const ENGINE: &[&str] = &["actors/", "src/"];
const EVERYWHERE: &[&str] = &["actors/", "benches/", "crates/", "examples/", "src/", "tests/"];

const BANS: &[Ban] = &[
    Ban {
        needle: "unsafe",
        folders: EVERYWHERE,
        except: &["crates/kernel/"],
        reason: "only the kernel crate talks to the operating system without a net",
    },
    Ban {
        needle: "tokio::spawn",
        folders: ENGINE,
        except: &[],
        reason: "tasks belong to an actor: `Cx::run`, or `TaskGroup::spawn`",
    },
    Ban {
        needle: "task::spawn",
        folders: ENGINE,
        except: &[],
        reason: "tasks belong to an actor: `Cx::run`, or `TaskGroup::spawn`",
    },
    Ban {
        needle: "Mutex",
        folders: ENGINE,
        except: &[
            // A test's scripted driver: `Driver` is `Send + Sync`, and the test reads what it was asked.
            "actors/network/tests/network.rs",
            // Primitives that other threads reach, as tokio's own are inside: held for a few instructions, over no
            // state of the engine. The ends of callers' waits, and the tasks that wait for a cancellation.
            "actors/runtime/src/deadline.rs",
            "actors/runtime/src/op.rs",
            // Holds the sender whose drop ends the thread, touched once, when the last handle goes.
            "actors/runtime/src/thread.rs",
        ],
        reason: "state has one owner: send it a message",
    },
    Ban {
        needle: "RwLock",
        folders: ENGINE,
        except: &[],
        reason: "state has one owner: send it a message, or read a `ReadModel`",
    },
    Ban { needle: "thread::sleep", folders: ENGINE, except: &[], reason: "nothing blocks an engine thread" },
    Ban { needle: "#[ignore", folders: EVERYWHERE, except: &[], reason: "a test runs or does not exist" },
    Ban { needle: "todo!", folders: EVERYWHERE, except: &[], reason: "finish it or leave it out" },
    Ban { needle: "unimplemented!", folders: EVERYWHERE, except: &[], reason: "finish it or leave it out" },
    Ban {
        needle: "should_panic",
        folders: EVERYWHERE,
        except: &[],
        reason: "assert on the panic's message: `std::panic::catch_unwind`, or on an error",
    },
];

/// Uses of what is banned.
fn banned(path: &str, text: &str) -> Vec<String> {
    let code = code_only(text);
    let within = |folders: &[&str]| folders.iter().any(|folder| path.starts_with(folder));
    let bans = BANS.iter().filter(|ban| within(ban.folders) && !within(ban.except));
    bans.flat_map(|ban| {
        let lines = lines_with(&code, ban.needle).into_iter();
        lines.map(move |line| format!("{path}:{line}: `{}`: {}", ban.needle, ban.reason))
    })
    .collect()
}

/// A file says what it is for before anything else.
fn without_module_doc(path: &str, text: &str) -> Option<String> {
    (!text.starts_with("//! ")).then(|| format!("{path}:1: the first line is not `//! …`"))
}

/// Files that are too long, and names in `listed` that no longer need to be there.
fn too_long(lengths: &[(String, usize)], listed: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, lines) in lengths {
        let is_listed = listed.contains(&path.as_str());
        if *lines > LONGEST {
            problems.push(format!("{path}: {lines} lines, at most {LONGEST}: split it"));
        } else if *lines > LONG && !is_listed {
            problems.push(format!("{path}: {lines} lines, at most {LONG} without a place in LONG_FILES"));
        } else if *lines <= LONG && is_listed {
            problems.push(format!("{path}: {lines} lines: take it off LONG_FILES"));
        }
    }
    let exists = |name: &&&str| lengths.iter().any(|(path, _)| path == **name);
    let gone = listed.iter().filter(|name| !exists(name));
    problems.extend(gone.map(|name| format!("{name}: does not exist: take it off LONG_FILES")));
    problems
}

/// Does this manifest take the workspace's lints?
fn takes_workspace_lints(manifest: &str) -> bool {
    let mut section = "";
    manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            section = line;
        }
        match section {
            "[lints]" => line == "workspace = true",
            _ => line == "lints.workspace = true" && section.is_empty(),
        }
    })
}

fn lengths(files: &[TextFile]) -> Vec<(String, usize)> {
    files.iter().map(|file| (file.path.clone(), file.text.lines().count())).collect()
}

#[test]
fn code_is_free_of_what_is_banned() {
    let problems: Vec<String> = rust_files().iter().flat_map(|file| banned(&file.path, &file.text)).collect();
    assert_none("banned in code:", &problems);
}

#[test]
fn exceptions_for_files_are_used() {
    let files = rust_files();
    for ban in BANS {
        // A folder's exception is a rule, whether or not somebody uses it today.
        for exception in ban.except.iter().filter(|exception| exception.ends_with(".rs")) {
            let used = files.iter().filter(|file| file.is_in(&[exception]));
            let uses: usize = used.map(|file| lines_with(&code_only(&file.text), ban.needle).len()).sum();
            assert!(uses > 0, "`{}` is not used in {exception} any more: end the exception", ban.needle);
        }
    }
}

#[test]
fn every_file_begins_with_its_purpose() {
    let problems: Vec<String> =
        rust_files().iter().filter_map(|file| without_module_doc(&file.path, &file.text)).collect();
    assert_none("module documentation is missing:", &problems);
}

#[test]
fn files_stay_short() {
    assert_none("files are too long:", &too_long(&lengths(&rust_files()), LONG_FILES));
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    let mut problems = String::new();
    for (name, folder) in crate::dependencies::members() {
        let manifest =
            if folder.is_empty() { "Cargo.toml".to_owned() } else { format!("{folder}/Cargo.toml") };
        if !takes_workspace_lints(&read(&manifest)) {
            writeln!(problems, "{name}: {manifest} has no `[lints] workspace = true`").expect("a string");
        }
    }
    assert!(problems.is_empty(), "{problems}");
}

#[cfg(test)]
mod tests {
    use super::{banned, takes_workspace_lints, too_long, without_module_doc};

    #[test]
    fn bans_find_code_and_only_code() {
        let text = "//! Uses tokio::spawn.\nfn f() { tokio::spawn(async {}); }\nlet s = \"todo!\";";
        assert_eq!(
            banned("actors/network/src/actor.rs", text),
            ["actors/network/src/actor.rs:2: `tokio::spawn`: tasks belong to an actor: `Cx::run`, or \
              `TaskGroup::spawn`"]
        );
        assert!(banned("crates/testkit/src/lib.rs", text).is_empty());
        for ban in super::BANS {
            let line = format!("fn f() {{ {} }}", ban.needle);
            let inside = format!("{}network/src/actor.rs", ban.folders[0]);
            assert!(!banned(&inside, &line).is_empty(), "{}", ban.needle);
            for exception in ban.except {
                let inside = if exception.ends_with('/') {
                    format!("{exception}x.rs")
                } else {
                    (*exception).to_owned()
                };
                assert!(banned(&inside, &line).iter().all(|found| !found.contains(ban.needle)), "{inside}");
            }
        }
    }

    #[test]
    fn module_docs_come_first() {
        assert_eq!(without_module_doc("a.rs", "//! What it is.\n"), None);
        for text in ["", "// A comment.\n", "use a;\n//! Late.\n", "//!\n"] {
            assert!(without_module_doc("a.rs", text).is_some(), "{text:?}");
        }
    }

    #[test]
    fn length_has_two_limits() {
        let lengths = |lines| vec![("a.rs".to_owned(), lines)];
        assert!(too_long(&lengths(500), &[]).is_empty());
        assert!(too_long(&lengths(501), &["a.rs"]).is_empty());
        assert_eq!(too_long(&lengths(501), &[]).len(), 1, "not listed");
        assert_eq!(too_long(&lengths(801), &["a.rs"]).len(), 1, "too long even for the list");
        assert_eq!(too_long(&lengths(500), &["a.rs"]).len(), 1, "listed without need");
        assert_eq!(too_long(&lengths(1), &["gone.rs"]).len(), 1, "listed and gone");
    }

    #[test]
    fn lints_come_from_the_workspace() {
        assert!(takes_workspace_lints("[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"));
        assert!(takes_workspace_lints("lints.workspace = true\n[package]\n"));
        assert!(!takes_workspace_lints("[package]\nname = \"a\"\n"));
        assert!(!takes_workspace_lints("[lints]\n[dependencies]\nworkspace = true\n"));
        assert!(!takes_workspace_lints("[lints.rust]\nworkspace = true\n"));
    }
}
