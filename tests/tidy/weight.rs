//! What a host takes in when it depends on the `netloom` library.

use std::collections::BTreeSet;
use std::process::Command;

use crate::assert_none;
use crate::tree::root;

/// The most crates, the library's own included, that the library may consist of. A little above what it is
/// when this was set (83); raise it in the commit that adds a crate, and say there what the crate is for.
/// Twelve came with names: messages of DNS (`domain` and its seven), records that readers share (`rpds` and its two), and
/// how they get at the newest (`arc-swap`).
const MOST: usize = 110;

/// Command line, terminal, HTTP and TLS: a host has its own. A name that ends in `-` stands for a family.
const UNWANTED: &[&str] = &[
    "anyhow",
    "aws-lc-",
    "axum",
    "axum-",
    "clap",
    "clap-",
    "clap_",
    "comfy-table",
    "crossterm",
    "h2",
    "http",
    "http-",
    "hyper",
    "hyper-",
    "indicatif",
    "native-tls",
    "openssl",
    "openssl-",
    "ratatui",
    "reqwest",
    "ring",
    "rustls",
    "rustls-",
    "tokio-rustls",
    "tower",
    "tower-",
    "tracing-subscriber",
    // With the feature `firewalld` only.
    "zbus",
];

/// Is the crate one of [`UNWANTED`]?
fn is_unwanted(name: &str) -> bool {
    let matches = |unwanted: &str| match unwanted.ends_with(['-', '_']) {
        true => name.starts_with(unwanted),
        false => name == unwanted,
    };
    UNWANTED.iter().any(|unwanted| matches(unwanted))
}

/// The crates named by `cargo tree --prefix none --format {p}`: `name v1.2.3 (…)` a line.
fn crates_in(listing: &str) -> BTreeSet<(&str, &str)> {
    let words = listing.lines().filter_map(|line| line.split_once(' '));
    words.map(|(name, rest)| (name, rest.split(' ').next().unwrap_or_default())).collect()
}

/// `cargo tree` knows which features a host gets; the metadata of the workspace mixes in those of its tests.
fn listing() -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "--package", "netloom", "--edges", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints text")
}

#[test]
fn the_library_is_light() {
    let listing = listing();
    let crates = crates_in(&listing);
    assert!(crates.iter().any(|(name, _)| *name == "netloom-kernel"), "not the library's tree: {listing}");
    let unwanted = crates.iter().filter(|(name, _)| is_unwanted(name));
    let unwanted: Vec<String> = unwanted.map(|(name, version)| format!("{name} {version}")).collect();
    assert_none("the library brings a host what the host has already:", &unwanted);
    #[allow(clippy::print_stdout, reason = "a figure for whoever runs the test with its output shown")]
    {
        println!("the library consists of {} crates, at most {MOST}", crates.len());
    }
    assert!(
        crates.len() <= MOST,
        "the library consists of {} crates, at most {MOST}:\n{listing}",
        crates.len()
    );
}

#[cfg(test)]
mod tests {
    use super::{crates_in, is_unwanted};

    #[test]
    fn families_and_names() {
        for name in
            ["clap", "clap_derive", "http", "http-body", "hyper-util", "ring", "rustls-webpki", "aws-lc-rs"]
        {
            assert!(is_unwanted(name), "{name}");
        }
        for name in ["httparse-like", "ringbuffer", "tokio", "clapper", "towering"] {
            assert!(!is_unwanted(name), "{name}");
        }
    }

    #[test]
    fn a_crate_counts_once_for_each_version() {
        let listing = "netloom v0.1.0 (/a b)\nsyn v2.0.1\nsyn v3.0.0\nsyn v2.0.1 (*)\nserde_derive v1.0.0 (proc-macro)\n";
        let expected =
            [("netloom", "v0.1.0"), ("serde_derive", "v1.0.0"), ("syn", "v2.0.1"), ("syn", "v3.0.0")];
        assert!(crates_in(listing).into_iter().eq(expected));
    }
}
