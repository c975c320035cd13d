//! The project's own rules, tested: who may depend on whom, what source files may contain, and that the
//! documents still describe the code.
//!
//! Each check is a function from text to a list of problems. Its unit tests show it failing and passing on
//! small examples; the test in the same file runs it over the repository.

mod code;
mod dependencies;
mod documents;
mod held;
mod messages;
mod source;
mod tree;
mod weight;

/// Fails with every problem on a line of its own.
#[track_caller]
fn assert_none(rule: &str, problems: &[String]) {
    assert!(problems.is_empty(), "{rule}\n  {}\n", problems.join("\n  "));
}
