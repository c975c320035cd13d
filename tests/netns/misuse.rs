//! A clumsy operator: wrong directories, two engines in one place, names that are not what they seem.

use netloom::kernel::{Kernel, Netns};
use netloom::{EndpointSpec, Engine, ErrorKind, JoinSpec, NetworkSpec, SandboxSpec, ShutdownMode};

use crate::lab::{delete_everything, in_lab, joined, soon};

#[test]
fn two_engines_cannot_share_a_directory_and_say_which() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.unwrap();
        joined(&engine, &network, "one").await;
        let same_store = Engine::builder().data_dir(lab.data_dir()).run_dir(lab.dir.path().join("run2"));
        let error = same_store.start().await.expect_err("the store is in use");
        assert!(error.to_string().contains("data"), "{error}");
        // Its start would sweep the first one's namespaces away.
        let same_run = Engine::builder().data_dir(lab.dir.path().join("data2")).run_dir(lab.run_dir());
        let error = same_run.start().await.expect_err("the run directory is in use");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("run") && error.to_string().contains("another engine"), "{error}");
        let (data, run) = (lab.dir.path().join("data3"), lab.dir.path().join("run3"));
        let error = Engine::builder().data_dir(data).run_dir(run).start().await.expect_err("the same name");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("instance netloom"), "it would sweep our links: {error}");
        assert_eq!(engine.controller().sandboxes().len(), 1);
        delete_everything(&engine).await;
        engine.shutdown(ShutdownMode::Graceful).await.unwrap();
        let engine = lab.engine().await;
        joined(&engine, &engine.controller().create_network(NetworkSpec::new("blue")).await.unwrap(), "one")
            .await;
        engine.shutdown(ShutdownMode::Graceful).await.expect("free again at once");
        drop(engine);
        // Also while the first one is away its namespaces are not up for grabs.
        let other = Engine::builder().data_dir(lab.dir.path().join("data2")).run_dir(lab.run_dir());
        let error = other.start().await.expect_err("the run directory belongs to another store");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("owner"), "{error} must say what to remove");
        // What lies above the namespaces may be tidied up without harm.
        for entry in std::fs::read_dir(lab.run_dir()).unwrap().flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        let other = Engine::builder().data_dir(lab.dir.path().join("data2")).run_dir(lab.run_dir());
        other.start().await.expect_err("still another's");
        let engine = lab.next_engine().await;
        assert!(engine.repairs().is_empty(), "{:?}", engine.repairs());
        let other = Engine::builder().data_dir(lab.dir.path().join("data2")).run_dir(lab.run_dir());
        assert_eq!(other.start().await.expect_err("in use").kind(), ErrorKind::Conflict);
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

#[test]
fn two_engines_side_by_side_leave_each_other_alone() {
    in_lab(async |lab| {
        let first = lab.engine().await;
        let start = || {
            let dir = lab.dir.path();
            let builder = Engine::builder().data_dir(dir.join("data2")).run_dir(dir.join("run2"));
            builder.instance("second").start()
        };
        let blue = first.controller().create_network(NetworkSpec::new("blue")).await.unwrap();
        joined(&first, &blue, "one").await;
        let second = start().await.expect("beside the first");
        let same =
            second.controller().create_network(NetworkSpec::new("blue")).await.expect("names are its own");
        let pool = async |network: &netloom::Network| network.inspect().await.unwrap().v4[0].pool;
        assert_ne!(pool(&blue).await, pool(&same).await, "it sees what the host uses");
        joined(&second, &same, "one").await;
        second.shutdown(ShutdownMode::Graceful).await.unwrap();
        let second = start().await.expect("again");
        assert!(
            second.repairs().is_empty(),
            "the first one's objects are no remains: {:?}",
            second.repairs()
        );
        delete_everything(&second).await;
        assert_eq!(first.controller().sandboxes().len(), 1);
        delete_everything(&first).await;
        lab.assert_pristine().await;
    });
}

#[test]
fn directories_that_cannot_be_used_are_named() {
    in_lab(async |lab| {
        let file = lab.dir.path().join("file");
        std::fs::write(&file, "not a directory").unwrap();
        let good = lab.dir.path().join("good");
        for (data, run, name) in
            [(file.join("data"), good.join("run"), "file"), (good.join("data"), file.join("run"), "file")]
        {
            let error = Engine::builder().data_dir(data).run_dir(run).start().await.expect_err("unusable");
            assert!(error.to_string().contains(name), "{error}");
        }
        // That of `ip netns`: whatever lies in it is somebody else's, and nothing is put there.
        let seen = |file: &str| std::path::Path::new("/run").join(file).exists();
        let before = [seen("netns/.lock"), seen("netns/.owner"), seen("engine-id")];
        let error = Engine::builder().data_dir(good.join("data")).run_dir("/run").start().await;
        let error = error.expect_err("not ours");
        assert_eq!(error.kind(), ErrorKind::InvalidParameter);
        assert!(error.to_string().contains("ip netns"), "{error}");
        assert_eq!([seen("netns/.lock"), seen("netns/.owner"), seen("engine-id")], before);
        let error = Engine::builder().data_dir("relative").start().await.expect_err("relative");
        assert_eq!(error.kind(), ErrorKind::InvalidParameter);
        lab.assert_pristine().await;
    });
}

/// A driver that makes its links outside of the sandboxes; the container has an `eth0` of its own.
#[test]
fn a_link_that_is_made_outside_is_moved_in_under_a_free_name() {
    in_lab(async |lab| {
        let builder = Engine::builder().data_dir(lab.data_dir()).run_dir(lab.run_dir());
        let engine = builder.driver(crate::outside::registration()).start().await.expect("it starts");
        let spec = NetworkSpec::new("out").driver(crate::outside::KIND);
        let network = engine.controller().create_network(spec).await.unwrap();
        let endpoint = network.create_endpoint(EndpointSpec::new("web")).await.unwrap();
        let sandbox = engine.controller().create_sandbox(SandboxSpec::new("c1")).await.unwrap();
        let netns = Netns::Named(sandbox.netns().unwrap());
        let key = sandbox.key().unwrap();
        let status = std::process::Command::new("nsenter")
            .arg(format!("--net={}", key.display()))
            .args(["ip", "link", "add", "eth0", "type", "bridge"])
            .status();
        assert!(status.expect("nsenter must be installed (package util-linux)").success());
        endpoint.join(&sandbox, JoinSpec::default()).await.expect("joined");
        let ifname = endpoint.inspect().await.unwrap().ifname.unwrap();
        assert_eq!(ifname.as_str(), "eth1");
        let links = lab.kernel.links(netns, soon()).await.unwrap();
        let moved = links.iter().find(|link| link.name == ifname).expect("it is inside");
        assert!(moved.up && moved.peer.is_some());
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

/// A start in another network namespace would find none of the links, and take every endpoint for unplugged.
#[test]
fn a_start_in_the_wrong_network_namespace_is_refused() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.unwrap();
        joined(&engine, &network, "one").await;
        engine.shutdown(ShutdownMode::Graceful).await.unwrap();
        drop((engine, network));
        let (data, run) = (lab.data_dir(), lab.run_dir());
        let elsewhere = std::thread::spawn(move || {
            netloom::kernel::isolate::enter_own_network().expect("another network namespace");
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(Engine::builder().data_dir(data).run_dir(run).start()).map(drop)
        });
        let error = elsewhere.join().expect("it ends").expect_err("not from there");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert!(error.to_string().contains("network namespace"), "{error}");
        let engine = lab.next_engine().await;
        assert!(engine.repairs().is_empty(), "{:?}", engine.repairs());
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

/// Files of a sandbox that cannot be used are refused by their path, before anything is made, and by a refresh.
#[test]
fn files_that_cannot_be_used_are_refused_by_their_path() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let controller = engine.controller();
        let at = |name: &str| lab.dir.path().join(name);
        std::fs::write(at("secret"), "root:x:0:0\n").unwrap();
        std::os::unix::fs::symlink(at("secret"), at("hosts")).unwrap();
        let linked = || SandboxSpec::new("c1").with(|settings| settings.hosts_path = Some(at("hosts")));
        let missing =
            || SandboxSpec::new("c1").with(|settings| settings.origin_hosts_path = Some(at("nowhere")));
        for (spec, path) in [(linked(), at("hosts")), (missing(), at("nowhere"))] {
            let error = controller.create_sandbox(spec).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{error}");
            assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
        }
        assert!(controller.sandboxes().is_empty());
        let fine = SandboxSpec::new("c1").with(|settings| settings.hosts_path = Some(at("own")));
        let sandbox = controller.create_sandbox(fine).await.unwrap();
        let written = std::fs::read_to_string(at("own")).unwrap();
        assert_eq!(sandbox.refresh(linked()).await.unwrap_err().kind(), ErrorKind::InvalidParameter);
        let kept = sandbox.inspect().await.unwrap().settings.unwrap().hosts_path;
        assert_eq!(kept, Some(at("own")), "a refused refresh changes nothing");
        assert_eq!(std::fs::read_to_string(at("own")).unwrap(), written);
        assert_eq!(std::fs::read_to_string(at("secret")).unwrap(), "root:x:0:0\n");
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}
