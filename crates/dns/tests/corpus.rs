//! What fuzzing has kept, done again: see `scripts/fuzz`.

#[path = "../fuzz/src/targets.rs"]
mod targets;

mod common;

use std::path::Path;

use common::Random;

/// Every kept input of a target.
fn kept(target: &str) -> Vec<(String, Vec<u8>)> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files =
        std::fs::read_dir(&corpus).expect("the corpus is there").map(|entry| entry.expect("read").path());
    let mut files: Vec<_> =
        files.map(|file| (file.display().to_string(), std::fs::read(&file).expect("read"))).collect();
    files.sort();
    files
}

#[test]
fn kept_questions_break_nothing() {
    let files = kept("answer");
    for (name, bytes) in &files {
        let outcome = std::panic::catch_unwind(|| targets::answer(bytes));
        assert!(outcome.is_ok(), "{name} breaks it");
    }
    assert!(files.len() >= 10, "the corpus is gone");
}

#[test]
fn kept_replies_break_nothing() {
    let files = kept("reply");
    for (name, bytes) in &files {
        let outcome = std::panic::catch_unwind(|| targets::reply(bytes));
        assert!(outcome.is_ok(), "{name} breaks it");
    }
    assert!(files.len() >= 10, "the corpus is gone");
}

#[test]
fn damaged_questions_break_nothing() {
    let files = kept("answer");
    for seed in 0..2000 {
        let mut random = Random(seed);
        let (_, mut bytes) = files[usize::try_from(random.below(files.len() as u64)).expect("small")].clone();
        for _ in 0..1 + random.below(4) {
            let at = usize::try_from(random.below(1 + bytes.len() as u64)).expect("small");
            match random.below(3) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, u8::try_from(random.below(256)).expect("a byte")),
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << random.below(8);
                    }
                }
            }
        }
        let outcome = std::panic::catch_unwind(|| targets::answer(&bytes));
        assert!(outcome.is_ok(), "seed {seed} breaks it: {bytes:02x?}");
    }
}
