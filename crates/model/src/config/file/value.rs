//! Values of a configuration file, with the places at which they stand.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::error::{Error, Reason, Result};

/// A text that is read.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    pub(super) file: Option<&'a Path>,
}

/// A key of a table, or an element of a list, and its value.
pub(super) struct Entry<'a> {
    source: Source<'a>,
    /// Its own name; an element's is that of its list.
    pub(super) name: &'a str,
    /// Its name behind those of the tables it is in.
    pub(super) key: String,
    /// Where it begins in the text.
    pub(super) at: usize,
    value: &'a DeValue<'a>,
}

/// A key behind the table it is in.
pub(super) fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

impl<'a> Source<'a> {
    /// The line of a place in the text, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
    }

    pub(super) fn error(&self, at: usize, key: &str, why: &str) -> Error {
        let file = self.file.map(|file| file.display().to_string());
        Reason::ConfigFile { file, line: self.line(at), key: key.to_owned(), why: why.to_owned() }.into()
    }

    /// What a table holds, in the order of the text.
    fn entries(self, path: &str, table: &'a DeTable<'a>) -> Vec<Entry<'a>> {
        let entry = |(name, value): (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)| Entry {
            source: self,
            name: name.get_ref(),
            key: join(path, name.get_ref()),
            at: name.span().start,
            value: value.get_ref(),
        };
        let mut entries: Vec<_> = table.iter().map(entry).collect();
        entries.sort_by_key(|entry| entry.at);
        entries
    }

    /// The same for a table whose keys are given in any case: TOML itself refuses only those spelt alike.
    pub(super) fn fields(self, path: &str, table: &'a DeTable<'a>) -> Result<Vec<Entry<'a>>> {
        let entries = self.entries(path, table);
        for (index, entry) in entries.iter().enumerate() {
            let mut before = entries.iter().take(index);
            if let Some(first) = before.find(|first| first.name.eq_ignore_ascii_case(entry.name)) {
                let first = self.line(first.at);
                return Err(entry.error(format!("it is given on line {first} already")));
            }
        }
        Ok(entries)
    }
}

impl<'a> Entry<'a> {
    /// Which of these keys it is.
    pub(super) fn named(&self, keys: &[&'static str]) -> Option<&'static str> {
        keys.iter().find(|key| key.eq_ignore_ascii_case(self.name)).copied()
    }

    pub(super) fn error(&self, why: impl AsRef<str>) -> Error {
        self.source.error(self.at, &self.key, why.as_ref())
    }

    /// It is none of these keys.
    pub(super) fn unknown(&self, keys: &[&str]) -> Error {
        self.error(format!("there is no such key; known are {}", keys.join(", ")))
    }

    fn expected(&self, what: &str) -> Error {
        self.error(format!("expected {what}, found {}", self.value.type_str()))
    }

    fn table(&self) -> Result<&'a DeTable<'a>> {
        self.value.as_table().ok_or_else(|| self.expected("a table"))
    }

    /// What its table holds, under names that are the user's.
    pub(super) fn entries(&self) -> Result<Vec<Entry<'a>>> {
        Ok(self.source.entries(&self.key, self.table()?))
    }

    /// What its table holds, under keys that are given in any case.
    pub(super) fn fields(&self) -> Result<Vec<Entry<'a>>> {
        self.source.fields(&self.key, self.table()?)
    }

    /// What each element of its list comes to.
    pub(super) fn each<T>(&self, read: impl Fn(&Entry<'a>) -> Result<T>) -> Result<Vec<T>> {
        let list = self.value.as_array().ok_or_else(|| self.expected("a list"))?;
        let element = |value: &'a Spanned<DeValue<'a>>| Entry {
            source: self.source,
            name: self.name,
            key: self.key.clone(),
            at: value.span().start,
            value: value.get_ref(),
        };
        list.iter().map(|value| read(&element(value))).collect()
    }

    pub(super) fn text(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.expected("a text in quotes"))
    }

    pub(super) fn switch(&self) -> Result<bool> {
        self.value.as_bool().ok_or_else(|| self.expected("true or false"))
    }

    pub(super) fn number<T: TryFrom<u64>>(&self) -> Result<T> {
        let number = self.value.as_integer().ok_or_else(|| self.expected("a whole number"))?;
        let number = u64::from_str_radix(number.as_str(), number.radix()).ok();
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| self.error("the number is negative or too large"))
    }

    /// A time: a number is seconds, a text has its units.
    pub(super) fn duration(&self) -> Result<Duration> {
        let time = match self.value {
            DeValue::Integer(_) => Some(Duration::from_secs(self.number()?)),
            DeValue::Float(seconds) => {
                seconds.as_str().parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            }
            DeValue::String(text) => with_units(text),
            _ => None,
        };
        time.ok_or_else(|| self.error("expected seconds, or a text such as \"30s\", \"500ms\" or \"1m30s\""))
    }

    /// A table of options: texts, and what reads as one.
    pub(super) fn options(&self) -> Result<BTreeMap<String, String>> {
        let option = |entry: Entry<'a>| {
            let text = match entry.value {
                DeValue::String(text) => text.clone().into_owned(),
                DeValue::Integer(number) => number.to_string(),
                DeValue::Float(number) => number.to_string(),
                DeValue::Boolean(switch) => switch.to_string(),
                DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                    return Err(entry.expected("a text, a number, or true or false"));
                }
            };
            Ok((entry.name.to_owned(), text))
        };
        self.entries()?.into_iter().map(option).collect()
    }
}

/// A time with its units, such as `1h30m` or `250ms`: each a whole number.
fn with_units(text: &str) -> Option<Duration> {
    let (mut rest, mut whole) = (text.trim(), None::<Duration>);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, behind) = rest.split_at(digits);
        let unit = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        let number: u64 = number.parse().ok()?;
        let part = match unit.trim() {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(60 * 60)?),
            _ => return None,
        };
        whole = Some(whole.unwrap_or_default().checked_add(part)?);
        rest = behind;
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, ms) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("1m30s", 90_000),
            (" 2h ", 7_200_000),
            ("1m 30s 5ms", 90_005),
            ("0s", 0),
        ] {
            assert_eq!(with_units(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            " ",
            "30",
            "s",
            "1d",
            "1.5s",
            "-1s",
            "1s2",
            "1m30",
            "99999999999999999999s",
            "9999999999999999999h",
        ] {
            assert_eq!(with_units(text), None, "{text:?}");
        }
    }
}
