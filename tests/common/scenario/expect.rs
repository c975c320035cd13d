//! What is expected against what is found.

use std::fmt::{Debug, Display};

use netloom::{Certainty, Error, ErrorKind, Result};

use super::names::Names;
use super::step::Expected;

/// What is not as expected, a line each.
#[derive(Debug, Default)]
pub(crate) struct Differences(Vec<String>);

impl Differences {
    /// Compares what is expected of something, if anything is.
    pub(crate) fn check<T: PartialEq + Debug>(&mut self, what: &str, expected: Option<&T>, found: &T) {
        if let Some(expected) = expected
            && expected != found
        {
            self.add(what, expected, found);
        }
    }

    /// The same for what may be there or not; `none` stands for nothing.
    pub(crate) fn check_text(&mut self, what: &str, expected: Option<&String>, found: Option<impl Display>) {
        let found = found.map_or_else(|| "none".to_owned(), |found| found.to_string());
        self.check(what, expected, &found);
    }

    /// Only the beginning of a text is expected.
    pub(crate) fn check_prefix(&mut self, what: &str, expected: Option<&String>, found: &str) {
        if let Some(expected) = expected
            && !found.starts_with(expected.as_str())
        {
            self.add(what, &format!("{expected}…"), &found);
        }
    }

    pub(crate) fn add(
        &mut self,
        what: &str,
        expected: &(impl Debug + ?Sized),
        found: &(impl Debug + ?Sized),
    ) {
        self.0.push(format!("{what}: expected {expected:?}, found {found:?}"));
    }

    pub(crate) fn into_result(self) -> std::result::Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0.join("; ")) }
    }
}

impl Expected {
    /// Compares how a step ended with how it must.
    pub(crate) fn judge(&self, outcome: Result<()>, names: &Names) -> std::result::Result<(), String> {
        let wanted = || match (self.fails, &*self.may_fail) {
            (Some(kind), _) => format!("{kind:?}"),
            (None, []) => "success".to_owned(),
            (None, kinds) => format!("success or one of {kinds:?}"),
        };
        match outcome {
            Ok(()) if self.fails.is_none() => Ok(()),
            Ok(()) => Err(format!("expected {}, found success", wanted())),
            Err(error) if self.fails == Some(error.kind()) || self.may_fail.contains(&error.kind()) => {
                self.judge_error(&error, names)
            }
            Err(error) => Err(format!("expected {}, found {error:?}", wanted())),
        }
    }

    fn judge_error(&self, error: &Error, names: &Names) -> std::result::Result<(), String> {
        let mut differences = Differences::default();
        let text = error.to_string();
        for part in &self.says {
            let part = names.resolve_short(part)?;
            if !text.contains(&part) {
                differences.add("says", &part, &text);
            }
        }
        let remedy = error.remedy().unwrap_or_default();
        if let Some(part) = &self.remedy
            && !remedy.contains(part.as_str())
        {
            differences.add("remedy", part, &remedy);
        }
        if !self.uncertain {
            differences.check("certainty", Some(&Certainty::Aborted), &error.certainty());
        }
        differences.into_result()
    }
}

/// How something ended, in a word.
pub(crate) fn word(outcome: &Result<()>) -> String {
    match outcome {
        Ok(()) => "ok".to_owned(),
        Err(error) => kind_word(error.kind()),
    }
}

/// A kind of error as files of scenarios write it.
pub(crate) fn kind_word(kind: ErrorKind) -> String {
    let name = format!("{kind:?}");
    let mut word = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(letter.to_ascii_lowercase());
    }
    word
}
