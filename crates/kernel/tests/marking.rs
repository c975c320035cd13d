//! A new link carries its mark from the start, and no other link ever gets it.

mod common;

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{
    Lab, bridge, create_netns, delete_link, foreign, ifname, inside, isolated, soon, start, tag, up, veth,
    wait,
};
use futures::StreamExt;
use netloom_kernel::{Kernel, KernelEvent, LinkKind, LinkTag, LinkView, Netns, Op, execute_all};

const HOST: Netns = Netns::Host;

/// Set for a process that is to be killed, to the run directory that it shares.
const VICTIM: &str = "NETLOOM_KERNEL_TEST_VICTIM";
/// Repeats a run of the kills.
const SEED: &str = "NETLOOM_KERNEL_TEST_SEED";
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

/// What a victim does until it is killed: makes links, alone and several at a time.
fn be_killed(run_dir: &Path) {
    let kernel = start(run_dir);
    for round in 0..ROUNDS {
        let pair = |i: u32| veth(&format!("v{round}n{i}"), &format!("p{round}n{i}"), inside("c1"), Some("br0"));
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
        let seed = env::var(SEED).map_or_else(
            |_| RandomState::new().hash_one(()),
            |seed| seed.parse().expect("a number"),
        );
        let mut random = Random(seed);
        lab.must(vec![create_netns("c1"), bridge("br0"), up(HOST, "br0")]);
        let mut made = 0;
        for kill in 0..KILLS {
            let mut events = lab.kernel.watch();
            let mut victim = Victim::start(&lab.run_dir);
            let first = async {
                while let Some(event) = events.next().await {
                    if matches!(event, KernelEvent::LinkChanged(link) if link.name.as_str().starts_with('v')) {
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
