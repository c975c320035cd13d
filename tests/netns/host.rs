//! What the host uses: default pools keep away from it.

use netloom::{Engine, EngineConfig, NetworkSpec};

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
