//! Engines that say their rules to nftables, to iptables, and to nothing: what is left when the choice changes, and choices
//! that cannot work.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use netloom::{ErrorKind, FirewallBackend, ShutdownMode};

use crate::lab::{address, delete_everything, in_lab, joined, pings};
use crate::rules::{Rules, run, saved};
use crate::wall::{lan, neighbour, network};

const PATIENCE: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(300);

/// Rules of others, in every place that an engine may use.
fn others() {
    run("nft add table inet others");
    run("nft add chain inet others way '{ type filter hook forward priority 10; policy accept; }'");
    run("nft add rule inet others way iifname eth7 counter drop");
    for program in ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"] {
        run(&format!("{program} -N OTHERS"));
        run(&format!("{program} -A OTHERS -p tcp -m tcp --dport 22 -m comment --comment ssh -j ACCEPT"));
        run(&format!("{program} -A FORWARD -i eth7 -j OTHERS"));
        // In each of the kernel's chains that an engine uses, too: iptables-nft makes one that is used, and keeps it.
        run(&format!(
            "{program} -t nat -A PREROUTING -i eth7 -p udp -m udp --dport 53 -j REDIRECT --to-ports 5353"
        ));
        run(&format!(
            "{program} -t nat -A OUTPUT -o eth7 -p udp -m udp --dport 53 -j REDIRECT --to-ports 5353"
        ));
        run(&format!("{program} -t nat -A POSTROUTING -o eth7 -j MASQUERADE"));
        run(&format!("{program} -t raw -A PREROUTING -i eth7 -j NOTRACK"));
    }
}

/// What is there beside the engine's own.
fn beside() -> [Vec<String>; 3] {
    let ruleset = run("nft -s list ruleset");
    let mut lines = Vec::new();
    let mut ours = false;
    for line in ruleset.lines() {
        ours |= line.starts_with("table inet netloom");
        if !ours {
            lines.push(line.to_owned());
        }
        ours &= line != "}";
    }
    let saved = |variant| saved(variant).into_iter().filter(|line| !line.contains("NETLOOM")).collect();
    [saved("legacy"), saved("nft"), lines]
}

async fn until_only_in(place: impl Into<Option<Rules>>) {
    let (wanted, begun) = (place.into().into_iter().collect::<BTreeSet<_>>(), Instant::now());
    while Rules::places() != wanted {
        assert!(begun.elapsed() < PATIENCE, "in {:?}", Rules::places());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn what_the_last_backend_left_goes_and_rules_of_others_stay_as_they_are() {
    in_lab(async |mut lab| {
        lan(&lab).await;
        others();
        let before = beside();
        Rules::Nftables.choose(&mut lab);
        let mut engine = lab.engine().await;
        let (blue, red) =
            (network(&engine, "blue", |spec| spec).await, network(&engine, "red", |spec| spec).await);
        let (_, one) = joined(&engine, &blue, "one").await;
        let (b, _) = joined(&engine, &red, "two").await;
        let elsewhere = address(&b).await;
        let (legacy, nft) = (Rules::Iptables("legacy"), Rules::Iptables("nft"));
        for place in [legacy, Rules::Nftables, nft, legacy, nft, Rules::Nftables] {
            engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");
            place.choose(&mut lab);
            engine = lab.next_engine().await;
            // At once, also while the rules of the last one are still there.
            let one = engine.controller().sandbox(one.id()).expect("kept");
            assert!(pings(&one, neighbour(), PATIENCE).await, "{place:?}");
            assert!(!pings(&one, elsewhere, SILENCE).await, "another network, {place:?}");
            until_only_in(place).await;
            assert!(pings(&one, neighbour(), PATIENCE).await, "{place:?}");
            assert!(!pings(&one, elsewhere, SILENCE).await, "another network, {place:?}");
            let shown = engine.inspect().await.expect("inspected").firewall.expect("there");
            let backend = if place == Rules::Nftables { "nftables" } else { "iptables" };
            assert_eq!((&*shown.backend, shown.networks, shown.repairs), (backend, 2, 0));
            assert_eq!((shown.missing, shown.trouble, shown.leftovers), (None, None, None));
            let [is_legacy, is_nft, ruleset] = beside();
            assert_eq!((&is_legacy, &is_nft), (&before[0], &before[1]), "{place:?}");
            // Of nftables, chains of iptables-nft are a part.
            if place != nft {
                assert_eq!(ruleset, before[2], "{place:?}");
            }
        }
        engine.shutdown(ShutdownMode::Graceful).await.expect("it ends");
        lab.firewall = FirewallBackend::None;
        let engine = lab.next_engine().await;
        until_only_in(None).await;
        let one = engine.controller().sandbox(one.id()).expect("kept");
        assert!(pings(&one, elsewhere, PATIENCE).await, "nobody keeps networks apart");
        delete_everything(&engine).await;
        assert_eq!(beside(), before);
    });
}

#[test]
fn programs_that_are_not_there_refuse_the_start_and_nothing_was_made() {
    in_lab(async |mut lab| {
        lab.firewall = FirewallBackend::Iptables;
        for directory in ["/usr/local/sbin", "/usr/sbin"] {
            run(&format!("mount -t tmpfs tmpfs {directory}"));
        }
        lab.remember().await;
        let error = lab.builder().start().await.expect_err("no programs");
        assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{error}");
        let text = error.to_string();
        for part in ["firewall.backend", "iptables-restore", "install the package iptables", "\"nftables\""] {
            assert!(text.contains(part), "{part} in {text}");
        }
        lab.assert_pristine().await;
        lab.firewall = FirewallBackend::Auto;
        let engine = lab.next_engine().await;
        let shown = engine.inspect().await.expect("inspected").firewall.expect("there");
        assert_eq!((&*shown.backend, &*shown.reason), ("nftables", "the kernel has nftables"));
        assert_eq!(shown.place, "table inet netloom");
    });
}
