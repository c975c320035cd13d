//! What fuzzing of files has kept, done again: see `scripts/fuzz`.

#[path = "../fuzz/src/files.rs"]
mod files;

use std::path::Path;

/// Does with each kept input what its target does; returns how many there are.
fn replay(target: &str, run: fn(&[u8])) -> usize {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let kept =
        std::fs::read_dir(&corpus).expect("the corpus is there").map(|entry| entry.expect("read").path());
    let mut kept: Vec<_> = kept.collect();
    kept.sort();
    for file in &kept {
        let bytes = std::fs::read(file).expect("read");
        let outcome = std::panic::catch_unwind(|| run(&bytes));
        assert!(outcome.is_ok(), "{} breaks it", file.display());
    }
    kept.len()
}

#[test]
fn kept_hosts_files_break_nothing() {
    assert!(replay("hosts", files::hosts) >= 10, "the corpus is gone");
}

#[test]
fn kept_resolv_confs_break_nothing() {
    assert!(replay("resolv", files::resolv) >= 10, "the corpus is gone");
}
