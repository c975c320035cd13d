//! Tracked connections, forgotten as the real kernel does it (`crates/kernel/tests/conntrack.rs`).

use std::time::{Duration, Instant};

use netloom_kernel::conntrack::{Connection, Connections};
use netloom_kernel::nft::Table;
use netloom_kernel::{Kernel, Netns, Op};
use netloom_model::Protocol;

use super::super::{Fault, FaultKind, SimKernel};
use super::execute;
use crate::errno::EPERM;

fn flow(protocol: u8, destination: &str, answers: &str) -> Connection {
    Connection {
        protocol,
        source: "198.51.100.7:40000".parse().expect("valid"),
        destination: destination.parse().expect("valid"),
        answers: answers.parse().expect("valid"),
    }
}

fn forget(filter: impl IntoIterator<Item = Connections>) -> Op {
    Op::ForgetConnections { filter: filter.into_iter().collect() }
}

#[test]
fn what_a_filter_covers_goes_and_all_else_stays() {
    let sim = SimKernel::new();
    let flows = [
        flow(17, "192.0.2.1:53", "10.0.0.2"),
        flow(17, "192.0.2.1:54", "10.0.0.3"),
        flow(6, "192.0.2.1:53", "10.0.0.2"),
        flow(17, "[2001:db8::1]:53", "fd00::2"),
        flow(17, "203.0.113.9:53", "203.0.113.9"),
    ];
    flows.into_iter().for_each(|flow| sim.track(flow));
    let udp = |first, last| Connections::to(Protocol::Udp, first, last);
    execute(&sim, vec![forget([])]).remove(0).expect("nothing to do");
    assert_eq!(sim.connections(), flows);
    let both = [
        udp(53, 60).at("192.0.2.1".parse().expect("valid")),
        udp(1, 53).answered_by("fd00::2".parse().expect("valid")),
    ];
    execute(&sim, vec![forget(both)]).remove(0).expect("forgotten");
    assert_eq!(sim.connections(), [flows[2], flows[4]]);
    execute(&sim, vec![forget(both)]).remove(0).expect("nothing is left of them");
    sim.reboot();
    assert_eq!(sim.connections(), []);
}

#[tokio::test(start_paused = true)]
async fn a_refused_one_and_one_before_a_change_that_hangs_forget_nothing() {
    let sim = SimKernel::new();
    let flow = flow(17, "192.0.2.1:53", "10.0.0.2");
    sim.track(flow);
    let all = || forget([Connections::to(Protocol::Udp, 0, u16::MAX)]);
    sim.plan(Fault::verb("forget_connections", 1, FaultKind::Refuse(EPERM)));
    let error = execute(&sim, vec![all()]).remove(0).expect_err("planned");
    assert_eq!((error.errno, sim.connections()), (EPERM, vec![flow]));
    let text = "cannot forget connections to udp port 0-65535: ";
    assert!(error.to_string().starts_with(text), "{error}");
    sim.plan(Fault::verb("change_table", 1, FaultKind::Hang));
    let deadline = Instant::now() + Duration::from_secs(5);
    let change = Op::ChangeTable { netns: Netns::Host, table: Table::inet("ours"), changes: Vec::new() };
    let changing = sim.execute(vec![change], deadline);
    let forgetting = sim.execute(vec![all()], deadline);
    assert_eq!(sim.connections(), [flow], "it came before the change");
    assert_eq!(sim.release(), 1);
    assert!(changing.await.remove(0).is_ok() && forgetting.await.remove(0).is_ok());
    assert_eq!(sim.connections(), []);
}

#[test]
fn a_kernel_that_tracks_nothing_says_so() {
    let sim = SimKernel::new();
    sim.without_connection_tracking();
    let error = execute(&sim, vec![forget([Connections::to(Protocol::Tcp, 80, 80)])])
        .remove(0)
        .expect_err("no such thing");
    assert!(error.unsupported(), "{error}");
    execute(&sim, vec![forget([])]).remove(0).expect("nothing to ask for");
}
