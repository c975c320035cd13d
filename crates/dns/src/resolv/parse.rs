//! Reading resolv.conf.

use super::{LONGEST_FILE, LONGEST_LINE, LeftOut, MOST, NameServer, ResolvConf, Why};

/// One line without its comment, as text; `None` where it is not text.
///
/// Tabs and carriage returns are blanks. Everything else that is no printable character makes a line useless: it
/// would come out of here as something else than it went in.
fn words(line: &[u8]) -> Option<Vec<&str>> {
    let end = line.iter().position(|byte| matches!(byte, b'#' | b';')).unwrap_or(line.len());
    let line = std::str::from_utf8(&line[..end]).ok()?;
    let words: Vec<&str> =
        line.split([' ', '\t', '\r', '\u{b}', '\u{c}']).filter(|w| !w.is_empty()).collect();
    let printable = |word: &&str| !word.contains(|c: char| c.is_control() || c.is_whitespace());
    words.iter().all(printable).then_some(words)
}

/// Adds to a list what has a place in it.
fn add<T>(list: &mut Vec<T>, item: T) -> Result<(), Why> {
    if list.len() >= MOST {
        return Err(Why::TooMany);
    }
    list.push(item);
    Ok(())
}

impl ResolvConf {
    /// Reads a file, whatever is in it.
    ///
    /// A `#` or `;` begins a comment wherever it stands. Of several `search` and `domain` lines the last counts
    /// (`domain` is a `search` of one word); the options of all `options` lines do, as in glibc, musl and moby, where
    /// libnetwork took the last line's. What is no such line is kept as it is, in its order.
    ///
    /// Parity: libnetwork `resolvconf.GetNameservers`, `GetSearchDomains`, `GetOptions`; moby `resolvconf.Parse`.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let mut read = Self::default();
        let (bytes, cut) = match bytes.get(..LONGEST_FILE) {
            Some(head) if bytes.len() > LONGEST_FILE => (head, true),
            _ => (bytes, false),
        };
        let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        if cut {
            // Half a line may say something else than the whole.
            lines.pop();
        }
        let mut search_line = None;
        for (number, line) in (1..).zip(lines) {
            let unread = |why| LeftOut::new(Some(number), &String::from_utf8_lossy(line), why);
            if line.len() > LONGEST_LINE {
                read.left_out(unread(Why::LongLine));
                continue;
            }
            let Some(words) = words(line) else {
                read.left_out(unread(Why::NotText));
                continue;
            };
            if matches!(words.first(), Some(&("search" | "domain"))) && words.len() > 1 {
                if let Some((number, text)) = search_line.replace((number, words.join(" "))) {
                    read.left_out(LeftOut::new(Some(number), &text, Why::Replaced));
                }
                read.search.clear();
            }
            read.line(number, &words);
        }
        if cut {
            read.left_out(LeftOut::new(None, "", Why::LongFile));
        }
        read
    }

    fn line(&mut self, number: usize, words: &[&str]) {
        let Some((&keyword, rest)) = words.split_first() else { return };
        let mut refused = Vec::new();
        match (keyword, rest) {
            ("nameserver" | "search" | "domain" | "options", []) => {
                refused.push((keyword.into(), Why::Empty));
            }
            // Resolvers take the first word and look at no other.
            ("nameserver", [address, ..]) => {
                let server = address.parse::<NameServer>();
                let added = server.and_then(|server| match self.name_servers.contains(&server) {
                    true => Err(Why::Twice),
                    false => add(&mut self.name_servers, server),
                });
                refused.extend(added.err().map(|why| (format!("nameserver {address}"), why)));
            }
            ("search" | "domain", domains) => {
                let domains = if keyword == "domain" { &domains[..1] } else { domains };
                for domain in domains {
                    let added = add(&mut self.search, (*domain).to_owned());
                    refused.extend(added.err().map(|why| ((*domain).to_owned(), why)));
                }
            }
            ("options", options) => {
                for option in options {
                    let added = add(&mut self.options, (*option).to_owned());
                    refused.extend(added.err().map(|why| ((*option).to_owned(), why)));
                }
            }
            _ => {
                let line = words.join(" ");
                refused.extend(add(&mut self.other, line.clone()).err().map(|why| (line, why)));
            }
        }
        for (what, why) in refused {
            self.left_out(LeftOut::new(Some(number), &what, why));
        }
    }

    /// Notes it, unless there is enough of that.
    fn left_out(&mut self, what: LeftOut) {
        if self.left_out.len() < MOST {
            self.left_out.push(what);
        }
    }
}
