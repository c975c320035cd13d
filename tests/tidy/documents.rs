//! The documents describe the code: what they name exists, what they show runs.

use std::os::unix::fs::PermissionsExt;

use crate::assert_none;
use crate::tree::{read, root, text_files};

/// The two commands with which everybody begins.
const COMMANDS: &[&str] = &["cargo run --release -- demo", "./scripts/test"];

/// The program that README.md shows, whole.
const EXAMPLE: &str = "examples/quickstart.rs";

/// Programs without a suffix.
const SCRIPTS: &[&str] = &["scripts/test", ".ci/run"];

/// Text outside fenced blocks, as `(line, text)` with lines from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        !fenced && !is_fence
    })
}

/// What stands in backticks in a line.
fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The paths that a code span means: none when it is no path of the repository, several when it has braces
/// (`a/{b,c}`).
fn paths_in(span: &str) -> Vec<String> {
    let is_path_character = |c: char| c.is_ascii_alphanumeric() || "_-./{},*".contains(c);
    if !span.chars().all(is_path_character) || span.starts_with(['/', '-']) || span.starts_with("..") {
        return Vec::new();
    }
    let is_file = [".rs", ".md", ".toml", ".lock"].iter().any(|suffix| span.ends_with(suffix));
    // `10.0.0.0/24` and `80/tcp` are no paths.
    let is_number = span.starts_with(|c: char| c.is_ascii_digit());
    if is_number || !(span.contains('/') || is_file) {
        return Vec::new();
    }
    match (span.find('{'), span.find('}')) {
        (Some(open), Some(close)) if open < close => {
            let (before, after) = (&span[..open], &span[close + 1..]);
            let choices = span[open + 1..close].split(',');
            choices.flat_map(|choice| paths_in(&format!("{before}{choice}{after}"))).collect()
        }
        _ => vec![span.trim_end_matches('*').trim_end_matches('/').to_owned()],
    }
}

/// Paths in a document that do not exist. A bare file name may be that of any file.
fn dead_paths(name: &str, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let spans = prose(text).flat_map(|(line, text)| code_spans(text).map(move |span| (line, span)));
    let paths = spans.flat_map(|(line, span)| paths_in(span).into_iter().map(move |path| (line, path)));
    paths
        .filter(|(_, path)| !exists(path))
        .map(|(line, path)| format!("{name}:{line}: `{path}` does not exist"))
        .collect()
}

/// Files and folders that a document does not name.
fn unmentioned<'a>(text: &str, folders: impl Iterator<Item = &'a String>) -> Vec<String> {
    let named: Vec<String> = prose(text).flat_map(|(_, line)| code_spans(line)).flat_map(paths_in).collect();
    let is_named = |folder: &str| {
        named.iter().any(|path| {
            path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    folders.filter(|folder| !is_named(folder)).cloned().collect()
}

/// The text of the first block fenced as Rust.
fn first_rust_block(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("\n```rust")?;
    let (_, body) = after.split_once('\n')?;
    let end = body.find("\n```")?;
    Some(&body[..=end])
}

/// What README.md lacks.
fn readme_problems(readme: &str, example: &str) -> Vec<String> {
    let mut problems: Vec<String> = COMMANDS
        .iter()
        .filter(|command| !readme.lines().any(|line| line.trim() == **command))
        .map(|command| format!("README.md: no line `{command}`"))
        .collect();
    match first_rust_block(readme) {
        None => problems.push("README.md: no ```rust block".to_owned()),
        Some(block) if block != example => {
            problems.push(format!("README.md: the first ```rust block is not {EXAMPLE}, byte for byte"));
        }
        Some(_) => {}
    }
    problems
}

/// What is wrong with the form of CHANGELOG.md (keepachangelog.com).
fn changelog_problems(text: &str) -> Vec<String> {
    const SECTIONS: &[&str] = &["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
    let mut problems = Vec::new();
    let mut say = |line: usize, what: &str| problems.push(format!("CHANGELOG.md:{line}: {what}"));
    if text.lines().next() != Some("# Changelog") {
        say(1, "the first line is not `# Changelog`");
    }
    let mut releases = 0;
    let mut in_list = false;
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(release) = line.strip_prefix("## ") {
            releases += 1;
            in_list = false;
            if releases == 1 && release != "Unreleased" {
                say(number, "the first release is not `## Unreleased`");
            }
            if releases > 1 && !is_release(release) {
                say(number, "a release is `## 1.2.3 - 2026-01-31`");
            }
        } else if let Some(section) = line.strip_prefix("### ") {
            in_list = false;
            if !SECTIONS.contains(&section) {
                say(number, &format!("`{section}` is none of {SECTIONS:?}"));
            }
        } else if line.starts_with("- ") {
            in_list = true;
            if releases == 0 {
                say(number, "an entry outside a release");
            }
        } else if releases > 0 && !line.trim().is_empty() && !(in_list && line.starts_with("  ")) {
            say(number, "neither an entry (`- …`), nor the continuation of one, nor a heading");
        }
    }
    if releases == 0 {
        say(1, "no `## Unreleased`");
    }
    if !text.lines().any(|line| line.starts_with("- ")) {
        say(1, "no entries");
    }
    problems
}

/// `1.2.3 - 2026-01-31`
fn is_release(text: &str) -> bool {
    let numbers = |text: &str, separator, lengths: &[usize]| {
        let parts: Vec<&str> = text.split(separator).collect();
        let fits = |(part, length): (&&str, &usize)| {
            part.chars().all(|c| c.is_ascii_digit())
                && !part.is_empty()
                && (*length == 0 || part.len() == *length)
        };
        parts.len() == lengths.len() && parts.iter().zip(lengths).all(fits)
    };
    text.split_once(" - ")
        .is_some_and(|(version, date)| numbers(version, '.', &[0, 0, 0]) && numbers(date, '-', &[4, 2, 2]))
}

/// The targets of links in a document that are files, without what follows `#`.
fn relative_links(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        // What stands in backticks is an example of a link.
        for part in line.split('`').step_by(2) {
            let targets = part.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            links.extend(targets.map(|(target, _)| (number, target)));
            if let Some((_, target)) = part.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) {
                links.push((number, target));
            }
        }
    }
    let files =
        links.into_iter().map(|(number, target)| (number, target.split('#').next().unwrap_or(target)));
    files
        .filter(|(_, target)| !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

/// Places that only exist on the machine where something was written.
fn machine_paths(name: &str, text: &str) -> Vec<String> {
    // Put together here, so that this file does not find itself.
    let places = [["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"]].map(|halves| halves.concat());
    let mut problems = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for place in &places {
            let starts = line.match_indices(place.as_str());
            // `target/work/` has the word and is no place on a machine.
            let is_absolute =
                |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-.".contains(c));
            if starts.into_iter().any(|(at, _)| is_absolute(at)) {
                problems.push(format!("{name}:{number}: `{place}…` is a path of one machine"));
            }
        }
    }
    problems
}

fn exists_in_repository(path: &str) -> bool {
    if path.contains('/') || root().join(path).exists() {
        return root().join(path).exists();
    }
    text_files().iter().any(|file| file.path.rsplit('/').next() == Some(path))
}

#[test]
fn the_map_names_what_exists() {
    let map = read("ARCHITECTURE.md");
    assert_none(
        "ARCHITECTURE.md is out of date:",
        &dead_paths("ARCHITECTURE.md", &map, &exists_in_repository),
    );
}

#[test]
fn the_map_names_every_crate() {
    let members = crate::dependencies::members();
    let folders = members.values().filter(|folder| !folder.is_empty());
    assert_none(
        "crates that ARCHITECTURE.md does not name:",
        &unmentioned(&read("ARCHITECTURE.md"), folders),
    );
}

#[test]
fn the_map_names_every_actor() {
    let files = crate::messages::actor_files();
    assert!(files.len() > 4, "{files:?}");
    assert_none(
        "actors that ARCHITECTURE.md does not name:",
        &unmentioned(&read("ARCHITECTURE.md"), files.iter()),
    );
}

#[test]
fn the_readme_shows_what_works() {
    assert_none("README.md is out of date:", &readme_problems(&read("README.md"), &read(EXAMPLE)));
}

#[test]
fn the_changelog_has_its_form() {
    assert_none("CHANGELOG.md:", &changelog_problems(&read("CHANGELOG.md")));
}

#[test]
fn links_lead_somewhere() {
    let mut problems = Vec::new();
    for file in text_files().iter().filter(|file| file.path.ends_with(".md")) {
        let folder = root().join(&file.path).parent().expect("a file is in a folder").to_owned();
        for (line, target) in relative_links(&file.text) {
            if !folder.join(target).exists() {
                problems.push(format!("{}:{line}: {target} does not exist", file.path));
            }
        }
    }
    assert_none("dead links:", &problems);
}

#[test]
fn scripts_can_be_run() {
    for path in SCRIPTS {
        let mode = root()
            .join(path)
            .metadata()
            .unwrap_or_else(|error| panic!("{path}: {error}"))
            .permissions()
            .mode();
        assert_eq!(mode & 0o111, 0o111, "{path} is not executable: {mode:o}");
        let text = read(path);
        assert!(text.starts_with("#!/usr/bin/env bash\n"), "{path} does not say what runs it");
        assert!(text.contains("\nset -euo pipefail\n"), "{path} goes on after an error");
    }
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let problems: Vec<String> =
        text_files().iter().flat_map(|file| machine_paths(&file.path, &file.text)).collect();
    assert_none("paths of one machine:", &problems);
}

#[cfg(test)]
mod tests {
    use super::{
        changelog_problems, dead_paths, first_rust_block, is_release, machine_paths, paths_in,
        readme_problems, relative_links, unmentioned,
    };

    #[test]
    fn spans_that_are_paths() {
        assert_eq!(paths_in("crates/kernel"), ["crates/kernel"]);
        assert_eq!(paths_in("crates/{ipam,store}/src"), ["crates/ipam/src", "crates/store/src"]);
        assert_eq!(paths_in("actors/*"), ["actors"]);
        assert_eq!(paths_in("commands.rs"), ["commands.rs"]);
        for other in [
            "Engine",
            "a::b",
            "/proc/sys",
            "10.0.0.0/8",
            "80/tcp",
            "fn(a) -> b",
            "--keep",
            "../shared",
            "a / b",
            "",
        ] {
            assert!(paths_in(other).is_empty(), "{other}");
        }
    }

    #[test]
    fn dead_paths_are_found_outside_fences() {
        let exists = |path: &str| path == "src/lib.rs";
        let text = "See `src/lib.rs` and `Engine`.\n```\n`src/gone.rs`\n```\n| `src/dead.rs` | x |\n";
        assert_eq!(dead_paths("A.md", text, &exists), ["A.md:5: `src/dead.rs` does not exist"]);
    }

    #[test]
    fn crates_are_mentioned_by_their_folder() {
        let folders = ["crates/ipam", "crates/store", "crates/kernel"].map(str::to_owned);
        let text = "`crates/ipam/src/lib.rs`, `crates/stores`, crates/kernel";
        assert_eq!(unmentioned(text, folders.iter()), ["crates/store", "crates/kernel"]);
        assert!(unmentioned("`crates/{ipam,store,kernel}`", folders.iter()).is_empty());
    }

    #[test]
    fn the_readme_needs_commands_and_the_example() {
        let example = "//! Shows.\nfn main() {}\n";
        let good = format!(
            "# N\n\n```sh\ncargo run --release -- demo\n./scripts/test\n```\n\n```rust\n{example}```\n"
        );
        assert_eq!(readme_problems(&good, example), [""; 0]);
        assert_eq!(first_rust_block(&good), Some(example));
        for (from, to) in [
            ("./scripts/test", "scripts/test"),
            ("-- demo", "-- demo --json"),
            ("fn main() {}", "fn main() { }"),
            ("```rust", "```text"),
        ] {
            assert_eq!(readme_problems(&good.replacen(from, to, 1), example).len(), 1, "{from}");
        }
    }

    #[test]
    fn the_changelog_form() {
        let good = "# Changelog\n\nWhat changed.\n\n## Unreleased\n\n### Added\n\n- One\n  thing.\n- Two.\n\n## 0.1.0 - 2026-01-31\n\n- It.\n";
        assert_eq!(changelog_problems(good), [""; 0]);
        for (from, to) in [
            ("# Changelog", "# Changes"),
            ("## Unreleased", "## Next"),
            ("### Added", "### New"),
            ("- Two.", "* Two."),
            ("  thing.", "thing."),
            ("0.1.0 - 2026-01-31", "0.1.0"),
        ] {
            assert_eq!(changelog_problems(&good.replacen(from, to, 1)).len(), 1, "{from}");
        }
        assert!(!changelog_problems("# Changelog\n").is_empty());
        assert!(is_release("1.20.3 - 2026-01-31"));
        for bad in ["1.2 - 2026-01-31", "1.2.3 - 26-01-31", "1.2.3", "a.b.c - 2026-01-31"] {
            assert!(!is_release(bad), "{bad}");
        }
    }

    #[test]
    fn links_to_files() {
        let text =
            "[a](b.md#c) [d](https://e) [f](#g) `[h](i)` [j](docs/k.md)\n[l]: m.md\n```\n[n](o)\n```\n";
        assert_eq!(relative_links(text), [(1, "b.md"), (1, "docs/k.md"), (2, "m.md")]);
    }

    #[test]
    fn paths_of_a_machine() {
        let place = ["/wo", "rk/"].concat();
        assert_eq!(machine_paths("a.md", &format!("fine\nin {place}main")).len(), 1);
        assert_eq!(machine_paths("a.md", &format!("\"{}x\"", ["/ro", "ot/"].concat())).len(), 1);
        assert!(machine_paths("a.md", &format!("out{place}x")).is_empty());
        assert!(machine_paths("a.md", "a network and its root").is_empty());
    }
}
