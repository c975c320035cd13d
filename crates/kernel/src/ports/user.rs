//! Which process has a port.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Instant;

use netloom_model::{PortUser, Protocol};

use super::{Place, PortToHold};

/// The number of TCP's state "listening" in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// Looks for the process that has a port, in the namespace of this thread. Sockets that are bound and do not listen are
/// in no list, and other users' processes may hide theirs.
pub(super) fn find(port: PortToHold, deadline: Instant) -> Option<PortUser> {
    let lists: &[&str] = match port.protocol {
        Protocol::Tcp => &["tcp", "tcp6"],
        Protocol::Udp => &["udp", "udp6"],
        Protocol::Sctp | Protocol::Icmp => return None,
    };
    let mut found: Vec<(bool, u64)> = Vec::new();
    for list in lists {
        // A kernel without IPv6 has half of them.
        let text = fs::read_to_string(format!("/proc/thread-self/net/{list}")).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(|line| socket(line, port)));
    }
    // Whoever listens is who is meant; others may have connections from there.
    let listening: Vec<u64> =
        found.iter().filter(|(listening, _)| *listening).map(|(_, inode)| *inode).collect();
    let any = found.iter().map(|(_, inode)| *inode).collect();
    let sockets = if listening.is_empty() { any } else { listening };
    if sockets.is_empty() { None } else { owner(&sockets, deadline) }
}

/// Whether a line is of a socket that is in the way, and whether that one listens, and its number.
fn socket(line: &str, wanted: PortToHold) -> Option<(bool, u64)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    if u16::from_str_radix(port, 16).ok()? != wanted.port {
        return None;
    }
    let address = parse(address)?;
    let in_the_way = match wanted.place {
        Place::Both => true,
        // A socket on `::` may have IPv4 as well, and then is in the way of both.
        Place::One(own) => {
            address.to_canonical() == own
                || address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                || (address.is_ipv4() == own.is_ipv4() && (address.is_unspecified() || own.is_unspecified()))
        }
    };
    let listening = words.nth(1)? == LISTENING;
    let inode: u64 = words.nth(5)?.parse().ok()?;
    (in_the_way && inode != 0).then_some((listening, inode))
}

/// Reads an address as the kernel shows it: words of 32 bits in the order of this machine.
fn parse(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let text = hex.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes)
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// The process that has one of these sockets open.
fn owner(sockets: &[u64], deadline: Instant) -> Option<PortUser> {
    let links: Vec<String> = sockets.iter().map(|inode| format!("socket:[{inode}]")).collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if Instant::now() >= deadline {
            return None;
        }
        if has(&process.path(), &links) {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(PortUser { pid, command: command.trim().to_owned() });
        }
    }
    None
}

fn has(process: &Path, links: &[String]) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else { return false };
    let target = |path: &Path| fs::read_link(path).ok()?.into_os_string().into_string().ok();
    files.flatten().any(|file| target(&file.path()).is_some_and(|target| links.contains(&target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(address: &str, port: u16) -> PortToHold {
        PortToHold { place: Place::One(address.parse().expect("an address")), protocol: Protocol::Tcp, port }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_kernel_are_read() {
        let v4 = "   0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000   999        0 4711 1 f 0";
        assert_eq!(socket(v4, one("127.0.0.1", 3306)), Some((true, 4711)));
        assert_eq!(socket(v4, one("0.0.0.0", 3306)), Some((true, 4711)));
        assert_eq!(socket(v4, PortToHold { place: Place::Both, ..one("::", 3306) }), Some((true, 4711)));
        for other in [one("127.0.0.2", 3306), one("::", 3306), one("127.0.0.1", 3307)] {
            assert_eq!(socket(v4, other), None, "{other:?}");
        }
        let v6 = "   1: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 01 \
                  00000000:00000000 00:00000000 00000000     0        0 12 1 f";
        assert_eq!(socket(v6, one("192.0.2.1", 22)), Some((false, 12)));
        assert_eq!(socket(v6, one("::1", 22)), Some((false, 12)));
        let mapped = v6.replacen(&"0".repeat(32), "0000000000000000FFFF00000100007F", 1);
        assert_eq!(socket(&mapped, one("127.0.0.1", 22)), Some((false, 12)));
        let ended = v4.replace("4711", "0");
        assert_eq!(socket(&ended, one("127.0.0.1", 3306)), None, "nobody has an ended connection");
        for broken in ["", "sl local_address", "0: xx:yy", "0: 0100007F:0CEA 00000000:0000"] {
            assert_eq!(socket(broken, one("127.0.0.1", 3306)), None, "{broken}");
        }
    }
}
