//! What fuzzing has kept, done again: see `scripts/fuzz`.

#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::path::Path;

/// Does with each kept input what its target does; returns how many there are.
fn replay(target: &str, run: fn(&[u8])) -> usize {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files =
        std::fs::read_dir(&corpus).expect("the corpus is there").map(|entry| entry.expect("read").path());
    let mut files: Vec<_> = files.collect();
    files.sort();
    for file in &files {
        let bytes = std::fs::read(file).expect("read");
        let outcome = std::panic::catch_unwind(|| run(&bytes));
        assert!(outcome.is_ok(), "{} breaks it", file.display());
    }
    files.len()
}

#[test]
fn kept_images_break_nothing() {
    assert!(replay("image", targets::image) >= 10, "the corpus is gone");
}

#[test]
fn kept_pool_texts_break_nothing() {
    assert!(replay("pools", targets::pools) >= 10, "the corpus is gone");
}
