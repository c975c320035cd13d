//! What a published port costs while nobody uses it. Alone in its process: nothing else uses memory meanwhile.

mod common;

use common::{at, bound, udp};
use netloom_proxy::{Bound, FrontRange, Options, Proxy, Switchboard};
use socket2::Type;
use tokio::runtime::Handle;

/// The most that an idle published port may cost, with a client that is connected and silent or without.
const MOST: usize = 20 * 1024;

/// The most that one costs which is led by a switchboard and has a key of its own.
const MOST_LED: usize = 2 * 1024;

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

#[test]
fn a_thousand_idle_ports_cost_little() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for udp_ports in [false, true] {
            // What everybody shares is paid by the first.
            let mut proxies = vec![start(udp_ports)];
            tokio::task::yield_now().await;
            let before = resident();
            for _ in 0..1000 {
                proxies.push(start(udp_ports));
            }
            tokio::task::yield_now().await;
            let each = resident().saturating_sub(before) / 1000;
            assert!(each <= MOST, "{each} bytes each");
        }
        let listener = bound(Type::STREAM, at("::1"), false).into();
        let mut switchboard =
            Switchboard::start(listener, Options::default(), &Handle::current()).expect("starts");
        let before = resident();
        for port in 1..=5000_u16 {
            let to = "192.0.2.1:80".parse().expect("an address");
            switchboard.lead(port, FrontRange::one(at("::1").ip(), port), to).expect("free");
        }
        let each = resident().saturating_sub(before) / 5000;
        assert!(each <= MOST_LED, "{each} bytes each, led");
    });
}

fn start(udp_port: bool) -> Proxy {
    let socket = if udp_port {
        Bound::from(udp(at("127.0.0.1"), false))
    } else {
        Bound::Tcp(bound(Type::STREAM, at("127.0.0.1"), false).into())
    };
    let to = "192.0.2.1:80".parse().expect("an address");
    Proxy::start(socket, to, Options::default(), &Handle::current()).expect("starts")
}
