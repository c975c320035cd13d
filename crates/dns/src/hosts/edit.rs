//! Changing the text of a hosts file.

use std::net::IpAddr;

use super::{Entry, IPV4_LINES, IPV6_LINES, check_name, own_names};
use netloom_model::{ExtraHost, Result};

/// A change of a hosts file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A line at the end.
    Add(Entry),
    /// The same, unless such a line is there.
    Ensure(Entry),
    /// Without the last line that is exactly this one: taking away what was added leaves what was there before.
    Remove(Entry),
    /// Without the lines of this address, those of extra hosts included (moby, at a leave). [`Change::Remove`] takes
    /// away exactly what was added.
    RemoveAddress(IpAddr),
    /// Without this name, which is compared as a whole: `web` is not `web1`, and not `web.example`. A line goes with its
    /// last name.
    RemoveName(String),
    /// This address in all lines that have this name and an address of the same family. Nothing where there is none.
    ///
    /// Parity: libnetwork `etchosts.Update`, which does so for both families with the one address.
    Update {
        /// The name.
        name: String,
        /// Its new address.
        address: IpAddr,
    },
    /// With or without the lines of IPv6 that a file begins with.
    Ipv6(bool),
    /// What the sandbox itself is called leads to these addresses and no others.
    Own(Own),
}

/// The lines of a sandbox's own name: those that are to be there, whichever there are now. So it does not matter what
/// was written before, or whether a crash came after the writing and before the record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Own {
    names: Box<str>,
    wanted: Vec<Entry>,
    /// What extra hosts of the same name lead to, which stays.
    others: Vec<IpAddr>,
}

impl Own {
    /// The lines of these addresses; `None` for a sandbox without a host name.
    ///
    /// # Errors
    /// As [`Entry::new`].
    pub fn new(
        hostname: &str,
        domain: &str,
        addresses: &[IpAddr],
        extra: &[ExtraHost],
    ) -> Result<Option<Self>> {
        let wanted = Entry::of_endpoint(hostname, domain, addresses.iter().copied())?;
        let names: Box<str> = own_names(hostname, domain).join(" ").into();
        if names.is_empty() {
            return Ok(None);
        }
        let others = extra.iter().filter(|host| host.name == *names).map(|host| host.address).collect();
        Ok(Some(Self { names, wanted, others }))
    }

    fn stays(&self, address: &[u8]) -> bool {
        let mut all = self.wanted.iter().map(|entry| &entry.address).chain(&self.others);
        all.any(|own| own.to_string().as_bytes() == address)
    }
}

impl Change {
    /// Whether it can be made.
    ///
    /// # Errors
    /// `InvalidParameter` for a name that cannot be in such a file.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::RemoveName(name) | Self::Update { name, .. } => check_name(name),
            Self::Add(_)
            | Self::Ensure(_)
            | Self::Remove(_)
            | Self::RemoveAddress(_)
            | Self::Ipv6(_)
            | Self::Own(_) => Ok(()),
        }
    }
}

/// Makes changes in a hosts file, one after another; `None` when that leaves it as it is.
///
/// Takes a time in proportion to the length of the file, for each change.
#[must_use]
pub fn edit(text: &[u8], changes: &[Change]) -> Option<Vec<u8>> {
    let mut new: Option<Vec<u8>> = None;
    for change in changes {
        if let Some(changed) = one(new.as_deref().unwrap_or(text), change) {
            new = Some(changed);
        }
    }
    new.filter(|new| new != text)
}

fn one(text: &[u8], change: &Change) -> Option<Vec<u8>> {
    match change {
        Change::Add(entry) => Some(with_line(text, &entry.to_string())),
        Change::Ensure(entry) => {
            let line = entry.to_string();
            (!has_line(text, &line)).then(|| with_line(text, &line))
        }
        Change::Remove(entry) => {
            let line = entry.to_string();
            let mut before = 0;
            let mut last = None;
            for found in lines(text) {
                if without_end(found) == line.as_bytes() && !is_default(without_end(found)) {
                    last = Some(before..before + found.len());
                }
                before += found.len();
            }
            last.map(|at| [&text[..at.start], &text[at.end..]].concat())
        }
        Change::RemoveAddress(address) => {
            let address = address.to_string();
            each(text, address.as_bytes(), |line| (line.address == address.as_bytes()).then_some(New::Gone))
        }
        Change::RemoveName(name) => each(text, name.as_bytes(), |line| {
            line.has(name).then(|| {
                let left: Vec<&[u8]> = line.names().filter(|other| *other != name.as_bytes()).collect();
                if left.is_empty() { New::Gone } else { New::Line(line.address.to_vec(), left.join(&b' ')) }
            })
        }),
        Change::Update { name, address } => {
            let (text_of, ipv6) = (address.to_string(), address.is_ipv6());
            each(text, name.as_bytes(), |line| {
                let found = line.address.contains(&b':') == ipv6 && line.has(name);
                found.then(|| New::Line(text_of.clone().into_bytes(), line.names.to_vec()))
            })
        }
        Change::Own(own) => {
            let names = own.names.as_bytes();
            let mut new = each(text, names, |line| {
                (line.names == names && !own.stays(line.address)).then_some(New::Gone)
            });
            for line in own.wanted.iter().map(Entry::to_string) {
                let now = new.as_deref().unwrap_or(text);
                if !has_line(now, &line) {
                    new = Some(with_line(now, &line));
                }
            }
            new
        }
        Change::Ipv6(true) => with_ipv6(text),
        Change::Ipv6(false) => {
            let ours = |line: &[u8]| IPV6_LINES.iter().any(|ours| ours.as_bytes() == without_end(line));
            let kept: Vec<u8> = lines(text).filter(|line| !ours(line)).flatten().copied().collect();
            (kept.len() < text.len()).then_some(kept)
        }
    }
}

/// Puts in the lines that are not there, behind the last of those that a file begins with.
fn with_ipv6(text: &[u8]) -> Option<Vec<u8>> {
    let there = |wanted: &&&str| !lines(text).any(|line| without_end(line) == wanted.as_bytes());
    let missing: Vec<&&str> = IPV6_LINES.iter().filter(there).collect();
    if missing.is_empty() {
        return None;
    }
    let mut at = 0;
    let mut end = 0;
    for line in lines(text) {
        end += line.len();
        if is_default(without_end(line)) {
            at = end;
        }
    }
    let mut new = text[..at].to_vec();
    for line in missing {
        new = with_line(&new, line);
    }
    new.extend_from_slice(&text[at..]);
    Some(new)
}

/// The lines, each with its end.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
}

fn without_end(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

fn has_line(text: &[u8], line: &str) -> bool {
    lines(text).any(|found| without_end(found) == line.as_bytes())
}

fn is_default(line: &[u8]) -> bool {
    IPV4_LINES.iter().chain(&IPV6_LINES).any(|ours| ours.as_bytes() == line)
}

fn with_line(text: &[u8], line: &str) -> Vec<u8> {
    let mut new = Vec::with_capacity(text.len() + line.len() + 2);
    new.extend_from_slice(text);
    if !text.is_empty() && !text.ends_with(b"\n") {
        new.push(b'\n');
    }
    new.extend_from_slice(line.as_bytes());
    new.push(b'\n');
    new
}

/// A line in the engine's form.
struct Line<'a> {
    address: &'a [u8],
    names: &'a [u8],
}

impl<'a> Line<'a> {
    fn of(line: &'a [u8]) -> Option<Self> {
        let line = without_end(line);
        let tab = line.iter().position(|byte| *byte == b'\t')?;
        let (address, names) = (&line[..tab], &line[tab + 1..]);
        // An address as it is written, without looking which.
        let is_address =
            !address.is_empty() && address.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b'.' | b':'));
        let plain = |name: &[u8]| {
            !name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#')
        };
        let is_ours = is_address && names.split(|byte| *byte == b' ').all(plain) && !is_default(line);
        is_ours.then_some(Self { address, names })
    }

    fn names(&self) -> impl Iterator<Item = &'a [u8]> {
        self.names.split(|byte| *byte == b' ')
    }

    fn has(&self, name: &str) -> bool {
        self.names().any(|own| own == name.as_bytes())
    }
}

/// What becomes of a line.
enum New {
    Gone,
    Line(Vec<u8>, Vec<u8>),
}

/// Changes lines in the engine's form in which `needle` is somewhere.
fn each(text: &[u8], needle: &[u8], change: impl Fn(&Line<'_>) -> Option<New>) -> Option<Vec<u8>> {
    let mut new = Vec::new();
    // What is unchanged goes over as a whole.
    let (mut kept, mut end) = (0, 0);
    for line in lines(text) {
        let start = end;
        end += line.len();
        let changed = holds(line, needle).then(|| Line::of(line)).flatten();
        let Some(changed) = changed.and_then(|line| change(&line)) else { continue };
        if new.is_empty() {
            new.reserve(text.len() + needle.len());
        }
        new.extend_from_slice(&text[kept..start]);
        if let New::Line(address, names) = changed {
            new.extend_from_slice(&address);
            new.push(b'\t');
            new.extend_from_slice(&names);
            new.extend_from_slice(&line[without_end(line).len()..]);
        }
        kept = end;
    }
    (kept > 0).then(|| {
        new.extend_from_slice(&text[kept..]);
        new
    })
}

/// Whether these bytes are somewhere in a line: most have to be looked at no further.
fn holds(line: &[u8], needle: &[u8]) -> bool {
    needle.first().is_some_and(|first| {
        (0..line.len().saturating_sub(needle.len() - 1))
            .any(|at| line[at] == *first && line[at..].starts_with(needle))
    })
}
