//! Who may change the network and the mounts it sees. The test runs itself again in each place.

use std::process::Command;

use netloom_kernel::isolate;

/// Set for the second run: whether the process is in charge there.
const EXPECTED: &str = "NETLOOM_KERNEL_TEST_EXPECTED";
const TEST: &str = "only_who_has_power_over_its_namespaces_is_in_charge";

#[test]
fn only_who_has_power_over_its_namespaces_is_in_charge() {
    if let Ok(expected) = std::env::var(EXPECTED) {
        assert_eq!(isolate::is_in_charge().to_string(), expected);
        return;
    }
    let root = ["--user", "--map-root-user"];
    let without = |dropped: &'static str| ["--net", "--mount", "setpriv", "--inh-caps=-all", dropped];
    let (no_network, no_admin, none) = (
        without("--bounding-set=-net_admin"),
        without("--bounding-set=-sys_admin"),
        without("--bounding-set=-all"),
    );
    let places: [(&[&str], bool); 7] = [
        (&["--net", "--mount"], true),
        (&[], false),
        (&["--net"], false),
        (&["--mount"], false),
        (&no_network, false),
        (&no_admin, false),
        (&none, false),
    ];
    for (place, expected) in places {
        let output = Command::new("unshare")
            .args(root)
            .args(place)
            .arg(std::env::current_exe().expect("a test binary"))
            .args(["--exact", TEST])
            .env(EXPECTED, expected.to_string())
            .output()
            .expect("unshare must be installed (package util-linux)");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{place:?}: {output:?}");
    }
}
