//! The only files that are read on the allocator's account: those that name the host's name servers, and the one that
//! names the machine. Reading blocks, so the caller sees to it that this runs on a thread that may.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::host::{HostNet, HostUse};
use crate::resolv::name_servers;

/// No resolv.conf is longer; of a file that is, the rest is not read.
const LONGEST: u64 = 64 * 1024;

/// The name servers that files in the form of resolv.conf name, each as a subnet of one address. A file that
/// cannot be read names none.
///
/// Parity: libnetwork ignores such a failure too (`netutils.FindAvailableNetwork`).
#[must_use]
pub fn read_name_servers(files: &[PathBuf]) -> Vec<HostNet> {
    let mut nets: Vec<HostNet> = Vec::new();
    for text in files.iter().filter_map(|file| read(file)) {
        for address in name_servers(&text) {
            let server = HostNet { net: address.into(), used_as: HostUse::NameServer, link: None };
            if !nets.contains(&server) {
                nets.push(server);
            }
        }
    }
    nets
}

/// The identifier of the machine, in the form of `/etc/machine-id` (`machine-id(5)`): 32 hexadecimal digits, here in lower
/// case. Nothing for a file that cannot be read or holds something else, such as the `uninitialized` of an image that was
/// never booted.
#[must_use]
pub fn read_machine_id(file: &Path) -> Option<String> {
    let text = read(file)?.trim().to_ascii_lowercase();
    let valid = text.len() == 32
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        && text.bytes().any(|byte| byte != b'0');
    valid.then_some(text)
}

fn read(path: &Path) -> Option<String> {
    // A pipe or a device might never end.
    path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn found(files: &[PathBuf]) -> Vec<String> {
        read_name_servers(files).iter().map(|server| server.net.to_string()).collect()
    }

    #[test]
    fn what_can_be_read_counts_and_the_rest_does_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("one"), "nameserver 192.0.2.1\nnameserver 2001:db8::1\n").expect("written");
        fs::write(at("two"), b"\xff\xfe\nnameserver 192.0.2.2\nnameserver 192.0.2.1\n").expect("written");
        let long =
            format!("{}\nnameserver 192.0.2.3\n", "#".repeat(usize::try_from(LONGEST).expect("it fits")));
        fs::write(at("long"), long).expect("written");
        std::os::unix::fs::symlink(at("one"), at("link")).expect("linked");
        assert_eq!(found(&[at("one"), at("two")]), ["192.0.2.1/32", "2001:db8::1/128", "192.0.2.2/32"]);
        assert_eq!(found(&[at("gone"), at("link")]), ["192.0.2.1/32", "2001:db8::1/128"]);
        assert!(found(&[at("long"), at("gone"), dir.path().into(), "/dev/zero".into()]).is_empty());
        assert!(found(&[]).is_empty());
    }

    #[test]
    fn a_machine_is_named_by_32_digits_and_by_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("machine-id");
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(read_machine_id(&file), None, "it is not there");
        assert_eq!(read_machine_id(dir.path()), None);
        assert_eq!(read_machine_id(Path::new("/dev/zero")), None);
        for (text, expected) in [
            (format!("{id}\n"), Some(id)),
            (format!(" {}", id.to_uppercase()), Some(id)),
            (String::new(), None),
            ("uninitialized\n".into(), None),
            ("0".repeat(32), None),
            (id[1..].into(), None),
            (format!("{id}0"), None),
            (format!("{id}\n{id}\n"), None),
            ("01234567-89ab-cdef-0123-456789abcdef".into(), None),
            (format!("{id}{}", " ".repeat(usize::try_from(LONGEST).expect("it fits"))), Some(id)),
        ] {
            fs::write(&file, &text).expect("written");
            assert_eq!(read_machine_id(&file).as_deref(), expected, "{text:?}");
        }
        fs::write(&file, b"\xff\xfe").expect("written");
        assert_eq!(read_machine_id(&file), None);
    }
}
