//! Where a demonstration plays, and what it says where it cannot.

mod common;

use std::process::Command;

use common::{in_namespaces, netloom, run, text};

#[test]
fn it_plays_wherever_it_can_have_namespaces_of_its_own() {
    let user = ["unshare", "--user", "--map-root-user"];
    let without =
        |dropped: &'static str| ["--net", "--mount", "--", "setpriv", "--inh-caps=-all", dropped].to_vec();
    let places = [
        // Root, but the network and the mounts are somebody else's.
        vec![],
        vec!["--net"],
        vec!["--mount"],
        // Root that lacks capabilities; without CAP_SETFCAP it cannot be root in the next user namespace.
        without("--bounding-set=-net_admin"),
        without("--bounding-set=-sys_admin"),
        without("--bounding-set=-all"),
    ];
    for place in places {
        let dir = tempfile::tempdir().expect("a directory");
        let prefix: Vec<_> = user.into_iter().chain(place).collect();
        let output = run(&mut netloom(&prefix, dir.path(), &["demo", "--json"]));
        let said = text(&output.stdout);
        assert!(output.status.success(), "{prefix:?}: {output:?}");
        assert!(said.starts_with(r#"{"ok":true,"steps":[{"#), "{prefix:?}: {said}");
        assert!(said.ends_with("}],\"leftovers\":[]}\n"), "{prefix:?}: {said}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0, "{prefix:?}");
    }
}

#[test]
fn a_failure_names_the_remedy() {
    in_namespaces(|dir| {
        // Every default pool is the host's.
        let taken = "ip link set lo up
            for address in 10.0.0.1/8 172.16.0.1/12 192.168.0.1/16; do ip address add $address dev lo; done";
        assert!(Command::new("sh").args(["-ec", taken]).status().expect("a shell").success());
        let output = run(&mut netloom(&[], dir, &["demo"]));
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("\nfailed: create a bridge network: "), "{said}");
        assert!(said.contains("\nremedy: give a subnet, "), "{said}");
        let output = run(&mut netloom(&[], dir, &["demo", "--json"]));
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with(r#"{"ok":false,"steps":[{"#), "{said}");
        assert!(said.contains(r#""leftovers":[],"error":"create a bridge network: "#), "{said}");
        assert!(said.contains(r#"","remedy":"give a subnet, "#), "{said}");
    });
}
