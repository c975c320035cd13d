//! Output that nobody takes ends, and the work goes on.

mod common;

use std::path::Path;
use std::process::{Output, Stdio};

use common::{assert_becomes, commands, full, in_namespaces, netloom, paste, picture, run, text, unread};

/// Runs the program with its standard output there.
fn write_to(output: Stdio, dir: &Path, args: &[&str]) -> Output {
    run(netloom(&[], dir, args).stdout(output))
}

fn assert_told_failure(output: &Output) {
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("error: cannot write to standard output: No space left on device"), "{told}");
    assert!(!told.contains("panicked"), "{told}");
}

#[test]
fn what_is_kept_can_be_taken_down_though_nobody_read_how() {
    in_namespaces(|dir| {
        let before = picture(dir);
        for (output, fails) in [(unread(), false), (full(), true)] {
            let output = write_to(output, dir, &["demo", "--keep"]);
            let told = text(&output.stderr);
            if fails {
                assert_told_failure(&output);
            } else {
                assert!(output.status.success(), "{told}");
                assert!(told.starts_with("look around with:\n"), "{told}");
            }
            let seen = paste(commands(told));
            assert_eq!(seen.matches("scope global eth0").count(), 2, "{seen}");
            assert_becomes(&before, dir);
        }
    });
}

#[test]
fn commands_hold_where_a_name_has_a_space() {
    in_namespaces(|dir| {
        let dir = dir.join("it's a place");
        std::fs::create_dir(&dir).expect("a directory");
        let before = picture(&dir);
        let output = run(&mut netloom(&[], &dir, &["demo", "--keep", "--json"]));
        assert!(output.status.success(), "{output:?}");
        assert_eq!(text(&output.stdout).lines().count(), 1, "one object and nothing else");
        paste(commands(text(&output.stderr)));
        assert_becomes(&before, &dir);
    });
}

#[test]
fn no_subcommand_panics_at_a_closed_output() {
    in_namespaces(|dir| {
        let before = picture(dir);
        let file = dir.join("figures.json");
        let file = file.to_str().expect("text");
        let demo: &[&str] = &["demo"];
        let json: &[&str] = &["demo", "--json"];
        let bench: &[&str] =
            &["bench", "churn", "--sim", "--endpoints", "8", "--networks", "1", "--json", file];
        for args in [demo, json, bench] {
            let output = write_to(unread(), dir, args);
            assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
            assert_told_failure(&write_to(full(), dir, args));
            for (closed, status) in [(unread as fn() -> Stdio, 0), (full, 1)] {
                let output = run(netloom(&[], dir, args).stdout(closed()).stderr(closed()));
                assert_eq!(output.status.code(), Some(status), "{args:?}: {output:?}");
            }
            // What was asked for is there, read or not.
            if args == bench {
                std::fs::remove_file(file).expect("the figures");
            }
        }
        assert_eq!(picture(dir), before);
    });
}
