//! What names may be: one rule for all that callers name.
//!
//! Names are shown in tables, logs and errors. One that moves the cursor, reverses the text around it, or looks the same
//! as another one would tell people something else than it tells the engine.

use crate::error::{Error, ObjectKind, Reason, Result};

/// The longest name, in bytes.
pub const MAX_NAME_LEN: usize = 255;

/// Checks a name the way libnetwork does (`config.ValidateName`: not blank after trimming) and, beyond it, refuses
/// blanks at either end, control characters, characters that are not seen, and more than 255 bytes.
///
/// # Errors
/// [`Reason::InvalidName`].
pub fn check_name(object: ObjectKind, name: &str) -> Result<()> {
    let Some(why) = name_fault(name) else { return Ok(()) };
    Err(Reason::InvalidName { object, name: name.chars().take(80).collect(), why }.into())
}

/// Which rule of names this breaks.
pub(crate) fn name_fault(name: &str) -> Option<&'static str> {
    let trimmed = name.trim();
    if trimmed.is_empty() {
        Some("a name must not be blank")
    } else if name.len() > MAX_NAME_LEN {
        Some("a name has at most 255 bytes")
    } else if name.contains(char::is_control) {
        Some("a name must not contain control characters")
    } else if name.contains(is_unseen) {
        Some("a name must not contain invisible characters, or such as turn the direction of text")
    } else if trimmed.len() != name.len() {
        Some("a name must not begin or end with a blank")
    } else {
        None
    }
}

/// Characters of Unicode's category Cf that take no place: zero width, joiners, and those that set the direction.
fn is_unseen(char: char) -> bool {
    matches!(char, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// The beginning of what somebody asked for, so that it can be shown: at most 120 characters, without such as do
/// something to a terminal.
pub(crate) fn shown(query: &str) -> String {
    let mut text = String::with_capacity(query.len().min(120));
    for char in query.chars().take(120) {
        if char.is_control() || is_unseen(char) {
            text.extend(char.escape_default());
        } else {
            text.push(char);
        }
    }
    text
}

/// The error for an auxiliary address of a name that is none.
pub(crate) fn check_auxiliary(name: &str, address: std::net::IpAddr) -> Result<()> {
    let Some(why) = name_fault(name) else { return Ok(()) };
    let shown: String = name.chars().take(40).collect();
    Err(Error::invalid("auxiliary", shown, format!("it names address {address}, and {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNSEEN: [char; 8] =
        ['\u{200b}', '\u{200f}', '\u{202a}', '\u{202e}', '\u{2060}', '\u{2066}', '\u{2069}', '\u{feff}'];

    #[test]
    fn blank_and_hostile_names_are_refused() {
        for bad in ["", "  ", "\t", "a\nb", "\u{7}", " a", "a ", "a\u{a0}", &"x".repeat(256)] {
            assert!(check_name(ObjectKind::Network, bad).is_err(), "{bad:?}");
        }
        for good in ["größe 7", "网络", "a-b_c.d", &"x".repeat(255)] {
            check_name(ObjectKind::Network, good).expect("a name");
        }
        for unseen in UNSEEN {
            let name = format!("a{unseen}b");
            let error = check_name(ObjectKind::Reservation, &name).expect_err("not seen").to_string();
            assert!(error.contains("invisible") && !error.contains(unseen), "{error}");
            let error = check_auxiliary(&name, [10, 0, 0, 7].into()).expect_err("not seen").to_string();
            assert!(error.contains("10.0.0.7") && !error.contains(unseen), "{error}");
        }
    }

    #[test]
    fn what_is_not_there_is_told_without_what_a_terminal_obeys() {
        for query in ["a\u{1b}[2Jb\nc", "a\u{202e}b"] {
            let error = Error::not_found(ObjectKind::AddressSpace, query).to_string();
            assert!(!error.contains(char::is_control) && !error.contains(is_unseen), "{error:?}");
            assert!(error.starts_with("no such address space: a\\u{"), "{error}");
        }
        let error = Error::not_found(ObjectKind::Network, "größe").to_string();
        assert_eq!(error, "no such network: größe");
    }
}
