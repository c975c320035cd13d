//! What the host uses: default pools keep away from it.

use netloom::{Engine, EngineConfig, NetworkSpec, ShutdownMode};

use crate::lab::{delete_everything, in_lab};

#[test]
fn a_default_pool_keeps_away_from_the_name_servers_of_the_host() {
    in_lab(async |lab| {
        let file = lab.dir.path().join("resolv.conf");
        std::fs::write(&file, "search example.net\nnameserver 172.17.3.53\n").unwrap();
        let config = EngineConfig {
            data_dir: lab.data_dir(),
            run_dir: lab.run_dir(),
            name_server_files: vec![file.clone()],
            ..EngineConfig::default()
        };
        let engine = Engine::builder().config(config).start().await.unwrap();
        let pool = async |name: &str| {
            let network = engine.controller().create_network(NetworkSpec::new(name)).await.unwrap();
            network.inspect().await.unwrap().v4[0].pool.to_string()
        };
        assert_eq!(pool("blue").await, "172.18.0.0/16");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(pool("red").await, "172.17.0.0/16", "it is nowhere named any more");
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

/// RFC 4193: what is drawn for a host stays with it.
#[test]
fn the_ipv6_prefix_of_a_host_outlives_every_directory() {
    in_lab(async |mut lab| {
        let machine = lab.dir.path().join("machine-id");
        let config = || EngineConfig {
            data_dir: lab.data_dir(),
            run_dir: lab.run_dir(),
            machine_id_file: machine.clone(),
            ..EngineConfig::default()
        };
        // A life of an engine: the pool that its first IPv6 network gets.
        let pool = async || {
            let engine = Engine::builder().config(config()).start().await.unwrap();
            let network =
                engine.controller().create_network(NetworkSpec::new("blue").ipv6(true)).await.unwrap();
            let pool = network.inspect().await.unwrap().v6[0].pool.to_string();
            delete_everything(&engine).await;
            engine.shutdown(ShutdownMode::Graceful).await.unwrap();
            pool
        };
        std::fs::write(&machine, "0123456789abcdef0123456789abcdef\n").unwrap();
        let first = pool().await;
        assert_eq!(first, "fdb7:61c0:e83b::/64");
        assert_eq!(pool().await, first, "after a restart");
        std::fs::remove_dir_all(lab.data_dir()).unwrap();
        std::fs::remove_file(lab.run_dir().join("engine-id")).unwrap();
        assert_eq!(pool().await, first, "whatever is lost");
        std::fs::write(&machine, "0123456789abcdef0123456789abcdee\n").unwrap();
        assert_eq!(pool().await, "fdbc:277c:2d10::/64", "another host");
        // A host that nothing tells from others: the engine's identity does, which is kept twice.
        std::fs::write(&machine, "uninitialized\n").unwrap();
        let own = pool().await;
        assert!(own.starts_with("fd") && own.ends_with("::/64") && own != first, "{own}");
        std::fs::remove_file(&machine).unwrap();
        std::fs::remove_dir_all(lab.data_dir()).unwrap();
        assert_eq!(pool().await, own, "as long as one of them is there");
        lab.look_anew();
        lab.assert_pristine().await;
    });
}
