//! A sandbox that is read back: which default routes it corrects, and which are none of its business.

use std::time::Duration;

use ipnet::IpNet;
use netloom_actor_sandbox::{DeleteSandbox, MarkFailed};
use netloom_kernel::{LinkKind, Netns, Op, Route};
use netloom_model::snapshot::{EndpointPhase, SandboxPhase};
use netloom_model::{IfName, Repair};
use netloom_testkit::{Fault, FaultKind};

use crate::stage::{End, Stage, on_stopped_time};

/// A sandbox with two members of both families; the second one is its way out.
async fn two() -> (Stage, [End; 2]) {
    let mut stage = Stage::set(16).await;
    let low = stage.end("low", &["10.1.0.0/24", "fd01::/64"]).await;
    let high = stage.end("high", &["10.2.0.0/24", "fd02::/64"]).await;
    stage.joined(low, 0).await;
    stage.joined(high, 9).await;
    assert_eq!(shown(&stage).await, RIGHT);
    stage.told();
    (stage, [low, high])
}

const RIGHT: [&str; 2] = ["eth1 10.2.0.1", "eth1 fd02::1"];

async fn shown(stage: &Stage) -> Vec<String> {
    stage.ways_out().await.iter().map(|(link, via)| format!("{link} {via}")).collect()
}

fn default(link: &str, via: &str) -> Route {
    let via: std::net::IpAddr = via.parse().expect("an address");
    let destination: IpNet = if via.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.parse().expect("a net");
    Route { destination, via: Some(via), link: name(link) }
}

fn name(text: &str) -> IfName {
    text.parse().expect("a name")
}

/// What the container, or an engine that died half-way, did to a default route.
fn replace(stage: &Stage, old: Route, new: Option<Route>) {
    let netns = stage.netns;
    stage.kernel.foreign_op(&Op::DeleteRoute { netns, route: old }).expect("it was there");
    if let Some(route) = new {
        stage.kernel.foreign_op(&Op::AddRoute { netns, route }).expect("there is none");
    }
}

/// The routes that were told to be made again.
fn remade(repairs: &[Repair]) -> Vec<String> {
    let route = |repair: &Repair| match repair {
        Repair::KernelObjectRemade { object } => object.split(": ").nth(1).expect("a route").to_owned(),
        other => panic!("{other}"),
    };
    repairs.iter().map(route).collect()
}

#[test]
fn what_is_right_is_left_alone_and_the_driver_is_told_again() {
    on_stopped_time(async {
        let (mut stage, [_, high]) = two().await;
        let (before, operations) = (stage.picture().await, stage.kernel.ops_count());
        let repairs = stage.restart().await.expect("restored");
        assert_eq!(repairs, []);
        assert_eq!(stage.kernel.ops_count(), operations, "nothing was to be done");
        assert_eq!(stage.picture().await, before);
        assert_eq!(stage.told(), [("program", high.endpoint)], "it may know nothing");
        let next = stage.end("next", &["10.3.0.0/24"]).await;
        assert_eq!(stage.joined(next, 0).await.ifname, name("eth2"), "numbers go on");
    });
}

#[test]
fn a_default_route_that_is_missing_is_made_again() {
    on_stopped_time(async {
        for (old, shown_as) in
            [("10.2.0.1", "0.0.0.0/0 via 10.2.0.1 dev eth1"), ("fd02::1", "::/0 via fd02::1 dev eth1")]
        {
            let (mut stage, [_, high]) = two().await;
            replace(&stage, default("eth1", old), None);
            assert_eq!(shown(&stage).await.len(), 1);
            let repairs = stage.restart().await.expect("restored");
            assert_eq!(remade(&repairs), [shown_as]);
            assert_eq!(shown(&stage).await, RIGHT);
            assert_eq!(stage.told(), [("program", high.endpoint)]);
        }
    });
}

#[test]
fn a_default_route_through_another_member_is_replaced() {
    on_stopped_time(async {
        let (mut stage, _) = two().await;
        replace(&stage, default("eth1", "10.2.0.1"), Some(default("eth0", "10.1.0.1")));
        replace(&stage, default("eth1", "fd02::1"), Some(default("eth0", "fd01::1")));
        assert_eq!(shown(&stage).await, ["eth0 10.1.0.1", "eth0 fd01::1"]);
        let repairs = stage.restart().await.expect("restored");
        assert_eq!(remade(&repairs), ["0.0.0.0/0 via 10.2.0.1 dev eth1", "::/0 via fd02::1 dev eth1"]);
        assert_eq!(shown(&stage).await, RIGHT);
        // Through the right member, but to somewhere else.
        replace(&stage, default("eth1", "10.2.0.1"), Some(default("eth1", "10.2.0.77")));
        let repairs = stage.restart().await.expect("restored");
        assert_eq!(remade(&repairs), ["0.0.0.0/0 via 10.2.0.1 dev eth1"]);
        assert_eq!(shown(&stage).await, RIGHT);
    });
}

/// A tunnel that the container made itself: its own business, in that family. The other one is corrected.
#[test]
fn a_default_route_through_a_link_of_nobody_here_is_left_alone() {
    on_stopped_time(async {
        let (mut stage, [_, high]) = two().await;
        let (netns, link) = (stage.netns, name("tun0"));
        stage.kernel.foreign_link(netns, link, LinkKind::Other("tun".into()), None).expect("made");
        let address = "10.99.0.2/24".parse().expect("an address");
        for op in [Op::SetLink { netns, name: link, up: true }, Op::AddAddress { netns, link, address }] {
            stage.kernel.foreign_op(&op).expect("it may");
        }
        replace(&stage, default("eth1", "10.2.0.1"), Some(default("tun0", "10.99.0.1")));
        replace(&stage, default("eth1", "fd02::1"), None);
        let repairs = stage.restart().await.expect("restored");
        assert_eq!(remade(&repairs), ["::/0 via fd02::1 dev eth1"]);
        assert_eq!(shown(&stage).await, ["tun0 10.99.0.1", "eth1 fd02::1"]);
        assert_eq!(stage.told(), [("program", high.endpoint)]);
        assert_eq!(stage.picture().await.phase, SandboxPhase::Ready);
        // It is not in anybody's way later on either.
        stage.ask(high.leave()).await.expect("left");
        assert_eq!(shown(&stage).await[0], "tun0 10.99.0.1");
    });
}

#[test]
fn a_correction_that_fails_is_tried_again_and_visible_until_then() {
    on_stopped_time(async {
        let (mut stage, _) = two().await;
        replace(&stage, default("eth1", "10.2.0.1"), Some(default("eth0", "10.1.0.1")));
        stage.kernel.plan(Fault::verb("add_route", 1, FaultKind::Refuse(16)).always());
        stage.restart().await.expect("it is in service all the same");
        assert_eq!(stage.picture().await.phase, SandboxPhase::Ready);
        assert!(matches!(&stage.leaks()[..], [leak] if leak.contains("10.2.0.1")), "{:?}", stage.leaks());
        stage.kernel.clear_faults();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(stage.leaks(), Vec::<String>::new());
        assert_eq!(shown(&stage).await, RIGHT);
    });
}

/// A start that has run out of time still lists what is recorded, and puts right what it can.
#[test]
fn a_sandbox_that_is_read_back_too_late_has_its_members_all_the_same() {
    on_stopped_time(async {
        let (mut stage, [low, high]) = two().await;
        let _ = stage.restart_within(Duration::ZERO).await;
        stage.ask(MarkFailed("too late".into())).await;
        assert_eq!(stage.inside().await, [high.endpoint, low.endpoint]);
        stage.ask(high.leave()).await.expect("it may leave");
        assert_eq!(shown(&stage).await, ["eth0 10.1.0.1", "eth0 fd01::1"]);
    });
}

/// What is recorded is in it, and can leave.
#[test]
fn a_sandbox_without_its_namespace_is_not_put_into_service_and_keeps_its_members() {
    on_stopped_time(async {
        let (mut stage, [low, high]) = two().await;
        let Netns::Named(netns) = stage.netns else { panic!("not the host") };
        stage.kernel.vanish_netns(netns).expect("it was there");
        let error = stage.restart().await.expect_err("there is nothing to look at");
        assert!(error.to_string().contains(netns.as_str()), "{error}");
        let picture = stage.picture().await;
        assert_eq!(picture.phase, SandboxPhase::Creating, "not in service");
        assert_eq!(stage.inside().await, [high.endpoint, low.endpoint]);
        stage.ask(low.join(0)).await.expect_err("not in service");
        stage.ask(MarkFailed(error.to_string())).await;
        stage.ask(low.leave()).await.expect("it may leave");
        stage.ask(DeleteSandbox { force: false }).await.expect("deleted");
        assert_eq!(stage.seen(high).await.phase, EndpointPhase::Idle);
        stage.settled().await;
        assert_eq!(stage.leaks(), Vec::<String>::new());
    });
}
