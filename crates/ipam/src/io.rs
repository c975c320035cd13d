//! The only files that are read on the allocator's account: those that name the host's name servers. Reading
//! blocks, so the caller sees to it that this runs on a thread that may.

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
            let server = HostNet { net: address.into(), used_as: HostUse::NameServer };
            if !nets.contains(&server) {
                nets.push(server);
            }
        }
    }
    nets
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
}
