//! The directory of the namespaces: what is ours in it, and what is not.

mod common;

use std::fs;
use std::time::Instant;

use common::{Lab, create_netns, inside, isolated, netns_name, soon, start, up, wait};
use netloom_kernel::{Kernel, Op, execute_all};

#[test]
fn a_symbolic_link_leads_to_no_namespace() {
    isolated(|lab| {
        lab.must(vec![create_netns("theirs")]);
        let theirs = lab.kernel.netns_path(netns_name("theirs"));
        let run_dir = lab.run_dir.with_file_name("other");
        let kernel = start(&run_dir);
        let link = kernel.netns_path(netns_name("c1"));
        std::os::unix::fs::symlink(&theirs, &link).expect("linked");
        assert_eq!(wait(kernel.namespaces(soon())).expect("listed"), []);
        let errno = |op| wait(execute_all(&kernel, vec![op], soon())).expect_err("not ours").errno;
        assert_eq!(errno(up(inside("c1"), "lo")), libc::ENOENT);
        assert_eq!(errno(Op::DeleteNetns { name: netns_name("c1") }), libc::ENOENT);
        assert_eq!(errno(create_netns("c1")), libc::EEXIST);
        assert!(fs::symlink_metadata(&link).is_ok_and(|found| found.is_symlink()));
        assert_eq!(wait(lab.kernel.namespaces(soon())).expect("listed"), [netns_name("theirs")]);
    });
}

#[test]
fn a_name_reserved_by_a_killed_process_is_freed_at_the_next_start() {
    isolated(|lab| {
        lab.must(vec![create_netns("kept")]);
        let Lab { kernel, run_dir } = lab;
        let netns = run_dir.join("netns");
        fs::write(netns.join("reserved"), "").expect("written");
        fs::write(netns.join("text"), "not ours").expect("written");
        // With the other still there it could be a name that is about to be used.
        drop(start(&run_dir));
        assert!(netns.join("reserved").exists());
        drop(kernel);
        // Its threads end by themselves, so it may take a moment until nobody else is there.
        let patience = soon();
        let mut kernel = start(&run_dir);
        while netns.join("reserved").exists() {
            assert!(Instant::now() < patience, "it is never freed");
            drop(kernel);
            std::thread::yield_now();
            kernel = start(&run_dir);
        }
        assert!(netns.join("text").exists(), "what is not empty is not ours");
        assert_eq!(wait(kernel.namespaces(soon())).expect("listed"), [netns_name("kept")]);
    });
}
