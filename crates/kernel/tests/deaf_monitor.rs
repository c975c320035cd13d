//! The monitor whose socket fails. Alone in its process: it closes a descriptor behind the library's back.

mod common;

use std::fs::{self, File};
use std::os::fd::{IntoRawFd, RawFd};

use common::{bridge, isolated, up, wait};
use futures::StreamExt;
use netloom_kernel::{Kernel, Netns};

/// The descriptor of the netlink socket that hears of links.
fn listening_socket() -> RawFd {
    let table = fs::read_to_string("/proc/thread-self/net/netlink").expect("readable");
    let listening = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        // Its groups are a bit set, and its inode is the last column.
        (columns.get(3) == Some(&"00000001")).then(|| format!("socket:[{}]", columns[columns.len() - 1]))
    };
    let sockets: Vec<_> = table.lines().filter_map(listening).collect();
    assert_eq!(sockets.len(), 1, "{table}");
    let entries = fs::read_dir("/proc/thread-self/fd").expect("readable");
    let mut numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let stands = |fd: &RawFd| {
        fs::read_link(format!("/proc/thread-self/fd/{fd}")).is_ok_and(|to| to.to_str() == Some(&sockets[0]))
    };
    numbers.find(stands).expect("it is this process's")
}

#[test]
fn a_watch_ends_when_the_monitor_fails_and_a_later_one_at_once() {
    isolated(|lab| {
        let mut early = lab.kernel.watch();
        let fd = listening_socket();
        nix::unistd::close(fd).expect("open");
        // Takes the number, and those before it that are free, so that it is not closed twice.
        while File::open("/dev/null").expect("opens").into_raw_fd() != fd {}
        // The first event wakes the monitor, which finds that its socket is none.
        lab.must(vec![bridge("br0")]);
        wait(async { while early.next().await.is_some() {} });
        assert_eq!(wait(lab.kernel.watch().next()), None);
        lab.must(vec![up(Netns::Host, "br0")]);
        assert!(lab.link(Netns::Host, "br0").expect("made").up, "everything else goes on");
    });
}
