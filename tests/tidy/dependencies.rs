//! Who may depend on whom: the layers of ARCHITECTURE.md, over `cargo metadata`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use crate::assert_none;
use crate::tree::root;

/// Where a crate stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Layer {
    /// What everybody talks about.
    Model,
    /// Domain code, without actors. The list says which other domain crates it may use.
    Domain(&'static [&'static str]),
    /// What speaks with a program of the host, in a runtime of its own, without actors.
    Client,
    /// What serves containers themselves, their data and their questions, as tasks of a runtime that it is given,
    /// without actors.
    Traffic,
    /// The simulated kernel, for harnesses. Actors see it in tests only.
    Simulation,
    /// The actor vocabulary.
    Runtime,
    /// Actors. Asks go to lower ranks only.
    Rank(u8),
    /// The library that hosts use.
    Facade,
    /// A program over the library.
    Program,
}

/// Every crate of the workspace. A new one has to be placed here before the tests pass.
const LAYERS: &[(&str, Layer)] = &[
    ("netloom-model", Layer::Model),
    ("netloom-kernel", Layer::Domain(&[])),
    ("netloom-ipam", Layer::Domain(&["netloom-store"])),
    ("netloom-dns", Layer::Traffic),
    ("netloom-ports", Layer::Domain(&[])),
    ("netloom-store", Layer::Domain(&[])),
    ("netloom-firewall", Layer::Domain(&["netloom-kernel"])),
    ("netloom-firewalld", Layer::Client),
    ("netloom-drivers", Layer::Domain(&["netloom-firewall", "netloom-kernel", "netloom-ports"])),
    ("netloom-proxy", Layer::Traffic),
    ("netloom-testkit", Layer::Simulation),
    ("netloom-runtime", Layer::Runtime),
    ("netloom-actor-services", Layer::Rank(1)),
    ("netloom-actor-driver", Layer::Rank(2)),
    ("netloom-actor-network", Layer::Rank(3)),
    ("netloom-actor-sandbox", Layer::Rank(4)),
    ("netloom-actor-controller", Layer::Rank(5)),
    ("netloom", Layer::Facade),
    ("netloom-cli", Layer::Program),
];

/// Libraries that some crates alone may name; a name that ends in `-` stands for a family.
const RESERVED: &[(&str, &[&str])] = &[
    ("rtnetlink", &["netloom-kernel"]),
    ("netlink-", &["netloom-kernel"]),
    // The proxy's pipes and datagrams are system calls too, and so are names in an open directory and what happens to files;
    // of no interface that configures anything.
    ("nix", &["netloom-dns", "netloom-kernel", "netloom-proxy"]),
    ("crossbeam-channel", &["netloom-kernel"]),
    ("actix", &["netloom-runtime"]),
    ("actix-", &["netloom-runtime"]),
    ("dashmap", &["netloom-runtime"]),
    ("zbus", &["netloom-firewalld"]),
];

/// Libraries that run things, which code without actors has no business with.
const EXECUTORS: &[&str] = &["tokio", "tokio-util", "async-std", "smol", "rayon"];

/// The same question for the crates of the project and for those from elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// For the crate itself, or its build script.
    Normal,
    /// For its tests, benches and examples.
    Dev,
}

fn layer(name: &str) -> Option<Layer> {
    LAYERS.iter().find(|(known, _)| *known == name).map(|(_, layer)| *layer)
}

/// Why `from` must not use `to`; both are crates of the project.
fn refusal_inside(from: Layer, to: Layer, to_name: &str, usage: Use) -> Option<&'static str> {
    let for_tests = usage == Use::Dev;
    match (from, to) {
        (_, Layer::Program) => Some("nothing depends on a program"),
        (Layer::Program, Layer::Runtime | Layer::Rank(_)) => {
            Some("a program uses the library's public interface")
        }
        (Layer::Program, _) => None,
        (_, Layer::Facade) if from != Layer::Facade => Some("the library is above everything"),
        (Layer::Facade, _) => None,
        (Layer::Model, _) if for_tests => None,
        (Layer::Model, _) => Some("the model depends on no crate of the project"),
        (Layer::Runtime, _) => Some("the runtime knows no domain"),
        (
            Layer::Domain(_) | Layer::Traffic | Layer::Client | Layer::Simulation,
            Layer::Runtime | Layer::Rank(_),
        ) => Some("domain code has no actors"),
        (Layer::Domain(_) | Layer::Client | Layer::Simulation, Layer::Traffic) => {
            Some("carrying data is no domain code's business")
        }
        (_, Layer::Simulation) if for_tests => None,
        (_, Layer::Simulation) => Some("the simulation is for tests and for the library's `simulation`"),
        (Layer::Domain(allowed), Layer::Domain(_)) if !allowed.contains(&to_name) && !for_tests => {
            Some("domain crates stand side by side")
        }
        (Layer::Simulation, Layer::Domain(_)) if to_name != "netloom-kernel" => {
            Some("the simulation stands in for the kernel and for programs, and for nothing else")
        }
        (Layer::Domain(_) | Layer::Traffic | Layer::Client, Layer::Client) if !for_tests => {
            Some("programs of the host are the actors' business")
        }
        (Layer::Client, Layer::Domain(_)) if !for_tests => Some("a client knows the program it speaks with"),
        (Layer::Traffic, Layer::Domain(_) | Layer::Traffic) if !for_tests => {
            Some("what carries data knows nothing of networks")
        }
        (Layer::Rank(from), Layer::Rank(to)) if to >= from => Some("asks go to lower ranks only"),
        (Layer::Domain(_) | Layer::Traffic | Layer::Client | Layer::Simulation | Layer::Rank(_), _) => None,
    }
}

/// Why `from` must not use `library`, which comes from elsewhere. Tests may use what they like.
fn refusal_outside(from_name: &str, from: Layer, library: &str) -> Option<String> {
    let matches =
        |known: &str| if known.ends_with('-') { library.starts_with(known) } else { library == known };
    let taken = |(known, owners): &&(&str, &[&str])| matches(known) && !owners.contains(&from_name);
    if let Some((_, owners)) = RESERVED.iter().find(taken) {
        return Some(format!("only {} may", owners.join(" and ")));
    }
    let without_actors = matches!(from, Layer::Model | Layer::Domain(_));
    (without_actors && EXECUTORS.contains(&library)).then(|| "code without actors runs nothing".to_owned())
}

/// Everything that is wrong with a list of direct dependencies `(from, to, use)`.
fn violations(edges: &[(String, String, Use)]) -> Vec<String> {
    let mut problems = Vec::new();
    for (from_name, to_name, usage) in edges {
        let Some(from) = layer(from_name) else {
            problems.push(format!("{from_name} has no place in LAYERS"));
            continue;
        };
        let refusal = match layer(to_name) {
            Some(to) => refusal_inside(from, to, to_name, *usage).map(str::to_owned),
            None if *usage == Use::Normal => refusal_outside(from_name, from, to_name),
            None => None,
        };
        if let Some(refusal) = refusal {
            problems.push(format!("{from_name} must not depend on {to_name}: {refusal}"));
        }
    }
    problems.dedup();
    problems
}

/// The workspace as cargo sees it. No network is used: what the tests were built from is there.
fn metadata() -> &'static Metadata {
    static METADATA: OnceLock<Metadata> = OnceLock::new();
    METADATA.get_or_init(|| {
        // Packages for other systems need not be on this machine, so cargo must not look at them.
        let options = ["--locked", "--offline", "--filter-platform", &host()];
        let mut command = MetadataCommand::new();
        command.manifest_path(root().join("Cargo.toml")).other_options(options.map(str::to_owned));
        command.exec().expect("cargo metadata answers")
    })
}

/// The system that this was built for, as rustc names it.
fn host() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = std::process::Command::new(rustc).arg("-vV").output().expect("rustc runs");
    let text = String::from_utf8(output.stdout).expect("rustc prints text");
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    line.expect("rustc names its host").to_owned()
}

/// The workspace's crates and their folders from the root; the root's own is empty.
pub(crate) fn members() -> BTreeMap<String, String> {
    let folder = |manifest: &Path| {
        let inside = manifest.parent().and_then(|folder| folder.strip_prefix(root()).ok());
        inside.and_then(Path::to_str).expect("members are below the root").to_owned()
    };
    let packages = metadata().workspace_packages().into_iter();
    packages.map(|package| (package.name.to_string(), folder(package.manifest_path.as_std_path()))).collect()
}

#[test]
fn crates_depend_downwards_only() {
    let mut edges = Vec::new();
    for package in metadata().workspace_packages() {
        for dependency in &package.dependencies {
            let usage = if dependency.kind == DependencyKind::Development { Use::Dev } else { Use::Normal };
            edges.push((package.name.to_string(), dependency.name.clone(), usage));
        }
    }
    assert!(edges.len() > LAYERS.len(), "cargo metadata told nothing: {edges:?}");
    assert_none("dependencies against the rules of ARCHITECTURE.md:", &violations(&edges));
}

#[test]
fn every_layer_entry_is_a_crate() {
    let members = members();
    for (name, _) in LAYERS {
        assert!(members.contains_key(*name), "{name} is no crate of the workspace: take it off LAYERS");
    }
    for name in members.keys() {
        assert!(layer(name).is_some(), "{name} has no place in LAYERS");
    }
}

#[test]
fn crates_come_from_one_registry() {
    const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
    let packages = metadata().packages.iter();
    let foreign: Vec<String> = packages
        .filter_map(|package| Some((&package.name, package.source.as_ref()?)))
        .filter(|(_, source)| source.repr != REGISTRY)
        .map(|(name, source)| format!("{name} from {source}"))
        .collect();
    assert_none("not from crates.io:", &foreign);
}

#[test]
fn there_is_one_program() {
    // `cargo run -- demo` in the root works without `--bin` only while this holds.
    let packages = metadata().workspace_packages().into_iter();
    let targets = packages.flat_map(|package| &package.targets);
    let programs: Vec<&str> =
        targets.filter(|target| target.is_bin()).map(|target| target.name.as_str()).collect();
    assert_eq!(programs, ["netloom"]);
}

#[test]
fn every_example_is_one_that_is_run() {
    // `scripts/test` runs what is in `examples`, and nothing else.
    let packages = metadata().workspace_packages().into_iter();
    let targets = packages.flat_map(|package| &package.targets).filter(|target| target.is_example());
    let folder = root().join("examples");
    let elsewhere = targets.filter(|target| target.src_path.as_std_path().parent() != Some(&folder));
    let elsewhere: Vec<String> = elsewhere.map(|target| target.src_path.to_string()).collect();
    assert_none("examples that nothing runs:", &elsewhere);
}

#[cfg(test)]
mod tests {
    use super::{Use, violations};

    fn edge(from: &str, to: &str, usage: Use) -> usize {
        violations(&[(from.to_owned(), to.to_owned(), usage)]).len()
    }

    #[test]
    fn what_is_allowed() {
        for (from, to) in [
            ("netloom-actor-network", "netloom-actor-driver"),
            ("netloom-actor-network", "netloom-runtime"),
            ("netloom-actor-services", "netloom-ipam"),
            ("netloom-drivers", "netloom-kernel"),
            ("netloom-kernel", "netlink-sys"),
            ("netloom-runtime", "actix"),
            ("netloom-runtime", "tokio"),
            ("netloom-proxy", "tokio"),
            ("netloom-proxy", "nix"),
            ("netloom-proxy", "netloom-model"),
            ("netloom-actor-services", "netloom-proxy"),
            ("netloom-firewalld", "tokio"),
            ("netloom-firewalld", "zbus"),
            ("netloom-firewalld", "netloom-model"),
            ("netloom-actor-services", "netloom-firewalld"),
            ("netloom-testkit", "netloom-firewalld"),
            ("netloom-testkit", "tokio"),
            ("netloom-testkit", "netloom-kernel"),
            ("netloom", "netloom-testkit"),
            ("netloom-cli", "netloom"),
            ("netloom-cli", "tokio"),
        ] {
            assert_eq!(edge(from, to, Use::Normal), 0, "{from} -> {to}");
        }
        for (from, to) in
            [("netloom-actor-network", "netloom-testkit"), ("netloom", "nix"), ("netloom-ipam", "tokio")]
        {
            assert_eq!(edge(from, to, Use::Dev), 0, "{from} -> {to} in tests");
        }
    }

    #[test]
    fn what_is_refused() {
        for (from, to) in [
            ("netloom-actor-driver", "netloom-actor-network"),
            ("netloom-actor-driver", "netloom-actor-driver"),
            ("netloom-actor-network", "netloom-testkit"),
            ("netloom-actor-network", "nix"),
            ("netloom-actor-network", "dashmap"),
            ("netloom-actor-controller", "netloom"),
            ("netloom-runtime", "netloom-model"),
            ("netloom-model", "netloom-kernel"),
            ("netloom-model", "tokio"),
            ("netloom-store", "netloom-ipam"),
            ("netloom-ipam", "netloom-runtime"),
            ("netloom-store", "actix-rt"),
            ("netloom-drivers", "tokio"),
            ("netloom-proxy", "netloom-kernel"),
            ("netloom-proxy", "netloom-runtime"),
            ("netloom-proxy", "rtnetlink"),
            ("netloom-drivers", "netloom-proxy"),
            ("netloom-drivers", "netloom-firewalld"),
            ("netloom-firewalld", "netloom-kernel"),
            ("netloom-firewalld", "netloom-proxy"),
            ("netloom-firewalld", "netloom-runtime"),
            ("netloom-proxy", "netloom-firewalld"),
            ("netloom-actor-services", "zbus"),
            ("netloom", "zbus"),
            ("netloom-testkit", "netloom-store"),
            ("netloom-testkit", "crossbeam-channel"),
            ("netloom", "rtnetlink"),
            ("netloom", "netlink-packet-route"),
            ("netloom", "netloom-cli"),
            ("netloom-cli", "netloom-actor-network"),
            ("netloom-cli", "nix"),
            ("netloom-unplaced", "serde"),
        ] {
            assert_eq!(edge(from, to, Use::Normal), 1, "{from} -> {to}");
        }
        for (from, to) in
            [("netloom-actor-driver", "netloom-actor-network"), ("netloom-runtime", "netloom-testkit")]
        {
            assert_eq!(edge(from, to, Use::Dev), 1, "{from} -> {to} in tests");
        }
    }
}
