//! Containers that are started again with fixed addresses.

use std::time::Duration;

use netloom::{EndpointSpec, JoinSpec, MacAddr, NetworkSpec, SandboxSpec};

use crate::lab::{delete_everything, in_lab, joined, pings};

/// How often a container is started again.
const TIMES: usize = 30;

/// Deleted and made again at once, over and over: it has its addresses each time, whatever the kernel is still busy with,
/// and is reached under them. Half of the time a reservation is all that says which.
#[test]
fn a_container_that_is_started_again_at_once_has_its_fixed_address() {
    in_lab(async |lab| {
        let engine = lab.engine().await;
        let controller = engine.controller();
        let spec = NetworkSpec::new("blue").ipv6(true);
        let spec = spec.subnet("10.9.0.0/24".parse().unwrap()).subnet("fd00:9::/64".parse().unwrap());
        let network = controller.create_network(spec).await.expect("a network");
        let (_, other) = joined(&engine, &network, "other").await;
        let (ipv4, ipv6) = ("10.9.0.9".parse().unwrap(), "fd00:9::9".parse().unwrap());
        let mac = Some(MacAddr([2, 0, 0, 0, 9, 9]));
        for n in 0..TIMES {
            let asked = EndpointSpec { mac, ..EndpointSpec::new("web") };
            let spec = if n < TIMES / 2 {
                EndpointSpec { ipv4: Some(ipv4), ipv6: Some(ipv6), ..asked }
            } else {
                network.reserve_address("web", Some(ipv4), Some(ipv6)).await.expect("its own");
                asked
            };
            let web = network.create_endpoint(spec).await.unwrap_or_else(|error| panic!("{n}: {error:?}"));
            let seen = web.inspect().await.expect("inspected");
            assert_eq!(seen.ipv4.map(|net| net.addr()), Some(ipv4), "{n}");
            assert_eq!(seen.ipv6.map(|net| net.addr()), Some(ipv6), "{n}");
            let sandbox = controller.create_sandbox(SandboxSpec::new("web")).await.expect("a sandbox");
            web.join(&sandbox, JoinSpec::default()).await.expect("joined");
            if n % 10 == 0 {
                assert!(pings(&other, ipv4.into(), Duration::from_secs(10)).await, "{n}: no answer");
            }
            sandbox.delete().await.expect("deleted");
            web.delete().await.expect("deleted");
        }
        delete_everything(&engine).await;
        lab.assert_pristine().await;
    });
}
