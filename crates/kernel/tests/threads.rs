//! The threads behind the kernel: what they hold, what they survive, what passes through them.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{
    Lab, add_address, bridge, create_netns, delete_link, ifname, inside, isolated, netns_name, soon, start,
    up, veth, wait,
};
use futures::StreamExt;
use netloom_kernel::{AddressView, Kernel, KernelEvent, Netns, Op, ReachEvent, Route, RouteView};
use netloom_model::Certainty;

const HOST: Netns = Netns::Host;

/// The namespace that this thread is in.
fn whereabouts() -> String {
    let link = fs::read_link("/proc/thread-self/ns/net").expect("readable");
    link.to_str().expect("ASCII").to_owned()
}

#[test]
fn every_descriptor_is_closed_on_exec() {
    let open = || -> BTreeSet<u32> {
        let entries = fs::read_dir("/proc/thread-self/fd").expect("readable");
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
    };
    // Those that the test was started with are not ours.
    let before = open();
    isolated(move |lab| {
        let _watch = lab.kernel.watch();
        lab.must(vec![create_netns("c1"), up(inside("c1"), "lo"), bridge("br0")]);
        for fd in open().difference(&before) {
            // The listing's own descriptor is closed again.
            let Ok(info) = fs::read_to_string(format!("/proc/thread-self/fdinfo/{fd}")) else { continue };
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
            let flags = i32::from_str_radix(flags.trim(), 8).expect("octal");
            assert_ne!(
                flags & libc::O_CLOEXEC,
                0,
                "{fd}: {:?}",
                fs::read_link(format!("/proc/self/fd/{fd}"))
            );
        }
    });
}

#[test]
fn jobs_run_where_they_were_sent_and_a_panic_stays_theirs() {
    isolated(|lab| {
        lab.must(vec![create_netns("c1"), create_netns("c2")]);
        let (home, c1, c2) = (
            lab.run(HOST, whereabouts),
            lab.run(inside("c1"), whereabouts),
            lab.run(inside("c2"), whereabouts),
        );
        assert_eq!(home, whereabouts());
        assert!(home != c1 && home != c2 && c1 != c2);
        for netns in [HOST, inside("c1")] {
            let error = wait(lab.kernel.run_in(netns, Box::new(|| panic!("a planned panic")), soon()));
            let error = error.expect_err("panics");
            assert!(error.message.contains("a planned panic"), "{error}");
            assert_eq!(error.certainty, Certainty::Uncertain);
        }
        assert_eq!((lab.run(HOST, whereabouts), lab.run(inside("c1"), whereabouts)), (home, c1));
        let missing =
            wait(lab.kernel.run_in(inside("none"), Box::new(|| ()), soon())).expect_err("no namespace");
        assert_eq!(missing.errno, libc::ENOENT);
    });
}

#[test]
fn the_monitor_tells_of_links_and_ends_with_the_kernel() {
    isolated(|lab| {
        let Lab { kernel, run_dir } = lab;
        let mut events = kernel.watch();
        let lab = Lab { kernel, run_dir };
        lab.must(vec![create_netns("c1"), bridge("br0"), veth("veth1", "eth0", inside("c1"), Some("br0"))]);
        let index = lab.link(HOST, "veth1").expect("made").index;
        lab.must(vec![delete_link("veth1")]);
        let mut seen = Vec::new();
        wait(async {
            while let Some(event) = events.next().await {
                match event {
                    KernelEvent::LinkChanged(link) if link.index == index => seen.push((link.tag(), true)),
                    KernelEvent::LinkGone { index: gone, name } if gone == index => {
                        assert_eq!(name, ifname("veth1"));
                        return;
                    }
                    KernelEvent::LinkChanged(_) | KernelEvent::LinkGone { .. } => {}
                    KernelEvent::Overrun => panic!("nothing was lost"),
                }
            }
            panic!("the watch ended");
        });
        assert!(seen.contains(&(Some(common::tag("veth1")), true)), "{seen:?}");
        drop(lab.kernel);
        // The channel closes when the thread has ended.
        wait(async { while events.next().await.is_some() {} });
    });
}

#[test]
fn addresses_and_routes_are_told_and_links_are_not() {
    isolated(|lab| {
        let Lab { kernel, run_dir } = lab;
        let mut events = kernel.watch_reach();
        let lab = Lab { kernel, run_dir };
        // A container's link brings link-local addresses and routes, which are no news.
        lab.must(vec![create_netns("c1"), bridge("br0"), up(HOST, "br0")]);
        lab.must(vec![
            veth("veth1", "eth0", inside("c1"), Some("br0")),
            up(HOST, "veth1"),
            up(inside("c1"), "eth0"),
        ]);
        let index = lab.link(HOST, "br0").expect("made").index;
        let (link, address) = (ifname("br0"), "10.9.0.1/24".parse().expect("an address"));
        let destination = "10.10.0.0/16".parse().expect("a net");
        let via = Some("10.9.0.2".parse().expect("an address"));
        let route = Route { destination, via, link };
        lab.must(vec![Op::AddAddress { netns: HOST, link, address }]);
        lab.must(vec![Op::AddRoute { netns: HOST, route }, Op::DeleteRoute { netns: HOST, route }]);
        lab.must(vec![Op::DeleteAddress { netns: HOST, link, address }]);
        let seen: Vec<_> = wait(events.by_ref().take(6).collect());
        let (own, link) = (AddressView { link: index, address }, Some(index));
        let connected = RouteView {
            destination: "10.9.0.0/24".parse().expect("a net"),
            via: None,
            link,
            table: RouteView::MAIN,
        };
        let route = RouteView { destination, via, link, table: RouteView::MAIN };
        let mut expected = vec![
            ReachEvent::AddressCame(own),
            ReachEvent::RouteCame(connected),
            ReachEvent::RouteCame(route),
            ReachEvent::RouteWent(route),
        ];
        assert_eq!(seen[..4], expected[..]);
        expected = vec![ReachEvent::AddressWent(own), ReachEvent::RouteWent(connected)];
        assert!(expected.iter().all(|event| seen[4..].contains(event)), "{seen:?}");
        drop(lab.kernel);
        wait(async { while events.next().await.is_some() {} });
    });
}

#[test]
fn a_watcher_that_does_not_read_is_told_so() {
    isolated(|lab| {
        let (mut events, mut beside) = (lab.kernel.watch(), lab.kernel.watch());
        lab.must(vec![bridge("br0")]);
        let flip = |on| Op::SetLink { netns: HOST, name: ifname("br0"), up: on };
        lab.must((0..1500).map(|i| flip(i % 2 == 0)).collect());
        // The kernel's news may be on their way still: not before the last has come is anything read.
        lab.must(vec![bridge("last")]);
        wait(async {
            while let Some(event) = beside.next().await {
                let last = |link: &netloom_kernel::LinkView| link.name == ifname("last");
                match event {
                    KernelEvent::Overrun => return,
                    KernelEvent::LinkChanged(link) if last(&link) => return,
                    _ => {}
                }
            }
            panic!("the watch ended");
        });
        let mut count = 0;
        wait(async {
            while let Some(event) = events.next().await {
                if event == KernelEvent::Overrun {
                    return;
                }
                count += 1;
            }
            panic!("the watch ended");
        });
        assert!(count >= 1024, "{count}");
    });
}

/// Two containers on one bridge, with a socket in each.
fn talkers(lab: &Lab) -> (UdpSocket, UdpSocket) {
    let (c1, c2) = (inside("c1"), inside("c2"));
    lab.must(vec![bridge("br0"), up(HOST, "br0"), create_netns("c1"), create_netns("c2")]);
    let mut sockets = [(c1, "veth1", "10.0.0.2"), (c2, "veth2", "10.0.0.3")].map(|(netns, host, address)| {
        lab.must(vec![veth(host, "eth0", netns, Some("br0"))]);
        lab.must(vec![up(netns, "eth0"), add_address(netns, "eth0", &format!("{address}/24"))]);
        Some(lab.run(netns, move || UdpSocket::bind((address, 9)).expect("binds")))
    });
    let take = |socket: &mut Option<UdpSocket>| socket.take().expect("once");
    let (a, b) = (take(&mut sockets[0]), take(&mut sockets[1]));
    for socket in [&a, &b] {
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
    }
    (a, b)
}

/// Whether a datagram gets through. Each is told from those that were sent before and waited on the way.
fn arrives(from: &UdpSocket, to: &UdpSocket) -> bool {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let sent = NEXT.fetch_add(1, Ordering::Relaxed).to_ne_bytes();
    let mut received = [0; 8];
    if from.send_to(&sent, to.local_addr().expect("bound")).is_err() {
        return false;
    }
    while to.recv_from(&mut received).is_ok() {
        if received == sent {
            return true;
        }
    }
    false
}

/// A bridge without STP forwards as soon as it has noticed that a port is up, which it does on its own time.
fn until_arrives(from: &UdpSocket, to: &UdpSocket) {
    assert!((0..100).any(|_| arrives(from, to)), "no way through");
}

#[test]
fn a_cut_link_passes_nothing_either_way_and_stays_cut() {
    isolated(|lab| {
        let (a, b) = talkers(&lab);
        until_arrives(&a, &b);
        until_arrives(&b, &a);
        lab.must(vec![Op::CutLink { name: ifname("veth1") }]);
        assert!(!arrives(&a, &b) && !arrives(&b, &a));
        // What the container does to its own end must not bring the port back.
        let flip = |up| Op::SetLink { netns: inside("c1"), name: ifname("eth0"), up };
        lab.must(vec![flip(false), flip(true)]);
        assert!(!arrives(&a, &b) && !arrives(&b, &a));
        // Nor must a change that makes the bridge look at its port again.
        common::foreign("ip link set veth1 group 7");
        assert!(!arrives(&a, &b) && !arrives(&b, &a));
        lab.must(vec![Op::CutLink { name: ifname("veth1") }, delete_link("veth1")]);
    });
}

#[test]
fn a_second_kernel_finds_the_namespaces_of_the_first_and_their_traffic_flows_on() {
    isolated(|lab| {
        let (a, b) = talkers(&lab);
        until_arrives(&a, &b);
        let Lab { kernel, run_dir } = lab;
        drop(kernel);
        assert!(arrives(&a, &b) && arrives(&b, &a));
        let lab = Lab { kernel: start(&run_dir), run_dir };
        let before = whereabouts();
        assert_ne!(lab.run(inside("c1"), whereabouts), before);
        lab.must(vec![
            Op::DeleteNetns { name: netns_name("c1") },
            Op::DeleteNetns { name: netns_name("c2") },
        ]);
    });
}
