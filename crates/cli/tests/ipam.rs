//! Pools and holders as the program shows them: beside an engine, after it, and of what cannot be read.

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;

use common::{cells, in_namespaces, json, netloom, run, text};
use netloom::{EndpointSpec, Engine, EngineConfig, JoinSpec, NetworkSpec, SandboxSpec, ShutdownMode};
use serde_json::Value;

/// `netloom ipam` with a data directory.
fn ipam(dir: &Path, data_dir: &Path, args: &[&str]) -> Output {
    let mut command = netloom(&[], dir, &["ipam"]);
    run(command.args(args).arg("--data-dir").arg(data_dir))
}

/// Files and when they were last changed.
fn times(dir: &Path) -> Vec<(std::ffi::OsString, std::time::SystemTime, u64)> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry"));
    let seen = entries.map(|entry| {
        let meta = entry.metadata().expect("there");
        (entry.file_name(), meta.modified().expect("a time"), meta.len())
    });
    let mut seen: Vec<_> = seen.collect();
    seen.sort();
    seen
}

async fn furnish(engine: &Engine) {
    let controller = engine.controller();
    let blue = NetworkSpec::new("blue")
        .subnet("10.1.0.0/24".parse().expect("a subnet"))
        .subnet("fd01::/64".parse().expect("a subnet"));
    let mut blue = blue;
    blue.ipam.v4[0].range = Some("10.1.0.128/25".parse().expect("a range"));
    blue.ipam.v4[0].auxiliary.insert("router".into(), "10.1.0.9".parse().expect("an address"));
    let blue = controller.create_network(blue).await.expect("a network");
    blue.reserve_address("mail", Some("10.1.0.7".parse().expect("an address")), None).await.expect("kept");
    controller.create_network(NetworkSpec::new("amber")).await.expect("a network");
    for name in ["web", "db"] {
        let endpoint = blue.create_endpoint(EndpointSpec::new(name)).await.expect("an endpoint");
        if name == "web" {
            let sandbox = controller.create_sandbox(SandboxSpec::new("c1")).await.expect("a sandbox");
            endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
        }
    }
}

#[test]
fn pools_and_holders_are_shown_beside_an_engine_and_after_it() {
    in_namespaces(|dir| {
        let data = dir.join("data");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let servers = dir.join("resolv.conf");
        fs::write(&servers, "nameserver 172.17.0.53\n").expect("written");
        let config = EngineConfig {
            data_dir: data.clone(),
            run_dir: dir.join("run"),
            name_server_files: vec![servers],
            ..EngineConfig::default()
        };
        let engine = runtime.block_on(Engine::builder().config(config).start()).expect("the engine starts");
        runtime.block_on(furnish(&engine));
        let header = [
            "NETWORK",
            "DRIVER",
            "POOL",
            "RANGE",
            "SIZE",
            "USED",
            "RESERVED",
            "QUARANTINED",
            "FREE",
            "GATEWAY",
        ];
        let size6 = "18446744073709551616";
        let expected = [
            &header[..],
            &["amber", "default", "172.18.0.0/16", "65536", "0", "3", "-", "65533", "172.18.0.1"],
            &["blue", "default", "10.1.0.0/24", "10.1.0.128/25", "256", "2", "5", "-", "249", "10.1.0.128"],
            &["blue", "default", "fd01::/64", size6, "2", "2", "-", "18446744073709551612", "fd01::1"],
        ];
        let before = times(&data);
        let pools = dir.join("netloom.toml");
        let text_of_it =
            "default_pools = [{ base = \"172.18.0.0/15\", size = 16 }, { base = \"fd01::/16\", size = 120 }]";
        fs::write(&pools, text_of_it).expect("written");
        let list: [&str; 3] = ["ls", "--config", pools.to_str().expect("text")];
        let beside = ipam(dir, &data, &list);
        assert_eq!(cells(&beside)[..4], expected);
        let blocks = [
            ["DEFAULT POOLS", "SIZE", "TOTAL", "USED"],
            ["172.18.0.0/15", "/16", "2", "1"],
            ["fd01::/16", "/120", "18446744073709551615", "72057594037927936"],
        ];
        assert_eq!(cells(&beside)[4..], blocks);
        let note = format!("note: an engine (process {}) has {}; ", std::process::id(), data.display());
        assert!(text(&beside.stderr).starts_with(&note), "{beside:?}");
        // What the engine says of itself is the same.
        let own = runtime.block_on(engine.controller().ipam()).expect("inspected");
        let listed = json(&ipam(dir, &data, &[&list[..], &["--format", "json"]].concat()));
        let block = &listed["default_pools"][1];
        assert_eq!((&block["total"], &block["used"]), (&blocks[2][2].into(), &blocks[2][3].into()));
        let shown: Vec<_> = listed["pools"].as_array().expect("a list").iter().collect();
        assert_eq!(shown.len(), own[0].pools.len());
        for (shown, own) in shown.iter().zip(&own[0].pools) {
            let text = serde_json::to_string(own).expect("JSON");
            let mut own: Value = serde_json::from_str(&text).expect("JSON");
            // But what only the engine knows, and what it need not say.
            assert_eq!((&own["quarantined"], &shown["driver"]), (&0.into(), &"default".into()));
            own["quarantined"] = Value::Null;
            own["driver"] = shown["driver"].clone();
            own["free"] = shown["free"].clone();
            assert_eq!(**shown, own);
        }
        runtime.block_on(engine.shutdown(ShutdownMode::Graceful)).expect("it ends");
        drop(engine);
        let after = ipam(dir, &data, &list);
        let note = "note: only a running engine knows which addresses are in quarantine; FREE counts them\n";
        assert_eq!((cells(&after), text(&after.stderr)), (cells(&beside), note));
        assert_eq!(
            text(&ipam(dir, &data, &["ls", "--quiet"]).stdout),
            "172.18.0.0/16\n10.1.0.0/24\nfd01::/64\n"
        );

        let rows = cells(&ipam(dir, &data, &["show", "blue"]));
        assert_eq!(rows[1..3], expected[2..4]);
        let held: Vec<_> = rows[4..].iter().map(|row| (row[0].as_str(), row[1].split(" (").next())).collect();
        let own = [
            ("10.1.0.7", Some("reservation \"mail\"")),
            ("10.1.0.9", Some("auxiliary router")),
            ("10.1.0.128", Some("gateway")),
            ("10.1.0.129", Some("endpoint \"web\"")),
            ("10.1.0.130", Some("endpoint \"db\"")),
            ("fd01::1", Some("gateway")),
            ("fd01::2", Some("endpoint \"web\"")),
            ("fd01::3", Some("endpoint \"db\"")),
        ];
        assert_eq!(held, own);
        let pool = json(&ipam(dir, &data, &["show", "fd01::/64", "--format", "json", "--limit", "2"]));
        assert_eq!((pool["pools"].as_array().map(Vec::len), &pool["more"]), (Some(1), &1.into()));
        assert_eq!(pool["holders"][0]["address"], "fd01::1");
        assert_eq!(
            pool["holders"][1]["holder"].as_str().expect("text").split(" (").next(),
            Some("endpoint \"web\"")
        );
        // By what lies within a pool, and what a pool lies within.
        let shown = |what: &str| {
            let rows = cells(&ipam(dir, &data, &["show", what]));
            let header = rows.iter().position(|row| row[0] == "ADDRESS").expect("two tables");
            let pools: Vec<_> = rows[1..header].iter().map(|row| row[2].clone()).collect();
            // Behind the holders stands what was passed over.
            let holders = rows[header + 1..].iter().take_while(|row| row[0] != "NETWORK");
            let held: Vec<_> = holders.map(|row| row[0].clone()).collect();
            (pools.join(" "), held.join(" "))
        };
        let all4 = "10.1.0.7 10.1.0.9 10.1.0.128 10.1.0.129 10.1.0.130";
        for (what, pools, held) in [
            ("10.1.0.1/24", "10.1.0.0/24", all4),
            ("LocalDefault/10.1.0.0/24", "10.1.0.0/24", all4),
            ("10.1.0.7", "10.1.0.0/24", "10.1.0.7"),
            ("10.1.0.55", "10.1.0.0/24", ""),
            ("10.1.0.128/30", "10.1.0.0/24", "10.1.0.128 10.1.0.129 10.1.0.130"),
            ("fd01::2", "fd01::/64", "fd01::2"),
            ("0.0.0.0/0", "172.18.0.0/16 10.1.0.0/24", &format!("{all4} 172.18.0.1")),
        ] {
            assert_eq!(shown(what), (pools.to_owned(), held.to_owned()), "{what}");
        }
        let amber = ipam(dir, &data, &["show", "amber"]);
        let passed = ["amber", "172.17.0.0/16", "172.17.0.53/32", "a name server"];
        assert_eq!(cells(&amber).last().map(Vec::as_slice), Some(&passed.map(str::to_owned)[..]));
        let amber = json(&ipam(dir, &data, &["show", "amber", "--format", "json"]));
        assert_eq!(amber["passed_over"]["amber"]["pools"][0]["pool"], passed[1]);
        let nowhere = ipam(dir, &data, &["show", "192.0.2.1"]);
        assert_eq!((nowhere.status.code(), text(&nowhere.stdout)), (Some(1), ""));
        assert!(text(&nowhere.stderr).contains("no pool has anything of 192.0.2.1/32"), "{nowhere:?}");
        let unnamed = ipam(dir, &data, &["show", ""]);
        assert_eq!((unnamed.status.code(), text(&unnamed.stdout)), (Some(2), ""));
        assert!(text(&unnamed.stderr).contains("a value is required"), "{unnamed:?}");
        // Numbers that are not exact for most readers of JSON are texts.
        let six = json(&ipam(dir, &data, &["show", "fd01::/64", "--format", "json"]));
        assert_eq!(six["pools"][0]["size"], size6);
        assert_eq!(six["pools"][0]["free"], "18446744073709551612");
        let four = json(&ipam(dir, &data, &["show", "10.1.0.0/24", "--format", "json"]));
        assert_eq!((&four["pools"][0]["size"], &four["pools"][0]["free"]), (&256.into(), &249.into()));
        let limited = ipam(dir, &data, &["show", "blue", "--limit", "1"]);
        assert!(text(&limited.stdout).contains("\nand 7 more; --limit shows them\n"), "{limited:?}");
        let unknown = ipam(dir, &data, &["show", "green"]);
        assert_eq!(unknown.status.code(), Some(1));
        let said = text(&unknown.stderr);
        assert!(said.contains("green") && said.contains("remedy: list the networks"), "{said}");
        let changed: Vec<_> = times(&data).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(changed, before.into_iter().map(|(name, ..)| name).collect::<Vec<_>>());
        // And the next engine takes it over as ever.
        let builder = Engine::builder().data_dir(&data).run_dir(dir.join("run"));
        let engine = runtime.block_on(builder.start()).expect("the engine starts");
        assert_eq!(engine.repairs(), []);
        runtime.block_on(engine.shutdown(ShutdownMode::Graceful)).expect("it ends");
    });
}

#[test]
fn what_cannot_be_read_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let missing = ipam(dir.path(), &data, &["ls"]);
    assert_eq!((missing.status.code(), text(&missing.stdout)), (Some(1), ""));
    let said = text(&missing.stderr);
    assert!(said.contains("records.redb: No such file") && said.contains("--data-dir names"), "{said}");
    assert!(!data.exists(), "nothing was made");
    fs::create_dir(&data).expect("made");
    fs::write(data.join("records.redb"), "").expect("written");
    let empty = ipam(dir.path(), &data, &["ls"]);
    assert_eq!((empty.status.code(), text(&empty.stdout)), (Some(1), ""));
    assert!(text(&empty.stderr).contains("records.redb: it is empty: no engine has"), "{empty:?}");
    fs::write(data.join("records.redb"), "nonsense").expect("written");
    let damaged = ipam(dir.path(), &data, &["show", "blue"]);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(text(&damaged.stderr).contains("is damaged"), "{damaged:?}");
    assert_eq!(fs::read(data.join("records.redb")).expect("there"), b"nonsense");
}
