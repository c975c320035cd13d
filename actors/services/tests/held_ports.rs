//! The ports' actor by message, over sockets of the real kernel, in a network namespace of the test's own.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netloom_actor_services::ports::{
    ListPorts, PortsActor, PortsState, ReleasePorts, ReservePorts, ServePorts, StopServing,
};
use netloom_kernel::LinuxPorts;
use netloom_model::{EndpointId, HostPort, PortRange, Protocol};
use netloom_ports::{PortOwner, PortRequest};
use netloom_runtime::{Addr, Cause, OpCtx, spawn};
use tokio::task::LocalSet;
use uuid::Uuid;

/// Set for the second run of a test.
const INSIDE: &str = "NETLOOM_PORTS_TEST_INSIDE";

/// Runs a test again in a network namespace, with room for descriptors. It never skips.
fn isolated(name: &str, test: impl AsyncFnOnce(Addr<PortsActor>)) {
    if std::env::var_os(INSIDE).is_none() {
        let status = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "sh", "-c"])
            .arg("ulimit -Sn $(ulimit -Hn); ip link set lo up; exec \"$0\" \"$@\"")
            .arg(std::env::current_exe().expect("known"))
            .args([name, "--exact", "--nocapture"])
            .env(INSIDE, "1")
            .status()
            .expect("unshare must be installed");
        assert!(status.success(), "failed in its namespace: {status}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let holder = Arc::new(LinuxPorts::start().expect("starts"));
        let dynamic = PortRange { first: 30_000, last: 39_999 };
        let (ports, _) = spawn(PortsActor::new(holder, PortsState::new(dynamic)), |_| {});
        test(ports).await;
    });
}

fn op() -> OpCtx {
    OpCtx::new(Cause::Request, Duration::from_secs(30))
}

fn owner(n: u128) -> PortOwner {
    PortOwner { id: EndpointId::from_uuids(Uuid::from_u128(n), Uuid::nil()), name: format!("e{n}").into() }
}

fn both() -> Arc<[IpAddr]> {
    Arc::new([IpAddr::from([0; 4]), IpAddr::from([0_u16; 8])])
}

#[test]
fn a_busy_port_is_passed_over_and_one_that_is_held_is_served() {
    isolated("a_busy_port_is_passed_over_and_one_that_is_held_is_served", async |ports| {
        let squatter = TcpListener::bind("127.0.0.1:30000").expect("free");
        let wanted = |request| ReservePorts { owner: owner(1), requests: vec![request] };
        let any = PortRequest::any(Protocol::Tcp, both());
        let given = ports.ask(&op(), wanted(any)).await.expect("it answers").expect("the next one is free");
        assert_eq!(given[0].range, PortRange::one(30_001));
        let fixed = PortRequest::exactly(Protocol::Tcp, both(), 30_000);
        let error = ports.ask(&op(), wanted(fixed)).await.expect("it answers").expect_err("it is in use");
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(squatter);

        TcpStream::connect("127.0.0.1:30001").expect_err("held, and not served");
        // Whoever comes is passed on, of both families.
        let container = TcpListener::bind("127.0.0.1:0").expect("free");
        let to = container.local_addr().expect("bound");
        let port = HostPort { address: [0; 4].into(), protocol: Protocol::Tcp, port: 30_001 };
        let serve = ServePorts { owner: owner(1).id, fronts: vec![(port, to)] };
        ports.ask(&op(), serve).await.expect("it answers").expect("it is held");
        for from in ["127.0.0.1:30001", "[::1]:30001"] {
            let mut client = TcpStream::connect(from).expect("served");
            client.write_all(b"hello").expect("sent");
            let (mut server, _) = container.accept().expect("passed on");
            let mut heard = [0; 5];
            server.read_exact(&mut heard).expect("heard");
            assert_eq!(&heard, b"hello");
        }
        let list = ports.ask(&op(), ListPorts).await.expect("it answers");
        assert_eq!((list[0].served.len(), list[0].served[0].counts.total), (1, 2));
        ports.ask(&op(), ReleasePorts(owner(1).id)).await.expect("it answers");
        drop(TcpListener::bind("0.0.0.0:30001").expect("free when it is answered"));

        ports
            .ask(&op(), wanted(PortRequest::exactly(Protocol::Tcp, both(), 30_001)))
            .await
            .expect("it answers")
            .expect("free");
        let serve = ServePorts { owner: owner(1).id, fronts: vec![(port, to)] };
        ports.ask(&op(), serve).await.expect("it answers").expect("it is held");
        ports.ask(&op(), StopServing).await.expect("it answers");
        drop(TcpListener::bind("0.0.0.0:30001").expect("free when it is answered"));
        ports.ask(&op(), ReleasePorts(owner(1).id)).await.expect("it answers");
        assert_eq!(ports.ask(&op(), ListPorts).await.expect("it answers"), []);
    });
}

#[test]
fn a_thousand_ports_are_reserved_in_milliseconds() {
    isolated("a_thousand_ports_are_reserved_in_milliseconds", async |ports| {
        let range = PortRange { first: 20_000, last: 20_999 };
        let whole = PortRequest::all_of(Protocol::Tcp, both(), range).expect("a range");
        let single = range.ports().map(|port| PortRequest::exactly(Protocol::Tcp, both(), port)).collect();
        let dynamic = vec![PortRequest::any(Protocol::Udp, both()); 1_000];
        for (what, requests) in
            [("one range", vec![whole]), ("each by itself", single), ("any, of UDP", dynamic)]
        {
            let mut best = (Duration::MAX, Duration::MAX);
            for _ in 0..10 {
                let message = ReservePorts { owner: owner(1), requests: requests.clone() };
                let start = Instant::now();
                let given = ports.ask(&op(), message).await.expect("it answers").expect("free");
                let taken = start.elapsed();
                assert_eq!(given.iter().map(|ports| ports.range.count()).sum::<usize>(), 1_000);
                let start = Instant::now();
                ports.ask(&op(), ReleasePorts(owner(1).id)).await.expect("it answers");
                best = (best.0.min(taken), best.1.min(start.elapsed()));
            }
            let stderr = &mut std::io::stderr();
            let _ =
                writeln!(stderr, "1,000 ports, {what}: reserved in {:?}, released in {:?}", best.0, best.1);
        }
        assert_eq!(ports.ask(&op(), ListPorts).await.expect("it answers"), []);
    });
}
