//! What is done with files that may hold anything, and what must be true afterwards. `scripts/fuzz` looks for bytes with
//! which it is not; the test `corpus_files` does the same with those that were kept.
#![allow(dead_code, unreachable_pub, reason = "each program uses its part")]

use std::net::IpAddr;

use netloom_dns::hosts::{Change, Entry, Own, edit};
use netloom_dns::resolv::{
    EMBEDDED_SERVER, Given, LONGEST_FILE, LONGEST_LINE, MOST, Mode, Ndots, ResolvConf, Source, build,
};

/// Lines such as `+10.0.0.2 web.example web`, each a change, then an empty one, and then the file.
pub fn hosts(bytes: &[u8]) {
    let at = bytes.windows(2).position(|two| two == b"\n\n");
    let (changes, text) = at.map_or((bytes, &[][..]), |at| (&bytes[..at], &bytes[at + 2..]));
    let changes = String::from_utf8_lossy(changes);
    let mut now = text.to_vec();
    for change in changes.lines().take(16).filter_map(change) {
        let new = edit(&now, std::slice::from_ref(&change));
        let after = new.clone().unwrap_or_else(|| now.clone());
        assert!(new.is_none() || after != now, "a change that is none");
        assert_eq!(users(&now), users(&after), "a line of a user's");
        match &change {
            Change::Add(entry) => {
                let without = edit(&after, &[Change::Remove(entry.clone())]).expect("it was added");
                let mut before = now.clone();
                if !before.is_empty() && !before.ends_with(b"\n") {
                    before.push(b'\n');
                }
                assert_eq!(without, before, "added and removed is not what it was");
            }
            // One of several.
            Change::Remove(_) => {}
            again => {
                assert_eq!(edit(&after, std::slice::from_ref(again)), None, "something is left to be done");
            }
        }
        now = after;
    }
}

/// The change of a line, where it can be made.
fn change(line: &str) -> Option<Change> {
    let kind = line.chars().next()?;
    let words: Vec<&str> = line[kind.len_utf8()..].split(' ').collect();
    let address = words[0].parse::<IpAddr>();
    let change = match (kind, address) {
        ('+' | '*' | '-', Ok(address)) => {
            let entry = Entry::new(address, &words[1..]).ok()?;
            let line = entry.to_string();
            assert!(!line.contains(['\n', '\r', '\0', '#']) && line.matches('\t').count() == 1, "{line:?}");
            match kind {
                '+' => Change::Add(entry),
                '*' => Change::Ensure(entry),
                _ => Change::Remove(entry),
            }
        }
        ('@', Ok(address)) => Change::RemoveAddress(address),
        ('=', Ok(address)) => Change::Update { name: (*words.get(1)?).to_owned(), address },
        ('~', _) => Change::RemoveName(words[0].to_owned()),
        ('!', Ok(address)) => Change::Own(Own::new(words.get(1)?, "", &[address], &[]).ok()??),
        ('6', _) => Change::Ipv6(words[0].is_empty()),
        _ => return None,
    };
    change.check().ok().map(|()| change)
}

/// The lines that nobody but a user has written, each without its end; an empty last one is none.
fn users(text: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    let engines = |line: &[u8]| {
        let mut parts = line.splitn(2, |byte| *byte == b'\t');
        let (address, names) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let hex = |byte: &u8| byte.is_ascii_hexdigit() || b".:".contains(byte);
        let plain = |byte: &u8| *byte == b' ' || (byte.is_ascii_graphic() && *byte != b'#');
        !address.is_empty() && address.iter().all(hex) && !names.is_empty() && names.iter().all(plain)
    };
    lines.retain(|line| !engines(line));
    lines
}

/// One byte that says for which sandbox, and the host's file.
pub fn resolv(bytes: &[u8]) {
    let Some((kind, file)) = bytes.split_first() else { return };
    let read = ResolvConf::parse(file);
    let counts = [read.name_servers.len(), read.search.len(), read.options.len(), read.other.len()];
    assert!(counts.iter().all(|count| *count <= MOST), "{counts:?}");
    let words: Vec<String> = match kind & 8 {
        0 => Vec::new(),
        _ => String::from_utf8_lossy(file).lines().take(4).map(str::to_owned).collect(),
    };
    let servers = [IpAddr::from([192, 0, 2, 77])];
    let given =
        Given { name_servers: &servers[..usize::from(kind & 4 > 0)], search: &words, options: &words };
    for mode in [Mode::Direct { ipv6: kind & 1 > 0 }, Mode::Embedded(EMBEDDED_SERVER), Mode::Host] {
        let made = build(&read, &Source::new("/etc/resolv.conf"), &given, mode);
        assert!(!made.text.contains(['\0', '\r', '\t']), "{:?}", made.text);
        let again = ResolvConf::parse(made.text.as_bytes());
        // What is longer than what is read was given so, or has one option more.
        let words = |line: &str| line.len() <= LONGEST_LINE && line.split(' ').count() <= MOST + 1;
        let bounded = made.text.len() <= LONGEST_FILE && made.text.lines().all(words);
        assert!(!bounded || again.left_out.is_empty(), "{:?}", again.left_out);
        let (directly, embedded) = match mode {
            Mode::Direct { .. } => (true, false),
            Mode::Embedded(_) => (false, true),
            Mode::Host => (false, false),
        };
        if embedded {
            assert!(again.name_servers.len() == 1 && again.name_servers[0].address == EMBEDDED_SERVER);
            assert!(!made.upstreams.is_empty() && made.ndots != Ndots::Unsaid);
        }
        if directly {
            assert!(!again.name_servers.is_empty());
            assert!(again.name_servers.iter().all(|server| !server.is_local() && server.zone.is_none()));
            assert!(kind & 1 > 0 || again.name_servers.iter().all(|server| server.address.is_ipv4()));
        }
        // What was made is what would be made of it for the same place.
        let settled = build(&again, &Source::new("/etc/resolv.conf"), &Given::default(), Mode::Host);
        assert!(!bounded || settled.without_comments() == made.without_comments(), "{:?}", made.text);
    }
}
