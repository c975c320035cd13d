//! What files may say, and where errors point.

use std::time::Duration;

use super::*;
use crate::error::ErrorKind;

/// The example that comes with the engine.
const EXAMPLE: &str = include_str!("../../../../../docs/netloom.toml");

fn read(text: &str) -> EngineConfig {
    let (config, ignored) = EngineConfig::from_toml(text).expect(text);
    assert_eq!(ignored, [], "{text}");
    config
}

/// The line, the key and the text of what is wrong.
fn refused(text: &str) -> (usize, String, String) {
    let error = EngineConfig::from_toml(text).expect_err(text);
    assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{error}");
    match error.reason() {
        Reason::ConfigFile { file: None, line, key, .. } => (*line, key.clone(), error.to_string()),
        other => panic!("{other:?}"),
    }
}

/// The example with its examples switched on. Of a key that is there twice, the first one is the default.
fn switched_on() -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in EXAMPLE.lines() {
        let Some(example) =
            line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| !c.is_whitespace()))
        else {
            lines.push(line.to_owned());
            continue;
        };
        let key = |line: &str| line.split_once(" = ").map(|(key, _)| key.to_owned());
        if let Some(default) = lines.last()
            && key(default).is_some()
            && key(default) == key(example)
        {
            lines.pop();
        }
        lines.push(example.to_owned());
    }
    lines.join("\n")
}

#[test]
fn the_example_says_what_holds_without_it() {
    assert_eq!(read(EXAMPLE), EngineConfig::default());
}

#[test]
fn the_example_has_every_key() {
    let text = switched_on();
    let config = read(&text);
    let root = DeTable::parse(&text).expect("TOML");
    for key in EngineConfig::keys() {
        let written = RENAMED.iter().find(|(own, _)| *own == key).map_or(key, |(_, file)| *file);
        let found = find(root.get_ref(), key).map(|(_, found)| found);
        let found = found.unwrap_or_else(|| panic!("{written} is not in the example"));
        assert!(found.eq_ignore_ascii_case(written), "{written}, found {found}");
    }
    let differ = EngineConfig::default().differences(&config);
    let off_by_default = [
        "default_network",
        "default_driver",
        "labels",
        "drivers",
        "cluster.discovery",
        "cluster.address",
        "scopes",
    ];
    assert_eq!(differ, off_by_default);
    for keys in [ROOT, LIMITS, TIMEOUTS, POOL, DAEMON, CLUSTER, SCOPE, CLIENT] {
        for key in keys {
            assert!(text.contains(key), "{key} is not in the example");
        }
    }
}

#[test]
fn nothing_is_the_default() {
    assert_eq!(read(""), EngineConfig::default());
    assert_eq!(read("[daemon]\n[cluster]\n[scopes]\n[limits]\n[timeouts]\n"), EngineConfig::default());
}

#[test]
fn libnetworks_tables_are_read_in_any_case() {
    let config = read(
        r#"
        INSTANCE = "a"
        [Daemon]
        Debug = true
        datadir = "/d"
        DEFAULTNETWORK = " blue "
        defaultDriver = ""
        labels = ["com.docker.network.driver.x.a=1=2", "org.example=3"]
        [Daemon.drivercfg.X]
        Text = "t"
        number = 7
        switch = false
        part = 0.5
        [CLUSTER]
        Discovery = "consul://localhost:8500/path"
        address = "10.0.0.7"
        heartbeat = 20
        [scopes.global.Client]
        Provider = " consul"
        Address = "localhost:8500"
        [scopes.global.Client.config]
        "kv.certfile" = "/c"
        "#,
    );
    assert_eq!((&*config.instance, config.debug), ("a", true));
    assert_eq!(config.data_dir, Path::new("/d"));
    assert_eq!((config.default_network.as_deref(), config.default_driver.as_deref()), (Some("blue"), None));
    assert_eq!(
        config.labels.into_iter().collect::<Vec<_>>(),
        [("com.docker.network.driver.x.a".to_owned(), "1=2".to_owned())]
    );
    let options: Vec<_> = config.drivers["X"].iter().map(|(key, value)| (&**key, &**value)).collect();
    assert_eq!(options, [("Text", "t"), ("number", "7"), ("part", "0.5"), ("switch", "false")]);
    assert_eq!(config.cluster.heartbeat, Duration::from_secs(20));
    let stores = &config.scopes["global"].client;
    assert_eq!((&*stores.provider, &*stores.address), ("consul", "localhost:8500"));
    assert_eq!(stores.config["kv.certfile"], "/c");
}

#[test]
fn times_are_seconds_or_have_units() {
    for (text, ms) in [("45", 45_000), ("0.5", 500), ("\"45s\"", 45_000), ("\"1m 30s\"", 90_000)] {
        let config = read(&format!("[timeouts]\noperation = {text}"));
        assert_eq!(config.timeouts.operation, Duration::from_millis(ms), "{text}");
    }
    for text in ["\"45\"", "\"soon\"", "true", "-1", "-0.5", "nan", "1e300", "0", "\"0s\"", "\"25h\""] {
        let (line, key, error) = refused(&format!("[timeouts]\n\noperation = {text}"));
        assert_eq!((line, &*key), (3, "timeouts.operation"), "{error}");
    }
}

#[test]
fn former_tables_are_told_and_ignored() {
    let text = "title = \"LibNetwork Configuration file\"\n[daemon]\ndebug = true\n\n[datastore]\nembedded = false\n\
                [datastore.client]\nprovider = \"consul\"\n";
    let (config, ignored) = EngineConfig::from_toml(text).expect("read");
    assert!(config.debug);
    let told: Vec<_> = ignored.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "line 1: title has no effect",
            "line 5: datastore has no effect; a store is named by [scopes.<scope>.client]",
        ]
    );
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_key() {
    for (text, line, key, says) in [
        ("\n\ncolour = 1", 3, "colour", "run_dir"),
        ("[daemon]\ndata_dir = \"/d\"", 2, "daemon.data_dir", "DataDir"),
        ("[timeouts]\ninstance = \"a\"", 2, "timeouts.instance", "operation, shutdown"),
        ("[cluster]\nwatcher = 1", 2, "cluster.watcher", "no such key"),
        ("[scopes.local]\nembedded = true", 2, "scopes.local.embedded", "client"),
        ("[scopes.local.client]\nurl = \"\"", 2, "scopes.local.client.url", "provider"),
        ("default_pools = [{ base = \"10.0.0.0/8\", size = 24, name = 1 }]", 1, "default_pools.name", "size"),
        ("[daemon]\ndebug = \"yes\"", 2, "daemon.debug", "expected true or false, found string"),
        ("daemon = 1", 1, "daemon", "expected a table"),
        ("[daemon]\nLabels = \"a=b\"", 2, "daemon.Labels", "expected a list"),
        ("[daemon]\nLabels = [\n\"com.docker.network\",\n7]", 4, "daemon.Labels", "expected a text"),
        ("[daemon.DriverCfg]\nbridge = 1", 2, "daemon.DriverCfg.bridge", "expected a table"),
        ("[daemon.DriverCfg.x]\na.b = 1", 2, "daemon.DriverCfg.x.a", "expected a text, a number"),
        ("[limits]\noperations = -1", 2, "limits.operations", "negative"),
        ("[daemon]\ndebug = true\nDebug = false", 3, "daemon.Debug", "line 2"),
        ("[limits]\noperations = 1\n[Limits]\noperations = 2", 3, "Limits", "line 1"),
        ("default_pools = [\n{ base = \"10.0.0.0/8\" }]", 2, "default_pools", "size is missing"),
        ("default_pools = [\n{ base = \"ten\", size = 8 }]", 2, "default_pools.base", "subnet"),
        ("default_pools = [\n{ base = \"10.0.0.0/8\", size = 300 }]", 2, "default_pools.size", "too large"),
        // What only the check of the whole finds.
        ("[daemon]\n\nDATADIR = \"relative\"", 3, "daemon.DATADIR", "absolute"),
        ("instance = \"UPPER\"", 1, "instance", "a-z"),
        ("[limits]\noperations = 0", 2, "limits.operations", "at least 1"),
        ("\ndefault_pools = [{ base = \"10.0.0.0/8\", size = 7 }]", 2, "default_pools", "longer prefix"),
        ("[cluster]\nAddress = \"a b\"", 2, "cluster.Address", "host:port"),
        ("[scopes]\n[scopes.swarm.client]\nprovider = \"etcd\"", 1, "scopes", "\"swarm\""),
        ("[scopes.global.client]\nprovider = \"etcd\"", 1, "scopes.global.client", "address"),
        (
            "[scopes.global.client]\naddress = \"a\"\nprovider = \"ectd\"",
            3,
            "scopes.global.client.provider",
            "zk",
        ),
    ] {
        let (at, found, error) = refused(text);
        assert_eq!((at, &*found), (line, key), "{error}");
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    for (text, line) in [("[daemon]\ndebug = ", 2), ("a = 1\na = 2", 2), ("[daemon", 1), ("\n\n?", 3)] {
        let (at, key, error) = refused(text);
        assert_eq!((at, &*key), (line, ""), "{error}");
    }
}

#[test]
fn a_files_errors_name_the_file() {
    let error = parse("\ncolour = 1", Some(Path::new("/etc/netloom.toml"))).expect_err("unknown");
    assert!(error.to_string().starts_with("/etc/netloom.toml, line 2: colour: "), "{error}");
}
