//! A new link carries its mark from the start, and no other link ever gets it.

mod common;

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{
    Lab, bridge, create_netns, delete_link, foreign, ifname, inside, isolated, soon, start, tag, up, veth,
    wait,
};
use futures::StreamExt;
use netloom_kernel::{Kernel, KernelEvent, LinkKind, LinkView, Netns, Op, execute_all};

const HOST: Netns = Netns::Host;

/// Set for a process that is to be killed, to the run directory that it shares.
const VICTIM: &str = "NETLOOM_KERNEL_TEST_VICTIM";
/// Repeats a run of the kills.
const SEED: &str = "NETLOOM_KERNEL_TEST_SEED";
/// How many processes are killed.
const KILLS: u32 = 40;
/// A victim that nobody kills ends by itself after this many rounds of links.
const ROUNDS: u32 = 200;
/// The longest that a victim lives after its first link, in microseconds.
const LIFE: u64 = 12_000;

/// Numbers that depend on the seed only.
struct Random(u64);

impl Random {
    /// The next number below `bound` (SplitMix64).
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A process that is killed when the test is done with it, also when that is because it failed.
struct Victim(Child);

impl Victim {
    fn start(run_dir: &Path) -> Self {
        let name = "a_killed_process_leaves_no_link_without_its_mark";
        let spawned = Command::new(env::current_exe().expect("known"))
            .args([name, "--exact", "--nocapture"])
            .env(VICTIM, run_dir)
            .stdout(Stdio::null())
            .spawn();
        Self(spawned.expect("starts"))
    }

    /// Kills it and waits until the last of its threads is gone.
    fn kill(&mut self) {
        self.0.kill().expect("not waited for yet");
        self.0.wait().expect("ours");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Both fail when it has been killed already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[expect(clippy::print_stdout, reason = "a seed belongs in the output of a test")]
fn report(seed: u64) {
    println!("{SEED}={seed}");
}

/// What a victim does until it is killed: makes links, alone and several at a time.
fn be_killed(run_dir: &Path) {
    let kernel = start(run_dir);
    for round in 0..ROUNDS {
        let pair =
            |i: u32| veth(&format!("v{round}n{i}"), &format!("p{round}n{i}"), inside("c1"), Some("br0"));
        let name = format!("b{round}");
        let with_mtu = Op::CreateBridge { name: ifname(&name), mac: None, mtu: Some(1400), tag: tag(&name) };
        wait(execute_all(&kernel, vec![pair(0)], soon())).expect("made");
        wait(execute_all(&kernel, vec![pair(1), with_mtu, pair(2), pair(3)], soon())).expect("made");
    }
}

/// The links of the victims: all but the loopback and the bridge that they share.
fn of_victims(lab: &Lab) -> Vec<LinkView> {
    let mut links = lab.links(HOST);
    links.retain(|link| !matches!(link.name.as_str(), "lo" | "br0"));
    links
}

#[test]
fn a_killed_process_leaves_no_link_without_its_mark() {
    if let Some(run_dir) = env::var_os(VICTIM) {
        return be_killed(Path::new(&run_dir));
    }
    isolated(|lab| {
        let seed = env::var(SEED)
            .map_or_else(|_| RandomState::new().hash_one(()), |seed| seed.parse().expect("a number"));
        report(seed);
        let mut random = Random(seed);
        lab.must(vec![create_netns("c1"), bridge("br0"), up(HOST, "br0")]);
        let mut made = 0;
        for kill in 0..KILLS {
            let mut events = lab.kernel.watch();
            let mut victim = Victim::start(&lab.run_dir);
            let first = async {
                while let Some(event) = events.next().await {
                    if matches!(event, KernelEvent::LinkChanged(link) if link.name.as_str().starts_with('v'))
                    {
                        return;
                    }
                }
                panic!("the watch ended");
            };
            wait(first);
            // The random moment is what is tested: nothing waits for this.
            std::thread::sleep(Duration::from_micros(random.below(LIFE)));
            victim.kill();
            let links = of_victims(&lab);
            for link in &links {
                assert!(matches!(link.kind, LinkKind::Veth | LinkKind::Bridge), "{link:?}");
                assert_eq!(link.tag(), Some(tag(link.name.as_str())), "seed {seed}, kill {kill}: {link:?}");
            }
            made += links.len();
            lab.must(links.iter().map(|link| delete_link(link.name.as_str())).collect());
            assert_eq!(of_victims(&lab), []);
        }
        assert!(made >= KILLS as usize, "seed {seed}: only {made} links were made before the kills");
    });
}

/// A bridge that is not ours, with an alias and an MTU of its own.
fn foreign_bridge(name: &str, options: &str) {
    foreign(&format!("ip link add {name} {options} type bridge"));
    foreign(&format!("ip link set {name} alias theirs mtu 1450"));
}

fn assert_untouched(lab: &Lab, name: &str) {
    let link = lab.link(HOST, name).expect("still there");
    assert_eq!((link.alias.as_deref(), link.mtu), (Some("theirs"), 1450), "{link:?}");
}

/// A bridge with a mark of its own choice and another MTU than [`foreign_bridge`]'s.
fn bridge_of(name: &str, owner: &str) -> Op {
    Op::CreateBridge { name: ifname(name), mac: None, mtu: Some(1300), tag: tag(owner) }
}

#[test]
fn a_refused_link_marks_nothing() {
    isolated(|lab| {
        lab.must(vec![create_netns("c1"), veth("veth1", "eth0", inside("c1"), None)]);
        foreign_bridge("f0", "");
        let pair = || veth("f0", "eth1", inside("c1"), None);
        assert_eq!(lab.errno(bridge_of("f0", "f0")), libc::EEXIST);
        assert_eq!(lab.errno(pair()), libc::EEXIST);
        assert_untouched(&lab, "f0");

        // The name is free when the requests are made, so the kernel itself refuses the second of each.
        let results = lab.execute(vec![
            bridge_of("br0", "first"),
            Op::CreateBridge { name: ifname("br0"), mac: None, mtu: Some(1200), tag: tag("second") },
            veth("veth2", "eth2", inside("c1"), None),
            Op::CreateVeth {
                host: ifname("veth2"),
                peer: ifname("eth3"),
                netns: inside("c1"),
                master: None,
                mac: None,
                mtu: None,
                tag: tag("second"),
            },
            // The inner name is taken.
            veth("veth4", "eth0", inside("c1"), None),
        ]);
        let errnos: Vec<_> =
            results.iter().map(|result| result.as_ref().map_err(|error| error.errno)).collect();
        assert_eq!(errnos, [Ok(&()), Err(libc::EEXIST), Ok(&()), Err(libc::EEXIST), Err(libc::EEXIST)]);
        let made = lab.link(HOST, "br0").expect("made");
        assert_eq!((made.tag(), made.mtu), (Some(tag("first")), 1300));
        assert_eq!(lab.link(HOST, "veth2").expect("made").tag(), Some(tag("veth2")));
        assert!(lab.link(HOST, "veth4").is_none());
        let inner: Vec<_> = lab.links(inside("c1")).into_iter().map(|link| (link.name, link.alias)).collect();
        assert_eq!(
            inner,
            [("lo", None), ("eth0", None), ("eth2", None)].map(|(name, alias)| (ifname(name), alias))
        );
    });
}

#[test]
fn a_mark_that_no_link_can_carry_makes_no_link() {
    isolated(|lab| {
        let pair = |id: &str| Op::CreateVeth {
            host: ifname("veth1"),
            peer: ifname("veth2"),
            netns: HOST,
            master: None,
            mac: None,
            mtu: None,
            tag: tag(id),
        };
        let most = 254 - tag("").to_string().len();
        assert_eq!(lab.errno(pair(&"x".repeat(most + 1))), libc::ERANGE);
        assert!(lab.link(HOST, "veth1").is_none());
        lab.must(vec![pair(&"x".repeat(most))]);
        assert_eq!(lab.link(HOST, "veth1").expect("made").tag(), Some(tag(&"x".repeat(most))));
    });
}

#[test]
fn a_link_and_its_mark_are_one_send() {
    isolated(|lab| {
        lab.must(vec![create_netns("c1")]);
        let cost = |ops: Vec<Op>| {
            let before = lab.kernel.stats();
            lab.must(ops);
            let after = lab.kernel.stats();
            (after.sends - before.sends, after.messages - before.messages)
        };
        let pair = |name: &str, master| veth(name, &format!("p{name}"), inside("c1"), master);
        assert_eq!(cost(vec![bridge("br0")]), (1, 2));
        assert_eq!(cost(vec![bridge_of("br1", "br1")]), (1, 3));
        assert_eq!(cost(vec![pair("a", None)]), (1, 2));
        assert_eq!(cost((0..8).map(|i| pair(&format!("b{i}"), None)).collect()), (1, 16));
        // The bridge is looked up first.
        assert_eq!(cost((0..8).map(|i| pair(&format!("c{i}"), Some("br0"))).collect()), (2, 17));
    });
}

#[test]
fn numbers_are_high_for_ours_only_and_one_that_is_taken_is_passed_over() {
    isolated(|lab| {
        let number = |netns, name| lab.link(netns, name).expect("there").index;
        lab.must(vec![create_netns("c1"), veth("veth1", "eth0", inside("c1"), None)]);
        lab.must(vec![veth("veth2", "peer2", HOST, None)]);
        let first = number(HOST, "veth1");
        assert!(first >= 1 << 30 && i32::try_from(first).is_ok(), "{first}");
        // What we do not number gets the next number of its namespace, as ever.
        assert!(number(inside("c1"), "eth0") < 100 && number(HOST, "peer2") < 100);

        let last = number(HOST, "veth2");
        foreign_bridge("f0", &format!("index {}", last + 1));
        lab.must(vec![bridge_of("br0", "br0"), veth("veth3", "eth3", inside("c1"), Some("br0"))]);
        assert_untouched(&lab, "f0");
        assert_ne!(number(HOST, "br0"), last + 1);
        assert_eq!(lab.link(HOST, "br0").expect("made").tag(), Some(tag("br0")));
        assert_eq!(number(HOST, "veth3"), number(HOST, "br0") + 1, "it counts on from the new start");

        // A number is free again once its link is gone, and what had it is not in the way.
        lab.must(vec![delete_link("veth1")]);
        foreign_bridge("f1", &format!("index {first}"));
        assert_eq!(number(HOST, "f1"), first);
        lab.must(vec![veth("veth1", "eth0", inside("c1"), Some("f1")), delete_link("veth1")]);
        assert_untouched(&lab, "f1");
    });
}
