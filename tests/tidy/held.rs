//! The documents that say which test holds what: those tests exist.

use std::collections::BTreeSet;

use crate::assert_none;
use crate::tree::{TextFile, read, rust_files, text_files};

/// Tables whose last column names tests.
const TABLES: &[&str] = &["docs/differences.md", "docs/parity.md"];

/// How a row begins its last column that no test holds yet: what brings it.
const LATER: &str = "later: ";

/// What there is that a table can name.
#[derive(Default)]
struct Known {
    /// Tests, each with the parts of its file's path, without suffix.
    tests: BTreeSet<(String, String)>,
    scenarios: BTreeSet<String>,
    packages: BTreeSet<String>,
}

impl Known {
    fn of(files: &[TextFile]) -> Self {
        let mut known = Self::default();
        for file in files {
            if file.is_rust() {
                let path = file.path.trim_end_matches(".rs").to_owned();
                known.tests.extend(tests_in(&file.text).map(|test| (path.clone(), test.to_owned())));
            } else if file.path.starts_with("tests/scenarios/") {
                known.scenarios.extend(names_in(&file.text).map(str::to_owned));
            } else if file.path.ends_with("Cargo.toml") {
                known.packages.extend(names_in(&file.text).map(str::to_owned));
            }
        }
        known
    }

    /// Whether there is what a code span names: a scenario by its name, a package, a test as `module::test`, or all tests
    /// of a module as `module::*` or by the module alone.
    fn has(&self, span: &str) -> bool {
        if let Some(name) = span.strip_prefix("scenario: ") {
            return self.scenarios.contains(name);
        }
        if self.packages.contains(span) {
            return true;
        }
        let mut parts: Vec<&str> = span.split("::").collect();
        let test =
            if parts.len() > 1 { parts.pop().filter(|last| !matches!(*last, "*" | "tests")) } else { None };
        self.tests.iter().any(|(path, name)| {
            // Tests at the end of a file are in a module of their own there.
            let inside =
                |part: &&str| matches!(*part, "*" | "tests") || path.split('/').any(|own| own == *part);
            test.is_none_or(|test| test == name) && parts.iter().all(inside)
        })
    }
}

/// Functions that are marked as tests.
fn tests_in(text: &str) -> impl Iterator<Item = &str> {
    let mut marked = false;
    text.lines().filter_map(move |line| {
        let line = line.trim_start();
        marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
        let name = function.split('(').next()?;
        std::mem::take(&mut marked).then_some(name)
    })
}

/// The values of lines `name = "…"`.
fn names_in(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
}

/// Rows of a document's tables whose last column names nothing that is there.
fn unheld(document: &str, text: &str, known: &Known) -> Vec<String> {
    let mut problems = Vec::new();
    let mut rows = 0;
    for (number, line) in (1..).zip(text.lines()) {
        let Some(row) = line.strip_prefix('|').and_then(|row| row.trim_end().strip_suffix('|')) else {
            continue;
        };
        let last = row.rsplit('|').next().unwrap_or_default().trim();
        if last == "held by" || last.chars().all(|c| c == '-') {
            continue;
        }
        rows += 1;
        let spans: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        let missing = spans.iter().filter(|span| !known.has(span));
        problems.extend(missing.map(|span| format!("{document}:{number}: no test `{span}`")));
        if spans.is_empty() && last != "the same" && !last.starts_with(LATER) {
            problems
                .push(format!("{document}:{number}: {last:?} names no test, and does not begin {LATER:?}"));
        }
    }
    if rows == 0 {
        problems.push(format!("{document}: no table says what holds"));
    }
    problems
}

#[test]
fn what_the_documents_say_is_held_by_tests_that_exist() {
    let known = Known::of(&text_files());
    let problems = TABLES.iter().flat_map(|document| unheld(document, &read(document), &known));
    assert_none("tables name tests that are not there:", &problems.collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let file = |path: &str, text: &str| TextFile { path: path.to_owned(), text: text.to_owned() };
        let rust = "#[test]\nfn it_holds() {}\n#[tokio::test(flavor = \"x\")]\nasync fn it_waits() {}\nfn helper() {}\n";
        Known::of(&[
            file("tests/api/force.rs", rust),
            file("crates/model/src/id.rs", rust),
            file("tests/scenarios/a.toml", "[[scenario]]\nname = \"one thing\"\n"),
            file("crates/model/Cargo.toml", "[package]\nname = \"netloom-model\"\n"),
        ])
    }

    #[test]
    fn what_is_there_is_found_and_nothing_else() {
        let known = known();
        for span in [
            "force::it_holds",
            "force::it_waits",
            "force::*",
            "force",
            "api::force::it_holds",
            "id::tests::it_holds",
            "id::tests",
            "netloom-model",
            "scenario: one thing",
        ] {
            assert!(known.has(span), "{span}");
        }
        for span in
            ["force::helper", "id::gone", "gone::it_holds", "gone", "scenario: another", "netloom-x", ""]
        {
            assert!(!known.has(span), "{span}");
        }
    }

    #[test]
    fn rows_that_nothing_holds_are_found() {
        let table = |last: &str| format!("| a | held by |\n|---|---|\n| b | {last} |\n");
        for good in
            ["`force::it_holds`", "`id::tests` in `netloom-model`", "later: the DNS files", "the same"]
        {
            assert_eq!(unheld("A.md", &table(good), &known()), [""; 0], "{good}");
        }
        for bad in ["`force::gone`", "`force::it_holds`, `gone`", "believed", "", "later"] {
            assert_eq!(unheld("A.md", &table(bad), &known()).len(), 1, "{bad}");
        }
        assert_eq!(unheld("A.md", "no table", &known()).len(), 1);
    }

    #[test]
    fn this_file_has_tests() {
        assert!(
            rust_files().iter().any(|file| tests_in(&file.text).any(|test| test == "this_file_has_tests"))
        );
    }
}
