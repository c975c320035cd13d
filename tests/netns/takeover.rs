//! An engine that stops leaves everything standing, the next one takes it over, and neither touches what
//! they did not make.

use std::process::Command;
use std::time::Duration;

use netloom::kernel::{Kernel, LinkKind, LinkTag, Netns, Op};
use netloom::{NetworkSpec, Repair, ShutdownMode};

use crate::lab::{address, delete_everything, in_lab, joined, pings, soon};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn the_next_engine_takes_over_what_stands() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.unwrap();
        let (_, first) = joined(&engine, &network, "one").await;
        let (two, _) = joined(&engine, &network, "two").await;
        let to = address(&two).await;
        engine.shutdown(ShutdownMode::Graceful).await.unwrap();
        drop((engine, network, two));
        let between = first.clone();
        drop(first);

        let engine = lab.next_engine().await;
        assert!(engine.repairs().is_empty(), "nothing was wrong: {:?}", engine.repairs());
        let controller = engine.controller();
        let network = controller.network_by_name("blue").unwrap();
        let again = controller.sandbox_by_container("blue-one").unwrap();
        assert_eq!(again.id(), between.id());
        assert!(pings(&again, to, PATIENCE).await, "traffic flows as before");
        let third = joined(&engine, &network, "three").await;
        assert!(pings(&third.1, to, PATIENCE).await, "and new endpoints join the old ones");
        assert_ne!(address(&third.0).await, to, "no address is given twice");
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

#[test]
fn what_belongs_to_nobody_is_removed_and_what_is_not_ours_stays() {
    in_lab(async |mut lab| {
        let foreign = |name: &str, tag: LinkTag| Op::CreateBridge {
            name: name.parse().unwrap(),
            mac: None,
            mtu: None,
            tag,
        };
        let stays = vec![
            foreign("br-theirs", LinkTag::new("netloom.0123456789ab", "network", "ffff")),
            Op::AddAddress {
                netns: Netns::Host,
                link: "br-theirs".parse().unwrap(),
                address: "10.200.0.1/24".parse().unwrap(),
            },
        ];
        for result in lab.kernel.execute(stays, soon()).await {
            result.unwrap();
        }
        lab.remember().await;
        let engine = lab.engine().await;
        let identity = engine.identity().to_owned();
        engine.shutdown(ShutdownMode::Graceful).await.unwrap();
        drop(engine);
        let ours = vec![
            Op::CreateNetns { name: "0123456789ab".parse().unwrap(), ipv6: true },
            foreign("br-dead", LinkTag::new(&identity, "network", "dead")),
        ];
        for result in lab.kernel.execute(ours, soon()).await {
            result.unwrap();
        }
        let engine = lab.next_engine().await;
        engine.drain().await.unwrap();
        let removed = |needle: &str| {
            let found = |repair: &Repair| matches!(repair, Repair::KernelObjectRemoved { object } if object.contains(needle));
            engine.repairs().iter().any(found)
        };
        assert!(removed("br-dead") && removed("0123456789ab"), "{:?}", engine.repairs());
        lab.assert_pristine().await;
        delete_everything(&engine).await;
        let links = lab.kernel.links(Netns::Host, soon()).await.unwrap();
        assert!(links.iter().any(|link| link.name.as_str() == "br-theirs"), "never touches what is not ours");
    });
}

#[test]
fn a_bridge_of_the_user_is_adopted_and_given_back() {
    in_lab(async |mut lab| {
        // Made by hand: without any mark.
        let status = std::process::Command::new("ip")
            .args(["link", "add", "lan0", "type", "bridge"])
            .status()
            .expect("ip must be installed (package iproute2)");
        assert!(status.success());
        let status =
            std::process::Command::new("ip").args(["addr", "add", "192.0.2.1/24", "dev", "lan0"]).status();
        assert!(status.expect("ip runs").success());
        lab.remember().await;
        let engine = lab.engine().await;
        let spec = NetworkSpec::new("lan")
            .subnet("10.88.0.0/24".parse().unwrap())
            .option("com.docker.network.bridge.name", "lan0");
        let network = engine.controller().create_network(spec).await.unwrap();
        let (_, one) = joined(&engine, &network, "one").await;
        let (two, _) = joined(&engine, &network, "two").await;
        assert!(pings(&one, address(&two).await, PATIENCE).await);
        engine.shutdown(ShutdownMode::Graceful).await.unwrap();
        drop((engine, network, one, two));
        // Not even the next engine takes it for its own.
        let engine = lab.next_engine().await;
        assert!(engine.repairs().is_empty(), "{:?}", engine.repairs());
        delete_everything(&engine).await;
        lab.assert_pristine().await;
        let links = lab.kernel.links(Netns::Host, soon()).await.unwrap();
        let bridge = links.iter().find(|link| link.name.as_str() == "lan0").expect("it is still there");
        assert!(!bridge.up, "and down as before");
        let addresses = lab.kernel.addresses(Netns::Host, soon()).await.unwrap();
        assert!(
            addresses
                .iter()
                .any(|view| view.link == bridge.index && view.address == "192.0.2.1/24".parse().unwrap())
        );
    });
}

#[test]
fn a_bridge_that_is_made_again_gets_its_ports_back() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.unwrap();
        joined(&engine, &network, "one").await;
        let (two, _) = joined(&engine, &network, "two").await;
        let to = address(&two).await;
        let bridge = format!("br-{}", network.id().short()).parse().unwrap();
        engine.shutdown(ShutdownMode::Graceful).await.unwrap();
        drop((engine, network, two));
        lab.kernel.execute(vec![Op::DeleteLink { name: bridge, tag: None }], soon()).await.remove(0).unwrap();
        let engine = lab.next_engine().await;
        let remade = |repair: &&Repair| matches!(repair, Repair::KernelObjectRemade { .. });
        assert_eq!(engine.repairs().iter().filter(remade).count(), 3, "{:?}", engine.repairs());
        let one = engine.controller().sandbox_by_container("blue-one").unwrap();
        assert!(pings(&one, to, PATIENCE).await, "traffic flows again");
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

// The records are lost: containers run on, and the next engine knows them by what the kernel has.

#[test]
fn a_store_that_is_overwritten_is_rebuilt_from_the_kernel() {
    in_lab(async |lab| loses(lab, Loss::Overwritten).await);
}

#[test]
fn a_store_whose_file_is_removed_is_rebuilt_from_the_kernel() {
    in_lab(async |lab| loses(lab, Loss::File).await);
}

#[test]
fn a_store_whose_directory_is_removed_is_rebuilt_from_the_kernel() {
    in_lab(async |lab| loses(lab, Loss::Directory).await);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    Overwritten,
    File,
    Directory,
}

async fn loses(lab: crate::lab::Lab, how: Loss) {
    let engine = lab.engine().await;
    let spec = NetworkSpec::new("blue")
        .subnet("10.66.0.0/24".parse().expect("it works"))
        .subnet("fd66::/64".parse().expect("it works"));
    let network = engine.controller().create_network(spec).await.expect("it works");
    joined(&engine, &network, "one").await;
    let (two, _) = joined(&engine, &network, "two").await;
    let (id, to) = (two.id(), address(&two).await);
    engine.shutdown(ShutdownMode::Graceful).await.expect("it works");
    drop((engine, network, two));
    let records = lab.data_dir().join("records.redb");
    match how {
        Loss::Overwritten => std::fs::write(records, "no database").expect("written"),
        Loss::File => std::fs::remove_file(records).expect("removed"),
        Loss::Directory => std::fs::remove_dir_all(lab.data_dir()).expect("removed"),
    }

    let engine = lab.next_engine().await;
    let rebuilt = |repair: &&Repair| matches!(repair, Repair::RecordRebuilt { .. });
    assert_eq!(engine.repairs().iter().filter(rebuilt).count(), 5, "{:?}", engine.repairs());
    assert_eq!(engine.repairs().len(), 6, "and that the store is lost: {:?}", engine.repairs());
    let controller = engine.controller();
    let network = &controller.networks()[0];
    assert_eq!(address(&network.endpoint(id).await.expect("it works")).await, to);
    for sandbox in controller.sandboxes() {
        assert!(pings(&sandbox, to, PATIENCE).await, "traffic flows as before");
    }
    let (third, sandbox) = joined(&engine, network, "three").await;
    assert!(pings(&sandbox, to, PATIENCE).await, "and new endpoints join the old ones");
    assert_ne!(address(&third).await, to, "no address is given twice");
    engine.shutdown(ShutdownMode::Graceful).await.expect("it works");
    drop((engine, third, sandbox, controller));
    let engine = lab.next_engine().await;
    assert!(engine.repairs().is_empty(), "{:?}", engine.repairs());
    delete_everything(&engine).await;
    lab.assert_pristine().await;
}

/// Two engines that take turns in one network namespace, under one name, each with directories of its own.
#[test]
fn engines_that_take_turns_leave_each_others_containers_alone() {
    in_lab(async |lab| {
        let dir = tempfile::tempdir().unwrap();
        let other = async || {
            let builder = netloom::Engine::builder().data_dir(dir.path().join("data"));
            builder.run_dir(dir.path().join("run")).start().await.unwrap()
        };
        let stop = async |engine: netloom::Engine| engine.shutdown(ShutdownMode::Graceful).await.unwrap();
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.unwrap();
        joined(&engine, &network, "one").await;
        let (two, _) = joined(&engine, &network, "two").await;
        let to = address(&two).await;
        stop(engine).await;
        let engine = other().await;
        assert!(engine.repairs().is_empty(), "{:?}", engine.repairs());
        let spec = NetworkSpec::new("blue").subnet("10.77.0.0/24".parse().unwrap());
        let network = engine.controller().create_network(spec).await.unwrap();
        joined(&engine, &network, "one").await;
        engine.drain().await.unwrap();
        stop(engine).await;
        let engine = lab.next_engine().await;
        assert!(engine.repairs().is_empty(), "{:?}", engine.repairs());
        let one = engine.controller().sandbox_by_container("blue-one").unwrap();
        assert!(pings(&one, to, PATIENCE).await, "traffic flows as before");
        delete_everything(&engine).await;
        stop(engine).await;
        let engine = other().await;
        assert!(engine.repairs().is_empty(), "{:?}", engine.repairs());
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

#[test]
fn a_reboot_frees_every_address() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.unwrap();
        let (endpoint, sandbox) = joined(&engine, &network, "one").await;
        let was = address(&endpoint).await;
        let netns = sandbox.netns().unwrap();
        let bridge = format!("br-{}", network.id().short()).parse().unwrap();
        engine.shutdown(ShutdownMode::Graceful).await.unwrap();
        drop((engine, network, endpoint, sandbox));
        // What a reboot does: namespaces and links are gone, the store is not.
        let gone = vec![Op::DeleteNetns { name: netns }, Op::DeleteLink { name: bridge, tag: None }];
        for result in lab.kernel.execute(gone, soon()).await {
            result.unwrap();
        }
        let engine = lab.next_engine().await;
        let controller = engine.controller();
        assert!(controller.sandboxes().is_empty(), "the sandbox died with the machine");
        let network = controller.network_by_name("blue").expect("the network is made again");
        assert!(network.endpoints().await.unwrap().is_empty(), "its endpoint died with it");
        let spec = netloom::EndpointSpec::new("next").address(was);
        network.create_endpoint(spec).await.expect("its address is free");
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}

/// Who keeps a handle of an engine that has ended keeps no container's namespace alive.
#[test]
fn a_handle_of_an_ended_engine_holds_no_namespace() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let network = engine.controller().create_network(NetworkSpec::new("blue")).await.expect("a network");
        let (_, sandbox) = joined(&engine, &network, "web").await;
        let key = sandbox.key().expect("a path");
        engine.shutdown(ShutdownMode::Graceful).await.expect("stopped");
        let unmounted = Command::new("umount").arg(&key).status().expect("umount must be installed (mount)");
        assert!(unmounted.success(), "its name is gone");
        let kernel = &lab.kernel;
        let ends = async || {
            let links = kernel.links(Netns::Host, soon()).await.expect("listed");
            !links.iter().any(|link| link.kind == LinkKind::Veth)
        };
        let gone = async {
            while !ends().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the namespace dies with its name");
        // The handle lives to here.
        drop((engine, sandbox));
        let engine = lab.next_engine().await;
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}
