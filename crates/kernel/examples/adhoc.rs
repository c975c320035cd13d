//! Ad hoc measurement; not kept.
#![allow(missing_docs, clippy::all, clippy::print_stdout, clippy::unwrap_used)]
use futures::{StreamExt, executor::block_on, stream};
use netloom_kernel::*;
use netloom_model::*;
use std::time::{Duration, Instant};
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}
fn main() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = LinuxKernel::start(LinuxConfig { run_dir: dir.path().to_owned() }).unwrap();
    let n: u32 = 192;
    let br: IfName = "br0".parse().unwrap();
    let must = |ops: Vec<Op>| {
        for r in block_on(kernel.execute(ops, soon())) {
            r.unwrap();
        }
    };
    must(vec![
        Op::CreateBridge { name: br, mac: None, mtu: None, tag: LinkTag::new("t", "network", "b") },
        Op::SetLink { netns: Netns::Host, name: br, up: true },
        Op::AddAddress { netns: Netns::Host, link: br, address: "10.0.0.1/16".parse().unwrap() },
    ]);
    for round in 0..4 {
        for c in [1usize, 8, 64] {
            let ns = |i: u32| -> NetnsName { format!("c{i}").parse().unwrap() };
            let host = |i: u32| -> IfName { format!("v{i}").parse().unwrap() };
            let eth: IfName = "eth0".parse().unwrap();
            let before = kernel.stats();
            let start = Instant::now();
            block_on(
                stream::iter(0..n)
                    .map(|i| {
                        let netns = Netns::Named(ns(i));
                        let ops = vec![
                            Op::CreateNetns { name: ns(i) },
                            Op::CreateVeth {
                                host: host(i),
                                peer: eth,
                                netns,
                                master: Some(br),
                                mac: None,
                                mtu: Some(1500),
                                tag: LinkTag::new("t", "endpoint", i),
                            },
                            Op::SetLink { netns, name: eth, up: true },
                            Op::AddAddress {
                                netns,
                                link: eth,
                                address: format!("10.0.{}.{}/16", 1 + i / 200, 1 + i % 200).parse().unwrap(),
                            },
                            Op::AddRoute {
                                netns,
                                route: Route {
                                    destination: "0.0.0.0/0".parse().unwrap(),
                                    via: "10.0.0.1".parse().ok(),
                                    link: eth,
                                },
                            },
                        ];
                        kernel.execute(ops, soon())
                    })
                    .buffer_unordered(c)
                    .for_each(|rs| async move {
                        for r in rs {
                            r.unwrap();
                        }
                    }),
            );
            let all = start.elapsed();
            let after = kernel.stats();
            // Only the pair, namespaces there already, the links of the first pass gone.
            must((0..n).map(|i| Op::DeleteLink { name: host(i), tag: None }).collect());
            let mid = kernel.stats();
            let start = Instant::now();
            block_on(
                stream::iter(0..n)
                    .map(|i| {
                        let netns = Netns::Named(ns(i));
                        kernel.execute(
                            vec![Op::CreateVeth {
                                host: host(i),
                                peer: eth,
                                netns,
                                master: Some(br),
                                mac: None,
                                mtu: Some(1500),
                                tag: LinkTag::new("t", "endpoint", i),
                            }],
                            soon(),
                        )
                    })
                    .buffer_unordered(c)
                    .for_each(|rs| async move {
                        for r in rs {
                            r.unwrap();
                        }
                    }),
            );
            let pair = start.elapsed();
            let end = kernel.stats();
            let us = |d: Duration| d.as_secs_f64() * 1e6 / n as f64;
            println!(
                "round {round} c {c:2}: endpoint {:.0} us ({:.2} sends {:.2} msgs) pair {:.0} us ({:.2} sends {:.2} msgs)",
                us(all),
                (after.sends - before.sends) as f64 / n as f64,
                (after.messages - before.messages) as f64 / n as f64,
                us(pair),
                (end.sends - mid.sends) as f64 / n as f64,
                (end.messages - mid.messages) as f64 / n as f64
            );
            must((0..n).map(|i| Op::DeleteLink { name: host(i), tag: None }).collect());
            must((0..n).map(|i| Op::DeleteNetns { name: ns(i) }).collect());
            std::thread::sleep(Duration::from_millis(1500));
        }
    }
}
