//! Every actor's file begins with a table of its messages. The tables list exactly what the actors handle.

use std::collections::{BTreeMap, BTreeSet};

use crate::assert_none;
use crate::code::{code_only, is_word};
use crate::tree::{TextFile, rust_files};

/// What a message can be.
const KINDS: &[&str] = &["command", "query", "event", "outcome", "tick"];

/// An actor's table: message and kind of each row.
struct Table {
    rows: Vec<(String, String)>,
}

/// The table in the documentation at the top of a file; its header begins `| message | kind |`.
fn table(text: &str) -> Option<Table> {
    let docs = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let mut rows = docs.filter_map(cells).skip_while(|cells| !cells.starts_with(&["message", "kind"]));
    rows.next()?;
    let rows = rows.filter(|cells| !cells.iter().all(|cell| cell.chars().all(|c| "-: ".contains(c))));
    let rows = rows.map(|cells| {
        let cell = |number: usize| cells.get(number).copied().unwrap_or_default();
        (cell(0).trim_matches(['`', '[', ']']).to_owned(), cell(1).to_owned())
    });
    Some(Table { rows: rows.collect() })
}

/// The cells of a line of a table.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inside = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(inside.split('|').map(str::trim).collect())
}

/// The actor types a file makes: `impl Actor for X`.
fn actors(code: &str) -> Vec<&str> {
    code.match_indices("impl Actor for ").map(|(at, head)| word_at(&code[at + head.len()..])).collect()
}

/// `(actor, message)` of every `impl Handle<Message> for Actor`, macros included: a macro whose body has
/// `impl Handle<$…> for Actor` handles each `Message => …` that it is called with.
fn handled(code: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for (at, head) in code.match_indices("Handle<") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let Some((message, rest)) = code[at + head.len()..].split_once('>') else { continue };
        let Some(actor) = rest.strip_prefix(" for ").map(word_at) else { continue };
        if message.starts_with('$') {
            found.extend(generated(code, &code[..at]).into_iter().map(|message| (actor, message)));
        } else {
            found.push((actor, message.rsplit("::").next().unwrap_or(message)));
        }
    }
    found
}

/// The messages given to the macro that is being defined where `before` ends.
fn generated<'a>(code: &'a str, before: &str) -> Vec<&'a str> {
    let Some((_, definition)) = before.rsplit_once("macro_rules! ") else { return Vec::new() };
    arguments(code, word_at(definition))
}

/// The `Name` of each `Name => …;` in the calls `name! { … }`.
fn arguments<'a>(code: &'a str, name: &str) -> Vec<&'a str> {
    let call = format!("{name}! {{");
    let calls = code.match_indices(&call).filter(|(at, _)| !code[..*at].ends_with(is_word));
    calls.flat_map(|(at, head)| entries(&code[at + head.len()..])).collect()
}

/// The names before `=>` at the top level of a macro's braces.
fn entries(body: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0_usize, 0, Vec::new());
    let bytes = body.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' if depth == 0 => break,
            b'}' | b')' | b']' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => start = at + 1,
            b'>' if depth == 0 && at > 0 && bytes[at - 1] == b'=' && start <= at => {
                let name = body[start..at - 1].trim();
                if !name.is_empty() && name.chars().all(is_word) {
                    found.push(name);
                }
                start = body.len();
            }
            _ => {}
        }
    }
    found
}

fn word_at(text: &str) -> &str {
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

/// Everything that is wrong with the tables of one crate.
fn problems(files: &[&TextFile]) -> Vec<String> {
    let codes: Vec<(&TextFile, String)> = files.iter().map(|file| (*file, code_only(&file.text))).collect();
    let mut handles: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (_, code) in &codes {
        for (actor, message) in handled(code) {
            handles.entry(actor).or_default().insert(message);
        }
    }
    let mut problems = Vec::new();
    for (file, code) in &codes {
        for actor in actors(code) {
            let path = &file.path;
            let Some(table) = table(&file.text) else {
                problems
                    .push(format!("{path}: {actor} has no table `| message | kind | … |` in the `//!` text"));
                continue;
            };
            let handled = handles.remove(actor).unwrap_or_default();
            let mut listed = BTreeSet::new();
            for (message, kind) in &table.rows {
                if !KINDS.contains(&kind.as_str()) {
                    problems
                        .push(format!("{path}: {message} is of kind `{kind}`, which is none of {KINDS:?}"));
                }
                if !listed.insert(message.as_str()) {
                    problems.push(format!("{path}: {message} is listed twice"));
                }
                if !handled.contains(message.as_str()) {
                    problems.push(format!("{path}: {message} is listed, and {actor} does not handle it"));
                }
            }
            let missing = handled.iter().filter(|message| !listed.contains(*message));
            problems.extend(missing.map(|message| format!("{path}: {actor} handles {message}: list it")));
        }
    }
    let lost = handles
        .keys()
        .map(|actor| format!("{actor} handles messages and no file has `impl Actor for {actor}`"));
    problems.extend(lost);
    problems.extend(unhandled(&codes));
    problems
}

/// Messages that a crate declares and that nobody in it handles.
fn unhandled(codes: &[(&TextFile, String)]) -> Vec<String> {
    let handled: BTreeSet<&str> =
        codes.iter().flat_map(|(_, code)| handled(code)).map(|(_, message)| message).collect();
    let declared = codes.iter().flat_map(|(file, code)| {
        arguments(code, "messages").into_iter().map(move |message| (file.path.as_str(), message))
    });
    let dead = declared.filter(|(_, message)| !handled.contains(message));
    dead.map(|(path, message)| format!("{path}: {message} is a message that nobody handles")).collect()
}

/// The files that make the engine's actors.
pub(crate) fn actor_files() -> Vec<String> {
    let files = rust_files();
    let crates = actor_crates(&files);
    let makes_one = |file: &&&TextFile| !actors(&code_only(&file.text)).is_empty();
    crates.values().flatten().filter(makes_one).map(|file| file.path.clone()).collect()
}

/// The files of the crates below `actors/`, by crate. The runtime has no actors of its own, and those in
/// tests need no table.
fn actor_crates(files: &[TextFile]) -> BTreeMap<&str, Vec<&TextFile>> {
    let mut crates: BTreeMap<&str, Vec<&TextFile>> = BTreeMap::new();
    for file in files {
        let Some((name, rest)) = file.path.strip_prefix("actors/").and_then(|path| path.split_once('/'))
        else {
            continue;
        };
        if name != "runtime" && rest.starts_with("src/") && !rest.contains("/tests") {
            crates.entry(name).or_default().push(file);
        }
    }
    crates
}

#[test]
fn tables_list_what_actors_handle() {
    let files = rust_files();
    let crates = actor_crates(&files);
    for expected in ["services", "driver", "network", "sandbox", "controller"] {
        let files = crates.get(expected).unwrap_or_else(|| panic!("actors/{expected} has no files"));
        let has_actor = files.iter().any(|file| !actors(&code_only(&file.text)).is_empty());
        assert!(has_actor, "no actor was found in actors/{expected}");
    }
    let all: Vec<String> = crates.values().flat_map(|files| problems(files)).collect();
    assert_none("tables of messages and handlers differ:", &all);
}

#[cfg(test)]
mod tests {
    use super::{entries, handled, problems};
    use crate::tree::TextFile;

    const GOOD: &str = "//! Owns a thing.
//!
//! | message | kind | answers with |
//! |---|---|---|
//! | Make | command | () |
//! | `Show` | query | Thing |
//! | Grown | event | |
//! | Finished | outcome | |

impl Actor for ThingActor {}
messages! { Make => Result<()>; Show => Thing; }
impl Handle<Make> for ThingActor {}
impl Handle<crate::message::Finished> for ThingActor {}
macro_rules! admit {
    ($($message:ty => $pending:expr;)+) => {$(
        impl Handle<$message> for ThingActor {}
    )+};
}
admit! {
    Show => Box::new(|x| match x { Wrong => 1, _ => { Other => 2; } });
    Grown => ();
}
";

    fn check(text: &str) -> Vec<String> {
        let file = TextFile { path: "actors/thing/src/actor.rs".to_owned(), text: text.to_owned() };
        problems(&[&file])
    }

    #[track_caller]
    fn fails(from: &str, to: &str, expected: &str) {
        assert!(GOOD.contains(from), "{from}");
        let found = check(&GOOD.replacen(from, to, 1));
        assert!(found.iter().any(|problem| problem.contains(expected)), "{expected:?} is not in {found:?}");
    }

    #[test]
    fn a_true_table_passes() {
        assert_eq!(check(GOOD), [""; 0]);
        assert_eq!(handled(GOOD).len(), 4);
    }

    #[test]
    fn a_false_table_fails() {
        fails("//! | Make | command | () |\n", "", "ThingActor handles Make: list it");
        fails("//! | Grown | event | |\n", "", "ThingActor handles Grown: list it");
        fails(
            "impl Handle<Make> for ThingActor {}\n",
            "",
            "Make is listed, and ThingActor does not handle it",
        );
        fails("    Grown => ();\n", "", "Grown is listed, and ThingActor does not handle it");
        fails("| Grown | event | |", "| Grown | happening | |", "of kind `happening`");
        fails(
            "//! | Grown | event | |\n",
            "//! | Grown | event | |\n//! | Grown | event | |\n",
            "listed twice",
        );
        fails("| message | kind |", "| name | kind |", "has no table");
        fails("impl Actor for ThingActor {}", "", "no file has `impl Actor for ThingActor`");
        fails("Show => Thing; }", "Show => Thing; Dead => (); }", "Dead is a message that nobody handles");
        fails(
            "impl Handle<Make>",
            "// impl Handle<Make>",
            "Make is listed, and ThingActor does not handle it",
        );
    }

    #[test]
    fn macro_entries_are_those_of_the_top_level() {
        assert_eq!(entries("A => x(|y| { B => 1 }); C => Vec<D>; } E => 2;"), ["A", "C"]);
        assert!(entries("}").is_empty());
    }
}
