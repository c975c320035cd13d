//! x
#![allow(clippy::all, clippy::print_stdout, clippy::unwrap_used, missing_docs)]
use netloom_kernel::*; use netloom_testkit::*; use std::time::*; use futures::FutureExt;
fn main() {
    for (n, bridges) in [(1_000usize, 10usize), (10_000,100), (100_000, 1000)] {
        let k = SimKernel::builder().host_link("eth0","192.0.2.10/24").unwrap().build();
        let dl = Instant::now() + Duration::from_secs(1000);
        let ex = |ops: Vec<Op>| { for r in k.execute(ops, dl).now_or_never().unwrap() { r.unwrap(); } };
        for b in 0..bridges {
            let name: netloom_model::IfName = format!("br{b}").parse().unwrap();
            ex(vec![Op::CreateBridge{name, mac: None, mtu: None, tag: LinkTag::new("n","network",b)}, Op::SetLink{netns: Netns::Host, name, up: true},
              Op::AddAddress{netns: Netns::Host, link: name, address: format!("10.{}.{}.1/24", b/256, b%256).parse().unwrap()}]);
        }
        let t = |label: &str, f: &mut dyn FnMut(usize) -> Vec<Op>| {
            let ops: Vec<Vec<Op>> = (0..n).map(|i| f(i)).collect();
            let count: usize = ops.iter().map(|o| o.len()).sum();
            let s = Instant::now(); for o in ops { ex(o); } let e = s.elapsed();
            println!("{n:>7} {label:<14} {:>6} ns/op", e.as_nanos() / count as u128);
        };
        let ns = |i: usize| -> netloom_model::NetnsName { format!("{i:064x}").parse().unwrap() };
        let v = |i: usize| -> netloom_model::IfName { format!("veth{i:07x}").parse().unwrap() };
        let eth: netloom_model::IfName = "eth0".parse().unwrap();
        let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let per = n / bridges;
        t("create_netns", &mut |i| vec![Op::CreateNetns{name: ns(i)}]);
        t("create_veth", &mut |i| vec![Op::CreateVeth{host: v(i), peer: eth, netns: Netns::Named(ns(i)), master: Some(format!("br{}", i/per).parse().unwrap()), mac: None, mtu: Some(1500), tag: LinkTag::new("n","endpoint",id)}]);
        t("up+addr+route", &mut |i| { let b=i/per; let netns=Netns::Named(ns(i)); vec![Op::SetLink{netns, name: eth, up: true}, Op::AddAddress{netns, link: eth, address: format!("10.{}.{}.{}/24", b/256,b%256, i%per+2).parse().unwrap()},
            Op::AddRoute{netns, route: Route{destination: "0.0.0.0/0".parse().unwrap(), via: Some(format!("10.{}.{}.1", b/256,b%256).parse().unwrap()), link: eth}}]});
        t("cut_link", &mut |i| vec![Op::CutLink{name: v(i)}]);
        t("delete_link", &mut |i| vec![Op::DeleteLink{name: v(i), tag: Some(LinkTag::new("n","endpoint",id))}]);
        t("delete_netns", &mut |i| vec![Op::DeleteNetns{name: ns(i)}]);
    }
}
