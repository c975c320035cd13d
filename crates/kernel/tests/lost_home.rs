//! The namespace thread that cannot get home. Alone in its process: it closes a descriptor behind the
//! library's back.

mod common;

use std::fs::{self, File};
use std::os::fd::{IntoRawFd, RawFd};

use common::{create_netns, inside, isolated, soon, up, wait};
use netloom_kernel::{Kernel, Netns};

fn whereabouts() -> String {
    fs::read_link("/proc/thread-self/ns/net").expect("readable").to_str().expect("ASCII").to_owned()
}

/// The descriptors of this process that stand for a namespace.
fn descriptors_of(namespace: &str) -> Vec<RawFd> {
    let entries = fs::read_dir("/proc/thread-self/fd").expect("readable");
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let stands = |fd: &RawFd| {
        fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|to| to.to_str() == Some(namespace))
    };
    numbers.filter(stands).collect()
}

#[test]
fn a_thread_that_cannot_get_home_is_replaced() {
    isolated(|lab| {
        let home = whereabouts();
        lab.must(vec![create_netns("c1")]);
        let way_back = home.clone();
        let sabotage = Box::new(move || {
            let fds = descriptors_of(&way_back);
            assert_eq!(fds.len(), 1, "the thread keeps one way home");
            for fd in fds {
                nix::unistd::close(fd).expect("open");
                // Takes the number, so that it is not closed twice.
                assert_eq!(File::open("/dev/null").expect("opens").into_raw_fd(), fd);
            }
        });
        // The job itself succeeds; only its thread is spoilt.
        wait(lab.kernel.run_in(inside("c1"), sabotage, soon())).expect("runs");
        assert_eq!(lab.run(Netns::Host, whereabouts), home, "a thread in the right place serves");
        lab.must(vec![up(inside("c1"), "lo"), create_netns("c2"), up(inside("c2"), "lo")]);
        assert_eq!(lab.links(Netns::Host).len(), 1);
    });
}
