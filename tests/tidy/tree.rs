//! The repository's files.

use std::fs;
use std::path::{Path, PathBuf};

/// What is no part of the repository: build output, version control, editors' folders.
const SKIPPED: &[&str] = &["target", ".git", ".idea", ".vscode"];

/// A text file of the repository.
pub(crate) struct TextFile {
    /// Its path from the repository's root, with `/` between the parts.
    pub(crate) path: String,
    /// What is in it.
    pub(crate) text: String,
}

impl TextFile {
    /// Is it Rust?
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Is it below one of these folders?
    pub(crate) fn is_in(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }
}

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the repository that is UTF-8, in the order of their paths.
pub(crate) fn text_files() -> Vec<TextFile> {
    let mut files = Vec::new();
    walk(root(), &mut |path| {
        // Proptest's regression files and the like are text too; what is not UTF-8 is no text.
        if let Ok(text) = fs::read_to_string(path) {
            files.push(TextFile { path: relative(path), text });
        }
    });
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// The repository's Rust files.
pub(crate) fn rust_files() -> Vec<TextFile> {
    text_files().into_iter().filter(TextFile::is_rust).collect()
}

/// One file that must exist.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn relative(path: &Path) -> String {
    let inside = path.strip_prefix(root()).expect("below the root");
    inside.to_str().expect("paths are UTF-8").to_owned()
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if SKIPPED.contains(&name) {
            continue;
        }
        let kind = fs::symlink_metadata(&path).expect("readable").file_type();
        if kind.is_dir() {
            walk(&path, visit);
        } else if kind.is_file() {
            visit(&path);
        }
    }
}

#[test]
fn the_walk_sees_this_file_and_no_build_output() {
    let paths: Vec<String> = text_files().into_iter().map(|file| file.path).collect();
    assert!(paths.iter().any(|path| path == "tests/tidy/tree.rs"), "{paths:?}");
    assert!(paths.iter().all(|path| !path.starts_with("target/")), "{paths:?}");
}
