//! The rules of a small scene as the host's own programs show them, compared with texts that people have read.
//!
//! The texts are in `tests/netns/golden`; `NETLOOM_WRITE_GOLDEN=1` writes them anew, to be read before they are kept. They
//! are what Debian's programs print, but for the order of what has none.

use std::collections::BTreeMap;
use std::path::Path;

use netloom::kernel::{Kernel, Netns, Op};
use netloom::{Engine, NetworkSpec, PortBinding, TransportPort};

use crate::lab::{Lab, delete_everything, in_lab, soon};
use crate::published::{published, tcp};
use crate::rules::{Rules, run};
use crate::wall::lan;

const BRIDGE: &str = "com.docker.network.bridge.name";
const MODES: [&str; 2] =
    ["com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv6"];

/// A network that is translated, of both families, one that is routed, and one that reaches nothing; and containers that
/// publish what can be published.
async fn scene(engine: &Engine) {
    let spec = |name: &str, number: u8| {
        NetworkSpec::new(name)
            .subnet(format!("10.{number}.0.0/24").parse().expect("a subnet"))
            .subnet(format!("fd00:{number}::/64").parse().expect("a subnet"))
            .option(BRIDGE, format!("br-{name}"))
    };
    let routed = MODES.iter().fold(spec("routed", 82), |spec, mode| spec.option(*mode, "routed"));
    let mut inside = spec("inside", 83);
    inside.internal = true;
    let controller = engine.controller();
    let nat = controller.create_network(spec("nat", 81)).await.expect("a network");
    let routed = controller.create_network(routed).await.expect("a network");
    let inside = controller.create_network(inside).await.expect("a network");
    let on = |binding: PortBinding, host: &str| binding.on(host.parse().expect("an address"));
    let row = (9000..=9003).map(|port| tcp(port, port));
    let moved = (9100..=9102).map(|port| tcp(port, port - 8000));
    let all: Vec<_> = [
        tcp(8080, 80),
        on(tcp(8443, 443), "192.0.2.1"),
        on(tcp(8081, 81), "127.0.0.1"),
        on(tcp(8446, 446), "2001:db8::1"),
        PortBinding::new(53, TransportPort::udp(5353)),
    ]
    .into_iter()
    .chain(row)
    .chain(moved)
    .collect();
    published(engine, &nat, "web", &all).await;
    published(engine, &routed, "open", &[tcp(8082, 82)]).await;
    published(engine, &inside, "shut", &[tcp(8083, 83)]).await;
}

async fn has_ipv6(lab: &Lab) {
    let add = Op::AddAddress {
        netns: Netns::Host,
        link: "uplink".parse().expect("a name"),
        address: "2001:db8::1/64".parse().expect("an address"),
    };
    lab.kernel.execute(vec![add], soon()).await.remove(0).expect("added");
}

#[track_caller]
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/netns/golden").join(name);
    if std::env::var_os("NETLOOM_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{name} is\n{kept}\nand this would be\n{text}");
}

/// A table as `nft list table` shows it, but with an element a line, in order: the kernel shows them in the order of a hash
/// that is another one each time.
fn in_order(shown: &str) -> String {
    let (mut text, mut elements) = (String::new(), None::<String>);
    for line in shown.lines() {
        let start = line.trim_start().strip_prefix("elements = {");
        let Some(part) = start.or_else(|| elements.is_some().then(|| line.trim())) else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let all = elements.get_or_insert_default();
        all.push_str(part.trim_end_matches('}'));
        if part.trim_end().ends_with('}') {
            let all = elements.take().unwrap_or_default();
            let mut each: Vec<_> = all.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
            each.sort_unstable();
            each.iter().for_each(|one| text.push_str(&format!("\t\telement {one}\n")));
        }
    }
    text
}

/// The engine's chains and the jumps to them as `iptables-save` shows them, but without what is counted, and tables and chains
/// in order.
fn chains_in_order(shown: &str) -> String {
    let mut tables: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    let mut table = "";
    for line in shown.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
            tables.entry(table).or_default().entry(chain).or_default();
        } else if let Some(chain) = line.strip_prefix("-A ").and_then(|rest| rest.split(' ').next()) {
            tables.entry(table).or_default().entry(chain).or_default().push(line);
        }
    }
    let mut text = String::new();
    for (table, chains) in tables {
        let mut own = String::new();
        for (chain, rules) in chains {
            if chain.starts_with("NETLOOM") {
                own.push_str(&format!(":{chain}\n"));
            }
            for rule in rules.into_iter().filter(|rule| rule.contains("NETLOOM")) {
                own.push_str(&format!("{rule}\n"));
            }
        }
        // One variant shows tables in which nothing is.
        if !own.is_empty() {
            text.push_str(&format!("*{table}\n{own}"));
        }
    }
    text
}

#[test]
fn the_table_reads_as_it_was_reviewed() {
    in_lab(async |mut lab| {
        Rules::Nftables.choose(&mut lab);
        let _lan = lan(&lab).await;
        has_ipv6(&lab).await;
        let engine = lab.engine().await;
        scene(&engine).await;
        golden("table.nft", &in_order(&run("nft list table inet netloom")));
        assert_eq!(engine.diff().await.expect("compared"), []);
        delete_everything(&engine).await;
    });
}

#[test]
fn chains_read_as_they_were_reviewed_with_both_variants() {
    for variant in ["nft", "legacy"] {
        in_lab(async move |mut lab| {
            Rules::Iptables(variant).choose(&mut lab);
            let _lan = lan(&lab).await;
            has_ipv6(&lab).await;
            let engine = lab.engine().await;
            scene(&engine).await;
            for (program, file) in [("iptables", "chains.v4"), ("ip6tables", "chains.v6")] {
                golden(file, &chains_in_order(&run(&format!("{program}-{variant}-save"))));
            }
            assert_eq!(engine.diff().await.expect("compared"), []);
            delete_everything(&engine).await;
        });
    }
}
