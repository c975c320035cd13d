//! A process that may open no more files: whatever it fails at, the error names the limit and what to do, and nothing is left
//! behind.

use std::fs::File;
use std::process::Command;

use netloom::kernel::Kernel;
use netloom::{Endpoint, EndpointSpec, Engine, ErrorKind, JoinSpec, Network, Sandbox, SandboxSpec};

use crate::lab::{as_root, delete_everything, in_lab, soon};
use crate::published::tcp;

/// How many files the test may open: few, because it opens all of them.
const LIMIT: usize = 400;
/// Set for the run with that limit.
const LIMITED: &str = "NETLOOM_TEST_LIMITED";

/// Runs a test in a process of its own that may open few files.
fn limited(test: impl FnOnce()) {
    if std::env::var_os(LIMITED).is_some() {
        return test();
    }
    let name = std::thread::current().name().expect("libtest names its threads").to_owned();
    let status = Command::new("prlimit")
        .arg(format!("--nofile={LIMIT}:{LIMIT}"))
        .arg(std::env::current_exe().expect("known"))
        .args([&name, "--exact", "--nocapture"])
        .env(LIMITED, "1")
        .status()
        .expect("prlimit must be installed (package util-linux)");
    assert!(status.success(), "failed with few files: {status}");
}

/// Takes every descriptor but so many.
fn all_but(free: usize) -> Vec<File> {
    let mut taken: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).take(2 * LIMIT).collect();
    assert!(taken.len() < LIMIT && taken.len() > free + 50, "{} were free", taken.len());
    taken.truncate(taken.len() - free);
    taken
}

async fn life(engine: &Engine, network: &Network) -> netloom::Result<(Endpoint, Sandbox)> {
    let sandbox = engine.controller().create_sandbox(SandboxSpec::new("web")).await?;
    // More than are needed at a time to write its files, which goes before.
    let ports = (0..40).map(|n| tcp(8080 + n, 80 + n));
    let spec = ports.fold(EndpointSpec::new("web"), EndpointSpec::publish);
    let endpoint = network.create_endpoint(spec).await?;
    endpoint.join(&sandbox, JoinSpec::default()).await?;
    Ok((endpoint, sandbox))
}

#[test]
fn an_error_for_want_of_descriptors_names_the_limit_and_the_remedy() {
    limited(|| {
        as_root(|| {
            in_lab(async |lab| {
                let engine = lab.engine().await;
                let spec = netloom::NetworkSpec::new("blue");
                let network = engine.controller().create_network(spec).await.expect("a network");
                // Once with room, so that what is opened once is open.
                life(&engine, &network).await.expect("joined");
                engine
                    .controller()
                    .sandbox_by_container("web")
                    .expect("there")
                    .delete()
                    .await
                    .expect("deleted");
                network.endpoint_by_name("web").await.expect("there").delete().await.expect("deleted");
                engine.drain().await.expect("drained");
                let mut said = Vec::new();
                for free in 0.. {
                    let taken = all_but(free);
                    let outcome = life(&engine, &network).await;
                    drop(taken);
                    match outcome {
                        Ok(_) => break,
                        Err(error) => {
                            let text = format!("{error}; {}", error.remedy().unwrap_or_default());
                            said.push((free, error.kind(), text));
                        }
                    }
                    assert!(free < 100, "{said:#?}");
                    for sandbox in engine.controller().sandboxes() {
                        sandbox.delete().await.expect("deleted");
                    }
                    for endpoint in network.endpoints().await.expect("listed") {
                        endpoint.delete().await.expect("deleted");
                    }
                    engine.drain().await.expect("drained");
                }
                for (free, kind, text) in &said {
                    let names = text.contains(&LIMIT.to_string()) && text.contains("LimitNOFILE=");
                    assert!(
                        names && *kind == ErrorKind::Exhausted,
                        "with {free} free {kind:?}: {text}; of {said:#?}"
                    );
                }
                // What cannot be looked at for that is not said to be missing.
                let there = lab.kernel.namespaces(soon()).await.expect("listed").len();
                assert_eq!(there, 1);
                let (mut refused, mut listed) = (0, 0);
                for free in 0..6 {
                    let taken = all_but(free);
                    let found = lab.kernel.namespaces(soon()).await;
                    drop(taken);
                    match found {
                        Ok(names) => {
                            assert_eq!(names.len(), there, "with {free} free");
                            listed += 1;
                        }
                        Err(error) => {
                            let error = netloom::Error::from(error);
                            assert_eq!(error.kind(), ErrorKind::Exhausted, "with {free} free: {error}");
                            refused += 1;
                        }
                    }
                }
                assert!(refused >= 2 && listed >= 1, "{refused} refused, {listed} listed");
                // With none a namespace cannot be made, and with some not all ports held.
                assert!(said.iter().any(|(_, _, text)| text.contains("port ")), "{said:#?}");
                assert!(said.iter().any(|(_, _, text)| !text.contains("port ")), "{said:#?}");
                delete_everything(&engine).await;
            });
        });
    });
}
