//! Rust text without its comments and literals, so that a rule about code does not stumble over prose.

/// Replaces comments and the insides of string and character literals by blanks. Lines keep their numbers.
pub(crate) fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut after_word = false;
    while let Some(first) = rest.chars().next() {
        let blank = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else {
            literal(rest, after_word)
        };
        if blank > 0 {
            out.extend(rest[..blank].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[blank..];
            after_word = false;
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            after_word = is_word(first);
        }
    }
    out
}

/// Is it a part of an identifier?
pub(crate) fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// The lines (from 1) on which `needle` stands as a whole word, or as written when its ends are no letters.
pub(crate) fn lines_with(code: &str, needle: &str) -> Vec<usize> {
    let starts_open = needle.starts_with(is_word);
    let ends_open = needle.ends_with(is_word);
    let mut lines: Vec<usize> = code
        .match_indices(needle)
        .filter(|(at, _)| !(starts_open && code[..*at].ends_with(is_word)))
        .filter(|(at, _)| !(ends_open && code[at + needle.len()..].starts_with(is_word)))
        .map(|(at, _)| code[..at].matches('\n').count() + 1)
        .collect();
    lines.dedup();
    lines
}

/// The length of the (nesting) block comment at the start.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let here = &text[at..];
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the string or character literal at the start; 0 when there is none. After a word, a letter
/// goes on with the word and is no prefix.
fn literal(text: &str, after_word: bool) -> usize {
    let prefix = ["br", "cr", "b", "c", "r"].into_iter().find(|prefix| {
        !after_word && text.strip_prefix(prefix).is_some_and(|after| after.starts_with(['"', '#', '\'']))
    });
    let prefix = prefix.unwrap_or_default();
    let body = &text[prefix.len()..];
    let length = if prefix.ends_with('r') {
        raw_string(body)
    } else if body.starts_with('"') {
        quoted(body, '"')
    } else if body.starts_with('\'') {
        character(body)
    } else {
        0
    };
    if length == 0 { 0 } else { prefix.len() + length }
}

/// `"…"` or `#"…"#`, after the `r`; 0 for a raw identifier.
fn raw_string(body: &str) -> usize {
    let hashes = body.len() - body.trim_start_matches('#').len();
    if !body[hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let inside = &body[hashes + 1..];
    inside.find(&end).map_or(body.len(), |at| hashes + 1 + at + end.len())
}

/// A literal with escapes, up to its closing quote.
fn quoted(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        if !escaped && c == quote {
            return at + 1;
        }
        escaped = !escaped && c == '\\';
    }
    body.len()
}

/// A character literal; 0 for a lifetime.
fn character(body: &str) -> usize {
    let mut inside = body.chars().skip(1);
    match (inside.next(), inside.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted(body, '\''),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{code_only, lines_with};

    #[test]
    fn comments_and_literals_vanish_and_lines_stay() {
        let cases = [
            ("a // todo!\nb", "a b"),
            ("a /* x /* y */ \n z */ b", "a b"),
            (r#"say("todo! \" more") end"#, "say( ) end"),
            ("r#\"a \" b\"# end", "end"),
            ("r#type b'x' 'y' '\\'' 'life b\"z\"", "r#type 'life"),
            ("word\"x\" barb\"c\"", "word barb"),
        ];
        for (text, expected) in cases {
            let code = code_only(text);
            assert_eq!(code.split_whitespace().collect::<Vec<_>>().join(" "), expected, "{text}");
            assert_eq!(code.len(), text.len(), "{text}");
            assert_eq!(code.find('\n'), text.find('\n'), "{text}");
        }
    }

    #[test]
    fn words_are_whole() {
        let code = "Mutex MutexGuard\nMyMutex\ntokio::spawn(x) tokio::spawn_local\ntodo!()";
        assert_eq!(lines_with(code, "Mutex"), [1]);
        assert_eq!(lines_with(code, "tokio::spawn"), [3]);
        assert_eq!(lines_with(code, "todo!"), [4]);
        assert!(lines_with(code, "unsafe").is_empty());
    }
}
