//! The kernel of this machine, operation by operation.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{
    Lab, add_address, bridge, create_netns, foreign, ifname, inside, isolated, netns_name, soon, start, tag,
    up, veth, wait,
};
use netloom_kernel::{Kernel, LinkKind, LinuxConfig, LinuxKernel, Neighbour, Netns, Op, Route, execute_all};
use netloom_model::{Certainty, IfName, MacAddr};

const HOST: Netns = Netns::Host;
const MAC: MacAddr = MacAddr([2, 0x42, 10, 0, 0, 2]);

fn route(netns: Netns, destination: &str, via: Option<&str>, link: &str) -> (Netns, Route) {
    let route = Route {
        destination: destination.parse().expect("a subnet"),
        via: via.map(|via| via.parse().expect("an address")),
        link: ifname(link),
    };
    (netns, route)
}

fn add_route((netns, route): (Netns, Route)) -> Op {
    Op::AddRoute { netns, route }
}

fn delete_route((netns, route): (Netns, Route)) -> Op {
    Op::DeleteRoute { netns, route }
}

#[test]
fn a_pair_arrives_under_its_final_name_address_and_size() {
    isolated(|lab| {
        lab.must(vec![
            create_netns("c1"),
            Op::CreateBridge {
                name: ifname("br0"),
                mac: Some(MacAddr([2, 0, 0, 0, 0, 9])),
                mtu: None,
                tag: tag("b"),
            },
            up(HOST, "br0"),
            Op::CreateVeth {
                host: ifname("veth1"),
                peer: ifname("eth0"),
                netns: inside("c1"),
                master: Some(ifname("br0")),
                mac: Some(MAC),
                mtu: Some(1400),
                tag: tag("veth1"),
            },
            up(inside("c1"), "eth0"),
        ]);
        let bridge = lab.link(HOST, "br0").expect("made");
        assert_eq!((&bridge.kind, bridge.mac), (&LinkKind::Bridge, Some(MacAddr([2, 0, 0, 0, 0, 9]))));
        assert_eq!((bridge.tag(), bridge.up), (Some(tag("b")), true));
        let host = lab.link(HOST, "veth1").expect("made");
        assert_eq!(
            (&host.kind, host.mtu, host.up, host.master),
            (&LinkKind::Veth, 1400, true, Some(bridge.index))
        );
        assert_eq!((host.tag(), host.group), (Some(tag("veth1")), 0));
        let links = lab.links(inside("c1"));
        let names: Vec<_> = links.iter().map(|link| (link.name.as_str(), link.up)).collect();
        assert_eq!(names, [("lo", true), ("eth0", true)]);
        assert_eq!((links[1].mac, links[1].mtu, links[1].alias.as_deref()), (Some(MAC), 1400, None));
    });
}

#[test]
fn one_call_may_make_a_link_and_use_it() {
    isolated(|lab| {
        // The numbers of br0 and eth0 are not known before the first operations have been carried out.
        lab.must(vec![
            bridge("br0"),
            add_address(HOST, "br0", "10.0.0.1/24"),
            up(HOST, "br0"),
            create_netns("c1"),
            veth("veth1", "eth0", inside("c1"), Some("br0")),
            add_address(inside("c1"), "eth0", "10.0.0.2/24"),
            up(inside("c1"), "eth0"),
            add_route(route(inside("c1"), "0.0.0.0/0", Some("10.0.0.1"), "eth0")),
        ]);
        let addresses = wait(lab.kernel.addresses(HOST, soon())).expect("listed");
        let index = lab.link(HOST, "br0").expect("made").index;
        let v4 = addresses.iter().find(|view| view.link == index && view.address.addr().is_ipv4());
        assert_eq!(v4.expect("added").address.to_string(), "10.0.0.1/24");
        let index = lab.link(inside("c1"), "eth0").expect("made").index;
        let routes = wait(lab.kernel.routes(inside("c1"), soon())).expect("listed");
        let default = routes.iter().find(|route| route.destination.prefix_len() == 0).expect("added");
        assert_eq!((default.via, default.link), ("10.0.0.1".parse().ok(), Some(index)));
        assert!(
            routes.iter().all(|route| !route.destination.addr().is_loopback()),
            "main table only: {routes:?}"
        );
    });
}

#[test]
fn refused_operations_say_why_and_do_not_stop_the_rest() {
    isolated(|lab| {
        lab.must(vec![create_netns("c1"), bridge("br0"), veth("veth1", "eth0", inside("c1"), None)]);
        let results = lab.execute(vec![
            bridge("br0"),
            veth("veth2", "eth9", inside("c1"), Some("none")),
            veth("veth3", "eth3", inside("c1"), Some("br0")),
            up(inside("none"), "eth0"),
            up(inside("c1"), "eth3"),
        ]);
        let errnos: Vec<_> =
            results.iter().map(|result| result.as_ref().map_err(|error| error.errno)).collect();
        assert_eq!(errnos, [Err(libc::EEXIST), Err(libc::ENODEV), Ok(&()), Err(libc::ENOENT), Ok(&())]);
        assert!(lab.link(HOST, "veth2").is_none());

        assert_eq!(lab.errno(create_netns("c1")), libc::EEXIST);
        assert_eq!(lab.errno(Op::DeleteNetns { name: netns_name("none") }), libc::ENOENT);
        assert_eq!(lab.errno(veth("veth1", "eth9", inside("c1"), None)), libc::EEXIST);
        assert_eq!(lab.errno(veth("veth9", "eth0", inside("c1"), None)), libc::EEXIST);
        assert_eq!(lab.errno(veth("veth9", "eth9", inside("none"), None)), libc::ENOENT);
        assert_eq!(lab.errno(Op::CutLink { name: ifname("none") }), libc::ENODEV);
        assert_eq!(lab.errno(common::delete_link("none")), libc::ENODEV);
        assert_eq!(lab.errno(up(HOST, "none")), libc::ENODEV);
        assert_eq!(lab.errno(up(inside("c1"), "none")), libc::ENODEV);
        let mtu = |netns, name, mtu| Op::SetMtu { netns, name: ifname(name), mtu };
        assert_eq!(lab.errno(mtu(inside("c1"), "none", 1400)), libc::ENODEV);
        assert_eq!(lab.errno(mtu(inside("c1"), "eth0", 10)), libc::EINVAL);
        lab.must(vec![mtu(inside("c1"), "eth0", 1300)]);
        assert_eq!(lab.link(inside("c1"), "eth0").expect("there").mtu, 1300);
        // A bridge that cannot have its MTU is not left behind.
        let bad = Op::CreateBridge { name: ifname("br9"), mac: None, mtu: Some(1 << 20), tag: tag("br9") };
        assert_eq!(lab.errno(bad), libc::EINVAL);
        assert!(lab.link(HOST, "br9").is_none());
    });
}

#[test]
fn addresses_routes_and_neighbours_give_the_documented_errors() {
    isolated(|lab| {
        let c1 = inside("c1");
        lab.must(vec![
            create_netns("c1"),
            veth("veth1", "eth0", c1, None),
            up(c1, "eth0"),
            up(HOST, "veth1"),
        ]);
        let delete_address = |address: &str| Op::DeleteAddress {
            netns: c1,
            link: ifname("eth0"),
            address: address.parse().expect("ok"),
        };
        for (address, other) in [("10.0.0.2/24", "10.0.0.3/24"), ("fd00::2/64", "fd00::3/64")] {
            lab.must(vec![add_address(c1, "eth0", address)]);
            assert_eq!(lab.errno(add_address(c1, "eth0", address)), libc::EEXIST, "{address}");
            assert_eq!(lab.errno(delete_address(other)), libc::EADDRNOTAVAIL, "{address}");
        }
        assert_eq!(lab.errno(add_address(c1, "none", "10.0.0.2/24")), libc::ENODEV);

        let cases = [
            ("10.9.0.0/16", "10.0.0.1", "10.77.0.1", libc::ENETUNREACH),
            ("fd09::/64", "fd00::1", "fd77::1", libc::EHOSTUNREACH),
        ];
        for (destination, via, unreachable, errno) in cases {
            let good = route(c1, destination, Some(via), "eth0");
            lab.must(vec![add_route(good)]);
            assert_eq!(lab.errno(add_route(good)), libc::EEXIST, "{destination}");
            assert_eq!(lab.errno(add_route(route(c1, destination, Some(unreachable), "eth0"))), errno);
            lab.must(vec![delete_route(good)]);
            assert_eq!(lab.errno(delete_route(good)), libc::ESRCH, "{destination}");
            let direct = route(c1, destination, None, "eth0");
            lab.must(vec![add_route(direct)]);
            let routes = wait(lab.kernel.routes(c1, soon())).expect("listed");
            let found = routes.iter().find(|route| route.destination.to_string() == destination);
            assert_eq!(found.expect("listed").via, None);
            lab.must(vec![delete_route(direct)]);
        }
        let mixed = route(c1, "10.9.0.0/16", Some("fd00::1"), "eth0");
        lab.must(vec![add_route(mixed)]);
        let routes = wait(lab.kernel.routes(c1, soon())).expect("listed");
        assert!(routes.iter().any(|route| route.via == "fd00::1".parse().ok()), "{routes:?}");
        assert_eq!(lab.errno(add_route(route(c1, "fd09::/64", Some("10.0.0.1"), "eth0"))), libc::EINVAL);

        lab.must(vec![delete_address("fd00::2/64")]);
        let addresses = wait(lab.kernel.addresses(c1, soon())).expect("listed");
        assert!(addresses.iter().all(|view| view.address.to_string() != "fd00::2/64"));
    });
}

#[test]
fn a_new_ipv6_address_is_usable_at_once() {
    isolated(|lab| {
        let c1 = inside("c1");
        lab.must(vec![
            create_netns("c1"),
            veth("veth1", "eth0", c1, None),
            up(c1, "eth0"),
            add_address(c1, "eth0", "fd00::2/64"),
        ]);
        // While duplicates are looked for, which takes a second, an address cannot be bound.
        let bound = lab.run(c1, || std::net::UdpSocket::bind("[fd00::2]:0").map(drop));
        bound.expect("not tentative");
    });
}

#[test]
fn neighbours_are_permanent_and_replaceable() {
    isolated(|lab| {
        let c1 = inside("c1");
        lab.must(vec![
            create_netns("c1"),
            bridge("br0"),
            veth("veth1", "eth0", c1, Some("br0")),
            up(c1, "eth0"),
        ]);
        let entry =
            |last, mac| Neighbour::Address { address: format!("10.0.0.{last}").parse().expect("ok"), mac };
        let add = |neighbour| Op::AddNeighbour { netns: c1, link: ifname("eth0"), neighbour };
        let delete = |neighbour| Op::DeleteNeighbour { netns: c1, link: ifname("eth0"), neighbour };
        lab.must(vec![add(entry(7, MAC)), add(entry(7, MacAddr([2, 0, 0, 0, 0, 7])))]);
        let listed = wait(lab.kernel.neighbours(c1, soon())).expect("listed");
        let found: Vec<_> = listed.iter().filter(|view| view.permanent && !view.forwarding).collect();
        assert_eq!(found.len(), 1, "{listed:?}");
        assert_eq!(
            (found[0].mac, found[0].address),
            (Some(MacAddr([2, 0, 0, 0, 0, 7])), "10.0.0.7".parse().ok())
        );
        lab.must(vec![delete(entry(7, MAC))]);
        assert_eq!(lab.errno(delete(entry(7, MAC))), libc::ENOENT);

        let on_bridge = Neighbour::Forwarding { mac: MAC, destination: None };
        let forward = Op::AddNeighbour { netns: HOST, link: ifname("br0"), neighbour: on_bridge };
        lab.must(vec![forward.clone(), forward]);
        let index = lab.link(HOST, "br0").expect("there").index;
        let has = |lab: &Lab| {
            let listed = wait(lab.kernel.neighbours(HOST, soon())).expect("listed");
            listed.iter().any(|view| view.forwarding && view.link == index && view.mac == Some(MAC))
        };
        assert!(has(&lab));
        let forget = Op::DeleteNeighbour { netns: HOST, link: ifname("br0"), neighbour: on_bridge };
        lab.must(vec![forget.clone()]);
        assert_eq!(lab.errno(forget), libc::ENOENT);
        assert!(!has(&lab));
    });
}

#[test]
fn the_far_end_of_a_tunnel_is_a_forwarding_entry() {
    isolated(|lab| {
        foreign("ip link add vx0 type vxlan id 7 dstport 4789 nolearning");
        let entry = |mac, to: &str| Op::AddNeighbour {
            netns: HOST,
            link: ifname("vx0"),
            neighbour: Neighbour::Forwarding { mac, destination: to.parse().ok() },
        };
        let everyone = MacAddr([0; 6]);
        lab.must(vec![
            entry(MAC, "192.0.2.1"),
            entry(MAC, "192.0.2.2"),
            entry(everyone, "192.0.2.1"),
            entry(everyone, "192.0.2.2"),
        ]);
        let listed = wait(lab.kernel.neighbours(HOST, soon())).expect("listed");
        let ends = |mac| {
            let ends = listed.iter().filter(|view| view.forwarding && view.mac == Some(mac));
            let mut ends: Vec<_> = ends.filter_map(|view| view.address).map(|end| end.to_string()).collect();
            ends.sort();
            ends
        };
        assert_eq!(ends(MAC), ["192.0.2.2"], "one address has one end, and the last one wins");
        assert_eq!(ends(everyone), ["192.0.2.1", "192.0.2.2"], "a broadcast goes to all");
    });
}

#[test]
fn thousands_of_requests_travel_in_few_sends_and_all_are_answered() {
    isolated(|lab| {
        lab.must(vec![bridge("br0"), up(HOST, "br0")]);
        let op = |i: u32| Op::AddNeighbour {
            netns: HOST,
            link: ifname("br0"),
            neighbour: Neighbour::Address {
                address: std::net::Ipv4Addr::from(0x0a00_0000 + i).into(),
                mac: MAC,
            },
        };
        let before = lab.kernel.stats();
        lab.must((1..=900).map(op).collect());
        let after = lab.kernel.stats();
        assert_eq!(after.messages - before.messages, 901);
        assert!(after.sends - before.sends < 25, "{before:?} {after:?}");
        let listed = wait(lab.kernel.neighbours(HOST, soon())).expect("listed");
        assert_eq!(listed.iter().filter(|view| !view.forwarding && view.permanent).count(), 900);
    });
}

#[test]
fn a_bridge_is_full_at_1023_ports() {
    isolated(|lab| {
        lab.must(vec![bridge("br0"), create_netns("c1")]);
        let port = |i: u32| veth(&format!("v{i}"), &format!("e{i}"), inside("c1"), Some("br0"));
        let results = lab.execute((0..1024).map(port).collect());
        let refused: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert_eq!(refused.iter().map(|error| error.errno).collect::<Vec<_>>(), [libc::EXFULL]);
        assert!(results[1023].is_err());
        assert!(lab.link(HOST, "v1023").is_none());
    });
}

#[test]
fn a_link_moves_and_takes_its_new_name() {
    isolated(|lab| {
        lab.must(vec![create_netns("c1"), create_netns("c2"), veth("veth1", "veth2", HOST, None)]);
        let go =
            |from, name, to, rename| Op::MoveLink { from, name: ifname(name), to, rename: ifname(rename) };
        lab.must(vec![go(HOST, "veth2", inside("c1"), "eth0"), up(inside("c1"), "eth0")]);
        assert!(lab.link(HOST, "veth2").is_none());
        assert!(lab.link(inside("c1"), "eth0").expect("moved").up);
        lab.must(vec![go(inside("c1"), "eth0", inside("c2"), "eth7")]);
        assert!(lab.link(inside("c1"), "eth0").is_none() && lab.link(inside("c2"), "eth7").is_some());
        lab.must(vec![go(inside("c2"), "eth7", HOST, "back")]);
        assert!(lab.link(HOST, "back").is_some());
        lab.must(vec![go(HOST, "back", HOST, "again")]);
        assert!(lab.link(HOST, "again").is_some());
        assert_eq!(lab.errno(go(HOST, "none", inside("c1"), "x")), libc::ENODEV);
        assert_eq!(lab.errno(go(HOST, "again", inside("none"), "x")), libc::ENOENT);
    });
}

#[test]
fn settings_are_written_in_their_namespace() {
    isolated(|lab| {
        lab.must(vec![create_netns("c1"), veth("veth1", "eth0", inside("c1"), None)]);
        let set = |netns, key: &str, value: &str| Op::Sysctl { netns, key: key.into(), value: value.into() };
        let read = |netns| {
            lab.run(netns, || {
                fs::read_to_string("/proc/sys/net/ipv4/ip_forward").expect("readable").trim().to_owned()
            })
        };
        lab.must(vec![
            set(HOST, "ipv4/ip_forward", "0"),
            set(inside("c1"), "ipv4/ip_forward", "1"),
            set(inside("c1"), "ipv6/conf/eth0/disable_ipv6", "1"),
        ]);
        assert_eq!((read(HOST), read(inside("c1"))), ("0".to_owned(), "1".to_owned()));
        assert_eq!(lab.errno(set(inside("c1"), "ipv4/none", "1")), libc::ENOENT);
        assert_eq!(lab.errno(set(inside("c1"), "ipv4/ip_forward", "many")), libc::EINVAL);
        for outside in ["", "../kernel/hostname", "/etc/hostname", "ipv4/../../kernel/hostname"] {
            assert_eq!(lab.errno(set(HOST, outside, "x")), libc::EINVAL, "{outside:?}");
        }
    });
}

#[test]
fn a_namespace_outlives_the_kernel_that_made_it() {
    isolated(|lab| {
        let Lab { kernel, run_dir } = lab;
        let make = vec![create_netns("c1"), create_netns("c2"), veth("veth1", "eth0", inside("c1"), None)];
        wait(execute_all(&kernel, make, soon())).expect("made");
        drop(kernel);
        let lab = Lab { kernel: start(&run_dir), run_dir };
        let names = wait(lab.kernel.namespaces(soon())).expect("listed");
        assert_eq!(names, [netns_name("c1"), netns_name("c2")]);
        assert_eq!(lab.errno(create_netns("c1")), libc::EEXIST);
        lab.must(vec![up(inside("c1"), "eth0")]);
        assert!(lab.link(inside("c1"), "eth0").expect("still there").up);
        lab.must(vec![Op::DeleteNetns { name: netns_name("c1") }]);
        assert!(!lab.kernel.netns_path(netns_name("c1")).exists());
        assert_eq!(wait(lab.kernel.namespaces(soon())).expect("listed"), [netns_name("c2")]);
        assert_eq!(wait(lab.kernel.links(inside("c1"), soon())).expect_err("gone").errno, libc::ENOENT);
    });
}

#[test]
fn a_file_left_from_before_a_reboot_is_no_namespace() {
    isolated(|lab| {
        let path = |name: &str| lab.kernel.netns_path(netns_name(name));
        for name in ["a", "b", "c", "not a name"] {
            fs::write(lab.run_dir.join("netns").join(name), "").expect("written");
        }
        assert_eq!(wait(lab.kernel.namespaces(soon())).expect("listed"), []);
        assert_eq!(lab.errno(up(inside("a"), "lo")), libc::ENOENT);
        assert_eq!(lab.errno(veth("veth1", "eth0", inside("a"), None)), libc::ENOENT);
        lab.must(vec![create_netns("a"), up(inside("a"), "lo"), Op::DeleteNetns { name: netns_name("b") }]);
        assert_eq!(wait(lab.kernel.namespaces(soon())).expect("listed"), [netns_name("a")]);
        assert!(!path("b").exists() && path("c").exists());
    });
}

#[test]
fn deleting_a_namespace_leaves_no_descriptor_and_no_link() {
    isolated(|lab| {
        let mut events = lab.kernel.watch();
        lab.must(vec![create_netns("c0"), Op::DeleteNetns { name: netns_name("c0") }]);
        wait(lab.kernel.ports().let_go(Vec::new()));
        let before = descriptors();
        lab.must(vec![
            create_netns("c1"),
            veth("veth1", "eth0", inside("c1"), None),
            up(inside("c1"), "eth0"),
        ]);
        lab.must(vec![Op::DeleteNetns { name: netns_name("c1") }]);
        // The kernel takes the namespace down in its own time, and the host's end with it.
        wait_for_gone(&mut events, ifname("veth1"));
        assert_eq!(descriptors(), before);
    });
}

fn descriptors() -> usize {
    fs::read_dir("/proc/thread-self/fd").expect("readable").count()
}

fn wait_for_gone(events: &mut futures::channel::mpsc::Receiver<netloom_kernel::KernelEvent>, link: IfName) {
    use futures::StreamExt;
    wait(async {
        while let Some(event) = events.next().await {
            if matches!(event, netloom_kernel::KernelEvent::LinkGone { name, .. } if name == link) {
                return;
            }
        }
        panic!("the watch ended");
    });
}

#[test]
fn an_expired_call_is_not_started() {
    isolated(|lab| {
        let past = Instant::now().checked_sub(Duration::from_millis(1)).expect("the machine is up");
        let ops = vec![bridge("br0"), create_netns("c1"), common::delete_link("x")];
        for result in wait(lab.kernel.execute(ops, past)) {
            let error = result.expect_err("too late");
            assert!(error.timed_out.is_some(), "{error:?}");
            assert_eq!(error.certainty, Certainty::Aborted);
        }
        assert!(wait(lab.kernel.links(HOST, past)).expect_err("too late").timed_out.is_some());
        let job = Box::new(|| panic!("must not run"));
        assert!(wait(lab.kernel.run_in(HOST, job, past)).expect_err("too late").timed_out.is_some());
        assert!(lab.link(HOST, "br0").is_none());
        assert_eq!(wait(lab.kernel.namespaces(soon())).expect("listed"), []);
    });
}

#[test]
fn a_call_whose_future_is_dropped_is_carried_out() {
    isolated(|lab| {
        // Three threads take part in it.
        drop(lab.kernel.execute(
            vec![bridge("br0"), create_netns("c1"), common::delete_link("none"), bridge("br1")],
            soon(),
        ));
        let mut events = lab.kernel.watch();
        if lab.link(HOST, "br1").is_none() {
            wait(async {
                use futures::StreamExt;
                while let Some(event) = events.next().await {
                    if matches!(event, netloom_kernel::KernelEvent::LinkChanged(link) if link.name == ifname("br1"))
                    {
                        return;
                    }
                }
            });
        }
        assert_eq!(wait(lab.kernel.namespaces(soon())).expect("listed"), [netns_name("c1")]);
    });
}

#[test]
fn an_unusable_run_directory_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("written");
    let error = LinuxKernel::start(LinuxConfig { run_dir: file.clone() }).expect_err("not a directory");
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
}

#[test]
fn a_directory_that_others_use_is_refused_by_name() {
    isolated(|lab| {
        let run_dir = lab.run_dir.with_file_name("shared");
        let netns = run_dir.join("netns");
        fs::create_dir_all(&netns).expect("made");
        fs::write(netns.join("theirs"), "").expect("written");
        let config = || LinuxConfig { run_dir: run_dir.clone() };
        let error = LinuxKernel::start(config()).expect_err("not ours").to_string();
        assert!(error.contains(&netns.display().to_string()) && error.contains("run_dir"), "{error}");
        assert!(netns.join("theirs").exists() && !netns.join(".netloom").exists());
        // An empty one is taken, and is ours from then on.
        fs::remove_file(netns.join("theirs")).expect("removed");
        drop(LinuxKernel::start(config()).expect("empty"));
        fs::write(netns.join("late"), "text").expect("written");
        let kernel = LinuxKernel::start(config()).expect("ours");
        assert_eq!(wait(kernel.namespaces(soon())).expect("listed"), []);
        for op in [create_netns(".netloom"), Op::DeleteNetns { name: netns_name(".netloom") }] {
            wait(execute_all(&kernel, vec![op], soon())).expect_err("the marker is no name");
        }
        assert!(netns.join(".netloom").exists());
    });
}
