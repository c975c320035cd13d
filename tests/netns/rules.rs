//! What the engine's rules are said to, as a test looks at it: a table of nftables, or chains of either iptables.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use netloom::FirewallBackend;

use crate::lab::Lab;

/// The programs of both families.
const PROGRAMS: [&str; 2] = ["iptables", "ip6tables"];
/// Where a host keeps what is to come before all else.
const FIRST: &str = "/usr/local/sbin";

/// Where rules can be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Rules {
    Nftables,
    /// Of this variant.
    Iptables(&'static str),
}

pub(crate) const ALL: [Rules; 3] = [Rules::Nftables, Rules::Iptables("nft"), Rules::Iptables("legacy")];

impl Rules {
    /// Has engines say their rules there, from the next start on. A lab is a mount namespace of its own.
    pub(crate) fn choose(self, lab: &mut Lab) {
        let Self::Iptables(variant) = self else {
            lab.firewall = FirewallBackend::Nftables;
            return;
        };
        lab.firewall = FirewallBackend::Iptables;
        if !Path::new(FIRST).join("iptables-save").exists() {
            run(&format!("mount -t tmpfs tmpfs {FIRST}"));
            // With a lock that no other test waits for.
            run("mount -t tmpfs tmpfs /run");
        }
        for program in PROGRAMS {
            for verb in ["restore", "save"] {
                let link = Path::new(FIRST).join(format!("{program}-{verb}"));
                let _ = std::fs::remove_file(&link);
                symlink(format!("/usr/sbin/{program}-{variant}-{verb}"), link).expect("a link");
            }
        }
    }

    /// What the engine has there.
    pub(crate) fn shown(self) -> Vec<String> {
        match self {
            Self::Nftables => table(),
            Self::Iptables(variant) => {
                saved(variant).into_iter().filter(|line| line.contains("NETLOOM")).collect()
            }
        }
    }

    pub(crate) fn is_there(self) -> bool {
        match self {
            Self::Nftables => run("nft list tables").contains("inet netloom"),
            Self::Iptables(_) => !self.shown().is_empty(),
        }
    }

    /// Somebody removes everything, whoever's it is.
    pub(crate) fn flush(self) {
        match self {
            Self::Nftables => drop(run("nft flush ruleset")),
            Self::Iptables(variant) => {
                for program in PROGRAMS {
                    for table in ["filter", "nat", "raw"] {
                        run(&format!("{program}-{variant} -t {table} -F"));
                        run(&format!("{program}-{variant} -t {table} -X"));
                    }
                }
            }
        }
    }

    /// A users' rule: nobody reaches this address.
    pub(crate) fn user_drops(self, address: &str) {
        run(&match self {
            Self::Nftables => format!("nft add rule inet netloom user ip daddr {address} drop"),
            Self::Iptables(variant) => format!("iptables-{variant} -A NETLOOM-USER -d {address} -j DROP"),
        });
    }

    pub(crate) fn user_allows(self) {
        run(&match self {
            Self::Nftables => "nft flush chain inet netloom user".into(),
            Self::Iptables(variant) => format!("iptables-{variant} -F NETLOOM-USER"),
        });
    }

    /// Where the engine has anything.
    pub(crate) fn places() -> BTreeSet<Self> {
        ALL.into_iter().filter(|rules| rules.is_there()).collect()
    }
}

/// The engine's table: its sets in one order, whatever order their elements were made in, and its chains as they are.
fn table() -> Vec<String> {
    let text = run("nft list table inet netloom");
    let (sets, chains) = text.split_once("chain user").expect("the users' chain is the first");
    let mut words: Vec<_> =
        sets.replace(['{', '}', ','], "\n").lines().map(|line| line.trim().to_owned()).collect();
    words.sort();
    words.push(chains.to_owned());
    words
}

/// What a variant shows of both families, without what counts and the hour.
pub(crate) fn saved(variant: &str) -> Vec<String> {
    let shown = PROGRAMS.map(|program| run(&format!("{program}-{variant}-save"))).concat();
    let lines = shown.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().expect("a part").to_owned()).collect()
}

/// Runs a command as it is printed, and gives what it says.
#[track_caller]
pub(crate) fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().expect("a shell");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
